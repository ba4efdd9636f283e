package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// maxClosed bounds how long one answer can keep a target from being chosen: what
// it said may be wrong, or no longer true.
const maxClosed = time.Minute

const (
	milli    = 1000 // one unit of cost in target.load
	mostCost = 1e12 // of one request, so that no sum overflows
)

// target is one server of a pool.
type target struct {
	name      string
	index     int // in Pool.targets and Options.Targets
	base      *url.URL
	weight    atomic.Int64 // at least 1
	transport http.RoundTripper
	inFlight  atomic.Int64 // exchanges that have not ended
	load      atomic.Int64 // their cost, in thousandths
	sockets   atomic.Int64 // exchanges of Upgrade
	latency   peakEWMA     // of its answers' heads
	health    health
}

func (p *Pool) newTarget(i int, t Target) (*target, error) {
	base, err := parseTarget(t)
	if err != nil {
		return nil, fmt.Errorf("upstream: targets[%d]: %q: %w", i, t.URL, err)
	}
	one := &target{name: t.URL, index: i, base: base, transport: t.Transport}
	one.weight.Store(int64(max(t.Weight, 1)))
	one.health = newHealth(p.options.Breaker)
	one.health.admits = p.options.Changed
	if told := p.options.OnTarget; told != nil {
		one.health.events = func(what string) { told(TargetEvent{Target: one.name, What: what}) }
	}
	if one.transport == nil {
		one.transport = p.transport
	}
	return one, nil
}

func parseTarget(t Target) (*url.URL, error) {
	if t.Transport != nil {
		return &url.URL{Scheme: "http", Host: "in-process"}, nil
	}
	u, err := url.Parse(t.URL)
	switch {
	case err != nil:
		return nil, errors.New("want a URL, for example http://10.0.0.1:8000")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, errors.New("want http:// or https:// and a host, for example http://10.0.0.1:8000")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("want no user, query or fragment")
	}
	return u, nil
}

// newTransport makes connections that suit model calls: many at once to few
// hosts, bodies passed on as they are, nothing taken from the environment.
func newTransport(o Options) *http.Transport {
	dialer := &net.Dialer{Timeout: o.Timeouts.Connect, KeepAlive: keepAliveInterval}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    o.Timeouts.Connect,
		MaxConnsPerHost:        o.MaxConnections,
		MaxIdleConnsPerHost:    o.IdleConnections,
		IdleConnTimeout:        o.IdleTimeout,
		DisableCompression:     true, // the client's Accept-Encoding decides
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxResponseHeaderBytes,
		ReadBufferSize:         connectionBufferSize,
		WriteBufferSize:        connectionBufferSize,
	}
}

// Targets is how many targets the pool has. A target's number is its place in
// Options.Targets, from 0.
func (p *Pool) Targets() int { return len(p.targets) }

// SetWeights changes the shares of the targets, in their order, for all requests whose
// target is chosen from now on; 0 means 1. The error says that there are not as many as
// targets; then nothing is changed.
func (p *Pool) SetWeights(weights []int) error {
	if len(weights) != len(p.targets) {
		return fmt.Errorf("upstream: %d weights: want %d, one for each target", len(weights), len(p.targets))
	}
	for i, t := range p.targets {
		t.weight.Store(int64(max(weights[i], 1)))
	}
	return nil
}

// Open reports whether target i may be sent requests at now: its breaker is
// closed or a trial is due, its probes succeed, and it has not asked to be left
// alone. A number that no target has is never open.
func (p *Pool) Open(i int, now time.Time) bool {
	return i >= 0 && i < len(p.targets) && p.targets[i].health.open(now)
}

// OpensAt is when the first of the targets may be open again. It is zero where one
// is open at now, and where nobody knows.
func (p *Pool) OpensAt(now time.Time) time.Time {
	var first time.Time
	for _, t := range p.targets {
		if t.health.open(now) {
			return time.Time{}
		}
		if at := t.health.opensAt(now); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// Pauses reports whether target i is not open at now for no other reason than that it
// asked for a pause. It does not fail, and will be open again by itself.
func (p *Pool) Pauses(i int, now time.Time) bool {
	return i >= 0 && i < len(p.targets) && p.targets[i].health.pauses(now)
}

// Closed is how many targets may be sent nothing now.
func (p *Pool) Closed() int {
	n, now := 0, time.Now()
	for _, t := range p.targets {
		if !t.health.open(now) {
			n++
		}
	}
	return n
}

// InFlight is how many exchanges have not ended.
func (p *Pool) InFlight() int64 {
	var n int64
	for _, t := range p.targets {
		n += t.inFlight.Load()
	}
	return n
}

// openTargets appends to open the numbers of the targets that are open at now,
// without those of except.
func (p *Pool) openTargets(open []int, now time.Time, except []int) []int {
	for i, t := range p.targets {
		if !slices.Contains(except, i) && t.health.open(now) {
			open = append(open, i)
		}
	}
	return open
}

// choose takes one of the targets of among, which are open.
func (p *Pool) choose(among []int, prefix Prefix) int {
	if len(p.targets) == 1 {
		return among[0]
	}
	load := make([]float64, len(p.targets))
	for i, t := range p.targets {
		load[i] = float64(t.load.Load()) / milli
	}
	return p.Choose(among, load, prefix)
}

// unavailable says that no target may be sent anything, why, and until when.
func (p *Pool) unavailable(now time.Time) *weir.Problem {
	var asked, open, ejected int
	for _, t := range p.targets {
		switch breaker, out := t.health.state(now); {
		case out:
			ejected++
		case breaker != "closed":
			open++
		default:
			asked++
		}
	}
	var why []string
	for _, one := range []struct {
		n    int
		what string
	}{{ejected, "failed health checks"}, {open, "failed too many requests in a row"}, {asked, "asked for a pause"}} {
		if one.n > 0 {
			why = append(why, fmt.Sprintf("%d of %d %s", one.n, len(p.targets), one.what))
		}
	}
	wait := time.Second // where nobody knows
	if at := p.OpensAt(now); at.After(now) {
		wait = at.Sub(now)
	}
	return &weir.Problem{
		Status:     http.StatusServiceUnavailable,
		Type:       weir.TypeReducedCapacity,
		Detail:     fmt.Sprintf("No target of upstream %q is available: %s.", p.options.Name, strings.Join(why, ", ")),
		RetryAfter: wait,
	}
}
