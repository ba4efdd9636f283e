package admission

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

func TestLimiterStarts(t *testing.T) {
	for _, c := range []struct {
		limits        Limits
		seats, tokens float64
	}{
		{Limits{Min: 1, Max: 256}, 16, startTokens},
		{Limits{Min: 32, Max: 256}, 32, startTokens},
		{Limits{Min: 1, Max: 4}, 4, startTokens},
		{Limits{}, 16, startTokens},
		{Limits{Min: 8, Max: 2}, 8, math.Inf(1)},
		{Limits{Min: 7, Max: 7}, 7, math.Inf(1)},
	} {
		l := newLimiter(c.limits, SLO{}, time.Time{})
		if l.seats() != c.seats || l.tokens() != c.tokens {
			t.Errorf("%+v: got %v seats and %v tokens, want %v and %v", c.limits, l.seats(), l.tokens(), c.seats, c.tokens)
		}
	}
}

func TestFixedLimitsNeverMove(t *testing.T) {
	for _, workers := range []int{8, 200} {
		s := newPlainServer(newLimiter(Limits{Min: 64, Max: 64}, SLO{TTFT: time.Second}, epoch), workers, tenth)
		s.refuse = 100
		for i, step := range s.run(60) {
			if step.seats != 64 || !math.IsInf(s.limit.tokens(), 1) || !math.IsInf(s.limit.prefill(), 1) {
				t.Fatalf("second %d: limits %v, %v, %v", i, step.seats, s.limit.tokens(), s.limit.prefill())
			}
		}
	}
}

func TestLimitsStayBetweenMinAndMax(t *testing.T) {
	s := newPlainServer(newLimiter(Limits{Min: 20, Max: 40}, SLO{}, epoch), 64, tenth)
	s.run(60)
	if got := s.limit.seats(); got != 40 {
		t.Errorf("with room for 64: %v, want 40", got)
	}
	s.fail = 1
	s.run(60)
	if got := s.limit.seats(); got != 20 {
		t.Errorf("while all fail: %v, want 20", got)
	}
}

func TestInstancesHaveTheirParts(t *testing.T) {
	l := newLimiter(Limits{Min: 1, Max: 256}, SLO{}, epoch)
	for _, c := range []struct {
		n             int
		seats, tokens float64
	}{{4, 4, startTokens / 4}, {100, 1, startTokens / 100}, {0, 16, startTokens}, {-1, 16, startTokens}} {
		l.share(c.n)
		if l.seats() != c.seats || l.tokens() != c.tokens {
			t.Errorf("%d instances: got %v seats and %v tokens, want %v and %v", c.n, l.seats(), l.tokens(), c.seats, c.tokens)
		}
	}
	t.Run("and four of them find together what one finds", func(t *testing.T) {
		one := newPlainServer(adaptive(SLO{}), 64, tenth)
		one.run(60)
		whole := mean(one.run(60))
		// One of four sees a quarter of the server, as long as the others do as it does.
		part := newPlainServer(adaptive(SLO{}), 16, tenth)
		part.limit.share(4)
		part.run(60)
		got := mean(part.run(60))
		t.Logf("alone %v; a quarter %v", whole, got)
		between(t, "work of the quarter", got.work/16, 0.95, 1.05)
		between(t, "limit of the quarter", got.seats/16, 0.95, 2.2)
	})
}

func TestLimitsWaitForATargetThatIsClosed(t *testing.T) {
	// It asked for a minute's rest: nothing is sent, all waits. What it can do is no
	// less than before, and no more.
	s := newPlainServer(adaptive(SLO{}), 64, tenth)
	s.run(60)
	s.arrive, s.waiting, s.next = 1, 0, s.now+1000
	s.run(10)
	before := s.limit.seats()
	for range 60 {
		s.limit.blocked()
		s.run(1)
	}
	if got := s.limit.seats(); got != before {
		t.Errorf("limit %v after a minute, want %v as before", got, before)
	}
}

func TestTicks(t *testing.T) {
	t.Run("come once a second, however often they are called", func(t *testing.T) {
		l := newLimiter(Limits{Min: 1, Max: 256}, SLO{}, epoch)
		for i := range 100 {
			l.use(16, 0)
			l.ended("", time.Millisecond, Overloaded, 0, 1, false)
			l.use(16, 0)
			l.tick(after(float64(i+1) / 100))
		}
		between(t, "seats after one second", l.seats(), deepest*startSeats, deepest*startSeats+0.1)
	})
	t.Run("survive a clock that is set back, and a process that was stopped", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{}), 64, tenth)
		s.run(30)
		before := s.limit.seats()
		s.limit.tick(after(-3600))
		s.limit.tick(after(-3599))
		s.limit.tick(after(86400))
		s.limit.tick(after(86401))
		between(t, "limit, over what it was", s.limit.seats()/before, 0.7, 1.5)
		if got := s.limit.last; got != after(86401) {
			t.Errorf("last tick at %v", got)
		}
	})
}

func TestGuardTakesCutsBackThatDidNotHelp(t *testing.T) {
	// Gaps are too long whatever the load is, and tokens come for each that runs.
	l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
	var seats []float64
	for second := range 200 {
		n := int(l.seats())
		l.use(n, int64(n)*500)
		for range n * 10 {
			l.gap(100*time.Millisecond, 1)
		}
		l.blocked()
		l.tick(after(float64(second + 1)))
		seats = append(seats, l.seats())
	}
	most, least := slices.Max(seats), slices.Min(seats[slices.Index(seats, slices.Max(seats)):])
	t.Logf("at most %.1f; then at least %.1f, and %.1f at last", most, least, seats[199])
	between(t, "least, over the most", least/most, 0.4, 0.99)
	between(t, "in the end, over the most", seats[199]/most, 0.6, 1)
}

func TestLimiterIsBounded(t *testing.T) {
	l := adaptive(SLO{})
	for i := range 100_000 {
		l.ended(fmt.Sprint("kind ", i), time.Millisecond, OK, 0, 1, false)
		l.firstToken(time.Millisecond, 1000, epoch)
		if i%1000 == 0 {
			l.tick(after(float64(i / 1000)))
		}
	}
	if n, m := len(l.plain.order), len(l.plain.kinds); n != kindsKept || m != kindsKept {
		t.Errorf("%d and %d kinds, want %d", n, m, kindsKept)
	}
	for i := range kindForgotten + 2 {
		l.tick(after(float64(1000 + i)))
	}
	if n, m := len(l.plain.order), len(l.plain.kinds); n != 0 || m != 0 {
		t.Errorf("%d and %d kinds long after the last call, want none", n, m)
	}
}

func TestLimiterDoesNotAllocate(t *testing.T) {
	l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
	now := epoch
	step := func() {
		l.use(10, 1000)
		l.blocked()
		l.firstToken(time.Millisecond, 1000, now)
		l.gap(time.Millisecond, 3)
		l.ended("predict", time.Millisecond, OK, 0, 1, false)
		l.ended("", time.Millisecond, OK, 50, 200, true)
		l.engine(EngineState{Running: 3, KVTokens: 1000, At: now}, now)
		now = now.Add(time.Second)
		l.tick(now)
	}
	step()
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations a step, want none", n)
	}
}

func TestLimiterIsDeterministic(t *testing.T) {
	run := func() []plainStep {
		s := newPlainServer(adaptive(SLO{}), 64,
			callKind{name: "a", mean: 0.05, share: 0.3}, callKind{name: "b", mean: 0.1, share: 0.3},
			callKind{name: "c", mean: 0.2, share: 0.2}, callKind{name: "d", mean: 0.3, share: 0.2})
		return s.run(60)
	}
	if a, b := run(), run(); !slices.Equal(a, b) {
		t.Error("two runs of the same differ")
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if got := h.quantile(0.5, 1); got != 0 {
		t.Errorf("of nothing: %v, want 0", got)
	}
	for i := range 1000 {
		h.add(bucket(float64(i+1)/1000, baseScale))
	}
	for _, q := range []float64{0.1, 0.5, 0.9} {
		between(t, fmt.Sprint("quantile ", q), h.quantile(q, baseScale)/q, 0.93, 1.07)
	}
	h.reset()
	for _, v := range []float64{0, -1, math.NaN(), 1e12, math.Inf(1)} {
		h.add(bucket(v, baseScale))
	}
	between(t, "of extremes", h.quantile(0.5, baseScale), baseScale, 1.1*baseScale)
	between(t, "largest", h.quantile(1, baseScale), 900, 1100)
}

func TestTrend(t *testing.T) {
	var line trend
	for i := range 30 {
		x := math.Log(10 + float64(i%10))
		line.add(x, 0.7*x+0.02*float64(i%3))
	}
	slope, err, known := line.slope()
	between(t, "slope", slope, 0.65, 0.75)
	between(t, "error", err, 0, 0.1)
	if !known {
		t.Error("the slope is not known")
	}
	line.add(math.Log(15), 0.7*math.Log(15)-1)
	if _, _, known := line.slope(); known {
		t.Error("the slope is still known after a break")
	}
	for range 30 {
		line.add(3, 5)
	}
	if _, _, known := line.slope(); known {
		t.Error("the slope is known though nothing moved")
	}
}
