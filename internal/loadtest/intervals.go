package loadtest

import "time"

// maxIntervals bounds how many parts a load is shown in. A load that is longer than
// that many seconds has longer parts.
const maxIntervals = 900

// intervals are the parts of a load, from its beginning on.
type intervals struct {
	width time.Duration
	parts []*interval
}

// interval is what happened in a part of a load. Latencies are those of the requests
// that were due in it.
type interval struct {
	sent, answered, errors, unsent int64
	latency                        buckets
	longest                        time.Duration
}

// at is the interval of a moment, counted from the beginning. What is before it is
// in the first.
func (i *intervals) at(d time.Duration) *interval {
	n := int(max(d, 0) / i.width)
	for n >= maxIntervals {
		i.halve()
		n = int(d / i.width)
	}
	for len(i.parts) <= n {
		i.parts = append(i.parts, &interval{latency: buckets{}})
	}
	return i.parts[n]
}

// halve makes one interval of each two.
func (i *intervals) halve() {
	merged := i.parts[:0]
	for n := 0; n < len(i.parts); n += 2 {
		a := i.parts[n]
		if n+1 < len(i.parts) {
			b := i.parts[n+1]
			a.sent += b.sent
			a.answered += b.answered
			a.errors += b.errors
			a.unsent += b.unsent
			a.latency.merge(b.latency)
			a.longest = max(a.longest, b.longest)
		}
		merged = append(merged, a)
	}
	clear(i.parts[len(merged):])
	i.parts = merged
	i.width *= 2
}
