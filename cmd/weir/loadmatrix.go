package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	Repeat int      `default:"1" placeholder:"N" help:"Run all N times in turn, so that what changes on the machine meanwhile meets all of them (default ${default})."`
	Warmup loadWait `default:"2s" placeholder:"D" help:"Send for so long before each run, and do not count it (default ${default})."`
	Seed   *uint64  `placeholder:"N" help:"Draw the same random values as another matrix with this seed."`
	JSON   loadText `name:"json" placeholder:"FILE" help:"Write all reports as JSON; - is the standard output, and then nothing else is written there."`
	HTML   loadText `name:"html" placeholder:"FILE" help:"Write one page with the table and plots; - as with --json."`
	Plan   string   `arg:"" help:"A file in YAML with a load, a configuration, and what each run changes in it."`
}

// Validate checks the numbers.
func (c *loadMatrix) Validate() error {
	switch {
	case c.Repeat < 1 || c.Repeat > maxRepeat:
		return fmt.Errorf("--repeat: %d: want from 1 to %d", c.Repeat, maxRepeat)
	case time.Duration(c.Warmup) > time.Hour:
		return fmt.Errorf("--warmup: %s: want from 0s to 1h", time.Duration(c.Warmup))
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
	plan, err := c.read(out.stderr)
	if err != nil {
		return err
	}
	o, err := plan.options(seedOf(c.Seed))
	if err != nil {
		return mistakesTo(out.stderr, err)
	}
	files, err := openReports(reportPaths{string(c.JSON), string(c.HTML), plan.inputs}, out.stdout)
	if err != nil {
		return err
	}
	defer files.close()
	w := &matrixWork{loadMatrix: c, out: out, hurry: heed(ctx)}
	result := w.all(ctx, plan.runs, o)
	if len(result.Runs) > 0 {
		err = c.write(out, files, result)
	}
	w.stopping.Wait()
	return errors.Join(err, c.verdict(result))
}

// matrixWork is a matrix that runs.
type matrixWork struct {
	*loadMatrix
	out      output
	hurry    <-chan struct{} // closed: no server is waited for
	stopping sync.WaitGroup  // of servers
}

// all makes all runs in turn. What one of them lacks is said at once, and the others go
// on; nothing is started after an interrupt.
func (w *matrixWork) all(ctx context.Context, runs []*matrixRun, o loadtest.Options) *loadtest.Matrix {
	result := &loadtest.Matrix{Name: filepath.Base(w.Plan), Base: runs[0].Name}
	for turn := range w.Repeat {
		for _, r := range runs {
			done, err := &loadtest.MatrixRun{}, errInterrupted
			if ctx.Err() == nil {
				fmt.Fprintf(w.out.stderr, "%s: starting weir serve\n", r.label(turn, w.Repeat))
				done, err = w.one(ctx, r, o, newNamedProgress(w.out.stderr, r.Name))
				if err != nil && ctx.Err() != nil {
					err = errInterrupted // whatever else has ended by that
				}
			}
			if err != nil {
				if !errors.Is(err, errInterrupted) {
					fmt.Fprintf(w.out.stderr, "weir: %s: run %q: %v\n", w.Plan, r.Name, err)
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

// stop ends a server and waits for it: not after an interrupt, when the reports of what is
// finished are written meanwhile.
func (w *matrixWork) stop(ctx context.Context, s *loadServer) {
	stopped := make(chan struct{})
	w.stopping.Go(func() {
		s.stop(w.hurry)
		close(stopped)
	})
	select {
	case <-stopped:
	case <-ctx.Done():
	}
}

// write writes the runs that are finished wherever they are wanted.
func (c *loadMatrix) write(out output, files *reportFiles, m *loadtest.Matrix) error {
	err := errors.Join( // the files first: nobody may read the text
		files.json.write(func(w io.Writer) error { return writeJSON(w, m) }),
		files.html.write(m.WriteHTML))
	if c.JSON != "-" && c.HTML != "-" {
		err = errors.Join(err, m.WriteText(out.stdout))
	}
	return err
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

// one runs one configuration: it starts, is warmed, and then loaded.
func (w *matrixWork) one(ctx context.Context, r *matrixRun, o loadtest.Options, p *loadProgress) (*loadtest.MatrixRun, error) {
	s, err := startServer(r)
	if err != nil {
		return nil, err
	}
	defer w.stop(ctx, s)
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	o.URL = s.base + o.URL
	o.Insecure = strings.HasPrefix(s.base, "https:") // its own server on this machine
	if w.warms(o) {
		if _, err := s.load(ctx, w.warming(o)); err != nil {
			return nil, err
		}
	}
	o.Progress = p.show
	before, known := s.usage()
	report, err := s.load(ctx, o)
	after, _ := s.usage()
	p.clear()
	if err != nil {
		return nil, err
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
	return c.Warmup > 0 && (o.Concurrency != 0 || o.Stages[0].From*time.Duration(c.Warmup).Seconds() >= 1)
}

// warming is the same load for a while, at the rate that it begins with.
func (c *loadMatrix) warming(o loadtest.Options) loadtest.Options {
	o.Rehearsal = true
	if o.Concurrency != 0 {
		o.Duration = time.Duration(c.Warmup)
	} else {
		o.Stages = []loadtest.Stage{{From: o.Stages[0].From, To: o.Stages[0].To, For: time.Duration(c.Warmup)}}
	}
	return o
}

// lookupEnv reads the environment that a run's server has.
func (r *matrixRun) lookupEnv(name string) (string, bool) {
	if value, ok := r.Env[name]; ok {
		return value, true
	}
	return os.LookupEnv(name)
}
