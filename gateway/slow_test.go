package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// pipes is a listener in memory, whose connections know virtual time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// inBubble serves yaml in virtual time; its models answer with the body's length.
func inBubble(t *testing.T, yaml string, test func(dial func() net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := config.Parse("test.yaml", []byte(yaml), nil)
		if err != nil {
			t.Fatal(err)
		}
		g, err := gateway.New(cfg, gateway.Options{Models: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = io.WriteString(w, strings.Repeat("x", len(b)))
			if r.URL.Path == "/panic" {
				panic("boom")
			}
		})})
		if err != nil {
			t.Fatal(err)
		}
		l, server := newPipes(), g.Server()
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.Serve(l) })
		test(l.dial)
		_ = server.Close()
		wg.Wait()
		_ = g.Close(context.Background())
	})
}

const modelsOnly = `
limits: {body_min_rate: 100/s, header_timeout: 5s}
upstreams: {u: {targets: ["builtin:"]}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`

func TestSlowClients(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n"
	t.Run("a body at the minimum rate is read, however long it takes", func(t *testing.T) {
		inBubble(t, modelsOnly, func(dial func() net.Conn) {
			c := dial()
			defer c.Close()
			begin := time.Now()
			go func() {
				_, _ = io.WriteString(c, head)
				for range 20 {
					time.Sleep(time.Second)
					_, _ = c.Write(make([]byte, 100))
				}
			}()
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != 200 || time.Since(begin) != 20*time.Second {
				t.Fatalf("%v after %v: %v", resp, time.Since(begin), err)
			}
			_ = resp.Body.Close()
		})
	})
	t.Run("a body below the minimum rate is 408", func(t *testing.T) {
		inBubble(t, modelsOnly, func(dial func() net.Conn) {
			c := dial()
			defer c.Close()
			begin := time.Now()
			var writer sync.WaitGroup
			defer writer.Wait()
			writer.Go(func() {
				_, _ = io.WriteString(c, head)
				for range 20 {
					time.Sleep(time.Second)
					if _, err := c.Write(make([]byte, 10)); err != nil {
						return
					}
				}
			})
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != 408 || !strings.Contains(string(body), "more slowly than 100 bytes a second") || !resp.Close {
				t.Errorf("%s %s", resp.Status, body)
			}
			// Ten seconds' grace, and a second for each 100 bytes.
			if took := time.Since(begin); took < 10*time.Second || took > 12*time.Second {
				t.Errorf("refused after %v", took)
			}
		})
	})
	t.Run("a refusal does not wait for the body", func(t *testing.T) {
		inBubble(t, strings.Replace(modelsOnly, "/*", "/only", 1), func(dial func() net.Conn) {
			c := dial()
			defer c.Close()
			begin := time.Now()
			go func() { _, _ = io.WriteString(c, head) }()
			in := bufio.NewReader(c)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(resp.Body); resp.StatusCode != 404 || err != nil || time.Since(begin) != 0 {
				t.Errorf("%s after %v, %v", resp.Status, time.Since(begin), err)
			}
			if _, err := in.ReadByte(); err == nil || time.Since(begin) != time.Second {
				t.Errorf("the connection ended after %v: %v", time.Since(begin), err)
			}
		})
	})
	t.Run("a head that does not come is cut off", func(t *testing.T) {
		inBubble(t, modelsOnly, func(dial func() net.Conn) {
			c := dial()
			defer c.Close()
			begin := time.Now()
			go func() { _, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost:") }()
			if _, err := io.ReadAll(c); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
			if took := time.Since(begin); took != 5*time.Second {
				t.Errorf("cut off after %v", took)
			}
		})
	})
	t.Run("a connection that was slow is not late for its next request", func(t *testing.T) {
		inBubble(t, modelsOnly, func(dial func() net.Conn) {
			c := dial()
			defer c.Close()
			in := bufio.NewReader(c)
			for range 2 {
				go func() { _, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab") }()
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(resp.Body); string(b) != "xx" || err != nil {
					t.Fatalf("%q, %v", b, err)
				}
				time.Sleep(30 * time.Second)
			}
		})
	})
}

func TestAModelThatPanics(t *testing.T) {
	inBubble(t, modelsOnly, func(dial func() net.Conn) {
		c := dial()
		defer c.Close()
		go func() { _, _ = io.WriteString(c, "POST /panic HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab") }()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("an answer that a panic broke off ended cleanly with %q", b)
		}
	})
}
