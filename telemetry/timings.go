package telemetry

import (
	"strconv"
	"sync/atomic"
	"time"
)

// Phase is a part of a request's life that the gateway reports on its own.
type Phase int

const (
	// PhaseQueue is the wait for a free slot of the upstream.
	PhaseQueue Phase = iota
	// PhaseUpstream is the time from sending the request to the upstream until
	// its answer's header is there.
	PhaseUpstream
	// PhaseCache is the look-up in the cache, and the wait for the leader's
	// header when the request joined another one's flight.
	PhaseCache

	phases = 3
)

// Timings adds up where the time of one request went. The zero value is ready
// for use. The goroutines of that request may share it; it must not be copied.
type Timings struct {
	sums [phases]atomic.Int64
}

// Add adds d to a phase, because a phase can come more than once: every retry
// is upstream time. A negative d and an unknown phase change nothing.
func (t *Timings) Add(p Phase, d time.Duration) {
	if p < 0 || p >= phases || d < 0 {
		return
	}
	t.sums[p].Add(int64(d))
}

// Get returns the sum of a phase so far; 0 for an unknown one.
func (t *Timings) Get(p Phase) time.Duration {
	if p < 0 || p >= phases {
		return 0
	}
	return time.Duration(t.sums[p].Load())
}

// Header returns the value of a Server-Timing field with all three phases,
// always in this order: "queue;dur=0.0, upstream;dur=12.3, cache;dur=0.023".
// The unit is milliseconds, as the W3C recommendation has it: tenths from one
// millisecond up, whole microseconds below.
func (t *Timings) Header() string {
	b := make([]byte, 0, 80)
	b = appendMetric(b, "queue", t.Get(PhaseQueue))
	b = append(b, ", "...)
	b = appendMetric(b, "upstream", t.Get(PhaseUpstream))
	b = append(b, ", "...)
	b = appendMetric(b, "cache", t.Get(PhaseCache))
	return string(b)
}

// appendMetric appends one server-timing-metric. The name must be a token.
func appendMetric(b []byte, name string, d time.Duration) []byte {
	b = append(b, name...)
	b = append(b, ";dur="...)
	return appendMillis(b, d)
}

// appendMillis appends d in milliseconds with tenths, and with up to three
// decimals below one millisecond: a hit in the cache takes microseconds, and
// 0.0 would hide how many.
func appendMillis(b []byte, d time.Duration) []byte {
	us := divide(d, time.Microsecond)
	if us >= 1000 {
		tenths := divide(d, 100*time.Microsecond)
		b = strconv.AppendInt(b, tenths/10, 10)
		return append(b, '.', byte('0'+tenths%10))
	}
	return appendThousandths(append(b, '0', '.', byte('0'+us/100)), us%100)
}

// appendThousandths appends the two last of three decimals, without trailing
// zeros.
func appendThousandths(b []byte, hundredths int64) []byte {
	if hundredths == 0 {
		return b
	}
	b = append(b, byte('0'+hundredths/10))
	if hundredths%10 != 0 {
		b = append(b, byte('0'+hundredths%10))
	}
	return b
}

// divide returns d in units, rounded half up, and 0 for a negative d.
func divide(d, unit time.Duration) int64 {
	if d < 0 {
		return 0
	}
	n := d / unit
	if d%unit >= unit/2 {
		n++
	}
	return int64(n)
}
