package upstream_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/upstream"
)

// breaksAt is a model that answers 500 whenever it is asked for one of these.
func breaksAt(items ...string) func(http.ResponseWriter, *http.Request, []string) bool {
	return func(w http.ResponseWriter, r *http.Request, asked []string) bool {
		if !slices.ContainsFunc(asked, func(item string) bool { return slices.Contains(items, item) }) {
			return false
		}
		return answers(500, nil, "at "+strings.Join(asked, " "))(w, r, asked)
	}
}

func TestBatchAnswered500(t *testing.T) {
	eight := upstream.BatchOptions{MaxItems: 8}
	letters := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for _, c := range []struct {
		name  string
		bad   []string
		calls []string
		fail  map[string]string // what the members get who do not get an answer
	}{
		{"one bad item fails alone, the first", []string{"a"},
			[]string{"a b c d e f g h", "a b c d", "e f g h", "a b", "c d", "a", "b"}, map[string]string{"a": "a"}},
		{"one bad item fails alone, the last", []string{"h"},
			[]string{"a b c d e f g h", "a b c d", "e f g h", "e f", "g h", "g", "h"}, map[string]string{"h": "h"}},
		{"so do two in one half, for the server has shown that it works", []string{"e", "g"},
			[]string{"a b c d e f g h", "a b c d", "e f g h", "e f", "g h", "e", "f", "g", "h"}, map[string]string{"e": "e", "g": "g"}},
		{"where both halves fail all get what they got", []string{"a", "h"},
			[]string{"a b c d e f g h", "a b c d", "e f g h"},
			map[string]string{"a": "a b c d", "b": "a b c d", "c": "a b c d", "d": "a b c d", "e": "e f g h", "f": "e f g h", "g": "e f g h", "h": "e f g h"}},
	} {
		virtual(t, c.name, eight, func(x *rig) {
			x.model.serve = breaksAt(c.bad...)
			var want, seats []string
			for _, item := range letters {
				text, status := predicts(item), 200
				if got, failed := c.fail[item]; failed {
					text, status = "500 at "+got, 500
				}
				want, seats = append(want, text), append(seats, fmt.Sprintf("ok %d", status))
			}
			x.want(x.ask(one(letters...)...), want...)
			x.wantCalls(c.calls...)
			x.wantSeats(seats...)
		})
	}
	virtual(t, "a pair is asked for each, and a call of one no more", upstream.BatchOptions{MaxItems: 2}, func(x *rig) {
		x.model.serve = breaksAt("a")
		x.want(x.ask(one("a", "b")...), "500 at a", predicts("b"))
		x.want(x.ask(one("a")...), "500 at a")
		x.wantCalls("a b", "a", "b", "a")
	})
	for _, status := range []int{502, 503, 504} {
		virtual(t, fmt.Sprintf("where the other half is answered %d nothing speaks for the server", status), upstream.BatchOptions{MaxItems: 4}, func(x *rig) {
			x.model.serve = func(w http.ResponseWriter, r *http.Request, items []string) bool {
				if slices.Equal(items, []string{"c", "d"}) {
					return answers(status, nil, "down")(w, r, items)
				}
				return answers(500, nil, "broken")(w, r, items)
			}
			down := fmt.Sprintf("%d down", status)
			x.want(x.ask(one("a", "b", "c", "d")...), "500 broken", "500 broken", down, down)
			x.wantCalls("a b c d", "a b", "c d")
		})
	}
	virtual(t, "a 500 after a refusal of the whole is an item's fault, too", upstream.BatchOptions{MaxItems: 4}, func(x *rig) {
		x.model.serve = func(w http.ResponseWriter, r *http.Request, items []string) bool {
			return len(items) < 4 && breaksAt("b", "c")(w, r, items)
		}
		x.want(x.ask(one("a", "b", "c", "bad")...), predicts("a"), "500 at b", "500 at c", `422 {"error":"bad"}`)
	})
	virtual(t, "members who leave before their half is decided are not asked for again", upstream.BatchOptions{MaxItems: 4}, func(x *rig) {
		x.model.serve = breaksAt("a")
		x.model.took = func(int) time.Duration { return time.Second }
		ctx, leave := context.WithCancel(x.Context())
		var all []<-chan got
		for _, item := range []string{"a", "b"} {
			all = append(all, x.send(ctx, asks{items: []string{item}}))
			synctest.Wait()
		}
		all = append(all, x.ask(one("c", "d")...)...)
		time.Sleep(2500 * time.Millisecond) // the second half is being asked for
		leave()
		const gone = "upstream m: context canceled"
		x.want(all, gone, gone, predicts("c"), predicts("d"))
		x.wantCalls("a b c d", "a b", "c d")
		x.wantSeats("cancelled 0", "cancelled 0", "ok 200", "ok 200")
	})
	t.Run("one bad item opens no breaker, wherever it is", func(t *testing.T) {
		for bad := range letters {
			synctest.Test(t, func(t *testing.T) {
				m := &model{serve: breaksAt(letters[bad])}
				opened := 0
				x := newRig(t, eight, upstream.Options{
					Targets: []upstream.Target{{URL: "m", Transport: upstream.Handler(m)}}, Breaker: upstream.Breaker{Failures: 3},
					OnTarget: func(upstream.TargetEvent) { opened++ },
				})
				for _, c := range x.ask(one(letters...)...) {
					<-c
				}
				if opened > 0 {
					t.Errorf("item %d opened the breaker", bad)
				}
			})
		}
	})
}

func TestBatchBytes(t *testing.T) {
	length := int64(len(body("aaaa")))
	virtual(t, "of a call are bounded: who would be too much is in the next", upstream.BatchOptions{MaxItems: 8, MaxBytes: 3 * length}, func(x *rig) {
		items := []string{"aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg", "hhhh"}
		all := x.ask(one(items...)...)
		for i, c := range all {
			x.want([]<-chan got{c}, predicts(items[i]))
		}
		x.wantCalls("aaaa bbbb cccc", "dddd eeee ffff", "gggg hhhh")
	})
	virtual(t, "are not waited for when there are enough", upstream.BatchOptions{MaxItems: 8, MaxBytes: 2 * length, MaxDelay: time.Hour}, func(x *rig) {
		x.want(x.ask(one("aaaa", "bbbb")...), predicts("aaaa"), predicts("bbbb"))
		if took := time.Since(x.model.began); took != 0 {
			x.Errorf("waited %v", took)
		}
	})
	virtual(t, "of one request may be more, if it is alone", upstream.BatchOptions{MaxItems: 8, MaxBytes: length, MaxDelay: time.Hour}, func(x *rig) {
		x.desk.sit("k", 1) // keeps the place open
		long := strings.Repeat("l", 100)
		x.want(x.ask([]string{long}), predicts(long))
		x.wantCalls(long)
		x.desk.chairs[0].End(upstream.Event{})
	})
	virtual(t, "that nobody has counted go alone", upstream.BatchOptions{MaxItems: 3}, func(x *rig) {
		var all []<-chan got
		for _, item := range []string{"a", "b", "c"} {
			a := asks{items: []string{item}}
			m := x.member(&a)
			if item == "b" {
				m.Request.ContentLength = -1
			}
			done := make(chan got, 1)
			go func() { done <- gotten(x.batcher.Do(x.Context(), m)) }()
			all = append(all, done)
			synctest.Wait()
		}
		x.want(all, predicts("a"), predicts("b"), predicts("c"))
		x.wantCalls("a", "b", "c")
	})
	virtual(t, "are ten MiB unless told otherwise", upstream.BatchOptions{MaxItems: 8}, func(x *rig) {
		var sizes []int64
		x.model.serve = func(w http.ResponseWriter, r *http.Request, _ []string) bool {
			sizes = append(sizes, r.ContentLength)
			n, _ := io.Copy(io.Discard, r.Body)
			return n != r.ContentLength
		}
		all := x.ask(one(slices.Repeat([]string{strings.Repeat("x", 4<<20)}, 3)...)...)
		for _, c := range all {
			<-c
		}
		if len(sizes) != 2 || sizes[0] < 8<<20 || sizes[0] > 10<<20 || sizes[1] > 5<<20 {
			x.Errorf("calls of %d bytes, want two members and one", sizes)
		}
	})
}
