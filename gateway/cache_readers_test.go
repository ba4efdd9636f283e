package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// A reader that takes nothing keeps nobody waiting, whether he asked first or
// joined: what he has not taken waits for him alone.
func TestAReaderThatTakesNothingKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	const size = 16 << 20 // more than sockets take by themselves
	for _, mode := range []string{"inference", "http"} {
		for _, first := range []string{"the idle one leads", "the idle one follows"} {
			t.Run(mode+": "+first, func(t *testing.T) {
				t.Parallel()
				begin := newGate()
				c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					storable(w.Header())
					w.Header().Set("Content-Type", "text/plain")
					say(w, "x")
					if begin.wait(r) {
						_, _ = io.WriteString(w, strings.Repeat("x", size-1))
					}
				}}
				w := site{mode: mode, share: "all", cache: ", max_entry: 32MiB"}.start(t, c)
				one := w.open("GET", "/", "")
				two := make(chan *reading, 1)
				go func() { two <- w.open("GET", "/", "") }()
				w.serves(2)
				begin.open()
				idle, busy := one, after(t, "the follower's answer", two)
				if first == "the idle one follows" {
					idle, busy = busy, idle
				}
				if a := busy.rest(); a.err != nil || len(a.body) != size {
					t.Errorf("%d of %d bytes, %v", len(a.body), size, a.err)
				}
				if a := idle.rest(); a.err != nil || len(a.body) != size {
					t.Errorf("who began late: %d of %d bytes, %v", len(a.body), size, a.err)
				}
				if got := c.calls.Load(); got != 1 {
					t.Errorf("%d calls, want 1", got)
				}
			})
		}
	}
}

// A stream that grows beyond what is kept goes on for those who read it, and is not
// kept.
func TestAStreamThatGrowsTooLargeGoesOn(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rest := strings.Repeat(nextEvent, 2000) + lastEvents
			more := newGate()
			c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				storable(w.Header())
				w.Header().Set("Content-Type", "text/event-stream")
				say(w, firstEvent)
				if more.wait(r) {
					say(w, rest)
				}
			}}
			f.cache = ", max_entry: 64KiB"
			w := f.start(t, c)
			readers := []*reading{w.open(f.method, chats, f.body), w.open(f.method, chats, f.body), w.open(f.method, chats, f.body)}
			for _, r := range readers {
				r.sees(firstEvent)
			}
			more.open()
			done := make(chan answer, len(readers))
			for _, r := range readers {
				go func() { done <- r.rest() }()
			}
			for range readers {
				if a := after(t, "the end of the stream", done); !a.is(200, rest) {
					t.Errorf("%d of %d bytes: %v", len(a.body), len(rest), a.err)
				}
			}
			if got := c.calls.Load(); got != 1 {
				t.Errorf("%d calls for three who read along, want 1", got)
			}
			if a := w.send(f.method, chats, f.body); a.hit() || !a.is(200, firstEvent+rest) {
				t.Errorf("then %v", a)
			}
		})
	}
}

// Nor does one who takes nothing of an answer that is too large to be kept: who
// reads has it, and it is the idle one who may lose.
func TestAnIdleReaderOfTooMuchKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	for _, first := range []string{"the idle one leads", "the idle one follows"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			begin := newGate()
			w := site{mode: "http", share: "all", cache: ", max_entry: 1MiB"}.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				storable(w.Header())
				say(w, "x")
				for n := size - 1; n > 0 && begin.wait(r); n -= 32 << 10 {
					say(w, strings.Repeat("x", min(n, 32<<10)))
				}
			}))
			idle, busy := w.open("GET", "/", ""), w.open("GET", "/", "")
			if first == "the idle one follows" {
				idle, busy = busy, idle
			}
			begin.open()
			if a := busy.rest(); a.err != nil || len(a.body) != size {
				t.Errorf("%d of %d bytes, %v", len(a.body), size, a.err)
			}
			if a := idle.rest(); a.err == nil && len(a.body) != size {
				t.Errorf("who took nothing: %d of %d bytes, and a clean end", len(a.body), size)
			}
		})
	}
}
