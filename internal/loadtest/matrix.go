package loadtest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// MatrixRun is one load of several, each against another configuration.
type MatrixRun struct {
	Name      string            `json:"name"`
	Turn      int               `json:"turn"` // from 1; more where all were run several times
	Set       map[string]any    `json:"set,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	CPUMicros float64           `json:"cpu_us,omitzero"`    // CPU time of the server for each request, in microseconds; 0: not known
	RSSBytes  int64             `json:"rss_bytes,omitzero"` // memory of the server at the end; 0: not known
	Report    *Report           `json:"report"`
}

// MissingRun is a run that has no report.
type MissingRun struct {
	Name string `json:"name"`
	Turn int    `json:"turn"`
	Why  string `json:"why"`
}

// Matrix is what one load over several configurations has shown.
type Matrix struct {
	Name string `json:"name"`
	// Base is the run that the others of its turn are compared with. Default: the first
	// of Runs.
	Base    string       `json:"base,omitempty"`
	Runs    []MatrixRun  `json:"runs"`
	Missing []MissingRun `json:"missing,omitempty"`
}

// label is the name of a run, with its turn where there are several.
func (m *Matrix) label(name string, turn int) string {
	later := func(r MatrixRun) bool { return r.Turn > 1 }
	missing := func(r MissingRun) bool { return r.Turn > 1 }
	if slices.ContainsFunc(m.Runs, later) || slices.ContainsFunc(m.Missing, missing) {
		return fmt.Sprintf("%s #%d", name, turn)
	}
	return name
}

func (m *Matrix) labelAt(i int) string { return m.label(m.Runs[i].Name, m.Runs[i].Turn) }

func (m *Matrix) base() string {
	if m.Base == "" {
		return m.Runs[0].Name
	}
	return m.Base
}

// sets says in words what a run changes.
func (r *MatrixRun) sets() string {
	var parts []string
	for _, path := range slices.Sorted(maps.Keys(r.Set)) {
		parts = append(parts, path+": "+asWritten(r.Set[path]))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		parts = append(parts, name+"="+r.Env[name])
	}
	if len(parts) == 0 {
		return "the file as it is"
	}
	return strings.Join(parts, ", ")
}

// asWritten is a value much as a plan has it: JSON is YAML.
func asWritten(value any) string {
	switch value.(type) {
	case map[string]any, []any:
		if text, err := json.Marshal(value); err == nil {
			return string(text)
		}
	case nil:
		return "null"
	}
	return fmt.Sprint(value)
}

// figures are the columns of a run, from its rate on: what was sent a second, and what
// was answered well, which is what its configuration can do.
func (r *MatrixRun) figures() []string {
	p := r.Report
	hits, cpu, rss := "–", "–", "–"
	latency := func(ms float64) string {
		if ms == 0 { // nothing was answered
			return "–"
		}
		return significant(ms)
	}
	if len(p.Cache) > 0 {
		hits = significant(100*p.HitRatio) + " %"
	}
	if r.CPUMicros > 0 {
		cpu = significant(r.CPUMicros)
	}
	if r.RSSBytes > 0 {
		rss = grouped(r.RSSBytes >> 20)
	}
	return []string{
		rateText(p.Rate), rateText(p.OKPerS), latency(p.LatencyMS.P50), latency(p.LatencyMS.P95), latency(p.LatencyMS.P99),
		strings.Replace(fmt.Sprintf("%.1f %%", 100*p.ErrorShare()), "100.0", "100", 1), hits, cpu, rss,
	}
}

// WriteText writes the table for a terminal of 80 columns, and what changes beside
// the first run of each turn.
func (m *Matrix) WriteText(w io.Writer) error {
	if len(m.Runs) == 0 {
		return nil
	}
	var b strings.Builder
	first := m.Runs[0].Report
	fmt.Fprintf(&b, "%s\n%s\n\n", clip(m.Name, textWidth), wrap(first.Load(), ""))
	rows := [][]string{{"", "sent/s", "ok/s", "p50 ms", "p95 ms", "p99 ms", "errors", "hits", "CPU µs", "MiB"}}
	for i := range m.Runs {
		rows = append(rows, append([]string{m.labelAt(i)}, m.Runs[i].figures()...))
	}
	widths := columnWidths(rows, []int{7, 7, 7, 7, 7, 7, 8, 7, 6})
	for _, row := range rows {
		b.WriteString(padded(clip(row[0], 16), 17) + columns(row[1:], widths) + "\n")
	}
	if note := m.cpuNote(); note != "" {
		b.WriteString("\n" + wrap(note, "  ") + "\n")
	}
	if len(first.SLO) > 0 {
		b.WriteString("\nInside the service level:\n" + m.levelText())
	}
	if text := m.besideText(); text != "" {
		fmt.Fprintf(&b, "\nBeside %q:\n%s", m.base(), text)
	}
	for _, note := range m.verdictNotes() {
		b.WriteString("\n" + wrap(note, "  ") + "\n")
	}
	for _, warning := range m.warnings() {
		b.WriteString("\n" + wrap("warning: "+warning, "  ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// levelText says how much of each run was inside the service level.
func (m *Matrix) levelText() string {
	var b strings.Builder
	for i := range m.Runs {
		p := m.Runs[i].Report
		parts := []string{rateText(p.Goodput) + "/s"}
		for _, o := range p.SLO {
			parts = append(parts, o.Objective+": "+o.verdict())
		}
		b.WriteString(wrap(m.labelAt(i)+": "+strings.Join(parts, "; "), "  ") + "\n")
	}
	return b.String()
}

// missing says which runs have no report, those with the same reason together.
func (m *Matrix) missing() (all []string) {
	var reasons []string
	names := map[string][]string{}
	for _, r := range m.Missing {
		if names[r.Why] == nil {
			reasons = append(reasons, r.Why)
		}
		names[r.Why] = append(names[r.Why], m.label(r.Name, r.Turn))
	}
	for _, why := range reasons {
		all = append(all, "missing: "+strings.Join(names[why], ", ")+": "+why)
	}
	return all
}

// warnings are what is missing, and those of all runs; what the generator did to many of
// them is said once.
func (m *Matrix) warnings() []string {
	all := m.missing()
	late, most := 0, 0.0
	for i := range m.Runs {
		r := m.Runs[i].Report
		for _, warning := range r.Warnings {
			if !strings.Contains(warning, lateWhy) {
				all = append(all, m.labelAt(i)+": "+warning)
			}
		}
		if r.late() {
			late, most = late+1, max(most, r.LateMS.P99)
		}
	}
	if late > 0 {
		all = append(all, fmt.Sprintf("in %d of %d runs requests were sent late (p99 up to %s ms): %s", late, len(m.Runs), significant(most), lateWhy))
	}
	return all
}

// besideText compares each run with the first of its turn.
func (m *Matrix) besideText() string {
	var b strings.Builder
	for i := range m.Runs {
		changes := m.beside(i)
		if len(changes) == 0 {
			continue
		}
		var parts []string
		for _, c := range changes {
			parts = append(parts, fmt.Sprintf("%s %s (%s)", c.Name, c.change(), c.Verdict))
		}
		b.WriteString(wrap(m.labelAt(i)+": "+strings.Join(parts, ", "), "  ") + "\n")
	}
	return b.String()
}

// beside is what a run's median, 95th percentile and errors are beside the first
// run's of the same turn; nothing for that one itself, and where it is missing.
func (m *Matrix) beside(i int) []Change {
	base := m.base()
	first := slices.IndexFunc(m.Runs, func(r MatrixRun) bool { return r.Turn == m.Runs[i].Turn && r.Name == base })
	if first == i || first < 0 {
		return nil
	}
	all := Compare(m.Runs[first].Report, m.Runs[i].Report).Changes
	return slices.DeleteFunc(all, func(c Change) bool { return c.Name != "p50" && c.Name != "p95" && c.Name != errorShare })
}

//go:embed matrix.html
var matrixHTML string

// matrixPage is what the template of a matrix shows.
type matrixPage struct {
	Title, Load string
	Warnings    []string
	Figures     []figure
	Tables      []*table
}

// WriteHTML writes the table and plots as one page without scripts, which needs
// nothing else.
func (m *Matrix) WriteHTML(w io.Writer) error {
	p := &matrixPage{Title: "Load test of " + m.Name, Warnings: m.warnings()}
	if len(m.Runs) > 0 {
		p.Load = m.Runs[0].Report.Load()
		p.Tables = []*table{m.table(), m.settings()}
		if len(m.Runs[0].Report.SLO) > 0 {
			p.Tables = []*table{m.table(), m.level(), m.settings()}
		}
		p.Figures = m.plots()
	}
	return writePage(w, matrixHTML, p)
}

func (m *Matrix) table() *table {
	t := &table{
		Caption: "What each run has shown. Ok is what was answered without an error, until the last answer came; CPU is the server's time for each request; memory is the server's at the end.",
		Head:    []string{"run", "sent, /s", "ok, /s", "p50, ms", "p95, ms", "p99, ms", "errors", "cache hits", "CPU, µs", "memory, MiB", "p95 beside the first"},
		Notes:   m.notes(),
	}
	for i := range m.Runs {
		t.add(append([]string{m.labelAt(i)}, m.Runs[i].figures()...)...)
		last := &t.Rows[len(t.Rows)-1]
		verdict := cell{Text: "–"}
		for _, c := range m.beside(i) {
			if c.Name == "p95" {
				verdict = cell{Text: c.change() + ", " + c.Verdict, Class: map[string]string{Better: "good", Worse: "bad"}[c.Verdict]}
			}
		}
		*last = append(*last, verdict)
	}
	return t
}

// level is how much of each run was inside the service level.
func (m *Matrix) level() *table {
	t := &table{Caption: "Inside the service level", Head: []string{"run", "answers, /s"}}
	for _, o := range m.Runs[0].Report.SLO {
		t.Head = append(t.Head, o.Objective)
	}
	for i := range m.Runs {
		p := m.Runs[i].Report
		t.add(m.labelAt(i), rateText(p.Goodput))
		last := &t.Rows[len(t.Rows)-1]
		for _, o := range p.SLO {
			*last = append(*last, cell{Text: o.verdict(), Class: map[bool]string{true: "good", false: "bad"}[o.Met]})
		}
	}
	return t
}

func (m *Matrix) settings() *table {
	t := &table{Caption: "What each run changes", Head: []string{"run", "settings"}}
	said := map[string]bool{} // a run that is missing in the first turn is in a later one
	for i := range m.Runs {
		r := &m.Runs[i]
		if said[r.Name] {
			continue
		}
		said[r.Name] = true
		t.add(r.Name, r.sets())
		t.Rows[len(t.Rows)-1][1].Class = "text"
	}
	return t
}

// plots are dots on a line for each run: of what was answered, of latencies, and of CPU
// time where that is known.
func (m *Matrix) plots() []figure {
	latency := figure{
		Title: "Latency", Caption: "Each line goes from a run's median to its 99th percentile.",
		Keys: []key{{"c1", "median", true}, {"c2", "95 % are faster", true}, {"c3", "99 % are faster", true}},
	}
	least, most, cpu, rate := math.Inf(1), 0.0, 0.0, 0.0
	for _, r := range m.Runs {
		rate = max(rate, r.Report.Rate, r.Report.OKPerS)
		q := r.Report.LatencyMS
		if q.P50 > 0 {
			least, most = min(least, q.P50), max(most, q.P99)
		}
		cpu = max(cpu, r.CPUMicros)
	}
	all := []figure{{
		Title: "Answers a second", Caption: "Each line goes from what a run answered without an error to what was sent. Where there is one dot, all was answered.",
		Keys: []key{{"c1", "answered without an error", true}, {"c2", "sent", true}},
		Plot: m.dots("plot-rate", "What each run answered without an error and what was sent, a second", linear("a second", rate, 5), func(r *MatrixRun) []float64 {
			return []float64{r.Report.OKPerS, r.Report.Rate}
		}),
	}}
	if most > 0 {
		x := latencyAxis(least, most)
		latency.Plot = m.dots("plot-latency", "Median, 95th and 99th percentile of each run, in milliseconds", x, func(r *MatrixRun) []float64 {
			return []float64{r.Report.LatencyMS.P50, r.Report.LatencyMS.P95, r.Report.LatencyMS.P99}
		})
		all = append(all, latency)
	}
	if cpu > 0 {
		all = append(all, figure{
			Title: "CPU time for each request", Caption: "Of the server, in microseconds: user and system time.", Keys: []key{{"c1", "CPU time", true}},
			Plot: m.dots("plot-cpu", "CPU time of the server for each request, in microseconds", linear("µs", cpu, 5), func(r *MatrixRun) []float64 {
				return []float64{r.CPUMicros}
			}),
		})
	}
	return all
}

// dots draws a line for each run, with its name above.
func (m *Matrix) dots(id, title string, x *axis, values func(*MatrixRun) []float64) template.HTML {
	const row, top = 34.0, 4.0
	d := &drawing{x: x}
	d.rows(id, title, top+row*float64(len(m.Runs)))
	for i := range m.Runs {
		base := top + row*float64(i) + 24
		d.text(0, base-10, m.labelAt(i))
		v := values(&m.Runs[i])
		if v[len(v)-1] > 0 {
			d.row(base, v)
		}
	}
	return d.done()
}
