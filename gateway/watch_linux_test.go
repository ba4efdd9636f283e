package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

const watching = `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0], concurrency: 1, queue: {max_wait: 1h}, retry: {attempts: 1}}}
routes:
  - {name: talk, match: {path: /talk}, upstream: u, upgrade: [websocket]}
  - {name: kept, match: {path: /kept}, upstream: u, cache: {mode: inference, ttl: 1h, only: all}}
  - {name: all, match: {path: /*}, upstream: u}
`

const posted = "POST PATH HTTP/1.1\r\nHost: weir.example\r\nX-Api-Key: KEY\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

// guest is a client that speaks for itself.
type guest struct {
	t *testing.T
	net.Conn
	tcp *net.TCPConn
	in  *bufio.Reader
}

// comes connects, and sends the request of a user.
func (w *instance) comes(user int, request, path string) *guest {
	w.t.Helper()
	c, err := net.Dial("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(eventually))
	g := &guest{t: w.t, Conn: c, tcp: c.(*net.TCPConn)}
	if strings.HasPrefix(w.url, "https:") {
		g.Conn = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	g.in = bufio.NewReader(g.Conn)
	g.says(strings.NewReplacer("PATH", path, "KEY", of(user)[1]).Replace(request))
	return g
}

func (g *guest) says(text string) {
	g.t.Helper()
	if _, err := io.WriteString(g.Conn, text); err != nil {
		g.t.Fatal(err)
	}
}

// gets reads an answer.
func (g *guest) gets(want string) {
	g.t.Helper()
	resp, err := http.ReadResponse(g.in, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != want || err != nil {
		g.t.Errorf("got %q, %v; want %q", body, err, want)
	}
}

// ways are those in which a client goes.
var ways = map[string]func(*guest){
	"with FIN": func(g *guest) { _ = g.Close() },
	"with RST": func(g *guest) { _ = g.tcp.SetLinger(0); _ = g.tcp.Close() },
	"by half":  func(g *guest) { _ = g.tcp.CloseWrite() },
}

// secured is launch, with TLS in front.
func secured(t *testing.T, h http.Handler) *instance {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	cfg, err := config.Parse("test.yaml", []byte(strings.NewReplacer("KEYS", keys(), "T0", s.URL).Replace(watching)), nil)
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	g, err := gateway.New(unhurried(cfg), gateway.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(nil)
	front.Config = g.Server()
	front.StartTLS()
	w := &instance{address: front.Listener.Addr().String(), log: log, weir: &weir{t: t, url: front.URL, gateway: g}}
	w.stop = sync.OnceFunc(func() {
		front.CloseClientConnections()
		front.Close()
		_ = g.Close(context.Background())
	})
	t.Cleanup(w.stop)
	return w
}

// The server itself notices none of these: it stops looking at the first byte that
// comes after the request.
func TestAClientThatLeavesIsNoticedWhateverItSentBefore(t *testing.T) {
	t.Parallel()
	for front, launch := range map[string]func(*testing.T, http.Handler) *instance{
		"plain": func(t *testing.T, h http.Handler) *instance { return before(t, watching, h) },
		"TLS":   secured,
	} {
		for way, leave := range ways {
			for what, extra := range map[string]string{"a line end": "\r\n", "a part of a request": "G"} {
				t.Run(fmt.Sprintf("%s, %s, after %s", front, way, what), func(t *testing.T) {
					t.Parallel()
					d := newDesk()
					w := launch(t, d)
					leavesEverywhere(t, w, d, extra, leave)
				})
			}
		}
	}
}

func leavesEverywhere(t *testing.T, w *instance, d *desk, extra string, leave func(*guest)) {
	t.Helper()
	g := w.comes(0, posted, "/x") // before there is a head
	v := d.next(t)
	g.says(extra)
	leave(g)
	v.leaves()
	w.isIdle()

	g = w.comes(0, posted, "/x") // within a stream
	v = d.next(t)
	v.streams("data: 1\n\n")
	if line, err := g.in.ReadString('\n'); line != "HTTP/1.1 200 OK\r\n" {
		t.Fatal(line, err)
	}
	g.says(extra)
	leave(g)
	v.leaves()
	w.isIdle()

	stays := w.comes(0, posted, "/stays")
	v = d.next(t)
	for _, request := range []string{posted, handshake} { // in the queue
		g = w.comes(1, request, "/talk")
		w.waits(1)
		g.says(extra)
		leave(g)
		w.waits(0)
	}
	v.ends("here")
	stays.gets("here")
	w.isIdle()
	d.nobody(t)
	w.stop()
	if n := strings.Count(w.log.String(), `"status":499`); n != 3 {
		t.Errorf("%d have status 499, want the three to whom nothing was sent:\n%s", n, w.log.String())
	}
}

// departs has a client come beside those who wait, send a byte too many, leave and
// be missed: by then everybody has been looked at.
func (w *instance) departs(user, waiting int) {
	w.t.Helper()
	g := w.comes(user, posted, "/departs")
	w.waits(waiting + 1)
	g.says("G")
	_ = g.Close()
	w.waits(waiting)
}

func TestClientsThatStayAreServed(t *testing.T) {
	t.Parallel()
	t.Run("one that sends its next request early gets both answers", func(t *testing.T) {
		t.Parallel()
		d := newDesk()
		w := before(t, watching, d)
		g := w.comes(0, posted, "/1")
		v := d.next(t)
		g.says(strings.NewReplacer("PATH", "/2", "KEY", "weir_u0").Replace(posted))
		w.departs(1, 0)
		v.ends("first")
		g.gets("first")
		v = d.next(t)
		w.departs(1, 0)
		v.ends("second")
		g.gets("second")
		w.isIdle()
	})
	t.Run("one whose connection was watched before, too", func(t *testing.T) {
		t.Parallel()
		d := newDesk()
		w := before(t, watching, d)
		g := w.comes(0, posted, "/1")
		v := d.next(t)
		w.departs(1, 0)
		v.ends("first")
		g.gets("first")
		g.says(strings.NewReplacer("PATH", "/2", "KEY", "weir_u0").Replace(posted))
		v = d.next(t)
		g.says("\r\n")
		_ = g.Close()
		v.leaves()
		w.isIdle()
	})
	t.Run("a WebSocket whose first frame comes before the switch", func(t *testing.T) {
		t.Parallel()
		e, d := newEar(), newDesk()
		w := before(t, watching, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/talk" {
				e.ServeHTTP(w, r)
				return
			}
			d.ServeHTTP(w, r)
		}))
		w.later("GET", "/hold", "", of(0)...)
		v := d.next(t)
		g := w.comes(1, handshake, "/talk")
		w.waits(1)
		g.says(string(masked("early")))
		w.departs(2, 1)
		v.ends("")
		resp, err := http.ReadResponse(g.in, &http.Request{Method: "GET"})
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		s := &socket{t: t, Conn: g.Conn, in: g.in}
		if got := make([]byte, len(masked("early"))); true {
			if _, err := io.ReadFull(g.in, got); string(got) != string(masked("early")) {
				t.Errorf("got %q back, %v", got, err)
			}
		}
		w.departs(2, 0)
		s.echoes("later")
		_ = g.Close()
		after(t, "the end of the socket upstream", e.over)
		w.isIdle()
	})
	t.Run("a thousand short requests beside a long one", func(t *testing.T) {
		t.Parallel()
		d := newDesk()
		w := before(t, strings.Replace(watching, "concurrency: 1", "concurrency: 64", 1), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				d.ServeHTTP(w, r)
				return
			}
			_, _ = io.WriteString(w, r.URL.Path)
		}))
		long := w.comes(0, posted, "/long")
		v := d.next(t)
		long.says("G")
		var all sync.WaitGroup
		for i := range 8 {
			g := w.comes(i, posted, "/0")
			all.Go(func() {
				g.gets("/0")
				for n := 1; n < 125; n++ {
					path := fmt.Sprintf("/%d", n)
					g.says(strings.NewReplacer("PATH", path, "KEY", of(i)[1]).Replace(posted))
					g.gets(path)
				}
			})
		}
		all.Wait()
		v.ends("long")
		long.gets("long")
		w.isIdle()
	})
}

// Others may wait for the answer that a client's request brings: it goes on until
// the last has left, and the request that was first as long as it.
func TestOnlyTheLastThatWaitsForAnAnswerTakesItAlong(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, watching, d)
	served := func(n int) {
		t.Helper()
		w.shows(float64(n), "weir_gateway_requests_in_flight")
	}
	leave := func(g *guest) {
		t.Helper()
		g.says("\r\n")
		_ = g.Close()
	}
	first := w.comes(0, posted, "/kept")
	v := d.next(t)
	second, third := w.comes(0, posted, "/kept"), w.comes(0, posted, "/kept")
	served(3)
	leave(first)
	w.departs(1, 0)
	leave(second)
	served(2)
	v.ends("for the third")
	third.gets("for the third")
	served(0)

	first = w.comes(1, posted, "/kept")
	v = d.next(t)
	second = w.comes(1, posted, "/kept")
	served(2)
	leave(first)
	leave(second)
	v.leaves()
	served(0)
	w.isIdle()
}

// What watches ends with the gateway, even while requests are under way, and those
// that still come are served.
func TestAClosedGatewayWatchesNobody(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, watching, d)
	g := w.comes(0, posted, "/x")
	v := d.next(t)
	g.says("G")
	if err := w.gateway.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	v.ends("served")
	g.gets("served")
}
