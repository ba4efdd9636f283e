package admission_test

import (
	"container/heap"
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
)

// play is a Scheduler in virtual time whose callers act by themselves.
type play struct {
	*admission.Scheduler
	now     time.Time
	acts    acts
	acted   int
	decided map[*admission.Item]func()

	served, refused map[string]int           // by caller
	spent           map[string]time.Duration // at the target, by caller
}

type act struct {
	at time.Time
	n  int // of two at the same time the first comes first
	do func()
}

type acts []act

func (a acts) Len() int { return len(a) }
func (a acts) Less(i, j int) bool {
	return a[i].at.Before(a[j].at) || a[i].at.Equal(a[j].at) && a[i].n < a[j].n
}
func (a acts) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *acts) Push(x any)   { *a = append(*a, x.(act)) }
func (a *acts) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	*a = (*a)[:last]
	return x
}

func newPlay(t *testing.T, o admission.Options) *play {
	t.Helper()
	p := &play{now: start, decided: map[*admission.Item]func(){}, served: map[string]int{}, refused: map[string]int{}, spent: map[string]time.Duration{}}
	o.Targets = []admission.Target{{}}
	s, err := admission.NewScheduler(o, func(it *admission.Item) {
		p.in(0, p.decided[it])
		delete(p.decided, it)
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Scheduler = s
	var tick func()
	tick = func() { s.Tick(p.now); p.in(10*time.Millisecond, tick) }
	tick()
	return p
}

// in has something done after a time.
func (p *play) in(d time.Duration, do func()) {
	p.acted++
	heap.Push(&p.acts, act{p.now.Add(d), p.acted, do})
}

// run lets time pass.
func (p *play) run(d time.Duration) {
	for end := p.now.Add(d); !p.acts[0].at.After(end); {
		a := heap.Pop(&p.acts).(act)
		p.now = a.at
		a.do()
	}
}

// asks submits a request.
func (p *play) asks(r admission.Request, decided func(it *admission.Item)) {
	it := admission.NewItem(r)
	p.decided[it] = func() { decided(it) }
	p.Submit(it, p.now)
}

// client sends one request after the other.
type client struct {
	admission.Request
	took time.Duration // at the target
	back time.Duration // after a refusal
	done func(p *play, it *admission.Item)
}

// ok ends an item that was answered.
func ok(p *play, it *admission.Item) { p.Done(it, admission.OK, p.now) }

// each has n clients of a kind at work.
func (p *play) each(n int, c client) {
	c.Class = admission.Standard
	var next func()
	next = func() {
		p.asks(c.Request, func(it *admission.Item) {
			if it.Refusal() != nil {
				p.refused[c.Caller]++
				p.in(c.back, next)
				return
			}
			p.in(c.took, func() {
				p.spent[c.Caller] += c.took
				p.served[c.Caller]++
				c.done(p, it)
				next()
			})
		})
	}
	for range n {
		next()
	}
}

func (p *play) limit() float64 { return p.Stats().Targets[0].Limit }

// counted begins to count anew.
func (p *play) counted() {
	clear(p.served)
	clear(p.refused)
	clear(p.spent)
}

// alike fails unless two callers had about as much of the target.
func (p *play) alike(t *testing.T, one, other string) {
	t.Helper()
	a, b := p.spent[one].Seconds(), p.spent[other].Seconds()
	if !(a > 0.75*b && b > 0.75*a) {
		t.Errorf("%s had %.0f s of the target, %s %.0f s: want as much", one, a, other, b)
	}
}

func TestRegressionAFloodOfShortRequestsKeepsNoLongOneOut(t *testing.T) {
	o := places(16)
	o.MaxQueue = 64
	p := newPlay(t, o)
	p.each(150, client{
		Request: admission.Request{Caller: "flood", Kind: "chat", Input: 5, Output: 1, Stream: true},
		took:    20 * time.Millisecond,
		back:    50 * time.Millisecond,
		done: func(p *play, it *admission.Item) {
			p.FirstToken(it, p.now)
			p.Settle(it, weir.Usage{Input: 5, Output: 1})
			ok(p, it)
		},
	})
	p.run(5 * time.Second)
	p.each(1, client{
		Request: admission.Request{Caller: "long", Kind: "chat", Input: 2000, Output: 150, Stream: true},
		took:    time.Second,
		back:    200 * time.Millisecond,
		done: func(p *play, it *admission.Item) {
			p.FirstToken(it, p.now)
			p.Settle(it, weir.Usage{Input: 2000, Output: 150})
			ok(p, it)
		},
	})
	p.run(20 * time.Second)
	if p.served["long"] < 10 || p.refused["long"] > 0 {
		t.Errorf("beside the flood, which had %d served, %d were served of a caller who sends one at a time, and %d refused", p.served["flood"], p.served["long"], p.refused["long"])
	}
	if p.refused["flood"] == 0 {
		t.Error("nothing of the flood was refused: it is none")
	}
}

func TestRegressionWhoLeavesBeforeAWholeAnswerPaysForIt(t *testing.T) {
	for name, leave := range map[string]func(p *play, it *admission.Item){
		"without a token":     func(p *play, it *admission.Item) { p.Done(it, admission.Left, p.now) },
		"told before the end": func(p *play, it *admission.Item) { p.Cancel(it, p.now); p.Done(it, admission.Left, p.now) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t, places(8))
			r := admission.Request{Kind: "chat", Input: 50, Output: 500}
			r.Caller = "honest"
			p.each(12, client{Request: r, took: 5 * time.Second, back: 100 * time.Millisecond, done: func(p *play, it *admission.Item) {
				p.Settle(it, weir.Usage{Input: 50, Output: 500})
				ok(p, it)
			}})
			r.Caller = "leaver"
			p.each(12, client{Request: r, took: 4900 * time.Millisecond, back: 100 * time.Millisecond, done: leave})
			p.run(5 * time.Minute)
			p.alike(t, "honest", "leaver")
		})
	}
}

func TestRegressionRequestsWithoutTokensPayForTheirTime(t *testing.T) {
	for _, took := range []time.Duration{200 * time.Millisecond, time.Second, 3 * time.Second} {
		t.Run(took.String(), func(t *testing.T) {
			p := newPlay(t, places(8))
			p.each(12, client{Request: admission.Request{Caller: "chat", Kind: "chat", Input: 300, Output: 150}, took: time.Second, back: 100 * time.Millisecond, done: ok})
			p.each(12, client{Request: admission.Request{Caller: "unread", Kind: "other"}, took: took, back: 100 * time.Millisecond, done: ok})
			p.run(30 * time.Second)
			p.counted()
			p.run(2 * time.Minute)
			p.alike(t, "chat", "unread")
		})
	}
}

func TestRegressionRequestsWithoutTokensAreRefusedInTimeBesideOthersWithSome(t *testing.T) {
	o := places(2)
	o.MaxQueue, o.MaxWait = 100, 2*time.Second
	p := newPlay(t, o)
	p.each(5, client{Request: admission.Request{Caller: "chat", Kind: "chat", Input: 300, Output: 150}, took: time.Second, back: 100 * time.Millisecond, done: ok})
	p.run(30 * time.Second)
	waited := map[admission.Reason]int{}
	var advised time.Duration
	var next func()
	next = func() {
		p.asks(admission.Request{Caller: "rank", Kind: "rank", Class: admission.Standard}, func(it *admission.Item) {
			if refusal := it.Refusal(); refusal != nil {
				waited[refusal.Reason]++
				advised = max(advised, refusal.RetryAfter)
				p.in(time.Second, next)
				return
			}
			p.in(200*time.Millisecond, func() {
				ok(p, it)
				next()
			})
		})
	}
	for range 60 { // about 3 of their requests are done in a second, as chat has half
		next()
	}
	p.run(20 * time.Second) // to know what they take
	clear(waited)
	p.run(60 * time.Second)
	if waited[admission.WaitTooLong] < 20*waited[admission.Expired] || waited[admission.WaitTooLong] == 0 {
		t.Errorf("refused: %v, want nearly all at once", waited)
	}
	if advised < 5*time.Second {
		t.Errorf("the longest advice is %v, want the time of an appointment", advised)
	}
	preview := p.Preview(admission.Request{Caller: "new", Kind: "rank", Class: admission.Standard}, p.now)
	if !preview.Known || preview.Wait < 100*time.Millisecond {
		t.Errorf("a newcomer waits %v (known: %v), want the time of one of its kind or more", preview.Wait, preview.Known)
	}
}

func TestRegressionADeadlineIsTriedWhereTheTargetIsIdle(t *testing.T) {
	hurried := func(w *world) func(*admission.Request) {
		return func(r *admission.Request) { r.Deadline = w.now.Add(2 * time.Second) }
	}
	t.Run("though all that is known was too slow", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("a1")
		w.pass(4 * time.Second)
		w.drain()
		w.ask("b1", hurried(w))
		w.want("a1, b1")
	})
	t.Run("which is then what is known", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("a1")
		w.pass(4 * time.Second)
		w.drain()
		w.ask("b1", hurried(w))
		w.pass(10 * time.Millisecond)
		w.drain()
		w.ask("a2")
		w.ask("b2", hurried(w))
		w.pass(10 * time.Millisecond)
		w.drain()
		w.want("a1, b1, a2, b2")
	})
	t.Run("and not one that is over", func(t *testing.T) {
		w := newWorld(t, places(1))
		w.ask("a1", func(r *admission.Request) { r.Deadline = w.now })
		w.want("a1 deadline")
	})
	t.Run("where something runs it is refused until that was long ago", func(t *testing.T) {
		w := newWorld(t, places(2))
		w.ask("a1")
		w.pass(4 * time.Second)
		w.drain()
		w.ask("a2")
		w.ask("b1", hurried(w))
		w.want("a1, a2, b1 deadline")
		w.pass(time.Minute)
		w.ask("b2", hurried(w))
		w.want("b2")
	})
}

// Of a stream whose parts are no tokens nobody knows how long it should take.
func TestRegressionPausesOfAFeedAreNoStallsOfItsTarget(t *testing.T) {
	limit := func(feeds bool) float64 {
		p, took := newPlay(t, admission.Options{}), 100*time.Millisecond
		var next func()
		next = func() {
			p.asks(admission.Request{Caller: "a", Class: admission.Standard, Kind: "k"}, func(it *admission.Item) {
				if it.Refusal() != nil {
					p.in(time.Second, next)
					return
				}
				p.in(took, func() {
					if feeds {
						p.Streams(it)
					}
					ok(p, it)
					next()
				})
			})
		}
		for range 30 {
			next()
		}
		p.run(time.Minute)
		before := p.limit()
		took = 3 * time.Second
		p.run(time.Minute)
		return p.limit() / before
	}
	if got := limit(true); got < 1 {
		t.Errorf("with feeds that last longer the limit is %.2f of what it was", got)
	}
	if got := limit(false); got >= 1 {
		t.Errorf("with calls that take longer the limit is %.2f of what it was", got)
	}
}

// A client that reads little by little makes pauses that are not its target's.
func TestRegressionASlowReaderOfAStreamIsNoSlowTarget(t *testing.T) {
	limit := func(t *testing.T, reader bool) (limit float64) {
		synctest.Test(t, func(t *testing.T) {
			q, err := admission.New(admission.Options{Targets: []admission.Target{{}}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			r := admission.Request{Class: admission.Standard, Kind: "chat", Input: 20, Output: 20, Stream: true}
			stream := func(caller string, pause time.Duration) {
				r := r
				r.Caller = caller
				for ctx.Err() == nil {
					s, err := q.Acquire(ctx, r)
					if err != nil {
						time.Sleep(time.Second)
						continue
					}
					time.Sleep(100 * time.Millisecond)
					s.FirstToken()
					for range 20 {
						time.Sleep(20*time.Millisecond + pause)
						s.Progress(1, 20*time.Millisecond)
					}
					s.Done(admission.OK)
				}
			}
			for range 14 {
				go stream("good", 0)
			}
			if reader {
				for range 4 {
					go stream("reader", 1500*time.Millisecond)
				}
			}
			time.Sleep(90 * time.Second)
			limit = q.Stats().Targets[0].Limit
			stop()
			synctest.Wait()
			time.Sleep(time.Minute)
			q.Close()
		})
		return limit
	}
	if with, without := limit(t, true), limit(t, false); with < 0.9*without || without < 14 {
		t.Errorf("a limit of %.0f beside readers that are slow, %.0f without", with, without)
	}
}

func TestRegressionSocketsTakeNothingOfAnAdaptiveLimit(t *testing.T) {
	p := newPlay(t, admission.Options{Limits: admission.Limits{Min: 1, Max: 120}})
	p.each(20, client{Request: admission.Request{Caller: "short", Kind: "k"}, took: 50 * time.Millisecond, back: time.Second, done: ok})
	p.run(30 * time.Second)
	p.counted()
	p.run(time.Minute)
	alone := p.served["short"]
	var open []*admission.Item
	for i := range 100 {
		p.in(time.Duration(i)*100*time.Millisecond, func() {
			p.asks(admission.Request{Caller: "ws" + strconv.Itoa(i), Class: admission.Standard, Kind: "ws"}, func(it *admission.Item) {
				if it.Refusal() == nil {
					p.Switched(it, p.now)
					open = append(open, it)
				}
			})
		})
	}
	p.run(20 * time.Second)
	p.counted()
	p.run(time.Minute)
	if got := p.served["short"]; len(open) != 100 || got < alone*9/10 {
		t.Errorf("beside %d sockets %d short calls were served, without them %d", len(open), got, alone)
	}
	if limit, running := p.limit(), p.Stats().Targets[0].Running; limit < 16 || running < 100 {
		t.Errorf("a limit of %.0f, %d places taken", limit, running)
	}
	for _, it := range open {
		p.Done(it, admission.OK, p.now)
		p.Done(it, admission.OK, p.now)
	}
	if got := p.Stats().Targets[0].Running; got > 20 {
		t.Errorf("%d places are taken when all sockets are closed, want those of 20 short calls", got)
	}
}

func TestRegressionAFollowersRefusalIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := admission.New(admission.Options{Targets: []admission.Target{{}}, Limits: admission.Limits{Min: 1, Max: 1}})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		seen, tickets := map[time.Duration]bool{}, map[string]bool{}
		for range 5 {
			s := q.Refuse(admission.Request{Caller: "a", Class: admission.Standard}, admission.Expired)
			refusal, ok := errors.AsType[*admission.Refusal](s.Err())
			if !ok || refusal.Reason != admission.Expired {
				t.Fatalf("refused with %v", s.Err())
			}
			seen[refusal.RetryAfter], tickets[s.Ticket([32]byte{})] = true, true
			s.Leave()
			s.Done(admission.OK)
		}
		if len(seen) != 5 || len(tickets) != 5 || tickets[""] {
			t.Errorf("appointments in %v, with tickets %v: want five", seen, tickets)
		}
		if st := q.Stats(); st.Running != 0 || st.Waiting != [3]int{} {
			t.Errorf("afterwards %+v", st)
		}
		if s, err := q.TryAcquire(admission.Request{Caller: "a", Class: admission.Standard}); err != nil {
			t.Error(err)
		} else {
			s.Done(admission.OK)
		}
	})
}

func TestRegressionAContextThatOutlivesItsWorkIsNoWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, admission.PoolOptions{Workers: 1})
		var kept context.Context
		if err := p.Do(t.Context(), func(ctx context.Context) error { kept = ctx; return nil }); err != nil {
			t.Fatal(err)
		}
		began, over := time.Now(), make(chan error, 3)
		for range cap(over) {
			go func() { over <- p.Do(kept, heavy(time.Second)) }()
		}
		synctest.Wait()
		if st := p.Stats(); st.Running != 1 || st.Waiting != 2 {
			t.Errorf("of three pieces of work %+v", st)
		}
		for range cap(over) {
			if err := <-over; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("three pieces of a second took %v of one worker", took)
		}
		func() {
			defer func() { _ = recover() }()
			_ = p.Do(t.Context(), func(ctx context.Context) error { kept = ctx; panic("x") })
		}()
		go func() { over <- p.Do(t.Context(), heavy(time.Second)) }()
		synctest.Wait()
		began = time.Now()
		if err := p.Do(kept, heavy(0)); err != nil || time.Since(began) != time.Second {
			t.Errorf("with the context of work that panicked: %v, after %v", err, time.Since(began))
		}
		<-over
	})
}

func TestRequestsThatWaitShareThePlaceOfTheFirst(t *testing.T) {
	var went []string
	s, err := admission.NewScheduler(admission.Options{
		Targets:   []admission.Target{{}},
		Limits:    admission.Limits{Min: 1, Max: 1},
		BatchSize: 3,
	}, func(it *admission.Item) {
		if it.Target() >= 0 {
			went = append(went, it.Request().Caller)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	var items []*admission.Item
	submit := func(caller, key string) {
		it := admission.NewItem(admission.Request{Caller: caller, Batch: key})
		items = append(items, it)
		s.Submit(it, now)
	}
	submit("a1", "a")
	submit("b1", "b")
	submit("a2", "a") // behind b1, but the place of a1 has room
	submit("b2", "b")
	if got, want := strings.Join(went, " "), "a1 a2"; got != want {
		t.Fatalf("went %q, want %q", got, want)
	}
	s.Seal(items[0])
	submit("a3", "a")
	submit("b3", "b")
	for _, it := range items[:3] {
		s.Done(it, admission.OK, now)
	}
	if got := strings.Join(went, " "); got != "a1 a2 b1 b2 b3" && got != "a1 a2 b1 b3 b2" {
		t.Fatalf("went %q, want those who wait for b with the first of them", got)
	}
	if n, shared := items[1].Shared(), items[3].Shared(); n == 0 || n != shared {
		t.Errorf("places %d and %d, want one", n, shared)
	}
}
