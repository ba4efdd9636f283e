package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// hand is a listener of connections that are handed to it, in memory: a write to one
// waits until it is read, so a client that takes nothing needs no buffers to be full.
type hand struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func newHand() *hand {
	h := &hand{conns: make(chan net.Conn), done: make(chan struct{})}
	h.close = sync.OnceFunc(func() { close(h.done) })
	return h
}

func (h *hand) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *hand) Close() error   { h.close(); return nil }
func (h *hand) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// local is a connection with an address such as others have.
type local struct{ net.Conn }

func (local) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

// stuck sends a request from a client that takes the first byte of its answer, and
// then no more. It returns when that byte is there.
func (w *instance) stuck(on *hand, path, body string, user int) {
	w.t.Helper()
	c, theirs := net.Pipe()
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(eventually))
	on.conns <- local{theirs}
	_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: weir.example\r\nX-Api-Key: weir_u%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, user, len(body), body)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err != nil {
		w.t.Error(err)
	}
}

func TestRegressionWhoTakesNoCommentKeepsNoPlace(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.NewReplacer("DIALECT", "openai", "keepalive_after: 0s", "keepalive_after: 20ms").Replace(narrow), d)
	h, server := newHand(), w.gateway.Server()
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(h) })
	t.Cleanup(func() { _ = server.Close(); wg.Wait() })

	hold := w.later("GET", "/hold", "", of(3)...)
	v := d.next(t)
	next := w.queued(of(2), "/next")[0]
	atOnce(2, func(i int) answer {
		w.stuck(h, chats, `{"model":"m","stream":true,"messages":[{"role":"user","content":"`+strings.Repeat("x", i)+`"}]}`, 4+i)
		return answer{}
	})
	v.ends("x")
	hold.got()
	v = d.next(t)
	var last *request
	waited := took(func() {
		v.ends("x")
		next.got()
		// The place is now one of theirs.
		last = w.later("GET", "/last", "", of(2)...)
		v = d.next(t)
	})
	if v.r.URL.Path != "/last" || waited > 5*time.Second {
		t.Errorf("the upstream was asked for %s, and %v after the place was free", v.r.URL, waited)
	}
	v.ends("x")
	last.got()
	w.isIdle()
	d.nobody(t)
}

// status is that of the answer to a request as it stands here.
func (w *instance) status(request string) int {
	w.t.Helper()
	c, err := net.Dial("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(eventually))
	_, _ = io.WriteString(c, request)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode
}

func TestRegressionAHandshakeHasNoBody(t *testing.T) {
	t.Parallel()
	e := newEar()
	w := before(t, strings.NewReplacer("T0", "T0, T1", "LIMIT", "breaker: {failures: 2, open_for: 1m}").Replace(open), e, e)
	head := "GET /talk HTTP/1.1\r\nHost: weir.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Api-Key: weir_u0\r\n"
	for range 4 {
		for _, body := range []string{"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"} {
			if got := w.status(head + body); got != 400 {
				t.Errorf("%q was answered with %d", body, got)
			}
		}
	}
	if len(e.asked) > 0 || w.total("weir_upstream_targets_closed") > 0 {
		t.Errorf("%d handshakes went upstream, %v targets are closed", len(e.asked), w.total("weir_upstream_targets_closed"))
	}
	if a := w.as(1, "GET", "/x", ""); !a.is(200, "no socket") {
		t.Error(a)
	}
	for _, none := range []string{"Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"} {
		if got := w.status(head + none); got != 101 {
			t.Errorf("%q was answered with %d", none, got)
		}
	}
	w.isIdle()
}

// open is an upstream for sockets without a plan.
const open = `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0], LIMIT, queue: {max_wait: 100ms}}}
routes:
  - {name: talk, match: {path: /talk}, upstream: u, upgrade: [websocket]}
  - {name: all, match: {path: /*}, upstream: u}
`

func TestRegressionSocketsHavePlacesBesideAnAdaptiveLimit(t *testing.T) {
	t.Parallel()
	e := newEar()
	w := before(t, strings.Replace(open, "LIMIT, ", "", 1), e)
	const n = 40
	all := make([]*socket, n)
	for i := range all {
		all[i] = w.shake("/talk", "weir_u1")
		if all[i].status != 101 {
			t.Fatalf("the handshake after %d sockets: %d %v", i, all[i].status, all[i].header)
		}
		if i%5 == 0 {
			if a := w.as(2, "GET", "/x", ""); !a.is(200, "no socket") {
				t.Fatalf("beside %d sockets: %v", i+1, a)
			}
		}
	}
	w.shows(n, "weir_admission_running")
	for _, a := range atOnce(12, func(i int) answer { return w.as(i, "GET", "/x", "") }) {
		if !a.is(200, "no socket") {
			t.Error(a)
		}
	}
	for _, s := range all {
		s.echoes("x")
		_ = s.Close()
	}
	w.isIdle()
}

func TestRegressionSocketsAreBounded(t *testing.T) {
	t.Parallel()
	for limit, most := range map[string]int{"concurrency: {min: 1, max: 5}": 5, "concurrency: 2": 2} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			e := newEar()
			w := before(t, strings.Replace(open, "LIMIT", limit, 1), e)
			for range 2 {
				var all []*socket
				for range most {
					s := w.shake("/talk", "weir_u1")
					if s.status != 101 {
						t.Fatalf("the handshake after %d sockets: %d %v", len(all), s.status, s.header)
					}
					all = append(all, s)
				}
				if s := w.shake("/talk", "weir_u2"); s.status != 503 || s.header.Get("Retry-After") == "" {
					t.Errorf("one socket too many: %d %v", s.status, s.header)
				}
				if a := w.as(2, "GET", "/x", ""); a.status != 503 {
					t.Errorf("a call beside all sockets there may be: %v", a)
				}
				for _, s := range all {
					_ = s.Close()
				}
				w.isIdle()
			}
		})
	}
}

func TestRegressionFollowersOfWhoIsRefusedHaveAppointmentsOfTheirOwn(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0], concurrency: 1, queue: {max: 4, max_wait: 1500ms}}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, share: all, ttl: 1m, only: all}}]
`, d)
	hold := w.later("POST", "/hold", "{}", of(0)...)
	v := d.next(t)
	leader := w.later("POST", "/same", `{"a":1}`, of(1)...)
	w.waits(1)
	var followers []*request
	for _, user := range []int{1, 1, 2, 2, 2, 3} {
		followers = append(followers, w.later("POST", "/same", `{"a":1}`, of(user)...))
	}
	w.serves(8)
	if n := w.total("weir_admission_waiting"); n > 1 {
		t.Errorf("%v wait for a place: want the leader alone", n)
	}
	first := leader.got()
	tickets := map[string]bool{first.header.Get("X-Queue-Ticket"): true}
	if first.status != 503 || tickets[""] {
		t.Errorf("the leader: %v %v", first, first.header)
	}
	for _, q := range followers {
		a := q.got()
		ticket := a.header.Get("X-Queue-Ticket")
		if a.status != 503 || a.header.Get("Retry-After") == "" || ticket == "" || tickets[ticket] {
			t.Errorf("a follower: %v, Retry-After %q, ticket %q of %v", a, a.header.Get("Retry-After"), ticket, tickets)
		}
		tickets[ticket] = true
	}
	v.ends("x")
	hold.got()
	w.isIdle()
	d.nobody(t)
}

// joined is an upstream that takes three calls at once.
const joined = `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0], dialect: tfserving, concurrency: 1, queue: {max: 8, max_wait: 2s}, retry: {attempts: 3, post: true}, breaker: {failures: 0}, batch: {max_size: 3, max_delay: 10s}}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`

// predict sends three calls, which go upstream as one.
func (w *instance) predict(d *desk) (calls []*request, v *visit) {
	w.t.Helper()
	for i := range 3 {
		calls = append(calls, w.later("POST", "/v1/models/m:predict", fmt.Sprintf(`{"instances":[[%d]]}`, i), of(i)...))
		w.serves(i + 1)
	}
	v = d.next(w.t)
	if n := strings.Count(v.body, "[") - 1; n != 3 {
		w.t.Fatalf("the upstream was asked for %s", v.body)
	}
	return calls, v
}

// A call that was joined goes on without the member whose places it asks for.
func TestRegressionAJoinedCallIsSentAgainAfterItsFirstMemberLeft(t *testing.T) {
	t.Parallel()
	t.Run("and is answered", func(t *testing.T) {
		t.Parallel()
		d := newDesk()
		w := before(t, joined, d)
		calls, v := w.predict(d)
		calls[0].leave()
		calls[0].got()
		w.serves(2)
		v.breaks()
		v = d.next(t)
		v.does(func(rw http.ResponseWriter) {
			rw.Header().Set("Content-Type", "application/json")
			say(rw, `{"predictions":[`+strings.TrimSuffix(strings.Repeat("7,", strings.Count(v.body, "[")-1), ",")+`]}`)
		})
		v.ends("")
		for _, q := range calls[1:] {
			if a := q.got(); a.status != 200 || !strings.Contains(a.body, "[7]") {
				t.Error(a)
			}
		}
		w.isIdle()
		d.nobody(t)
	})
	t.Run("or is refused a place", func(t *testing.T) {
		t.Parallel()
		d := newDesk()
		w := before(t, joined, d)
		calls, v := w.predict(d)
		other := w.later("GET", "/other", "", of(9)...)
		w.waits(1)
		calls[0].leave()
		calls[0].got()
		w.serves(3)
		v.breaks()
		v = d.next(t) // which has the place
		if v.r.URL.Path != "/other" {
			t.Fatalf("the upstream was asked for %s", v.r.URL)
		}
		for _, q := range calls[1:] {
			if a := q.got(); a.status != 502 { // as the one attempt that it had ended
				t.Errorf("%v %v", a, a.header)
			}
		}
		v.ends("x")
		if a := other.got(); a.status != 200 {
			t.Error(a)
		}
		w.isIdle()
		d.nobody(t)
	})
}

func TestRegressionWhoHasATimeoutWaitsForAnothersAnswer(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, share: all, ttl: 1m, only: all}}]
`, d)
	ask := func(user int, header ...string) *request {
		return w.later("POST", "/p", `{"q":1}`, append(of(user), header...)...)
	}
	leader := ask(0)
	v := d.next(t)
	var followers []*request
	for i := range 20 {
		followers = append(followers, ask(i, "X-Request-Timeout", "60"))
	}
	w.serves(21)
	if a := ask(1, "X-Request-Timeout", "300ms").got(); a.status != 504 {
		t.Errorf("after its own time: %v", a)
	}
	w.serves(21)
	v.does(func(rw http.ResponseWriter) { rw.Header().Set("Content-Type", "application/json") })
	v.ends(`{"a":1}`)
	for _, q := range append(followers, leader) {
		if a := q.got(); !a.is(200, `{"a":1}`) {
			t.Error(a)
		}
	}
	d.nobody(t)
	w.isIdle()
}

func TestRegressionWhatIsSaidToAnOwnKeyMovesNoLimit(t *testing.T) {
	t.Parallel()
	full := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/own/good" {
			return
		}
		if r.Header.Get("Authorization") != "" {
			w.Header().Set("Retry-After", "3600")
		}
		w.WriteHeader(http.StatusTooManyRequests)
	})
	w := before(t, `
callers: {identify: [ip]}
upstreams:
  u: {targets: [T0], breaker: {failures: 0}, retry: {attempts: 1}, queue: {max_wait: 1h}}
  v: {targets: [T0], breaker: {failures: 0}, retry: {attempts: 1}, queue: {max_wait: 1h}}
routes:
  - {name: own, match: {path: /own/*}, upstream: u}
  - {name: all, match: {path: /*}, upstream: v}
`, full)
	const name = "weir_admission_limit"
	start := w.total(name, `"u"`)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				w.sendCtx(ctx, "GET", "/own/x", "", "Authorization", "Bearer mine")
				w.sendCtx(ctx, "GET", "/all", "")
			}
		})
	}
	// When the one limit has moved twice, the other had its time to. It moves by what is
	// refused in a second, which on a busy machine may be too little for long.
	const long = 5 * time.Minute
	storetest.Eventually(t, long, "the limit moves", func() bool { return w.total(name, `"v"`) < start })
	once := w.total(name, `"v"`)
	storetest.Eventually(t, long, "it moves again", func() bool { return w.total(name, `"v"`) < once })
	stop()
	wg.Wait()
	if got := w.total(name, `"u"`); start == 0 || got < start {
		t.Errorf("the limit of those with keys of their own went from %v to %v", start, got)
	}
	if a := w.send("GET", "/own/good", ""); a.status != 200 {
		t.Errorf("another one: %v", a)
	}
}

func TestRegressionASocketsHandshakeHasOurFields(t *testing.T) {
	t.Parallel()
	w := before(t, sockets, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Id: theirs\r\nRateLimit: \"theirs\";r=999999\r\nServer-Timing: theirs\r\nX-Queue-Ticket: theirs\r\nX-Theirs: kept\r\n\r\n")
		_ = rw.Flush()
		_ = c.Close()
	}))
	s := w.shake("/talk", "weir_u1")
	if id := s.header.Get("X-Request-Id"); s.status != 101 || id == "" || id == "theirs" {
		t.Errorf("%d with the ID %q", s.status, id)
	}
	if got := strings.Join(s.header["Ratelimit"], ", "); !strings.Contains(got, `"r";r=2`) || strings.Contains(got, "theirs") {
		t.Errorf("RateLimit is %q", got)
	}
	if got := s.header["X-Queue-Ticket"]; got != nil || s.header.Get("X-Theirs") != "kept" {
		t.Errorf("the upstream's ticket is %q; %v", got, s.header)
	}
	w.isIdle()
}

func TestRegressionAnUpstreamsTicketIsNotPassedOn(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 503, 429, 404} {
		w := before(t, `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0], retry: {attempts: 1}, breaker: {failures: 0}}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Queue-Ticket", "theirs")
			w.WriteHeader(status)
		}))
		if a := w.as(1, "GET", "/x", ""); a.status != status || a.header["X-Queue-Ticket"] != nil {
			t.Errorf("%v with the ticket %q", a, a.header["X-Queue-Ticket"])
		}
	}
}

func TestRegressionCallsOfSeveralHostsAreNotJoined(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.NewReplacer("concurrency: 1", "concurrency: 4", "max_size: 3", "max_size: 2").Replace(joined), d)
	answers := make(chan answer, 4)
	for i, host := range []string{"a.example", "b.example", "a.example", "b.example"} {
		go func() {
			r, err := http.NewRequestWithContext(t.Context(), "POST", w.url+"/v1/models/m:predict", strings.NewReader(fmt.Sprintf(`{"instances":["%s"]}`, host)))
			if err != nil {
				t.Error(err)
				answers <- answer{}
				return
			}
			r.Host = host
			r.Header.Set("X-Api-Key", fmt.Sprintf("weir_u%d", i))
			r.Header.Set("Content-Type", "application/json")
			resp, err := w.client.Do(r)
			if err != nil {
				answers <- answer{err: err}
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			answers <- answer{resp.StatusCode, resp.Header, string(b), err}
		}()
	}
	for range 2 {
		v := d.next(t)
		host := v.r.Header.Get("X-Forwarded-Host")
		if got := strings.Count(v.body, host); host == "" || got != 2 || strings.Count(v.body, "example") != 2 {
			t.Errorf("with the host %q the upstream was asked for %s", host, v.body)
		}
		v.does(func(rw http.ResponseWriter) { rw.Header().Set("Content-Type", "application/json") })
		v.ends(`{"predictions":[1,2]}`)
	}
	for range 4 {
		if a := after(t, "an answer", answers); a.status != 200 {
			t.Error(a)
		}
	}
	w.isIdle()
}
