// Package loadtest sends load to a server and says how it answered. In an open
// loop requests are sent when they are due, whether or not those before are
// answered, and latency counts from that moment: a server that stalls cannot hide
// the requests that it kept from being sent (coordinated omission, Gil Tene, "How
// NOT to Measure Latency"). In a closed loop a fixed number of clients send one
// request after another.
package loadtest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// What holds where Options say nothing else.
const (
	// DefaultTimeout is the longest that one request may take.
	DefaultTimeout = 60 * time.Second
	// DefaultMaxInFlight is the most requests without an answer in an open loop.
	DefaultMaxInFlight = 10_000
)

// The bounds of Options.
const (
	// MaxRate is the most requests a second.
	MaxRate = 1_000_000
	// MaxConcurrency is the most clients of a closed loop, and the most requests in
	// flight of an open one.
	MaxConcurrency = 100_000
	// MaxDuration is the longest that a load may take.
	MaxDuration = 24 * time.Hour
	// MaxCallers is the most callers that requests are spread over.
	MaxCallers = 1_000_000
	// MaxBody is the most bytes of a body, as it is written and as it is sent.
	MaxBody = 10 << 20

	maxStages = 100
	maxFields = 100 // of a header
)

// The two processes of arrivals.
const (
	// Constant sends at equal distances.
	Constant = "constant"
	// Poisson sends at random moments, as many independent callers do: what a queue
	// sees in production.
	Poisson = "poisson"
)

// Stage is a part of an open loop in which the rate goes from one value to
// another in a straight line; equal values hold it. Rates are requests a second.
type Stage struct {
	From, To float64
	For      time.Duration
}

// Caller is one of those that requests are spread over.
type Caller struct {
	Name   string
	Weight float64     // its share is this of the sum of all weights
	Header http.Header // set in its requests, after Options.Header
}

// Options say what is sent, and when. URL, the values of Header and Body may be
// templates; see Functions.
type Options struct {
	URL    string      // http:// or https://, with a path and a query if need be
	Method string      // default: POST with a body, else GET
	Header http.Header // Host is the request's host
	Body   string
	// Line gives the lines of a file that a template asks for. Default: templates
	// may not ask.
	Line func(name string) ([]string, error)

	// Stages make an open loop, one after the other.
	Stages []Stage
	// Arrivals is Constant, the default, or Poisson.
	Arrivals string
	// MaxInFlight bounds the requests without an answer of an open loop. What is due
	// beyond it is not sent and counts as an error, "unsent". Default
	// DefaultMaxInFlight.
	MaxInFlight int
	// Concurrency makes a closed loop with so many clients, for Duration.
	Concurrency int
	Duration    time.Duration // of a closed loop; 0 with Requests: as long as they take
	Requests    int64         // the load ends after so many, warm-up not counted; 0: no bound
	// Warmup is how long requests are sent before those that count, at the rate that
	// the first stage begins with. Default none.
	// Its requests are others: their numbers are -1, -2 and so on, and they draw values
	// of their own.
	Warmup time.Duration
	// Rehearsal has all of the load be the warm-up of another one.
	Rehearsal bool
	Timeout   time.Duration // of one request; default DefaultTimeout

	// Callers share the requests. Or CallerCount: so many of the same weight, with
	// the names 1, 2, …, told apart by CallerHeader, whose values are templates with
	// {{caller}}.
	Callers      []Caller
	CallerCount  int
	CallerHeader http.Header

	// Stream reads answers as event streams of model APIs: the first token and the
	// gaps between tokens are measured, and a stream without its end is an error.
	Stream bool
	// MaxErrors ends the load when the share of errors in the last five seconds is
	// above it, and there were 20 answers in them. A load that goes on to its end is
	// judged by all its requests, however few. Default nil: neither.
	MaxErrors  *float64
	Objectives []Objective // the service level
	Seed       uint64      // of all that is random; the same seed draws the same

	// Insecure accepts any certificate of https://.
	Insecure bool
	// Transport sends the requests. Default: one of its own, with as many
	// connections as there are requests in flight.
	Transport http.RoundTripper
	// Progress is told four times a second how far it is, from one goroutine.
	Progress func(Progress)
}

// Test is a load that can be run.
type Test struct {
	o       Options
	request *requests
	mix     *mix
	pause   func(time.Duration) // waits exactly; for less than two milliseconds
}

// New prepares a load and says everything that is wrong with it. A mistake names
// the option as the command line does.
func New(o Options) (*Test, error) {
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.MaxInFlight = cmp.Or(o.MaxInFlight, DefaultMaxInFlight)
	o.Arrivals = cmp.Or(o.Arrivals, Constant)
	if o.Method = strings.ToUpper(o.Method); o.Method == "" {
		o.Method = http.MethodGet
		if o.Body != "" {
			o.Method = http.MethodPost
		}
	}
	wrong := o.mistakes()
	callers, err := newMix(&o)
	wrong = append(wrong, err)
	request, err := newRequests(&o)
	wrong = append(wrong, err)
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	return &Test{o: o, request: request, mix: callers, pause: pause}, nil
}

// String says in words what will be sent.
func (t *Test) String() string {
	p := &Report{Target: withoutUser(t.o.URL), Method: t.o.Method, Loop: "closed", Concurrency: t.o.Concurrency,
		DurationS: t.o.Duration.Seconds(), WarmupS: t.o.Warmup.Seconds(), CallerCount: t.mix.size(), planned: t.o.Requests}
	if len(t.o.Stages) > 0 {
		p.Loop, p.Arrivals, p.DurationS = "open", t.o.Arrivals, length(t.o.Stages).Seconds()
		p.stages(t.o.Stages)
	}
	return p.Method + " " + p.Target + "\n" + wrap(p.Load(), "")
}

// mistakes are those of the numbers.
func (o *Options) mistakes() (wrong []error) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	open, closed := len(o.Stages) > 0, o.Concurrency != 0
	check(open != closed, "--rate, --concurrency: want one of them: a rate for an open loop, a number of clients for a closed one")
	check(o.Concurrency >= 0 && o.Concurrency <= MaxConcurrency, "--concurrency: %d: want from 1 to %d", o.Concurrency, MaxConcurrency)
	check(o.MaxInFlight >= 1 && o.MaxInFlight <= MaxConcurrency, "--max-in-flight: %d: want from 1 to %d", o.MaxInFlight, MaxConcurrency)
	check(!closed || o.Arrivals != Poisson, "--arrivals: poisson with --concurrency: want a rate, which is what arrives: clients send one request after another")
	check(o.Arrivals == Constant || o.Arrivals == Poisson, "--arrivals: %q: want constant or poisson", o.Arrivals)
	check(len(o.Stages) <= maxStages, "--ramp: %d stages: want at most %d", len(o.Stages), maxStages)
	long := o.Warmup
	if closed {
		check(o.Duration <= MaxDuration, "--duration: %s: want at most %s", plainTime(o.Duration), plainTime(MaxDuration))
		long += min(o.Duration, MaxDuration)
	}
	for _, s := range o.Stages {
		long += min(s.For, MaxDuration)
		check(s.From >= 0 && s.From <= MaxRate && s.To >= 0 && s.To <= MaxRate, "--rate, --ramp: from %s to %s: want from 0 to %s a second", rateText(s.From), rateText(s.To), rateText(MaxRate))
		check(s.For > 0 && s.For <= MaxDuration, "--duration: %s: want a time above 0 and at most %s", plainTime(s.For), plainTime(MaxDuration))
	}
	check(o.Warmup >= 0 && o.Warmup <= MaxDuration, "--warmup: %s: want a time from 0 to %s", plainTime(o.Warmup), plainTime(MaxDuration))
	check(!closed || o.Duration > 0 || o.Requests > 0, "--duration: %s: want a time above 0, for example 10s, or --requests", o.Duration)
	check(long <= MaxDuration || o.Warmup > MaxDuration || o.Duration > MaxDuration, "--duration: %s with ramps and warm-up: want at most %s", plainTime(long), plainTime(MaxDuration))
	check(!open || o.sends(), "--rate: nothing would be sent: want a rate and a duration that make a request at least")
	check(o.Requests >= 0, "--requests: %d: want 1 or more", o.Requests)
	check(o.Timeout > 0 && o.Timeout <= time.Hour, "--timeout: %s: want a time above 0 and at most 1h", plainTime(o.Timeout))
	check(o.MaxErrors == nil || *o.MaxErrors >= 0 && *o.MaxErrors <= 1, "--max-errors: want from 0%% to 100%%")
	for _, objective := range o.Objectives {
		check(!objective.OfStreams() || o.Stream, "--slo: %s: want --stream, or an objective for the latency, for example p95<300ms", objective)
	}
	return wrong
}

// plainTime is a time without the units that are 0: 24h and not 24h0m0s.
func plainTime(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// sends tells whether the stages have a request in them.
func (o *Options) sends() bool {
	sum := 0.0
	for _, s := range o.Stages {
		sum += s.requests()
	}
	return sum >= 1-roundingError && !math.IsNaN(sum)
}

// plainText tells whether text has no template in it.
func plainText(text string) bool { return !strings.Contains(text, "{{") }

// header gives the fields of a header in the order of their names.
func sortedNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
