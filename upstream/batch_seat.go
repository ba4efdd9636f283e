package upstream

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// seated is a member's own seat, which ends once.
type seated struct {
	seat  Seat // nil: none
	left  atomic.Bool
	ended atomic.Bool
}

func (s *seated) end(e Event) {
	if s.seat == nil || !s.ended.CompareAndSwap(false, true) {
		return
	}
	if s.left.Load() && e.Result == ResultOK {
		e.Result = ResultCancelled // it was not read to its end by this one
	}
	s.seat.End(e)
}

// extra is a seat that was asked for by a joined call, for all of its members: a
// retry's, or a hedge's. It ends with the last of them.
type extra struct {
	seat Seat

	mu    sync.Mutex // guards all below
	users int
	last  Event // of an exchange: that a member has left says nothing of the target
}

// drop is called when n members need x no more.
func (x *extra) drop(n int, e Event) {
	x.mu.Lock()
	if x.last.Result == "" || e.Result != ResultCancelled {
		x.last = e
	}
	x.users -= n
	over := x.users == 0
	e = x.last
	x.mu.Unlock()
	if over {
		x.seat.End(e)
	}
}

// abandon ends x, whoever still needs it.
func (x *extra) abandon(e Event) {
	x.mu.Lock()
	over := x.users > 0
	x.users = 0
	x.mu.Unlock()
	if over {
		x.seat.End(e)
	}
}

// joint is the seat of a joined call in the pool: those of its members, or an extra.
// When the pool ends it the members may still need it, for the halves of the call.
type joint struct {
	members []*seated
	extra   *extra // nil: the members' own seats

	mu      sync.Mutex // guards all below
	last    *Event     // with which the pool has ended it
	settled bool       // the members need it no more
}

// Target implements Seat.
func (j *joint) Target() int {
	if j.extra != nil {
		return j.extra.seat.Target()
	}
	return j.members[0].seat.Target()
}

// End implements Seat. One that is followed by another attempt, or was not used, is
// free at once.
func (j *joint) End(e Event) {
	j.mu.Lock()
	if e.Retried || e.Result == ResultUnused {
		j.settled = true
	}
	j.last = &e
	settled := j.settled
	j.mu.Unlock()
	if settled {
		j.release(e)
	}
}

// settle gives the seat back as soon as the pool has ended it.
func (j *joint) settle() {
	j.mu.Lock()
	now := j.last != nil && !j.settled
	j.settled = true
	e := j.last
	j.mu.Unlock()
	if now {
		j.release(*e)
	}
}

func (j *joint) release(e Event) {
	if j.extra != nil {
		j.extra.drop(len(j.members), e)
		return
	}
	for _, m := range j.members {
		m.end(e)
	}
}

// jointSeats hands out the seats of a joined call's further attempts: those that
// its members would have.
type jointSeats struct {
	members []*seated
	of      Seats

	mu    sync.Mutex // guards given
	given []*joint
}

// Seat implements Seats.
func (s *jointSeats) Seat(ctx context.Context, tried []int, wait bool) (seat Seat, err error) {
	defer func() {
		if p := recover(); p != nil {
			seat, err = nil, fmt.Errorf("asking for another seat panicked: %v\n%s", p, debug.Stack())
		}
	}()
	one, err := s.of.Seat(ctx, tried, wait)
	if err != nil {
		return nil, err
	}
	j := &joint{members: s.members, extra: &extra{seat: one, users: len(s.members)}}
	s.mu.Lock()
	s.given = append(s.given, j)
	s.mu.Unlock()
	return j, nil
}

// abandon ends all seats that were handed out, whoever still uses them.
func (s *jointSeats) abandon(e Event) {
	s.mu.Lock()
	given := s.given
	s.mu.Unlock()
	for _, j := range given {
		j.extra.abandon(e)
	}
}

// settle gives all seats back that were handed out, but for one.
func (s *jointSeats) settle(but *joint) {
	s.mu.Lock()
	given := s.given
	s.mu.Unlock()
	for _, j := range given {
		if j != but {
			j.settle()
		}
	}
}
