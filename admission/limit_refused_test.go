package admission

import (
	"fmt"
	"testing"
	"time"
)

func TestRefusalsThatDoNotDependOnTheLoad(t *testing.T) {
	for _, share := range []float64{0.02, 0.1, 0.5} {
		t.Run(fmt.Sprintf("a share of %v of all calls keeps its limit", share), func(t *testing.T) {
			s := newPlainServer(adaptive(SLO{}), 100, callKind{name: "predict", mean: 1, share: 1, fixed: true})
			s.run(60)
			before := mean(s.run(60))
			s.quota = share
			first := mean(s.run(60))
			after := mean(s.run(240))
			t.Logf("before %v; the first minute %v; then %v", before, first, after)
			between(t, "work of the first minute, over that before", first.work/before.work, 0.75, 1.1)
			between(t, "work then", after.work/before.work, 0.9, 1.15)
		})
	}
	for _, number := range []int{2, 20, 100} {
		t.Run(fmt.Sprintf("%d a second keep nobody's limit low", number), func(t *testing.T) {
			l := newLimiter(Limits{Min: 1, Max: 256}, SLO{}, epoch)
			l.seat.limit = 120 // 100 callers of calls of a second, on a target with room for all
			served := 0
			for second := range 300 {
				n := min(100, int(l.seats()))
				for range n {
					l.use(n, 0)
					l.ended("predict", time.Second, OK, 0, 1, false)
				}
				for range number {
					l.use(n+1, 0)
					l.ended("predict", duration(0.005), Overloaded, 0, 1, false)
				}
				l.use(n, 0)
				if n < 100 {
					l.blocked()
				}
				l.tick(after(float64(second + 1)))
				served += n
			}
			t.Logf("%.1f a second served of 100, limit %.1f", float64(served)/300, l.seats())
			between(t, "served a second", float64(served)/300, 88, 100)
		})
	}
}

func TestRefusalsOfATargetThatGetsSmaller(t *testing.T) {
	s := newPlainServer(adaptive(SLO{}), 64, tenth)
	s.refuse = 48
	s.run(60)
	for _, c := range []int{24, 5, 48} {
		s.refuse = c
		s.run(20)
		refused, served := s.refused, s.done[tenth.name]
		got := mean(s.run(120))
		share := float64(s.refused-refused) / float64(s.done[tenth.name]-served)
		t.Logf("refuses from %d on: %v, %.2f refusals for an answer", c, got, share)
		between(t, "limit over what it takes", got.seats/float64(c), 0.5, 1.2)
		between(t, "refusals for an answer", share, 0, 0.8)
	}
}
