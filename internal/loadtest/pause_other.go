//go:build !linux

package loadtest

import (
	"runtime"
	"time"
)

// pause waits for less than two milliseconds. The runtime's timers may be a
// millisecond late: the wait is a loop, in which all others may run.
func pause(d time.Duration) {
	for begin := time.Now(); time.Since(begin) < d; {
		runtime.Gosched()
	}
}
