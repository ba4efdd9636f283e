package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// sockets is an upstream with one place for WebSockets, and a route without them.
const sockets = `
callers: {keys: KEYS}
plans: {default: {policies: [{name: r, quota: 3, window: 1h}, {name: slots, concurrent: 2}]}}
upstreams: {u: {targets: [T0], concurrency: 1, queue: {max_wait: 1h}}}
routes:
  - {name: talk, match: {path: /talk}, upstream: u, upgrade: [websocket]}
  - {name: all, match: {path: /*}, upstream: u}
`

// handshake asks for a WebSocket (RFC 6455, section 1.2).
const handshake = "GET PATH HTTP/1.1\r\nHost: weir.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Api-Key: KEY\r\n\r\n"

// ear is a server of WebSockets: what it is sent it sends back, frame for frame.
type ear struct {
	asked chan http.Header
	over  chan struct{} // one for each that has ended
}

func newEar() *ear { return &ear{make(chan http.Header, 100), make(chan struct{}, 100)} }

func (e *ear) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.asked <- r.Header
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.WriteString(w, "no socket")
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer func() { _ = c.Close(); e.over <- struct{}{} }()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(c, rw.Reader)
}

// socket is a client's end of one.
type socket struct {
	t *testing.T
	net.Conn
	in     *bufio.Reader
	status int
	header http.Header
}

// shake sends a handshake, and waits for its answer.
func (w *instance) shake(path, key string) *socket {
	w.t.Helper()
	c, err := net.Dial("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(eventually))
	_, _ = io.WriteString(c, strings.NewReplacer("PATH", path, "KEY", key).Replace(handshake))
	s := &socket{t: w.t, Conn: c, in: bufio.NewReader(c)}
	resp, err := http.ReadResponse(s.in, &http.Request{Method: "GET"})
	if err != nil {
		w.t.Fatal(err)
	}
	s.status, s.header = resp.StatusCode, resp.Header
	return s
}

// masked is a text frame of a client.
func masked(text string) []byte {
	f := []byte{0x81, 0x80 | byte(len(text)), 1, 2, 3, 4}
	for i := range len(text) {
		f = append(f, text[i]^byte(i%4+1))
	}
	return f
}

// echoes sends a frame and wants it back.
func (s *socket) echoes(text string) {
	s.t.Helper()
	sent := masked(text)
	_, _ = s.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(s.in, got); err != nil || !slices.Equal(got, sent) {
		s.t.Errorf("%q came back as %q, %v", sent, got, err)
	}
}

func TestAWebSocketPassesThroughAndHoldsItsPlace(t *testing.T) {
	t.Parallel()
	e := newEar()
	w := before(t, sockets, e)
	s := w.shake("/talk?x=1", "weir_u0")
	if s.status != 101 || s.header.Get("Sec-Websocket-Accept") == "" || s.header.Get("X-Request-Id") == "" {
		t.Fatalf("%d %v", s.status, s.header)
	}
	if h := <-e.asked; h.Get("Upgrade") != "websocket" || h.Get("X-Api-Key") != "" || h.Get("Sec-Websocket-Key") == "" {
		t.Errorf("the upstream was asked with %v", h)
	}
	s.echoes("one")
	w.shows(1, "weir_admission_running")
	second := w.queued(of(1), "/second")[0]
	s.echoes("two")
	s.echoes(strings.Repeat("x", 100))
	if len(e.asked) > 0 {
		t.Error("somebody else has got the socket's place")
	}
	_ = s.Close()
	after(t, "the end of the socket upstream", e.over)
	if a := second.got(); !a.is(200, "no socket") {
		t.Error(a)
	}
	w.isIdle()
	w.until(func() bool { return strings.Contains(w.log.String(), `"status":101`) })
}

func TestAClientsLimitsHoldForItsWebSockets(t *testing.T) {
	t.Parallel()
	e := newEar()
	w := before(t, strings.Replace(sockets, "concurrency: 1", "concurrency: 9", 1), e)
	one, two := w.shake("/talk", "weir_u0"), w.shake("/talk", "weir_u0")
	three := w.shake("/talk", "weir_u0")
	if one.status != 101 || two.status != 101 || three.status != 429 || three.header.Get("Retry-After") == "" && three.header.Get("Ratelimit") == "" {
		t.Errorf("%d %d %d %v", one.status, two.status, three.status, three.header)
	}
	_ = one.Close()
	after(t, "the end of the socket upstream", e.over)
	w.shows(1, "weir_admission_running")
	w.shows(1, "weir_ratelimit_slots_held")
	if s := w.shake("/talk", "weir_u0"); s.status != 101 {
		t.Errorf("a slot was not freed: %d %v", s.status, s.header)
	}
	if s := w.shake("/talk", "weir_u0"); s.status != 429 { // the quota of three is used up
		t.Errorf("%d %v", s.status, s.header)
	}
	if s := w.shake("/talk", "weir_u1"); s.status != 101 {
		t.Errorf("another caller's: %d %v", s.status, s.header)
	}
	if s := w.shake("/talk", "weir_wrong"); s.status != 401 {
		t.Errorf("nobody's: %d %v", s.status, s.header)
	}
}

func TestAWebSocketIsRefusedWhereNoRouteListsIt(t *testing.T) {
	t.Parallel()
	e := newEar()
	w := before(t, sockets, e)
	for name, request := range map[string]string{
		"another route":                 strings.NewReplacer("PATH", "/other", "KEY", "weir_u0").Replace(handshake),
		"h2c":                           "GET /talk HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		"h2c beside it":                 "GET /talk HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket, h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		"h2c in a field of its own":     "GET /talk HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
		"h2c where there is no upgrade": "GET /other HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"a POST":                        "POST /talk HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.0":                      "GET /talk HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	} {
		c, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(eventually))
		_, _ = io.WriteString(c, request)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 501 {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
		_ = c.Close()
	}
	if len(e.asked) > 0 {
		t.Errorf("the upstream was asked with %v", <-e.asked)
	}
	w.isIdle()
}

func TestAClientThatLeavesItsWebSocketFreesThePlace(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*socket){
		"with FIN": func(s *socket) { _ = s.Close() },
		"with RST": func(s *socket) { _ = s.Conn.(*net.TCPConn).SetLinger(0); _ = s.Close() },
		"by half":  func(s *socket) { _ = s.Conn.(*net.TCPConn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEar()
			w := before(t, sockets, e)
			for range 2 {
				s := w.shake("/talk", "weir_u0")
				s.echoes("x")
				w.shows(1, "weir_admission_running")
				leave(s)
				after(t, "the end of the socket upstream", e.over)
				w.isIdle()
			}
		})
	}
	t.Run("in the queue", func(t *testing.T) {
		t.Parallel()
		e := newEar()
		w := before(t, sockets, e)
		s := w.shake("/talk", "weir_u0")
		s.echoes("x")
		<-e.asked
		c, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, strings.NewReplacer("PATH", "/talk", "KEY", "weir_u1").Replace(handshake))
		w.waits(1)
		_ = c.Close()
		w.waits(0)
		_ = s.Close()
		w.isIdle()
		if len(e.asked) > 0 {
			t.Error("the upstream was asked for who had left")
		}
	})
}

// deadlines is a listener whose connections tell what deadline they have last been
// given.
type deadlines struct {
	net.Listener
	mu    sync.Mutex // guards all below
	write time.Time
	ever  bool // that was a time
}

type timed struct {
	net.Conn
	of *deadlines
}

func (d *deadlines) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return timed{c, d}, nil
}

func (d *deadlines) sets(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write, d.ever = t, d.ever || !t.IsZero()
}

func (d *deadlines) last() (write time.Time, ever bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.write, d.ever
}

func (c timed) SetDeadline(t time.Time) error {
	c.of.sets(t)
	return c.Conn.SetDeadline(t)
}

func (c timed) SetWriteDeadline(t time.Time) error {
	c.of.sets(t)
	return c.Conn.SetWriteDeadline(t)
}

// A socket may live for days: the server's deadline for an answer is not for it.
func TestASocketOutlivesTheDeadlineOfAnAnswer(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("test.yaml", []byte(strings.NewReplacer("KEYS", keys(), "T0", serving(t, newEar())).Replace(sockets)), nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(unhurried(cfg), gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d, server := &deadlines{Listener: l}, g.Server()
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(d) })
	t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
		_ = g.Close(t.Context()) // ends its sockets
	})
	w := &instance{weir: &weir{t: t, gateway: g}, address: l.Addr().String()}
	s := w.shake("/talk", "weir_u0")
	s.echoes("x")
	if at, ever := d.last(); !at.IsZero() || !ever {
		t.Errorf("an answer has a deadline: %v; the socket has %v", ever, at)
	}
	if got := fmt.Sprint(w.total("weir_admission_running")); got != "1" {
		t.Errorf("%s places are taken", got)
	}
}
