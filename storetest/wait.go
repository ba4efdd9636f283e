package storetest

import (
	"sync"
	"testing"
	"time"
)

// still is the longest between two looks at the clock that counts. Where more passed, the
// machine stood still, and what is waited for may have done so as well.
const still = 100 * time.Millisecond

// Eventually waits until done, and fails the test if that takes longer than most. Of
// each call of done, with the pause after it, at most a tenth of a second counts.
func Eventually(t testing.TB, most time.Duration, what string, done func() bool) {
	t.Helper()
	var waited time.Duration
	for last := time.Now(); !done(); {
		if waited > most {
			t.Fatalf("not within %v: %s", most, what)
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
	var lived time.Duration
	last, stop := time.Now(), make(chan struct{})
	note := func() {
		now := time.Now()
		lived += min(now.Sub(last), still)
		last = now
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(still / 20)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				note()
				return
			case <-tick.C:
				note()
			}
		}
	})
	return sync.OnceValue(func() time.Duration {
		close(stop)
		wg.Wait()
		return lived
	})
}
