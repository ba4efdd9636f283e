package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// hasteWait is how long a command may take to end after a second signal.
const hasteWait = 5 * time.Second

// haste is what a second signal asks for: to end now, whatever that costs.
type haste struct {
	asked  chan struct{} // closed by the second signal
	heeded atomic.Bool   // the command ends by itself then
}

// hasteKey is where a context has its haste.
type hasteKey struct{}

// heed makes a command end by itself after a second signal, as one must that has
// processes or files which nobody else would clear away. The channel is closed by that
// signal; it is nil where there are no signals.
func heed(ctx context.Context) <-chan struct{} {
	h, ok := ctx.Value(hasteKey{}).(*haste)
	if !ok {
		return nil
	}
	h.heeded.Store(true)
	return h.asked
}

// interruptible returns the context of a process, which its first signal ends. The second
// ends the process, at once or by what the command does that heeds it.
func interruptible() context.Context {
	h := &haste{asked: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), hasteKey{}, h))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Nobody who reads the log or the metrics may end the process by going away.
	signal.Ignore(syscall.SIGPIPE)
	go func() { // ends with the process
		<-signals
		cancel()
		// Who asks twice does not want to wait. To leave this to what the signal
		// does by default is not enough: shells start background jobs with
		// interrupts ignored.
		<-signals
		close(h.asked)
		if h.heeded.Load() {
			select {
			case <-signals:
			case <-time.After(hasteWait):
			}
		}
		os.Exit(exitFailed)
	}()
	return ctx
}
