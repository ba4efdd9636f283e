package redisstore

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// renewers is how many counts are renewed at a time.
	renewers = 8
	// maxRenew bounds the IDs of one renewal.
	maxRenew = 256
)

// peers are the instances that share the counts.
type peers struct {
	instances atomic.Int64
	// These are the goroutine's of keep alone.
	fewer  time.Time // since when fewer instances report than instances says; zero if not
	beaten int64     // how many reported last
}

// run runs a script once, or never.
func (s *Store) run(ctx context.Context, script *rueidis.Lua, keys, args []string) ([]int64, error) {
	return send(ctx, &s.link, func(ctx context.Context, c rueidis.Client) ([]int64, error) {
		return script.Exec(ctx, c, keys, args).AsIntSlice()
	})
}

// keep connects, renews what this instance holds, and brings the connection back
// when it fails. It is the only goroutine that does.
func (s *Store) keep() {
	began := time.Now()
	err := s.link.connect()
	if err == nil {
		close(s.link.first)
		err = s.beat(true)
	} else {
		s.link.open.Store(true)
		close(s.link.first)
	}
	s.observe(OpRenew, began, err)
	if err != nil && failureOf(err) != Script {
		s.link.trip()
	}
	// Soon after a start and after an outage others come, too: to know how many
	// there are, it looks more often then.
	pause := s.lease / 30
	tick := time.After(pause)
	for {
		if s.link.open.Load() {
			s.restore()
			pause = s.lease / 30
			tick = time.After(pause)
		}
		var due <-chan time.Time
		if at := s.freeing.due(); !at.IsZero() {
			due = time.After(time.Until(at))
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.link.tripped:
		case <-s.freeing.wake: // due is another time now
		case <-due:
			s.freeSlots(s.ctx, false)
		case key := <-s.lost:
			s.putBack(key)
		case <-tick:
			s.renew()
			pause = min(2*pause, s.lease/3)
			tick = time.After(pause)
		}
	}
}

// restore returns when Redis answers again, or the store is closed.
func (s *Store) restore() {
	renewed := time.Now()
	s.link.restore(s.probe, func(began time.Time, err error) {
		if err == nil {
			s.freeSlots(s.ctx, true)
			s.renewSlots()
		}
		s.observe(OpRenew, began, err)
		// An answer that is too late for a caller is not too late for a slot.
		if err != nil && time.Since(renewed) >= s.lease/3 {
			renewed = time.Now()
			s.renewSlots()
		}
	})
}

// probe finds out whether Redis can be written to within the deadline. Before
// that it makes the connection, which may take longer. A heartbeat that fails for a
// reason of its own says nothing of the counts.
func (s *Store) probe() error {
	if err := s.link.ping(); err != nil {
		return err
	}
	began := time.Now()
	err := s.beat(true)
	if s.link.ofOneKey(err) {
		s.observe(OpRenew, began, err)
		return nil
	}
	return err
}

// beat says that this instance lives. back is after a time without Redis.
func (s *Store) beat(back bool) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.options.Deadline)
	defer cancel()
	args := leaseArgs(s.lease, s.instance)
	n, err := send(ctx, &s.link, func(ctx context.Context, c rueidis.Client) (int64, error) {
		return s.scripts.beat.Exec(ctx, c, []string{s.instancesKey()}, args).AsInt64()
	})
	if err == nil {
		s.peers.count(n, back, s.lease)
	}
	return err
}

// count notes how many instances report. Fewer than before are believed after a
// lease: where Redis lost the others, they report again one by one, and
// until they have, each would enforce too large a share.
func (p *peers) count(n int64, back bool, lease time.Duration) {
	now := time.Now()
	lost := back && n < p.beaten // and not before: they have stopped
	p.beaten = n
	switch {
	case n < p.instances.Load() && (lost || p.fewer.IsZero()):
		p.fewer = now
	case n >= p.instances.Load(), now.Sub(p.fewer) >= lease:
		p.fewer = time.Time{}
		p.instances.Store(n)
	}
}

func (s *Store) renew() {
	began := time.Now()
	s.observe(OpRenew, began, s.beat(false))
	s.renewSlots() // whatever became of the heartbeat: they are other keys
}

// renewSlots renews all slots that this instance holds, and puts back those that
// Redis lost. After some have had no answer it waits less for the others, so that
// one master of a cluster that is away does not cost the slots of the others their
// time; where nothing answers at all it gives up: there will be another time.
func (s *Store) renewSlots() {
	var wg sync.WaitGroup
	var failed atomic.Int64
	tokens := make(chan struct{}, renewers)
	for _, key := range s.held.keys() {
		tokens <- struct{}{}
		if s.address.Kind != Cluster && failed.Load() >= 4*renewers {
			<-tokens
			break
		}
		patience := connectTimeout
		if failed.Load() >= renewers {
			patience = max(s.options.Deadline, freeWithin)
		}
		wg.Go(func() {
			defer func() { <-tokens }()
			if !s.renewKey(key, patience) {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
}

// putBack renews the slots of a key, and of all that are lost as well, once.
func (s *Store) putBack(key string) {
	keys := map[string]struct{}{key: {}}
	for len(s.lost) > 0 { // nobody else receives
		keys[<-s.lost] = struct{}{}
	}
	for key := range keys {
		s.renewKey(key, connectTimeout)
	}
}

// renewKey reports whether Redis answered.
func (s *Store) renewKey(key string, patience time.Duration) bool {
	for ids := range slices.Chunk(s.held.ids(key), maxRenew) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		args := leaseArgs(s.lease, ids...)
		_, err := ask(ctx, &s.link, func(ctx context.Context, c rueidis.Client) ([]int64, error) {
			return nil, s.scripts.renew.Exec(ctx, c, []string{key}, args).Error()
		})
		cancel()
		for _, id := range ids {
			// What was freed meanwhile has come back: it is freed again. Without an
			// answer the script may yet run, after any of them is freed.
			if one := (slot{key, id}); err != nil || !s.held.has(one) {
				s.freeing.add(one)
			}
		}
		if err != nil {
			s.observe(OpRenew, began, err)
			return false
		}
	}
	return true
}
