package upstream_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/upstream"
)

func TestBatchJoins(t *testing.T) {
	three := upstream.BatchOptions{MaxItems: 3}
	virtual(t, "those who share a place are one call, and each gets its own", three, func(x *rig) {
		all := x.ask(one("a", "b", "c")...)
		x.want(all, predicts("a"), predicts("b"), predicts("c"))
		x.wantCalls("a b c")
		x.wantSeats("ok 200", "ok 200", "ok 200")
		if want := (upstream.BatchEvent{Members: 3, Items: 3, Status: 200}); len(x.made) != 1 || x.made[0] != want {
			x.Errorf("told %+v, want %+v", x.made, want)
		}
	})
	virtual(t, "and those of another place are another call", three, func(x *rig) {
		first := x.send(x.Context(), asks{key: "k", items: []string{"a"}})
		second := x.send(x.Context(), asks{key: "l", items: []string{"b"}})
		synctest.Wait()
		third := x.send(x.Context(), asks{key: "k", items: []string{"c", "d"}})
		x.want([]<-chan got{first, second, third}, predicts("a"), predicts("b"), predicts("c", "d"))
		x.wantCalls("a c d", "b")
	})
	virtual(t, "items are counted, not requests (BentoML 3710, 3859)", three, func(x *rig) {
		all := x.ask([]string{"a", "b"}, []string{"c", "d"}, []string{"e"})
		x.want(all, predicts("a", "b"), predicts("c", "d"), predicts("e"))
		x.wantCalls("a b", "c d e")
		x.wantSeats("ok 200", "ok 200", "ok 200")
	})
	virtual(t, "who is larger than the cap goes alone, at once", three, func(x *rig) {
		all := x.ask([]string{"a", "b", "c", "d"})
		x.want(all, predicts("a", "b", "c", "d"))
		if at := x.model.times()[0]; at != 0 {
			x.Errorf("sent after %v", at)
		}
	})
	virtual(t, "a call never has more than the cap, whatever the queue gave one place", three, func(x *rig) {
		x.desk.size = 5
		x.model.took = func(int) time.Duration { return time.Second }
		d, e := x.desk.sit("k", 2), x.desk.sit("k", 1)
		all := x.ask(one("a", "b")...)
		all = append(all, x.send(x.Context(), asks{items: []string{"c", "d"}, seat: d}))
		time.Sleep(time.Millisecond)
		all = append(all, x.send(x.Context(), asks{items: []string{"e"}, seat: e}))
		x.want(all, predicts("a"), predicts("b"), predicts("c", "d"), predicts("e"))
		x.wantCalls("a b", "c d e")
		if want := []time.Duration{0, time.Second}; !slices.Equal(x.model.times(), want) || x.model.busiest() != 1 {
			x.Errorf("sent at %v, want %v; %d at once at one place", x.model.times(), want, x.model.busiest())
		}
	})
}

func TestBatchWaits(t *testing.T) {
	ten := upstream.BatchOptions{MaxItems: 10, MaxDelay: 10 * time.Millisecond}
	virtual(t, "from its first item on, and no longer because of others", ten, func(x *rig) {
		var all []<-chan got
		for _, item := range []string{"a", "b", "c", "d"} { // at 0, 4, 8 and 12 ms
			all = append(all, x.send(x.Context(), asks{items: []string{item}}))
			time.Sleep(4 * time.Millisecond)
		}
		x.want(all, predicts("a"), predicts("b"), predicts("c"), predicts("d"))
		x.wantCalls("a b c", "d")
		if want := []time.Duration{10 * time.Millisecond, 22 * time.Millisecond}; !slices.Equal(x.model.times(), want) {
			x.Errorf("sent at %v, want %v", x.model.times(), want)
		}
		if x.made[0].Waited != 10*time.Millisecond || x.made[1].Waited != 10*time.Millisecond {
			x.Errorf("told %+v", x.made)
		}
	})
	virtual(t, "not at all once it is full", ten, func(x *rig) {
		all := x.ask(one("a", "b", "c", "d", "e", "f", "g", "h", "i")...)
		if calls := x.model.asked(); len(calls) != 0 {
			x.Errorf("sent %q, one short of full", calls)
		}
		all = append(all, x.ask(one("j")...)...)
		x.want(all[9:], predicts("j"))
		if at := x.model.times()[0]; at != 0 {
			x.Errorf("sent after %v", at)
		}
	})
	virtual(t, "not at all once its place is sealed for another reason", ten, func(x *rig) {
		all := x.ask(one("a", "b")...)
		all = append(all, x.ask(strings.Fields("c d e f g h i j k"))...) // finds no room and takes a new place
		x.want(all[:2], predicts("a"), predicts("b"))
		if at := x.model.times()[0]; at != 0 {
			x.Errorf("sent after %v", at)
		}
		x.want(all[2:], predicts(strings.Fields("c d e f g h i j k")...))
		if at := x.model.times()[1]; at != ten.MaxDelay {
			x.Errorf("the other was sent after %v", at)
		}
	})
	virtual(t, "and is sealed itself by its call: who comes later has another place", ten, func(x *rig) {
		x.model.took = func(int) time.Duration { return time.Second }
		all := x.ask(one("a")...)
		time.Sleep(20 * time.Millisecond)
		all = append(all, x.ask(one("b")...)...)
		x.want(all, predicts("a"), predicts("b"))
		if want := []time.Duration{ten.MaxDelay, 3 * ten.MaxDelay}; !slices.Equal(x.model.times(), want) {
			x.Errorf("sent at %v, want %v", x.model.times(), want)
		}
	})
	virtual(t, "not for those who have left", ten, func(x *rig) {
		ctx, leave := context.WithCancel(x.Context())
		all := append(x.ask(one("a")...), x.send(ctx, asks{items: []string{"b"}}), x.send(ctx, asks{items: []string{"c"}}))
		synctest.Wait()
		leave()
		synctest.Wait()
		_ = x.ask(strings.Fields("1 2 3 4 5 6 7 8 9 10")) // takes a place alone: that of a is sealed
		x.want(all[:1], predicts("a"))
		if calls := x.model.asked(); time.Since(x.model.began) != 0 {
			x.Errorf("sent %q after %v", calls, time.Since(x.model.began))
		}
	})
	virtual(t, "for all that its members know of, whichever comes first", ten, func(x *rig) {
		var all []<-chan got
		for i, item := range []string{"a", "b", "c"} {
			a := asks{items: []string{item}}
			m := x.member(&a)
			m.Place = known{a.seat, 3 - i, i == 0}
			done := make(chan got, 1)
			go func() { done <- gotten(x.batcher.Do(x.Context(), m)) }()
			synctest.Wait()
			all = append(all, done)
		}
		x.want(all, predicts("a"), predicts("b"), predicts("c"))
		x.wantCalls("a b c")
		if at := x.model.times()[0]; at != 0 {
			x.Errorf("sent after %v", at)
		}
	})
	virtual(t, "for those who have been given the place and are on their way", ten, func(x *rig) {
		late := x.desk.sit("k", 9)
		all := x.ask(one("a")...) // sealed: nobody else comes
		if calls := x.model.asked(); len(calls) != 0 {
			x.Errorf("sent %q", calls)
		}
		time.Sleep(time.Millisecond)
		items := strings.Fields("b c d e f g h i j")
		all = append(all, x.send(x.Context(), asks{items: items, seat: late}))
		x.want(all, predicts("a"), predicts(items...))
		x.wantCalls("a b c d e f g h i j")
		if at := x.model.times()[0]; at != time.Millisecond {
			x.Errorf("sent after %v", at)
		}
	})
	virtual(t, "for those who were given it after the others came, too", ten, func(x *rig) {
		all := x.ask(one("a")...)
		late := x.desk.sit("k", 1)
		_ = x.ask(strings.Fields("1 2 3 4 5 6 7 8 9 10")) // takes a place alone: that of a is sealed
		time.Sleep(time.Millisecond)
		all = append(all, x.send(x.Context(), asks{items: []string{"b"}, seat: late}))
		x.want(all, predicts("a"), predicts("b"))
		x.wantCalls("1 2 3 4 5 6 7 8 9 10", "a b")
		if at := x.model.times()[1]; at != time.Millisecond {
			x.Errorf("sent after %v", at)
		}
	})
	virtual(t, "no longer for them than for others; they are the next call at that place", ten, func(x *rig) {
		x.model.took = func(int) time.Duration { return time.Second }
		b, c := x.desk.sit("k", 1), x.desk.sit("k", 1)
		all := x.ask(one("a")...)
		time.Sleep(20 * time.Millisecond) // its call is under way
		all = append(all, x.send(x.Context(), asks{items: []string{"b"}, seat: b}))
		synctest.Wait()
		all = append(all, x.send(x.Context(), asks{items: []string{"c"}, seat: c}))
		x.want(all, predicts("a"), predicts("b"), predicts("c"))
		x.wantCalls("a", "b c")
		if want := []time.Duration{ten.MaxDelay, time.Second + ten.MaxDelay}; !slices.Equal(x.model.times(), want) || x.model.busiest() != 1 {
			x.Errorf("sent at %v, want %v; %d at once", x.model.times(), want, x.model.busiest())
		}
	})
	for _, first := range []string{"older", "newer"} {
		virtual(t, "not for a place of which it is not told how many have it, once that is not the latest; the "+first+" is heard of first", ten, func(x *rig) {
			older, newer := asks{items: []string{"a"}}, asks{items: []string{"b"}}
			members := []upstream.Member[[]string]{x.member(&older)}
			older.seat.Seal()
			members = append(members, x.member(&newer))
			members[0].Place, members[1].Place = known{chair: older.seat}, known{chair: newer.seat}
			if first == "newer" {
				slices.Reverse(members)
			}
			var all sync.WaitGroup
			for _, m := range members {
				all.Go(func() {
					g := gotten(x.batcher.Do(x.Context(), m))
					want := map[string]time.Duration{predicts("a"): 0, predicts("b"): ten.MaxDelay}[g.String()]
					if took := time.Since(x.model.began); took != want {
						x.Errorf("%s after %v, want %v", g, took, want)
					}
				})
				synctest.Wait()
			}
			all.Wait()
		})
	}
}

// known is a place of which its members know different things.
type known struct {
	*chair
	items  int
	sealed bool
}

func (k known) Sharing() (items int, sealed bool) { return k.items, k.sealed }

func TestBatchOfOne(t *testing.T) {
	odd := " { \"instances\" : [ \"a\" ] ,\n\"x\":1.0 } "
	virtual(t, "is the request as it came, byte for byte", upstream.BatchOptions{}, func(x *rig) {
		x.model.serve = func(w http.ResponseWriter, r *http.Request, _ []string) bool {
			b, _ := io.ReadAll(r.Body)
			w.Header()["Etag"], w.Header()["Set-Cookie"] = []string{`"1"`}, []string{"s=1"}
			_, _ = fmt.Fprintf(w, "%s %s %s|%s", r.Header.Get("Content-Digest"), r.Header.Get("X-Request-Id"), r.URL, b)
			return true
		}
		c := x.send(x.Context(), asks{items: []string{"a"}, body: odd, header: http.Header{"Content-Digest": {"d"}, "X-Request-Id": {"1"}}})
		g := <-c
		if want := "200 d 1 http://in-process/v1/models/m:predict?a=1|" + odd; g.String() != want || g.header.Get("Etag") != `"1"` || g.header.Get("Set-Cookie") != "s=1" {
			x.Errorf("got %s %v, want %s", g, g.header, want)
		}
		if at := upstream.SeatOf(g.resp); at != upstream.Seat(x.desk.chairs[0]) {
			x.Errorf("its seat is %v", at)
		}
	})
	virtual(t, "has its answer as it comes", upstream.BatchOptions{}, func(x *rig) {
		x.model.serve = func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
			_, _ = io.WriteString(w, "first")
			<-time.After(time.Second)
			_, _ = io.WriteString(w, " second")
			return true
		}
		a := asks{items: []string{"a"}}
		resp, err := x.batcher.Do(x.Context(), x.member(&a))
		if err != nil {
			x.Fatal(err)
		}
		part := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, part); err != nil || string(part) != "first" || time.Since(x.model.began) != upstream.DefaultBatchDelay {
			x.Errorf("%q, %v after %v", part, err, time.Since(x.model.began))
		}
		if g := gotten(resp, nil); g.String() != "200  second" {
			x.Errorf("then %s", g)
		}
	})
	virtual(t, "keeps who is late to its place waiting until its answer has ended, or was given up", upstream.BatchOptions{}, func(x *rig) {
		for i, end := range []string{"read", "closed", "left"} {
			x.model.serve = func(w http.ResponseWriter, _ *http.Request, items []string) bool {
				_, _ = io.WriteString(w, "first")
				return true
			}
			a, late := asks{key: end, items: []string{"a"}}, x.desk.sit(end, 1)
			ctx, leave := context.WithCancel(x.Context())
			resp, err := x.batcher.Do(ctx, x.member(&a))
			if err != nil {
				x.Fatal(err)
			}
			next := x.send(x.Context(), asks{key: end, items: []string{"b"}, seat: late})
			synctest.Wait()
			if n := len(x.model.asked()); n != 2*i+1 {
				x.Errorf("%d calls before the first was %s", n, end)
			}
			switch end {
			case "read":
				_, _ = io.ReadAll(resp.Body)
			case "closed":
				_ = resp.Body.Close()
			case "left":
				leave()
			}
			x.want([]<-chan got{next}, "200 first")
			leave()
			synctest.Wait() // the exchange that was left ends
		}
	})
	virtual(t, "is any request that has no key or no place to share", upstream.BatchOptions{}, func(x *rig) {
		for _, change := range []func(*upstream.Member[[]string]){
			func(m *upstream.Member[[]string]) { m.Key = "" },
			func(m *upstream.Member[[]string]) { m.Place = nil },
			func(m *upstream.Member[[]string]) { m.Place = &chair{table: &table{}} },
		} {
			a := asks{items: []string{"a"}}
			m := x.member(&a)
			change(&m)
			if g := gotten(x.batcher.Do(x.Context(), m)); g.String() != predicts("a") {
				x.Errorf("got %s", g)
			}
		}
		if time.Since(x.model.began) != 0 {
			x.Errorf("after %v", time.Since(x.model.began))
		}
	})
}
