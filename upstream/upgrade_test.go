package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/upstream"
)

// The opcodes of RFC 6455, section 5.2.
const (
	opText  = 1
	opClose = 8
)

const someKey = "dGhlIHNhbXBsZSBub25jZQ=="

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// frame is a whole message; a client's are masked.
func frame(op byte, masked bool, payload []byte) []byte {
	f := []byte{0x80 | op, 0}
	switch n := len(payload); {
	case n < 126:
		f[1] = byte(n)
	case n < 1<<16:
		f[1] = 126
		f = binary.BigEndian.AppendUint16(f, uint16(n))
	default:
		f[1] = 127
		f = binary.BigEndian.AppendUint64(f, uint64(n))
	}
	if !masked {
		return append(f, payload...)
	}
	f[1] |= 0x80
	mask := [4]byte{1, 2, 3, 4}
	f = append(f, mask[:]...)
	for i, b := range payload {
		f = append(f, b^mask[i%4])
	}
	return f
}

func readFrame(r *bufio.Reader) (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	long := map[uint64]int{126: 2, 127: 8}[n]
	var size [8]byte
	if _, err := io.ReadFull(r, size[8-long:]); err != nil {
		return 0, nil, err
	}
	if long > 0 {
		n = binary.BigEndian.Uint64(size[:])
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0xf, payload, nil
}

// switches makes a WebSocket server of serve, which owns the connection.
func switches(serve func(c *net.TCPConn, in *bufio.Reader), fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			says(200)(w, r)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		_, _ = fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
			acceptKey(r.Header.Get("Sec-WebSocket-Key")), strings.Join(append(fields, ""), "\r\n"))
		_ = rw.Flush()
		tcp, _ := c.(*net.TCPConn)
		serve(tcp, rw.Reader)
	}
}

// echo sends every message back, and answers a close with a close.
func echo(c *net.TCPConn, in *bufio.Reader) {
	for {
		op, payload, err := readFrame(in)
		if err != nil {
			return
		}
		_, _ = c.Write(frame(op, false, payload))
		if op == opClose {
			return
		}
	}
}

// door is a server whose WebSockets are passed through to a pool's targets.
type door struct {
	t      *testing.T
	addr   string
	pool   *upstream.Pool
	seats  *seats
	cancel context.CancelFunc // of every request
	wrap   func(http.ResponseWriter) http.ResponseWriter
	errs   chan error // what Upgrade returned
	events chan upstream.Event
}

func newDoor(t *testing.T, o upstream.Options, targets ...string) *door {
	t.Helper()
	d := &door{t: t, seats: &seats{}, errs: make(chan error, 100), events: make(chan upstream.Event, 100)}
	for _, url := range targets {
		o.Targets = append(o.Targets, upstream.Target{URL: url})
	}
	o.Observe = func(e upstream.Event) { d.events <- e }
	d.pool = newPool(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	d.cancel = cancel
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "r1")
		upgrade := upstream.IsWebSocket(r)
		upstream.RemoveHopByHop(r.Header)
		r = r.WithContext(ctx)
		if !upgrade {
			d.pool.ServeHTTP(w, r)
			return
		}
		if d.wrap != nil {
			w = d.wrap(w)
		}
		err := d.pool.Upgrade(w, r, upstream.Call{Seat: d.seats.at(0)})
		d.errs <- err
		if p, ok := errors.AsType[*weir.Problem](err); ok {
			p.ServeHTTP(w, r)
		} else if err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(func() { cancel(); s.Close() })
	d.addr = s.Listener.Addr().String()
	return d
}

const handshake = "GET /chat?x=1 HTTP/1.1\r\nHost: api.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + someKey + "\r\nSec-WebSocket-Protocol: chat\r\n"

// open sends a handshake and what goes with it, and returns the answer's head.
func (d *door) open(request string) (*net.TCPConn, *bufio.Reader, *http.Response) {
	d.t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(c, request)
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, &http.Request{Method: "GET"})
	if err != nil {
		d.t.Fatal(err)
	}
	tcp, _ := c.(*net.TCPConn)
	return tcp, in, resp
}

// ended waits for the end of one socket.
func (d *door) ended(result string) (upstream.Event, error) {
	d.t.Helper()
	e, err := <-d.events, <-d.errs
	if e.Result != result || d.pool.InFlight() != 0 {
		d.t.Errorf("%+v, %v, and %d in flight: want %s", e, err, d.pool.InFlight(), result)
	}
	return e, err
}

func TestAWebSocketIsPassedThrough(t *testing.T) {
	var got http.Header
	var uri string
	s := switches(func(c *net.TCPConn, in *bufio.Reader) {
		_, _ = c.Write(frame(opText, false, []byte("hello")))
		echo(c, in)
	}, "Sec-WebSocket-Protocol: chat", "Keep-Alive: timeout=5", "X-Theirs: 1")
	target := backend(t, func(w http.ResponseWriter, r *http.Request) {
		got, uri = r.Header.Clone(), r.RequestURI
		s(w, r)
	})
	d := newDoor(t, upstream.Options{SetHeaders: map[string]string{"Authorization": "Bearer ours"}}, target+"/base")
	// The first frame comes right behind the head.
	c, in, resp := d.open(handshake + "Authorization: Bearer client's\r\nKeep-Alive: 1\r\n\r\n" + string(frame(opText, true, []byte("early"))))
	if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != acceptKey(someKey) || resp.Header.Get("X-Request-Id") != "r1" ||
		resp.Header.Get("X-Theirs") != "1" || resp.Header.Get("Keep-Alive") != "" || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if uri != "/base/chat?x=1" || got.Get("Authorization") != "Bearer ours" || got.Get("Sec-WebSocket-Key") != someKey || got.Get("Keep-Alive") != "" ||
		got.Get("Upgrade") != "websocket" || got.Get("Connection") != "Upgrade" || got.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("%s %v", uri, got)
	}
	expect := func(want []byte) {
		t.Helper()
		op, payload, err := readFrame(in)
		if err != nil || op != opText || !bytes.Equal(payload, want) {
			t.Fatalf("frame %d of %d bytes, %v: want %d bytes", op, len(payload), err, len(want))
		}
	}
	expect([]byte("hello"))
	expect([]byte("early"))
	for _, size := range []int{0, 1, 125, 126, 1 << 16, 4 << 20} { // no message is too long
		message := bytes.Repeat([]byte("x"), size)
		go func() { _, _ = c.Write(frame(opText, true, message)) }()
		expect(message)
	}
	d.seats.counts(t, 1, 0)
	_, _ = c.Write(frame(opClose, true, []byte{3, 232}))
	if op, _, err := readFrame(in); op != opClose || err != nil {
		t.Errorf("frame %d, %v", op, err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after the close: %v", err)
	}
	_ = c.Close()
	if e, err := d.ended(upstream.ResultOK); err != nil || e.Status != 101 || e.Attempt != 1 || e.Total < e.FirstByte {
		t.Errorf("%+v %v", e, err)
	}
	d.seats.check(t, 1)
}

// hijacks says on whose account it is when its connection is taken over.
type hijacks struct{ http.ResponseWriter }

func (w hijacks) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, in, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		h := w.Header()
		delete(h, "X-Ratelimit-Remaining")
		h["Server-Timing"] = append([]string{"ours"}, h["Server-Timing"]...)
	}
	return conn, in, err
}

func TestWhatIsSaidHereOfASocketWins(t *testing.T) {
	target := backend(t, switches(echo, "X-Request-Id: theirs", "RateLimit: theirs", "X-RateLimit-Remaining: 9", "Server-Timing: theirs", "X-Theirs: 1", "Content-Length: 7"))
	d := newDoor(t, upstream.Options{}, target)
	d.wrap = func(w http.ResponseWriter) http.ResponseWriter {
		w.Header()["Ratelimit"] = []string{"ours"}
		return hijacks{w}
	}
	_, _, resp := d.open(handshake + "\r\n")
	want := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": {acceptKey(someKey)},
		"X-Request-Id": {"r1"}, "Ratelimit": {"ours"}, "Server-Timing": {"ours", "theirs"}, "X-Theirs": {"1"},
	}
	if resp.StatusCode != 101 || fmt.Sprint(resp.Header) != fmt.Sprint(want) {
		t.Errorf("%d\n got %v\nwant %v", resp.StatusCode, resp.Header, want)
	}
}

func TestHalfOfASocketMayEndFirst(t *testing.T) {
	t.Run("the client's: the target's goes on", func(t *testing.T) {
		target := backend(t, switches(func(c *net.TCPConn, in *bufio.Reader) {
			sent, _ := io.ReadAll(in) // up to the client's end
			_, _ = c.Write(append([]byte("got "), sent...))
		}))
		d := newDoor(t, upstream.Options{}, target)
		c, in, _ := d.open(handshake + "\r\n")
		_, _ = c.Write([]byte("all"))
		_ = c.CloseWrite()
		if b, err := io.ReadAll(in); string(b) != "got all" || err != nil {
			t.Errorf("%q %v", b, err)
		}
		if _, err := d.ended(upstream.ResultOK); err != nil {
			t.Error(err)
		}
		d.seats.check(t, 1)
	})
	t.Run("the target's: what the client still has to say arrives", func(t *testing.T) {
		got := make(chan string, 1)
		target := backend(t, switches(func(c *net.TCPConn, in *bufio.Reader) {
			_ = c.CloseWrite()
			b, _ := io.ReadAll(in)
			got <- string(b)
		}))
		for {
			d := newDoor(t, upstream.Options{}, target)
			began := time.Now()
			c, in, _ := d.open(handshake + "\r\n")
			if _, err := in.ReadByte(); err != io.EOF {
				t.Error(err)
			}
			_, _ = c.Write([]byte("late"))
			_ = c.Close()
			slow := time.Since(began) > 900*time.Millisecond // a second of silence ends it
			b := <-got
			if slow {
				<-d.events
				continue
			}
			if b != "late" {
				t.Errorf("the target got %q", b)
			}
			if _, err := d.ended(upstream.ResultOK); err != nil {
				t.Error(err)
			}
			d.seats.check(t, 1)
			break
		}
	})
	t.Run("a client that is silent for a second after its target's end is closed", func(t *testing.T) {
		left := make(chan struct{})
		target := backend(t, switches(func(c *net.TCPConn, in *bufio.Reader) {
			_ = c.CloseWrite()
			_, _ = io.ReadAll(in)
			close(left)
		}))
		d := newDoor(t, upstream.Options{}, target)
		begin := time.Now()
		d.open(handshake + "\r\n")
		<-left
		if took := time.Since(begin); took < time.Second || took > 30*time.Second {
			t.Errorf("closed after %v", took)
		}
		_, _ = d.ended(upstream.ResultTimeout)
		d.seats.check(t, 1)
	})
}

func TestASocketThatBreaksEndsOnBothSides(t *testing.T) {
	gone := make(chan error, 1)
	waits := switches(func(_ *net.TCPConn, in *bufio.Reader) {
		_, err := in.ReadByte()
		gone <- err
	})
	for _, c := range []struct {
		name   string
		target http.HandlerFunc
		breaks func(d *door, client *net.TCPConn)
		result string
		fails  bool
	}{
		{"by its client", waits, func(_ *door, client *net.TCPConn) { _ = client.SetLinger(0); _ = client.Close() }, upstream.ResultCancelled, false},
		{"by its target", switches(func(c *net.TCPConn, _ *bufio.Reader) { _ = c.SetLinger(0); _ = c.Close(); gone <- nil }), func(*door, *net.TCPConn) {}, upstream.ResultCut, true},
		{"by its context", waits, func(d *door, _ *net.TCPConn) { d.cancel() }, upstream.ResultCancelled, false},
		{"by Close, which waits for it", waits, func(d *door, _ *net.TCPConn) {
			d.pool.Close()
			d.seats.check(d.t, 1)
		}, upstream.ResultCancelled, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoor(t, upstream.Options{Breaker: upstream.Breaker{Failures: 1}}, backend(t, c.target))
			client, in, _ := d.open(handshake + "\r\n")
			c.breaks(d, client)
			begin := time.Now()
			<-gone
			_, err := d.ended(c.result)
			if took := time.Since(begin); took > 30*time.Second || (err != nil) != c.fails {
				t.Errorf("%v after %v", err, took)
			}
			if _, err := in.ReadByte(); err == nil {
				t.Error("the client's connection goes on")
			}
			if open := d.pool.Open(0, time.Now()); open == c.fails {
				t.Errorf("the target is open: %t", open)
			}
			d.seats.check(t, 1)
		})
	}
	t.Run("one that is silent is ended after the total, one that is not goes on", func(t *testing.T) {
		synctest.Test(t, silentSocket)
	})
	t.Run("a client that takes nothing is ended, too", func(t *testing.T) {
		d := newDoor(t, upstream.Options{Timeouts: upstream.Timeouts{Total: 300 * time.Millisecond}}, backend(t, switches(func(c *net.TCPConn, _ *bufio.Reader) {
			for {
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		})))
		d.open(handshake + "\r\n")
		_, _ = d.ended(upstream.ResultTimeout)
		d.seats.check(t, 1)
	})
}

func TestAnUpgradeThatIsRefused(t *testing.T) {
	ask := func(t *testing.T, h http.HandlerFunc) (*door, int, string) {
		d := newDoor(t, upstream.Options{Retry: upstream.Retry{Attempts: 1}}, backend(t, h))
		_, _, resp := d.open(handshake + "\r\n")
		status, body := read(t, resp, nil)
		return d, status, body
	}
	t.Run("another answer is passed on", func(t *testing.T) {
		for _, status := range []int{200, 403, 426, 500} {
			d, got, body := ask(t, says(status))
			if _, err := d.ended(upstream.ResultOK); got != status || body != fmt.Sprint("says ", status) || err != nil {
				t.Errorf("%d %q %v", got, body, err)
			}
			d.seats.check(t, 1)
		}
	})
	for name, fields := range map[string]string{
		"another protocol":      "Connection: Upgrade\r\nUpgrade: h2c\r\n",
		"more than one":         "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
		"none":                  "Connection: Upgrade\r\n",
		"not on the connection": "Connection: close\r\nUpgrade: websocket\r\n",
	} {
		t.Run("a switch to what was not asked for is 502: "+name, func(t *testing.T) {
			d, status, body := ask(t, func(w http.ResponseWriter, _ *http.Request) {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+fields+"\r\n")
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
			if _, err := d.ended(upstream.ResultCut); status != 502 || !strings.Contains(body, "broke off") || err == nil {
				t.Errorf("%d %s %v", status, body, err)
			}
			d.seats.check(t, 1)
		})
	}
	t.Run("where the server cannot give its connection away the target is let go", func(t *testing.T) {
		closed := make(chan struct{})
		s := &seats{}
		pool := newPool(t, upstream.Options{Targets: []upstream.Target{{URL: backend(t, switches(func(_ *net.TCPConn, in *bufio.Reader) {
			_, _ = in.ReadByte()
			close(closed)
		}))}}})
		w := httptest.NewRecorder()
		w.Header().Set("X-Ours", "1")
		err := pool.Upgrade(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), upstream.Call{Seat: s.at(0)})
		if p, ok := errors.AsType[*weir.Problem](err); !ok || !errors.Is(p, http.ErrNotSupported) || fmt.Sprint(w.Header()) != "map[X-Ours:[1]]" {
			t.Errorf("%v, with the fields %v of an answer that nobody gets", err, w.Header())
		}
		<-closed
		s.check(t, 1)
	})
	t.Run("to one target there are no more sockets than connections", func(t *testing.T) {
		d := newDoor(t, upstream.Options{MaxConnections: 2}, backend(t, switches(echo)))
		first, _, _ := d.open(handshake + "\r\n")
		d.open(handshake + "\r\n")
		_, _, resp := d.open(handshake + "\r\n")
		if status, body := read(t, resp, nil); status != 503 || !strings.Contains(body, `Upstream \"llm\" has as many sockets open as it may.`) || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%d %s", status, body)
		}
		if e := <-d.events; e.Result != upstream.ResultBusy || <-d.errs == nil {
			t.Errorf("%+v", e)
		}
		resp, err := client(t).Get("http://" + d.addr) // other requests have connections of their own
		if status, _ := read(t, resp, err); status != 200 {
			t.Errorf("%d", status)
		}
		<-d.events
		_ = first.Close()
		if e := <-d.events; e.Status != 101 {
			t.Errorf("%+v", e)
		}
		if _, _, resp := d.open(handshake + "\r\n"); resp.StatusCode != 101 {
			t.Errorf("%d although one was closed", resp.StatusCode)
		}
	})
}

func TestAnUpgradeGoesToATargetThatIsThere(t *testing.T) {
	d := newDoor(t, upstream.Options{Balance: "round_robin"}, refused(t), backend(t, switches(echo)))
	c, in, resp := d.open(handshake + "\r\n")
	_, _ = c.Write(frame(opText, true, []byte("x")))
	if _, payload, err := readFrame(in); resp.StatusCode != 101 || string(payload) != "x" || err != nil {
		t.Errorf("%d %q %v", resp.StatusCode, payload, err)
	}
	_ = c.Close()
	if e := <-d.events; e.Result != upstream.ResultConnect || !e.Retried {
		t.Errorf("%+v", e)
	}
	if e, _ := d.ended(upstream.ResultOK); e.Attempt != 2 {
		t.Errorf("%+v", e)
	}
}

func TestOnlyWebSocketsAreUpgraded(t *testing.T) {
	var mu sync.Mutex
	var got []string
	target := backend(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprint(r.Header["Connection"], r.Header["Upgrade"], r.Header["Http2-Settings"]))
	})
	d := newDoor(t, upstream.Options{}, target)
	for name, request := range map[string]string{
		"h2c":                "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
		"h2c besides":        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
		"h2c in a field":     "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
		"POST":               "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
		"not the connection": "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.0":           "GET / HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	} {
		_, _, resp := d.open(request)
		if status, _ := read(t, resp, nil); status != 200 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if want := slices.Repeat([]string{"[] [] []"}, 6); !slices.Equal(got, want) {
		t.Errorf("the target got %v", got)
	}
	for _, fields := range []http.Header{
		{"Connection": {"upgrade"}, "Upgrade": {"WebSocket"}},
		{"Connection": {"keep-alive", "x, UPGRADE"}, "Upgrade": {"websocket"}},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = fields
		if !upstream.IsWebSocket(r) {
			t.Errorf("%v is none", fields)
		}
		r.ProtoMajor, r.ProtoMinor = 2, 0
		if upstream.IsWebSocket(r) {
			t.Error("HTTP/2 has no upgrade")
		}
	}
}
