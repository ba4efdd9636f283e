package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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
		{"ignores fields of an answer whose age is no number", answer(200, "Age: 5, 5", `RateLimit: "a";r=0;t=5`), 0},
		{"ignores fields of an answer with two ages", answer(200, "Age: 0", "Age: 3", `RateLimit: "a";r=0;t=5`), 0},
		{"takes the age off Retry-After", answer(503, "Age: 3", "Retry-After: 7"), 4 * time.Second},
		{"takes the age off retry-after-ms", answer(503, "Age: 3", "Retry-After-Ms: 7500"), 4500 * time.Millisecond},
		{"takes the age off an HTTP date by the server's clock", answer(503, "Age: 3", "Date: Fri, 31 Dec 1999 23:50:00 GMT", "Retry-After: Fri, 31 Dec 1999 23:50:20 GMT"), 17 * time.Second},
		{"does not take it off an HTTP date by its own clock", answer(503, "Age: 3", "Retry-After: Sat, 01 Jan 2000 00:00:20 GMT"), 20 * time.Second},
		{"ignores a Retry-After that is older than its wait", answer(503, "Age: 100", "Retry-After: 3"), 0},
		{"obeys Retry-After in full where the age is no number", answer(503, "Age: old", "Retry-After: 7"), 7 * time.Second},
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

func TestTransportBringsItsTicketBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var brought []string
		refusals := []*http.Response{
			answer(503, "Retry-After: 2", "X-Queue-Ticket: first"),
			answer(503, "Retry-After: 2", "X-Queue-Ticket: second"),
		}
		tr := transport(t, ratelimit.TransportOptions{Attempts: 3, Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			brought = append(brought, r.Header.Get("X-Queue-Ticket"))
			if n := len(brought); n <= len(refusals) {
				return refusals[n-1], nil
			}
			return answer(200), nil
		})})
		r, err := http.NewRequest("POST", "http://weir/", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(r)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%v, %v", resp, err)
		}
		if want := []string{"", "first", "second"}; !reflect.DeepEqual(brought, want) {
			t.Errorf("brought %q, want %q", brought, want)
		}
		if got := r.Header.Get("X-Queue-Ticket"); got != "" {
			t.Errorf("the caller's own request has the ticket %q", got)
		}
	})
}
