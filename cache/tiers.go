package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Tiers are several stores as one: a near one that is quick, then those that are
// larger, last longer, or are shared with other instances. Reads ask them in
// order. The first is written at once, each of the others by workers behind a
// queue of at most 256 entries and 64 MiB: what comes while that is full is not
// kept there, and counted in Stats.
//
// What is done to one key happens in every tier in the order in which it was
// done here. A tier that fails takes nothing from the others.
type Tiers struct {
	// Observe is told the errors of a tier that no caller gets: of reads that
	// another tier answered, and of writes in the background. It must not block,
	// and is set before the first use. nil drops them.
	Observe func(error)

	stores []Store
	purges *Purges
	behind []*tierQueue // of stores[1:]
	// changes counts the changes of the keys that begin with a byte: who fills an
	// entry back sees by it that the entry may be another by now.
	changes [256]atomic.Uint64

	cancel context.CancelFunc
	closed atomic.Bool
	wg     sync.WaitGroup
}

// TierStats are what the tiers behind the first have not written.
type TierStats struct {
	// Queued is how many writes wait or are being made.
	Queued int
	// Dropped counts entries that came while a queue was full.
	Dropped uint64
}

// NewTiers makes one store of several, which stay their owner's to close. An entry
// that p knows as purged counts as not there. Where it is found it is deleted,
// unless the tier is a PurgeLog, too: other instances write to that, and what is
// there by now may be newer. p may be nil.
func NewTiers(p *Purges, stores ...Store) *Tiers {
	t := &Tiers{stores: stores, purges: p}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	for i := 1; i < len(stores); i++ {
		q := newTierQueue(stores[i], p, func(err error) { t.observe(i, err) })
		t.behind = append(t.behind, q)
		for range tierWorkers {
			t.wg.Go(func() { q.work(ctx) })
		}
	}
	return t
}

// Get implements Store. It gives the first entry that is fresh, or of those that
// are stale the one made last, and puts it into the tiers before. The error is
// nil if any tier has an entry, or if none failed.
func (t *Tiers) Get(ctx context.Context, key Key, now time.Time) (*Entry, error) {
	seen := t.changes[key[0]].Load()
	var best *Entry
	var errs error
	from := 0
	for i := range t.stores {
		e, err := t.get(ctx, i, key, now)
		if err != nil {
			errs = errors.Join(errs, t.failed(i, err))
			continue
		}
		if e == nil {
			continue
		}
		if t.purges.Purged(&e.Meta, key) {
			t.drop(ctx, i, key, seen)
			continue
		}
		if best == nil || best.Made.Before(e.Made) || e.Fresh(now) {
			best, from = e, i
		}
		if e.Fresh(now) {
			break
		}
	}
	if best == nil {
		return nil, errs
	}
	if errs != nil && t.Observe != nil {
		t.Observe(errs)
	}
	if from > 0 {
		t.fill(ctx, key, filling{best, from, seen}, now)
	}
	return best, nil
}

func (t *Tiers) get(ctx context.Context, i int, key Key, now time.Time) (*Entry, error) {
	if i > 0 {
		return t.behind[i-1].get(ctx, key, now)
	}
	return t.stores[0].Get(ctx, key, now)
}

// drop deletes a purged entry of tier i. Where something else is being done to
// the key it stays, here or by another instance: it is refused again when it is
// read again.
func (t *Tiers) drop(ctx context.Context, i int, key Key, seen uint64) {
	switch {
	case shared(t.stores[i]):
	case i > 0:
		t.behind[i-1].drop(key)
	case t.changes[key[0]].Load() == seen:
		if err := t.stores[0].Delete(ctx, key); err != nil {
			t.observe(0, err)
		}
	}
}

// shared reports whether other instances write to s.
func shared(s any) bool {
	_, ok := s.(PurgeLog)
	return ok
}

// filling is an entry found in tier from, when its key's count of changes was
// seen.
type filling struct {
	entry *Entry
	from  int
	seen  uint64
}

// fill puts what was found into the tiers before it, unless something was done to
// its key since.
func (t *Tiers) fill(ctx context.Context, key Key, f filling, now time.Time) {
	unchanged := func() bool { return t.changes[key[0]].Load() == f.seen }
	for _, q := range t.behind[:f.from-1] {
		q.put(key, f.entry, now, unchanged)
	}
	if !unchanged() {
		return
	}
	err := t.stores[0].Put(ctx, key, f.entry, now)
	if err == nil && !unchanged() {
		// Whether this or the change came last nobody knows, so neither stays.
		err = t.stores[0].Delete(ctx, key)
	}
	if err != nil {
		t.observe(0, err)
	}
}

// Put implements Store. The error says that no tier takes the entry. One that was
// purged before it came is not kept: there may be a newer one.
func (t *Tiers) Put(ctx context.Context, key Key, e *Entry, now time.Time) error {
	if len(t.stores) == 0 || t.purges.Purged(&e.Meta, key) {
		return nil
	}
	t.changes[key[0]].Add(1)
	err := t.stores[0].Put(ctx, key, e, now)
	taken := false
	for _, q := range t.behind {
		if q.put(key, e, now, nil) {
			taken = true
		}
	}
	if err == nil {
		return nil
	}
	if taken {
		t.observe(0, err)
		return nil
	}
	return t.failed(0, err)
}

// Delete implements Store: it deletes the entry of every tier, also if one fails.
// It waits for a write of the same key that is being made.
func (t *Tiers) Delete(ctx context.Context, key Key) error {
	t.changes[key[0]].Add(1)
	var errs error
	for i, s := range t.stores {
		var err error
		if i > 0 {
			err = t.behind[i-1].forget(ctx, key)
		}
		if err == nil {
			err = s.Delete(ctx, key)
		}
		if err != nil {
			errs = errors.Join(errs, t.failed(i, err))
		}
	}
	return errs
}

// Wait returns when what was put under key has been written to all tiers, or was
// dropped, and ctx's error if that ends before.
func (t *Tiers) Wait(ctx context.Context, key Key) error {
	for _, q := range t.behind {
		if err := q.settle(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// Sweep implements Sweeper, with the tiers that do. It waits for what is being
// written. An entry counts once for each tier that had it.
func (t *Tiers) Sweep(ctx context.Context, gone func(*Meta) bool) (removed int, err error) {
	for i, s := range t.stores {
		var n int
		var failed error
		if i > 0 {
			n, failed = t.behind[i-1].sweep(ctx, gone)
			removed += n
		}
		if sweeper, ok := s.(Sweeper); ok && failed == nil {
			n, failed = sweeper.Sweep(ctx, gone)
			removed += n
		}
		if failed != nil {
			err = errors.Join(err, t.failed(i, failed))
		}
	}
	return removed, err
}

// Stats reads what waits and what was dropped.
func (t *Tiers) Stats() (s TierStats) {
	for _, q := range t.behind {
		queued, dropped := q.stats()
		s.Queued += queued
		s.Dropped += dropped
	}
	return s
}

// tierFlush is how long Close goes on writing.
const tierFlush = 5 * time.Second

// Close writes what is queued, for five seconds at most, and ends the workers. The
// error says how much was left. What is put later reaches the first tier only.
func (t *Tiers) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	late := time.AfterFunc(tierFlush, t.cancel)
	defer late.Stop()
	for _, q := range t.behind {
		q.close()
	}
	t.wg.Wait()
	t.cancel()
	if left := t.Stats().Queued; left > 0 {
		return fmt.Errorf("cache: %d entries were not written to the tiers behind the first within %v", left, tierFlush)
	}
	return nil
}

func (t *Tiers) failed(i int, err error) error {
	return fmt.Errorf("cache: tier %d (%T): %w", i+1, t.stores[i], err)
}

func (t *Tiers) observe(i int, err error) {
	if t.Observe != nil {
		t.Observe(t.failed(i, err))
	}
}
