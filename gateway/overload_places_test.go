package gateway_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// inOrder serves n calls, and returns their paths in the order in which they came.
func (d *desk) inOrder(t *testing.T, n int) (paths []string) {
	t.Helper()
	for range n {
		v := d.next(t)
		paths = append(paths, v.r.URL.Path)
		v.ends("x")
	}
	return paths
}

func TestRequestsOfOneCallerGoInTheOrderInWhichTheyCame(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.ReplaceAll(narrow, "DIALECT", "plain"), d)
	first := w.later("GET", "/0", "")
	running := d.next(t)
	rest := w.queued(nil, "/1", "/2", "/3", "/4")
	d.nobody(t) // one at a time
	running.ends("x")
	if got, want := d.inOrder(t, 4), []string{"/1", "/2", "/3", "/4"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
	for _, q := range append(rest, first) {
		if a := q.got(); !a.is(200, "x") {
			t.Error(a)
		}
	}
	w.isIdle()
}

func TestCallersTakeTurns(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.ReplaceAll(narrow, "DIALECT", "plain"), d)
	w.later("GET", "/", "", of(0)...)
	running := d.next(t)
	w.queued(of(1), "/greedy", "/greedy", "/greedy", "/greedy", "/greedy", "/greedy")
	w.queued(of(2), "/other", "/other", "/other")
	running.ends("x")
	got := d.inOrder(t, 9)
	for i := 0; i < 6; i += 2 {
		if got[i] == got[i+1] {
			t.Fatalf("served %v: want each in turn as long as both wait", got)
		}
	}
	w.isIdle()
}

const plans = `
callers: {keys: [{caller: c, key: weir_c, plan: first}, {caller: s, key: weir_s}, {caller: b, key: weir_b, plan: last}, {caller: h, key: weir_h, plan: heavy}]}
plans: {first: {priority: critical}, last: {priority: batch}, heavy: {weight: 3}}
upstreams: {u: {targets: [T0], concurrency: 1, queue: {max: 64, max_wait: 1h}}}
routes: [{match: {path: /*}, upstream: u}]
`

func TestHigherClassesGoFirst(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, plans, d)
	w.later("GET", "/", "")
	running := d.next(t)
	for _, who := range []string{"b", "s", "c"} {
		w.queued([]string{"X-Api-Key", "weir_" + who}, "/"+who+"1", "/"+who+"2")
	}
	for class, want := range map[string]float64{"critical": 2, "standard": 2, "batch": 2} {
		if got := w.total("weir_admission_waiting", `class="`+class+`"`); got != want {
			t.Errorf("%v of class %s wait, want %v", got, class, want)
		}
	}
	running.ends("x")
	if got, want := d.inOrder(t, 6), []string{"/c1", "/c2", "/s1", "/s2", "/b1", "/b2"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
	w.isIdle()
}

// The plans' own tests are of what they say; this one is of what reaches the queue,
// before and after the policies of a plan are changed.
func TestCallersShareByWeight(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, plans, d)
	for _, when := range []string{"as configured", "after a change of the plan's policies"} {
		w.later("GET", "/", "", "X-Api-Key", "weir_c")
		running := d.next(t)
		w.queued([]string{"X-Api-Key", "weir_s"}, "/s", "/s", "/s", "/s", "/s", "/s", "/s", "/s")
		w.queued([]string{"X-Api-Key", "weir_h"}, "/h", "/h", "/h", "/h", "/h", "/h", "/h", "/h", "/h")
		running.ends("x")
		got, heavy := d.inOrder(t, 17), 0
		for _, path := range got[:12] {
			if path == "/h" {
				heavy++
			}
		}
		if heavy < 8 || heavy > 10 { // all that there are is 9
			t.Errorf("%s: served %v: want about three of /h for one of /s", when, got)
		}
		w.isIdle()
		for _, plan := range []string{"heavy", "first"} {
			setPolicies(t, w.gateway, plan, policiesOf("1000/minute"))
			if p := w.gateway.Config().Plans[plan]; plan == "heavy" && p.Weight != 3 || plan == "first" && p.Priority != "critical" {
				t.Errorf("%s is now %+v", plan, p)
			}
		}
	}
}

func TestChangedPoliciesKeepAPlansPriority(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, plans, d)
	setPolicies(t, w.gateway, "first", policiesOf("1000/minute"))
	w.later("GET", "/", "")
	running := d.next(t)
	w.queued([]string{"X-Api-Key", "weir_s"}, "/s")
	w.queued([]string{"X-Api-Key", "weir_c"}, "/c")
	running.ends("x")
	if got, want := d.inOrder(t, 2), []string{"/c", "/s"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
}

func TestAPlaceIsHeldUntilTheLastByte(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.ReplaceAll(narrow, "DIALECT", "openai"), d)
	opened := make(chan *reading, 1)
	go func() { opened <- w.open("POST", chats, streamed) }()
	v := d.next(t)
	v.streams(firstEvent)
	r := after(t, "the head of the stream", opened)
	r.sees(firstEvent)
	second := w.queued(nil, "/second")[0]
	v.says(nextEvent)
	r.sees(nextEvent)
	d.nobody(t)
	if w.total("weir_admission_running") != 1 || w.total("weir_admission_waiting") != 1 {
		t.Errorf("%v run, %v wait", w.total("weir_admission_running"), w.total("weir_admission_waiting"))
	}
	v.ends(lastEvents)
	if a := r.rest(); !a.is(200, lastEvents) {
		t.Error(a)
	}
	d.next(t).ends("x")
	if a := second.got(); !a.is(200, "x") {
		t.Error(a)
	}
	w.isIdle()
}

func TestAClientThatLeavesFreesItsPlace(t *testing.T) {
	t.Parallel()
	for name, answered := range map[string]bool{"before the head": false, "within the stream": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk()
			w := before(t, strings.ReplaceAll(narrow, "DIALECT", "openai"), d)
			first := w.later("POST", chats, streamed)
			v := d.next(t)
			if answered {
				v.streams(firstEvent)
				w.shows(1, "weir_gateway_requests_in_flight")
			}
			second := w.queued(nil, "/second")[0]
			first.leave()
			v.leaves()
			d.next(t).ends("x")
			if a := second.got(); !a.is(200, "x") {
				t.Error(a)
			}
			w.isIdle()
		})
	}
}

func TestAClientThatLeavesTheQueueIsGone(t *testing.T) {
	t.Parallel()
	d := newDesk()
	w := before(t, strings.ReplaceAll(narrow, "DIALECT", "plain"), d)
	w.later("GET", "/0", "")
	running := d.next(t)
	queued := w.queued(nil, "/1", "/2", "/3")
	queued[1].leave()
	w.waits(2)
	running.ends("x")
	if got, want := d.inOrder(t, 2), []string{"/1", "/3"}; !slices.Equal(got, want) {
		t.Errorf("served %v, want %v", got, want)
	}
	w.isIdle()
	d.nobody(t)
	if got := w.total("weir_admission_left_total"); got != 1 {
		t.Errorf("%v have left, want 1", got)
	}
	w.until(func() bool { return strings.Contains(w.log.String(), `"status":499`) })
}

// Whoever leaves when, nothing is kept: no place, no turn, no connection.
func TestRandomCancelsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	const n, together = 500, 50
	w := before(t, `
callers: {keys: KEYS}
upstreams: {u: {targets: [T0, T1], dialect: openai, concurrency: 3, queue: {max: 20, max_wait: 5s, keepalive_after: 2ms}, hedge: {after: 3ms, post: true, budget: 1}}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1m, share: caller}}]
`, http.HandlerFunc(slowly), http.HandlerFunc(slowly))
	turns := make(chan struct{}, together)
	var wg sync.WaitGroup
	for range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			ctx, leave := context.WithTimeout(t.Context(), time.Duration(rand.IntN(25))*time.Millisecond)
			defer leave()
			body := streamed
			if rand.IntN(2) == 0 {
				body = strings.Replace(body, "true", "false", 1)
			}
			header := of(rand.IntN(5))
			if rand.IntN(3) == 0 {
				header = append(header, "X-Request-Timeout", "5ms")
			}
			w.sendCtx(ctx, "POST", chats, strings.Replace(body, "hi", []string{"a", "b", "c", "d"}[rand.IntN(4)], 1), header...)
		})
	}
	wg.Wait()
	w.shows(0, "weir_gateway_requests_in_flight")
	w.isIdle()
	if a := w.send("POST", chats, streamed); a.status != 200 {
		t.Error(a)
	}
}

// slowly is a server that takes some milliseconds, and answers in parts.
func slowly(w http.ResponseWriter, r *http.Request) {
	parts := []string{`{"id":"c",`, `"object":"chat.completion",`, `"choices":[]}`}
	if strings.Contains(taken(r), "true") {
		w.Header().Set("Content-Type", "text/event-stream")
		parts = []string{firstEvent, nextEvent, lastEvents}
	}
	for _, part := range parts {
		select {
		case <-time.After(time.Duration(rand.IntN(6)) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
		say(w, part)
	}
}
