package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// loadCommand is weir load: one load, or a matrix of them.
type loadCommand struct {
	Run    loadRun    `cmd:"" default:"withargs" help:"Send load to a server and report how it answered: rate, latencies from when requests were due, errors."`
	Matrix loadMatrix `cmd:"" help:"Run one load over several configurations of weir serve, and put them in one table."`
}

// Help says what kong does not: the flags are those of the default command.
func (loadCommand) Help() string {
	return "weir load URL is short for weir load run URL: weir load run --help has its flags."
}

// Help has the functions of templates.
func (loadRun) Help() string {
	var b strings.Builder
	b.WriteString("URL, --header, --caller-header and --body may have these functions:\n\n")
	for _, f := range loadtest.Functions() {
		fmt.Fprintf(&b, "  %-30s %s\n", f[0], f[1])
	}
	return b.String()
}

// What weir load does when nothing else is said, and what must be said.
const (
	defaultRate     = 10
	defaultDuration = 10 * time.Second
	// askedRate is the most requests a second that a slip in a ramp may lead to: more
	// need --rate.
	askedRate = 10_000
)

type loadRun struct {
	Rate        float64       `placeholder:"N" help:"Send N requests a second, whether or not those before are answered (default 10)."`
	Concurrency int           `placeholder:"N" help:"In place of --rate: N clients that send one request after another."`
	Duration    time.Duration `placeholder:"D" help:"How long (default 10s, or as long as --requests take)."`
	Requests    int64         `placeholder:"N" help:"End after N requests."`
	Warmup      time.Duration `placeholder:"D" help:"Send for so long before that, and do not count it."`
	Arrivals    string        `enum:"constant,poisson" default:"constant" placeholder:"KIND" help:"constant: at equal distances. poisson: at random, as independent callers do."`
	Ramp        []loadRamp    `sep:"none" placeholder:"FROM:TO:D" help:"Go from one rate to another in D, before --rate; equal ones make a step. Repeatable."`
	MaxInFlight int           `default:"10000" placeholder:"N" help:"The most requests without an answer; what is due beyond is an error, unsent (default ${default})."`
	Timeout     time.Duration `default:"60s" placeholder:"D" help:"The longest that one request may take (default ${default})."`

	Method string   `short:"X" placeholder:"METHOD" help:"The method (default POST with a body, else GET)."`
	Header []string `short:"H" sep:"none" placeholder:"'NAME: VALUE'" help:"A header field. Repeatable."`
	Body   string   `placeholder:"FILE" help:"A file with the body, - for the standard input, or the body itself where it begins with { or [ or has a space."`
	Stream bool     `help:"Answers are event streams of a model API: measure the first token and the gaps, and count cut streams as errors."`

	Caller       []loadCaller `sep:"none" placeholder:"NAME,WEIGHT,'HEADER: VALUE'" help:"A caller with its share of the requests. Repeatable; the same name again adds a field."`
	Callers      int          `placeholder:"N" help:"N callers with equal shares, told apart by --caller-header."`
	CallerHeader []string     `sep:"none" placeholder:"'NAME: VALUE'" help:"The field of each caller (default 'X-User-ID: caller-{{caller}}')."`

	MaxErrors *loadShare      `placeholder:"N%" help:"End with status 1 when more than this share of the last 5 s are errors."`
	SLO       []loadObjective `name:"slo" sep:"none" placeholder:"p95<300ms" help:"A service level: goodput is what is inside it, and status 1 says that it is not met. Also ttft<1s, itl_p99<80ms. Repeatable."`
	Seed      uint64          `placeholder:"N" help:"Draw the same random values as another load with this seed."`
	Insecure  bool            `help:"Accept any certificate of an https:// server."`
	JSON      string          `name:"json" placeholder:"FILE" help:"Write the report as JSON; - is the standard output, and then nothing else is written there."`
	HTML      string          `name:"html" placeholder:"FILE" help:"Write the report as one page with plots."`
	Compare   string          `placeholder:"FILE" help:"Compare with a report that --json wrote before."`
	SlowerBy  *loadShare      `name:"fail-if-slower" placeholder:"N%" help:"With --compare: status 1 if a latency, goodput or the errors are worse by more."`
	URL       string          `arg:"" help:"What is asked, with its path: http://127.0.0.1:8080/predict/language. It may have {{seq}} and other functions, as headers and body may."`
}

// Validate checks what flags mean together.
func (c *loadRun) Validate() error {
	switch {
	case c.SlowerBy != nil && c.Compare == "":
		return errors.New("--fail-if-slower: want --compare with it, a report to be slower than")
	case c.Insecure && !strings.HasPrefix(strings.ToLower(c.URL), "https:"):
		return errors.New("--insecure: want an https:// URL with it")
	case c.Rate != 0 && c.Concurrency != 0:
		return errors.New("--rate, --concurrency: want one of them: a rate for an open loop, a number of clients for a closed one")
	case c.Rate < 0:
		return fmt.Errorf("--rate: %g: want a number above 0", c.Rate)
	case c.Duration < 0:
		return fmt.Errorf("--duration: %s: want a time above 0, for example 10s", c.Duration)
	case len(c.Ramp) > 0 && c.Concurrency != 0:
		return errors.New("--ramp, --concurrency: want one of them: a ramp is of a rate")
	}
	for _, r := range c.Ramp {
		if most := max(r.From, r.To); most > askedRate && c.Rate < most {
			return fmt.Errorf("--ramp: %g a second: want --rate with it for more than %d", most, askedRate)
		}
	}
	return nil
}

// Run sends the load and reports.
func (c *loadRun) Run(ctx context.Context, out output) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	var before *loadtest.Report
	if c.Compare != "" {
		if before, err = readReport(c.Compare); err != nil {
			return err
		}
	}
	files, err := openReports(c.JSON, c.HTML, out.stdout)
	if err != nil {
		return err
	}
	defer files.close()
	p := newLoadProgress(out.stderr)
	o.Progress = p.show
	test, err := loadtest.New(o)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(out.stderr, "weir: %s\n", line)
		}
		return errReported
	}
	fmt.Fprintf(out.stderr, "%s\n", test)
	report := test.Run(ctx)
	p.clear()
	var changes *loadtest.Comparison
	if before != nil {
		changes = loadtest.Compare(before, report)
	}
	if err := c.write(out, files, report, before); err != nil {
		return err
	}
	return c.verdict(report, changes)
}

// write writes the report wherever it is wanted.
func (c *loadRun) write(out output, files *reportFiles, r, before *loadtest.Report) error {
	if c.JSON != "-" {
		if err := r.WriteText(out.stdout); err != nil {
			return err
		}
		if before != nil {
			fmt.Fprintf(out.stdout, "\nBeside %s:\n", c.Compare)
			if err := loadtest.Compare(before, r).WriteText(out.stdout); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		files.json.write(func(w io.Writer) error { return writeJSON(w, r) }),
		files.html.write(func(w io.Writer) error { return r.WriteHTML(w, before) }))
}

// verdict is the error of a load that has failed.
func (c *loadRun) verdict(r *loadtest.Report, changes *loadtest.Comparison) error {
	switch {
	case r.Ended == loadtest.EndedErrors:
		return fmt.Errorf("more than %s of the last requests failed: ended early", c.MaxErrors)
	case r.Ended == loadtest.EndedInterrupted:
		return errors.New("interrupted: the report is of what was sent until then")
	case r.OK == 0:
		return errors.New("no request was answered without an error")
	case !r.Met():
		return errors.New("the service level is not met")
	case c.SlowerBy != nil:
		var worse []string
		for _, change := range changes.Slower(float64(*c.SlowerBy)) {
			worse = append(worse, change.String())
		}
		if len(worse) > 0 {
			return fmt.Errorf("worse than %s: %s", c.Compare, strings.Join(worse, "; "))
		}
	}
	return nil
}

// options are those of the engine.
func (c *loadRun) options() (loadtest.Options, error) {
	o := loadtest.Options{
		URL: c.URL, Method: c.Method, Line: readLines, Stages: c.stages(), Arrivals: c.Arrivals, MaxInFlight: c.MaxInFlight,
		Concurrency: c.Concurrency, Duration: c.Duration, Requests: c.Requests, Warmup: c.Warmup, Timeout: c.Timeout,
		CallerCount: c.Callers, Stream: c.Stream, Seed: c.Seed, Insecure: c.Insecure,
	}
	if c.Concurrency != 0 && c.Duration == 0 && c.Requests == 0 {
		o.Duration = defaultDuration
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	if c.MaxErrors != nil {
		o.MaxErrors = (*float64)(c.MaxErrors)
	}
	for _, objective := range c.SLO {
		o.Objectives = append(o.Objectives, objective.Objective)
	}
	var err error
	if o.Body, err = readLoadBody(c.Body); err != nil {
		return o, err
	}
	if o.Header, err = headerFields("--header", c.Header); err != nil {
		return o, err
	}
	if o.Header["User-Agent"] == nil {
		o.Header.Set("User-Agent", "weir-load/"+version())
	}
	if o.CallerHeader, err = headerFields("--caller-header", c.CallerHeader); err != nil {
		return o, err
	}
	if c.Callers > 0 && len(o.CallerHeader) == 0 {
		o.CallerHeader = http.Header{"X-User-Id": {"caller-{{caller}}"}}
	}
	o.Callers = mergeCallers(c.Caller)
	return o, nil
}

// stages are the ramps, and then the rate.
func (c *loadRun) stages() []loadtest.Stage {
	if c.Concurrency != 0 {
		return nil
	}
	var all []loadtest.Stage
	rate := c.Rate
	for _, r := range c.Ramp {
		all = append(all, loadtest.Stage(r))
		if c.Rate == 0 {
			rate = r.To
		}
	}
	if len(all) > 0 && c.Rate == 0 && c.Duration == 0 {
		return all
	}
	if rate == 0 {
		rate = defaultRate
	}
	hold := c.Duration
	switch {
	case hold == 0 && c.Requests > 0:
		// A little longer than they take: their number ends it.
		hold = time.Duration((float64(c.Requests)/rate*2 + 10) * float64(time.Second))
		hold = min(hold, loadtest.MaxDuration/2)
	case hold == 0:
		hold = defaultDuration
	}
	return append(all, loadtest.Stage{From: rate, To: rate, For: hold})
}

// readReport reads a report that was written before.
func readReport(path string) (*loadtest.Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, pathCause(err))
	}
	return loadtest.Parse(path, text)
}
