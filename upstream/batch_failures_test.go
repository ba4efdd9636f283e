package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/upstream"
)

// answers is a model's with a status, whatever it is asked.
func answers(status int, header http.Header, text string) func(http.ResponseWriter, *http.Request, []string) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return true
	}
}

func TestBatchHalves(t *testing.T) {
	eight, four := upstream.BatchOptions{MaxItems: 8}, upstream.BatchOptions{MaxItems: 4}
	const bad = `422 {"error":"bad"}`
	virtual(t, "one bad item fails alone, with the model's own error", eight, func(x *rig) {
		all := x.ask(one("a", "b", "c", "d", "e", "bad", "g", "h")...)
		g := <-all[5]
		if g.String() != bad || g.header.Get("X-Reason") != "bad" {
			x.Errorf("got %s %v", g, g.header)
		}
		x.want(all[:5], predicts("a"), predicts("b"), predicts("c"), predicts("d"), predicts("e"))
		x.want(all[6:], predicts("g"), predicts("h"))
		x.wantCalls("a b c d e bad g h", "a b c d", "e bad g h", "e bad", "e", "bad", "g h")
		x.wantSeats("ok 200", "ok 200", "ok 200", "ok 200", "ok 200", "ok 422", "ok 200", "ok 200")
		if x.model.busiest() != 1 {
			x.Errorf("%d calls at once at one place", x.model.busiest())
		}
		if again := x.made[1]; x.made[0].Again || x.made[0].Status != 422 || again != (upstream.BatchEvent{Members: 4, Items: 4, Status: 200, Again: true}) {
			x.Errorf("told %+v", x.made)
		}
	})
	virtual(t, "all bad items cost at most two calls each", eight, func(x *rig) {
		all := x.ask(slices.Repeat([][]string{{"bad"}}, 8)...)
		x.want(all, slices.Repeat([]string{bad}, 8)...)
		if calls := x.model.asked(); len(calls) != 15 {
			x.Errorf("%d calls: %q", len(calls), calls)
		}
	})
	virtual(t, "who is halved down to itself sends the request that it came with", four, func(x *rig) {
		odd := "{\"instances\" : [\"bad\"]}\n"
		first := x.send(x.Context(), asks{items: []string{"bad"}, body: odd, header: http.Header{"Content-Digest": {"d"}}})
		synctest.Wait()
		x.want(append([]<-chan got{first}, x.ask([]string{"b", "c", "d"})...), bad, predicts("b", "c", "d"))
		b, _ := io.ReadAll(x.model.requests[1].Body)
		if h := x.model.requests[1].Header.Get("Content-Digest"); string(b) != odd || h != "d" {
			x.Errorf("sent %q, %q", b, h)
		}
		if h := x.model.requests[0].Header.Get("Content-Digest"); h != "" {
			x.Errorf("joined with the digest %q of another body", h)
		}
	})
	virtual(t, "an answer that cannot be split is asked for in halves", four, func(x *rig) {
		x.model.serve = func(w http.ResponseWriter, _ *http.Request, items []string) bool {
			if !slices.Contains(items, "two") {
				return false
			}
			_, _ = io.WriteString(w, `{"predictions":["1","2","3","4","5","6"]}`)
			return true
		}
		all := x.ask(one("a", "b", "two", "d")...)
		x.want(all, predicts("a"), predicts("b"), `200 {"predictions":["1","2","3","4","5","6"]}`, predicts("d"))
		x.wantCalls("a b two d", "a b", "two d", "two", "d")
		if err := x.made[0].Err; err == nil || err.Error() != "6 predictions: want 4" {
			x.Errorf("told %v", err)
		}
	})
	virtual(t, "so is one of which the codec makes too few", four, func(x *rig) {
		x.want(x.ask(one("a", "b", "c", "miscounted")...), predicts("a"), predicts("b"), predicts("c"), predicts("miscounted"))
		if err := x.made[0].Err; err == nil || err.Error() != "the answer to 4 requests was split in 0: want one for each" {
			x.Errorf("told %v", err)
		}
	})
	virtual(t, "so is a success of another kind than 200", four, func(x *rig) {
		x.model.serve = answers(202, nil, "later")
		x.want(x.ask(one("a", "b", "c", "d")...), slices.Repeat([]string{"202 later"}, 4)...)
	})
	virtual(t, "what cannot be joined is sent in halves", four, func(x *rig) {
		x.want(x.ask(one("a", "b", "unjoinable", "d")...), predicts("a"), predicts("b"), predicts("unjoinable"), predicts("d"))
		x.wantCalls("a b", "unjoinable", "d")
	})
	virtual(t, "members who left meanwhile are not asked for again", four, func(x *rig) {
		ctx, leave := context.WithCancel(x.Context())
		x.model.took = func(int) time.Duration { return time.Second }
		all := x.ask(one("bad", "b")...)
		all = append(all, x.send(ctx, asks{items: []string{"c"}}), x.send(ctx, asks{items: []string{"d"}}))
		time.Sleep(1500 * time.Millisecond) // the first half is being asked for
		leave()
		x.want(all, bad, predicts("b"), "upstream m: context canceled", "upstream m: context canceled")
		x.wantSeats("ok 422", "ok 200", "cancelled 0", "cancelled 0")
		if calls := x.model.asked(); !slices.Equal(calls[1:], []string{"bad b", "bad", "b"}) {
			x.Errorf("calls %q", calls)
		}
	})
}

func TestBatchTellsAll(t *testing.T) {
	for _, status := range []int{302, 401, 402, 403, 404, 405, 408, 410, 415, 429, 502, 503, 504} {
		virtual(t, fmt.Sprintf("%d, as it is, and asks no more", status), upstream.BatchOptions{MaxItems: 2}, func(x *rig) {
			x.model.serve = answers(status, http.Header{"Retry-After": {"7"}, "Etag": {`"e"`}, "Set-Cookie": {"s=1"}, "X-Request-Id": {"theirs"}}, "no")
			header := http.Header{"X-Request-Id": {"mine"}}
			all := []<-chan got{
				x.send(x.Context(), asks{items: []string{"a"}, header: header}),
				x.send(x.Context(), asks{items: []string{"b"}, header: header}),
			}
			for _, c := range all {
				g := <-c
				if g.String() != strconv.Itoa(status)+" no" || g.header.Get("Retry-After") != "7" || g.header.Get("Etag") != `"e"` {
					x.Errorf("got %s %v", g, g.header)
				}
				if g.header.Get("Set-Cookie") != "" || g.header.Get("X-Request-Id") != "mine" {
					x.Errorf("got what is one's own: %v", g.header)
				}
			}
			want := fmt.Sprintf("ok %d", status)
			x.wantSeats(want, want)
			if n := len(x.model.asked()); n != 1 {
				x.Errorf("%d calls", n)
			}
		})
	}
	virtual(t, "that the connection broke", upstream.BatchOptions{MaxItems: 2}, func(x *rig) {
		x.model.serve = func(http.ResponseWriter, *http.Request, []string) bool { panic(http.ErrAbortHandler) }
		all := x.ask(one("a", "b")...)
		first, second := (<-all[0]).err, (<-all[1]).err
		one, ok := errors.AsType[*weir.Problem](first)
		other, also := errors.AsType[*weir.Problem](second)
		if !ok || !also || one.Status != 502 || one.Detail != other.Detail || one == other {
			x.Errorf("got %v and %v", first, second)
		}
		x.wantSeats("cut 0", "cut 0")
	})
	virtual(t, "that the answer broke off", upstream.BatchOptions{MaxItems: 2}, func(x *rig) {
		x.model.serve = func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
			_, _ = io.WriteString(w, `{"predictions":["a"`)
			panic(http.ErrAbortHandler)
		}
		for _, c := range x.ask(one("a", "b")...) {
			if p, ok := errors.AsType[*weir.Problem]((<-c).err); !ok || p.Status != 502 {
				x.Errorf("got %v", p)
			}
		}
		x.wantSeats("cut 200", "cut 200")
	})
	virtual(t, "that the answer is longer than may be kept", upstream.BatchOptions{MaxItems: 2, MaxAnswer: 25}, func(x *rig) {
		x.want(x.ask(one("a", "b")...), predicts("a"), predicts("b")) // 25 bytes
		const want = `502 Bad Gateway: The answer to 2 requests that went to upstream "m" as one is longer than 25 bytes.`
		x.want(x.ask(one("a", "bb")...), want, want)
		x.wantCalls("a b", "a bb")
	})
}

func TestBatchFields(t *testing.T) {
	virtual(t, "a call has those of the first, and each answer those of the whole that are true of a part", upstream.BatchOptions{MaxItems: 2}, func(x *rig) {
		x.model.serve = func(w http.ResponseWriter, r *http.Request, items []string) bool {
			for _, name := range []string{"Etag", "Digest", "Content-Digest", "Repr-Digest", "Content-Md5", "Set-Cookie", "Accept-Ranges"} {
				w.Header().Set(name, "whole")
			}
			w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
			w.Header().Set("Content-Type", "application/json")
			return false
		}
		first := x.send(x.Context(), asks{items: []string{"a"}, header: http.Header{"X-Request-Id": {"1"}, "Traceparent": {"t1"}, "Content-Digest": {"d"}}})
		synctest.Wait()
		second := x.send(x.Context(), asks{items: []string{"b", "c"}[:1], header: http.Header{"X-Request-Id": {"2"}, "Traceparent": {"t2"}}})
		for i, c := range []<-chan got{first, second} {
			g := <-c
			want := http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {strconv.Itoa(i + 1)}, "Content-Length": {strconv.Itoa(len(g.body))}}
			if fmt.Sprint(g.header) != fmt.Sprint(want) || g.resp.ContentLength != int64(len(g.body)) {
				x.Errorf("member %d has %v, want %v", i, g.header, want)
			}
			if u := g.resp.Request.URL.String(); u != "http://in-process/v1/models/m:predict?a=1" || upstream.Attempts(g.resp) != 1 {
				x.Errorf("answered by %s after %d attempts", u, upstream.Attempts(g.resp))
			}
		}
		sent := x.model.requests[0]
		b, _ := io.ReadAll(sent.Body)
		want := http.Header{"X-Request-Id": {"1"}, "Traceparent": {"t1"}, "X-Forwarded-Host": {"weir"}, "X-Forwarded-Proto": {"http"}}
		delete(sent.Header, "User-Agent")
		if fmt.Sprint(sent.Header) != fmt.Sprint(want) || sent.ContentLength != int64(len(b)) || string(b) != body("a", "b") {
			x.Errorf("sent %v, %q; want %v", sent.Header, b, want)
		}
	})
}

func TestBatchConditions(t *testing.T) {
	virtual(t, "of one member's own are not those of a joined call", upstream.BatchOptions{MaxItems: 2}, func(x *rig) {
		for _, item := range []string{"a", "b"} {
			defer func(c <-chan got) { <-c }(x.send(x.Context(), asks{items: []string{item}, header: http.Header{"If-None-Match": {"*"}, "Range": {"bytes=0-1"}}}))
		}
		synctest.Wait()
		if h := x.model.requests[0].Header; len(h["If-None-Match"]) > 0 || len(h["Range"]) > 0 {
			x.Errorf("sent %v", h)
		}
	})
}

func TestBatchWithoutFields(t *testing.T) {
	t.Run("a transport whose answers have none is none the worse", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			x := newRig(t, upstream.BatchOptions{MaxItems: 2}, upstream.Options{Targets: []upstream.Target{{URL: "m", Transport: bare{}}}})
			for _, c := range x.ask(one("a", "b")...) {
				if g := <-c; g.String() != predicts("x") || g.header.Get("Content-Length") != "21" {
					x.Errorf("got %s %v", g, g.header)
				}
			}
		})
	})
}

// bare answers with two predictions and no fields.
type bare struct{}

func (bare) RoundTrip(r *http.Request) (*http.Response, error) {
	_ = r.Body.Close()
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"predictions":["x","x"]}`)), ContentLength: -1}, nil
}

func TestBatchMembersLeave(t *testing.T) {
	three := upstream.BatchOptions{MaxItems: 3}
	const gone = "upstream m: context canceled"
	virtual(t, "who leaves while it waits is not in the call", three, func(x *rig) {
		ctx, leave := context.WithCancel(x.Context())
		all := append(x.ask(one("a")...), x.send(ctx, asks{items: []string{"b"}}))
		synctest.Wait()
		leave()
		x.want(all[1:], gone)
		x.wantSeats("", "unused 0")
		all = append(all[:1], x.ask(one("c", "d")...)...) // in its stead
		x.want(all, predicts("a"), predicts("c"), predicts("d"))
		x.wantCalls("a c d")
	})
	virtual(t, "who has left before is not waited with", three, func(x *rig) {
		ctx, leave := context.WithCancel(x.Context())
		leave()
		x.want([]<-chan got{x.send(ctx, asks{items: []string{"b"}})}, gone)
		a := asks{items: []string{"c"}}
		m := x.member(&a)
		m.Key = ""
		if g := gotten(x.batcher.Do(ctx, m)); g.String() != gone {
			x.Errorf("got %s", g)
		}
		x.wantSeats("unused 0", "unused 0")
	})
	virtual(t, "where all leave while they wait there is no call", three, func(x *rig) {
		ctx, leave := context.WithCancel(x.Context())
		all := []<-chan got{x.send(ctx, asks{items: []string{"a"}}), x.send(ctx, asks{items: []string{"b"}})}
		synctest.Wait()
		leave()
		x.want(all, gone, gone)
		x.wantSeats("unused 0", "unused 0")
		time.Sleep(time.Second)
		x.wantCalls()
		if s := x.batcher.Stats(); s != (upstream.BatchStats{Size: 3}) {
			x.Errorf("left over: %+v", s)
		}
	})
	virtual(t, "who leaves during the call disturbs nobody, and its seat ends with the call", three, func(x *rig) {
		x.model.took = func(int) time.Duration { return time.Second }
		ctx, leave := context.WithCancel(x.Context())
		all := append(x.ask(one("a", "b")...), x.send(ctx, asks{items: []string{"c"}}))
		time.Sleep(500 * time.Millisecond)
		leave()
		x.want(all[2:], gone)
		x.wantSeats("", "", "")
		x.want(all[:2], predicts("a"), predicts("b"))
		if took := time.Since(x.model.began); took != time.Second {
			x.Errorf("took %v", took)
		}
		x.wantSeats("ok 200", "ok 200", "cancelled 200")
	})
	virtual(t, "where all leave during the call it is cancelled at once", three, func(x *rig) {
		x.model.took = func(int) time.Duration { return time.Hour }
		ctx, leave := context.WithCancel(x.Context())
		var all []<-chan got
		for _, item := range []string{"a", "b", "c"} {
			all = append(all, x.send(ctx, asks{items: []string{item}}))
			synctest.Wait()
		}
		time.Sleep(time.Second)
		leave()
		x.want(all, gone, gone, gone)
		x.wantSeats("cancelled 0", "cancelled 0", "cancelled 0")
		if took := time.Since(x.model.began); took != time.Second || !x.model.idle() {
			x.Errorf("after %v, idle: %v", took, x.model.idle())
		}
	})
	virtual(t, "whose own time is over gets that for an answer, the others theirs", three, func(x *rig) {
		x.model.took = func(int) time.Duration { return time.Second }
		ctx, cancel := context.WithTimeout(x.Context(), 300*time.Millisecond)
		defer cancel()
		all := append(x.ask(one("a", "b")...), x.send(ctx, asks{items: []string{"c"}}))
		g := <-all[2]
		if !errors.Is(g.err, context.DeadlineExceeded) || time.Since(x.model.began) != 300*time.Millisecond {
			x.Errorf("got %v after %v", g.err, time.Since(x.model.began))
		}
		x.want(all[:2], predicts("a"), predicts("b"))
	})
}

func TestBatchPanics(t *testing.T) {
	two := upstream.BatchOptions{MaxItems: 2}
	virtual(t, "in Join send each alone", two, func(x *rig) {
		x.want(x.ask(one("a", "panic in join")...), predicts("a"), predicts("panic in join"))
	})
	virtual(t, "in Split ask for each alone", two, func(x *rig) {
		x.want(x.ask(one("a", "panic in split of b")...), predicts("a"), predicts("panic in split of b"))
		if err := x.made[0].Err; err == nil || !strings.HasPrefix(err.Error(), "splitting the answer to 2 requests panicked: split\n") {
			x.Errorf("told %v", err)
		}
	})
	hook := two
	hook.Observe = func(e upstream.BatchEvent) {
		if e.Members > 1 {
			panic("observe")
		}
	}
	virtual(t, "in a hook fail that call and no other", hook, func(x *rig) {
		for range 2 {
			for _, c := range x.ask(one("a", "b")...) {
				p, ok := errors.AsType[*weir.Problem]((<-c).err)
				if !ok || p.Status != 0 || p.Detail != "Something went wrong here." || !strings.HasPrefix(p.Err.Error(), "a joined call panicked: observe\n") {
					x.Errorf("got %v", p)
				}
			}
		}
		x.want(x.ask(one("c")...), predicts("c"))
	})
	t.Run("in a hook keep no seat of a retry", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := &model{began: time.Now()}
			down := upstream.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
			x := newRig(t, hook, upstream.Options{
				Targets: []upstream.Target{{URL: "0", Transport: down}, {URL: "1", Transport: upstream.Handler(m)}},
				Retry:   upstream.Retry{Post: true},
			})
			s := &further{desk: x.desk, target: 1}
			for _, c := range []<-chan got{x.send(x.Context(), asks{items: []string{"a"}, seats: s}), x.send(x.Context(), asks{items: []string{"b"}, seats: s})} {
				if g := <-c; g.err == nil {
					x.Errorf("got %s", g)
				}
			}
			x.wantSeats("ok 503", "ok 503", "cut 0")
		})
	})
	virtual(t, "in the request's own goroutine let the next one at its place go", upstream.BatchOptions{Observe: func(upstream.BatchEvent) { panic("observe") }}, func(x *rig) {
		a, late := asks{items: []string{"a"}}, x.desk.sit("k", 1)
		m := x.member(&a)
		for _, next := range []upstream.Member[[]string]{m, x.member(&asks{items: []string{"b"}, seat: late})} {
			func() {
				defer func() {
					if p := recover(); p != "observe" {
						x.Errorf("recovered %v", p)
					}
				}()
				ctx, cancel := context.WithCancel(x.Context())
				defer cancel()
				_, _ = x.batcher.Do(ctx, next)
			}()
			synctest.Wait() // the exchange ends with its request
		}
		x.wantCalls("a", "b")
	})
}

func TestBatchCloses(t *testing.T) {
	virtual(t, "with what waits sent at once, and waited for", upstream.BatchOptions{MaxDelay: time.Hour}, func(x *rig) {
		x.model.took = func(int) time.Duration { return time.Second }
		all := x.ask(one("a", "b")...)
		x.batcher.Close()
		if took := time.Since(x.model.began); took != time.Second {
			x.Errorf("closed after %v", took)
		}
		x.want(all, predicts("a"), predicts("b"))
		x.wantCalls("a b")
		x.want(x.ask(one("c")...), predicts("c"))
		if took := time.Since(x.model.began); took != 2*time.Second {
			x.Errorf("who came later was answered after %v", took)
		}
	})
}
