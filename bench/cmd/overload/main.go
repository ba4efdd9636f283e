// Command overload shows what gateways make of overload, in real time: fakeengine as
// the model server, each gateway in a process of its own in front of it, and callers
// who send at the times that were drawn beforehand, whatever becomes of the requests
// before. It prints one table a load, and measures how soon the model server sees that
// a client has left.
//
//	go run ./cmd/overload
//
// README.md says how to read it. Linux only: CPU time is read from /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/inferweir/weir/internal/sim"
)

// plan is what is run.
type plan struct {
	speed        float64
	warm, length time.Duration
	seed         uint64
	places       int
	only         string
	load         string
	cancels      int
}

func main() {
	var p plan
	flag.Float64Var(&p.speed, "speed", 4, "how many times faster than a mid-size model the engine is; service level and patience are as much shorter")
	flag.DurationVar(&p.warm, "warm", 8*time.Second, "`time` of each run that is not measured")
	flag.DurationVar(&p.length, "length", 20*time.Second, "`time` of each run that is measured")
	flag.Uint64Var(&p.seed, "seed", 1, "of arrivals and lengths, which are the same for every gateway")
	flag.IntVar(&p.places, "places", 64, "`requests` at once of the gateways with a fixed limit")
	flag.StringVar(&p.only, "only", "", "only gateways with this `text` in their name")
	flag.StringVar(&p.load, "load", "", "only loads with this `text` in their name")
	flag.IntVar(&p.cancels, "cancels", 300, "`streams` that are left early, to see when the engine learns of it; 0: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, p); err != nil {
		fmt.Fprintln(os.Stderr, "overload:", err)
		os.Exit(1)
	}
}

// loads are the ones that are shown: one caller who sends ten times what there is
// room for beside eight ordinary ones, everyone at twice of it, and a day without
// overload.
func loads(p plan) []sim.Scenario {
	var all []sim.Scenario
	for _, s := range []sim.Scenario{sim.Abuser(0.7, p.seed), sim.Abuser(10, p.seed), sim.Everyone(2, p.seed)} {
		if strings.Contains(s.Name, p.load) {
			all = append(all, s)
		}
	}
	return all
}

func run(ctx context.Context, p plan) error {
	if !(p.speed > 0) || p.warm < 0 || p.length <= 0 || p.cancels < 0 || p.cancels > 4000 {
		return errors.New("want --speed above 0, --warm of 0 or more, --length above 0 and --cancels of 0 to 4000")
	}
	dir, err := os.MkdirTemp("", "overload")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := build(ctx, dir)
	if err != nil {
		return err
	}
	gateways := contenders(programs, dir, p)
	for _, load := range loads(p) {
		if load.Capacity, err = sim.Capacity(load); err != nil {
			return err
		}
		load.Capacity *= p.speed
		fmt.Printf("%s: the engine can do %.0f a second\n", load.Name, load.Capacity)
		var lines []line
		for _, g := range gateways {
			l, err := measure(ctx, programs, g, load, p)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", load.Name, g.name, err)
			}
			lines = append(lines, l)
		}
		if err := writeTable(os.Stdout, lines); err != nil {
			return err
		}
		fmt.Println()
	}
	if p.cancels == 0 {
		return nil
	}
	return measureCancels(ctx, programs, gateways, p)
}

// measure runs one load through one gateway, with an engine of its own.
func measure(ctx context.Context, programs programs, g gateway, load sim.Scenario, p plan) (line, error) {
	engine, err := programs.startEngine(ctx, p)
	if err != nil {
		return line{}, err
	}
	defer engine.stop()
	front, err := g.start(ctx, engine.base)
	if err != nil {
		return line{}, err
	}
	defer front.stop()
	r := newRunner(load, p, front.base)
	if err := r.run(ctx, func() (s sample, err error) {
		if s.cpu, err = front.cpu(); err != nil {
			return s, err
		}
		s.engine, err = engineStats(ctx, engine.base)
		return s, err
	}); err != nil {
		return line{}, err
	}
	l := r.summarize()
	l.gateway = g.name
	if front.log == "" {
		return l, nil
	}
	log, err := os.Open(front.log)
	if err != nil {
		return l, err
	}
	defer log.Close()
	if all := decisions(log); len(all) > 0 {
		l.logged, l.decided50, l.decided99 = true, quantile(all, 0.5), quantile(all, 0.99)
	}
	return l, nil
}
