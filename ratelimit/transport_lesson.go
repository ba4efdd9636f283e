package ratelimit

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// lesson is what the answers of one key taught.
//
// Its queue is a turnstile: whoever has to wait stands in it, and only the first
// looks at the clock. After a closure the first goes as soon as the server
// allows, as a probe; the others follow one pace apart, until an answer says how
// many may go. The pace is the policy's window divided by its quota where the
// server describes its policies. Else it is a guess: a tenth of the closure, ten
// percent shorter after each answer, doubled by each new closure, and forgotten
// when nobody waits any more.
type lesson struct {
	line chan struct{} // held by who waits first for the caller's own policies

	mu       sync.Mutex // guards all below
	queue    list.List  // of chan struct{}: the first is woken by what changes its wait
	closed   time.Time  // nothing may be sent before: Retry-After
	blocked  time.Time  // likewise, but a newer answer may take it back
	counted  bool
	left     int64     // requests that may be sent, if counted
	least    int64     // the least that an answer said, since one could bring more
	reset    time.Time // when there are more
	spent    bool      // the server itself said that none are left
	pace     time.Duration
	guessed  bool
	next     time.Time // when the next may follow at pace
	epoch    uint64    // counts closures
	seq      uint64    // of the last turn
	taught   uint64    // likewise, when an answer last could bring more
	taughtAt int64     // and the second then
	flights  flights
}

func (l *lesson) expires() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expiresLocked()
}

// expiresLocked is when nothing of the lesson matters any more: after its last
// time, and as long again as the guessed pace came from.
func (l *lesson) expiresLocked() time.Time {
	return later(later(l.closed, l.blocked), later(l.reset, l.next)).Add(10 * l.pace)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// opensLocked is when the next turn is, and the part of it that the server
// itself told: the rest is caution.
func (l *lesson) opensLocked() (at, told time.Time) {
	told = later(l.closed, l.blocked)
	at = told
	if l.counted && l.left <= 0 {
		at = later(at, l.reset)
		if l.spent || l.flights.all == 0 { // else an answer may still bring better news
			told = at
		}
	}
	if l.pace > 0 && (!l.counted || l.left <= 0) {
		at = later(at, l.next)
	}
	return at, told
}

// told is how long the key stays closed, as the server said.
func (l *lesson) told(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, told := l.opensLocked()
	return max(told.Sub(now), 0)
}

// pass takes a turn, if it is now and nobody waits for one.
func (l *lesson) pass(t *turn, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue.Len() > 0 {
		return false
	}
	if now.After(l.expiresLocked()) {
		l.counted, l.pace = false, 0
	}
	if at, _ := l.opensLocked(); now.Before(at) {
		return false
	}
	l.takeLocked(t, now)
	return true
}

func (l *lesson) takeLocked(t *turn, now time.Time) {
	switch {
	case l.counted && l.left > 0:
		l.left--
	case l.pace > 0:
		l.next = now.Add(l.pace)
	}
	l.seq++
	*t = turn{epoch: l.epoch, seq: l.seq, second: l.flights.start(now)}
}

// wait takes a turn as soon as there is one, in the order of arrival.
func (l *lesson) wait(ctx context.Context, t *turn, deadline time.Time) error {
	news := make(chan struct{}, 1)
	l.mu.Lock()
	place := l.queue.PushBack(news)
	l.mu.Unlock()
	defer l.leave(place)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		wake, err := l.look(place, t, deadline)
		if wake.IsZero() || err != nil {
			return err
		}
		timer.Reset(wake.Sub(now))
		select {
		case <-timer.C:
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look takes the turn of the first in the queue, or says when to look again.
func (l *lesson) look(place *list.Element, t *turn, deadline time.Time) (wake time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	at, told := l.opensLocked()
	first := l.queue.Front() == place
	if first && !now.Before(at) {
		l.takeLocked(t, now)
		return time.Time{}, nil
	}
	if told.After(deadline) {
		wait := told.Sub(now)
		return time.Time{}, notSent(fmt.Sprintf("the server is closed for another %v, and no request waits so long.", wait.Round(time.Millisecond)), wait)
	}
	if !now.Before(deadline) {
		return time.Time{}, notSent("it waited for its turn, and there were too many in front of it.", max(at.Sub(now), 0))
	}
	if first && at.Before(deadline) {
		return at, nil
	}
	return deadline, nil
}

// leave takes a place out of the queue and tells who comes next.
func (l *lesson) leave(place *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.Remove(place)
	l.newsLocked()
}

// newsLocked lets the first of the queue look again.
func (l *lesson) newsLocked() {
	if place := l.queue.Front(); place != nil {
		select {
		case place.Value.(chan struct{}) <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// putBack undoes a turn that was not used.
func (l *lesson) putBack(t turn, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights.end(t, now)
	// Whether it was counted down by its own turn or subtracted later as one
	// under way, it is one more now.
	if l.counted && t.epoch == l.epoch {
		l.left++
	}
	l.newsLocked()
}

// unanswered ends a turn that nothing was learned from.
func (l *lesson) unanswered(t turn, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights.end(t, now)
	l.newsLocked()
}

// learn ends a turn with its answer.
func (l *lesson) learn(t turn, a advice, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights.end(t, now)
	switch current := t.epoch == l.epoch; {
	case a.refused && a.told && a.wait > 0:
		l.closed = later(l.closed, now.Add(a.wait))
		if current { // of all refusals of one burst the first sets the pace
			l.epoch++
			l.counted, l.blocked = false, time.Time{}
			l.slowLocked(a)
		}
	case current:
		if l.guessed && !a.refused {
			l.pace -= l.pace / 10
		}
		if a.state.present {
			l.countLocked(t, a.state, now)
		}
	}
	l.newsLocked()
}

// slowLocked sets the pace after a closure.
func (l *lesson) slowLocked(a advice) {
	s := a.state
	if l.guessed = !s.counted || s.left > 0 || s.pace == 0; !l.guessed {
		l.pace = s.pace
		return
	}
	l.pace = min(max(2*l.pace, min(a.wait/10, maxGuess)), a.wait)
}

// countLocked learns what is left. Answers overtake each other, so one can only
// bring more if its request was sent after the last such answer had come. Of
// those that were under way then, the server may have counted none or all: they
// are in doubt, and subtracted, until their own answers come.
func (l *lesson) countLocked(t turn, s quotaState, now time.Time) {
	reset, blocked := now.Add(s.reset), now.Add(s.blocked)
	if t.seq > l.taught || !now.Before(l.reset) {
		l.flights.roll(now)
		l.taught, l.taughtAt = l.seq, l.flights.second
		l.blocked, l.counted = blocked, s.counted
		if !s.counted {
			return
		}
		l.least, l.left = s.left, s.left-l.flights.now-l.flights.before
		l.reset, l.spent = reset, s.left == 0
		if l.pace, l.guessed = s.pace, s.pace == 0; l.guessed {
			l.pace = min(s.reset/10, maxGuess)
		}
		return
	}
	l.blocked = later(l.blocked, blocked)
	if !s.counted || !l.counted {
		return
	}
	if t.second >= l.taughtAt-1 {
		l.left++ // no longer in doubt
	}
	if s.left < l.least {
		l.left -= l.least - s.left
		l.least = s.left
	}
	if s.left == 0 {
		l.spent, l.reset = true, later(l.reset, reset)
	}
}

// turn is one sending.
type turn struct {
	epoch, seq uint64
	second     int64
}

// flights counts the turns that are under way, those of this and the last second
// apart: the server may not have counted these yet when it says what is left.
type flights struct {
	second           int64
	now, before, all int64
}

func (f *flights) roll(now time.Time) {
	switch s := now.Unix(); {
	case s == f.second+1:
		f.second, f.now, f.before = s, 0, f.now
	case s != f.second:
		f.second, f.now, f.before = s, 0, 0
	}
}

func (f *flights) start(now time.Time) int64 {
	f.roll(now)
	f.now++
	f.all++
	return f.second
}

func (f *flights) end(t turn, now time.Time) {
	f.roll(now)
	f.all--
	switch t.second {
	case f.second:
		f.now--
	case f.second - 1:
		f.before--
	}
}
