package loadtest

import (
	"bytes"
	"iter"
	"math/rand/v2"
	"time"
)

// Virtual makes a test wait with timers alone, which is exact where time is virtual.
func (t *Test) Virtual() *Test {
	t.pause = time.Sleep
	return t
}

// Arrivals gives the moments of requests; with a seed they are random.
func Arrivals(stages []Stage, seed uint64) iter.Seq[time.Duration] {
	if seed == 0 {
		return arrivals(stages, nil)
	}
	return arrivals(stages, rand.New(rand.NewPCG(seed, 0)))
}

// CacheResult is what a field Cache-Status says.
func CacheResult(fields []string) string { return cacheResult(fields) }

// Significant writes a number.
func Significant(f float64) string { return significant(f) }

// ReadStream reads a stream to its end.
func ReadStream(text []byte) (pieces, tokens int64, err error) {
	a := &outcome{}
	err = a.readStream(bytes.NewReader(text), &shot{due: time.Now()})
	return a.pieces, a.tokens, err
}

// Warn gives the warnings that the figures of a report make.
func (r *Report) Warn() []string { return r.warnings() }
