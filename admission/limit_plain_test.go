package admission

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// mean is what some seconds of a plain server were like on average.
func mean(steps []plainStep) (m plainStep) {
	var took float64
	for _, s := range steps {
		m.seats += s.seats / float64(len(steps))
		m.work += s.work / float64(len(steps))
		took += s.latency * float64(s.calls)
		m.calls += s.calls
	}
	m.latency = took / float64(max(m.calls, 1))
	return m
}

func (s plainStep) String() string {
	return fmt.Sprintf("limit %.1f, %.1f workers of use, %.3f s a call", s.seats, s.work, s.latency)
}

// between fails the test where a figure is not what it should be.
func between(t *testing.T, what string, got, low, high float64) {
	t.Helper()
	if !(got >= low && got <= high) {
		t.Errorf("%s: got %.3f, want %.3f to %.3f", what, got, low, high)
	}
}

func adaptive(slo SLO) *limiter { return newLimiter(Limits{Min: 1, Max: 512}, slo, epoch) }

var tenth = callKind{name: "predict", mean: 0.1, share: 1}

func TestPlainLimitFindsTheKnee(t *testing.T) {
	for _, workers := range []int{8, 64, 200} {
		t.Run(fmt.Sprintf("of %d workers, from 16 seats", workers), func(t *testing.T) {
			s := newPlainServer(adaptive(SLO{}), workers, tenth)
			start := mean(s.run(10)[5:])
			s.run(50)
			got := mean(s.run(120))
			t.Logf("after 5 s %v; after a minute %v", start, got)
			between(t, "work after 5 s", start.work/float64(workers), 0.65, 1.05)
			between(t, "work", got.work/float64(workers), 0.95, 1.05)
			// Eight workers are busy from the start: no call was ever alone.
			between(t, "latency over service", got.latency/0.1, 0.95, map[bool]float64{true: 3.5, false: 2}[workers == 8])
		})
	}
	t.Run("with kinds that differ by 100 times", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{}), 64,
			callKind{name: "light", mean: 0.01, share: 0.9}, callKind{name: "heavy", mean: 1, share: 0.1})
		s.run(60)
		got := mean(s.run(120))
		t.Log(got)
		between(t, "work", got.work/64, 0.93, 1.05)
		between(t, "limit", got.seats/64, 0.9, 2)

		s.kinds[0].share, s.kinds[1].share = 0.1, 0.9
		s.run(10)
		got = mean(s.run(120))
		t.Log("nine times as many of the heavy:", got)
		between(t, "work after the mix has changed", got.work/64, 0.9, 1.05)
	})
	t.Run("with calls of 5 s", func(t *testing.T) {
		var work float64 // a few calls a second: each run is another
		for seed := range uint64(8) {
			s := newPlainServer(adaptive(SLO{}), 64, callKind{name: "slow", mean: 5, share: 1})
			s.rng = rand.New(rand.NewPCG(seed, 2))
			s.run(200)
			got := mean(s.run(400))
			t.Log(got)
			work += got.work / 64 / 8
			between(t, "latency over service", got.latency/5, 0.8, 2.2)
		}
		between(t, "work", work, 0.8, 1.1)
	})
	t.Run("with a service level that leaves room, and with one that is tight", func(t *testing.T) {
		for _, level := range []time.Duration{2 * time.Second, 300 * time.Millisecond} {
			s := newPlainServer(adaptive(SLO{TTFT: level}), 64, tenth)
			s.run(60)
			got := mean(s.run(120))
			t.Log(level, got)
			between(t, "work", got.work/64, 0.95, 1.05)
			between(t, "share of the service level", got.latency/level.Seconds(), 0, 0.6)
		}
	})
	t.Run("with a service level that the work alone breaks", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{TTFT: 100 * time.Millisecond}), 64, tenth)
		s.run(60)
		got := mean(s.run(120))
		t.Log(got)
		between(t, "work", got.work/64, 0.85, 1.05)
	})
}

func TestPlainLimitLivesThroughAnIncident(t *testing.T) {
	for _, workers := range []int{8, 64, 200} {
		t.Run(fmt.Sprintf("of a minute in which %d workers take 3 times as long", workers), func(t *testing.T) {
			s := newPlainServer(adaptive(SLO{}), workers, tenth)
			s.run(60)
			base := s.limit.plain.kinds[tenth.name].base
			s.slow = 3
			during := mean(s.run(60))
			s.slow = 1
			after := mean(s.run(5))
			later := mean(s.run(30))
			t.Logf("during %v; the 5 s after %v; then %v", during, after, later)
			between(t, "work of what is possible in the incident", 3*during.work/float64(workers), 0.7, 1.1)
			between(t, "work in the first 5 s after", after.work/float64(workers), 0.7, 1.05)
			between(t, "work then", later.work/float64(workers), 0.95, 1.05)
			between(t, "what is normal, over what it was", s.limit.plain.kinds[tenth.name].base/base, 0.9, 1.1)
		})
	}
	t.Run("at four fifths of what it can do", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{}), 64, tenth)
		s.arrive = 0.8 * 640
		s.run(60)
		s.slow = 3
		during := mean(s.run(60))
		s.slow, s.waiting = 1, 0
		s.run(5)
		after := mean(s.run(30))
		t.Logf("during %v; from 5 s after %v", during, after)
		between(t, "work of what is possible in the incident", 3*during.work/64, 0.7, 1.1)
		between(t, "work after, of what is asked for", after.work/51.2, 0.95, 1.1)
		between(t, "waiting after", float64(s.waiting), 0, 10)
	})
}

func TestPlainLimitFollowsDrift(t *testing.T) {
	s := newPlainServer(adaptive(SLO{}), 64, tenth)
	s.arrive = 100 // there is time in which it is not full
	s.run(60)
	for i := range 60 {
		s.slow = 1 + float64(i)/30
		s.run(20)
	}
	t.Logf("what is normal after 20 minutes, by the end 3 times as slow: %.3f s", s.limit.plain.kinds[tenth.name].base)
	between(t, "what is normal", s.limit.plain.kinds[tenth.name].base/0.0693, 2.4, 3.3)
	s.arrive = math.Inf(1)
	s.run(20)
	got := mean(s.run(60))
	t.Log(got)
	between(t, "work of what is possible", 3*got.work/64, 0.9, 1.05)
}

func TestPlainLimitDoesNotMove(t *testing.T) {
	t.Run("while there is less to do than it allows", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{}), 64, tenth)
		s.run(60)
		s.arrive, s.waiting = 50, 0
		s.run(10)
		before := s.limit.seats()
		s.slow = 3 // even slow ones say nothing of a limit that is not in use
		for i, step := range s.run(120) {
			if step.seats != before {
				t.Fatalf("second %d: limit %v, was %v", i, step.seats, before)
			}
		}
	})
	t.Run("for a caller's mistakes and clients that leave", func(t *testing.T) {
		l := adaptive(SLO{})
		for second := range 60 {
			for range 16 {
				l.use(16, 0)
			}
			for range 16 {
				l.ended("predict", time.Minute, ClientError, 0, 1, false)
				l.ended("predict", time.Minute, Left, 0, 1, false)
			}
			l.blocked()
			l.tick(after(float64(second + 1)))
		}
		if got := l.seats(); got != startSeats {
			t.Errorf("limit %v, want %v", got, startSeats)
		}
	})
}

func TestPlainLimitOfATargetThatFails(t *testing.T) {
	t.Run("stays below where it refuses", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{}), 64, tenth)
		s.refuse = 48
		s.run(60)
		got := mean(s.run(120))
		t.Logf("refuses from 48 on, callers come back at once: %v, %d refusals for %d answers", got, s.refused, s.done[tenth.name])
		between(t, "refusals for an answer", float64(s.refused)/float64(s.done[tenth.name]), 0, 0.5)
		between(t, "limit", got.seats, 30, 48)
		between(t, "work of 48", got.work/48, 0.7, 1)
	})
	t.Run("does not fall for failures that come at any load", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{}), 64, tenth)
		s.fail = 0.3
		s.run(60)
		got := mean(s.run(120))
		t.Logf("3 of 10 fail: %v", got)
		between(t, "work", got.work/64, 0.9, 1.05)
	})
	t.Run("falls to the least while nothing but failures comes, and is back in 10 s", func(t *testing.T) {
		s := newPlainServer(adaptive(SLO{}), 64, tenth)
		s.run(60)
		s.fail = 1
		s.run(60)
		fallen := s.limit.seats()
		s.fail = 0
		s.run(5)
		got := mean(s.run(5))
		t.Logf("fell to %.1f; 5 s after the end %v", fallen, got)
		between(t, "limit", fallen, 1, 4)
		between(t, "work from 5 s after", got.work/64, 0.4, 1.05)
	})
}
