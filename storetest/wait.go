package storetest

import (
	"sync"
	"testing"
	"time"
)

const (
	// still is the longest between two looks at the clock that counts. Where more passed,
	// the machine stood still, and what is waited for may have done so as well.
	still = 100 * time.Millisecond
	// stillShort is that of Clock, which measures what is to take a tenth of a second.
	stillShort = 20 * time.Millisecond
	// often is how long between two looks of what watches the clock.
	often = 5 * time.Millisecond
)

// Eventually waits until done, and fails the test if that takes longer than most. Of
// each call of done, with the pause after it, at most a tenth of a second counts. So that
// a done which hangs does not hide behind that, all of it is to take at most ten times
// most and two minutes, however often the machine stood still.
func Eventually(t testing.TB, most time.Duration, what string, done func() bool) {
	t.Helper()
	var waited time.Duration
	began := time.Now()
	for last := began; !done(); {
		if waited > most {
			t.Fatalf("not within %v: %s", most, what)
		}
		if passed := last.Sub(began); passed > 10*most+2*time.Minute {
			t.Fatalf("not within %v, of which %v are counted towards %v: %s", passed, waited, most, what)
		}
		<-time.After(2 * time.Millisecond)
		now := time.Now()
		waited += min(now.Sub(last), still)
		last = now
	}
}

// Stopwatch begins to measure. The first call of took ends that, and returns what each
// call returns: how long it was without the times in which the machine stood still, of
// which a tenth of a second each counts.
func Stopwatch() (took func() time.Duration) {
	w := watchClock(still)
	return sync.OnceValue(w.stop)
}

// Clock returns a clock that goes until the test ends, from zero, and that goes on by at
// most a fiftieth of a second while the machine stands still. It may be read at any time,
// by several goroutines: what happens at once is a few milliseconds apart on it, on a
// machine that does other things as well.
func Clock(t testing.TB) (now func() time.Duration) {
	w := watchClock(stillShort)
	t.Cleanup(func() { _ = w.stop() })
	return w.look
}

// watch looks at the clock often, so as to notice when the machine stands still.
type watch struct {
	most time.Duration // that counts between two looks
	over chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex
	last  time.Time     // guarded by mu
	lived time.Duration // guarded by mu
}

func watchClock(most time.Duration) *watch {
	w := &watch{most: most, over: make(chan struct{}), last: time.Now()}
	w.wg.Go(func() {
		tick := time.NewTicker(often)
		defer tick.Stop()
		for {
			select {
			case <-w.over:
				return
			case <-tick.C:
				w.look()
			}
		}
	})
	return w
}

// look is how much time has passed that counts.
func (w *watch) look() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.lived += min(now.Sub(w.last), w.most)
	w.last = now
	return w.lived
}

// stop is the last look.
func (w *watch) stop() time.Duration {
	close(w.over)
	w.wg.Wait()
	return w.look()
}
