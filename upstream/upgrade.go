package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir"
)

// websocket is the one protocol that is switched to.
const websocket = "websocket"

// IsWebSocket reports whether in asks to switch to WebSocket (RFC 6455, section
// 4.1). Ask before RemoveHopByHop, which removes the fields that say so. A request
// that offers other protocols too is none: they must not go upstream.
func IsWebSocket(in *http.Request) bool {
	return in.Method == http.MethodGet && in.ProtoMajor == 1 && in.ProtoMinor >= 1 && switchesToWebSocket(in.Header)
}

func switchesToWebSocket(h http.Header) bool {
	asked := slices.ContainsFunc(h["Connection"], func(line string) bool {
		for name := range splitList(line) {
			if strings.EqualFold(name, "Upgrade") {
				return true
			}
		}
		return false
	})
	return asked && len(h["Upgrade"]) == 1 && strings.EqualFold(h["Upgrade"][0], websocket)
}

// Upgrade passes a WebSocket through: it sends in as Send does, and where the
// target switches protocols it takes the client's connection over and passes on
// what comes from either side until one closes. Where the target answers otherwise
// that answer is passed on. That in asks for a WebSocket, and may, is for the caller
// to check, with IsWebSocket.
//
// What w.Header has by then wins over what the target says. Its Hijack finds the
// target's other fields in w.Header, as WriteHeader does in Relay, and may change
// them: what it leaves there is what the client gets.
//
// The seat is kept until the socket is closed. Timeouts.Total bounds the wait for
// the switch, and then the time in which neither side sends anything; where one side
// has ended its part, Timeouts.BetweenBytes does. The context of in and Close end it
// at once. To one target there are at most Options.MaxConnections sockets, beside
// the connections of other requests.
//
// After an error that is a *weir.Problem, and after one of the context before the
// switch, nothing was written to w. After any other the client's copy of an answer
// is incomplete or its connection is closed: panic(http.ErrAbortHandler). The end of
// a socket is no error unless the target broke it off; its Event says all.
func (p *Pool) Upgrade(w http.ResponseWriter, in *http.Request, c Call) error {
	r := p.newRequest(in.Context(), in, c)
	r.upgrade = true
	resp, err := r.send()
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return p.Relay(w, resp, Ahead{})
	}
	b, ok := resp.Body.(*body)
	if !ok { // not so as long as send returns it
		return errUnasked
	}
	target, ok := b.ReadCloser.(io.ReadWriteCloser)
	if !ok {
		_ = b.Close()
		return b.exchange.broken(errUnasked)
	}
	r.total.Stop() // a socket may live for long
	b.exchange.watch.Stop()
	if !p.enter() {
		_ = b.Close()
		return b.exchange.broken(errPoolClosed)
	}
	defer p.leave()
	added := addFields(w.Header(), resp.Header)
	client, ahead, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = b.Close()
		for _, name := range added { // the answer is another
			delete(w.Header(), name)
		}
		return &weir.Problem{Detail: "This connection cannot become a WebSocket.", Err: err}
	}
	s := &socket{exchange: b.exchange, client: client, ahead: ahead, target: target}
	return s.run(head(w.Header()))
}

func (x *exchange) broken(err error) *weir.Problem {
	return &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("Upstream %q broke off.", x.pool.options.Name), Err: err}
}

// addFields adds theirs to ours, without those that ours has, and returns the names
// of what it added.
func addFields(ours, theirs http.Header) (added []string) {
	for name, values := range theirs {
		if _, ok := ours[name]; !ok {
			ours[name] = values
			added = append(added, name)
		}
	}
	return added
}

// head is the answer that switches protocols, with these fields.
func head(fields http.Header) []byte {
	h := fields.Clone()
	for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer"} {
		delete(h, name) // there is no body
	}
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{websocket}
	var text bytes.Buffer
	text.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&text) // a Buffer takes all
	text.WriteString("\r\n")
	return text.Bytes()
}

// lingerFor is how long a client may be silent that was told that its target has
// ended.
const lingerFor = time.Second

// socket is a connection of a client and one to a target that have become one.
type socket struct {
	exchange *exchange
	client   net.Conn
	ahead    io.Reader // from client: what the server had read of it comes first
	target   io.ReadWriteCloser

	mu    sync.Mutex
	idle  *time.Timer   // guarded by mu, as limit
	limit time.Duration // of silence
}

// run answers the client and passes everything on until both sides have ended or
// one broke off. It returns when both are closed.
func (s *socket) run(head []byte) error {
	x := s.exchange
	x.streaming.Store(true)
	s.limit = x.pool.options.Timeouts.Total
	s.idle = time.AfterFunc(s.limit, func() { x.cancel(errTotal) })
	defer s.idle.Stop()
	stop := context.AfterFunc(x.pool.closing, func() { x.cancel(errPoolClosed) })
	defer stop()
	closed := make(chan struct{})
	context.AfterFunc(x.ctx, func() {
		defer close(closed)
		_ = s.client.Close()
		_ = s.target.Close()
	})

	_ = s.client.SetDeadline(time.Time{}) // the server's was for a request
	if _, err := s.client.Write(head); err != nil {
		x.cancel(errLeft)
	} else {
		var up sync.WaitGroup
		up.Go(func() { s.pass(s.target, s.ahead, way{reads: errLeft, writes: errBroken}) })
		s.pass(s.client, s.target, way{reads: errBroken, writes: errLeft, linger: lingerFor})
		up.Wait()
		x.cancel(errEnded) // where nothing else did before
	}
	<-closed
	switch cause := context.Cause(x.ctx); cause {
	case errEnded:
		x.end(ResultOK, nil)
		return nil
	case errBroken:
		_ = x.fail(cause)
		return fmt.Errorf("upstream %s: %w", x.pool.options.Name, cause)
	default:
		_ = x.fail(cause) // the Event says it
		return nil
	}
}

// way is one direction of a socket: why it is given up when it cannot be read or
// written, and for how long the other may be silent when this one has ended.
type way struct {
	reads, writes error
	linger        time.Duration // 0: Timeouts.BetweenBytes
}

// pass copies what comes from one side to the other until it ends, and tells the
// other that it has.
func (s *socket) pass(to io.Writer, from io.Reader, w way) {
	x := s.exchange
	buf := x.pool.buffer()
	defer x.pool.buffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			s.alive(0)
			if _, err := to.Write(buf[:n]); err != nil {
				x.cancel(w.writes)
				return
			}
			s.alive(0)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			x.cancel(w.reads)
			return
		}
	}
	half, ok := to.(interface{ CloseWrite() error })
	if !ok || errors.Is(half.CloseWrite(), http.ErrNotSupported) {
		x.cancel(errEnded)
		return
	}
	limit := x.pool.options.Timeouts.BetweenBytes
	if w.linger > 0 {
		limit = min(limit, w.linger)
	}
	s.alive(limit)
}

// alive notes that something moved. From then on the silence is bound by limit,
// unless that is 0.
func (s *socket) alive(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 {
		s.limit = min(s.limit, limit)
	}
	s.idle.Reset(s.limit)
}
