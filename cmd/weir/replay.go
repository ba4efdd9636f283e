package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/inferweir/weir/gateway"
)

type replayCommand struct {
	Log    string `required:"" placeholder:"FILE" help:"The access log: JSON lines, or the same compressed with gzip; - is the standard input."`
	Config file   `short:"c" required:"" placeholder:"FILE" help:"The configuration to replay it under."`
	By     string `enum:"all,route,caller,policy" default:"all" help:"What the changes are shown by: route, caller, policy, or all of them (${default})."`
	JSON   bool   `name:"json" help:"Print the report as JSON."`
}

// Validate refuses --log "": an unset variable in a script.
func (c *replayCommand) Validate() error {
	if c.Log == "" {
		return errors.New(`--log: "": want the access log, for example access.json`)
	}
	return nil
}

// Run says what the configuration would have made of the requests in a log.
func (c *replayCommand) Run(ctx context.Context, out output) error {
	cfg, err := load(c.Config, out)
	if err != nil {
		return err
	}
	lines := io.Reader(os.Stdin)
	if c.Log != "-" {
		f, err := os.Open(c.Log)
		if err != nil {
			return err
		}
		defer f.Close()
		lines = f
	}
	report, err := gateway.Replay(ctx, cfg, lines, gateway.ReplayOptions{})
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case err != nil:
		return fmt.Errorf("%s: %w", c.Log, err)
	case report.New.Requests == 0 && report.CutOff:
		return fmt.Errorf("%s: its end is missing, and there is no request before: want the whole log", c.Log)
	case report.New.Requests == 0:
		return fmt.Errorf("%s: %s, and none is a request: want the access log of a Weir", c.Log, count(report.Lines, "line"))
	}
	if c.JSON {
		return json.NewEncoder(out.stdout).Encode(report)
	}
	return c.print(out.stdout, report)
}

// mostReplayCallers is how many callers are printed; JSON has more.
const mostReplayCallers = 10

func (c *replayCommand) print(w io.Writer, r *gateway.ReplayReport) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s from %s to %s, %s skipped\n\n", count(r.New.Requests, "request"), stamp(r.From), stamp(r.To), count(r.Skipped, "line"))
	if r.CutOff {
		fmt.Fprintf(t, "The end of the log is missing: it is compressed, and breaks off in or after line %d.\n\n", r.Lines)
	}
	printTotals(t, r)
	if c.By == "all" || c.By == "policy" {
		printPolicies(t, r)
	}
	if c.By == "all" || c.By == "route" {
		printGroups(t, "route", r.Routes)
	}
	if c.By == "all" || c.By == "caller" {
		printGroups(t, "caller", r.Callers[:min(len(r.Callers), mostReplayCallers)])
	}
	fmt.Fprintln(t, "\nassumed, for how many requests:")
	if err := t.Flush(); err != nil {
		return err
	}
	for _, a := range r.Assumptions {
		if _, err := fmt.Fprintf(w, "%9d  %s\n", a.Requests, a.What); err != nil {
			return err
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func printTotals(w io.Writer, r *gateway.ReplayReport) {
	was, is := &r.Logged, &r.New
	fmt.Fprint(w, "\tin the log\t\tnew\t\t\n")
	row := func(what string, was, is int64, always bool) {
		if always || was > 0 || is > 0 {
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t\n", what, was, percent(was, r.Logged.Requests), is, percent(is, r.New.Requests))
		}
	}
	row("answered by the upstream", was.Upstream, is.Upstream, true)
	row("hits of the cache", was.Hits, is.Hits, true)
	row("stale answers", was.Stale, is.Stale, false)
	row("joined to a running call", was.Collapsed, is.Collapsed, true)
	row("refused by a policy", was.Denied, is.Denied, true)
	row("refused by the queue", was.Shed, is.Shed, true)
	row("made a job", was.Jobs, is.Jobs, false)
	row("client left", was.Left, is.Left, false)
	row("other answers", was.Other, is.Other, false)
	plain := func(what, was, is string) { fmt.Fprintf(w, "%s\t%s\t\t%s\t\t\n", what, was, is) }
	plain("upstream calls", fmt.Sprint(was.Calls), fmt.Sprint(is.Calls))
	plain("upstream time", upstreamTime(was.Seconds), upstreamTime(is.Seconds))
	plain("input tokens", fmt.Sprint(was.InputTokens), fmt.Sprint(is.InputTokens))
	plain("output tokens", fmt.Sprint(was.OutputTokens), fmt.Sprint(is.OutputTokens))
	plain("queue wait p50", waited(was.Wait.P50), waited(is.Wait.P50))
	plain("p95", waited(was.Wait.P95), waited(is.Wait.P95))
	plain("p99", waited(was.Wait.P99), waited(is.Wait.P99))
	plain("max", waited(was.Wait.Max), waited(is.Wait.Max))
}

func percent(n, all int64) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(max(all, 1))) }

func upstreamTime(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

func waited(ms float64) string {
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Millisecond).String()
}

func printPolicies(w io.Writer, r *gateway.ReplayReport) {
	fmt.Fprint(w, "\nrefused by\tin the log\tnew\t\n")
	for _, p := range r.Policies {
		fmt.Fprintf(w, "%s\t%d\t%d\t\n", printable(p.Name), p.Logged, p.New)
	}
	reasons := map[string]bool{}
	for _, by := range []map[string]int64{r.Logged.ShedBy, r.New.ShedBy} {
		for reason := range by {
			reasons[reason] = true
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(w, "queue %s\t%d\t%d\t\n", printable(reason), r.Logged.ShedBy[reason], r.New.ShedBy[reason])
	}
	if len(r.Policies) == 0 && len(reasons) == 0 {
		fmt.Fprint(w, "nothing\t\t\t\n")
	}
}

func printGroups(w io.Writer, what string, groups []gateway.ReplayGroup) {
	fmt.Fprintf(w, "\n%s\trequests\tupstream\t\tcached\t\tdenied\t\tshed\t\tnewly refused\tno longer\t\n", what)
	for _, g := range groups {
		fmt.Fprintf(w, "%s\t%d", printable(g.Name), g.Requests)
		for _, n := range [][2]int64{{g.Logged.Upstream, g.New.Upstream}, {g.Logged.Cached, g.New.Cached}, {g.Logged.Denied, g.New.Denied}, {g.Logged.Shed, g.New.Shed}} {
			fmt.Fprintf(w, "\t%d\t-> %d", n[0], n[1])
		}
		fmt.Fprintf(w, "\t%d\t%d\t\n", g.Newly, g.NoLonger)
	}
}
