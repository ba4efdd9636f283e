// Command summary reads what "go test -bench" prints and writes one table for
// each group of benchmarks: for every contender the least CPU time and the fewest
// allocations of all runs, and how many times Weir's time that is. Where they were
// measured, also the least CPU time of a Redis and the fewest calls of it, the most
// requests a second, and the least that a cache was good for.
//
//	go test -run '^$' -bench . -benchtime 300ms -count 3 -cpu 1 | go run ./cmd/summary
//
// The group is the benchmark's name up to its last slash, the contender what is
// behind it. The contender called "weir" is the measure of its group.
package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	if err := summarize(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
}

// maxRows bounds what is remembered of the input.
const maxRows = 10_000

// column is a figure that benchmarks print.
type column struct {
	unit    string // behind the value
	heading string
	show    func(float64) string
	most    bool // the most of all runs counts, not the least
	always  bool // it has its place also where nobody printed it
}

// columns are those that the tables have, from left to right. The first is what is
// compared.
func columns() []column {
	return []column{
		{unit: "cpu-ns/op", heading: "CPU ns/op", show: figure, always: true},
		{unit: "ns/op", heading: "wall ns/op", show: figure, always: true},
		{unit: "allocs/op", heading: "allocs/op", show: figure, always: true},
		{unit: "redis-cpu-ns/op", heading: "Redis CPU ns/op", show: figure},
		{unit: "redis-calls/op", heading: "Redis calls/op", show: fraction},
		{unit: "requests/s", heading: "requests/s", show: whole, most: true},
		{unit: "hit-%", heading: "hit %", show: figure},
		{unit: "byte-hit-%", heading: "byte hit %", show: figure},
		{unit: "saved-%", heading: "model time saved %", show: figure},
	}
}

// row is the best of all runs of one contender.
type row struct {
	contender string
	runs      int
	figures   []float64 // one for each column; negative where it was not printed
}

// group are the contenders of one benchmark, in the order of the input.
type group struct {
	name string
	rows []*row
}

func summarize(in io.Reader, out io.Writer) error {
	groups, err := read(in)
	if err != nil {
		return err
	}
	for i, g := range groups {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := g.write(out); err != nil {
			return err
		}
	}
	return nil
}

// read collects the lines of results; it passes over all others, and fails if a
// benchmark failed or there were no results.
func read(in io.Reader) ([]*group, error) {
	var groups []*group
	byName, byRow := map[string]*group{}, map[string]*row{}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if strings.HasPrefix(line, "FAIL") || strings.Contains(line, "--- FAIL:") {
			return nil, fmt.Errorf("line %d: %s: the figures of a run that failed mean nothing", n, line)
		}
		name, figures, ok, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if !ok {
			continue
		}
		if r := byRow[name]; r != nil {
			r.add(figures)
			continue
		}
		if len(byRow) == maxRows {
			return nil, fmt.Errorf("line %d: more than %d benchmarks", n, maxRows)
		}
		at := strings.LastIndexByte(name, '/')
		g := byName[name[:max(at, 0)]]
		if g == nil {
			g = &group{name: name[:max(at, 0)]}
			groups, byName[g.name] = append(groups, g), g
		}
		figures.contender = name[at+1:]
		g.rows, byRow[name] = append(g.rows, &figures), &figures
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(groups) == 0 {
		return nil, errors.New("no results in the input: want what go test -bench prints")
	}
	return groups, nil
}

// parse reads a line of results: name, iterations, then pairs of value and unit.
// ok says whether it is one.
func parse(line string) (name string, r row, ok bool, err error) {
	fields := strings.Fields(line)
	if len(fields) < 4 || len(fields)%2 != 0 || !strings.HasPrefix(fields[0], "Benchmark") {
		return "", row{}, false, nil
	}
	if _, err := strconv.ParseUint(fields[1], 10, 64); err != nil {
		return "", row{}, false, nil // a benchmark's own words
	}
	r = row{runs: 1}
	all := columns()
	for range all {
		r.figures = append(r.figures, -1)
	}
	for i := 2; i < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return "", row{}, false, fmt.Errorf("%s: %q: want a number in front of %q", fields[0], fields[i], fields[i+1])
		}
		if at := slices.IndexFunc(all, func(c column) bool { return c.unit == fields[i+1] }); at >= 0 {
			r.figures[at] = v
		}
	}
	return strings.TrimPrefix(fields[0], "Benchmark"), r, true, nil
}

// add takes in another run.
func (r *row) add(other row) {
	r.runs++
	for i, c := range columns() {
		if a, b := r.figures[i], other.figures[i]; c.most || a < 0 || b < 0 {
			r.figures[i] = max(a, b)
		} else {
			r.figures[i] = min(a, b)
		}
	}
}

func (g *group) write(out io.Writer) error {
	var measure float64 // what the others are compared with
	all := columns()
	for _, r := range g.rows {
		if r.contender == "weir" {
			measure = r.figures[0]
		}
		for i, v := range r.figures {
			all[i].always = all[i].always || v >= 0
		}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, c := range all {
		if c.always {
			fmt.Fprintf(w, "%s\t", c.heading)
		}
	}
	fmt.Fprintf(w, "times weir\truns\t  %s\n", cmp.Or(g.name, "(no group)"))
	for _, r := range g.rows {
		for i, c := range all {
			if c.always {
				fmt.Fprintf(w, "%s\t", c.show(r.figures[i]))
			}
		}
		ratio := "-"
		if measure > 0 && r.figures[0] >= 0 {
			ratio = strconv.FormatFloat(r.figures[0]/measure, 'f', 2, 64)
		}
		fmt.Fprintf(w, "%s\t%d\t  %s\n", ratio, r.runs, r.contender)
	}
	return w.Flush()
}

// fraction shows three digits behind the point.
func fraction(v float64) string {
	if v < 0 {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// figure shows three digits of what is below 100, and no fractions above.
func figure(v float64) string {
	switch {
	case v < 0:
		return "-"
	case v == float64(int64(v)) || v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// whole shows no fractions.
func whole(v float64) string {
	if v < 0 {
		return "-"
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}
