package main

import (
	"net"
	"sync"
	"time"
)

// A listener that can stop to listen for a while, as if the process were gone: then
// nobody has the port, and who connects is refused.
type listener struct {
	addr   net.Addr
	opened func() // called before it listens again; must not call back

	mu      sync.Mutex
	now     net.Listener // nil while nobody listens
	closed  bool
	changed chan struct{} // closed when now or closed change
	timer   *time.Timer
}

func listen(addr string, opened func()) (*listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &listener{addr: l.Addr(), opened: opened, now: l, changed: make(chan struct{})}, nil
}

// Addr is the same all the time.
func (l *listener) Addr() net.Addr { return l.addr }

// Accept waits also while nobody listens.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		now, closed, changed := l.now, l.closed, l.changed
		l.mu.Unlock()
		switch {
		case closed:
			return nil, net.ErrClosed
		case now == nil:
			<-changed
			continue
		}
		conn, err := now.Accept()
		l.mu.Lock()
		same := l.now == now
		l.mu.Unlock()
		if err == nil || same {
			return conn, err
		}
	}
}

// refuse closes the port for so long; during a refusal it does nothing.
func (l *listener) refuse(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.now == nil {
		return
	}
	_ = l.now.Close() // it is gone in any case
	l.setLocked(nil)
	l.timer = time.AfterFunc(d, l.open)
}

// open listens again. Where another process took the port it tries again.
func (l *listener) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.now != nil {
		return
	}
	l.opened()
	next, err := net.Listen("tcp", l.addr.String())
	if err != nil {
		const again = 100 * time.Millisecond
		l.timer = time.AfterFunc(again, l.open)
		return
	}
	l.setLocked(next)
}

func (l *listener) setLocked(now net.Listener) {
	l.now = now
	close(l.changed)
	l.changed = make(chan struct{})
}

// Close ends Accept.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	var err error
	if l.now != nil {
		err = l.now.Close()
	}
	l.setLocked(nil)
	return err
}
