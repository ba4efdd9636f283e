package admin

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"

	"github.com/inferweir/weir/gateway"
)

func (d *dashboard) eventsPage() page {
	return page{
		path: "/events", title: "Events", template: "events",
		about:   "Reloads, changes, targets that were ejected, failures of the store and the database. The newest are first.",
		regions: []string{"log"},
		data:    func(v *view) (any, error) { return d.eventsOf(v), nil },
	}
}

// eventsData is what the page shows.
type eventsData struct {
	Kinds  []choice
	Events []gateway.EventSnapshot
	Any    bool // there are events, of other kinds maybe
}

// choice is a link that filters.
type choice struct {
	Title, Href string
	Current     bool
}

// eventsOf are the events that the process keeps, of the kind that the query asks for.
func (d *dashboard) eventsOf(v *view) eventsData {
	all, _ := d.gateway.Events(0)
	slices.SortStableFunc(all, func(a, b gateway.EventSnapshot) int { return b.At.Compare(a.At) })
	kind := v.Request.URL.Query().Get("kind")
	kinds := map[string]int64{}
	for _, e := range all {
		kinds[e.Kind]++
	}
	shown := eventsData{Any: len(all) > 0, Kinds: []choice{{"all " + count(len(all)), "/events", kind == ""}}}
	for _, name := range sortedKeys(kinds) {
		shown.Kinds = append(shown.Kinds, choice{name + " " + count(kinds[name]), "/events?kind=" + url.QueryEscape(name), kind == name})
	}
	for _, e := range all {
		if kind == "" || e.Kind == kind {
			shown.Events = append(shown.Events, e)
		}
	}
	return shown
}

// indented is JSON for people; what is none stays as it is.
func indented(raw json.RawMessage) string {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return string(raw)
	}
	return out.String()
}
