package loadtest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// defaultQuantile is the one of an objective that names none.
const defaultQuantile = 95

// What an objective may be about.
const (
	latencyObjective = "latency"
	ttftObjective    = "ttft"
	gapObjective     = "itl"
)

// Objective is one condition of a service level: that most answers are as fast as
// that.
type Objective struct {
	about    string
	quantile float64 // percent
	below    time.Duration
	text     string
}

// String is the objective as it was written.
func (o Objective) String() string { return o.text }

// ObjectiveForm says what an objective looks like.
const ObjectiveForm = "want a percentile and a time, for example p95<300ms, ttft<1s or itl_p99<80ms"

// OfStreams tells whether it is about what only streams have.
func (o Objective) OfStreams() bool { return o.about != latencyObjective }

// ParseObjective reads [latency|ttft|itl][_pNN]<DURATION: p95<300ms, ttft<1s,
// itl_p99<80ms. Without a name it is about the latency, without a percentile about
// the 95th. ttft is the time to the first token of a stream; itl the gap between
// tokens. It is met by a load whose percentile is below the duration, and inside it
// is each answer whose own latency, time to the first token or mean gap is.
func ParseObjective(text string) (Objective, error) {
	o := Objective{about: latencyObjective, quantile: defaultQuantile, text: text}
	wrong := fmt.Errorf("%.100q: "+ObjectiveForm, text)
	what, limit, ok := strings.Cut(text, "<")
	if !ok {
		return Objective{}, wrong
	}
	var err error
	if o.below, err = time.ParseDuration(strings.TrimSpace(limit)); err != nil || o.below <= 0 {
		return Objective{}, wrong
	}
	what = strings.TrimSpace(what)
	name, percentile, named := strings.Cut(what, "_")
	if !named && isPercentile(what) {
		name, percentile = latencyObjective, what
	}
	switch name {
	case latencyObjective, ttftObjective, gapObjective:
		o.about = name
	default:
		return Objective{}, wrong
	}
	if percentile != "" || named {
		if !isPercentile(percentile) {
			return Objective{}, wrong
		}
		o.quantile, _ = strconv.ParseFloat(percentile[1:], 64)
	}
	return o, nil
}

// isPercentile tells whether text is p and a number above 0 and below 100, or p100.
// p999 is not taken for p99.9: that would be a guess.
func isPercentile(text string) bool {
	digits, ok := strings.CutPrefix(text, "p")
	n, err := strconv.ParseFloat(digits, 64)
	return ok && err == nil && n > 0 && n <= 100
}

// inside tells whether an answer is as fast as the objective wants.
func (o Objective) inside(a *outcome) bool {
	switch o.about {
	case ttftObjective:
		return a.pieces > 0 && a.first < o.below
	case gapObjective:
		return a.tokens < 2 || a.meanGap() < o.below
	}
	return a.latency < o.below
}
