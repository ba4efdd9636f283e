//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestModelServers has model servers that fail and clients that leave, all in
// processes and connections of their own.
func TestModelServers(t *testing.T) {
	weir, fakeengine := programs.path(t, "weir"), programs.path(t, "fakeengine")
	t.Run("that are killed and paused under load cost only what they had begun", func(t *testing.T) { failingModels(t, weir, fakeengine) })
	t.Run("stop working for clients that leave", func(t *testing.T) { leavingClients(t, weir, fakeengine) })
}

// traffic is requests that come at their times, whatever becomes of those before.
type traffic struct {
	*fleet
	group sync.WaitGroup

	mu    sync.Mutex
	calls []*call        // that ended
	open  map[string]int // streams that have begun and not ended, by who answers
}

// run begins a request at each tick until ctx ends, every second one for a stream.
func (l *traffic) run(ctx context.Context, tick time.Duration) {
	const most = 6000 // calls: far more than there is time for
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for i := range most {
		select {
		case <-ticker.C:
			l.group.Go(func() { l.one(&call{id: fmt.Sprintf("call-%d", i), stream: i%2 == 0, tokens: 60}) })
		case <-ctx.Done():
			return
		}
	}
}

func (l *traffic) one(c *call) {
	begun := "" // who answers, once it is known
	l.do(context.Background(), c, func() {
		if begun == "" {
			begun = c.by
			l.mu.Lock()
			l.open[begun]++
			l.mu.Unlock()
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, c)
	if begun != "" {
		l.open[begun]--
	}
}

// count is how many of the calls that ended are so.
func (l *traffic) count(so func(*call) bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if so(c) {
			n++
		}
	}
	return n
}

// awaitStreams waits until a model server is in the middle of several streams.
func (l *traffic) awaitStreams(t *testing.T, by string) {
	t.Helper()
	eventually(t, "streams of "+by, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.open[by] >= 4
	})
}

// awaitUse waits until a model server answers requests that were sent after a time, and
// returns how long that took.
func (l *traffic) awaitUse(t *testing.T, by string, since time.Time) time.Duration {
	t.Helper()
	eventually(t, by+" is used again", func() bool {
		return l.count(func(c *call) bool { return c.complete && c.by == by && c.sent.After(since) }) >= 3
	})
	return l.still.since(since)
}

// outage is when a model server was away: what is sent in this time must be answered by
// others.
type outage struct{ began, ejected, ended, back time.Time }

// hits reports whether c can have been at the model server when that failed, or have
// been sent to it before that was known.
func (o *outage) hits(c *call) bool { return c.sent.Before(o.ejected) && c.ended.After(o.began) }

// awaitOthers waits until there are calls to judge that were sent after the outage was
// known.
func (l *traffic) awaitOthers(t *testing.T, o outage) {
	t.Helper()
	eventually(t, "calls end that were sent after a model server was left out", func() bool {
		return l.count(func(c *call) bool { return c.sent.After(o.ejected) && !l.still.hit(c.sent, c.ended) }) >= 8
	})
}

// kill ends a model server in the middle of streams, and starts it again.
func (l *traffic) kill(t *testing.T, m *modelServer) (o outage) {
	t.Helper()
	l.awaitStreams(t, m.name)
	o.began = time.Now()
	m.kill()
	o.ejected = l.awaitClosed(t, 1)
	<-time.After(time.Until(o.began.Add(time.Second)))
	l.awaitOthers(t, o)
	o.ended = time.Now()
	m.start(t)
	o.back = l.awaitClosed(t, 0)
	return o
}

// pause stops a model server in the middle of streams, for longer than all timeouts.
func (l *traffic) pause(t *testing.T, m *modelServer) (o outage) {
	t.Helper()
	l.awaitStreams(t, m.name)
	o.began = time.Now()
	m.signal(t, syscall.SIGSTOP)
	o.ejected = l.awaitClosed(t, 1)
	<-time.After(time.Until(o.began.Add(2500 * time.Millisecond)))
	l.awaitOthers(t, o)
	o.ended = time.Now()
	m.signal(t, syscall.SIGCONT)
	o.back = l.awaitClosed(t, 0)
	return o
}

// check says what an outage did to the calls, and fails where it did more than it must.
func (l *traffic) check(t *testing.T, what string, o outage) {
	t.Helper()
	during := func(c *call) bool {
		return c.sent.After(o.ejected) && c.sent.Before(o.ended) && !l.still.hit(c.sent, c.ended)
	}
	all, well := l.count(during), l.count(func(c *call) bool { return during(c) && c.complete })
	hit := func(c *call) bool { return !c.complete && o.hits(c) }
	streams, wholes := l.count(func(c *call) bool { return hit(c) && c.text != "" }), l.count(func(c *call) bool { return hit(c) && !c.stream })
	t.Logf("%s: left out after %s, back %s after its return; %d of %d sent meanwhile were answered; %d streams and %d plain calls were cut, %d calls in all",
		what, o.ejected.Sub(o.began), o.back.Sub(o.ended), well, all, streams, wholes, l.count(hit))
	if all < 5 || float64(well) < 0.95*float64(all) {
		t.Errorf("%s: %d of %d calls that were sent while it was left out were answered, want 95 %% of 5 and more", what, well, all)
	}
	if streams == 0 {
		t.Errorf("%s: no stream was cut: nothing was tried", what)
	}
}

func failingModels(t *testing.T, weir, fakeengine string) {
	l := &traffic{fleet: startFleet(t, weir, fakeengine, "probe: {path: /health, interval: 500ms}", "concurrency: {min: 32, max: 128}"), open: map[string]int{}}
	first := &call{id: "first", tokens: 60}
	l.do(t.Context(), first, func() {})
	if !first.complete || len(first.text) != 4*first.tokens {
		t.Fatalf("before anything failed: %+v", first)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer l.group.Wait()
	defer stop()
	l.group.Go(func() { l.run(ctx, 16*time.Millisecond) })

	a, b := l.models[0], l.models[1]
	l.awaitStreams(t, "c")
	killed := l.kill(t, a)
	usedA := l.awaitUse(t, a.name, killed.back)
	paused := l.pause(t, b)
	usedB := l.awaitUse(t, b.name, paused.back)
	l.awaitUse(t, a.name, paused.back)
	l.awaitUse(t, "c", paused.back)
	stop()
	l.group.Wait()

	idle := l.awaitIdle(t, 5*time.Second)
	t.Logf("%d calls; used again after %s and %s; idle after %s", len(l.calls), usedA, usedB, idle)
	l.check(t, "killed", killed)
	l.check(t, "paused", paused)
	if usedA > 10*time.Second || usedB > 10*time.Second {
		t.Errorf("used again %s and %s after they were back, want at most 10s", usedA, usedB)
	}
	spared := func(c *call) bool {
		return (c.by == "c" || !killed.hits(c) && !paused.hits(c)) && !l.still.hit(c.sent, c.ended)
	}
	if all, well := l.count(spared), l.count(func(c *call) bool { return spared(c) && c.complete }); float64(well) < 0.95*float64(all) {
		t.Errorf("%d of %d calls were complete that no outage can have hit, want 95 %%", well, all)
	}
	l.checkCalls(t, first.text)
	if log := l.stderr.String(); strings.Contains(log, "panic") {
		t.Errorf("log =\n%s", log)
	}
}

// checkCalls checks each call by itself: that it ended as it may, and that it was worked
// on once if it has an answer, and at most once in any case.
func (l *traffic) checkCalls(t *testing.T, text string) {
	t.Helper()
	at := l.taken(t)
	for _, m := range l.models {
		life := modelServer{lives: m.lives[len(m.lives)-1:]}
		if s, told := m.stats(t, l.client), len(life.taken()); s.Received != told || s.Requests != told {
			t.Errorf("%s got %d requests and worked on %d, and told of %d", m.name, s.Received, s.Requests, told)
		}
	}
	for _, c := range l.calls {
		if wrong := c.wrong(text); wrong != "" {
			t.Errorf("%s, sent to %s: %s", c.id, at[c.id], wrong)
		}
		if c.by != "" && at[c.id] != c.by {
			t.Errorf("%s was answered by %s and worked on at %q", c.id, c.by, at[c.id])
		}
	}
}

// leave is a client that leaves at a moment of its own: in the middle of a stream, or
// after a time, in which there may be no answer yet, or not even a place for it.
func (f *fleet) leave(i int) *call {
	random := rand.New(rand.NewPCG(1, uint64(i)))
	c := &call{id: fmt.Sprintf("leaver-%d", i), stream: i%3 > 0, tokens: 500}
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	if events := 1 + random.IntN(20); i%3 == 1 {
		f.do(ctx, c, func() {
			if events--; events == 0 {
				leave()
			}
		})
		return c
	}
	defer time.AfterFunc(time.Duration(random.Int64N(int64(300*time.Millisecond))), leave).Stop()
	f.do(ctx, c, func() {})
	return c
}

func leavingClients(t *testing.T, weir, fakeengine string) {
	// A few places fewer than clients: some leave while they wait.
	const leavers, atOnce, stayEvery = 2000, 100, 20
	f := startFleet(t, weir, fakeengine, "probe: {path: /health, interval: 2s, timeout: 2s}", "concurrency: {min: 16, max: 24}")
	left, stayed := make([]*call, leavers), make([]*call, leavers/stayEvery)
	var next atomic.Int64
	var clients sync.WaitGroup
	for range atOnce {
		clients.Go(func() {
			for i := next.Add(1) - 1; i < leavers; i = next.Add(1) - 1 {
				left[i] = f.leave(int(i))
				if i%stayEvery == 0 {
					c := &call{id: fmt.Sprintf("stays-%d", i), stream: i%(2*stayEvery) == 0, tokens: 20}
					f.do(context.Background(), c, func() {})
					stayed[i/stayEvery] = c
				}
			}
		})
	}
	clients.Wait()
	idle := f.awaitIdle(t, 5*time.Second)
	f.checkLeft(t, left, idle)
	f.checkStayed(t, stayed)
}

// checkStayed checks that those who stayed among the others have lost nothing.
func (f *fleet) checkStayed(t *testing.T, stayed []*call) {
	t.Helper()
	text := ""
	for _, c := range stayed {
		if len(c.text) == 4*c.tokens {
			text = c.text
		}
	}
	if text == "" {
		t.Fatalf("the first that stayed: %+v", stayed[0])
	}
	for _, c := range stayed {
		if wrong := c.wrong(text); wrong != "" || !c.complete && !f.still.hit(c.sent, c.ended) {
			t.Fatalf("%s, who stayed: %s %+v", c.id, wrong, c)
		}
	}
}

// checkLeft checks that all that were worked on were stopped soon after they left.
func (f *fleet) checkLeft(t *testing.T, left []*call, idle time.Duration) {
	t.Helper()
	cancels := f.cancels(t)
	at := f.taken(t)
	streams, before, elsewhere, unread := 0, 0, 0, 0
	late, wrong := []time.Duration{}, []string{}
	for _, c := range left {
		cancel, noticed := cancels[c.id]
		switch {
		case f.still.hit(c.sent, c.ended.Add(time.Second)): // it may have been cut off before it could leave
			continue
		case !errors.Is(c.err, context.Canceled):
			wrong = append(wrong, fmt.Sprintf("%s ended %s after it was sent, before it could leave: at %s with %d, %d bytes of text, complete: %t, failure %q, error %v",
				c.id, c.ended.Sub(c.sent), at[c.id], c.status, len(c.text), c.complete, c.failure, c.err))
			continue
		case (at[c.id] != "") != noticed:
			wrong = append(wrong, fmt.Sprintf("%s was worked on at %q, and that it left was noticed: %t", c.id, at[c.id], noticed))
			continue
		case c.text != "":
			streams++
			unread += cancel.Tokens - len(c.text)/4
		case noticed:
			before++
		default:
			elsewhere++
			continue
		}
		late = append(late, max(0, cancel.At.Sub(c.ended)))
	}
	if len(wrong) > 0 {
		t.Errorf("%d went wrong; the first: %s", len(wrong), wrong[0])
	}
	if streams < 500 || before < 50 || f.metric(t, "weir_admission_left_total") == 0 {
		t.Fatalf("%d left in a stream, %d before their answer, %d before they were worked on: want some of each", streams, before, elsewhere)
	}
	slices.Sort(late)
	median, most, last := late[len(late)/2], late[len(late)*99/100], late[len(late)-1]
	tokens := float64(unread) / float64(streams)
	t.Logf("%d left in a stream, %d before their answer, %d before they were worked on", streams, before, elsewhere)
	t.Logf("work stopped %s after they left (median), %s (99 of 100), %s (the last); idle after %s; %.2f tokens for each stream went unread", median, most, last, idle, tokens)
	if most > 2*time.Second || tokens > 20 {
		t.Errorf("work went on for %s after 99 of 100 had left and made %.2f tokens for each stream, want at most 2s and 20 tokens", most, tokens)
	}
}

// cancels are the clients that the model servers saw leave, by user.
func (f *fleet) cancels(t *testing.T) map[string]modelCancel {
	t.Helper()
	cancels := map[string]modelCancel{}
	for _, m := range f.models {
		var all []modelCancel
		m.ask(t, f.client, "/debug/cancels", &all)
		for _, c := range all {
			cancels[c.User] = c
		}
	}
	return cancels
}
