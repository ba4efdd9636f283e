package admin_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// once is a listener of one connection.
type once struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *once) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *once) Close() error   { close(l.done); return nil }
func (l *once) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// here is a connection from this machine.
type here struct{ net.Conn }

func (here) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000} }

func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, twoPlans, "")
		l := &once{make(chan net.Conn, 1), make(chan struct{})}
		server := &http.Server{Handler: o.handler}
		ended := make(chan struct{})
		go func() { _ = server.Serve(l); close(ended) }()
		client, accepted := net.Pipe()
		l.conns <- here{accepted}
		begun := time.Now()
		_, _ = io.WriteString(client, "PATCH /api/v1/plans/pro HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, [3]any{resp.StatusCode, resp.Close, time.Since(begun)}, [3]any{400, true, 10 * time.Second})
		_ = resp.Body.Close()
		_ = client.Close()
		_ = server.Close()
		<-ended
		_ = o.gateway.Close(t.Context())
	})
}
