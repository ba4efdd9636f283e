package upstream_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/inferweir/weir/upstream"
)

// silentSocket passes through a socket that is silent only after a while.
func silentSocket(t *testing.T) {
	const total = 300 * time.Millisecond
	var events []upstream.Event
	target := &piped{}
	pool := newPool(t, upstream.Options{
		Targets:  []upstream.Target{{URL: "a", Transport: target}},
		Timeouts: upstream.Timeouts{Total: total}, Breaker: upstream.Breaker{Failures: 1},
		Observe: func(e upstream.Event) { events = append(events, e) },
	})
	client, server := net.Pipe()
	s := &seats{}
	ended := make(chan error, 1)
	go func() {
		in := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		ended <- pool.Upgrade(gives{httptest.NewRecorder(), server}, in, upstream.Call{Seat: s.at(0)})
	}()
	in := bufio.NewReader(client)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	begin := time.Now()
	for time.Since(begin) < 3*total {
		time.Sleep(20 * time.Millisecond)
		for _, way := range []struct {
			from net.Conn
			to   io.Reader
		}{{client, target.conn}, {target.conn, in}} {
			go func() { _, _ = way.from.Write([]byte("x")) }()
			if _, err := io.ReadFull(way.to, make([]byte, 1)); err != nil {
				t.Fatalf("after %v: %v", time.Since(begin), err)
			}
		}
	}
	silent := time.Now()
	if _, err := in.ReadByte(); err == nil || time.Since(silent) != total {
		t.Errorf("after %v of silence: %v", time.Since(silent), err)
	}
	if err := <-ended; err != nil || len(events) != 1 || events[0].Result != upstream.ResultTimeout || pool.InFlight() != 0 {
		t.Errorf("%v, %+v, and %d in flight", err, events, pool.InFlight())
	}
	if !pool.Open(0, time.Now()) {
		t.Error("silence counts against the target")
	}
	s.check(t, 1)
}

// piped is a target that switches protocols, in this process.
type piped struct {
	conn net.Conn // the target's end
}

func (p *piped) RoundTrip(r *http.Request) (*http.Response, error) {
	var ours net.Conn
	p.conn, ours = net.Pipe()
	return &http.Response{
		StatusCode: http.StatusSwitchingProtocols, Request: r, Body: ours,
		Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}},
	}, nil
}

// gives is a server's answer whose connection can be taken over.
type gives struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (w gives) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}
