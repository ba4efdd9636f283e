package ratelimit

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// anySimulation is of instances that die, sleep, and lose answers, whose clocks
// have nothing in common, and whose store is up to 50 ms away.
func anySimulation(t *rapid.T) simulation {
	s := simulation{
		nodes:    rapid.IntRange(1, 16).Draw(t, "nodes"),
		load:     rapid.Float64Range(0.3, 10).Draw(t, "load"),
		skew:     rapid.SampledFrom([]float64{0, 0.8}).Draw(t, "skew"),
		travel:   time.Duration(rapid.IntRange(0, 50_000).Draw(t, "travel")) * time.Microsecond,
		crashes:  rapid.SampledFrom([]float64{0, 0.01, 0.1}).Draw(t, "crashes"),
		pauses:   rapid.SampledFrom([]float64{0, 0.02}).Draw(t, "pauses"),
		away:     rapid.SampledFrom([]float64{0, 0.1}).Draw(t, "away"),
		sequence: rapid.Bool().Draw(t, "one request at a time"),
		seed:     rapid.Uint64().Draw(t, "seed"),
		policy: Policy{
			Name:      "p",
			Quota:     rapid.Int64Range(4, 2000).Draw(t, "quota"),
			Window:    time.Duration(rapid.Int64Range(100, 60_000).Draw(t, "window")) * time.Millisecond,
			MaxExcess: rapid.Float64Range(0.01, 0.5).Draw(t, "max excess"),
		},
	}
	s.policy.Burst = rapid.Int64Range(1, 2*s.policy.Quota).Draw(t, "burst")
	if slack := int64(s.policy.MaxExcess * float64(s.policy.Quota)); slack < 2 {
		s.policy.MaxExcess = 0.5
	}
	// Some cost more than a lease can hold: strict takes of the same count.
	s.costs = rapid.Int64Range(1, 1+int64(1.5*s.policy.MaxExcess*float64(s.policy.Quota))).Draw(t, "costs")
	if s.sequence {
		s.backs = rapid.SampledFrom([]float64{0, 0.3, 0.9}).Draw(t, "backs")
	}
	s.length = time.Duration(float64(1500*s.policy.interval()) / s.load * float64(s.costs+1) / 2)
	return s
}

func TestLeasesStayInTheBound(t *testing.T) {
	most := time.Duration(0)
	var units int64
	rapid.Check(t, func(rt *rapid.T) {
		s := anySimulation(rt)
		out := s.run(t)
		p := out.policy
		capacity := time.Duration(p.Burst) * p.Interval()
		over := debt(out.events, p.Interval()) - capacity
		if over > p.Slack() {
			rt.Errorf("%+v\nadmitted %v more than the bucket in some stretch of time, want at most %v", s, over, p.Slack())
		}
		if bound := p.MaxExcess * float64(p.Quota); float64(p.Slack())/float64(p.Interval()) > bound*(1+1e-9) {
			rt.Errorf("a slack of %v is worth more than %v units", p.Slack(), bound)
		}
		if out.admitted > 0 {
			units += out.admitted
			most = max(most, time.Duration(1000*float64(over)/float64(p.Slack())))
		}
	})
	t.Logf("%d units admitted; the largest excess was %d/1000 of what is allowed", units, most)
}

// hoard is units that were granted and are not used.
type hoard struct {
	eligible, valid, units int64
}

// adversary uses what Lend grants at the worst times: all at once, in the last
// moment, after others gave back.
type adversary struct {
	policy  *Policy
	account Account
	now     int64
	hoards  []hoard
	events  []event
}

func (a *adversary) grant(cost, want int64) {
	g := Grant{Policy: a.policy, Cost: cost, Want: want}
	a.account = a.policy.Lend(a.account, &g, a.now)
	if g.Units > 0 {
		a.hoards = append(a.hoards, hoard{a.now + int64(g.Eligible), a.now + int64(g.Valid), g.Units})
	}
}

func (a *adversary) settle(owed int64) {
	g := Grant{Policy: a.policy, Owed: owed}
	a.account = a.policy.Lend(a.account, &g, a.now)
	if owed < 0 {
		a.events = append(a.events, event{a.now, owed})
	}
}

func (a *adversary) strict(cost int64) {
	s, d := a.policy.Decide(State{At: a.account.At}, cost, a.now)
	if a.account.At = s.At; d.Allowed && cost > 0 {
		a.events = append(a.events, event{a.now, cost})
	}
}

// use uses all that can be used now.
func (a *adversary) use() {
	interval := int64(a.policy.Interval())
	for i := range a.hoards {
		h := &a.hoards[i]
		for h.units > 0 && h.eligible <= a.now {
			if a.now <= h.valid {
				a.events = append(a.events, event{a.now, 1})
			}
			h.eligible, h.valid, h.units = h.eligible+interval, h.valid+interval, h.units-1
		}
	}
}

func TestLendStaysInTheBound(t *testing.T) {
	most := 0.0
	check := func(rt *rapid.T) {
		quota := rapid.Int64Range(2, 50).Draw(rt, "quota")
		p, err := Policy{
			Quota: quota, Window: time.Duration(quota) * time.Millisecond, Burst: rapid.Int64Range(1, 30).Draw(rt, "burst"),
			MaxExcess: rapid.SampledFrom([]float64{0.1, 0.25, 0.5}).Draw(rt, "max excess"),
		}.Prepare()
		if err != nil {
			rt.Fatal(err)
		}
		a := adversary{policy: p, now: 1_800_000_000_000_000_000}
		for range rapid.IntRange(1, 100).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"grant", "grant", "strict", "settle", "use", "wait", "wait", "last moment"}).Draw(rt, "step") {
			case "grant":
				a.grant(rapid.Int64Range(1, 3).Draw(rt, "cost"), rapid.Int64Range(1, 50).Draw(rt, "want"))
			case "strict":
				a.strict(rapid.Int64Range(1, p.Burst).Draw(rt, "cost"))
			case "settle":
				a.settle(rapid.Int64Range(-20, 5).Draw(rt, "owed"))
			case "use":
				a.use()
			case "wait":
				a.now += rapid.Int64Range(0, 2*int64(p.Slack())).Draw(rt, "wait")
			case "last moment":
				if i := len(a.hoards) - 1; i >= 0 {
					a.now = max(a.now, a.hoards[rapid.IntRange(0, i).Draw(rt, "hoard")].valid)
				}
			}
		}
		a.use()
		over := debt(a.events, p.Interval()) - time.Duration(p.Burst)*p.Interval()
		if over > p.Slack() {
			rt.Errorf("burst %d, slack %v: admitted %v more than the bucket in some stretch of time", p.Burst, p.Slack(), over)
		}
		if p.Slack() > 0 {
			most = max(most, float64(over)/float64(p.Slack()))
		}
	}
	for range 50 {
		rapid.Check(t, check)
	}
	if most < 0.9 {
		t.Errorf("the largest excess was %.2f of what is allowed: want a test that comes close", most)
	}
}

// rated is 100 a second with a burst of 1000.
func rated(slack time.Duration, nodes int, load float64) simulation {
	return simulation{
		policy: Policy{Name: "p", Quota: 1000, Window: 10 * time.Second, MaxExcess: float64(slack) / float64(10*time.Second)},
		nodes:  nodes, load: load, travel: 2 * time.Millisecond, length: 120 * time.Second, costs: 1, seed: 1,
	}
}

func (o *outcome) log(t *testing.T, s simulation) (part, calls float64) {
	part = float64(o.admitted) / float64(o.ideal)
	calls = float64(o.calls) / float64(o.requests)
	over := debt(o.events, o.policy.Interval()) - time.Duration(o.policy.Burst)*o.policy.Interval()
	t.Logf("%2d instances, slack %v, load %4.1f, skew %.1f, burst %d: admitted %d of %d = %.2f %%, %.3f calls a request, excess %.1f of %d units",
		s.nodes, o.policy.Slack(), s.load, s.skew, o.policy.Burst, o.admitted, o.ideal, 100*part, calls,
		max(float64(over)/float64(o.policy.Interval()), 0), o.policy.Slack()/o.policy.Interval())
	if over > o.policy.Slack() {
		t.Errorf("%v too much", over-o.policy.Slack())
	}
	return part, calls
}

func TestLeasesUnderLoad(t *testing.T) {
	t.Run("above the limit nearly all is used, with a call for few requests", func(t *testing.T) {
		for _, slack := range []time.Duration{500 * time.Millisecond, time.Second} {
			for _, nodes := range []int{1, 4, 16} {
				for _, load := range []float64{1.5, 3, 10} {
					for _, skew := range []float64{0, 0.8} {
						s := rated(slack, nodes, load)
						s.skew = skew
						out := s.run(t)
						part, calls := out.log(t, s)
						// What is held at the end counts as unused.
						if part < 0.99 || calls > 0.1 {
							t.Error("want 99 % and at most 0.1 calls a request")
						}
					}
				}
			}
		}
	})
	t.Run("below the limit nobody is refused", func(t *testing.T) {
		for _, nodes := range []int{1, 4, 16} {
			for _, load := range []float64{0.2, 0.5, 0.8} {
				s := rated(500*time.Millisecond, nodes, load)
				out := s.run(t)
				part, calls := out.log(t, s)
				if part != 1 || calls > 0.8 {
					t.Error("want all, and fewer calls than requests")
				}
			}
		}
	})
	t.Run("a burst below the excess is used nearly as well", func(t *testing.T) {
		for _, burst := range []int64{10, 100} {
			for _, load := range []float64{0.5, 0.9, 1.5, 3} {
				s := rated(500*time.Millisecond, 4, load)
				s.policy.Burst = burst
				out := s.run(t)
				if part, _ := out.log(t, s); part < 0.94 {
					t.Error("want 94 %")
				}
			}
		}
	})
}
