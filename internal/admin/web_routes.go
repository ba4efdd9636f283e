package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/inferweir/weir/gateway"
)

func (d *dashboard) routesPage() page {
	return page{
		path: "/routes", title: "Routes", template: "routes",
		about:   "Which route is slow, and where its time goes. The slowest is first.",
		regions: []string{"table"},
		data:    func(v *view) (any, error) { return routesOf(v), nil },
	}
}

// routesData is what the page shows beside the snapshot.
type routesData struct {
	Columns []column
	Routes  []gateway.RouteSnapshot
}

func routesOf(v *view) routesData {
	rows := slices.Clone(v.Snapshot.Routes) // the snapshot is shared
	type route = gateway.RouteSnapshot
	columns := []sortable[route]{
		{key: "name", title: "Route", compare: func(a, b route) int { return strings.Compare(a.Name, b.Name) }},
		{key: "rate", title: "Requests", num: true, help: "Requests that ended in the window, and how many a second that is.",
			compare: func(a, b route) int { return cmp.Compare(a.Requests, b.Requests) }},
		{key: "p50", title: "p50", num: true, help: "Half of the requests were answered completely within this time.",
			compare: func(a, b route) int { return cmp.Compare(a.Latency.P50, b.Latency.P50) }},
		{key: "p95", title: "p95", num: true, help: "95 of 100 requests were answered completely within this time.",
			compare: func(a, b route) int { return cmp.Compare(a.Latency.P95, b.Latency.P95) }},
		{key: "p99", title: "p99", num: true, help: "99 of 100 requests were answered completely within this time; in small print the slowest one.",
			compare: func(a, b route) int { return cmp.Compare(a.Latency.P99, b.Latency.P99) }},
		{key: "time", title: "Where time goes", help: "Of the mean request: the time it waited in the queue of its upstream, the time until the upstream had answered, and the time that the cache took.",
			compare: func(a, b route) int { return cmp.Compare(spent(a), spent(b)) }, down: true},
		{key: "errors", title: "Errors", num: true, help: "Requests that were answered with a status of 500 or more, refusals of the queue left out.",
			compare: func(a, b route) int { return cmp.Compare(a.Errors, b.Errors) }},
		{key: "refused", title: "Refused", num: true, help: "Requests over a quota (429), and for which the queue had no place (503, 529).",
			compare: func(a, b route) int { return cmp.Compare(a.Refused+a.Shed, b.Refused+b.Shed) }},
		{key: "by", title: "Refused by", help: "The policies that have refused requests of the route, as plan or route and name; queue are those that were shed."},
		{key: "hits", title: "Hit ratio", num: true, help: "The share of requests that were answered from the cache or joined a running request. The small print is the model time saved.",
			compare: func(a, b route) int { return cmp.Compare(orZero(a.HitRatio), orZero(b.HitRatio)) }},
	}
	heads := sortRows(v, rows, columns, "p95")
	return routesData{heads, rows}
}

func orZero(v *float64) float64 {
	if v == nil {
		return -1
	}
	return *v
}

func spent(r gateway.RouteSnapshot) float64 { return r.QueueMS + r.UpstreamMS + r.CacheMS }

// segment is a part of a bar that is 100 wide.
type segment struct {
	Class, Name, Value string
	X, Width           string
}

// phases are the parts of a route's time, without those that took none.
func phases(r gateway.RouteSnapshot) []segment {
	whole, x := spent(r), 0.0
	var all []segment
	for _, p := range []struct {
		class, name string
		ms          float64
	}{{"c4", "queue", r.QueueMS}, {"c1", "upstream", r.UpstreamMS}, {"c2", "cache", r.CacheMS}} {
		if p.ms <= 0 {
			continue
		}
		width := p.ms / whole * 100
		all = append(all, segment{p.class, p.name, millis(p.ms), tenths(x), tenths(width)})
		x += width
	}
	return all
}

func tenths(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// told is a bar in words.
func told(segments []segment) string {
	parts := make([]string, len(segments))
	for i, s := range segments {
		parts[i] = fmt.Sprintf("%s %s", s.Name, s.Value)
	}
	return strings.Join(parts, ", ")
}
