package admission

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// service is the level that the simulated model server is held to.
var service = SLO{TTFT: 2 * time.Second, TPOT: 80 * time.Millisecond}

// modelMean is what some seconds of a model server were like on average.
type modelMean struct {
	made, first, gap, seats, tokens, cache float64
	thrown                                 int
	inside                                 float64 // share of seconds inside the service level
}

func meanModel(steps []modelStep) (m modelMean) {
	n := float64(len(steps))
	for _, s := range steps {
		m.made += s.made / n
		m.first += s.first / n
		m.gap += s.gap / n
		m.seats += s.seats / n
		m.tokens += s.tokens / n
		m.cache += s.used / n
		m.thrown += s.thrown
		if s.first <= service.TTFT.Seconds() && s.gap <= service.TPOT.Seconds() {
			m.inside += 1 / n
		}
	}
	return m
}

func (m modelMean) String() string {
	return fmt.Sprintf("%.0f tokens/s, first token p90 %.2f s, gap %.0f ms, limits %.0f and %.0f, cache %.0f %%, %d thrown out, inside %.0f %%",
		m.made, m.first, 1000*m.gap, m.seats, m.tokens, 100*m.cache, m.thrown, 100*m.inside)
}

// best is the tokens a second with the best fixed limit that keeps the service
// level in 95 % of the seconds.
func best(in, out float64) (made float64, seats int) {
	for _, n := range []int{8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192} {
		s := newModelServer(newLimiter(Limits{Min: n, Max: n}, service, epoch))
		s.in, s.out = in, out
		s.run(60)
		if m := meanModel(s.run(120)); m.inside >= 0.95 && m.made > made {
			made, seats = m.made, n
		}
	}
	return made, seats
}

func TestStreamLimitsFindWhatTheModelServerCanDo(t *testing.T) {
	for _, load := range []struct{ in, out float64 }{{300, 150}, {1500, 400}} {
		made, seats := best(load.in, load.out)
		t.Logf("prompts of %v, answers of %v: at best %.0f tokens/s, with %d seats", load.in, load.out, made, seats)
		for _, c := range []struct {
			name   string
			slo    SLO
			scrape bool
			wrong  float64
			work   float64 // of the best, at least
			inside float64
		}{
			{"black box", service, false, 1, 0.9, 0.9},
			{"with metrics", service, true, 1, 0.93, 0.98},
			{"black box, answers 4 times as long as estimated", service, false, 0.25, 0.9, 0.88},
			{"with metrics, answers 4 times as long as estimated", service, true, 0.25, 0.9, 0.95},
			{"with metrics, answers a quarter of what was estimated", service, true, 4, 0.5, 0.98},
			{"black box without a service level", SLO{}, false, 1, 0.75, 0.8},
			{"with metrics, without a service level", SLO{}, true, 1, 0.75, 0.95},
		} {
			t.Run(fmt.Sprintf("prompts of %v, %s", load.in, c.name), func(t *testing.T) {
				s := newModelServer(newLimiter(Limits{Min: 1, Max: 256}, c.slo, epoch))
				s.in, s.out, s.scrape, s.wrong = load.in, load.out, c.scrape, c.wrong
				start := meanModel(s.run(20)[10:])
				s.run(40)
				got := meanModel(s.run(120))
				t.Logf("%v (from 10 to 20 s: %.0f tokens/s)", got, start.made)
				between(t, "work of the best", got.made/made, c.work, 1.15)
				between(t, "seconds inside", got.inside, c.inside, 1.01)
				between(t, "work from 10 to 20 s, of the best", start.made/made, 0.4, 1.2)
			})
		}
	}
}

func TestStreamLimitsLiveThroughAnIncident(t *testing.T) {
	for _, scrape := range []bool{false, true} {
		t.Run(fmt.Sprintf("of a minute of a third of the speed, metrics %v", scrape), func(t *testing.T) {
			s := newModelServer(newLimiter(Limits{Min: 1, Max: 256}, service, epoch))
			s.scrape = scrape
			s.run(60)
			before := meanModel(s.run(60))
			s.slow = 3
			during := meanModel(s.run(60))
			s.slow = 1
			s.run(5)
			after := meanModel(s.run(30))
			t.Logf("before %v; during %v; from 5 s after %v", before, during, after)
			between(t, "work in the incident, of a third", 3*during.made/before.made, 0.6, 1.2)
			between(t, "seconds inside, from 5 s after", after.inside, 0.9, 1.01)
			between(t, "work from 5 s after, over before", after.made/before.made, 0.7, 1.2)
		})
	}
}

func TestStreamLimitsDoNotMoveWithoutNeed(t *testing.T) {
	s := newModelServer(newLimiter(Limits{Min: 1, Max: 256}, service, epoch))
	s.arrive = 2
	seats, tokens := s.limit.seats(), s.limit.tokens()
	for i, step := range s.run(120) {
		if step.seats != seats || step.tokens != tokens {
			t.Fatalf("second %d: limits %v, %v, were %v, %v", i, step.seats, step.tokens, seats, tokens)
		}
	}
}

func TestPrefillLimit(t *testing.T) {
	t.Run("is what is read in the time for first tokens, from the fastest of the prompts", func(t *testing.T) {
		l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
		if got := l.prefill(); got != startPrefill {
			t.Errorf("at first: %v, want %v", got, startPrefill)
		}
		for i := range 100 { // 10,000 tokens/s, and up to a second of waiting
			l.firstToken(duration(0.2+float64(i%10)/10), 2000, after(float64(i)/50))
		}
		l.tick(after(2))
		between(t, "tokens", l.prefill(), 0.9*8000, 1.1*8000)
		l.share(4)
		between(t, "tokens of one of four instances", l.prefill(), 0.9*2000, 1.1*2000)
	})
	t.Run("follows a slower reader slowly, and forgets no minute of trouble", func(t *testing.T) {
		l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
		read := func(from, seconds int, took float64) {
			for i := range seconds {
				for range 10 {
					l.firstToken(duration(took), 2000, after(float64(from+i)))
				}
				l.tick(after(float64(from + i + 1)))
			}
		}
		read(0, 300, 0.2)
		normal := l.prefill()
		read(300, 60, 0.6)
		between(t, "after a minute of trouble", l.prefill()/normal, 0.95, 1.05)
		read(360, 1200, 0.6)
		between(t, "after twenty", l.prefill()/normal, 0.3, 0.4)
		read(1560, 60, 0.2)
		between(t, "when it is fast again", l.prefill()/normal, 0.95, 1.05)
	})
	t.Run("is open where answers come in one piece", func(t *testing.T) {
		l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
		for range 20 {
			l.use(1, 1000)
			l.ended("", time.Second, OK, 0, 1000, false)
		}
		if got := l.prefill(); !math.IsInf(got, 1) {
			t.Errorf("got %v, want no limit", got)
		}
	})
	t.Run("is open where prompts are too short to tell", func(t *testing.T) {
		l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
		for i := range firstKnown {
			l.firstToken(time.Millisecond, 20, after(float64(i)/100))
		}
		if got := l.prefill(); !math.IsInf(got, 1) {
			t.Errorf("got %v, want no limit", got)
		}
	})
}

func TestAnswersInOnePieceAreHeldAgainstTheWholeLevel(t *testing.T) {
	// 2 s for the first token and 80 ms for each of 100: what is allowed is
	// 0.4*2 s + 0.8*8 s = 7.2 s.
	run := func(took time.Duration) float64 {
		l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
		for second := range 10 {
			for range 20 {
				l.use(int(l.seats()), 1000)
				l.ended("", took, OK, 0, Cost(0, 0, 100), false)
			}
			l.use(int(l.seats()), 1000)
			l.blocked()
			l.tick(after(float64(second + 1)))
		}
		return l.seats()
	}
	between(t, "seats where answers take 5 s", run(5*time.Second), 20, 256)
	between(t, "seats where answers take 10 s", run(10*time.Second), 1, 8)
}
