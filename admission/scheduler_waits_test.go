package admission_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/inferweir/weir/admission"
)

func TestSchedulerFullQueue(t *testing.T) {
	for _, test := range []struct {
		name     string
		max      int
		waiting  string
		newcomer string
		change   []func(*admission.Request)
		want     string
	}{
		{"the newest of the longest line makes room", 4, "a1 a2 a3 b1", "b2", nil, "a3 queue_full"},
		{"the longest by number, not by cost", 4, "a1 a2 a3 b1", "b2", []func(*admission.Request){output(50)}, "a3 queue_full"},
		{"the newcomer does where its line would be the longest", 4, "a1 a2 a3 b1", "a4", nil, "a4 queue_full"},
		{"lines count by weight", 4, "a1 a2 a3 b1", "b2", []func(*admission.Request){weight(1)}, "a3 queue_full"},
		{"one that comes back drives out a newer one of its caller", 4, "a1 a2 a3 b1", "a4", []func(*admission.Request){func(r *admission.Request) { r.Tried = []int{0} }}, "a3 queue_full"},
		{"the lowest class goes first, whatever the lines are", 4, "a1 a2 Z1 Z2", "a3", nil, "Z2 queue_full"},
		{"but keeps a place", 4, "a1 a2 a3 Z1", "b1", nil, "a3 queue_full"},
		{"which a class that has none gets back", 4, "a1 a2 a3 a4", "Z1", nil, "a4 queue_full"},
		{"and no more than that", 4, "a1 a2 a3 Z1", "Y1", nil, "Y1 queue_full"},
		{"a queue with few places is for those who go first", 2, "Z1 Z2", "a1", nil, "Z2 queue_full"},
		{"of which nobody below takes one", 2, "a1 b1", "Z1", nil, "Z1 queue_full"},
		{"of all classes", 1, "Z1", "K1", nil, "Z1 queue_full"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := places(1)
			o.MaxQueue = test.max
			w := newWorld(t, o)
			letters := func(r *admission.Request) {
				switch r.Caller[0] {
				case 'Y', 'Z':
					r.Class = admission.Batch
				case 'K':
					r.Class = admission.Critical
				}
			}
			w.ask("x1")
			w.ask(test.waiting, letters)
			w.saw()
			w.ask(test.newcomer, append(test.change, letters)...)
			w.want(test.want)
			n := w.Stats().Waiting
			if got := n[0] + n[1] + n[2]; got != test.max {
				t.Errorf("%d wait, want %d", got, test.max)
			}
		})
	}
	t.Run("a heavier weight may have a longer line", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = 4
		w := newWorld(t, o)
		w.ask("x1")
		w.ask("a1 a2 a3", weight(4))
		w.ask("b1 b2")
		w.want("x1, b2 queue_full")
	})
	t.Run("each lower class keeps a twentieth of the places, the others go to who comes first", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = 100
		w := newWorld(t, o)
		w.ask("x1")
		for i := range 100 {
			w.ask(fmt.Sprintf("z%d", i), class(admission.Batch))
		}
		for i := range 100 {
			w.ask(fmt.Sprintf("n%d", i))
		}
		for i := range 200 {
			w.ask(fmt.Sprintf("k%d", i), class(admission.Critical))
		}
		if got, want := w.Stats().Waiting, [3]int{90, 5, 5}; got != want {
			t.Errorf("waiting %v, want %v", got, want)
		}
	})
	t.Run("without a queue nobody waits", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = -1
		w := newWorld(t, o)
		w.ask("a1 a2")
		w.done(admission.OK)
		w.ask("a3")
		w.want("a1, a2 queue_full, a3")
	})
	t.Run("the default holds 256", func(t *testing.T) {
		w := newWorld(t, places(1))
		for range 300 {
			w.ask("a1")
		}
		if got := w.Stats().Waiting[admission.Standard]; got != 256 {
			t.Errorf("%d wait, want 256", got)
		}
	})
}

func TestSchedulerEndsWaits(t *testing.T) {
	deadline := func(d time.Duration) func(*admission.Request) {
		return func(r *admission.Request) { r.Deadline = start.Add(d) }
	}
	until := func(d time.Duration) func(*admission.Request) {
		return func(r *admission.Request) { r.WaitUntil = start.Add(d) }
	}
	for _, test := range []struct {
		name   string
		slo    time.Duration
		change []func(*admission.Request)
		want   time.Duration
	}{
		{"after the longest wait", 0, nil, 10 * time.Second},
		{"after 0.65 of the objective where nothing else of its caller waits", 2 * time.Second, nil, 1300 * time.Millisecond},
		{"class batch has none", 2 * time.Second, []func(*admission.Request){class(admission.Batch)}, 10 * time.Second},
		{"at the time at which its client wants it to have begun", 0, []func(*admission.Request){until(300 * time.Millisecond)}, 300 * time.Millisecond},
		{"at its deadline, where nothing is known of how long it takes", 0, []func(*admission.Request){deadline(505 * time.Millisecond)}, 505 * time.Millisecond},
		{"at the first of several", 2 * time.Second, []func(*admission.Request){deadline(700 * time.Millisecond), until(750 * time.Millisecond)}, 700 * time.Millisecond},
		{"not before its time where that is far away", 0, []func(*admission.Request){until(time.Hour)}, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := places(1)
			o.SLO.TTFT = test.slo
			w := newWorld(t, o)
			w.ask("x1")
			w.ask("a1", test.change...)
			w.pass(test.want - time.Nanosecond)
			w.want("x1")
			w.pass(time.Nanosecond)
			w.want("a1 expired")
			if got := w.events[len(w.events)-1].Wait; got != test.want {
				t.Errorf("waited %v, want %v", got, test.want)
			}
		})
	}
	t.Run("after 0.4 of the objective behind others of its caller", func(t *testing.T) {
		o := places(1)
		o.SLO.TTFT = 2 * time.Second
		w := newWorld(t, o)
		w.ask("x1 a1 a2")
		w.pass(800*time.Millisecond - time.Nanosecond)
		w.want("x1")
		w.pass(time.Nanosecond)
		w.want("a2 expired")
		w.pass(500 * time.Millisecond)
		w.want("a1 expired")
	})
	t.Run("a wait longer than the wheel ends in time, too", func(t *testing.T) {
		o := places(1)
		o.MaxWait = 2 * time.Minute
		w := newWorld(t, o)
		w.ask("x1 a1")
		w.pass(2*time.Minute - time.Nanosecond)
		w.want("x1")
		w.pass(time.Nanosecond)
		w.want("a1 expired")
	})
	t.Run("a place that comes free at that moment is not given to who is late", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("x1 a1")
		w.now = w.now.Add(10 * time.Second) // and no tick
		w.ask("b1")
		w.done(admission.OK)
		w.want("x1, a1 expired, b1")
	})
	t.Run("who leaves is gone at once", func(t *testing.T) {
		w := newWorld(t, places(1))
		items := w.ask("x1 a1 a2")
		w.Cancel(items[1], w.now)
		w.Cancel(items[1], w.now)
		if got := w.Stats().Waiting[admission.Standard]; got != 1 {
			t.Errorf("%d wait, want 1", got)
		}
		if got, want := w.events[len(w.events)-1], (admission.Event{Class: admission.Standard, Target: -1, Left: true}); got != want {
			t.Errorf("event %+v, want %+v", got, want)
		}
		w.drain()
		w.want("x1, a2")
	})
	t.Run("who leaves while it runs keeps its place until it is done with", func(t *testing.T) {
		w := newWorld(t, places(1))
		items := w.ask("x1 a1")
		w.Cancel(items[0], w.now)
		w.want("x1")
		w.Done(items[0], admission.Left, w.now)
		w.want("a1")
	})
}

// learned is a world with one place that works off a cost of 1000 in a second, and
// has been seen to.
func learned(t *testing.T, o admission.Options) *world {
	w, most := newWorld(t, o), 3
	if o.MaxQueue > 0 {
		most = min(most, o.MaxQueue)
	}
	for range 30 {
		for w.Stats().Waiting[admission.Standard] < most {
			w.ask("w1", output(50))
		}
		w.pass(100 * time.Millisecond)
		w.done(admission.OK)
	}
	for len(w.running) > 0 {
		w.done(admission.Unused)
	}
	if got := w.Stats().Rate; got < 990 || got > 1010 {
		t.Fatalf("learned a rate of %v, want 1000", got)
	}
	w.saw()
	return w
}

func TestSchedulerRefusesWhatWouldWaitForTooLong(t *testing.T) {
	o := places(1)
	o.MaxQueue = 1000
	t.Run("not as long as the rate is unknown", func(t *testing.T) {
		w := newWorld(t, o)
		for range 500 {
			w.ask("a1", output(5000))
		}
		w.pass(2 * time.Second)
		if got := w.saw(); strings.Contains(got, "wait_too_long") {
			t.Errorf("refused: %s", got)
		}
	})
	for _, test := range []struct {
		name   string
		others string
		change []func(*admission.Request)
		want   int
	}{
		{"beyond half of the longest wait", "", nil, 51},
		{"of its caller's share", "b1", nil, 26},
		{"by weight", "b1", []func(*admission.Request){weight(3)}, 39},
		{"all of it where it comes back", "", []func(*admission.Request){func(r *admission.Request) { r.Tried = []int{0} }}, 101},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := learned(t, o)
			w.ask("x1 " + test.others)
			for range 200 {
				w.ask("a1", append(test.change, output(50))...)
			}
			got := w.saw()
			if n := 200 - strings.Count(got, "a1 wait_too_long"); n < test.want-1 || n > test.want+1 {
				t.Errorf("%d requests of 100 wait, want %d", n, test.want)
			}
			w.ask("c1", output(50))
			w.want("") // what others wait for does not keep it away
		})
	}
	t.Run("what cannot be ready by its deadline is refused, unless nothing runs", func(t *testing.T) {
		w := learned(t, o)
		w.ask("b1", output(50), func(r *admission.Request) { r.Deadline = w.now.Add(50 * time.Millisecond) })
		w.want("b1")
		items := w.ask("a1", output(50), func(r *admission.Request) { r.Deadline = w.now.Add(50 * time.Millisecond) })
		w.want("a1 deadline")
		if r := *items[0].Refusal(); r != (admission.Refusal{Reason: admission.DeadlineTooClose}) {
			t.Errorf("%+v, want no advice", r)
		}
		if got := w.Ticket(items[0], [32]byte{}); got != "" {
			t.Errorf("ticket %q, want none", got)
		}
		w.done(admission.OK)
		w.ask("a2", output(50), func(r *admission.Request) { r.Deadline = w.now.Add(110 * time.Millisecond) })
		w.ask("a3", func(r *admission.Request) { r.Deadline = w.now })
		w.want("a2, a3 deadline")
	})
	t.Run("what one cost takes says nothing of a larger one", func(t *testing.T) {
		w := learned(t, o)
		w.ask("a1", output(5000), func(r *admission.Request) { r.Deadline = w.now.Add(200 * time.Millisecond) })
		w.want("a1")
	})
	t.Run("who was too slow once is tried again", func(t *testing.T) {
		w := learned(t, o)
		w.ask("x1")
		for range 120 {
			w.pass(time.Second)
		}
		w.ask("a1", output(50), func(r *admission.Request) { r.Deadline = w.now.Add(50 * time.Millisecond) })
		w.pass(60 * time.Millisecond)
		w.want("x1, a1 expired")
	})
	t.Run("the time that it takes is no part of its wait", func(t *testing.T) {
		w := learned(t, o)
		w.ask("x1")
		w.ask("a1", output(50), func(r *admission.Request) { r.Deadline = w.now.Add(300 * time.Millisecond) })
		w.pass(150 * time.Millisecond)
		w.want("x1")
		w.pass(120 * time.Millisecond)
		w.want("a1 expired")
	})
}

// setBack is t on a wall clock that was set back by an hour after t was read: the
// monotonic reading stays. Package time has no way to make one.
func setBack(t time.Time) time.Time {
	const secondsAt = 30 // of the wall word: 1 bit, 33 bits of seconds, 30 of nanoseconds
	*(*uint64)(unsafe.Pointer(&t)) -= 3600 << secondsAt
	return t
}

func TestSchedulerClock(t *testing.T) {
	t.Run("a wall clock that is set back changes nothing", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.now = time.Now()
		w.ask("x1 a1")
		w.now = setBack(w.now)
		w.ask("b1")
		w.pass(10*time.Second - time.Nanosecond)
		w.want("x1")
		w.pass(time.Nanosecond)
		if got := strings.Count(w.saw(), "expired"); got != 2 {
			t.Errorf("%d waits are over, want both", got)
		}
	})
	for _, test := range []struct {
		name string
		by   time.Duration
		want string
	}{
		{"time that goes back by an hour lets everyone wait for as long as before", -time.Hour, "a1 expired, b1 expired"},
		{"time that goes on by an hour ends the waits", time.Hour, "a1 expired"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := learned(t, places(1))
			w.ask("x1 a1")
			w.pass(5 * time.Second)
			w.saw()
			w.now = w.now.Add(test.by)
			w.Tick(w.now)
			w.ask("b1")
			w.pass(5 * time.Second)
			if test.by < 0 {
				w.want("a1 expired")
			}
			w.pass(5*time.Second - time.Nanosecond)
			w.saw()
			w.pass(time.Nanosecond)
			w.want("b1 expired")
			// Nothing ended in all of that time.
			if got := w.Stats().Rate; got <= 0 || got > 100 {
				t.Errorf("a rate of %v afterwards, want little of 1000", got)
			}
			r := w.ask("k1")[0]
			w.pass(10 * time.Second)
			if got := r.Refusal().RetryAfter; got > 3*time.Second {
				t.Errorf("told to come back in %v", got)
			}
			w.drain()
			w.ask("c1")
			w.want("k1 expired, c1")
		})
	}
	t.Run("appointments of a time that is still to come do not keep anyone away", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = -1
		w := newWorld(t, o)
		w.ask("x1 a1")
		w.now = w.now.Add(-time.Hour)
		if got := w.ask("a1")[0].Refusal().RetryAfter; got > 2*time.Second {
			t.Errorf("told to come back in %v", got)
		}
	})
	t.Run("a process that was stopped has not seen its targets slow", func(t *testing.T) {
		w := learned(t, places(1))
		w.ask("x1 a1 a2", output(50))
		w.done(admission.OK)
		w.now = w.now.Add(5 * time.Minute)
		w.Tick(w.now)
		if got := w.Stats().Rate; got < 990 {
			t.Errorf("a rate of %v afterwards, want 1000", got)
		}
	})
	t.Run("a moment back makes no wait longer", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("x1 a1")
		w.pass(time.Second)
		w.now = w.now.Add(-500 * time.Millisecond)
		w.ask("b1", func(r *admission.Request) { r.WaitUntil = w.now.Add(200 * time.Millisecond) })
		w.pass(700 * time.Millisecond)
		w.want("x1, b1 expired")
	})
	t.Run("any beginning of time will do", func(t *testing.T) {
		for _, began := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1e9, 5)} {
			w := newWorld(t, places(1))
			w.now = began
			w.ask("x1 a1")
			w.pass(10*time.Second - time.Nanosecond)
			w.want("x1")
			w.pass(time.Nanosecond)
			w.want("a1 expired")
		}
	})
}

func TestSchedulerRateOfLongRequests(t *testing.T) {
	o := places(16)
	o.MaxQueue = 64
	w := newWorld(t, o)
	type end struct {
		it *admission.Item
		at time.Time
	}
	var ends []end
	seen := 0
	for range 200 * 10 {
		for range 8 {
			if w.Stats().Waiting[admission.Standard] < 8 {
				w.ask("a1")
			}
		}
		for ; seen < len(w.running); seen++ {
			ends = append(ends, end{w.running[seen], w.now.Add(20 * time.Second)})
		}
		w.pass(100 * time.Millisecond)
		for len(ends) > 0 && !w.now.Before(ends[0].at) {
			w.Done(ends[0].it, admission.OK, w.now)
			ends = ends[1:]
		}
		w.saw()
	}
	if got, want := w.Stats().Rate, 16.0/20; got < 0.7*want || got > 1.3*want {
		t.Errorf("16 places, calls of 20 s: a rate of %.2f a second, want %.2f", got, want)
	}
}
