package ratelimit_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

func limiter(t testing.TB, o ratelimit.Options) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func policy(t testing.TB, s string) ratelimit.Policy {
	t.Helper()
	p, err := ratelimit.ParsePolicy(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve sends one request from addr through l to a handler that answers 200.
func serve(l *ratelimit.Limiter, addr string) *http.Response {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = addr
	w := httptest.NewRecorder()
	l.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "answer")
	})).ServeHTTP(w, r)
	return w.Result()
}

func TestMiddlewareRefusesWithTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{policy(t, "5/minute")}})
		for i := range 5 {
			resp := serve(l, "192.0.2.1:1")
			if resp.StatusCode != 200 {
				t.Fatalf("request %d: %s", i, resp.Status)
			}
			if got, want := resp.Header.Get("RateLimit"), `"default";r=`+strconv.Itoa(4-i)+`;t=12`; got != want {
				t.Errorf("request %d: RateLimit %s, want %s", i, got, want)
			}
			if got, want := resp.Header.Get("RateLimit-Policy"), `"default";q=5;w=60`; got != want {
				t.Errorf("request %d: RateLimit-Policy %s, want %s", i, got, want)
			}
		}
		time.Sleep(1900 * time.Millisecond)
		resp := serve(l, "192.0.2.1:2")
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "11" || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Fatalf("%s %v", resp.Status, resp.Header)
		}
		wantBody := `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429,` +
			`"detail":"Request refused: 5 requests per 60 seconds are used up. Try again in 11 seconds.",` +
			`"violated-policies":["default"],"retry_after":11}` + "\n"
		if string(body) != wantBody {
			t.Errorf("body\n got %s\nwant %s", body, wantBody)
		}
		ms, err := strconv.Atoi(resp.Header.Get("Retry-After-Ms"))
		if err != nil || ms < 10_100 || ms > 11_111 {
			t.Errorf("Retry-After-Ms %d, %v: want 10100 and up to a tenth more", ms, err)
		}
		if got, want := resp.Header.Get("RateLimit"), `"default";r=0;t=11`; got != want {
			t.Errorf("RateLimit %s, want %s", got, want)
		}
		if resp := serve(l, "192.0.2.2:1"); resp.StatusCode != 200 {
			t.Errorf("another caller: %s", resp.Status)
		}
		time.Sleep(10100*time.Millisecond - 1)
		if resp := serve(l, "192.0.2.1:3"); resp.StatusCode != 429 {
			t.Errorf("a nanosecond early: %s", resp.Status)
		}
		time.Sleep(time.Nanosecond)
		if resp := serve(l, "192.0.2.1:3"); resp.StatusCode != 200 {
			t.Errorf("after exactly the wait: %s", resp.Status)
		}
	})
}

func TestFieldsAreStructuredFields(t *testing.T) {
	l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{
		policy(t, "100/minute"),
		{Name: `o"dd\`, Quota: 10, Window: 1500 * time.Millisecond, Burst: 2},
		{Name: "tpm", Quota: 50, Window: time.Hour, Unit: "tokens"},
	}})
	resp := serve(l, "192.0.2.1:1")
	policies, err := httpsfv.UnmarshalList(resp.Header.Values("RateLimit-Policy"))
	if err != nil {
		t.Fatal(err)
	}
	states, err := httpsfv.UnmarshalList(resp.Header.Values("RateLimit"))
	if err != nil {
		t.Fatal(err)
	}
	type item struct {
		name       any
		q, w, unit any
		r          any
	}
	var got []item
	for i := range policies {
		p, s := policies[i].(httpsfv.Item), states[i].(httpsfv.Item)
		if p.Value != s.Value {
			t.Errorf("item %d is %v in one field and %v in the other", i, p.Value, s.Value)
		}
		it := item{name: p.Value}
		it.q, _ = p.Params.Get("q")
		it.w, _ = p.Params.Get("w")
		it.unit, _ = p.Params.Get("weir-unit")
		it.r, _ = s.Params.Get("r")
		got = append(got, it)
	}
	want := []item{ // the tightest first
		{name: `o"dd\`, q: int64(10), w: int64(2), r: int64(1)},
		{name: "tpm", q: int64(50), w: int64(3600), unit: "tokens", r: int64(49)},
		{name: "default", q: int64(100), w: int64(60), r: int64(99)},
	}
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("item %d\n got %v\nwant %v", i, got[i], want[i])
		}
	}
}

func TestRefusalSaysWhatWouldBeRight(t *testing.T) {
	refuse := func(p ratelimit.Policy, costs ...int64) *weir.Problem {
		t.Helper()
		l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{p}})
		for _, cost := range costs {
			if _, err := l.Take(context.Background(), "k", cost); err != nil {
				problem, ok := errors.AsType[*weir.Problem](err)
				if !ok {
					t.Fatal(err)
				}
				return problem
			}
		}
		t.Fatalf("%v: nothing was refused", costs)
		return nil
	}
	for want, p := range map[string]*weir.Problem{
		"Request refused: 1 request per 24 hours is used up. Try again in 86400 seconds.":                                     refuse(policy(t, "1/day"), 1, 1),
		"Request refused: 3 requests per 500 milliseconds are used up. Try again in 1 second.":                                refuse(policy(t, "3 per 500ms"), 3, 1),
		"Request refused: it costs 800 tokens, and 300 are left of 1000 tokens per 60 seconds. Try again in 30 seconds.":      refuse(policy(t, "1000 tokens/minute"), 700, 800),
		`Request refused: it costs 12 requests, and "default" never has more than 10 at once (10 requests per 30 seconds).`:   refuse(policy(t, "10 per 30s"), 12),
		"Request refused: it costs 5 input tokens, and 1 are left of 4 input tokens per 5 minutes. Try again in 300 seconds.": refuse(ratelimit.Policy{Quota: 4, Burst: 5, Window: 5 * time.Minute, Unit: "input_tokens"}, 4, 5),
	} {
		if p.Detail != want {
			t.Errorf("\n got %s\nwant %s", p.Detail, want)
		}
	}
	if unit := refuse(policy(t, "1000 tokens/minute"), 700, 800).Unit; unit != "tokens" {
		t.Errorf("a refusal for tokens has the unit %q", unit)
	}
	never := refuse(policy(t, "10 per 30s"), 12)
	h := http.Header{}
	never.SetHeader(h)
	if h.Get("Retry-After") != "" || h.Get("X-Should-Retry") != "false" {
		t.Errorf("a refusal for ever has the fields %v", h)
	}
	long := http.Header{}
	refuse(policy(t, "1/day"), 1, 1).SetHeader(long)
	if long.Get("Retry-After") != "86400" || long.Get("X-Should-Retry") != "false" {
		t.Errorf("a refusal for a day has the fields %v", long)
	}
}

// brokenStore is a store that does not answer.
type brokenStore struct{ ratelimit.Store }

func (brokenStore) Take(context.Context, []ratelimit.Take, time.Time) (bool, error) {
	return true, errors.New("dial tcp 10.0.0.9:6379: connection refused")
}

func TestAFailingStoreIsNeverADecision(t *testing.T) {
	var events []ratelimit.Event
	o := ratelimit.Options{
		Policies: []ratelimit.Policy{policy(t, "5/minute")},
		Store:    brokenStore{},
		Observe:  func(e ratelimit.Event) { events = append(events, e) },
	}
	resp := serve(limiter(t, o), "192.0.2.1:1")
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || resp.Header.Get("RateLimit") != "" {
		t.Errorf("closed: %s %v", resp.Status, resp.Header)
	}
	if body["detail"] != "The quota store did not answer, and this service admits nothing unchecked. Try again in a second." {
		t.Errorf("the client is told %q", body["detail"])
	}
	o.FailOpen = true
	if resp := serve(limiter(t, o), "192.0.2.1:1"); resp.StatusCode != 200 || resp.Header.Get("RateLimit") != "" {
		t.Errorf("open: %s %v", resp.Status, resp.Header)
	}
	if len(events) != 2 || events[0].Allowed || !events[1].Allowed || events[0].Err == nil || events[1].Err == nil {
		t.Errorf("events %+v", events)
	}
}

func TestNewReportsEveryMistake(t *testing.T) {
	_, err := ratelimit.New(ratelimit.Options{Policies: []ratelimit.Policy{
		{Name: "a", Quota: 1, Window: time.Second},
		{Name: "a", Quota: 2, Window: time.Minute},
		{Quota: 0, Window: time.Minute},
		{Concurrent: 3, Quota: 1},
	}})
	want := `ratelimit: policies[1]: "a": stands here twice and would share one count
ratelimit: policies[2].quota: 0: want at least 1
ratelimit: policies[3].concurrent: 3: takes no quota, window, burst, algorithm or lease`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if _, err := ratelimit.New(ratelimit.Options{}); err == nil {
		t.Error("a limiter without policies was made")
	}
}

func TestByIP(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80":                   "192.0.2.1",
		"[::ffff:192.0.2.1]:80":          "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:80":      "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1%eth0]:80": "2001:db8:1:2::/64",
		// NAT64, 6to4 and Teredo: each is one IPv4 client, and not all of them one.
		"[64:ff9b::203.0.113.7]:80":    "203.0.113.7",
		"[64:ff9b::198.51.100.9]:80":   "198.51.100.9",
		"[2002:cb00:7107::1]:80":       "203.0.113.7",
		"[2001:0:1:2:3:4:34ff:8ef8]:1": "203.0.113.7",
		"@":                            "@",
	} {
		if got := ratelimit.ByIP(&http.Request{RemoteAddr: addr}); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(weir.WithCaller(r.Context(), weir.Caller{ID: "key:alice"}))
	if got := ratelimit.ByCaller(r); got != "key:alice" {
		t.Errorf("ByCaller: %s", got)
	}
}

// Policies in shadow are left out of what is told: they may not disturb the order of
// the others, wherever they stand.
func TestShadowsInFrontChangeNoAdvice(t *testing.T) {
	shadow := func(name string) ratelimit.Policy {
		return ratelimit.Policy{Name: name, Quota: 1, Window: time.Second, Shadow: true}
	}
	l := limiter(t, ratelimit.Options{Policies: []ratelimit.Policy{
		shadow("s"), shadow("t"),
		{Name: "short", Quota: 1, Window: 2 * time.Second}, {Name: "long", Quota: 1, Window: time.Hour},
	}})
	serve(l, "192.0.2.1:1")
	resp := serve(l, "192.0.2.1:1")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "3600" || resp.Header.Get("RateLimit-Policy") != `"long";q=1;w=3600, "short";q=1;w=2` {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

func TestLegacyFieldsTellTheTightestPolicy(t *testing.T) {
	store, now := ratelimit.NewMemoryStore(0), time.Now()
	takes := []ratelimit.Take{
		{Policy: prepare(t, ratelimit.Policy{Name: "wide", Quota: 100, Window: time.Minute}), Key: "k", Cost: 1},
		{Policy: prepare(t, ratelimit.Policy{Name: "tight", Quota: 6, Window: time.Minute, Burst: 4}), Key: "k", Cost: 3},
	}
	if _, err := store.Take(t.Context(), takes, now); err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	ratelimit.SetLegacyFields(h, takes)
	want := http.Header{"X-Ratelimit-Limit": {"4"}, "X-Ratelimit-Remaining": {"1"}, "X-Ratelimit-Reset": {"10"}}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("%v, want %v", h, want)
	}
}
