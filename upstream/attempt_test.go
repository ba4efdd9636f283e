package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/upstream"
)

// asked records which targets were asked, in order.
type asked struct {
	mu    sync.Mutex
	names strings.Builder
	times []time.Time
}

func (a *asked) note(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names.WriteString(name)
	a.times = append(a.times, time.Now())
}

func (a *asked) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.names.String()
}

// handled makes a target of this process, whose name is noted with every request.
func (a *asked) handled(name string, h http.HandlerFunc) upstream.Target {
	return upstream.Target{URL: name, Transport: upstream.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.note(name)
		h(w, r)
	}))}
}

func says(status int, fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Set(fields[i], fields[i+1])
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, "says ", status)
	}
}

func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func newPool(t *testing.T, o upstream.Options) *upstream.Pool {
	t.Helper()
	if o.Name == "" {
		o.Name = "llm"
	}
	if o.Balance == "" {
		o.Balance = "round_robin"
	}
	if o.Timeouts.Connect == 0 {
		o.Timeouts.Connect = time.Minute // a busy machine may take longer than the default
	}
	pool, err := upstream.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pool.Close()
		if n := pool.InFlight(); n != 0 {
			t.Errorf("%d exchanges never ended", n)
		}
	})
	return pool
}

// whole sends r and reads the answer.
func whole(pool *upstream.Pool, r *http.Request, c upstream.Call) (status int, body string, err error) {
	resp, err := pool.Send(r.Context(), r, c)
	if err != nil {
		if p, ok := errors.AsType[*weir.Problem](err); ok {
			return p.Status, p.Detail, err
		}
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestWhatIsSentAgain(t *testing.T) {
	type given struct {
		method string
		a      http.HandlerFunc
		retry  upstream.Retry
	}
	twice := upstream.Retry{Attempts: 2}
	check := func(in given, wantAsked string, wantStatus int) {
		t.Helper()
		var order asked
		pool := newPool(t, upstream.Options{Retry: in.retry, Targets: []upstream.Target{order.handled("a", in.a), order.handled("b", says(200))}})
		r := httptest.NewRequestWithContext(t.Context(), in.method, "/", strings.NewReader("x"))
		status, _, _ := whole(pool, r, upstream.Call{})
		if order.String() != wantAsked || status != wantStatus {
			t.Errorf("%s of %+v: asked %s and got %d, want %s and %d", in.method, in.retry, order.String(), status, wantAsked, wantStatus)
		}
	}
	// The body of httptest's requests cannot be had twice, and the transport to this
	// process reads nothing of it unless the handler does.
	for _, status := range []int{502, 503, 504, 429} {
		check(given{"GET", says(status), twice}, "ab", 200)
		check(given{"GET", says(status), upstream.Retry{}}, "ab", 200)
		check(given{"GET", says(status), upstream.Retry{Attempts: 1}}, "a", status)
		check(given{"POST", says(status), twice}, "a", status)
		check(given{"PATCH", says(status), twice}, "a", status)
		check(given{"POST", says(status), upstream.Retry{Post: true}}, "ab", 200)
		check(given{"PATCH", says(status), upstream.Retry{Post: true}}, "ab", 200)
	}
	for _, status := range []int{200, 304, 400, 401, 404, 408, 409, 422, 500, 501, 505, 507} {
		check(given{"GET", says(status), twice}, "a", status)
		check(given{"POST", says(status), upstream.Retry{Post: true}}, "a", status)
	}
	for _, method := range []string{"HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"} {
		check(given{method, says(503), twice}, "ab", 200)
	}
	for _, method := range []string{"PROPFIND", "LOCK", "get"} {
		check(given{method, says(503), upstream.Retry{Post: true}}, "a", 503)
	}
	broken := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	check(given{"GET", broken, twice}, "ab", 200)
	check(given{"POST", broken, twice}, "a", 502)
	check(given{"POST", broken, upstream.Retry{Post: true}}, "ab", 200)
	half := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	}
	check(given{"GET", half, twice}, "a", 200) // the client has its head
	reads := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(503)
	}
	check(given{"PUT", reads, twice}, "a", 503) // its body is gone
}

func TestTheSameTargetIsAskedAgainOnlyAfterAWhile(t *testing.T) {
	// ask gives the times of the attempts at the one target, and the answer's status.
	ask := func(t *testing.T, o upstream.Options, h http.HandlerFunc) (gaps []time.Duration, status int) {
		synctest.Test(t, func(t *testing.T) {
			var order asked
			o.Targets = []upstream.Target{order.handled("a", h)}
			pool := newPool(t, o)
			status, _, _ = whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{})
			for i := range order.times[1:] {
				gaps = append(gaps, order.times[i+1].Sub(order.times[i]))
			}
		})
		return gaps, status
	}
	t.Run("25 to 250 ms after a failure", func(t *testing.T) {
		gaps, status := ask(t, upstream.Options{Retry: upstream.Retry{Attempts: 3}}, says(502))
		if len(gaps) != 2 || status != 502 {
			t.Fatalf("%d after gaps of %v, want three attempts and 502", status, gaps)
		}
		for _, d := range gaps {
			if d < 25*time.Millisecond || d > 250*time.Millisecond {
				t.Errorf("after %v", d)
			}
		}
	})
	t.Run("when it said that it has room, if that is soon", func(t *testing.T) {
		for _, status := range []int{429, 503} {
			gaps, _ := ask(t, upstream.Options{}, says(status, "Retry-After", "1"))
			if len(gaps) != 1 || gaps[0] < time.Second || gaps[0] > 1100*time.Millisecond {
				t.Errorf("%d: again after %v, want once after a second", status, gaps)
			}
		}
	})
	t.Run("also where the pool is closed until then", func(t *testing.T) {
		gaps, _ := ask(t, upstream.Options{Closed: func(*http.Response) time.Duration { return 300 * time.Millisecond }}, says(503))
		if len(gaps) != 1 || gaps[0] < 300*time.Millisecond || gaps[0] > 330*time.Millisecond {
			t.Errorf("again after %v, want once after 300ms", gaps)
		}
	})
	t.Run("not where it does not say, or later", func(t *testing.T) {
		for _, fields := range [][]string{nil, {"Retry-After", "0"}, {"Retry-After", "2"}, {"Retry-After", "99999999999999999999"}, {"Retry-After", "soon"}} {
			if gaps, status := ask(t, upstream.Options{}, says(503, fields...)); len(gaps) != 0 || status != 503 {
				t.Errorf("%v: %d, and again after %v", fields, status, gaps)
			}
		}
	})
	t.Run("not where it is silent", func(t *testing.T) {
		if gaps, status := ask(t, upstream.Options{}, hangs); len(gaps) != 0 || status != 504 {
			t.Errorf("%d, and again after %v", status, gaps)
		}
	})
}

func TestTimeoutsOfAttempts(t *testing.T) {
	// ask sends to two targets that are silent and one that answers.
	ask := func(t *testing.T, method string, o upstream.Options) (order string, status int, took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			var names asked
			o.Targets = []upstream.Target{names.handled("a", hangs), names.handled("b", hangs), names.handled("c", says(200))}
			o.Retry.Attempts = 3
			pool := newPool(t, o)
			begin := time.Now()
			status, _, _ = whole(pool, httptest.NewRequestWithContext(t.Context(), method, "/", nil), upstream.Call{})
			order, took = names.String(), time.Since(begin)
		})
		return order, status, took
	}
	second := upstream.Timeouts{FirstByte: time.Second}
	for _, c := range []struct {
		name, method string
		options      upstream.Options
		order        string
		status       int
		took         time.Duration
	}{
		{"a silent target is left for another one", "GET", upstream.Options{Timeouts: second}, "abc", 200, 2 * time.Second},
		{"but not with a POST, which it has", "POST", upstream.Options{Timeouts: second}, "a", 504, time.Second},
		{"the total bounds all attempts together", "GET",
			upstream.Options{Timeouts: upstream.Timeouts{FirstByte: time.Second, Total: 1500 * time.Millisecond}}, "ab", 504, 1500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			order, status, took := ask(t, c.method, c.options)
			if order != c.order || status != c.status || took != c.took {
				t.Errorf("asked %s, got %d after %v: want %s, %d, %v", order, status, took, c.order, c.status, c.took)
			}
		})
	}
}

// refused is the URL of a server that is not there.
func refused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestARequestOfWhichNothingWasWrittenGoesElsewhere(t *testing.T) {
	var got atomic.Value
	works := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got.Store(r.Method + " " + string(b))
	})
	url, events := front(t, upstream.Options{Balance: "round_robin"}, refused(t), works)
	for _, method := range []string{"POST", "PATCH", "PUT", "LOCK"} {
		for _, length := range []int64{5, -1} { // with a length and in chunks
			r, _ := http.NewRequest(method, url, io.NopCloser(strings.NewReader("whole")))
			r.ContentLength = length
			if code, body := read2(t, client(t), r); code != 200 || got.Load() != method+" whole" {
				t.Errorf("%s: %d %s, and the other target got %q", method, code, body, got.Load())
			}
		}
	}
	for i, e := range events() {
		if e.Result == upstream.ResultConnect && (e.Attempt != 1 || !e.Retried || e.Reason != "") ||
			e.Result == upstream.ResultOK && e.Attempt == 2 && (e.Retried || e.Reason != upstream.ReasonRetry) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
}

func TestRetriesHaveABudget(t *testing.T) {
	for _, c := range []struct{ requests, budget, want int }{{10, 20, 3}, {40, 20, 8}, {40, 50, 20}, {2, 20, 2}} {
		t.Run(fmt.Sprintf("%d in flight, %d %%", c.requests, c.budget), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fail, answer := make(chan struct{}), make(chan struct{})
				var order asked
				pool := newPool(t, upstream.Options{
					Retry: upstream.Retry{Budget: float64(c.budget) / 100},
					Targets: []upstream.Target{
						order.handled("a", func(w http.ResponseWriter, _ *http.Request) { <-fail; w.WriteHeader(502) }),
						order.handled("b", func(http.ResponseWriter, *http.Request) { <-answer }),
					},
				})
				var statuses [600]atomic.Int64
				var wg sync.WaitGroup
				for range c.requests {
					wg.Go(func() {
						status, _, _ := whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{Seat: (&seats{}).at(0)})
						statuses[status].Add(1)
					})
				}
				synctest.Wait()
				close(fail)
				synctest.Wait()
				if n := strings.Count(order.String(), "b"); n != c.want {
					t.Errorf("%d retries at once, want %d", n, c.want)
				}
				close(answer)
				wg.Wait()
				if n := statuses[200].Load(); n != int64(c.want) || statuses[502].Load() != int64(c.requests-c.want) {
					t.Errorf("%d good answers, want %d", n, c.want)
				}
				// What was used is given back.
				status, _, _ := whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{Seat: (&seats{}).at(0)})
				if status != 200 {
					t.Errorf("%d afterwards", status)
				}
			})
		})
	}
}

func TestAClientThatLeftIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order asked
		pool := newPool(t, upstream.Options{Retry: upstream.Retry{Attempts: 5}, Targets: []upstream.Target{order.handled("a", hangs), order.handled("b", hangs)}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := whole(pool, httptest.NewRequestWithContext(ctx, "GET", "/", nil), upstream.Call{})
		if order.String() != "a" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("asked %s, %v", order.String(), err)
		}
	})
	t.Run("nor while it waits for another attempt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var order asked
			pool := newPool(t, upstream.Options{Targets: []upstream.Target{order.handled("a", says(503, "Retry-After", "1"))}})
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			begin := time.Now()
			status, _, _ := whole(pool, httptest.NewRequestWithContext(ctx, "GET", "/", nil), upstream.Call{})
			if took := time.Since(begin); order.String() != "a" || took != 500*time.Millisecond || status != 503 {
				t.Errorf("asked %s, %d after %v", order.String(), status, took)
			}
		})
	})
}

func TestARequestWhoseBodyIsBrokenIsTheClientsFault(t *testing.T) {
	target := backend(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	var events []upstream.Event
	pool := newPool(t, upstream.Options{
		Targets: []upstream.Target{{URL: target}}, Breaker: upstream.Breaker{Failures: 1}, Retry: upstream.Retry{Post: true},
		Observe: func(e upstream.Event) { events = append(events, e) },
	})
	for _, c := range []struct {
		err    error
		status int
		detail string
	}{
		{errors.New("malformed chunked encoding"), 400, "The request's body could not be read to its end."},
		{&http.MaxBytesError{Limit: 10}, 413, "The request's body is longer than 10 bytes."},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "PUT", "/", io.MultiReader(strings.NewReader("half"), failing{c.err}))
		r.ContentLength = -1
		status, detail, err := whole(pool, r, upstream.Call{})
		if status != c.status || detail != c.detail || !errors.Is(err, c.err) {
			t.Errorf("%d %q %v", status, detail, err)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), "PUT", "/", strings.NewReader("half"))
	r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("the file is gone") }
	again := newPool(t, upstream.Options{
		Targets: []upstream.Target{{URL: refused(t)}, {URL: target}}, Balance: "round_robin", Breaker: upstream.Breaker{Failures: 1},
	})
	status, _, err := whole(again, r, upstream.Call{})
	if status != 400 || err == nil || !strings.Contains(err.Error(), "the file is gone") || !again.Open(1, time.Now()) {
		t.Errorf("%d %v, and the second target is open: %t", status, err, again.Open(1, time.Now()))
	}
	if len(events) != 2 || events[0].Result != upstream.ResultRequest || events[1].Result != upstream.ResultRequest || !pool.Open(0, time.Now()) {
		t.Errorf("open: %t, events %+v", pool.Open(0, time.Now()), events)
	}
}

func TestABodyOfAnotherLengthThanDeclaredIsNotTheTargetsFault(t *testing.T) {
	reads := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "fine")
	}
	for name, target := range map[string]upstream.Target{
		"over a connection": {URL: backend(t, reads)},
		"in this process":   {URL: "handler", Transport: upstream.Handler(http.HandlerFunc(reads))},
	} {
		for _, again := range []bool{false, true} {
			if again && target.Transport != nil {
				continue // a handler of our own gets what there is
			}
			for _, c := range []struct {
				sent     string
				declared int64
				fits     bool
			}{{"", 5, false}, {"half", 5, false}, {"whole", 5, true}, {"longer", 5, false}, {"any", -1, true}, {"none", 0, true}} {
				t.Run(fmt.Sprintf("%s, %q of %d, can be had again: %t", name, c.sent, c.declared, again), func(t *testing.T) {
					var events []upstream.Event
					pool := newPool(t, upstream.Options{
						Targets: []upstream.Target{target}, Breaker: upstream.Breaker{Failures: 1}, Retry: upstream.Retry{Post: true, Attempts: 3},
						Observe: func(e upstream.Event) { events = append(events, e) },
					})
					r := httptest.NewRequestWithContext(t.Context(), "PUT", "/", nil)
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(c.sent)), c.declared
					if again {
						r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(c.sent)), nil }
					}
					status, text, err := whole(pool, r, upstream.Call{})
					if len(events) != 1 || !pool.Open(0, time.Now()) {
						t.Errorf("open: %t, events %+v", pool.Open(0, time.Now()), events)
					}
					if c.fits && (status != 200 || text != "fine") {
						t.Errorf("%d %q %v", status, text, err)
					}
					// Of one that is too long the target may have answered what it got.
					if !c.fits && !(len(c.sent) > 5 && status == 200) &&
						(status != 400 || text != "The request's body is not as long as its Content-Length says." || events[0].Result != upstream.ResultRequest) {
						t.Errorf("%d %q %v, %+v", status, text, err, events)
					}
				})
			}
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestALongAnswerIsNotReadForARetry(t *testing.T) {
	for _, size := range []int{0, 64 << 10, 64<<10 + 1, 10 << 20} {
		var order asked
		pool := newPool(t, upstream.Options{Targets: []upstream.Target{
			order.handled("a", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(502)
				_, _ = w.Write(make([]byte, size))
			}), order.handled("b", says(200)),
		}})
		s := &seats{places: []int{1}}
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		if status, body, err := whole(pool, r, upstream.Call{Seat: s.at(0), Seats: s}); status != 200 || body != "says 200" {
			t.Errorf("%d bytes: %d %q %v", size, status, body, err)
		}
		s.check(t, 2)
		wholeBody := size <= 64<<10
		if got := s.events[0].Result; (got == upstream.ResultOK) != wholeBody {
			t.Errorf("%d bytes: the first exchange was %s", size, got)
		}
		none := &seats{err: errors.New("full")}
		status, body, _ := whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{Seat: none.at(0), Seats: none})
		if status != 502 || wholeBody != (len(body) == size) || !wholeBody && body != `Upstream "llm" answered 502, and no other target could be asked.` {
			t.Errorf("%d bytes, and no seat: %d and %d bytes", size, status, len(body))
		}
	}
}

func TestTheLoadOfATargetIsTheCostOfItsRequests(t *testing.T) {
	for _, balance := range []string{"least_busy", "two_choices"} {
		t.Run(balance, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				var order asked
				wait := func(http.ResponseWriter, *http.Request) { <-release }
				pool := newPool(t, upstream.Options{Balance: balance, Targets: []upstream.Target{order.handled("a", wait), order.handled("b", wait)}})
				var wg sync.WaitGroup
				send := func(cost float64) {
					wg.Go(func() {
						_, _, _ = whole(pool, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{Cost: cost})
					})
					synctest.Wait()
				}
				send(2.5)
				first := order.String()
				other := map[string]string{"a": "b", "b": "a"}[first]
				send(0) // 1
				send(0.5)
				send(0.9)
				if got := order.String(); got != first+strings.Repeat(other, 3) {
					t.Errorf("asked %s: want the three that cost little beside the one that costs much", got)
				}
				send(1e300)
				close(release)
				wg.Wait()
				if n := pool.InFlight(); n != 0 {
					t.Errorf("%d in flight", n)
				}
			})
		})
	}
}

func TestAWaiterForAConnectionLeavesWhenItIsCancelled(t *testing.T) {
	release, arrived := make(chan struct{}), make(chan struct{}, 8)
	target := backend(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release })
	s := &seats{}
	pool := newPool(t, upstream.Options{MaxConnections: 1, Targets: []upstream.Target{{URL: target}}})
	var wg sync.WaitGroup
	send := func(ctx context.Context) (err error) {
		_, _, err = whole(pool, httptest.NewRequestWithContext(ctx, "POST", "/", nil), upstream.Call{Seat: s.at(0)})
		return err
	}
	wg.Go(func() { _ = send(t.Context()) })
	<-arrived
	for range 100 { // none of them may keep a place in the line
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		begin := time.Now()
		if err := send(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 30*time.Second { // nobody answers it for a minute
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		cancel()
	}
	s.counts(t, 101, 100)
	close(release)
	wg.Wait()
	if err := send(t.Context()); err != nil {
		t.Errorf("the connection is free, and: %v", err)
	}
	s.check(t, 102)
}

func TestRetriesAndHedgesAreChecked(t *testing.T) {
	_, err := upstream.New(upstream.Options{
		Targets: []upstream.Target{{URL: "http://h"}},
		Retry:   upstream.Retry{Attempts: -1}, Hedge: upstream.Hedge{Quantile: 1},
	})
	for _, want := range []string{"upstream: retry: attempts: -1: want at least 1", "upstream: hedge: quantile: 1: want a part of the answers below 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
	for _, o := range []upstream.Options{{Retry: upstream.Retry{Budget: 1.5}}, {Hedge: upstream.Hedge{Budget: 2}}, {Hedge: upstream.Hedge{After: -1}}} {
		o.Targets = []upstream.Target{{URL: "http://h"}}
		if _, err := upstream.New(o); err == nil || !strings.HasPrefix(err.Error(), "upstream: ") {
			t.Errorf("%+v %+v: %v", o.Retry, o.Hedge, err)
		}
	}
}
