package database

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// How a server is watched. A healthy one is asked every checkPeriod and has pingWait to
// answer, so that one that hangs is found out within two seconds; one that is away is
// tried again after minRetry, then more slowly up to maxRetry.
const (
	checkPeriod = 500 * time.Millisecond
	pingWait    = 1400 * time.Millisecond
	minRetry    = 250 * time.Millisecond
	maxRetry    = time.Second
)

// health is whether a server answers, as its watcher knows it.
type health struct {
	log   *slog.Logger
	poke  chan struct{} // asks for a check now
	skew  atomic.Int64  // the server's clock less ours, in nanoseconds
	alive atomic.Int64  // UnixNano of when a statement last succeeded

	mu sync.Mutex
	// away is why the server cannot be asked, nil while it can.
	away error
	// session ends when the server goes away, with the reason as its cause. There is a
	// new one when it is back.
	session context.Context
	end     context.CancelCauseFunc
	// next is closed when the check that begins next is done.
	next chan struct{}
}

func newHealth(log *slog.Logger) *health {
	h := &health{log: log, poke: make(chan struct{}, 1), next: make(chan struct{})}
	h.session, h.end = context.WithCancelCause(context.Background())
	h.away = fmt.Errorf("%w: not connected yet", ErrAway)
	h.end(h.away)
	return h
}

// offset is how far the server's clock is ahead of ours.
func (h *health) offset() time.Duration { return time.Duration(h.skew.Load()) }

// current is the session that statements belong to, or the reason why there is none.
func (h *health) current() (context.Context, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.session, h.away
}

// awaitCheck asks for a check, waits for one that began after this call, and returns
// why the server cannot be asked. Where that is known already it does not wait.
func (h *health) awaitCheck(ctx context.Context) error {
	h.mu.Lock()
	next, session, away := h.next, h.session, h.away
	h.mu.Unlock()
	if away != nil {
		return away
	}
	select {
	case h.poke <- struct{}{}:
	default: // somebody has asked already
	}
	select {
	case <-next:
	case <-session.Done():
		return context.Cause(session)
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := h.current()
	return err
}

// beginCheck returns what endCheck takes. Who asks for a check from now on waits for
// the one after it.
func (h *health) beginCheck() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := h.next
	h.next = make(chan struct{})
	return done
}

// endCheck notes what a check has found, and says whether that is news. It is logged
// once each way.
func (h *health) endCheck(done chan struct{}, err error) (changed bool) {
	h.mu.Lock()
	was := h.away
	switch {
	case err == nil && was != nil:
		h.session, h.end = context.WithCancelCause(context.Background())
		h.away = nil
	case err != nil:
		h.away = fmt.Errorf("%w: %w", ErrAway, err)
		h.end(h.away)
	}
	h.mu.Unlock()
	close(done)
	switch {
	case err == nil && was != nil:
		h.log.Info("the database answers")
	case err != nil && was == nil:
		h.log.Error("the database is away", "error", err)
	}
	return (err == nil) != (was == nil)
}

// close says that there will be no more checks: the server is away for good.
func (h *health) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = fmt.Errorf("%w: it is closed", ErrAway)
	h.end(h.away)
}
