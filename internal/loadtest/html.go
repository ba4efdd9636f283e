package loadtest

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
)

//go:embed page.html
var pageHTML string

//go:embed report.html
var reportHTML string

// cell is one of a table.
type cell struct{ Text, Class string }

// table is one of a page. The first cell of a row is its name. Notes are below it.
type table struct {
	Caption string
	Head    []string
	Rows    [][]cell
	Notes   []string
}

func (t *table) add(texts ...string) {
	row := make([]cell, 0, len(texts))
	for _, text := range texts {
		row = append(row, cell{Text: text})
	}
	t.Rows = append(t.Rows, row)
}

// card is one figure in large type.
type card struct{ Name, Value, Unit, More string }

// page is what the template of a report shows.
type page struct {
	Title, Load, Begun, Ended string
	SLO                       []objectiveLine
	Warnings                  []string
	Cards                     []card
	Comparison                *comparisonView
	Figures                   []figure
	Tables                    []*table
	Over                      *table
}

type objectiveLine struct {
	Objective, Verdict string
	Met                bool
}

type comparisonView struct {
	Unlike []string
	Table  *table
}

// WriteHTML writes the report as one page without scripts, which needs nothing else.
// old, where it is not nil, is an earlier report, which is drawn behind this one and
// compared with it.
func (r *Report) WriteHTML(w io.Writer, old *Report) error {
	p := &page{
		Title: fmt.Sprintf("Load test of %s %s", r.Method, r.Target), Load: r.Load(),
		Begun: r.Started.Format("2006-01-02 15:04:05 MST"), Warnings: r.Warnings,
		Cards: r.cards(), Figures: r.figures(old), Tables: r.tables(), Over: r.over(),
	}
	switch r.Ended {
	case EndedErrors:
		p.Ended = "Ended before its time: too many errors."
	case EndedInterrupted:
		p.Ended = "Ended before its time: interrupted."
	}
	for _, o := range r.SLO {
		p.SLO = append(p.SLO, objectiveLine{o.Objective, o.verdict(), o.Met})
	}
	if old != nil {
		c := Compare(old, r)
		p.Comparison = &comparisonView{Unlike: c.Unlike, Table: c.table()}
	}
	return writePage(w, reportHTML, p)
}

func writePage(w io.Writer, body string, of any) error {
	t, err := template.New("").Parse(pageHTML)
	if err == nil {
		t, err = t.Parse(body)
	}
	if err != nil {
		return err
	}
	return t.ExecuteTemplate(w, "page", of)
}

// cards are the figures that one looks for first.
func (r *Report) cards() []card {
	due := r.Sent + r.Unsent - r.Unfinished
	all := []card{
		{"Requests", rateText(r.Rate), "/s", grouped(r.Sent) + " sent"},
		{"Median", measure(r.LatencyMS.P50), "ms", "half are faster"},
		{"p95", measure(r.LatencyMS.P95), "ms", "95 % are faster"},
		{"p99", measure(r.LatencyMS.P99), "ms", "99 % are faster; longest: " + measure(r.LatencyMS.Max) + " ms"},
		{"Ok", share(r.OK, due), "", grouped(r.OK) + " answered without an error"},
	}
	if r.Loop == "open" {
		all[0].More += ", wanted " + rateText(r.wanted()) + "/s"
	}
	if len(r.SLO) > 0 {
		all = append(all, card{"Goodput", rateText(r.Goodput), "/s", "answers inside the service level"})
	}
	if r.TTFTMS.Max > 0 {
		all = append(all, card{"First token", measure(r.TTFTMS.P50), "ms", "median; p95: " + measure(r.TTFTMS.P95) + " ms"})
	}
	if r.ITLMS.Max > 0 {
		all = append(all, card{"Between tokens", measure(r.ITLMS.P50), "ms", "median; p99: " + measure(r.ITLMS.P99) + " ms"})
	}
	if r.Tokens > 0 {
		tokens := card{"Tokens", significant(r.TokensPerS), "/s", "all streams together"}
		if r.TokensFrom != FromUsage {
			tokens.Name = "Pieces of text"
		}
		if r.StreamSpeeds.P50 > 0 {
			tokens.More += "; median of one: " + significant(r.StreamSpeeds.P50) + "/s"
		}
		all = append(all, tokens)
	}
	if len(r.Cache) > 0 {
		all = append(all, card{"Cache hits", significant(100 * r.HitRatio), "%", counts(r.Cache, "%s %s")})
	}
	return all
}

func (r *Report) tables() []*table {
	all := []*table{r.times()}
	if t := r.errorTable(); len(t.Rows) > 0 {
		all = append(all, t)
	}
	if a := r.RetryAfter; a != nil && a.Advised > 0 {
		t := &table{Caption: "When refusals say to come back", Head: []string{"", "how many", "half within, s", "all within, s"}}
		t.add("429 and 503", fmt.Sprintf("%s of %s", grouped(a.Advised), grouped(a.Refused)), significant(a.P50S), significant(a.MaxS))
		all = append(all, t)
	}
	if len(r.Statuses) > 0 {
		t := &table{Caption: "Answers by status", Head: []string{"status", "how many"}}
		for _, status := range slices.Sorted(maps.Keys(r.Statuses)) {
			t.add(status, grouped(r.Statuses[status]))
		}
		all = append(all, t)
	}
	if len(r.ServerTiming) > 0 {
		t := &table{Caption: "The server's own times (Server-Timing)", Head: []string{"name", "mean, ms", "answers"}}
		for _, name := range slices.Sorted(maps.Keys(r.ServerTiming)) {
			t.add(clip(name, 40), significant(r.ServerTiming[name].MeanMS), grouped(r.ServerTiming[name].Count))
		}
		all = append(all, t)
	}
	if note := r.callerNote(); note != "" {
		t := &table{Caption: "Callers", Notes: []string{note}}
		head, rows := r.callerRows()
		t.Head = head
		for _, row := range rows {
			t.add(row...)
		}
		all = append(all, t)
	}
	return all
}

// times are the distributions.
func (r *Report) times() *table {
	t := &table{
		Caption: "Times in milliseconds: half of all are not above p50, 99 % not above p99",
		Head:    []string{"", "p50", "p90", "p95", "p99", "p99.9", "longest"},
	}
	for _, row := range []struct {
		name string
		of   Quantiles
	}{{"latency", r.LatencyMS}, {"first token", r.TTFTMS}, {"between tokens", r.ITLMS}, {"sent late", r.LateMS}} {
		if q := row.of; q.Max > 0 || row.name == "latency" {
			t.add(row.name, measure(q.P50), measure(q.P90), measure(q.P95), measure(q.P99), measure(q.P999), measure(q.Max))
		}
	}
	if r.LateMS.Max > 0 {
		t.Notes = append(t.Notes, "Sent late is the generator's own delay, which is in the latency.")
	}
	for _, note := range []string{r.tokensText(), r.usageNote()} {
		if note != "" {
			t.Notes = append(t.Notes, note)
		}
	}
	return t
}

func (r *Report) errorTable() *table {
	t := &table{Caption: "Errors", Head: []string{"kind", "how many", "of all", "for example"}}
	for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
		t.add(kind, grouped(r.Errors[kind]), share(r.Errors[kind], r.Sent+r.Unsent-r.Unfinished), printable(r.ErrorExamples[kind]))
		t.Rows[len(t.Rows)-1][3].Class = "text"
	}
	return t
}

// over is what the plots over time show, as a table.
func (r *Report) over() *table {
	t := &table{
		Caption: fmt.Sprintf("Parts of %s each, times in milliseconds; p50 and p99 in steps of 2 %%", secondsText(r.IntervalS)),
		Head:    []string{"from", "sent", "answered", "errors", "unsent", "p50", "p99", "longest"},
	}
	for _, i := range r.Intervals {
		t.add(secondsText(i.AtS), grouped(i.Sent), grouped(i.Answered), grouped(i.Errors), grouped(i.Unsent), measure(i.P50MS), measure(i.P99MS), measure(i.MaxMS))
	}
	return t
}

func (c *Comparison) table() *table {
	t := &table{Caption: "What has changed", Head: []string{"", "before", "now", "change", "verdict"}, Notes: c.notes()}
	for _, change := range c.Changes {
		value := func(f float64) string { return significant(f) + " " + change.Unit }
		t.add(change.Name, value(change.Old), value(change.New), change.change(), change.Verdict)
		switch change.Verdict {
		case Better:
			t.Rows[len(t.Rows)-1][4].Class = "good"
		case Worse:
			t.Rows[len(t.Rows)-1][4].Class = "bad"
		}
	}
	return t
}

// rateText writes a rate with one digit behind the point.
func rateText(f float64) string {
	if f >= 1000 {
		return grouped(int64(f + 0.5))
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0")
}
