package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/database"
)

// shownKeys is how many keys the page lists: the filters find the others.
const shownKeys = 200

func (d *dashboard) keysPage() page {
	return page{
		path: "/keys", title: "Keys", template: "keys",
		about: "Who may call Weir with a key of their own, and until when.",
		data:  func(v *view) (any, error) { return d.keysOf(v.Request, v.Failed), nil },
		posts: map[string]func(http.ResponseWriter, *http.Request) error{"/keys/create": d.createKey},
	}
}

func (d *dashboard) keyPage() page {
	return page{
		path: "/keys/key", title: "Key", template: "key", within: "/keys",
		data: func(v *view) (any, error) { return d.keyOf(v) },
		posts: map[string]func(http.ResponseWriter, *http.Request) error{
			"/keys/revoke": d.revokeKey,
			"/keys/rotate": d.rotateKey,
		},
	}
}

// keysData is what the list shows.
type keysData struct {
	NoDatabase bool
	Made       *keyView // just now, with the key itself: shown this once
	Once       string   // makes the form good for one key
	Fields     []field
	Caller     string // whose keys are listed, "" for all
	States     []choice
	Keys       []keyView
	Others     int    // that match, and are not shown
	Any        bool   // there are keys, of other states maybe
	Down       string // why there is no list
	InFile     []keyView
	Now        time.Time
}

// keyFields are the inputs for a new key.
func (d *dashboard) keyFields() []field {
	plans := d.gateway.Plans()
	if !slices.Contains(plans, "default") {
		plans = append([]string{"default"}, plans...)
	}
	return []field{
		{Key: "caller", Label: "Caller", Type: "text", Hint: "The name of who holds the key, for example alice. A caller may have several."},
		{Key: "plan", Label: "Plan", Type: "select", Options: plans, Value: "default", Hint: "Says what the caller may use: see plans in the configuration."},
		{Key: "expires", Label: "Expires", Type: "text", Value: "90d", Hint: "A time to live such as 90d, a date such as 2030-12-31, or never."},
	}
}

// keysOf is the list for a request: a GET, or a form that failed.
func (d *dashboard) keysOf(r *http.Request, failed *failure) keysData {
	data := keysData{Once: rand.Text(), Fields: d.keyFields(), Now: time.Now()}
	for _, k := range d.gateway.Config().Callers.Keys {
		data.InFile = append(data.InFile, keyView{Caller: k.Caller, Plan: cmp.Or(k.Plan, "default")})
	}
	for i := range data.Fields {
		f := &data.Fields[i]
		// Who pastes a key into a field must not find it on the page.
		if _, sent := r.PostForm[f.Key]; sent && failed != nil && !strings.Contains(textOf(r, f.Key), auth.KeyPrefix) {
			f.Value = textOf(r, f.Key)
		}
	}
	besideAll(data.Fields, failed)
	stored := storedKeys(d.gateway)
	if data.NoDatabase = stored == nil; data.NoDatabase {
		return data
	}
	query := r.URL.Query()
	data.Caller = strings.TrimSpace(query.Get("caller"))
	ctx, stop := context.WithTimeout(r.Context(), auditWait)
	defer stop()
	all, err := stored.List(ctx, data.Caller)
	if err != nil {
		d.guard.log.Warn("the dashboard cannot list keys", "error", err.Error())
		data.Down = "The database does not answer now: the keys are listed when it is back. Those that were read before are still good."
		return data
	}
	data.Now = stored.Now()
	data.list(all, query.Get("state"))
	return data
}

// list takes the keys of a state, "" for all.
func (data *keysData) list(all []database.Key, state string) {
	counts := map[string]int64{}
	for _, k := range all {
		one := viewOf(k, data.Now)
		counts[one.State]++
		switch {
		case state != "" && one.State != state:
		case len(data.Keys) == shownKeys:
			data.Others++
		default:
			data.Keys = append(data.Keys, one)
		}
	}
	data.Any = len(all) > 0
	link := func(title, state string, current bool) choice {
		q := url.Values{}
		if data.Caller != "" {
			q.Set("caller", data.Caller)
		}
		if state != "" {
			q.Set("state", state)
		}
		return choice{title, strings.TrimSuffix("/keys?"+q.Encode(), "?"), current}
	}
	data.States = []choice{link("all "+count(len(all)), "", state == "")}
	for _, name := range sortedKeys(counts) {
		data.States = append(data.States, link(name+" "+count(counts[name]), name, state == name))
	}
}

// Href is the page of the key.
func (k keyView) Href() string { return "/keys/key?id=" + url.QueryEscape(k.ID) }

// Class is how its state looks.
func (k keyView) Class() string {
	switch k.State {
	case "live":
		return "good"
	case "replaced":
		return "warn"
	case "revoked":
		return "bad"
	}
	return "still"
}

// MayRevoke and MayReplace say what can be done with it.
func (k keyView) MayRevoke() bool  { return k.State == "live" || k.State == "replaced" }
func (k keyView) MayReplace() bool { return k.State == "live" }

// keyData is what the page of a key shows.
type keyData struct {
	Key   keyView
	Once  string
	Grace field
	Now   time.Time
}

func (d *dashboard) keyOf(v *view) (keyData, error) {
	stored := storedKeys(d.gateway)
	if stored == nil {
		return keyData{}, errNoKeys()
	}
	ctx, stop := context.WithTimeout(v.Request.Context(), auditWait)
	defer stop()
	all, err := stored.List(ctx, "")
	if errors.Is(err, database.ErrAway) {
		return keyData{}, errAway(err, "The key is kept: load this page again when it is back.")
	}
	if err != nil {
		return keyData{}, refusal(err)
	}
	i := slices.IndexFunc(all, func(k database.Key) bool { return k.ID == v.Request.FormValue("id") })
	if i < 0 {
		return keyData{}, refusal(database.ErrKeyUnknown)
	}
	data := keyData{Key: viewOf(all[i], stored.Now()), Once: rand.Text(), Now: stored.Now()}
	v.named("Key of " + data.Key.Caller)
	data.Grace = field{Key: "grace", Label: "The old key stays good for", Type: "text", Value: "24h", Hint: "So that its holder can change to the new one, for example 24h. 0s: not at all."}
	if _, sent := v.Request.PostForm["grace"]; sent {
		data.Grace.Value = textOf(v.Request, "grace")
	}
	fields := []field{data.Grace}
	besideAll(fields, v.Failed)
	data.Grace = fields[0]
	return data, nil
}

// keys are those of the gateway, as the API has them.
func (d *dashboard) keys() (keys, error) {
	stored := storedKeys(d.gateway)
	if stored == nil {
		return keys{}, errNoKeys()
	}
	return keys{KeysOptions{Keys: stored, Plans: d.gateway.Plans, By: who, Log: d.guard.log, Note: d.gateway.Note}}, nil
}

func errNoKeys() error {
	return problem(http.StatusConflict, "Keys are made and revoked in a database, and the configuration has none: add database: {url: sqlite:weir.db} to it, or a PostgreSQL, and restart.")
}

func (d *dashboard) createKey(w http.ResponseWriter, r *http.Request) error {
	return d.makeKey(w, r, func(k keys) (string, database.Key, error) {
		found := map[string]string{"caller": textOf(r, "caller"), "expires": textOf(r, "expires")}
		if plan := textOf(r, "plan"); plan != "default" {
			found["plan"] = plan
		}
		return k.add(r, found)
	})
}

func (d *dashboard) rotateKey(w http.ResponseWriter, r *http.Request) error {
	return d.makeKey(w, r, func(k keys) (string, database.Key, error) {
		return k.replace(r, r.PostFormValue("id"), map[string]string{"grace": textOf(r, "grace")})
	})
}

// makeKey shows the key that do makes: in the answer to the form, which is kept by
// nobody, and nowhere else. A form that is sent again, by a browser that loads the page
// again, makes no second one.
func (d *dashboard) makeKey(w http.ResponseWriter, r *http.Request, do func(keys) (string, database.Key, error)) error {
	k, err := d.keys()
	if err != nil {
		return err
	}
	once := r.PostFormValue("once")
	switch {
	case once == "":
		return &weir.Problem{Status: http.StatusBadRequest, Title: "No key is made", Detail: "The form is not whole: load the page again, and send it once more."}
	case !d.forms.take(once):
		return d.see(w, r, "/keys", "key-shown")
	}
	text, made, err := do(k)
	if err != nil {
		d.forms.giveBack(once)
		return err
	}
	data := d.keysOf(r, nil)
	view := viewOf(made, k.Keys.Now())
	view.Key = text
	data.Made = &view
	return d.show(w, r, d.pageAt("/keys"), extras{data: data})
}

func (d *dashboard) revokeKey(w http.ResponseWriter, r *http.Request) error {
	k, err := d.keys()
	if err != nil {
		return err
	}
	revoked, err := k.end(r, r.PostFormValue("id"))
	if err != nil {
		return err
	}
	return d.see(w, r, viewOf(revoked, k.Keys.Now()).Href(), "key-revoked")
}

// named gives the page the name of what it shows.
func (v *view) named(title string) {
	p := *v.Page
	p.title = title
	v.Page = &p
}

// pageAt is the page with a path, which there is.
func (d *dashboard) pageAt(path string) *page {
	return &d.listed[slices.IndexFunc(d.listed, func(p page) bool { return p.path == path })]
}

// keyNote is what has been done with a key, "" for what is none of these.
func keyNote(done string) string {
	switch done {
	case "key-revoked":
		return "The key is revoked: it is refused here from now on, and at other instances within 2 seconds."
	case "key-shown":
		return "That form has made its key, which was shown and is not shown again. If it was not copied, revoke it and make another."
	}
	return ""
}

// maxSentForms bounds how many forms are remembered.
const maxSentForms = 1000

// sentForms are the forms that were sent and must not do their work again. The zero
// value is ready.
type sentForms struct {
	mu    sync.Mutex
	order []string // guarded by mu, as known; the oldest first
	known map[string]bool
}

// take reports whether a form was not taken before, and takes it.
func (s *sentForms) take(form string) bool {
	const longest = 64 // of those that pages have
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(form) > longest || s.known[form] {
		return false
	}
	if s.known == nil {
		s.known = map[string]bool{}
	}
	if len(s.order) == maxSentForms {
		delete(s.known, s.order[0])
		s.order = slices.Delete(s.order, 0, 1)
	}
	s.order, s.known[form] = append(s.order, form), true
	return true
}

// giveBack lets a form be sent once more, because it has done nothing.
func (s *sentForms) giveBack(form string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, form)
	if i := slices.Index(s.order, form); i >= 0 {
		s.order = slices.Delete(s.order, i, i+1)
	}
}
