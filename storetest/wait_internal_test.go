package storetest

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAMachineThatStandsStillCountsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watch{most: stillShort, last: time.Now()}
		f := func(passes, want time.Duration) {
			time.Sleep(passes) // and nobody looks
			if got := w.look(); got != want {
				t.Errorf("%v after %v more, want %v", got, passes, want)
			}
		}
		f(5*time.Millisecond, 5*time.Millisecond)
		f(time.Hour, 25*time.Millisecond)
		f(time.Second, 45*time.Millisecond)
		f(time.Millisecond, 46*time.Millisecond)
	})
}
