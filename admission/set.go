package admission

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Settings are those of Options that can be changed while a queue works. Zero values
// mean the defaults of Options.
type Settings struct {
	// Limits are those of each target. What was learnt stays, within the new bounds.
	Limits Limits
	// MaxQueue is how many requests may wait, less than 0 none. Who waits already
	// keeps its place, however many they are.
	MaxQueue int
	// MaxWait is the longest that those wait who come from now on: who waits already
	// waits for as long as it was told.
	MaxWait time.Duration
	// Weights are the shares of the targets, in their order, each at least 1; 0 means 1.
	Weights []int
}

// Set changes how the queue works, at once: who waits and fits now is given its place
// before Set returns, and what runs beyond a smaller limit runs to its end. The error
// says what is wrong with o; then nothing is changed.
func (q *Queue) Set(o Settings) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.scheduler.Set(o, time.Now()); err != nil {
		return err
	}
	q.hurryLocked()
	return nil
}

// Set is Queue.Set.
func (s *Scheduler) Set(o Settings, now time.Time) error {
	next := s.options
	next.Limits, next.MaxQueue, next.MaxWait = o.Limits, o.MaxQueue, o.MaxWait
	errs := []error{next.complete()}
	if len(o.Weights) != len(s.targets) {
		errs = append(errs, fmt.Errorf("admission: %d weights: want %d, one for each target", len(o.Weights), len(s.targets)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.clock(now)
	s.options = next
	for i, t := range s.targets {
		t.weight = float64(max(o.Weights[i], 1))
		t.set(next.Limits)
	}
	s.dispatch(now)
	return nil
}

// set moves the bounds of the seats. The limit that was learnt stays within them.
func (l *limiter) set(to Limits) {
	low, high := float64(to.Min), float64(to.Max)
	wasFixed := l.fixed
	l.fixed, l.most = low == high, high
	if l.engineSeats > 0 && !l.fixed {
		high = max(min(high, l.engineSeats), 1)
	}
	b := &l.seat
	b.low, b.high = low, high
	b.limit = min(max(b.limit, low), high)
	b.safe = min(b.safe, high)
	if !math.IsInf(b.good, 1) {
		b.good = min(b.good, high)
	}
	if l.engineView.cache > 0 || wasFixed == l.fixed {
		return
	}
	// Tokens are limited where seats are found out, as at the start.
	if l.token.limit = startTokens; l.fixed {
		l.token.limit = math.Inf(1)
	}
}
