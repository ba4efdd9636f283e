package admission

// Stats is how things are at one moment.
type Stats struct {
	// Waiting is how many requests wait, by class.
	Waiting [classes]int
	// Running is how many have a place. Callers is how many are remembered.
	Running, Callers int
	Targets          []TargetStats
	// Rate is the cost that the targets work off in a second while there is always
	// something to do: 0 until that has been seen.
	Rate float64
}

// TargetStats is how one target is.
type TargetStats struct {
	// Running is the places that are taken, Limit how many there are.
	Running int
	Limit   float64
	// Tokens are those in its cache, as far as is known, TokenLimit how many may be:
	// +Inf where that is not limited.
	Tokens     int64
	TokenLimit float64
}

// Stats is how things are.
func (s *Scheduler) Stats() Stats {
	st := Stats{Running: s.running, Callers: len(s.callers.by), Rate: s.rate.perSecond}
	for i := range s.lines {
		st.Waiting[i] = s.lines[i].queued
	}
	for _, t := range s.targets {
		st.Targets = append(st.Targets, TargetStats{Running: t.running + t.sockets, Limit: t.seats(), Tokens: t.tokens, TokenLimit: t.limiter.tokens()})
	}
	return st
}
