package telemetry_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

// clock is a time that moves when it is told to.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) live() *telemetry.Live { return telemetry.NewLive(func() time.Time { return c.now }) }

func (c *clock) pass(d time.Duration) { c.now = c.now.Add(d) }

// observe tells l of a request from its start to its end.
func observe(l *telemetry.Live, e telemetry.Entry) {
	l.Start(e.Route)
	l.Observe(&e, false)
}

func TestLiveCountsWhatRequestsDid(t *testing.T) {
	c := newClock()
	l := c.live()
	ms := time.Millisecond
	observe(l, telemetry.Entry{Route: "chat", Caller: "key:a", Plan: "pro", Status: 200, Duration: 100 * ms, FirstByte: 50 * ms, QueueTime: 10 * ms, UpstreamTime: 80 * ms, CacheTime: ms, CacheResult: "miss", Usage: weir.Usage{Input: 10, Cached: 4, Output: 20}})
	observe(l, telemetry.Entry{Route: "chat", Caller: "key:a", Plan: "pro", Status: 200, Duration: ms, FirstByte: ms, CacheResult: "hit", CacheKey: "k1", Path: "/chat", Model: "m", Saved: 80 * ms, SavedTokens: 30})
	observe(l, telemetry.Entry{Route: "chat", Caller: "key:a", Plan: "pro", Status: 200, Duration: ms, FirstByte: ms, CacheResult: "collapsed", CacheKey: "k1", Path: "/chat", Model: "m", Saved: 70 * ms, SavedTokens: 30})
	observe(l, telemetry.Entry{Route: "chat", Caller: "key:a", Plan: "pro", Status: 429, CacheResult: "miss", Policy: "daily", PolicyScope: "plan:pro", Shadow: "next", ShadowScope: "route:chat"})
	observe(l, telemetry.Entry{Route: "chat", Caller: "ip:b", Plan: "default", Status: 503, CacheResult: "bypass", Shed: "queue_full"})
	observe(l, telemetry.Entry{Route: "tags", Caller: "ip:b", Plan: "default", Status: 502, Duration: ms, FirstByte: ms})
	observe(l, telemetry.Entry{Status: 404, Duration: ms, FirstByte: ms})
	l.Start("tags") // and is not at its end
	l.Observe(&telemetry.Entry{Route: "chat", Caller: "key:a", Status: 200, UpstreamTime: 5 * ms, Usage: weir.Usage{Input: 1, Output: 2}}, true)
	l.Call("llm", "ok", 50*ms, 80*ms)
	l.Call("llm", "timeout", 0, time.Minute)
	l.Queued("llm", "", 10*ms)
	l.Queued("llm", "queue_full", 0)
	l.Sample(3, 2)
	c.pass(time.Second)

	s := l.Snapshot()
	refusals := []telemetry.LiveCount{{Scope: "plan:pro", Name: "daily", N: 1}, {Scope: "route:chat", Name: "next", Shadow: 1}}
	chat := telemetry.LiveCounts{
		Requests: 5, Refused: 1, Shed: 1, Lookups: 4, Hits: 2, Saved: 150 * ms, SavedTokens: 60,
		InputTokens: 11, CachedTokens: 4, OutputTokens: 22, Queue: 10 * ms, Upstream: 80 * ms, Cache: ms,
	}
	all := chat
	all.Requests, all.Errors = 7, 1
	equal(t, "total", s.Total.LiveCounts, all)
	equal(t, "chat", s.Routes["chat"].LiveCounts, chat)
	equal(t, "refusals of chat", s.Routes["chat"].Policies, refusals)
	equal(t, "in flight", []int64{s.Total.InFlight, s.Routes["chat"].InFlight, s.Routes["tags"].InFlight}, []int64{1, 0, 1})
	equal(t, "latencies of chat", []int64{s.Routes["chat"].Latency.N, s.Routes["chat"].FirstByte.N}, []int64{3, 3})
	equal(t, "callers", s.Callers, []telemetry.LiveCaller{
		{Caller: "key:a", Plan: "pro", Requests: 4, Hits: 2, Refused: 1, Busy: 85 * ms, InputTokens: 11, CachedTokens: 4, OutputTokens: 22, Policies: refusals, LastSeen: c.now.Add(-time.Second)},
		{Caller: "ip:b", Plan: "default", Requests: 2, Errors: 1, Shed: 1, LastSeen: c.now.Add(-time.Second)},
	})
	equal(t, "number of callers", s.CallersOf, 2)
	equal(t, "keys", s.Keys, []telemetry.LiveKey{{Key: "k1", Route: "chat", Path: "/chat", Model: "m", Hits: 2, Saved: 150 * ms, Tokens: 60, LastHit: c.now.Add(-time.Second)}})
	u := s.Upstreams["llm"]
	equal(t, "calls", u.Calls, []telemetry.LiveCount{{Name: "ok", N: 1}, {Name: "timeout", N: 1}})
	equal(t, "refusals of the queue", u.Refused, []telemetry.LiveCount{{Name: "queue_full", N: 1}})
	equal(t, "calls and waits with a latency", []int64{u.Latency.N, u.FirstByte.N, u.Wait.N}, []int64{1, 1, 1})
	equal(t, "points", len(s.Series), 1)
	p := s.Series[0]
	p.Latency = telemetry.LiveLatency{N: p.Latency.N}
	equal(t, "point", p, telemetry.LivePoint{Requests: 7, Errors: 1, Refused: 1, Shed: 1, Lookups: 4, Hits: 2, Saved: 150 * ms, Latency: telemetry.LiveLatency{N: 5}, Waiting: 3, Running: 2})
	equal(t, "window", s.Window, time.Second)
	equal(t, "end of the series", s.SeriesEnd, c.now)
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

// near reports whether got is within 3 % of want, or a microsecond.
func near(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= max(0.03*float64(want), float64(time.Microsecond))
}

func TestLiveKeepsQuantilesWithinThreePercent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func() time.Duration{
		"all alike":     func() time.Duration { return 20 * time.Millisecond },
		"microseconds":  func() time.Duration { return time.Duration(random.IntN(60_000)) },
		"far apart":     func() time.Duration { return time.Duration(math.Exp(random.Float64() * math.Log(1.5e12))) },
		"two kinds":     func() time.Duration { return time.Duration(1+random.IntN(2)*999) * time.Millisecond },
		"log-normal":    func() time.Duration { return time.Duration(math.Exp(random.NormFloat64()) * 1e8) },
		"a long minute": func() time.Duration { return time.Minute + time.Duration(random.IntN(1e9)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newClock().live()
			all := make([]time.Duration, 5000)
			for i := range all {
				all[i] = next()
				observe(l, telemetry.Entry{Route: "r", Status: 200, Duration: all[i]})
			}
			checkQuantiles(t, l.Snapshot().Routes["r"].Latency, all)
		})
	}
}

// checkQuantiles compares with the nearest rank of what there was.
func checkQuantiles(t interface {
	Helper()
	Errorf(string, ...any)
}, got telemetry.LiveLatency, all []time.Duration) {
	t.Helper()
	if got.N != int64(len(all)) {
		t.Errorf("got %d latencies, want %d", got.N, len(all))
	}
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	rank := func(q float64) time.Duration { return all[int(math.Ceil(q*float64(len(all))))-1] }
	for _, c := range []struct {
		name      string
		got, want time.Duration
	}{{"p50", got.P50, rank(0.5)}, {"p95", got.P95, rank(0.95)}, {"p99", got.P99, rank(0.99)}, {"max", got.Max, all[len(all)-1]}} {
		if !near(c.got, c.want) {
			t.Errorf("%s: got %v, want %v within 3 %%", c.name, c.got, c.want)
		}
	}
}

// diary keeps every request, and in which second it came.
type diary struct {
	clock   *clock
	started time.Time
	all     []dated
}

type dated struct {
	telemetry.Entry
	step int
}

func (d *diary) step() int { return int(d.clock.now.Sub(d.started) / time.Second) }

// recent are those of the window for which f holds.
func (d *diary) recent(f func(dated) bool) (n int64, latencies []time.Duration) {
	for _, r := range d.all {
		if d.step()-r.step < 60 && f(r) {
			n++
			if r.Policy == "" {
				latencies = append(latencies, r.Duration)
			}
		}
	}
	return n, latencies
}

// anyEntry is a request of few routes, callers and policies.
func anyEntry(t *rapid.T) telemetry.Entry {
	return telemetry.Entry{
		Route:       rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "route"),
		Caller:      rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(t, "caller"),
		Status:      rapid.SampledFrom([]int{200, 404, 500}).Draw(t, "status"),
		Policy:      rapid.SampledFrom([]string{"", "", "p1", "p2"}).Draw(t, "policy"),
		CacheResult: rapid.SampledFrom([]string{"", "hit", "miss"}).Draw(t, "cache"),
		Duration:    time.Duration(rapid.Int64Range(1, 5e9).Draw(t, "duration")),
	}
}

// TestLiveAgreesWithAListOfAllRequests compares with a model that keeps everything:
// whatever comes, whatever time passes between.
func TestLiveAgreesWithAListOfAllRequests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		d := &diary{clock: c, started: c.now}
		l := c.live()
		pauses := rapid.OneOf(rapid.Int64Range(0, 300), rapid.Int64Range(0, 5000), rapid.Int64Range(0, 200_000))
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			c.pass(time.Duration(pauses.Draw(t, "pause")) * time.Millisecond)
			e := anyEntry(t)
			observe(l, e)
			d.all = append(d.all, dated{e, d.step()})
		}
		c.pass(time.Duration(rapid.Int64Range(0, 90_000).Draw(t, "rest")) * time.Millisecond)
		s := l.Snapshot()
		d.agrees(t, "all", s.Total, func(dated) bool { return true })
		for _, name := range []string{"a", "b"} {
			d.agrees(t, name, s.Routes[name], func(r dated) bool { return r.Route == name })
		}
		d.agreesOnCallers(t, s)
		equalIn(t, "points", len(s.Series), min(d.step(), 120))
		for i, p := range s.Series {
			at, n := d.step()-len(s.Series)+i, int64(0)
			for _, r := range d.all {
				if r.step == at {
					n++
				}
			}
			equalIn(t, fmt.Sprintf("point %d", at), p.Requests, n)
		}
	})
}

func (d *diary) agrees(t *rapid.T, name string, got telemetry.LiveRoute, of func(dated) bool) {
	n, latencies := d.recent(of)
	hits, _ := d.recent(func(r dated) bool { return of(r) && r.CacheResult == "hit" })
	errors, _ := d.recent(func(r dated) bool { return of(r) && r.Status == 500 && r.Policy == "" })
	refused, _ := d.recent(func(r dated) bool { return of(r) && r.Policy != "" })
	equalIn(t, name, []int64{got.Requests, got.Hits, got.Errors, got.Refused, got.InFlight}, []int64{n, hits, errors, refused, 0})
	checkQuantiles(t, got.Latency, latencies)
	var policies int64
	for _, p := range got.Policies {
		policies += p.N
	}
	equalIn(t, name+" by policy", policies, refused)
}

func (d *diary) agreesOnCallers(t *rapid.T, s telemetry.LiveSnapshot) {
	want, got := map[string]int64{}, map[string]int64{}
	for _, id := range []string{"x", "y", "z"} {
		if n, _ := d.recent(func(r dated) bool { return r.Caller == id }); n > 0 {
			want[id] = n
		}
	}
	for _, one := range s.Callers {
		got[one.Caller] = one.Requests
	}
	equalIn(t, "callers", got, want)
	equalIn(t, "number of callers", s.CallersOf, len(want))
}

func equalIn[T any](t *rapid.T, what string, got, want T) {
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestLiveForgetsAfterAMinuteWithoutRequests(t *testing.T) {
	c := newClock()
	l := c.live()
	observe(l, telemetry.Entry{Route: "r", Caller: "key:a", Status: 429, Policy: "p"})
	l.Call("u", "ok", 1, 1)
	c.pass(59 * time.Second)
	equal(t, "requests after 59 s", l.Snapshot().Total.Requests, 1)
	c.pass(time.Second)
	s := l.Snapshot()
	equal(t, "route", s.Routes["r"], telemetry.LiveRoute{})
	equal(t, "total", s.Total, telemetry.LiveRoute{})
	equal(t, "upstream", s.Upstreams["u"], telemetry.LiveUpstream{})
	equal(t, "callers", []int{len(s.Callers), s.CallersOf}, []int{0, 0})
	equal(t, "the series still has it", s.Series[0].Refused, 1)
	c.pass(time.Hour)
	s = l.Snapshot()
	equal(t, "series after an hour", s.Series, make([]telemetry.LivePoint, 120))
	equal(t, "window after an hour", s.Window, 59*time.Second)
}

func TestLiveFindsTheCallersWhoUseMostAmongMany(t *testing.T) {
	const callers, heavy = 20_000, 100
	c := newClock()
	l := c.live()
	random := rand.New(rand.NewPCG(3, 4))
	want := map[string]int64{}
	for range 25 { // seconds
		var ids []string
		for i := range heavy { // 4 a second
			ids = append(ids, slices.Repeat([]string{fmt.Sprintf("key:heavy-%d", i)}, 4)...)
		}
		for range 800 { // each comes once
			ids = append(ids, fmt.Sprintf("ip:%d", len(want)))
			want[ids[len(ids)-1]] = 1
		}
		random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		for _, id := range ids {
			observe(l, telemetry.Entry{Route: "r", Caller: id, Status: 200})
		}
		c.pass(time.Second)
	}
	s := l.Snapshot()
	found := 0
	for _, one := range s.Callers[:heavy] {
		if one.Requests >= 95 && one.Requests <= 100 { // of 100; a few may be from before it had a place
			found++
		}
	}
	equal(t, "callers found who did most", found, heavy)
	if got := float64(s.CallersOf); math.Abs(got-callers-heavy) > 0.1*(callers+heavy) {
		t.Errorf("got %v callers, want %d within 10 %%", got, callers+heavy)
	}
}

func TestLiveFindsTheCallersWhoAreRefusedMost(t *testing.T) {
	l := newClock().live()
	for i := range 300 {
		for range 20 {
			observe(l, telemetry.Entry{Caller: fmt.Sprintf("key:busy-%d", i), Status: 200})
		}
	}
	for i := range 150 {
		for range 1 + i%10 {
			observe(l, telemetry.Entry{Caller: fmt.Sprintf("key:refused-%d", i), Status: 429, Policy: "daily", PolicyScope: "plan:pro"})
		}
	}
	s := l.Snapshot()
	equal(t, "callers", len(s.Callers), 200)
	for i, one := range s.Callers {
		switch {
		case i < 100 && one.Requests != 20:
			t.Errorf("caller %d: got %+v, want one of the busy", i, one)
		case i >= 100 && (one.Refused != one.Requests || one.Refused < 4 || one.Policies[0].N != one.Refused):
			t.Errorf("caller %d: got %+v, want one who was refused 4 times or more", i, one)
		}
	}
}

func TestLiveCountsPoliciesBeyondEightTogether(t *testing.T) {
	c := newClock()
	l := c.live()
	refuse := func(policy string) {
		observe(l, telemetry.Entry{Route: "r", Caller: "key:a", Status: 429, Policy: policy, PolicyScope: "route:r"})
	}
	for i := range 10 {
		refuse(fmt.Sprintf("p%d", i))
	}
	got := l.Snapshot().Callers[0].Policies
	equal(t, "policies", len(got), 9)
	equal(t, "the last", got[8], telemetry.LiveCount{Name: "other", N: 2})
	c.pass(time.Minute)
	refuse("p9")
	equal(t, "policies a minute later", l.Snapshot().Routes["r"].Policies, []telemetry.LiveCount{{Scope: "route:r", Name: "p9", N: 1}})
}

func TestLiveFindsTheKeysThatSavedMost(t *testing.T) {
	l := newClock().live()
	hit := func(key string, saved time.Duration) {
		observe(l, telemetry.Entry{Route: "r", Status: 200, CacheResult: "hit", CacheKey: key, Path: "/" + key, Saved: saved, SavedTokens: 2})
	}
	for round := range 40 {
		for i := range 50 {
			hit(fmt.Sprintf("big-%02d", i), time.Duration(100+i)*time.Millisecond)
		}
		for i := range 100 { // each comes once
			hit(fmt.Sprintf("small-%d-%d", round, i), time.Millisecond)
		}
	}
	s := l.Snapshot()
	equal(t, "keys", len(s.Keys), 50)
	for i, k := range s.Keys {
		n := 49 - i
		want := telemetry.LiveKey{
			Key: fmt.Sprintf("big-%02d", n), Route: "r", Path: fmt.Sprintf("/big-%02d", n), Hits: 40,
			Saved: 40 * time.Duration(100+n) * time.Millisecond, Tokens: 80, LastHit: k.LastHit,
		}
		equal(t, fmt.Sprintf("key %d", i), k, want)
	}
}

// TestLiveTakesLessThan20MiB has more of everything than there is room for, each second
// for longer than the window, with latencies of all kinds.
func TestLiveTakesLessThan20MiB(t *testing.T) {
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := memory()
	c := newClock()
	l := c.live()
	random := rand.New(rand.NewPCG(5, 6))
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("a name of ordinary length %d", i)
	}
	ofNames := memory() - before
	for n := range 70 * 4000 {
		e := telemetry.Entry{
			Route: names[random.IntN(1000)], Caller: names[random.IntN(len(names))], Plan: "default", Status: 200,
			Duration: time.Duration(math.Exp(random.Float64() * 28)), FirstByte: time.Duration(math.Exp(random.Float64() * 28)),
			CacheResult: "hit", CacheKey: names[random.IntN(len(names))], Path: names[n%len(names)], Saved: time.Millisecond,
		}
		if n%4 == 0 {
			e.Policy, e.Shadow = names[random.IntN(20)], names[random.IntN(20)]
		}
		observe(l, e)
		l.Call(names[random.IntN(1000)], "ok", e.FirstByte, e.Duration)
		l.Queued(names[random.IntN(1000)], "", e.Duration)
		c.pass(250 * time.Microsecond)
	}
	took := memory() - before - ofNames
	s := l.Snapshot()
	runtime.KeepAlive(l)
	runtime.KeepAlive(names)
	t.Logf("%.1f MiB; %d routes, %d upstreams, %d callers", float64(took)/(1<<20), len(s.Routes), len(s.Upstreams), s.CallersOf)
	if took > 20<<20 {
		t.Errorf("got %d bytes, want at most 20 MiB", took)
	}
	equal(t, "routes and upstreams", []int{len(s.Routes), len(s.Upstreams)}, []int{501, 201})
	equal(t, "counted", s.Total.Requests, 59*4000)
}

func TestLiveGivesPlaceToRoutesThatCameLater(t *testing.T) {
	c := newClock()
	l := c.live()
	for i := range 501 {
		observe(l, telemetry.Entry{Route: fmt.Sprintf("old-%d", i), Status: 200})
	}
	equal(t, "the one too many", l.Snapshot().Routes["other"].Requests, 1)
	c.pass(time.Minute)
	l.Sample(0, 0)
	observe(l, telemetry.Entry{Route: "new", Status: 200})
	equal(t, "the new one", l.Snapshot().Routes["new"].Requests, 1)
}

func TestLiveIsSafeForConcurrentUse(t *testing.T) {
	l := telemetry.NewLive(nil)
	done := make(chan struct{})
	const each = 2000
	for n := range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range each {
				observe(l, telemetry.Entry{Route: fmt.Sprint(i % 7), Caller: fmt.Sprint(n, i), Status: 200, Duration: time.Duration(i) * time.Microsecond})
				l.Call("u", "ok", 1, 1)
				if i%100 == 0 {
					l.Sample(i, i)
					l.Snapshot()
				}
			}
		}()
	}
	for range 4 {
		<-done
	}
	equal(t, "requests", l.Snapshot().Total.Requests, 4*each)
}

func BenchmarkLiveObserve(b *testing.B) {
	l := telemetry.NewLive(nil)
	entries := make([]telemetry.Entry, 1024)
	random := rand.New(rand.NewPCG(7, 8))
	for i := range entries {
		entries[i] = telemetry.Entry{
			Route: fmt.Sprintf("route-%d", i%10), Caller: fmt.Sprintf("key:caller-%d", i%500), Plan: "pro", Status: 200, Upstream: "llm",
			Duration: time.Duration(math.Exp(random.NormFloat64()) * 1e8), FirstByte: time.Duration(math.Exp(random.NormFloat64()) * 1e7),
			CacheResult: "miss", Usage: weir.Usage{Input: 10, Output: 20},
		}
		if i%3 == 0 {
			entries[i].CacheResult, entries[i].CacheKey, entries[i].Saved = "hit", fmt.Sprintf("%064d", i%100), time.Second
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := &entries[i%len(entries)]
		l.Start(e.Route)
		l.Observe(e, false)
	}
}

func BenchmarkLiveSnapshot(b *testing.B) {
	l := telemetry.NewLive(nil)
	for i := range 5000 {
		observe(l, telemetry.Entry{Route: fmt.Sprintf("route-%d", i%500), Caller: fmt.Sprintf("key:%d", i%1000), Status: 200, Duration: time.Duration(i) * time.Millisecond, FirstByte: time.Duration(i) * time.Millisecond})
		l.Call(fmt.Sprintf("u-%d", i%200), "ok", time.Millisecond, time.Second)
	}
	for b.Loop() {
		l.Snapshot()
	}
}
