package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/internal/loadtest"
)

const (
	// maxRepeat is how often a matrix is run at most.
	maxRepeat = 20
	// maxPlan is the most bytes of a plan, and of a configuration.
	maxPlan = 10 << 20
)

type loadMatrix struct {
	Repeat int           `default:"1" placeholder:"N" help:"Run all N times in turn, so that what changes on the machine meanwhile meets all of them (default ${default})."`
	Warmup time.Duration `default:"2s" placeholder:"D" help:"Send for so long before each run, and do not count it (default ${default})."`
	Seed   uint64        `placeholder:"N" help:"Draw the same random values as another matrix with this seed."`
	JSON   string        `name:"json" placeholder:"FILE" help:"Write all reports as JSON; - is the standard output, and then nothing else is written there."`
	HTML   string        `name:"html" placeholder:"FILE" help:"Write one page with the table and a plot."`
	Plan   string        `arg:"" help:"A file in YAML with a load, a configuration, and what each run changes in it."`
}

// Validate checks the numbers.
func (c *loadMatrix) Validate() error {
	switch {
	case c.Repeat < 1 || c.Repeat > maxRepeat:
		return fmt.Errorf("--repeat: %d: want from 1 to %d", c.Repeat, maxRepeat)
	case c.Warmup < 0 || c.Warmup > time.Hour:
		return fmt.Errorf("--warmup: %s: want from 0s to 1h", c.Warmup)
	}
	return nil
}

// matrixRun is one configuration, ready to be started.
type matrixRun struct {
	config.MatrixRun
	text []byte
}

// Run starts a Weir for each run, loads it, and reports.
func (c *loadMatrix) Run(ctx context.Context, out output) error {
	plan, runs, err := c.read(out)
	if err != nil {
		return err
	}
	o, err := c.options(plan)
	if err != nil {
		return err
	}
	files, err := openReports(c.JSON, c.HTML, out.stdout)
	if err != nil {
		return err
	}
	defer files.close()
	result := &loadtest.Matrix{Name: filepath.Base(c.Plan)}
	for turn := range c.Repeat {
		for _, r := range runs {
			fmt.Fprintf(out.stderr, "%s: starting weir serve\n", r.label(turn, c.Repeat))
			done, err := c.one(ctx, r, o, newNamedProgress(out.stderr, r.Name))
			if err == nil && ctx.Err() != nil {
				err = errors.New("interrupted")
			}
			if err != nil {
				return fmt.Errorf("%s: run %q: %w", c.Plan, r.Name, err)
			}
			done.Turn = turn + 1
			result.Runs = append(result.Runs, *done)
		}
	}
	if c.JSON != "-" {
		if err := result.WriteText(out.stdout); err != nil {
			return err
		}
	}
	return errors.Join(
		files.json.write(func(w io.Writer) error { return writeJSON(w, result) }),
		files.html.write(result.WriteHTML))
}

func (r *matrixRun) label(turn, turns int) string {
	if turns == 1 {
		return r.Name
	}
	return fmt.Sprintf("%s (turn %d of %d)", r.Name, turn+1, turns)
}

func newNamedProgress(stderr io.Writer, name string) *loadProgress {
	p := newLoadProgress(stderr)
	p.name = name + ": "
	return p
}

// read reads the plan and makes all configurations. Every mistake is reported a line
// each, before anything starts.
func (c *loadMatrix) read(out output) (*config.Matrix, []*matrixRun, error) {
	text, err := readPlan(c.Plan)
	if err != nil {
		return nil, nil, err
	}
	plan, err := config.ParseMatrix(c.Plan, text)
	if err != nil {
		return nil, nil, mistakesTo(out.stderr, err)
	}
	base := c.beside(plan.Config)
	if text, err = readPlan(base); err != nil {
		return nil, nil, err
	}
	var runs []*matrixRun
	wrong := false
	for _, r := range plan.Runs {
		made, err := config.ApplySets(base, text, r.Set)
		if err == nil {
			// On ports that are free, whatever the file says.
			made, err = config.ApplySets(base, made, map[string]any{"listen": "127.0.0.1:0", "admin.listen": "127.0.0.1:0"})
		}
		if err == nil {
			_, err = config.Parse(base, made, (&matrixRun{MatrixRun: r}).lookupEnv)
		}
		if err != nil {
			wrong = true
			for line := range strings.SplitSeq(err.Error(), "\n") {
				fmt.Fprintf(out.stderr, "%s: run %q: %s\n", c.Plan, r.Name, line)
			}
		}
		runs = append(runs, &matrixRun{r, made})
	}
	if wrong {
		return nil, nil, errReported
	}
	return plan, runs, nil
}

// mistakesTo reports mistakes a line each.
func mistakesTo(stderr io.Writer, err error) error {
	if mistakes, ok := errors.AsType[config.Mistakes](err); ok {
		fmt.Fprintln(stderr, mistakes)
		return errReported
	}
	return err
}

// beside is a path that is relative to the directory of the plan.
func (c *loadMatrix) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(c.Plan), path)
}

func readPlan(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, pathCause(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPlan+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, pathCause(err))
	case len(text) > maxPlan:
		return nil, fmt.Errorf("%s: more than %d bytes: want a smaller file", path, maxPlan)
	}
	return text, nil
}

// options are those that all runs have in common; the URL is only its path.
func (c *loadMatrix) options(plan *config.Matrix) (loadtest.Options, error) {
	l := plan.Load
	o := loadtest.Options{
		URL: l.URL, Method: l.Method, Header: http.Header{"User-Agent": {"weir-load/" + version()}},
		Line:        func(name string) ([]string, error) { return readLines(c.beside(name)) },
		Concurrency: l.Concurrency, Stream: l.Stream, Seed: c.Seed,
	}
	for name, value := range l.Headers {
		o.Header.Set(name, value)
	}
	if l.Callers > 1 {
		o.CallerCount = l.Callers
		if !strings.Contains(strings.Join(headerValues(o.Header), ""), "caller") {
			o.CallerHeader = http.Header{"X-User-Id": {"caller-{{caller}}"}}
		}
	}
	if l.Body != "" {
		text, err := readPlan(c.beside(l.Body))
		if err != nil {
			return o, fmt.Errorf("%s: load.body: %w", c.Plan, err)
		}
		o.Body = string(text)
	}
	if l.Concurrency != 0 {
		o.Duration = l.Duration
	} else {
		o.Stages = []loadtest.Stage{{From: l.Rate, To: l.Rate, For: l.Duration}}
	}
	return o, nil
}

func headerValues(h http.Header) (all []string) {
	for _, values := range h {
		all = append(all, values...)
	}
	return all
}

// one runs one configuration: it starts, is warmed, and then loaded.
func (c *loadMatrix) one(ctx context.Context, r *matrixRun, o loadtest.Options, p *loadProgress) (_ *loadtest.MatrixRun, err error) {
	s, err := startServer(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	o.URL = s.base + o.URL
	o.Insecure = strings.HasPrefix(s.base, "https:") // its own server on this machine
	if c.Warmup > 0 {
		if err := c.warm(ctx, o); err != nil {
			return nil, err
		}
	}
	o.Progress = p.show
	test, err := loadtest.New(o)
	if err != nil {
		return nil, err
	}
	before, known := s.usage()
	report := test.Run(ctx)
	after, _ := s.usage()
	p.clear()
	done := &loadtest.MatrixRun{Name: r.Name, Set: maps.Clone(r.Set), Env: r.Env, Report: report}
	if answered := report.Sent - report.Unfinished; known && answered > 0 {
		done.CPUMicros = float64((after.cpu - before.cpu).Microseconds()) / float64(answered)
		done.RSSBytes = after.rss
	}
	return done, nil
}

// warm sends the same load for a while.
func (c *loadMatrix) warm(ctx context.Context, o loadtest.Options) error {
	if o.Concurrency != 0 {
		o.Duration = c.Warmup
	} else {
		o.Stages = []loadtest.Stage{{From: o.Stages[0].From, To: o.Stages[0].To, For: c.Warmup}}
	}
	test, err := loadtest.New(o)
	if err != nil {
		return err
	}
	test.Run(ctx)
	return nil
}

// lookupEnv reads the environment that a run's server has.
func (r *matrixRun) lookupEnv(name string) (string, bool) {
	if value, ok := r.Env[name]; ok {
		return value, true
	}
	return os.LookupEnv(name)
}
