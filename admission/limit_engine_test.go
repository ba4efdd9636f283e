package admission

import (
	"math"
	"testing"
	"time"
)

// scraped is a limiter that has had the same metrics for three seconds, with held
// seats and tokens in use.
func scraped(e EngineState, held int, tokens int64) *limiter {
	l := newLimiter(Limits{Min: 2, Max: 256}, service, epoch)
	for second := range 3 {
		l.use(held, tokens)
		e.At = after(float64(second) + 0.9)
		l.engine(e, e.At)
		l.tick(after(float64(second + 1)))
	}
	return l
}

// taken is what a limiter allows.
type taken struct{ seats, tokens float64 }

func allows(t *testing.T, l *limiter, want taken) {
	t.Helper()
	if got := (taken{l.seats(), l.tokens()}); math.Abs(got.seats-want.seats) > 1e-6 || math.Abs(got.tokens-want.tokens) > 1e-6 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestEngineMetricsSetTheLimits(t *testing.T) {
	t.Run("at once: tokens from the size of the cache, seats from what it runs at once", func(t *testing.T) {
		l := newLimiter(Limits{Min: 2, Max: 256}, service, epoch)
		l.engine(EngineState{KVTokens: 400_000, MaxSeqs: 8, At: epoch}, epoch)
		allows(t, l, taken{8, 380_000})
		l.engine(EngineState{KVTokens: 100_000, MaxSeqs: 8, At: after(1)}, after(1))
		allows(t, l, taken{8, 95_000})
	})
	// room is how many of the requests that are expected at the start a cache of
	// 100,000 tokens has room for.
	const room = 95_000 * startSeats / startTokens
	t.Run("and as many seats at the start as the cache has room for, at most", func(t *testing.T) {
		l := newLimiter(Limits{Min: 2, Max: 256}, service, epoch)
		l.engine(EngineState{KVTokens: 100_000, At: epoch}, epoch)
		allows(t, l, taken{room, 95_000})
		l = newLimiter(Limits{Min: 2, Max: 256}, service, epoch)
		l.engine(EngineState{KVTokens: 10_000_000, At: epoch}, epoch)
		allows(t, l, taken{256, 9_500_000})
		l = newLimiter(Limits{Min: 2, Max: 256}, service, epoch)
		l.engine(EngineState{KVTokens: 10_000, At: epoch}, epoch)
		allows(t, l, taken{startSeats, 9_500})
	})
	t.Run("that are fixed only by the cache", func(t *testing.T) {
		l := newLimiter(Limits{Min: 32, Max: 32}, service, epoch)
		allows(t, l, taken{32, math.Inf(1)})
		l.engine(EngineState{KVTokens: 400_000, MaxSeqs: 8, At: epoch}, epoch)
		allows(t, l, taken{32, 380_000})
	})
	t.Run("less what others use of the target", func(t *testing.T) {
		l := scraped(EngineState{Running: 11, KVUsed: 0.5, KVTokens: 100_000}, 4, 20_000)
		allows(t, l, taken{room - 7, 95_000 - 30_000})
	})
	t.Run("but not what is in the ledger, nor the other instances' part", func(t *testing.T) {
		l := scraped(EngineState{Running: 4, KVUsed: 0.2, KVTokens: 100_000}, 4, 20_000)
		allows(t, l, taken{room, 95_000})
		l = newLimiter(Limits{Min: 2, Max: 256}, service, epoch)
		l.share(2)
		for second := range 3 {
			l.use(4, 20_000)
			now := after(float64(second + 1))
			l.engine(EngineState{Running: 8, KVUsed: 0.4, KVTokens: 100_000, At: now}, now)
			l.tick(now)
		}
		allows(t, l, taken{room / 2, 47_500})
	})
}

func TestEngineMetricsThatStopAreForgotten(t *testing.T) {
	t.Run("but for the sizes", func(t *testing.T) {
		l := scraped(EngineState{Running: 11, KVUsed: 0.5, KVTokens: 100_000, MaxSeqs: 12}, 4, 20_000)
		allows(t, l, taken{12 - 7, 95_000 - 30_000})
		for second := 3; second < 10; second++ {
			l.tick(after(float64(second + 1)))
		}
		allows(t, l, taken{12, 95_000})
	})
	t.Run("and those that are old when they come, or nonsense, are not heard", func(t *testing.T) {
		l := newLimiter(Limits{Min: 2, Max: 256}, service, epoch)
		for second := range 5 {
			now := after(float64(second + 1))
			l.engine(EngineState{Running: 500, Waiting: 500, KVUsed: 1, At: now.Add(-6 * time.Second)}, now)
			l.engine(EngineState{Running: -5, Waiting: -1, KVUsed: math.NaN(), KVTokens: -1, MaxSeqs: -1, At: now.Add(time.Hour)}, now)
			l.tick(now)
		}
		allows(t, l, taken{startSeats, startTokens})
	})
}

func TestEngineMetricsShowOverload(t *testing.T) {
	for _, c := range []struct {
		name      string
		state     EngineState
		low, high float64 // share of the seats after ten seconds in which as many run
	}{
		{"a queue inside", EngineState{Running: 12, Waiting: 4}, 0.74, 0.76},
		{"one that waits of many", EngineState{Running: 100, Waiting: 1}, 1, 1},
		{"a full cache", EngineState{Running: 16, KVUsed: 0.99, KVTokens: 30_000}, 0.9, 0.92},
		{"a cache with room", EngineState{Running: 16, KVUsed: 0.85, KVTokens: 30_000}, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
			for second := range 10 {
				l.use(max(c.state.Running+c.state.Waiting, 16), 25_000)
				c.state.At = after(float64(second) + 0.9)
				l.engine(c.state, c.state.At)
				l.tick(after(float64(second + 1)))
			}
			between(t, "share of the seats", l.seats()/startSeats, c.low, c.high)
		})
	}
	t.Run("but not when there is one in one scrape of two", func(t *testing.T) {
		l := newLimiter(Limits{Min: 1, Max: 256}, service, epoch)
		for second := range 20 {
			l.use(16, 1000)
			at := after(float64(second) + 0.9)
			l.engine(EngineState{Running: 12, Waiting: 4 * (second % 2), At: at}, at)
			l.tick(after(float64(second + 1)))
		}
		between(t, "seats", l.seats(), startSeats, startSeats)
	})
}

func TestStaleMetricsNeitherOpenNorClose(t *testing.T) {
	// Scrapes end in the middle of an overload, as they do when an engine is too busy
	// to answer them: the target goes on at what it can do.
	s := newModelServer(newLimiter(Limits{Min: 1, Max: 256}, service, epoch))
	s.scrape = true
	s.run(60)
	with := meanModel(s.run(60))
	s.scrape = false
	without := meanModel(s.run(60))
	t.Logf("with %v; without %v", with, without)
	between(t, "work without, of that with them", without.made/with.made, 0.9, 1.1)
	between(t, "seconds inside", without.inside, 0.9, 1.01)
}
