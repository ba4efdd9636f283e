package gateway_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// crowded is an upstream with one place, in front of which one may wait.
const crowded = `
callers: {keys: KEYS}
plans: {default: {policies: [{name: r, quota: 100, window: 1h}, {name: slots, concurrent: 90}]}}
upstreams: {u: {targets: [T0], dialect: DIALECT, concurrency: 1, queue: {max: 1, max_wait: 1h, status: STATUS, keepalive_after: 0s}}}
routes:
  - {name: look, match: {path: /look}, upstream: u, max_body: 100}
  - {name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1m, share: caller}}
`

func TestWhatFindsNoPlaceIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dialect, status string
		want            int
		body            func(answer) bool
	}{
		"in the form of any HTTP":          {"plain", "503", 503, isProblem},
		"in OpenAI's form":                 {"openai", "503", 503, isOpenAIError},
		"in Anthropic's form":              {"anthropic", "503", 529, isAnthropicError},
		"as 429, if that is said":          {"openai", "429", 429, isOpenAIError},
		"as 429, if that is said, as any":  {"plain", "429", 429, isProblem},
		"as 429, if that is said, of them": {"anthropic", "429", 429, isAnthropicError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, strings.NewReplacer("DIALECT", c.dialect, "STATUS", c.status).Replace(crowded), d)
			path := map[string]string{"plain": "/x", "openai": chats, "anthropic": "/v1/messages"}[c.dialect]
			ask := func(i int) *request {
				return w.later("POST", path, `{"model":"m","max_tokens":5,"temperature":0,"messages":[{"role":"user","content":"`+strconv.Itoa(i)+`"}]}`)
			}
			first := ask(1)
			running := d.next(t)
			second := ask(2)
			w.waits(1)
			left := w.left("/look", "r")
			a := ask(3).got()
			if a.status != c.want || !c.body(a) {
				t.Errorf("%v %s", a.header, a)
			}
			seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
			ms, _ := strconv.Atoi(a.header.Get("Retry-After-Ms"))
			if seconds < 1 || ms < 900 || ms > 1200*seconds || a.header.Get("X-Queue-Ticket") == "" || a.header.Get("X-Should-Retry") != "" {
				t.Errorf("when to come back: %v", a.header)
			}
			if got := a.header.Get("Cache-Status"); !strings.HasPrefix(got, "weir; fwd=") || strings.Contains(got, "stored") || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Status %q, %v", got, a.header)
			}
			if got := a.remaining("r"); got != left && got != left-1 || w.left("/look", "r") != left || w.left("/look", "slots") != 88 {
				t.Errorf("a refusal says that %d are left; %d and %d slots are, %d were", got, w.left("/look", "r"), w.left("/look", "slots"), left)
			}
			d.nobody(t)
			running.ends("x")
			d.next(t).ends("x")
			if first.got().status != 200 || second.got().status != 200 {
				t.Error("those that had come before were not answered")
			}
			w.isIdle()
			if got := w.total("weir_admission_refused_total", `reason="queue_full"`); got != 1 || w.total("weir_admission_refused_total") != 1 {
				t.Errorf("%v refusals are counted", got)
			}
			w.until(func() bool { return strings.Contains(w.log.String(), `"shed":"queue_full"`) })
		})
	}
}

func isProblem(a answer) bool {
	var p struct {
		Type, Title, Detail string
		Status              int
		After               int `json:"retry_after"`
	}
	err := json.Unmarshal([]byte(a.body), &p)
	return err == nil && a.header.Get("Content-Type") == "application/problem+json" && p.Status == a.status &&
		strings.HasSuffix(p.Type, "#temporary-reduced-capacity") && p.Detail != "" && p.After >= 1
}

func isOpenAIError(a answer) bool {
	var p struct {
		Error struct{ Message, Type string }
	}
	return json.Unmarshal([]byte(a.body), &p) == nil && p.Error.Message != "" && p.Error.Type != "" && a.header.Get("Content-Type") == "application/json"
}

func isAnthropicError(a answer) bool {
	var p struct {
		Type  string
		Error struct{ Message, Type string }
	}
	return json.Unmarshal([]byte(a.body), &p) == nil && p.Type == "error" && p.Error.Message != "" && p.Error.Type != ""
}

// The queue is full with two requests of u0 and two of u1.
func TestATicketLetsItsRequestInBeforeOthersOfItsCaller(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.ReplaceAll(strings.ReplaceAll(narrow, "DIALECT", "plain"), "max: 64", "max: 4"), d)
	w.later("GET", "/0", "", of(0)...)
	running := d.next(t)
	w.queued(of(1), "/b1", "/b2")
	waiting := w.queued(of(0), "/a1", "/a2")
	refused := w.as(0, "POST", "/late", `{"x":1}`)
	ticket := refused.header.Get("X-Queue-Ticket")
	if refused.status != 503 || ticket == "" {
		t.Fatalf("%v %v", refused.header, refused)
	}
	forged, err := base64.RawURLEncoding.DecodeString(ticket)
	if err != nil {
		t.Fatal(err)
	}
	forged[3]++
	for name, c := range map[string]struct {
		user                 int
		method, path, ticket string
		body                 string
	}{
		"none":              {0, "POST", "/late", "", `{"x":1}`},
		"one of no form":    {0, "POST", "/late", "x", `{"x":1}`},
		"a forged one":      {0, "POST", "/late", base64.RawURLEncoding.EncodeToString(forged), `{"x":1}`},
		"another caller's":  {1, "POST", "/late", ticket, `{"x":1}`},
		"of another body":   {0, "POST", "/late", ticket, `{"x":2}`},
		"of another path":   {0, "POST", "/later", ticket, `{"x":1}`},
		"of another query":  {0, "POST", "/late?x", ticket, `{"x":1}`},
		"of another method": {0, "PUT", "/late", ticket, `{"x":1}`},
	} {
		if a := w.as(c.user, c.method, c.path, c.body, "X-Queue-Ticket", c.ticket); a.status != 503 {
			t.Errorf("%s: %v", name, a)
		}
	}
	if got := w.total("weir_admission_waiting"); got != 4 {
		t.Fatalf("%v wait, want 4", got)
	}
	late := w.later("POST", "/late", `{"x":1}`, append(of(0), "X-Queue-Ticket", ticket)...)
	if a := waiting[1].got(); a.status != 503 { // his newest makes room
		t.Error(a)
	}
	w.waits(4)
	running.ends("x")
	var order []string
	for range 4 {
		v := d.next(t)
		order = append(order, v.r.URL.Path)
		if len(v.r.Header["X-Queue-Ticket"]) > 0 {
			t.Errorf("%s: its ticket went upstream: %v", v.r.URL, v.r.Header)
		}
		v.ends("x")
	}
	if i, j := slices.Index(order, "/late"), slices.Index(order, "/a1"); i < 0 || i > j {
		t.Errorf("served %v, want /late before /a1", order)
	}
	if a := late.got(); !a.is(200, "x") {
		t.Error(a)
	}
	w.isIdle()
}

func TestATicketIsNoPartOfACachesKey(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"inference", "http"} {
		c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
			storable(w.Header())
			w.Header().Set("Vary", "X-Queue-Ticket")
			_, _ = w.Write([]byte("x" + r.Header.Get("X-Queue-Ticket")))
		}}
		w := site{mode: mode, share: "all"}.start(t, c)
		for i, ticket := range []string{"a", "b", ""} {
			if a := w.send("GET", "/", "", "X-Queue-Ticket", ticket); !a.is(200, "x") || a.hit() != (i > 0) {
				t.Errorf("%s: %v", mode, a)
			}
		}
	}
}

// serveConfig is for what a file cannot say.
func serveConfig(t *testing.T, c *config.Config) *weir {
	t.Helper()
	g, err := gateway.New(c, gateway.Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(g)
	t.Cleanup(func() {
		s.Close()
		_ = g.Close(t.Context())
	})
	return &weir{t: t, url: s.URL, gateway: g, client: s.Client()}
}

func TestWhoIsToComeBackInMoreThanAMinuteGetsNoTicket(t *testing.T) {
	t.Parallel()
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer down.Close()
	for _, async := range []bool{false, true} {
		c, err := config.Parse("test.yaml", []byte(`
upstreams: {u: {targets: [`+down.URL+`], breaker: {failures: 1, open_for: 5m}, retry: {attempts: 1}}}
routes: [{match: {path: /*}, upstream: u}]
`), nil)
		if err != nil {
			t.Fatal(err)
		}
		if async {
			c.Routes[0].RespondAsync = "allowed"
		}
		w := serveConfig(t, c)
		if a := w.send("GET", "/", ""); a.status != 500 {
			t.Fatal(a)
		}
		a := w.send("GET", "/", "")
		seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
		if a.status != 503 || seconds < 200 || seconds > 300 || a.header.Get("X-Should-Retry") != "false" || len(a.header["X-Queue-Ticket"]) > 0 || !isProblem(a) {
			t.Errorf("%v %v", a.header, a)
		}
		if got := strings.Contains(a.detail(), "Prefer: respond-async"); got != async {
			t.Errorf("async %v: %s", async, a.detail())
		}
		if got := w.total("weir_admission_refused_total", `reason="no_target"`); got != 1 {
			t.Errorf("%v refusals are counted", got)
		}
	}
}

func TestAQueueOfNobodyRefusesWhatFindsNoRoom(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, `
upstreams: {u: {targets: [T0], concurrency: 2, queue: {max: 0}}}
routes: [{match: {path: /*}, upstream: u}]
`, d)
	first, second := w.later("GET", "/1", ""), w.later("GET", "/2", "")
	one, two := d.next(t), d.next(t)
	if a := w.send("GET", "/3", ""); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("%v %v", a.header, a)
	}
	one.ends("x")
	two.ends("x")
	first.got()
	second.got()
	w.isIdle()
	third := w.later("GET", "/4", "")
	d.next(t).ends("x")
	if a := third.got(); !a.is(200, "x") {
		t.Error(a)
	}
}

func TestAStaleAnswerStandsInForARefusal(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := site{ttl: "1ms", cache: ", stale_if_error: 1h", upstream: ", concurrency: 1, queue: {max: 0}"}.start(t, d)
	first := w.later("POST", "/x", `{"x":1}`)
	d.next(t).ends("stored")
	first.got()
	pass(20 * time.Millisecond)
	other := w.later("POST", "/x", `{"x":2}`)
	running := d.next(t)
	if a := w.send("POST", "/x", `{"x":1}`); !a.is(200, "stored") {
		t.Error(a)
	}
	d.nobody(t)
	running.ends("x")
	other.got()
	w.isIdle()
}
