package cache

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"
)

// ErrTold is wrapped by an error of an answer that says of itself, in its last
// bytes, that it broke off: who has read them needs no other sign.
var ErrTold = errors.New("cache: the answer tells its reader that it broke off")

// errStalled ends a reader that takes nothing while others wait for it.
var errStalled = errors.New("cache: the reader of a running answer took nothing for too long")

// stallFor is how long a reader may take nothing while it holds up the others.
const stallFor = 10 * time.Second

// How much a reader takes at a time: while others may wait for it, so little that a
// slow one is seen to move.
const (
	readPiece = 32 << 10
	slowPiece = 4 << 10
)

// live is the body of an answer that is still coming, for any number of readers.
// Up to limit bytes each of them reads it from its start. Of a longer one nobody
// can join any more, what all have read is dropped, and it comes at the pace of the
// slowest: limit bytes wait for it at most. One that takes nothing for stallFor is
// cut off.
type live struct {
	head  *Entry // the answer without its body
	limit int

	mu      sync.Mutex // guards all below
	changed chan struct{}
	data    []byte // what has come; what was written never changes
	start   int    // how many bytes before data were dropped
	over    bool   // longer than limit
	ended   bool
	err     error // why it ended; nil: it is whole
	took    time.Duration
	tokens  int64 // that it took; both are known at its end
	readers map[*liveReader]struct{}
	moved   chan struct{} // a reader has read, or left
}

func newLive(head *Entry, limit int64) *live {
	return &live{head: head, limit: int(min(limit, math.MaxInt/2)), changed: make(chan struct{}), readers: map[*liveReader]struct{}{}, moved: make(chan struct{}, 1)}
}

// liveReader is one reader. It is for one goroutine.
type liveReader struct {
	live   *live
	broken bool // it has read to where the answer broke off
	// These are guarded by live.mu.
	at    int
	moved time.Time // when it took something last, or had last nothing left to take
	cut   bool
}

// reader returns a reader that begins at the start, or nil if that is gone.
func (l *live) reader() *liveReader {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	r := &liveReader{live: l, moved: time.Now()}
	l.readers[r] = struct{}{}
	return r
}

// close ends r.
func (r *liveReader) close() {
	r.live.mu.Lock()
	defer r.live.mu.Unlock()
	delete(r.live.readers, r)
	r.live.move()
}

func (l *live) move() {
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

// reading reports whether anybody reads.
func (l *live) reading() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.readers) > 0
}

// next returns what r has not read yet, waiting until there is something. The
// bytes must not be changed. At the end it returns io.EOF, or why there is no more.
func (r *liveReader) next(ctx context.Context) ([]byte, error) {
	l := r.live
	for {
		l.mu.Lock()
		if r.cut {
			l.mu.Unlock()
			return nil, errStalled
		}
		unread, ended, err, changed := l.data[r.at-l.start:], l.ended, l.err, l.changed
		most := readPiece
		if l.over {
			most = slowPiece
		}
		unread = unread[:min(len(unread), most)]
		r.at += len(unread)
		r.moved = time.Now()
		l.mu.Unlock()
		switch {
		case len(unread) > 0:
			l.move()
			return unread, nil
		case ended && err == nil:
			return nil, io.EOF
		case ended:
			r.broken = true
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// write adds p and reports whether the answer is longer than its limit by now. Then
// it waits for the readers.
func (l *live) write(p []byte) (over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.start+len(l.data)+len(p) > l.limit {
		l.over = true
		l.makeRoomLocked(len(p))
	}
	now := time.Now()
	for r := range l.readers {
		if r.at == l.start+len(l.data) {
			r.moved = now
		}
	}
	l.data = append(l.data, p...)
	l.wakeLocked()
	return l.over
}

// makeRoomLocked drops what all have read, until nobody has more than limit bytes to
// read, with the n that come. While it waits the lock is free.
func (l *live) makeRoomLocked(n int) {
	var timer *time.Timer
	for {
		slowest := l.slowestLocked()
		if slowest == nil { // nobody reads
			l.data, l.start = nil, l.start+len(l.data)
			return
		}
		// A part at a time: each copies what is left.
		if drop := slowest.at - l.start; drop >= max(1, l.limit/4) {
			l.data = append(make([]byte, 0, len(l.data)-drop+n), l.data[drop:]...)
			l.start = slowest.at
		}
		unread := l.start + len(l.data) - slowest.at
		if unread == 0 || unread+n <= l.limit {
			return
		}
		if timer == nil {
			timer = time.NewTimer(stallFor)
			defer timer.Stop()
		} else {
			timer.Reset(max(time.Millisecond, stallFor-time.Since(slowest.moved)))
		}
		l.mu.Unlock()
		select {
		case <-l.moved:
		case <-timer.C:
		}
		l.mu.Lock()
		l.cutLocked(n)
	}
}

// cutLocked cuts off all who hold up the others and have taken nothing for too long.
func (l *live) cutLocked(n int) {
	for r := range l.readers {
		if l.start+len(l.data)-r.at+n > l.limit && time.Since(r.moved) >= stallFor {
			r.cut = true
			delete(l.readers, r)
			l.wakeLocked()
		}
	}
}

func (l *live) slowestLocked() (slowest *liveReader) {
	for r := range l.readers {
		if slowest == nil || r.at < slowest.at {
			slowest = r
		}
	}
	return slowest
}

// cost says what the answer took, at its end.
func (l *live) cost(took time.Duration, tokens int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took, l.tokens = took, tokens
}

// costed is what the answer took, 0 before its end.
func (l *live) costed() (took time.Duration, tokens int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.took, l.tokens
}

// end says that no more comes, and why.
func (l *live) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended, l.err = true, err
		l.wakeLocked()
	}
}

func (l *live) wakeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}
