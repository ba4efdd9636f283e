package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// soon is how long a test waits for something that happens at once.
const soon = time.Minute

// asked is what a prober under test asks: targets by their URLs.
func asked(t *testing.T, o proberOptions, targets ...string) proberOptions {
	t.Helper()
	o.transport = &http.Transport{DisableCompression: true}
	for _, s := range targets {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		h := newHealth(Breaker{})
		o.targets = append(o.targets, probed{base: u, health: &h})
	}
	return o
}

// asks starts a prober, and stops it at the end of the test.
func asks(t *testing.T, o proberOptions) *prober {
	t.Helper()
	p, err := newProber(o)
	if err != nil {
		t.Fatal(err)
	}
	p.start()
	t.Cleanup(p.stop)
	return p
}

// listens makes a channel of what h tells.
func listens(h *health) <-chan string {
	events := make(chan string, 100)
	h.events = func(what string) { events <- what }
	return events
}

func arrives[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(soon):
		t.Fatal("it never happened")
		panic("unreachable")
	}
}

func serves(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// accepts serves every connection with f, and ends them at the end of the test.
func accepts(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			all.Go(func() { f(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return "http://" + l.Addr().String()
}

// says answers the one request of c with text, and nothing after it.
func says(c net.Conn, text string) {
	r := bufio.NewReader(c)
	if _, err := http.ReadRequest(r); err == nil {
		_, _ = io.WriteString(c, text)
	}
	_, _ = io.Copy(io.Discard, r)
}

// quick probes as often as may be.
func quick() Probe {
	return Probe{Path: "/health", Interval: minInterval, Timeout: 50 * time.Millisecond}
}

func TestProbeAsksAsConfigured(t *testing.T) {
	got := make(chan string, 100)
	target := serves(t, func(w http.ResponseWriter, r *http.Request) {
		got <- fmt.Sprint(r.Method, " ", r.RequestURI, " close=", r.Close, " ", r.Header)
	})
	asks(t, asked(t, proberOptions{
		probe:   Probe{Path: "/health%2Fdeep?full=1", Interval: minInterval, Timeout: soon},
		headers: http.Header{"Authorization": {"Bearer k"}, "User-Agent": {""}},
	}, target+"/v1/"))
	want := "GET /v1/health%2Fdeep?full=1 close=true map[Authorization:[Bearer k] Connection:[close]]"
	if got := arrives(t, got); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestProbeJudges(t *testing.T) {
	slow := func(head string) func(t *testing.T) string { // begins an answer and never ends it
		return func(t *testing.T) string {
			return accepts(t, func(c net.Conn) {
				says(c, head)
			})
		}
	}
	answer := func(h http.HandlerFunc) func(t *testing.T) string {
		return func(t *testing.T) string { return serves(t, h) }
	}
	status := func(code int) func(t *testing.T) string {
		return answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	for _, tt := range []struct {
		name    string
		target  func(t *testing.T) string
		healthy bool
	}{
		{"takes 200 for healthy", status(200), true},
		{"takes 204 for healthy", status(204), true},
		{"takes 299 for healthy", status(299), true},
		{"takes 304 for sick", status(304), false},
		{"takes 404 for sick", status(404), false},
		{"takes 500 for sick", status(500), false},
		{"takes 503 for sick", status(503), false},
		{"follows no redirect", func(t *testing.T) string {
			elsewhere := serves(t, func(http.ResponseWriter, *http.Request) { t.Error("it followed the redirect") })
			return serves(t, http.RedirectHandler(elsewhere, http.StatusFound).ServeHTTP)
		}, false},
		{"reads an endless answer only to its bound", answer(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}), true},
		{"takes a target that accepts and says nothing for sick", slow(""), false},
		{"takes one that begins a head for sick", slow("HTTP/1.1 200 OK\r\nX-Slow: "), false},
		{"takes one that begins a body for sick", slow("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"), false},
		{"takes one that breaks off for sick", answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "ok")
		}), false},
		{"takes one where nobody listens for sick", func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			return "http://" + l.Addr().String()
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			probe := quick()
			if tt.healthy {
				probe.Timeout = soon
			}
			p, err := newProber(asked(t, proberOptions{probe: probe}, tt.target(t)))
			if err != nil {
				t.Fatal(err)
			}
			h := p.options.targets[0].health
			events := listens(h)
			p.probe(t.Context(), 0)
			if !h.open(time.Now()) || len(events) > 0 {
				t.Fatal("one probe decided")
			}
			p.probe(t.Context(), 0)
			if h.open(time.Now()) != tt.healthy {
				t.Errorf("healthy: %v, want %v", !tt.healthy, tt.healthy)
			}
		})
	}
}

func TestProbes(t *testing.T) {
	t.Run("eject a target that flaps and take it back", func(t *testing.T) {
		// Single failures are nothing; two in a row eject, one success returns.
		script := []int{200, 500, 200, 500, 500, 500, 200, 500, 200, 503, 503, 200}
		var n atomic.Int64
		target := serves(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(script[min(int(n.Add(1))-1, len(script)-1)])
		})
		o := asked(t, proberOptions{probe: Probe{Path: "/health", Interval: minInterval, Timeout: soon}}, target)
		events := listens(o.targets[0].health)
		asks(t, o)
		var got []string
		for range 4 {
			got = append(got, arrives(t, events))
		}
		if want := []string{"ejected", "returned", "ejected", "returned"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if !o.targets[0].health.open(time.Now()) {
			t.Error("the target is not open")
		}
	})
	t.Run("of one that hangs delay no other's, and are one at a time", func(t *testing.T) {
		var hanging, most atomic.Int64
		hangs := serves(t, func(_ http.ResponseWriter, r *http.Request) {
			most.Store(max(most.Load(), hanging.Add(1)))
			<-r.Context().Done()
			hanging.Add(-1)
		})
		answered := make(chan bool, 1000)
		answers := serves(t, func(http.ResponseWriter, *http.Request) { answered <- true })
		o := asked(t, proberOptions{probe: Probe{Path: "/", Interval: minInterval, Timeout: time.Hour}}, hangs, answers)
		p := asks(t, o)
		for range 10 {
			arrives(t, answered)
		}
		stopped := make(chan bool)
		go func() { p.stop(); close(stopped) }()
		arrives(t, stopped)
		if most.Load() != 1 {
			t.Errorf("%d probes at the same time, want 1", most.Load())
		}
		if o.targets[0].health.probes != (probes{next: o.targets[0].health.probes.next}) {
			t.Error("the probe that was stopped counted as a failure")
		}
	})
	t.Run("eject one that hangs, by their timeout", func(t *testing.T) {
		o := asked(t, proberOptions{probe: quick()}, serves(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		events := listens(o.targets[0].health)
		asks(t, o)
		if got := arrives(t, events); got != "ejected" {
			t.Errorf("got %s, want ejected", got)
		}
	})
	t.Run("eject all, and say when the next one is due", func(t *testing.T) {
		sick := serves(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		o := asked(t, proberOptions{probe: Probe{Path: "/", Interval: 40 * time.Millisecond, Timeout: soon}}, sick, sick, sick)
		var events []<-chan string
		for _, one := range o.targets {
			events = append(events, listens(one.health))
		}
		asks(t, o)
		for i, one := range o.targets {
			if got := arrives(t, events[i]); got != "ejected" {
				t.Fatalf("got %s, want ejected", got)
			}
			at := one.health.opensAt(time.Now())
			if now := time.Now(); one.health.open(now) || at.Sub(now) > 44*time.Millisecond {
				t.Errorf("open %v, or again in %v; want closed for 44ms at most", one.health.open(now), at.Sub(now))
			}
		}
	})
	t.Run("wait for no connection that requests hold", func(t *testing.T) {
		release, held := make(chan bool), make(chan bool, 1)
		target := serves(t, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/busy" {
				held <- true
				<-release
			}
		})
		o := asked(t, proberOptions{probe: Probe{Path: "/health", Timeout: soon}}, target)
		o.transport.MaxConnsPerHost = 1
		var request sync.WaitGroup
		request.Go(func() {
			if resp, err := (&http.Client{Transport: o.transport}).Get(target + "/busy"); err == nil {
				_ = resp.Body.Close()
			}
		})
		defer request.Wait()
		defer o.transport.CloseIdleConnections()
		defer close(release)
		arrives(t, held)
		p, err := newProber(o)
		if err != nil {
			t.Fatal(err)
		}
		for range probeFall {
			p.probe(t.Context(), 0)
		}
		if !o.targets[0].health.open(time.Now()) {
			t.Error("the target was ejected for being busy")
		}
	})
	t.Run("leave targets in this process alone", func(t *testing.T) {
		got := make(chan bool, 1000)
		o := asked(t, proberOptions{probe: Probe{Path: "/", Interval: minInterval, Timeout: soon}},
			"http://in-process", serves(t, func(http.ResponseWriter, *http.Request) { got <- true }))
		o.targets[0].base = nil
		asks(t, o)
		for range 5 {
			arrives(t, got)
		}
		if !o.targets[0].health.open(time.Now()) {
			t.Error("a target in this process was ejected")
		}
	})
}

// transportFunc answers in this process.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestProbesKeepTime(t *testing.T) {
	const interval, rounds = 5 * time.Second, 200
	t.Run("at once, then every interval, give or take a tenth", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			var at []time.Duration
			full := make(chan bool)
			p, err := newProber(asked(t, proberOptions{probe: Probe{Path: "/", Interval: interval}}, "http://a"))
			if err != nil {
				t.Fatal(err)
			}
			p.probing = transportFunc(func(*http.Request) (*http.Response, error) {
				if at = append(at, time.Since(start)); len(at) == rounds {
					close(full)
				}
				return nil, errors.New("no")
			})
			p.start()
			<-full
			p.stop()
			if at[0] != 0 {
				t.Errorf("the first after %v, want at once", at[0])
			}
			least, most := time.Duration(math.MaxInt64), time.Duration(0)
			for i := 1; i < len(at); i++ {
				least, most = min(least, at[i]-at[i-1]), max(most, at[i]-at[i-1])
			}
			if least < 4500*time.Millisecond || most > 5500*time.Millisecond || most-least < 500*time.Millisecond {
				t.Errorf("%v to %v between two, want about 4.5s to 5.5s", least, most)
			}
		})
	})
	t.Run("and one that takes longer than the interval is not asked again before it has answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			var ended []time.Duration
			full := make(chan bool)
			p, err := newProber(asked(t, proberOptions{probe: Probe{Path: "/", Interval: time.Second, Timeout: interval}}, "http://a"))
			if err != nil {
				t.Fatal(err)
			}
			var running atomic.Int64
			p.probing = transportFunc(func(r *http.Request) (*http.Response, error) {
				if running.Add(1) > 1 {
					t.Error("two at the same time")
				}
				<-r.Context().Done()
				<-time.After(time.Millisecond) // until it has noticed
				running.Add(-1)
				if ended = append(ended, time.Since(start)); len(ended) == 3 {
					close(full)
				}
				return nil, r.Context().Err()
			})
			p.start()
			<-full
			<-time.After(2 * time.Second) // into the next
			p.stop()
			if running.Load() != 0 || len(ended) != 4 {
				t.Errorf("%d of %d still run after stop", running.Load(), len(ended))
			}
			if ended[0] != interval+time.Millisecond || ended[2] < 3*interval {
				t.Errorf("ended after %v, want 5s and each 5s after it began", ended)
			}
		})
	})
}

func TestProberRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    proberOptions
		want string
	}{
		{"a path without a slash", proberOptions{probe: Probe{Path: "health"}}, `upstream: probe.path: "health": want a path that begins with /, for example /health`},
		{"a URL for a path", proberOptions{probe: Probe{Path: "//h/health"}}, `upstream: probe.path: "//h/health": want a path that begins with /, for example /health`},
		{"a path that cannot be read", proberOptions{probe: Probe{Path: "/%zz"}}, `upstream: probe.path: "/%zz": want a path that begins with /, for example /health`},
		{"probes without a pause", proberOptions{probe: Probe{Path: "/", Interval: time.Nanosecond}}, "upstream: probe.interval: 1ns: want at least 10ms"},
		{"an engine that it does not know", proberOptions{engine: Engine{Kind: "ollama"}}, `upstream: engine.kind: "ollama": want vllm, sglang or triton`},
		{"an engine's path without a slash", proberOptions{engine: Engine{Kind: "vllm", Path: "metrics"}},
			`upstream: engine.path: "metrics": want a path from the target's root, with another port before it if need be: /metrics or :8002/metrics`},
		{"a port that is none", proberOptions{engine: Engine{Kind: "vllm", Path: ":0/metrics"}},
			`upstream: engine.path: ":0/metrics": want a path from the target's root, with another port before it if need be: /metrics or :8002/metrics`},
		{"a port without a path", proberOptions{engine: Engine{Kind: "vllm", Path: ":8002"}},
			`upstream: engine.path: ":8002": want a path from the target's root, with another port before it if need be: /metrics or :8002/metrics`},
		{"all of it at once", proberOptions{probe: Probe{Path: "x"}, engine: Engine{Kind: "y", Interval: 1}},
			"upstream: probe.path: \"x\": want a path that begins with /, for example /health\n" +
				"upstream: engine.kind: \"y\": want vllm, sglang or triton\nupstream: engine.interval: 1ns: want at least 10ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := newProber(asked(t, tt.o, "http://a"))
			if err == nil || err.Error() != tt.want || p != nil {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	t.Run("nothing where nothing is asked", func(t *testing.T) {
		p := asks(t, asked(t, proberOptions{}, "http://a"))
		p.stop() // and again at the end
		if p.probes != nil || p.engines != nil {
			t.Error("it asks all the same")
		}
		idle, err := newProber(asked(t, proberOptions{}, "http://a"))
		if err != nil {
			t.Fatal(err)
		}
		idle.stop() // never started
	})
}

func TestEngineAddress(t *testing.T) {
	for _, tt := range []struct {
		target string
		engine Engine
		want   string
	}{
		{"http://h:8000/v1", Engine{Kind: "vllm"}, "http://h:8000/metrics"},
		{"http://h:8000", Engine{Kind: "triton"}, "http://h:8002/metrics"},
		{"http://[::1]:8000/v1", Engine{Kind: "vllm", Path: ":9090/m?x=1"}, "http://[::1]:9090/m?x=1"},
		{"https://h/llm", Engine{Kind: "sglang", Path: "/a/metrics"}, "https://h/a/metrics"},
		{"http://h:8000", Engine{Kind: "triton", Path: "/metrics"}, "http://h:8000/metrics"},
	} {
		t.Run(strings.TrimPrefix(tt.want, "http://"), func(t *testing.T) {
			p, err := newProber(asked(t, proberOptions{engine: tt.engine}, tt.target))
			if err != nil || p.engines[0].String() != tt.want {
				t.Errorf("got %v, %v, want %s", p, err, tt.want)
			}
		})
	}
}
