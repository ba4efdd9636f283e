package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// roundTrip is a server without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return f(r)
}

// body remembers whether it was read and closed.
type body struct {
	io.Reader
	closed atomic.Int32
}

func (b *body) Close() error { b.closed.Add(1); return nil }

func answer(status int, fields ...string) *http.Response {
	h := http.Header{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		h.Add(name, value)
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: h,
		Body: &body{Reader: strings.NewReader(fmt.Sprint("answer ", status))},
	}
}

// endless is a refusal whose body never ends.
func endless() *http.Response {
	resp := answer(429, "Retry-After: 2")
	resp.Body = &body{Reader: zeros{}}
	return resp
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// script answers the n-th request with the n-th answer, and all further ones
// with 200. It notes when each came.
type script struct {
	mu      sync.Mutex
	start   time.Time
	answers []*http.Response
	sent    []time.Duration
	bodies  []string
}

func newScript(answers ...*http.Response) *script {
	return &script{start: time.Now(), answers: answers}
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	text := ""
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		_ = r.Body.Close()
		text = string(b)
	}
	s.mu.Lock()
	s.sent = append(s.sent, time.Since(s.start))
	s.bodies = append(s.bodies, text)
	n := len(s.sent)
	s.mu.Unlock()
	if n > len(s.answers) {
		return answer(200), nil
	}
	delay, _ := time.ParseDuration(s.answers[n-1].Header.Get("X-Delay")) // none is 0
	time.Sleep(delay)
	return s.answers[n-1], nil
}

func transport(t testing.TB, o ratelimit.TransportOptions) *ratelimit.Transport {
	t.Helper()
	tr, err := ratelimit.NewTransport(o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func get(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.NewRequest("GET", "http://api.test/v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// status sends one request and gives the status of its answer.
func status(t testing.TB, tr http.RoundTripper, r *http.Request) int {
	t.Helper()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Error(err)
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestTransportWaitsAsLongAsTold sends a request, which teaches
// something, and a second one.
func TestTransportWaitsAsLongAsTold(t *testing.T) {
	const date = "Sat, 01 Jan 2000 00:00:00 GMT" // when a bubble starts
	for _, test := range []struct {
		name   string
		first  *http.Response
		second time.Duration
	}{
		{"sends at once where nothing was said", answer(200), 0},
		{"waits for Retry-After in seconds", answer(429, "Retry-After: 7"), 7 * time.Second},
		{"waits for a fraction of a second", answer(429, "Retry-After: 0.25"), 250 * time.Millisecond},
		{"waits for Retry-After with 503 too", answer(503, "Retry-After: 7"), 7 * time.Second},
		{"waits for Retry-After with 529 too, which Anthropic says for 503", answer(529, "Retry-After: 7"), 7 * time.Second},
		{"prefers retry-after-ms, which is exact", answer(429, "Retry-After-Ms: 1500.5", "Retry-After: 7"), 1500500 * time.Microsecond},
		{"takes Retry-After where retry-after-ms is no number", answer(429, "Retry-After-Ms: NaN", "Retry-After: 7"), 7 * time.Second},
		{"reads an HTTP date", answer(429, "Retry-After: Sat, 01 Jan 2000 00:00:20 GMT"), 20 * time.Second},
		{"reads an HTTP date by the server's own clock", answer(429, "Date: Fri, 31 Dec 1999 23:50:00 GMT", "Retry-After: Fri, 31 Dec 1999 23:50:20 GMT"), 20 * time.Second},
		{"takes Retry-After before t, which is later", answer(429, "Retry-After-Ms: 300", `RateLimit: "a";r=0;t=20`), 300 * time.Millisecond},
		{"takes Retry-After before t, which is earlier", answer(429, "Retry-After: 20", `RateLimit: "a";r=0;t=1`), 20 * time.Second},
		{"takes t where a refusal has no Retry-After", answer(429, `RateLimit: "a";r=0;t=5`), 5 * time.Second},
		{"ignores Retry-After of an answer that is no refusal", answer(200, "Retry-After: 7"), 0},
		{"waits for t where nothing remains", answer(200, `RateLimit: "a";r=0;t=5`), 5 * time.Second},
		{"sends while something remains", answer(200, `RateLimit: "a";r=1;t=5`), 0},
		{"ignores fields of a stored answer", answer(200, "Age: 3", `RateLimit: "a";r=0;t=5`), 0},
		{"believes an answer of no age", answer(200, "Age: 0", `RateLimit: "a";r=0;t=5`), 5 * time.Second},
		{"waits for the longest of the policies that are used up", answer(200, `RateLimit: "a";r=0;t=5, "b";r=0;t=9, "c";r=3;t=40`), 9 * time.Second},
		{"closes for another unit that is used up", answer(200, `RateLimit-Policy: "a";q=9;w=9, "b";q=9;w=9;weir-unit="tokens"`, `RateLimit: "a";r=3;t=1, "b";r=0;t=9`), 9 * time.Second},
		{"does not close for another unit that is not", answer(200, `RateLimit-Policy: "b";q=9;w=9;x-unit="tokens"`, `RateLimit: "b";r=1;t=9`), 0},
		{"knows the draft's own parameter for units", answer(200, `RateLimit-Policy: "b";q=9;w=9;qu="content-bytes"`, `RateLimit: "b";r=0;t=9`), 9 * time.Second},
		{"waits a policy's pace where r=0 has no t", answer(200, `RateLimit-Policy: "a";q=10;w=60`, `RateLimit: "a";r=0`), 6 * time.Second},
		{"ignores r=0 where nobody knows for how long", answer(200, `RateLimit: "a";r=0`), 0},
		{"reads draft 07", answer(200, "RateLimit: limit=10, remaining=0, reset=4"), 4 * time.Second},
		{"reads draft 06", answer(200, "RateLimit-Limit: 10, 10;w=60", "RateLimit-Remaining: 0", "RateLimit-Reset: 4"), 4 * time.Second},
		{"reads X-RateLimit with seconds", answer(200, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 4"), 4 * time.Second},
		{"reads X-RateLimit with Unix time", answer(200, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 946684804"), 4 * time.Second},
		{"reads X-RateLimit with Unix time by the server's clock", answer(200, "Date: "+date, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 946684804"), 4 * time.Second},
		{"reads OpenAI's fields", answer(200, "x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 12ms"), 12 * time.Millisecond},
		{"reads OpenAI's long durations", answer(200, "x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 0m42s"), 42 * time.Second},
		{"reads Anthropic's fields", answer(200, "anthropic-ratelimit-requests-remaining: 0", "anthropic-ratelimit-requests-reset: 2000-01-01T00:00:08Z"), 8 * time.Second},
		{"prefers the standard fields", answer(200, `RateLimit: "a";r=0;t=5`, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 40"), 5 * time.Second},
		{"ignores a negative wait", answer(429, "Retry-After: -5"), 0},
		{"ignores an infinite wait", answer(429, "Retry-After: +Inf"), 0},
		{"ignores an exponent", answer(429, "Retry-After: 1e3"), 0},
		{"ignores a date in the past", answer(429, "Retry-After: Fri, 31 Dec 1999 23:00:00 GMT"), 0},
		{"ignores a negative remainder", answer(200, `RateLimit: "a";r=-1;t=5`, "X-RateLimit-Remaining: -1", "X-RateLimit-Reset: 5"), 0},
		{"ignores a field that is no structured field", answer(200, `RateLimit: "a;;r=0;t=5`), 0},
		{"ignores a time that no clock will show", answer(200, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 9999999999999999"), 0},
		{"reads X-RateLimit with Unix time in milliseconds", answer(200, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 946684800250"), 250 * time.Millisecond},
		{"ignores a reset of no known form", answer(200, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: soon"), 0},
		{"reads names and units that are tokens", answer(200, `RateLimit-Policy: a;q=1;w=9;qu=bytes`, `RateLimit: a;r=0;t=3`), 3 * time.Second},
		{"paces by the policy, or a second, where r has no t", answer(200, `RateLimit: "a";r=0;t=2, "b";r=9`), 2 * time.Second},
		{"ignores fields that are too long", answer(200, `RateLimit: "`+strings.Repeat("a", 8192)+`";r=0;t=5`), 0},
		{"ignores a reset that is past", answer(200, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 900000000"), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(test.first)
				tr := transport(t, ratelimit.TransportOptions{Base: s, Attempts: 1})
				for range 2 {
					_ = status(t, tr, get(t))
				}
				if want := []time.Duration{0, test.second}; !reflect.DeepEqual(s.sent, want) {
					t.Errorf("sent at %v, want %v", s.sent, want)
				}
			})
		})
	}
}

func TestTransportDoesNotTrustAbsurdValues(t *testing.T) {
	for _, field := range []string{
		"Retry-After: 99999999999999999999", "Retry-After-Ms: 99999999999999999999999999999999999999999999999999",
		"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", `RateLimit: "a";r=0;t=999999999999999`,
	} {
		t.Run(field, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(answer(429, field))
				tr := transport(t, ratelimit.TransportOptions{Base: s})
				if got := status(t, tr, get(t)); got != 429 {
					t.Errorf("status %d", got)
				}
				_, err := tr.RoundTrip(get(t))
				p, ok := errors.AsType[*weir.Problem](err)
				if !ok || p.Status != 429 || p.RetryAfter != 24*time.Hour {
					t.Errorf("%v, want a problem for a day", err)
				}
				time.Sleep(24 * time.Hour)
				if got := status(t, tr, get(t)); got != 200 {
					t.Errorf("after a day: status %d", got)
				}
				if want := []time.Duration{0, 24 * time.Hour}; !reflect.DeepEqual(s.sent, want) {
					t.Errorf("sent at %v, want %v", s.sent, want)
				}
			})
		})
	}
}

func TestTransportCountsDownWhatRemains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(answer(200, `RateLimit: "a";r=10;t=30`))
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(r)
			time.Sleep(20 * time.Second) // the server thinks: no news before
			return resp, err
		})
		tr := transport(t, ratelimit.TransportOptions{Base: slow})
		_ = status(t, tr, get(t))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { _ = status(t, tr, get(t)) })
		}
		synctest.Wait()
		s.mu.Lock()
		if got := len(s.sent); got != 11 {
			t.Errorf("%d sent at once, want the first and 10", got)
		}
		s.mu.Unlock()
		wg.Wait()
		if got := len(s.sent); got != 51 {
			t.Fatalf("%d sent in all", got)
		}
		for i, at := range s.sent[11:] {
			if at < 50*time.Second {
				t.Errorf("request %d sent at %v, before the reset at 50s", i+11, at)
			}
		}
	})
}

func TestTransportHearsGoodNewsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(answer(200, `RateLimit: "a";r=1;t=30`), answer(200, `RateLimit: "a";r=8;t=30`))
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			resp, err := s.RoundTrip(r)
			time.Sleep(3 * time.Second)
			return resp, err
		})
		tr := transport(t, ratelimit.TransportOptions{Base: slow, MaxWait: 10 * time.Second}) // shorter than t
		_ = status(t, tr, get(t))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _ = status(t, tr, get(t)) })
		}
		wg.Wait()
		second := time.Second
		if want := []time.Duration{0, 3 * second, 6 * second, 6 * second}; !reflect.DeepEqual(s.sent, want) {
			t.Errorf("sent at %v, want %v", s.sent, want)
		}
	})
}

func TestTransportUnderstandsAnswersThatOvertake(t *testing.T) {
	const ms = time.Millisecond
	// Some requests at 0, more of them at a second.
	for _, test := range []struct {
		name        string
		first, more int
		answers     []*http.Response
		want        []time.Duration
	}{
		{
			"counts a burst of refusals as one", 4, 3,
			[]*http.Response{
				answer(429, "X-Delay: 10ms", "Retry-After: 2"), answer(429, "X-Delay: 10ms", "Retry-After: 2"),
				answer(429, "X-Delay: 10ms", "Retry-After: 2"), answer(429, "X-Delay: 20ms", "Retry-After: 2"),
			},
			[]time.Duration{0, 0, 0, 0, 2020 * ms, 2220 * ms, 2400 * ms},
		},
		{
			"does not believe an answer from before a closure", 2, 2,
			[]*http.Response{answer(429, "X-Delay: 10ms", "Retry-After: 2"), answer(200, "X-Delay: 20ms", `RateLimit: "a";r=50;t=60`)},
			[]time.Duration{0, 0, 2010 * ms, 2210 * ms},
		},
		{
			"does not subtract for good what was under way", 4, 5,
			[]*http.Response{
				answer(200, "X-Delay: 10ms", `RateLimit: "a";r=4;t=9`), answer(200, "X-Delay: 20ms", `RateLimit: "a";r=4;t=9`),
				answer(200, "X-Delay: 30ms", `RateLimit: "a";r=4;t=9`), answer(200, "X-Delay: 40ms", `RateLimit: "a";r=4;t=9`),
			},
			[]time.Duration{0, 0, 0, 0, 1000 * ms, 1000 * ms, 1000 * ms, 1000 * ms, 9010 * ms},
		},
		{
			"believes the least of what overtook", 2, 1,
			[]*http.Response{answer(200, "X-Delay: 20ms", `RateLimit: "a";r=9;t=9`), answer(200, "X-Delay: 10ms", `RateLimit: "a";r=0;t=9`)},
			[]time.Duration{0, 0, 9010 * ms},
		},
		{
			"forgets a closure that is long over", 1, 3,
			[]*http.Response{answer(429, "Retry-After-Ms: 100")},
			[]time.Duration{0, 1000 * ms, 1000 * ms, 1000 * ms},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(test.answers...)
				tr := transport(t, ratelimit.TransportOptions{Base: s, Attempts: 1})
				var wg sync.WaitGroup
				for range test.first {
					wg.Go(func() { _ = status(t, tr, get(t)) })
				}
				time.Sleep(time.Second)
				for range test.more {
					wg.Go(func() { _ = status(t, tr, get(t)) })
				}
				wg.Wait()
				if !reflect.DeepEqual(s.sent, test.want) {
					t.Errorf("sent at %v, want %v", s.sent, test.want)
				}
			})
		})
	}
}

func TestTransportTriesAgain(t *testing.T) {
	const second = time.Second
	for _, test := range []struct {
		name    string
		options ratelimit.TransportOptions
		answers []*http.Response
		want    int
		sent    []time.Duration
	}{
		{"sends again when it was told", ratelimit.TransportOptions{}, []*http.Response{answer(429, "Retry-After: 2"), answer(503, "Retry-After: 3")}, 200, []time.Duration{0, 2 * second, 5 * second}},
		{"gives up after the last attempt", ratelimit.TransportOptions{Attempts: 2}, []*http.Response{answer(429, "Retry-After: 2"), answer(429, "Retry-After: 3")}, 429, []time.Duration{0, 2 * second}},
		{"does not send again without advice", ratelimit.TransportOptions{}, []*http.Response{answer(429)}, 429, []time.Duration{0}},
		{"does not send other failures again", ratelimit.TransportOptions{}, []*http.Response{answer(500, "Retry-After: 2", "X-Should-Retry: true")}, 500, []time.Duration{0}},
		{"obeys x-should-retry: false", ratelimit.TransportOptions{}, []*http.Response{answer(429, "Retry-After: 2", "X-Should-Retry: false")}, 429, []time.Duration{0}},
		{"obeys x-should-retry: true", ratelimit.TransportOptions{}, []*http.Response{answer(503, "X-Should-Retry: true"), answer(503, "X-Should-Retry: true")}, 200, []time.Duration{0, second / 2, second + second/2}},
		{"does not take 0 for at once", ratelimit.TransportOptions{}, []*http.Response{answer(429, "Retry-After: 0")}, 200, []time.Duration{0, second / 2}},
		{"does not wait longer than MaxWait", ratelimit.TransportOptions{MaxWait: 2 * second}, []*http.Response{answer(429, "Retry-After-Ms: 2001")}, 429, []time.Duration{0}},
		{"adds up all waits", ratelimit.TransportOptions{MaxWait: 4 * second}, []*http.Response{answer(429, "Retry-After: 2"), answer(429, "Retry-After: 3")}, 429, []time.Duration{0, 2 * second}},
		{"waits for the last moment", ratelimit.TransportOptions{MaxWait: 2 * second}, []*http.Response{answer(429, "Retry-After: 2")}, 200, []time.Duration{0, 2 * second}},
		{"does not keep a body without end in memory", ratelimit.TransportOptions{}, []*http.Response{endless()}, 200, []time.Duration{0, 2 * second}},
		{"never waits if MaxWait is negative", ratelimit.TransportOptions{MaxWait: -1}, []*http.Response{answer(429, "Retry-After: 2")}, 429, []time.Duration{0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(test.answers...)
				test.options.Base = s
				if got := status(t, transport(t, test.options), get(t)); got != test.want {
					t.Errorf("status %d, want %d", got, test.want)
				}
				if !reflect.DeepEqual(s.sent, test.sent) {
					t.Errorf("sent at %v, want %v", s.sent, test.sent)
				}
				for i, a := range test.answers[:min(len(test.answers), len(s.sent))] {
					if b, ok := a.Body.(*body); ok && b.closed.Load() == 0 {
						t.Errorf("the body of answer %d was not closed", i)
					}
				}
			})
		})
	}
}

func TestTransportSendsBodiesAgainOnlyWhereItCan(t *testing.T) {
	refusal := func() *http.Response { return answer(429, "Retry-After: 1") }
	send := func(t *testing.T, r *http.Request) (*script, int) {
		s := newScript(refusal())
		return s, status(t, transport(t, ratelimit.TransportOptions{Base: s}), r)
	}
	post := func(t *testing.T, b io.Reader) *http.Request {
		r, err := http.NewRequest("POST", "http://api.test/v1", b)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Run("sends a body again that GetBody gives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, got := send(t, post(t, strings.NewReader("question")))
			if want := []string{"question", "question"}; got != 200 || !reflect.DeepEqual(s.bodies, want) {
				t.Errorf("status %d, bodies %q, want %q", got, s.bodies, want)
			}
		})
	})
	t.Run("sends no body again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if s, got := send(t, post(t, http.NoBody)); got != 200 || len(s.sent) != 2 {
				t.Errorf("status %d, sent %v", got, s.sent)
			}
		})
	})
	t.Run("returns the refusal where the body is used up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &body{Reader: strings.NewReader("question")}
			s, got := send(t, post(t, b))
			if got != 429 || len(s.sent) != 1 || b.closed.Load() != 1 {
				t.Errorf("status %d, sent %v, closed %d times", got, s.sent, b.closed.Load())
			}
		})
	})
	t.Run("returns the refusal where GetBody fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := post(t, strings.NewReader("question"))
			r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
			if s, got := send(t, r); got != 429 || len(s.sent) != 1 {
				t.Errorf("status %d, sent %v", got, s.sent)
			}
		})
	})
	t.Run("does not change the request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := post(t, strings.NewReader("question"))
			r.Header.Set("X-A", "b")
			was, header, b := *r, r.Header.Clone(), r.Body
			r2 := r
			_, got := send(t, r2)
			if got != 200 || r.Body != b || r.URL != was.URL || !reflect.DeepEqual(r.Header, header) || r.ContentLength != was.ContentLength || r.Context() != was.Context() {
				t.Errorf("status %d, request %+v, was %+v", got, r, &was)
			}
		})
	})
}

func TestTransportClosesEveryBody(t *testing.T) {
	post := func(ctx context.Context) (*http.Request, *body) {
		b := &body{Reader: strings.NewReader("question")}
		r, err := http.NewRequestWithContext(ctx, "POST", "http://api.test/v1", b)
		if err != nil {
			t.Fatal(err)
		}
		return r, b
	}
	t.Run("of a request that was not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := transport(t, ratelimit.TransportOptions{Base: newScript(answer(429, "Retry-After: 3600"))})
			_ = status(t, tr, get(t))
			r, b := post(t.Context())
			if _, err := tr.RoundTrip(r); err == nil || b.closed.Load() != 1 {
				t.Errorf("%v, closed %d times", err, b.closed.Load())
			}
		})
	})
	t.Run("of a request whose cost is above the burst", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := transport(t, ratelimit.TransportOptions{
				Base: newScript(), Policies: []ratelimit.Policy{policy(t, "5/minute")}, Cost: func(*http.Request) int64 { return 6 },
			})
			r, b := post(t.Context())
			if _, err := tr.RoundTrip(r); err == nil || b.closed.Load() != 1 {
				t.Errorf("%v, closed %d times", err, b.closed.Load())
			}
		})
	})
	t.Run("of a request that was cancelled before it was sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			s := newScript()
			r, b := post(ctx)
			_, err := transport(t, ratelimit.TransportOptions{Base: s}).RoundTrip(r)
			if !errors.Is(err, context.Canceled) || b.closed.Load() != 1 || len(s.sent) != 0 {
				t.Errorf("%v, closed %d times, sent %v", err, b.closed.Load(), s.sent)
			}
		})
	})
	t.Run("of a second body that was not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r, first := post(ctx)
			second := &body{Reader: strings.NewReader("question")}
			r.GetBody = func() (io.ReadCloser, error) { return second, nil }
			_, err := transport(t, ratelimit.TransportOptions{Base: newScript(answer(429, "Retry-After: 5"))}).RoundTrip(r)
			if !errors.Is(err, context.DeadlineExceeded) || first.closed.Load() != 1 || second.closed.Load() != 1 {
				t.Errorf("%v, closed %d and %d times", err, first.closed.Load(), second.closed.Load())
			}
		})
	})
}

// own gives options with quotas of the caller's own.
func own(t *testing.T, base http.RoundTripper, policies ...string) ratelimit.TransportOptions {
	o := ratelimit.TransportOptions{Base: base, Store: ratelimit.NewMemoryStore(64)}
	for i, s := range policies {
		p := policy(t, s)
		p.Name = fmt.Sprint("own", i)
		o.Policies = append(o.Policies, p)
	}
	return o
}

func TestTransportKeepsItsOwnQuota(t *testing.T) {
	t.Run("sends the burst, then one each time a unit comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			tr := transport(t, own(t, s, "3 per 3s"))
			var wg sync.WaitGroup
			for range 6 {
				wg.Go(func() { _ = status(t, tr, get(t)) })
			}
			wg.Wait()
			second := time.Second
			if want := []time.Duration{0, 0, 0, second, 2 * second, 3 * second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
	t.Run("does not wait for a cost above the burst", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			o := own(t, s, "100/minute", "3 per 3s")
			o.Cost = func(*http.Request) int64 { return 4 }
			_, err := transport(t, o).RoundTrip(get(t))
			p, ok := errors.AsType[*weir.Problem](err)
			if !ok || p.RetryAfter != weir.Never || !reflect.DeepEqual(p.Violated, []string{"own1"}) || time.Since(s.start) != 0 || len(s.sent) != 0 {
				t.Errorf("%#v after %v", err, time.Since(s.start))
			}
		})
	})
	t.Run("does not wait longer than MaxWait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			tr := transport(t, own(t, s, "1 per 90s"))
			_ = status(t, tr, get(t))
			_, err := tr.RoundTrip(get(t))
			p, ok := errors.AsType[*weir.Problem](err)
			if !ok || p.Status != 429 || p.RetryAfter != 90*time.Second || time.Since(s.start) != 0 {
				t.Errorf("%v after %v", err, time.Since(s.start))
			}
		})
	})
	t.Run("takes again for each attempt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(429, "Retry-After: 1"), answer(429, "Retry-After: 1"))
			o := own(t, s, "2 per 200s")
			o.MaxWait = 10 * time.Minute
			if got := status(t, transport(t, o), get(t)); got != 200 {
				t.Errorf("status %d", got)
			}
			second := time.Second
			if want := []time.Duration{0, second, 100 * second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
	t.Run("returns the server's refusal where its own quota is used up then", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(429, "Retry-After: 1"))
			resp, err := transport(t, own(t, s, "1 per 200s")).RoundTrip(get(t))
			if err != nil || resp.StatusCode != 429 {
				t.Fatal(resp, err)
			}
			if text, err := io.ReadAll(resp.Body); string(text) != "answer 429" || err != nil {
				t.Errorf("body %q, %v", text, err)
			}
		})
	})
}

func TestTransportHoldsItsOwnQuotaOnlyToSend(t *testing.T) {
	t.Run("gives back what a request took that was not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(503, "Retry-After: 30", "X-Should-Retry: false"))
			tr := transport(t, own(t, s, "3/hour", "3/day"))
			_ = status(t, tr, get(t)) // takes 1 of 3, and closes the server
			for range 5 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := tr.RoundTrip(get(t).WithContext(ctx))
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			}
			time.Sleep(30 * time.Second)
			for range 2 {
				if got := status(t, tr, get(t)); got != 200 {
					t.Errorf("status %d", got)
				}
			}
			if _, err := tr.RoundTrip(get(t)); err == nil {
				t.Error("a fourth request fits into 3 an hour: something was given back twice")
			}
		})
	})
	t.Run("is not exceeded when the server opens again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			// The server refuses once and then says that it has room for all.
			s := newScript(answer(429, "Retry-After: 20"), answer(200, `RateLimit: "a";r=1000;t=60`))
			tr := transport(t, own(t, s, "5 per 5s"))
			var wg sync.WaitGroup
			for range 30 {
				wg.Go(func() { _ = status(t, tr, get(t)) })
			}
			wg.Wait()
			for i := range s.sent {
				if j := i + 6; j < len(s.sent) && s.sent[j]-s.sent[i] < time.Second {
					t.Errorf("%d and %d sent at %v and %v: more than 5 and one a second", i, j, s.sent[i], s.sent[j])
				}
			}
		})
	})
	t.Run("lets others go while it waits for a quota that was used up meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(200, `RateLimit: "a";r=1;t=300, "b";r=0;t=10;x-unit="tokens"`))
			o := own(t, s, "2 per 30s")
			tr := transport(t, o)
			_ = status(t, tr, get(t))
			o.Base = newScript()
			other := transport(t, o) // another process: same store, nothing learned
			var wg sync.WaitGroup
			wg.Go(func() { _ = status(t, tr, get(t)) })
			time.Sleep(9 * time.Second)
			_ = status(t, other, get(t)) // leaves 0.6 of a unit
			wg.Wait()
			if want := []time.Duration{0, 15 * time.Second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
}

func TestTransportWaitsInLineForItsOwnQuota(t *testing.T) {
	t.Run("lets nobody past a request that costs more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			o := own(t, s, "10 per 10s")
			o.Cost = func(r *http.Request) int64 { return r.ContentLength }
			tr := transport(t, o)
			var wg sync.WaitGroup
			for _, cost := range []int{10, 8, 1, 1} {
				wg.Go(func() {
					r := get(t)
					r.ContentLength = int64(cost)
					_ = status(t, tr, r)
				})
				time.Sleep(2 * time.Second)
			}
			wg.Wait()
			second := time.Second
			if want := []time.Duration{0, 8 * second, 9 * second, 10 * second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
	t.Run("waits in line, from which who is cancelled or late leaves at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			o := own(t, s, "1 per 10s")
			o.MaxWait = 15 * time.Second
			tr := transport(t, o)
			_ = status(t, tr, get(t))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			want := []string{"10s <nil>", "5s context deadline exceeded", "10s 429 Quota exceeded: Request refused: 1 request per 10 seconds is used up. Try again in 10 seconds."}
			for i, want := range want {
				wg.Go(func() {
					r := get(t)
					if i == 1 {
						r = r.WithContext(ctx)
					}
					resp, err := tr.RoundTrip(r)
					if err == nil {
						_ = resp.Body.Close()
					}
					if got := fmt.Sprint(time.Since(s.start), " ", err); got != want {
						t.Errorf("request %d: %s, want %s", i, got, want)
					}
				})
				synctest.Wait()
			}
			wg.Wait()
			if want := []time.Duration{0, 10 * time.Second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
}

func TestTransportCannotTakeBackWhatMayHaveBeenSent(t *testing.T) {
	t.Run("stays taken by a request whose answer did not come", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			broken := errors.New("connection reset")
			o := own(t, roundTrip(func(*http.Request) (*http.Response, error) { return nil, broken }), "1 per 100s")
			tr := transport(t, o)
			if _, err := tr.RoundTrip(get(t)); !errors.Is(err, broken) {
				t.Error(err)
			}
			if _, err := tr.RoundTrip(get(t)); errors.Is(err, broken) || err == nil {
				t.Errorf("%v: the server may have counted the first request, so must we", err)
			}
		})
	})
	t.Run("fails or sends where the store fails, as it is told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript()
			o := own(t, s, "5/minute")
			o.Store = awayStore{}
			_, err := transport(t, o).RoundTrip(get(t))
			if p, ok := errors.AsType[*weir.Problem](err); !ok || p.Status != 503 || len(s.sent) != 0 {
				t.Errorf("%v, sent %v", err, s.sent)
			}
			o.FailOpen = true
			if got := status(t, transport(t, o), get(t)); got != 200 {
				t.Errorf("status %d", got)
			}
		})
	})
}

type awayStore struct{}

func (awayStore) Take(context.Context, []ratelimit.Take, time.Time) (bool, error) {
	return false, errors.New("no connection")
}

func (awayStore) Settle(context.Context, []ratelimit.Take, time.Time) error {
	return errors.New("no connection")
}

// inBubble is a server without a network, which counts its refusals.
type inBubble struct {
	http.Handler
	refused atomic.Int64
}

func (s *inBubble) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(5 * time.Millisecond)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code == 429 {
		s.refused.Add(1)
	}
	time.Sleep(5 * time.Millisecond)
	return w.Result(), nil
}

// fixedWindow refuses more than n in a window and tells nothing but Retry-After,
// in whole seconds.
func fixedWindow(n int, window time.Duration) http.Handler {
	var mu sync.Mutex
	var end time.Time
	used := 0
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); !now.Before(end) {
			end, used = now.Add(window), 0
		}
		if used++; used > n {
			w.Header().Set("Retry-After", fmt.Sprint(int((time.Until(end)+time.Second-1)/time.Second)))
			w.WriteHeader(429)
		}
	})
}

// naive obeys Retry-After, each request for itself.
type naive struct{ base http.RoundTripper }

func (n naive) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		resp, err := n.base.RoundTrip(r)
		if err != nil || resp.StatusCode != 429 {
			return resp, err
		}
		wait, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
		if err != nil {
			return nil, err
		}
		time.Sleep(wait)
	}
}

func TestTransportSpreadsTheReopening(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(t *testing.T) http.Handler
		most   int64
		within time.Duration
	}{
		{"on a bucket of 10 a second that describes itself", func(t *testing.T) http.Handler {
			l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{policy(t, "10/second")}})
			return l.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		}, 5, 15 * time.Second},
		{"on a window of 10 a second that only says Retry-After", func(*testing.T) http.Handler {
			return fixedWindow(10, time.Second)
		}, 20, 25 * time.Second},
		{"on a window of 3 a second that only says Retry-After", func(*testing.T) http.Handler {
			return fixedWindow(3, time.Second)
		}, 35, 59 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := func(t *testing.T, wrap func(http.RoundTripper) http.RoundTripper) (refused int64, took time.Duration) {
				synctest.Test(t, func(t *testing.T) {
					s := &inBubble{Handler: test.server(t)}
					tr := wrap(s)
					for { // until the server is closed
						resp, err := s.RoundTrip(get(t))
						if err != nil {
							t.Fatal(err)
						}
						if resp.StatusCode == 429 {
							break
						}
					}
					s.refused.Store(0)
					start := time.Now()
					var wg sync.WaitGroup
					for i := range 100 {
						wg.Go(func() {
							if got := status(t, tr, get(t)); got != 200 {
								t.Errorf("status %d", got)
							}
						})
						if i == 0 { // it finds the server closed, the others know
							time.Sleep(20 * time.Millisecond)
						}
					}
					wg.Wait()
					refused, took = s.refused.Load(), time.Since(start)
				})
				return refused, took
			}
			alone, aloneTook := run(t, func(base http.RoundTripper) http.RoundTripper { return naive{base} })
			got, took := run(t, func(base http.RoundTripper) http.RoundTripper {
				return transport(t, ratelimit.TransportOptions{Base: base, Attempts: 10})
			})
			t.Logf("100 requests: %d refused in %v; each for itself: %d refused in %v", got, took, alone, aloneTook)
			if got > test.most || took > test.within || got > alone/4 {
				t.Errorf("%d refused in %v, want at most %d in %v", got, took, test.most, test.within)
			}
		})
	}
}

func TestTransportLearnsForEachKey(t *testing.T) {
	request := func(t *testing.T, url string, fields ...string) *http.Request {
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = answer(0, fields...).Header
		return r
	}
	t.Run("a key is the server and a hash of the credentials", func(t *testing.T) {
		keys := map[string]string{}
		for _, r := range []*http.Request{
			request(t, "http://a.test/x"), request(t, "https://a.test/x"), request(t, "http://a.test:81/"), request(t, "http://b.test/"),
			request(t, "http://a.test/", "Authorization: Bearer secret"), request(t, "http://a.test/", "X-Api-Key: Bearer secret"),
			request(t, "http://a.test/", "Api-Key: secret"), request(t, "http://a.test/", "Api-Key: secret", "Api-Key: other"),
		} {
			k := ratelimit.ByServer(r)
			if other, ok := keys[k]; ok || strings.Contains(k, "secret") {
				t.Errorf("%s %v has the key %q of %s", r.URL, r.Header, k, other)
			}
			keys[k] = r.URL.String()
		}
		if a, b := ratelimit.ByServer(request(t, "http://A.test/x", "Cookie: 1")), ratelimit.ByServer(request(t, "http://a.test/y?z")); a != b {
			t.Errorf("%q and %q differ", a, b)
		}
		if k := ratelimit.ByServer(&http.Request{}); k != "" {
			t.Errorf("without a URL: %q", k)
		}
	})
	t.Run("one account's closure does not hold up another", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(429, "Retry-After: 9"))
			tr := transport(t, ratelimit.TransportOptions{Base: s, Attempts: 1})
			for _, account := range []string{"1", "2", "1"} {
				_ = status(t, tr, request(t, "http://a.test/", "Authorization: "+account))
			}
			if want := []time.Duration{0, 0, 9 * time.Second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
	t.Run("forgets the lesson that ends first where there are too many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var sent atomic.Int64
			tr := transport(t, ratelimit.TransportOptions{MaxWait: -1, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				sent.Add(1)
				return answer(429, "Retry-After: "+r.URL.Port()), nil
			})})
			ask := func(seconds int) bool {
				before := sent.Load()
				resp, err := tr.RoundTrip(request(t, fmt.Sprint("http://a.test:", seconds)))
				if err == nil {
					_ = resp.Body.Close()
				}
				return sent.Load() > before
			}
			for i := range 1024 {
				if !ask(1000 + i) {
					t.Fatalf("key %d: not sent", i)
				}
			}
			if !ask(5000) {
				t.Error("a new key is not sent")
			}
			for _, known := range []int{1001, 1500, 2023, 5000} {
				if ask(known) {
					t.Errorf("the lesson of %d was forgotten", known)
				}
			}
			if !ask(1000) {
				t.Error("the lesson of 1000, which ended first, is still there: nothing bounds them")
			}
		})
	})
}

func TestTransportLeavesTheQueueInOrder(t *testing.T) {
	t.Run("who is cancelled returns at once and makes room", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(503, "Retry-After: 10", `RateLimit-Policy: "a";q=1;w=2`, `RateLimit: "a";r=0;t=2`))
			tr := transport(t, ratelimit.TransportOptions{Base: s, Attempts: 1})
			_ = status(t, tr, get(t))
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					r := get(t)
					if i == 0 {
						r = r.WithContext(ctx)
					}
					resp, err := tr.RoundTrip(r)
					if err == nil {
						_ = resp.Body.Close()
					}
					if canceled := errors.Is(err, context.Canceled); canceled != (i == 0) || canceled && time.Since(s.start) != 4*time.Second {
						t.Errorf("request %d: %v at %v", i, err, time.Since(s.start))
					}
				})
				synctest.Wait()
			}
			time.Sleep(4 * time.Second)
			cancel()
			wg.Wait()
			second := time.Second
			if want := []time.Duration{0, 10 * second, 12 * second}; !reflect.DeepEqual(s.sent, want) {
				t.Errorf("sent at %v, want %v", s.sent, want)
			}
		})
	})
	t.Run("all return at once when the wait becomes too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(429, "Retry-After: 10"), answer(429, "Retry-After: 3600"))
			tr := transport(t, ratelimit.TransportOptions{Base: s})
			var refused, problems atomic.Int64
			ask := func() {
				resp, err := tr.RoundTrip(get(t))
				if p, ok := errors.AsType[*weir.Problem](err); ok && p.RetryAfter == time.Hour {
					problems.Add(1)
				} else if err == nil && resp.StatusCode == 429 {
					refused.Add(1)
				}
				if at := time.Since(s.start); at != 10*time.Second {
					t.Errorf("returned at %v", at)
				}
			}
			var wg sync.WaitGroup
			wg.Go(ask)
			synctest.Wait()
			for range 20 {
				wg.Go(ask)
			}
			wg.Wait()
			if refused.Load() != 1 || problems.Load() != 20 || len(s.sent) != 2 {
				t.Errorf("%d refused, %d not sent, sent at %v", refused.Load(), problems.Load(), s.sent)
			}
		})
	})
	t.Run("keeps the refusal for the case that the wait becomes too long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newScript(answer(429, "Retry-After: 10"), answer(429, "Retry-After: 3600"))
			slow := roundTrip(func(r *http.Request) (*http.Response, error) {
				resp, err := s.RoundTrip(r)
				time.Sleep(time.Millisecond) // until both are under way
				if resp.Header.Get("Retry-After") == "3600" {
					time.Sleep(time.Second)
				}
				return resp, err
			})
			tr := transport(t, ratelimit.TransportOptions{Base: slow})
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					resp, err := tr.RoundTrip(get(t))
					if err != nil {
						t.Error(err)
						return
					}
					text, err := io.ReadAll(resp.Body)
					if resp.StatusCode != 429 || string(text) != "answer 429" || err != nil || time.Since(s.start) != 1001*time.Millisecond {
						t.Errorf("%d %q %v at %v", resp.StatusCode, text, err, time.Since(s.start))
					}
				})
			}
			wg.Wait()
		})
	})
}

func TestTransportTellsItsObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []ratelimit.TransportEvent
		tr := transport(t, ratelimit.TransportOptions{
			Base: newScript(answer(429, "Retry-After: 2")), Key: func(*http.Request) string { return "k" },
			Observe: func(e ratelimit.TransportEvent) { got = append(got, e) },
		})
		_ = status(t, tr, get(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := tr.RoundTrip(get(t).WithContext(ctx)); err == nil {
			t.Error("sent")
		}
		want := []ratelimit.TransportEvent{
			{Key: "k", Attempt: 1, Status: 429, RetryAfter: 2 * time.Second, Again: true},
			{Key: "k", Attempt: 2, Waited: 2 * time.Second, Status: 200},
			{Key: "k", Attempt: 1, Err: context.Canceled},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestNewTransportRefusesBadOptions(t *testing.T) {
	for want, o := range map[string]ratelimit.TransportOptions{
		"attempts: -1: want at least 1":                {Attempts: -1},
		"policies[0].quota: 0: want at least 1":        {Policies: []ratelimit.Policy{{Window: time.Minute}}},
		"policies[1]: concurrent: 3: a Transport does": {Policies: []ratelimit.Policy{{Quota: 1, Window: time.Minute}, {Concurrent: 3}}},
	} {
		if _, err := ratelimit.NewTransport(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestTransportOverANetwork(t *testing.T) {
	defer goleak.VerifyNone(t)
	l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{{Quota: 10, Window: 200 * time.Millisecond}}})
	var served, refused, connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			served.Add(1)
			_, _ = w.Write(text)
		})).ServeHTTP(w, r)
		if w.Header().Get("Retry-After") != "" {
			refused.Add(1)
		}
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	tr := transport(t, ratelimit.TransportOptions{Base: &http.Transport{MaxConnsPerHost: 8, MaxIdleConnsPerHost: 8}, Attempts: 5})
	client := &http.Client{Transport: tr}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			question := fmt.Sprint("question ", i)
			resp, err := client.Post(server.URL, "text/plain", strings.NewReader(question))
			if err != nil {
				t.Error(err)
				return
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || string(text) != question {
				t.Errorf("%s %q %v", resp.Status, text, err)
			}
		})
	}
	wg.Wait()
	if served.Load() != 30 || connections.Load() > 8 {
		t.Errorf("%d served on %d connections, want 30 on at most 8", served.Load(), connections.Load())
	}
	t.Logf("30 requests: %d refused, %d connections", refused.Load(), connections.Load())
}

// TestTransportNeverLosesAnybody runs many requests, some of which give up, on
// servers that say what they like: each returns, in the time that it has.
func TestTransportNeverLosesAnybody(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			dice := rand.New(rand.NewPCG(seed, 1))
			roll := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return dice.IntN(n)
			}
			tr := transport(t, ratelimit.TransportOptions{
				MaxWait: 20 * time.Second, Policies: []ratelimit.Policy{policy(t, "20/second"), policy(t, "300/minute")},
				Cost: func(*http.Request) int64 { return int64(roll(3)) },
				Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					time.Sleep(time.Duration(roll(100)) * time.Millisecond)
					switch roll(8) {
					case 0:
						return answer(429, fmt.Sprint("Retry-After-Ms: ", roll(3000))), nil
					case 1:
						return answer(429), nil
					case 2:
						return nil, errors.New("broken")
					case 3:
						return answer(200), nil
					}
					return answer(200, fmt.Sprintf(`RateLimit: "a";r=%d;t=%d, "b";r=%d;t=1;x-unit="tokens"`, roll(20), roll(4), roll(9))), nil
				}),
			})
			start := time.Now()
			var wg sync.WaitGroup
			for range 200 {
				wg.Go(func() {
					time.Sleep(time.Duration(roll(5000)) * time.Millisecond)
					begin := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(roll(60))*time.Second)
					defer cancel()
					resp, err := tr.RoundTrip(get(t).WithContext(ctx))
					if err == nil {
						_ = resp.Body.Close()
					}
					if took := time.Since(begin); took > 20*time.Second+3*100*time.Millisecond {
						t.Errorf("seed %d: took %v", seed, took)
					}
				})
			}
			wg.Wait()
			// And nobody's turn is lost: after a pause the next is sent.
			time.Sleep(time.Minute)
			if _, err := tr.RoundTrip(get(t)); err != nil && err.Error() != "broken" {
				t.Errorf("seed %d: %v after %v", seed, err, time.Since(start))
			}
		})
	}
}

func FuzzTransportFields(f *testing.F) {
	f.Add(429, "7", "", `"a";r=0;t=5`, `"a";q=9;w=9`, "", "")
	f.Add(200, "", "300.5", `limit=10, remaining=0, reset=4`, "100;w=60", "0", "6m0s")
	f.Add(503, "Sat, 01 Jan 2000 00:00:20 GMT", "NaN", `a;r=0, (b c);r=1`, `"b";q=0;w=0;qu=x`, "3", "2000-01-01T00:00:08Z")
	f.Fuzz(func(t *testing.T, code int, after, ms, state, policy, left, reset string) {
		synctest.Test(t, func(t *testing.T) {
			first := answer(code)
			for name, v := range map[string]string{
				"Retry-After": after, "Retry-After-Ms": ms, "Ratelimit": state, "Ratelimit-Policy": policy,
				"X-Ratelimit-Remaining": left, "X-Ratelimit-Reset": reset,
			} {
				first.Header.Set(name, v)
			}
			s := newScript(first)
			tr := transport(t, ratelimit.TransportOptions{Base: s, Attempts: 1, MaxWait: 100 * time.Hour})
			for range 3 {
				_ = status(t, tr, get(t))
			}
			if took := s.sent[2]; took > 2*24*time.Hour {
				t.Errorf("waited %v", took)
			}
		})
	})
}
