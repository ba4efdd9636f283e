package loadtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strconv"
)

// mix draws the caller of each request.
type mix struct {
	callers []Caller
	upTo    []float64 // the sums of the weights, up to each caller
	count   int       // so many callers of the same weight, in place of the list
}

func newMix(o *Options) (*mix, error) {
	m := &mix{callers: o.Callers, count: o.CallerCount}
	switch {
	case len(o.Callers) > 0 && o.CallerCount != 0:
		return nil, fmt.Errorf("--caller, --callers: want one of them: callers by name, or a number of equal ones")
	case len(o.Callers) > MaxCallers, o.CallerCount < 0, o.CallerCount > MaxCallers:
		return nil, fmt.Errorf("--callers: %d: want from 1 to %d", len(o.Callers)+o.CallerCount, MaxCallers)
	case len(o.CallerHeader) > 0 && o.CallerCount == 0:
		return nil, fmt.Errorf("--caller-header: want --callers with it, how many there are")
	}
	sum := 0.0
	for _, c := range o.Callers {
		if c.Name == "" || !(c.Weight > 0) || math.IsInf(c.Weight, 0) {
			return nil, fmt.Errorf("--caller: %q with weight %g: want a name and a weight above 0", c.Name, c.Weight)
		}
		sum += c.Weight
		m.upTo = append(m.upTo, sum)
	}
	return m, nil
}

// draw chooses one caller by weight: its place, or 0 where there are none.
func (m *mix) draw(random *rand.Rand) int {
	if m.count > 0 {
		return random.IntN(m.count)
	}
	if len(m.upTo) < 2 {
		return 0
	}
	at := random.Float64() * m.upTo[len(m.upTo)-1]
	return min(sort.Search(len(m.upTo), func(i int) bool { return m.upTo[i] > at }), len(m.upTo)-1)
}

// name is that of the caller at i.
func (m *mix) name(i int) string {
	switch {
	case m.count > 0:
		return strconv.Itoa(i + 1)
	case len(m.callers) > 0:
		return m.callers[i].Name
	}
	return ""
}

// size is how many callers there are, 0 where nobody tells them apart.
func (m *mix) size() int { return max(m.count, len(m.callers)) }
