package loadtest

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
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
	TooFew = "too few" // a percentile that fewer than tailLeast values lie beyond, and no plain change: chance decides
)

// tailLeast is how many values there must be beyond a percentile: of 300 answers three
// are, and the p99 is what happened to one of them.
const tailLeast = 10

// noiseNote explains Noise.
const noiseNote = "noise: the loads have too few answers, or their generator was too late, to tell this change from chance."

// tooFewNote explains TooFew.
const tooFewNote = "too few: fewer than 10 of what one of the loads measured lie beyond this percentile, so that a change like this one may be chance. A p50 needs 20 of them, a p95 200, a p99 1,000: send for longer."

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
// that percentile, and the two ranges of its percentile have nothing in common. Where
// fewer than ten values of a load lie beyond a percentile, and the ranges do not tell the
// two apart, nothing is said of it but TooFew.
func Compare(old, new *Report) *Comparison {
	c := &Comparison{Unlike: unlike(old, new)}
	latency := func(name string, of distribution, q float64, at func(Quantiles) float64) {
		was, is := at(old.quantilesOf(of)), at(new.quantilesOf(of))
		if was <= 0 || is <= 0 {
			return
		}
		change := Change{Name: name, Unit: "ms", Old: was, New: is, Percent: percent(was, is)}
		change.Verdict = verdict(&change, old.Confidence[name], new.Confidence[name], max(at(old.LateMS), at(new.LateMS)))
		plain := change.Verdict == Worse && apart(old, new, name, q) || change.Verdict == Better && apart(new, old, name, q)
		if !plain && min(old.beyond(of, q), new.beyond(of, q)) < tailLeast {
			change.Verdict = TooFew
		}
		c.Changes = append(c.Changes, change)
	}
	p50 := func(q Quantiles) float64 { return q.P50 }
	p95 := func(q Quantiles) float64 { return q.P95 }
	latency("p50", latencies, 0.50, p50)
	latency("p95", latencies, 0.95, p95)
	latency("p99", latencies, 0.99, func(q Quantiles) float64 { return q.P99 })
	latency("ttft p50", firstTokens, 0.50, p50)
	latency("ttft p95", firstTokens, 0.95, p95)
	latency("itl p50", tokenGaps, 0.50, p50)
	more := func(name, unit string, was, is float64) {
		if was > 0 || is > 0 {
			c.Changes = append(c.Changes, moreIsBetter(Change{Name: name, Unit: unit, Old: was, New: is}))
		}
	}
	if slices.Equal(old.objectives(), new.objectives()) {
		more("goodput", "/s", old.Goodput, new.Goodput)
	}
	if old.TokensFrom == new.TokensFrom {
		more(new.tokenNoun(), "/s", old.TokensPerS, new.TokensPerS)
	}
	if len(old.Cache) > 0 && len(new.Cache) > 0 {
		c.Changes = append(c.Changes, points(hitRatio, old.HitRatio, new.HitRatio, Better))
	}
	c.Changes = append(c.Changes, points(errorShare, old.ErrorShare(), new.ErrorShare(), Worse))
	return c
}

// distribution is what percentiles are of.
type distribution string

// The distributions of a report: Report.Samples has how many values each has.
const (
	latencies   distribution = "latency"
	firstTokens distribution = "ttft"
	tokenGaps   distribution = "itl"
)

func (r *Report) quantilesOf(d distribution) Quantiles {
	switch d {
	case firstTokens:
		return r.TTFTMS
	case tokenGaps:
		return r.ITLMS
	}
	return r.LatencyMS
}

// beyond is how many values of a distribution lie beyond its percentile q. Reports of
// earlier versions do not say how many there are: of those it is what the histogram
// counts, else one for each answer, which of gaps between tokens is less than there are.
func (r *Report) beyond(d distribution, q float64) int64 {
	n := r.count(d)
	return n - int64(math.Ceil(float64(n)*q))
}

// count is how many values a distribution has.
func (r *Report) count(d distribution) int64 {
	n := r.Samples[string(d)]
	if n == 0 && d == latencies {
		for _, b := range r.Histogram {
			n += b.Count
		}
	}
	return cmp.Or(n, r.OK)
}

// apart tells whether the range of a latency's percentile q in one report ends below
// where that in another begins, and both ends are known: the range of the p99 of 15
// answers has no upper one, however fast the slowest of them was.
func apart(lower, higher *Report, name string, q float64) bool {
	a, b := lower.Confidence[name], higher.Confidence[name]
	n := float64(lower.count(latencies))
	_, high := ranks(n, q)
	low, _ := ranks(float64(higher.count(latencies)), q)
	return a.High > 0 && high <= n && low > 0 && a.High < b.Low
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

// objectives are those of the service level, in order.
func (r *Report) objectives() (all []string) {
	for _, o := range r.SLO {
		all = append(all, o.Objective)
	}
	slices.Sort(all)
	return all
}

// course is how the rate goes, without how long the last one is held.
func (r *Report) course() string {
	var all []string
	for i, s := range r.Stages {
		text := rateText(s.From) + ":" + rateText(s.To)
		if i < len(r.Stages)-1 || s.From != s.To {
			text += fmt.Sprintf(":%gs", s.ForS)
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
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
	if old.Loop == new.Loop {
		differ("arrivals", old.Arrivals, new.Arrivals)
		was, is := rateText(old.TargetRate)+"/s", rateText(new.TargetRate)+"/s"
		if differ("rate wanted", was, is); was == is {
			differ("course of the rate", old.course(), new.course())
		}
		differ("clients", old.Concurrency, new.Concurrency)
	}
	differ("callers", old.CallerCount, new.CallerCount)
	differ("streams", old.Stream, new.Stream)
	differ("tokens counted by", cmp.Or(old.TokensFrom, "nothing"), cmp.Or(new.TokensFrom, "nothing"))
	differ("service level", cmp.Or(strings.Join(old.objectives(), ", "), "none"), cmp.Or(strings.Join(new.objectives(), ", "), "none"))
	differ("warm-up", fmt.Sprintf("%g s", old.WarmupS), fmt.Sprintf("%g s", new.WarmupS))
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
		case change.Name == errorShare, math.Abs(change.Percent) > 100*share+roundingError:
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
	switch {
	case c.Unit != "%" && c.Old == 0 && c.New > 0:
		return "from none" // no share of nothing
	case math.Abs(c.Percent) < 0.05:
		return "0" + unit
	}
	sign := ""
	if c.Percent > 0 {
		sign = "+"
	}
	return sign + significant(c.Percent) + unit
}

// notes explain the names and the verdicts that do not explain themselves.
func (c *Comparison) notes() (all []string) {
	has := func(verdict string) bool {
		return slices.ContainsFunc(c.Changes, func(c Change) bool { return c.Verdict == verdict })
	}
	named := func(name string) bool {
		return slices.ContainsFunc(c.Changes, func(c Change) bool { return strings.HasPrefix(c.Name, name) })
	}
	if named("ttft") || named("itl") {
		all = append(all, "ttft: the time to the first token of a stream. itl: the gap between its tokens.")
	}
	if named("goodput") {
		all = append(all, "goodput: answers a second without an error, inside the service level where there is one.")
	}
	if has(Noise) {
		all = append(all, noiseNote)
	}
	if has(TooFew) {
		all = append(all, tooFewNote)
	}
	return all
}

// WriteText writes the comparison as a table of 80 columns.
func (c *Comparison) WriteText(w io.Writer) error {
	var b strings.Builder
	rows := [][]string{{"", "before", "now", "change", "verdict"}}
	for _, change := range c.Changes {
		value := func(f float64) string { return significant(f) + " " + change.Unit }
		rows = append(rows, []string{change.Name, value(change.Old), value(change.New), change.change(), change.Verdict})
	}
	widths := columnWidths(rows, []int{14, 14, 16})
	for _, row := range rows {
		b.WriteString("  " + padded(row[0], 12) + columns(row[1:4], widths) + "   " + row[4] + "\n")
	}
	for _, note := range c.notes() {
		b.WriteString("\n" + wrap(note, "  ") + "\n")
	}
	if len(c.Unlike) > 0 {
		b.WriteString("\n  The loads are not the same:\n")
		for _, text := range c.Unlike {
			b.WriteString("  " + strings.Join(fold(text, textWidth-4), "\n    ") + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
