package upstream

import "time"

// The defaults of Probe.
const (
	DefaultProbeInterval = 5 * time.Second
	DefaultProbeTimeout  = time.Second
)

// How many probes in a row change a target's state. One success is enough: it took
// a working server to give it, and every further probe costs an interval. One
// failure is not: a single packet may be lost.
const (
	probeFall = 2
	probeRise = 1
)

// Probe says how targets are asked, unprompted, whether they work. A target counts
// as healthy until two probes in a row have failed; then it is ejected, sent no
// requests, until one succeeds. A probe succeeds with any status from 200 to 299;
// redirects are not followed and are failures. Targets with a Transport of their
// own are not probed.
type Probe struct {
	// Path is what is fetched with GET, after the target's base path, for example
	// /health; it may have a query. The fields of SetHeaders are sent along. "" means
	// no probes.
	Path string
	// Interval is the time between two probes of a target, give or take a tenth, so
	// that several gateways do not probe in step. Default 5s.
	Interval time.Duration
	// Timeout is the longest that a probe takes, its answer's body included.
	// Default 1s.
	Timeout time.Duration
}

// probes is what a target's probes have shown.
type probes struct {
	ejected bool
	inARow  int       // probes that contradict ejected
	next    time.Time // when the next is due
}

// ended counts a probe: TargetEjected, TargetReturned or "".
func (p *probes) ended(ok bool) string {
	if ok == !p.ejected {
		p.inARow = 0
		return ""
	}
	p.inARow++
	switch {
	case p.ejected && p.inARow >= probeRise:
		p.ejected, p.inARow = false, 0
		return TargetReturned
	case !p.ejected && p.inARow >= probeFall:
		p.ejected, p.inARow = true, 0
		return TargetEjected
	}
	return ""
}
