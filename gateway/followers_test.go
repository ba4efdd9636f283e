package gateway_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// followed is a gateway that charges for answers from the cache, too. Both policies in
// tokens count leader and followers together.
const followed = `
limits: {auth_failures: 0}
plans:
  default:
    policies:
      - {name: t, quota: 1000, unit: tokens, window: 30d}
      - {name: all, quota: 1000, unit: tokens, window: 30d, by: global}
      - {name: in, quota: 1000, unit: input_tokens, window: 30d}
      - {name: out, quota: 1000, unit: output_tokens, window: 30d}
      - {name: r, quota: 1000, window: 30d}
      - {name: s, concurrent: 1}
upstreams: {llm: {targets: ["TARGET"], dialect: openai, retry: {attempts: 1}}}
routes:
  - {name: look, match: {path: /look}, upstream: llm, max_body: 100}
  - {name: chat, match: {path: /*}, upstream: llm, cache: {mode: inference, ttl: 1m, charge_hits: true}}
`

// The prompt is 8 tokens as it is estimated, and 9 as the model reports.
const (
	toldStream   = `{"model":"m","temperature":0,"max_tokens":50,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}`
	untoldStream = `{"model":"m","temperature":0,"max_tokens":50,"stream":true,"messages":[{"role":"user","content":"hi"}]}`

	aDelta  = `data: {"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}` + "\n\n"
	itsEnd  = `data: {"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	itsUse  = `data: {"object":"chat.completion.chunk","model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}` + "\n\n"
	itsDone = "data: [DONE]\n\n"
)

// inFront serves a configuration in front of h.
func inFront(t *testing.T, yaml string, h http.Handler) *instance {
	t.Helper()
	origin := httptest.NewServer(h)
	t.Cleanup(origin.Close)
	return launch(t, strings.Replace(yaml, "TARGET", origin.URL, 1))
}

// comesTo waits until this is left of some policies: a request may be settled when its
// client has the last byte.
func (w *instance) comesTo(want map[string]int64) {
	w.t.Helper()
	for deadline := time.Now().Add(eventually); ; {
		a, got := w.send("POST", "/look", strings.Repeat("x", 200)), map[string]int64{}
		for name := range want {
			got[name] = a.remaining(name)
		}
		switch {
		case maps.Equal(got, want):
			return
		case time.Now().After(deadline):
			w.t.Fatalf("left: %v, want %v", got, want)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// parts streams its first part, and the second when the gate is open.
func parts(g *gate, first, second string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		say(w, first)
		if g.wait(r) {
			say(w, second)
		}
	}
}

func TestFollowersPayForTheStreamThatTheyRead(t *testing.T) {
	t.Parallel()
	f := func(name, yaml, body, second string, want map[string]int64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate()
			c := &counted{h: parts(g, aDelta, second)}
			w := inFront(t, yaml, c)
			leader := w.open("POST", chats, body)
			leader.sees(aDelta)
			follower := w.open("POST", chats, body)
			follower.sees(aDelta)
			g.open()
			a, b := leader.rest(), follower.rest()
			if a.body != b.body || c.calls.Load() != 1 || !strings.Contains(b.header.Get("Cache-Status"), "collapsed") {
				t.Errorf("%d calls; the leader has %v, the follower %v", c.calls.Load(), a, b)
			}
			w.comesTo(want)
		})
	}
	whole := itsEnd + itsUse + itsDone
	f("as it says itself", followed, toldStream, whole, map[string]int64{"t": 972, "all": 972, "in": 982, "out": 990, "r": 998, "s": 1})
	f("as it is estimated, where that is taken out", followed, untoldStream, whole, map[string]int64{"t": 977, "all": 977, "in": 983, "out": 994, "r": 998, "s": 1})
	f("which is not stored", followed, toldStream, strings.Replace(whole, `"stop"`, `"length"`, 1), map[string]int64{"t": 972, "all": 972, "in": 982, "out": 990, "r": 998})
	f("which broke off", followed, untoldStream, aDelta, map[string]int64{"t": 980, "all": 980, "in": 984, "out": 996, "r": 998})
	f("which is larger than is kept", strings.Replace(followed, "ttl: 1m", "ttl: 1m, max_entry: 512B", 1), toldStream, strings.Repeat(aDelta, 3)+whole,
		map[string]int64{"t": 972, "all": 972, "in": 982, "out": 990, "r": 998})
	f("and nothing where that is not charged", strings.Replace(followed, "charge_hits: true", "charge_hits: false", 1), toldStream, whole,
		map[string]int64{"t": 986, "all": 986, "in": 991, "out": 995, "r": 999})
}

func TestFollowersThatLeavePayAsAnyClientThatLeaves(t *testing.T) {
	t.Parallel()
	g := newGate()
	w := inFront(t, followed, parts(g, aDelta+aDelta, itsEnd+itsUse+itsDone))
	leader := w.open("POST", chats, toldStream)
	leader.sees(aDelta + aDelta)
	follower := w.open("POST", chats, toldStream)
	follower.sees(aDelta + aDelta)
	follower.leave()
	w.comesTo(map[string]int64{"t": 1000 - 58 - 10, "r": 998}) // the leader has reserved 58; its prompt and two tokens are used
	g.open()
	leader.rest()
	w.comesTo(map[string]int64{"t": 976, "all": 976, "in": 983, "out": 993, "r": 998, "s": 1})
}

func TestFollowersThatLeaveBeforeTheAnswerPayForThePrompt(t *testing.T) {
	t.Parallel()
	u := &usedUp{hold: make(chan struct{}), input: 9, output: 5}
	w := inFront(t, followed, u)
	body := strings.Replace(hi, `"m"`, `"m","temperature":0`, 1)
	done := make(chan answer, 2)
	go func() { done <- w.send("POST", chats, body) }()
	w.until(func() bool { return u.calls.Load() == 1 })
	ctx, leave := context.WithCancel(t.Context())
	go func() { done <- w.sendCtx(ctx, "POST", chats, body) }()
	w.comesTo(map[string]int64{"r": 998})
	leave()
	after(t, "the client has left", done)
	w.comesTo(map[string]int64{"t": 1000 - 58 - 8, "in": 984, "out": 950, "r": 998})
	close(u.hold)
	after(t, "the leader's answer", done)
	w.comesTo(map[string]int64{"t": 1000 - 14 - 8, "r": 998})
}

func TestFollowersOfWhatBroughtNothingPayNothing(t *testing.T) {
	t.Parallel()
	g := newGate()
	w := inFront(t, followed, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		g.wait(r)
		panic(http.ErrAbortHandler)
	}))
	done := make(chan answer, 2)
	for n := range int64(2) {
		go func() { done <- w.send("POST", chats, untoldStream) }()
		w.comesTo(map[string]int64{"r": 999 - n})
	}
	g.open()
	for range 2 {
		if a := after(t, "the failure", done); a.status != http.StatusBadGateway {
			t.Errorf("%v", a)
		}
	}
	w.comesTo(map[string]int64{"t": 1000, "all": 1000, "in": 1000, "out": 1000, "r": 1000, "s": 1})
}

// What is not kept has spared its followers the call all the same.
func TestFollowersSaveTheTokensOfWhatIsNotStored(t *testing.T) {
	t.Parallel()
	f := func(name, yaml, second string, want int64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate()
			w := inFront(t, yaml, parts(g, aDelta, second))
			leader := w.open("POST", chats, toldStream)
			leader.sees(aDelta)
			follower := w.open("POST", chats, toldStream)
			follower.sees(aDelta)
			g.open()
			leader.rest()
			follower.rest()
			metric := `weir_cache_saved_tokens_total{route="chat"}`
			w.until(func() bool { return strings.Count(w.log.String(), `"route":"chat"`) == 2 })
			if got := w.metric(metric); got != strconv.FormatInt(want, 10) {
				t.Errorf("%s is %q, want %d", metric, got, want)
			}
		})
	}
	length := strings.Replace(itsEnd, `"stop"`, `"length"`, 1)
	f("a stream that is stored", followed, itsEnd+itsUse+itsDone, 14)
	f("one that a length limit ended", followed, length+itsUse+itsDone, 14)
	f("one that is larger than is kept", strings.Replace(followed, "ttl: 1m", "ttl: 1m, max_entry: 512B", 1), strings.Repeat(aDelta, 3)+itsEnd+itsUse+itsDone, 14)
	f("one that broke off saves none", followed, "", 0)
}

// Every hit reads the stored stream for what it used: at once, and none changes it.
func TestManyChargedHitsOfAStreamAtOnce(t *testing.T) {
	t.Parallel()
	g := newGate()
	g.open()
	w := inFront(t, followed, parts(g, aDelta, itsEnd+itsUse+itsDone))
	w.send("POST", chats, toldStream)
	for _, a := range atOnce(20, func(int) answer { return w.send("POST", chats, toldStream) }) {
		if !a.hit() {
			t.Errorf("%v", a)
		}
	}
	w.comesTo(map[string]int64{"t": 1000 - 21*14, "all": 706, "in": 811, "out": 895, "r": 979, "s": 1})
}
