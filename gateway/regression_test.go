package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

func (w *weir) dial() net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(eventually))
	return c
}

func TestAClientThatClosesHalfGetsNoEmptyAnswer(t *testing.T) {
	w := start(t, plain, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	c := w.dial()
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}")
	_ = c.(*net.TCPConn).CloseWrite()
	if b, _ := io.ReadAll(c); len(b) != 0 {
		t.Errorf("got %q", b)
	}
}

// A leader whose client takes nothing must not keep the others waiting.
func TestALeaderThatDoesNotReadKeepsNobodyWaiting(t *testing.T) {
	const size = 7 << 20
	w := start(t, `
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1m, share: all}}]
`, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = w.Write(make([]byte, size))
	}))
	c := w.dial()
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+strings.TrimPrefix(w.url, "http://")+"\r\n\r\n")
	if line, err := bufio.NewReaderSize(c, 16).ReadString(' '); err != nil { // the answer has begun
		t.Fatal(line, err)
	}
	var a answer
	if took := took(func() { a = w.send("GET", "/", "") }); took > 5*time.Second {
		t.Errorf("after %v", took)
	}
	if a.status != 200 || len(a.body) != size {
		t.Errorf("the other one got %d, %d bytes, %v", a.status, len(a.body), a.err)
	}
}

func TestAModelCannotBeHidden(t *testing.T) {
	yaml := `
upstreams: {u: {targets: ["%s"]}}
routes:
  - {name: strict, match: {path: /v1/chat, model: "gpt-4*"}, upstream: u, policies: [1/hour]}
  - {name: lax, match: {path: /v1/*}, upstream: u}
  - {name: counted, match: {path: /counted}, upstream: u, policies: [{quota: 1, window: 1h, by: model}]}
  - {name: free, match: {path: /free}, upstream: u}
`
	w := start(t, yaml, &counted{})
	hidden := map[string]string{
		"a doubled member":          `{"model":"gpt-4","model":"gpt-4"}`,
		"a number that is none":     `{"model":"gpt-4","temperature":NaN}`,
		"a byte order mark":         "\ufeff" + `{"model":"gpt-4"}`,
		"a body nested deeply":      `{"model":"gpt-4","x":` + strings.Repeat("[", 150) + strings.Repeat("]", 150) + `}`,
		"a body that is compressed": "\x1f\x8b\x08\x00",
	}
	for name, body := range hidden {
		for _, path := range []string{"/v1/chat", "/counted"} {
			if a := w.send("POST", path, body); a.status != 400 || !strings.HasPrefix(a.detail(), "The body's model cannot be told: want JSON that can be read in one way only") {
				t.Errorf("%s on %s: %d %s", name, path, a.status, a.body)
			}
		}
		for _, path := range []string{"/free", "/v1/other"} { // nothing depends on the model there
			if a := w.send("POST", path, body); a.status != 200 {
				t.Errorf("%s on %s: %d %s", name, path, a.status, a.body)
			}
		}
	}
	if a := w.send("POST", "/v1/chat", `{"model":"llama"}`); a.status != 200 {
		t.Errorf("another model: %d %s", a.status, a.body)
	}
}

func TestPathsThatServersReadInTwoWays(t *testing.T) {
	w := start(t, plain, &counted{})
	for target, want := range map[string]string{
		"/v1%2fadmin":              "HTTP/1.1 400 Bad Request",
		"/v1/%2F":                  "HTTP/1.1 400 Bad Request",
		"/public/%252e%252e/admin": "HTTP/1.1 400 Bad Request",
		"/public/%255Cadmin":       "HTTP/1.1 400 Bad Request",
		"/./a":                     "HTTP/1.1 400 Bad Request",
		"/a/..":                    "HTTP/1.1 400 Bad Request",
		"/v1/models/m:predict":     "HTTP/1.1 200 OK",
		"/a%20b/%C3%A9%25/..c/.d":  "HTTP/1.1 200 OK",
	} {
		if got := w.raw("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n"); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	if got := w.raw("GET / HTTP/1.2\r\nHost: h\r\n\r\n"); got != "HTTP/1.1 505 HTTP Version Not Supported" {
		t.Errorf("HTTP/1.2: %s", got)
	}
}

// What a proxy in front may take for the body must not be the next request.
func TestRequestsThatEndInTwoPlaces(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	w := start(t, plain, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.RequestURI)
	}))
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, request := range map[string]string{
		"both lengths": "POST /one HTTP/1.1\r\nHost: h\r\nContent-Length: " + fmt.Sprint(5+len(smuggled)) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"HTTP/1.0":     "POST /one HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled,
	} {
		seen = nil
		c := w.dial()
		_, _ = io.WriteString(c, request)
		b, _ := io.ReadAll(c)
		mu.Lock()
		if len(seen) != 1 || seen[0] != "/one" || strings.Count(string(b), "HTTP/1.") != 1 {
			t.Errorf("%s: the upstream saw %v, the client %q", name, seen, b)
		}
		mu.Unlock()
	}
}

func TestConnectionRemovesNothingOfOurs(t *testing.T) {
	var got atomic.Value
	w := start(t, plain, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.Store(r.Header.Get("X-Request-Id")) }))
	a := w.send("GET", "/", "", "Connection", "X-Request-Id, X-Forwarded-For", "X-Request-Id", "mine")
	if got.Load() != "mine" || a.header.Get("X-Request-Id") != "mine" {
		t.Errorf("upstream %q, client %q", got.Load(), a.header.Get("X-Request-Id"))
	}
}

func TestConditionsDoNotHideErrors(t *testing.T) {
	w := start(t, cached, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }))
	for range 3 {
		if a := w.send("GET", "/", "", "If-None-Match", "*"); a.status != 404 {
			t.Errorf("a stored 404 became %d", a.status)
		}
	}
}

func TestAShortAnswerFromThisProcessIsNotStored(t *testing.T) {
	cfg, err := config.Parse("test.yaml", []byte(strings.ReplaceAll(cached, "%s", "builtin:")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	g, err := gateway.New(cfg, gateway.Options{Models: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
	})})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close(t.Context()) }()
	s := httptest.NewServer(g)
	defer s.Close()
	for range 2 {
		resp, err := http.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q ended cleanly, with %v", b, resp.Header)
		}
		_ = resp.Body.Close()
	}
	if calls.Load() != 2 {
		t.Error("half an answer was served again")
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestFollowersAreToldWhenToComeBack(t *testing.T) {
	followed := followsARefusal(t)
	for range 4 { // the second may not have come to wait yet, on a busy machine
		followed = followed || followsARefusal(t)
	}
	if !followed {
		t.Error("the second request did not follow")
	}
}

// followsARefusal reports whether the second of two requests waited for the first.
func followsARefusal(t *testing.T) bool {
	t.Helper()
	release, arrived := make(chan struct{}), make(chan struct{}, 10)
	w := start(t, cached, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(503)
	}))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if a := w.send("POST", "/", "{}"); a.status != 503 || a.header.Get("Retry-After") != "7" {
				t.Errorf("%d %v", a.status, a.header)
			}
		})
	}
	<-arrived
	for w.metric(`weir_gateway_requests_in_flight{route="all"}`) != "2" {
		<-time.After(time.Millisecond)
	}
	<-time.After(100 * time.Millisecond) // from being in flight to waiting
	close(release)
	wg.Wait()
	return len(arrived) == 0
}

func TestNoOtherCacheIsToldToKeep(t *testing.T) {
	w := start(t, cached, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", `private="X-A, X-B", max-age=5`)
		h.Set("CDN-Cache-Control", "max-age=600")
		h.Set("Surrogate-Control", "max-age=600")
		h.Set("Cloudflare-CDN-Cache-Control", "max-age=600")
		h.Set("Anthropic-Ratelimit-Requests-Remaining", "3")
		h.Set("X-Ratelimit-Remaining", "3")
		h.Set("Cache-Status", "cdn; hit")
		h.Set("Server-Timing", "db;dur=1")
	}))
	began := time.Now()
	for i, status := range []string{"cdn; hit|weir; fwd=miss; stored", "weir; hit; ttl=59"} {
		a := w.send("GET", "/", "")
		if got := a.lapsed(began, 59); got != status {
			t.Errorf("request %d: Cache-Status %s", i, got)
		}
		if got := a.header.Get("Cache-Control"); got != "private, max-age=5" {
			t.Errorf("request %d: Cache-Control %s", i, got)
		}
		for _, name := range []string{"CDN-Cache-Control", "Surrogate-Control", "Cloudflare-CDN-Cache-Control", "Anthropic-Ratelimit-Requests-Remaining", "X-Ratelimit-Remaining"} {
			if got := a.header.Get(name); got != "" {
				t.Errorf("request %d: %s: %s", i, name, got)
			}
		}
		if timings := a.header["Server-Timing"]; len(timings) != 2-i {
			t.Errorf("request %d: Server-Timing %v", i, timings)
		}
	}
}
