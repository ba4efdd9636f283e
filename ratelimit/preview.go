package ratelimit

import (
	"context"
	"time"

	"github.com/inferweir/weir"
)

// Preview decides takes as s would now, and takes nothing: it fills in every Decision,
// of which Remaining, Reset and Full are as they are before the takes, and reports
// whether Take would take. It is for those who ask what would become of a request.
//
// A MemoryStore decides itself, so the answer is exact. Another store is looked at, and
// what it would decide is worked out: exact, too, but that a RetryAfter of a sliding
// window is the least that it can be, and that takes of one count do not see each other.
func Preview(ctx context.Context, s Store, takes []Take, now time.Time) (bool, error) {
	if err := Check(takes); err != nil {
		return false, err
	}
	if len(takes) == 0 {
		return true, nil
	}
	if m, ok := s.(*MemoryStore); ok {
		return m.preview(takes, now), nil
	}
	looks := make([]Take, len(takes))
	copy(looks, takes)
	for i := range looks {
		looks[i].Cost = 0
	}
	if _, err := s.Take(ctx, looks, now); err != nil {
		return false, err
	}
	for i := range looks {
		looks[i].Cost = takes[i].Cost
		looks[i].workOut()
	}
	copy(takes, looks)
	return Allowed(takes), nil
}

// preview has the store decide, and writes nothing, as for takes of which one is denied.
func (s *MemoryStore) preview(takes []Take, now time.Time) bool {
	var room [MaxTakes]place
	c := call{store: s, takes: takes, now: s.unix(now), previews: true}
	c.take(room[:len(takes)])
	return Allowed(takes)
}

// workOut makes of the decision of a look, which took nothing, that of t's cost.
func (t *Take) workOut() {
	g, d := t.Policy.ready, &t.Decision
	switch {
	case t.Cost <= 0 || t.Mode == Open:
		return
	case g.kind == slots:
		if d.Allowed, d.RetryAfter = d.Remaining > 0, 0; !d.Allowed {
			d.RetryAfter = SlotRetry
		}
		return
	case t.Cost > g.burst:
		d.Allowed, d.RetryAfter = false, weir.Never
		return
	}
	d.Allowed, d.RetryAfter = t.Cost <= d.Remaining, 0
	switch {
	case d.Allowed:
	case g.kind == bucket:
		d.RetryAfter = max(time.Duration(t.Cost)*g.interval-(g.capacity-d.Full), 1)
	default:
		d.RetryAfter = d.Reset
	}
}
