package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

func TestRefusals(t *testing.T) {
	w := start(t, `
callers: {keys: [{caller: a, key: weir_good}]}
limits: {headers: 20, url_bytes: 1KiB, header_bytes: 4KiB}
upstreams: {u: {targets: ["%s"]}}
routes:
  - {match: {path: /get, methods: [GET]}, upstream: u}
  - {match: {path: /post, methods: [POST]}, upstream: u, max_body: 10}
  - {name: llama, match: {path: /model, model: "llama-*"}, upstream: u}
  - {name: gpt, match: {path: /model, model: gpt}, upstream: u}
`, &counted{})
	many := make([]string, 0, 50)
	for i := range 25 {
		many = append(many, "X-"+strconv.Itoa(i), "1")
	}
	for _, c := range []struct {
		name         string
		got          answer
		status       int
		field, value string
		detail       string
	}{
		{"no route", w.send("GET", "/nowhere", ""), 404, "", "", "No route has this path."},
		{"another method", w.send("DELETE", "/get", ""), 405, "Allow", "GET, HEAD", "DELETE is not a method of this path: want GET, HEAD."},
		{"a wrong key", w.send("GET", "/get", "", "Authorization", "Bearer weir_bad"), 401, "Www-Authenticate", `Bearer realm="weir", error="invalid_token"`, ""},
		{"a long body", w.send("POST", "/post", "01234567890"), 413, "", "", "The body is larger than 10 bytes."},
		{"no model", w.send("POST", "/model", `{}`), 404, "", "", `No route serves the model "" on this path.`},
		{"another model", w.send("POST", "/model", `{"model": "claude"}`), 404, "", "", `No route serves the model "claude" on this path.`},
		{"an upgrade", w.send("GET", "/get", "", "Connection", "Upgrade", "Upgrade", "websocket"), 501, "", "", "The connection cannot be upgraded on this path."},
		{"a method that is not served", w.send("TRACE", "/get", ""), 501, "", "", `"TRACE" is not a method that is served here.`},
		{"a long URL", w.send("GET", "/get?"+strings.Repeat("x", 1200), ""), 414, "", "", "The URL has 1205 bytes: want at most 1024."},
		{"many fields", w.send("GET", "/get", "", many...), 431, "", "", ""},
		{"dots", w.send("GET", "/x/%2e%2e/get", ""), 400, "", "", `The path has a segment "..": want the path that it leads to, because servers read this in different ways.`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.got.status != c.status || c.got.header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%d %v %s", c.got.status, c.got.header, c.got.body)
			}
			if got := c.got.header.Get(c.field); got != c.value {
				t.Errorf("%s: %s, want %s", c.field, got, c.value)
			}
			if got := c.got.detail(); c.detail != "" && got != c.detail {
				t.Errorf("detail\n got %s\nwant %s", got, c.detail)
			}
			if c.got.header.Get("X-Request-Id") == "" || c.got.header.Get("Server-Timing") == "" || c.got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("fields %v", c.got.header)
			}
		})
	}
	for name, c := range map[string][2]string{
		"a lower-case method":   {"get /get HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 501 Not Implemented"},
		"a target with a host":  {"GET http://other/get HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK"},
		"a host without a path": {"GET http://other HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"a wrong key, misspelt": {"GET /get HTTP/1.1\r\nHost: h\r\nX_Api_Key: weir_bad\r\n\r\n", "HTTP/1.1 401 Unauthorized"},
		"no path":               {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"two slashes":           {"GET //get HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"a backslash":           {"GET /a%5cget HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"a semicolon":           {"GET /get;x HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"an escaped control":    {"GET /get%00 HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"an escaped dot":        {"GET /a/%2E%2e/get HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		"a broken chunk":        {"POST /post HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400 Bad Request"},
		"too many chunks":       {"POST /post HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large"},
		"a large header":        {"GET /get HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 10<<10) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
		"two lengths":           {"POST /post HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "HTTP/1.1 400 Bad Request"},
		"a route without fault": {"GET /get HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK"},
	} {
		if got := w.raw(c[0]); got != c[1] {
			t.Errorf("%s: %s, want %s", name, got, c[1])
		}
	}
	if a := w.send("POST", "/model", `{"mod\u0065l": "llama-3"}`); a.status != 200 {
		t.Errorf("a model that is served: %d %s", a.status, a.body)
	}
	if got := w.metric(`weir_gateway_requests_total{method="POST",route="llama",status="200"}`); got != "1" {
		t.Errorf("the route of the model counted %s", got)
	}
}

func TestPoliciesAdmitExactlyWhatFits(t *testing.T) {
	w := start(t, `
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}]}
plans: {pro: {policies: [100/day]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, &counted{})
	var admitted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			switch a := w.send("POST", "/", "{}", "Authorization", "Bearer weir_alice"); a.status {
			case 200:
				admitted.Add(1)
			case 429:
				refused.Add(1)
			default:
				t.Errorf("%d %s %v", a.status, a.body, a.err)
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 100 || refused.Load() != 100 {
		t.Errorf("%d admitted, %d refused of 200 concurrent callers with 100 units", admitted.Load(), refused.Load())
	}
	a := w.send("POST", "/", "{}", "X-Api-Key", "weir_alice")
	if a.header.Get("RateLimit-Policy") != `"pro";q=100;w=86400` || a.header.Get("X-Should-Retry") != "false" {
		t.Errorf("fields %v", a.header)
	}
}

func TestIdenticalRequestsRunOnce(t *testing.T) {
	t.Parallel()
	c := &counted{}
	release := make(chan struct{})
	c.h = func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = io.WriteString(w, "the answer")
	}
	w := start(t, strings.Replace(cached, "5/minute", "5/hour", 1), c) // nothing comes back meanwhile
	var answers atomic.Int64
	statuses := make(chan string, 1000)
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			a := w.send("POST", "/predict", `{"x": 1}`)
			if a.status == 200 && a.body == "the answer" {
				answers.Add(1)
			} else {
				t.Errorf("%d %s %v", a.status, a.body, a.err)
			}
			statuses <- a.header.Get("Cache-Status")
		})
	}
	for c.calls.Load() == 0 { // wait until the model runs
		<-time.After(time.Millisecond)
	}
	<-time.After(100 * time.Millisecond) // let most of them join; the rest find it stored
	close(release)
	wg.Wait()
	close(statuses)
	if c.calls.Load() != 1 || answers.Load() != 1000 {
		t.Errorf("%d model calls and %d answers for 1,000 identical requests on 5/hour", c.calls.Load(), answers.Load())
	}
	kinds := map[string]int{}
	for s := range statuses {
		kinds[strings.Split(s, "; ttl")[0]]++
	}
	if kinds["weir; fwd=miss; stored"] != 1 || kinds["weir; fwd=miss; collapsed"]+kinds["weir; hit"] != 999 || kinds["weir; fwd=miss; collapsed"] == 0 {
		t.Errorf("Cache-Status %v", kinds)
	}
	if got := w.send("POST", "/predict", `{"x":1}`).header.Get("RateLimit"); !strings.HasPrefix(got, `"default";r=4;t=`) {
		t.Errorf("a thousand answers cost more than one unit: %s", got)
	}
}

func TestRetryAfterIsTrue(t *testing.T) {
	w := start(t, `
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u, policies: [3 per 1s]}]
`, &counted{})
	var refused answer
	w.until(func() bool {
		refused = w.send("GET", "/", "")
		return refused.status == 429
	})
	ms, err := strconv.Atoi(refused.header.Get("Retry-After-Ms"))
	if refused.status != 429 || refused.header.Get("Retry-After") != "1" || err != nil || ms < 1 || ms > 367 {
		t.Fatalf("%d %v", refused.status, refused.header)
	}
	<-time.After(time.Duration(ms) * time.Millisecond)
	if a := w.send("GET", "/", ""); a.status != 200 {
		t.Errorf("after waiting %d ms: %d %v", ms, a.status, a.header)
	}
}

func TestWhatCostsAndWhatDoesNot(t *testing.T) {
	policies := `
callers: {keys: [{caller: a, key: weir_a}]}
plans: {default: {policies: [{name: p, quota: 5, window: 1h}]}}
`
	left := func(a answer) string {
		r, _, _ := strings.Cut(a.header.Get("RateLimit"), ";t=")
		return r
	}
	t.Run("an upstream that is not there costs nothing", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		gone := "http://" + l.Addr().String()
		_ = l.Close()
		w := start(t, policies+strings.ReplaceAll(plain, "%s", gone), nil)
		for range 8 {
			if a := w.send("POST", "/", "{}"); a.status != 502 && a.status != 503 || left(a) != `"p";r=5` {
				t.Fatalf("%d %s", a.status, left(a))
			}
		}
	})
	t.Run("an upstream's error costs its request", func(t *testing.T) {
		w := start(t, policies+plain, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
		if a := w.send("POST", "/", "{}"); a.status != 500 || left(a) != `"p";r=4` {
			t.Errorf("%d %s", a.status, left(a))
		}
	})
	t.Run("a refused request costs nothing in any policy", func(t *testing.T) {
		w := start(t, policies+`
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u, max_body: 10, policies: [1/hour]}]`, &counted{})
		w.send("POST", "/", "{}")
		for range 8 {
			w.send("POST", "/", "{}")
			w.send("POST", "/", "01234567890")
			w.send("POST", "/", "{}", "X-Api-Key", "weir_wrong")
		}
		a := w.send("POST", "/", "{}")
		if want := `"all";r=0;t=3600, "p";r=4;t=`; a.status != 429 || !strings.HasPrefix(a.header.Get("RateLimit"), want[:11]) || !strings.Contains(a.header.Get("RateLimit"), `"p";r=4`) {
			t.Errorf("%d %s", a.status, a.header.Get("RateLimit"))
		}
	})
	t.Run("a hit costs nothing and is never refused", func(t *testing.T) {
		w := start(t, cached, &counted{})
		for i := range 5 {
			w.send("GET", "/?"+strconv.Itoa(i), "")
		}
		if a := w.send("GET", "/?new", ""); a.status != 429 {
			t.Fatalf("the quota is not used up: %d", a.status)
		}
		for range 20 {
			if a := w.send("GET", "/?1", ""); a.status != 200 || left(a) != `"default";r=0` || !strings.HasPrefix(a.header.Get("Cache-Status"), "weir; hit") {
				t.Fatalf("%d %v", a.status, a.header)
			}
		}
	})
	t.Run("a hit costs where the route charges for it", func(t *testing.T) {
		w := start(t, strings.Replace(cached, "ttl: 1m", "ttl: 1m, charge_hits: true", 1), &counted{})
		for range 5 {
			if a := w.send("GET", "/", ""); a.status != 200 {
				t.Fatalf("%d", a.status)
			}
		}
		if a := w.send("GET", "/", ""); a.status != 429 {
			t.Errorf("%d %v", a.status, a.header)
		}
	})
}

func TestChargedHitsAreGivenBack(t *testing.T) {
	w := start(t, strings.Replace(cached, "ttl: 1m", "ttl: 1m, charge_hits: true", 1), &counted{h: func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}})
	for range 8 {
		if a := w.send("GET", "/", "", "Cache-Control", "only-if-cached"); a.status != 504 || a.header.Get("RateLimit") != `"default";r=5` {
			t.Fatalf("not in the cache: %d %v", a.status, a.header)
		}
		if a := w.send("GET", "/", ""); a.status != 502 && a.status != 503 || a.header.Get("RateLimit") != `"default";r=5` {
			t.Fatalf("no answer: %d %v", a.status, a.header)
		}
	}
}

func TestSampledAnswersAreNotKept(t *testing.T) {
	for _, only := range []string{"deterministic", "all"} {
		w := start(t, strings.NewReplacer("ttl: 1m", "ttl: 1m, only: "+only, "5/minute", "50/minute").Replace(cached), &counted{})
		for body, deterministic := range map[string]bool{
			`{"temperature": 0.7}`: false, `{"temperature": 1e999}`: false, `{"temperature": "0.7"}`: false, `{"temperature": 1, "seed": null}`: false,
			`{"temperature": 0}`: true, `{"temperature": 0.7, "seed": 3}`: true, `{"temperature": null}`: true, `{"x": 1}`: true,
		} {
			want := "weir; fwd=miss; stored"
			if only == "deterministic" && !deterministic {
				want = "weir; fwd=bypass"
			}
			if a := w.send("POST", "/", body); a.status != 200 || a.header.Get("Cache-Status") != want {
				t.Errorf("only %s: %s: %d with %q, want %q", only, body, a.status, a.header.Get("Cache-Status"), want)
			}
		}
	}
}

func TestPoliciesCountByWhatTheySay(t *testing.T) {
	serve := func(by string) *weir {
		return start(t, `
callers: {trusted_proxies: [127.0.0.1], keys: [{caller: a, key: weir_a, plan: pro}, {caller: b, key: weir_b, plan: pro}]}
plans: {pro: {}}
upstreams: {u: {targets: ["%s"]}}
routes:
  - {name: one, match: {path: /one}, upstream: u, policies: [{name: p, quota: 1, window: 1h, by: "`+by+`"}]}
  - {name: two, match: {path: /two}, upstream: u, policies: [{name: p, quota: 1, window: 1h, by: "`+by+`"}]}`, &counted{})
	}
	type request struct {
		path, body, key, ip, tenant string
	}
	same := func(by string, share bool, a, b request) {
		t.Helper()
		w := serve(by)
		var got []int
		for _, r := range []request{a, b} {
			header := []string{"X-Forwarded-For", r.ip, "X-Tenant", r.tenant}
			if r.key != "" {
				header = append(header, "X-Api-Key", r.key)
			}
			got = append(got, w.send("POST", r.path, r.body, header...).status)
		}
		want := []int{200, 200}
		if share {
			want[1] = 429
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %s: %+v then %+v: %v, want %v", by, a, b, got, want)
		}
	}
	base := request{"/one", `{"model":"m"}`, "weir_a", "203.0.113.1", "t"}
	vary := func(change func(*request)) request { r := base; change(&r); return r }
	key := vary(func(r *request) { r.key = "weir_b" })
	ip := vary(func(r *request) { r.ip = "203.0.113.2" })
	model := vary(func(r *request) { r.body = `{"model":"n"}` })
	tenant := vary(func(r *request) { r.tenant = "u" })
	path := vary(func(r *request) { r.path = "/two" })
	for by, differs := range map[string]request{"caller": key, "ip": ip, "model": model, "header:X-Tenant": tenant} {
		same(by, true, base, base)
		same(by, false, base, differs)
		same(by, false, base, path) // another route's policy is another count
	}
	for _, by := range []string{"global", "plan", "route"} {
		for _, r := range []request{base, key, ip, model, tenant} {
			same(by, true, base, r)
		}
	}
	same("plan", false, base, vary(func(r *request) { r.key = "" }))
	same("caller", true, vary(func(r *request) { r.key = "" }), vary(func(r *request) { r.key, r.tenant = "", "x" }))
	same("caller", false, vary(func(r *request) { r.key = "" }), vary(func(r *request) { r.key, r.ip = "", "203.0.113.2" }))
}

func TestWhatReachesTheUpstream(t *testing.T) {
	var got http.Header
	w := start(t, `
callers: {keys: [{caller: a, key: weir_a}]}
upstreams: {u: {targets: ["%s"], set_headers: {X-Upstream-Key: ours}}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	w.client.Transport.(*http.Transport).DisableKeepAlives = true
	a := w.send("POST", "/", "{}",
		"Authorization", "Bearer sk-upstream", "X-Api-Key", "weir_a", "X-User-Id", "root", "X_User_Id", "root", "X-Forwarded-For", "10.0.0.1",
		"X-Upstream-Key", "theirs", "Connection", "X-Upstream-Key, Authorization, X-Keep", "X-Keep", "no", "X-Request-Id", "my-id", "Traceparent", "00-a-b-01", "User-Agent", "ua")
	want := http.Header{
		"X-Upstream-Key": {"ours"}, "X-Request-Id": {"my-id"}, "Traceparent": {"00-a-b-01"}, "User-Agent": {"ua"}, "Content-Type": {"application/json"},
		"Content-Length": {"2"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {strings.TrimPrefix(w.url, "http://")},
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("fields\n got %v\nwant %v", got, want)
	}
	if a.header.Get("X-Request-Id") != "my-id" {
		t.Errorf("X-Request-Id %s", a.header.Get("X-Request-Id"))
	}
	w.send("POST", "/", "{}", "Authorization", "Bearer sk-upstream")
	if got.Get("Authorization") != "Bearer sk-upstream" {
		t.Errorf("the upstream's credential became %q", got.Get("Authorization"))
	}
}

func TestNobodyGetsAnothersAnswer(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "for %s %s", r.Header.Get("Authorization"), r.Header.Get("Content-Type"))
	})
	yaml := `
callers: {keys: [{caller: a, key: weir_a}, {caller: b, key: weir_b}]}
upstreams: {u: {targets: ["%s"]}}
routes:
  - {name: own, match: {path: /own}, upstream: u, cache: {mode: inference, ttl: 1m}}
  - {name: all, match: {path: /all}, upstream: u, cache: {mode: inference, ttl: 1m, share: all}}
`
	t.Run("callers are apart", func(t *testing.T) {
		c := &counted{h: echo}
		w := start(t, yaml, c)
		for _, key := range []string{"weir_a", "weir_b", "weir_a"} {
			w.send("POST", "/own", "{}", "X-Api-Key", key)
		}
		if c.calls.Load() != 2 {
			t.Errorf("%d calls for two callers", c.calls.Load())
		}
	})
	t.Run("credentials behind one address are apart", func(t *testing.T) {
		w := start(t, yaml, echo)
		for _, token := range []string{"Bearer x", "Bearer y", "Bearer x"} {
			if a := w.send("POST", "/own", "{}", "Authorization", token); !strings.HasPrefix(a.body, "for "+token) {
				t.Errorf("the holder of %q got %q", token, a.body)
			}
		}
	})
	t.Run("who shares with all says so and tells other caches nothing", func(t *testing.T) {
		c := &counted{h: echo}
		w := start(t, yaml, c)
		a := w.send("POST", "/all", "{}", "X-Api-Key", "weir_a")
		b := w.send("POST", "/all", "{}", "X-Api-Key", "weir_b")
		if c.calls.Load() != 1 || a.header.Get("Cache-Control") != "" || b.header.Get("Cache-Control") != "" {
			t.Errorf("%d calls, %v, %v", c.calls.Load(), a.header, b.header)
		}
		if p := w.send("POST", "/own", "{}"); p.header.Get("Cache-Control") != "private" {
			t.Errorf("own answers: Cache-Control %q", p.header.Get("Cache-Control"))
		}
	})
	t.Run("a field that Connection removes is not in the key", func(t *testing.T) {
		w := start(t, yaml, echo)
		poison := w.send("POST", "/all", "{}", "Connection", "Content-Type", "X-Api-Key", "weir_a")
		clean := w.send("POST", "/all", "{}", "X-Api-Key", "weir_b")
		if poison.body == clean.body || !strings.HasSuffix(clean.body, "application/json") {
			t.Errorf("poisoned: %q, then %q", poison.body, clean.body)
		}
	})
}

func TestStreamsPassAtOnce(t *testing.T) {
	for name, path := range map[string]string{"not cached": "/plain", "cached": "/cached"} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan byte)
			w := start(t, `
upstreams: {u: {targets: ["%s"], timeouts: {first_byte: 30s}}}
routes:
  - {name: plain, match: {path: /plain}, upstream: u}
  - {name: cached, match: {path: /cached}, upstream: u, cache: {mode: inference, ttl: 1m}}
`, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for _, b := range []byte("abc") {
					_, _ = w.Write([]byte{b})
					_ = http.NewResponseController(w).Flush()
					select {
					case got := <-seen:
						if got != b {
							t.Errorf("the client saw %q after %q", got, b)
						}
					case <-r.Context().Done():
						return
					}
				}
			}))
			resp, err := w.client.Get(w.url + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			in := bufio.NewReader(resp.Body)
			for range 3 {
				b, err := in.ReadByte()
				if err != nil {
					t.Fatal(err)
				}
				seen <- b
			}
		})
	}
}

func TestClientsThatLeave(t *testing.T) {
	type visit struct {
		arrived, cancelled chan struct{}
		release            *gate
	}
	serve := func(t *testing.T) (*weir, *visit) {
		v := &visit{make(chan struct{}, 10), make(chan struct{}, 10), newGate()}
		return start(t, cached, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or this server would not notice who leaves
			v.arrived <- struct{}{}
			if !v.release.wait(r) {
				v.cancelled <- struct{}{}
				return
			}
			_, _ = io.WriteString(w, "the answer")
		})), v
	}
	t.Run("cancel the upstream within 100 ms, nine times of ten at least", func(t *testing.T) {
		now := storetest.Clock(t)
		var all []time.Duration
		late := 0
		for range 10 {
			w, v := serve(t)
			ctx, leave := context.WithCancel(t.Context())
			done := make(chan answer)
			go func() { done <- w.sendCtx(ctx, "POST", "/", "{}") }()
			after(t, "the call", v.arrived)
			left := now()
			leave()
			after(t, "its end", v.cancelled)
			took := now() - left
			if all = append(all, took); took > 100*time.Millisecond {
				late++
			}
			<-done
			v.release.open()
			// What the model did for somebody who left is charged all the same.
			if got := w.send("POST", "/", `{"other":1}`).header.Get("RateLimit"); !strings.HasPrefix(got, `"default";r=3;`) {
				t.Errorf("RateLimit %s", got)
			}
		}
		if t.Logf("cancelled after %v", all); late > 1 {
			t.Errorf("%d of 10 were cancelled later than after 100 ms: %v", late, all)
		}
	})
	t.Run("do not cancel it for those who wait with them", func(t *testing.T) {
		follows := func() bool {
			w, v := serve(t)
			ctx, leave := context.WithCancel(t.Context())
			leader, follower := make(chan answer), make(chan answer)
			go func() { leader <- w.sendCtx(ctx, "POST", "/", "{}") }()
			<-v.arrived
			go func() { follower <- w.send("POST", "/", "{}") }()
			w.until(func() bool { return w.metric(`weir_gateway_requests_in_flight{route="all"}`) == "2" })
			<-time.After(100 * time.Millisecond) // from being in flight to waiting
			leave()
			<-leader
			v.release.open()
			a := <-follower
			if a.status != 200 || a.body != "the answer" {
				t.Errorf("the follower got %d %q %v", a.status, a.body, a.header)
			}
			return a.header.Get("Cache-Status") == "weir; fwd=miss; collapsed" && len(v.cancelled) == 0 && len(v.arrived) == 0
		}
		followed := follows()
		for range 4 { // the second may not have come to wait yet, on a busy machine
			followed = followed || follows()
		}
		if !followed {
			t.Error("the model was cancelled or ran again")
		}
	})
}

func TestAnswersThatBreakOff(t *testing.T) {
	c := &counted{}
	c.h = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w := start(t, cached, c)
	for i := range 2 {
		if a := w.send("POST", "/", "{}"); a.status != 200 || a.err == nil {
			t.Errorf("request %d: %d %q ended cleanly", i, a.status, a.body)
		}
	}
	if c.calls.Load() != 2 {
		t.Error("an answer that broke off was served again")
	}
	if got := w.metric(`weir_upstream_requests_total{result="error",upstream="u"}`); got != "2" {
		t.Errorf("counted %s", got)
	}
}
