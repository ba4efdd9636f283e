package admin

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/inferweir/weir/gateway"
)

// shownFew is how many rows a list has that is only the beginning of another page.
const shownFew = 5

func (d *dashboard) overviewPage() page {
	return page{
		path: "/", title: "Overview", template: "overview",
		about:   "What the gateway does now, and what needs a look.",
		regions: []string{"figures", "charts", "slow", "refused", "latest"},
		charts:  true,
		data:    func(v *view) (any, error) { return d.overview(&v.Snapshot), nil },
	}
}

// overviewData is what the overview shows beside the snapshot.
type overviewData struct {
	Try              string // a command that makes a request
	TryNeedsKey      bool   // it has the key of a caller from the environment
	Waiting, Running int64
	Charts           []chart
	Span             string // how long the charts go back
	Slow             []gateway.RouteSnapshot
	Refused          []gateway.CallerSnapshot
	Events           []gateway.EventSnapshot
}

func (d *dashboard) overview(s *gateway.Snapshot) overviewData {
	o := overviewData{
		Try: try(d.gateway.Config()), TryNeedsKey: d.gateway.Config().Callers.Require, Charts: chartsOf(&s.Series), Span: spanOf(&s.Series),
		Events: s.Events[:min(shownFew, len(s.Events))],
	}
	for _, u := range s.Upstreams {
		o.Running += int64(u.Running)
		for _, n := range u.Waiting {
			o.Waiting += int64(n)
		}
	}
	for _, r := range s.Routes {
		if r.Requests > 0 {
			o.Slow = append(o.Slow, r)
		}
	}
	slices.SortStableFunc(o.Slow, func(a, b gateway.RouteSnapshot) int { return cmp.Compare(b.Latency.P95, a.Latency.P95) })
	o.Slow = o.Slow[:min(shownFew, len(o.Slow))]
	for _, c := range s.Callers {
		if c.Refused+c.Shed > 0 {
			o.Refused = append(o.Refused, c)
		}
	}
	slices.SortStableFunc(o.Refused, func(a, b gateway.CallerSnapshot) int {
		return cmp.Compare(b.Refused+b.Shed, a.Refused+a.Shed)
	})
	o.Refused = o.Refused[:min(shownFew, len(o.Refused))]
	return o
}

// chart is a figure of lines over time, and the same in a table.
type chart struct {
	ID, Title, Unit, Help string
	Lines                 []line
}

// line is one series of a chart. Color is a class of the stylesheet. Points are where it
// goes in a field of 600 by 100, for browsers without script.
type line struct {
	Name, Color, Now, Most string
	Points                 []string // one for each piece without a gap
}

func chartsOf(s *gateway.Series) []chart {
	return []chart{
		chartOf(chart{ID: "traffic", Title: "Traffic", Unit: "a second", Help: "Requests that ended in each step, a second: all, errors, and those refused: over a quota, by the queue, without a valid key, or because the shared store is away."},
			rate, drawn{"requests", "c1", s.Rate}, drawn{"errors", "c3", s.Errors}, drawn{"refused", "c4", s.Refused}),
		chartOf(chart{ID: "latency", Title: "Latency", Unit: "milliseconds", Help: "The time within which 50, 95 and 99 of 100 requests of each step were answered completely, by a model or the cache. Where the line stops there was none."},
			millis, drawn{"p50", "c2", known(s.P50)}, drawn{"p95", "c1", known(s.P95)}, drawn{"p99", "c3", known(s.P99)}),
		chartOf(chart{ID: "cache", Title: "Cache", Unit: "share of requests", Help: "The share of the requests for which the cache was asked that it answered, in each step. Where the line stops it was not asked."},
			percent, drawn{"hit ratio", "c2", known(s.Hits)}),
		chartOf(chart{ID: "saved", Title: "Model time saved", Unit: "seconds a second", Help: "How many seconds of model time each second of the clock saved, because answers came from the cache. 3 is as much as three more models that are always busy."},
			func(v float64) string { return significant(v) + " s/s" }, drawn{"saved", "c2", s.Saved}),
		chartOf(chart{ID: "queue", Title: "Queue", Unit: "requests", Help: "Requests that waited for a place at an upstream, and that had one, at the end of each step."},
			func(v float64) string { return count(v) }, drawn{"waiting", "c4", s.Waiting}, drawn{"running", "c1", s.Running}),
	}
}

type drawn struct {
	name, color string
	values      []float64 // NaN where there is none
}

// known are values with NaN for those that there are not.
func known(values []*float64) []float64 {
	all := make([]float64, len(values))
	for i, v := range values {
		all[i] = math.NaN()
		if v != nil {
			all[i] = *v
		}
	}
	return all
}

// highest is the highest of values, NaN where there is none.
func highest(values []float64) float64 {
	most := math.NaN()
	for _, v := range values {
		if !(v <= most) && !math.IsNaN(v) {
			most = v
		}
	}
	return most
}

func chartOf(c chart, format func(float64) string, lines ...drawn) chart {
	most := 0.0
	for _, l := range lines {
		if v := highest(l.values); v > most {
			most = v
		}
	}
	for _, l := range lines {
		one := line{Name: l.name, Color: l.color, Now: none, Most: none, Points: points(l.values, most)}
		if v := highest(l.values); !math.IsNaN(v) {
			one.Most = format(v)
		}
		if n := len(l.values); n > 0 && !math.IsNaN(l.values[n-1]) {
			one.Now = format(l.values[n-1])
		}
		c.Lines = append(c.Lines, one)
	}
	return c
}

// points are values as lines in a field of 600 by 100, most at its top. Where there is no
// value a line ends; one of a single value is as long as a step.
func points(values []float64, most float64) (lines []string) {
	if len(values) < 2 {
		return nil
	}
	step, at := 600/float64(len(values)-1), ""
	for i, v := range values {
		if math.IsNaN(v) {
			at = ""
			continue
		}
		y := 99.0
		if most > 0 {
			y -= v / most * 98
		}
		level := "," + strconv.FormatFloat(y, 'f', 1, 64)
		point := strconv.FormatFloat(float64(i)*step, 'f', 1, 64) + level
		switch alone := i+1 == len(values) || math.IsNaN(values[i+1]); {
		case at != "":
			lines[len(lines)-1] += " " + point
		case alone:
			lines = append(lines, strconv.FormatFloat((float64(i)-0.5)*step, 'f', 1, 64)+level+" "+strconv.FormatFloat((float64(i)+0.5)*step, 'f', 1, 64)+level)
		default:
			lines = append(lines, point)
		}
		at = point
	}
	return lines
}

// spanOf is how long the series go back.
func spanOf(s *gateway.Series) string {
	return period(s.StepS * float64(max(len(s.Rate), 1)))
}
