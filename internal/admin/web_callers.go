package admin

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir/gateway"
)

func (d *dashboard) callersPage() page {
	return page{
		path: "/callers", title: "Callers", template: "callers",
		about:   "Who uses the gateway, who is refused, and by which policy.",
		regions: []string{"table"},
		data:    func(v *view) (any, error) { return callersOf(v), nil },
	}
}

// callersData is what the page shows beside the snapshot.
type callersData struct {
	Columns []column
	Callers []gateway.CallerSnapshot
	Others  int // callers who are not shown
}

func callersOf(v *view) callersData {
	rows := slices.Clone(v.Snapshot.Callers) // the snapshot is shared
	type caller = gateway.CallerSnapshot
	columns := []sortable[caller]{
		{key: "caller", title: "Caller", help: "How Weir knows the caller: by key, token, header or IP address. In small print the plan.",
			compare: func(a, b caller) int { return strings.Compare(a.Caller, b.Caller) }},
		{key: "requests", title: "Requests", num: true, help: "Requests that ended in the window, and how many a second that is.",
			compare: func(a, b caller) int { return cmp.Compare(a.Requests, b.Requests) }},
		{key: "refused", title: "Refused", num: true, help: "Requests over a quota (429), and for which the queue had no place (503, 529), and their share of all.",
			compare: func(a, b caller) int { return cmp.Compare(a.Refused+a.Shed, b.Refused+b.Shed) }},
		{key: "by", title: "Refused by", help: "The policies that have refused requests of the caller, as plan or route and name. In shadow are those that only would have."},
		{key: "errors", title: "Errors", num: true, help: "Requests that were answered with a status of 500 or more, refusals of the queue left out.",
			compare: func(a, b caller) int { return cmp.Compare(a.Errors, b.Errors) }},
		{key: "hits", title: "From cache", num: true, help: "Requests that were answered from the cache or joined a running request, as a share of all.",
			compare: func(a, b caller) int { return cmp.Compare(a.Hits, b.Hits) }},
		{key: "tokens", title: "Tokens", num: true, help: "Tokens that model calls for the caller reported: of prompts and of answers.",
			compare: func(a, b caller) int {
				return cmp.Compare(a.Tokens.Input+a.Tokens.Output, b.Tokens.Input+b.Tokens.Output)
			}},
		{key: "busy", title: "Model time", num: true, help: "How long upstreams worked for the caller's requests, all together.",
			compare: func(a, b caller) int { return cmp.Compare(a.BusyMS, b.BusyMS) }},
		{key: "seen", title: "Last seen", num: true, help: "How long ago the last request of the caller ended.",
			compare: func(a, b caller) int {
				return a.LastSeen.Truncate(time.Second).Compare(b.LastSeen.Truncate(time.Second))
			}},
	}
	heads := sortRows(v, rows, columns, "requests")
	return callersData{heads, rows, max(v.Snapshot.CallersOf-len(rows), 0)}
}
