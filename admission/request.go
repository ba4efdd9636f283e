package admission

import "time"

// Request is what the queue needs to know of a request.
type Request struct {
	// Caller is whose share it is charged to.
	Caller string
	// Weight is the caller's share beside those of the others of its class. 0
	// means 1.
	Weight float64
	// Class comes before the caller.
	Class Class
	// Kind is the response class of a plain call, such as its route and endpoint:
	// calls of one kind are expected to take about as long as each other.
	Kind string
	// Input, Cached and Output are tokens as estimated: of the prompt, of that part
	// of it which the server has in its prefix cache, and of the answer. All are 0
	// where a call has none.
	Input, Cached, Output int64
	// Items is how many things it asks for, such as instances to predict. 0 means 1.
	Items int
	// Stream says that the tokens come as they are made, so that FirstToken will be
	// called.
	Stream bool
	// Deadline is when its client wants to have the whole answer, WaitUntil when it
	// is to have begun. The zero time means never.
	Deadline, WaitUntil time.Time
	// Ticket is what an earlier refusal gave, Digest the hash of what makes the
	// request the same one again.
	Ticket string
	Digest [32]byte
	// Prefix is for Options.Choose: by what targets know the beginning of the prompt.
	Prefix []uint64
	// Batch is what requests have in common that may share one call. "" means that
	// this one goes alone.
	Batch string
	// Tried are the targets that have failed it, which are taken only where there
	// is no other. A request that was tried goes before others of its caller.
	Tried []int
}

// The weights of the kinds of tokens: those of the paper on virtual token counters,
// with nine tenths off for a prompt that the server has in its prefix cache.
const (
	inputWeight    = 1.0
	cachedDiscount = 0.9
	outputWeight   = 2.0
)

// Cost is the work that tokens stand for, in tokens of a prompt: an answer's count
// twice, cached ones a tenth.
func Cost(input, cached, output int64) float64 {
	in := inputWeight*float64(max(input, 0)) - cachedDiscount*float64(max(min(cached, input), 0))
	return in + outputWeight*float64(max(output, 0))
}

// The most that is believed of one request, so that sums stay sums.
const (
	mostTokens = 1 << 40
	mostItems  = 1 << 30
)

// bound brings what r says of itself to what can be.
func (r *Request) bound() {
	r.Class = min(r.Class, classes-1)
	r.Input = min(max(r.Input, 0), mostTokens)
	r.Cached = min(max(r.Cached, 0), r.Input)
	r.Output = min(max(r.Output, 0), mostTokens)
	r.Items = min(max(r.Items, 1), mostItems)
}

// hasTokens reports whether r is measured in tokens.
func (r *Request) hasTokens() bool { return r.Input > 0 || r.Output > 0 }

// late reports whether its client has stopped waiting.
func (r *Request) late(now time.Time) bool {
	return !r.Deadline.IsZero() && !now.Before(r.Deadline) || !r.WaitUntil.IsZero() && !now.Before(r.WaitUntil)
}

// cost is what r is expected to cost: in tokens, or in items.
func (r *Request) cost() float64 {
	if r.hasTokens() {
		return max(Cost(r.Input, r.Cached, r.Output), 1)
	}
	return float64(r.Items)
}

// Result is how the work on a request ended.
type Result uint8

// The results.
const (
	// OK is a complete answer.
	OK Result = iota
	// Failed is an answer that says that the server failed, or none: a connection
	// refused or broken, a timeout.
	Failed
	// Overloaded is the target's own refusal: 429, 503, no free connection.
	Overloaded
	// ClientError is an answer that says that the request was at fault.
	ClientError
	// Left is a client that did not wait for the end.
	Left
	// Unused is a place that was given back without anything being sent.
	Unused
)

// EngineState is what a model server says of itself in its metrics.
type EngineState struct {
	// Running and Waiting are its requests, of all its clients.
	Running, Waiting int
	// KVUsed is how much of its key-value cache is taken, from 0 to 1.
	KVUsed float64
	// KVTokens is the size of that cache in tokens, MaxSeqs how many requests it
	// runs at once. 0 means that it does not say.
	KVTokens int64
	MaxSeqs  int
	// At is when it said so.
	At time.Time
}
