package redisstore

import (
	_ "embed" // the scripts
	"fmt"
	"strconv"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

//go:embed lua/lib.lua
var libLua string

//go:embed lua/take.lua
var takeLua string

//go:embed lua/settle.lua
var settleLua string

//go:embed lua/renew.lua
var renewLua string

//go:embed lua/beat.lua
var beatLua string

// The bounds of the scripts, which are those of package ratelimit: they keep
// every sum exact.
const (
	maxDebt = time.Duration((1<<63 - 1) / 4)
	maxUsed = 4 * 999_999_999_999_999
)

// The integers of a take in an answer of each script.
const (
	takeWidth   = 4
	settleWidth = 3
)

// answer is what a script said about one take.
type answer struct {
	state ratelimit.State
	held  bool  // the ID had its slot already
	there int   // how many slots Redis has; this instance may hold more
	ok    bool  // the script's verdict
	now   int64 // by the server's clock, in nanoseconds since the Unix epoch
}

// pair appends d as seconds and nanoseconds: together they do not fit into the
// scripts' numbers.
func pair(args []string, d time.Duration) []string {
	return append(args, strconv.FormatInt(int64(d/time.Second), 10), strconv.FormatInt(int64(d%time.Second), 10))
}

// clockArgs tells the scripts which clock to use. nil is the server's.
func clockArgs(now *time.Time) []string {
	if now == nil {
		return []string{"", ""}
	}
	return pair(nil, time.Duration(now.UnixNano()))
}

// windowArgs are the length of p's window in microseconds and the start from
// which aligned windows are counted.
func windowArgs(args []string, p *ratelimit.Policy) []string {
	start := "0"
	switch {
	case p.Algorithm == ratelimit.FixedWindow && p.Window == ratelimit.Month:
		start = "month"
	case p.Algorithm == ratelimit.FixedWindow && p.Window == ratelimit.Year:
		start = "year"
	case p.Window%(7*24*time.Hour) == 0:
		start = "345600000000" // 1970-01-05 was a Monday
	}
	return append(args, strconv.FormatInt(int64(p.Window/time.Microsecond), 10), start)
}

// takeArgs appends what take.lua needs to know of t. own is how many slots of the
// count this instance holds.
func takeArgs(args []string, t *ratelimit.Take, lease time.Duration, own int) []string {
	p, kind, shadow := t.Policy, kindOf(t.Policy), "0"
	if p.Shadow {
		shadow = "1"
	}
	// A cost above the burst is denied before anything is multiplied.
	cost := min(max(t.Cost, 0), t.Burst()+1)
	args = append(args, kind, shadow, strconv.FormatInt(cost, 10), strconv.FormatInt(t.Burst(), 10))
	switch kind {
	case kindBucket:
		debit := time.Duration(0)
		if cost <= t.Burst() {
			debit = time.Duration(cost) * p.Interval()
		}
		return pair(pair(args, debit), time.Duration(t.Burst())*p.Interval())
	case kindSlots:
		return append(args, t.ID, strconv.FormatInt(lease.Milliseconds(), 10), strconv.Itoa(own), "")
	}
	return append(windowArgs(args, p), "", "")
}

// settleArgs appends what settle.lua needs to know of t.
func settleArgs(args []string, t *ratelimit.Take) []string {
	p, kind, sign := t.Policy, kindOf(t.Policy), "+"
	if t.Cost < 0 {
		sign = "-"
	}
	args = append(args, kind, sign)
	switch kind {
	case kindBucket:
		most := int64(maxDebt / p.Interval())
		return append(pair(args, magnitude(t.Cost, most)*p.Interval()), "", "")
	case kindSlots:
		return append(args, t.ID, "", "", "")
	}
	args = append(args, strconv.FormatInt(int64(magnitude(t.Cost, maxUsed)), 10))
	of := ""
	if t.Taken != 0 {
		of = strconv.FormatInt(p.WindowEnd(t.Taken)/1000, 10)
	}
	return append(windowArgs(args, p), of)
}

// magnitude is n without its sign, at most most.
func magnitude(n, most int64) time.Duration {
	n = min(max(n, -most), most)
	return time.Duration(max(n, -n))
}

// readTakes reads an answer of take.lua about n takes.
func readTakes(ints []int64, takes []ratelimit.Take, group []int) (took bool, answers []answer, err error) {
	if len(ints) != 3+takeWidth*len(group) {
		return false, nil, fmt.Errorf("the script answered with %d integers for %d takes", len(ints), len(group))
	}
	answers = make([]answer, len(group))
	now := ints[1]*int64(time.Second) + ints[2]
	for i, at := range group {
		v := ints[3+takeWidth*i:]
		answers[i] = answer{now: now, ok: v[3] == 1}
		answers[i].read(takes[at].Policy, v)
	}
	return ints[0] == 1, answers, nil
}

// readSettled reads an answer of settle.lua about n takes.
func readSettled(ints []int64, takes []ratelimit.Take, group []int) ([]answer, error) {
	if len(ints) != 2+settleWidth*len(group) {
		return nil, fmt.Errorf("the script answered with %d integers for %d takes", len(ints), len(group))
	}
	answers := make([]answer, len(group))
	now := ints[0]*int64(time.Second) + ints[1]
	for i, at := range group {
		answers[i] = answer{now: now, ok: true}
		answers[i].read(takes[at].Policy, ints[2+settleWidth*i:])
	}
	return answers, nil
}

// read makes the state of v, whose meaning depends on the kind.
func (a *answer) read(p *ratelimit.Policy, v []int64) {
	switch kindOf(p) {
	case kindBucket:
		a.state = ratelimit.State{At: v[0]*int64(time.Second) + v[1]}
	case kindSlots:
		a.state, a.held, a.there = ratelimit.State{Used: v[0]}, v[1] == 1, int(v[2])
	default:
		a.state = ratelimit.State{At: v[0] * 1000, Used: v[1], Before: v[2]}
	}
}

// decide computes t's decision from what the script found, with the function
// that every store uses, and reports whether it agrees with the script.
func (a *answer) decide(t *ratelimit.Take) bool {
	cost := t.Cost
	if a.held {
		cost = 0
	}
	_, t.Decision = t.Policy.Decide(a.state, cost, a.now)
	t.Taken = a.now
	return t.Decision.Allowed == a.ok
}

// left says in t's decision how much is left of the count, and leaves what was
// decided.
func (a *answer) left(t *ratelimit.Take) {
	allowed, wait := t.Decision.Allowed, t.Decision.RetryAfter
	_, t.Decision = t.Policy.Decide(a.state, 0, a.now)
	t.Decision.Allowed, t.Decision.RetryAfter = allowed, wait
}

// leaseArgs are a lease and who has it.
func leaseArgs(lease time.Duration, ids ...string) []string {
	return append([]string{strconv.FormatInt(lease.Milliseconds(), 10)}, ids...)
}
