// Command jobs shows what jobs that wait cost those who wait for their answers: the
// same requests, at times that were drawn beforehand, through a weir without jobs and
// through one in which thousands of another caller wait, by turns.
//
//	go run ./cmd/jobs
//
// Both have a database of their own, and the same model behind them, which takes some
// milliseconds for a request and of which they know how many it takes at once. It prints
// how long the requests took, and how many jobs were done besides. Linux only: CPU time
// is read from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"
)

// plan is what is run.
type plan struct {
	places, jobs, turns int
	load                float64
	shortest, longest   time.Duration
	warm, length        time.Duration
	seed                uint64
	database            string
}

func main() {
	var p plan
	flag.IntVar(&p.places, "places", 4, "`requests` that the model takes at once")
	flag.IntVar(&p.jobs, "jobs", 10_000, "`jobs` that wait")
	flag.IntVar(&p.turns, "turns", 3, "`times` that each of both is measured")
	flag.Float64Var(&p.load, "load", 0.6, "the requests' `share` of what the model can do")
	flag.DurationVar(&p.shortest, "shortest", 20*time.Millisecond, "`time` that the model takes at least")
	flag.DurationVar(&p.longest, "longest", 50*time.Millisecond, "`time` that the model takes at most")
	flag.DurationVar(&p.warm, "warm", 3*time.Second, "`time` of each turn that is not measured")
	flag.DurationVar(&p.length, "length", 15*time.Second, "`time` of each turn that is measured")
	flag.Uint64Var(&p.seed, "seed", 1, "of the times")
	flag.StringVar(&p.database, "database", "", "`URL` of an empty PostgreSQL for the jobs, in place of an SQLite")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, "jobs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p plan) error {
	if p.places < 1 || p.jobs < 1 || p.jobs > 20_000 || p.turns < 1 || !(p.load > 0) || p.load > 1 ||
		p.shortest <= 0 || p.longest < p.shortest || p.warm < 0 || p.length <= 0 {
		return errors.New("want --places and --turns of 1 or more, --jobs of 1 to 20000, --load above 0 and at most 1, --shortest above 0, --longest of that or more, and a --length")
	}
	dir, err := os.MkdirTemp("", "jobs")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	weir, err := build(ctx, dir)
	if err != nil {
		return err
	}
	m, err := startModel(p)
	if err != nil {
		return err
	}
	defer m.stop()
	database := p.database
	if database == "" {
		database = "sqlite:" + filepath.Join(dir, "jobs.db")
	}
	fmt.Printf("%d places of %s to %s, load %.2f, %d jobs wait; the median and the range of %d turns of %s\n",
		p.places, p.shortest, p.longest, p.load, p.jobs, p.turns, p.length)
	var without, with []turn
	var handed atomic.Int64
	for n := range p.turns {
		for _, jobs := range []bool{false, true} {
			s := setting{plan: p, seed: p.seed + uint64(n), program: weir, model: m, handed: &handed, dir: dir, database: database}
			if !jobs {
				s.jobs, s.handed, s.database = 0, &atomic.Int64{}, "sqlite:"+filepath.Join(dir, "none.db")
			}
			took, err := s.measure(ctx)
			if err != nil {
				return err
			}
			if jobs {
				with = append(with, took)
			} else {
				without = append(without, took)
			}
		}
	}
	return report(without, with)
}

// report prints both beside each other.
func report(without, with []turn) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tp50\tp95\tp99\trequests\tfailed\tjobs/s\tCPU of weir\t")
	for _, l := range []struct {
		name string
		all  []turn
	}{{"without jobs", without}, {"with jobs", with}} {
		requests, failed := 0, 0
		for _, of := range l.all {
			requests, failed = requests+len(of.took), failed+of.failed
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t\n", l.name, spread(l.all, at(0.5)), spread(l.all, at(0.95)), spread(l.all, at(0.99)), requests, failed,
			spread(l.all, func(of turn) float64 { return of.jobsDone }), spread(l.all, func(of turn) float64 { return of.cpu }))
	}
	for _, q := range []float64{0.5, 0.95, 0.99} {
		var more []float64
		for i := range with {
			more = append(more, 100*(at(q)(with[i])/at(q)(without[i])-1))
		}
		slices.Sort(more)
		fmt.Fprintf(t, "p%.0f with jobs, against the turn before\t%+.1f %%\t(%+.1f to %+.1f)\t\n", 100*q, more[len(more)/2], more[0], more[len(more)-1])
	}
	return t.Flush()
}

// at is a quantile of a turn's times, in milliseconds.
func at(q float64) func(turn) float64 {
	return func(of turn) float64 {
		if len(of.took) == 0 {
			return 0
		}
		return of.took[int(q*float64(len(of.took)-1))].Seconds() * 1000
	}
}

// spread is the median of a figure and its range.
func spread(all []turn, figure func(turn) float64) string {
	var v []float64
	for _, of := range all {
		v = append(v, figure(of))
	}
	slices.Sort(v)
	return fmt.Sprintf("%.1f (%.1f-%.1f)", v[len(v)/2], v[0], v[len(v)-1])
}
