package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/ratelimit"
)

// otherStore hides that a store is in memory, so that Preview only looks at it.
type otherStore struct{ ratelimit.Store }

// previewed are policies, one of each algorithm.
func previewed(t testing.TB) []*ratelimit.Policy {
	return []*ratelimit.Policy{
		prepare(t, ratelimit.Policy{Name: "bucket", Quota: 6, Window: time.Minute}),
		prepare(t, ratelimit.Policy{Name: "burst", Quota: 60, Burst: 3, Window: time.Minute}),
		prepare(t, ratelimit.Policy{Name: "sliding", Quota: 5, Window: time.Minute, Algorithm: ratelimit.SlidingWindow}),
		prepare(t, ratelimit.Policy{Name: "fixed", Quota: 5, Window: time.Minute, Algorithm: ratelimit.FixedWindow}),
		prepare(t, ratelimit.Policy{Name: "slots", Concurrent: 2}),
		prepare(t, ratelimit.Policy{Name: "shadow", Quota: 2, Window: time.Minute, Shadow: true}),
	}
}

// TestPreviewSaysWhatTakeDoes takes at random from two stores, of which one is asked for
// previews: the decisions must be the same, and those of the previews, too.
func TestPreviewSaysWhatTakeDoes(t *testing.T) {
	all := previewed(t)
	rapid.Check(t, func(rt *rapid.T) {
		asked, twin := ratelimit.NewMemoryStore(1<<10), ratelimit.NewMemoryStore(1<<10)
		now := time.Now()
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(rt, "ms")) * time.Millisecond)
			var takes []ratelimit.Take
			for _, p := range all {
				if rapid.Bool().Draw(rt, p.Name) {
					takes = append(takes, ratelimit.Take{
						Policy: p, Key: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key"), Cost: rapid.Int64Range(0, 8).Draw(rt, "cost"), ID: fmt.Sprint(i),
					})
				}
			}
			exact, looked := slices.Clone(takes), slices.Clone(takes)
			first := preview(rt, asked, exact, now)
			second := preview(rt, otherStore{asked}, looked, now)
			same := slices.Clone(takes)
			allowed, err := asked.Take(context.Background(), takes, now)
			if err != nil {
				rt.Fatal(err)
			}
			if other, _ := twin.Take(context.Background(), same, now); other != allowed || !slices.EqualFunc(decisions(takes), decisions(same), alike) {
				rt.Fatalf("after previews %v, without %v", decisions(takes), decisions(same))
			}
			if first != allowed || second != allowed {
				rt.Fatalf("previews %t and %t of a take that is %t: %v", first, second, allowed, decisions(takes))
			}
			for j := range takes {
				sameDecision(rt, exact[j], takes[j], true)
				sameDecision(rt, looked[j], takes[j], false)
			}
		}
	})
}

func preview(t *rapid.T, s ratelimit.Store, takes []ratelimit.Take, now time.Time) bool {
	allowed, err := ratelimit.Preview(context.Background(), s, takes, now)
	if err != nil {
		t.Fatal(err)
	}
	return allowed
}

// sameDecision fails where the preview of a take decided otherwise. What is left differs
// by the take. A look does not know when a sliding window allows.
func sameDecision(t *rapid.T, preview, take ratelimit.Take, exact bool) {
	got, want := preview.Decision, take.Decision
	if got.Allowed != want.Allowed && (preview.Cost > 0 || exact) {
		t.Fatalf("%s: preview %+v of cost %d, take %+v", take.Policy.Name, got, take.Cost, want)
	}
	if got.RetryAfter != want.RetryAfter && (exact || take.Policy.Algorithm != ratelimit.SlidingWindow) {
		t.Fatalf("%s: preview says to retry after %v, take %v", take.Policy.Name, got.RetryAfter, want.RetryAfter)
	}
	if got.RetryAfter > want.RetryAfter {
		t.Fatalf("%s: preview says to retry after %v, which is later than %v", take.Policy.Name, got.RetryAfter, want.RetryAfter)
	}
}

func decisions(takes []ratelimit.Take) (all []ratelimit.Decision) {
	for _, t := range takes {
		all = append(all, t.Decision)
	}
	return all
}

// alike compares decisions of two stores, whose clocks did not begin at once.
func alike(a, b ratelimit.Decision) bool {
	near := func(a, b time.Duration) bool { return (a - b).Abs() < time.Millisecond }
	return a.Allowed == b.Allowed && a.Remaining == b.Remaining && near(a.Reset, b.Reset) && near(a.Full, b.Full) && near(a.RetryAfter, b.RetryAfter)
}

// goneStore does not answer.
type goneStore struct{ ratelimit.Store }

var errGone = errors.New("gone")

func (goneStore) Take(context.Context, []ratelimit.Take, time.Time) (bool, error) {
	return false, errGone
}

func TestPreviewFailsWhereTheStoreDoes(t *testing.T) {
	takes := []ratelimit.Take{{Policy: previewed(t)[0], Key: "a", Cost: 1}}
	if allowed, err := ratelimit.Preview(context.Background(), goneStore{}, takes, time.Now()); allowed || !errors.Is(err, errGone) {
		t.Errorf("%t, %v: want the error of the store", allowed, err)
	}
	if allowed, err := ratelimit.Preview(context.Background(), goneStore{}, nil, time.Now()); !allowed || err != nil {
		t.Errorf("of no takes %t, %v: want true", allowed, err)
	}
	if _, err := ratelimit.Preview(context.Background(), ratelimit.NewMemoryStore(16), []ratelimit.Take{{}}, time.Now()); err == nil {
		t.Error("a take without a policy is no error")
	}
}
