package admin

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

const (
	// shownChanges is how many changes the page has.
	shownChanges = 50
	// auditWait is how long the page waits for the database.
	auditWait = 2 * time.Second
)

func (d *dashboard) configPage() page {
	return page{
		path: "/config", title: "Configuration", template: "config",
		about:   "What is in force, what the file says, and who changed what.",
		regions: []string{"facts", "differs", "auto"},
		data:    func(v *view) (any, error) { return d.configOf(v) },
		posts: map[string]func(http.ResponseWriter, *http.Request) error{
			"/config/reload": d.reload,
			"/config/revert": d.revert,
		},
	}
}

// configData is what the page shows beside the snapshot.
type configData struct {
	Differences []config.Difference
	Auto        []movedRow
	Moved       int // how many of Auto are not what the file says
	Groups      []editGroup
	Changes     []changeRow
	AuditDown   string // why there are no changes to show
	YAML        string
	NoDatabase  bool
}

// editGroup are the plans, the routes or the upstreams.
type editGroup struct {
	Title, Kind, Help string
	Rows              []editRow
}

// editRow is a plan, route or upstream as it is in force.
type editRow struct {
	Kind, Name, Href string // without Href it cannot be changed: there is none
	Facts            []fact
	Override         *gateway.Override // nil: as in the file
}

type fact struct{ Name, Value string }

// changeRow is a line of the audit.
type changeRow struct {
	gateway.Change
	Was, Is string
}

func (d *dashboard) configOf(v *view) (configData, error) {
	inForce := d.gateway.Config()
	data := configData{
		Differences: config.Differences(d.gateway.File(), inForce),
		Auto:        movedRows(inForce, v.Snapshot.Auto),
		NoDatabase:  inForce.Database == nil,
	}
	for _, row := range data.Auto {
		if row.Moved {
			data.Moved++
		}
	}
	if strings.HasPrefix(v.Request.URL.Path, livePath) {
		return data, nil // the other regions do not move
	}
	text, err := inForce.YAML()
	if err != nil {
		return configData{}, err
	}
	data.Groups, data.YAML = d.groups(inForce), string(text)
	ctx, stop := context.WithTimeout(v.Request.Context(), auditWait)
	defer stop()
	changes, err := d.gateway.Audit(ctx, shownChanges)
	if err != nil {
		data.AuditDown = "The database does not answer now: the changes are shown when it is back."
		d.guard.log.Warn("the dashboard cannot show the changes", "error", err.Error())
	}
	for _, c := range changes {
		data.Changes = append(data.Changes, changeRow{c, docForPeople(c.Before), docForPeople(c.After)})
	}
	return data, nil
}

func (d *dashboard) groups(c *config.Config) []editGroup {
	overrides := map[[2]string]*gateway.Override{}
	all := d.gateway.Overrides()
	for _, o := range all {
		overrides[[2]string{o.Kind, o.Name}] = &o
	}
	group := func(kind, title, help string, names []string) editGroup {
		g := editGroup{Title: title, Kind: kind, Help: help}
		for _, name := range names {
			doc, ok := c.EditDoc(kind, name)
			if !ok {
				continue
			}
			row := editRow{Kind: kind, Name: name, Override: overrides[[2]string{kind, name}]}
			row.Href = "/config/edit?" + url.Values{"kind": {kind}, "name": {name}}.Encode()
			for _, f := range fieldsOf(kind, doc, c, name) {
				if f.Value != "" {
					row.Facts = append(row.Facts, fact{f.Label, strings.ReplaceAll(f.Value, "\n", " · ")})
				}
			}
			g.Rows = append(g.Rows, row)
		}
		for _, o := range all {
			if _, there := c.EditDoc(kind, o.Name); o.Kind == kind && !there { // the file has lost it
				g.Rows = append(g.Rows, editRow{Kind: kind, Name: o.Name, Override: overrides[[2]string{kind, o.Name}]})
			}
		}
		return g
	}
	routes := make([]string, len(c.Routes))
	for i := range c.Routes {
		routes[i] = c.Routes[i].Name
	}
	return []editGroup{
		group("plan", "Plans", "What callers may use: policies, budget, and their share of the queue.", slices.Sorted(maps.Keys(c.Plans))),
		group("route", "Routes", "Policies of the route, beside those of the plan, how long answers are fresh, and how large a request may be.", routes),
		group("upstream", "Upstreams", "How many requests run at the same time at each target, how many may wait, and the weights of the targets.", slices.Sorted(maps.Keys(c.Upstreams))),
	}
}

// docForPeople is a document of a change without what URLs may have of secrets.
func docForPeople(doc json.RawMessage) string {
	var v map[string]any
	if len(doc) == 0 || json.Unmarshal(doc, &v) != nil || v == nil {
		return "as in the file"
	}
	if targets, ok := v["targets"].(map[string]any); ok {
		plain := map[string]any{}
		for target, weight := range targets {
			plain[plainURL(target)] = weight
		}
		v["targets"] = plain
	}
	text, err := json.Marshal(v)
	if err != nil {
		return none
	}
	return string(text)
}

// plainURL is a URL without user and query, which may be secrets.
func plainURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not shown)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// who sent a form, as far as is known.
func who(r *http.Request) string { return "dashboard from " + r.RemoteAddr }

func (d *dashboard) reload(w http.ResponseWriter, r *http.Request) error {
	if err := d.gateway.ReloadFile(who(r)); err != nil {
		return editError(err, "It is not read again: ")
	}
	return d.see(w, r, "/config", "reloaded")
}

func (d *dashboard) revert(w http.ResponseWriter, r *http.Request) error {
	if _, err := d.gateway.Revert(r.Context(), r.PostFormValue("kind"), r.PostFormValue("name"), who(r)); err != nil {
		return editError(err, "It is not taken back: ")
	}
	return d.see(w, r, "/config", "reverted")
}

// editError is what a page says of a change that failed. Mistakes are shown one by one.
func editError(err error, what string) error {
	if _, ok := errors.AsType[config.Mistakes](err); ok {
		return err
	}
	if _, ok := errors.AsType[*weir.Problem](err); ok {
		return err
	}
	if errors.Is(err, gateway.ErrNoSuch) {
		return &weir.Problem{Status: http.StatusNotFound, Title: "Nothing is changed", Detail: "There is no such plan, route or upstream: a reload may have taken it away. Go back to the configuration."}
	}
	return &weir.Problem{Status: http.StatusConflict, Title: "Nothing is changed", Detail: stopped(what + err.Error()), Err: err}
}
