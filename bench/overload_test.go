//go:build unix

package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
)

// dispatchPlaces is how many requests run at once in the benchmark of the scheduler.
const dispatchPlaces = 64

// dispatching drives a scheduler by a clock of its own.
type dispatching struct {
	scheduler *admission.Scheduler
	now       time.Time
	running   []*admission.Item // a ring, the oldest at first
	first     int
	refused   int
}

func newDispatching(tb testing.TB, queue int) *dispatching {
	tb.Helper()
	d := &dispatching{now: time.Unix(1_700_000_000, 0)}
	s, err := admission.NewScheduler(admission.Options{
		Targets: []admission.Target{{}}, Limits: admission.Limits{Min: dispatchPlaces, Max: dispatchPlaces},
		MaxQueue: queue, MaxWait: time.Hour, Secret: []byte("secret"),
	}, func(it *admission.Item) {
		if it.Refusal() != nil {
			d.refused++
			return
		}
		d.running = append(d.running, it)
	})
	if err != nil {
		tb.Fatal(err)
	}
	d.scheduler = s
	return d
}

func (d *dispatching) submit(caller string) {
	d.scheduler.Submit(admission.NewItem(admission.Request{Caller: caller, Class: admission.Standard, Input: 300, Output: 150}), d.now)
}

// finish ends the oldest that runs, as a stream ends: its first token, its last one,
// what it really used.
func (d *dispatching) finish() {
	it := d.running[d.first]
	d.running[d.first] = nil
	if d.first++; d.first >= 4*dispatchPlaces {
		d.running = append(d.running[:0], d.running[d.first:]...)
		d.first = 0
	}
	d.scheduler.FirstToken(it, d.now)
	d.scheduler.Settle(it, weir.Usage{Input: 310, Output: 140})
	d.scheduler.Done(it, admission.OK, d.now)
}

// loop submits requests of callers in their order and finishes as many, ten
// microseconds of the scheduler's time apart.
func (d *dispatching) loop(callers []string, n int) {
	for i := range n {
		if d.now = d.now.Add(10 * time.Microsecond); i%1000 == 0 {
			d.scheduler.Tick(d.now)
		}
		d.submit(callers[i%len(callers)])
		d.finish()
	}
}

// fill makes all callers known, and lets so many requests wait.
func (d *dispatching) fill(tb testing.TB, callers []string, waiting int) {
	tb.Helper()
	for i := 0; i < waiting+dispatchPlaces-1; i++ {
		d.submit(callers[i%len(callers)])
	}
	d.loop(callers, len(callers))
	if st := d.scheduler.Stats(); d.refused > 0 || st.Running < dispatchPlaces-1 || st.Waiting[admission.Standard] < waiting-1 {
		tb.Fatalf("%d were refused; %+v", d.refused, st)
	}
}

// dispatchCases are how many callers there are, and how many requests wait.
func dispatchCases() []struct{ callers, waiting int } {
	return []struct{ callers, waiting int }{{1000, 1000}, {100_000, 0}, {100_000, 100_000}}
}

// BenchmarkDispatch is the scheduler's work on one request: it comes, waits for its turn
// or not, is given to the target, and ends.
func BenchmarkDispatch(b *testing.B) {
	for _, c := range dispatchCases() {
		var d *dispatching // one for all runs: to fill it takes longer than to measure
		callers := fresh(callerKeys(c.callers))
		b.Run(fmt.Sprintf("callers=%d,waiting=%d/weir", c.callers, c.waiting), func(b *testing.B) {
			if d == nil {
				d = newDispatching(b, 2*c.waiting+1)
				d.fill(b, callers, c.waiting)
			}
			measure(b, func(n int) { d.loop(callers, n) })
			if d.refused > 0 {
				b.Fatalf("%d were refused", d.refused)
			}
		})
	}
}

func TestDispatching(t *testing.T) {
	for _, c := range dispatchCases() {
		t.Run(fmt.Sprintf("%d callers and %d that wait lose nothing", c.callers, c.waiting), func(t *testing.T) {
			d := newDispatching(t, 2*c.waiting+1)
			callers := fresh(callerKeys(c.callers))
			d.fill(t, callers, c.waiting)
			for d.first < len(d.running) {
				d.finish()
			}
			st := d.scheduler.Stats()
			if st.Running != 0 || st.Waiting != [3]int{} || d.refused != 0 || st.Targets[0].Tokens != 0 {
				t.Errorf("%d were refused; %+v", d.refused, st)
			}
		})
	}
}
