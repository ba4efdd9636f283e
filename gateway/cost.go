package gateway

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"sync"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
)

// amounts are what a request uses, or may.
type amounts struct {
	requests, input, output, bytes int64
	cached                         int64 // of input
	money                          int64 // nano-USD
}

// of is the amount in a policy's unit.
func (a amounts) of(unit string) int64 {
	switch unit {
	case "tokens":
		return sum(a.input, a.output)
	case "input_tokens":
		return a.input
	case "output_tokens":
		return a.output
	case "bytes":
		return a.bytes
	case nanoUSD:
		return a.money
	}
	return a.requests
}

// sum adds two amounts that are not negative; the result saturates.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// cost is what t is to reserve. What the request itself says is known: its prompt,
// the cap on its answer, its body. The rest is a guess, by what such requests used
// before; no guess makes a request larger than the bucket, so that one that names
// no cap is never refused while the bucket is full.
func (x *exchange) cost(t *ratelimit.Take) int64 {
	unit := t.Policy.Unit
	if unit == ratelimit.Requests {
		return 1
	}
	known, guessed := x.estimate()
	least := known.of(unit)
	if most := t.Burst(); least <= most {
		return min(sum(least, guessed.of(unit)), most)
	}
	return least
}

// estimate tells what the request will use: what is known, and what is guessed
// besides. It works it out once.
func (x *exchange) estimate() (known, guessed amounts) {
	if x.expected != nil {
		return x.expected[0], x.expected[1]
	}
	e := x.call.Estimate
	known = amounts{input: e.Input, bytes: int64(len(x.body))}
	usual := x.gateway.sizes.look(x.sizeKey())
	guessed.bytes = usual.bytes.guess()
	if e.Input == 0 {
		guessed.input = usual.input.guess()
	}
	switch {
	case e.Output > 0:
		known.output = e.Output
	case !x.call.Generates():
	case usual.output.n > 0:
		guessed.output = usual.output.guess()
	default:
		guessed.output = firstGuess
	}
	price := x.price()
	known.money = price.of(weir.Usage{Input: known.input, Output: known.output})
	guessed.money = price.of(weir.Usage{Input: guessed.input, Output: guessed.output})
	x.expected = &[2]amounts{known, guessed}
	return known, guessed
}

// firstGuess is how many tokens an answer is taken to have before the first has
// been seen: about a paragraph or two.
const firstGuess = 256

// spent is what the request has used in the end.
func (x *exchange) spent() amounts {
	others := x.stored != nil || x.along != nil || x.awaited // the answer was made for somebody else
	if x.unobtained || !x.called && !others {
		return amounts{} // or its client left before anything was done
	}
	a := amounts{requests: 1, bytes: sum(int64(len(x.body)), sum(x.w.sent, x.offloaded))}
	answer := x.answer
	switch {
	case x.along != nil:
		answer = x.along.answer
	case x.stored == nil:
	case x.chosen.config.Cache.ChargeHits:
		answer = x.usageOf(x.stored)
	default: // the upstream was asked, and no model ran for the answer
		return a
	}
	if answer != nil {
		if o := answer.Outcome(); o.Known {
			a.input, a.output = o.Usage.Input, o.Usage.Output
			if !others { // a model ran for it
				a.cached = min(max(o.Usage.Cached, 0), a.input)
				a.money = x.price().of(o.Usage)
			}
			return a
		}
	}
	if x.hasReadPrompt() {
		a.input = x.call.Estimate.Input
		if !others {
			a.money = x.price().of(weir.Usage{Input: a.input})
		}
	}
	return a
}

// hasReadPrompt tells of an answer that says nothing of what it used whether its model
// has read the prompt: it was asked, and its client left before it said a word, or it
// says no more. An error that reports no usage has none.
func (x *exchange) hasReadPrompt() bool {
	switch {
	case x.along != nil:
		return x.w.status < http.StatusBadRequest
	case x.called:
		return !x.failedEarly && (!x.relaying || x.w.status < http.StatusBadRequest)
	}
	return x.awaited
}

// usageOf reads a stored answer for what it says that it used when it was made.
func (x *exchange) usageOf(e *cache.Entry) *dialect.Answer {
	if x.call.Endpoint == "" {
		return nil
	}
	answer := x.call.Answer(e.Status, e.Header.Clone()) // which changes it
	body := answer.Body(io.NopCloser(bytes.NewReader(e.Body)))
	_, _ = io.Copy(io.Discard, body) // what cannot be read says nothing
	_ = body.Close()
	return answer
}

// learn remembers what the request used, for the guesses about the next.
func (x *exchange) learn(used amounts) {
	if x.expected == nil || !x.relaying || x.w.status/100 != 2 || x.err != nil {
		return
	}
	known := x.answer != nil && x.answer.Outcome().Known
	x.gateway.sizes.learn(x.sizeKey(), func(s *size) {
		s.bytes.add(x.w.sent)
		if known {
			s.input.add(used.input)
			s.output.add(used.output)
		}
	})
}

func (x *exchange) sizeKey() sizeKey {
	return sizeKey{x.chosen.name, x.call.Endpoint, x.chosen.upstream.dialect.Canonical(x.call.Model), x.plan}
}

// sizeKey is what requests of about one size have in common.
type sizeKey struct{ route, endpoint, model, plan string }

// size is what requests of one kind use.
type size struct{ input, output, bytes average }

// average follows a number that changes slowly, and how much it varies, with the
// weights that TCP uses for the time of a round trip (RFC 6298).
type average struct {
	n         int64
	mean, dev float64
}

func (a *average) add(v int64) {
	f := float64(max(v, 0))
	if a.n++; a.n == 1 {
		a.mean, a.dev = f, f/2
		return
	}
	a.dev += (math.Abs(f-a.mean) - a.dev) / 4
	a.mean += (f - a.mean) / 8
}

// guess is above most of the numbers to come. What it is below by, is charged
// later; what it is above by, is given back.
func (a average) guess() int64 { return int64(min(a.mean+2*a.dev, math.MaxInt64/4)) }

// sizes are those of all kinds of requests, at most maxSizes: models come from
// clients.
type sizes struct {
	mu sync.Mutex
	by map[sizeKey]size // guarded by mu
}

const maxSizes = 4096

// look returns the size of requests like k; where the model has not been seen, of
// any on its route, by the same endpoint.
func (s *sizes) look(k sizeKey) size {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.by[k]; ok {
		return found
	}
	return s.by[sizeKey{route: k.route, endpoint: k.endpoint}]
}

func (s *sizes) learn(k sizeKey, add func(*size)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[sizeKey]size{}
	}
	for _, k := range []sizeKey{k, {route: k.route, endpoint: k.endpoint}} {
		found, ok := s.by[k]
		if !ok && len(s.by) >= maxSizes {
			for other := range s.by { // any: it is learned again
				delete(s.by, other)
				break
			}
		}
		add(&found)
		s.by[k] = found
	}
}
