package upstream

import "time"

// State is what the pool thinks of target i at now: its breaker, "closed", "open"
// or "half_open" (one request a second is let through as a trial), and whether
// its probes have ejected it. It is "" for a number that no target has.
func (p *Pool) State(i int, now time.Time) (breaker string, ejected bool) {
	if i < 0 || i >= len(p.targets) {
		return "", false
	}
	return p.targets[i].health.state(now)
}

// EngineFailures is how many times target i's engine metrics could not be read:
// no answer within a second, no status of success, or nothing in it that an engine
// of the configured kind says. It is 0 for a number that no target has.
func (p *Pool) EngineFailures(i int) int64 {
	if i < 0 || i >= len(p.targets) {
		return 0
	}
	return p.prober.engineFailures(i)
}
