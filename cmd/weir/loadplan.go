package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/internal/loadtest"
)

// matrixPlan is a plan that has been read, with all its configurations.
type matrixPlan struct {
	path   string
	text   []byte
	load   config.MatrixLoad
	runs   []*matrixRun
	inputs inputs
}

// read reads the plan and makes all configurations. Every mistake is reported a line
// each, before anything starts.
func (c *loadMatrix) read(stderr io.Writer) (*matrixPlan, error) {
	p := &matrixPlan{path: c.Plan}
	var err error
	if p.text, err = readPlan(c.Plan); err != nil {
		return nil, err
	}
	plan, err := config.ParseMatrix(c.Plan, p.text, checkLoad)
	if err != nil {
		return nil, mistakesTo(stderr, err)
	}
	base := p.beside(plan.Config)
	text, err := readPlan(base)
	if err != nil {
		return nil, err
	}
	p.load = plan.Load
	p.inputs.add("the plan", c.Plan)
	p.inputs.add("config", base)
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
				fmt.Fprintf(stderr, "%s: run %q: %s\n", c.Plan, r.Name, line)
			}
		}
		p.runs = append(p.runs, &matrixRun{r, made})
	}
	if wrong {
		return nil, errReported
	}
	return p, nil
}

// checkLoad checks what a plan writes as flags do.
func checkLoad(l *config.MatrixLoad, wrong func(path, want string)) {
	for i, text := range l.Ramps {
		var r loadRamp
		at := fmt.Sprintf("load.ramps[%d]", i)
		switch err := r.UnmarshalText([]byte(text)); {
		case err != nil:
			wrong(at, strings.TrimPrefix(err.Error(), fmt.Sprintf("%.100q: ", text)))
		case max(r.From, r.To) > loadtest.MaxRate:
			wrong(at, fmt.Sprintf("want rates from 0 to %d a second", loadtest.MaxRate))
		case r.For > loadtest.MaxDuration:
			wrong(at, "want at most "+short(loadtest.MaxDuration))
		case r.tooFast(l.Rate):
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
func (p *matrixPlan) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(p.path), path)
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

// options are those that all runs have in common; the URL is only its path. What is wrong
// with them is said before a server starts, by the keys of the plan.
func (p *matrixPlan) options(seed uint64) (loadtest.Options, error) {
	l := &p.load
	o := loadtest.Options{
		URL: l.URL, Method: l.Method, Header: http.Header{"User-Agent": {"weir-load/" + version()}},
		Line:        p.inputs.lines(filepath.Dir(p.path)),
		Concurrency: l.Concurrency, Stream: l.Stream, Seed: seed, Arrivals: l.Arrivals,
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
		body := p.beside(l.Body)
		text, err := readPlan(body)
		if err != nil {
			return o, p.mistaken(func(_ *config.MatrixLoad, wrong func(path, want string)) { wrong("load.body", err.Error()) })
		}
		o.Body = string(text)
		p.inputs.add("load.body", body)
	}
	var err error
	for _, text := range l.SLO {
		objective, of := loadtest.ParseObjective(text) // as checkLoad has done
		o.Objectives, err = append(o.Objectives, objective), errors.Join(err, of)
	}
	flags := loadRun{Rate: loadRate(l.Rate), Duration: loadSpan(l.Duration), Concurrency: loadCount(l.Concurrency)}
	for _, text := range l.Ramps {
		var r loadRamp
		err = errors.Join(err, r.UnmarshalText([]byte(text)))
		flags.Ramp = append(flags.Ramp, r)
	}
	if o.Stages = flags.stages(); l.Concurrency != 0 {
		o.Duration = l.Duration
	}
	return o, errors.Join(err, p.tried(o))
}

func headerValues(h http.Header) (all []string) {
	for _, values := range h {
		all = append(all, values...)
	}
	return all
}

// tried makes a load of the options, which says what is wrong with them.
func (p *matrixPlan) tried(o loadtest.Options) error {
	o.URL = "http://127.0.0.1" + o.URL
	_, err := loadtest.New(o)
	if err == nil {
		return nil
	}
	return p.mistaken(func(l *config.MatrixLoad, wrong func(path, want string)) {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			wrong(planKey(l, line))
		}
	})
}

// mistaken reads the plan again, for the lines of mistakes that only a load has shown.
func (p *matrixPlan) mistaken(check config.MatrixCheck) error {
	_, err := config.ParseMatrix(p.path, p.text, check)
	return err
}

// planKey gives the key of a plan that a mistake of a load is about, and what is wrong
// there. A load names the flag.
func planKey(l *config.MatrixLoad, line string) (path, said string) {
	flag, said, _ := strings.Cut(line, ": ")
	ramps := "load.ramps"
	if len(l.Ramps) == 1 {
		ramps += "[0]"
	}
	switch flag {
	case "URL":
		return "load.url", said
	case "--header":
		name, of, _ := strings.Cut(said, ": ")
		for key := range l.Headers {
			if http.CanonicalHeaderKey(key) == name {
				return "load.headers." + key, of
			}
		}
		return "load.headers", said
	case "--rate, --ramp", "--ramp":
		return ramps, said
	case "--rate":
		if l.Rate == 0 {
			return ramps, said
		}
	case "--duration":
		if rampTime(l.Ramps) > l.Duration { // the larger part of what is too long
			return ramps, said
		}
	}
	return "load." + strings.TrimPrefix(flag, "--"), said
}

// rampTime is how long ramps take together.
func rampTime(ramps []string) (sum time.Duration) {
	for _, text := range ramps {
		var r loadRamp
		if r.UnmarshalText([]byte(text)) == nil {
			sum += r.For // a day at most, each, as checkLoad has it
		}
	}
	return sum
}
