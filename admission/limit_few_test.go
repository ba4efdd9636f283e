package admission

import (
	"fmt"
	"testing"
)

func TestFewStreamsSayNothingForAll(t *testing.T) {
	for _, c := range []struct {
		feeds int
		beat  float64
	}{{1, 1.5}, {5, 1.5}, {5, 15}, {12, 1.5}} {
		t.Run(fmt.Sprintf("%d feeds with something every %v s, beside calls", c.feeds, c.beat), func(t *testing.T) {
			s := newPlainServer(adaptive(SLO{}), 64, tenth)
			s.run(60)
			before := mean(s.run(60))
			s.inside += c.feeds
			s.limit.firstToken(0, 0, after(s.now))
			from := len(s.steps)
			due := 0.0
			for range 300 * c.feeds {
				for due += c.beat / float64(c.feeds); due >= 1; due-- {
					s.run(1)
				}
				s.limit.gap(duration(c.beat), 1)
			}
			after := mean(s.steps[from:])
			t.Logf("before %v; after %v", before, after)
			between(t, "work", after.work/before.work, 0.9, 1.1)
		})
	}
}

func TestStallsThatNothingHelpsAgainst(t *testing.T) {
	// A third of what runs are streams that always stall; the rest are calls that a
	// smaller limit only keeps out.
	s := newPlainServer(adaptive(SLO{}), 64, tenth)
	s.run(60)
	before := mean(s.run(60))
	feeds := 30
	s.inside += feeds
	from := len(s.steps)
	for range 300 {
		for i := range feeds {
			s.limit.gap(duration(0.1), 1)
			if i%10 == 0 {
				s.limit.gap(duration(1), 1)
			}
		}
		s.run(1)
	}
	after := mean(s.steps[from:])
	t.Logf("before %v; after %v", before, after)
	between(t, "work", after.work/before.work, 0.7, 1.1)
}
