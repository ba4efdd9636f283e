package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/inferweir/weir/storetest"
)

// purge purges from w's caches.
func (w *instance) purge(kind, value string) int {
	w.t.Helper()
	n, err := w.gateway.Purge(w.t.Context(), kind, value)
	if err != nil {
		w.t.Fatalf("purging %s %q: %v", kind, value, err)
	}
	return n
}

// keyOf is the cache key that the log has of the last request to path.
func (w *instance) keyOf(path string) (key string) {
	w.t.Helper()
	w.until(func() bool {
		for line := range strings.Lines(w.log.String()) {
			var l struct {
				Path string
				Key  string `json:"cache_key"`
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Path == path {
				key = l.Key
			}
		}
		return key != ""
	})
	return key
}

// two is two routes of one gateway, of which one has tags.
func two(s site) string {
	return strings.TrimSuffix(strings.Replace(s.yaml("%s"), "routes: [", "routes: [{name: images, match: {path: /img/*}, upstream: u, cache: {mode: inference, ttl: 1m, tags: [big, pictures]}}, ", 1), "\n")
}

// purging is one way to purge, and what it takes.
type purging struct{ kind, value, gone string }

// Every way to purge takes what it names, and nothing else.
func TestPurge(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]purging{
		"by tag":                   {"tag", "big", "u1 /img/1, u2 /img/1"},
		"by another tag":           {"tag", "pictures", "u1 /img/1, u2 /img/1"},
		"by a tag of nothing":      {"tag", "small", ""},
		"by path":                  {"path", "/v1/a", "u1 /v1/a, u2 /v1/a"},
		"by the path's beginning":  {"path", "/v1/a*", "u1 /v1/a, u2 /v1/a, u1 /v1/ab, u2 /v1/ab, u1 /v1/a/b, u2 /v1/a/b"},
		"by a directory":           {"path", "/v1/a/*", "u1 /v1/a/b, u2 /v1/a/b"},
		"by caller":                {"caller", "key:u1", "u1 /v1/a, u1 /v1/ab, u1 /v1/a/b, u1 /img/1"},
		"by a caller who has none": {"caller", "key:u9", ""},
		"all":                      {"all", "", "u1 /v1/a, u2 /v1/a, u1 /v1/ab, u2 /v1/ab, u1 /v1/a/b, u2 /v1/a/b, u1 /img/1, u2 /img/1"},
		"by key":                   {"key", "", "u2 /v1/ab"},
	} {
		for _, store := range every() {
			t.Run(name+" "+store, func(t *testing.T) {
				t.Parallel()
				p.takesWhatItNames(t, store)
			})
		}
	}
}

func (p purging) takesWhatItNames(t *testing.T, store string) {
	origin := httptest.NewServer(&counted{})
	t.Cleanup(origin.Close)
	s := site{store: store}
	if strings.Contains(store, "redis") {
		s.redis = storetest.Redis(t)
	}
	if strings.Contains(store, "dir") {
		s.dir = t.TempDir()
	}
	w := launch(t, strings.Replace(two(s), "%s", origin.URL, 1))
	if s.redis != nil {
		w.connected()
	}
	ask := func() (hits []string) {
		for _, path := range []string{"/v1/a", "/v1/ab", "/v1/a/b", "/img/1"} {
			for _, user := range []int{1, 2} {
				if a := w.as(user, "POST", path, "{}"); a.hit() {
					hits = append(hits, fmt.Sprintf("u%d %s", user, path))
				}
			}
		}
		return hits
	}
	if hits := ask(); len(hits) != 0 {
		t.Fatalf("hits at first: %v", hits)
	}
	kept := ask()
	if len(kept) != 8 {
		t.Fatalf("hits then: %v", kept)
	}
	value := p.value
	if p.kind == "key" {
		value = w.keyOf("/v1/ab")
	}
	w.purge(p.kind, value)
	var want []string
	for _, one := range kept {
		if !slices.Contains(strings.Split(p.gone, ", "), one) {
			want = append(want, one)
		}
	}
	if got := ask(); !slices.Equal(got, want) {
		t.Errorf("still there: %v, want %v", got, want)
	}
	if got := len(ask()); got != 8 {
		t.Errorf("after it only %d answers are kept again", got)
	}
}

func TestPurgesThatMakeNoSense(t *testing.T) {
	t.Parallel()
	w := site{}.start(t, &counted{})
	w.send("POST", "/", "{}")
	for _, c := range [][2]string{{"", ""}, {"colour", "red"}, {"key", "xyz"}, {"key", ""}, {"path", ""}, {"tag", ""}, {"caller", ""}} {
		if n, err := w.gateway.Purge(t.Context(), c[0], c[1]); err == nil {
			t.Errorf("%s %q purged %d", c[0], c[1], n)
		}
	}
	if a := w.send("POST", "/", "{}"); !a.hit() {
		t.Errorf("%v", a)
	}
}

// An answer that was asked for before a purge is what the purge was to remove: it
// is not kept when it comes after it.
func TestWhatRanDuringAPurgeIsNotKept(t *testing.T) {
	t.Parallel()
	for _, store := range every() {
		for name, f := range streaming() {
			if f.store != "" {
				continue
			}
			t.Run(store+" "+name, func(t *testing.T) {
				t.Parallel()
				s := newSource()
				f.store = store
				w := f.start(t, s)
				running := w.open(f.method, chats, f.body)
				running.sees(firstEvent)
				w.purge("path", chats)
				s.next.open()
				s.last.open()
				if a := running.rest(); !a.is(200, nextEvent+lastEvents) {
					t.Errorf("%v", a)
				}
				for i, hit := range []bool{false, true} {
					if a := w.send(f.method, chats, f.body); a.hit() != hit || !a.is(200, firstEvent+nextEvent+lastEvents) {
						t.Errorf("%d: %v", i, a)
					}
				}
				if got := s.calls.Load(); got != 2 {
					t.Errorf("%d calls, want 2", got)
				}
			})
		}
	}
}

// Who asks after a purge does not join what runs since before it.
func TestNobodyJoinsWhatWasPurged(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	old := newGate()
	w := site{}.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		i := n.Add(1)
		if i == 1 && !old.wait(r) {
			return
		}
		_, _ = fmt.Fprintf(w, "answer %d", i)
	}))
	done := make(chan answer)
	go func() { done <- w.send("POST", "/", "{}") }()
	w.until(func() bool { return n.Load() == 1 })
	w.purge("all", "")
	second := make(chan answer)
	go func() { second <- w.send("POST", "/", "{}") }()
	if a := after(t, "an answer after the purge", second); !a.is(200, "answer 2") {
		t.Errorf("%v", a)
	}
	old.open()
	if a := after(t, "the answer from before", done); !a.is(200, "answer 1") {
		t.Errorf("%v", a)
	}
	if a := w.send("POST", "/", "{}"); !a.is(200, "answer 2") || !a.hit() {
		t.Errorf("then %v", a)
	}
}

// A purge at one gateway is one at all that share its Redis.
func TestAPurgeReachesOtherGateways(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"redis", "memory+redis", "memory+dir+redis"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			origin := &counted{}
			server := httptest.NewServer(origin)
			t.Cleanup(server.Close)
			s := site{store: store, redis: storetest.Redis(t)}
			a, b := s.at(t, server.URL), s.at(t, server.URL)
			first := a.send("POST", "/x", "{}")
			for _, w := range []*instance{a, b, b} { // which fills b's own memory
				// As long as a still writes it to Redis, b waits for that as for any answer
				// that is being made elsewhere: that is no hit, and the same answer.
				w.until(func() bool {
					got := w.send("POST", "/x", "{}")
					if !got.is(200, first.body) {
						t.Fatalf("%v", got)
					}
					return got.hit()
				})
			}
			if got := origin.calls.Load(); got != 1 {
				t.Fatalf("%d calls before the purge, want 1", got)
			}
			a.purge("path", "/x")
			b.until(func() bool { return b.send("POST", "/x", "{}").body != first.body })
			if got := a.send("POST", "/x", "{}"); got.body == first.body {
				t.Errorf("where it was purged: %v", got)
			}
			// b's may have been asked for before it knew of the purge: then a asks again.
			if got := origin.calls.Load(); got != 2 && got != 3 {
				t.Errorf("%d calls, want 2 or 3", got)
			}
			last := a.send("POST", "/x", "{}")
			b.until(func() bool { return b.send("POST", "/x", "{}").body == last.body })
		})
	}
}

// A gateway that starts after a purge knows of it: what it finds in its directory
// or in Redis may be from before.
func TestAPurgeIsKnownAfterARestart(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"dir", "memory+dir", "memory+redis"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(&counted{})
			t.Cleanup(server.Close)
			s := site{store: store, dir: t.TempDir()}
			if store == "memory+redis" {
				s.dir, s.redis = "", storetest.Redis(t)
			}
			w := s.at(t, server.URL)
			w.send("POST", "/x", "{}")
			kept := w.send("POST", "/y", "{}")
			w.purge("path", "/x")
			w.stop()
			w = s.at(t, server.URL)
			if a := w.send("POST", "/x", "{}"); a.hit() {
				t.Errorf("purged, and there again: %v", a)
			}
			if a := w.send("POST", "/y", "{}"); !a.hit() || a.body != kept.body {
				t.Errorf("not purged, and gone: %v", a)
			}
		})
	}
}

// Another model is another model, whatever it is called in requests: what the one
// before it said is no longer given.
func TestANewModelVersionEndsOldAnswers(t *testing.T) {
	t.Parallel()
	for _, store := range every() {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			var version atomic.Int64
			version.Store(1)
			c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, strings.Replace(wholeChat, `"model":"m"`, fmt.Sprintf(`"model":"m-%d"`, version.Load()), 1))
			}}
			w := site{store: store, upstream: ", dialect: openai"}.start(t, c)
			ask := func(question, model string) answer {
				return w.send("POST", chats, fmt.Sprintf(`{"model":%q,"temperature":0,"messages":[{"role":"user","content":%q}]}`, model, question))
			}
			f := func(question, model string, hit bool, v int) {
				t.Helper()
				if a := ask(question, model); a.hit() != hit || !strings.Contains(a.body, fmt.Sprintf(`"m-%d"`, v)) {
					t.Errorf("%s: %v, want version %d, hit %v", question, a, v, hit)
				}
			}
			f("a", "m", false, 1)
			f("b", "m", false, 1)
			f("a", "m", true, 1)
			version.Store(2)
			f("a", "m", true, 1) // nobody can know yet
			f("c", "m", false, 2)
			f("a", "m", false, 2)
			f("b", "m", false, 2)
			f("b", "m", true, 2)
			ask("c", "m") // which brought the news, and may count as from before it
			f("c", "m", true, 2)
		})
	}
}

// Answers that survive a restart are those of the configuration that made them.
func TestAnotherUpstreamDoesNotFindOldAnswers(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"dir", "memory+redis"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			server, other := httptest.NewServer(&counted{}), httptest.NewServer(&counted{})
			t.Cleanup(server.Close)
			t.Cleanup(other.Close)
			base := site{store: store, dir: t.TempDir()}
			if store == "memory+redis" {
				base.dir, base.redis = "", storetest.Redis(t)
			}
			f := func(name string, hit bool, change func(*site) string) {
				t.Helper()
				s := base
				w := s.at(t, change(&s))
				defer w.stop()
				if a := w.send("POST", "/x", "{}"); a.hit() != hit || a.status != 200 {
					t.Errorf("%s: %v, want hit %v", name, a, hit)
				}
			}
			same := func(*site) string { return server.URL }
			f("at first", false, same)
			f("after a restart", true, same)
			f("with another target", false, func(*site) string { return other.URL })
			f("with other fields for it", false, func(s *site) string { s.upstream = ", set_headers: {X-Model: b}"; return server.URL })
			f("with the first again", true, same)
		})
	}
}
