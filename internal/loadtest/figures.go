package loadtest

import (
	"fmt"
	"html/template"
	"math"
	"slices"
)

// figure is a plot with what is said of it.
type figure struct {
	Title, Caption string
	Plot           template.HTML
	Keys           []key
}

// key says what a line is, or a dot.
type key struct {
	Class, Text string
	Dot         bool
}

// figures are the plots of a report, with an older one behind it where there is one.
func (r *Report) figures(old *Report) []figure {
	switch {
	case len(r.Intervals) == 0:
		return nil
	case len(r.Percentiles) == 0 || len(r.Histogram) == 0: // without one good answer
		return []figure{r.rateFigure(old)}
	}
	return []figure{r.latencyFigure(old), r.percentileFigure(old), r.rateFigure(old), r.histogramFigure(old)}
}

// points are one value of each interval, NaN where there is none.
func (r *Report) points(value func(*IntervalReport) float64) (xs, ys []float64) {
	for i := range r.Intervals {
		xs = append(xs, r.Intervals[i].AtS+r.IntervalS/2)
		ys = append(ys, value(&r.Intervals[i]))
	}
	return xs, ys
}

// measured is a latency, NaN where nothing was measured.
func measured(ms float64) float64 {
	if ms == 0 {
		return math.NaN()
	}
	return ms
}

func (r *Report) span(old *Report) *axis {
	most := 0.0
	for _, of := range []*Report{r, old} {
		if of != nil && len(of.Intervals) > 0 {
			most = max(most, of.Intervals[len(of.Intervals)-1].AtS+of.IntervalS)
		}
	}
	return linear("seconds", most, 6)
}

func (r *Report) latencyFigure(old *Report) figure {
	f := figure{
		Title:   "Latency over time",
		Caption: "Of the requests that were due in each second, from when they were due to the end of their answers.",
		Keys:    []key{{Class: "c1", Text: "median"}, {Class: "c2", Text: "99 % are faster"}, {Class: "c3", Text: "longest"}},
	}
	least, most := math.Inf(1), 0.0
	for _, of := range []*Report{r, old} {
		if of == nil {
			continue
		}
		for _, i := range of.Intervals {
			if i.P50MS > 0 {
				least, most = min(least, i.P50MS), max(most, i.MaxMS)
			}
		}
	}
	if most == 0 {
		least = 1
	}
	d := newDrawing("plot-latency", f.Title+": median, 99th percentile and longest, in milliseconds", r.span(old), latencyAxis(least, most))
	p50 := func(i *IntervalReport) float64 { return measured(i.P50MS) }
	p99 := func(i *IntervalReport) float64 { return measured(i.P99MS) }
	draw := func(of *Report, class string, value func(*IntervalReport) float64) {
		xs, ys := of.points(value)
		d.line(class, xs, ys)
	}
	if old != nil {
		draw(old, "before", p50)
		draw(old, "before", p99)
		f.Keys = append(f.Keys, key{Class: "before", Text: "median and 99 % before"})
	}
	draw(r, "c3", func(i *IntervalReport) float64 { return measured(i.MaxMS) })
	draw(r, "c2", p99)
	draw(r, "c1", p50)
	f.Plot = d.done()
	return f
}

// percentileFigure has an axis on which each nine of a share is as wide as the one
// before: the end of the distribution is what people wait for.
func (r *Report) percentileFigure(old *Report) figure {
	f := figure{
		Title:   "How many are faster",
		Caption: "The latency that a share of the answers is not above. Each tick to the right has a tenth of the slower answers of the one before.",
		Keys:    []key{{Class: "c1", Text: "now"}},
	}
	last := 1e-9
	nines := func(q float64) float64 { return -math.Log10(max(1-q, last)) }
	end := func(of *Report) float64 {
		if len(of.Percentiles) < 2 {
			return 1
		}
		return nines(of.Percentiles[len(of.Percentiles)-2].Q)
	}
	least, most, wide := r.Percentiles[0].MS, r.LatencyMS.Max, end(r)
	if old != nil && len(old.Percentiles) > 0 {
		least, most, wide = min(least, old.Percentiles[0].MS), max(most, old.LatencyMS.Max), max(wide, end(old))
	}
	x := &axis{label: "share of the answers", to: max(wide, 1), write: func(v float64) string {
		if v == 0 {
			return "0 %"
		}
		return fmt.Sprintf("%.*f %%", max(0, int(v)-2), 100*(1-math.Pow(10, -v)))
	}}
	for n := 0.0; n <= x.to; n++ {
		x.ticks = append(x.ticks, n)
	}
	d := newDrawing("plot-percentiles", f.Title+": latency in milliseconds by percentile", x, latencyAxis(least, most))
	draw := func(of *Report, class string) {
		var xs, ys []float64
		for _, p := range of.Percentiles {
			xs, ys = append(xs, min(nines(p.Q), end(of))), append(ys, p.MS)
		}
		d.line(class, xs, ys)
	}
	if old != nil && len(old.Percentiles) > 0 {
		draw(old, "before")
		f.Keys = append(f.Keys, key{Class: "before", Text: "before"})
	}
	draw(r, "c1")
	f.Plot = d.done()
	return f
}

func (r *Report) rateFigure(old *Report) figure {
	f := figure{
		Title:   "Requests and answers",
		Caption: "Requests that were sent, answers that came and errors among them, in each second.",
		Keys:    []key{{Class: "c1", Text: "sent"}, {Class: "c4", Text: "answered"}, {Class: "c3", Text: "errors, with unsent ones"}},
	}
	most := 0.0
	for _, of := range []*Report{r, old} {
		if of == nil {
			continue
		}
		for _, i := range of.Intervals {
			most = max(most, float64(max(i.Sent, i.Answered, i.Errors+i.Unsent))/of.IntervalS)
		}
	}
	d := newDrawing("plot-rate", f.Title+" a second", r.span(old), linear("a second", most, 5))
	draw := func(of *Report, class string, value func(*IntervalReport) int64) {
		xs, ys := of.points(func(i *IntervalReport) float64 { return float64(value(i)) / of.IntervalS })
		d.line(class, xs, ys)
	}
	answered := func(i *IntervalReport) int64 { return i.Answered }
	if old != nil {
		draw(old, "before", answered)
		f.Keys = append(f.Keys, key{Class: "before", Text: "answered before"})
	}
	xs, ys := r.points(func(i *IntervalReport) float64 {
		if i.AtS >= r.DurationS {
			return math.NaN() // nothing was to be sent any more
		}
		return float64(i.Sent) / r.IntervalS
	})
	d.line("c1", xs, ys)
	draw(r, "c4", answered)
	draw(r, "c3", func(i *IntervalReport) int64 { return i.Errors + i.Unsent })
	f.Plot = d.done()
	return f
}

// plotBars is how many bars a histogram has at most.
const plotBars = 48

func (r *Report) histogramFigure(old *Report) figure {
	f := figure{
		Title:   "How the latencies spread",
		Caption: "How many answers had which latency. Each bar is wider than the one before by the same factor.",
		Keys:    []key{{Class: "c1", Text: "now"}},
	}
	var before []Bucket
	if old != nil {
		before = old.Histogram
	}
	g := newGrid(plotBars, r.Histogram, before)
	all, before := g.bars(r.Histogram), g.bars(before)
	high := int64(0)
	for _, b := range slices.Concat(all, before) {
		high = max(high, b.Count)
	}
	d := newDrawing("plot-histogram", f.Title+": number of answers by latency in milliseconds", logarithmic("ms", all[0].From, all[len(all)-1].To), linear("answers", float64(high), 5))
	for _, b := range all {
		if b.Count > 0 {
			d.bar("c1", b.From, b.To, float64(b.Count))
		}
	}
	if before != nil {
		var xs, ys []float64
		for _, b := range before {
			xs, ys = append(xs, b.From, b.To), append(ys, float64(b.Count), float64(b.Count))
		}
		d.line("before", xs, ys)
		f.Keys = append(f.Keys, key{Class: "before", Text: "before"})
	}
	f.Plot = d.done()
	return f
}
