package gateway_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// arrival is a request of a recorded hour.
type arrival struct {
	at     time.Duration // after the hour began, whole milliseconds
	id     string
	key    string
	path   string
	body   string
	leaves time.Duration // after it came, whole milliseconds; 0: never
}

// hour is an hour's traffic: callers of three plans, who repeat themselves and each other,
// and bursts that are too much for the upstream.
func hour(n int, seed uint64, leavers bool) []arrival {
	random := rand.New(rand.NewPCG(seed, 8))
	taken := map[int64]bool{}
	var all []arrival
	add := func(at time.Duration, caller int, body string) {
		ms := at.Milliseconds()
		for taken[ms] { // each has its own millisecond, which is what a log tells apart
			ms++
		}
		taken[ms] = true
		all = append(all, arrival{at: time.Duration(ms) * time.Millisecond, key: fmt.Sprintf("weir_u%d", caller), path: "/v1/chat/completions", body: body})
		if leavers {
			all[len(all)-1].leaves = patience(random)
		}
	}
	prompt := func(which int, tokens int) string {
		sampling := `"temperature":0`
		if which%7 == 0 {
			sampling = `"temperature":1`
		}
		return fmt.Sprintf(`{"model":"m-%d",%s,"stream":%t,"max_tokens":%d,"messages":[{"role":"user","content":"question %d %s"}]}`,
			which%2, sampling, which%10 == 5, tokens, which, strings.Repeat("x", which%200))
	}
	for len(all) < n {
		at := time.Duration(random.Int64N(int64(time.Hour)))
		caller := min(int(random.ExpFloat64()*2), 7)
		switch random.IntN(20) {
		case 0: // a burst of one caller
			for i := range 25 {
				add(at+time.Duration(i*30)*time.Millisecond, caller, prompt(random.IntN(5000), 100))
			}
		case 1: // one that all send
			which := 1 + 7*random.IntN(40)
			for i := range 6 {
				add(at+time.Duration(i*70)*time.Millisecond, i, prompt(which, 50))
			}
		case 2, 3, 4, 5, 6, 7: // a repetition
			add(at, caller, prompt(random.IntN(60), 50))
		default:
			add(at, caller, prompt(random.IntN(5000), 20+random.IntN(200)))
		}
	}
	slices.SortFunc(all, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	for i := range all {
		all[i].id = fmt.Sprintf("r-%06d", i)
	}
	return all
}

// patience is after how long a client leaves, which few do. Nothing else happens at that
// moment: what takes whole milliseconds begins at others.
func patience(random *rand.Rand) time.Duration {
	if random.IntN(40) > 0 {
		return 0
	}
	return time.Duration(100+random.IntN(4000))*time.Millisecond + 321*time.Microsecond
}

// model is an upstream that takes as long for a request as its body says, and tells what
// it used.
func model(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h := fnv.New64a()
	_, _ = h.Write(body)
	sum := h.Sum64()
	var asked struct {
		Model  string
		Stream bool
	}
	_ = json.Unmarshal(body, &asked)
	took := 400*time.Millisecond + time.Duration(sum%2_000_000)*time.Microsecond
	if asked.Stream {
		stream(w, r, asked.Model, took)
		return
	}
	select {
	case <-time.After(took):
	case <-r.Context().Done():
		return
	}
	status, finish := http.StatusOK, "stop"
	if sum%11 == 0 {
		finish = "length"
	}
	answer := fmt.Sprintf(`{"id":"c","object":"chat.completion","model":%q,"choices":[{"index":0,"finish_reason":%q,"message":{"role":"assistant","content":"%s"}}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":0}}`,
		asked.Model, finish, strings.Repeat("y", int(sum%700)), len(body)/4, 10+sum%180)
	switch {
	case sum%97 == 0:
		status, answer = http.StatusInternalServerError, `{"error":{"message":"it broke"}}`
	case sum%89 == 0:
		status, answer = http.StatusNotFound, `{"error":{"message":"no such thing"}}`
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

// stream is an answer whose tokens come one after the other, evenly: a log does not say
// when each came.
func stream(w http.ResponseWriter, r *http.Request, name string, took time.Duration) {
	w.Header().Set("Content-Type", "text/event-stream")
	const tokens = 12
	chunk := func(rest string) {
		say(w, fmt.Sprintf("data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":%q,%s}\n\n", name, rest))
	}
	for i := range tokens {
		select {
		case <-time.After((took / tokens).Truncate(time.Microsecond)):
		case <-r.Context().Done():
			return
		}
		finish := "null"
		if i == tokens-1 {
			finish = `"stop"`
		}
		chunk(fmt.Sprintf(`"choices":[{"index":0,"delta":{"content":"part "},"finish_reason":%s}]`, finish))
	}
	chunk(fmt.Sprintf(`"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":%d,"total_tokens":0}`, tokens))
	say(w, "data: [DONE]\n\n")
}

// live serves all requests at their times, and returns the access log.
func live(t *testing.T, yaml string, all []arrival) []byte {
	t.Helper()
	return liveOf(t, yaml, all, model)
}

// liveOf is live with another upstream.
func liveOf(t *testing.T, yaml string, all []arrival, models http.HandlerFunc) []byte {
	t.Helper()
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		g, err := gateway.New(configured(t, yaml), gateway.Options{Models: models, Log: &log})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now().Add(10 * time.Second)
		var wg sync.WaitGroup
		for _, a := range all {
			time.Sleep(time.Until(began.Add(a.at)))
			synctest.Wait() // what ends at this instant makes room first
			wg.Go(func() {
				r := httptest.NewRequest(http.MethodPost, a.path, strings.NewReader(a.body))
				if a.leaves > 0 {
					ctx, leave := context.WithCancel(r.Context())
					defer leave()
					defer time.AfterFunc(a.leaves, leave).Stop()
					r = r.WithContext(ctx)
					defer func() { _ = recover() }() // as a server does, when its client has left
				}
				r.Header.Set("Authorization", "Bearer "+a.key)
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("X-Request-Id", a.id)
				g.ServeHTTP(httptest.NewRecorder(), r)
			})
			synctest.Wait()
		}
		wg.Wait()
		time.Sleep(time.Minute) // what goes on in the background ends
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return log.Bytes()
}

func configured(t *testing.T, yaml string) *config.Config {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// outcomes are what a log says of the requests in it, read by nothing of the gateway's:
// the result, the status, the policy and the reason of the queue.
func outcomes(t *testing.T, log []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range bytes.Lines(log) {
		var e struct {
			Msg, Cache, Policy, Shed, Upstream string
			ID                                 string `json:"request_id"`
			Status                             int
			Refresh                            bool
			Queue                              float64 `json:"queue_ms"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if e.Msg != "request" || e.Refresh {
			continue
		}
		result := "upstream"
		switch {
		case strings.Contains(e.Cache, "ttl=-"), strings.Contains(e.Cache, "stale-if-error"):
			result = "stale"
		case e.Status == 499:
			result = "left"
		case e.Policy != "":
			result = "denied"
		case e.Shed != "":
			result = "shed"
		case strings.Contains(e.Cache, "collapsed"):
			result = "collapsed"
		case strings.Contains(e.Cache, "hit"):
			result = "hit"
		}
		all[e.ID] = words(result, e.Status, e.Policy, e.Shed, e.Queue)
	}
	return all
}

// words is an outcome, in the words that are compared. How long somebody has waited who
// was sent away, or has left, is not.
func words(result string, status int, policy, shed string, queued float64) string {
	if result != "upstream" {
		queued = 0
	}
	return fmt.Sprintf("%s %d %s%s %.3f ms", result, status, policy, shed, queued)
}

// replayed are what a replay makes of the same requests, in the same words.
func replayed(t *testing.T, yaml string, log []byte) (map[string]string, *gateway.ReplayReport) {
	t.Helper()
	all := map[string]string{}
	report, err := gateway.Replay(t.Context(), configured(t, yaml), bytes.NewReader(log), gateway.ReplayOptions{Each: func(r gateway.ReplayedRequest) {
		_, policy, scoped := strings.Cut(r.New.Policy, " ")
		if !scoped {
			policy = r.New.Policy
		}
		all[r.ID] = words(r.New.Result, r.New.Status, policy, r.New.Shed, r.New.Queued.Seconds()*1000)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return all, report
}

// differences are the requests that were answered otherwise, and how.
func differences(got, want map[string]string) []string {
	var all []string
	for id, w := range want {
		if got[id] != w {
			all = append(all, fmt.Sprintf("%s: got %q, want %q", id, got[id], w))
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			all = append(all, id+": is not in the log")
		}
	}
	slices.Sort(all)
	return all
}

// tallied are the outcomes counted by their first word.
func tallied(outcomes map[string]string) string {
	n := map[string]int{}
	for _, o := range outcomes {
		result, _, _ := strings.Cut(o, " ")
		n[result]++
	}
	return fmt.Sprint(n)
}

const replayCallers = `
callers: {keys: [{caller: u0, key: weir_u0, plan: pro}, {caller: u1, key: weir_u1, plan: pro}, {caller: u2, key: weir_u2, plan: pro},
  {caller: u3, key: weir_u3, plan: batch}, {caller: u4, key: weir_u4}, {caller: u5, key: weir_u5}, {caller: u6, key: weir_u6}, {caller: u7, key: weir_u7}]}
`

// generous refuses nobody and keeps nothing.
const generous = replayCallers + `
plans: {default: {policies: [100000/minute]}, pro: {policies: [100000/minute]}, batch: {policies: [100000/minute]}}
upstreams: {llm: {targets: ["builtin:"], dialect: openai, concurrency: 1000, connections: {max: 2000}, breaker: {failures: 0}, retry: {attempts: 1}}}
routes: [{name: chat, match: {path: /v1/chat/completions}, upstream: llm}]
`

// tight has a bit of everything.
const tight = replayCallers + `
plans:
  default: {policies: [{name: burst, quota: 12, window: 1m, burst: 6}, {name: hourly, quota: 180, window: 1h, algorithm: fixed_window}]}
  pro:
    policies: [{name: rate, quota: 40, window: 1m}, {name: tokens, quota: 3000, window: 1m, unit: tokens, algorithm: sliding_window}, {name: slots, concurrent: 12}]
    weight: 4
  batch: {policies: [{name: daily, quota: 20000, window: 24h, unit: output_tokens, algorithm: fixed_window}], priority: batch}
upstreams:
  llm: {targets: ["builtin:"], dialect: openai, concurrency: 6, queue: {max: 8, max_wait: 4s, keepalive_after: 0s}, connections: {max: 2000}, breaker: {failures: 0}, retry: {attempts: 1}}
routes:
  - name: small
    match: {path: /v1/chat/completions, model: m-1}
    upstream: llm
    policies: [{name: all, quota: 30, window: 1m, by: global}]
    cache: {mode: inference, ttl: 5m, share: plan, stale_while_revalidate: 1m, stale_if_error: 10m}
  - name: chat
    match: {path: /v1/chat/completions}
    upstream: llm
    cache: {mode: inference, ttl: 10m, share: all, charge_hits: true}
`

func TestAReplayIsWhatTheLiveGatewayDoes(t *testing.T) {
	t.Parallel()
	f := func(name, yaml string, recorded, lived []byte, most float64) {
		t.Run(name, func(t *testing.T) {
			want := outcomes(t, lived)
			got, report := replayed(t, yaml, recorded)
			different := differences(got, want)
			share := float64(len(different)) / float64(len(want))
			t.Logf("%d requests, %d differ: live %s, replayed %s", len(want), len(different), tallied(want), tallied(got))
			if share > most {
				t.Errorf("%.2f %% differ, want at most %.2f %%; the first: %s", 100*share, 100*most, strings.Join(different[:min(len(different), 12)], "\n"))
			}
			if report.New.Requests != int64(len(want)) {
				t.Errorf("%d requests were replayed, want %d", report.New.Requests, len(want))
			}
		})
	}
	all := hour(5000, 1, false)
	open, closed := live(t, generous, all), live(t, tight, all)
	allHappens(t, outcomes(t, closed))
	f("under another configuration", tight, open, closed, 0)
	f("under its own", tight, closed, closed, 0)
	f("of what nobody was refused", generous, open, open, 0)
	// Of what was refused nobody knows what the upstream would have said: 500, 404, or 200.
	f("under one that refuses less", generous, closed, open, 0.015)

	// How long a client waits that was answered in time, no log says.
	all = hour(5000, 2, true)
	open, closed = live(t, generous, all), live(t, tight, all)
	f("under another configuration, with clients that leave", tight, open, closed, 0.005)
	f("under its own, with clients that leave", tight, closed, closed, 0.005)
}

// allHappens fails where something does not happen that an hour is to show.
func allHappens(t *testing.T, outcomes map[string]string) {
	t.Helper()
	seen := map[string]int{}
	for _, o := range outcomes {
		for _, word := range strings.Fields(o) {
			seen[word]++
		}
	}
	for _, word := range []string{"upstream", "hit", "stale", "collapsed", "burst", "hourly", "tokens", "slots", "daily", "expired", "wait_too_long", "404", "500"} {
		if seen[word] < 3 {
			t.Errorf("%s happened %d times in the hour, want 3 or more: %v", word, seen[word], seen)
		}
	}
}
