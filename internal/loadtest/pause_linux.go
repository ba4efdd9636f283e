package loadtest

import (
	"syscall"
	"time"
)

// pause waits for less than two milliseconds. The runtime's timers are a
// millisecond late where nothing else runs, because they end with a wait for
// sockets in whole milliseconds; the kernel's are some 50 µs late.
func pause(d time.Duration) {
	wait := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&wait, nil) // an early end is noticed by who waits
}
