package admission_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/admission"
)

var digest = [32]byte{1, 2, 3}

// refused is a world that knows its rate, 1000 in a second, with a full queue in which
// others wait, each with one request.
func refused(t *testing.T, others string) *world {
	o := places(1)
	o.MaxQueue, o.Secret = len(strings.Fields(others)), []byte("secret")
	o.MaxWait = time.Hour
	w := learned(t, o)
	w.ask("x1 " + others)
	w.saw()
	return w
}

func TestRefusalAppointments(t *testing.T) {
	t.Run("each refused request of a caller has its own time, no nearer to each other than its share allows", func(t *testing.T) {
		w := refused(t, "z1")
		last := time.Duration(0)
		for i := range 30 {
			r := w.ask("a1", output(500))[0].Refusal()
			if !r.Booked {
				if last < 20*time.Second {
					t.Errorf("%d: %+v is not kept after one in %v", i, r, last)
				}
				return
			}
			switch apart := r.RetryAfter - last; {
			case i == 0 && r.RetryAfter != time.Second:
				t.Errorf("the first is in %v, want 1s", r.RetryAfter)
			case i > 0 && apart < 2*time.Second: // half of the rate for a cost of 1000
				t.Errorf("%d is %v after the one before, want 2s or more", i, apart)
			}
			last = r.RetryAfter
		}
	})
	t.Run("callers do not wait for each other's", func(t *testing.T) {
		w := refused(t, "z1")
		w.ask("a1 a1 a1", output(500))
		if got := w.ask("b1", output(500))[0].Refusal().RetryAfter; got != time.Second {
			t.Errorf("b is to come back in %v, want 1s", got)
		}
	})
	t.Run("time that passes brings them nearer", func(t *testing.T) {
		w := refused(t, "z1")
		w.ask("a1", output(500))
		second := w.ask("a1", output(500))[0].Refusal().RetryAfter
		w.pass(time.Second)
		third := w.ask("a1", output(500))[0].Refusal().RetryAfter
		if third <= second-time.Second {
			t.Errorf("the second in %v, a second later the third in %v", second, third)
		}
		w.pass(2 * time.Minute)
		if got := w.ask("a1", output(500))[0].Refusal().RetryAfter; got != time.Second {
			t.Errorf("when all are over %v, want 1s", got)
		}
	})
	t.Run("beyond a minute none is kept, and none moves", func(t *testing.T) {
		w := refused(t, "z1")
		var far *admission.Item
		for range 100 {
			if far = w.ask("a1", output(500))[0]; !far.Refusal().Booked {
				break
			}
		}
		r := far.Refusal()
		if r.Booked || r.RetryAfter <= time.Minute || r.RetryAfter > 2*time.Minute {
			t.Fatalf("%+v, want one between one and two minutes, not kept", r)
		}
		if got := w.Ticket(far, digest); got != "" {
			t.Errorf("ticket %q, want none", got)
		}
		if got := w.ask("a1", output(500))[0].Refusal(); *got != *r {
			t.Errorf("then %+v, want %+v again", got, r)
		}
	})
	t.Run("where no rate is known they still differ", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = -1
		w := newWorld(t, o)
		items := w.ask("x1 a1 a2")
		first, second := items[1].Refusal().RetryAfter, items[2].Refusal().RetryAfter
		if first != time.Second || second <= first {
			t.Errorf("%v and %v, want 1s and a later one", first, second)
		}
	})
}

// returning refuses a request of a and lets it come back after a time, changed by
// change, to where two of its caller wait. It tells what goes first.
func returning(t *testing.T, after time.Duration, change func(*admission.Request)) (order string) {
	w := refused(t, "v1 y1 z1")
	it := w.ask("a9", output(10))[0]
	if r := it.Refusal(); r == nil || r.RetryAfter != time.Second {
		t.Fatalf("%+v, want an appointment in 1s", r)
	}
	ticket := w.Ticket(it, digest)
	for len(w.running) > 0 {
		w.done(admission.OK)
	}
	w.now = w.now.Add(time.Second + after)
	r := named("a9")
	r.Output, r.Ticket, r.Digest = 10, ticket, digest
	change(&r)
	w.ask("x1 "+r.Caller+"1 "+r.Caller+"2", output(10))
	w.saw()
	w.submit(r)
	w.drain()
	return w.saw()
}

func TestRefusalTickets(t *testing.T) {
	same := func(*admission.Request) {}
	const front, back = "a9, a1, a2", "a1, a2, a9"
	for _, test := range []struct {
		name   string
		after  time.Duration
		change func(*admission.Request)
		want   string
	}{
		{"at its time it goes before others of its caller", 0, same, front},
		{"so it does a second early", -time.Second, same, front},
		{"and ten seconds late", 10 * time.Second, same, front},
		{"but not earlier", -time.Second - time.Millisecond, same, back},
		{"nor later", 10*time.Second + time.Millisecond, same, back},
		{"it is for one caller", 0, func(r *admission.Request) { r.Caller = "b" }, "b1, b2, a9"},
		{"it is for one request", 0, func(r *admission.Request) { r.Digest[31] = 1 }, back},
		{"one without a signature is nothing", 0, func(r *admission.Request) { r.Ticket = r.Ticket[:11] }, back},
		{"one with another's signature is nothing", 0, func(r *admission.Request) {
			r.Ticket = r.Ticket[:31] + string(r.Ticket[31]^1)
		}, back},
		{"one with another time is nothing", 0, func(r *admission.Request) { r.Ticket = "B" + r.Ticket[1:] }, back},
		{"one that is too long is nothing", 0, func(r *admission.Request) { r.Ticket += strings.Repeat("A", 1<<20) }, back},
		{"noise is nothing", 0, func(r *admission.Request) { r.Ticket = "\x00\xff=\n?" }, back},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := returning(t, test.after, test.change); got != test.want {
				t.Errorf("went %q, want %q", got, test.want)
			}
		})
	}
	t.Run("those with tickets go in their own order", func(t *testing.T) {
		w := refused(t, "v1 y1 z1")
		var tickets []string
		for _, it := range w.ask("a7 a8 a9", output(10)) {
			tickets = append(tickets, w.Ticket(it, digest))
		}
		w.drain()
		w.now = w.now.Add(1500 * time.Millisecond)
		w.ask("x1", output(10))
		w.saw()
		for i, ticket := range tickets {
			r := named(fmt.Sprintf("a%d", 7+i))
			r.Output, r.Ticket, r.Digest = 10, ticket, digest
			w.submit(r)
		}
		w.drain()
		w.want("a7, a8, a9")
	})
	t.Run("one that comes too early keeps its time", func(t *testing.T) {
		w := refused(t, "v1 y1 z1")
		w.ask("a1 a1", output(500))
		it := w.ask("a9", output(500))[0]
		slot := w.now.Add(it.Refusal().RetryAfter).Truncate(time.Millisecond)
		w.pass(1500 * time.Millisecond)
		w.ask("a1", output(500))
		r := named("a9")
		r.Output, r.Ticket, r.Digest = 500, w.Ticket(it, digest), digest
		again := w.submit(r)
		if got := again.Refusal(); !got.Booked || w.now.Add(got.RetryAfter) != slot {
			t.Errorf("%+v, want to come back at %v still", got, slot.Sub(w.now))
		}
		if got := w.Ticket(again, digest); got != r.Ticket {
			t.Errorf("the ticket is %q, was %q", got, r.Ticket)
		}
	})
	t.Run("it allows for a longer wait", func(t *testing.T) {
		o := places(1)
		o.MaxQueue = 1000
		w := learned(t, o)
		w.ask("x1", output(50))
		var last *admission.Item
		for last == nil || last.Refusal() == nil {
			last = w.ask("a1", output(50))[0]
		}
		ticket := w.Ticket(last, digest)
		w.now = w.now.Add(time.Second)
		if r := w.ask("a2", output(50))[0].Refusal(); r == nil || r.Reason != admission.WaitTooLong {
			t.Fatalf("%+v, want one without a ticket refused for its wait", r)
		}
		r := named("a3")
		r.Output, r.Ticket, r.Digest = 50, ticket, digest
		if r := w.submit(r).Refusal(); r != nil {
			t.Errorf("%+v, want it to wait", r)
		}
	})
	t.Run("it is good where the secret is the same, and only there", func(t *testing.T) {
		from := refused(t, "v1 y1 z1")
		it := from.ask("a9", output(10))[0]
		ticket := from.Ticket(it, digest)
		for secret, want := range map[string]string{"secret": "a9, a1", "": "a1, a9", "other": "a1, a9"} {
			o := places(1)
			o.Secret = []byte(secret)
			w := newWorld(t, o)
			w.now = from.now.Add(time.Second)
			w.ask("x1 a1", output(10))
			w.saw()
			r := named("a9")
			r.Output, r.Ticket, r.Digest = 10, ticket, digest
			w.submit(r)
			w.drain()
			w.want(want)
		}
	})
	t.Run("who was not refused has none", func(t *testing.T) {
		w := newWorld(t, places(1))
		for _, it := range w.ask("a1 a2") {
			if got := w.Ticket(it, digest); got != "" {
				t.Errorf("%s has ticket %q", it.Request().Kind, got)
			}
		}
	})
}

func TestSchedulerForgetsCallers(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 150_000
	}
	o := places(1)
	o.MaxQueue = 10
	w := newWorld(t, o)
	w.ask("x1 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10")
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	most, before := 0, heap()
	for i := range n {
		r := admission.Request{Caller: fmt.Sprint("flood", i), Class: admission.Standard, Items: 1000}
		w.submit(r)
		w.log, w.events = w.log[:0], w.events[:0]
		if i%1000 == 0 {
			most = max(most, w.Stats().Callers)
		}
	}
	if grown := heap() - before; grown > 32<<20 {
		t.Errorf("%d callers took %d bytes, want 32 MiB at most", n, grown)
	}
	if most > 1<<16+16 {
		t.Errorf("%d callers were remembered at once, want no more than 65536 and those that wait", most)
	}
	for range 120 + 1<<16/1024 + 1 {
		w.now = w.now.Add(time.Second)
		w.Tick(w.now)
	}
	if got := w.Stats().Callers; got != 1 {
		t.Errorf("%d callers are remembered when nothing waits any more, want the one that runs", got)
	}
}
