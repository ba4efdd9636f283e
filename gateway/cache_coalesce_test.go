package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// storable makes an answer one that mode http keeps, too.
func storable(h http.Header) { h.Set("Cache-Control", "max-age=60") }

// A stream as the origin sends it, in parts, with a terminal event.
const (
	firstEvent = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hel\"},\"finish_reason\":null}]}\n\n"
	nextEvent  = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"},\"finish_reason\":null}]}\n\n"
	lastEvents = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
	streamed   = `{"model":"m","temperature":0,"stream":true,"messages":[{"role":"user","content":"hi"}]}`
	chats      = "/v1/chat/completions"
)

// flowing are sites whose answers may come as a stream that is kept, and how it is
// asked for.
type flowing struct {
	site
	method, body string
}

func streaming() map[string]flowing {
	return map[string]flowing{
		"inference":       {site{upstream: ", dialect: openai"}, "POST", streamed},
		"inference redis": {site{upstream: ", dialect: openai", store: "memory+redis"}, "POST", streamed},
		"http":            {site{mode: "http", share: "all"}, "GET", ""},
	}
}

// source is an origin that sends a stream as far as the test lets it.
type source struct {
	calls     atomic.Int64
	next      *gate
	last      *gate
	cancelled chan struct{}
}

func newSource() *source {
	return &source{next: newGate(), last: newGate(), cancelled: make(chan struct{}, 10)}
}

func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = taken(r)
	s.calls.Add(1)
	storable(w.Header())
	w.Header().Set("Content-Type", "text/event-stream")
	say(w, firstEvent)
	if !s.next.wait(r) {
		s.cancelled <- struct{}{}
		return
	}
	say(w, nextEvent)
	if !s.last.wait(r) {
		s.cancelled <- struct{}{}
		return
	}
	say(w, lastEvents)
}

func TestAThousandIdenticalRequestsRunOnce(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		for _, kind := range []string{"whole", "stream"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				n := 1000
				if f.store != "" {
					n = 200 // what is between the tests' many requests and their store is the same
				}
				want, release := firstEvent+nextEvent+lastEvents, newGate()
				if kind == "whole" {
					want = `{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}`
				}
				c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					storable(w.Header())
					w.Header().Set("Content-Type", map[string]string{"whole": "application/json", "stream": "text/event-stream"}[kind])
					half := 0
					if kind == "stream" {
						half = len(firstEvent)
						say(w, firstEvent)
					}
					if release.wait(r) {
						_, _ = io.WriteString(w, want[half:])
					}
				}}
				w := f.start(t, c)
				body := f.body
				if kind == "whole" {
					body = strings.Replace(body, "true", "false", 1)
				}
				done := make(chan []answer)
				go func() { done <- atOnce(n, func(int) answer { return w.send(f.method, chats, body) }) }()
				w.serves(n)
				release.open()
				wrong := 0
				for _, a := range after(t, "the answers", done) {
					if !a.is(200, want) {
						if wrong++; wrong < 4 {
							t.Errorf("%v", a)
						}
					}
				}
				if c.calls.Load() != 1 || wrong > 0 {
					t.Errorf("%d calls and %d wrong answers for %d identical requests", c.calls.Load(), wrong, n)
				}
			})
		}
	}
}

func TestWhoJoinsAStreamLateReadsItFromItsStart(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource()
			w := f.start(t, s)
			leader := w.open(f.method, chats, f.body)
			leader.sees(firstEvent)
			second := w.open(f.method, chats, f.body)
			second.sees(firstEvent) // while the origin has sent no more than that
			s.next.open()
			leader.sees(nextEvent)
			second.sees(nextEvent)
			third := w.open(f.method, chats, f.body)
			third.sees(firstEvent + nextEvent)
			s.last.open()
			for _, r := range []*reading{leader, second, third} {
				if a := r.rest(); !a.is(200, lastEvents) {
					t.Errorf("%v", a)
				}
			}
			if got := second.Header.Get("Cache-Status"); !strings.HasSuffix(got, "; collapsed") {
				t.Errorf("a follower's Cache-Status %q", got)
			}
			if a := w.send(f.method, chats, f.body); !a.hit() || !a.is(200, firstEvent+nextEvent+lastEvents) || s.calls.Load() != 1 {
				t.Errorf("%d calls, and then %v", s.calls.Load(), a)
			}
		})
	}
}

func TestAStreamGoesOnForThoseWhoRead(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		t.Run(name+": a leader that leaves harms nobody", func(t *testing.T) {
			t.Parallel()
			s := newSource()
			w := f.start(t, s)
			leader := w.open(f.method, chats, f.body)
			leader.sees(firstEvent)
			follower := w.open(f.method, chats, f.body)
			follower.sees(firstEvent)
			leader.leave()
			pass(100 * time.Millisecond) // until that is known
			s.next.open()
			follower.sees(nextEvent)
			late := w.open(f.method, chats, f.body)
			late.sees(firstEvent + nextEvent)
			s.last.open()
			for _, r := range []*reading{follower, late} {
				if a := r.rest(); !a.is(200, lastEvents) {
					t.Errorf("%v", a)
				}
			}
			if a := w.send(f.method, chats, f.body); !a.hit() || s.calls.Load() != 1 || len(s.cancelled) != 0 {
				t.Errorf("%d calls, %d cancelled, and then %v", s.calls.Load(), len(s.cancelled), a)
			}
		})
		t.Run(name+": the last who leaves ends it", func(t *testing.T) {
			t.Parallel()
			s := newSource()
			w := f.start(t, s)
			all := []*reading{w.open(f.method, chats, f.body), w.open(f.method, chats, f.body)}
			for _, r := range all {
				r.sees(firstEvent)
			}
			for _, r := range all {
				r.leave()
			}
			after(t, "the origin's request ends", s.cancelled)
			s.next.open()
			s.last.open()
			w.serves(0)
			if a := w.send(f.method, chats, f.body); a.hit() || !a.is(200, firstEvent+nextEvent+lastEvents) || s.calls.Load() != 2 {
				t.Errorf("%d calls, and then %v", s.calls.Load(), a)
			}
		})
	}
}

// What goes wrong upstream is told to all who wait, and kept for nobody.
func TestAFailureReachesAllWhoWait(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		for kind, fails := range map[string]func(http.ResponseWriter){
			"a panic":          func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
			"a 500":            func(w http.ResponseWriter) { w.WriteHeader(500); say(w, `{"error":{"message":"out of memory"}}`) },
			"a panic in it":    func(w http.ResponseWriter) { storable(w.Header()); say(w, firstEvent); panic(http.ErrAbortHandler) },
			"a stream's error": func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/event-stream"); say(w, firstEvent) },
		} {
			if kind == "a stream's error" && f.mode == "http" {
				continue // knows no API, and for HTTP that was the end
			}
			t.Run(name+": "+kind, func(t *testing.T) {
				t.Parallel()
				calls := f.callsThatFail(t, fails)
				for range 4 { // all may not have come to wait yet, on a busy machine
					if calls != 1 {
						calls = f.callsThatFail(t, fails)
					}
				}
				if calls != 1 {
					t.Errorf("%d calls for those who waited", calls)
				}
			})
		}
	}
}

// callsThatFail is how many calls there were for twenty clients who came before any of
// them failed.
func (f flowing) callsThatFail(t *testing.T, fails func(http.ResponseWriter)) int64 {
	t.Helper()
	const n = 20
	release := newGate()
	c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		if release.wait(r) {
			fails(w)
		}
	}}
	w := f.start(t, c)
	done := make(chan []answer)
	go func() { done <- atOnce(n, func(int) answer { return w.send(f.method, chats, f.body) }) }()
	w.serves(n)
	pass(200 * time.Millisecond) // from being served to waiting
	release.open()
	for _, a := range after(t, "the answers", done) {
		if !a.told() {
			t.Errorf("%v", a)
		}
	}
	before := c.calls.Load()
	if a := w.send(f.method, chats, f.body); !a.told() || a.hit() || c.calls.Load() != before+1 {
		t.Errorf("then: %v", a)
	}
	return before
}

func TestFollowersOfWhatCannotBeSharedGoOnTheirOwn(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		for kind, h := range map[string]http.Header{
			"no-store":       {"Cache-Control": {"no-store"}},
			"Set-Cookie":     {"Set-Cookie": {"a=b"}, "Cache-Control": {"max-age=60"}},
			"Vary: *":        {"Vary": {"Accept, *"}, "Cache-Control": {"max-age=60"}},
			"Vary: a device": {"Vary": {"User-Agent"}, "Cache-Control": {"max-age=60"}},
		} {
			if kind == "no-store" && f.mode != "http" {
				continue // servers put it on every event stream, by reflex
			}
			t.Run(name+": "+kind, func(t *testing.T) {
				t.Parallel()
				c := &counted{}
				head, end := newGate(), newGate()
				c.h = func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					id := r.UserAgent()
					if !head.wait(r) {
						return
					}
					for name, values := range h {
						w.Header()[name] = values
					}
					w.Header().Set("Content-Type", "text/event-stream")
					say(w, ": for "+id+"\n\n"+firstEvent)
					if end.wait(r) {
						say(w, lastEvents)
					}
				}
				w := f.start(t, c)
				done := make(chan []answer)
				go func() {
					done <- atOnce(3, func(i int) answer { return w.as(i, f.method, chats, f.body) })
				}()
				own := make(chan []answer) // of one caller
				go func() {
					own <- atOnce(3, func(i int) answer {
						return w.send(f.method, chats, f.body, "User-Agent", fmt.Sprint("u", i))
					})
				}()
				w.serves(6)
				head.open()
				w.until(func() bool { return c.calls.Load() == 6 }) // while the leaders' still run
				end.open()
				for _, all := range [][]answer{after(t, "the answers", done), after(t, "the answers", own)} {
					for i, a := range all {
						if !a.is(200, fmt.Sprintf(": for u%d\n\n", i)+firstEvent+lastEvents) {
							t.Errorf("u%d got %v", i, a)
						}
					}
				}
			})
		}
	}
}
