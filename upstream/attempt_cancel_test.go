package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
	"github.com/inferweir/weir/upstream"
)

// slowAnswers streams after a while and tells when its client left.
type slowAnswers struct {
	now     func() time.Duration
	working atomic.Int64
	mu      sync.Mutex
	ended   map[string]time.Duration // by request, when its context ended; guarded by mu
}

func (s *slowAnswers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.working.Add(1)
	defer s.working.Add(-1)
	defer func() {
		if r.Context().Err() != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ended[r.Header.Get("X-Number")] = s.now()
		}
	}()
	_, _ = io.Copy(io.Discard, r.Body)
	for range 100 {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Millisecond):
		}
		_, _ = io.WriteString(w, "data: x\n\n")
		_ = http.NewResponseController(w).Flush()
	}
	<-r.Context().Done() // it never ends by itself
}

// toServer is a transport whose requests go to one server.
type toServer struct {
	*http.Transport
	base *url.URL
}

func (t toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Scheme, r.URL.Host = t.base.Scheme, t.base.Host
	return t.Transport.RoundTrip(r)
}

// A client that leaves, at whatever moment, closes its connection to the target, or
// resets its stream, at once, and keeps no seat.
func TestCancelsReachTheTargetAndLeakNothing(t *testing.T) {
	const requests, together = 1000, 4
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(version, func(t *testing.T) {
			answers := &slowAnswers{now: storetest.Clock(t), ended: map[string]time.Duration{}}
			s := httptest.NewUnstartedServer(answers)
			target := upstream.Target{}
			if version == "HTTP/2" {
				s.EnableHTTP2 = true
				s.StartTLS()
				tr, ok := s.Client().Transport.(*http.Transport)
				base, err := url.Parse(s.URL)
				if !ok || err != nil {
					t.Fatal(err)
				}
				target.Transport = toServer{tr, base}
				t.Cleanup(tr.CloseIdleConnections)
			} else {
				s.Start()
				target.URL = s.URL
			}
			t.Cleanup(s.Close)
			var results sync.Map
			pool := newPool(t, upstream.Options{Targets: []upstream.Target{target}, Observe: func(e upstream.Event) {
				n, _ := results.LoadOrStore(e.Result, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}})
			seats := &counted{targets: 1}
			left := &departures{now: answers.now}
			var wg sync.WaitGroup
			for worker := range together {
				wg.Go(func() {
					for i := worker; i < requests; i += together {
						leave(t, pool, seats, fmt.Sprint(i), left)
					}
				})
			}
			wg.Wait()
			if given, ended := seats.given.Load(), seats.ended.Load(); given != requests || ended != requests || seats.twice.Load() != 0 || pool.InFlight() != 0 {
				t.Errorf("%d seats given, %d ended, %d of them more than once, %d in flight", given, ended, seats.twice.Load(), pool.InFlight())
			}
			// Only their clients' leaving ends the answers.
			for until := time.Now().Add(time.Minute); answers.working.Load() > 0 && time.Now().Before(until); {
				<-time.After(time.Millisecond)
			}
			if n := answers.working.Load(); n != 0 {
				t.Errorf("the target works on %d requests whose clients have left", n)
			}
			s.CloseClientConnections()
			s.Close() // waits for the connections, and so for most of the handlers
			answers.mu.Lock()
			defer answers.mu.Unlock()
			var took []time.Duration
			for number, at := range answers.ended {
				if from, ok := left.at.Load(number); ok {
					took = append(took, at-from.(time.Duration))
				}
			}
			if len(took) < requests/4 {
				t.Fatalf("only %d requests had come to the target when their clients left", len(took))
			}
			atOnce(t, "a cancel came to the target", took)
			p50, p99 := took[len(took)/2], took[len(took)*99/100]
			t.Logf("%s: %d cancels seen by the target, p50 %v, p99 %v, the longest %v", version, len(took), p50, p99, took[len(took)-1])
			results.Range(func(result, n any) bool {
				if result != upstream.ResultCancelled {
					t.Errorf("%d exchanges ended %v, want all cancelled", n.(*atomic.Int64).Load(), result)
				}
				return true
			})
		})
	}
}

// departures are when the clients of requests have left, by their numbers.
type departures struct {
	now func() time.Duration
	at  sync.Map
}

// leave sends a request and leaves: every other one after up to 20 ms, wherever that
// is, the rest after the head and up to that long. That is before the head, within the
// body, or with the body unread and never closed.
func leave(t *testing.T, pool *upstream.Pool, s *counted, number string, left *departures) {
	ctx, cancel := context.WithCancel(t.Context())
	leaves := func() *time.Timer {
		return time.AfterFunc(rand.N(20*time.Millisecond), func() {
			left.at.Store(number, left.now())
			cancel()
		})
	}
	whenever := rand.N(2) == 0
	if whenever {
		defer leaves().Stop()
	}
	r := replayable(t, "POST", "{}").WithContext(ctx)
	r.Header.Set("X-Number", number)
	at, _ := s.Seat(ctx, nil, true)
	resp, err := pool.Send(ctx, r, upstream.Call{Seat: at})
	if !whenever {
		defer leaves().Stop()
	}
	switch {
	case err != nil:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case rand.N(3) == 0: // its reader panics, say
		<-ctx.Done()
		for until := time.Now().Add(time.Minute); time.Now().Before(until); {
			if at.(*countedSeat).over.Load() {
				return
			}
			<-time.After(time.Millisecond)
		}
		t.Error("an answer that nobody reads keeps its seat")
	default:
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// mortal is a server that can be killed and started again at the same address.
type mortal struct {
	t       *testing.T
	addr    string
	server  *http.Server
	serving sync.WaitGroup

	mu   sync.Mutex
	seen map[string]int // how often it began to work on a request; guarded by mu
}

func newMortal(t *testing.T) *mortal {
	m := &mortal{t: t, addr: "127.0.0.1:0", seen: map[string]int{}}
	m.start()
	t.Cleanup(m.kill)
	return m
}

func (m *mortal) start() {
	l, err := net.Listen("tcp", m.addr)
	if err != nil {
		m.t.Error(err)
		return
	}
	m.addr = l.Addr().String()
	m.server = &http.Server{Handler: m}
	m.serving.Go(func() { _ = m.server.Serve(l) })
}

// kill closes its connections with what is on them.
func (m *mortal) kill() {
	_ = m.server.Close()
	m.serving.Wait()
}

func (m *mortal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.seen[r.Header.Get("X-Number")]++
	m.mu.Unlock()
	for range 4 {
		if _, err := io.WriteString(w, "part "); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-time.After(rand.N(time.Millisecond)):
		case <-r.Context().Done():
			return
		}
	}
}

func (m *mortal) works() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.seen)
}

func TestATargetThatDiesAndComesBackUnderLoad(t *testing.T) {
	a, b := newMortal(t), newMortal(t)
	pool := newPool(t, upstream.Options{
		Balance: "least_busy", Targets: []upstream.Target{{URL: "http://" + a.addr}, {URL: "http://" + b.addr}},
		Breaker: upstream.Breaker{Failures: 3, OpenFor: 20 * time.Millisecond}, Retry: upstream.Retry{Budget: 1},
		Timeouts: upstream.Timeouts{Connect: time.Minute},
	})
	var sent, cutBefore, cutWithin atomic.Int64
	send := func(number, method string) {
		r := replayable(t, method, "{}")
		r.Header.Set("X-Number", number)
		resp, err := pool.Send(r.Context(), r, upstream.Call{})
		sent.Add(1)
		if err != nil {
			if method == "GET" {
				t.Errorf("%s: a GET can be sent to the other target, and got %v", number, err)
			}
			cutBefore.Add(1)
			return
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil {
			cutWithin.Add(1)
		} else if string(body) != "part part part part " {
			t.Errorf("%s: %q", number, body)
		}
	}
	var wg sync.WaitGroup
	for worker := range 6 {
		wg.Go(func() {
			for i := range 150 {
				send(fmt.Sprint(worker, "-", i), []string{"GET", "POST"}[i%2])
			}
		})
	}
	wg.Go(func() {
		for round := range 3 {
			for sent.Load() < int64(200*(round+1)) {
				<-time.After(time.Millisecond)
			}
			a.kill()
			<-time.After(30 * time.Millisecond)
			a.start()
		}
	})
	wg.Wait()
	for n := a.works(); a.works() == n; { // it is used again
		send(fmt.Sprint("late", n, rand.Int()), "GET")
		<-time.After(time.Millisecond)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	for number, n := range a.seen {
		var worker, i int
		if _, err := fmt.Sscanf(number, "%d-%d", &worker, &i); err == nil && i%2 == 1 && n+b.seen[number] > 1 {
			t.Errorf("POST %s was worked on %d times", number, n+b.seen[number])
		}
	}
	t.Logf("of %d requests %d got no answer, %d half of one", sent.Load(), cutBefore.Load(), cutWithin.Load())
}
