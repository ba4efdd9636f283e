package upstream_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/upstream"
)

// endless is a target whose answer never ends by itself: Read waits until the
// exchange is cancelled, and calls ended before it says so.
type endless struct{ ended func() }

func (e endless) RoundTrip(r *http.Request) (*http.Response, error) {
	body := waits{ctx: r.Context(), ended: e.ended}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body, Request: r}, nil
}

type waits struct {
	ctx   context.Context
	ended func()
}

func (w waits) Read([]byte) (int, error) {
	<-w.ctx.Done()
	w.ended()
	return 0, w.ctx.Err()
}

func (w waits) Close() error { return nil }

// A client whose connection ends because its answer was cut off at the total is not
// why it was cut off.
func TestWhoLeavesAfterTheTotalIsNotItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		var mu sync.Mutex
		var events []upstream.Event
		p := newPool(t, upstream.Options{
			Targets:  []upstream.Target{{URL: "a", Transport: endless{ended: leave}}},
			Timeouts: upstream.Timeouts{Total: time.Second},
			Observe: func(e upstream.Event) {
				mu.Lock()
				defer mu.Unlock()
				leave() // before anything is said of the end
				events = append(events, e)
			},
		})
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		resp, err := p.Do(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(resp.Body)
		if problem, ok := errors.AsType[*weir.Problem](err); !ok || problem.Status != http.StatusGatewayTimeout {
			t.Errorf("the read ended with %v, not with the total", err)
		}
		_ = resp.Body.Close()
		mu.Lock()
		defer mu.Unlock()
		if len(events) != 1 || events[0].Result != upstream.ResultTimeout {
			t.Errorf("events %+v", events)
		}
	})
}

// deadlines is a writer that keeps its first deadline.
type deadlines struct {
	*httptest.ResponseRecorder
	first time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	if d.first.IsZero() {
		d.first = t
	}
	return nil
}

// Where both ended at once, a client's connection would break before the answer
// could say that its time is over.
func TestAClientsConnectionOutlastsTheTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, upstream.Options{
			Targets:  []upstream.Target{{URL: "a", Transport: endless{ended: func() {}}}},
			Timeouts: upstream.Timeouts{Total: time.Second},
		})
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		total := time.Now().Add(time.Second)
		defer func() {
			if recover() == nil || !time.Now().Equal(total) {
				t.Errorf("the answer ended %v after its total, or whole", time.Since(total))
			}
			if !w.first.After(total) || w.first.After(total.Add(time.Minute)) {
				t.Errorf("the client's connection ends %v after the total", w.first.Sub(total))
			}
		}()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	})
}
