package admin

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/inferweir/weir/gateway"
)

// The dashboard is pages of HTML that the server makes, with a stylesheet and a little
// script. A page is a function that returns a page, and a template:
//
//   - The function has the page's path and title, and gets the data that the template
//     shows beside the snapshot. It is one more line in dashboard.pages, which makes the
//     navigation, too. See web_routes.go for a short one, web_config.go for one with forms.
//   - The template, web/templates/NAME.html, defines "main", and one more template for
//     each of the page's regions, which "main" has inside of an element with the
//     attribute data-live="REGION". Live browsers get the regions again each second. All
//     templates are given a *view. Explanations are {{help "id" "What it is called" "What it
//     is."}}, numbers go through the functions of web_format.go, which give them units.
//   - A form posts to one of the page's posts, with {{template "csrf" $}} in it. The
//     session, the form's token and where the request comes from are checked before. Its
//     function ends with d.see, which sends the browser to a page, or returns an error: a
//     *weir.Problem or config.Mistakes, which is shown above the page. It may also call
//     d.show with what the page is to show this once.
//
// Without script everything works but live figures: forms post, and pages can be loaded
// again. No page has inline script or style: the Content-Security-Policy refuses them.

//go:embed web
var embeddedWeb embed.FS

// page is one page of the dashboard.
type page struct {
	path     string // also what the navigation leads to
	title    string // in the navigation, the heading and the window
	about    string // one sentence below the heading
	template string // web/templates/TEMPLATE.html
	// within is the path of the page that the navigation shows for one that it has not.
	within string
	// regions are the templates that live browsers get again each second.
	regions []string
	// charts says that they get the series of the snapshot, too.
	charts bool
	// data returns what is view.Data. Its error is shown in the place of the page. nil:
	// the snapshot is enough.
	data func(v *view) (any, error)
	// posts are what forms do, by their paths.
	posts map[string]func(http.ResponseWriter, *http.Request) error
}

// view is what templates are given.
type view struct {
	Page     *page
	Request  *http.Request
	Nav      []navItem
	CSRF     string // of this session, for forms
	Secured  bool   // there is a token, and so a way to log out
	Snapshot gateway.Snapshot
	Data     any
	Note     string // what has just been done, "" for nothing
	Failed   *failure
	// Down is why the page has no data, nil where it has.
	Down *failure
	// Own is the query of what a page shows that a form was answered with: the address
	// of the form has none.
	Own url.Values
	// Moves says that this is for a page that is shown, and shows data.
	Moves bool
}

// Path, Title, About, Stream and Here are the page's for templates: Stream is where the
// live regions come from, "" for a page without any, Here the address of the page.
func (v *view) Path() string  { return v.Page.path }
func (v *view) Title() string { return v.Page.title }
func (v *view) About() string { return v.Page.about }
func (v *view) Stream() string {
	if len(v.Page.regions) == 0 || v.Down != nil && !v.Down.Passes() {
		return ""
	}
	query := v.query()
	if v.Down != nil {
		query.Set(downField, "1")
	}
	return withQuery(livePath+v.Page.path, query)
}

// Here is where the page is loaded again from, with what it shows now.
func (v *view) Here() string { return withQuery(v.Page.path, v.query()) }

// downField is in the query of a stream whose page could not be shown: it says so itself.
const downField = "down"

func (v *view) query() url.Values {
	switch {
	case v.Own != nil:
		return maps.Clone(v.Own)
	case v.Request.Method == http.MethodGet:
		return v.Request.URL.Query()
	}
	return url.Values{}
}

func withQuery(path string, query url.Values) string {
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}

// Charts says whether the page has charts of the snapshot's series.
func (v *view) Charts() bool { return v.Page.charts }

type navItem struct {
	Path, Title string
	Current     bool
}

// dashboard serves the pages, the login and what belongs to them.
type dashboard struct {
	gateway   *gateway.Gateway
	guard     *guard
	streams   *streams
	assets    *assets
	listed    []page // in the order of the navigation
	templates map[string]*template.Template
	// snapshot returns the figures that pages show.
	snapshot func() gateway.Snapshot
	// forms are those that have made a key.
	forms sentForms
}

// pages are all pages of the dashboard, those of the navigation in its order.
func (d *dashboard) pages() []page {
	return []page{
		d.overviewPage(), d.routesPage(), d.callersPage(), d.cachePage(), d.purgeAllPage(), d.upstreamsPage(),
		d.jobsPage(), d.jobPage(), d.keysPage(), d.keyPage(), d.configPage(), d.editPage(), d.eventsPage(),
	}
}

// handleDashboard makes mux serve the dashboard, at every path that it has nothing for.
// It fails where a file that is built in is broken.
func handleDashboard(mux *http.ServeMux, g *gateway.Gateway, guard *guard, streams *streams) error {
	d, err := newDashboard(g, guard, streams)
	if err != nil {
		return err
	}
	d.handle(mux)
	return nil
}

func newDashboard(g *gateway.Gateway, guard *guard, streams *streams) (*dashboard, error) {
	d := &dashboard{gateway: g, guard: guard, streams: streams, snapshot: g.Snapshot, templates: map[string]*template.Template{}}
	var err error
	if d.assets, err = newAssets(embeddedWeb, "web/static"); err != nil {
		return nil, err
	}
	frame, err := template.New("").Funcs(d.functions()).ParseFS(embeddedWeb, "web/templates/frame.html", "web/templates/parts.html")
	if err != nil {
		return nil, err
	}
	d.listed = d.pages()
	names := []string{"login", "problem"}
	for _, p := range d.listed {
		names = append(names, p.template)
	}
	for _, name := range names {
		if d.templates[name] != nil {
			continue
		}
		t, err := template.Must(frame.Clone()).ParseFS(embeddedWeb, "web/templates/"+name+".html")
		if err != nil {
			return nil, err
		}
		d.templates[name] = t
	}
	return d, nil
}

// livePath is before the path of a page whose regions it streams.
const livePath = "/live"

// handle makes mux serve the dashboard.
func (d *dashboard) handle(mux *http.ServeMux) {
	mux.Handle(staticPath, d.assets)
	mux.Handle("/login", d.framed(methods{http.MethodGet: d.askToken, http.MethodPost: d.login}))
	mux.Handle("/logout", d.framed(methods{http.MethodPost: d.logout}))
	for i := range d.listed {
		p := &d.listed[i]
		at := p.path
		if at == "/" {
			at = "/{$}"
		}
		mux.Handle(at, d.framed(d.only(methods{http.MethodGet: func(w http.ResponseWriter, r *http.Request) error {
			return d.show(w, r, p, extras{})
		}})))
		mux.Handle(strings.TrimSuffix(livePath+at, "/"), d.framed(d.only(methods{http.MethodGet: func(w http.ResponseWriter, r *http.Request) error {
			return d.live(w, r, p)
		}})))
		for path, do := range p.posts {
			mux.Handle(path, d.framed(d.only(methods{http.MethodPost: d.posted(p, do), http.MethodGet: d.back(p)})))
		}
	}
	mux.Handle("/", d.framed(http.HandlerFunc(d.unknown)))
}

// back sends who opens the address of a form to the page that it is on.
func (d *dashboard) back(p *page) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		http.Redirect(w, r, p.path, http.StatusSeeOther)
		return nil
	}
}

// framed sets what every answer of the dashboard has.
func (d *dashboard) framed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		// Other sites get no referrer. With no-referrer the browser would hide the Origin of
		// our own forms, too, which is what tells them from those of others.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// contentSecurityPolicy lets pages use what this listener serves, and nothing else.
// uPlot places what it draws by script, which it may; style attributes it has none.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// extras are what a page shows this once.
type extras struct {
	status int    // 0 is 200
	note   string // of what has been done
	failed error  // why it has not
	// data is in the place of the page's own.
	data any
}

// show writes a page.
func (d *dashboard) show(w http.ResponseWriter, r *http.Request, p *page, s extras) error {
	v := d.view(r, p)
	v.Data, v.Note = s.data, s.note
	if v.Note == "" && r.Method == http.MethodGet {
		if v.Note = noted(d.guard.sessions.whatIsDone(r, time.Now())); v.Note != "" {
			http.SetCookie(w, cookieFor(r, http.Cookie{Name: doneCookie, Path: r.URL.Path})) // once
		}
	}
	status := s.status
	if s.failed != nil {
		v.Failed = failureOf(s.failed)
		status = v.Failed.Status
	}
	if v.Data == nil && p.data != nil {
		data, err := p.data(v)
		if err != nil {
			v.Down = failureOf(err)
			status = v.Down.Status
		}
		v.Data = data
	}
	return d.write(w, status, p.template, v)
}

// view is what p is shown with, nil for what is none of the pages.
func (d *dashboard) view(r *http.Request, p *page) *view {
	v := &view{Page: p, Request: r, CSRF: d.guard.csrf(r), Secured: d.guard.secured, Snapshot: d.snapshot()}
	for _, listed := range d.listed {
		if listed.within == "" {
			current := p != nil && (listed.path == p.path || listed.path == p.within)
			v.Nav = append(v.Nav, navItem{listed.path, listed.title, current})
		}
	}
	return v
}

// write makes the whole answer before it sends any of it: what fails in a template
// is no half page.
func (d *dashboard) write(w http.ResponseWriter, status int, name string, v *view) error {
	var out bytes.Buffer
	if err := d.templates[name].ExecuteTemplate(&out, "frame", v); err != nil {
		return fmt.Errorf("dashboard: %w", err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", fmt.Sprint(out.Len()))
	if status == 0 {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // a browser that has left needs no page
	return nil
}

// posted is what a form does, after its token was checked; its error is shown above the
// page.
func (d *dashboard) posted(p *page, do func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		err := r.ParseForm()
		if err != nil {
			err = problem(http.StatusBadRequest, "The form cannot be read: want at most %d bytes within %s.", maxBody, bodyTimeout)
		}
		if err == nil {
			err = d.guard.checkForm(r)
		}
		if err == nil {
			err = do(w, r)
		}
		if err != nil {
			return d.show(w, r, p, extras{failed: err})
		}
		return nil
	}
}

// see sends the browser on to a page, which says what has been done: done is one of the
// words of noted, or "".
func (d *dashboard) see(w http.ResponseWriter, r *http.Request, path, done string) error {
	if done != "" {
		http.SetCookie(w, d.guard.sessions.done(r, path, done))
	}
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

// noted is the text of what has been done.
func noted(done string) string {
	switch done {
	case "edited":
		return "Changed. It is in force for requests from now on."
	case "reverted":
		return "Taken back: what the file says is in force."
	case "reloaded":
		return "The configuration was read again and is in force."
	case "unchanged":
		return "Nothing was changed: the values are what they were."
	}
	return cmp.Or(purgedNote(done), jobNote(done), keyNote(done))
}
