package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

// decider is a gateway that is asked about requests of other servers.
type decider struct {
	*weir
	address string // of the listener for decisions
}

func startDecider(t *testing.T, yaml string, upstream http.Handler) *decider {
	t.Helper()
	w := start(t, yaml, upstream)
	s := httptest.NewServer(w.gateway.Decide())
	t.Cleanup(s.Close)
	return &decider{w, s.Listener.Addr().String()}
}

// ask sends the fields of a proxy.
func (d *decider) ask(fields ...string) answer {
	d.t.Helper()
	asked := *d.weir
	asked.url = "http://" + d.address
	return asked.send("GET", "/", "", fields...)
}

// traefik asks as Traefik and Caddy do.
func (d *decider) traefik(method, uri string, fields ...string) answer {
	d.t.Helper()
	return d.ask(append([]string{"X-Forwarded-Method", method, "X-Forwarded-Uri", uri, "X-Forwarded-Proto", "https", "X-Forwarded-Host", "api.example"}, fields...)...)
}

// nginx asks as nginx is told to.
func (d *decider) nginx(method, uri string, fields ...string) answer {
	d.t.Helper()
	return d.ask(append([]string{"X-Original-Method", method, "X-Original-Uri", uri}, fields...)...)
}

const decides = `
decide: {}
callers: {trusted_proxies: [127.0.0.0/8, "::1/128"], keys: [{caller: alice, key: weir_alice, plan: pro}, {caller: bob, key: weir_bob, plan: pro}]}
plans: {default: {policies: [2/minute]}, pro: {policies: [3/minute]}}
routes:
  - {name: app, match: {path: /app/*}}
  - {name: read, match: {path: /read, methods: [GET, POST]}, policies: [{name: all, quota: 100, window: 1m, by: global}]}
`

func statuses(ask ...func() answer) (all []int) {
	for _, f := range ask {
		all = append(all, f().status)
	}
	return all
}

// times asks the same so often.
func times(n int, ask func() answer) (all []int) {
	for range n {
		all = append(all, ask().status)
	}
	return all
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestDecide(t *testing.T) {
	f := func(name string, ask func(*decider) answer) {
		t.Helper()
		t.Run(name+" gets the decision and what is left", func(t *testing.T) {
			d := startDecider(t, decides, nil)
			var got [][4]any
			began := time.Now()
			for range 3 {
				a := ask(d)
				left, _, _ := strings.Cut(a.header.Get("RateLimit"), ";t=")
				got = append(got, [4]any{a.status, left, a.header.Get("RateLimit-Policy"), countedDown(began, 30, a.header.Get("Retry-After"))})
			}
			same(t, got, [][4]any{
				{200, `"default";r=1`, `"default";q=2;w=60`, ""},
				{200, `"default";r=0`, `"default";q=2;w=60`, ""},
				{429, `"default";r=0`, `"default";q=2;w=60`, "30"},
			})
		})
	}
	f("Traefik or Caddy", func(d *decider) answer { return d.traefik("POST", "/app/x") })
	f("nginx", func(d *decider) answer { return d.nginx("POST", "/app/x") })
	f("nginx that does not tell the method", func(d *decider) answer { return d.ask("X-Original-Uri", "/app/x") })

	t.Run("a refusal is one for the client to read", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		times(2, func() answer { return d.traefik("GET", "/app/x") })
		a := d.traefik("GET", "/app/x")
		same(t, []any{a.status, a.detail(), a.header.Get("Content-Type"), a.header.Get("Retry-After-Ms") != ""},
			[]any{429, "Request refused: 2 requests per 60 seconds are used up. Try again in " + a.header.Get("Retry-After") + " seconds.", "application/problem+json", true})
	})
	t.Run("counts are the gateway's own", func(t *testing.T) {
		up := &counted{}
		d := startDecider(t, `
decide: {}
plans: {default: {policies: [2/minute]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /app/*}, upstream: u}]
`, up)
		got := statuses(func() answer { return d.send("GET", "/app/1", "") }, func() answer { return d.nginx("GET", "/app/2") },
			func() answer { return d.send("GET", "/app/3", "") }, func() answer { return d.nginx("GET", "/app/4") })
		same(t, got, []int{200, 200, 429, 429})
		if n := up.calls.Load(); n != 1 {
			t.Errorf("the upstream was called %d times, want once: not for decisions", n)
		}
	})
	t.Run("all or nothing: a refusal of one policy takes from no other", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		times(5, func() answer { return d.nginx("GET", "/read") })
		a := d.nginx("GET", "/read", "Authorization", "Bearer weir_alice")
		if got := a.header.Get("RateLimit"); !strings.Contains(got, `"all";r=97`) {
			t.Errorf("RateLimit: %s, want 97 left of all", got)
		}
	})
}

func TestDecideTargets(t *testing.T) {
	d := startDecider(t, "limits: {url_bytes: 1KiB, headers: 30}\n"+decides, nil)
	f := func(name string, a answer, status int, detail string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if a.status != status || !strings.Contains(a.detail(), detail) {
				t.Errorf("%d %q, want %d %q", a.status, a.detail(), status, detail)
			}
		})
	}
	const one = "Want the method and the target of the request to decide on, once each"
	f("nothing to decide on", d.ask(), 400, one)
	f("no method", d.ask("X-Forwarded-Uri", "/app/x"), 400, one)
	f("no target", d.ask("X-Forwarded-Method", "GET"), 400, one)
	f("a method, and a target of the other kind", d.ask("X-Original-Method", "GET", "X-Forwarded-Uri", "/app/x"), 400, one)
	f("two targets", d.traefik("GET", "/app/x", "X-Forwarded-Uri", "/read"), 400, one)
	f("two methods", d.nginx("GET", "/app/x", "X-Original-Method", "POST"), 400, one)
	f("an empty method", d.traefik("", "/app/x"), 501, "is not a method")
	f("an empty target", d.traefik("GET", ""), 400, "is no path")
	f("a target that ends elsewhere for others", d.nginx("GET", "/app/x#y"), 400, "is no path")

	const both = "stands in X-Original-URI and in X-Forwarded-Uri or -Method"
	f("a target that a client wrote, passed on by nginx", d.nginx("GET", "/app/x", "X-Forwarded-Uri", "/read"), 400, both)
	f("a method that a client wrote, passed on by nginx", d.nginx("GET", "/app/x", "X-Forwarded-Method", "GET"), 400, both)
	f("a target that a client wrote, passed on by Traefik", d.traefik("GET", "/app/x", "X-Original-Uri", "/read"), 400, both)
	f("a method alone that a client wrote says nothing", d.traefik("DELETE", "/read", "X-Original-Method", "GET"), 405, "DELETE is not a method of this path")

	f("a path without a route", d.nginx("GET", "/elsewhere"), 404, "No route has this path.")
	f("a method without a route", d.nginx("DELETE", "/read"), 405, "DELETE is not a method of this path: want GET, HEAD, POST.")
	f("a method that no server has", d.nginx("BREW", "/app/x"), 501, `"BREW" is not a method that is served here.`)
	f("a target with a host", d.nginx("GET", "http://api.example/app/x"), 400, "is no path")
	f("a target with a host and no scheme", d.nginx("GET", "//api.example/app/x"), 400, "two slashes together")
	f("a target that is no URL", d.nginx("GET", "/app/%zz"), 400, "is no path")
	f("a star", d.nginx("OPTIONS", "*"), 400, "is no path")
	f("a path that another server reads as another", d.nginx("GET", "/app/../read"), 400, `a segment ".."`)
	f("the same, escaped", d.nginx("GET", "/app/%2e%2e/read"), 400, `a segment ".."`)
	f("a target that is too long", d.nginx("GET", "/app/x?"+strings.Repeat("q", 1024)), 414, "The URL has 1031 bytes: want at most 1024.")
	f("a WebSocket is the application's affair", d.traefik("GET", "/app/x", "Connection", "Upgrade", "Upgrade", "websocket"), 200, "")
	f("a query is no part of the path", d.nginx("GET", "/read?q=/app/x&path=//"), 200, "")
}

func TestDecideCaller(t *testing.T) {
	alice := []string{"Authorization", "Bearer weir_alice"}
	from := func(client string, more ...string) []string {
		return append([]string{"X-Forwarded-For", client}, more...)
	}
	t.Run("is the proxy's client by address, each with a count of its own", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		same(t, times(3, func() answer { return d.nginx("GET", "/app/x", from("192.0.2.1")...) }), []int{200, 200, 429})
		same(t, times(3, func() answer { return d.traefik("GET", "/app/x", from("192.0.2.2")...) }), []int{200, 200, 429})
	})
	t.Run("is what the proxy appended, not what the client wrote before it", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		var got []int
		for i := range 3 {
			got = append(got, d.nginx("GET", "/app/x", from(fmt.Sprintf("198.51.100.%d, 192.0.2.1", i))...).status)
		}
		same(t, got, []int{200, 200, 429})
	})
	t.Run("is who has the key, wherever it comes from", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		var got []int
		for i := range 4 {
			got = append(got, d.nginx("GET", "/app/x", from(fmt.Sprintf("192.0.2.%d", i), alice...)...).status)
		}
		same(t, got, []int{200, 200, 200, 429})
		same(t, d.nginx("GET", "/app/x", from("192.0.2.1", "X-Api-Key", "weir_bob")...).status, 200)
		same(t, d.nginx("GET", "/app/x", from("192.0.2.1")...).status, 200)
	})
	t.Run("with a wrong key is refused, and told how to come", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		a := d.nginx("GET", "/app/x", "Authorization", "Bearer weir_eve")
		same(t, [2]any{a.status, strings.HasPrefix(a.header.Get("Www-Authenticate"), "Bearer")}, [2]any{401, true})
	})
	t.Run("is the asking server itself where that is not trusted", func(t *testing.T) {
		d := startDecider(t, strings.Replace(decides, "trusted_proxies: [127.0.0.0/8, \"::1/128\"], ", "", 1), nil)
		var got []int
		for i := range 3 {
			got = append(got, d.nginx("GET", "/app/x", from(fmt.Sprintf("192.0.2.%d", i), "X-User-Id", fmt.Sprint(i))...).status)
		}
		same(t, got, []int{200, 200, 429})
	})
	t.Run("is whom the proxy names", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		same(t, times(3, func() answer { return d.nginx("GET", "/app/x", from("192.0.2.1", "X-User-Id", "carol")...) }), []int{200, 200, 429})
		same(t, d.nginx("GET", "/app/x", from("192.0.2.1", "X-User-Id", "dan")...).status, 200)
		d.equalLog(map[string]any{"caller": "header:dan", "route": "app", "method": "GET", "path": "/app/x", "status": 200.0})
	})
	t.Run("may be denied", func(t *testing.T) {
		d := startDecider(t, strings.Replace(decides, "callers: {", "callers: {deny: [192.0.2.0/24, key:bob], allow: [198.51.100.7], ", 1), nil)
		got := statuses(func() answer { return d.nginx("GET", "/app/x", from("192.0.2.1")...) },
			func() answer {
				return d.nginx("GET", "/app/x", from("203.0.113.1", "Authorization", "Bearer weir_bob")...)
			},
			func() answer { return d.nginx("GET", "/app/x", from("203.0.113.1")...) })
		same(t, got, []int{403, 403, 200})
		same(t, times(4, func() answer { return d.nginx("GET", "/app/x", from("198.51.100.7")...) }), []int{200, 200, 200, 200})
	})
}

func TestDecidePolicies(t *testing.T) {
	t.Parallel()
	t.Run("a shadow refuses nobody", func(t *testing.T) {
		d := startDecider(t, strings.Replace(decides, "[2/minute]", "[{quota: 2, window: 1m, shadow: true}]", 1), nil)
		same(t, times(4, func() answer { return d.nginx("GET", "/app/x") }), []int{200, 200, 200, 200})
		d.equalLog(map[string]any{"shadow": "default", "status": 200.0})
	})
	t.Run("tokens, bytes and slots are not known: they are looked at, and not taken", func(t *testing.T) {
		d := startDecider(t, `
decide: {}
upstreams: {u: {targets: ["%s"], dialect: openai}}
plans: {default: {policies: [{name: n, quota: 3, window: 1m}, {name: t, quota: 1, window: 1m, unit: tokens}, {name: b, quota: 1, window: 1m, unit: bytes}, {name: s, concurrent: 1}]}}
routes: [{name: chat, match: {path: /v1/*}, upstream: u}]
`, &counted{})
		same(t, times(4, func() answer { return d.nginx("POST", "/v1/chat/completions") }), []int{200, 200, 200, 429})
	})
	const models = `
decide: {}
upstreams: {u: {targets: ["%s"], dialect: openai}, o: {targets: ["%s"], dialect: ollama}}
routes:
  - {name: llama, match: {path: /v1/*, model: "llama-*"}, upstream: u, policies: [1/hour]}
  - {name: rest, match: {path: /v1/*}, upstream: u, policies: [2/hour]}
  - {name: gpt, match: {path: /gpt/*, model: gpt}, upstream: u}
  - {name: ollama, match: {path: /api/*}, upstream: o}
`
	t.Run("a route for a model is not one for who names none", func(t *testing.T) {
		d := startDecider(t, models, &counted{})
		a := d.nginx("POST", "/v1/chat/completions")
		same(t, [2]any{a.status, a.header.Get("RateLimit-Policy")}, [2]any{200, `"rest";q=2;w=3600`})
		d.equalLog(map[string]any{"route": "rest"})
		a = d.nginx("POST", "/gpt/x")
		same(t, a.status, 404)
		if !strings.Contains(a.body, "a decision knows no model") {
			t.Errorf("body %s, want the reason", a.body)
		}
	})
	t.Run("what is closed to clients of the gateway is closed", func(t *testing.T) {
		d := startDecider(t, models, &counted{})
		same(t, statuses(func() answer { return d.nginx("DELETE", "/api/delete") }, func() answer { return d.nginx("POST", "/api/chat") }), []int{403, 200})
	})
	t.Run("a route that only decides is not there for callers", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		same(t, d.send("GET", "/app/x", "").status, 404)
	})
}

// TestDecideBodies announces bodies that do not come, as a proxy does that passes
// all fields of a request on, but not its body.
func TestDecideBodies(t *testing.T) {
	f := func(name, header string, statuses ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			d := startDecider(t, strings.Replace(decides, "2/minute", "1/minute", 1), nil)
			for _, want := range statuses {
				conn, err := net.Dial("tcp", d.address)
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(eventually))
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-Original-URI: /app/x\r\nX-Original-Method: POST\r\n"+header+"\r\n")
				var line string
				waited := took(func() { line, err = bufio.NewReader(conn).ReadString('\n') })
				_ = conn.Close()
				if !strings.HasPrefix(line, "HTTP/1.1 "+want) || waited > 5*time.Second {
					t.Errorf("answer %q after %s (%v), want %s", line, waited, err, want)
				}
			}
		})
	}
	f("no body", "", "200", "429")
	f("a length without a body", "Content-Length: 1000\r\n", "200", "429")
	f("a long one", "Content-Length: 100000000\r\n", "200", "429")
	f("chunks that do not come", "Transfer-Encoding: chunked\r\n", "200", "429")
	f("a body that does come", "Content-Length: 4\r\n\r\nbody", "200", "429")
	f("a body that waits to be wanted", "Content-Length: 4\r\nExpect: 100-continue\r\n", "200", "429")
	f("a length that is asked about nothing", "X-Forwarded-Uri: /x\r\nContent-Length: 1000\r\n", "400")
}
