package telemetry

import "time"

// seriesPoints is how many whole steps of a second the series have.
const seriesPoints = 120

// LivePoint is what happened in one second.
type LivePoint struct {
	// Requests were answered, Errors, Refused and Shed are of them: see LiveCounts.
	Requests, Errors, Refused, Shed int64
	// Lookups, Hits and Saved are those of LiveCounts.
	Lookups, Hits int64
	Saved         time.Duration
	// Unauthorized and Uncounted likewise.
	Unauthorized, Uncounted int64
	// Latency is that of the requests that a model or the cache has answered.
	Latency LiveLatency
	// Waiting and Running are as Sample told last, in the second or before.
	Waiting, Running int
}

// liveSeries are the points of the last seconds.
type liveSeries struct {
	step uint32 // that runs
	now  struct {
		counts           LiveCounts
		latency          [allBuckets]uint32
		latencies        int64
		waiting, running int
	}
	points [seriesPoints]LivePoint // a ring, by step
}

// observe counts a request in the step that runs.
func (s *liveSeries) observe(e *Entry, hit bool) {
	s.now.counts.add(e, hit, false)
	if e.answered() {
		s.now.latency[bucketOf(e.Duration)]++
		s.now.latencies++
	}
}

// roll ends the step that runs, and all between it and step.
func (s *liveSeries) roll(step uint32) {
	c := &s.now.counts
	p := LivePoint{
		Requests: c.Requests, Errors: c.Errors, Refused: c.Refused, Shed: c.Shed, Unauthorized: c.Unauthorized, Uncounted: c.Uncounted,
		Lookups: c.Lookups, Hits: c.Hits, Saved: c.Saved,
		Waiting: s.now.waiting, Running: s.now.running,
	}
	if c.Requests > 0 {
		p.Latency = quantiles(s.now.latency[:], s.now.latencies)
		s.now.counts, s.now.latency, s.now.latencies = LiveCounts{}, [allBuckets]uint32{}, 0
	}
	s.points[s.step%seriesPoints] = p
	for i := uint32(1); i < min(step-s.step, seriesPoints+1); i++ {
		s.points[(s.step+i)%seriesPoints] = LivePoint{Waiting: p.Waiting, Running: p.Running}
	}
	s.step = step
}

// read returns the points of the steps before the one that runs, the oldest first.
func (s *liveSeries) read() []LivePoint {
	n := min(s.step, seriesPoints)
	list := make([]LivePoint, n)
	for i := range n {
		list[i] = s.points[(s.step-n+i)%seriesPoints]
	}
	return list
}
