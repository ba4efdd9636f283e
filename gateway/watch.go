package gateway

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// The server notices a client that leaves by reading from its connection while its
// request is served. It stops at the first byte that comes, for that may be of the
// next request: a line end too many after a body, or the first frame of a WebSocket,
// and whoever then leaves is not missed until something is written to him. So where
// the system tells it, the connections of requests that take their time are looked
// at, too.

// lookEvery is the time between two looks. A client is looked at from the second
// on, so that a short request costs no call of the system, and one that leaves is
// noticed within twice this.
const lookEvery = 40 * time.Millisecond

// lookPart bounds the time that looking takes to one part in so many: with very many
// clients the looks become rarer.
const lookPart = 10

// watcher looks for clients that have left. It has a goroutine only while there is
// somebody to look at.
type watcher struct {
	done   chan struct{} // closed by close
	rounds sync.WaitGroup

	mu      sync.Mutex // guards all below, and the places of clients
	clients []*client  // each has a request under way
	running bool
	closed  bool
}

func newWatcher() *watcher { return &watcher{done: make(chan struct{})} }

// client is a connection of HTTP/1, which has one request at a time.
type client struct {
	watcher *watcher
	conn    *net.TCPConn
	raw     syscall.RawConn
	leave   context.CancelFunc // ends the context of the connection's requests

	place int  // in the watcher's list, from 1; 0: it is not there
	old   bool // it was there a look ago
}

// clientKey is of the client in the context of its requests.
type clientKey struct{}

// connContext is for http.Server: it puts the client of a connection into its
// context, which ends when the client has left. Nothing has to be released: unless
// the server has a base context that can end, nothing else knows the new one.
func (w *watcher) connContext(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok { // a *tls.Conn
		conn = secure.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !canLook {
		return ctx
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return ctx // it is closed
	}
	c := &client{watcher: w, conn: tcp, raw: raw}
	ctx, c.leave = context.WithCancel(ctx)
	return context.WithValue(ctx, clientKey{}, c)
}

// watch has the request's context end when its client leaves, whatever it has sent
// before. It is for requests that have to wait, and ends with unwatch.
func (x *exchange) watch() {
	if x.r.ProtoMajor != 1 {
		return // from HTTP/2 the server reads on and on
	}
	if c, ok := x.r.Context().Value(clientKey{}).(*client); ok && c.watcher.add(c) {
		x.client = c
	}
}

// unwatch ends what watch began.
func (x *exchange) unwatch() {
	if x.client != nil {
		x.client.watcher.remove(x.client)
		x.client = nil
	}
}

// add reports whether c is new here: a handler within a handler has the same.
func (w *watcher) add(c *client) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || c.place > 0 {
		return false
	}
	w.clients = append(w.clients, c)
	c.place, c.old = len(w.clients), false
	if !w.running {
		w.running = true
		w.rounds.Go(w.run)
	}
	return true
}

// remove reports whether c was here.
func (w *watcher) remove(c *client) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.place == 0 {
		return false
	}
	last := len(w.clients) - 1
	moved := w.clients[last]
	w.clients[c.place-1], moved.place = moved, c.place
	w.clients[last] = nil
	w.clients, c.place = w.clients[:last], 0
	return true
}

// run looks until there is nobody left to look at.
func (w *watcher) run() {
	hasLeft, pause := newLook(), time.NewTimer(lookEvery)
	defer pause.Stop()
	var due []*client
	for {
		select {
		case <-w.done:
			return
		case <-pause.C:
		}
		begin, any := time.Now(), false
		if due, any = w.due(due[:0]); !any {
			return
		}
		for _, c := range due {
			// A request that has ended meanwhile needs no end, and a socket that was
			// taken over is not the server's.
			if hasLeft(c) && w.remove(c) {
				c.leave()
			}
		}
		clear(due)
		pause.Reset(max(lookEvery, lookPart*time.Since(begin)))
	}
}

// due appends the clients that are to be looked at now. Where there are none at all
// it ends the goroutine.
func (w *watcher) due(list []*client) (due []*client, any bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.clients {
		if c.old {
			list = append(list, c)
		}
		c.old = true
	}
	w.running = len(w.clients) > 0
	return list, w.running
}

// close ends the looking, and waits for it. Requests that are under way go on
// without.
func (w *watcher) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.done)
	}
	w.mu.Unlock()
	w.rounds.Wait()
}
