package admission

import (
	"testing"
	"time"
)

func TestLimitsGrowWhileNothingIsHeard(t *testing.T) {
	for _, c := range []struct {
		calls   int
		seconds float64
	}{{50, 7}, {200, 13}, {256, 14}} {
		s := newPlainServer(adaptive(SLO{}), 1000, callKind{name: "long", mean: 60, share: 1, fixed: true})
		s.arrive, s.waiting, s.next = 1, c.calls, 1e9
		s.run(c.seconds)
		if s.waiting > 0 {
			t.Errorf("%d calls of a minute: %d wait after %v s", c.calls, s.waiting, c.seconds)
		}
	}
	t.Run("up to the most", func(t *testing.T) {
		s := newPlainServer(newLimiter(Limits{Min: 1, Max: 40}, SLO{}, epoch), 1000, callKind{name: "long", mean: 60, share: 1, fixed: true})
		s.run(30)
		if got := s.limit.seats(); got != 40 {
			t.Errorf("limit %v, want 40", got)
		}
	})
	t.Run("not above what was too much", func(t *testing.T) {
		l := adaptive(SLO{})
		l.seat.good = 20
		silent(l, 10, 0)
		between(t, "limit", l.seats(), 18, 20)
	})
	t.Run("not for what has tokens and may stream", func(t *testing.T) {
		l := adaptive(SLO{})
		silent(l, 10, 1000)
		if l.seats() != startSeats || l.tokens() != startTokens {
			t.Errorf("limits %v and %v, want %v and %v", l.seats(), l.tokens(), startSeats, startTokens)
		}
	})
	t.Run("only twofold for answers in one piece", func(t *testing.T) {
		l := adaptive(SLO{})
		l.streams.pieces = 1
		silent(l, 10, 2000)
		between(t, "seats", l.seats(), 2*startSeats, 2.6*startSeats)
		between(t, "tokens", l.tokens(), 2*startTokens, 2.6*startTokens)
	})
	t.Run("not after the service level has passed", func(t *testing.T) {
		l := adaptive(SLO{TTFT: 2 * time.Second})
		silent(l, 20, 0)
		between(t, "limit", l.seats(), startSeats, 1.6*startSeats)

		l = adaptive(SLO{TTFT: 2 * time.Second})
		for second := range 60 { // in which nothing runs
			l.tick(after(float64(second - 60)))
		}
		silent(l, 20, 0)
		between(t, "limit after a minute without work", l.seats(), 1.2*startSeats, 1.6*startSeats)
	})
	t.Run("not while what comes back is an error of the caller", func(t *testing.T) {
		l := adaptive(SLO{})
		for second := range 10 {
			l.use(int(l.seats()), 0)
			l.ended("long", time.Second, ClientError, 0, 1, false)
			l.use(int(l.seats()), 0)
			l.blocked()
			l.tick(after(float64(second + 1)))
		}
		if l.seats() != startSeats {
			t.Errorf("limit %v, want %v", l.seats(), startSeats)
		}
	})
}

// silent lets seconds go by in which the limit is full and nothing ends; each
// request has tokens.
func silent(l *limiter, seconds int, tokens int64) {
	for second := range seconds {
		n := int(l.seats())
		if tokens > 0 {
			n = min(n, int(l.tokens())/int(tokens))
		}
		l.use(n, int64(n)*tokens)
		l.blocked()
		l.tick(after(float64(second + 1)))
	}
}

func TestLimitsThatGrewInSilenceSettle(t *testing.T) {
	for _, workers := range []int{8, 16, 64} {
		s := newPlainServer(adaptive(SLO{}), workers, callKind{name: "slow", mean: 5, share: 1, fixed: true})
		first := mean(s.run(60))
		s.run(240)
		got := mean(s.run(300))
		t.Logf("%d workers, calls of 5 s, full from the start: in the first minute %v; from 5 minutes on %v", workers, first, got)
		between(t, "work", got.work/float64(workers), 0.75, 1.05)
		between(t, "limit over workers", got.seats/float64(workers), 0.75, 3)
	}
}
