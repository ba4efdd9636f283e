package admission

import (
	"math"
	"slices"
	"time"
)

// place gives it to a target that has room, if one has.
func (s *Scheduler) place(it *Item, now time.Time) bool {
	r := &it.request
	if g := s.open(r); g != nil {
		s.run(it, g.target, g, now)
		return true
	}
	if !s.fit(it, now, (*target).blocked) {
		return false
	}
	s.run(it, s.choose(r), nil, now)
	s.gather(it.group, now)
	return true
}

// fit finds the targets that it may be given to, and tells full of those that are open
// and have no room for it. It reports whether there are any.
func (s *Scheduler) fit(it *Item, now time.Time, full func(*target)) bool {
	s.fits = s.fits[:0]
	r, class, untried := &it.request, s.goesAs(it, now), 0
	for i, t := range s.targets {
		if s.options.Open != nil && !s.options.Open(i, now) {
			continue
		}
		if !t.room(r, class) {
			full(t)
			continue
		}
		if slices.Contains(r.Tried, i) {
			s.fits = append(s.fits, i)
			continue
		}
		s.fits = slices.Insert(s.fits, untried, i)
		untried++
	}
	if len(s.fits) == 0 || untried == 0 && it.untried {
		return false
	}
	if untried > 0 {
		s.fits = s.fits[:untried]
	}
	return true
}

func (s *Scheduler) choose(r *Request) int {
	if s.options.Choose != nil && len(s.targets) > 1 { // though one alone fits: it learns what went where
		if i := s.options.Choose(s.fits, s.load, r); slices.Contains(s.fits, i) {
			return i
		}
	}
	best := s.fits[0]
	for _, i := range s.fits[1:] {
		if s.load[i]/s.targets[i].weight < s.load[best]/s.targets[best].weight {
			best = i
		}
	}
	return best
}

// room reports whether t takes r now. A target that does nothing takes everything:
// else what is larger than its limits would wait for ever.
func (t *target) room(r *Request, class Class) bool {
	switch {
	case t.items == 0:
		return true
	case float64(t.running+t.sockets+1) > t.most/t.parts:
		return false
	case t.items == t.sockets && !t.fixed:
		return true
	case float64(t.running+t.socketsInLimit()+1) > math.Floor(t.seats())-kept(class, math.Floor(t.seats())):
		return false
	case !r.hasTokens():
		return true
	case float64(t.tokens+r.Input+r.Output) > t.limiter.tokens():
		return false
	}
	return t.prefill == 0 || float64(t.prefill+r.Input) <= t.limiter.prefill()
}

// socketsInLimit is how many sockets count where the limit is fixed.
func (t *target) socketsInLimit() int {
	if t.fixed {
		return t.sockets
	}
	return 0
}
