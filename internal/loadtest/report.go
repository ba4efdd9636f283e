package loadtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// How a load ended before its time.
const (
	EndedErrors      = "errors"      // by the error budget
	EndedInterrupted = "interrupted" // by who asked for it
)

// What the tokens of streams are counted by.
const (
	FromUsage  = "usage"  // what the server says
	FromPieces = "pieces" // events with text, each of which has one token or more
)

// Quantiles are some values of a distribution, in milliseconds unless said. All are
// left out of its JSON where nothing was measured.
type Quantiles struct {
	P50  float64 `json:"p50,omitzero"`
	P90  float64 `json:"p90,omitzero"`
	P95  float64 `json:"p95,omitzero"`
	P99  float64 `json:"p99,omitzero"`
	P999 float64 `json:"p999,omitzero"`
	Max  float64 `json:"max,omitzero"`
}

// Speeds are the tokens a second of single streams, after their first token: the
// tenth that was slowest was below P10.
type Speeds struct {
	P10 float64 `json:"p10,omitzero"`
	P50 float64 `json:"p50,omitzero"`
	P90 float64 `json:"p90,omitzero"`
}

// StageReport is one Stage.
type StageReport struct {
	From float64 `json:"from"`
	To   float64 `json:"to"`
	ForS float64 `json:"for_s"`
}

// ObjectiveReport says whether an objective was met.
type ObjectiveReport struct {
	Objective string  `json:"objective"`
	ValueMS   float64 `json:"value_ms"` // of its percentile
	Met       bool    `json:"met"`
}

// CallerReport is what became of one caller's requests: those sent are the sum of the
// four below. The percentiles are of answers without an error, and to 2 %: there are
// many callers.
type CallerReport struct {
	Name       string  `json:"name"`
	Sent       int64   `json:"sent"`
	OK         int64   `json:"ok"`
	Refused    int64   `json:"refused"` // with 429 or 503
	Errors     int64   `json:"errors"`  // of any other kind
	Unfinished int64   `json:"unfinished,omitzero"`
	P50MS      float64 `json:"p50_ms,omitzero"`
	P95MS      float64 `json:"p95_ms,omitzero"`
}

// IntervalReport is a part of the load. Sent, unsent and latencies are those of the
// requests that were due in it, answers and errors came in it.
type IntervalReport struct {
	AtS      float64 `json:"at_s"` // when it begins
	Sent     int64   `json:"sent"`
	Answered int64   `json:"answered"` // with an error or without
	Errors   int64   `json:"errors"`   // among the answered
	Unsent   int64   `json:"unsent,omitzero"`
	P50MS    float64 `json:"p50_ms,omitzero"`
	P99MS    float64 `json:"p99_ms,omitzero"`
	MaxMS    float64 `json:"max_ms,omitzero"`
}

// Bucket counts latencies above From and up to To, in milliseconds.
type Bucket struct {
	From  float64 `json:"from_ms"`
	To    float64 `json:"to_ms"`
	Count int64   `json:"count"`
}

// Point is one value of the distribution of latencies: a share Q is not above MS.
type Point struct {
	Q  float64 `json:"q"`
	MS float64 `json:"ms"`
}

// Range is where a percentile is with a probability of 95 %, given how many answers
// there were.
type Range struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// RetryReport sums up when refusals say to come back; no seconds are at once.
type RetryReport struct {
	Refused int64   `json:"refused"`
	Advised int64   `json:"advised"` // those that say when
	P50S    float64 `json:"p50_s,omitzero"`
	MaxS    float64 `json:"max_s,omitzero"`
}

// TimingReport is the mean of one name of Server-Timing.
type TimingReport struct {
	Count  int64   `json:"count"`
	MeanMS float64 `json:"mean_ms"`
}

// Report is what a load has shown. Latencies are those of answers without an error and
// of requests that had no answer in time, counted from when they were due.
type Report struct {
	Rate      float64          `json:"rate"`       // requests sent a second
	DurationS float64          `json:"duration_s"` // of the sending, without the warm-up
	Sent      int64            `json:"sent"`
	OK        int64            `json:"ok"`     // whole answers with a status below 300, or 304
	Errors    map[string]int64 `json:"errors"` // by kind
	LatencyMS Quantiles        `json:"latency_ms"`
	TTFTMS    Quantiles        `json:"ttft_ms"` // streams: to the first token
	ITLMS     Quantiles        `json:"itl_ms"`  // streams: between pieces with text
	LateMS    Quantiles        `json:"late_ms"` // how long after they were due requests were sent

	Target      string        `json:"target"`
	Method      string        `json:"method"`
	Started     time.Time     `json:"started"`
	Loop        string        `json:"loop"` // open or closed
	Arrivals    string        `json:"arrivals,omitempty"`
	Stages      []StageReport `json:"stages,omitempty"`
	TargetRate  float64       `json:"target_rate,omitzero"` // of the stages, on average
	Concurrency int           `json:"concurrency,omitzero"`
	WarmupS     float64       `json:"warmup_s,omitzero"`
	Stream      bool          `json:"stream,omitzero"`
	Cores       int           `json:"cores"` // that the generator may use
	Ended       string        `json:"ended,omitempty"`
	OverBudget  bool          `json:"over_budget,omitzero"` // more requests failed than Options.MaxErrors allows
	OKPerS      float64       `json:"ok_per_s"`             // answers without an error a second, until the last of them came

	Goodput       float64           `json:"goodput"` // answers a second that are inside the service level
	SLO           []ObjectiveReport `json:"slo,omitempty"`
	Unsent        int64             `json:"unsent"`
	Unfinished    int64             `json:"unfinished"` // sent, and cut off when the load ended early
	Connections   int64             `json:"connections"`
	Bytes         int64             `json:"bytes"` // of bodies of answers
	Statuses      map[string]int64  `json:"statuses"`
	ErrorExamples map[string]string `json:"error_examples,omitempty"`
	RetryAfter    *RetryReport      `json:"retry_after,omitempty"`

	// Tokens, and what they are a second, are counted in one way for all streams:
	// FromUsage where the server says of each how many it had, else FromPieces.
	Tokens           int64   `json:"tokens,omitzero"`
	TokensFrom       string  `json:"tokens_from,omitempty"`
	TokensPerS       float64 `json:"tokens_per_s,omitzero"` // of all streams together
	StreamSpeeds     Speeds  `json:"stream_tokens_per_s,omitzero"`
	Pieces           int64   `json:"pieces,omitzero"`             // events with text, of all streams
	Streams          int64   `json:"streams,omitzero"`            // whole ones that had tokens
	StreamsWithUsage int64   `json:"streams_with_usage,omitzero"` // those whose server said how many

	Cache        map[string]int64        `json:"cache,omitempty"`
	HitRatio     float64                 `json:"hit_ratio,omitzero"`
	ServerTiming map[string]TimingReport `json:"server_timing,omitempty"`

	// Samples are how many values the percentiles are of: latency, ttft and itl.
	Samples     map[string]int64 `json:"samples,omitempty"`
	Callers     []CallerReport   `json:"callers,omitempty"`
	CallerCount int              `json:"caller_count,omitzero"`
	Warnings    []string         `json:"warnings,omitempty"`
	Confidence  map[string]Range `json:"latency_range_ms,omitempty"` // p50, p95, p99
	IntervalS   float64          `json:"interval_s"`
	Intervals   []IntervalReport `json:"intervals"`
	Histogram   []Bucket         `json:"histogram"`
	Percentiles []Point          `json:"percentiles"`

	planned int64 // requests, of a load that is not run yet
}

// ErrorShare is the share of errors among all requests that were due and not cut off.
func (r *Report) ErrorShare() float64 {
	failed := r.failed()
	if all := failed + r.OK; all > 0 {
		return float64(failed) / float64(all)
	}
	return 0
}

// failed is how many requests had an error, those that could not be sent among them.
func (r *Report) failed() (n int64) {
	for _, of := range r.Errors {
		n += of
	}
	return n
}

// Met tells whether all objectives were.
func (r *Report) Met() bool {
	return !slices.ContainsFunc(r.SLO, func(o ObjectiveReport) bool { return !o.Met })
}

// Parse reads a report as JSON has it; name is its file's.
func Parse(name string, text []byte) (*Report, error) {
	r := &Report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w: want a report that weir load --json wrote", name, err)
	}
	if r.Sent <= 0 && r.Target == "" {
		return nil, fmt.Errorf("%s: has no requests: want a report that weir load --json wrote", name)
	}
	if what := r.damaged(); what != "" {
		return nil, fmt.Errorf("%s: %s: want a report as weir load --json wrote it", name, what)
	}
	return r, nil
}

// mostCounted is more than any load can send, and more in a second.
const mostCounted = 1e12

// damaged says what of a report no load can have.
func (r *Report) damaged() string {
	for name, n := range map[string]int64{"sent": r.Sent, "ok": r.OK, "unsent": r.Unsent, "unfinished": r.Unfinished} {
		if n < 0 || n > mostCounted {
			return fmt.Sprintf("%s: %d", name, n)
		}
	}
	for name, f := range map[string]float64{"rate": r.Rate, "goodput": r.Goodput, "ok_per_s": r.OKPerS, "tokens_per_s": r.TokensPerS, "hit_ratio": r.HitRatio} {
		if !(f >= 0 && f <= mostCounted) {
			return fmt.Sprintf("%s: %g", name, f)
		}
	}
	for kind, n := range r.Errors {
		if n < 0 || n > mostCounted {
			return fmt.Sprintf("errors: %s: %d", kind, n)
		}
	}
	for name, q := range map[string]Quantiles{"latency_ms": r.LatencyMS, "ttft_ms": r.TTFTMS, "itl_ms": r.ITLMS, "late_ms": r.LateMS} {
		for _, ms := range []float64{q.P50, q.P90, q.P95, q.P99, q.P999, q.Max} {
			if !(ms >= 0 && ms <= mostMillis) {
				return fmt.Sprintf("%s: %g", name, ms)
			}
		}
	}
	return r.undrawable()
}

// undrawable says what of a report has no place in a plot.
func (r *Report) undrawable() string {
	if len(r.Intervals) > maxIntervals || len(r.Intervals) > 0 && !(r.IntervalS > 0) {
		return fmt.Sprintf("intervals: %d of %g s each", len(r.Intervals), r.IntervalS)
	}
	for i, b := range r.Histogram {
		if b.Count < 0 || !(b.From >= 0 && b.From < b.To && b.To <= mostMillis) || i > 0 && b.From < r.Histogram[i-1].To {
			return fmt.Sprintf("histogram[%d]: %d from %g to %g ms", i, b.Count, b.From, b.To)
		}
	}
	for i, p := range r.Percentiles {
		if !(p.Q >= 0 && p.Q <= 1 && p.MS >= 0 && p.MS <= mostMillis) {
			return fmt.Sprintf("percentiles[%d]: %g at %g", i, p.MS, p.Q)
		}
	}
	return ""
}

// mostMillis is more than any latency that is counted, whose last bucket ends a
// little above an hour.
const mostMillis = 2 * float64(mostMicros) / 1000

// report sums up a run that is over.
func (r *run) report(cause error) *Report {
	c := r.recorder
	c.mu.Lock()
	defer c.mu.Unlock()
	seconds := max(c.ended.Sub(c.begin), time.Microsecond).Seconds()
	if c.ended.Before(c.begin) { // it ended in the warm-up
		seconds = 0
	}
	p := &Report{
		DurationS: rounded(seconds), Sent: c.sent, OK: c.ok, Errors: c.errors,
		LatencyMS: quantiles(c.latency), TTFTMS: quantiles(c.first), ITLMS: quantiles(c.gap),
		Target: withoutUser(r.o.URL), Method: r.o.Method, Started: r.begin.UTC(), Loop: "closed",
		Concurrency: r.o.Concurrency, WarmupS: r.o.Warmup.Seconds(), Stream: r.o.Stream, Cores: runtime.GOMAXPROCS(0),
		Unsent: c.unsents, Unfinished: c.unfinish, Connections: r.opened.Load(), Bytes: c.bytes,
		Statuses: map[string]int64{}, ErrorExamples: c.examples, CallerCount: r.mix.size(),
		IntervalS: c.seconds.width.Seconds(), Confidence: confidence(c.latency),
		Samples: c.samples(), Histogram: histogram(c.latency), Percentiles: percentiles(c.latency), Intervals: c.seconds.report(),
	}
	// What a closed loop sends, and what streams bring, is work that the server may still
	// do when the sending is over.
	working := max(seconds, c.done.Sub(c.begin).Seconds())
	if per := seconds; per > 0 {
		if len(r.o.Stages) == 0 {
			per = working
		}
		p.Rate, p.Goodput = rounded(float64(c.sent)/per), rounded(float64(c.good)/per)
	}
	if len(r.o.Stages) > 0 {
		p.Loop, p.Arrivals, p.LateMS = "open", r.o.Arrivals, quantiles(c.late)
		p.stages(r.o.Stages)
	}
	switch {
	case errors.Is(cause, errBudget):
		p.Ended = EndedErrors
	case errors.Is(cause, context.Canceled), errors.Is(cause, context.DeadlineExceeded):
		p.Ended = EndedInterrupted
	}
	for status, n := range c.statuses {
		p.Statuses[strconv.Itoa(status)] = n
	}
	c.streams.report(p, working)
	c.addFields(p)
	c.addCallers(p, r.mix)
	for _, o := range r.o.Objectives {
		p.SLO = append(p.SLO, c.judge(o))
	}
	p.Warnings = p.warnings()
	return p
}

func (r *Report) stages(of []Stage) {
	sum := 0.0
	for _, s := range of {
		sum += s.requests()
		r.Stages = append(r.Stages, StageReport{s.From, s.To, s.For.Seconds()})
	}
	r.TargetRate = rounded(sum / length(of).Seconds())
}

// samples counts the values of each distribution that has any.
func (c *recorder) samples() map[string]int64 {
	n := map[string]int64{string(latencies): c.latency.TotalCount(), string(firstTokens): c.first.TotalCount(), string(tokenGaps): c.gap.TotalCount()}
	maps.DeleteFunc(n, func(_ string, n int64) bool { return n == 0 })
	if len(n) == 0 {
		return nil
	}
	return n
}

func (c *recorder) addFields(p *Report) {
	p.Cache = c.fields.cache
	all := int64(0)
	for _, n := range p.Cache {
		all += n
	}
	if all > 0 {
		p.HitRatio = rounded(float64(p.Cache["hit"]) / float64(all))
	}
	for name, t := range c.fields.timings {
		if p.ServerTiming == nil {
			p.ServerTiming = map[string]TimingReport{}
		}
		p.ServerTiming[name] = TimingReport{t.count, millis(t.sum / time.Duration(t.count))}
	}
	if c.refused > 0 {
		q := quantiles(c.retry) // of milliseconds: in seconds
		p.RetryAfter = &RetryReport{Refused: c.refused, Advised: c.advised, P50S: rounded(q.P50), MaxS: rounded(q.Max)}
	}
}

func (c *recorder) addCallers(p *Report, m *mix) {
	if len(c.callers) < 2 {
		return
	}
	for i, of := range c.callers {
		p.Callers = append(p.Callers, CallerReport{
			Name: m.name(i), Sent: of.sent, OK: of.ok, Refused: of.refused, Errors: of.errors, Unfinished: of.unfinished,
			// A step of 2 % may end above the longest latency that there was.
			P50MS: min(millis(of.latency.quantile(0.5)), p.LatencyMS.Max), P95MS: min(millis(of.latency.quantile(0.95)), p.LatencyMS.Max),
		})
	}
}

// judge compares a percentile with an objective. Where nothing was measured it is
// not met.
func (c *recorder) judge(o Objective) ObjectiveReport {
	h := c.latency
	switch o.about {
	case ttftObjective:
		h = c.first
	case gapObjective:
		h = c.gap
	}
	value := float64(h.ValueAtPercentile(o.quantile)) / 1000
	return ObjectiveReport{o.text, value, h.TotalCount() > 0 && value < float64(o.below)/float64(time.Millisecond)}
}

// warnings say what makes the figures doubtful.
func (r *Report) warnings() (all []string) {
	if n := r.Errors[kindUnsent]; n > 0 {
		all = append(all, fmt.Sprintf("%s due while too many had no answer, and were not sent: the server does not keep up with this rate, and its latencies would be higher still", pluralWere(n, "request")))
	}
	if r.late() {
		all = append(all, fmt.Sprintf("requests were sent late (p99 %s ms): %s", significant(r.LateMS.P99), lateWhy))
	}
	if r.Loop == "open" && r.Arrivals == Constant && r.Ended == "" && r.Unsent == 0 && r.Rate < 0.99*r.wanted() {
		all = append(all, fmt.Sprintf("%s requests a second were sent, and %s were wanted: the generator was the bottleneck", significant(r.Rate), significant(r.wanted())))
	}
	if r.OK == 0 && r.Sent+r.Unsent > 0 {
		all = append(all, "no request was answered without an error")
	}
	if n := r.Errors[kindTimeout]; n > 0 {
		all = append(all, fmt.Sprintf("%s had no answer in time: they count with the time that was waited, and the highest percentiles end there", plural(n, "request")))
	}
	return all
}

// wanted is the rate that the stages have on average until the load ended: a number of
// requests may end a ramp before it is fast.
func (r *Report) wanted() float64 {
	sum, seconds := 0.0, 0.0
	for _, s := range r.Stages {
		if part := min(s.ForS, r.DurationS-seconds); part > 0 {
			sum += (s.From + (s.To-s.From)*part/s.ForS/2) * part
			seconds += part
		}
	}
	if seconds == 0 {
		return r.TargetRate
	}
	return rounded(sum / seconds)
}

// Lateness that is worth a word: more than this many milliseconds, and more than
// this share of the median.
const (
	lateAnyway = 2
	lateShare  = 0.1
	lateWhy    = "the generator had too little CPU time, and its own delay is in these latencies"
)

// late tells whether the generator's own delay is a part of the latencies.
func (r *Report) late() bool {
	return r.LateMS.P99 > lateAnyway && r.LateMS.P99 > lateShare*r.LatencyMS.P50
}

func (i *intervals) report() []IntervalReport {
	all := []IntervalReport{}
	for n, p := range i.parts {
		all = append(all, IntervalReport{
			AtS: float64(n) * i.width.Seconds(), Sent: p.sent, Answered: p.answered, Errors: p.errors, Unsent: p.unsent,
			P50MS: min(millis(p.latency.quantile(0.5)), millis(p.longest)), P99MS: min(millis(p.latency.quantile(0.99)), millis(p.longest)),
			MaxMS: millis(p.longest),
		})
	}
	return all
}

// millis is a time in milliseconds, to the microsecond.
func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rounded has at most four digits behind the point.
func rounded(f float64) float64 { return math.Round(f*1e4) / 1e4 }

func quantiles(h *hdrhistogram.Histogram) (q Quantiles) {
	if h.TotalCount() == 0 {
		return q
	}
	most := h.Max()
	at := func(p float64) float64 { return float64(min(h.ValueAtPercentile(p), most)) / 1000 }
	return Quantiles{at(50), at(90), at(95), at(99), at(99.9), float64(most) / 1000}
}

// confidence finds the ranges of percentiles from their order statistics: of n
// values the one at the rank nq±1.96*sqrt(nq(1-q)).
func confidence(h *hdrhistogram.Histogram) map[string]Range {
	n := float64(h.TotalCount())
	if n == 0 {
		return nil
	}
	of := map[string]Range{}
	for name, q := range map[string]float64{"p50": 0.5, "p95": 0.95, "p99": 0.99} {
		low, high := ranks(n, q)
		at := func(rank float64) float64 {
			return float64(min(h.ValueAtPercentile(100*min(max(rank/n, 0), 1)), h.Max())) / 1000
		}
		of[name] = Range{at(low), at(high)}
	}
	return of
}

// ranks are between which of n values their percentile q is with a probability of 95 %.
// Of few values they are below the first and above the last: that end is not known.
func ranks(n, q float64) (low, high float64) {
	wide := 1.96 * math.Sqrt(n*q*(1-q))
	return n*q - wide, n*q + wide + 1
}

// histogramStep is how much longer a bucket of the report's is than the one before.
const histogramStep = 1.05

// histogram counts latencies in buckets that are the same for all reports; empty
// ones are left out.
func histogram(h *hdrhistogram.Histogram) []Bucket {
	counts := map[int]int64{}
	for _, b := range h.Distribution() {
		if b.Count > 0 {
			counts[int(math.Ceil(math.Log(float64(b.To))/math.Log(histogramStep)))] += b.Count
		}
	}
	all := []Bucket{}
	for _, i := range slices.SortedFunc(maps.Keys(counts), cmp.Compare) {
		edge := func(i int) float64 { return math.Round(math.Pow(histogramStep, float64(i))) / 1000 }
		all = append(all, Bucket{edge(i - 1), edge(i), counts[i]})
	}
	return all
}

// pointsPerDecade is how many points of the percentiles there are from 90 % to 99 %,
// from 99 % to 99.9 %, and so on.
const pointsPerDecade = 20

// percentiles are equally far from each other on a scale of log(1/(1-q)), up to the
// last that so many values have.
func percentiles(h *hdrhistogram.Histogram) []Point {
	all := []Point{}
	n := float64(h.TotalCount())
	if n == 0 {
		return all
	}
	for i := 0; ; i++ {
		q := 1 - math.Pow(10, -float64(i)/pointsPerDecade)
		if 1-q < 1/n {
			break
		}
		all = append(all, Point{math.Round(q*1e8) / 1e8, float64(min(h.ValueAtPercentile(100*q), h.Max())) / 1000})
	}
	return append(all, Point{1, float64(h.Max()) / 1000})
}

// withoutUser is a URL without what may be a secret in front of the host.
func withoutUser(target string) string {
	u, err := url.Parse(target)
	if err != nil || u.User == nil {
		return target
	}
	u.User = nil
	return u.String()
}
