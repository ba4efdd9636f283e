//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// TestJobsDatabaseAway takes the database away under load. Requests do not notice it,
// jobs are refused with advice meanwhile, and the ledger misses nothing afterwards.
func TestJobsDatabaseAway(t *testing.T) {
	t.Parallel()
	weir := programs.path(t, "weir")
	away := 4 * time.Second
	if _, set := soak(t); set {
		away = 30 * time.Second
	}
	t.Run("because it was killed", func(t *testing.T) {
		t.Parallel()
		server := storetest.Postgres(t)
		loseDatabase(t, newLosing(t, weir, server.URL()), loss{server.Stop, server.Start, away})
	})
	t.Run("because it answers nothing", func(t *testing.T) {
		t.Parallel()
		server := storetest.Postgres(t)
		loseDatabase(t, newLosing(t, weir, server.URL()), loss{server.Pause, server.Resume, away})
	})
}

// loss is how the database goes and comes back, and how long that takes.
type loss struct {
	begin, end func()
	away       time.Duration
}

func loseDatabase(t *testing.T, l *losing, how loss) {
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	callers.Go(func() { l.chats(ctx) })
	callers.Go(func() { l.handIns(ctx) })

	pause(ctx, 2*time.Second)
	eventually(t, "jobs run", func() bool { return l.long.Load() == longJobs })
	began := time.Now()
	how.begin()
	pause(ctx, how.away/2)
	close(l.release) // what runs ends while nobody can write that down
	pause(ctx, time.Until(began.Add(how.away)))
	ended := time.Now()
	how.end()
	eventually(t, "jobs are taken again", func() bool { return l.takenSince(ended) >= 5 })
	back := time.Since(ended)
	pause(ctx, time.Second)
	stop()
	callers.Wait()

	l.checkChats(t, began, ended)
	l.checkHandIns(t, began, ended)
	l.awaitEnds(t)
	l.checkLedger(t)
	l.problems.report(t)
	t.Logf("jobs were taken again %s after the database was asked to come back", back.Round(time.Millisecond))
}

// longJobs is how many jobs run when the database goes.
const longJobs = 3

// losing is a weir that loses its database, and its callers.
type losing struct {
	*process
	people, nightly *http.Client // with keys of their own
	long            atomic.Int64 // jobs that run until release is closed
	release         chan struct{}
	problems        complaints
	still           *standstills

	mu            sync.Mutex
	input, output int64 // tokens that the model was used for
	chatted       []chatted
	handed        []handedIn
}

// chatted is a request that somebody waited for.
type chatted struct {
	sent time.Time
	took time.Duration
}

// handedIn is a request that was to be a job.
type handedIn struct {
	sent time.Time
	took time.Duration
	id   string // "" where it was refused
}

func newLosing(t *testing.T, weir, url string) *losing {
	t.Helper()
	l := &losing{release: make(chan struct{}), still: watchStandstills(t)}
	l.process = start(t, jobsConfig(t, url, newHook(t, l.serve).URL), weir)
	l.people, l.nightly = l.keyed(t, weir, "people"), l.keyed(t, weir, "nightly")
	return l
}

// serve is the model of both.
func (l *losing) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !pause(r.Context(), 5*time.Millisecond) {
		return
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		l.mu.Lock()
		input, output := 3+int64(len(l.chatted)%17), 1+int64(len(l.chatted)%5)
		l.input, l.output = l.input+input, l.output+output
		l.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi."},"finish_reason":"stop"}],`+
			`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`, input, output, input+output)
		return
	case strings.HasPrefix(string(body), "long"):
		l.long.Add(1)
		select {
		case <-l.release:
		case <-r.Context().Done():
			return
		}
	}
	_, _ = fmt.Fprintf(w, "done: %s", body)
}

// keyed is a client with a key that the database keeps.
func (l *losing) keyed(t *testing.T, weir, caller string) *http.Client {
	t.Helper()
	out, err := exec.Command(weir, "key", "create", "--caller", caller, "--admin", l.admin).Output()
	if err != nil {
		t.Fatalf("weir key create: %v", err)
	}
	inner := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(inner.CloseIdleConnections)
	return &http.Client{Transport: keyedTransport{inner, strings.TrimSpace(string(out))}, Timeout: patience}
}

type keyedTransport struct {
	inner *http.Transport
	key   string
}

// RoundTrip implements http.RoundTripper.
func (k keyedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+k.key)
	return k.inner.RoundTrip(r)
}

// chats sends a request every 20 ms, whatever becomes of those before.
func (l *losing) chats(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	for pause(ctx, 20*time.Millisecond) {
		group.Go(l.chatOnce)
	}
}

func (l *losing) chatOnce() {
	body := `{"model":"m","messages":[{"role":"user","content":"Hello?"}],"max_tokens":9}`
	sent := time.Now()
	resp, err := l.people.Post(l.base+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		l.problems.add("a request: %v", err)
		return
	}
	a, err := read(resp)
	if err != nil || a.Status != http.StatusOK || !strings.Contains(a.Body, `"content":"Hi."`) {
		l.problems.add("a request: %d %s %v, want the model's answer", a.Status, a.Body, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chatted = append(l.chatted, chatted{sent, time.Since(sent)})
}

// handIns hands in jobs that run for long, and then one more every 50 ms.
func (l *losing) handIns(ctx context.Context) {
	for n := 0; pause(ctx, 50*time.Millisecond); n++ {
		body := fmt.Sprintf("job %d", n)
		if n < longJobs {
			body = "long " + body
		}
		sent := time.Now()
		id, err := handIn(context.Background(), l.nightly, l.base, body, body)
		if err != nil && !errors.Is(err, errNotNow) {
			l.problems.add("a job: %v", err)
		}
		l.mu.Lock()
		l.handed = append(l.handed, handedIn{sent, time.Since(sent), id})
		l.mu.Unlock()
	}
}

// takenSince is how many jobs were acknowledged that were sent since then.
func (l *losing) takenSince(since time.Time) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.handed {
		if h.id != "" && h.sent.After(since) {
			n++
		}
	}
	return n
}

// checkChats says how long people waited with and without the database. The limit is
// far from noise: it is there for a request that waits for the database in any way,
// which takes two seconds to be found away.
func (l *losing) checkChats(t *testing.T, began, ended time.Time) {
	t.Helper()
	const most = 1500 * time.Millisecond
	var with, without []time.Duration
	for _, c := range l.chatted {
		switch {
		case l.still.hit(c.sent, c.sent.Add(c.took)):
		case c.sent.After(began) && c.sent.Before(ended):
			without = append(without, c.took)
		default:
			with = append(with, c.took)
		}
	}
	for _, took := range []struct {
		what string
		all  []time.Duration
	}{{"with the database", with}, {"without it", without}} {
		slices.Sort(took.all)
		n := len(took.all)
		if n < 20 {
			t.Fatalf("%d requests %s, want 20 and more", n, took.what)
		}
		t.Logf("%d requests %s: p50 %s, p95 %s, p99 %s, most %s", n, took.what, took.all[n/2], took.all[n*95/100], took.all[n*99/100], took.all[n-1])
	}
	if slowest := without[len(without)-1]; slowest > most && slowest > 2*with[len(with)-1] {
		t.Errorf("a request took %s while the database was away, want at most %s", slowest, most)
	}
}

// checkHandIns checks that jobs were refused while the database was away, and at once
// when that was known.
func (l *losing) checkHandIns(t *testing.T, began, ended time.Time) {
	t.Helper()
	const known = 3 * time.Second // after the outage began
	taken, refused, slowest := 0, 0, time.Duration(0)
	for _, h := range l.handed {
		away := h.sent.After(began) && h.sent.Before(ended)
		switch {
		case l.still.hit(h.sent, h.sent.Add(h.took)):
		case h.id != "" && h.sent.After(began.Add(known)) && h.sent.Add(h.took).Before(ended):
			taken++
		case h.id == "" && away:
			refused++
			if h.sent.After(began.Add(known)) {
				slowest = max(slowest, h.took)
			}
		case h.id == "" && h.sent.Before(began.Add(-time.Second)):
			t.Error("a job was refused before the database was away")
		}
	}
	t.Logf("%d of %d jobs were refused; when it was known, at most within %s", refused, len(l.handed), slowest)
	if taken > 0 || refused == 0 {
		t.Errorf("while the database was away %d jobs were taken and %d refused, want all refused", taken, refused)
	}
}

// awaitEnds waits until every acknowledged job has its answer.
func (l *losing) awaitEnds(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	attempts := map[int]int{}
	for _, h := range l.handed {
		for h.id != "" {
			j, err := look(ctx, l.nightly, l.base, h.id)
			if err != nil || j.ended() && j.State != "completed" {
				l.problems.add("a job that was acknowledged: %+v %v, want it completed", j, err)
				break
			}
			if j.ended() {
				attempts[j.Attempt]++
				break
			}
			if !pause(ctx, 20*time.Millisecond) {
				t.Fatalf("job %s has not ended: %+v; stderr:\n%s", h.id, j, &l.stderr)
			}
		}
	}
	t.Logf("jobs by the number of attempts: %v", attempts)
}

// used is a row of the ledger.
type used struct {
	Requests, Refused, Errors int64
	Input                     int64 `json:"input_tokens"`
	Output                    int64 `json:"output_tokens"`
}

// checkLedger compares what the ledger has with what was served.
func (l *losing) checkLedger(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	accepted, refused := int64(0), int64(0)
	for _, h := range l.handed {
		if h.id != "" {
			accepted++
		} else {
			refused++
		}
	}
	want := map[string]used{
		"key:people":  {Requests: int64(len(l.chatted)), Input: l.input, Output: l.output},
		"key:nightly": {Requests: accepted + refused, Refused: refused},
	}
	a := fetch(t, l.client, l.admin+"/api/v1/usage?by=caller")
	var answer struct {
		Rows []struct {
			Caller string
			used
		}
	}
	if err := json.NewDecoder(bytes.NewBufferString(a.Body)).Decode(&answer); err != nil {
		t.Fatalf("%s: %v", a.Body, err)
	}
	got := map[string]used{}
	for _, row := range answer.Rows {
		got[row.Caller] = row.used
	}
	for caller, want := range want {
		if got[caller] != want {
			t.Errorf("the ledger has %+v of %s, want %+v", got[caller], caller, want)
		}
	}
	t.Logf("the ledger: %+v", got)
}
