package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// servers is an upstream with several targets; KEYS are its further keys.
const servers = `
callers: {keys: KEYS}
upstreams: {u: {targets: TARGETS, dialect: openai, MORE}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`

// nowhere is where nobody listens.
const nowhere = "http://127.0.0.1:1"

// pool is a gateway in front of these targets.
func pool(t *testing.T, more string, targets ...string) *instance {
	t.Helper()
	return launch(t, strings.NewReplacer("KEYS", keys(), "TARGETS", "["+strings.Join(targets, ", ")+"]", "MORE", more).Replace(servers))
}

// serving starts a server.
func serving(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// reads makes a server of h that takes the body first, and counts its calls.
func reads(h http.HandlerFunc) *counted {
	return &counted{h: func(w http.ResponseWriter, r *http.Request) { _ = taken(r); h(w, r) }}
}

func fine(w http.ResponseWriter, _ *http.Request) { say(w, "fine") }

func hangsUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestWhatIsSentAgainAndWhatIsNot(t *testing.T) {
	t.Parallel()
	const n = 10
	for name, c := range map[string]struct {
		method, more string
		dead         bool // the first target is not there; else it breaks off
		answered     bool // every request is
	}{
		"GET to nobody":                      {"GET", "", true, true},
		"POST of which nothing was written":  {"POST", "", true, true},
		"GET that broke off":                 {"GET", "", false, true},
		"POST that broke off":                {"POST", "", false, false},
		"POST that broke off and may repeat": {"POST", "post: true", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good := reads(hangsUp), reads(fine)
			first := nowhere
			if !c.dead {
				first = serving(t, bad)
			}
			w := pool(t, "balance: round_robin, breaker: {failures: 0}, retry: {"+c.more+"}", first, serving(t, good))
			ok := int64(0)
			for range n {
				a := w.send(c.method, "/x", map[string]string{"POST": `{"x":1}`}[c.method])
				if a.is(200, "fine") {
					ok++
				} else if a.status != 502 {
					t.Error(a)
				}
			}
			if c.answered && ok != n || !c.answered && (ok == n || bad.calls.Load()+good.calls.Load() != n) || good.calls.Load() != ok || !c.dead && bad.calls.Load() == 0 {
				t.Errorf("%d of %d answered; %d calls of the first target, %d of the second", ok, n, bad.calls.Load(), good.calls.Load())
			}
			w.isIdle()
		})
	}
}

func TestNothingIsSentAgainAfterTheFirstByte(t *testing.T) {
	t.Parallel()
	for name, method := range map[string]string{"POST": "POST", "even what may be": "GET"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begins := reads(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				say(w, firstEvent)
				panic(http.ErrAbortHandler)
			})
			w := pool(t, "balance: round_robin, retry: {attempts: 5, post: true, budget: 1}", serving(t, begins), serving(t, begins))
			a := w.send(method, chats, streamed)
			rest, ok := strings.CutPrefix(a.body, firstEvent)
			if a.status != 200 || !ok || begins.calls.Load() != 1 || method == "POST" && (!strings.HasPrefix(rest, `data: {"error":{`) || a.err != nil) || method == "GET" && a.err == nil {
				t.Errorf("%d calls, %v", begins.calls.Load(), a)
			}
			w.isIdle()
		})
	}
}

// asksForTime answers the first request with 503 and a time, all others well.
func asksForTime(seconds int) *counted {
	c := &counted{}
	c.h = func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		if c.calls.Load() == 1 {
			w.Header().Set("Retry-After", strconv.Itoa(seconds))
			w.WriteHeader(503)
			return
		}
		say(w, "fine")
	}
	return c
}

func TestATargetThatAsksForTimeIsLeftAloneAndNoOther(t *testing.T) {
	t.Parallel()
	busy, good := asksForTime(50), reads(fine)
	w := pool(t, "balance: round_robin", serving(t, busy), serving(t, good))
	for range 20 {
		if a := w.send("GET", "/x", ""); !a.is(200, "fine") {
			t.Error(a)
		}
	}
	if busy.calls.Load() != 1 || good.calls.Load() != 20 || w.total("weir_upstream_targets_closed") != 1 {
		t.Errorf("%d calls of the busy one, %d of the other; %v are closed", busy.calls.Load(), good.calls.Load(), w.total("weir_upstream_targets_closed"))
	}
	w.isIdle()
}

func TestRequestsWaitForATargetThatAskedForTime(t *testing.T) {
	t.Parallel()
	busy := asksForTime(1)
	w := pool(t, "queue: {max_wait: 1m}, concurrency: 4", serving(t, busy))
	begin := time.Now()
	if a := w.send("POST", "/x", "{}"); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Fatalf("%v %v", a.header, a)
	}
	for _, a := range atOnce(3, func(int) answer { return w.send("POST", "/x", "{}") }) {
		if !a.is(200, "fine") {
			t.Error(a)
		}
	}
	if took := time.Since(begin); took < 900*time.Millisecond {
		t.Errorf("they were sent after %v, want 1s", took)
	}
	w.isIdle()
}

func TestWhoAsksForMoreTimeThanRequestsHaveMakesThemComeBack(t *testing.T) {
	t.Parallel()
	busy := asksForTime(40)
	w := pool(t, "queue: {max_wait: 2s}", serving(t, busy))
	w.send("POST", "/x", "{}")
	a := w.send("POST", "/x", "{}")
	if after, _ := strconv.Atoi(a.header.Get("Retry-After")); a.status != 503 || after < 30 || after > 40 || a.header.Get("X-Queue-Ticket") == "" || busy.calls.Load() != 1 {
		t.Errorf("%v %v after %d calls", a.header, a, busy.calls.Load())
	}
}

func TestABreakerOpensByFailuresAndNotByItsCallersMistakes(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	c := reads(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) })
	w := pool(t, "breaker: {failures: 5, open_for: 40s}, retry: {attempts: 1}, queue: {max_wait: 1s}", serving(t, c))
	for _, s := range []int64{400, 401, 404, 409, 413, 422} {
		status.Store(s)
		for range 1000 / 6 {
			if a := w.send("POST", "/x", "{}"); a.status != int(s) {
				t.Fatal(a)
			}
		}
	}
	if got := w.total("weir_upstream_targets_closed"); got != 0 {
		t.Fatal("the callers' mistakes closed the target")
	}
	status.Store(500)
	for range 5 {
		if a := w.send("POST", "/x", "{}"); a.status != 500 {
			t.Error(a)
		}
	}
	calls := c.calls.Load()
	a := w.send("POST", "/x", "{}")
	if s, _ := strconv.Atoi(a.header.Get("Retry-After")); a.status != 503 || s < 20 || s > 40 || a.header.Get("X-Queue-Ticket") == "" || c.calls.Load() != calls {
		t.Errorf("%v %v after %d more calls", a.header, a, c.calls.Load()-calls)
	}
	if w.total("weir_upstream_targets_closed") != 1 || w.total("weir_admission_refused_total", `reason="no_target"`) != 1 {
		t.Errorf("%v closed, %v refused", w.total("weir_upstream_targets_closed"), w.total("weir_admission_refused_total"))
	}
	w.until(func() bool { return strings.Contains(w.log.String(), `"shed":"no_target"`) })
}

func TestABreakerLetsOneTrialThrough(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := pool(t, "breaker: {failures: 1, open_for: 200ms}, retry: {attempts: 1}, queue: {max_wait: 1h, keepalive_after: 0s}", serving(t, d))
	fails := w.later("GET", "/", "")
	v := d.next(t)
	v.does(func(rw http.ResponseWriter) { rw.WriteHeader(500) })
	v.ends("")
	fails.got()
	refused := func(a answer) {
		t.Helper()
		if a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("%v %v", a.header, a)
		}
	}
	var q *request
	var trial *visit
	for trial == nil { // until its time has come
		q = w.later("GET", "/", "")
		select {
		case trial = <-d.visits:
			trial.t = t
		case a := <-q.answer:
			refused(a)
		case <-time.After(eventually):
			t.Fatal("a request is neither sent nor refused")
		}
	}
	for _, a := range atOnce(5, func(int) answer { return w.send("GET", "/", "") }) {
		refused(a)
	}
	d.nobody(t)
	trial.ends("x")
	if a := q.got(); !a.is(200, "x") {
		t.Error(a)
	}
	w.shows(0, "weir_upstream_targets_closed")
	done := make(chan []answer, 1)
	go func() { done <- atOnce(5, func(int) answer { return w.send("GET", "/", "") }) }()
	d.inOrder(t, 5)
	for _, a := range after(t, "the answers", done) {
		if !a.is(200, "x") {
			t.Error(a)
		}
	}
	w.isIdle()
}

func TestProbesEjectATargetAndBringItBack(t *testing.T) {
	t.Parallel()
	var ill atomic.Bool
	probed := func(calls *atomic.Int64, well func() bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" {
				calls.Add(1)
			} else if !well() {
				w.WriteHeader(503)
			}
		}
	}
	var first, second atomic.Int64
	w := pool(t, "balance: round_robin, probe: {path: /health, interval: 100ms}",
		serving(t, probed(&first, func() bool { return !ill.Load() })), serving(t, probed(&second, func() bool { return true })))
	send := func(n int) {
		for range n {
			if a := w.send("POST", "/x", "{}"); a.status != 200 {
				t.Error(a)
			}
		}
	}
	ill.Store(true)
	w.shows(1, "weir_upstream_targets_closed")
	before := first.Load()
	send(10)
	if first.Load() != before || second.Load() != 10 {
		t.Errorf("%d and %d calls while the first is ill", first.Load()-before, second.Load())
	}
	ill.Store(false)
	w.shows(0, "weir_upstream_targets_closed")
	send(10)
	if first.Load() == before {
		t.Error("the first is asked no more")
	}
}

// One target is killed, one is paused as by SIGSTOP: it accepts and never answers.
func TestTheRestOfThePoolCarriesOn(t *testing.T) {
	t.Parallel()
	release := newGate()
	var stopped atomic.Bool
	working := func(calls *atomic.Int64, pauses bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_ = taken(r)
			calls.Add(1)
			if pauses && stopped.Load() && !release.wait(r) {
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			say(w, firstEvent)
			say(w, lastEvents)
		}
	}
	var healthy, doomed, paused atomic.Int64
	dies := httptest.NewServer(working(&doomed, false))
	w := pool(t, "balance: round_robin, concurrency: 4, breaker: {failures: 2, open_for: 1h}, timeouts: {first_byte: 6s}, queue: {max_wait: 1h, keepalive_after: 0s}",
		serving(t, working(&healthy, false)), dies.URL, serving(t, working(&paused, true)))
	var sent, good, bad atomic.Int64
	event := newGate() // the two have failed
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for sent.Add(1) <= 300 {
				a := w.send("POST", chats, streamed)
				switch {
				case a.is(200, firstEvent+lastEvents):
					good.Add(1)
				case a.told():
					bad.Add(1)
				default:
					t.Error(a)
				}
				if good.Load() > 50 {
					event.open()
				}
			}
		})
	}
	after(t, "the first answers", event.opened)
	stopped.Store(true)
	dies.CloseClientConnections()
	dies.Close()
	wg.Wait()
	w.isIdle()
	// The first failures: what was at the two, and what went there before they were
	// known to be bad.
	if bad.Load() > 16 || good.Load()+bad.Load() != 300 || healthy.Load() == 0 || doomed.Load() == 0 || paused.Load() == 0 {
		t.Errorf("%d good, %d bad; %d, %d and %d calls", good.Load(), bad.Load(), healthy.Load(), doomed.Load(), paused.Load())
	}
	w.shows(2, "weir_upstream_targets_closed")
	for range 10 {
		if a := w.send("POST", chats, streamed); !a.is(200, firstEvent+lastEvents) {
			t.Error(a)
		}
	}
	release.open()
}

func TestASlowRequestIsHedged(t *testing.T) {
	t.Parallel()
	slow, fast := newDesk(), reads(fine)
	w := pool(t, "balance: round_robin, hedge: {after: 20ms}", serving(t, slow), serving(t, fast))
	for range 6 {
		if a := w.send("GET", "/x", ""); !a.is(200, "fine") {
			t.Error(a)
		}
	}
	if fast.calls.Load() != 6 || len(slow.visits) == 0 {
		t.Errorf("%d calls of the fast target, %d of the slow one", fast.calls.Load(), len(slow.visits))
	}
	for len(slow.visits) > 0 {
		slow.next(t).leaves()
	}
	w.isIdle()
	var all []*request
	for range 2 {
		all = append(all, w.later("POST", "/x", "{}"))
	}
	v := slow.next(t) // a POST is not
	v.ends("slow")
	bodies := []string{all[0].got().body, all[1].got().body}
	if fast.calls.Load() != 7 || bodies[0] == bodies[1] {
		t.Errorf("%d calls of the fast target, answers %q", fast.calls.Load(), bodies)
	}
	w.isIdle()
}

func TestConversationsStayWhereTheirBeginningIsKnown(t *testing.T) {
	t.Parallel()
	named := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { _ = taken(r); say(w, name) }
	}
	w := pool(t, "balance: prefix", serving(t, named("a")), serving(t, named("b")))
	prompt := `{"model":"m","messages":[{"role":"system","content":"` + strings.Repeat("You are helpful. ", 400) + `"}`
	homes, used := make([]string, users), map[string]int{}
	for turn := range 5 {
		prompt += fmt.Sprintf(`,{"role":"user","content":"question %d"}`, turn)
		for user := range users {
			a := w.as(user, "POST", chats, prompt+"]}")
			if turn == 0 {
				homes[user] = a.body
				used[a.body]++
			}
			if a.status != 200 || a.body != homes[user] {
				t.Errorf("turn %d of user %d: %v, want it at target %s", turn, user, a, homes[user])
			}
		}
	}
	// What one caller has said is not found where another's prompt went.
	if len(used) != 2 {
		t.Errorf("all callers with the same prompt went to %v", used)
	}
	w.isIdle()
}
