package ratelimit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A Policy bounds how much of a unit may be used: Burst at once, then one every
// Window/Quota. Over any time t it admits at most Burst + Quota*t/Window units.
type Policy struct {
	// Name appears in the RateLimit fields and in refusals. It must be unique
	// in its scope: two policies of one scope, name and unit share a count.
	Name string
	// Scope says whose policy it is, for example "plan:default" or
	// "route:chat": the same name in another scope is another count.
	Scope string
	// Quota is how many units fit into Window. At least 1.
	Quota int64
	// Window is the time in which Quota units come back. From a millisecond to
	// a year; of windows in whole microseconds. Month and Year are the mean month and year;
	// to FixedWindow they are those of the calendar.
	Window time.Duration
	// Burst is how many units may be used at once. 0 means Quota. Only
	// TokenBucket has one.
	Burst int64
	// Unit is what is counted. "" means Requests. This package only counts:
	// what a unit is, and what a request costs in it, is the caller's affair.
	Unit string
	// Algorithm is TokenBucket, SlidingWindow or FixedWindow. "" means
	// TokenBucket.
	Algorithm string
	// Concurrent, in place of Quota and Window, bounds how many requests run
	// at the same time: each holds a slot from Take to Settle.
	Concurrent int64
	// Shadow makes the policy decide and count without refusing: a take that it
	// denies is not taken from it, and does not keep the others from theirs.
	Shadow bool
	// MaxExcess lets the instances that share a store hold units in advance, so
	// that most takes need not ask it: in no stretch of time is more admitted than
	// TokenBucket allows, plus MaxExcess*Quota. 0, the default, asks every time.
	// At most 0.5. Only TokenBucket can, and only Leases do.
	MaxExcess float64

	ready *gauge // set by Prepare
}

// The algorithms of a policy.
const (
	// TokenBucket admits Burst at once, then one every Window/Quota: in any time
	// t at most Burst + Quota*t/Window. It is the generic cell rate algorithm (ATM
	// Forum, TM 4.1, 1999), exact to a nanosecond a unit.
	TokenBucket = "token_bucket"
	// SlidingWindow estimates what was used in the last Window from two aligned
	// windows: all of the present one, and of the one before the part that is
	// still inside, as if its use had been even. It admits at most Quota in an
	// aligned window, and in any time t at most Quota + Quota*t/Window. Where the
	// use was not even the estimate is wrong by at most what was used in the
	// window before, times the smaller part of it that is inside or outside: the
	// count is too high when that use came early, and too low when it came late.
	SlidingWindow = "sliding_window"
	// FixedWindow admits Quota in each aligned window: minutes and hours begin
	// with those of UTC, days at midnight, weeks on Monday, Month and Year with
	// the calendar's. Across an edge twice the Quota can come at once.
	FixedWindow = "fixed_window"
)

// Month and Year are windows of the mean length in the Gregorian calendar,
// 30.436875 and 365.2425 days.
const (
	Month = 2_629_746 * time.Second
	Year  = 12 * Month
)

// Prepare checks p and returns a copy that stores can count with, in which every
// default is filled in. The copy does not change with p.
func (p Policy) Prepare() (*Policy, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	p.Unit = p.unit()
	if p.Concurrent == 0 {
		p.Burst = p.burst()
		p.Algorithm = cmp.Or(p.Algorithm, TokenBucket)
	}
	p.ready = newGauge(&p)
	return &p, nil
}

// Requests is the unit of a policy that names none.
const Requests = "requests"

// The bounds of a policy's window. Shorter than a millisecond is no limit that
// a client could obey, longer than a year is no rate.
const (
	MinWindow = time.Millisecond
	MaxWindow = 366 * 24 * time.Hour
)

// Units that ParsePolicy knows, in the order in which messages list them.
func units() []string {
	return []string{Requests, "tokens", "input_tokens", "output_tokens", "bytes"}
}

// Validate reports the first thing that is wrong with p.
func (p Policy) Validate() error {
	switch {
	case strings.ContainsFunc(p.Name, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("name: %q: want printable ASCII: it stands in a header field", p.Name)
	case p.Concurrent < 0:
		return fmt.Errorf("concurrent: %d: want at least 1", p.Concurrent)
	case p.Concurrent > maxInteger:
		return fmt.Errorf("concurrent: %d: want at most %d", p.Concurrent, int64(maxInteger))
	case p.Concurrent > 0 && (p.Quota != 0 || p.Window != 0 || p.Burst != 0 || p.Algorithm != "" || p.MaxExcess != 0):
		return fmt.Errorf("concurrent: %d: takes no quota, window, burst, algorithm or lease", p.Concurrent)
	case p.Concurrent > 0 && p.unit() != Requests:
		return fmt.Errorf("unit: %q: want no unit with concurrent, which counts requests", p.Unit)
	case p.Concurrent > 0:
		return nil
	case p.Quota < 1:
		return fmt.Errorf("quota: %d: want at least 1", p.Quota)
	case p.Quota > maxInteger || p.Burst > maxInteger:
		return fmt.Errorf("quota: %d, burst: %d: want at most %d: they stand in header fields", p.Quota, p.Burst, int64(maxInteger))
	case p.Window < MinWindow || p.Window > MaxWindow:
		return fmt.Errorf("window: %v: want from 1ms to 366d, for example 1m", p.Window)
	case p.Window%time.Microsecond != 0 && !p.isBucket():
		return fmt.Errorf("window: %v: want whole microseconds with %s", p.Window, p.Algorithm)
	case p.Quota > int64(p.Window):
		return fmt.Errorf("quota: %d: want at most one a nanosecond: %d in a window of %v", p.Quota, int64(p.Window), p.Window)
	case p.Burst < 0:
		return fmt.Errorf("burst: %d: want at least 1, or nothing for the quota", p.Burst)
	case p.Algorithm != "" && p.Algorithm != TokenBucket && p.Algorithm != SlidingWindow && p.Algorithm != FixedWindow:
		return fmt.Errorf("algorithm: %q: want %s, %s or %s", p.Algorithm, TokenBucket, SlidingWindow, FixedWindow)
	case p.Burst > 0 && p.Burst != p.Quota && !p.isBucket():
		return fmt.Errorf("burst: %d: has no meaning with %s: want it only with %s", p.Burst, p.Algorithm, TokenBucket)
	case p.MaxExcess != 0 && !p.isBucket():
		return fmt.Errorf("lease: has no meaning with %s: want it only with %s", p.Algorithm, TokenBucket)
	case !(p.MaxExcess >= 0 && p.MaxExcess <= maxMaxExcess): // not a number either
		return fmt.Errorf("lease.max_excess: %v: want from 0 to %v", p.MaxExcess, maxMaxExcess)
	case p.burst() > int64(maxDebt)/int64(p.interval()):
		return fmt.Errorf("burst: %d: comes back after more than %d years: want at most %d",
			p.burst(), maxDebt/(365*24*time.Hour), int64(maxDebt)/int64(p.interval()))
	}
	return nil
}

// maxMaxExcess is where a lease would no longer be a policy.
const maxMaxExcess = 0.5

func (p *Policy) isBucket() bool {
	return p.Concurrent == 0 && (p.Algorithm == "" || p.Algorithm == TokenBucket)
}

// maxInteger is the largest integer of a structured field (RFC 9651, section
// 3.3.1).
const maxInteger = 999_999_999_999_999

// maxDebt bounds burst*interval, so that no sum of it and a clock reading can
// overflow 64 bits.
const maxDebt = time.Duration(math.MaxInt64 / 4)

func (p *Policy) burst() int64 {
	switch {
	case p.Concurrent > 0:
		return p.Concurrent
	case p.Burst == 0:
		return p.Quota
	}
	return p.Burst
}

// interval is the time in which one unit comes back. It is rounded up to a
// whole nanosecond, so that the policy is never exceeded; the rate is lower
// than asked for by at most a nanosecond a unit (0.002 % at a million a
// minute), and the burst is exact.
func (p *Policy) interval() time.Duration {
	return (p.Window + time.Duration(p.Quota) - 1) / time.Duration(p.Quota)
}

func (p *Policy) unit() string {
	if p.Unit == "" {
		return Requests
	}
	return p.Unit
}

// String gives the policy in the short form that ParsePolicy reads.
func (p Policy) String() string {
	if p.Concurrent > 0 {
		return fmt.Sprintf("%d concurrent", p.Concurrent)
	}
	quota := strconv.FormatInt(p.Quota, 10)
	if u := p.unit(); u != Requests {
		quota += " " + u
	}
	return quota + " per " + shortDuration(p.Window)
}

// ParsePolicy reads the short form QUOTA [UNIT] per WINDOW:
//
//	5/minute
//	100 per 1h
//	10 per 30s
//	200000 tokens/minute
//	20 concurrent
//
// A window is second, minute, hour, day, week, month, year or a number with the
// unit ms, s, m, h, d or w. Name and Scope are left empty.
func ParsePolicy(s string) (Policy, error) {
	quotaText, windowText, found := strings.Cut(s, "/")
	if !found {
		quotaText, windowText, found = strings.Cut(s, " per ")
	}
	words := strings.Fields(quotaText)
	if len(words) == 0 {
		return Policy{}, errPolicyForm()
	}
	quota, err := strconv.ParseInt(words[0], 10, 64)
	if err != nil || quota < 1 {
		return Policy{}, errPolicyForm()
	}
	if !found {
		if len(words) == 2 && words[1] == "concurrent" {
			p := Policy{Concurrent: quota}
			if err := p.Validate(); err != nil {
				return Policy{}, err
			}
			return p, nil
		}
		return Policy{}, errPolicyForm()
	}
	p := Policy{Quota: quota, Unit: Requests}
	switch len(words) {
	case 1:
	case 2:
		if p.Unit, err = parseUnit(words[1]); err != nil {
			return Policy{}, err
		}
	default:
		return Policy{}, errPolicyForm()
	}
	if p.Window, err = parseWindow(strings.TrimSpace(windowText)); err != nil {
		return Policy{}, errPolicyForm()
	}
	if err := p.Validate(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

func errPolicyForm() error {
	return errors.New("want QUOTA [UNIT] per WINDOW, for example 5/minute, 100 per 1h or 10 per 30s")
}

func parseUnit(s string) (string, error) {
	for _, u := range units() {
		if s == u || s+"s" == u {
			return u, nil
		}
	}
	return "", fmt.Errorf("unit: %q: want one of %s", s, strings.Join(units(), ", "))
}

func parseWindow(s string) (time.Duration, error) {
	switch s {
	case "second":
		return time.Second, nil
	case "minute":
		return time.Minute, nil
	case "hour":
		return time.Hour, nil
	case "day":
		return 24 * time.Hour, nil
	case "week":
		return 7 * 24 * time.Hour, nil
	case "month":
		return Month, nil
	case "year":
		return Year, nil
	}
	number := strings.TrimRight(s, "mshdw")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, err
	}
	var unit time.Duration
	switch s[len(number):] {
	case "ms":
		unit = time.Millisecond
	case "s":
		unit = time.Second
	case "m":
		unit = time.Minute
	case "h":
		unit = time.Hour
	case "d":
		unit = 24 * time.Hour
	case "w":
		unit = 7 * 24 * time.Hour
	default:
		return 0, fmt.Errorf("unknown unit %q", s[len(number):])
	}
	if n < 1 || n > int64(MaxWindow/unit) {
		return 0, fmt.Errorf("%q is out of range", s)
	}
	return time.Duration(n) * unit, nil
}

func shortDuration(d time.Duration) string {
	switch d {
	case Month:
		return "month"
	case Year:
		return "year"
	}
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if d%u.size == 0 {
			return strconv.FormatInt(int64(d/u.size), 10) + u.name
		}
	}
	return d.String()
}
