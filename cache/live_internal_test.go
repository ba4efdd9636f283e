package cache

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// liveRun is a running answer that is longer than what is kept of one, in virtual
// time.
type liveRun struct {
	live *live
	wg   sync.WaitGroup
}

const (
	liveLimit = 8 << 10
	liveTotal = 64 << 10
)

func newLiveRun() *liveRun { return &liveRun{live: newLive(&Entry{Status: http.StatusOK}, liveLimit)} }

// write sends the whole answer as fast as it may, and tells how long that took.
func (r *liveRun) write() time.Duration {
	began, part := time.Now(), []byte(strings.Repeat("x", 512))
	for range liveTotal / len(part) {
		r.live.write(part)
	}
	r.live.end(nil)
	return time.Since(began)
}

// taker is a client that takes so many bytes a second; 0 is all there are.
type taker struct {
	perSecond int
	got       bytes.Buffer
	err       error
}

func (w *taker) Header() http.Header { return http.Header{} }
func (w *taker) WriteHeader(int)     {}
func (w *taker) Write(p []byte) (int, error) {
	if w.perSecond > 0 {
		time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(w.perSecond))
	}
	return w.got.Write(p)
}

// follow begins to read the answer at a pace.
func (r *liveRun) follow(t *testing.T, perSecond int) *taker {
	w := &taker{perSecond: perSecond}
	reader := r.live.reader()
	r.wg.Go(func() { w.err = reader.follow(t.Context(), w) })
	return w
}

// all says that w has had the answer to its end.
func (w *taker) all(t *testing.T, who string) {
	t.Helper()
	if w.err != nil || w.got.Len() != liveTotal {
		t.Errorf("%s: %d of %d bytes, %v", who, w.got.Len(), liveTotal, w.err)
	}
}

func TestALongAnswerComesWholeToFollowersOfAnyPace(t *testing.T) {
	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
	run("some are slower than others", func(t *testing.T) {
		r := newLiveRun()
		fast, slow := r.follow(t, 0), r.follow(t, 2048)
		took := r.write()
		r.wg.Wait()
		fast.all(t, "fast")
		slow.all(t, "slow")
		if least := (liveTotal - 2*liveLimit) / 2048 * time.Second; took < least {
			t.Errorf("it came in %v, want at least %v: at most %d bytes wait for the slow one", took, least, liveLimit)
		}
	})
	run("one needs longer than ten seconds for what is there, but never stops", func(t *testing.T) {
		r := newLiveRun()
		fast, slow := r.follow(t, 0), r.follow(t, 512)
		r.write()
		r.wg.Wait()
		fast.all(t, "fast")
		slow.all(t, "slow")
	})
	run("one takes nothing for ten seconds and is cut", func(t *testing.T) {
		r := newLiveRun()
		idle, busy := r.live.reader(), r.follow(t, 0)
		took := r.write()
		r.wg.Wait()
		busy.all(t, "busy")
		if took != stallFor {
			t.Errorf("the answer took %v, want %v", took, stallFor)
		}
		if p, err := idle.next(t.Context()); !errors.Is(err, errStalled) {
			t.Errorf("the idle one got %d bytes, %v; want %v", len(p), err, errStalled)
		}
	})
	run("one takes something every nine seconds and is not", func(t *testing.T) {
		r := newLiveRun()
		reader, got := r.live.reader(), 0
		r.wg.Go(func() {
			for {
				time.Sleep(9 * time.Second)
				p, err := reader.next(t.Context())
				if got += len(p); err != nil {
					return
				}
			}
		})
		r.write()
		r.wg.Wait()
		if got != liveTotal {
			t.Errorf("%d of %d bytes", got, liveTotal)
		}
	})
	run("one who had nothing to take for ten seconds has ten more", func(t *testing.T) {
		r := newLiveRun()
		reader := r.live.reader()
		half := bytes.Repeat([]byte("x"), liveLimit/2)
		r.live.write(half)
		if p, err := reader.next(t.Context()); len(p) != len(half) || err != nil {
			t.Fatalf("the first %d bytes: %d, %v", len(half), len(p), err)
		}
		time.Sleep(stallFor)
		got := len(half)
		r.wg.Go(func() { // as on a busy machine: it wakes when far more has come than waits for it
			time.Sleep(stallFor - time.Second)
			for {
				p, err := reader.next(t.Context())
				if got += len(p); err != nil {
					return
				}
			}
		})
		took := r.write()
		r.wg.Wait()
		if want := len(half) + liveTotal; got != want || took != stallFor-time.Second {
			t.Errorf("%d of %d bytes in %v, want %v", got, want, took, stallFor-time.Second)
		}
	})
	run("one leaves while the others wait for it", func(t *testing.T) {
		r := newLiveRun()
		idle, busy := r.live.reader(), r.follow(t, 0)
		r.wg.Go(func() {
			time.Sleep(3 * time.Second)
			idle.close()
		})
		took := r.write()
		r.wg.Wait()
		busy.all(t, "busy")
		if took != 3*time.Second {
			t.Errorf("the answer took %v, want 3s", took)
		}
	})
	run("nobody reads", func(t *testing.T) {
		r := newLiveRun()
		if took := r.write(); took != 0 {
			t.Errorf("the answer took %v", took)
		}
		if r.live.reader() != nil {
			t.Error("one can still join an answer whose beginning is gone")
		}
	})
}
