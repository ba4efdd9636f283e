package builtin

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// sampler chooses tokens. It is for one telling.
type sampler struct {
	options StoryOptions
	rand    *rand.Rand
	told    []uint16 // how often each token was chosen
	likely  []likelihood
}

type likelihood struct {
	id uint16
	p  float64
}

// newSampler makes the sampler of a request's choice number so-and-so: each
// chooses for itself.
func newSampler(o StoryOptions, choice uint64) *sampler {
	return &sampler{options: o, rand: rand.New(rand.NewPCG(o.Seed, choice))}
}

// next chooses a token by its logits, which it changes. The beginning of a text
// and the unknown character are never chosen: they are no text.
func (s *sampler) next(t *storyTokens, logits []float32) uint16 {
	o := &s.options
	logits[t.bos], logits[t.unk] = -math.MaxFloat32, -math.MaxFloat32
	if o.PresencePenalty != 0 || o.FrequencyPenalty != 0 {
		s.penalise(logits)
	}
	best := t.eos
	for id, v := range logits {
		if v > logits[best] {
			best = uint16(id)
		}
	}
	if o.Temperature > 0 {
		best = s.draw(logits, best)
	}
	if s.told != nil {
		s.told[best]++
	}
	return best
}

func (s *sampler) penalise(logits []float32) {
	if s.told == nil {
		s.told = make([]uint16, len(logits))
	}
	for id, n := range s.told {
		if n > 0 {
			logits[id] -= float32(s.options.PresencePenalty + s.options.FrequencyPenalty*float64(n))
		}
	}
}

// draw chooses at random. best is the likeliest token.
func (s *sampler) draw(logits []float32, best uint16) uint16 {
	likely, sum, highest := s.likely[:0], 0.0, float64(logits[best])
	for id, v := range logits {
		// Of a low temperature the quotient may be infinite: exp makes it 0.
		if p := math.Exp((float64(v) - highest) / s.options.Temperature); p > 0 {
			likely = append(likely, likelihood{uint16(id), p})
			sum += p
		}
	}
	s.likely = likely
	if top := s.options.TopP; top > 0 && top < 1 {
		slices.SortFunc(likely, func(a, b likelihood) int {
			return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.id, b.id))
		})
		kept, most := 0.0, top*sum
		for i, l := range likely {
			if kept += l.p; kept >= most {
				likely = likely[:i+1]
				break
			}
		}
		sum = kept
	}
	at := s.rand.Float64() * sum
	for _, l := range likely {
		if at -= l.p; at < 0 {
			return l.id
		}
	}
	return best // what rounding left over
}
