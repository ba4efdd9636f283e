package gateway

import (
	"encoding/json"
	"time"
)

// Snapshot is what a gateway does at a moment, and did in the last minutes: what
// dashboards show. Rates are a second, shares from 0 to 1, and times in milliseconds.
type Snapshot struct {
	// At is the moment, Started when the gateway was made, Version what runs.
	At      time.Time `json:"at"`
	Started time.Time `json:"started"`
	Version string    `json:"version"`
	// WindowS is how many seconds the figures of Traffic, Routes, Callers and Upstreams
	// are of: less than that has passed in the first minutes.
	WindowS float64 `json:"window_s"`

	Traffic Traffic         `json:"traffic"`
	Series  Series          `json:"series"`
	Routes  []RouteSnapshot `json:"routes"` // the slowest first
	// Callers are the 100 with most requests, and behind them the 100 with most
	// refusals. CallersOf is how many there were in the window: an estimate where that is
	// more than a thousand.
	Callers   []CallerSnapshot   `json:"callers"`
	CallersOf int                `json:"callers_of"`
	Cache     CacheSnapshot      `json:"cache"`
	Upstreams []UpstreamSnapshot `json:"upstreams"` // by name
	Jobs      *JobsSnapshot      `json:"jobs,omitempty"`
	Store     HealthSnapshot     `json:"store"`
	Database  *HealthSnapshot    `json:"database,omitempty"`
	Config    ConfigSnapshot     `json:"config"`
	Auto      []AutoSnapshot     `json:"auto"` // what load has moved, by what it is
	Events    []EventSnapshot    `json:"events"`
}

// Traffic are the requests of a window.
type Traffic struct {
	Rate     float64 `json:"rate"`
	InFlight int64   `json:"in_flight"`
	Requests int64   `json:"requests"`
	// Errors were answered 5xx by the upstream, or because it gave no answer or something
	// here failed; refusals, below, are none, nor is what only the request was the reason of.
	Errors  int64 `json:"errors"`
	Refused int64 `json:"refused"` // over a quota: 429
	Shed    int64 `json:"shed"`    // by the queue: 503, 529
	// Unauthorized were not let in: 401, 403, and 429 for too many keys that are not valid.
	// Uncounted were refused because the shared store is away, as on_failure: closed says.
	Unauthorized int64     `json:"unauthorized"`
	Uncounted    int64     `json:"uncounted"`
	Latency      Latency   `json:"latency_ms"` // of those that a model or the cache answered, as FirstByte
	FirstByte    Latency   `json:"first_byte_ms"`
	HitRatio     *float64  `json:"hit_ratio"` // of the requests for which a cache was asked; null without any
	Saved        Saved     `json:"saved"`
	Tokens       TokenSums `json:"tokens"`
}

// Latency are quantiles in milliseconds, of N requests; all 0 of none.
type Latency struct {
	N   int64   `json:"n"`
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Saved is what answers from the cache, and those of a flight that was joined, did not
// cost: the time that the model took for the answer when it was made, and its tokens.
type Saved struct {
	Seconds float64 `json:"seconds"`
	Tokens  int64   `json:"tokens"`
}

// TokenSums are tokens that model calls used.
type TokenSums struct {
	Input  int64 `json:"input"`
	Cached int64 `json:"cached"`
	Output int64 `json:"output"`
}

// Series are the last points of time, the oldest first, Step seconds apart: at most 120,
// and fewer in the first minutes. The last one is of the last whole step, which ends at
// End. A point is null where there is nothing that it could be of.
type Series struct {
	StepS   float64    `json:"step_s"`
	End     time.Time  `json:"end"`
	Rate    []float64  `json:"rate"`
	Errors  []float64  `json:"errors"`  // a second
	Refused []float64  `json:"refused"` // for whatever reason of Traffic's, a second
	P50     []*float64 `json:"p50_ms"`
	P95     []*float64 `json:"p95_ms"`
	P99     []*float64 `json:"p99_ms"`
	Hits    []*float64 `json:"hit_ratio"`
	Saved   []float64  `json:"saved_s"` // model seconds saved a second
	Waiting []float64  `json:"waiting"` // in all queues, at the step's end
	Running []float64  `json:"running"`
}

// RouteSnapshot is one route's part.
type RouteSnapshot struct {
	Name     string `json:"name"`
	Upstream string `json:"upstream"`
	Traffic
	// Phases are where the time of the mean request went, in milliseconds.
	QueueMS    float64 `json:"queue_ms"`
	UpstreamMS float64 `json:"upstream_ms"`
	CacheMS    float64 `json:"cache_ms"`
	// Policies are what each has refused of it, by scope and name: those that did.
	Policies []PolicyRefusals `json:"policies"`
}

// PolicyRefusals are how many requests a policy has refused, or would have in shadow.
type PolicyRefusals struct {
	Policy  string `json:"policy"`
	Refused int64  `json:"refused"`
	Shadow  int64  `json:"shadow"`
}

// CallerSnapshot is one caller's part. Only the callers who use most are known by name.
type CallerSnapshot struct {
	Caller   string           `json:"caller"`
	Plan     string           `json:"plan"`
	Requests int64            `json:"requests"`
	Rate     float64          `json:"rate"`
	Hits     int64            `json:"hits"`
	Errors   int64            `json:"errors"`
	Refused  int64            `json:"refused"`
	Shed     int64            `json:"shed"`
	BusyMS   float64          `json:"busy_ms"` // of upstreams, in all
	Tokens   TokenSums        `json:"tokens"`
	Policies []PolicyRefusals `json:"policies"`
	LastSeen time.Time        `json:"last_seen"`
}

// CacheSnapshot is what the caches of all routes keep.
type CacheSnapshot struct {
	On    bool           `json:"on"` // a route has a cache
	Tiers []TierSnapshot `json:"tiers"`
	Keys  []KeySnapshot  `json:"keys"` // that saved most since the start, first
}

// TierSnapshot is one store.
type TierSnapshot struct {
	Name      string `json:"name"`
	Entries   int64  `json:"entries"`
	Bytes     int64  `json:"bytes"`
	MaxBytes  int64  `json:"max_bytes"`
	Evictions int64  `json:"evictions"`
	// Shared says that other instances have it, too: how much is in it is not known.
	Shared bool `json:"shared,omitempty"`
}

// KeySnapshot is one answer that was given again.
type KeySnapshot struct {
	Key     string    `json:"key"`
	Route   string    `json:"route"`
	Path    string    `json:"path"`
	Model   string    `json:"model"`
	Hits    int64     `json:"hits"`
	Saved   Saved     `json:"saved"`
	LastHit time.Time `json:"last_hit"`
}

// UpstreamSnapshot is one upstream: its calls, queue and targets.
type UpstreamSnapshot struct {
	Name     string           `json:"name"`
	Dialect  string           `json:"dialect"`
	Rate     float64          `json:"rate"`  // of calls
	Calls    map[string]int64 `json:"calls"` // by result
	Latency  Latency          `json:"latency_ms"`
	First    Latency          `json:"first_byte_ms"`
	Waiting  map[string]int   `json:"waiting"` // by class
	MaxQueue int              `json:"max_queue"`
	WaitMS   Latency          `json:"wait_ms"` // of those who got a place
	Refused  map[string]int64 `json:"refused"` // by reason, in the window
	Running  int              `json:"running"`
	Limit    float64          `json:"limit"`
	Targets  []TargetSnapshot `json:"targets"`
}

// TargetSnapshot is one target.
type TargetSnapshot struct {
	URL     string  `json:"url"` // without user and query
	Weight  int     `json:"weight"`
	Running int     `json:"running"`
	Limit   float64 `json:"limit"`
	// State is open: it is given work; breaker, probes or paused: it is not, and why.
	State string `json:"state"`
	// Until is when that may end; zero where nobody knows.
	Until time.Time `json:"until,omitzero"`
}

// JobsSnapshot are the jobs of all instances.
type JobsSnapshot struct {
	Waiting int64            `json:"waiting"`
	Running int64            `json:"running"`
	Ended   map[string]int64 `json:"ended"` // by state, at this instance since its start
}

// HealthSnapshot is whether something that is shared answers.
type HealthSnapshot struct {
	Kind     string `json:"kind"` // memory, redis, sqlite or postgres
	Healthy  bool   `json:"healthy"`
	Failures int64  `json:"failures"` // since the start
	Detail   string `json:"detail,omitempty"`
}

// ConfigSnapshot is which configuration is in force.
type ConfigSnapshot struct {
	File string `json:"file"` // "" where there is none
	// Loaded is when it was put in force, Reloads how often since the start.
	Loaded  time.Time `json:"loaded"`
	Reloads int64     `json:"reloads"`
	// Failed is what was wrong with the last reload, "" after one that succeeded.
	Failed    string `json:"failed,omitempty"`
	Overrides int    `json:"overrides"` // plans, routes and upstreams that are not as in the file
	// LeftOut are edits that are not in force, because they do not fit the file.
	LeftOut int `json:"left_out,omitempty"`
}

// AutoSnapshot is a value that load moves between two bounds.
type AutoSnapshot struct {
	// What is a policy, as plan:pro/pro or route:chat/all, or a TTL, as route:chat/cache.ttl.
	What string `json:"what"`
	// Kind is plan or route, and Name which; Path is the key, as plans.pro.policies[0].quota.
	Kind   string    `json:"kind"`
	Name   string    `json:"name"`
	Path   string    `json:"path"`
	Value  string    `json:"value"` // as in the file: 42, or 10m0s
	Min    string    `json:"min"`
	Max    string    `json:"max"`
	File   string    `json:"file"` // where it starts
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// EventSnapshot is something that an operator should know, the newest first.
type EventSnapshot struct {
	// ID is its own: an event that happens again is told again, with it.
	ID uint64    `json:"id"`
	At time.Time `json:"at"` // the last time
	// Kind is reload, override, eject, store, database, auto, job, key, purge or start.
	Kind string `json:"kind"`
	// Level is info, warn or error.
	Level string `json:"level"`
	Text  string `json:"text"`
	// Count is how often it happened, one soon after the other; Text says so, too.
	Count int `json:"count"`
	// Details are values that belong to it.
	Details json.RawMessage `json:"details,omitempty"`
}
