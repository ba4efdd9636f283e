package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
)

func newCache(t testing.TB, o cache.Options) *cache.Cache {
	t.Helper()
	if o.TTL == 0 {
		o.TTL = time.Minute
	}
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// origin counts its calls and answers with their number.
type origin struct {
	calls  atomic.Int64
	answer func(w http.ResponseWriter, r *http.Request)
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := o.calls.Add(1)
	if o.answer != nil {
		o.answer(w, r)
	}
	_, _ = fmt.Fprintf(w, "answer %d", n)
}

func request(method, url, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func ask(h http.Handler, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func text(resp *http.Response) string {
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func TestMiddlewareAnswersAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Model", "m")
			w.Header().Set("RateLimit", `"x";r=1`)
			time.Sleep(time.Second)
		}}
		h := newCache(t, cache.Options{}).Middleware(o)
		post := func() *http.Response { return ask(h, request("POST", "/predict", `{"x": 1}`)) }

		first := post()
		if got := first.Header.Get("Cache-Status"); got != "weir; fwd=miss; stored" {
			t.Errorf("first: Cache-Status %s", got)
		}
		if got := first.Header.Get("Cache-Control"); got != "private" {
			t.Errorf("first: Cache-Control %s", got)
		}
		time.Sleep(10*time.Second + 700*time.Millisecond)
		second := post()
		if got := text(second); got != "answer 1" || o.calls.Load() != 1 {
			t.Errorf("second: %q after %d calls", got, o.calls.Load())
		}
		for name, want := range map[string]string{
			"Cache-Status": "weir; hit; ttl=49", "Age": "10", "Cache-Control": "private", "X-Model": "m", "RateLimit": "", "Content-Length": "8",
		} {
			if got := second.Header.Get(name); got != want {
				t.Errorf("second: %s: %q, want %q", name, got, want)
			}
		}
		if etag := second.Header.Get("ETag"); len(etag) != 24 || etag[0] != '"' {
			t.Errorf("second: ETag %s", etag)
		}
		for _, status := range []string{first.Header.Get("Cache-Status"), second.Header.Get("Cache-Status")} {
			list, err := httpsfv.UnmarshalList([]string{status})
			if err != nil || list[0].(httpsfv.Item).Value != httpsfv.Token("weir") {
				t.Errorf("%q is not a Cache-Status of RFC 9211: %v", status, err)
			}
		}
		time.Sleep(50 * time.Second)
		if got := text(post()); got != "answer 2" {
			t.Errorf("after the TTL: %q", got)
		}
	})
}

func TestMiddlewareKeys(t *testing.T) {
	same := func(name string, o cache.Options, a, b *http.Request) {
		t.Helper()
		or := &origin{}
		h := newCache(t, o).Middleware(or)
		first, second := text(ask(h, a)), text(ask(h, b))
		if first != second {
			t.Errorf("%s: two calls: %q and %q", name, first, second)
		}
	}
	apart := func(name string, o cache.Options, a, b *http.Request) {
		t.Helper()
		or := &origin{}
		h := newCache(t, o).Middleware(or)
		first, second := text(ask(h, a)), text(ask(h, b))
		if first == second {
			t.Errorf("%s: one answer for two requests", name)
		}
	}
	by := func(r *http.Request, id, plan string) *http.Request {
		return r.WithContext(weir.WithCaller(r.Context(), weir.Caller{ID: id, Plan: plan}))
	}
	var def cache.Options
	same("order and space of members", def, request("POST", "/", `{"a":1,"b":[2, 3]}`), request("POST", "/", "{ \"b\":[2,3],\n\"a\":1 }"))
	same("escapes", def, request("POST", "/", `{"a":"é/"}`), request("POST", "/", `{"\u0061":"\u00e9\/"}`))
	same("GET that says JSON and has no body", def, request("GET", "/", "", "Content-Type", "application/json"), request("GET", "/", "", "Content-Type", "application/json"))
	same("GET and GET", def, request("GET", "/?q=1", ""), request("GET", "/?q=1", ""))
	same("an ignored member", cache.Options{Ignore: []string{"/user", "/meta/id"}},
		request("POST", "/", `{"a":1,"user":"x","meta":{"id":1,"v":2}}`), request("POST", "/", `{"meta":{"v":2},"a":1}`))
	apart("a member that is not ignored", cache.Options{Ignore: []string{"/user"}},
		request("POST", "/", `{"a":1,"meta":{"user":"x"}}`), request("POST", "/", `{"a":1,"meta":{"user":"y"}}`))
	apart("large integers that differ by one", def, request("POST", "/", `{"seed":9007199254740993}`), request("POST", "/", `{"seed":9007199254740992}`))
	apart("the case of a text", def, request("POST", "/", `{"a":"Go"}`), request("POST", "/", `{"a":"go"}`))
	apart("long bodies that differ at the end", def,
		request("POST", "/", `{"a":"`+strings.Repeat("x", 40<<10)+`1"}`), request("POST", "/", `{"a":"`+strings.Repeat("x", 40<<10)+`2"}`))
	apart("the path", def, request("POST", "/a", `{}`), request("POST", "/b", `{}`))
	apart("an escaped path", def, request("GET", "/a/b", ""), request("GET", "/a%2Fb", ""))
	apart("the query", def, request("GET", "/?a=1", ""), request("GET", "/?a=2", ""))
	apart("the method", def, request("POST", "/", `{}`), request("QUERY", "/", `{}`))
	apart("the host", def, request("GET", "http://a.example/", ""), request("GET", "http://b.example/", ""))
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Key", "Cookie", "Accept", "Accept-Encoding", "Anthropic-Beta"} {
		apart(name, def, request("POST", "/", `{}`, name, "a"), request("POST", "/", `{}`, name, "b"))
		apart(name+" or none", def, request("POST", "/", `{}`, name, "a"), request("POST", "/", `{}`))
	}
	for _, name := range []string{"Inference-Header-Content-Length", "X-Tenant", "X-Forwarded-Host"} {
		apart(name, cache.Options{Share: cache.ShareAll}, request("POST", "/", `{}`, name, "a"), request("POST", "/", `{}`, name, "b"))
	}
	for _, name := range []string{"User-Agent", "Traceparent", "X-Request-Id", "X-Stainless-Retry-Count", "X-Forwarded-For"} {
		same(name, def, request("POST", "/", `{}`, name, "a"), request("POST", "/", `{}`, name, "b"))
	}
	apart("two fields or one with both values", def, request("POST", "/", `{}`, "Cookie", "a", "Cookie", "b"), request("POST", "/", `{}`, "Cookie", "ab"))
	apart("JSON or bytes", def, request("POST", "/", `{"a":1}`), request("POST", "/", `{"a":1}`, "Content-Encoding", "identity"))
	apart("callers", def, by(request("POST", "/", `{}`), "key:a", "pro"), by(request("POST", "/", `{}`), "key:b", "pro"))
	same("callers of one plan that shares", cache.Options{Share: cache.SharePlan}, by(request("POST", "/", `{}`), "key:a", "pro"), by(request("POST", "/", `{}`), "key:b", "pro"))
	apart("plans", cache.Options{Share: cache.SharePlan}, by(request("POST", "/", `{}`), "key:a", "pro"), by(request("POST", "/", `{}`), "key:b", "free"))
	same("all", cache.Options{Share: cache.ShareAll}, by(request("POST", "/", `{}`, "Cookie", "1"), "key:a", "pro"), by(request("POST", "/", `{}`, "Cookie", "2"), "key:b", "free"))
	named := cache.Options{CallerFields: []string{"x-user"}}
	for share, judge := range map[cache.Share]func(string, cache.Options, *http.Request, *http.Request){cache.ShareCaller: apart, cache.SharePlan: same, cache.ShareAll: same} {
		named.Share = share
		judge("a field that names the caller, "+string(share), named, request("POST", "/", `{}`, "X-User", "a"), request("POST", "/", `{}`, "X-User", "b"))
	}
	other := request("POST", "/", `{}`)
	other.RemoteAddr = "198.51.100.9:1"
	apart("addresses without auth", def, request("POST", "/", `{}`), other)
}

func TestMiddlewareBypasses(t *testing.T) {
	for name, r := range map[string]func() *http.Request{
		"a method that acts":       func() *http.Request { return request("PUT", "/", `{}`) },
		"a part":                   func() *http.Request { return request("GET", "/", "", "Range", "bytes=0-9") },
		"a condition to act":       func() *http.Request { return request("POST", "/", `{}`, "If-Match", `"x"`) },
		"a body that is not JSON":  func() *http.Request { return request("POST", "/", `{"a":`) },
		"a member that is doubled": func() *http.Request { return request("POST", "/", `{"a":1,"a":2}`) },
		"no-store":                 func() *http.Request { return request("POST", "/", `{}`, "Cache-Control", "no-store") },
	} {
		o := &origin{}
		h := newCache(t, cache.Options{}).Middleware(o)
		for range 2 {
			if got := ask(h, r()).Header.Get("Cache-Status"); got != "weir; fwd=bypass" {
				t.Errorf("%s: Cache-Status %s", name, got)
			}
		}
		if n := o.calls.Load(); n != 2 {
			t.Errorf("%s: %d calls, want 2", name, n)
		}
	}
}

func TestMiddlewareStoresOnlyWhatItMay(t *testing.T) {
	stored := func(o cache.Options, status int, header ...string) bool {
		t.Helper()
		or := &origin{answer: func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Add(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}}
		h := newCache(t, o).Middleware(or)
		first := ask(h, request("POST", "/", `{}`))
		if first.StatusCode != status {
			t.Fatalf("status %d became %d", status, first.StatusCode)
		}
		ask(h, request("POST", "/", `{}`))
		says := first.Header.Get("Cache-Status") == "weir; fwd=miss; stored"
		if is := or.calls.Load() == 1; is != says {
			t.Errorf("%d %v: stored %t, but Cache-Status said %t", status, header, is, says)
		}
		return says
	}
	caller, all := cache.Options{}, cache.Options{Share: cache.ShareAll}
	for _, status := range []int{200, 203, 301, 308, 404, 410} {
		if !stored(caller, status) {
			t.Errorf("%d is not stored", status)
		}
	}
	for _, status := range []int{201, 202, 206, 302, 304, 400, 401, 403, 429, 500, 502, 503, 504} {
		if stored(caller, status, "Cache-Control", "max-age=60") {
			t.Errorf("%d is stored", status)
		}
	}
	for _, header := range [][]string{
		{"Cache-Control", "no-store"}, {"Cache-Control", "max-age=5, No-Store"}, {"Cache-Control", "no-cache"}, {"Set-Cookie", "a=b"},
		{"Vary", "*"}, {"Vary", "Accept, *"}, {"Vary", "Accept, User-Agent"}, {"Content-Type", "text/event-stream; charset=utf-8"},
	} {
		if stored(caller, 200, header...) {
			t.Errorf("%v is stored", header)
		}
	}
	for _, header := range [][]string{{"Vary", "Accept-Encoding, Origin"}, {"Vary", "Cookie, X-User"}, {"Cache-Control", "private"}, {"Cache-Control", "max-age=0"}} {
		if !stored(caller, 200, header...) {
			t.Errorf("%v is not stored", header)
		}
	}
	for _, header := range [][]string{{"Vary", "Cookie"}, {"Cache-Control", "private, max-age=60"}} {
		if stored(all, 200, header...) {
			t.Errorf("%v is stored for all", header)
		}
	}
}

func TestMiddlewareAsksWhetherAnAnswerIsComplete(t *testing.T) {
	o := &origin{}
	second := func(e *cache.Entry) bool { return string(e.Body) == "answer 2" }
	h := newCache(t, cache.Options{Complete: second}).Middleware(o)
	for i, want := range []string{"answer 1", "answer 2", "answer 2"} {
		if got := text(ask(h, request("GET", "/", ""))); got != want {
			t.Errorf("request %d: %q, want %q", i, got, want)
		}
	}
}

func TestMiddlewareDoesNotKeepErrorsUnder200(t *testing.T) {
	for body, kept := range map[string]bool{
		`{"a":1}`: true, `{"error":null}`: true, `[]`: true,
		`{"error":{"message":"overloaded"}}`: false, `{"a":1,"err\u006fr":"x"}`: false, `{"a":`: false,
	} {
		calls := 0
		h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls++
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		}))
		for range 2 {
			ask(h, request("POST", "/", `{}`))
		}
		if (calls == 1) != kept {
			t.Errorf("%s: %d calls", body, calls)
		}
	}
}

func TestMiddlewareLetsGoOfLargeAnswers(t *testing.T) {
	o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			_, _ = w.Write(make([]byte, 1000))
		}
	}}
	h := newCache(t, cache.Options{MaxEntry: 50_000}).Middleware(o)
	for range 2 {
		if n := len(text(ask(h, request("GET", "/", "")))); n != 100_008 {
			t.Errorf("the client got %d bytes", n)
		}
	}
	if o.calls.Load() != 2 {
		t.Error("an answer over MaxEntry was stored")
	}
}

func TestMiddlewareAnswersConditions(t *testing.T) {
	o := &origin{answer: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
		}
		w.Header().Set("Content-Type", "text/plain")
	}}
	h := newCache(t, cache.Options{}).Middleware(o)
	for _, method := range []string{"GET", "QUERY", "POST"} {
		body := ""
		if method != "GET" {
			body = `{"q":1}`
		}
		ask(h, request(method, "/", body))
		etag := ask(h, request(method, "/", body)).Header.Get("ETag")
		for _, condition := range []string{etag, "W/" + etag, `"other", ` + etag, "*"} {
			resp := ask(h, request(method, "/", body, "If-None-Match", condition))
			want := 304
			if method == "POST" {
				want = 200
			}
			if resp.StatusCode != want || resp.Header.Get("ETag") != etag || !strings.HasPrefix(resp.Header.Get("Cache-Status"), "weir; hit; ttl=") {
				t.Errorf("%s with If-None-Match %s: %s %v, want %d", method, condition, resp.Status, resp.Header, want)
			}
			if got := text(resp); want == 304 && (got != "" || resp.Header.Get("Content-Type") != "") {
				t.Errorf("%s: 304 with %q", method, got)
			}
		}
		if resp := ask(h, request(method, "/", body, "If-None-Match", `"other"`)); resp.StatusCode != 200 {
			t.Errorf("%s with another tag: %s", method, resp.Status)
		}
	}
	// A condition on a miss stays here: a 304 to it would be stored for others.
	if resp := ask(h, request("GET", "/fresh", "", "If-None-Match", `"x"`)); resp.StatusCode != 200 || text(resp) == "" {
		t.Errorf("a condition reached the origin: %s", resp.Status)
	}
	head := ask(h, request("HEAD", "/", ""))
	if head.StatusCode != 200 || text(head) != "" || head.Header.Get("Content-Length") != "8" {
		t.Errorf("HEAD: %s %v", head.Status, head.Header)
	}
}

func TestMiddlewareKeepsTheOriginsStrongETag(t *testing.T) {
	for own, kept := range map[string]bool{`"v1"`: true, `W/"v1"`: false, `v1`: false, `"`: false} {
		o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("ETag", own) }}
		h := newCache(t, cache.Options{}).Middleware(o)
		ask(h, request("GET", "/", ""))
		got := ask(h, request("GET", "/", "")).Header.Get("ETag")
		if (got == own) != kept || len(got) < 4 || got[0] != '"' {
			t.Errorf("the origin's %s became %s", own, got)
		}
	}
}

func TestMiddlewareGrantsWishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{}
		h := newCache(t, cache.Options{}).Middleware(o)
		get := func(cacheControl string) (string, string, int) {
			resp := ask(h, request("GET", "/", "", "Cache-Control", cacheControl))
			return text(resp), resp.Header.Get("Cache-Status"), resp.StatusCode
		}
		want := func(cacheControl, body, status string) {
			t.Helper()
			if b, s, _ := get(cacheControl); b != body || s != status {
				t.Errorf("%q: %q with %q, want %q with %q", cacheControl, b, s, body, status)
			}
		}
		if _, s, code := get("only-if-cached"); code != 504 || s != "weir; fwd=miss" || o.calls.Load() != 0 {
			t.Errorf("only-if-cached in an empty cache: %d, %q, %d calls", code, s, o.calls.Load())
		}
		want("", "answer 1", "weir; fwd=miss; stored")
		want("only-if-cached", "answer 1", "weir; hit; ttl=60")
		time.Sleep(10 * time.Second)
		want("max-age=10", "answer 1", "weir; hit; ttl=50")
		want("max-age=nonsense", "answer 1", "weir; hit; ttl=50")
		want("max-age=9", "answer 2", "weir; fwd=request; stored")
		want("no-cache", "answer 3", "weir; fwd=request; stored")
		want("", "answer 3", "weir; hit; ttl=60")
		want("no-store", "answer 4", "weir; fwd=bypass")
		if _, _, code := get("no-store, only-if-cached"); code != 504 {
			t.Errorf("no-store, only-if-cached: %d", code)
		}
		want("", "answer 3", "weir; hit; ttl=60")
	})
}

func TestMiddlewareForgets404Soon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }}
		h := newCache(t, cache.Options{}).Middleware(o)
		for range 3 {
			ask(h, request("GET", "/", ""))
			time.Sleep(2 * time.Second)
		}
		if o.calls.Load() != 1 {
			t.Errorf("%d calls in 5 s", o.calls.Load())
		}
		ask(h, request("GET", "/", ""))
		if o.calls.Load() != 2 {
			t.Errorf("%d calls in 6 s", o.calls.Load())
		}
		never := newCache(t, cache.Options{NegativeTTL: -1}).Middleware(o)
		ask(never, request("GET", "/", ""))
		ask(never, request("GET", "/", ""))
		if o.calls.Load() != 4 {
			t.Errorf("%d calls, want a 404 not to be kept with a negative NegativeTTL", o.calls.Load())
		}
	})
}

func TestMiddlewareRefusesLargeBodies(t *testing.T) {
	o := &origin{}
	h := newCache(t, cache.Options{MaxBody: 10}).Middleware(o)
	if resp := ask(h, request("POST", "/", "01234567890")); resp.StatusCode != 413 || o.calls.Load() != 0 {
		t.Errorf("%s after %d calls", resp.Status, o.calls.Load())
	}
	if resp := ask(h, request("POST", "/", "0123456789")); resp.StatusCode != 200 {
		t.Errorf("a body of exactly MaxBody: %s", resp.Status)
	}
}

// failingStore does not answer.
type failingStore struct{}

func (failingStore) Get(context.Context, cache.Key, time.Time) (*cache.Entry, error) {
	return nil, errors.New("store is away")
}

func (failingStore) Delete(context.Context, cache.Key) error { return errors.New("away") }

func (failingStore) Put(context.Context, cache.Key, *cache.Entry, time.Time) error {
	return errors.New("store is away")
}

func TestMiddlewareGoesOnWithoutItsStore(t *testing.T) {
	var events []cache.Event
	o := &origin{}
	h := newCache(t, cache.Options{Store: failingStore{}, Observe: func(e cache.Event) { events = append(events, e) }}).Middleware(o)
	if resp := ask(h, request("GET", "/", "")); resp.StatusCode != 200 || text(resp) != "answer 1" {
		t.Errorf("got %s", resp.Status)
	}
	if len(events) != 1 || events[0].Result != "miss" || events[0].Err == nil {
		t.Errorf("events %+v", events)
	}
}

func TestMiddlewareReportsResults(t *testing.T) {
	var got []string
	h := newCache(t, cache.Options{Observe: func(e cache.Event) { got = append(got, e.Result) }}).Middleware(&origin{})
	ask(h, request("GET", "/", ""))
	ask(h, request("GET", "/", ""))
	ask(h, request("PUT", "/", ""))
	if !slices.Equal(got, []string{"miss", "hit", "bypass"}) {
		t.Errorf("results %v", got)
	}
}

func TestNewReportsEveryMistake(t *testing.T) {
	_, err := cache.New(cache.Options{TTL: -1, Share: "everybody", Ignore: []string{"user"}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"TTL: -1ns: want more than 0", `Share: "everybody": want caller, plan or all`, `Ignore: `} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
}

func TestMiddlewareKeepsOtherCachesAway(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "private",
		"public, max-age=60, s-maxage=90":     "private, max-age=60",
		"no-store":                            "no-store",
		"private, must-revalidate":            "private, must-revalidate",
		`no-cache="Set-Cookie, X", immutable`: `private, no-cache="Set-Cookie, X", immutable`,
	} {
		h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if in != "" {
				w.Header().Set("Cache-Control", in)
			}
		}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if got := w.Header().Get("Cache-Control"); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestMiddlewareAnswersARequestWhoseTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newCache(t, cache.Options{}).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(time.Hour):
			}
		}))
		var wg sync.WaitGroup
		for range 2 { // a leader and a follower
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if resp := ask(h, request("GET", "/", "").WithContext(ctx)); resp.StatusCode != 504 {
					t.Errorf("got %s", resp.Status)
				}
			})
		}
		wg.Wait()
	})
}

func TestMiddlewareSeesFieldsThatOthersSetToo(t *testing.T) {
	for name, value := range map[string]string{"Cache-Control": "no-store", "Vary": "User-Agent"} {
		o := &origin{answer: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(name, value) }}
		inner := newCache(t, cache.Options{}).Middleware(o)
		outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(name, value)
			inner.ServeHTTP(w, r)
		})
		ask(outer, request("GET", "/", ""))
		ask(outer, request("GET", "/", ""))
		if o.calls.Load() != 2 {
			t.Errorf("%s: %s: stored", name, value)
		}
	}
}

func TestMiddlewareKeepsOtherCachesFromSharing(t *testing.T) {
	for share, want := range map[cache.Share]string{cache.ShareCaller: "private, max-age=60", cache.ShareAll: "public, max-age=60"} {
		synctest.Test(t, func(t *testing.T) {
			h := newCache(t, cache.Options{Share: share}).Middleware(&origin{answer: func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(time.Second)
				w.Header().Set("Cache-Control", "public, max-age=60")
				w.Header().Set("X-Other", "kept")
			}})
			get := func() { // a leader, a follower, then a hit
				resp := ask(h, request("GET", "/", ""))
				if got := resp.Header.Get("Cache-Control"); got != want || resp.Header.Get("X-Other") != "kept" {
					t.Errorf("share %s: %s: Cache-Control %q, want %q", share, resp.Header.Get("Cache-Status"), got, want)
				}
			}
			var wg sync.WaitGroup
			wg.Go(get)
			wg.Go(get)
			wg.Wait()
			get()
		})
	}
}
