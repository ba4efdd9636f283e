package cache_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

// The tests of this file and of those called http_rfc9111_*_test.go go through the requirements of
// RFC 9111 on a shared cache, section by section. These are not tested, because
// there is nothing to be tested:
//
//	1.2.2 binary form of numbers     delta-seconds are 64 bits wide
//	3.1   SHOULD of browsers, 3.2    what is stored is what was received, never processed
//	3.2   Content-Range              parts are never stored
//	3.3   use of incomplete answers  they are never stored
//	3.4   combining parts            they are never stored
//	4     a cache without a clock    there is one
//	4     one of several answers     there is one for a URL and the fields that it varies by: the newest
//	4.1   choice by preference       a MAY; values have to match
//	4.2   less resolution than Date  time.Time has more
//	4.3.1 If-Unmodified-Since, range a part is never validated
//	4.3.2 union of tags              a MAY
//	5.2.1 generating directives      requirements on clients
//	5.2.4 registration               requirements on authors
//	6, 7  other caches, security     nothing that a test of one cache shows

// rig is a cache in front of an origin, in virtual time.
type rig struct {
	t       *testing.T
	handler http.Handler
	// What the origin says: its n-th answer has the body "answer n", unless the
	// request's validators are those of lines. after304 are the lines of that 304;
	// nil means lines.
	status          int
	lines, after304 []string
	took            time.Duration    // how long the origin needs
	handle          http.HandlerFunc // answers instead, if not nil

	mu    sync.Mutex
	asked []*http.Request // guarded by mu; what reached the origin
}

// reply is what a client got.
type reply struct {
	status  int
	header  http.Header
	body    string
	interim []int
}

// virtual runs a test in virtual time.
func virtual(t *testing.T, name string, run func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, run) })
}

func newRig(t *testing.T, lines ...string) *rig {
	t.Helper()
	return newRigWith(t, cache.Options{}, lines...)
}

func newRigWith(t *testing.T, o cache.Options, lines ...string) *rig {
	t.Helper()
	o.Mode, o.Share = cache.ModeHTTP, cache.ShareAll
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{t: t, status: http.StatusOK, lines: lines}
	g.handler = c.Middleware(http.HandlerFunc(g.serveOrigin))
	return g
}

func (g *rig) serveOrigin(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.asked = append(g.asked, r.Clone(context.WithoutCancel(r.Context())))
	n := len(g.asked)
	g.mu.Unlock()
	if g.took > 0 {
		select {
		case <-time.After(g.took):
		case <-r.Context().Done():
			return
		}
	}
	if g.handle != nil {
		g.handle(w, r)
		return
	}
	status, lines := g.status, g.lines
	if validates(r, lines) {
		status = http.StatusNotModified
		if g.after304 != nil {
			lines = g.after304
		}
	}
	say(w, lines...)
	if status != http.StatusNotModified && status != http.StatusNoContent {
		w.Header()["Content-Length"] = []string{strconv.Itoa(len("answer " + strconv.Itoa(n)))}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead && status != http.StatusNotModified && status != http.StatusNoContent {
		_, _ = io.WriteString(w, "answer "+strconv.Itoa(n))
	}
}

// say sets response fields: those of lines, Content-Type, and Date unless lines
// have one, or "Date:" for none.
func say(w http.ResponseWriter, lines ...string) {
	h := w.Header()
	h["Content-Type"] = []string{"text/plain"}
	h["Date"] = []string{httpTime(0)}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		name, value = http.CanonicalHeaderKey(name), strings.TrimSpace(value)
		if name == "Date" || name == "Content-Type" {
			delete(h, name)
		}
		if name != "Date" || value != "" {
			h[name] = append(h[name], value)
		}
	}
}

// httpTime is an HTTP-date so long after now.
func httpTime(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }

// validates says whether an origin that says lines answers r with 304.
func validates(r *http.Request, lines []string) bool {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		if name == "ETag" && len(r.Header["If-None-Match"]) > 0 {
			return slices.Contains(r.Header["If-None-Match"], value)
		}
	}
	for _, line := range lines {
		if name, value, _ := strings.Cut(line, ": "); name == "Last-Modified" && r.Header.Get("If-Modified-Since") == value {
			return true
		}
	}
	return false
}

// client records a reply, interim ones too.
type client struct {
	*httptest.ResponseRecorder
	interim []int
}

func (c *client) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		c.interim = append(c.interim, status)
		return
	}
	c.ResponseRecorder.WriteHeader(status)
}

func (g *rig) send(method, target, body string, lines ...string) reply {
	g.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		if name == "Host" {
			r.Host = strings.TrimSpace(value)
			continue
		}
		r.Header.Add(name, strings.TrimSpace(value))
	}
	w := &client{ResponseRecorder: httptest.NewRecorder()}
	func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		g.handler.ServeHTTP(w, r)
	}()
	resp := w.Result()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(got), w.interim}
}

func (g *rig) get(lines ...string) reply {
	g.t.Helper()
	return g.send(http.MethodGet, "/", "", lines...)
}

// calls is how many requests have reached the origin.
func (g *rig) calls() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.asked)
}

// last is the newest request that has reached the origin.
func (g *rig) last() *http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[len(g.asked)-1]
}

// want compares a reply: its status and body, and how many requests the origin has
// had since the beginning.
func (g *rig) want(got reply, status int, body string, calls int) {
	g.t.Helper()
	if got.status != status || got.body != body || g.calls() != calls {
		g.t.Errorf("got %d %q after %d calls, want %d %q after %d\n%v", got.status, got.body, g.calls(), status, body, calls, got.header)
	}
}

// gives is want while the origin may be asked in the background.
func (g *rig) gives(got reply, status int, body string) {
	g.t.Helper()
	if got.status != status || got.body != body {
		g.t.Errorf("got %d %q, want %d %q\n%v", got.status, got.body, status, body, got.header)
	}
}

// says compares one field of a reply; want "" is absent.
func (g *rig) says(got reply, name, want string) {
	g.t.Helper()
	if v := strings.Join(got.header[http.CanonicalHeaderKey(name)], "; "); v != want {
		g.t.Errorf("%s: got %q, want %q", name, v, want)
	}
}

// story is two GETs of one URL.
type story struct {
	name   string        // the section and what is true
	status int           // the origin's; 0 means 200
	says   []string      // its fields
	asks   []string      // the fields of the first request
	later  time.Duration // the time between the two
	again  []string      // the fields of the second
	want   string        // what becomes of the second: reused, forwarded, validated
}

// list makes a slice: tables read better with it.
func list(lines ...string) []string { return lines }

func tell(t *testing.T, stories []story) {
	t.Helper()
	for _, s := range stories {
		virtual(t, s.name, func(t *testing.T) {
			g := newRig(t, s.says...)
			if s.status != 0 {
				g.status = s.status
			}
			body := "answer 1"
			if g.status == http.StatusNoContent || g.status == http.StatusNotModified {
				body = ""
			}
			g.want(g.get(s.asks...), g.status, body, 1)
			time.Sleep(s.later)
			got := g.get(s.again...)
			switch s.want {
			case "reused":
				g.want(got, g.status, body, 1)
			case "validated":
				g.want(got, g.status, body, 2)
				if h := g.last().Header; len(h["If-None-Match"])+len(h["If-Modified-Since"]) == 0 {
					t.Errorf("the second request had no validator: %v", h)
				}
			case "forwarded":
				if body != "" {
					body = "answer 2"
				}
				g.want(got, g.status, body, 2)
			default:
				t.Fatalf("%q is no outcome", s.want)
			}
		})
	}
}

const (
	fresh     = "Cache-Control: max-age=60"
	tag       = `ETag: "a"`
	longAgo   = "Last-Modified: Mon, 01 Jan 1990 00:00:00 GMT" // virtual time begins in 2000
	tolerates = "Cache-Control: max-stale"
)

func TestRFC9111Section1(t *testing.T) {
	tell(t, []story{
		{name: "1.2.2 takes a number that is too large for the largest", says: list("Cache-Control: max-age=99999999999999999999"), later: 365 * 24 * time.Hour, want: "reused"},
		{name: "1.2.2 takes 2147483648 as it is", says: list("Cache-Control: max-age=2147483648"), later: 365 * 24 * time.Hour, want: "reused"},
		{name: "1.2.2 takes an age that is too large for old", says: list(fresh, "Age: 99999999999999999999"), want: "forwarded"},
	})
}

func TestRFC9111Section3(t *testing.T) {
	tell(t, []story{
		{name: "3 stores what is fresh", says: list(fresh), later: 59 * time.Second, want: "reused"},
		{name: "3 stores no 206", status: 206, says: list(fresh, "Content-Range: bytes 0-7/9"), want: "forwarded"},
		{name: "3 stores no 304", status: 304, says: list(fresh), want: "forwarded"},
		{name: "3 stores no status that it does not understand", status: 299, says: list(fresh), want: "forwarded"},
		{name: "3 stores no status that it does not understand with must-understand", status: 299, says: list(fresh + ", must-understand"), want: "forwarded"},
		{name: "3 stores no-store beside must-understand with a status that it does", says: list(fresh + ", must-understand, no-store"), want: "reused"},
		{name: "3 does not store no-store", says: list(fresh + ", no-store"), want: "forwarded"},
		{name: "3 does not store for a request with no-store", says: list(fresh), asks: list("Cache-Control: no-store"), want: "forwarded"},
		{name: "3 does not store private", says: list(fresh + ", private"), want: "forwarded"},
		{name: "3 stores the rest of what is private in part", says: list(fresh + `, private="x-a"`), want: "reused"},
		{name: "3 does not store cookies", says: list(fresh, "Set-Cookie: a=b"), want: "forwarded"},
		{name: "3 stores a redirect for its max-age", status: 302, says: list(fresh), want: "reused"},
		{name: "3 stores a redirect for its s-maxage", status: 302, says: list("Cache-Control: s-maxage=60"), want: "reused"},
		{name: "3 stores a redirect for its Expires", status: 302, says: list("Expires: Fri, 31 Dec 2100 00:00:00 GMT"), want: "reused"},
		{name: "3 stores a redirect because it is public", status: 302, says: list("Cache-Control: public", longAgo), want: "reused"},
		{name: "3 does not store a redirect that says nothing", status: 302, says: list(longAgo), want: "forwarded"},
		{name: "3 stores a heuristically cacheable redirect", status: 301, says: list(longAgo), want: "reused"},
		{name: "3 does not store an error of the moment", status: 500, says: list(fresh), want: "forwarded"},
		{name: "3 stores no content", status: 204, says: list(fresh), want: "reused"},
	})
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"} {
		virtual(t, "3 does not store the answer to "+method, func(t *testing.T) {
			g := newRig(t, fresh)
			g.want(g.send(method, "/", ""), 200, "answer 1", 1)
			g.want(g.send(method, "/", ""), 200, "answer 2", 2)
			g.want(g.get(), 200, "answer 3", 3)
		})
	}
	virtual(t, "3 passes interim answers on and stores the final one", func(t *testing.T) {
		g := newRig(t)
		g.handle = func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Link"] = []string{"</x>; rel=preload"}
			w.WriteHeader(http.StatusEarlyHints)
			say(w, fresh)
			_, _ = io.WriteString(w, "final")
		}
		first := g.get()
		g.want(first, 200, "final", 1)
		if !slices.Equal(first.interim, []int{103}) {
			t.Errorf("interim answers %v", first.interim)
		}
		second := g.get()
		g.want(second, 200, "final", 1)
		if len(second.interim) != 0 {
			t.Errorf("interim answers %v of a hit", second.interim)
		}
	})
}

func TestRFC9111Section3Fields(t *testing.T) {
	virtual(t, "3.1 stores all fields, known or not, but those of a connection", func(t *testing.T) {
		hops := list("Connection: x-hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "Proxy-Authentication-Info: x", "Proxy-Authorization: x", "Te: x", "Upgrade: x")
		kept := list("X-Unknown: 1", "Content-Foo: 2", "Content-Language: de", "Link: </a>; rel=x", "Retry-After: 7", tag, longAgo, fresh, "Vary: Accept")
		g := newRig(t, append(hops, kept...)...)
		g.get()
		got := g.get()
		g.want(got, 200, "answer 1", 1)
		for _, line := range kept {
			name, value, _ := strings.Cut(line, ": ")
			g.says(got, name, value)
		}
		for _, line := range hops {
			name, _, _ := strings.Cut(line, ": ")
			g.says(got, name, "")
		}
	})
	virtual(t, "3.1 does not make header fields of trailers", func(t *testing.T) {
		g := newRig(t)
		g.handle = func(w http.ResponseWriter, _ *http.Request) {
			say(w, fresh, "Trailer: X-Trailer")
			_, _ = io.WriteString(w, "body")
			w.Header()["X-Trailer"] = []string{"1"}
			w.Header()[http.TrailerPrefix+"X-Other"] = []string{"1"}
		}
		for range 2 {
			got := g.get()
			g.says(got, "X-Trailer", "")
			g.says(got, "X-Other", "")
		}
	})
	virtual(t, "3.2 adds and replaces the fields of a newer answer, but its length", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag, "X-Old: 1", "X-Both: 1")
		g.get()
		g.after304 = list("Cache-Control: max-age=100", tag, "X-Both: 2", "X-New: 3", "Content-Foo: 4", "Content-Length: 5", "Connection: x-hop", "X-Hop: 1")
		time.Sleep(20 * time.Second)
		for calls, later := range []time.Duration{0, 90 * time.Second} {
			time.Sleep(later)
			got := g.get()
			g.want(got, 200, "answer 1", 2)
			for name, value := range map[string]string{
				"Cache-Control": "max-age=100", "X-Old": "1", "X-Both": "2", "X-New": "3", "Content-Foo": "4", "Content-Length": "8",
				"X-Hop": "", "Connection": "", "Date": httpTime(-time.Duration(calls) * 90 * time.Second),
			} {
				g.says(got, name, value)
			}
		}
	})
	virtual(t, "3.3 does not store an answer that is shorter than it says", func(t *testing.T) {
		g := newRig(t)
		g.handle = func(w http.ResponseWriter, _ *http.Request) {
			say(w, fresh, "Content-Length: 100")
			_, _ = io.WriteString(w, "part")
		}
		g.get()
		g.get()
		if g.calls() != 2 {
			t.Errorf("%d calls, want 2", g.calls())
		}
	})
	virtual(t, "3.3 does not store an answer that breaks off", func(t *testing.T) {
		g := newRig(t)
		g.handle = func(w http.ResponseWriter, _ *http.Request) {
			say(w, fresh)
			_, _ = io.WriteString(w, "part")
			panic(http.ErrAbortHandler)
		}
		g.get()
		g.get()
		if g.calls() != 2 {
			t.Errorf("%d calls, want 2", g.calls())
		}
	})
	virtual(t, "3.3 does not take a part for the whole", func(t *testing.T) {
		g := newRig(t)
		g.handle = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				say(w, fresh, "Content-Range: bytes 0-1/4")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = io.WriteString(w, "wh")
				return
			}
			say(w, fresh)
			_, _ = io.WriteString(w, "whole")
		}
		g.get("Range: bytes=0-1")
		got := g.get()
		if got.status != 200 || got.body != "whole" {
			t.Errorf("got %d %q", got.status, got.body)
		}
	})
	virtual(t, "3.3 marks a part as one", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		got := g.get("Range: bytes=0-1")
		g.want(got, 206, "an", 1)
		g.says(got, "Content-Range", "bytes 0-1/8")
	})
}

func TestRFC9111Section35(t *testing.T) {
	for _, credential := range []string{"Authorization: Bearer x", "X-Api-Key: x", "Api-Key: x", "Cookie: a=b"} {
		name, _, _ := strings.Cut(credential, ":")
		asks := list(credential)
		tell(t, []story{
			{name: "3.5 does not give others what came for " + name, says: list(fresh), asks: asks, want: "forwarded"},
			{name: "3.5 does not give the same what came for " + name, says: list(fresh), asks: asks, again: asks, want: "forwarded"},
			{name: "3.5 gives what is public in spite of " + name, says: list(fresh + ", public"), asks: asks, want: "reused"},
			{name: "3.5 gives what has s-maxage in spite of " + name, says: list("Cache-Control: s-maxage=60"), asks: asks, want: "reused"},
			{name: "3.5 gives what must be revalidated in spite of " + name, says: list(fresh + ", must-revalidate"), asks: asks, want: "reused"},
			{name: "3.5 keeps to s-maxage that permitted it in spite of " + name, says: list("Cache-Control: s-maxage=60", tag), asks: asks, later: time.Minute, again: list(tolerates), want: "validated"},
			{name: "3.5 keeps to must-revalidate that permitted it in spite of " + name, says: list(fresh+", must-revalidate", tag), asks: asks, later: time.Minute, again: list(tolerates), want: "validated"},
			{name: "3.5 takes proxy-revalidate for no permission with " + name, says: list(fresh + ", proxy-revalidate"), asks: asks, want: "forwarded"},
			{name: "3.5 takes Expires for no permission with " + name, says: list("Expires: Fri, 31 Dec 2100 00:00:00 GMT"), asks: asks, want: "forwarded"},
		})
	}
}
