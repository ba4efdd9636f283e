package upstream_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/upstream"
)

func TestFailures(t *testing.T) {
	// raw serves each connection with h, which owns it.
	raw := func(t *testing.T, h func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				h(c)
				_ = c.Close()
			}
		})
		t.Cleanup(func() { _ = l.Close(); wg.Wait() })
		return "http://" + l.Addr().String()
	}
	t.Run("a target that is not there is 502, and its address stays ours", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		gone := "http://" + l.Addr().String()
		_ = l.Close()
		url, events := front(t, upstream.Options{}, gone)
		resp, err := client(t).Get(url)
		code, body := read(t, resp, err)
		if code != 502 || !strings.Contains(body, `Upstream \"llm\" cannot be reached.`) || strings.Contains(body, "127.0.0.1") {
			t.Errorf("%d %s", code, body)
		}
		if e := events(); e[0].Result != "connect" || e[0].Err == nil {
			t.Errorf("%+v", e)
		}
	})
	t.Run("a request that was written is not sent again", func(t *testing.T) {
		var seen atomic.Int64
		target := raw(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				seen.Add(1)
			}
		})
		url, _ := front(t, upstream.Options{}, target)
		for _, method := range []string{"POST", "PATCH"} {
			seen.Store(0)
			r, _ := http.NewRequest(method, url, strings.NewReader("{}"))
			r.Header.Set("Idempotency-Key", "1")
			if code, _ := read2(t, client(t), r); code != 502 || seen.Load() != 1 {
				t.Errorf("%s: %d after %d attempts", method, code, seen.Load())
			}
		}
	})
	for name, answer := range map[string]string{
		"a short length":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
		"a broken chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nzz\r\n",
		"a missing chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
	} {
		t.Run("a cut answer does not end cleanly: "+name, func(t *testing.T) {
			target := raw(t, func(c net.Conn) {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				_, _ = io.WriteString(c, answer)
			})
			url, events := front(t, upstream.Options{}, target)
			resp, err := client(t).Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if string(b) != "only this" || err == nil {
				t.Errorf("the client read %q and %v", b, err)
			}
			if e := events(); e[0].Result != "cut" {
				t.Errorf("%+v", e)
			}
		})
	}
	for name, answer := range map[string]string{
		"nonsense":                  "hello\r\n\r\n",
		"a head without end":        "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 300<<10),
		"a switch nobody asked for": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
	} {
		t.Run("an answer that is none is 502: "+name, func(t *testing.T) {
			target := raw(t, func(c net.Conn) {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				_, _ = io.WriteString(c, answer)
			})
			url, _ := front(t, upstream.Options{}, target)
			resp, err := client(t).Get(url)
			if code, body := read(t, resp, err); code != 502 || !strings.Contains(body, "broke off") {
				t.Errorf("%d %s", code, body)
			}
		})
	}
	t.Run("busy connections are 503 with a time to come back", func(t *testing.T) {
		target := backend(t, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				<-time.After(20 * time.Millisecond)
			}
		})
		url, events := front(t, upstream.Options{MaxConnections: 1, Timeouts: upstream.Timeouts{FirstByte: 200 * time.Millisecond}}, target)
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		var wg sync.WaitGroup
		before := 0
		for held := false; !held; {
			r, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
			resp, err := client(t).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if held = resp.StatusCode == 200; !held { // a busy machine may need longer than 200ms
				_ = resp.Body.Close()
				before = len(events())
				continue
			}
			wg.Go(func() {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			})
		}
		resp, err := client(t).Get(url)
		if code, body := read(t, resp, err); code != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, "were busy for 200ms") {
			t.Errorf("%d %v %s", code, resp.Header, body)
		}
		leave()
		wg.Wait()
		var results []string
		for _, e := range events()[before:] {
			results = append(results, e.Result)
		}
		if !slices.Equal(results, []string{"busy", "cancelled"}) {
			t.Errorf("results %v", results)
		}
	})
}

func TestAPostIsNotSentAgainForItsIdempotencyKey(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var posts atomic.Int64
	var key atomic.Value
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if r.Method == "POST" { // dies while it works
						posts.Add(1)
						key.Store(r.Header.Get("Idempotency-Key"))
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	url, _ := front(t, upstream.Options{}, "http://"+l.Addr().String())
	c := client(t)
	resp, err := c.Get(url) // so that the POST goes out on a connection that is used again
	read(t, resp, err)
	r, _ := http.NewRequest("POST", url, nil)
	r.Header.Set("Idempotency-Key", "k")
	if code, _ := read2(t, c, r); code != 502 || posts.Load() != 1 || key.Load() != "k" {
		t.Errorf("%d after %d attempts with key %q", code, posts.Load(), key.Load())
	}
}
