package gateway

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir/config"
)

// ReplayReport is what Replay found.
type ReplayReport struct {
	// From and To are when the first and the last request came.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Lines is how many there were, Skipped those of them that are no requests.
	Lines   int64 `json:"lines"`
	Skipped int64 `json:"skipped"`
	// CutOff says that the log is compressed and its end is missing: what was there is
	// replayed. The last of its lines may be half a line, which is skipped.
	CutOff bool `json:"cut_off,omitempty"`
	// Logged is what the log says, New what the new configuration makes of it.
	Logged ReplayTotals `json:"logged"`
	New    ReplayTotals `json:"new"`
	// Routes, Callers and Policies say what changes for whom: routes by name, callers and
	// policies by what changes most.
	Routes   []ReplayGroup  `json:"routes"`
	Callers  []ReplayGroup  `json:"callers"`
	Policies []ReplayPolicy `json:"policies"`
	// Assumptions are those that were made, the one that touches most requests first.
	Assumptions []ReplayAssumption `json:"assumptions"`
}

// ReplayTotals are sums over all requests.
type ReplayTotals struct {
	Requests int64 `json:"requests"`
	// Each request is counted in one of these.
	Upstream  int64 `json:"upstream"`
	Hits      int64 `json:"hits"`
	Stale     int64 `json:"stale"`
	Collapsed int64 `json:"collapsed"`
	Denied    int64 `json:"denied"`
	Shed      int64 `json:"shed"`
	Jobs      int64 `json:"jobs"`
	Left      int64 `json:"left"`
	Other     int64 `json:"other"`
	// ShedBy is Shed by reason.
	ShedBy map[string]int64 `json:"shed_by,omitempty"`
	// Calls is how often the upstream was asked, in the background too; Seconds is how
	// long it worked on that, InputTokens and OutputTokens what it used.
	Calls        int64   `json:"upstream_calls"`
	Seconds      float64 `json:"upstream_seconds"`
	InputTokens  int64   `json:"input_tokens"`
	OutputTokens int64   `json:"output_tokens"`
	// Wait is how long those waited that the upstream was asked for.
	Wait ReplayWait `json:"queue_ms"`
}

// ReplayWait are waits in milliseconds: half, 95 % and 99 % were not longer, and the
// longest.
type ReplayWait struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// ReplayGroup is what changes for a route or a caller.
type ReplayGroup struct {
	Name     string `json:"name"`
	Requests int64  `json:"requests"`
	// Logged and New are how its requests were answered.
	Logged ReplayCounts `json:"logged"`
	New    ReplayCounts `json:"new"`
	// Newly is how many are refused that were not, by a policy or a queue; NoLonger how
	// many are not that were.
	Newly    int64 `json:"newly_refused"`
	NoLonger int64 `json:"no_longer_refused"`
}

// ReplayCounts is how requests were answered.
type ReplayCounts struct {
	Upstream int64 `json:"upstream"`
	Cached   int64 `json:"cached"`
	Denied   int64 `json:"denied"`
	Shed     int64 `json:"shed"`
}

// ReplayPolicy is how many requests a policy refused. Name has its scope, where that is
// known: "plan:pro daily".
type ReplayPolicy struct {
	Name   string `json:"name"`
	Logged int64  `json:"logged"`
	New    int64  `json:"new"`
}

// ReplayAssumption is something that the log does not say, and how many requests that
// touched.
type ReplayAssumption struct {
	What     string `json:"what"`
	Requests int64  `json:"requests"`
}

// maxGroups bounds the routes, callers and policies that are counted each by itself.
// What is beyond is counted together.
const (
	maxGroups   = 100_000
	groupOthers = "(others)"
	groupNone   = "(none)"
	// mostCallers is how many callers a report has.
	mostCallers = 100
)

// tally adds up what became of the requests.
type tally struct {
	replayer    *replayer
	logged, new ReplayTotals
	waits       [2][]int64 // logged and new, in nanoseconds
	routes      map[string]*ReplayGroup
	callers     map[string]*ReplayGroup
	policies    map[string]*ReplayPolicy
	assumed     [assumptions]int64
	changed     int64 // refused and no more, or the other way round
	each        func(ReplayedRequest)
}

func newTally(v *replayer) *tally {
	return &tally{replayer: v, routes: map[string]*ReplayGroup{}, callers: map[string]*ReplayGroup{}, policies: map[string]*ReplayPolicy{}}
}

// worked counts a call of the upstream.
func (t *tally) worked(to *ReplayTotals, service, input, output int64) {
	to.Calls++
	to.Seconds += time.Duration(service).Seconds()
	to.InputTokens += input
	to.OutputTokens += output
}

// add counts a request.
func (t *tally) add(r *rerun, o outcome, status int) {
	in := r.in
	route := in.route
	if r.x != nil && r.x.chosen != nil {
		route = r.x.chosen.name
	}
	was := ReplayOutcome{Result: in.result.String(), Status: int(in.status), Policy: in.policy, Shed: in.shed, Queued: time.Duration(in.queued)}
	is := ReplayOutcome{Result: o.String(), Status: status}
	if r.x != nil {
		is.Policy, is.Shed = r.deniedBy(), r.x.shedFor
	}
	if r.began != 0 {
		is.Queued = time.Duration(r.began - r.asked)
	}
	if in.called {
		t.worked(&t.logged, in.service, in.input, in.output)
	}
	t.count(&t.logged, 0, was)
	t.count(&t.new, 1, is)
	t.group(t.routes, route, was, is)
	t.group(t.callers, in.caller, was, is)
	if was.Policy != "" {
		t.policy(was.Policy).Logged++
	}
	if is.Policy != "" {
		t.policy(is.Policy).New++
	}
	if was.refused() != is.refused() {
		t.changed++
	}
	if t.each != nil {
		t.each(ReplayedRequest{ID: in.id, Time: time.Unix(0, in.at).UTC(), Caller: in.caller, Route: route, Logged: was, New: is})
	}
}

// deniedBy is the policy that refused the request, with its scope.
func (r *rerun) deniedBy() string {
	for i := range r.x.takes {
		if t := &r.x.takes[i]; r.x.policy != "" && t.Policy.Name == r.x.policy && !t.Decision.Allowed && !t.Policy.Shadow {
			return t.Policy.Scope + " " + t.Policy.Name
		}
	}
	return r.x.policy
}

func (o *ReplayOutcome) refused() bool { return o.Result == ReplayDenied || o.Result == ReplayShed }

func (t *tally) count(to *ReplayTotals, which int, o ReplayOutcome) {
	to.Requests++
	switch o.Result {
	case ReplayUpstream:
		to.Upstream++
		t.waits[which] = append(t.waits[which], int64(o.Queued))
	case ReplayHit:
		to.Hits++
	case ReplayStale:
		to.Stale++
	case ReplayCollapsed:
		to.Collapsed++
	case ReplayDenied:
		to.Denied++
	case ReplayShed:
		to.Shed++
		if to.ShedBy == nil {
			to.ShedBy = map[string]int64{}
		}
		reason := o.Shed
		if _, there := to.ShedBy[reason]; !there && len(to.ShedBy) >= maxGroups {
			reason = groupOthers // a log may say anything
		}
		to.ShedBy[reason]++
	case ReplayJob:
		to.Jobs++
	case ReplayLeft:
		to.Left++
	default:
		to.Other++
	}
}

func (t *tally) group(groups map[string]*ReplayGroup, name string, was, is ReplayOutcome) {
	if name == "" {
		name = groupNone
	}
	g := groups[name]
	if g == nil && len(groups) >= maxGroups {
		name = groupOthers
		g = groups[name]
	}
	if g == nil {
		g = &ReplayGroup{Name: name}
		groups[name] = g
	}
	g.Requests++
	g.Logged.add(was)
	g.New.add(is)
	switch {
	case is.refused() && !was.refused():
		g.Newly++
	case was.refused() && !is.refused():
		g.NoLonger++
	}
}

func (c *ReplayCounts) add(o ReplayOutcome) {
	switch o.Result {
	case ReplayUpstream:
		c.Upstream++
	case ReplayHit, ReplayStale, ReplayCollapsed:
		c.Cached++
	case ReplayDenied:
		c.Denied++
	case ReplayShed:
		c.Shed++
	}
}

func (t *tally) policy(name string) *ReplayPolicy {
	if p, ok := t.policies[name]; ok {
		return p
	}
	if len(t.policies) >= maxGroups {
		name = groupOthers
	}
	p, ok := t.policies[name]
	if !ok {
		p = &ReplayPolicy{Name: name}
		t.policies[name] = p
	}
	return p
}

// report is all of it.
func (t *tally) report(l *accessLog, c *config.Config) *ReplayReport {
	r := &ReplayReport{Lines: l.lines, Skipped: l.skipped, CutOff: l.cutOff, Logged: t.logged, New: t.new}
	if n := len(l.requests); n > 0 {
		r.From, r.To = time.Unix(0, l.requests[0].at).UTC(), time.Unix(0, l.requests[n-1].at).UTC()
	}
	r.Logged.Wait, r.New.Wait = waitsOf(t.waits[0]), waitsOf(t.waits[1])
	r.Routes, r.Callers = groupsOf(t.routes), groupsOf(t.callers)
	slices.SortFunc(r.Routes, func(a, b ReplayGroup) int { return cmp.Compare(a.Name, b.Name) })
	r.Callers = r.Callers[:min(len(r.Callers), mostCallers)]
	r.Policies = []ReplayPolicy{}
	for _, p := range t.policies {
		r.Policies = append(r.Policies, *p)
	}
	slices.SortFunc(r.Policies, func(a, b ReplayPolicy) int {
		return cmp.Or(cmp.Compare(max(b.Logged, b.New), max(a.Logged, a.New)), cmp.Compare(a.Name, b.Name))
	})
	r.Assumptions = t.assumptions(c)
	return r
}

// assumptions are those that were made for each request, and those that are made for all.
func (t *tally) assumptions(c *config.Config) []ReplayAssumption {
	made := []ReplayAssumption{}
	for a, n := range t.assumed {
		if n > 0 {
			made = append(made, ReplayAssumption{assumption(a).String(), n})
		}
	}
	if !strings.HasPrefix(c.Store.URL, "memory:") {
		made = append(made, ReplayAssumption{"what other instances count in the shared store is not in this log: replay the logs of all instances together", t.new.Requests})
	}
	if t.changed > 0 {
		made = append(made, ReplayAssumption{"refused in one and not in the other; its client comes back, or does not, as it does in the log", t.changed})
	}
	made = append(made, ReplayAssumption{"counts, caches and queues are empty when the log begins", t.new.Requests})
	slices.SortStableFunc(made, func(a, b ReplayAssumption) int { return cmp.Compare(b.Requests, a.Requests) })
	return made
}

// groupsOf are groups, those first whose requests are refused otherwise than they were.
func groupsOf(by map[string]*ReplayGroup) []ReplayGroup {
	groups := make([]ReplayGroup, 0, len(by))
	for _, g := range by {
		groups = append(groups, *g)
	}
	slices.SortFunc(groups, func(a, b ReplayGroup) int {
		return cmp.Or(cmp.Compare(b.Newly+b.NoLonger, a.Newly+a.NoLonger), cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Name, b.Name))
	})
	return groups
}

// waitsOf sorts nanoseconds, and reads the report's milliseconds off them.
func waitsOf(waits []int64) ReplayWait {
	if len(waits) == 0 {
		return ReplayWait{}
	}
	slices.Sort(waits)
	at := func(share float64) float64 {
		i := min(int(share*float64(len(waits))), len(waits)-1)
		return float64(waits[i]/int64(time.Microsecond)) / 1000
	}
	return ReplayWait{P50: at(0.5), P95: at(0.95), P99: at(0.99), Max: at(1)}
}
