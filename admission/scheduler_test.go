package admission_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/admission"
)

// start is where virtual time begins.
var start = time.Unix(1_700_000_000, 0)

// world is a Scheduler in virtual time. Requests go by the name in Kind.
type world struct {
	t testing.TB
	*admission.Scheduler
	now     time.Time
	running []*admission.Item // in the order in which they got their places
	log     []string          // decisions: a name, or one with the reason of its refusal
	events  []admission.Event
}

func newWorld(t testing.TB, o admission.Options) *world {
	t.Helper()
	w := &world{t: t, now: start}
	if len(o.Targets) == 0 {
		o.Targets = []admission.Target{{}}
	}
	o.Observe = func(e admission.Event) { w.events = append(w.events, e) }
	s, err := admission.NewScheduler(o, func(it *admission.Item) {
		name := it.Request().Kind
		if r := it.Refusal(); r != nil {
			w.log = append(w.log, name+" "+string(r.Reason))
			return
		}
		w.running = append(w.running, it)
		w.log = append(w.log, name)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Scheduler = s
	return w
}

// places are options with a fixed number of places at each target.
func places(n int) admission.Options {
	return admission.Options{Limits: admission.Limits{Min: n, Max: n}}
}

// named makes a request of a name such as "a1": its caller is what comes before the
// number.
func named(name string) admission.Request {
	return admission.Request{Kind: name, Caller: strings.TrimRight(name, "0123456789"), Class: admission.Standard}
}

func (w *world) submit(r admission.Request) *admission.Item {
	it := admission.NewItem(r)
	w.Submit(it, w.now)
	return it
}

// ask submits requests by name.
func (w *world) ask(names string, change ...func(*admission.Request)) (items []*admission.Item) {
	for _, name := range strings.Fields(names) {
		r := named(name)
		for _, f := range change {
			f(&r)
		}
		items = append(items, w.submit(r))
	}
	return items
}

// pass lets time pass, with a tick every 10 ms.
func (w *world) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(10*time.Millisecond, end.Sub(w.now)))
		w.Tick(w.now)
	}
}

// done ends what has run for longest.
func (w *world) done(result admission.Result) *admission.Item {
	w.t.Helper()
	if len(w.running) == 0 {
		w.t.Fatal("nothing runs")
	}
	it := w.running[0]
	w.running = w.running[1:]
	w.Done(it, result, w.now)
	return it
}

// drain ends one after the other until nothing runs.
func (w *world) drain() {
	for len(w.running) > 0 {
		w.done(admission.OK)
	}
}

// saw is the decisions since it was last called.
func (w *world) saw() string {
	log := strings.Join(w.log, ", ")
	w.log = nil
	return log
}

func (w *world) want(decisions string) {
	w.t.Helper()
	if got := w.saw(); got != decisions {
		w.t.Errorf("decided %q, want %q", got, decisions)
	}
}

func class(c admission.Class) func(*admission.Request) {
	return func(r *admission.Request) { r.Class = c }
}

func output(n int64) func(*admission.Request) {
	return func(r *admission.Request) { r.Output = n }
}

func input(n int64) func(*admission.Request) {
	return func(r *admission.Request) { r.Input = n }
}

func weight(n float64) func(*admission.Request) {
	return func(r *admission.Request) { r.Weight = n }
}

func TestSchedulerOrder(t *testing.T) {
	t.Run("a place that is free is given at once", func(t *testing.T) {
		w := newWorld(t, places(2))
		w.ask("a1 a2 a3")
		w.want("a1, a2")
		if got, want := w.Stats().Waiting, [3]int{0, 1, 0}; got != want {
			t.Errorf("waiting %v, want %v", got, want)
		}
	})
	t.Run("goes by class, then by caller, then by age", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("x1")
		w.ask("z1", class(admission.Batch), output(100))
		w.ask("a1 a2 a3", output(5))
		w.ask("b1 b2", output(6))
		w.ask("k1 k2", class(admission.Critical))
		w.drain()
		w.want("x1, k1, k2, a1, b1, a2, b2, a3, z1")
	})
	t.Run("shares by weight, in cost and not in requests", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = 2000
		w := newWorld(t, o)
		w.ask("x1")
		for range 200 {
			w.ask("a1", output(50))
			w.ask("b1 b1 b1 b1 b1 b1", output(25), weight(3))
		}
		for range 140 {
			w.done(admission.OK)
		}
		log := w.saw()
		a, b := strings.Count(log, "a1"), strings.Count(log, "b1")
		if a != 20 || b != 120 {
			t.Errorf("a had %d requests of 50 tokens, b %d of 25: want 20 and 120", a, b)
		}
	})
	t.Run("who comes back from idleness has saved nothing up", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("b1 a1 a2 a3 a4 a5 a6 a7 a8 a9", output(5))
		for range 6 {
			w.done(admission.OK)
		}
		w.want("b1, a1, a2, a3, a4, a5, a6")
		w.ask("b2 b3 b4 b5", output(6))
		w.drain()
		if got := w.saw(); strings.Contains(got, "b2, b3") || strings.Contains(got, "b3, b4") {
			t.Errorf("%s: b goes twice in a row", got)
		}
	})
	t.Run("who was heavy while nobody waited does not pay for it, and nobody else gains", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("b1")
		w.drain()
		for range 50 {
			w.ask("a1")
			w.drain()
		}
		w.saw()
		w.ask("x1 a1 a2 a3 b1 b2 b3", func(r *admission.Request) {
			if r.Caller == "b" {
				r.Output = 1
			}
		})
		w.drain()
		if got := w.saw(); strings.Contains(got, "b1, b2, b3") || strings.Contains(got, "a1, a2, a3") {
			t.Errorf("%s: one goes three times in a row", got)
		}
	})
	t.Run("an attempt after a failed one goes before others of its caller, those in turn", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("x1 a1 a2")
		w.ask("a7 a8 a9", func(r *admission.Request) { r.Tried = []int{0} })
		w.drain()
		w.want("x1, a7, a8, a9, a1, a2")
	})
	t.Run("an item is taken once", func(t *testing.T) {
		w := newWorld(t, places(1))
		items := w.ask("x1 a1")
		w.Submit(items[0], w.now)
		w.Submit(items[1], w.now)
		w.drain()
		w.want("x1, a1")
	})
}

func TestSchedulerNewestFirst(t *testing.T) {
	for _, test := range []struct {
		name  string
		class admission.Class
		after time.Duration
		want  string
	}{
		{"while the oldest is young, it goes first", admission.Standard, 2500 * time.Millisecond, "a1, a2, a3"},
		{"once it has waited for a quarter of its time, the newest goes first", admission.Standard, 2510 * time.Millisecond, "a3, a2, a1"},
		{"not in class batch", admission.Batch, 9 * time.Second, "a1, a2, a3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, places(1))
			w.ask("x1")
			w.ask("a1 a2 a3", class(test.class))
			w.pass(test.after)
			w.saw()
			w.drain()
			w.want(test.want)
		})
	}
	t.Run("only of the caller whose requests are old", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("x1")
		w.ask("a1 a2 a3", output(5))
		w.pass(2600 * time.Millisecond)
		w.ask("b1 b2 b3", output(6))
		w.saw()
		w.drain()
		w.want("a3, b1, a2, b2, a1, b3")
	})
	t.Run("but who comes back is not overtaken", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("x1 a1 a2")
		w.ask("a8 a9", func(r *admission.Request) { r.Tried = []int{0} })
		w.pass(2600 * time.Millisecond)
		w.ask("a3")
		w.saw()
		w.drain()
		w.want("a8, a9, a3, a2, a1")
	})
}

func TestSchedulerClasses(t *testing.T) {
	t.Run("lower classes leave some places free while a higher one is active", func(t *testing.T) {
		w := newWorld(t, places(20))
		k := w.ask("k1", class(admission.Critical))[0]
		w.Done(k, admission.OK, w.now)
		w.saw()
		count := func(c admission.Class) int {
			for range 30 {
				w.ask("n1", class(c))
			}
			return w.Stats().Targets[0].Running
		}
		got := []int{count(admission.Batch), count(admission.Standard), count(admission.Critical)}
		if want := []int{16, 19, 20}; !slices.Equal(got, want) {
			t.Errorf("places taken %v, want %v", got, want)
		}
	})
	t.Run("of few places class batch leaves three, or all but one", func(t *testing.T) {
		var got []int
		all := []int{1, 2, 3, 4, 5, 8, 15, 16, 40}
		for _, n := range all {
			w := newWorld(t, places(n))
			w.Done(w.ask("k1", class(admission.Standard))[0], admission.OK, w.now)
			for range n + 1 {
				w.ask("n1", class(admission.Batch))
			}
			got = append(got, w.Stats().Targets[0].Running)
		}
		if want := []int{1, 1, 1, 1, 2, 5, 12, 12, 32}; !slices.Equal(got, want) {
			t.Errorf("of %v places batch took %v, want %v", all, got, want)
		}
	})
	t.Run("and fill all of them when it has not been for ten seconds", func(t *testing.T) {
		w := newWorld(t, places(20))
		k := w.ask("k1", class(admission.Critical))[0]
		w.Done(k, admission.OK, w.now)
		for i := range 20 {
			w.ask(fmt.Sprintf("n%d", i), class(admission.Batch), func(r *admission.Request) { r.WaitUntil = w.now.Add(time.Minute) })
		}
		w.pass(9990 * time.Millisecond)
		if got := w.Stats().Targets[0].Running; got != 16 {
			t.Errorf("%d places taken before ten seconds are over, want 16", got)
		}
		w = newWorld(t, places(20))
		k = w.ask("k1", class(admission.Critical))[0]
		w.Done(k, admission.OK, w.now)
		w.now = w.now.Add(10 * time.Second)
		for range 20 {
			w.ask("n1", class(admission.Batch))
		}
		if got := w.Stats().Targets[0].Running; got != 20 {
			t.Errorf("%d places taken after ten seconds, want 20", got)
		}
	})
	t.Run("a request of a higher class takes its place without driving anyone from the queue", func(t *testing.T) {
		o := places(20)
		o.MaxQueue = 5
		w := newWorld(t, o)
		w.Done(w.ask("k1", class(admission.Critical))[0], admission.OK, w.now)
		for range 21 {
			w.ask("n1", class(admission.Batch))
		}
		w.saw()
		w.ask("k2 k3", class(admission.Critical))
		w.want("k2, k3")
	})
}

// flood keeps lines of the classes, with requests of the given cost, for n ends of
// requests, and returns the cost that each class got.
func flood(w *world, n int, costs [3]int) (got [3]int) {
	top := func() {
		for c, cost := range costs {
			for cost > 0 && w.Stats().Waiting[c] < 3 {
				r := named(fmt.Sprintf("c%d", c))
				r.Class, r.Items = admission.Class(c), cost
				w.submit(r)
			}
		}
	}
	limit := 0
	for range n {
		top()
		limit = max(limit, len(w.running))
		if len(w.running) < limit {
			w.t.Fatalf("%d places taken of %d while requests wait", len(w.running), limit)
		}
		it := w.done(admission.OK)
		got[it.Request().Class] += it.Request().Items
	}
	return got
}

func TestSchedulerOwesLowerClasses(t *testing.T) {
	for _, test := range []struct {
		name   string
		places int
		costs  [3]int
		want   [3]float64
	}{
		{"batch gets a twentieth under a flood of standard", 1, [3]int{0, 1, 1}, [3]float64{0, .95, .05}},
		{"each of two gets a twentieth under a flood of critical", 1, [3]int{1, 1, 1}, [3]float64{.9, .05, .05}},
		{"in cost, where its requests are larger", 1, [3]int{1, 0, 7}, [3]float64{.95, 0, .05}},
		{"in cost, where its requests are smaller", 1, [3]int{7, 0, 1}, [3]float64{.95, 0, .05}},
		{"at a target with many places, none of which stands empty for it", 20, [3]int{1, 0, 1}, [3]float64{.95, 0, .05}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := places(test.places)
			o.MaxWait = time.Hour
			const n = 8000
			got := flood(newWorld(t, o), n, test.costs)
			sum := float64(got[0] + got[1] + got[2])
			for c := range got {
				if share := float64(got[c]) / sum; share < test.want[c]-.002 || share > test.want[c]+.002 {
					t.Errorf("%v got %.4f of the cost, want %.4f", admission.Class(c), share, test.want[c])
				}
			}
		})
	}
	t.Run("what it was owed while it had nothing is not made up for", func(t *testing.T) {
		w := newWorld(t, places(1))
		flood(w, 1000, [3]int{1, 0, 0})
		w.ask("z1 z2 z3", class(admission.Batch))
		w.saw()
		flood(w, 15, [3]int{1, 0, 0})
		if got := w.saw(); strings.Contains(got, "z1") {
			t.Errorf("%s: z1 goes before it is owed anything", got)
		}
	})
}

func TestSchedulerRoom(t *testing.T) {
	adaptive := admission.Options{Limits: admission.Limits{Min: 1, Max: 8}}
	t.Run("a target that does nothing takes what is larger than its limits", func(t *testing.T) {
		w := newWorld(t, adaptive)
		w.ask("a1", input(1_000_000))
		w.want("a1")
		w.ask("a2", input(10))
		w.want("")
		w.done(admission.OK)
		w.want("a2")
	})
	t.Run("smaller ones of another class overtake what fits nowhere for a quarter of a second", func(t *testing.T) {
		w := newWorld(t, adaptive)
		w.ask("x1", output(20_000))
		w.ask("a1", output(25_000))
		small := []func(*admission.Request){class(admission.Batch), output(10)}
		w.ask("z1", small...)
		w.pass(250 * time.Millisecond)
		w.ask("z2", small...)
		w.pass(10 * time.Millisecond)
		w.ask("z3", small...)
		w.want("x1, z1, z2")
		w.done(admission.OK) // x1
		w.done(admission.OK) // z1
		w.done(admission.OK) // z2: now what came free is enough
		w.want("a1, z3")
	})
	t.Run("instances share the places, of which each has one at least", func(t *testing.T) {
		n := 4
		o := places(8)
		o.Instances = func() int { return n }
		w := newWorld(t, o)
		w.Tick(w.now)
		w.ask("a1 a2 a3")
		w.want("a1, a2")
		n = 100
		w.pass(1100 * time.Millisecond)
		w.done(admission.OK)
		w.want("")
		w.done(admission.OK)
		w.want("a3")
	})
	t.Run("numbers that make no sense do no harm", func(t *testing.T) {
		w := newWorld(t, adaptive)
		w.submit(admission.Request{Class: 200, Input: 1 << 62, Output: 1 << 62, Cached: -5, Items: -3, Weight: 1e300})
		w.submit(admission.Request{Class: 7, Input: -1 << 62, Output: 1 << 62, Cached: 1 << 62, Weight: 1e-300})
		w.ask("a1")
		if got := w.Stats(); got.Targets[0].Tokens <= 0 || got.Running != 2 || got.Waiting != [3]int{0, 0, 1} {
			t.Errorf("%+v", got)
		}
		w.drain()
		if got := w.Stats(); got.Targets[0].Tokens != 0 || got.Running != 0 {
			t.Errorf("at the end %+v", got)
		}
	})
}

func TestSchedulerTargets(t *testing.T) {
	two := admission.Options{Targets: []admission.Target{{Weight: 1}, {Weight: 3}}, Limits: admission.Limits{Min: 4, Max: 4}}
	to := func(items []*admission.Item) (targets []int) {
		for _, it := range items {
			targets = append(targets, it.Target())
		}
		return targets
	}
	for _, test := range []struct {
		name  string
		items string
		tried []int
		want  []int
	}{
		{"work goes to the least load for the weight", "a1 a2 a3 a4", nil, []int{0, 1, 1, 1}},
		{"a target that was tried gets nothing while another has room", "a1 a2 a3 a4 a5", []int{1}, []int{0, 0, 0, 0, 1}},
		{"where all were tried any may", "a1 a2", []int{0, 1}, []int{0, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, two)
			items := w.ask(test.items, func(r *admission.Request) { r.Tried = test.tried })
			if got := to(items); !slices.Equal(got, test.want) {
				t.Errorf("targets %v, want %v", got, test.want)
			}
		})
	}
	t.Run("Choose sees those with room, and the loads", func(t *testing.T) {
		o := two
		o.Limits = admission.Limits{Min: 1, Max: 1}
		var saw []string
		o.Choose = func(targets []int, load []float64, r *admission.Request) int {
			saw = append(saw, fmt.Sprint(r.Kind, " ", targets, load))
			return targets[len(targets)-1]
		}
		w := newWorld(t, o)
		w.ask("a1", output(5))
		w.ask("a2", func(r *admission.Request) { r.Tried = []int{1} })
		w.drain()
		w.ask("a3", output(5))
		if want := []string{"a1 [0 1] [0 0]", "a2 [0] [0 10]", "a3 [0 1] [0 0]"}; !slices.Equal(saw, want) {
			t.Errorf("%q, want %q", saw, want)
		}
	})
}

func TestSchedulerClosedTargets(t *testing.T) {
	open := false
	var opens time.Time
	closed := func(t *testing.T) *world {
		open, opens = false, time.Time{}
		o := places(1)
		o.Open = func(int, time.Time) bool { return open }
		o.OpensAt = func(time.Time) time.Time { return opens }
		return newWorld(t, o)
	}
	t.Run("requests wait for a target to open, and go as soon as it does", func(t *testing.T) {
		w := closed(t)
		w.ask("a1")
		w.pass(5 * time.Second)
		open = true
		w.Tick(w.now)
		w.want("a1")
		if got, want := w.running[0].Waited(), 5*time.Second; got != want {
			t.Errorf("waited %v, want %v", got, want)
		}
	})
	t.Run("those whose time is over meanwhile hear that there is no target", func(t *testing.T) {
		w := closed(t)
		w.ask("a1")
		w.pass(10 * time.Second)
		w.want("a1 no_target")
	})
	t.Run("where none will open in time they hear so at once, and when one does", func(t *testing.T) {
		w := closed(t)
		opens = start.Add(30 * time.Second)
		items := w.ask("a1 b1")
		w.want("a1 no_target, b1 no_target")
		for _, it := range items {
			if r := it.Refusal(); r.RetryAfter != 30*time.Second || !r.Booked {
				t.Errorf("%s: %+v, want to come back in 30 s", it.Request().Kind, r)
			}
		}
		opens = start.Add(90 * time.Second)
		if r := w.ask("c1")[0].Refusal(); r.RetryAfter != 90*time.Second || r.Booked {
			t.Errorf("%+v, want 90 s and no appointment", r)
		}
	})
	t.Run("where one opens in time they wait", func(t *testing.T) {
		w := closed(t)
		opens = start.Add(9 * time.Second)
		w.ask("a1")
		w.want("")
	})
	t.Run("without a queue they hear that there is no target", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = -1
		o.Open = func(int, time.Time) bool { return false }
		w := newWorld(t, o)
		w.ask("a1")
		w.want("a1 no_target")
	})
}
