package loadtest

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range of what is measured, in microseconds. What is longer counts as an hour.
const (
	leastMicros = 1
	mostMicros  = int64(time.Hour / time.Microsecond)
)

// newHistogram counts times from 1 µs to 1 h with three digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(leastMicros, mostMicros, 3) }

func micros(d time.Duration) int64 {
	return min(max(d.Microseconds(), leastMicros), mostMicros)
}

// record counts a time.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(micros(d)) // it is in the range
}

// bucketWidth is how much longer than the shortest time of a bucket its longest is.
const bucketWidth = 1.02

// buckets count times roughly, to 2 %, in little memory: one entry for each bucket
// that has any. There are many of them, one for each second and for each caller.
type buckets map[int16]int64

func (b buckets) add(d time.Duration) {
	b[int16(math.Log(float64(micros(d)))/math.Log(bucketWidth))]++
}

func (b buckets) merge(from buckets) {
	for i, n := range from {
		b[i] += n
	}
}

// quantile is the time that a share q of all is not longer than, 0 where there is
// none.
func (b buckets) quantile(q float64) time.Duration {
	var total, most int64
	last := int16(0)
	for i, n := range b {
		total += n
		last = max(last, i)
	}
	if total == 0 {
		return 0
	}
	rank := max(1, int64(math.Ceil(q*float64(total))))
	at := int16(0)
	for ; at < last; at++ {
		if most += b[at]; most >= rank {
			break
		}
	}
	return time.Duration(math.Pow(bucketWidth, float64(at)+0.5) * float64(time.Microsecond))
}
