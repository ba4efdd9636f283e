package admission_test

import (
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
)

// TestSchedulerCharges counts how many requests of b go after one of a before a is
// next again: b had a cost of 2 at first, a's request is expected to cost 20, each
// of b's costs 16.
func TestSchedulerCharges(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(w *world, it *admission.Item)
		want int
	}{
		{"what was expected where nothing else is known", func(w *world, it *admission.Item) {
			w.Done(it, admission.OK, w.now)
		}, 2},
		{"each token beyond what was expected as it comes", func(w *world, it *admission.Item) {
			w.FirstToken(it, w.now)
			w.Progress(it, 9, w.now)
			w.Progress(it, 60, w.now)
			w.Progress(it, 40, w.now)
			w.Progress(it, -5, w.now)
			w.Done(it, admission.OK, w.now)
		}, 14},
		{"what it used, told after the end", func(w *world, it *admission.Item) {
			w.Done(it, admission.OK, w.now)
			w.Settle(it, weir.Usage{Input: 20, Output: 100})
			w.Settle(it, weir.Usage{Input: 20, Output: 100_000})
		}, 14},
		{"what it used, told before the end, however it ends", func(w *world, it *admission.Item) {
			w.Settle(it, weir.Usage{Input: 20, Output: 100})
			w.Done(it, admission.Left, w.now)
		}, 14},
		{"less than was expected, cached tokens a tenth", func(w *world, it *admission.Item) {
			w.Done(it, admission.OK, w.now)
			w.Settle(it, weir.Usage{Input: 100, Cached: 100})
		}, 1},
		{"no usage is not one of zero", func(w *world, it *admission.Item) {
			w.Done(it, admission.OK, w.now)
			w.Settle(it, weir.Usage{})
		}, 2},
		{"nothing for a failure without a token", func(w *world, it *admission.Item) { w.Done(it, admission.Failed, w.now) }, 0},
		{"nothing for the target's refusal", func(w *world, it *admission.Item) { w.Done(it, admission.Overloaded, w.now) }, 0},
		{"nothing for an error of the request", func(w *world, it *admission.Item) { w.Done(it, admission.ClientError, w.now) }, 0},
		{"nothing for a place that was not used", func(w *world, it *admission.Item) { w.Done(it, admission.Unused, w.now) }, 0},
		{"all of it for a failure in the midst", func(w *world, it *admission.Item) {
			w.FirstToken(it, w.now)
			w.Done(it, admission.Failed, w.now)
		}, 2},
		{"what was made for who left", func(w *world, it *admission.Item) {
			w.FirstToken(it, w.now)
			w.Progress(it, 4, w.now)
			w.Done(it, admission.Left, w.now)
		}, 1},
		{"once, however often it ends", func(w *world, it *admission.Item) {
			w.Done(it, admission.OK, w.now)
			w.Done(it, admission.Failed, w.now)
			w.Progress(it, 1000, w.now)
			w.FirstToken(it, w.now)
		}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, places(1))
			first := w.ask("b1", output(1))[0]
			items := w.ask("a1 a2", output(10))
			for range 20 {
				w.ask("b2", output(8))
			}
			w.Done(first, admission.OK, w.now)
			w.running, w.log = nil, nil
			test.do(w, items[0])
			for len(w.running) > 0 {
				w.done(admission.OK)
				if it := items[1]; it.Target() >= 0 {
					break
				}
			}
			log, _, _ := strings.Cut(w.saw(), "a2")
			if got := strings.Count(log, "b2"); got != test.want {
				t.Errorf("%d requests of b before a's next, want %d", got, test.want)
			}
		})
	}
	t.Run("requests without tokens count by their items, whatever is heard of tokens", func(t *testing.T) {
		w := newWorld(t, places(1))
		first := w.ask("x1")[0]
		items := w.ask("a1 a2 a3", func(r *admission.Request) { r.Items = 7 })
		w.ask("b1 b2 b3 b4 b5 b6", func(r *admission.Request) { r.Items = 2 })
		w.Done(first, admission.OK, w.now)
		w.running = w.running[1:]
		w.FirstToken(items[0], w.now)
		w.Progress(items[0], 5000, w.now)
		w.Settle(items[0], weir.Usage{Input: 1, Output: 5000})
		if got := w.Stats().Targets[0].Tokens; got != 0 {
			t.Errorf("holds %d tokens, want none", got)
		}
		w.drain()
		if got := w.saw(); !strings.HasPrefix(got, "x1, a1, b1, b2, b3, b4, a2, b5") {
			t.Errorf("went %s, want four of b's for one of a's", got)
		}
	})
}

func TestCost(t *testing.T) {
	for _, test := range []struct {
		input, cached, output int64
		want                  float64
	}{
		{100, 0, 0, 100},
		{0, 0, 100, 200},
		{100, 50, 10, 75},
		{100, 1000, 0, 10},
		{-5, -5, -5, 0},
	} {
		if got := admission.Cost(test.input, test.cached, test.output); got < test.want-1e-9 || got > test.want+1e-9 {
			t.Errorf("Cost(%d, %d, %d) = %v, want %v", test.input, test.cached, test.output, got, test.want)
		}
	}
}

func TestSchedulerHolds(t *testing.T) {
	w := newWorld(t, admission.Options{Limits: admission.Limits{Min: 1, Max: 8}})
	tokens := func(want int64) {
		t.Helper()
		if got := w.Stats().Targets[0].Tokens; got != want {
			t.Errorf("holds %d tokens, want %d", got, want)
		}
	}
	a := w.ask("a1", input(100), output(10))[0]
	tokens(110)
	w.FirstToken(a, w.now)
	w.FirstToken(a, w.now)
	w.Progress(a, 9, w.now)
	tokens(110)
	w.Progress(a, 50, w.now)
	tokens(160)
	b := w.ask("b1", input(7))[0]
	tokens(167)
	w.Settle(a, weir.Usage{Input: 1, Output: 1}) // what it cost frees nothing
	tokens(167)
	w.Done(a, admission.OK, w.now)
	w.Done(a, admission.OK, w.now)
	tokens(7)
	w.Done(b, admission.Failed, w.now)
	tokens(0)
}

// TestSchedulerCountsWorkOnce looks at the rate that is learned from it.
func TestSchedulerCountsWorkOnce(t *testing.T) {
	for name, do := range map[string]func(w *world, it *admission.Item){
		"streamed": func(w *world, it *admission.Item) {
			w.FirstToken(it, w.now)
			w.Progress(it, 49, w.now)
			w.Done(it, admission.OK, w.now)
		},
		"streamed and settled before the end": func(w *world, it *admission.Item) {
			w.FirstToken(it, w.now)
			w.Progress(it, 39, w.now)
			w.Settle(it, weir.Usage{Output: 50})
			w.Done(it, admission.OK, w.now)
		},
		"whole": func(w *world, it *admission.Item) { w.Done(it, admission.OK, w.now) },
		"whole and settled before the end": func(w *world, it *admission.Item) {
			w.Settle(it, weir.Usage{Output: 50})
			w.Done(it, admission.OK, w.now)
		},
		"whole and settled after it": func(w *world, it *admission.Item) {
			w.Done(it, admission.OK, w.now)
			w.Settle(it, weir.Usage{Output: 50})
		},
		"in pieces without a first one": func(w *world, it *admission.Item) {
			w.Progress(it, 20, w.now)
			w.Done(it, admission.OK, w.now)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, places(1))
			for range 100 {
				for w.Stats().Waiting[admission.Standard] < 3 {
					w.ask("a1", output(50))
				}
				w.pass(100 * time.Millisecond)
				it := w.running[0]
				w.running = w.running[1:]
				do(w, it)
			}
			if got := w.Stats().Rate; got < 985 || got > 1015 {
				t.Errorf("a rate of %v, want 1000", got)
			}
		})
	}
}

func TestSchedulerGroups(t *testing.T) {
	o := admission.Options{Limits: admission.Limits{Min: 2, Max: 2}, BatchSize: 4}
	key := func(k string, items int) func(*admission.Request) {
		return func(r *admission.Request) { r.Batch, r.Items = k, items }
	}
	shared := func(items ...*admission.Item) (ids []uint64) {
		for _, it := range items {
			ids = append(ids, it.Shared())
		}
		return ids
	}
	running := func(t *testing.T, w *world, places, requests int) {
		t.Helper()
		if got := w.Stats(); got.Targets[0].Running != places || got.Running != requests {
			t.Errorf("%d requests in %d places, want %d in %d", got.Running, got.Targets[0].Running, requests, places)
		}
	}
	t.Run("requests with one key share a place up to the size", func(t *testing.T) {
		w := newWorld(t, o)
		items := w.ask("a1 b1 c1 d1", key("k", 1))
		running(t, w, 1, 4)
		items = append(items, w.ask("e1", key("k", 1))...)
		running(t, w, 2, 5)
		ids := shared(items...)
		if ids[0] == 0 || ids[0] != ids[1] || ids[0] != ids[3] || ids[0] == ids[4] {
			t.Errorf("shared %v, want four of one number", ids)
		}
	})
	t.Run("by their items", func(t *testing.T) {
		w := newWorld(t, o)
		ids := shared(append(w.ask("a1", key("k", 3)), w.ask("b1", key("k", 2))...)...)
		running(t, w, 2, 2)
		if ids[0] == ids[1] {
			t.Errorf("five items share a place for four")
		}
		if ids := shared(w.ask("c1", key("k", 2))...); ids[0] != 2 {
			t.Errorf("%v, want it to share the second", ids)
		}
	})
	t.Run("what is larger than the size goes alone", func(t *testing.T) {
		w := newWorld(t, o)
		w.ask("a1", key("k", 9))
		w.ask("b1", key("k", 1))
		running(t, w, 2, 2)
	})
	t.Run("not those with another key, or none", func(t *testing.T) {
		w := newWorld(t, o)
		w.ask("a1", key("k", 1))
		w.ask("b1", key("l", 1))
		w.ask("c1", key("k", 1))
		w.ask("d1", key("m", 1))
		if ids := shared(w.ask("e1")...); ids[0] != 0 {
			t.Errorf("shares %v, want nothing", ids)
		}
		running(t, w, 2, 3)
	})
	t.Run("nobody comes to what is sealed", func(t *testing.T) {
		w := newWorld(t, o)
		a := w.ask("a1", key("k", 1))[0]
		w.Seal(a)
		w.Seal(a)
		w.ask("b1", key("k", 1))
		running(t, w, 2, 2)
		w.Seal(a) // which is not that of b
		w.ask("c1", key("k", 1))
		running(t, w, 2, 3)
	})
	t.Run("one that leaves makes room, the last frees the place", func(t *testing.T) {
		w := newWorld(t, o)
		items := w.ask("a1 b1", key("k", 2))
		w.Done(items[0], admission.Left, w.now)
		w.Done(items[0], admission.Left, w.now)
		running(t, w, 1, 1)
		w.Done(items[1], admission.OK, w.now)
		running(t, w, 0, 0)
		w.ask("c1", key("k", 1)) // a new one
		running(t, w, 1, 1)

		w = newWorld(t, o)
		items = w.ask("a1 b1", key("k", 1))
		w.Done(items[0], admission.Left, w.now)
		w.ask("c1", key("k", 3))
		running(t, w, 1, 2)
	})
	t.Run("who was failed by its target does not come back to it with others", func(t *testing.T) {
		o := o
		o.Targets = []admission.Target{{}, {}}
		w := newWorld(t, o)
		a := w.ask("a1", key("k", 1))[0]
		b := w.ask("b1", key("k", 1), func(r *admission.Request) { r.Tried = []int{a.Target()} })[0]
		if b.Target() == a.Target() {
			t.Error("it does")
		}
	})
	t.Run("those that wait fill a place that comes free", func(t *testing.T) {
		w := newWorld(t, o)
		w.ask("x1 x2")
		w.ask("a1 b1 c1", key("k", 1))
		w.done(admission.OK)
		running(t, w, 2, 4)
	})
	t.Run("the size can be moved", func(t *testing.T) {
		w := newWorld(t, o)
		w.SetBatchSize(0)
		w.ask("a1 b1", key("k", 1))
		running(t, w, 2, 2)
	})
}
