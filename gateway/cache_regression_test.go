package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// long is an origin whose answer is longer than what is kept of one.
type long struct {
	size  int
	begin *gate
	calls atomic.Int64
}

func (l *long) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.calls.Add(1)
	storable(w.Header())
	w.Header().Set("Content-Type", "text/plain")
	say(w, "x")
	part := strings.Repeat("x", 32<<10)
	for n := l.size - 1; n > 0 && l.begin.wait(r); n -= len(part) {
		if _, err := io.WriteString(w, part[:min(n, len(part))]); err != nil {
			return
		}
	}
}

// count reads to the end without keeping it, at so many bytes a second; 0 is all
// there are.
func (r *reading) count(perSecond int) (n int, err error) {
	late := time.AfterFunc(eventually, r.leave)
	defer late.Stop()
	buf, began := make([]byte, 64<<10), time.Now()
	for {
		k, err := r.Body.Read(buf)
		n += k
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if perSecond > 0 {
			pass(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(perSecond))))
		}
	}
}

func TestFollowersOfALongAnswerGetAllOfIt(t *testing.T) {
	t.Parallel()
	const size = 12 << 20
	for _, leads := range []string{"leaves", "is slow", "is fast"} {
		t.Run("the one who asked first "+leads, func(t *testing.T) {
			t.Parallel()
			o := &long{size: size, begin: newGate()}
			w := site{mode: "http", share: "all", cache: ", max_entry: 256KiB"}.start(t, o)
			leader := w.open("GET", "/", "")
			fast, slow := w.open("GET", "/", ""), w.open("GET", "/", "")
			for _, r := range []*reading{fast, slow} {
				if got := r.Header.Get("Cache-Status"); !strings.HasSuffix(got, "; collapsed") {
					t.Errorf("a follower: Cache-Status %q", got)
				}
			}
			type end struct {
				who string
				n   int
				err error
			}
			ends := make(chan end, 3)
			read := func(who string, r *reading, perSecond int) {
				n, err := r.count(perSecond)
				ends <- end{who, n, err}
			}
			readers := 3
			switch leads {
			case "leaves":
				leader.leave()
				readers = 2
			case "is slow":
				go read("the leader", leader, 8<<20)
			case "is fast":
				go read("the leader", leader, 0)
			}
			go read("a fast follower", fast, 0)
			go read("a slow follower", slow, 10<<20)
			o.begin.open()
			for range readers {
				if e := after(t, "the end of the answer", ends); e.n != size || e.err != nil {
					t.Errorf("%s: %d of %d bytes, %v", e.who, e.n, size, e.err)
				}
			}
			if got := o.calls.Load(); got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
		})
	}
}

// versions is an origin of documents that PUT changes.
func versions() http.HandlerFunc {
	var version atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		if r.Method == "PUT" {
			version.Add(1)
			return
		}
		storable(w.Header())
		_, _ = fmt.Fprint(w, "version ", version.Load())
	}
}

func TestAChangeOnAnyRouteReachesEverybodysAnswer(t *testing.T) {
	t.Parallel()
	f := func(name, top, route string, share string) {
		t.Run(name+", "+share, func(t *testing.T) {
			t.Parallel()
			w := twoRoutes(t, top, site{mode: "http", share: share, route: route}, versions())
			for _, user := range []int{1, 2} {
				if a := w.as(user, "GET", "/doc", ""); !a.is(200, "version 0") {
					t.Errorf("u%d at first: %v", user, a)
				}
				if a := w.as(user, "GET", "/doc", ""); !a.is(200, "version 0") || !a.hit() {
					t.Errorf("u%d then: %v", user, a)
				}
			}
			if a := w.as(3, "PUT", "/doc", "{}", "Cookie", "csrf=1"); a.status != 200 {
				t.Fatalf("%v", a)
			}
			for _, user := range []int{1, 2, 3} {
				if a := w.as(user, "GET", "/doc", ""); !a.is(200, "version 1") {
					t.Errorf("u%d after the change: %v", user, a)
				}
			}
		})
	}
	for _, share := range []string{"caller", "all"} {
		f("one route", "", "", share)
		f("a route for changes without a cache", "{name: changes, match: {path: /*, methods: [PUT]}, upstream: u}, ", "", share)
		f("a route for changes with a cache", "{name: changes, match: {path: /*, methods: [PUT]}, upstream: u, cache: {mode: http}}, ", "", share)
	}
}

// twoRoutes serves s with a route before its own.
func twoRoutes(t *testing.T, first string, s site, h http.Handler) *instance {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return launch(t, strings.Replace(s.yaml(server.URL), "routes: [", "routes: ["+first, 1))
}

func TestGetsWithBodiesGoPastTheHTTPCache(t *testing.T) {
	t.Parallel()
	w := site{mode: "http", share: "all"}.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		storable(w.Header())
		_, _ = fmt.Fprint(w, "results of ", taken(r))
	}))
	for _, body := range []string{`{"q":"a"}`, `{"q":"b"}`, `{"q":"a"}`} {
		if a := w.as(1, "GET", "/_search", body); !a.is(200, "results of "+body) || a.header.Get("Cache-Status") != "weir; fwd=bypass" {
			t.Errorf("%s: %v", body, a)
		}
	}
}

// nginx looks at X-Accel-Expires before it looks at anything else.
func TestWhatNginxIsToldOfAnAnswer(t *testing.T) {
	t.Parallel()
	const nothing = -1
	for _, c := range []struct {
		name, control string
		site          site
		most          int64 // on a hit
	}{
		{"less than the TTL", "max-age=5", site{share: "all"}, 5},
		{"not to be used again unasked", "max-age=0, must-revalidate", site{share: "all"}, 0},
		{"not for shared caches", "s-maxage=0", site{share: "all"}, 0},
		{"more than the TTL", "max-age=600", site{share: "all"}, 60},
		{"the caller's own", "max-age=600", site{share: "caller"}, nothing},
		{"made long ago", "max-age=600", site{mode: "http", share: "all"}, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := c.site.start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", c.control)
				if c.site.mode == "http" {
					w.Header().Set("Age", "500")
				} else {
					w.Header().Set("X-Accel-Expires", "1000")
				}
				_, _ = io.WriteString(w, "x")
			}))
			if got := w.as(1, "GET", "/", "").header["X-Accel-Expires"]; len(got) > 0 {
				t.Errorf("miss: X-Accel-Expires %q, want none", got)
			}
			a := w.as(1, "GET", "/", "")
			got := a.header.Get("X-Accel-Expires")
			if !a.hit() {
				t.Fatalf("%v", a)
			}
			if c.most == nothing {
				if got != "" {
					t.Errorf("hit: X-Accel-Expires %q, want none", got)
				}
				return
			}
			// Some of it passes on a slow machine.
			if n, err := strconv.ParseInt(got, 10, 64); err != nil || n > c.most || n < max(0, c.most-30) {
				t.Errorf("hit: X-Accel-Expires %q, want %d", got, c.most)
			}
		})
	}
}

// completion is an answer that says what it used.
const completion = `{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],` +
	`"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}`

// What the upstream confirms costs the request that asked, and no tokens: no model
// ran.
func TestAConfirmedAnswerCostsNoTokens(t *testing.T) {
	t.Parallel()
	var calls, confirmed atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		calls.Add(1)
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Etag", `"a"`)
		if r.Header.Get("If-None-Match") == `"a"` {
			confirmed.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, completion)
	})
	s := site{
		mode: "http", share: "all", upstream: ", dialect: openai",
		top: "plans: {default: {policies: [{name: t, quota: 1000, unit: tokens, window: 1h}, {name: r, quota: 1000, window: 1h}]}}\n",
	}
	w := twoRoutes(t, "{name: look, match: {path: /look}, upstream: u, max_body: 100}, ", s, h)
	f := func(what string, tokens, requests int64) {
		t.Helper()
		if a := w.send("QUERY", chats, streamless); !a.is(200, completion) {
			t.Errorf("%s: %v", what, a)
		}
		w.until(func() bool { return w.left("/look", "r") <= requests })
		w.wantLeft("/look", map[string]int64{"t": tokens, "r": requests})
	}
	f("the model's answer", 985, 999)
	f("confirmed", 985, 998)
	f("confirmed again", 985, 997)
	if calls.Load() != 3 || confirmed.Load() != 2 {
		t.Errorf("%d calls, %d confirmed, want 3 and 2", calls.Load(), confirmed.Load())
	}
}

const streamless = `{"model":"m","temperature":0,"messages":[{"role":"user","content":"hi"}]}`

// The key in the log is the one that takes what was given away.
func TestTheKeyOfAConvertedAnswerPurgesIt(t *testing.T) {
	t.Parallel()
	c := openAITalk()
	origin := &counted{h: c.ServeHTTP}
	w := c.site().start(t, origin)
	if a := w.send("POST", c.path, c.ask); !a.is(200, c.whole) {
		t.Fatalf("whole: %v", a)
	}
	whole := w.keyOf(c.path)
	if a := w.send("POST", c.path, c.askStream); !a.hit() || !strings.Contains(a.header.Get("Cache-Status"), "detail=converted") {
		t.Fatalf("as a stream: %v", a)
	}
	w.until(func() bool { return strings.Contains(w.log.String(), "detail=converted") })
	converted := w.keyOf(c.path)
	if n := w.purge("key", converted); n != 1 {
		t.Errorf("purging %s removed %d answers, want 1: the one stored under %s", converted, n, whole)
	}
	if a := w.send("POST", c.path, c.askStream); a.hit() || origin.calls.Load() != 2 {
		t.Errorf("after the purge: %v after %d calls", a, origin.calls.Load())
	}
}

// What the upstream does not name a type of, Weir does not either: a browser would
// take its guess for the upstream's word.
func TestNoContentTypeIsGuessed(t *testing.T) {
	t.Parallel()
	const page = "<html><script>alert(1)</script>"
	for _, mode := range []string{"inference", "http", "none"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			more := newGate()
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				storable(w.Header())
				w.Header()["Content-Type"] = nil
				say(w, page)
				if strings.HasSuffix(r.URL.Path, "/running") {
					more.wait(r)
				}
			})
			s, path := site{mode: mode, share: "all"}, "/kept"
			if mode == "none" {
				s.mode, path = "http", "/plain"
			}
			w := twoRoutes(t, "{name: plain, match: {path: /plain/*}, upstream: u}, ", s, h)
			f := func(what string, header http.Header) {
				t.Helper()
				if got := header["Content-Type"]; len(got) > 0 {
					t.Errorf("%s: Content-Type %q, want none; Cache-Status %q", what, got, header.Get("Cache-Status"))
				}
			}
			for _, what := range []string{"the first", "the second"} {
				a := w.send("GET", path+"/", "")
				f(what, a.header)
				if !a.is(200, page) || a.hit() != (what == "the second" && mode != "none") {
					t.Errorf("%s: %v", what, a)
				}
			}
			f("HEAD", w.send("HEAD", path+"/", "").header)
			f("a part", w.send("GET", path+"/", "", "Range", "bytes=0-9").header)
			leader := w.open("GET", path+"/running", "")
			f("who asked first", leader.Header)
			follower := make(chan *reading, 1)
			go func() { follower <- w.open("GET", path+"/running", "") }()
			if mode == "inference" {
				w.serves(2)
				more.open()
			}
			second := after(t, "a follower's answer", follower)
			f("who waits for a running answer", second.Header)
			more.open()
			for _, r := range []*reading{leader, second} {
				if a := r.rest(); !a.is(200, page) {
					t.Errorf("%v", a)
				}
			}
		})
	}
}

// Ollama does not tell members apart whose names differ in case alone, and takes the
// last one.
func TestMembersThatOllamaTakesForOneGoPastTheCache(t *testing.T) {
	t.Parallel()
	const path = "/api/generate"
	c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
		body := taken(r)
		last := body[strings.LastIndex(strings.ToLower(body), `"prompt":`)+len(`"prompt":`):]
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"model":"m","created_at":"2026-01-01T00:00:00Z","response":%s,"done":true,"done_reason":"stop"}`, last[:3])
	}}
	w := site{share: "all", upstream: ", dialect: ollama", cache: ", only: all"}.start(t, c)
	for body, want := range map[string]string{
		`{"model":"m","stream":false,"prompt":"a","Prompt":"b"}`: `"response":"b"`,
		`{"model":"m","stream":false,"Prompt":"b","prompt":"a"}`: `"response":"a"`,
	} {
		for range 2 {
			if a := w.send("POST", path, body); a.status != 200 || !strings.Contains(a.body, want) || a.header.Get("Cache-Status") != "weir; fwd=bypass" {
				t.Errorf("%s: %v", body, a)
			}
		}
	}
	if got := c.calls.Load(); got != 4 {
		t.Errorf("%d calls, want 4", got)
	}
	for i := range 2 { // it is not that nothing is kept
		if a := w.send("POST", path, `{"model":"m","stream":false,"prompt":"a"}`); a.hit() != (i > 0) {
			t.Errorf("in one way only: %v", a)
		}
	}
}

// An answer whose trailers were not announced has more to say than what is stored.
func TestAnAnswerWithUnannouncedTrailersIsNotKept(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"inference", "http"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				storable(w.Header())
				say(w, "x")
				w.Header().Set(http.TrailerPrefix+"X-Checksum", "1")
			}}
			w := site{mode: mode, share: "all"}.start(t, c)
			for i := range 2 {
				r := w.open("GET", "/", "")
				if a := r.rest(); !a.is(200, "x") || a.hit() || r.Trailer.Get("X-Checksum") != "1" {
					t.Errorf("%d: %v, trailer %v", i, a, r.Trailer)
				}
			}
			if got := c.calls.Load(); got != 2 {
				t.Errorf("%d calls, want 2", got)
			}
		})
	}
}

// An upstream that wants to be asked each time does not make who asks queue.
func TestWhatIsConfirmedEachTimeMakesNobodyQueue(t *testing.T) {
	t.Parallel()
	const n = 20
	var calls atomic.Int64
	hold := newGate()
	hold.open()
	gates := atomic.Pointer[gate]{}
	gates.Store(hold)
	w := site{mode: "http", share: "all"}.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		gates.Load().wait(r)
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Etag", `"a"`)
		if r.Header.Get("If-None-Match") == `"a"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, "body")
	}))
	if a := w.as(0, "GET", "/x", ""); !a.is(200, "body") {
		t.Fatalf("%v", a)
	}
	for wave := range 2 {
		hold, before := newGate(), calls.Load()
		gates.Store(hold)
		done := make(chan []answer, 1)
		go func() { done <- atOnce(n, func(i int) answer { return w.as(i, "GET", "/x", "") }) }()
		w.until(func() bool { return calls.Load() == before+n }) // and none has an answer yet
		hold.open()
		for _, a := range after(t, "the answers", done) {
			if !a.is(200, "body") {
				t.Errorf("%v", a)
			}
		}
		if all := calls.Load() - before; all != n {
			t.Errorf("wave %d: %d calls for %d clients", wave, all, n)
		}
	}
}

// Cookies that come with a confirmation are for who asked for it.
func TestACookieOfAConfirmationGoesToWhoAsked(t *testing.T) {
	t.Parallel()
	w := site{mode: "http", share: "all"}.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=1")
		w.Header().Set("Etag", `"a"`)
		if r.Header.Get("If-None-Match") == `"a"` {
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("Set-Cookie", "for="+r.UserAgent())
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, "body")
	}))
	if a := w.as(1, "GET", "/", ""); !a.is(200, "body") {
		t.Fatalf("%v", a)
	}
	pass(1100 * time.Millisecond)
	for user, want := range []string{"for=u0", "", ""} {
		a := w.as(user, "GET", "/", "")
		if got := a.header.Get("Set-Cookie"); got != want || !a.is(200, "body") {
			t.Errorf("u%d: %v, Set-Cookie %q, want %q", user, a, got, want)
		}
	}
}

// What is fetched in the background is the whole answer, for whatever part of it the
// client asked who was given the stale one.
func TestARefreshFetchesTheWholeAnswer(t *testing.T) {
	t.Parallel()
	const control = "max-age=1, stale-while-revalidate=600"
	type one struct {
		site          site
		method, field string
		value         string
		status        int
		body          string
	}
	sites := map[string]site{"http": {mode: "http", share: "all"}, "inference": {share: "all", ttl: "1s", cache: ", stale_while_revalidate: 10m"}}
	for name, c := range map[string]one{
		"http, a part":                       {sites["http"], "GET", "Range", "bytes=0-1", 206, "01"},
		"http, the head":                     {sites["http"], "HEAD", "Accept", "*/*", 200, ""},
		"http, from the cache or not":        {sites["http"], "GET", "Cache-Control", "only-if-cached", 200, "0123456789"},
		"inference, the head":                {sites["inference"], "HEAD", "Accept", "*/*", 200, ""},
		"inference, from the cache or not":   {sites["inference"], "GET", "Cache-Control", "only-if-cached", 200, "0123456789"},
		"inference, on a condition, too old": {sites["inference"], "GET", "If-None-Match", `"b"`, 200, "0123456789"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan string, 10)
			w := c.site.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- fmt.Sprint(r.Method, r.Header["Range"], r.Header["Cache-Control"], r.Header["If-None-Match"])
				w.Header().Set("Cache-Control", control)
				http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader("0123456789"))
			}))
			get := func() answer { return w.send("GET", "/doc", "", "Accept", "*/*") }
			if a := get(); !a.is(200, "0123456789") || a.hit() {
				t.Errorf("at first: %v", a)
			}
			after(t, "the first call", asked)
			pass(1100 * time.Millisecond)
			header := []string{"Accept", "*/*"}
			if c.field != "Accept" {
				header = append(header, c.field, c.value)
			}
			if a := w.send(c.method, "/doc", "", header...); !a.is(c.status, c.body) || !a.hit() {
				t.Errorf("the stale one: %v, want %d %q", a, c.status, c.body)
			}
			if got, want := after(t, "the refresh", asked), "GET[] [] []"; got != want {
				t.Errorf("the refresh is %s, want %s", got, want)
			}
			// It is fresh for a second, which a slow machine may miss: then it is made
			// anew once more, and one of those is found.
			w.until(func() bool {
				a := get()
				return a.is(200, "0123456789") && strings.HasPrefix(a.header.Get("Cache-Status"), "weir; hit; ttl=0")
			})
		})
	}
}
