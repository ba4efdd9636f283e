package storetest_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/storetest"
)

// failing is a test that notes why it failed.
type failing struct {
	testing.TB
	why string
}

func (f *failing) Helper() {}
func (f *failing) Fatalf(format string, args ...any) {
	f.why = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestEventuallyEnds(t *testing.T) {
	f := func(name string, hangs, want time.Duration, why string) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, began, over := &failing{TB: t}, time.Now(), make(chan struct{})
				go func() {
					defer close(over)
					storetest.Eventually(got, 10*time.Second, "it is so", func() bool {
						time.Sleep(hangs)
						return false
					})
				}()
				<-over
				if took := time.Since(began); got.why != why || took < want || took > want+2*hangs+10*time.Millisecond {
					t.Errorf("%q after %v, want %q after %v", got.why, took, why, want)
				}
			})
		})
	}
	f("when most is over, where each call is short", 0, 10*time.Second, "not within 10s: it is so")
	f("when each call counts as a tenth of a second", time.Second, 101*time.Second, "not within 10s: it is so")
	f("after ten times most and two minutes, where each call hangs", 8*time.Second, 220*time.Second,
		"not within 3m44.056s, of which 2.8s are counted towards 10s: it is so")
}

func TestEventuallyAsksUntilItIsSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		storetest.Eventually(t, time.Hour, "it is so", func() bool { asked++; return asked == 3 })
		if asked != 3 {
			t.Errorf("asked %d times, want 3", asked)
		}
	})
}

func TestClocksGoWithTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, took := storetest.Clock(t), storetest.Stopwatch()
		time.Sleep(time.Second)
		if got := now(); got != time.Second {
			t.Errorf("the clock says %v after a second", got)
		}
		if a, b := took(), took(); a != time.Second || b != a {
			t.Errorf("the stopwatch says %v, and then %v, after a second", a, b)
		}
	})
}
