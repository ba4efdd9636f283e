package loadtest

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// textWidth is how many columns a report needs.
const textWidth = 80

// WriteText writes the report for a terminal of 80 columns, without colour.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	r.writeHead(&b)
	r.writeCounts(&b)
	r.writeLatencies(&b)
	r.writeServer(&b)
	r.writeCallers(&b)
	r.writeHistogram(&b)
	for _, warning := range r.Warnings {
		b.WriteString("\n" + wrap("warning: "+warning, "  ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) writeHead(b *strings.Builder) {
	fmt.Fprintf(b, "%s %s\n%s\n", r.Method, clip(r.Target, textWidth-len(r.Method)-1), wrap(r.Load(), ""))
	switch r.Ended {
	case EndedErrors:
		b.WriteString("Ended before its time: too many errors.\n")
	case EndedInterrupted:
		b.WriteString("Ended before its time: interrupted.\n")
	}
	b.WriteByte('\n')
}

// Load says in words what was sent.
func (r *Report) Load() string {
	var text string
	switch {
	case r.Loop == "closed":
		text = fmt.Sprintf("Closed loop, %s", plural(int64(r.Concurrency), "client"))
	case len(r.Stages) == 1 && r.Stages[0].From == r.Stages[0].To:
		text = fmt.Sprintf("Open loop, %s/s, %s arrivals", rateText(r.TargetRate), r.Arrivals)
	default:
		text = fmt.Sprintf("Open loop, %s arrivals, %s", r.Arrivals, stagesText(r.Stages))
	}
	long := secondsText(r.DurationS)
	if r.planned > 0 {
		long = plural(r.planned, "request")
	}
	text += ", for " + long
	if r.WarmupS > 0 {
		text += fmt.Sprintf(" after a warm-up of %s", secondsText(r.WarmupS))
	}
	if r.CallerCount > 1 {
		text += fmt.Sprintf(", from %s", plural(int64(r.CallerCount), "caller"))
	}
	return text + "."
}

func stagesText(stages []StageReport) string {
	var parts []string
	for _, s := range stages {
		if s.From == s.To {
			parts = append(parts, fmt.Sprintf("%s/s for %s", rateText(s.From), secondsText(s.ForS)))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s to %s/s in %s", rateText(s.From), rateText(s.To), secondsText(s.ForS)))
	}
	return strings.Join(parts, ", ")
}

func (r *Report) writeCounts(b *strings.Builder) {
	due := r.Sent + r.Unsent
	row := func(name string, n int64, more string) {
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %-12s%10s   %s", name, grouped(n), more), " ") + "\n")
	}
	rate := rateText(r.Rate) + "/s"
	if r.Loop == "open" {
		rate += fmt.Sprintf(" (wanted %s/s)", rateText(r.TargetRate))
	}
	row("sent", r.Sent, rate)
	row("ok", r.OK, fmt.Sprintf("%s of all", share(r.OK, due-r.Unfinished)))
	failed := int64(0)
	for _, n := range r.Errors {
		failed += n
	}
	more := ""
	if failed > 0 {
		more = share(failed, due-r.Unfinished) + ": " + counts(r.Errors)
	}
	row("errors", failed, clip(more, textWidth-27))
	if r.Unfinished > 0 {
		row("unfinished", r.Unfinished, "without an answer when the load ended")
	}
	for _, kind := range slices.Sorted(maps.Keys(r.ErrorExamples)) {
		fmt.Fprintf(b, "%s%s\n", strings.Repeat(" ", 27), clip(kind+": "+r.ErrorExamples[kind], textWidth-27))
	}
	if a := r.RetryAfter; a != nil && a.Advised > 0 {
		fmt.Fprintf(b, "  %-12s%10s   of %s refusals say when to come back: half within\n%s%s s, all within %s s\n", "advice", grouped(a.Advised), grouped(a.Refused), strings.Repeat(" ", 27), significant(a.P50S), significant(a.MaxS))
	}
	if len(r.SLO) > 0 {
		fmt.Fprintf(b, "  %-12s%10s   answers a second inside the service level\n", "goodput", rateText(r.Goodput))
		for _, o := range r.SLO {
			met := "met"
			if !o.Met {
				met = "not met"
			}
			fmt.Fprintf(b, "%s%s: %s ms, %s\n", strings.Repeat(" ", 27), o.Objective, significant(o.ValueMS), met)
		}
	}
}

func (r *Report) writeLatencies(b *strings.Builder) {
	fmt.Fprintf(b, "\n  %-16s%9s%9s%9s%9s%9s%9s\n", "milliseconds", "p50", "p90", "p95", "p99", "p99.9", "max")
	row := func(name string, q Quantiles) {
		if q.Max > 0 {
			fmt.Fprintf(b, "  %-16s%9s%9s%9s%9s%9s%9s\n", name, significant(q.P50), significant(q.P90), significant(q.P95), significant(q.P99), significant(q.P999), significant(q.Max))
		}
	}
	row("latency", r.LatencyMS)
	row("first token", r.TTFTMS)
	row("between tokens", r.ITLMS)
	row("sent late", r.LateMS)
	if r.Tokens > 0 {
		from := "by the server's own count"
		if r.TokensFrom != "usage" {
			from = "counted as pieces of text"
		}
		fmt.Fprintf(b, "\n  %s tokens/s together, %s; one stream has %s tokens/s\n  (p50; the slowest tenth below %s).\n", significant(r.TokensPerS), from, significant(r.StreamSpeeds.P50), significant(r.StreamSpeeds.P10))
	}
}

// writeServer says what the answers' headers tell.
func (r *Report) writeServer(b *strings.Builder) {
	if len(r.Cache) > 0 {
		fmt.Fprintf(b, "\n  cache: %s %% hits (%s)\n", significant(100*r.HitRatio), counts(r.Cache))
	}
	if len(r.ServerTiming) > 0 {
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(r.ServerTiming)) {
			parts = append(parts, fmt.Sprintf("%s %s ms", name, significant(r.ServerTiming[name].MeanMS)))
		}
		fmt.Fprintf(b, "\n%s\n", wrap("the server's own times, on average: "+strings.Join(parts, ", "), "  "))
	}
}

func (r *Report) writeCallers(b *strings.Builder) {
	if len(r.Callers) == 0 {
		return
	}
	fmt.Fprintf(b, "\n  %-26s%10s%10s%10s%9s%9s\n", "caller", "sent", "ok", "refused", "p50 ms", "p95 ms")
	for _, c := range r.Callers {
		fmt.Fprintf(b, "  %s%10s%10s%10s%9s%9s\n", padded(clip(c.Name, 25), 26), grouped(c.Sent), grouped(c.OK), grouped(c.Refused), significant(c.P50MS), significant(c.P95MS))
	}
}

const (
	textBars = 12 // of a histogram
	barWidth = 44
)

func (r *Report) writeHistogram(b *strings.Builder) {
	bars := newGrid(textBars, r.Histogram).bars(r.Histogram)
	most := int64(0)
	for _, bar := range bars {
		most = max(most, bar.Count)
	}
	if len(bars) < 2 {
		return
	}
	b.WriteString("\n  latency in ms, and how many\n")
	for _, bar := range bars {
		width := int(math.Ceil(float64(bar.Count) / float64(most) * barWidth))
		line := fmt.Sprintf("  %7s to %-7s %9s %s", significant(bar.From), significant(bar.To), grouped(bar.Count), strings.Repeat("▇", width))
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// grid is a row of bars of equal width on a scale of logarithms; places count the
// edges of a report's buckets.
type grid struct{ from, to, step int }

// place is which edge of a bucket a latency is.
func place(ms float64) int {
	return int(math.Round(math.Log(max(ms, 0.001)*1000) / math.Log(histogramStep)))
}

// newGrid makes at most n bars for all buckets of some histograms.
func newGrid(n int, histograms ...[]Bucket) grid {
	g := grid{from: math.MaxInt, to: math.MinInt}
	for _, h := range histograms {
		if len(h) > 0 {
			g.from, g.to = min(g.from, place(h[0].To)-1), max(g.to, place(h[len(h)-1].To))
		}
	}
	g.step = max(1, (g.to-g.from+n-1)/n)
	return g
}

// bars counts what is in each bar; empty ones stay.
func (g grid) bars(buckets []Bucket) (all []Bucket) {
	if len(buckets) == 0 {
		return nil
	}
	edge := func(i int) float64 { return math.Round(math.Pow(histogramStep, float64(i))) / 1000 }
	for at := g.from; at < g.to; at += g.step {
		all = append(all, Bucket{From: edge(at), To: edge(at + g.step)})
	}
	for _, b := range buckets {
		i := (place(b.To) - 1 - g.from) / g.step
		all[min(max(i, 0), len(all)-1)].Count += b.Count
	}
	return all
}

// significant writes a number with about three digits that mean something.
func significant(f float64) string {
	switch a := math.Abs(f); {
	case f == 0:
		return "0"
	case a >= 1000:
		return grouped(int64(math.Round(f)))
	case a >= 99.95:
		return strconv.FormatFloat(f, 'f', 0, 64)
	case a >= 9.995:
		return strconv.FormatFloat(f, 'f', 1, 64)
	case a >= 0.0995:
		return strconv.FormatFloat(f, 'f', 2, 64)
	}
	return strconv.FormatFloat(f, 'f', 3, 64)
}

// grouped writes a whole number with a comma between thousands.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	var parts []string
	for len(digits) > 3 {
		parts = append(parts, digits[len(digits)-3:])
		digits = digits[:len(digits)-3]
	}
	parts = append(parts, digits)
	slices.Reverse(parts)
	return sign + strings.Join(parts, ",")
}

// share is a part of all in percent.
func share(part, all int64) string {
	if all == 0 {
		return "0 %"
	}
	percent := 100 * float64(part) / float64(all)
	switch {
	case part == all:
		return "100 %"
	case percent > 99.99: // not all
		return "99.99 %"
	case percent > 99:
		return strconv.FormatFloat(percent, 'f', 2, 64) + " %"
	}
	return significant(percent) + " %"
}

// counts lists numbers by their names, the largest first.
func counts(of map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b))
	})
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %s", name, grouped(of[name])))
	}
	return strings.Join(parts, ", ")
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return grouped(n) + " " + noun + "s"
}

// secondsText writes a time in seconds.
func secondsText(s float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(s, 'f', 2, 64), "0"), ".") + " s"
}

// clip shortens text to at most n characters, and makes it one printable line.
func clip(text string, n int) string {
	text = strings.Map(func(c rune) rune {
		if !strconv.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n-1]) + "…"
}

// padded fills text up with spaces.
func padded(text string, n int) string {
	return text + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(text)))
}

// wrap breaks text into lines of at most textWidth characters that begin with an
// indent.
func wrap(text, indent string) string {
	var lines []string
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line) > len(indent) && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > textWidth {
			lines = append(lines, line)
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}
