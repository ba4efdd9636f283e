package admission_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/admission"
)

func BenchmarkPool(b *testing.B) {
	b.Run("a free worker", func(b *testing.B) {
		p, err := admission.NewPool(admission.PoolOptions{Workers: 1})
		if err != nil {
			b.Fatal(err)
		}
		ctx := as(b.Context(), "a")
		b.ReportAllocs()
		for b.Loop() {
			if err := p.Do(ctx, func(context.Context) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a refusal at a full queue of 10,000 callers", func(b *testing.B) {
		p, err := admission.NewPool(admission.PoolOptions{Workers: 1, Queue: 10_000, MaxWait: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		release := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 10_001 {
			wg.Go(func() {
				_ = p.Do(as(b.Context(), fmt.Sprint(i)), func(context.Context) error { <-release; return nil })
			})
		}
		for p.Stats().Waiting < 10_000 {
			<-time.After(time.Millisecond)
		}
		ctx := as(b.Context(), "a")
		b.ReportAllocs()
		for b.Loop() {
			if err := p.Do(ctx, func(context.Context) error { return nil }); err == nil {
				b.Fatal("not refused")
			}
		}
		b.StopTimer()
		close(release)
		wg.Wait()
	})
}

// burn keeps a CPU busy for about 40 ms.
func burn() (sum uint64) {
	for i := range uint64(40_000_000) {
		sum = sum*6364136223846793005 + i
	}
	return sum
}

// BenchmarkIOBesideHeavyWork is how long a request takes that needs only a moment,
// at a server of which 64 others want what burns the CPU all the time.
func BenchmarkIOBesideHeavyWork(b *testing.B) {
	heavy := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, burn())
	})
	for _, with := range []bool{false, true} {
		name := "without a pool"
		if with {
			name = "with a pool"
		}
		b.Run(name, func(b *testing.B) {
			p, err := admission.NewPool(admission.PoolOptions{MaxWait: time.Minute})
			if err != nil {
				b.Fatal(err)
			}
			mux := http.NewServeMux()
			if with {
				mux.Handle("/heavy", p.Middleware()(heavy))
			} else {
				mux.Handle("/heavy", heavy)
			}
			mux.HandleFunc("/light", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
			measureLight(b, mux)
		})
	}
}

// measureLight reports the quantiles of /light while 64 clients ask for /heavy.
func measureLight(b *testing.B, h http.Handler) {
	const clients = 64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients + 1}}
	get := func(ctx context.Context, path string) error {
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+listener.Addr().String()+path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return err
	}
	ctx, stop := context.WithCancel(b.Context())
	var mu sync.Mutex
	done, began := 0, time.Now()
	for range clients {
		wg.Go(func() {
			for get(ctx, "/heavy") == nil {
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	var took []float64
	for b.Loop() {
		start := time.Now()
		if err := get(ctx, "/light"); err != nil {
			b.Fatal(err)
		}
		took = append(took, float64(time.Since(start))/float64(time.Millisecond))
	}
	mu.Lock()
	b.ReportMetric(float64(done)/time.Since(began).Seconds(), "heavy/s")
	mu.Unlock()
	stop()
	_ = server.Close()
	client.CloseIdleConnections()
	wg.Wait()
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2], "p50-ms")
	b.ReportMetric(took[(len(took)-1)*99/100], "p99-ms")
	b.ReportMetric(0, "ns/op")
}
