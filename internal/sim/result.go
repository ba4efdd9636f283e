package sim

import (
	"math"
	"slices"
	"time"
)

// Result is what a run came to. Shares are from 0 to 1, and work is in parts of
// the engine's capacity.
type Result struct {
	Scenario, Policy string
	// Capacity is the engine's, in cost a second: see the function Capacity.
	Capacity float64
	// Groups are the callers, in the order of the scenario.
	Groups []Group
	// Completed is the work of the answers that reached their callers in full
	// within the measured time, Good the part of it inside the service level,
	// ForNobody the work of answers that were finished after their caller had left.
	Completed, Good, ForNobody float64
	// Jain is the fairness of what single callers completed by weight: 1 when all
	// got the same, 1/n when one got everything. It says something where all of them
	// ask for more than their share.
	Jain float64
	// Recovery is how long after Scenario.Recovers it took until 90 % of the first
	// group's requests of five seconds were good: Never, where they never were, and
	// less than 0 where it was not asked for.
	Recovery time.Duration
	// Attempts is how many calls it took for each complete answer, Refused how many
	// of them were refused. Kept is the share of the requests that came back after a
	// refusal that got their complete answer in the end.
	Attempts, Kept float64
	Refused        int
	// Preempted is how often the engine threw away the work on a request.
	Preempted int64
}

// Never is the Recovery of callers that did not recover.
const Never time.Duration = math.MaxInt64

// Group is what one kind of caller got.
type Group struct {
	Name string
	// Requests is how many were wanted in the measured time, however often tried.
	Requests int
	// Good is the share of them inside the service level, Complete that of those
	// with a full answer.
	Good, Complete float64
	// P50 and P95 are quantiles of the time from the first attempt to the first
	// token, of those that got one; Longest is the longest of those.
	P50, P95, Longest time.Duration
	// Completed is the work of their full answers.
	Completed float64
}

// Run plays s with p between its callers and its engine.
func Run(s Scenario, p Policy) (Result, error) {
	if err := s.Validate(); err != nil {
		return Result{}, err
	}
	s = s.withDefaults()
	if s.Capacity <= 0 {
		c, err := Capacity(s)
		if err != nil {
			return Result{}, err
		}
		s.Capacity = c
	}
	w := newWorld(s)
	w.forsaken = p.forsaken
	g, err := p.open(w)
	if err != nil {
		return Result{}, err
	}
	w.gate = g
	if err := w.run(); err != nil {
		return Result{}, err
	}
	return w.result(p.Name), nil
}

func (w *world) result(policy string) Result {
	res := Result{
		Scenario: w.Name, Policy: policy, Capacity: w.Capacity,
		Refused: w.refusals, Preempted: w.engine.Preemptions(),
	}
	room := w.Capacity * w.Length.Seconds()
	waits := make([][]time.Duration, len(w.Callers))
	work := make(map[*client]float64, len(w.clients))
	res.Groups = make([]Group, len(w.Callers))
	finished, returned, kept := 0, 0, 0
	for _, r := range w.requests {
		g := &res.Groups[r.client.kind]
		if r.done && r.last >= w.Warm && r.last < w.end {
			g.Completed += cost(r.input, r.output) / room
			work[r.client] += cost(r.input, r.output)
			finished++
			if r.good(w.SLO, w.now) {
				res.Good += cost(r.input, r.output) / room
			}
		}
		if r.born < w.Warm || r.born >= w.end {
			continue
		}
		g.Requests++
		if r.refused && r.attempts > 1 {
			returned++
			if r.done {
				kept++
			}
		}
		if r.tokens > 0 {
			waits[r.client.kind] = append(waits[r.client.kind], r.first-r.born)
		}
		if r.done {
			g.Complete++
		}
		if r.good(w.SLO, w.now) {
			g.Good++
		}
	}
	for i := range res.Groups {
		g := &res.Groups[i]
		g.Name = w.Callers[i].Name
		g.summarize(waits[i])
		res.Completed += g.Completed
	}
	res.ForNobody = w.wasted / room
	res.Jain = jain(w.clients, work)
	res.Recovery = w.recovery()
	if finished > 0 {
		res.Attempts = float64(w.attempts) / float64(finished)
	}
	if returned > 0 {
		res.Kept = float64(kept) / float64(returned)
	}
	return res
}

func (g *Group) summarize(waits []time.Duration) {
	if g.Requests > 0 {
		g.Good /= float64(g.Requests)
		g.Complete /= float64(g.Requests)
	}
	if n := len(waits); n > 0 {
		slices.Sort(waits)
		g.P50, g.P95, g.Longest = waits[n/2], waits[min(n-1, n*95/100)], waits[n-1]
	}
}

// jain is Jain's index of the work by weight.
func jain(clients []*client, work map[*client]float64) float64 {
	var sum, squares float64
	for _, c := range clients {
		x := work[c] / c.Weight
		sum += x
		squares += x * x
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(clients)) * squares)
}

// recovery looks for the first five seconds, from Recovers on in steps of half a
// second, of whose requests 90 % were good.
func (w *world) recovery() time.Duration {
	const span, step = 5 * time.Second, 500 * time.Millisecond
	if w.Recovers <= 0 {
		return -1
	}
	for from := w.Recovers; from+span <= w.end; from += step {
		all, good := 0, 0
		for _, r := range w.requests {
			if r.client.kind != 0 || r.born < from || r.born >= from+span {
				continue
			}
			all++
			if r.good(w.SLO, w.now) {
				good++
			}
		}
		if all > 0 && float64(good) >= 0.9*float64(all) {
			return from - w.Recovers
		}
	}
	return Never
}
