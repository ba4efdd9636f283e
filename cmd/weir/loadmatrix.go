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
	Seed   *uint64       `placeholder:"N" help:"Draw the same random values as another matrix with this seed."`
	JSON   loadText      `name:"json" placeholder:"FILE" help:"Write all reports as JSON; - is the standard output, and then nothing else is written there."`
	HTML   loadText      `name:"html" placeholder:"FILE" help:"Write one page with the table and plots; - as with --json."`
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

// Help says what else there is.
func (loadMatrix) Help() string {
	return "The plan has a load, a configuration, and what each run changes in it. A load of one server: weir load --help."
}

// errInterrupted is why a run is missing that was not let finish.
var errInterrupted = errors.New("interrupted")

// Run starts a Weir for each run, loads it, and reports what is finished.
func (c *loadMatrix) Run(ctx context.Context, out output) error {
	plan, runs, err := c.read(out)
	if err != nil {
		return err
	}
	o, err := c.options(plan)
	if err == nil {
		err = c.tried(o, out.stderr)
	}
	if err != nil {
		return err
	}
	files, err := openReports(reportPaths{json: string(c.JSON), html: string(c.HTML)}, out.stdout)
	if err != nil {
		return err
	}
	defer files.close()
	result := c.all(ctx, runs, o, out)
	if len(result.Runs) > 0 {
		err = c.write(out, files, result)
	}
	return errors.Join(err, c.verdict(result))
}

// tried makes a load of the options, so that what is wrong with them is said before a
// server starts: by the keys of the plan, which are named as the flags.
func (c *loadMatrix) tried(o loadtest.Options, stderr io.Writer) error {
	o.URL = "http://127.0.0.1" + o.URL
	_, err := loadtest.New(o)
	if err == nil {
		return nil
	}
	keys := strings.NewReplacer("--header", "load.headers", "--ramp", "load.ramps", "--", "load.", "URL", "load.url")
	for line := range strings.SplitSeq(err.Error(), "\n") {
		option, said, _ := strings.Cut(line, ": ")
		fmt.Fprintf(stderr, "weir: %s: %s: %s\n", c.Plan, keys.Replace(option), said)
	}
	return errReported
}

// all makes all runs in turn. What one of them lacks is said at once, and the others go
// on; nothing is started after an interrupt.
func (c *loadMatrix) all(ctx context.Context, runs []*matrixRun, o loadtest.Options, out output) *loadtest.Matrix {
	result := &loadtest.Matrix{Name: filepath.Base(c.Plan), Base: runs[0].Name}
	for turn := range c.Repeat {
		for _, r := range runs {
			done, err := &loadtest.MatrixRun{}, errInterrupted
			if ctx.Err() == nil {
				fmt.Fprintf(out.stderr, "%s: starting weir serve\n", r.label(turn, c.Repeat))
				done, err = c.one(ctx, r, o, newNamedProgress(out.stderr, r.Name))
				if err != nil && ctx.Err() != nil {
					err = errInterrupted // whatever else has ended by that
				}
			}
			if err != nil {
				if !errors.Is(err, errInterrupted) {
					fmt.Fprintf(out.stderr, "weir: %s: run %q: %v\n", c.Plan, r.Name, err)
				}
				result.Missing = append(result.Missing, loadtest.MissingRun{Name: r.Name, Turn: turn + 1, Why: err.Error()})
				continue
			}
			done.Turn = turn + 1
			result.Runs = append(result.Runs, *done)
		}
	}
	return result
}

// write writes the runs that are finished wherever they are wanted.
func (c *loadMatrix) write(out output, files *reportFiles, m *loadtest.Matrix) error {
	if c.JSON != "-" && c.HTML != "-" {
		if err := m.WriteText(out.stdout); err != nil {
			return err
		}
	}
	return errors.Join(
		files.json.write(func(w io.Writer) error { return writeJSON(w, m) }),
		files.html.write(m.WriteHTML))
}

// verdict is the error of a matrix that is not whole.
func (c *loadMatrix) verdict(m *loadtest.Matrix) error {
	missing := len(m.Missing)
	if missing == 0 {
		return nil
	}
	finished := fmt.Sprintf("%d of %s finished", len(m.Runs), count(len(m.Runs)+missing, "run"))
	if m.Missing[missing-1].Why == errInterrupted.Error() {
		return fmt.Errorf("%s: interrupted: %s", c.Plan, finished)
	}
	return fmt.Errorf("%s: %s", c.Plan, finished)
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
	plan, err := config.ParseMatrix(c.Plan, text, checkLoad)
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

// checkLoad checks what a plan writes as flags do.
func checkLoad(l *config.MatrixLoad, wrong func(path, want string)) {
	for i, text := range l.Ramps {
		var r loadRamp
		at := fmt.Sprintf("load.ramps[%d]", i)
		if err := r.UnmarshalText([]byte(text)); err != nil {
			wrong(at, rampForm)
		} else if r.tooFast(l.Rate) {
			wrong(at, fmt.Sprintf("want rate with it for more than %d a second", askedRate))
		}
	}
	for i, text := range l.SLO {
		at := fmt.Sprintf("load.slo[%d]", i)
		if o, err := loadtest.ParseObjective(text); err != nil {
			wrong(at, loadtest.ObjectiveForm)
		} else if o.OfStreams() && !l.Stream {
			wrong(at, "want stream: true with it, or a condition for the latency, for example p95<300ms")
		}
	}
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
		Concurrency: l.Concurrency, Stream: l.Stream, Seed: seedOf(c.Seed), Arrivals: l.Arrivals,
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
	for _, text := range l.SLO {
		objective, err := loadtest.ParseObjective(text)
		if err != nil {
			return o, fmt.Errorf("%s: load.slo: %w", c.Plan, err)
		}
		o.Objectives = append(o.Objectives, objective)
	}
	if l.Concurrency != 0 {
		o.Duration = l.Duration
		return o, nil
	}
	flags := loadRun{Rate: loadRate(l.Rate), Duration: loadSpan(l.Duration)}
	for _, text := range l.Ramps {
		var r loadRamp
		if err := r.UnmarshalText([]byte(text)); err != nil {
			return o, fmt.Errorf("%s: load.ramps: %w", c.Plan, err)
		}
		flags.Ramp = append(flags.Ramp, r)
	}
	o.Stages = flags.stages()
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
	if c.warms(o) {
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
	if report.Ended != "" {
		return nil, errInterrupted
	}
	select {
	case <-s.ended:
		return nil, fmt.Errorf("weir serve ended under the load: %s", s.lastWords())
	default:
	}
	done := &loadtest.MatrixRun{Name: r.Name, Set: maps.Clone(r.Set), Env: r.Env, Report: report}
	if answered := report.Sent - report.Unfinished; known && answered > 0 {
		done.CPUMicros = float64((after.cpu - before.cpu).Microseconds()) / float64(answered)
		done.RSSBytes = after.rss
	}
	return done, nil
}

// warms tells whether there is a request in the warm-up: a ramp may begin with nothing.
func (c *loadMatrix) warms(o loadtest.Options) bool {
	return c.Warmup > 0 && (o.Concurrency != 0 || o.Stages[0].From*c.Warmup.Seconds() >= 1)
}

// warm sends the same load for a while, at the rate that it begins with.
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
