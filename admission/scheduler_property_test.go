package admission

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"pgregory.net/rapid"
)

// oracle drives a Scheduler at random, and keeps its own books.
type oracle struct {
	t     *rapid.T
	s     *Scheduler
	now   time.Time
	asked int
	lines map[callerKey][]*Item // that wait, oldest first
	runs  []*Item
	over  []*Item
	done  map[*Item]int // decisions
	held  map[*Item]int64
	open  [2]bool
	inner *Item // the item that is being submitted
}

func newOracle(t *rapid.T, o Options) *oracle {
	m := &oracle{t: t, now: time.Unix(1_700_000_000, 0), lines: map[callerKey][]*Item{}, done: map[*Item]int{}, held: map[*Item]int64{}, open: [2]bool{true, true}}
	o.Targets = []Target{{}, {Weight: 2}}
	o.Open = func(i int, _ time.Time) bool { return m.open[i] }
	s, err := NewScheduler(o, m.decided)
	if err != nil {
		t.Fatal(err)
	}
	m.s = s
	return m
}

func (m *oracle) decided(it *Item) {
	m.done[it]++
	if m.done[it] > 1 {
		m.t.Fatalf("decided %d times", m.done[it])
	}
	m.leaves(it)
	if it.refusal != nil {
		m.over = append(m.over, it)
		return
	}
	if w := it.Waited(); w > max(it.expires.Sub(it.arrived), 0) {
		m.t.Fatalf("waited %v of %v", w, it.expires.Sub(it.arrived))
	}
	m.runs = append(m.runs, it)
	m.held[it] = it.request.Input + it.request.Output
}

// leaves takes it out of its line, and checks that it was the one to go.
func (m *oracle) leaves(it *Item) {
	key := callerKey{it.request.Class, it.request.Caller}
	line := m.lines[key]
	at := -1
	for i := range line {
		if line[i] == it {
			at = i
		}
	}
	if at < 0 {
		if it != m.inner {
			m.t.Fatalf("decided what does not wait")
		}
		return
	}
	if it.refusal == nil && at > 0 {
		m.mayOvertake(it, line[0], at == len(line)-1)
	}
	m.lines[key] = append(line[:at:at], line[at+1:]...)
}

func (m *oracle) mayOvertake(it, oldest *Item, newest bool) {
	switch age := m.now.Sub(oldest.arrived); {
	case it.group != nil && it.group.members > 1: // it takes no place from anybody
	case it.returns && !oldest.returns:
	case it.request.Class == Batch:
		m.t.Fatalf("class batch out of order")
	case oldest.returns:
		m.t.Fatalf("one that comes back was overtaken")
	case float64(age) <= newestFirst*float64(oldest.expires.Sub(oldest.arrived)):
		m.t.Fatalf("overtaken after %v", age)
	case !newest:
		m.t.Fatalf("neither the oldest nor the newest")
	}
}

func (m *oracle) submit() {
	t := m.t
	r := Request{
		Caller: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "caller"),
		Class:  Class(rapid.IntRange(0, 2).Draw(t, "class")),
		Weight: rapid.SampledFrom([]float64{0, 1, 4}).Draw(t, "weight"),
		Items:  rapid.IntRange(0, 3).Draw(t, "items"),
		Stream: rapid.Bool().Draw(t, "stream"),
	}
	if rapid.Bool().Draw(t, "tokens") {
		r.Input, r.Output = rapid.Int64Range(0, 9000).Draw(t, "input"), rapid.Int64Range(0, 900).Draw(t, "output")
	}
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		r.Deadline = m.now.Add(time.Duration(rapid.IntRange(-10, 2000).Draw(t, "deadline")) * time.Millisecond)
	case 1:
		r.Tried = []int{0}
	case 2, 3:
		r.Batch = rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key")
	}
	it := NewItem(r)
	key := callerKey{r.Class, r.Caller}
	m.inner = it
	before := len(m.lines[key])
	m.s.Submit(it, m.now)
	m.inner = nil
	m.asked++
	if it.state != waiting {
		return
	}
	line := m.lines[key]
	if len(line) > before {
		m.t.Fatalf("line grew by itself")
	}
	i := len(line)
	for it.returns && i > 0 && !line[i-1].returns {
		i--
	}
	m.lines[key] = append(line[:i:i], append([]*Item{it}, line[i:]...)...)
}

// some picks one of items.
func (m *oracle) some(items []*Item) *Item {
	if len(items) == 0 {
		m.t.Skip("there is none")
	}
	return items[rapid.IntRange(0, len(items)-1).Draw(m.t, "which")]
}

func (m *oracle) waiting() (all []*Item) {
	for class := range Class(classes) {
		for _, c := range []string{"a", "b", "c", "d"} {
			all = append(all, m.lines[callerKey{class, c}]...)
		}
	}
	return all
}

func (m *oracle) cancel() {
	it := m.some(append(m.waiting(), m.runs...))
	if it.state == waiting {
		key := callerKey{it.request.Class, it.request.Caller}
		for i, other := range m.lines[key] {
			if other == it {
				m.lines[key] = append(m.lines[key][:i:i], m.lines[key][i+1:]...)
			}
		}
		m.done[it]++ // nothing more may come
		m.over = append(m.over, it)
	}
	m.s.Cancel(it, m.now)
}

func (m *oracle) end() {
	it := m.some(m.runs)
	for i := range m.runs {
		if m.runs[i] == it {
			m.runs = append(m.runs[:i:i], m.runs[i+1:]...)
			break
		}
	}
	m.over = append(m.over, it)
	m.s.Done(it, Result(rapid.IntRange(0, int(Unused)).Draw(m.t, "result")), m.now)
}

func (m *oracle) progress() {
	it := m.some(m.runs)
	n := rapid.Int64Range(-3, 500).Draw(m.t, "tokens")
	before := it.produced
	m.s.Progress(it, n, m.now)
	if n > 0 && it.request.hasTokens() {
		m.held[it] += max(before+n-max(before, it.request.Output), 0)
	}
}

func (m *oracle) settle(it *Item) {
	m.s.Settle(it, weir.Usage{Input: rapid.Int64Range(0, 9000).Draw(m.t, "input"), Output: rapid.Int64Range(0, 2000).Draw(m.t, "output")})
}

func (m *oracle) pass(d time.Duration) {
	for end := m.now.Add(d); m.now.Before(end); {
		m.now = m.now.Add(min(wheelStep, end.Sub(m.now)))
		m.s.Tick(m.now)
		for _, it := range m.waiting() {
			if late := m.now.Sub(it.expires); late >= 0 {
				m.t.Fatalf("waits %v too long", late)
			}
		}
	}
}

func (m *oracle) step() {
	t := m.t
	switch rapid.IntRange(0, 19).Draw(t, "action") {
	case 0, 1, 2, 3, 4, 5, 6:
		m.submit()
	case 7:
		m.cancel()
	case 8, 9, 10:
		m.end()
	case 11:
		m.s.FirstToken(m.some(m.runs), m.now)
	case 12:
		m.progress()
	case 13:
		m.settle(m.some(append(m.runs[:len(m.runs):len(m.runs)], m.over...)))
	case 14, 15:
		m.pass(time.Duration(rapid.IntRange(1, 40).Draw(t, "for")) * 7 * time.Millisecond)
	case 16:
		m.s.Seal(m.some(m.runs))
	case 17:
		m.open[rapid.IntRange(0, 1).Draw(t, "target")] = rapid.Bool().Draw(t, "open")
	case 18: // what is over stays over
		it := m.some(m.over)
		m.s.Done(it, OK, m.now)
		m.s.FirstToken(it, m.now)
		m.s.Progress(it, 5, m.now)
		m.s.Cancel(it, m.now)
		m.s.Seal(it)
	case 19:
		m.now = m.now.Add(rapid.SampledFrom([]time.Duration{-time.Hour, -time.Minute, time.Minute, time.Hour}).Draw(t, "jump"))
		m.s.Tick(m.now)
	}
}

// check compares the books.
func (m *oracle) check() {
	s, t := m.s, m.t
	waits := 0
	for class := range s.lines {
		waits += m.checkLine(Class(class))
	}
	if waits != s.waiting || waits > s.options.MaxQueue {
		t.Fatalf("%d wait, counted %d, bound %d", waits, s.waiting, s.options.MaxQueue)
	}
	for i, target := range s.targets {
		m.checkTarget(i, target)
	}
	if len(m.runs) != s.running {
		t.Fatalf("%d run, counted %d", len(m.runs), s.running)
	}
	inWheel := 0
	for _, it := range s.expiry.slots {
		for ; it != nil; it = it.later {
			inWheel++
		}
	}
	if inWheel != waits {
		t.Fatalf("%d wait, %d would expire", waits, inWheel)
	}
	m.checkCallers()
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*max(1, math.Abs(a), math.Abs(b)) }

func (m *oracle) checkLine(class Class) (waits int) {
	l, t := &m.s.lines[class], m.t
	callers, weights := 0, 0.0
	for key, items := range m.lines {
		if key.class != class || len(items) == 0 {
			continue
		}
		c := items[0].caller
		own := 0.0
		at := c.first
		for _, it := range items {
			if at != it || it.state != waiting {
				t.Fatalf("the line of %v is not in its order", key)
			}
			at, own = at.next, own+it.cost
		}
		if at != nil || c.queued != len(items) || !near(c.cost, own) || l.heap[c.at] != (place{c.counter, c}) || c.bucket < 0 {
			t.Fatalf("the line of %v: %d items, cost %v, counted %d, %v", key, len(items), own, c.queued, c.cost)
		}
		waits, callers, weights = waits+len(items), callers+1, weights+c.weight
	}
	if l.queued != waits || len(l.heap) != callers || !near(l.weight, weights) || l.credit < 0 {
		t.Fatalf("%v: %d of %d callers, weight %v; counted %d of %d, %v, credit %v", class, waits, callers, weights, l.queued, len(l.heap), l.weight, l.credit)
	}
	for i, c := range l.heap {
		if c.caller.at != i || l.heap[(max(i, 1)-1)/arity].counter > c.counter {
			t.Fatalf("%v: no heap", class)
		}
	}
	return waits
}

func (m *oracle) checkTarget(i int, target *target) {
	var places, items int
	var tokens, prefill int64
	var load float64
	groups := map[*group]bool{}
	for _, it := range m.runs {
		if it.target != i {
			continue
		}
		items++
		if g := it.group; g == nil || !groups[g] {
			places++
			groups[g] = g != nil
		}
		tokens += m.held[it]
		prefill += it.prefill
		load += it.cost
		if it.prefill != 0 && (it.prefill != it.request.Input || it.streamed) {
			m.t.Fatalf("%d tokens in prefill of %d", it.prefill, it.request.Input)
		}
	}
	delete(groups, nil)
	if target.running != places || target.items != items || target.tokens != tokens || target.prefill != prefill || !near(m.s.load[i], load) {
		m.t.Fatalf("target %d: %d places, %d items, %d tokens, %d in prefill, load %v; counted %d, %d, %d, %d, %v", i, places, items, tokens, prefill, load,
			target.running, target.items, target.tokens, target.prefill, m.s.load[i])
	}
	if m.s.options.Limits.Min == m.s.options.Limits.Max && places > m.s.options.Limits.Max {
		m.t.Fatalf("%d places taken of %d", places, m.s.options.Limits.Max)
	}
	for g := range groups {
		n, size := 0, 0
		for _, it := range m.runs {
			if it.group == g {
				n, size = n+1, size+max(it.request.Items, 1)
			}
		}
		if g.members != n || g.items != size || n > 1 && size > m.s.options.BatchSize {
			m.t.Fatalf("a group of %d with %d items, counted %d with %d", n, size, g.members, g.items)
		}
	}
	if len(m.s.groups) > m.s.running {
		m.t.Fatalf("%d open groups of %d that run", len(m.s.groups), m.s.running)
	}
}

func (m *oracle) checkCallers() {
	idle := 0
	for c := m.s.callers.first; c != nil; c = c.next {
		idle++
		if !c.idle || c.queued > 0 || c.running > 0 || m.s.callers.by[c.key] != c {
			m.t.Fatalf("%v rests with work", c.key)
		}
	}
	busy := map[*caller]bool{}
	for _, it := range append(m.waiting(), m.runs...) {
		busy[it.caller] = true
	}
	if idle != m.s.callers.idle || len(m.s.callers.by) != idle+len(busy) {
		m.t.Fatalf("%d callers rest, %d have work; counted %d, %d in all", idle, len(busy), m.s.callers.idle, len(m.s.callers.by))
	}
}

// finish ends everything, and sees that nothing is left of it.
func (m *oracle) finish() {
	s := m.s
	m.open = [2]bool{true, true}
	m.pass(10 * time.Millisecond)
	for len(m.runs) > 0 || s.waiting > 0 {
		if len(m.runs) == 0 {
			m.t.Fatalf("%d wait and nothing runs", s.waiting)
		}
		m.end()
	}
	m.check()
	for it, n := range m.done {
		if n != 1 {
			m.t.Fatalf("%v decided %d times", it.request, n)
		}
	}
	if len(m.done) != m.asked || len(s.groups) != 0 || !s.Idle() {
		m.t.Fatalf("%d decided of %d, %d groups open", len(m.done), m.asked, len(s.groups))
	}
	for range 200 {
		m.now = m.now.Add(time.Second)
		s.Tick(m.now)
	}
	if n := len(s.callers.by); n != 0 {
		m.t.Fatalf("%d callers are remembered for ever", n)
	}
	for _, target := range s.targets {
		if len(target.whole) != 0 {
			m.t.Fatalf("%d prompts are still read", len(target.whole))
		}
	}
}

func TestSchedulerKeepsItsBooks(t *testing.T) {
	steps := 0
	rapid.Check(t, func(t *rapid.T) {
		o := Options{
			Limits:    rapid.SampledFrom([]Limits{{Min: 1, Max: 1}, {Min: 3, Max: 3}, {Min: 1, Max: 6}}).Draw(t, "limits"),
			SLO:       rapid.SampledFrom([]SLO{{}, {TTFT: 2 * time.Second, TPOT: 80 * time.Millisecond}}).Draw(t, "slo"),
			MaxQueue:  rapid.SampledFrom([]int{1, 2, 7, 40}).Draw(t, "queue"),
			MaxWait:   time.Second,
			BatchSize: 4,
		}
		m := newOracle(t, o)
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { m.check() },
			"steps": func(rt *rapid.T) {
				m.t = rt
				for range 30 {
					steps++
					m.step()
					m.check()
				}
			},
		})
		m.t = t
		m.finish()
	})
	t.Logf("%d steps", steps)
	if !t.Failed() && steps < 10_000 {
		t.Errorf("%d steps, want 10,000", steps)
	}
}

// backlog keeps callers with work: what one is and what it turns out to be.
type backlog struct {
	s      *Scheduler
	now    time.Time
	runs   []*Item
	served map[string]float64 // cost by weight, as it was charged
}

// TestSchedulerFairnessBound: let f and g be two callers of a class who have work
// waiting throughout, w their weights, M the largest cost of a request, expected or
// true, and R the most that run at once. Whoever is given a place has the least
// counter, so at that moment C_f <= C_g. From then until f is given the next one,
// C_f can rise by the charge, at most M/w_f, and by what its running requests, R at
// most, turn out to cost more, at most M/w_f each; C_g can fall by what its running
// ones turn out to cost less, R*M/w_g at most. So at all times
//
//	|C_f - C_g| <= U = (R+1)*M/w_f + R*M/w_g, or with f and g changed over
//
// and over any time the services by weight differ by 2U at most. Where costs are
// known the terms with R fall away: U = M/w, as in the paper.
func TestSchedulerFairnessBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seats := rapid.IntRange(1, 8).Draw(t, "seats")
		exact := rapid.Bool().Draw(t, "exact")
		weights := map[string]float64{"f": 1, "g": float64(rapid.IntRange(1, 8).Draw(t, "weight")), "h": 2}
		b := backlog{now: time.Unix(1_700_000_000, 0), served: map[string]float64{}}
		s, err := NewScheduler(Options{Targets: []Target{{}}, Limits: Limits{Min: seats, Max: seats}, MaxQueue: 1000, MaxWait: time.Hour}, func(it *Item) {
			if it.target < 0 {
				t.Fatalf("refused: %v", it.refusal)
			}
			b.runs = append(b.runs, it)
			b.served[it.request.Caller] += it.cost / weights[it.request.Caller]
		})
		if err != nil {
			t.Fatal(err)
		}
		b.s = s
		const most = 1000
		size := rapid.Int64Range(1, most/2)
		refill := func() {
			for _, c := range []string{"f", "g"} {
				for n := 0; n < 2; n++ {
					if known := s.callers.by[callerKey{Standard, c}]; known == nil || known.queued < 2 {
						s.Submit(NewItem(Request{Caller: c, Weight: weights[c], Class: Standard, Output: size.Draw(t, "size")}), b.now)
					}
				}
			}
		}
		for range seats { // the places are taken before the two begin to wait
			s.Submit(NewItem(Request{Caller: "h", Weight: weights["h"], Class: Standard, Output: 1}), b.now)
		}
		refill()
		diff := func() float64 {
			return s.callers.by[callerKey{Standard, "f"}].counter - s.callers.by[callerKey{Standard, "g"}].counter
		}
		r := float64(seats)
		if exact {
			r = 0
		}
		high := (r+1)*most/weights["f"] + r*most/weights["g"]
		low := (r+1)*most/weights["g"] + r*most/weights["f"]
		begin := diff()
		first := b.served["f"] - b.served["g"]
		for range 60 {
			if rapid.IntRange(0, 5).Draw(t, "other") == 0 {
				s.Submit(NewItem(Request{Caller: "h", Weight: weights["h"], Class: Standard, Output: size.Draw(t, "size")}), b.now)
			}
			i := rapid.IntRange(0, len(b.runs)-1).Draw(t, "which")
			it := b.runs[i]
			b.runs = append(b.runs[:i], b.runs[i+1:]...)
			charged := it.charged
			if exact {
				s.Done(it, OK, b.now)
			} else {
				s.Settle(it, weir.Usage{Output: size.Draw(t, "true")})
				s.Done(it, Result(rapid.IntRange(0, int(Unused)).Draw(t, "result")), b.now)
			}
			b.served[it.request.Caller] += (it.charged - charged) / weights[it.request.Caller]
			refill()
			if d := diff(); d > high+1e-6 || d < -low-1e-6 {
				t.Fatalf("counters differ by %v, want %v to %v", d, -low, high)
			}
			if d := b.served["f"] - b.served["g"] - first; math.Abs(d-(diff()-begin)) > 1e-6 || math.Abs(d) > 2*max(high, low) {
				t.Fatalf("services differ by %v, counters by %v", d, diff()-begin)
			}
		}
	})
}

// TestSchedulerStarvesNobody: a class that is owed a share p of the work and whose
// next request costs c is next as soon as p times what was given out since it began
// to wait, or since its last request, is c. What is given out meanwhile is so at
// most c/p and the last request of another class.
func TestSchedulerStarvesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seats := rapid.IntRange(1, 8).Draw(t, "seats")
		low := Class(rapid.IntRange(1, 2).Draw(t, "class"))
		size := rapid.Int64Range(1, int64(rapid.SampledFrom([]int{1, 20, 1000}).Draw(t, "most")))
		now := time.Unix(1_700_000_000, 0)
		var runs []*Item
		var since, last, cost float64
		s, err := NewScheduler(Options{Targets: []Target{{}}, Limits: Limits{Min: seats, Max: seats}, MaxQueue: 1000, MaxWait: time.Hour}, func(it *Item) {
			if it.target < 0 {
				t.Fatalf("refused: %v", it.refusal)
			}
			runs = append(runs, it)
			switch {
			case it.request.Class < low:
				since, last = since+it.cost, it.cost
			case it.cost == cost:
				if bound := cost/owed + last; since > bound+1e-6 {
					t.Fatalf("%v of others went before %v, want %v at most", since, cost, bound)
				}
				since = 0
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		refill := func() {
			for s.lines[0].queued < 2 {
				s.Submit(NewItem(Request{Caller: fmt.Sprint(s.waiting), Class: Critical, Output: size.Draw(t, "high")}), now)
			}
			if s.lines[low].queued == 0 {
				it := NewItem(Request{Caller: "low", Class: low, Output: size.Draw(t, "low")})
				since, cost = 0, 2*float64(it.request.Output)
				s.Submit(it, now)
			}
		}
		refill()
		for range 150 {
			i := rapid.IntRange(0, len(runs)-1).Draw(t, "which")
			it := runs[i]
			runs = append(runs[:i], runs[i+1:]...)
			s.Done(it, OK, now)
			refill()
		}
	})
}
