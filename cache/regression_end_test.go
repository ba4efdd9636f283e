package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

func TestACacheInFrontKeepsNoError(t *testing.T) {
	const failed = `{"error":"the model is loading"}`
	f := func(name string, status int, control, body, want string) {
		t.Helper()
		h := newCache(t, cache.Options{Share: cache.ShareAll, TTL: 10 * time.Minute}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if control != "" {
				w.Header().Set("Cache-Control", control)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		for range 2 {
			resp := ask(h, request("GET", "/", ""))
			wantsField(t, name, resp, "Cache-Control", want)
			wants(t, name, resp, status, body)
		}
	}
	f("an error under 200", 200, "", failed, "max-age=0")
	f("an error under 200 that says for how long", 200, "max-age=60", failed, "max-age=60")
	f("an error under 200 that says more than the TTL", 200, "max-age=6000", failed, "max-age=600")
	f("what is no JSON", 200, "", `{"a":`, "max-age=0")
	f("a 500", 500, "", failed, "max-age=0")
	f("a 500 that says for how long", 500, "max-age=600", failed, "max-age=0")
	f("a 500 that says it to shared caches", 500, "s-maxage=600", failed, "s-maxage=0, max-age=0")
	f("a 404 that says more than its TTL", 404, "max-age=600", "{}", "max-age=5")
}

// staleSoon is a rig whose answer is stale after a second and good enough for a
// minute more.
func staleSoon(t *testing.T) *rig {
	t.Helper()
	return newRig(t, "Cache-Control: max-age=1, stale-while-revalidate=60")
}

// What is fetched in the background is everybody's, whatever the client wanted who
// was given the stale answer.
func TestARefreshIsForTheWholeAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		lines  []string
		status int
		body   string
	}{
		"for a part":                   {"GET", list("Range: bytes=0-1"), 206, "an"},
		"for the head":                 {"HEAD", nil, 200, ""},
		"on a condition":               {"GET", list(`If-None-Match: "b"`), 200, "answer 1"},
		"from the cache or not":        {"GET", list("Cache-Control: only-if-cached"), 200, "answer 1"},
		"a part, of one version":       {"GET", list("Range: bytes=0-1", `If-Range: "b"`), 200, "answer 1"},
		"for the head, from the cache": {"HEAD", list("Cache-Control: only-if-cached"), 200, ""},
	} {
		virtual(t, name, func(t *testing.T) {
			g := staleSoon(t)
			g.want(g.get(), 200, "answer 1", 1)
			time.Sleep(2 * time.Second)
			got := g.send(c.method, "/", "", c.lines...)
			synctest.Wait()
			g.want(got, c.status, c.body, 2)
			if r := g.last(); r.Method != "GET" || len(r.Header["Range"])+len(r.Header["If-Range"])+len(r.Header["If-None-Match"])+len(r.Header["Cache-Control"]) > 0 {
				t.Errorf("the refresh is %s %v, want a GET of all", r.Method, r.Header)
			}
			got = g.get()
			g.want(got, 200, "answer 2", 2)
			g.says(got, "Cache-Status", "weir; hit; ttl=1")
		})
	}
	for name, r := range map[string]func() *http.Request{
		"inference: for the head":          func() *http.Request { return request("HEAD", "/", "") },
		"inference: from the cache or not": func() *http.Request { return request("GET", "/", "", "Cache-Control", "only-if-cached") },
	} {
		virtual(t, name, func(t *testing.T) {
			asked := make(chan *http.Request, 10)
			o := &origin{answer: func(_ http.ResponseWriter, r *http.Request) { asked <- r.Clone(context.WithoutCancel(r.Context())) }}
			h := newCache(t, cache.Options{TTL: time.Second, StaleWhileRevalidate: time.Minute}).Middleware(o)
			wants(t, "at first", ask(h, request("GET", "/", "")), 200, "answer 1")
			<-asked
			time.Sleep(2 * time.Second)
			ask(h, r())
			synctest.Wait()
			if o.calls.Load() != 2 {
				t.Fatalf("%d calls, want 2", o.calls.Load())
			}
			if again := <-asked; again.Method != "GET" || len(again.Header["Cache-Control"]) > 0 {
				t.Errorf("the refresh is %s %v", again.Method, again.Header)
			}
			resp := ask(h, request("GET", "/", ""))
			wantsField(t, "then", resp, "Cache-Status", "weir; hit; ttl=1")
			wants(t, "then", resp, 200, "answer 2")
		})
	}
}

func TestNoRefreshBeginsAfterClose(t *testing.T) {
	for range 100 {
		c := newCache(t, cache.Options{Share: cache.ShareAll, TTL: time.Nanosecond, StaleWhileRevalidate: time.Hour})
		var closed atomic.Bool
		var first sync.Once
		h := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fresh := false
			first.Do(func() { fresh = true })
			if !fresh && closed.Load() {
				t.Error("a refresh began after Close had returned")
			}
			_, _ = io.WriteString(w, "x")
		}))
		wants(t, "at first", ask(h, request("GET", "/", "")), 200, "x")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 5 {
					wants(t, "while it is closed", ask(h, request("GET", "/", "")), 200, "x")
				}
			})
		}
		c.Close()
		closed.Store(true)
		wg.Wait()
	}
}

func TestWhatEndsInTrailersIsNotKept(t *testing.T) {
	for _, mode := range []cache.Mode{cache.ModeInference, cache.ModeHTTP} {
		for _, announced := range []bool{false, true} {
			t.Run(fmt.Sprint(mode, ", announced: ", announced), func(t *testing.T) {
				var calls atomic.Int64
				h := newCache(t, cache.Options{Mode: mode, Share: cache.ShareAll}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					calls.Add(1)
					w.Header().Set("Cache-Control", "max-age=60")
					name := http.TrailerPrefix + "X-Checksum"
					if announced {
						w.Header().Set("Trailer", "X-Checksum")
						name = "X-Checksum"
					}
					_, _ = io.WriteString(w, "x")
					_ = http.NewResponseController(w).Flush() // before that it could still be a field
					w.Header().Set(name, "1")
				}))
				s := httptest.NewServer(h)
				defer s.Close()
				for i := range 2 {
					resp, err := s.Client().Get(s.URL)
					if err != nil {
						t.Fatal(err)
					}
					wants(t, fmt.Sprint(i), resp, 200, "x")
					_ = resp.Body.Close()
					if got := resp.Trailer.Get("X-Checksum"); got != "1" {
						t.Errorf("%d: the trailer is %q, want 1; %s", i, got, resp.Header.Get("Cache-Status"))
					}
				}
				if got := calls.Load(); got != 2 {
					t.Errorf("%d calls, want 2", got)
				}
			})
		}
	}
}

// The stored answer turns out to be one of several: who asked for another one gets
// that, and a cookie is for the client in whose answer it is.
func TestAConfirmationIsForThoseItIsAbout(t *testing.T) {
	for _, leader := range []string{"de", "en"} {
		virtual(t, leader+" asks first", func(t *testing.T) {
			var release chan struct{}
			var asked atomic.Int64
			h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				language, tag := r.Header.Get("X-Language"), `"`+r.Header.Get("X-Language")+`"`
				w.Header().Set("Etag", tag)
				if release == nil { // at first nobody knows
					w.Header().Set("Cache-Control", "max-age=1")
					_, _ = io.WriteString(w, "in "+language)
					return
				}
				select {
				case <-release:
				case <-r.Context().Done():
				}
				w.Header().Set("Cache-Control", "max-age=30")
				w.Header().Set("Vary", "X-Language")
				w.Header().Set("Set-Cookie", "for="+r.UserAgent())
				if r.Header.Get("If-None-Match") == tag {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				_, _ = io.WriteString(w, "in "+language)
			}))
			get := func(language, who string) *http.Request {
				return request("GET", "/", "", "X-Language", language, "User-Agent", who)
			}
			wants(t, "at first", ask(h, get("de", "first")), 200, "in de")
			time.Sleep(2 * time.Second)
			release = make(chan struct{})
			languages := []string{leader, "de", "en", "de", "en"}
			var all []*watched
			for i, language := range languages {
				all = append(all, begin(h, get(language, strconv.Itoa(i))))
			}
			close(release)
			synctest.Wait()
			for i, w := range all {
				who := fmt.Sprintf("client %d, %s, %s", i, languages[i], w.says("Cache-Status"))
				w.is(t, who, 200, "in "+languages[i])
				own := "for=" + strconv.Itoa(i)
				if got := w.says("Set-Cookie"); got != own && (i == 0 || got != "") {
					t.Errorf("%s: Set-Cookie %q, want %q", who, got, own)
				}
			}
			if all[0].says("Set-Cookie") != "for=0" {
				t.Errorf("who asked first has no cookie: %q", all[0].says("Set-Cookie"))
			}
			for _, language := range []string{"de", "en"} {
				before := asked.Load()
				resp := ask(h, get(language, "late"))
				wants(t, "later, "+language, resp, 200, "in "+language)
				if got := resp.Header.Get("Set-Cookie"); got != "" && (got != "for=late" || asked.Load() == before) {
					t.Errorf("later, %s: Set-Cookie %q", language, got)
				}
			}
		})
	}
}

// A cookie that comes with a confirmation goes no further, where all wait for one.
func TestACookieOfAConfirmationIsItsClientsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=5", tag)
		g.after304 = list("Cache-Control: max-age=5", tag, "Set-Cookie: session=1")
		g.want(g.get(), 200, "answer 1", 1)
		time.Sleep(6 * time.Second)
		g.took = time.Second
		leader := begin(g.handler, request("GET", "/", ""))
		follower := begin(g.handler, request("GET", "/", ""))
		time.Sleep(3 * time.Second)
		leader.is(t, "who asked", 200, "answer 1")
		follower.is(t, "who waited", 200, "answer 1")
		if got := leader.says("Set-Cookie"); got != "session=1" {
			t.Errorf("who asked: Set-Cookie %q, want session=1", got)
		}
		if got := follower.says("Set-Cookie"); got != "" && g.calls() == 2 {
			t.Errorf("who waited: Set-Cookie %q", got)
		}
		g.says(g.get(), "Set-Cookie", "")
	})
}

// The configuration's windows are for answers that say how long they are good.
func TestWindowsOfTheConfigurationAreNotForEverything(t *testing.T) {
	o := cache.Options{StaleWhileRevalidate: time.Minute, StaleIfError: time.Minute}
	for _, c := range []struct {
		name   string
		status int
		lines  []string
		given  bool // stale, where the origin fails
	}{
		{"no lifetime", 200, nil, false},
		{"no lifetime and a tag", 200, list(tag), false},
		{"a 404 with a lifetime", 404, list("Cache-Control: max-age=1"), false},
		{"a 404 with a lifetime and a tag", 404, list("Cache-Control: max-age=1", tag), false},
		{"a 200 with a lifetime", 200, list("Cache-Control: max-age=1"), true},
	} {
		virtual(t, c.name+", while it is made anew", func(t *testing.T) {
			g := newRigWith(t, o, c.lines...)
			g.status = c.status
			g.want(g.get(), c.status, "answer 1", 1)
			time.Sleep(2 * time.Second)
			g.lines, g.status = list("Cache-Control: max-age=1", `ETag: "b"`), 200
			want := "answer 2"
			if c.given {
				want = "answer 1"
			}
			got := g.get()
			synctest.Wait()
			g.want(got, 200, want, 2)
		})
		virtual(t, c.name+", where the origin fails", func(t *testing.T) {
			g := newRigWith(t, cache.Options{StaleIfError: time.Minute}, c.lines...)
			g.status = c.status
			g.want(g.get(), c.status, "answer 1", 1)
			time.Sleep(2 * time.Second)
			g.lines, g.status = nil, 503
			if c.given {
				g.want(g.get(), 200, "answer 1", 2)
			} else {
				g.want(g.get(), 503, "answer 2", 2)
			}
		})
	}
}

// A running answer has an age, too.
func TestARunningAnswerThatIsTooOldForAFollower(t *testing.T) {
	for _, mode := range []cache.Mode{cache.ModeInference, cache.ModeHTTP} {
		virtual(t, string(mode), func(t *testing.T) {
			release := make(chan struct{})
			var calls atomic.Int64
			o := cache.Options{Mode: mode, Share: cache.ShareAll, Terminal: func(*cache.Entry) bool { return true }}
			h := newCache(t, o).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := calls.Add(1)
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Cache-Control", "max-age=600")
				if n == 1 {
					w.Header().Set("Age", "500")
				}
				_, _ = fmt.Fprintf(w, "data: %d\n\n", n)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}))
			leader := begin(h, request("GET", "/", ""))
			patient := begin(h, request("GET", "/", "", "Cache-Control", "max-age=550"))
			easy := begin(h, request("GET", "/", ""))
			picky := begin(h, request("GET", "/", "", "Cache-Control", "max-age=5"))
			for who, w := range map[string]*watched{"the leader": leader, "who takes what is 550 s old": patient, "who takes any": easy} {
				w.is(t, who, 200, "data: 1\n\n")
			}
			picky.is(t, "who takes what is 5 s old", 200, "data: 2\n\n")
			close(release)
			synctest.Wait()
			if got := calls.Load(); got != 2 {
				t.Errorf("%d calls, want 2", got)
			}
		})
	}
}
