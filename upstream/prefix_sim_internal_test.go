package upstream

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// targetsOf makes targets with these weights, named by their numbers.
func targetsOf(weights ...int64) []*target {
	var all []*target
	for i, w := range weights {
		one := &target{name: fmt.Sprintf("http://10.0.0.%d:8000", i+1)}
		one.weight.Store(w)
		all = append(all, one)
	}
	return all
}

// seeded makes the random numbers of a balancer the same in each run.
func seeded(b balancer, seed uint64) balancer {
	random := rand.New(rand.NewPCG(seed, 1)).Uint64
	switch b := b.(type) {
	case *twoChoices:
		b.random = random
	case *prefixBalance:
		b.spill.random = random
	}
	return b
}

// engine is a model server as far as balancing is concerned: its time is shared
// equally by all that it works on, and it caches the blocks that it used last.
type engine struct {
	speed float64 // tokens a second
	room  int     // of the cache, in blocks
	used  map[uint64]int
	clock int
	at    []*work
	done  float64 // tokens
}

type work struct {
	gateway int
	left    float64 // tokens
	cost    float64 // what a gateway takes it for
	since   float64
	target  int
}

// take begins a prompt, and returns how many of its blocks were cached.
func (e *engine) take(prefix Prefix, w *work, output int) int {
	hits := 0
	for hits < len(prefix) && e.used[prefix[hits]] > 0 {
		hits++
	}
	for i := len(prefix) - 1; i >= 0; i-- {
		e.clock++
		e.used[prefix[i]] = e.clock
	}
	if len(e.used) > e.room {
		e.evict()
	}
	w.left = float64(256*(len(prefix)-hits) + 2*output)
	e.at = append(e.at, w)
	return hits
}

// evict makes an eighth of the room free.
func (e *engine) evict() {
	ages := make([]int, 0, len(e.used))
	for _, age := range e.used {
		ages = append(ages, age)
	}
	slices.Sort(ages)
	least := ages[len(ages)-e.room*7/8]
	for key, age := range e.used {
		if age < least {
			delete(e.used, key)
		}
	}
}

// run works for a moment and returns what has ended.
func (e *engine) run(seconds float64) (ended []*work) {
	budget := e.speed * seconds
	for budget > 1e-9 && len(e.at) > 0 {
		least := e.at[0].left
		for _, w := range e.at {
			least = min(least, w.left)
		}
		each := min(least, budget/float64(len(e.at)))
		kept := e.at[:0]
		for _, w := range e.at {
			if w.left -= each; w.left <= 1e-9 {
				ended = append(ended, w)
			} else {
				kept = append(kept, w)
			}
		}
		spent := each * float64(len(kept)+len(ended))
		e.done += spent
		budget -= spent
		e.at = kept
	}
	return ended
}

// cluster is several gateways in front of the same engines. None knows what the
// others have sent.
type cluster struct {
	random   *rand.Rand
	engines  []*engine
	gateways []gatewaySim
	now      float64

	hits, could float64        // blocks that were cached; that some engine had seen before
	seen        map[uint64]int // blocks, and how often
	took        []float64      // seconds of each request
	most        []float64      // the busiest engine against the mean, each moment
	closed      map[int]bool
}

type gatewaySim struct {
	balance balancer
	targets []*target
	load    []float64
}

func newCluster(balance string, gateways, room int, weights ...int64) *cluster {
	c := &cluster{random: rand.New(rand.NewPCG(7, 7)), seen: map[uint64]int{}, closed: map[int]bool{}}
	for _, w := range weights {
		c.engines = append(c.engines, &engine{speed: 20_000 * float64(w), room: room, used: map[uint64]int{}})
	}
	for i := range gateways {
		targets := targetsOf(weights...)
		b, err := newBalancer(balance, targets)
		if err != nil {
			panic(err)
		}
		c.gateways = append(c.gateways, gatewaySim{seeded(b, uint64(i)), targets, make([]float64, len(weights))})
	}
	return c
}

// send gives a prompt to one of the gateways, and returns where it went.
func (c *cluster) send(prefix Prefix, output int) int {
	i := c.random.IntN(len(c.gateways))
	g := &c.gateways[i]
	var open []int
	for t := range c.engines {
		if !c.closed[t] {
			open = append(open, t)
		}
	}
	t := g.balance.choose(open, g.load, prefix)
	w := &work{gateway: i, cost: float64(256*len(prefix) + 2*output), since: c.now, target: t}
	g.load[t] += w.cost
	g.targets[t].inFlight.Add(1)
	for _, key := range prefix {
		if c.seen[key] > 0 {
			c.could++
		}
		c.seen[key]++
	}
	c.hits += float64(c.engines[t].take(prefix, w, output))
	return t
}

func (c *cluster) run(seconds float64) {
	var busiest, sum, speed float64
	for _, e := range c.engines {
		for _, w := range e.run(seconds) {
			g := &c.gateways[w.gateway]
			g.load[w.target] -= w.cost
			g.targets[w.target].inFlight.Add(-1)
			c.took = append(c.took, c.now+seconds-w.since)
		}
		left := 0.0
		for _, w := range e.at {
			left += w.left
		}
		busiest = max(busiest, left/e.speed)
		sum += left
		speed += e.speed
	}
	if sum > 0 {
		c.most = append(c.most, busiest/(sum/speed))
	}
	c.now += seconds
}

// figures of a cluster's run.
type figures struct {
	hits      float64 // of the blocks that could be cached
	work      float64 // of the engine that did the most, against the mean
	p50, p99  float64 // seconds
	imbalance float64 // the median of most
}

func (c *cluster) figures() figures {
	f := figures{hits: c.hits / c.could, p50: quantile(c.took, 0.5), p99: quantile(c.took, 0.99), imbalance: quantile(c.most, 0.5)}
	var sum, speed float64
	for _, e := range c.engines {
		sum += e.done
		speed += e.speed
	}
	for _, e := range c.engines {
		f.work = max(f.work, e.done/e.speed/(sum/speed))
	}
	return f
}

func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

// chat are conversations of callers of whom some talk much more than others. Each
// has a system prompt of its own; a turn makes the prompt longer by a block or two.
type chat struct {
	random  *rand.Rand
	callers *rand.Zipf
	open    map[uint64][]Prefix // by caller
	next    uint64
}

func newChat(callers uint64, skew float64) *chat {
	random := rand.New(rand.NewPCG(3, 3))
	return &chat{random: random, callers: rand.NewZipf(random, skew, 1, callers-1), open: map[uint64][]Prefix{}}
}

// turn is the prompt of the next request.
func (c *chat) turn() Prefix {
	caller := c.callers.Uint64()
	open := c.open[caller]
	if i := c.random.IntN(8); i < len(open) {
		p := slices.Clone(open[i])
		for range 1 + c.random.IntN(2) {
			c.next++
			p = append(p, mix(c.next))
		}
		if len(p) < prefixBlocks-1 {
			open[i] = p
		} else {
			c.open[caller] = slices.Delete(open, i, i+1)
		}
		return p[:min(len(p), prefixBlocks)]
	}
	var p Prefix
	for i := range 2 + caller%4 {
		p = append(p, mix(caller<<32+i))
	}
	c.next++
	p = append(p, mix(c.next))
	c.open[caller] = append(open, p)
	return p
}

// converse sends chats to a cluster for some seconds, at a rate per second.
func converse(c *cluster, chats *chat, seconds, rate float64) {
	const moment = 0.01
	due := 0.0
	for end := c.now + seconds; c.now < end; c.run(moment) {
		for due += rate * moment; due >= 1; due-- {
			c.send(chats.turn(), 50+c.random.IntN(200))
		}
	}
}

// TestPrefixKeepsCachesWarmAndLoadsEven shows by how much: run it with -v for the
// figures.
func TestPrefixKeepsCachesWarmAndLoadsEven(t *testing.T) {
	for _, one := range []struct {
		name     string
		gateways int
		weights  []int64
		skew     float64
		rate     float64 // prompts a second
		hits     float64 // at least
		most     float64 // work of the busiest
	}{
		{"many callers", 1, []int64{1, 1, 1, 1}, 1.1, 60, 0.8, 1.15},
		{"one caller asks more than half", 1, []int64{1, 1, 1, 1}, 2, 60, 0.8, 1.2},
		{"a target twice as fast", 1, []int64{2, 1, 1, 1}, 1.1, 75, 0.75, 1.25},
		{"four gateways", 4, []int64{1, 1, 1, 1}, 1.1, 60, 0.68, 1.2},
		{"more than all can do", 1, []int64{1, 1, 1, 1}, 1.1, 120, 0.8, 1.05},
	} {
		t.Run(one.name, func(t *testing.T) {
			got := map[string]figures{}
			for _, balance := range []string{"round_robin", "least_busy", "two_choices", "prefix"} {
				c := newCluster(balance, one.gateways, 1500, one.weights...)
				converse(c, newChat(400, one.skew), 40, one.rate)
				f := c.figures()
				got[balance] = f
				t.Logf("%-11s hits %.3f, work of the busiest %.2f of the mean, its backlog %.2f, p50 %.2fs, p99 %.2fs", balance, f.hits, f.work, f.imbalance, f.p50, f.p99)
			}
			f := got["prefix"]
			if f.hits < one.hits || f.work > one.most {
				t.Errorf("hits %.3f, work of the busiest %.2f, want at least %.2f and at most %.2f", f.hits, f.work, one.hits, one.most)
			}
			if other := got["least_busy"]; f.hits < other.hits+0.1 || f.p50 > other.p50 {
				t.Errorf("%+v is no better than least_busy, %+v", f, other)
			}
		})
	}
}

// TestATargetThatIsGoneAndComesBackIsNotBuried: it has its prompts again, not all
// that is new.
func TestATargetThatIsGoneAndComesBackIsNotBuried(t *testing.T) {
	c, chats := newCluster("prefix", 1, 1500, 1, 1, 1, 1), newChat(400, 1.1)
	converse(c, chats, 20, 60)
	c.closed[0] = true
	converse(c, chats, 20, 50)
	if n := len(c.engines[0].at); n != 0 {
		t.Fatalf("%d requests at a target that is gone", n)
	}
	c.engines[0].used = map[uint64]int{} // restarted
	delete(c.closed, 0)
	var before [4]float64
	for i, e := range c.engines {
		before[i] = e.done
	}
	c.took, c.most = nil, nil
	converse(c, chats, 20, 60)
	f, sum := c.figures(), 0.0
	for i, e := range c.engines {
		sum += e.done - before[i]
	}
	share := (c.engines[0].done - before[0]) / (sum / 4)
	t.Logf("work of the target that came back %.2f of the mean, p50 %.2fs, p99 %.2fs", share, f.p50, f.p99)
	if share < 0.6 || share > 1.5 || f.p99 > 2 {
		t.Errorf("work of the target that came back %.2f of the mean, p99 %.2fs", share, f.p99)
	}
}
