package redisstore

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	// maxFreeing bounds the slots that wait to be freed. Of more the oldest are
	// dropped: they run out with their lease.
	maxFreeing = 65536
	// freeAfter is how long a slot waits for others to be freed with it.
	freeAfter = 50 * time.Millisecond
	// freeAgain is how long after the first time a slot is freed once more; each
	// further wait is twice as long.
	freeAgain = time.Second
	// freeWithin is how long one batch may take, or the deadline, where that is
	// more, but not above connectTimeout: the goroutine of keep waits for it.
	freeWithin = 100 * time.Millisecond
	// freeBatch bounds the commands of a batch, each for one key.
	freeBatch = 64
)

// freeing are the slots that nobody uses and Redis may hold: where a take had no
// answer, and where a slot could not be given back. To free one twice, or one that
// was never taken, does nothing.
//
// Redis runs the commands of one connection in their order, so that freeing comes
// after the take that it follows. Between an old connection and a new one there
// is no order: what Redis had received when it stalled, or the network still
// delivers, may run after. So each slot is freed again, after 1, 3, 7 and 15
// seconds, for as long as a lease lasts.
type freeing struct {
	mu       sync.Mutex
	entries  []entry       // guarded by mu
	earliest time.Time     // when the first of them is due; guarded by mu
	wake     chan struct{} // something is due earlier than was said
}

// entry is a slot to be freed.
type entry struct {
	slot
	next  time.Time // not before
	wait  time.Duration
	since time.Time // when Redis first freed it; zero until then
	freed bool      // the last time
}

func (f *freeing) add(slots ...slot) {
	next := time.Now().Add(freeAfter)
	entries := make([]entry, len(slots))
	for i, s := range slots {
		entries[i] = entry{slot: s, next: next, wait: freeAfter}
	}
	f.put(entries)
}

func (f *freeing) put(entries []entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, entries...)
	if over := len(f.entries) - maxFreeing; over > 0 {
		clear(f.entries[:over])
		f.entries = f.entries[over:] // appending moves them now and then
	}
	for _, e := range entries {
		if !f.earliest.IsZero() && !e.next.Before(f.earliest) {
			continue
		}
		f.earliest = e.next
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// due is when the first is to be freed; zero if none is.
func (f *freeing) due() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.earliest
}

// take removes those that are due until then; where fresh, all that Redis has not
// freed yet, too.
func (f *freeing) take(until time.Time, fresh bool) []entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	var taken, left []entry
	f.earliest = time.Time{}
	for _, e := range f.entries {
		if !e.next.After(until) || fresh && e.since.IsZero() {
			taken = append(taken, e)
			continue
		}
		left = append(left, e)
		if f.earliest.IsZero() || e.next.Before(f.earliest) {
			f.earliest = e.next
		}
	}
	f.entries = left
	return taken
}

// later says when e is to be freed again, and whether at all.
func (e *entry) later(now time.Time, lease time.Duration) bool {
	switch {
	case !e.freed:
		e.wait = min(2*e.wait, freeAgain)
	case e.since.IsZero():
		e.since, e.wait = now, freeAgain
	default:
		e.wait *= 2
	}
	e.next = now.Add(e.wait)
	return e.since.IsZero() || e.next.Sub(e.since) <= lease
}

// freeSlots frees what is due; where fresh, all that was not freed yet. It stops
// at the first batch of which Redis, or all of a cluster, does nothing.
func (s *Store) freeSlots(ctx context.Context, fresh bool) {
	began := time.Now()
	due := s.freeing.take(began.Add(freeAfter), fresh)
	if len(due) == 0 {
		return
	}
	byKey := map[string][]int{}
	for i := range due {
		e := &due[i]
		// What is in use is looked at again, and not freed.
		if e.freed = s.held.has(e.slot); !e.freed {
			byKey[e.key] = append(byKey[e.key], i)
		}
	}
	var all [][]int // of due, each of one key
	for _, of := range byKey {
		all = slices.AppendSeq(all, slices.Chunk(of, maxRenew))
	}
	var first error
	for batch := range slices.Chunk(all, freeBatch) {
		some, err := s.freeSome(ctx, batch, due)
		if first == nil {
			first = err
		}
		if !some {
			break
		}
	}
	now := time.Now()
	again := due[:0]
	for _, e := range due {
		if e.later(now, s.lease) {
			again = append(again, e)
		}
	}
	s.freeing.put(again)
	s.observe(OpUndo, began, first)
}

// freeSome frees one batch, notes what Redis confirmed, and reports whether that is
// anything. It does not count for the breaker: calls do, and these are tried again
// in any case.
func (s *Store) freeSome(ctx context.Context, batch [][]int, due []entry) (some bool, err error) {
	keys, ids := make([]string, len(batch)), make([][]string, len(batch))
	for i, of := range batch {
		keys[i] = due[of[0]].key
		for _, at := range of {
			ids[i] = append(ids[i], due[at].id)
		}
	}
	within := min(max(s.options.Deadline, freeWithin), connectTimeout)
	// The second half is for the answers of those masters that are there.
	ctx, cancel := context.WithTimeout(ctx, 2*within)
	defer cancel()
	done, err := ask(ctx, &s.link, func(ctx context.Context, c rueidis.Client) ([]int64, error) {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		return zrem(ctx, c, keys, ids)
	})
	for i, ok := range done {
		for _, at := range batch[i] {
			due[at].freed = ok == 1
		}
		some = some || ok == 1
	}
	return some, err
}

// zrem removes the IDs of each key, in one go, and says of each key whether Redis
// did. A key that is something else has no slots.
func zrem(ctx context.Context, c rueidis.Client, keys []string, ids [][]string) ([]int64, error) {
	commands := make(rueidis.Commands, len(keys))
	for i, key := range keys {
		commands[i] = c.B().Zrem().Key(key).Member(ids[i]...).Build()
	}
	done, first := make([]int64, len(keys)), error(nil)
	for i, r := range c.DoMulti(ctx, commands...) {
		switch kind := failureOf(r.Error()); {
		case kind == None, kind == Script:
			done[i] = 1
		case first == nil:
			first = r.Error()
		}
	}
	return done, first
}
