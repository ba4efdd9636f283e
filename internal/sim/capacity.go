package sim

import (
	"math/rand/v2"
	"time"
)

// Capacity is the most cost a second that the engine of s can work off with the
// requests of its callers, at the number of requests at once that is best for it,
// without a gateway and with never a moment idle. The callers' shares in that
// mixture are what they would get if the engine were shared by weight: who asks
// for less gets what he asks for.
//
// It is a rate of complete work; no service level enters into it. Admission can
// come out above 1 of it where it lets requests through in a better order.
func Capacity(s Scenario) (float64, error) {
	if err := s.Validate(); err != nil {
		return 0, err
	}
	s = s.withDefaults()
	best, worse := 0.0, 0
	for n := 8; n <= s.Engine.MaxSeqs && worse < 3; n += max(8, n/8) {
		if c := saturate(s, n); c > best {
			best, worse = c, 0
		} else {
			worse++
		}
	}
	return best, nil
}

// shares is which part of the work is each caller's, in a fair division: by
// weight, and nobody more than he asks for.
func shares(callers []Caller) []float64 {
	got := make([]float64, len(callers))
	left, total := 1.0, 0.0
	for range callers {
		weight := 0.0
		for i, c := range callers {
			if got[i] < c.Load {
				weight += c.Weight * float64(c.Count)
			}
		}
		if weight == 0 || left < 1e-9 {
			break
		}
		level := left / weight
		for i, c := range callers {
			more := max(0, min(c.Load-got[i], level*c.Weight*float64(c.Count)))
			got[i] += more
			left -= more
		}
	}
	for _, g := range got {
		total += g
	}
	for i := range got {
		got[i] /= total
	}
	return got
}

// saturate keeps n requests in the engine and returns what it works off.
func saturate(s Scenario, n int) float64 {
	const warm, length = 10 * time.Second, 80 * time.Second
	r := rand.New(rand.NewPCG(s.Seed, 1<<32))
	share := shares(s.Callers)
	given := make([]float64, len(share))
	e := NewEngine(s.Engine)
	add := func() {
		// The caller who is furthest behind his share.
		next := 0
		for i := range share {
			if share[i] > 0 && (share[next] == 0 || given[i]/share[i] < given[next]/share[next]) {
				next = i
			}
		}
		c := s.Callers[next]
		q := &Sequence{Input: c.Input.draw(r), Output: c.Output.draw(r)}
		given[next] += cost(q.Input, q.Output)
		_ = e.Add(q) // Validate has seen to it that it fits
	}
	for range n {
		add()
	}
	done := 0.0
	for now := time.Duration(0); now < warm+length; {
		now += e.Begin()
		finished := 0
		for _, t := range e.End() {
			if now > warm {
				done += 2
				if t.First {
					done += float64(t.Seq.Input)
				}
			}
			if t.Finished {
				finished++
			}
		}
		for range finished {
			add()
		}
	}
	return done / length.Seconds()
}
