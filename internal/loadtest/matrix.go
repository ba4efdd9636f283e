package loadtest

import (
	_ "embed"
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

// Matrix is what one load over several configurations has shown.
type Matrix struct {
	Name string      `json:"name"`
	Runs []MatrixRun `json:"runs"`
}

// label is the name of a run, with its turn where there are several.
func (m *Matrix) label(r *MatrixRun) string {
	if m.Runs[len(m.Runs)-1].Turn > 1 {
		return fmt.Sprintf("%s #%d", r.Name, r.Turn)
	}
	return r.Name
}

// sets says in words what a run changes.
func (r *MatrixRun) sets() string {
	var parts []string
	for _, path := range slices.Sorted(maps.Keys(r.Set)) {
		parts = append(parts, fmt.Sprintf("%s: %v", path, r.Set[path]))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		parts = append(parts, name+"="+r.Env[name])
	}
	if len(parts) == 0 {
		return "the file as it is"
	}
	return strings.Join(parts, ", ")
}

// figures are the columns of a run, from its rate on.
func (r *MatrixRun) figures() []string {
	p := r.Report
	hits, cpu, rss := "–", "–", "–"
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
		rateText(p.Rate), significant(p.LatencyMS.P50), significant(p.LatencyMS.P95), significant(p.LatencyMS.P99),
		fmt.Sprintf("%.1f %%", 100*p.ErrorShare()), hits, cpu, rss,
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
	const row = "%s%8s%8s%8s%8s%8s%8s%8s%6s\n"
	fmt.Fprintf(&b, row, padded("", 18), "rate/s", "p50 ms", "p95 ms", "p99 ms", "errors", "hits", "CPU µs", "MiB")
	for i := range m.Runs {
		f := m.Runs[i].figures()
		fmt.Fprintf(&b, row, padded(clip(m.label(&m.Runs[i]), 17), 18), f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7])
	}
	if text := m.besideText(); text != "" {
		fmt.Fprintf(&b, "\nBeside %q:\n%s", m.Runs[0].Name, text)
	}
	for _, warning := range m.warnings() {
		b.WriteString("\n" + wrap("warning: "+warning, "  ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// warnings are those of all runs; what the generator did to many of them is said
// once.
func (m *Matrix) warnings() (all []string) {
	late, most := 0, 0.0
	for i := range m.Runs {
		r := m.Runs[i].Report
		for _, warning := range r.Warnings {
			if !strings.Contains(warning, lateWhy) {
				all = append(all, m.label(&m.Runs[i])+": "+warning)
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
		b.WriteString(wrap(m.label(&m.Runs[i])+": "+strings.Join(parts, ", "), "  ") + "\n")
	}
	return b.String()
}

// beside is what a run's median, 95th percentile and errors are beside the first
// run's of the same turn; nothing for that one itself.
func (m *Matrix) beside(i int) []Change {
	first := slices.IndexFunc(m.Runs, func(r MatrixRun) bool { return r.Turn == m.Runs[i].Turn })
	if first == i {
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
		p.Figures = m.plots()
	}
	return writePage(w, matrixHTML, p)
}

func (m *Matrix) table() *table {
	t := &table{
		Caption: "What each run has shown. CPU is the server's time for each request; memory is the server's at the end.",
		Head:    []string{"run", "rate, /s", "p50, ms", "p95, ms", "p99, ms", "errors", "cache hits", "CPU, µs", "memory, MiB", "p95 beside the first"},
	}
	for i := range m.Runs {
		t.add(append([]string{m.label(&m.Runs[i])}, m.Runs[i].figures()...)...)
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

func (m *Matrix) settings() *table {
	t := &table{Caption: "What each run changes", Head: []string{"run", "settings"}}
	for i := range m.Runs {
		if m.Runs[i].Turn > 1 {
			break
		}
		t.add(m.Runs[i].Name, m.Runs[i].sets())
		t.Rows[i][1].Class = "text"
	}
	return t
}

// plots are dots on a line for each run: of latencies, and of CPU time where that is
// known.
func (m *Matrix) plots() []figure {
	latency := figure{
		Title: "Latency", Caption: "Each line goes from a run's median to its 99th percentile.",
		Keys: []key{{"c1", "median", true}, {"c2", "95 % are faster", true}, {"c3", "99 % are faster", true}},
	}
	least, most, cpu := math.Inf(1), 0.0, 0.0
	for _, r := range m.Runs {
		q := r.Report.LatencyMS
		if q.P50 > 0 {
			least, most = min(least, q.P50), max(most, q.P99)
		}
		cpu = max(cpu, r.CPUMicros)
	}
	var all []figure
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
		d.text(0, base-10, m.label(&m.Runs[i]))
		v := values(&m.Runs[i])
		if v[len(v)-1] > 0 {
			d.row(base, v)
		}
	}
	return d.done()
}
