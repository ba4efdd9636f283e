package ratelimit

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The response fields that describe policies (draft-ietf-httpapi-ratelimit-
// headers-10), as http.Header keys.
const (
	policyField = "Ratelimit-Policy"
	stateField  = "Ratelimit"
)

// SetFields describes the policies of takes and what is left of them in the
// RateLimit-Policy and RateLimit fields: one item a policy, the tightest first.
// It replaces what stood there. Without takes it changes nothing.
//
// An item of RateLimit-Policy has the quota q and the window w in seconds,
// rounded up; units other than requests stand in weir-unit. An item of RateLimit
// has the remaining units r, and t, the seconds until there is more, rounded up;
// a bucket that is full has no t.
func SetFields(h http.Header, takes []Take) {
	var room [MaxTakes]int
	order := tightestFirst(takes, room[:0])
	if len(order) == 0 {
		return
	}
	var policyRoom, stateRoom [256]byte // grown where many policies need more
	policies, states := policyRoom[:0], stateRoom[:0]
	for n, i := range order {
		if n > 0 {
			policies = append(policies, ", "...)
			states = append(states, ", "...)
		}
		policies = append(policies, takes[i].Policy.ready.text...)
		states = appendState(states, &takes[i])
	}
	values := []string{string(policies), string(states)}
	h[policyField], h[stateField] = values[0:1:1], values[1:2:2]
}

// SetLegacyFields sets X-RateLimit-Limit, -Remaining and -Reset for the tightest
// policy: the burst, what is left of it, and the seconds until there is more. Slots
// count only where there is nothing else: to their holder none is left.
func SetLegacyFields(h http.Header, takes []Take) {
	var room [MaxTakes]int
	order := tightestFirst(takes, room[:0])
	if len(order) == 0 {
		return
	}
	t := &takes[order[0]]
	for _, i := range order {
		if takes[i].Policy.ready.kind != slots {
			t = &takes[i]
			break
		}
	}
	h["X-Ratelimit-Limit"] = []string{strconv.FormatInt(t.Policy.ready.burst, 10)}
	h["X-Ratelimit-Remaining"] = []string{strconv.FormatInt(t.Decision.Remaining, 10)}
	h["X-Ratelimit-Reset"] = []string{strconv.FormatInt(ceilSeconds(t.Decision.Reset), 10)}
}

// tightestFirst appends the indexes of takes to order: those that refuse first,
// the longest wait before the shorter; then by the part that is left. Those that
// only watch are left out: nobody is told of them.
func tightestFirst(takes []Take, order []int) []int {
	for i := range takes {
		if takes[i].Policy.ready.shadow || takes[i].Mode >= Open {
			continue
		}
		// Insertion: there are few, and nothing is allocated.
		order = append(order, i)
		for j := len(order) - 1; j > 0 && takes[i].tighter(&takes[order[j-1]]); j-- {
			order[j], order[j-1] = order[j-1], i
		}
	}
	return order
}

func (t *Take) tighter(than *Take) bool {
	return cmp.Or(cmp.Compare(than.wait(), t.wait()), cmp.Compare(t.left(), than.left())) < 0
}

// wait is RetryAfter with Never as the longest.
func (t *Take) wait() time.Duration {
	if t.Decision.RetryAfter < 0 {
		return maxDebt
	}
	return t.Decision.RetryAfter
}

func (t *Take) left() float64 {
	return float64(t.Decision.Remaining) / float64(t.Policy.ready.burst)
}

func appendState(b []byte, t *Take) []byte {
	b = appendString(b, t.Policy.Name)
	b = append(b, ";r="...)
	b = strconv.AppendInt(b, t.Decision.Remaining, 10)
	if t.Decision.Reset > 0 && t.Policy.ready.kind != slots {
		b = append(b, ";t="...)
		b = strconv.AppendInt(b, ceilSeconds(t.Decision.Reset), 10)
	}
	return b
}

func policyItem(p *Policy) string {
	b := appendString(nil, p.Name)
	b = append(b, ";q="...)
	b = strconv.AppendInt(b, max(p.Quota, p.Concurrent), 10)
	if p.Concurrent > 0 {
		return string(append(b, `;qu="concurrent-requests"`...))
	}
	b = append(b, ";w="...)
	b = strconv.AppendInt(b, ceilSeconds(p.Window), 10)
	if u := p.unit(); u != Requests {
		b = append(b, ";weir-unit="...)
		b = appendString(b, u)
	}
	return string(b)
}

// appendString appends s as an RFC 9651 String. Policy names are printable
// ASCII, so only the quote and the backslash need escaping.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func ceilSeconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}

// count gives "1 request", "5 requests", "300 tokens".
func count(n int64, unit string) string {
	unit = strings.ReplaceAll(unit, "_", " ")
	if n == 1 {
		unit = strings.TrimSuffix(unit, "s")
	}
	return strconv.FormatInt(n, 10) + " " + unit
}

// spell gives a duration in words, exact where that is short: "500
// milliseconds", "60 seconds", "24 hours".
func spell(d time.Duration) string {
	switch d {
	case Month:
		return "month"
	case Year:
		return "year"
	}
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d > 2*u.size && d%u.size == 0 {
			return count(int64(d/u.size), u.name)
		}
	}
	if d%time.Second != 0 && d < 10*time.Second {
		return count(int64((d+time.Millisecond-1)/time.Millisecond), "milliseconds")
	}
	return count(ceilSeconds(d), "seconds")
}
