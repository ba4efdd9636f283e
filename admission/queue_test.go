package admission_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"go.uber.org/goleak"
)

func newQueue(t testing.TB, o admission.Options) *admission.Queue {
	t.Helper()
	if len(o.Targets) == 0 {
		o.Targets = []admission.Target{{}}
	}
	q, err := admission.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

func acquire(t *testing.T, q *admission.Queue, name string) *admission.Slot {
	t.Helper()
	slot, err := q.Acquire(t.Context(), named(name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return slot
}

func reason(err error) admission.Reason {
	if r, ok := errors.AsType[*admission.Refusal](err); ok {
		return r.Reason
	}
	return ""
}

// virtual runs a test in virtual time.
func virtual(t *testing.T, name string, do func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, do) })
}

func TestQueueWaits(t *testing.T) {
	virtual(t, "a wait ends with the place", func(t *testing.T) {
		q := newQueue(t, places(1))
		first := acquire(t, q, "a1")
		time.AfterFunc(3*time.Second, func() { first.Done(admission.OK) })
		second := acquire(t, q, "a2")
		if got := second.Waited(); got != 3*time.Second || second.Target() != 0 {
			t.Errorf("waited %v for target %d, want 3s for 0", got, second.Target())
		}
	})
	virtual(t, "a wait ends when its time is over", func(t *testing.T) {
		q := newQueue(t, places(1))
		acquire(t, q, "a1")
		time.Sleep(1234567 * time.Microsecond)
		began := time.Now()
		_, err := q.Acquire(t.Context(), named("a2"))
		if took := time.Since(began); reason(err) != admission.Expired || took < 10*time.Second || took > 10*time.Second+10*time.Millisecond {
			t.Errorf("%v after %v, want expired after 10s", err, took)
		}
	})
	virtual(t, "a wait ends with its context", func(t *testing.T) {
		q := newQueue(t, places(1))
		first := acquire(t, q, "a1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := q.Acquire(ctx, named("a2")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the context's error", err)
		}
		if got := q.Stats().Waiting; got != [3]int{} {
			t.Errorf("waiting %v, want nobody", got)
		}
		first.Done(admission.OK)
		if _, err := q.Acquire(ctx, named("a3")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v for a context that is over, want its error", err)
		}
		if got := q.Stats().Running; got != 0 {
			t.Errorf("%d run, want none", got)
		}
	})
}

func TestQueueClose(t *testing.T) {
	virtual(t, "closing refuses who waits and who comes, and lets what runs end", func(t *testing.T) {
		q := newQueue(t, places(1))
		first := acquire(t, q, "a1")
		waits := q.Enter(named("a2"))
		q.Close()
		<-waits.Ready()
		comes := q.Enter(named("a3"))
		<-comes.Ready()
		if reason(waits.Err()) != admission.QueueClosed || reason(comes.Err()) != admission.QueueClosed {
			t.Errorf("%v and %v, want both to hear that it is closed", waits.Err(), comes.Err())
		}
		if _, err := q.TryAcquire(named("a4")); err == nil {
			t.Error("a closed queue has room")
		}
		for _, slot := range []*admission.Slot{waits, comes} { // nothing that comes late does harm
			slot.Leave()
			slot.Seal()
			slot.FirstToken()
			slot.Progress(1, 0)
			slot.Settle(weir.Usage{Input: 1})
			slot.Done(admission.OK)
		}
		if got := comes.Ticket(digest); got != "" {
			t.Errorf("ticket %q, want none", got)
		}
		first.Done(admission.OK)
		q.Close()
		q.Wake()
		if got := q.Stats().Running; got != 0 {
			t.Errorf("%d run, want none", got)
		}
	})
}

func TestQueueTryAcquire(t *testing.T) {
	virtual(t, "who does not wait hears at once that there is no room", func(t *testing.T) {
		q := newQueue(t, places(1))
		slot, err := q.TryAcquire(named("a1"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.TryAcquire(named("a2")); err == nil || reason(err) != "" {
			t.Errorf("%v, want an error that is no refusal", err)
		}
		slot.Done(admission.OK)
		tried := named("a3")
		tried.Tried = []int{0}
		if _, err := q.TryAcquire(tried); err == nil {
			t.Error("it gets the target that failed it")
		}
		if slot, err := q.Acquire(t.Context(), tried); err != nil || slot.Target() != 0 {
			t.Errorf("%v, want who may wait to get it, there being no other", err)
		}
	})
}

func TestQueueWake(t *testing.T) {
	virtual(t, "a target that opens gets work at once when the queue hears of it", func(t *testing.T) {
		var open atomic.Bool
		o := places(1)
		o.Open = func(int, time.Time) bool { return open.Load() }
		q := newQueue(t, o)
		slot := q.Enter(named("a1"))
		time.Sleep(5 * time.Millisecond)
		open.Store(true)
		began := time.Now()
		q.Wake()
		<-slot.Ready()
		if took := time.Since(began); slot.Err() != nil || took != 0 {
			t.Errorf("%v after %v, want a place at once", slot.Err(), took)
		}
	})
	virtual(t, "a target that opens unheard of gets work with the next tick", func(t *testing.T) {
		began := time.Now()
		o := places(1)
		o.Open = func(_ int, now time.Time) bool { return now.Sub(began) >= 1505*time.Millisecond }
		q := newQueue(t, o)
		if got := acquire(t, q, "a1").Waited(); got < 1505*time.Millisecond || got > 1515*time.Millisecond {
			t.Errorf("waited %v, want 1.505s", got)
		}
	})
}

func TestQueueTicks(t *testing.T) {
	virtual(t, "what runs alone is looked at once a second, however it came to its place", func(t *testing.T) {
		for _, how := range []string{"Acquire", "TryAcquire"} {
			var looks atomic.Int64
			o := places(1)
			o.Instances = func() int { looks.Add(1); return 1 }
			q := newQueue(t, o)
			time.Sleep(time.Minute) // it sleeps
			before := looks.Load()
			var slot *admission.Slot
			var err error
			if how == "Acquire" {
				slot, err = q.Acquire(t.Context(), named("a1"))
			} else {
				slot, err = q.TryAcquire(named("a1"))
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10500 * time.Millisecond)
			synctest.Wait()
			if got := looks.Load() - before; got < 10 || got > 11 {
				t.Errorf("%s: %d looks in ten seconds and a half, want ten", how, got)
			}
			slot.Done(admission.OK)
		}
	})
	virtual(t, "nothing ticks while nothing waits and nothing runs", func(t *testing.T) {
		var looks atomic.Int64
		o := places(1)
		o.Instances = func() int { looks.Add(1); return 1 }
		q := newQueue(t, o)
		acquire(t, q, "a1").Done(admission.OK)
		time.Sleep(2 * time.Second)
		before := looks.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := looks.Load(); got != before {
			t.Errorf("%d ticks in an hour of rest", got-before)
		}
		// And what comes then waits no longer than it may.
		acquire(t, q, "a2")
		began := time.Now()
		_, err := q.Acquire(t.Context(), named("a3"))
		if took := time.Since(began); reason(err) != admission.Expired || took > 10*time.Second+10*time.Millisecond {
			t.Errorf("%v after %v, want expired after 10s", err, took)
		}
	})
}

func TestQueuePlaces(t *testing.T) {
	virtual(t, "who leaves between the place and its use is charged nothing", func(t *testing.T) {
		q := newQueue(t, places(1))
		first := acquire(t, q, "x1")
		big := named("a1")
		big.Input = 1000
		a := q.Enter(big)
		rest := map[string]*admission.Slot{}
		for i, name := range []string{"b1", "a2"} {
			r := named(name)
			r.Output = int64(10 + i)
			rest[name] = q.Enter(r)
		}
		first.Done(admission.OK)
		<-a.Ready()
		a.Leave()
		a.Leave()
		<-rest["b1"].Ready()
		second := named("b2")
		second.Output = 10
		b := q.Enter(second)
		rest["b1"].Done(admission.OK)
		if <-rest["a2"].Ready(); rest["a2"].Err() != nil {
			t.Error(rest["a2"].Err())
		}
		rest["a2"].Done(admission.OK)
		<-b.Ready()
		if got := b.Err(); got != nil {
			t.Error(got)
		}
	})
	virtual(t, "members of a group have one number", func(t *testing.T) {
		o := places(1)
		o.BatchSize = 2
		q := newQueue(t, o)
		r := named("a1")
		r.Batch = "k"
		a, b, c := q.Enter(r), q.Enter(r), q.Enter(r)
		if a.Shared() == 0 || a.Shared() != b.Shared() || c.Shared() != 0 {
			t.Errorf("%d, %d, %d: want two of one number and one that waits", a.Shared(), b.Shared(), c.Shared())
		}
		a.Done(admission.OK)
		b.Done(admission.OK)
		<-c.Ready()
		c.Seal()
		q.SetBatchSize(1)
		q.Engine(0, admission.EngineState{Running: 1, At: time.Now()})
	})
}

func TestNew(t *testing.T) {
	t.Run("bad options are named", func(t *testing.T) {
		for _, o := range []admission.Options{
			{},
			{Targets: []admission.Target{{}}, Limits: admission.Limits{Min: 5, Max: 4}},
			{Targets: []admission.Target{{}}, Limits: admission.Limits{Min: -1}},
			{Targets: []admission.Target{{}}, SLO: admission.SLO{TTFT: -1}},
		} {
			if q, err := admission.New(o); err == nil {
				q.Close()
				t.Errorf("%+v: no error", o)
			}
		}
	})
}

// TestQueueLeaksNothing has many clients leave at any moment: before they come,
// while they wait, at the very moment of the decision, and while they are served.
func TestQueueLeaksNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	n := 100_000
	if raceEnabled {
		n = 20_000
	}
	o := admission.Options{
		Targets:   []admission.Target{{}, {}},
		Limits:    admission.Limits{Min: 3, Max: 3},
		MaxQueue:  40,
		MaxWait:   2 * time.Millisecond,
		BatchSize: 2,
	}
	var decided, left atomic.Int64
	o.Observe = func(e admission.Event) {
		if e.Left {
			left.Add(1)
			return
		}
		decided.Add(1)
	}
	q := newQueue(t, o)
	const clients = 64
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(client)))
			for range n / clients {
				visit(q, rnd)
			}
		})
	}
	wg.Wait()
	got := q.Stats()
	for _, target := range got.Targets {
		if target.Running != 0 || target.Tokens != 0 {
			t.Errorf("a target holds %+v", target)
		}
	}
	if got.Running != 0 || got.Waiting != [3]int{} {
		t.Errorf("at the end %+v", got)
	}
	if decided.Load() == 0 || left.Load() == 0 {
		t.Errorf("%d decided, %d left while they waited: want both", decided.Load(), left.Load())
	}
	t.Logf("%d decided, %d left while they waited", decided.Load(), left.Load())
	q.Close()
}

// visit is one request that is given up at a random point, or not.
func visit(q *admission.Queue, rnd *rand.Rand) {
	r := admission.Request{
		Caller: fmt.Sprint(rnd.IntN(20)),
		Class:  admission.Class(rnd.IntN(3)),
		Input:  int64(rnd.IntN(3) * 100),
		Batch:  []string{"", "", "k"}[rnd.IntN(3)],
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch rnd.IntN(5) {
	case 0: // before
		cancel()
	case 1: // at any moment
		timer := time.AfterFunc(time.Duration(rnd.IntN(300))*time.Microsecond, cancel)
		defer timer.Stop()
	case 2: // while it waits, most likely
		slot := q.Enter(r)
		slot.Leave()
		slot.Done(admission.OK)
		return
	case 3:
		if slot, err := q.TryAcquire(r); err == nil {
			slot.Leave()
			slot.Done(admission.OK)
		}
		return
	}
	slot, err := q.Acquire(ctx, r)
	if err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { slot.FirstToken(); slot.Progress(3, 0) })
	if rnd.IntN(3) == 0 { // the end and a leaving client race
		both.Go(slot.Leave)
	}
	for range rnd.IntN(30) {
		runtime.Gosched() // it takes a while
	}
	slot.Done(admission.Result(rnd.IntN(int(admission.Unused) + 1)))
	both.Wait()
	slot.Settle(weir.Usage{Input: 5, Output: 5})
}
