package admin

import (
	"fmt"
	"strings"
	"time"

	"github.com/inferweir/weir/gateway"
)

func (d *dashboard) upstreamsPage() page {
	return page{
		path: "/upstreams", title: "Upstreams", template: "upstreams",
		about:   "How the model servers do: calls, the queue before each upstream, and which targets get requests.",
		regions: []string{"upstreams"},
		data:    func(v *view) (any, error) { return upstreamsOf(v), nil },
	}
}

// upstreamRow is what the page shows of an upstream.
type upstreamRow struct {
	gateway.UpstreamSnapshot
	Edit    string // where its limits and weights are changed
	Waits   int    // in all classes
	Classes string // how many wait of each
	Sent    int64  // calls, of all results
	Away    int    // targets that get no requests
	Targets []targetRow
}

// targetRow is a target, with its state in words.
type targetRow struct {
	gateway.TargetSnapshot
	Class, Is, Why string
}

func upstreamsOf(v *view) []upstreamRow {
	rows := make([]upstreamRow, len(v.Snapshot.Upstreams))
	for i, u := range v.Snapshot.Upstreams {
		row := upstreamRow{UpstreamSnapshot: u, Edit: editHref("upstream", u.Name), Sent: sumOf(u.Calls)}
		row.Waits, row.Classes = waiting(u.Waiting)
		for _, t := range u.Targets {
			one := targetOf(t, v.Snapshot.At)
			if t.State != "open" {
				row.Away++
			}
			row.Targets = append(row.Targets, one)
		}
		rows[i] = row
	}
	return rows
}

// waiting is how many wait, and how many of each class: who goes first, first.
func waiting(of map[string]int) (sum int, classes string) {
	var parts []string
	for _, class := range []string{"critical", "standard", "batch"} {
		sum += of[class]
		parts = append(parts, class+" "+count(of[class]))
	}
	return sum, strings.Join(parts, ", ")
}

// targetOf says whether a target gets requests, and why not.
func targetOf(t gateway.TargetSnapshot, now time.Time) targetRow {
	row := targetRow{TargetSnapshot: t, Class: "bad", Is: "left out"}
	switch t.State {
	case "open":
		row.Class, row.Is = "good", "gets requests"
		return row
	case "breaker":
		row.Why = "breaker open: too many requests in a row failed"
	case "probes":
		row.Why = "its probes fail"
	case "paused":
		row.Class, row.Is = "warn", "paused"
		row.Why = "it asked for a pause (Retry-After)"
	default:
		row.Why = t.State
	}
	if t.Until.After(now) {
		row.Why += ", tried again " + in(t.Until, now)
	}
	return row
}

// in is the time from now to then, for people.
func in(then, now time.Time) string {
	d := then.Sub(now)
	switch {
	case then.IsZero():
		return none
	case d <= 0:
		return "now"
	}
	for _, u := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= 2*u.length {
			return fmt.Sprintf("in %d %s", d.Round(u.length)/u.length, u.name)
		}
	}
	return fmt.Sprintf("in %d s", (d+time.Second-1)/time.Second)
}

// refusedFor is a reason of the queue in words.
func refusedFor(reason string) string {
	switch reason {
	case "queue_full":
		return "the queue was full"
	case "wait_too_long":
		return "the wait would have been too long"
	case "expired":
		return "waited too long"
	case "deadline":
		return "the deadline was too close"
	case "no_target":
		return "no target gets requests"
	case "closed":
		return "Weir was stopping"
	}
	return reason
}
