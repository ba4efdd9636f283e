package admission

import "math"

// histogram counts values on a logarithmic scale, in constant space.
type histogram struct {
	counts [buckets]float32
	n      float64
}

// bucket is where v is counted; what is below scale counts as scale.
func bucket(v, scale float64) int {
	if v > scale {
		return int(min(bucketsOctave*math.Log2(v/scale), buckets-1))
	}
	return 0
}

// add counts one value in a bucket.
func (h *histogram) add(bucket int) {
	h.counts[bucket]++
	h.n++
}

// fade makes everything count for less.
func (h *histogram) fade(by float64) {
	h.n = 0
	for i := range h.counts {
		h.counts[i] *= float32(by)
		h.n += float64(h.counts[i])
	}
}

func (h *histogram) reset() { *h = histogram{} }

// quantile is the value below which the share q lies, in the middle of its bucket:
// 0 where there is nothing.
func (h *histogram) quantile(q, scale float64) float64 {
	if h.n <= 0 {
		return 0
	}
	left := q * h.n
	for i, c := range h.counts {
		if c <= 0 {
			continue
		}
		if left -= float64(c); left <= 0 {
			return scale * math.Exp2((float64(i)+0.5)/bucketsOctave)
		}
	}
	return scale * math.Exp2(float64(buckets)/bucketsOctave)
}

// trend is a line through points of which the old ones fade: least squares with
// forgetting. On logarithms its slope is an elasticity: by how many percent y moves
// for a percent of x.
type trend struct {
	n, x, y    float64 // weight and means
	xx, xy, yy float64 // sums of squares about them
}

func (t *trend) add(x, y float64) {
	if slope, _, known := t.slope(); t.n >= trendLeast {
		if !known {
			slope = 0
		}
		off := math.Abs(y - t.y - slope*(x-t.x))
		if off > max(trendBreak, trendErrors*math.Sqrt(t.rest(slope))) {
			*t = trend{}
		}
	}
	t.fade(trendFade)
	t.n++
	dx, dy := x-t.x, y-t.y
	t.x += dx / t.n
	t.y += dy / t.n
	t.xx += dx * (x - t.x)
	t.xy += dx * (y - t.y)
	t.yy += dy * (y - t.y)
}

// fade makes all points count for less.
func (t *trend) fade(by float64) {
	t.n *= by
	t.xx *= by
	t.xy *= by
	t.yy *= by
}

// slope is the line's, with its standard error, if x moved enough to tell.
func (t *trend) slope() (slope, err float64, known bool) {
	if t.n < trendLeast || t.xx < t.n*trendSpread*trendSpread {
		return 0, 0, false
	}
	slope = t.xy / t.xx
	return slope, math.Sqrt(t.rest(slope) / t.xx), true
}

// rest is the variance of what the line does not explain.
func (t *trend) rest(slope float64) float64 {
	return max(t.yy-slope*t.xy, 0) / max(t.n-2, 1)
}
