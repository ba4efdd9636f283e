package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

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
