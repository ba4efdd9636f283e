package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// inquiry is a request as it was sent, and as the origin knows it by its ID, which
// is in its User-Agent.
type inquiry struct {
	id     string
	user   int
	method string
	path   string
	body   string
	header http.Header
}

// GoString is for what rapid tells of a failure.
func (q *inquiry) GoString() string {
	return fmt.Sprintf("%s of u%d: %s %s %s %v", q.id, q.user, q.method, q.path, q.body, q.header)
}

func (q *inquiry) send(w *instance) answer {
	header := []string{"X-Api-Key", fmt.Sprint("weir_u", q.user), "User-Agent", q.id}
	for name, values := range q.header {
		header = append(header, name, values[0])
	}
	return w.sendCtx(w.t.Context(), q.method, q.path, q.body, header...)
}

// oracle says who may get whose answer, by RFC 9111 and docs/caching.md. It is
// written from these, and not from what it judges.
type oracle struct{ mode, share string }

// may reports whether b may have an answer with these fields that was made for a.
func (o oracle) may(a, b *inquiry, status int, h http.Header) bool {
	wishes := a.header.Get("Cache-Control") + b.header.Get("Cache-Control")
	switch {
	case a.method != b.method || a.path != b.path:
		return false
	case strings.ReplaceAll(a.body, " ", "") != strings.ReplaceAll(b.body, " ", ""):
		return false
	case wishes != "" && wishes != "no-cache": // no-store leaves no trace of its own, and finds none
		return false
	case b.header.Get("Cache-Control") != "": // no-cache wants its own; what it brings is for the next
		return false
	case h.Get("Set-Cookie") != "":
		return false
	case o.share == "caller" && (a.user != b.user || !equalFields(a, b, "Authorization", "Cookie")):
		return false
	}
	for name := range fieldList(h, "Vary") {
		if name == "*" || name == "User-Agent" || !equalFields(a, b, name) {
			return false
		}
		if o.mode == "inference" && o.share != "caller" && (name == "Cookie" || name == "Authorization") {
			return false
		}
	}
	if o.mode == "inference" {
		return o.inference(a, b, h)
	}
	return o.rfc9111(a, status, h)
}

// inference is the rule of docs/caching.md: all fields but some are in the key.
func (o oracle) inference(a, b *inquiry, h http.Header) bool {
	said := directivesOf(h, "Cache-Control")
	_, private := said["private"]
	_, noStore := said["no-store"]
	_, noCache := said["no-cache"]
	return !noStore && !noCache && (!private || o.share == "caller") && equalFields(a, b, "Accept", "X-User")
}

// rfc9111 is sections 3, 3.5 and 4 of it, with RFC 9213.
func (o oracle) rfc9111(a *inquiry, status int, h http.Header) bool {
	if a.method == "POST" {
		return false // section 4: only for a later GET, and with a Content-Location
	}
	said, targeted := directivesOf(h, "Cache-Control"), false
	for _, name := range []string{"Weir-Cache-Control", "Cdn-Cache-Control"} {
		if h.Get(name) != "" {
			said, targeted = directivesOf(h, name), true
			break
		}
	}
	private, isPrivate := said["private"]
	noCache, isNoCache := said["no-cache"]
	shared := o.share != "caller"
	if _, noStore := said["no-store"]; noStore || shared && isPrivate && private == "" || isNoCache && noCache == "" {
		return false
	}
	_, isPublic := said["public"]
	_, must := said["must-revalidate"]
	sMaxAge, hasS := said["s-maxage"]
	if shared && a.header.Get("Authorization") != "" && !isPublic && !must && !hasS {
		return false // section 3.5
	}
	maxAge, hasMax := said["max-age"]
	var lifetimes []string
	switch {
	case hasS && shared:
		lifetimes = []string{sMaxAge}
	case hasS || hasMax:
		lifetimes = []string{maxAge, sMaxAge}
	case h.Get("Expires") != "" && !targeted:
		return h.Get("Expires") > "1" // a date, not 0
	default: // section 4.2.2
		return isPublic || slices.Contains([]int{200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}, status)
	}
	age, _ := strconv.Atoi(h.Get("Age"))
	return slices.ContainsFunc(lifetimes, func(seconds string) bool {
		n, _ := strconv.Atoi(seconds)
		return n > age
	})
}

func equalFields(a, b *inquiry, names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return a.header.Get(name) != b.header.Get(name) })
}

func fieldList(h http.Header, name string) map[string]bool {
	all := map[string]bool{}
	for member := range strings.SplitSeq(h.Get(name), ",") {
		if member = strings.TrimSpace(member); member != "" {
			all[http.CanonicalHeaderKey(member)] = true
		}
	}
	return all
}

func directivesOf(h http.Header, field string) map[string]string {
	all := map[string]string{}
	for member := range strings.SplitSeq(h.Get(field), ",") {
		if name, value, _ := strings.Cut(strings.TrimSpace(member), "="); name != "" {
			all[name] = strings.Trim(value, `"`)
		}
	}
	return all
}

// diary is an origin that answers as it is told and says for whom: in the body and
// in fields, of which one is never another's where the answer says so.
type diary struct {
	mu     sync.Mutex // guards what follows
	status int
	header http.Header
}

func (d *diary) says(status int, header http.Header) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status, d.header = status, header
}

func (d *diary) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = taken(r)
	d.mu.Lock()
	status, header := d.status, d.header
	d.mu.Unlock()
	for name, values := range header {
		w.Header()[name] = values
	}
	if w.Header().Get("Set-Cookie") != "" {
		w.Header().Set("Set-Cookie", "for="+r.UserAgent())
	}
	w.Header().Set("X-For", r.UserAgent())
	w.Header().Set("X-Secret", r.UserAgent())
	w.Header().Set("Content-Type", "application/json")
	<-time.After(3 * time.Millisecond) // the others come
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"for":%q}`, r.UserAgent())
}

// answers draws what the origin says with all its answers.
func answers(t *rapid.T) (int, http.Header) {
	h := http.Header{}
	control := func(field string) {
		words := []string{"public", "private", "no-store", "no-cache", "max-age=60", "max-age=0", "s-maxage=60", "s-maxage=0", "must-revalidate",
			`private="x-secret"`, `no-cache="x-secret"`}
		if strings.HasSuffix(field, "-Cache-Control") {
			words = words[:9]
		}
		drawn := rapid.SliceOfNDistinct(rapid.SampledFrom(words), 0, 3, func(s string) string { s, _, _ = strings.Cut(s, "="); return s }).Draw(t, field)
		if len(drawn) > 0 {
			h.Set(field, strings.Join(drawn, ", "))
		}
	}
	control("Cache-Control")
	if rapid.IntRange(0, 3).Draw(t, "targeted") == 0 {
		control(rapid.SampledFrom([]string{"Weir-Cache-Control", "CDN-Cache-Control"}).Draw(t, "target"))
	}
	one := func(field string, values ...string) {
		if v := rapid.SampledFrom(values).Draw(t, field); v != "" {
			h.Set(field, v)
		}
	}
	one("Set-Cookie", "", "", "", "yes")
	one("Vary", "", "", "", "X-User", "Accept", "Cookie", "authorization", "*", "Accept, *", "X-User,Accept", "User-Agent")
	one("Expires", "", "", "0", "Sun, 06 Nov 2140 08:49:37 GMT")
	one("Age", "", "", "100")
	one("Etag", "", `"v1"`)
	return rapid.SampledFrom([]int{200, 200, 200, 404, 301}).Draw(t, "status"), h
}

func inquiries(t *rapid.T, path, name string, ids *atomic.Int64) []*inquiry {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *inquiry {
		q := &inquiry{id: fmt.Sprint("r", ids.Add(1)), header: http.Header{}, path: path}
		q.user = rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "user")
		q.method = "GET"
		if rapid.IntRange(0, 2).Draw(t, "plain") > 0 {
			return q // often enough the same as another
		}
		q.method = rapid.SampledFrom([]string{"GET", "GET", "POST", "QUERY"}).Draw(t, "method")
		if q.method != "GET" {
			q.body = rapid.SampledFrom([]string{`{"x":1}`, `{ "x": 1 }`, `{"x":2}`}).Draw(t, "body")
		}
		for _, field := range [][]string{
			{"Accept", "", "", "b"}, {"X-User", "", "", "x"}, {"Cookie", "", "", "c=1", "c=2"},
			{"Authorization", "", "", "Bearer t1", "Bearer t2"}, {"Cache-Control", "", "", "", "no-cache", "no-store"},
		} {
			if v := rapid.SampledFrom(field[1:]).Draw(t, field[0]); v != "" {
				q.header.Set(field[0], v)
			}
		}
		return q
	}), 1, 6).Draw(t, name)
}

// Whatever an origin says of its answers, and whoever asks: nobody gets an answer
// that was made for another, unless it may be shared.
func TestNobodyGetsAnAnswerThatIsNotHis(t *testing.T) {
	t.Parallel()
	for _, o := range []oracle{{"inference", "caller"}, {"inference", "all"}, {"http", "caller"}, {"http", "all"}} {
		t.Run(o.mode+" "+o.share, func(t *testing.T) {
			t.Parallel()
			d := &diary{}
			origin := httptest.NewServer(d)
			t.Cleanup(origin.Close)
			w := site{mode: o.mode, share: o.share}.at(t, origin.URL)
			var ids, paths, others atomic.Int64
			rapid.Check(t, func(t *rapid.T) {
				round := &round{oracle: o, asked: map[string]*inquiry{}}
				round.status, round.header = answers(t)
				d.says(round.status, round.header)
				path := fmt.Sprint("/", paths.Add(1))
				for _, when := range []string{"at once", "again"} {
					all := inquiries(t, path, when, &ids)
					for _, q := range all {
						round.asked[q.id] = q
					}
					for i, a := range atOnce(len(all), func(i int) answer { return all[i].send(w) }) {
						others.Add(round.check(t, all[i], a))
					}
				}
			})
			// At random, one caller rarely has the same twice of what may be stored.
			control := &round{oracle: o, asked: map[string]*inquiry{}, status: http.StatusOK, header: http.Header{"Cache-Control": {"max-age=60"}}}
			d.says(control.status, control.header)
			before := others.Load()
			for range 2 {
				q := &inquiry{id: fmt.Sprint("r", ids.Add(1)), header: http.Header{}, path: "/control", method: "GET"}
				control.asked[q.id] = q
				others.Add(control.check(t, q, q.send(w)))
			}
			if others.Load() == before {
				t.Error("nothing is ever shared: this tests nothing")
			}
			t.Logf("%d of %d answers were another's, rightly", others.Load(), ids.Load())
		})
	}
}

// round is what was asked, and what the origin said to all of it.
type round struct {
	oracle
	status int
	header http.Header
	asked  map[string]*inquiry
}

// check fails if a is not for b; it returns 1 if a was made for another.
func (r *round) check(t rapid.TB, b *inquiry, a answer) int64 {
	maker := r.asked[a.header.Get("X-For")]
	if a.err != nil || maker == nil || a.status != r.status || a.body != fmt.Sprintf(`{"for":%q}`, maker.id) {
		t.Fatalf("%#v got %v %v", b, a, a.header)
	}
	if maker == b {
		return 0
	}
	if !r.may(maker, b, r.status, r.header) {
		t.Fatalf("%#v\n got what was made for %#v\nThe origin says %d %v\nThe answer is %v", b, maker, r.status, r.header, a.header)
	}
	said := r.header.Get("Cache-Control")
	if r.mode == "http" && (r.header.Get("Weir-Cache-Control") != "" || r.header.Get("CDN-Cache-Control") != "") {
		said = "" // RFC 9213: it is not looked at
	}
	if secret := a.header.Get("X-Secret"); r.share != "caller" && secret != "" && secret != b.id && strings.Contains(said, `="x-secret"`) {
		t.Fatalf("%#v got the X-Secret of %s, though the origin says %s: %v", b, secret, said, a.header)
	}
	return 1
}
