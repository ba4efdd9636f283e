package gateway

import (
	"context"
	"io"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/config"
)

func TestLoadMovesValues(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	quota := autoValue{autoStart: autoStart{start: 60, low: 10, high: 100}, value: 60, since: start}
	ttl := autoValue{autoStart: autoStart{start: int64(10 * time.Minute), low: int64(time.Minute), high: int64(30 * time.Minute), ttl: true}, value: int64(10 * time.Minute), since: start}
	waited := pressure{upstream: "llm", waited: 12, long: time.Second, waiting: 3, running: 8, most: 8}
	shed := pressure{upstream: "llm", shed: 1, running: 8, most: 8}
	busy := pressure{upstream: "llm", running: 6, most: 8}
	room := pressure{upstream: "llm", running: 3, most: 8}
	calm := pressure{upstream: "other", running: 0, most: 100}

	// f has the signals for some seconds, and gives each value that comes of it.
	f := func(name string, v autoValue, seconds int, want string, reason string, signals ...pressure) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			got := v.shown(v.value)
			for i := range seconds {
				next, moved := v.next(signals, start.Add(time.Duration(i)*time.Second))
				if v = next; moved {
					got += " " + v.shown(v.value)
				}
			}
			if got != want || v.reason != reason {
				t.Errorf("got  %s, %q\nwant %s, %q", got, v.reason, want, reason)
			}
		})
	}
	f("a quota falls by a fifth at once, and every five seconds", quota, 11, "60 48 38 30", "lowered from 38 to 30: 12 requests to llm waited longer than 1s in the last 5s", waited)
	f("and to its least", quota, 60, "60 48 38 30 24 19 15 12 10", "lowered from 12 to 10: the queue of llm refused 1 request in the last 5s", shed)
	f("a quota stays while there is neither pressure nor room", quota, 100, "60", "", busy)
	f("a quota rises after fifteen seconds of room, by a twentieth of its bounds every five", quota, 31, "60 64 68 72 76", "raised from 72 to 76: nobody waited at llm for 15s, and 3 of its 8 places are taken", room)
	f("and to its most", quota, 200, "60 64 68 72 76 80 84 88 92 96 100", "raised from 96 to 100: nobody waited at llm for 15s, and 3 of its 8 places are taken", room)
	f("there is no room while one of several has none", quota, 100, "60", "", calm, busy)
	f("pressure on one of several is pressure", quota, 1, "60 48", "lowered from 60 to 48: 12 requests to llm waited longer than 1s in the last 5s", calm, waited, room)
	f("the smallest bounds move by one", autoValue{autoStart: autoStart{start: 1, low: 1, high: 3}, value: 1, since: start}, 40, "1 2 3", "raised from 2 to 3: nobody waited at llm for 15s, and 3 of its 8 places are taken", room)
	f("a ttl doubles at once, and every minute, to its most", ttl, 200, "10m0s 20m0s 30m0s", "raised from 20m0s to 30m0s: 12 requests to llm waited longer than 1s in the last 5s", waited)
	f("a ttl halves where there is room, once a minute, to its least", ttl, 600, "10m0s 5m0s 2m30s 1m15s 1m0s", "lowered from 1m15s to 1m0s: nobody waited at llm for 15s, and 3 of its 8 places are taken", room)
}

func TestAQueueRemembersTheLastSeconds(t *testing.T) {
	var l lately
	l.setLong(time.Second)
	now := time.Unix(1_800_000_000, 0)
	events := []admission.Event{
		{Reason: admission.QueueFull}, {Reason: admission.WaitTooLong}, {Reason: admission.Expired},
		{Reason: admission.NoTarget}, {Reason: admission.DeadlineTooClose}, {Left: true, Wait: time.Second},
		{Wait: 2 * time.Second}, {Wait: time.Second / 2},
	}
	for _, e := range events {
		l.add(e, now)
	}
	l.add(events[0], now.Add(3*time.Second))
	for after, want := range map[time.Duration][2]int64{3 * time.Second: {4, 1}} {
		if shed, waited := l.sums(now.Add(after)); [2]int64{shed, waited} != want {
			t.Errorf("after %v: %d shed, %d waited, want %v", after, shed, waited, want)
		}
	}
	for _, c := range []struct {
		after time.Duration
		shed  int64
	}{{4 * time.Second, 4}, {5 * time.Second, 1}, {7 * time.Second, 1}, {8 * time.Second, 0}, {time.Hour, 0}} {
		if shed, _ := l.sums(now.Add(c.after)); shed != c.shed {
			t.Errorf("after %v: %d shed, want %d", c.after, shed, c.shed)
		}
	}
}

func TestPressureLowersWhatCallersMayUse(t *testing.T) {
	c, err := config.Parse("test.yaml", []byte(`
plans: {default: {policies: [{name: p, quota: 100, burst: 50, window: 1h, auto: {min: 10, max: 200}}]}}
upstreams: {llm: {targets: ["http://127.0.0.1:1"]}}
routes: [{name: r, match: {path: /*}, upstream: llm, policies: [{name: slots, concurrent: 10, by: global, auto: {min: 1, max: 10}}], cache: {mode: inference, ttl: 10m, auto: {min: 1m, max: 1h}}}]
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(c, Options{Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	g.autos.stop()
	t.Cleanup(func() { _ = g.Close(context.Background()) })
	press := func() {
		g.setup.Load().upstreams["llm"].counts.observe(admission.Event{Target: -1, Reason: admission.QueueFull})
		g.stepAutos(t.Context())
	}
	policies := func() string {
		rec := httptest.NewRecorder()
		g.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		return rec.Header().Get("Ratelimit-Policy")
	}
	want := func(when, limits string, values ...string) {
		t.Helper()
		if got := policies(); got != limits {
			t.Errorf("%s: callers are told %s, want %s", when, got, limits)
		}
		var got []string
		for _, a := range g.Auto() {
			got = append(got, a.What+" "+a.Value+" of "+a.File)
		}
		for i := range values {
			if i >= len(got) || got[i] != values[i] {
				t.Errorf("%s: the values are %q, want %q", when, got, values)
				return
			}
		}
	}
	const slots, slotsNow, ttl, ttlNow = "route:r/slots 10 of 10", "route:r/slots 8 of 10", "route:r/cache.ttl 10m0s of 10m0s", "route:r/cache.ttl 20m0s of 10m0s"
	want("at first", `"p";q=100;w=3600, "slots";q=10;qu="concurrent-requests"`, "plan:default/p 100 of 100", ttl, slots)
	press()
	want("under pressure", `"p";q=80;w=3600, "slots";q=8;qu="concurrent-requests"`, "plan:default/p 80 of 100", ttlNow, slotsNow)
	if got := g.setup.Load().routes[0].lifetimes.TTL; got != 20*time.Minute {
		t.Errorf("the ttl is %v", got)
	}
	if got := g.setup.Load().plans["default"][0].Burst; got != 40 {
		t.Errorf("the burst is %d, want 40", got)
	}
	counts := g.setup.Load().upstreams["llm"].counts
	counts.lately.mu.Lock()
	counts.lately.newest = 0 // as if nothing had been for long
	counts.lately.mu.Unlock()
	edit := func(doc string) {
		t.Helper()
		if _, err := g.Edit(t.Context(), config.Edit{Kind: "plan", Name: "default", Doc: []byte(doc)}, "test"); err != nil {
			t.Fatal(err)
		}
	}
	edit(`{"weight": 2}`)
	want("after an edit of something else", `"p";q=80;w=3600, "slots";q=8;qu="concurrent-requests"`, "plan:default/p 80 of 100", ttlNow, slotsNow)
	edit(`{"policies": [{"name": "p", "quota": 100, "burst": 50, "window": "1h", "auto": {"min": 90, "max": 200}}]}`)
	want("after one with bounds that do not fit", `"p";q=100;w=3600, "slots";q=8;qu="concurrent-requests"`, "plan:default/p 100 of 100", ttlNow, slotsNow)
	events, _ := g.Events(0)
	n := 0
	for _, e := range events {
		if e.Kind == "auto" {
			n++
		}
	}
	if n != 3 {
		t.Errorf("the events are %+v: want one for each value", events)
	}
}
