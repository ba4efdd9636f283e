package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Times of what is done for the log in the background.
const (
	tellAgain   = time.Second      // after the first failure, then doubled each time
	tellAtMost  = 30 * time.Second // between two attempts
	tellFor     = 10 * time.Second // one attempt
	logLateness = 10 * time.Second // within which a log tells of a purge that was appended
	followAgain = time.Second      // after a Follow that ended too early
)

// ErrPurgesShared is no failure: what PurgeOptions.Observe is told wraps it when the
// log knows again of all purges, after an error which said that it could not be told.
var ErrPurgesShared = errors.New("cache: purges are shared again")

// logged numbers a purge by the log.
func (p *Purges) logged(ctx context.Context, labels []string) (uint64, error) {
	known := p.view.Load().newest
	seq, err := p.options.Log.Append(ctx, labels, known)
	if err == nil && seq <= known {
		err = fmt.Errorf("the log of purges gave the number %d: want one above %d", seq, known)
	}
	return seq, err
}

// owe notes labels of which the log has to be told. Its caller has p.mu, and
// calls replaceLocked.
func (p *Purges) owe(labels []string) {
	p.attempt++
	for _, label := range labels {
		p.untold[label] = p.attempt
	}
	if len(p.untold) > maxPurgeLabels {
		p.untold = map[string]uint64{LabelAll: p.attempt}
	}
}

// Merge takes over what the log knows. It is what Follow calls, and for those who
// share purges in other ways.
//
// A state that is older than the one before means that the log has lost purges,
// and nobody knows which: everything is purged then, and the log told so. A state
// that is only older than a purge which this instance has just appended may have
// been on its way: the log has ten seconds to tell of that purge.
func (p *Purges) Merge(s PurgeState) {
	p.mu.Lock()
	changed := p.mergeLocked(s)
	p.mu.Unlock()
	if p.options.Log != nil {
		signal(p.wake)
	}
	if changed {
		p.observe(p.save(p.ctx))
	}
}

// mergeLocked reports whether anything is new.
func (p *Purges) mergeLocked(s PurgeState) bool {
	old := p.view.Load()
	known := old.copy()
	if !p.heard {
		p.heard = true
		close(p.first)
	}
	if s.Seq < p.told || s.Seq < old.Seq && p.options.Log == nil {
		p.told = s.Seq
		p.loseLocked(known)
		return true
	}
	p.told = s.Seq
	if s.Seq >= p.awaited {
		p.awaited = 0
	}
	if s.Seq < old.Seq && p.awaited == 0 && len(p.untold) == 0 {
		p.awaited = old.Seq
	}
	news := s.Seq > known.Seq || s.Floor > known.Floor
	known.Seq, known.Floor = max(known.Seq, s.Seq), max(known.Floor, s.Floor)
	for label, seq := range s.Labels {
		if len(label) > maxLabelBytes {
			label = LabelAll // whatever wrote it, nothing purged may stay
		}
		if seq > known.Labels[label] && seq > known.Floor {
			known.Labels[label], news = seq, true
		}
	}
	if news {
		p.replaceLocked(known)
		signal(p.unswept)
	}
	return news
}

// loseLocked purges everything, because the log has lost purges.
func (p *Purges) loseLocked(known PurgeState) {
	p.awaited = 0
	signal(p.unswept)
	if p.options.Log != nil {
		p.owe([]string{LabelAll})
	} else {
		known.Seq++
		known.Floor = known.Seq
	}
	p.replaceLocked(known)
}

// follow follows the log until Close.
func (p *Purges) follow() {
	for {
		p.options.Log.Follow(p.ctx, p.Merge)
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(followAgain): // it should have ended with its context only
		}
	}
}

// keepTelling does until Close what is left to do for the log: to tell it of
// purges that it does not know, and to see that it tells of those that it should.
func (p *Purges) keepTelling() {
	wait := tellAgain
	var late <-chan time.Time
	awaited := uint64(0)
	withheld := false // as was observed
	for {
		var again <-chan time.Time
		p.mu.Lock()
		if len(p.untold) > 0 {
			again = time.After(wait)
		}
		if p.awaited != awaited {
			awaited, late = p.awaited, nil
			if awaited > 0 {
				late = time.After(logLateness)
			}
		}
		p.mu.Unlock()
		select {
		case <-p.ctx.Done():
			return
		case <-late:
			p.overdue(awaited)
			awaited, late = 0, nil
		case <-again:
		case <-p.wake:
		}
		left, err := p.tell()
		if p.ctx.Err() != nil {
			return
		}
		if err == nil {
			wait = tellAgain
		} else {
			wait = min(2*wait, tellAtMost)
		}
		switch {
		case err != nil:
			if !withheld { // what fails once a minute is no news
				p.observe(fmt.Errorf("cache: purges cannot be shared: answers with these labels are not kept until they can: %s: %w", someLabels(left), err))
			}
			withheld = true
		case withheld && len(left) == 0:
			p.observe(fmt.Errorf("%w: answers with all labels are kept", ErrPurgesShared))
			withheld = false
		}
	}
}

// someLabels lists at most five, sorted.
func someLabels(labels []string) string {
	const most = 5
	if len(labels) <= most {
		return fmt.Sprintf("%q", labels)
	}
	return fmt.Sprintf("%q and %d more", labels[:most], len(labels)-most)
}

// overdue takes a log that has not told of the purge awaited for one that has
// lost it.
func (p *Purges) overdue(awaited uint64) {
	p.mu.Lock()
	lost := p.awaited == awaited
	if lost {
		p.loseLocked(p.view.Load().copy())
	}
	p.mu.Unlock()
	if lost {
		p.observe(fmt.Errorf("cache: the log of purges does not know of number %d, which it gave: everything is purged", awaited))
		p.observe(p.save(p.ctx))
	}
}

// tell appends what the log does not know. left is what it does not know then.
func (p *Purges) tell() (left []string, err error) {
	p.mu.Lock()
	telling := maps.Clone(p.untold)
	p.mu.Unlock()
	if len(telling) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, tellFor)
	defer cancel()
	labels := slices.Sorted(maps.Keys(telling))
	seq, err := p.logged(ctx, labels)
	if err != nil {
		return labels, err
	}
	p.mu.Lock()
	for label, attempt := range telling {
		if p.untold[label] == attempt { // else it was purged again meanwhile
			delete(p.untold, label)
		}
	}
	s := p.view.Load().copy()
	s.Seq = max(s.Seq, seq)
	s.set(labels, seq)
	left = slices.Sorted(maps.Keys(p.untold))
	p.replaceLocked(s)
	p.mu.Unlock()
	p.observe(p.save(p.ctx))
	return left, nil
}

// keepSwept deletes until Close what others have purged from the stores that only
// this instance has. Those that are shared they have swept themselves.
func (p *Purges) keepSwept() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.unswept:
		}
		var errs error
		for _, s := range p.kept {
			_, err := s.Sweep(p.ctx, p.gone)
			errs = errors.Join(errs, err)
		}
		if errs != nil && p.ctx.Err() == nil {
			p.observe(fmt.Errorf("cache: sweeping after a purge elsewhere: %w", errs))
		}
	}
}
