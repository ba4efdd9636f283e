package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/storetest"
	"github.com/inferweir/weir/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// front starts a proxy to target and returns its URL and its events.
func front(t *testing.T, o upstream.Options, targets ...string) (string, func() []upstream.Event) {
	t.Helper()
	var mu sync.Mutex
	var events []upstream.Event
	o.Name = "llm"
	if o.Timeouts.Connect == 0 {
		o.Timeouts.Connect = time.Minute // a busy machine may take longer than the default
	}
	for _, url := range targets {
		o.Targets = append(o.Targets, upstream.Target{URL: url})
	}
	o.Observe = func(e upstream.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}
	pool, err := upstream.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(pool)
	t.Cleanup(func() {
		s.Close()
		pool.Close()
		if n := pool.InFlight(); n != 0 {
			t.Errorf("%d exchanges never ended", n)
		}
	})
	return s.URL, func() []upstream.Event {
		// An exchange ends a moment after the client has its answer.
		for until := time.Now().Add(time.Minute); pool.InFlight() > 0 && time.Now().Before(until); {
			<-time.After(2 * time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(events)
	}
}

func backend(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// client makes a client whose connections end with the test.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func read(t *testing.T, resp *http.Response, err error) (int, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the answer: %v", err)
	}
	return resp.StatusCode, string(b)
}

func TestRequestsGoUpUnchanged(t *testing.T) {
	var got struct{ method, uri, host, body string }
	var header http.Header
	target := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got.method, got.uri, got.host, got.body = r.Method, r.RequestURI, r.Host, string(b)
		header = r.Header
	})
	url, _ := front(t, upstream.Options{SetHeaders: map[string]string{"authorization": "Bearer ours", "X-Remove": ""}}, target+"/base/")
	for _, uri := range []string{"/", "/v1/a%2Fb/c%20d?x=1&x=2;y", "/v1/%7Euser", "/a/é?", "/v1/models/m:predict"} {
		r, _ := http.NewRequest("PATCH", url+uri, strings.NewReader("body"))
		if code, _ := read2(t, client(t), r); code != 200 {
			t.Fatalf("%s: %d", uri, code)
		}
		want := "/base" + strings.ReplaceAll(uri, "é", "%C3%A9")
		if got.method != "PATCH" || got.uri != want || got.body != "body" || "http://"+got.host != target {
			t.Errorf("%s arrived as %+v", uri, got)
		}
	}
	r, _ := http.NewRequest("GET", url+"/", nil)
	r.Host = "api.example"
	r.Header = http.Header{
		"Authorization": {"Bearer client's"}, "X-Remove": {"a"}, "X-Keep": {"a", "b"}, "User-Agent": {""},
		"Connection": {"X-Named, authorization", "keep-alive"}, "X-Named": {"1"}, "Keep-Alive": {"timeout=5"}, "Te": {"trailers"},
		"Proxy-Authorization": {"secret"}, "Expect": {"100-continue"}, "Http2-Settings": {"AAMA"}, "X-Forwarded-For": {"203.0.113.9"},
	}
	read2(t, client(t), r)
	want := http.Header{
		"Authorization": {"Bearer ours"}, "X-Keep": {"a", "b"}, "X-Forwarded-For": {"203.0.113.9, 127.0.0.1"},
		"X-Forwarded-Host": {"api.example"}, "X-Forwarded-Proto": {"http"},
	}
	if !maps.EqualFunc(header, want, slices.Equal) {
		t.Errorf("fields\n got %v\nwant %v", header, want)
	}
}

func read2(t *testing.T, c *http.Client, r *http.Request) (int, string) {
	t.Helper()
	resp, err := c.Do(r)
	return read(t, resp, err)
}

func TestAnswersComeDownUnchanged(t *testing.T) {
	target := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["X-Many"] = []string{"a", "b"}
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(418)
		_, _ = io.WriteString(w, "\x1f\x8b not really")
		w.Header().Set("X-Sum", "9")
	})
	url, events := front(t, upstream.Options{}, target)
	resp, err := client(t).Get(url)
	code, body := read(t, resp, err)
	if code != 418 || body != "\x1f\x8b not really" || resp.Header.Get("Content-Encoding") != "gzip" ||
		!slices.Equal(resp.Header["X-Many"], []string{"a", "b"}) || resp.Header.Get("X-Hop") != "" || resp.Trailer.Get("X-Sum") != "9" {
		t.Errorf("%d %q %v trailer %v", code, body, resp.Header, resp.Trailer)
	}
	if e := events(); len(e) != 1 || e[0].Result != "ok" || e[0].Status != 418 || e[0].Target != target || e[0].Total < e[0].FirstByte {
		t.Errorf("events %+v", e)
	}
}

// An upstream that sends its next byte only when the client has the one before.
func TestNothingIsHeldBack(t *testing.T) {
	for name, header := range map[string]http.Header{
		"a length":      {"Content-Length": {"5"}},
		"chunks":        {},
		"server events": {"Content-Type": {"text/event-stream"}},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan byte)
			target := backend(t, func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), header)
				out := http.NewResponseController(w)
				if header.Get("Content-Length") == "" {
					_ = out.Flush()
					if b := <-seen; b != 0 { // the client has the head
						return
					}
				}
				for _, b := range []byte("abcde") {
					_, _ = w.Write([]byte{b})
					_ = out.Flush()
					select {
					case got := <-seen:
						if got != b {
							t.Errorf("the client saw %q after %q was sent", got, b)
						}
					case <-r.Context().Done():
						return
					}
				}
			})
			url, _ := front(t, upstream.Options{Timeouts: upstream.Timeouts{FirstByte: 5 * time.Second}}, target)
			resp, err := client(t).Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if header.Get("Content-Length") == "" {
				seen <- 0
			}
			in := bufio.NewReader(resp.Body)
			for range 5 {
				b, err := in.ReadByte()
				if err != nil {
					t.Fatal(err)
				}
				seen <- b
			}
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// atOnce checks that 95 of 100 at least took at most 100 ms, by storetest.Clock: any one
// of them may have met a moment in which the machine did something else.
func atOnce(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	if len(took) < 20 {
		t.Fatalf("%s %d times: too few to judge", what, len(took))
	}
	if late := took[len(took)-1-len(took)/20]; late > 100*time.Millisecond {
		t.Errorf("%s: more than one of 20 took %v and longer, of %d: want at most 100ms", what, late, len(took))
	}
}

func TestAClientThatLeavesCancelsTheUpstream(t *testing.T) {
	const rounds = 20
	for name, started := range map[string]bool{"before the first byte": false, "within a stream": true} {
		t.Run(name, func(t *testing.T) {
			arrived, cancelled, now := make(chan struct{}), make(chan time.Duration, 1), storetest.Clock(t)
			target := backend(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if started {
					_, _ = io.WriteString(w, "first")
					_ = http.NewResponseController(w).Flush()
				}
				arrived <- struct{}{}
				<-r.Context().Done()
				cancelled <- now()
			})
			url, events := front(t, upstream.Options{}, target)
			var took []time.Duration
			for range rounds {
				ctx, leave := context.WithCancel(t.Context())
				r, _ := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader("{}"))
				done := make(chan struct{})
				go func() {
					defer close(done)
					if resp, err := client(t).Do(r); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				}()
				<-arrived
				left := now()
				leave()
				took = append(took, <-cancelled-left)
				<-done
			}
			atOnce(t, "the upstream was cancelled", took)
			if e := events(); len(e) != rounds || slices.ContainsFunc(e, func(e upstream.Event) bool { return e.Result != "cancelled" }) {
				t.Errorf("events %+v", e)
			}
		})
	}
}

func TestBalance(t *testing.T) {
	var mu sync.Mutex
	var order []string
	named := func(name string, before func()) string {
		return backend(t, func(http.ResponseWriter, *http.Request) {
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			if before != nil {
				before()
			}
		})
	}
	do := func(pool *upstream.Pool) {
		resp, err := pool.Do(t.Context(), httptest.NewRequest("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	pool := func(balance string, targets ...upstream.Target) *upstream.Pool {
		order = nil
		p, err := upstream.New(upstream.Options{Balance: balance, Targets: targets})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	t.Run("round robin goes by weight, spread evenly", func(t *testing.T) {
		p := pool("round_robin", upstream.Target{URL: named("a", nil), Weight: 3}, upstream.Target{URL: named("b", nil)}, upstream.Target{URL: named("c", nil)})
		for range 10 {
			do(p)
		}
		if got := strings.Join(order, ""); got != "abacaabaca" {
			t.Errorf("order %s", got)
		}
	})
	t.Run("least busy goes round while all are idle", func(t *testing.T) {
		p := pool("", upstream.Target{URL: named("a", nil)}, upstream.Target{URL: named("b", nil)})
		for range 4 {
			do(p)
		}
		if got := strings.Join(order, ""); got != "abab" {
			t.Errorf("order %s", got)
		}
	})
	t.Run("least busy avoids a target that hangs", func(t *testing.T) {
		release, once := make(chan struct{}), sync.Once{}
		hangs := make(chan struct{})
		p := pool("least_busy", upstream.Target{URL: named("a", func() { once.Do(func() { close(hangs); <-release }) })}, upstream.Target{URL: named("b", nil)})
		var wg sync.WaitGroup
		wg.Go(func() { do(p) })
		<-hangs
		for range 6 {
			do(p)
		}
		close(release)
		wg.Wait()
		if got := strings.Join(order, ""); got != "abbbbbb" {
			t.Errorf("order %s", got)
		}
	})
}

func TestNewReportsEveryMistake(t *testing.T) {
	_, err := upstream.New(upstream.Options{Balance: "fair", Targets: []upstream.Target{
		{URL: "10.0.0.1:8000"}, {URL: "ftp://h"}, {URL: "http://u:p@h"}, {URL: "http://h/?q"}, {URL: "http://ok/base"},
	}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`targets[0]: "10.0.0.1:8000"`, `targets[1]`, `targets[2]`, `targets[3]`, `balance: "fair": want least_busy, two_choices, round_robin or prefix`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "targets[4]") {
		t.Errorf("a good target is called bad: %v", err)
	}
}

func TestHandler(t *testing.T) {
	within := func(t *testing.T, most time.Duration, h http.HandlerFunc) (string, func() []upstream.Event) {
		return front(t, upstream.Options{
			Targets:  []upstream.Target{{URL: "in-process", Transport: upstream.Handler(h)}},
			Timeouts: upstream.Timeouts{FirstByte: most},
		})
	}
	inProcess := func(t *testing.T, h http.HandlerFunc) (string, func() []upstream.Event) {
		return within(t, time.Minute, h)
	}
	t.Run("answers like a server", func(t *testing.T) {
		url, events := inProcess(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Path", r.URL.Path+"?"+r.URL.RawQuery)
			w.WriteHeader(201)
			_, _ = fmt.Fprintf(w, "%s %s", r.Method, b)
		})
		resp, err := client(t).Post(url+"/p?q=1", "text/plain", strings.NewReader("body"))
		if code, body := read(t, resp, err); code != 201 || body != "POST body" || resp.Header.Get("X-Path") != "/p?q=1" {
			t.Errorf("%d %q %v", code, body, resp.Header)
		}
		if e := events(); e[0].Result != "ok" || e[0].Target != "in-process" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("streams", func(t *testing.T) {
		next := make(chan struct{})
		url, _ := inProcess(t, func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				_, _ = io.WriteString(w, "x")
				<-next
			}
		})
		resp, err := client(t).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for range 3 {
			if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			next <- struct{}{}
		}
	})
	t.Run("an empty answer is an answer", func(t *testing.T) {
		url, _ := inProcess(t, func(http.ResponseWriter, *http.Request) {})
		resp, err := client(t).Get(url)
		if code, body := read(t, resp, err); code != 200 || body != "" {
			t.Errorf("%d %q", code, body)
		}
	})
	t.Run("a panic is 502 and says nothing to the client", func(t *testing.T) {
		url, events := inProcess(t, func(http.ResponseWriter, *http.Request) { panic("secret") })
		resp, err := client(t).Get(url)
		if code, body := read(t, resp, err); code != 502 || strings.Contains(body, "secret") {
			t.Errorf("%d %s", code, body)
		}
		if e := events(); e[0].Result != "cut" || !strings.Contains(e[0].Err.Error(), "panicked: secret") {
			t.Errorf("%+v", e)
		}
	})
	t.Run("a panic within the body does not end cleanly", func(t *testing.T) {
		url, _ := inProcess(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		})
		resp, err := client(t).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); string(b) != "half" || err == nil {
			t.Errorf("read %q, %v", b, err)
		}
	})
	t.Run("a handler that is late is cancelled and waited for", func(t *testing.T) {
		var returned atomic.Bool
		url, events := within(t, 300*time.Millisecond, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			returned.Store(true)
		})
		resp, err := client(t).Get(url)
		code, _ := read(t, resp, err)
		if e := events(); code != 504 || !returned.Load() || e[0].Result != "timeout" {
			t.Errorf("%d, returned %t, %+v", code, returned.Load(), e)
		}
	})
	t.Run("closing the answer ends the handler", func(t *testing.T) {
		pool, err := upstream.New(upstream.Options{Targets: []upstream.Target{{URL: "in-process", Transport: upstream.Handler(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					_, _ = io.WriteString(w, "more")
				}
			}))}}})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := pool.Do(t.Context(), httptest.NewRequest("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(resp.Body, make([]byte, 100))
		_ = resp.Body.Close()
		if n := pool.InFlight(); n != 0 {
			t.Errorf("%d in flight after Close", n)
		}
	})
}

func TestRelayReadsAheadForOthers(t *testing.T) {
	const size = 1 << 20
	target := backend(t, func(w http.ResponseWriter, _ *http.Request) {
		for range size / 1024 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1024))
		}
	})
	pool, err := upstream.New(upstream.Options{Targets: []upstream.Target{{URL: target}}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, ahead := range []int64{0, 100, 4096, 2 * size} {
		t.Run(fmt.Sprint(ahead, " bytes: every byte arrives, in order"), func(t *testing.T) {
			resp, err := pool.Do(t.Context(), httptest.NewRequest("GET", "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			if err := pool.Relay(w, resp, upstream.Ahead{Bytes: ahead}); err != nil || w.Body.Len() != size || strings.Trim(w.Body.String(), "x") != "" {
				t.Errorf("%d bytes, %v", w.Body.Len(), err)
			}
		})
		t.Run(fmt.Sprint(ahead, " bytes: a client that leaves"), func(t *testing.T) {
			resp, err := pool.Do(t.Context(), httptest.NewRequest("GET", "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			var read atomic.Int64
			resp.Body = countedBody{resp.Body, &read}
			err = pool.Relay(leaves{httptest.NewRecorder()}, resp, upstream.Ahead{Bytes: ahead})
			if !upstream.ClientLeft(err) || (read.Load() == size) != (ahead > 0) {
				t.Errorf("%v after %d bytes were read", err, read.Load())
			}
		})
	}
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// leaves is a client that has left.
type leaves struct{ http.ResponseWriter }

func (leaves) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
