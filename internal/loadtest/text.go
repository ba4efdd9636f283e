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

// cpuLeastRate is the rate below which the CPU time of a request is more than its own.
const cpuLeastRate = 50

// cpuNote says of the CPU times of a matrix what must be known to read them; "" where
// there is nothing.
func (m *Matrix) cpuNote() string {
	slow, known := 0, 0
	for i := range m.Runs {
		if m.Runs[i].CPUMicros > 0 {
			known++
			if m.Runs[i].Report.Rate < cpuLeastRate {
				slow++
			}
		}
	}
	if slow == 0 {
		return ""
	}
	return fmt.Sprintf("CPU µs: %d of %s had fewer than %d requests a second. What the server does while it is idle is then divided among few requests: at a higher rate each has less.",
		slow, plural(int64(known), "run"), cpuLeastRate)
}

// verdictNotes explain the verdicts on runs beside the first.
func (m *Matrix) verdictNotes() []string {
	c := &Comparison{}
	for i := range m.Runs {
		c.Changes = append(c.Changes, m.beside(i)...)
	}
	return c.notes()
}

// notes are all that is said below the table of a matrix.
func (m *Matrix) notes() []string {
	all := m.verdictNotes()
	if note := m.cpuNote(); note != "" {
		all = append([]string{note}, all...)
	}
	return all
}

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

// detailIndent is where what is said of a number begins.
const detailIndent = 27

// detail writes a line that begins with a name and a number, and wraps what is said of
// them below itself.
func detail(b *strings.Builder, name, number, text string) {
	lines := fold(text, textWidth-detailIndent)
	for i, line := range lines {
		if i > 0 {
			name, number = "", ""
		}
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %-12s%10s   %s", name, number, line), " ") + "\n")
	}
}

func (r *Report) writeCounts(b *strings.Builder) {
	due := r.Sent + r.Unsent - r.Unfinished
	rate := rateText(r.Rate) + "/s"
	if r.Loop == "open" {
		rate += fmt.Sprintf(" (wanted %s/s)", rateText(r.wanted()))
	}
	detail(b, "sent", grouped(r.Sent), rate)
	detail(b, "ok", grouped(r.OK), share(r.OK, due)+" of all")
	failed := r.failed()
	more := ""
	if failed > 0 {
		more = share(failed, due) + " of all: " + counts(r.Errors, "%[2]s × %[1]s")
	}
	detail(b, "errors", grouped(failed), more)
	if r.Unfinished > 0 {
		detail(b, "unfinished", grouped(r.Unfinished), "without an answer when the load ended")
	}
	for _, kind := range slices.Sorted(maps.Keys(r.ErrorExamples)) {
		detail(b, "", "", kind+": "+r.ErrorExamples[kind])
	}
	if a := r.RetryAfter; a != nil && a.Advised > 0 {
		detail(b, "advice", grouped(a.Advised), fmt.Sprintf("of %s refusals say when to come back: half %s, all %s",
			grouped(a.Refused), withinText(a.P50S), withinText(a.MaxS)))
	}
	if len(r.SLO) > 0 {
		detail(b, "goodput", rateText(r.Goodput)+"/s", "answers inside the service level")
	}
	for _, o := range r.SLO {
		detail(b, "", "", o.Objective+": "+o.verdict())
	}
}

// verdict says in words whether an objective was met.
func (o ObjectiveReport) verdict() string {
	switch {
	case o.Met:
		return measure(o.ValueMS) + " ms, met"
	case o.ValueMS > 0:
		return measure(o.ValueMS) + " ms, not met"
	}
	return "nothing to measure it by, not met"
}

func (r *Report) writeLatencies(b *strings.Builder) {
	rows := [][]string{{"milliseconds", "p50", "p90", "p95", "p99", "p99.9", "max"}}
	add := func(name string, q Quantiles) {
		if q.Max > 0 || name == "latency" {
			rows = append(rows, []string{name, measure(q.P50), measure(q.P90), measure(q.P95), measure(q.P99), measure(q.P999), measure(q.Max)})
		}
	}
	add("latency", r.LatencyMS)
	add("first token", r.TTFTMS)
	add("between tokens", r.ITLMS)
	add("sent late", r.LateMS)
	b.WriteByte('\n')
	widths := columnWidths(rows, slices.Repeat([]int{9}, 6))
	for _, row := range rows {
		b.WriteString("  " + padded(row[0], 16) + columns(row[1:], widths) + "\n")
	}
	for _, text := range []string{r.tokensText(), r.usageNote()} {
		if text != "" {
			b.WriteString("\n" + wrap(text, "  ") + "\n")
		}
	}
}

// tokenNoun is what Tokens counts.
func (r *Report) tokenNoun() string {
	if r.TokensFrom == FromUsage {
		return "tokens"
	}
	return "pieces"
}

// tokensText says how many tokens a second there were, or pieces; "" where there were
// none.
func (r *Report) tokensText() string {
	if r.Tokens <= 0 {
		return ""
	}
	noun := r.tokenNoun()
	text := fmt.Sprintf("%s %s/s of all streams together", significant(r.TokensPerS), noun)
	if r.StreamSpeeds.P50 > 0 {
		text += fmt.Sprintf(", %s/s of a single one (median; the slowest tenth has at most %s/s)", significant(r.StreamSpeeds.P50), significant(r.StreamSpeeds.P10))
	}
	return text + "."
}

// usageNote says what tokens are counted by.
func (r *Report) usageNote() string {
	switch {
	case r.Tokens <= 0:
		return ""
	case r.TokensFrom == FromUsage:
		return "Tokens are the server's own count, which all streams had."
	case r.Streams == 0:
		return "A piece is an event with text, of one token or more." // a report of an earlier version
	}
	none := "no stream said how many tokens it had"
	if r.StreamsWithUsage > 0 {
		none = fmt.Sprintf("%s of %s said how many tokens they had (%s)", grouped(r.StreamsWithUsage), plural(r.Streams, "stream"), share(r.StreamsWithUsage, r.Streams))
	}
	return "A piece is an event with text, of one token or more. All streams are counted by pieces: " + none + "."
}

// writeServer says what the answers' headers tell.
func (r *Report) writeServer(b *strings.Builder) {
	if len(r.Cache) > 0 {
		fmt.Fprintf(b, "\n  cache: %s %% hits (%s)\n", significant(100*r.HitRatio), counts(r.Cache, "%s %s"))
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
	head, rows := r.callerRows()
	note := r.callerNote()
	if note == "" {
		return
	}
	b.WriteByte('\n')
	if len(rows) > 0 {
		all := append([][]string{head}, rows...)
		widths := columnWidths(all, slices.Repeat([]int{9}, len(head)-1))
		name := textWidth - 2
		for _, width := range widths {
			name -= width
		}
		name = max(name, 12)
		for _, row := range all {
			b.WriteString("  " + padded(clip(row[0], name-1), name) + columns(row[1:], widths) + "\n")
		}
	}
	b.WriteString(wrap(note, "  ") + "\n")
}

// columnWidths are how wide the columns of a table are behind its first one: as wide as
// what is in them and a space, and not less than least.
func columnWidths(rows [][]string, least []int) []int {
	widths := slices.Clone(least)
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i+1])+1)
		}
	}
	return widths
}

// columns are the cells of a row, each at the right of its column.
func columns(cells []string, widths []int) string {
	var b strings.Builder
	for i, cell := range cells {
		fmt.Fprintf(&b, "%*s", widths[i], cell)
	}
	return b.String()
}

// callerRows are the table of callers. What was cut off has a column where there is
// any.
func (r *Report) callerRows() (head []string, rows [][]string) {
	head = []string{"caller", "sent", "ok", "refused", "errors"}
	if r.Unfinished > 0 {
		head = append(head, "unfinished")
	}
	head = append(head, "p50 ms", "p95 ms")
	for _, c := range r.Callers {
		row := []string{c.Name, grouped(c.Sent), grouped(c.OK), grouped(c.Refused), grouped(c.Errors)}
		if r.Unfinished > 0 {
			row = append(row, grouped(c.Unfinished))
		}
		rows = append(rows, append(row, measure(c.P50MS), measure(c.P95MS)))
	}
	return head, rows
}

// callerNote says what must be known to read the table of callers, or why there is none.
func (r *Report) callerNote() string {
	if len(r.Callers) == 0 {
		if r.CallerCount > maxNamed {
			return fmt.Sprintf("%s: a table of them is made of up to %d.", plural(int64(r.CallerCount), "caller"), maxNamed)
		}
		return ""
	}
	note := "Refused is 429 and 503, errors are all others. Times of callers are of answers without an error, in steps of 2 %: coarser than those of all requests."
	if r.Unsent > 0 {
		note += " Requests that were never sent are no caller's."
	}
	return note
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
	case f > 0 && f < 0.0005:
		return "<0.001"
	}
	return strconv.FormatFloat(f, 'f', 3, 64)
}

// measure writes a time that was measured, or a dash where none was: no time is 0.
func measure(ms float64) string {
	if ms == 0 {
		return "–"
	}
	return significant(ms)
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

// counts lists names with their numbers, the largest first.
func counts(of map[string]int64, format string) string {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		return cmp.Or(cmp.Compare(of[b], of[a]), cmp.Compare(a, b))
	})
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, fmt.Sprintf(format, name, grouped(of[name])))
	}
	return strings.Join(parts, ", ")
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return grouped(n) + " " + noun + "s"
}

// pluralWere is a number of things in the past.
func pluralWere(n int64, noun string) string {
	if n == 1 {
		return plural(n, noun) + " was"
	}
	return plural(n, noun) + " were"
}

// secondsText writes a time in seconds.
func secondsText(s float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(s, 'f', 2, 64), "0"), ".") + " s"
}

// withinText is how long a wait is at most, in words.
func withinText(s float64) string {
	if s == 0 {
		return "at once"
	}
	return "within " + significant(s) + " s"
}

// printable makes one line of text that a terminal shows as it is.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if !strconv.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
}

// clip shortens text to at most n characters, and makes it one printable line.
func clip(text string, n int) string {
	text = printable(text)
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
	lines := fold(text, textWidth-len(indent))
	return indent + strings.Join(lines, "\n"+indent)
}

// fold breaks text into printable lines of at most width characters: between words,
// and within those that are longer than a line. There is at least one line.
func fold(text string, width int) (lines []string) {
	var line []rune
	for word := range strings.FieldsSeq(printable(text)) {
		w := []rune(word)
		if len(line) > 0 && len(line)+1+len(w) > width {
			lines, line = append(lines, string(line)), nil
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		for line = append(line, w...); len(line) > width; line = line[width:] {
			lines = append(lines, string(line[:width]))
		}
	}
	return append(lines, string(line))
}
