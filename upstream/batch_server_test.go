package upstream_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
	"github.com/inferweir/weir/upstream"
)

// served is a rig whose model is behind a real listener.
func served(t *testing.T, o upstream.BatchOptions) *rig {
	m := &model{began: time.Now()}
	url := backend(t, m.ServeHTTP)
	x := newRig(t, o, upstream.Options{Targets: []upstream.Target{{URL: url}}})
	x.model = m
	return x
}

func TestBatchOverSockets(t *testing.T) {
	t.Run("32 who come together make one call, and each gets its own", func(t *testing.T) {
		x := served(t, upstream.BatchOptions{MaxItems: 32, MaxDelay: time.Minute})
		var all sync.WaitGroup
		barrier := make(chan struct{})
		for i := range 32 {
			all.Go(func() {
				item := strconv.Itoa(i)
				<-barrier
				if g := <-x.send(x.Context(), asks{items: []string{item}}); g.String() != predicts(item) {
					x.Errorf("%d got %s", i, g)
				}
			})
		}
		close(barrier)
		all.Wait()
		if calls := x.model.asked(); len(calls) != 1 {
			x.Errorf("%d calls: %q", len(calls), calls)
		}
	})
	t.Run("and one bad item among them fails alone", func(t *testing.T) {
		x := served(t, upstream.BatchOptions{MaxItems: 32, MaxDelay: time.Minute})
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() {
				item, want := strconv.Itoa(i), predicts(strconv.Itoa(i))
				if i == 17 {
					item, want = "bad", `422 {"error":"bad"}`
				}
				if g := <-x.send(x.Context(), asks{items: []string{item}}); g.String() != want {
					x.Errorf("%d got %s", i, g)
				}
			})
		}
		all.Wait()
		if n := len(x.model.asked()); n != 11 { // 1, and 2 for each time that 32 is halved
			x.Errorf("%d calls", n)
		}
	})
	t.Run("the model sees within 100ms, 19 of 20 times at least, that all have left", func(t *testing.T) {
		x := served(t, upstream.BatchOptions{MaxItems: 4, MaxDelay: time.Minute})
		came, saw, now := make(chan struct{}), make(chan time.Duration), storetest.Clock(x.T)
		x.model.serve = func(_ http.ResponseWriter, r *http.Request, _ []string) bool {
			came <- struct{}{}
			<-r.Context().Done()
			saw <- now()
			return true
		}
		var took []time.Duration
		for range 20 {
			ctx, leave := context.WithCancel(x.Context())
			var all []<-chan got
			for range 4 {
				all = append(all, x.send(ctx, asks{items: []string{"a"}}))
			}
			<-came
			left := now()
			leave()
			took = append(took, <-saw-left)
			for _, c := range all {
				if g := <-c; g.err == nil {
					x.Errorf("got %s", g)
				}
			}
		}
		atOnce(x.T, "saw it", took)
	})
}

// TestBatchCancelsLeakNothing has members leave at any moment, by the clock.
func TestBatchCancelsLeakNothing(t *testing.T) {
	x := newRig(t, upstream.BatchOptions{MaxItems: 8, MaxDelay: 100 * time.Microsecond}, upstream.Options{})
	x.desk.limit = 4
	x.model.took = func(int) time.Duration { return rand.N(200 * time.Microsecond) }
	var all sync.WaitGroup
	var answered, left atomic.Int64
	for i := range 32 {
		all.Go(func() {
			item := strconv.Itoa(i)
			for n := range 200 {
				patience := rand.N(time.Millisecond)
				if n%8 == 0 {
					patience = time.Minute // so that some are answered on a slow machine, too
				}
				ctx, leave := context.WithTimeout(x.Context(), patience)
				switch g := <-x.send(ctx, asks{items: []string{item}}); {
				case g.err != nil && ctx.Err() != nil:
					left.Add(1)
				case g.String() == predicts(item):
					answered.Add(1)
				default:
					x.Errorf("%d got %s", i, g)
				}
				leave()
			}
		})
	}
	all.Wait()
	if x.Logf("%d answered, %d left", answered.Load(), left.Load()); answered.Load() == 0 || left.Load() == 0 {
		x.Errorf("%d answered, %d left: want some of both", answered.Load(), left.Load())
	}
	for until := time.Now().Add(time.Minute); x.desk.inUse() > 0 && time.Now().Before(until); {
		runtime.Gosched() // what was left ends a moment later
	}
}

// BenchmarkBatch has 64 callers ask as fast as they are answered, at a server that
// does two calls at a time, each in 10ms and 1ms for an item.
func BenchmarkBatch(b *testing.B) {
	for _, most := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("up to %d items", most), func(b *testing.B) { benchmarkBatch(b, most) })
	}
}

func benchmarkBatch(b *testing.B, most int) {
	m := &model{took: line(10*time.Millisecond, time.Millisecond)}
	s := httptest.NewServer(m)
	defer s.Close()
	pool, err := upstream.New(upstream.Options{Name: "m", Targets: []upstream.Target{{URL: s.URL}}})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	d := newDesk(most)
	d.limit = 2
	x := &rig{desk: d, pool: pool, batcher: upstream.NewBatcher(upstream.BatchOptions{MaxItems: most, Pool: pool}, lists{})}
	defer x.batcher.Close()
	var all sync.WaitGroup
	var asked atomic.Int64
	var took atomic.Int64
	b.ResetTimer()
	for range 64 {
		all.Go(func() {
			for asked.Add(1) <= int64(b.N) {
				began := time.Now()
				if g := <-x.send(context.Background(), asks{items: []string{"a"}}); g.status != http.StatusOK {
					b.Errorf("got %s", g)
				}
				took.Add(int64(time.Since(began)))
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
	b.ReportMetric(float64(took.Load())/float64(b.N)/1e6, "ms/answer")
	b.ReportMetric(float64(b.N)/float64(len(m.asked())), "items/call")
}

// instant answers at once.
type instant struct{}

func (instant) RoundTrip(r *http.Request) (*http.Response, error) {
	_ = r.Body.Close()
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), ContentLength: 2}, nil
}

// raw is a Codec that costs nothing.
type raw struct{}

func (raw) Join([][]string) ([]byte, error) { return []byte("{}"), nil }

func (raw) Split(answer []byte, members [][]string) ([][]byte, error) {
	return slices.Repeat([][]byte{answer}, len(members)), nil
}

// BenchmarkBatchItself is what a member costs beside the call: the model answers at
// once and in this process.
func BenchmarkBatchItself(b *testing.B) {
	pool, err := upstream.New(upstream.Options{Name: "m", Targets: []upstream.Target{{URL: "m", Transport: instant{}}}})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	for _, most := range []int{1, 32} {
		b.Run(fmt.Sprintf("%d a call", most), func(b *testing.B) {
			x := &rig{desk: newDesk(most), pool: pool, batcher: upstream.NewBatcher(upstream.BatchOptions{MaxItems: most, Pool: pool}, raw{})}
			defer x.batcher.Close()
			b.ReportAllocs()
			var all sync.WaitGroup
			for range most {
				all.Go(func() {
					for range b.N / most {
						a := asks{items: []string{"a"}}
						resp, err := x.batcher.Do(context.Background(), x.member(&a))
						if err != nil {
							b.Error(err)
							return
						}
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				})
			}
			all.Wait()
		})
	}
}
