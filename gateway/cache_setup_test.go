package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/storetest"
)

// site is a gateway with a cache: one route, for everything.
type site struct {
	store    string // its tiers, as in "memory+redis"; "" is memory
	mode     string // "" is inference
	share    string // "" is caller
	ttl      string // "" is 1m; http has none, because the origin says it
	cache    string // further keys of the route's cache, each with ", " before it
	caches   string // further keys of the cache that routes share, likewise
	upstream string // further keys of the upstream, likewise
	route    string // further keys of the route, likewise
	top      string // further lines
	deadline string // of Redis; "" is 10s, which a busy machine keeps
	redis    *storetest.RedisServer
	dir      string
}

// users are so many callers with keys of their own, and no plan.
const users = 21

// every is all the stores that a route can have.
func every() []string {
	return []string{"memory", "dir", "memory+dir", "redis", "memory+redis"}
}

func (s *site) yaml(target string) string {
	var b strings.Builder
	if s.redis != nil {
		fmt.Fprintf(&b, "store: {url: %q, deadline: %s, on_failure: open}\n", s.redis.URL(), cmp.Or(s.deadline, "10s"))
	}
	b.WriteString("callers: {keys: [")
	for i := range users {
		fmt.Fprintf(&b, "{caller: u%d, key: weir_u%d}, ", i, i)
	}
	b.WriteString("]}\ncache: {tiers: [" + strings.ReplaceAll(cmp.Or(s.store, "memory"), "+", ", ") + "]")
	if s.dir != "" {
		fmt.Fprintf(&b, ", dir: {path: %q, max_bytes: 64MiB}", s.dir)
	}
	b.WriteString(s.caches + "}\n" + s.top)
	ttl := ""
	if s.mode != "http" {
		ttl = ", ttl: " + cmp.Or(s.ttl, "1m")
	}
	// These are about the cache: neither the queue nor a breaker is to be in its way.
	for _, key := range []string{"retry: {attempts: 1}", "breaker: {failures: 0}", "concurrency: {min: 64}"} {
		if name, _, _ := strings.Cut(key, ":"); !strings.Contains(s.upstream, name+":") {
			s.upstream = ", " + key + s.upstream
		}
	}
	fmt.Fprintf(&b, "upstreams: {u: {targets: [%q]%s}}\n", target, s.upstream)
	fmt.Fprintf(&b, "routes: [{name: all, match: {path: /*}, upstream: u%s, cache: {mode: %s, share: %s%s%s}}]\n",
		s.route, cmp.Or(s.mode, "inference"), cmp.Or(s.share, "caller"), ttl, s.cache)
	return b.String()
}

// start serves it in front of h, with the stores that it wants.
func (s site) start(t *testing.T, h http.Handler) *instance {
	t.Helper()
	origin := httptest.NewServer(h)
	t.Cleanup(origin.Close)
	return s.at(t, origin.URL)
}

// at serves it in front of a target.
func (s site) at(t *testing.T, target string) *instance {
	t.Helper()
	if strings.Contains(s.store, "redis") && s.redis == nil {
		s.redis = storetest.Redis(t)
	}
	if strings.Contains(s.store, "dir") && s.dir == "" {
		s.dir = t.TempDir()
	}
	w := launch(t, s.yaml(target))
	if s.redis != nil {
		w.connected()
	}
	return w
}

// instance is a gateway that can be stopped before the test ends, and whose log can
// be read while it runs.
type instance struct {
	*weir
	address string
	log     *lines
	stop    func() // breaks its connections off and closes it
}

// lines is a log.
type lines struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func launch(t *testing.T, yaml string) *instance {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	log := &lines{}
	g, err := gateway.New(unhurried(cfg), gateway.Options{Version: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := g.Server()
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	w := &instance{address: l.Addr().String(), log: log, weir: &weir{t: t, url: "http://weir.example", gateway: g}}
	w.client = clientOf(w.address)
	w.stop = sync.OnceFunc(func() {
		_ = server.Close()
		w.client.CloseIdleConnections()
		wg.Wait()
		_ = g.Close(context.Background())
	})
	t.Cleanup(w.stop)
	return w
}

// clientOf asks the server at address, whatever its name: the same name wherever it
// is, because the name is in the key.
func clientOf(address string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableCompression:  true,
			MaxIdleConnsPerHost: 1000,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// as sends a request of a user, whose name is in a field that is part of no key.
func (w *instance) as(user int, method, path, body string, header ...string) answer {
	who := "u" + strconv.Itoa(user)
	return w.sendCtx(w.t.Context(), method, path, body, append(header, "X-Api-Key", "weir_"+who, "User-Agent", who)...)
}

// at once asks n times at the same time.
func atOnce(n int, ask func(i int) answer) []answer {
	all := make([]answer, n)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = ask(i) })
	}
	wg.Wait()
	return all
}

// eventually is how long a test waits for what must happen, on a busy machine.
const eventually = time.Minute

// serves waits until the route serves so many requests, no more and no fewer.
func (w *instance) serves(n int) {
	w.t.Helper()
	name, want := `weir_gateway_requests_in_flight{route="all"}`, strconv.Itoa(n)
	deadline, pause := time.After(eventually), 2*time.Millisecond
	for w.metric(name) != want {
		select {
		case <-time.After(pause):
			// Looking costs time that those who are looked at need on a busy machine.
			pause = min(2*pause, 200*time.Millisecond)
		case <-deadline:
			w.t.Fatalf("%s requests are served, want %d", w.metric(name), n)
		}
	}
}

// lapsed is the Cache-Status of a with the time to live that it had when something
// began, of so many seconds.
func (a answer) lapsed(began time.Time, ttl int) string {
	status := strings.Join(a.header["Cache-Status"], "|")
	if what, seconds, ok := strings.Cut(status, "; ttl="); ok {
		return what + "; ttl=" + countedDown(began, ttl, seconds)
	}
	return status
}

// hit reports whether a came from the cache.
func (a answer) hit() bool { return strings.HasPrefix(a.header.Get("Cache-Status"), "weir; hit") }

// is reports whether a is a whole answer with this status and body.
func (a answer) is(status int, body string) bool {
	return a.err == nil && a.status == status && a.body == body
}

func (a answer) String() string {
	return fmt.Sprintf("%d %.300q, Cache-Status %q, %v", a.status, a.body, a.header.Get("Cache-Status"), a.err)
}

// told reports whether the client can know that a is not whole: the connection
// broke, or its last words are an error of the API.
func (a answer) told() bool {
	return a.err != nil || a.status >= 500 || strings.Contains(a.body, `"error"`)
}

// taken reads the body of a request, without which a server does not notice who
// leaves.
func taken(r *http.Request) string {
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

// gate holds handlers until it is opened.
type gate struct {
	opened chan struct{}
	open   func()
}

func newGate() *gate {
	g := &gate{opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	return g
}

// wait reports false if the request ended first.
func (g *gate) wait(r *http.Request) bool {
	select {
	case <-g.opened:
		return true
	case <-r.Context().Done():
		return false
	}
}

// after waits for an event, and not for ever.
func after[T any](t *testing.T, what string, event <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-event:
	case <-time.After(eventually):
		t.Fatal("it never happened: " + what)
	}
	return v
}

// pass lets time pass where that itself is tested: until something is no longer
// fresh, for one.
func pass(d time.Duration) { <-time.After(d) }

// within calls try until it took less than most, and then what try returned, which
// says what it found: had it taken longer, something else would have been right. try
// is told the how manieth it is.
func within(t *testing.T, most time.Duration, try func(i int) (judge func())) {
	t.Helper()
	for i := range 20 {
		began := time.Now()
		judge := try(i)
		if time.Since(began) < most {
			judge()
			return
		}
	}
	t.Errorf("each of 20 times this machine needed %v", most)
}

// took is how long f took, without the time in which the machine stood still.
func took(f func()) time.Duration {
	took := storetest.Stopwatch()
	f()
	return took()
}

// countedDown gives full for a number of seconds that has counted down from full since
// something began, and no further.
func countedDown(began time.Time, full int, seconds string) string {
	n, err := strconv.Atoi(seconds)
	if least := full - int(time.Since(began).Seconds()); err == nil && least <= n && n <= full {
		return strconv.Itoa(full)
	}
	return seconds
}

// say writes a part of an answer and sends it.
func say(w http.ResponseWriter, part string) {
	_, _ = io.WriteString(w, part)
	_ = http.NewResponseController(w).Flush()
}

// reading is an answer that is read while it comes.
type reading struct {
	*http.Response
	t     *testing.T
	leave context.CancelFunc
}

// open sends a request and returns when its answer's head is there.
func (w *instance) open(method, path, body string, header ...string) *reading {
	w.t.Helper()
	ctx, leave := context.WithCancel(w.t.Context())
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, w.url+path, in)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := w.client.Do(r)
	if err != nil {
		leave()
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { leave(); _ = resp.Body.Close() })
	return &reading{resp, w.t, leave}
}

// sees reads just this text, or fails after a while.
func (r *reading) sees(text string) {
	r.t.Helper()
	late := time.AfterFunc(eventually, r.leave)
	defer late.Stop()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(r.Body, got); err != nil || string(got) != text {
		r.t.Errorf("read %q, %v; want %q", got[:n], err, text)
	}
}

// rest reads to the end.
func (r *reading) rest() answer {
	late := time.AfterFunc(eventually, r.leave)
	defer late.Stop()
	b, err := io.ReadAll(r.Body)
	return answer{r.StatusCode, r.Header, string(b), err}
}
