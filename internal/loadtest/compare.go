package loadtest

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// DefaultThreshold is the change that is worth a word: 5 %. What repeated loads on
// an otherwise idle machine differ by is mostly less.
const DefaultThreshold = 0.05

// The verdicts on a change.
const (
	Same   = "same"   // smaller than the threshold
	Noise  = "noise"  // larger, but within what so few answers can tell apart
	Better = "better" // faster, more, or fewer errors
	Worse  = "worse"
)

// errorPoints is the change of the share of errors that is worth a word.
const errorPoints = 0.005

// least is the change of a latency that is worth a word, in milliseconds: less is
// the machine's own.
const least = 0.05

// Change is one figure of two reports.
type Change struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Old     float64 `json:"old"`
	New     float64 `json:"new"`
	Percent float64 `json:"percent"` // of the old one; for a share the difference in points
	Verdict string  `json:"verdict"`
}

// Comparison is what two reports differ by.
type Comparison struct {
	Changes []Change `json:"changes"`
	// Unlike says what of the loads differs, so that the figures may not be compared.
	Unlike []string `json:"unlike,omitempty"`
}

// Compare compares a report with an older one. A latency has changed when it differs
// by more than DefaultThreshold and by more than how late the generator itself was at
// that percentile, and the two ranges of its percentile have nothing in common.
func Compare(old, new *Report) *Comparison {
	c := &Comparison{Unlike: unlike(old, new)}
	p50 := func(q Quantiles) float64 { return q.P50 }
	p95 := func(q Quantiles) float64 { return q.P95 }
	p99 := func(q Quantiles) float64 { return q.P99 }
	latency := func(name string, was, is Quantiles, at func(Quantiles) float64) {
		if at(was) <= 0 || at(is) <= 0 {
			return
		}
		change := Change{Name: name, Unit: "ms", Old: at(was), New: at(is), Percent: percent(at(was), at(is))}
		change.Verdict = verdict(&change, old.Confidence[name], new.Confidence[name], max(at(old.LateMS), at(new.LateMS)))
		c.Changes = append(c.Changes, change)
	}
	latency("p50", old.LatencyMS, new.LatencyMS, p50)
	latency("p95", old.LatencyMS, new.LatencyMS, p95)
	latency("p99", old.LatencyMS, new.LatencyMS, p99)
	latency("ttft p50", old.TTFTMS, new.TTFTMS, p50)
	latency("ttft p95", old.TTFTMS, new.TTFTMS, p95)
	latency("itl p50", old.ITLMS, new.ITLMS, p50)
	more := func(name, unit string, was, is float64) {
		if was > 0 || is > 0 {
			c.Changes = append(c.Changes, moreIsBetter(Change{Name: name, Unit: unit, Old: was, New: is}))
		}
	}
	more("goodput", "/s", old.Goodput, new.Goodput)
	more("tokens", "/s", old.TokensPerS, new.TokensPerS)
	if len(old.Cache) > 0 && len(new.Cache) > 0 {
		c.Changes = append(c.Changes, points(hitRatio, old.HitRatio, new.HitRatio, Better))
	}
	c.Changes = append(c.Changes, points(errorShare, old.ErrorShare(), new.ErrorShare(), Worse))
	return c
}

// verdict judges the change of a latency with the ranges that its two values are in,
// empty where they are not known.
func verdict(c *Change, was, is Range, late float64) string {
	differ := math.Abs(c.New - c.Old)
	switch {
	case differ <= DefaultThreshold*c.Old || differ < least:
		return Same
	case differ <= late, was.High > 0 && is.High > 0 && was.High >= is.Low && is.High >= was.Low:
		return Noise
	case c.New < c.Old:
		return Better
	}
	return Worse
}

func percent(was, is float64) float64 {
	if was == 0 {
		return 0
	}
	return rounded(100 * (is - was) / was)
}

func moreIsBetter(c Change) Change {
	c.Old, c.New, c.Percent, c.Verdict = rounded(c.Old), rounded(c.New), percent(c.Old, c.New), Same
	switch {
	case c.New > c.Old*(1+DefaultThreshold):
		c.Verdict = Better
	case c.New < c.Old*(1-DefaultThreshold):
		c.Verdict = Worse
	}
	return c
}

// The figures that are shares: they change by points.
const (
	hitRatio   = "hit ratio"
	errorShare = "errors"
)

// points compares two shares; risen is the verdict on one that has risen.
func points(name string, was, is float64, risen string) Change {
	c := Change{Name: name, Unit: "%", Old: rounded(100 * was), New: rounded(100 * is), Percent: rounded(100 * (is - was)), Verdict: Same}
	least := errorPoints
	if name == hitRatio {
		least = DefaultThreshold
	}
	switch fallen := map[string]string{Better: Worse, Worse: Better}[risen]; {
	case is-was >= least:
		c.Verdict = risen
	case was-is >= least:
		c.Verdict = fallen
	}
	return c
}

// unlike says what makes two loads different ones.
func unlike(old, new *Report) (all []string) {
	differ := func(what string, was, is any) {
		if was != is {
			all = append(all, fmt.Sprintf("%s: was %v, is %v", what, was, is))
		}
	}
	differ("target", old.Method+" "+old.Target, new.Method+" "+new.Target)
	differ("loop", old.Loop, new.Loop)
	differ("arrivals", old.Arrivals, new.Arrivals)
	differ("rate wanted", old.TargetRate, new.TargetRate)
	differ("clients", old.Concurrency, new.Concurrency)
	differ("callers", old.CallerCount, new.CallerCount)
	differ("streams", old.Stream, new.Stream)
	differ("cores of the generator", old.Cores, new.Cores)
	return all
}

// Slower gives the changes that a share makes failures of: latencies that are worse
// by more than it and not by noise, goodput and tokens that are less by more than it,
// and more errors.
func (c *Comparison) Slower(share float64) (all []Change) {
	for _, change := range c.Changes {
		switch {
		case change.Verdict != Worse || change.Name == hitRatio:
		case change.Name == errorShare, math.Abs(change.Percent) > 100*share:
			all = append(all, change)
		}
	}
	return all
}

// String is the change in words: p95 12.0 ms to 13.4 ms, +12 % (worse).
func (c Change) String() string {
	return fmt.Sprintf("%s %s %s to %s %s, %s (%s)", c.Name, significant(c.Old), c.Unit, significant(c.New), c.Unit, c.change(), c.Verdict)
}

// change is the difference with its sign.
func (c Change) change() string {
	unit := " %"
	if c.Name == errorShare || c.Name == hitRatio {
		unit = " points"
	}
	if math.Abs(c.Percent) < 0.05 {
		return "0" + unit
	}
	sign := ""
	if c.Percent > 0 {
		sign = "+"
	}
	return sign + significant(c.Percent) + unit
}

// WriteText writes the comparison as a table of 80 columns.
func (c *Comparison) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "  %-12s%14s%14s%16s   %s\n", "", "before", "now", "change", "verdict")
	for _, change := range c.Changes {
		value := func(f float64) string { return significant(f) + " " + change.Unit }
		fmt.Fprintf(&b, "  %-12s%14s%14s%16s   %s\n", change.Name, value(change.Old), value(change.New), change.change(), change.Verdict)
	}
	if len(c.Unlike) > 0 {
		b.WriteString("\n  The loads are not the same:\n")
		for _, text := range c.Unlike {
			b.WriteString("  " + clip(text, textWidth-2) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
