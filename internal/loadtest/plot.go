package loadtest

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// The size of a plot in its own units. It is small, so that its texts can be read
// where it is as wide as a telephone.
const (
	plotWidth  = 480.0
	plotHeight = 270.0
	plotLeft   = 50.0
	plotRight  = 468.0
	plotTop    = 12.0
	plotBottom = 226.0
	tickLength = 4.0
)

// axis places values.
type axis struct {
	label    string
	from, to float64
	log      bool
	ticks    []float64
	write    func(float64) string
}

// place is where a value is between two ends of the plot.
func (a *axis) place(v, begin, end float64) float64 {
	from, to := a.from, a.to
	if a.log {
		v, from, to = math.Log(max(v, a.from)), math.Log(from), math.Log(to)
	}
	if to <= from {
		return begin
	}
	return begin + (min(max(v, from), to)-from)/(to-from)*(end-begin)
}

// linear is an axis from 0 on, with about n ticks at round values.
func linear(label string, most float64, n int) *axis {
	if most <= 0 || math.IsInf(most, 0) {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most/float64(n))))
	for _, factor := range []float64{1, 2, 5, 10} {
		if factor*step*float64(n) >= most {
			step *= factor
			break
		}
	}
	a := &axis{label: label, to: math.Ceil(most/step) * step, write: tick}
	for i := 0; float64(i)*step <= a.to*(1+roundingError); i++ {
		a.ticks = append(a.ticks, float64(i)*step)
	}
	return a
}

// logarithmic is an axis with ticks at 1, 2 and 5 of each power of ten, or at the
// powers alone where there are many.
func logarithmic(label string, least, most float64) *axis {
	least = max(least, 0.001)
	most = max(most, least*1.01)
	var all []float64
	for power := math.Floor(math.Log10(least)); power <= math.Ceil(math.Log10(most)); power++ {
		for _, factor := range []float64{1, 2, 5} {
			all = append(all, factor*math.Pow(10, power))
		}
	}
	for len(all) > 1 && all[1] <= least*(1+roundingError) {
		all = all[1:]
	}
	for len(all) > 1 && all[len(all)-2] >= most*(1-roundingError) {
		all = all[:len(all)-1]
	}
	a := &axis{label: label + ", logarithmic", log: true, from: all[0], to: all[len(all)-1], ticks: all, write: tick}
	if len(all) > 10 {
		a.ticks = nil
		for _, v := range all {
			if l := math.Log10(v); math.Abs(l-math.Round(l)) < roundingError {
				a.ticks = append(a.ticks, v)
			}
		}
	}
	return a
}

// latencyAxis is logarithmic where the longest would make the others a flat line.
func latencyAxis(least, most float64) *axis {
	if least > 0 && most > 10*least {
		return logarithmic("ms", least, most)
	}
	return linear("ms", most, 5)
}

func tick(v float64) string {
	if math.Abs(v) >= 10_000 {
		return strconv.FormatFloat(v/1000, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// drawing is a plot that is being made. All text in it is escaped.
type drawing struct {
	strings.Builder
	x, y *axis
}

// coordinate writes a number of the plot's own units.
func coordinate(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// newDrawing begins a plot with its axes. id is that of its title, which screen
// readers speak.
func newDrawing(id, title string, x, y *axis) *drawing {
	d := &drawing{x: x, y: y}
	fmt.Fprintf(d, `<svg viewBox="0 0 %g %g" role="img" aria-labelledby="%s"><title id="%s">%s</title>`, plotWidth, plotHeight, id, id, html.EscapeString(title))
	for _, v := range y.ticks {
		at := coordinate(y.place(v, plotBottom, plotTop))
		fmt.Fprintf(d, `<path class="grid" d="M%g %sH%g"/><text class="tick" x="%g" y="%s" text-anchor="end" dominant-baseline="middle">%s</text>`,
			plotLeft, at, plotRight, plotLeft-6, at, html.EscapeString(y.write(v)))
	}
	for _, v := range x.ticks {
		at := coordinate(x.place(v, plotLeft, plotRight))
		fmt.Fprintf(d, `<path class="axis" d="M%s %gv%g"/><text class="tick" x="%s" y="%g" text-anchor="middle">%s</text>`,
			at, plotBottom, tickLength, at, plotBottom+21, html.EscapeString(x.write(v)))
	}
	fmt.Fprintf(d, `<path class="axis" d="M%g %gH%g"/>`, plotLeft, plotBottom, plotRight)
	fmt.Fprintf(d, `<text class="tick" x="%g" y="%g" text-anchor="end">%s</text>`, plotRight, plotHeight-4, html.EscapeString(x.label))
	fmt.Fprintf(d, `<text class="tick" x="%g" y="%g">%s</text>`, 2.0, plotHeight-4, html.EscapeString("↑ "+y.label))
	return d
}

// line draws a series; where a value is not a number it has a gap.
func (d *drawing) line(class string, xs, ys []float64) {
	var path strings.Builder
	pen, points := "M", 0
	for i := range xs {
		if math.IsNaN(ys[i]) {
			pen = "M"
			continue
		}
		x, y := coordinate(d.x.place(xs[i], plotLeft, plotRight)), coordinate(d.y.place(ys[i], plotBottom, plotTop))
		alone := pen == "M" && (i+1 == len(xs) || math.IsNaN(ys[i+1]))
		if alone {
			fmt.Fprintf(d, `<circle class="dot %s" cx="%s" cy="%s" r="3"/>`, class, x, y)
			continue
		}
		fmt.Fprintf(&path, "%s%s %s", pen, x, y)
		pen = "L"
		points++
	}
	if points > 0 {
		fmt.Fprintf(d, `<path class="line %s" d="%s"/>`, class, &path)
	}
}

// bar draws one bar of a histogram.
func (d *drawing) bar(class string, from, to, value float64) {
	left, right := d.x.place(from, plotLeft, plotRight), d.x.place(to, plotLeft, plotRight)
	top := d.y.place(value, plotBottom, plotTop)
	fmt.Fprintf(d, `<rect class="bar %s" x="%s" y="%s" width="%s" height="%s"/>`,
		class, coordinate(left), coordinate(top), coordinate(max(right-left-1, 1)), coordinate(plotBottom-top))
}

// rowsLeft is where the axis of a plot of rows begins: the names are above the lines.
const rowsLeft = 8.0

// rows begins a plot with a line for each of several things.
func (d *drawing) rows(id, title string, height float64) {
	fmt.Fprintf(d, `<svg viewBox="0 0 %g %g" role="img" aria-labelledby="%s"><title id="%s">%s</title>`, plotWidth, height+42, id, id, html.EscapeString(title))
	for i, v := range d.x.ticks {
		at := coordinate(d.x.place(v, rowsLeft, plotRight))
		anchor := "middle"
		switch i {
		case 0:
			anchor = "start"
		case len(d.x.ticks) - 1:
			anchor = "end"
		}
		fmt.Fprintf(d, `<path class="grid" d="M%s 0V%g"/><text class="tick" x="%s" y="%g" text-anchor="%s">%s</text>`,
			at, height, at, height+18, anchor, html.EscapeString(d.x.write(v)))
	}
	fmt.Fprintf(d, `<text class="tick" x="%g" y="%g" text-anchor="end">%s</text>`, plotRight, height+36, html.EscapeString(d.x.label))
}

// text writes a line of text.
func (d *drawing) text(x, y float64, text string) {
	fmt.Fprintf(d, `<text class="name" x="%g" y="%g">%s</text>`, x, y, html.EscapeString(clip(text, 60)))
}

// row draws the values of one thing, the smallest first.
func (d *drawing) row(y float64, values []float64) {
	at := func(v float64) string { return coordinate(d.x.place(v, rowsLeft, plotRight)) }
	from := values[0]
	if len(values) == 1 {
		from = d.x.from
	}
	fmt.Fprintf(d, `<path class="range" d="M%s %gH%s"/>`, at(from), y, at(values[len(values)-1]))
	for i, v := range values {
		fmt.Fprintf(d, `<circle class="dot c%d" cx="%s" cy="%g" r="5"/>`, i+1, at(v), y)
	}
}

// done ends the plot.
func (d *drawing) done() template.HTML {
	d.WriteString("</svg>")
	return template.HTML(d.String())
}
