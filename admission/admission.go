// Package admission decides which requests a model server works on now, which
// wait, and which are refused, so that overload costs nobody more than his share.
//
// A Queue stands in front of the targets of one upstream. It knows how much each of
// them takes (limits on requests and on tokens that follow what the target shows of
// itself), holds a bounded number of requests back, lets them go in a fair order,
// and refuses what would come too late, at once and with the time to come back.
//
// The order is by class, then by caller, then by age. Callers of a class share what
// the class gets by weight, counted in the cost of their work and not in requests
// (virtual token counters: Sheng et al., Fairness in Serving Large Language Models,
// OSDI 2024), set right as soon as the true cost is known.
//
// A Scheduler is the same without locks, goroutines and a clock of its own: what a
// simulation drives. A Pool bounds work that burns the CPU of this process.
package admission

import (
	"errors"
	"fmt"
	"time"
)

// Class is how much a request's wait matters, against those of other classes.
type Class uint8

// The classes, from the one that goes first. Each but the first is still owed a
// twentieth of the work, as long as it has any.
const (
	Critical Class = iota
	Standard
	Batch
	classes = 3
)

// String is the class's name in a configuration.
func (c Class) String() string {
	switch c {
	case Critical:
		return "critical"
	case Standard:
		return "standard"
	case Batch:
		return "batch"
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// ParseClass reads the name of a class; "" is Standard.
func ParseClass(s string) (Class, error) {
	switch s {
	case "critical":
		return Critical, nil
	case "standard", "":
		return Standard, nil
	case "batch":
		return Batch, nil
	}
	return Standard, fmt.Errorf("%q: want critical, standard or batch", s)
}

// Target is one server.
type Target struct {
	// Weight is its share of the work beside the other targets'. 0 means 1.
	Weight int
}

// Limits bound how many requests one target works on at the same time. The limit
// moves between the two; where they are equal it is fixed.
type Limits struct {
	// Min is at least 1; 0 means 1. Max is at least Min; 0 means 256.
	Min, Max int
}

// SLO is the service level that callers are to get. Zero values mean none.
type SLO struct {
	// TTFT is the time to the first token, or of a plain upstream to its answer.
	TTFT time.Duration
	// TPOT is the time for each further token.
	TPOT time.Duration
}

// Options describe the queue of one upstream.
type Options struct {
	// Targets has at least one.
	Targets []Target
	// Limits are those of each target. Default adaptive, 1 to 256.
	Limits Limits
	// SLO makes the limits follow the first token and the gaps between tokens. A
	// request of the classes Critical and Standard then waits for at most 0.4 of
	// SLO.TTFT: who waits for longer is late in any case.
	SLO SLO
	// MaxQueue is how many requests may wait. 0 means 256, less than 0 none: what
	// finds no room is refused.
	MaxQueue int
	// MaxWait is the longest that one waits. Default 10s.
	MaxWait time.Duration
	// BatchSize is how many items of requests with the same Request.Batch may share
	// one place. Default 1.
	BatchSize int
	// Choose picks one of targets, which have room, for r; load is the cost that
	// each target works on, by the target's index. nil takes the least load for the
	// weight, and so does an answer that is none of targets. It must not block.
	Choose func(targets []int, load []float64, r *Request) int
	// Open reports whether a target may be given work; nil means always. OpensAt
	// tells when the first of them may, where none does now: the zero time where
	// nobody knows. They must not block.
	Open    func(target int, now time.Time) bool
	OpensAt func(now time.Time) time.Time
	// Pauses reports whether a target that is not open has only asked for a pause, so
	// that it is worth waiting for. Where none is open and none does, what waits is
	// refused at once. nil means that all do. It must not block.
	Pauses func(target int, now time.Time) bool
	// Instances is how many gateways share the targets: each works with its part of
	// the limits. nil means 1. It must not block.
	Instances func() int
	// Secret signs the tickets of refused requests. Empty: one is made, and tickets
	// are good for this queue alone.
	Secret []byte
	// Observe, if not nil, is told of every decision. It must not block.
	Observe func(Event)
}

// The defaults of Options.
const (
	DefaultMaxConcurrency = 256
	DefaultMaxQueue       = 256
	DefaultMaxWait        = 10 * time.Second
)

// Event is a decision, or the end of a wait.
type Event struct {
	Class Class
	// Target is the index of the one that got the request, -1 where none did.
	Target int
	// Wait is how long the request waited.
	Wait time.Duration
	// Reason says why it was refused: "" where it was not.
	Reason Reason
	// Left says that its client left before it was decided.
	Left bool
}

func (o *Options) complete() error {
	var errs []error
	if len(o.Targets) == 0 {
		errs = append(errs, errors.New("admission: no targets: want at least one"))
	}
	if o.Limits.Min == 0 {
		o.Limits.Min = 1
	}
	if o.Limits.Max == 0 {
		o.Limits.Max = max(DefaultMaxConcurrency, o.Limits.Min)
	}
	if o.Limits.Min < 1 || o.Limits.Max < o.Limits.Min {
		errs = append(errs, fmt.Errorf("admission: limits %d to %d: want 1 or more, and the second not below the first", o.Limits.Min, o.Limits.Max))
	}
	if o.SLO.TTFT < 0 || o.SLO.TPOT < 0 {
		errs = append(errs, fmt.Errorf("admission: service level %v, %v: want no negative time", o.SLO.TTFT, o.SLO.TPOT))
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = DefaultMaxQueue
	}
	if o.MaxWait <= 0 {
		o.MaxWait = DefaultMaxWait
	}
	o.BatchSize = max(o.BatchSize, 1)
	return errors.Join(errs...)
}
