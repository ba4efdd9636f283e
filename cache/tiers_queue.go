package cache

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Bounds of what waits to be written to one tier.
const (
	tierMaxEntries = 256
	tierMaxBytes   = 64 << 20
	tierWorkers    = 4
	tierWriteFor   = 5 * time.Second // one write
)

// tierQueue writes to one store in the background. Of what is to be done to one
// key only the last waits, and while a key is being written nobody else writes it:
// so the order of what is done to a key is kept by any number of workers.
type tierQueue struct {
	store  Store
	purges *Purges
	failed func(error)

	mu      sync.Mutex // guards what follows
	ready   sync.Cond  // on mu: order has a key, or closed is set
	waiting map[Key]tierWrite
	order   []Key // of waiting, without those of writing
	writing map[Key]*tierWriting
	bytes   int64 // of waiting and writing
	dropped uint64
	closed  bool
}

// tierWrite puts entry, or deletes what is there if that is nil.
type tierWrite struct {
	entry *Entry
	size  int64
	now   time.Time
}

type tierWriting struct {
	tierWrite
	done chan struct{} // closed when it is written
}

func newTierQueue(s Store, p *Purges, failed func(error)) *tierQueue {
	q := &tierQueue{store: s, purges: p, failed: failed, waiting: map[Key]tierWrite{}, writing: map[Key]*tierWriting{}}
	q.ready.L = &q.mu
	return q
}

// put has an entry written, and reports whether there is room for that. still is
// asked in the queue's order; the entry is not taken if it says no. It may be nil.
func (q *tierQueue) put(key Key, e *Entry, now time.Time, still func() bool) bool {
	w := tierWrite{entry: e, size: e.Size(), now: now}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || still != nil && !still() {
		return false
	}
	old, queued := q.waiting[key]
	if !queued && len(q.waiting)+len(q.writing) >= tierMaxEntries || q.bytes-old.size+w.size > tierMaxBytes {
		q.removeLocked(key) // it would be older than what the first tier has
		q.dropped++
		return false
	}
	q.addLocked(key, w)
	return true
}

// get is the store's Get, ahead of what waits.
func (q *tierQueue) get(ctx context.Context, key Key, now time.Time) (*Entry, error) {
	return q.look(key, now, func() (*Entry, error) { return q.store.Get(ctx, key, now) })
}

// look is the entry that waits to be written, and else what stored finds.
func (q *tierQueue) look(key Key, now time.Time, stored func() (*Entry, error)) (*Entry, error) {
	q.mu.Lock()
	w, known := q.waiting[key]
	if writing := q.writing[key]; !known && writing != nil {
		w, known = writing.tierWrite, true
	}
	q.mu.Unlock()
	switch {
	case !known:
		return stored()
	case w.entry != nil && w.entry.Useful(now):
		return w.entry, nil
	}
	return nil, nil
}

// drop has what the store has of key deleted, unless something else is to be done
// to it, or there is no room to.
func (q *tierQueue) drop(key Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, queued := q.waiting[key]
	if queued || q.writing[key] != nil || q.closed || len(q.waiting)+len(q.writing) >= tierMaxEntries {
		return
	}
	q.addLocked(key, tierWrite{})
}

func (q *tierQueue) addLocked(key Key, w tierWrite) {
	old, queued := q.waiting[key]
	q.waiting[key] = w
	q.bytes += w.size - old.size
	if !queued && q.writing[key] == nil {
		q.order = append(q.order, key)
		q.ready.Signal()
	}
}

// forget takes back what waits to be done to key, and waits for what is being
// done. If ctx ends before, the key is deleted behind that.
func (q *tierQueue) forget(ctx context.Context, key Key) error {
	q.mu.Lock()
	q.removeLocked(key)
	writing := q.writing[key]
	q.mu.Unlock()
	if writing == nil {
		return nil
	}
	select {
	case <-writing.done:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, queued := q.waiting[key]; q.writing[key] == writing && !queued {
		q.waiting[key] = tierWrite{} // one for each worker at most, so that it needs no room
	}
	return context.Cause(ctx)
}

func (q *tierQueue) removeLocked(key Key) {
	w, queued := q.waiting[key]
	if !queued {
		return
	}
	q.bytes -= w.size
	delete(q.waiting, key)
	if at := slices.Index(q.order, key); at >= 0 { // among a few hundred
		q.order = slices.Delete(q.order, at, at+1)
	}
}

// sweep takes back the entries that gone says so of, and waits for those that are
// being written, so that the store can be swept of them.
func (q *tierQueue) sweep(ctx context.Context, gone func(*Meta) bool) (removed int, err error) {
	var writing []*tierWriting
	q.mu.Lock()
	for key, w := range q.waiting {
		if w.entry != nil && gone(&w.entry.Meta) {
			q.removeLocked(key)
			removed++
		}
	}
	for _, w := range q.writing {
		if w.entry != nil && gone(&w.entry.Meta) {
			writing = append(writing, w)
		}
	}
	q.mu.Unlock()
	for _, w := range writing {
		select {
		case <-w.done:
		case <-ctx.Done():
			return removed, context.Cause(ctx)
		}
	}
	return removed, nil
}

func (q *tierQueue) stats() (queued int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) + len(q.writing), q.dropped
}

// close lets the workers end when nothing waits any more.
func (q *tierQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ready.Broadcast()
}

// work writes until the queue is closed and empty, or closed and ctx has ended.
func (q *tierQueue) work(ctx context.Context) {
	for {
		key, w, ok := q.next(ctx)
		if !ok {
			return
		}
		if err := q.write(ctx, key, w); err != nil {
			q.failed(err)
		}
		q.done(key, w)
	}
}

func (q *tierQueue) next(ctx context.Context) (key Key, w tierWrite, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if len(q.order) > 0 && ctx.Err() == nil {
			key = q.order[0]
			q.order = slices.Delete(q.order, 0, 1)
			w = q.waiting[key]
			delete(q.waiting, key)
			q.writing[key] = &tierWriting{w, make(chan struct{})}
			return key, w, true
		}
		if q.closed {
			return key, w, false
		}
		q.ready.Wait()
	}
}

func (q *tierQueue) write(ctx context.Context, key Key, w tierWrite) error {
	ctx, cancel := context.WithTimeout(ctx, tierWriteFor)
	defer cancel()
	if w.entry == nil {
		return q.store.Delete(ctx, key)
	}
	if q.purges.Purged(&w.entry.Meta, key) {
		return nil // purged while it waited, and perhaps swept already
	}
	return q.store.Put(ctx, key, w.entry, w.now)
}

func (q *tierQueue) done(key Key, w tierWrite) {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.writing[key].done)
	delete(q.writing, key)
	q.bytes -= w.size
	if _, queued := q.waiting[key]; queued {
		q.order = append(q.order, key)
		q.ready.Signal()
	}
}

// settle waits until nothing is left to be done to key.
func (q *tierQueue) settle(ctx context.Context, key Key) error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		q.mu.Lock()
		_, queued := q.waiting[key]
		writing := q.writing[key]
		q.mu.Unlock()
		var done <-chan struct{}
		switch {
		case writing != nil:
			done = writing.done
		case !queued:
			return nil
		}
		select {
		case <-done:
		case <-again.C: // it waits for a worker
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
