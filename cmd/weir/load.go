package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/inferweir/weir/internal/loadtest"
)

// loadCommand is weir load: one load, or a matrix of them.
type loadCommand struct {
	Run    loadRun    `cmd:"" default:"withargs" help:"Send load to a server and report how it answered: rate, latencies from when requests were due, errors."`
	Matrix loadMatrix `cmd:"" help:"Run one load over several configurations of weir serve, and put them in one table."`
}

// showHelp shows the flags of a command's default command with it: who asks for the help of
// weir load wants those of weir load run, which is what it does.
func showHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if of := ctx.Selected(); of != nil && of.DefaultCmd != nil {
		ctx.Path = append(ctx.Path, &kong.Path{Parent: of, Command: of.DefaultCmd, Flags: of.DefaultCmd.Flags})
	}
	return kong.DefaultHelpPrinter(options, ctx)
}

// Help says what else there is, and has the functions of templates.
func (loadRun) Help() string {
	var b strings.Builder
	b.WriteString("The word run may be left out. Several configurations beside each other: weir load matrix --help.\n\n")
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
	Rate        loadRate     `placeholder:"N" help:"Send N requests a second, whether or not those before are answered (default 10)."`
	Concurrency loadCount    `placeholder:"N" help:"In place of --rate: N clients that send one request after another."`
	Duration    loadSpan     `placeholder:"D" help:"How long, up to 24h with ramps and warm-up (default 10s, or as long as --requests take)."`
	Requests    loadCount    `placeholder:"N" help:"End after N requests."`
	Warmup      loadWait     `placeholder:"D" help:"Send for so long before that, and do not count it."`
	Arrivals    loadArrivals `default:"constant" placeholder:"KIND" help:"constant: at equal distances. poisson: at random, as independent callers do."`
	Ramp        []loadRamp   `sep:"none" placeholder:"FROM:TO:D" help:"Go from one rate to another in D, before --rate; equal ones make a step. Repeatable."`
	MaxInFlight loadCount    `default:"10000" placeholder:"N" help:"The most requests without an answer; what is due beyond is an error, unsent (default ${default})."`
	Timeout     loadSpan     `default:"60s" placeholder:"D" help:"The longest that one request may take (default ${default})."`

	Method loadText `short:"X" placeholder:"METHOD" help:"The method (default POST with a body, else GET)."`
	Header []string `short:"H" sep:"none" placeholder:"'NAME: VALUE'" help:"A header field. Repeatable."`
	Body   string   `placeholder:"FILE" help:"A file with the body, - for the standard input, or the body itself where it begins with { or [ or has a space."`
	Stream bool     `help:"Answers are event streams of a model API: measure the first token and the gaps, and count cut streams as errors."`

	Caller       []loadCaller `sep:"none" placeholder:"NAME,WEIGHT,'HEADER: VALUE'" help:"A caller with its share of the requests. Repeatable; the same name again adds a field."`
	Callers      loadCount    `placeholder:"N" help:"N callers with equal shares, told apart by --caller-header."`
	CallerHeader []string     `sep:"none" placeholder:"'NAME: VALUE'" help:"The field of each caller (default 'X-User-ID: caller-{{caller}}')."`

	MaxErrors *loadShare      `placeholder:"N%" help:"Status 1 when more than this share are errors: of the last 5 s, which ends the load, or of all of it."`
	SLO       []loadObjective `name:"slo" sep:"none" placeholder:"p95<300ms" help:"A service level: goodput is what is inside it, and status 1 says that it is not met. Also ttft<1s, itl_p99<80ms. Repeatable."`
	Seed      *uint64         `placeholder:"N" help:"Draw the same random values as another load with this seed."`
	Insecure  bool            `help:"Accept any certificate of an https:// server."`
	JSON      loadText        `name:"json" placeholder:"FILE" help:"Write the report as JSON; - is the standard output, and then nothing else is written there."`
	HTML      loadText        `name:"html" placeholder:"FILE" help:"Write the report as one page with plots; - as with --json."`
	Compare   loadText        `placeholder:"FILE" help:"Compare with a report that --json wrote before."`
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
	case len(c.Ramp) > 0 && c.Concurrency != 0:
		return errors.New("--ramp, --concurrency: want one of them: a ramp is of a rate")
	}
	for _, r := range c.Ramp {
		if r.tooFast(float64(c.Rate)) {
			return fmt.Errorf("--ramp: %s a second: want --rate with it for more than %d", plainNumber(max(r.From, r.To)), askedRate)
		}
	}
	if ramps := len(c.Ramp) > 0 && c.Rate == 0; c.Concurrency == 0 && c.Duration == 0 && !ramps && c.needed() > c.room().Seconds() {
		return fmt.Errorf("--requests: %d take longer than %s with ramps and warm-up: want fewer, or a higher rate", c.Requests, short(loadtest.MaxDuration))
	}
	return nil
}

// tooFast tells whether a ramp goes beyond askedRate, and beyond the rate that was asked
// for as well.
func (r loadRamp) tooFast(asked float64) bool {
	most := max(r.From, r.To)
	return most > askedRate && asked < most
}

func plainNumber(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// Run sends the load and reports.
func (c *loadRun) Run(ctx context.Context, out output) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	read := c.inputs()
	o.Line = read.lines("")
	p := newLoadProgress(out.stderr)
	o.Progress = p.show
	test, err := loadtest.New(o)
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(out.stderr, "weir: %s\n", line)
		}
		if errors.Is(err, fs.ErrNotExist) { // the file of a {{line}}
			return errReported
		}
		return misuse{errReported}
	}
	before, err := c.before()
	if err != nil {
		return err
	}
	files, err := openReports(reportPaths{string(c.JSON), string(c.HTML), *read}, out.stdout)
	if err != nil {
		return err
	}
	defer files.close()
	heed(ctx)
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
	return errors.Join( // the files first: nobody may read the text
		files.json.write(func(w io.Writer) error { return writeJSON(w, r) }),
		files.html.write(func(w io.Writer) error { return r.WriteHTML(w, before) }),
		c.writeText(out.stdout, r, before))
}

// writeText writes the report to the standard output, if nothing else is to be there.
func (c *loadRun) writeText(w io.Writer, r, before *loadtest.Report) error {
	if c.JSON == "-" || c.HTML == "-" {
		return nil
	}
	if err := r.WriteText(w); err != nil || before == nil {
		return err
	}
	fmt.Fprintf(w, "\nBeside %s:\n", c.Compare)
	return loadtest.Compare(before, r).WriteText(w)
}

// verdict is the error of a load that has failed.
func (c *loadRun) verdict(r *loadtest.Report, changes *loadtest.Comparison) error {
	switch {
	case r.Ended == loadtest.EndedErrors:
		return fmt.Errorf("more than %s of the last requests failed: ended early", c.MaxErrors)
	case r.Ended == loadtest.EndedInterrupted:
		return errors.New("interrupted: the report is of what was sent until then")
	case r.OverBudget:
		return fmt.Errorf("more than %s of all requests failed", c.MaxErrors)
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
		URL: c.URL, Method: string(c.Method), Stages: c.stages(), Arrivals: string(c.Arrivals), MaxInFlight: clampInt(c.MaxInFlight),
		Concurrency: clampInt(c.Concurrency), Requests: int64(c.Requests), Warmup: time.Duration(c.Warmup), Timeout: time.Duration(c.Timeout),
		CallerCount: clampInt(c.Callers), Stream: c.Stream, Seed: seedOf(c.Seed), Insecure: c.Insecure,
	}
	if c.Concurrency != 0 {
		if o.Duration = time.Duration(c.Duration); c.Duration == 0 && c.Requests == 0 {
			o.Duration = defaultDuration
		}
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
		return o, misuse{err}
	}
	if o.Header["User-Agent"] == nil {
		o.Header.Set("User-Agent", "weir-load/"+version())
	}
	if o.CallerHeader, err = headerFields("--caller-header", c.CallerHeader); err != nil {
		return o, misuse{err}
	}
	if c.Callers > 0 && len(o.CallerHeader) == 0 {
		o.CallerHeader = http.Header{"X-User-Id": {"caller-{{caller}}"}}
	}
	if o.Callers, err = mergeCallers(c.Caller); err != nil {
		return o, misuse{err}
	}
	return o, nil
}

// seedOf is the seed that was asked for, 0 as well, or else a random one.
func seedOf(asked *uint64) uint64 {
	if asked != nil {
		return *asked
	}
	return rand.Uint64()
}

// clampInt is a count as an int; what has no room in one is beyond every bound.
func clampInt(c loadCount) int { return int(min(c, math.MaxInt)) }

// stages are the ramps, and then the rate. Without a rate the last one is held, where a
// duration says for how long.
func (c *loadRun) stages() []loadtest.Stage {
	if c.Concurrency != 0 {
		return nil
	}
	var all []loadtest.Stage
	for _, r := range c.Ramp {
		all = append(all, loadtest.Stage(r))
	}
	if len(all) > 0 && c.Rate == 0 && c.Duration == 0 {
		return all
	}
	hold := time.Duration(c.Duration)
	switch {
	case hold == 0 && c.Requests > 0 && c.room() == 0:
		return all
	case hold == 0 && c.Requests > 0:
		// Longer than they take, as random arrivals may be: their number ends it.
		seconds := min(c.needed()*2+10, c.room().Seconds())
		hold = time.Duration(seconds * float64(time.Second))
	case hold == 0:
		hold = defaultDuration
	}
	rate := c.lastRate()
	return append(all, loadtest.Stage{From: rate, To: rate, For: hold})
}

// lastRate is the one that is held after ramps.
func (c *loadRun) lastRate() float64 {
	switch {
	case c.Rate > 0:
		return float64(c.Rate)
	case len(c.Ramp) > 0:
		return c.Ramp[len(c.Ramp)-1].To
	}
	return defaultRate
}

// needed is how many seconds of the last rate the requests take that ramps leave.
func (c *loadRun) needed() float64 {
	left, rate := float64(c.Requests), c.lastRate()
	for _, r := range c.Ramp {
		left -= (r.From + r.To) / 2 * r.For.Seconds()
	}
	if left <= 0 || rate == 0 {
		return 0
	}
	return left / rate
}

// room is the time that ramps and the warm-up leave of the longest load.
func (c *loadRun) room() time.Duration {
	room := loadtest.MaxDuration - time.Duration(c.Warmup)
	for _, r := range c.Ramp {
		room -= min(r.For, loadtest.MaxDuration)
	}
	return max(room, 0)
}

// inputs are the files that the flags name.
func (c *loadRun) inputs() *inputs {
	read := &inputs{}
	if name, ok := bodyFile(c.Body); ok {
		read.add("--body", name)
	}
	if c.Compare != "" {
		*read = append(*read, input{"--compare", string(c.Compare), "what is compared with"})
	}
	return read
}

// before is the report to compare with, nil where none is named. One that nothing can be
// slower than would let everything pass.
func (c *loadRun) before() (*loadtest.Report, error) {
	if c.Compare == "" {
		return nil, nil
	}
	r, err := readReport(string(c.Compare))
	switch {
	case err != nil:
		return nil, err
	case c.SlowerBy != nil && r.OK == 0:
		return nil, fmt.Errorf("%s: has no answer without an error: want a report of a load that was answered, to be slower than", c.Compare)
	case c.SlowerBy != nil && r.LatencyMS.P50 == 0:
		return nil, fmt.Errorf("%s: has no latencies: want a report as weir load --json wrote it, to be slower than", c.Compare)
	}
	return r, nil
}

// readReport reads a report that was written before.
func readReport(path string) (*loadtest.Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, pathCause(err))
	}
	return loadtest.Parse(path, text)
}
