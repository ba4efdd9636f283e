package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

func TestMemo(t *testing.T) {
	t.Run("runs once for callers that overlap and for those after", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int64
			square := cache.Memo(func(_ context.Context, n int) (int, error) {
				calls.Add(1)
				time.Sleep(time.Second)
				return n * n, nil
			}, cache.MemoOptions{TTL: time.Minute})
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					if got, err := square(t.Context(), 7); got != 49 || err != nil {
						t.Errorf("%d, %v", got, err)
					}
				})
			}
			wg.Wait()
			if n := calls.Load(); n != 1 {
				t.Errorf("%d calls for 1,000 overlapping callers", n)
			}
			time.Sleep(59*time.Second - 1)
			_, _ = square(t.Context(), 7)
			if n := calls.Load(); n != 1 {
				t.Errorf("%d calls within the TTL", n)
			}
			time.Sleep(time.Minute)
			_, _ = square(t.Context(), 7)
			_, _ = square(t.Context(), 8)
			if n := calls.Load(); n != 3 {
				t.Errorf("%d calls, want 3 after the TTL and for another key", n)
			}
		})
	})
	t.Run("keeps at most MaxEntries, those used last", func(t *testing.T) {
		calls := map[int]int{}
		f := cache.Memo(func(_ context.Context, n int) (int, error) { calls[n]++; return n, nil }, cache.MemoOptions{MaxEntries: 2})
		for _, n := range []int{1, 2, 1, 3, 1, 2} { // 3 displaces 2, not 1
			if _, err := f(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(calls); got != "map[1:1 2:2 3:1]" {
			t.Errorf("calls %s", got)
		}
	})
	t.Run("shares an error and does not keep it", func(t *testing.T) {
		failed, calls := errors.New("no"), 0
		f := cache.Memo(func(context.Context, string) (int, error) { calls++; return 0, failed }, cache.MemoOptions{})
		for range 2 {
			if _, err := f(t.Context(), "x"); !errors.Is(err, failed) {
				t.Errorf("got %v", err)
			}
		}
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
	})
	t.Run("gives every caller an error when f panics or exits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := cache.Memo(func(_ context.Context, how string) (int, error) {
				time.Sleep(time.Second)
				if how == "exit" {
					runtime.Goexit()
				}
				panic("boom")
			}, cache.MemoOptions{})
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if _, err := f(t.Context(), "panic"); err == nil || !strings.Contains(err.Error(), "panicked: boom") {
						t.Errorf("got %v", err)
					}
				})
				wg.Go(func() {
					if _, err := f(t.Context(), "exit"); err == nil {
						t.Error("no error after Goexit")
					}
				})
			}
			wg.Wait()
		})
	})
	t.Run("cancels f when the last caller has given up, not the first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var ended atomic.Int64
			start := time.Now()
			f := cache.Memo(func(ctx context.Context, _ string) (int, error) {
				<-ctx.Done()
				ended.Store(int64(time.Since(start)))
				return 0, ctx.Err()
			}, cache.MemoOptions{})
			var wg sync.WaitGroup
			for _, patience := range []time.Duration{time.Second, 3 * time.Second, 2 * time.Second} {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if _, err := f(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v", err)
					}
					if waited := time.Since(start); waited != patience {
						t.Errorf("a caller with a patience of %v waited %v", patience, waited)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			if got := time.Duration(ended.Load()); got != 3*time.Second {
				t.Errorf("f was cancelled after %v", got)
			}
		})
	})
	t.Run("does not remember a key that is not equal to itself", func(t *testing.T) {
		calls := 0
		f := cache.Memo(func(_ context.Context, x float64) (float64, error) { calls++; return x, nil }, cache.MemoOptions{MaxEntries: 1})
		for range 5 {
			if _, err := f(t.Context(), math.NaN()); err != nil {
				t.Fatal(err)
			}
		}
		if calls != 5 {
			t.Errorf("%d calls", calls)
		}
	})
}
