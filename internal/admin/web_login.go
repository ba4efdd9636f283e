package admin

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
)

// only lets through who may see the dashboard. Others are asked to log in, or told why
// they may not.
func (d *dashboard) only(m methods) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limitBody(w, r)
		err := d.may(r)
		switch {
		case errors.Is(err, errLogin) && strings.HasPrefix(r.URL.Path, livePath):
			refuse(w, r, unauthorized("Bearer", "The session has ended: log in again."))
		case errors.Is(err, errLogin):
			next := r.URL.RequestURI()
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				next = "/"
			}
			http.Redirect(w, r, "/login?next="+url.QueryEscape(next), http.StatusSeeOther)
		case err != nil:
			d.failIn(&view{Request: r}, w, err)
		default:
			d.serve(w, r, m)
		}
	})
}

// errLogin says that who asks may be somebody who has the token.
var errLogin = errors.New("not logged in")

func (d *dashboard) may(r *http.Request) error {
	switch {
	case !d.guard.secured && followsLink(r):
		return checkMachine(r)
	case !d.guard.secured:
		return d.guard.checkPlace(r)
	case len(r.Header["Authorization"]) > 0:
		return d.guard.checkToken(r)
	case !d.guard.hasSession(r):
		return errLogin
	case strings.HasPrefix(r.URL.Path, livePath+"/") && !ownPage(r):
		return forbidden("With the session of the dashboard, this is only for its own pages.")
	}
	return nil
}

// followsLink reports whether somebody goes to a page from somewhere else: the browser
// shows it to them alone, in a window of its own.
func followsLink(r *http.Request) bool {
	return r.Method == http.MethodGet && !strings.HasPrefix(r.URL.Path, livePath+"/") && len(r.Header["Origin"]) == 0 &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// serve lets the request's method answer, and shows its error as a page.
func (d *dashboard) serve(w http.ResponseWriter, r *http.Request, m methods) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	do, ok := m[method]
	if !ok {
		d.fail(w, r, m.notAllowed(r.Method))
		return
	}
	if err := do(w, r); err != nil {
		d.fail(w, r, err)
	}
}

// loginView is what the login shows.
type loginView struct {
	Next  string
	Wrong string // why the token was refused, "" where none was sent
	// Linked says that a link on another site led here: then the browser does not send
	// the cookie of a session that there may be.
	Linked bool
}

// loginPage is no page of the navigation.
func loginPage() *page { return &page{path: "/login", title: "Log in", template: "login"} }

// askToken shows the form for the token, to those who need it.
func (d *dashboard) askToken(w http.ResponseWriter, r *http.Request) error {
	if err := d.may(r); !errors.Is(err, errLogin) {
		http.Redirect(w, r, d.next(r.URL.Query().Get("next")), http.StatusSeeOther)
		return nil
	}
	return d.showLogin(w, r, http.StatusOK, "")
}

func (d *dashboard) showLogin(w http.ResponseWriter, r *http.Request, status int, wrong string) error {
	v := &view{Page: loginPage(), Request: r, Data: loginView{d.next(r.FormValue("next")), wrong, r.Header.Get("Sec-Fetch-Site") == "cross-site"}}
	return d.write(w, status, "login", v)
}

// login begins a session for who has the token. The attempts of a network are counted
// with those of the API.
func (d *dashboard) login(w http.ResponseWriter, r *http.Request) error {
	limitBody(w, r)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	switch err := r.ParseForm(); {
	case err != nil:
		return d.showLogin(w, r, http.StatusBadRequest, "The form cannot be read. Try again.")
	case !ownPage(r):
		return d.showLogin(w, r, http.StatusForbidden, "The form was sent by the page of another site.")
	case !d.guard.secured:
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	}
	network := networkOf(r.RemoteAddr)
	if err := d.guard.attempts.Check(network); err != nil {
		p, _ := errors.AsType[*weir.Problem](err)
		seconds := int(p.RetryAfter.Seconds()) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		return d.showLogin(w, r, http.StatusTooManyRequests, "Too many wrong tokens came from this network. Try again in "+strconv.Itoa(seconds)+" seconds.")
	}
	if !d.guard.isToken("Bearer " + r.PostFormValue("token")) {
		d.guard.attempts.Failed(network)
		d.guard.log.Warn("a login to the dashboard had a wrong token", "remote", r.RemoteAddr)
		return d.showLogin(w, r, http.StatusUnauthorized, "This is not the token of admin.token.")
	}
	http.SetCookie(w, cookie(r, d.guard.sessions.begin(time.Now())))
	http.Redirect(w, r, d.next(r.PostFormValue("next")), http.StatusSeeOther)
	return nil
}

// next is where to go after the login: a page of the dashboard, never another site.
func (d *dashboard) next(wanted string) string {
	path, _, _ := strings.Cut(wanted, "?")
	for _, p := range d.listed {
		if p.path == path {
			return wanted
		}
	}
	return "/"
}

// logout ends the session, in this browser and wherever else its cookie is.
func (d *dashboard) logout(w http.ResponseWriter, r *http.Request) error {
	limitBody(w, r)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := d.guard.checkForm(r); err != nil {
		d.failIn(&view{Request: r}, w, err)
		return nil
	}
	d.guard.sessions.end(r, time.Now())
	http.SetCookie(w, cookie(r, ""))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

// failure is why something could not be done, for a page.
type failure struct {
	Status   int
	Title    string
	Detail   string
	Mistakes []mistake
}

// awayTitle is the title of what is not there while the database is away.
const awayTitle = "The database does not answer"

// errAway says that a page cannot be shown because the database is away; detail is when
// it can.
func errAway(err error, detail string) error {
	return &weir.Problem{Status: http.StatusServiceUnavailable, Title: awayTitle, Detail: detail, Err: err}
}

// Passes says that it is not so for ever, and Away that it is so while the database is
// away.
func (f *failure) Passes() bool { return f.Status == http.StatusServiceUnavailable }
func (f *failure) Away() bool   { return f.Passes() && f.Title == awayTitle }

// failureOf says what a client may know of err.
func failureOf(err error) *failure {
	if list, ok := errors.AsType[config.Mistakes](err); ok && len(list) > 0 {
		f := &failure{http.StatusBadRequest, "Nothing is changed", "What was sent cannot be put in force:", described(list).Mistakes}
		if list[0].Line > 0 {
			f.Detail, f.Mistakes = "The file cannot be put in force:", nil
			for _, m := range list[:min(len(list), maxMistakes)] {
				f.Mistakes = append(f.Mistakes, mistake{Detail: m.Error()})
			}
		}
		return f
	}
	p, ok := errors.AsType[*weir.Problem](err)
	if !ok {
		return &failure{Status: http.StatusInternalServerError, Title: "Something went wrong here", Detail: "The log of Weir has the cause."}
	}
	f := &failure{Status: p.Status, Title: p.Title, Detail: p.Detail}
	if f.Status == 0 {
		f.Status = http.StatusInternalServerError
	}
	if f.Title == "" {
		f.Title = http.StatusText(f.Status)
	}
	return f
}

// fail shows an error in the place of a page, with the navigation for those who have come
// in.
func (d *dashboard) fail(w http.ResponseWriter, r *http.Request, err error) {
	d.failIn(d.view(r, nil), w, err)
}

// failIn is fail with a view: without a navigation where it has none. Who does not want a
// page gets the problem.
func (d *dashboard) failIn(v *view, w http.ResponseWriter, err error) {
	r := v.Request
	if p, ok := errors.AsType[*weir.Problem](err); !ok || p.Err != nil {
		d.guard.log.Error("the dashboard failed", "path", r.URL.Path, "error", err.Error())
	}
	if !wantsPage(r) {
		refuse(w, r, err)
		return
	}
	f := failureOf(err)
	v.Page, v.Down = &page{path: r.URL.Path, title: f.Title, template: "problem"}, f
	if problem, ok := errors.AsType[*weir.Problem](err); ok {
		for name, values := range problem.Header {
			w.Header()[name] = values
		}
	}
	if err := d.write(w, f.Status, "problem", v); err != nil {
		refuse(w, r, err)
	}
}

// wantsPage holds for browsers that go to an address.
func wantsPage(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// unknown answers for every path that is none.
func (d *dashboard) unknown(w http.ResponseWriter, r *http.Request) {
	p := problem(http.StatusNotFound, "This is the admin listener: want /metrics, /healthz, /readyz, a page of the dashboard, or what is below /api/.")
	if d.may(r) != nil {
		d.failIn(&view{Request: r}, w, p)
		return
	}
	d.fail(w, r, p)
}
