package admission_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
)

func poolOf(t *testing.T, o admission.PoolOptions) *admission.Pool {
	t.Helper()
	p, err := admission.NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func as(ctx context.Context, caller string) context.Context {
	return weir.WithCaller(ctx, weir.Caller{ID: caller})
}

// heavy is a piece of work that takes a while, in the time of its test.
func heavy(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

// stats are those of p once all that can go on has.
func stats(p *admission.Pool) admission.PoolStats {
	synctest.Wait()
	return p.Stats()
}

func TestPoolRunsNoMoreThanItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, admission.PoolOptions{Workers: 3, Queue: 100})
		start := time.Now()
		var now, most atomic.Int64
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				err := p.Do(as(t.Context(), fmt.Sprint(i%7)), func(context.Context) error {
					n := now.Add(1)
					defer now.Add(-1)
					for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
					}
					time.Sleep(time.Second)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		want := admission.PoolStats{Workers: 3, Running: 3, Waiting: 27, Callers: 7}
		if got := stats(p); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		wg.Wait()
		if took := time.Since(start); most.Load() != 3 || took != 10*time.Second {
			t.Errorf("%d at once, done after %v, want 3 and 10s", most.Load(), took)
		}
		if got, want := p.Stats(), (admission.PoolStats{Workers: 3, Service: time.Second}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

func TestPoolIsFairBetweenCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, admission.PoolOptions{Workers: 1})
		var order []string
		var wg sync.WaitGroup
		for _, name := range strings.Fields("a1 a2 a3 a4 a5 b1 b2 c1") {
			wg.Go(func() {
				_ = p.Do(as(t.Context(), name[:1]), func(context.Context) error {
					order = append(order, name)
					time.Sleep(time.Second)
					return nil
				})
			})
			synctest.Wait() // so that they come in this order
		}
		wg.Wait()
		if got := strings.Join(order, " "); got != "a1 a2 b1 c1 a3 b2 a4 a5" {
			t.Error(got)
		}
	})
}

func TestPoolDropsTheNewestOfTheLongestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, admission.PoolOptions{Workers: 1, Queue: 4})
		var mu sync.Mutex
		var ran, refused []string
		var wg sync.WaitGroup
		for _, name := range strings.Fields("x0 a1 a2 a3 a4 b1 a5 b2 c1 d1 e1") {
			wg.Go(func() {
				err := p.Do(as(t.Context(), name[:1]), heavy(time.Second))
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, admission.ErrPoolFull) {
					refused = append(refused, name)
				} else {
					ran = append(ran, name)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		// b1 takes the place of a4, b2 that of a3, c1 that of b2 or a2: both have two,
		// and d1 that of the other. Then nobody has more than one.
		slices.Sort(refused)
		if got := strings.Join(refused, " "); got != "a2 a3 a4 a5 b2 e1" {
			t.Errorf("refused %s", got)
		}
		if got := strings.Join(ran, " "); got != "x0 a1 b1 c1 d1" {
			t.Errorf("ran %s", got)
		}
	})
}

func TestPoolRefusals(t *testing.T) {
	// refusal fills a pool of two workers, whose work takes two seconds, and is what
	// the next one gets.
	refusal := func(t *testing.T, o admission.PoolOptions, waiting int) (*weir.Problem, time.Duration) {
		t.Helper()
		o.Workers = 2
		p := poolOf(t, o)
		_ = p.Do(t.Context(), heavy(2*time.Second))
		for range 2 + waiting {
			go func() { _ = p.Do(t.Context(), heavy(2*time.Second)) }()
		}
		synctest.Wait()
		asked := time.Now()
		err := p.Do(t.Context(), func(context.Context) error { t.Error("ran"); return nil })
		took := time.Since(asked)
		problem, ok := errors.AsType[*weir.Problem](err)
		if !ok || !errors.Is(err, admission.ErrPoolFull) {
			t.Fatalf("%v, want a problem", err)
		}
		p.Close()
		synctest.Wait()
		return problem, took
	}
	want := weir.Problem{Status: 503, Type: weir.TypeReducedCapacity, Err: admission.ErrPoolFull}
	check := func(t *testing.T, got *weir.Problem, detail string, retry time.Duration) {
		t.Helper()
		if got.Status != want.Status || got.Type != want.Type || got.Detail != detail || got.RetryAfter != retry || got.Err != want.Err {
			t.Errorf("%+v\nwant %q, back in %v", got, detail, retry)
		}
	}
	const full = "All workers are busy, and too much waits for them already."
	t.Run("at once where the queue is full, until what waits and one more was begun", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			got, took := refusal(t, admission.PoolOptions{Queue: 3}, 3)
			check(t, got, full, 4*time.Second)
			if took != 0 {
				t.Errorf("after %v", took)
			}
		})
	})
	t.Run("at once without a queue, until one of the workers may be free", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			got, took := refusal(t, admission.PoolOptions{Queue: -1}, 0)
			check(t, got, full, time.Second)
			if took != 0 {
				t.Errorf("after %v", took)
			}
		})
	})
	t.Run("after the longest wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			got, took := refusal(t, admission.PoolOptions{MaxWait: 1500 * time.Millisecond}, 0)
			check(t, got, "No worker was free for 1.5s.", time.Second)
			if took != 1500*time.Millisecond {
				t.Errorf("after %v", took)
			}
		})
	})
	t.Run("with a second for a worker before anything has ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := poolOf(t, admission.PoolOptions{Workers: 1, Queue: -1})
			go func() { _ = p.Do(t.Context(), heavy(time.Minute)) }()
			synctest.Wait()
			problem, _ := errors.AsType[*weir.Problem](p.Do(t.Context(), heavy(0)))
			check(t, problem, full, time.Second)
			p.Close()
		})
	})
}

func TestPoolForgetsAtOnceWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, admission.PoolOptions{Workers: 1})
		go func() { _ = p.Do(t.Context(), heavy(time.Second)) }()
		synctest.Wait()
		ctx, leave := context.WithCancel(as(t.Context(), "a"))
		left := make(chan error, 3)
		for range 3 {
			go func() { left <- p.Do(ctx, func(context.Context) error { t.Error("ran"); return nil }) }()
		}
		if got := stats(p); got.Waiting != 3 || got.Callers != 1 {
			t.Fatalf("%+v, want 3 waiting", got)
		}
		asked := time.Now()
		leave()
		for range 3 {
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if got := stats(p); got.Waiting != 0 || got.Callers != 0 || got.Running != 1 || time.Since(asked) != 0 {
			t.Errorf("%+v after %v, want none waiting at once", got, time.Since(asked))
		}
		if err := p.Do(ctx, func(context.Context) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("asked after leaving: %v", err)
		}
		late, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := p.Do(late, heavy(0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("out of time: %v", err)
		}
		if err := p.Do(t.Context(), heavy(0)); err != nil {
			t.Error(err)
		}
	})
}

func TestPoolReturnsWhatTheWorkReturns(t *testing.T) {
	p := poolOf(t, admission.PoolOptions{Workers: 1})
	failed := errors.New("failed")
	if err := p.Do(t.Context(), func(context.Context) error { return failed }); err != failed {
		t.Error(err)
	}
	type key struct{}
	got, err := admission.Run(context.WithValue(t.Context(), key{}, 17), p, func(ctx context.Context) (int, error) {
		return ctx.Value(key{}).(int), failed
	})
	if got != 17 || err != failed {
		t.Errorf("%d, %v", got, err)
	}
	if got := p.Stats(); got.Running != 0 {
		t.Errorf("%+v", got)
	}
}

func TestPoolWorkThatPanicsOrExits(t *testing.T) {
	p := poolOf(t, admission.PoolOptions{Workers: 1, Queue: -1})
	for _, value := range []any{"oops", http.ErrAbortHandler} {
		func() {
			defer func() {
				if got := recover(); got != value {
					t.Errorf("panicked with %v, want %v", got, value)
				}
			}()
			_, _ = admission.Run(t.Context(), p, func(context.Context) (int, error) { panic(value) })
		}()
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.Do(t.Context(), func(context.Context) error { runtime.Goexit(); return nil }) })
	wg.Wait()
	if err := p.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Errorf("the worker is gone: %v", err)
	}
}

func TestPoolWorkWithinWorkTakesNoSecondWorker(t *testing.T) {
	p, other := poolOf(t, admission.PoolOptions{Workers: 1, Queue: -1}), poolOf(t, admission.PoolOptions{Workers: 1, Queue: -1})
	err := p.Do(t.Context(), func(ctx context.Context) error {
		return other.Do(ctx, func(ctx context.Context) error {
			return p.Do(ctx, func(context.Context) error {
				if p.Stats().Running != 1 || other.Stats().Running != 1 {
					t.Errorf("%+v, %+v, want one worker of each", p.Stats(), other.Stats())
				}
				return nil
			})
		})
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPoolClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, admission.PoolOptions{Workers: 1})
		result := make(chan error, 2)
		go func() { result <- p.Do(t.Context(), heavy(3*time.Second)) }()
		synctest.Wait()
		go func() { result <- p.Do(t.Context(), heavy(0)) }()
		synctest.Wait()
		began := time.Now()
		go p.Close()
		if err := <-result; !errors.Is(err, admission.ErrPoolClosed) || time.Since(began) != 0 {
			t.Errorf("what waits gets %v after %v", err, time.Since(began))
		}
		if err := p.Do(t.Context(), heavy(0)); !errors.Is(err, admission.ErrPoolClosed) {
			t.Errorf("what comes later gets %v", err)
		}
		p.Close()
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("closed after %v, want 3s", took)
		}
		if err := <-result; err != nil {
			t.Errorf("what runs gets %v", err)
		}
	})
	t.Run("returns at once where nothing runs, however often", func(*testing.T) {
		p := poolOf(t, admission.PoolOptions{})
		p.Close()
		p.Close()
	})
}

func TestPoolTellsWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []admission.PoolEvent
		p := poolOf(t, admission.PoolOptions{Workers: 1, Queue: 2, Observe: func(e admission.PoolEvent) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		}})
		ask := func(ctx context.Context) {
			go func() { _ = p.Do(ctx, heavy(time.Second)) }()
			synctest.Wait()
		}
		short, cancel := context.WithTimeout(as(t.Context(), "c"), 300*time.Millisecond)
		defer cancel()
		ask(as(t.Context(), "a"))
		ask(as(t.Context(), "b"))
		ask(short)
		ask(as(t.Context(), "b"))
		time.Sleep(1200 * time.Millisecond)
		ask(t.Context())
		p.Close()
		synctest.Wait()
		want := []admission.PoolEvent{
			{Caller: "b", Result: "full"},
			{Caller: "c", Result: "left", Waited: 300 * time.Millisecond},
			{Caller: "a", Result: "done", Ran: time.Second},
			{Result: "closed"},
			{Caller: "b", Result: "done", Waited: time.Second, Ran: time.Second},
		}
		if !slices.Equal(events, want) {
			t.Errorf("%+v\nwant %+v", events, want)
		}
	})
}

func TestPoolMiddleware(t *testing.T) {
	p := poolOf(t, admission.PoolOptions{Workers: 1, Queue: -1, MaxWait: time.Minute})
	working, finish := make(chan struct{}), make(chan struct{})
	h := p.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/panics":
			panic("oops")
		case "/works":
			close(working)
			<-finish
		}
		_, _ = io.WriteString(w, "done")
	}))
	get := func(ctx context.Context, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", path, nil))
		return w
	}
	panics := func(f func()) (value any) {
		defer func() { value = recover() }()
		f()
		return nil
	}
	if got := panics(func() { get(t.Context(), "/panics") }); got != "oops" {
		t.Errorf("a handler's panic came out as %v", got)
	}
	var wg sync.WaitGroup
	var first *httptest.ResponseRecorder
	wg.Go(func() { first = get(t.Context(), "/works") })
	<-working
	refused := get(t.Context(), "/")
	wantBody := `{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Service Unavailable","status":503,` +
		`"detail":"All workers are busy, and too much waits for them already.","retry_after":1}` + "\n"
	if refused.Code != 503 || refused.Header().Get("Retry-After") != "1" || refused.Body.String() != wantBody {
		t.Errorf("%d %v %s", refused.Code, refused.Header(), refused.Body)
	}
	over, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if got := get(over, "/"); got.Code != 504 {
		t.Errorf("out of time: %d, want 504", got.Code)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if got := panics(func() { get(gone, "/") }); got != http.ErrAbortHandler {
		t.Errorf("a client that left: %v, want http.ErrAbortHandler", got)
	}
	close(finish)
	wg.Wait()
	if first.Code != 200 || first.Body.String() != "done" {
		t.Errorf("%d %s", first.Code, first.Body)
	}
}

func TestNewPool(t *testing.T) {
	for _, tt := range []struct {
		o    admission.PoolOptions
		want string
	}{
		{admission.PoolOptions{Workers: -1}, "admission: pool: workers: -1: want at least 1, or 0 for one less than the CPUs"},
		{admission.PoolOptions{MaxWait: -time.Second}, "admission: pool: max wait: -1s: want a positive duration, or 0 for 10s"},
	} {
		if _, err := admission.NewPool(tt.o); err == nil || err.Error() != tt.want {
			t.Errorf("%+v: %v\nwant %s", tt.o, err, tt.want)
		}
	}
	if got, want := poolOf(t, admission.PoolOptions{}).Stats().Workers, max(1, runtime.GOMAXPROCS(0)-1); got != want {
		t.Errorf("%d workers, want %d", got, want)
	}
}

func TestPoolLeaksNoWorkerWhateverHappens(t *testing.T) {
	p := poolOf(t, admission.PoolOptions{Workers: 3, Queue: 20, MaxWait: time.Millisecond})
	var running atomic.Int64
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(g)))
			for range 200 {
				ctx, cancel := context.WithTimeout(as(t.Context(), fmt.Sprint(g%9)), time.Duration(random.IntN(400))*time.Microsecond)
				_ = p.Do(ctx, func(ctx context.Context) error {
					if n := running.Add(1); n > 3 {
						t.Errorf("%d at once", n)
					}
					defer running.Add(-1)
					if random.IntN(2) == 0 {
						runtime.Gosched()
					} else {
						<-ctx.Done()
					}
					return nil
				})
				cancel()
			}
		})
	}
	wg.Wait()
	got := p.Stats()
	got.Service = 0
	if want := (admission.PoolStats{Workers: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	p.Close()
}

func ExamplePool_Middleware() {
	pool, err := admission.NewPool(admission.PoolOptions{}) // one worker less than there are CPUs
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	mux := http.NewServeMux()
	mux.Handle("POST /thumbnail", pool.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		picture, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(bytes.ToUpper(picture)) // what takes long
	})))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok") // needs no worker, and is quick however many thumbnails are wanted
	})
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest("POST", "/thumbnail", strings.NewReader("picture")))
	fmt.Println(w.Code, w.Body)
	// Output: 200 PICTURE
}

func ExampleRun() {
	pool, err := admission.NewPool(admission.PoolOptions{Workers: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	ctx := weir.WithCaller(context.Background(), weir.Caller{ID: "key:alice"})
	n, err := admission.Run(ctx, pool, func(context.Context) (int, error) {
		return len(strings.Fields("what takes long")), nil
	})
	fmt.Println(n, err)
	// Output: 3 <nil>
}
