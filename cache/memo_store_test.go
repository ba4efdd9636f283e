package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

// counted is a function that counts its calls, gives their number, and can fail.
type counted struct {
	calls atomic.Int64
	err   atomic.Pointer[error]
	takes time.Duration
}

func (c *counted) f(ctx context.Context, key string) (string, error) {
	n := c.calls.Add(1)
	select {
	case <-time.After(c.takes):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err := c.err.Load(); err != nil {
		return "", *err
	}
	return fmt.Sprintf("%s %d", key, n), nil
}

func (c *counted) fail(err error) { c.err.Store(&err) }

// want calls f for "x".
func want(t *testing.T, f func(context.Context, string) (string, error), result string) {
	t.Helper()
	if got, err := f(t.Context(), "x"); got != result || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, result)
	}
}

// In memory and in a store a memoized function does the same.
func TestMemoEverywhere(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, o cache.MemoOptions)
	}{
		{"runs again when the TTL has passed", memoTTL},
		{"gives a stale result at once while one call refreshes it", memoRevalidate},
		{"gives the last good result when the function fails", memoIfError},
		{"a failing refresh keeps the stale result until its window ends", memoRefreshFails},
		{"forgets what was purged, and what was on its way then", memoPurge},
		{"its refreshes end with the context, and their owner can wait", memoOwner},
		{"runs 64 refreshes at most", memoRefreshBound},
		{"rests for a second after a failure that a stale result hides", memoRest},
		{"remembers 4,096 resting keys at most", memoRestBound},
	} {
		t.Run(c.name, func(t *testing.T) {
			for where, store := range map[string]func() cache.Store{
				"memory":  func() cache.Store { return nil },
				"a store": func() cache.Store { return memoryStore() },
			} {
				t.Run(where, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c.run(t, cache.MemoOptions{Store: store(), Name: "f", TTL: time.Minute, Observe: func(error) {}})
					})
				})
			}
		})
	}
}

func memoTTL(t *testing.T, o cache.MemoOptions) {
	var c counted
	f := cache.Memo(c.f, o)
	want(t, f, "x 1")
	time.Sleep(time.Minute - 1)
	want(t, f, "x 1")
	time.Sleep(time.Nanosecond)
	want(t, f, "x 2")
	if got, err := f(t.Context(), "y"); got != "y 3" || err != nil {
		t.Errorf("another key: %q, %v", got, err)
	}
	o.TTL = 0
	var forever counted
	o.Name = "forever"
	f = cache.Memo(forever.f, o)
	want(t, f, "x 1")
	time.Sleep(365 * 24 * time.Hour)
	want(t, f, "x 1")
}

func memoRevalidate(t *testing.T, o cache.MemoOptions) {
	c := counted{takes: time.Second}
	o.StaleWhileRevalidate = time.Minute
	f := cache.Memo(c.f, o)
	want(t, f, "x 1")
	time.Sleep(90 * time.Second)
	start := time.Now()
	for range 50 {
		want(t, f, "x 1")
	}
	if waited := time.Since(start); waited != 0 {
		t.Errorf("a stale result took %v", waited)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	want(t, f, "x 2")
	time.Sleep(2*time.Minute - 1)
	want(t, f, "x 2") // stale for the last time
	time.Sleep(3 * time.Minute)
	start = time.Now()
	want(t, f, "x 4")
	if waited := time.Since(start); waited != time.Second {
		t.Errorf("without a useful result: waited %v", waited)
	}
}

func memoIfError(t *testing.T, o cache.MemoOptions) {
	var c counted
	var observed []error
	o.StaleIfError = time.Hour
	o.Observe = func(err error) { observed = append(observed, err) }
	f := cache.Memo(c.f, o)
	want(t, f, "x 1")
	down := errors.New("model down")
	c.fail(down)
	time.Sleep(30 * time.Minute)
	want(t, f, "x 1")
	if len(observed) != 1 || !errors.Is(observed[0], down) {
		t.Errorf("observed %v", observed)
	}
	for range 100 { // it has failed within the last second
		want(t, f, "x 1")
	}
	if n := c.calls.Load(); n != 2 || len(observed) != 1 {
		t.Errorf("%d calls, observed %v: want f at rest", n, observed)
	}
	time.Sleep(31*time.Minute - 1)
	want(t, f, "x 1")
	time.Sleep(time.Nanosecond)
	if _, err := f(t.Context(), "x"); !errors.Is(err, down) {
		t.Errorf("behind the window: %v", err)
	}
	if _, err := f(t.Context(), "y"); !errors.Is(err, down) {
		t.Errorf("without a result: %v", err)
	}
	if n := c.calls.Load(); n != 5 {
		t.Errorf("%d calls", n)
	}
}

func memoRefreshFails(t *testing.T, o cache.MemoOptions) {
	var c counted
	var observed atomic.Int64
	o.StaleWhileRevalidate = time.Minute
	o.Observe = func(error) { observed.Add(1) }
	f := cache.Memo(c.f, o)
	want(t, f, "x 1")
	down := errors.New("model down")
	c.fail(down)
	time.Sleep(time.Minute)
	for i, pause := range []time.Duration{0, 0, time.Second - 1, 1, 0} {
		time.Sleep(pause)
		want(t, f, "x 1")
		synctest.Wait()
		tries := []int64{1, 1, 1, 2, 2}[i] // one a second, however many ask
		if observed.Load() != tries || c.calls.Load() != 1+tries {
			t.Errorf("ask %d: %d calls, %d errors observed: want %d refreshes", i, c.calls.Load(), observed.Load(), tries)
		}
	}
	time.Sleep(time.Second)
	c.err.Store(nil)
	want(t, f, "x 1")
	synctest.Wait()
	want(t, f, "x 4") // the refresh after the rest
	c.fail(down)
	time.Sleep(2 * time.Minute)
	if _, err := f(t.Context(), "x"); !errors.Is(err, down) {
		t.Errorf("behind the window: %v", err)
	}
}

func memoPurge(t *testing.T, o cache.MemoOptions) {
	c := counted{takes: time.Second}
	o.Tags, o.Purges = []string{"models"}, newPurges(t, cache.PurgeOptions{})
	o.StaleIfError = time.Hour
	f := cache.Memo(c.f, o)
	want(t, f, "x 1")
	purge(t, o.Purges, "tag:other")
	want(t, f, "x 1")
	purge(t, o.Purges, "tag:models")
	var wg sync.WaitGroup
	wg.Go(func() { want(t, f, "x 2") })
	synctest.Wait()
	purge(t, o.Purges, "tag:models")
	want(t, f, "x 3") // the running call is from before the purge
	wg.Wait()
	want(t, f, "x 3")
	purge(t, o.Purges, "all")
	down := errors.New("model down")
	c.fail(down)
	if _, err := f(t.Context(), "x"); !errors.Is(err, down) {
		t.Errorf("a purged result stood in for an error: %v", err)
	}
}

func memoOwner(t *testing.T, o cache.MemoOptions) {
	c := counted{takes: time.Second}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancelCause(t.Context())
	o.StaleWhileRevalidate, o.Context, o.Go = time.Minute, ctx, wg.Go
	f := cache.Memo(c.f, o)
	want(t, f, "x 1")
	c.takes = time.Hour
	time.Sleep(time.Minute)
	caller, leave := context.WithCancel(t.Context())
	if got, err := f(caller, "x"); got != "x 1" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	leave() // does not end the refresh
	time.Sleep(time.Second)
	synctest.Wait()
	if n := c.calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	start := time.Now()
	cancel(errors.New("closing"))
	wg.Wait()
	if waited := time.Since(start); waited != 0 {
		t.Errorf("the refresh ended after %v", waited)
	}
	want(t, f, "x 1")
	synctest.Wait()
	if n := c.calls.Load(); n != 2 {
		t.Errorf("%d calls: one began when the owner had ended", n)
	}
}

func memoRefreshBound(t *testing.T, o cache.MemoOptions) {
	c := counted{}
	o.StaleWhileRevalidate = time.Minute
	f := cache.Memo(c.f, o)
	for round, wantCalls := range []int64{100, 164, 164} {
		for i := range 100 {
			if _, err := f(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := c.calls.Load(); n != wantCalls {
			t.Errorf("round %d: %d calls, want %d", round, n, wantCalls)
		}
		c.takes = 10 * time.Second
		if round == 0 {
			time.Sleep(time.Minute)
		}
	}
	time.Sleep(11 * time.Second)
}

func memoRest(t *testing.T, o cache.MemoOptions) {
	var calls atomic.Int64
	var down atomic.Bool
	o.StaleWhileRevalidate, o.StaleIfError = time.Minute, time.Hour
	f := cache.Memo(func(_ context.Context, key string) (string, error) {
		calls.Add(1)
		if down.Load() {
			panic("down")
		}
		return key + " 1", nil
	}, o)
	asks := func(key string, times int, want int64) {
		t.Helper()
		before := calls.Load()
		for range times {
			if got, err := f(t.Context(), key); got != key+" 1" || err != nil {
				t.Errorf("%s: %q, %v", key, got, err)
			}
			synctest.Wait()
		}
		if n := calls.Load() - before; n != want {
			t.Errorf("%s: %d calls, want %d", key, n, want)
		}
	}
	asks("x", 1, 1)
	asks("y", 1, 1)
	down.Store(true)
	time.Sleep(time.Minute)
	asks("x", 800, 1)
	asks("y", 800, 1) // another key
	time.Sleep(time.Minute)
	asks("x", 800, 1) // no refresh: callers wait for the call
	for range 3 {
		if _, err := f(t.Context(), "z"); err == nil {
			t.Error("no error without a result")
		}
	}
	if n := calls.Load(); n != 8 {
		t.Errorf("%d calls, want 8: there is nothing to give for z, so that it is tried", n)
	}
	time.Sleep(time.Second)
	down.Store(false)
	asks("x", 800, 1)
}

func memoRestBound(t *testing.T, o cache.MemoOptions) {
	const keys, remembered = 4200, 4096
	var c counted
	o.StaleWhileRevalidate, o.MaxEntries = time.Hour, keys
	f := cache.Memo(c.f, o)
	asks := func(n int) int64 {
		before := c.calls.Load()
		for i := range n {
			if _, err := f(t.Context(), fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		return c.calls.Load() - before
	}
	asks(keys)
	c.fail(errors.New("down"))
	time.Sleep(time.Minute)
	if n := asks(remembered); n != remembered {
		t.Errorf("%d refreshes of %d keys", n, remembered)
	}
	if n := asks(remembered); n != 0 {
		t.Errorf("%d refreshes of keys that all rest", n)
	}
	if n := asks(keys); n < keys-remembered {
		t.Errorf("%d refreshes, want %d at least: %d keys are remembered", n, keys-remembered, remembered)
	}
	if n := asks(keys); n < keys-remembered {
		t.Errorf("%d refreshes of %d keys, want those that were forgotten", n, keys)
	}
}

type point struct {
	X, Y int
	Name string `json:"name,omitempty"`
}

func TestMemoInAStore(t *testing.T) {
	type hidden struct{ n int }
	type stored struct {
		Values map[string]float64
		Points []point
		note   string
	}
	t.Run("every caller gets what the store gives back, and another process too", func(t *testing.T) {
		s, calls := memoryStore(), 0
		f := func(_ context.Context, p point) (stored, error) {
			calls++
			return stored{Values: map[string]float64{"x": float64(p.X)}, Points: []point{p}, note: "not in JSON"}, nil
		}
		want := stored{Values: map[string]float64{"x": 1}, Points: []point{{1, 2, "a"}}}
		for range 2 { // two processes
			f := cache.Memo(f, cache.MemoOptions{Store: s, Name: "f", TTL: time.Hour})
			for range 2 {
				got, err := f(t.Context(), point{1, 2, "a"})
				if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) || err != nil {
					t.Errorf("got %+v, %v, want %+v", got, err, want)
				}
			}
		}
		if calls != 1 || s.Stats().Entries != 1 {
			t.Errorf("%d calls, %+v", calls, s.Stats())
		}
	})
	t.Run("names and keys are apart", func(t *testing.T) {
		s := memoryStore()
		remember := func(name string) func(context.Context, point) (string, error) {
			return cache.Memo(func(_ context.Context, p point) (string, error) { return fmt.Sprint(name, p), nil },
				cache.MemoOptions{Store: s, Name: name, TTL: time.Hour})
		}
		n := 0
		for _, name := range []string{"f", "f1", "g"} {
			for _, p := range []point{{1, 23, ""}, {12, 3, ""}, {1, 2, "3"}, {9007199254740992, 0, ""}, {9007199254740993, 0, ""}} {
				n++
				for range 2 {
					if got, err := remember(name)(t.Context(), p); got != fmt.Sprint(name, p) || err != nil {
						t.Errorf("%s of %v: %q, %v", name, p, got, err)
					}
				}
			}
		}
		if got := s.Stats().Entries; got != n {
			t.Errorf("%d entries for %d keys", got, n)
		}
	})
	t.Run("refuses keys that their JSON does not tell apart, before it runs", func(t *testing.T) {
		o := cache.MemoOptions{Store: memoryStore(), Name: "f", TTL: time.Hour}
		wantMisfit(t, o, hidden{1}, "cache: a key of f, a cache_test.hidden, cannot name a result in a store: its JSON {} gives back another key")
		wantMisfit(t, o, &point{}, "cache: a key of f, a *cache_test.point, cannot name")
		wantMisfit(t, o, "\xff", "cache: a key of f, a string, cannot name")
		wantMisfit(t, o, make(chan int), "cache: a key of f, a chan int, cannot name a result in a store: json: unsupported type: chan int")
		wantMisfit(t, o, any(1), "cache: a key of f, a int, cannot name")
		wantMisfit(t, o, math.Inf(1), "cache: a key of f, a float64, cannot name a result in a store: json: unsupported value: +Inf")
	})
	t.Run("says which result has no JSON", func(t *testing.T) {
		f := cache.Memo(func(context.Context, int) (func(), error) { return func() {}, nil }, cache.MemoOptions{Store: memoryStore(), Name: "f"})
		_, err := f(t.Context(), 1)
		if err == nil || err.Error() != "cache: a result of f, a func(), has no JSON that gives it back: json: unsupported type: func()" {
			t.Errorf("got %v", err)
		}
		g := cache.Memo(func(context.Context, int) (fmt.Stringer, error) { return time.Second, nil }, cache.MemoOptions{Store: memoryStore(), Name: "g"})
		if _, err := g(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "a result of g, a time.Duration, has no JSON") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("wants a name", func(t *testing.T) {
		f := cache.Memo(func(context.Context, int) (int, error) { return 1, nil }, cache.MemoOptions{Store: memoryStore()})
		if _, err := f(t.Context(), 1); err == nil || err.Error() != `cache: MemoOptions.Name: "": want a name with a Store, for example "embed-v1"` {
			t.Errorf("got %v", err)
		}
	})
	t.Run("runs where the stored result is of another type, and replaces it", func(t *testing.T) {
		o := cache.MemoOptions{Store: memoryStore(), Name: "f", TTL: time.Hour}
		if _, err := cache.Memo(func(context.Context, int) (string, error) { return "text", nil }, o)(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		calls := 0
		f := cache.Memo(func(context.Context, int) (int, error) { calls++; return 7, nil }, o)
		for range 2 {
			if got, err := f(t.Context(), 1); got != 7 || err != nil {
				t.Errorf("%d, %v", got, err)
			}
		}
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
	t.Run("runs without a store that fails, and tells", func(t *testing.T) {
		away := errors.New("away")
		var observed []error
		f := cache.Memo(func(context.Context, int) (int, error) { return 7, nil },
			cache.MemoOptions{Store: brokenStore{away}, Name: "f", Observe: func(err error) { observed = append(observed, err) }})
		if got, err := f(t.Context(), 1); got != 7 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
		if len(observed) != 3 { // looked twice, kept once
			t.Fatalf("observed %v", observed)
		}
		for i, want := range []string{"looking for a result of f: away", "looking for a result of f: away", "keeping a result of f: away"} {
			if got := observed[i].Error(); got != "cache: "+want || !errors.Is(observed[i], away) {
				t.Errorf("observed %q, want %q", got, want)
			}
		}
	})
}

// wantMisfit calls a function with a key that no store can hold.
func wantMisfit[K comparable](t *testing.T, o cache.MemoOptions, key K, want string) {
	t.Helper()
	f := cache.Memo(func(context.Context, K) (int, error) { t.Errorf("ran for %v", key); return 0, nil }, o)
	if _, err := f(t.Context(), key); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v\nwant %s…", err, want)
	}
}

func BenchmarkMemoHit(b *testing.B) {
	for name, store := range map[string]cache.Store{"memory": nil, "store": memoryStore()} {
		b.Run(name, func(b *testing.B) {
			f := cache.Memo(func(_ context.Context, p point) (point, error) { return p, nil }, cache.MemoOptions{Store: store, Name: "f"})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f(b.Context(), point{1, 2, "name"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
