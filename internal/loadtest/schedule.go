package loadtest

import (
	"iter"
	"math"
	"math/rand/v2"
	"time"
)

// roundingError is how much a sum of rates may miss a whole number by.
const roundingError = 1e-9

// requests is how many requests a stage has, on average where arrivals are random.
func (s Stage) requests() float64 { return (s.From + s.To) / 2 * s.For.Seconds() }

// at is the moment of a stage at which it has had n requests: the inverse of the
// rate's integral, From*t + (To-From)*t²/(2*For), in a form that loses no digits.
func (s Stage) at(n float64) time.Duration {
	if n <= 0 {
		return 0
	}
	slope := (s.To - s.From) / s.For.Seconds()
	root := math.Sqrt(max(0, s.From*s.From+2*slope*n))
	return min(s.For, time.Duration(2*n/(s.From+root)*float64(time.Second)))
}

// arrivals gives the moments of requests, counted from the beginning. Constant: one
// whenever the integral of the rate reaches a whole number, the first at once.
// Poisson, of a rate that may change: the integral grows by a random amount with an
// exponential distribution of mean 1 from one to the next.
func arrivals(stages []Stage, random *rand.Rand) iter.Seq[time.Duration] {
	step := func() float64 { return 1 }
	due := 0.0
	if random != nil {
		step = random.ExpFloat64
		due = step()
	}
	return func(yield func(time.Duration) bool) {
		begin, before := time.Duration(0), 0.0
		for _, s := range stages {
			for n := s.requests(); due < before+n-roundingError; due += step() {
				if !yield(begin + s.at(due-before)) {
					return
				}
			}
			begin += s.For
			before += s.requests()
		}
	}
}

// length is how long stages take.
func length(stages []Stage) (d time.Duration) {
	for _, s := range stages {
		d += s.For
	}
	return d
}
