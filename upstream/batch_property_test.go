package upstream_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/upstream"
)

// plan is what some callers do.
type plan struct {
	size, places int
	delay        time.Duration
	fixed, each  time.Duration // of a call
	busy         int           // every so many calls one is refused; 0: none
	callers      []caller
}

type caller struct {
	key    string
	items  []string
	comes  time.Duration
	leaves time.Duration // 0: never
}

func drawPlan(t *rapid.T) plan {
	within := func(name string, most int) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(t, name)) * time.Millisecond
	}
	p := plan{
		size:   rapid.IntRange(1, 10).Draw(t, "size"),
		places: rapid.IntRange(0, 3).Draw(t, "places"),
		delay:  within("delay", 5),
		fixed:  within("fixed", 5),
		each:   within("each", 2),
		busy:   rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "busy"),
	}
	for i := range rapid.IntRange(1, 24).Draw(t, "callers") {
		c := caller{key: rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key"), comes: within("comes", 12)}
		for n := range rapid.IntRange(1, 4).Draw(t, "items") {
			kind := rapid.SampledFrom([]string{"", "", "", "", "", "", "", "bad-"}).Draw(t, "kind")
			c.items = append(c.items, fmt.Sprintf("%s%s-%d-%d", kind, c.key, i, n))
		}
		if rapid.IntRange(0, 4).Draw(t, "leaves") == 0 {
			c.leaves = within("after", 20) + time.Millisecond // often just when something else is due
		}
		p.callers = append(p.callers, c)
	}
	return p
}

func isBad(item string) bool { return strings.HasPrefix(item, "bad-") }

// TestBatchProperty has callers come, leave and ask for bad things: each gets what
// belongs to its own items and nothing else, and every seat ends once.
func TestBatchProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlan(rt)
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = p.run(t) })
		if len(wrong) > 0 {
			rt.Fatal(strings.Join(wrong, "\n"))
		}
	})
}

func (p plan) run(t *testing.T) (wrong []string) {
	x := newRig(t, upstream.BatchOptions{MaxItems: p.size, MaxDelay: p.delay}, upstream.Options{})
	x.desk.limit = p.places
	x.model.took = line(p.fixed, p.each)
	var mu sync.Mutex
	calls := 0
	x.model.serve = func(w http.ResponseWriter, _ *http.Request, items []string) bool {
		mu.Lock()
		calls++
		refuse := p.busy > 0 && calls%p.busy == 0
		mu.Unlock()
		switch {
		case refuse:
			w.WriteHeader(http.StatusServiceUnavailable)
		case slices.ContainsFunc(items, isBad):
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = fmt.Fprintf(w, "bad: %s", items)
		default:
			return false
		}
		return true
	}
	var all sync.WaitGroup
	for i, c := range p.callers {
		all.Go(func() {
			time.Sleep(c.comes)
			ctx, cancel := context.WithCancel(x.Context())
			defer cancel()
			if c.leaves > 0 {
				defer time.AfterFunc(c.leaves, cancel).Stop()
			}
			g := <-x.send(ctx, asks{key: c.key, items: c.items})
			if !c.fits(g, p.busy > 0) {
				mu.Lock()
				defer mu.Unlock()
				wrong = append(wrong, fmt.Sprintf("caller %d, %+v, got %s", i, c, g))
			}
		})
	}
	all.Wait()
	synctest.Wait()
	return append(wrong, p.check(x)...)
}

// fits reports whether g is an answer for c.
func (c caller) fits(g got, busy bool) bool {
	switch {
	case g.err != nil:
		return c.leaves > 0 && strings.Contains(g.err.Error(), "context canceled")
	case g.status == http.StatusServiceUnavailable:
		return busy
	case slices.ContainsFunc(c.items, isBad):
		return g.String() == fmt.Sprintf("422 bad: %s", c.items)
	}
	return g.String() == predicts(c.items...)
}

// check looks at the calls and seats of a plan that is over.
func (p plan) check(x *rig) (wrong []string) {
	calls := x.model.asked()
	if len(calls) > 2*len(p.callers) {
		wrong = append(wrong, fmt.Sprintf("%d calls for %d callers", len(calls), len(p.callers)))
	}
	for _, call := range calls {
		items := strings.Fields(call)
		of := map[string]bool{}
		keys := map[string]bool{}
		for _, item := range items {
			parts := strings.Split(strings.TrimPrefix(item, "bad-"), "-")
			keys[parts[0]], of[parts[1]] = true, true
		}
		if len(keys) > 1 || len(items) > p.size && len(of) > 1 {
			wrong = append(wrong, fmt.Sprintf("a call of %q", call))
		}
	}
	for i, r := range x.desk.results() {
		if r == "" || strings.Contains(r, "+") {
			wrong = append(wrong, fmt.Sprintf("seat %d ended with %q", i, r))
		}
	}
	if s := x.batcher.Stats(); s.Places != 0 {
		wrong = append(wrong, fmt.Sprintf("%d places are left over", s.Places))
	}
	// A model needs a moment to see that its caller has left.
	leaves := slices.ContainsFunc(p.callers, func(c caller) bool { return c.leaves > 0 })
	if n := x.model.busiest(); p.places > 0 && n > p.places && !leaves {
		wrong = append(wrong, fmt.Sprintf("%d calls at once in %d places", n, p.places))
	}
	return wrong
}
