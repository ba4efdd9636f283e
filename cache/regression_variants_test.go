package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

// instancesOf are two caches in ModeHTTP with one store and its leases, in front of h.
func instancesOf(t *testing.T, share cache.Share, h http.Handler) (a, b http.Handler) {
	t.Helper()
	o := cache.Options{
		Mode: cache.ModeHTTP, Share: share, Store: memoryStore(),
		Leases: &localLeases{leading: map[cache.Key]chan struct{}{}, alone: map[cache.Key]bool{}},
	}
	return newCache(t, o).Middleware(h), newCache(t, o).Middleware(h)
}

// varied answers after a second with the User-Agent that it was asked by.
func varied(w http.ResponseWriter, r *http.Request) {
	time.Sleep(time.Second)
	w.Header().Set("Cache-Control", "max-age=60")
	w.Header().Set("Vary", "User-Agent")
	_, _ = fmt.Fprint(w, "for ", r.UserAgent())
}

// isHit reports whether resp came from the cache.
func isHit(resp *http.Response) bool {
	return strings.HasPrefix(resp.Header.Get("Cache-Status"), "weir; hit")
}

// Who waits for another instance's answer, too, wants its own variant.
func TestNobodyGetsAnotherVariantOfAnotherInstance(t *testing.T) {
	for _, share := range []cache.Share{cache.ShareAll, cache.ShareCaller} {
		virtual(t, string(share), func(t *testing.T) {
			a, b := instancesOf(t, share, http.HandlerFunc(varied))
			agents := []string{"mobile", "desktop"}
			first := begin(a, request("GET", "/", "", "User-Agent", "mobile"))
			var all []*watched
			for i := range 20 {
				all = append(all, begin(b, request("GET", "/", "", "User-Agent", agents[i%2])))
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			first.is(t, "the other instance's", 200, "for mobile")
			for i, w := range all {
				w.is(t, fmt.Sprint("client ", i, ", ", w.says("Cache-Status")), 200, "for "+agents[i%2])
			}
		})
	}
}

// tardyStore answers reads a while after it looked.
type tardyStore struct{ cache.Store }

func (s tardyStore) Get(ctx context.Context, k cache.Key, now time.Time) (*cache.Entry, error) {
	e, err := s.Store.Get(ctx, k, now)
	time.Sleep(5 * time.Millisecond)
	return e, err
}

// The second look of one who leads may find an answer that was stored since the
// first, when nothing was known of its fields.
func TestNobodyGetsAnotherVariantFromASlowStore(t *testing.T) {
	for _, early := range []time.Duration{2, 4, 6, 7, 8, 9, 11} { // at some of them it is stored between the looks
		virtual(t, (early * time.Millisecond).String(), func(t *testing.T) {
			h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll, Store: tardyStore{memoryStore()}}).Middleware(http.HandlerFunc(varied))
			begin(h, request("GET", "/", "", "User-Agent", "mobile", "Accept", "text/html"))
			time.Sleep(time.Second + early*time.Millisecond)
			mobile := begin(h, request("GET", "/", "", "User-Agent", "mobile"))
			time.Sleep(time.Millisecond)
			desktop := begin(h, request("GET", "/", "", "User-Agent", "desktop"))
			time.Sleep(time.Minute)
			synctest.Wait()
			mobile.is(t, "mobile, "+mobile.says("Cache-Status"), 200, "for mobile")
			desktop.is(t, "desktop, "+desktop.says("Cache-Status"), 200, "for desktop")
		})
	}
}

// What answers vary by may change while some wait for one.
func TestNobodyGetsAnotherVariantOfANewVary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var vary atomic.Value
		vary.Store("Accept")
		a, b := instancesOf(t, cache.ShareAll, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			names := vary.Load().(string)
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=10")
			w.Header().Set("Etag", `"`+r.UserAgent()+`"`)
			w.Header().Set("Vary", names)
			_, _ = fmt.Fprint(w, "for ", r.UserAgent(), " ", r.Header.Get("X-Custom"))
		}))
		ask(a, request("GET", "/", "", "User-Agent", "mobile"))
		time.Sleep(20 * time.Second)
		vary.Store("Accept, User-Agent, X-Custom")
		clients := []struct {
			at            http.Handler
			agent, custom string
		}{{a, "mobile", "1"}, {b, "mobile", "1"}, {b, "desktop", "2"}, {b, "mobile", "2"}, {b, "desktop", "1"}, {a, "desktop", "2"}}
		var all []*watched
		for _, c := range clients {
			all = append(all, begin(c.at, request("GET", "/", "", "User-Agent", c.agent, "X-Custom", c.custom)))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, c := range clients {
			all[i].is(t, fmt.Sprint("client ", i, ", ", all[i].says("Cache-Status")), 200, "for "+c.agent+" "+c.custom)
		}
	})
}

// A GET that had looked up before an unsafe request brings nothing back that was
// stored before it, whatever it stores.
func TestAChangeIsNotUndoneByWhoLookedUpBefore(t *testing.T) {
	for _, share := range []cache.Share{cache.ShareCaller, cache.ShareAll} {
		for _, between := range []bool{false, true} { // somebody asks between the change and the late answer
			virtual(t, fmt.Sprintf("%s, asked for between: %v", share, between), func(t *testing.T) {
				var state, slow atomic.Int64
				release := make(chan struct{})
				h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: share}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPost {
						state.Add(1)
						return
					}
					s := state.Load()
					w.Header().Set("Vary", "X-Slow")
					w.Header().Set("Cache-Control", "max-age=100")
					if r.Header.Get("X-Slow") != "" {
						w.Header().Set("Cache-Control", "max-age=200")
						if slow.Add(1) == 1 { // sends the other one who waits on its own way
							<-release
							w.Header().Set("Cache-Control", "no-store")
						}
					}
					_, _ = fmt.Fprint(w, "state ", s)
				}))
				alice := func() *http.Request { return by(request("GET", "/", ""), "key:a") }
				bob := func() *http.Request { return by(request("GET", "/", "", "X-Slow", "1"), "key:b") }
				for range 2 {
					wants(t, "alice before the change", ask(h, alice()), 200, "state 0")
				}
				first, second := begin(h, bob()), begin(h, bob())
				time.Sleep(time.Second)
				ask(h, by(request("POST", "/", ""), "key:c"))
				if between {
					wants(t, "alice at once", ask(h, alice()), 200, "state 1")
				}
				time.Sleep(time.Second)
				close(release)
				synctest.Wait()
				first.is(t, "bob, from before the change", 200, "state 0")
				second.is(t, "bob, who asked after it", 200, "state 1")
				for range 2 {
					wants(t, "alice after the change", ask(h, alice()), 200, "state 1")
					wants(t, "bob after the change", ask(h, bob()), 200, "state 1")
				}
			})
		}
	}
}

func TestNobodyJoinsARequestFromBeforeAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state, calls atomic.Int64
		release := make(chan struct{})
		h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				state.Add(1)
				return
			}
			s := state.Load()
			if calls.Add(1) == 1 {
				<-release
			}
			w.Header().Set("Cache-Control", "max-age=100")
			_, _ = fmt.Fprint(w, "state ", s)
		}))
		before := begin(h, request("GET", "/", ""))
		joined := begin(h, request("GET", "/", ""))
		ask(h, request("POST", "/", ""))
		time.Sleep(time.Second)
		later := begin(h, request("GET", "/", ""))
		close(release)
		synctest.Wait()
		before.is(t, "who asked before the change", 200, "state 0")
		joined.is(t, "who joined before the change", 200, "state 0")
		later.is(t, "who asked after the change, "+later.says("Cache-Status"), 200, "state 1")
		wants(t, "then", ask(h, request("GET", "/", "")), 200, "state 1")
		if got := calls.Load(); got != 2 {
			t.Errorf("%d calls, want 2", got)
		}
	})
}

func TestFollowersAreToldOfAStaleAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=60, stale-if-error=3600")
		g.want(g.get(), 200, "answer 1", 1)
		time.Sleep(30 * time.Minute)
		g.status, g.took = 503, time.Second
		var all []*watched
		for range 3 {
			all = append(all, begin(g.handler, request("GET", "/", "")))
		}
		time.Sleep(2 * time.Second)
		for i, w := range all {
			who, want := fmt.Sprint("client ", i), "weir; fwd=stale; fwd-status=503; collapsed; detail=stale-if-error"
			if i == 0 {
				want = "weir; fwd=stale; fwd-status=503; detail=stale-if-error"
			}
			w.is(t, who, 200, "answer 1")
			if age, status := w.says("Age"), w.says("Cache-Status"); age != "1801" || status != want {
				t.Errorf("%s: Age %q, Cache-Status %q, want 1801 and %q", who, age, status, want)
			}
		}
		if got := g.calls(); got != 2 {
			t.Errorf("%d calls, want 2", got)
		}
	})
}

func TestManyAtOnceAtANewURLFindTheirAnswersAgain(t *testing.T) {
	for _, share := range []cache.Share{cache.ShareCaller, cache.ShareAll} {
		virtual(t, string(share), func(t *testing.T) {
			var calls atomic.Int64
			h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: share}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				time.Sleep(time.Second)
				w.Header().Set("Cache-Control", "max-age=100")
				w.Header().Set("Vary", "Accept-Language")
				_, _ = fmt.Fprint(w, "in ", r.Header.Get("Accept-Language"))
			}))
			get := func(i int) *http.Request {
				return by(request("GET", "/", "", "Accept-Language", "l"+strconv.Itoa(i)), "key:"+strconv.Itoa(i))
			}
			answers, _ := crowd(h, 20, get)
			if got := calls.Load(); got != 20 {
				t.Errorf("%d calls, want 20", got)
			}
			for i, got := range answers {
				want := "in l" + strconv.Itoa(i)
				if got != want {
					t.Errorf("caller %d: %q, want %q", i, got, want)
				}
				resp := ask(h, get(i))
				if !isHit(resp) {
					t.Errorf("caller %d, the next time: %s", i, resp.Header.Get("Cache-Status"))
				}
				wants(t, fmt.Sprint("caller ", i, ", the next time"), resp, 200, want)
			}
		})
	}
}

// One whose answers do not vary does not make the others ask again and again, nor
// they it.
func TestAnAnswerWithoutVaryCostsTheOthersTheirsOnce(t *testing.T) {
	const callers, plain = 6, 2
	for _, order := range [][]int{{0, 1, 2, 3, 4, 5}, {2, 0, 1, 3, 4, 5}, {0, 1, 3, 4, 5, 2}} {
		virtual(t, fmt.Sprint(order), func(t *testing.T) {
			h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareCaller}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "max-age=1000")
				if r.Header.Get("Accept-Encoding") == "gzip" {
					w.Header().Set("Vary", "Accept-Encoding")
				}
				_, _ = io.WriteString(w, "x")
			}))
			var missed [callers]int
			for range 6 {
				for _, i := range order {
					encoding := "gzip"
					if i == plain {
						encoding = "identity"
					}
					if !isHit(ask(h, by(request("GET", "/", "", "Accept-Encoding", encoding), "key:"+strconv.Itoa(i)))) {
						missed[i]++
					}
				}
			}
			for i, n := range missed {
				if n < 1 || n > 2 {
					t.Errorf("caller %d asked the origin %d times in 6, want once, and once more at most", i, n)
				}
			}
		})
	}
}

func TestStalledReadersHoldUpTheOthersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const part, parts = 32 << 10, 11
		h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll, MaxEntry: 2 * part}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=100")
			p := make([]byte, part)
			_, _ = w.Write(p)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Second)
			for range parts - 1 {
				_, _ = w.Write(p)
			}
		}))
		began := time.Now()
		var took time.Duration
		leader := httptest.NewRecorder()
		var wg sync.WaitGroup
		wg.Go(func() {
			h.ServeHTTP(leader, request("GET", "/", ""))
			took = time.Since(began)
		})
		synctest.Wait()
		release := make(chan struct{})
		for range 30 {
			wg.Go(func() {
				defer func() {
					if p := recover(); p != http.ErrAbortHandler {
						t.Errorf("a stalled reader's answer ended with %v, want it broken off", p)
					}
				}()
				h.ServeHTTP(stuck{httptest.NewRecorder(), release}, request("GET", "/", ""))
			})
		}
		time.Sleep(10 * time.Minute)
		close(release)
		wg.Wait()
		if n := leader.Body.Len(); n != part*parts {
			t.Errorf("the leader got %d bytes, want %d", n, part*parts)
		}
		if took < 9*time.Second || took > 12*time.Second {
			t.Errorf("30 readers that take nothing held the leader up for %v, want about 10s", took)
		}
	})
}

// measured counts what it is given, and takes a while for each part.
type measured struct {
	http.ResponseWriter
	takes time.Duration
	n     int
}

func (m *measured) Write(p []byte) (int, error) {
	m.n += len(p)
	time.Sleep(m.takes)
	return len(p), nil
}

// A slow reader of an answer that is longer than what is kept of one does not have
// it copied for each part that it takes.
func TestALongAnswerPastASlowReaderIsNotCopiedOverAndOver(t *testing.T) {
	const total, limit, part = 16 << 20, 1 << 20, 32 << 10
	for _, readers := range []int{1, 3} {
		virtual(t, fmt.Sprint(readers, " readers"), func(t *testing.T) {
			goOn := make(chan struct{})
			h := newCache(t, cache.Options{Mode: cache.ModeHTTP, Share: cache.ShareAll, MaxEntry: limit}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "max-age=100")
				p := make([]byte, part)
				_, _ = w.Write(p)
				_ = http.NewResponseController(w).Flush()
				<-goOn
				for n := part; n < total; n += part {
					_, _ = w.Write(p)
				}
			}))
			var wg sync.WaitGroup
			clients := []*measured{{ResponseWriter: httptest.NewRecorder()}}
			for range readers {
				clients = append(clients, &measured{ResponseWriter: httptest.NewRecorder(), takes: time.Millisecond})
			}
			for _, c := range clients {
				wg.Go(func() { h.ServeHTTP(c, request("GET", "/", "")) })
				synctest.Wait()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			close(goOn)
			wg.Wait()
			runtime.ReadMemStats(&after)
			for i, c := range clients {
				if c.n != total {
					t.Errorf("client %d got %d bytes, want %d", i, c.n, total)
				}
			}
			// That is 1 GiB for 64 MiB.
			if got := after.TotalAlloc - before.TotalAlloc; got > 16*total {
				t.Errorf("%d MiB were allocated for %d MiB, want %d at most", got>>20, total>>20, 16*total>>20)
			}
		})
	}
}

// A stale answer is for the client that takes one, not for those who wait behind it.
func TestWhatOnlyTheLeaderTakesStaleGoesToNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := instancesOf(t, cache.ShareAll, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Second)
			w.Header().Set("Cache-Control", "max-age=0")
			w.Header().Set("Etag", `"a"`)
			_, _ = fmt.Fprint(w, "for ", r.Header.Get("X-Request-Id"))
		}))
		begin(a, request("GET", "/", "", "X-Request-Id", "first"))
		tolerant := begin(b, request("GET", "/", "", "X-Request-Id", "tolerant", "Cache-Control", "max-stale=60"))
		var others []*watched
		for i := range 3 {
			others = append(others, begin(b, request("GET", "/", "", "X-Request-Id", strconv.Itoa(i))))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		tolerant.is(t, "who takes it stale", 200, "for first")
		for i, w := range others {
			w.is(t, fmt.Sprint("client ", i, ", ", w.says("Cache-Status")), 200, "for "+strconv.Itoa(i))
		}
	})
}

// One caller's answers, and what says by what they vary, displace its own only.
func TestMarkersAreOnTheShareOfTheirCaller(t *testing.T) {
	for _, mode := range []cache.Mode{cache.ModeInference, cache.ModeHTTP} {
		virtual(t, string(mode), func(t *testing.T) {
			const kept = 25
			store := cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: 1 << 20, CallerShare: 0.1})
			h := newCache(t, cache.Options{Mode: mode, Share: cache.ShareCaller, Store: store}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Cache-Control", "max-age=1000")
				_, _ = io.WriteString(w, "x")
			}))
			alice := func(i int) bool {
				return isHit(ask(h, by(request("GET", "/a"+strconv.Itoa(i), ""), "key:a")))
			}
			for i := range kept {
				alice(i)
			}
			for i := range 3000 {
				ask(h, by(request("GET", "/m"+strconv.Itoa(i), ""), "key:m"))
			}
			if store.Stats().Evictions == 0 {
				t.Fatalf("nothing had to make room: %+v", store.Stats())
			}
			for i := range kept {
				if !alice(i) {
					t.Errorf("alice's answer %d made room for those of another caller", i)
				}
			}
		})
	}
}
