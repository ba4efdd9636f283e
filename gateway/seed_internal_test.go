package gateway

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// spenders are a ledger that writes down what it is asked for.
type spenders struct {
	asked     []time.Time
	others    []bool
	spent     map[string]int64
	err       error
	forgotten int
}

func (s *spenders) Spent(_ context.Context, from time.Time, others bool) (map[string]int64, error) {
	s.asked, s.others = append(s.asked, from), append(s.others, others)
	return s.spent, s.err
}

func (s *spenders) Forget() { s.forgotten++ }

func TestSeedBudgets(t *testing.T) {
	c, err := config.Parse("test.yaml", []byte(`
plans: {default: {policies: [5/minute], budget: 1 USD/year}, pro: {policies: [5/minute], budget: 2 USD/year}, free: {policies: [5/minute]}}
callers: {keys: [{caller: a, key: weir_a, plan: pro}, {caller: b, key: weir_b, plan: free}]}
prices: {"*": {input: 1, output: 1}}
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close(context.Background()) }()
	now := time.Now()
	year := time.Date(now.UTC().Year(), 1, 1, 0, 0, 0, 0, time.UTC)
	left := func(plan, caller string) int64 {
		t.Helper()
		for _, p := range g.setup.Load().plans[plan] {
			takes := []ratelimit.Take{{Policy: p.Policy, Key: caller}}
			if _, err := g.counts.memory.Take(t.Context(), takes, now); err != nil {
				t.Fatal(err)
			}
			if p.Unit == nanoUSD {
				return takes[0].Decision.Remaining
			}
		}
		return -1
	}
	from := &spenders{spent: map[string]int64{"key:a": 300_000_000}, err: errors.New("away")}
	if err := g.seedBudgets(t.Context(), from, now); !errors.Is(err, from.err) || from.forgotten > 0 || left("pro", "key:a") != 2*nanosPerUSD {
		t.Errorf("without an answer: %v, forgotten %d times, %d left", err, from.forgotten, left("pro", "key:a"))
	}
	from.err = nil
	for range 2 { // the second time there is nothing more to charge
		if err := g.seedBudgets(t.Context(), from, now); err != nil {
			t.Fatal(err)
		}
	}
	got := []int64{left("default", "key:a"), left("pro", "key:a"), left("free", "key:a"), left("pro", "key:b")}
	if want := []int64{700_000_000, 1_700_000_000, -1, 2_000_000_000}; !reflect.DeepEqual(got, want) {
		t.Errorf("%d are left: want %d", got, want)
	}
	if want := []time.Time{year, year}; !reflect.DeepEqual(from.asked, want) || !reflect.DeepEqual(from.others, []bool{true, true}) || from.forgotten != 2 {
		t.Errorf("asked for %v, others %v, forgotten %d times: want %v, of others alone", from.asked, from.others, from.forgotten, want)
	}
}

func TestBudgetsInARedisNeedNoLedger(t *testing.T) {
	g := &Gateway{counts: &counts{}}
	from := &spenders{err: errors.New("away")}
	if err := g.seedBudgets(t.Context(), from, time.Now()); err != nil || !g.seeds.done || from.forgotten != 1 || from.asked != nil {
		t.Errorf("%v, done %v, forgotten %d times, asked for %v: want it done without a question", err, g.seeds.done, from.forgotten, from.asked)
	}
}
