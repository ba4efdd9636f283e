package admission

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"time"
)

// epoch is when the simulated servers start.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func after(seconds float64) time.Time {
	return epoch.Add(time.Duration(seconds * float64(time.Second)))
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// call is a request to a simulated plain server.
type call struct {
	kind     int
	sent, at float64 // at: when something happens to it next
	service  float64
	result   Result
	served   bool // by a worker
}

type calls []*call

func (c calls) Len() int           { return len(c) }
func (c calls) Less(i, j int) bool { return c[i].at < c[j].at }
func (c calls) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *calls) Push(x any)        { *c = append(*c, x.(*call)) }
func (c *calls) Pop() any {
	old := *c
	x := old[len(old)-1]
	*c = old[:len(old)-1]
	return x
}

// callKind is one response class of a plain server.
type callKind struct {
	name  string
	mean  float64 // seconds of service
	share float64
	fixed bool // else exponential
}

// plainServer has workers and a first-come queue without end: an M/M/c server,
// behind a gateway with a queue of its own that lets no more than limit.seats in.
type plainServer struct {
	limit   *limiter
	rng     *rand.Rand
	workers int
	kinds   []callKind
	arrive  float64 // calls a second; +Inf: there is always one that waits
	slow    float64 // factor of the service
	lag     float64 // seconds that every call takes beside its service
	refuse  int     // calls inside from which on it refuses; 0: never
	fail    float64 // share of calls that fail
	quota   float64 // share of calls that it refuses, whatever the load

	now      float64
	next     float64 // arrival
	waiting  int     // at the gateway
	inside   int
	running  int
	queue    []*call
	events   calls
	ticked   float64
	lastWork float64 // seconds of service done since the last tick
	steps    []plainStep
	done     map[string]int
	refused  int
	took     float64
	ended    int
}

// plainStep is what one second looked like.
type plainStep struct {
	seats   float64
	work    float64 // workers that did something useful, on average
	latency float64 // mean
	calls   int
}

func newPlainServer(l *limiter, workers int, kinds ...callKind) *plainServer {
	return &plainServer{
		limit: l, rng: rand.New(rand.NewPCG(1, 2)), workers: workers, kinds: kinds,
		arrive: math.Inf(1), slow: 1, done: map[string]int{},
	}
}

// run lets seconds go by.
func (s *plainServer) run(seconds float64) []plainStep {
	until := s.now + seconds
	from := len(s.steps)
	s.send()
	for s.now < until {
		t := min(until, s.ticked+1)
		if len(s.events) > 0 {
			t = min(t, s.events[0].at)
		}
		if !math.IsInf(s.arrive, 1) {
			t = min(t, max(s.next, s.now))
		}
		s.now = t
		if !math.IsInf(s.arrive, 1) && s.next <= s.now {
			s.next = s.now + s.rng.ExpFloat64()/s.arrive
			s.waiting = min(s.waiting+1, 1000)
		}
		for len(s.events) > 0 && s.events[0].at <= s.now {
			s.depart(heap.Pop(&s.events).(*call))
		}
		if s.now >= s.ticked+1 {
			s.tick()
		}
		s.send()
	}
	return s.steps[from:]
}

func (s *plainServer) tick() {
	s.ticked = s.now
	s.limit.tick(after(s.now))
	s.steps = append(s.steps, plainStep{s.limit.seats(), s.lastWork, s.took / max(float64(s.ended), 1), s.ended})
	s.lastWork, s.took, s.ended = 0, 0, 0
}

// send lets in what has room.
func (s *plainServer) send() {
	if math.IsInf(s.arrive, 1) {
		s.waiting = 1 << 20
	}
	for s.waiting > 0 {
		if s.inside > 0 && s.inside+1 > int(s.limit.seats()) {
			s.limit.blocked()
			return
		}
		s.waiting--
		s.admit()
	}
}

func (s *plainServer) admit() {
	c := &call{sent: s.now}
	for x := s.rng.Float64(); x >= s.kinds[c.kind].share && c.kind < len(s.kinds)-1; c.kind++ {
		x -= s.kinds[c.kind].share
	}
	k := s.kinds[c.kind]
	c.service = k.mean
	if !k.fixed {
		c.service *= s.rng.ExpFloat64()
	}
	s.inside++
	s.limit.use(s.inside, 0)
	switch {
	case s.refuse > 0 && s.inside > s.refuse:
		c.result, c.at = Overloaded, s.now+0.02
		heap.Push(&s.events, c)
	case s.quota > 0 && s.rng.Float64() < s.quota:
		c.result, c.at = Overloaded, s.now+0.005
		heap.Push(&s.events, c)
	case s.fail > 0 && s.rng.Float64() < s.fail:
		c.result, c.at = Failed, s.now+0.001
		heap.Push(&s.events, c)
	case s.running < s.workers:
		s.serve(c)
	default:
		s.queue = append(s.queue, c)
	}
}

func (s *plainServer) serve(c *call) {
	s.running++
	c.served = true
	c.at = s.now + c.service*s.slow + s.lag
	heap.Push(&s.events, c)
}

func (s *plainServer) depart(c *call) {
	s.inside--
	s.limit.ended(s.kinds[c.kind].name, duration(s.now-c.sent), c.result, 0, 1, false)
	s.limit.use(s.inside, 0)
	if !c.served {
		s.refused++
		return
	}
	s.running--
	s.lastWork += c.service
	s.took += s.now - c.sent
	s.ended++
	s.done[s.kinds[c.kind].name]++
	if len(s.queue) > 0 {
		c = s.queue[0]
		s.queue = s.queue[1:]
		s.serve(c)
	}
}
