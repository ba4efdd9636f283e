package gateway

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/inferweir/weir/admission"
)

// The rules by which load moves values: down quickly, while somebody is refused or waits
// for long, and up slowly, while there is room.
const (
	// autoWindow is how far pressure looks back, and the least time between two steps of
	// a quota: the effect of one shows in that time.
	autoWindow = 5 * time.Second
	// autoLong is the share of the longest wait from which a wait is long.
	autoLong = 0.1
	// autoDown is what a step under pressure leaves of a quota, autoUp the part of its
	// bounds that a step with room adds.
	autoDown = 0.8
	autoUp   = 0.05
	// autoRoom is the share of the places below which there is room, and autoCalm for how
	// long that must be so.
	autoRoom = 0.7
	autoCalm = 15 * time.Second
	// autoTTLEvery is the least time between two steps of a TTL, which is doubled or
	// halved: its effect shows slowly.
	autoTTLEvery = time.Minute
)

// pressure is how busy an upstream is.
type pressure struct {
	upstream      string
	waited, shed  int64         // in autoWindow: who waited for longer than long, or was refused
	long          time.Duration // from which a wait is long
	waiting       int
	running, most int
}

func (p pressure) high() bool { return p.waited > 0 || p.shed > 0 }

// room reports whether the upstream could do more.
func (p pressure) room() bool {
	return !p.high() && p.waiting == 0 && float64(p.running) < autoRoom*float64(p.most)
}

// why says what p is, for who reads why a value was moved.
func (p pressure) why() string {
	switch {
	case p.shed > 0:
		return fmt.Sprintf("the queue of %s refused %d %s in the last %v", p.upstream, p.shed, requests(p.shed), autoWindow)
	case p.waited > 0:
		return fmt.Sprintf("%d %s to %s waited longer than %v in the last %v", p.waited, requests(p.waited), p.upstream, p.long, autoWindow)
	}
	return fmt.Sprintf("nobody waited at %s for %v, and %d of its %d places are taken", p.upstream, autoCalm, p.running, p.most)
}

func requests(n int64) string {
	if n == 1 {
		return "request"
	}
	return "requests"
}

// autoValue is a value that load moves.
type autoValue struct {
	autoStart
	value  int64
	reason string
	since  time.Time // when it became what it is
	calm   time.Time // since when there is room; zero: there is none
	up     int       // where it went last: 1, -1, or 0 for nowhere yet
}

// next is what load makes of v, and whether that is another value. signals are the
// upstreams that matter to v, at least one.
func (v autoValue) next(signals []pressure, now time.Time) (autoValue, bool) {
	worst, room := signals[0], true
	for _, p := range signals {
		if p.shed+p.waited > worst.shed+worst.waited || p.shed+p.waited == worst.shed+worst.waited && p.running*worst.most > worst.running*p.most {
			worst = p
		}
		room = room && p.room()
	}
	switch {
	case !room:
		v.calm = time.Time{}
	case v.calm.IsZero():
		v.calm = now
	}
	every := autoWindow
	if v.ttl {
		every = autoTTLEvery
	}
	to := v.value
	switch {
	case v.up != 0 && now.Sub(v.since) < every:
	case worst.high():
		to = v.relieved()
	case room && now.Sub(v.calm) >= autoCalm:
		to = v.relaxed()
	}
	if to == v.value {
		return v, false
	}
	word := "lowered"
	if v.up = -1; to > v.value {
		word, v.up = "raised", 1
	}
	v.reason = fmt.Sprintf("%s from %s to %s: %s", word, v.shown(v.value), v.shown(to), worst.why())
	v.value, v.since = to, now
	return v, true
}

// relieved is the value with which there is less to do, relaxed that with more.
func (v autoValue) relieved() int64 {
	if v.ttl {
		return min(2*v.value, v.high)
	}
	return max(int64(math.Floor(autoDown*float64(v.value))), v.low)
}

func (v autoValue) relaxed() int64 {
	if v.ttl {
		return max(v.value/2, v.low)
	}
	return min(v.value+max(int64(autoUp*float64(v.high-v.low)), 1), v.high)
}

// shown is a value in the form of the file.
func (v autoValue) shown(value int64) string {
	if v.ttl {
		return time.Duration(value).String()
	}
	return strconv.FormatInt(value, 10)
}

// stepAutos moves what load moves, once.
func (g *Gateway) stepAutos(context.Context) {
	now := time.Now()
	g.changes.Lock()
	defer g.changes.Unlock()
	was := g.setup.Load()
	starts := autoStarts(was.config)
	if g.live.closed || len(starts) == 0 {
		return
	}
	signals := was.pressures(now)
	values, next := map[string]autoValue{}, maps.Clone(was.moved)
	var turned []string
	moves := false
	for key, start := range starts {
		v := g.autoValues[key]
		direction := v.up
		moved := false
		if matter := start.matter(signals); len(matter) > 0 {
			v, moved = v.next(matter, now)
		}
		if values[key] = v; !moved {
			continue
		}
		if moves = true; next == nil {
			next = map[string]int64{}
		}
		next[key] = v.value
		if v.up != direction {
			turned = append(turned, key)
		}
	}
	if moves {
		s, err := g.build(was.config, next, was)
		if err != nil {
			g.report(err)
			return
		}
		g.swap(s)
	}
	g.autoValues = values
	slices.Sort(turned)
	for _, key := range turned {
		g.Logger().Info("load moves a value", "what", key, "reason", values[key].reason)
		g.Note(EventSnapshot{Kind: "auto", Text: key + " is " + values[key].reason})
	}
}

// settleAutosLocked gives each value that s moves its place, and takes away what is no
// value of s. g.changes is held.
func (g *Gateway) settleAutosLocked(s *setup, now time.Time) {
	var values map[string]autoValue
	for key, start := range autoStarts(s.config) {
		v := g.autoValues[key].at(start, s.moved, key)
		if v.since.IsZero() {
			v.since = now
		}
		if values == nil {
			values = map[string]autoValue{}
		}
		values[key] = v
	}
	g.autoValues = values
}

// at is v where it is now: where it starts, unless it was moved.
func (v autoValue) at(start autoStart, m moved, key string) autoValue {
	value, moved := m[key]
	if !moved {
		value = start.start
	}
	v.place = start.place // others may have come before it
	if v.autoStart != start || v.value != value {
		v = autoValue{autoStart: start, value: value, reason: "as in the file"}
		if moved {
			v.reason = "moved before"
		}
	}
	return v
}

// pressures is how busy the upstreams are.
func (s *setup) pressures(now time.Time) map[string]pressure {
	all := map[string]pressure{}
	for name, u := range s.upstreams {
		if u.pool == nil {
			continue
		}
		p := pressure{upstream: name, long: time.Duration(autoLong * float64(u.config.Queue.MaxWait))}
		p.shed, p.waited = u.counts.lately.sums(now)
		stats := u.queue.Stats()
		for _, n := range stats.Waiting {
			p.waiting += n
		}
		for _, t := range stats.Targets {
			p.running += t.Running
			p.most += int(t.Limit)
		}
		all[name] = p
	}
	return all
}

// lately counts what a queue did in the last seconds, in a ring of one place a second.
type lately struct {
	mu     sync.Mutex
	long   time.Duration // from which a wait is long; guarded by mu, as all that follows
	ring   [8]struct{ shed, waited int64 }
	newest int64 // the second, in Unix time
}

// forward brings the ring to now.
func (l *lately) forwardLocked(now time.Time) *struct{ shed, waited int64 } {
	second := now.Unix()
	for ; l.newest < second; l.newest++ {
		if second-l.newest > int64(len(l.ring)) {
			l.newest = second - int64(len(l.ring))
		}
		l.ring[(l.newest+1)%int64(len(l.ring))] = struct{ shed, waited int64 }{}
	}
	return &l.ring[l.newest%int64(len(l.ring))]
}

// add counts a decision of the queue.
func (l *lately) add(e admission.Event, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.forwardLocked(now)
	switch e.Reason {
	case admission.QueueFull, admission.WaitTooLong, admission.Expired:
		at.shed++
	case "":
		if l.long > 0 && e.Wait > l.long {
			at.waited++
		}
	}
}

// sums are those of autoWindow.
func (l *lately) sums(now time.Time) (shed, waited int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forwardLocked(now)
	for i := range int64(autoWindow / time.Second) {
		at := l.ring[(l.newest-i)%int64(len(l.ring))]
		shed, waited = shed+at.shed, waited+at.waited
	}
	return shed, waited
}

func (l *lately) setLong(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.long = d
}

// Auto are the values that load moves, by what they are. One that is where it starts is
// among them.
func (g *Gateway) Auto() []AutoSnapshot {
	g.changes.Lock()
	defer g.changes.Unlock()
	all := make([]AutoSnapshot, 0, len(g.autoValues))
	for _, key := range slices.Sorted(maps.Keys(g.autoValues)) {
		v := g.autoValues[key]
		all = append(all, AutoSnapshot{
			What: key, Kind: v.place.kind, Name: v.place.name, Path: v.place.path,
			Value: v.shown(v.value), Min: v.shown(v.low), Max: v.shown(v.high), File: v.shown(v.start),
			Reason: v.reason, Since: v.since,
		})
	}
	return all
}
