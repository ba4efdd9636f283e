// Package sim shows what overload does to a model server, and what a gateway
// makes of it, in virtual time: a model of an engine (Engine), callers that wait,
// leave and come back (Caller), the gateway's own scheduler and the usual
// alternatives to it (Policy), and a table of how they compare (Table).
//
// Everything follows from the seed of a Scenario: the same scenario gives the
// same Result to the last bit, on every machine of one architecture. It is a tool
// to tune with: put your engine's figures into EngineOptions and your callers into
// a Scenario, and see where your own limits are. The model is a simple one; it
// shows which of two ways is better and why, not what your hardware will do to the
// digit.
package sim

import (
	"fmt"
	"slices"
	"time"
)

// EngineOptions are the figures of one model server. The zero value is a mid-size
// model on one accelerator with room for 80,000 tokens.
type EngineOptions struct {
	// KVTokens is the size of the KV cache in tokens. Default 80,000.
	KVTokens int
	// MaxSeqs is how many sequences one step computes at most. Default 256.
	MaxSeqs int
	// Chunk is how many tokens one step computes at most: prompts are cut to fit
	// beside the tokens of the sequences that already generate. Default 2048.
	Chunk int
	// Step is what a step takes by itself. Default 9 ms.
	Step time.Duration
	// PerSeq is what each sequence adds to a step. Default 120 µs.
	PerSeq time.Duration
	// PerPrompt is what each token of a prompt adds to a step. Default 90 µs.
	PerPrompt time.Duration
	// PerKV is what a thousand tokens in the KV cache add to a step: attention
	// reads all of them. Default 80 µs.
	PerKV time.Duration
}

func (o EngineOptions) withDefaults() EngineOptions {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.KVTokens, 80_000)
	def(&o.MaxSeqs, 256)
	def(&o.Chunk, 2048)
	defTime(&o.Step, 9*time.Millisecond)
	defTime(&o.PerSeq, 120*time.Microsecond)
	defTime(&o.PerPrompt, 90*time.Microsecond)
	defTime(&o.PerKV, 80*time.Microsecond)
	return o
}

// Sequence is one generation: the caller fills in the exported fields and keeps
// the pointer, which names the sequence in Remove and in events.
type Sequence struct {
	// Input is the length of the prompt in tokens, at least 1; Cached says how
	// many of them the prefix cache has, so that they need no computation. Both
	// take room in the KV cache.
	Input, Cached int
	// Output is how many tokens it will generate, at least 1.
	Output int

	state    seqState
	kv       int // tokens of the KV cache that it holds
	prefill  int // tokens still to be computed before the next one is generated
	produced int
	chunk    int // tokens of prefill in the step that runs
	stepping bool
}

type seqState uint8

const (
	absent seqState = iota
	waiting
	running
)

// Produced is how many tokens the sequence has generated so far.
func (q *Sequence) Produced() int { return q.produced }

// Event is one generated token.
type Event struct {
	Seq *Sequence
	// Token counts from 1.
	Token int
	// First and Finished mark the first and the last token. A finished sequence
	// has left the engine.
	First, Finished bool
}

// Engine is a model server's loop in the manner of vLLM: continuous batching,
// prompts computed in chunks beside the running generations, first come first
// served out of a waiting queue without bound, and preemption by recomputation
// when the KV cache is full: the sequence that came last loses what it has, goes
// back to the front of the queue and has its prompt and its output computed
// again. That last rule is why throughput falls when too many run at once.
//
// It has no clock. Whoever drives it calls Begin, waits (in real or in virtual
// time) as long as Begin says, and calls End, which hands out the tokens of the
// step; Add and Remove may come at any time between. It is not safe for
// concurrent use.
type Engine struct {
	o        EngineOptions
	slow     float64
	running  []*Sequence // in the order of their arrival
	queue    []*Sequence // queue[head:], with sequences in it that were removed
	head     int
	dead     int // removed sequences in queue[head:]
	kv       int
	stepping bool
	preempts int64
	prompted int64 // tokens of prompts computed, recomputation included
	events   []Event
}

// NewEngine returns an idle engine. Unset options have their defaults.
func NewEngine(o EngineOptions) *Engine {
	return &Engine{o: o.withDefaults(), slow: 1}
}

// Add puts q at the end of the waiting queue. It refuses a sequence without
// prompt or output, one that could never fit into the KV cache, and one that is
// already there.
func (e *Engine) Add(q *Sequence) error {
	switch {
	case q.Input < 1 || q.Output < 1 || q.Cached < 0:
		return fmt.Errorf("sim: sequence of %d input, %d cached and %d output tokens: want at least 1 of input and output, and none negative", q.Input, q.Cached, q.Output)
	case q.Output > e.o.KVTokens || q.Input > e.o.KVTokens-q.Output:
		return fmt.Errorf("sim: sequence of %d and %d tokens: the KV cache has only %d", q.Input, q.Output, e.o.KVTokens)
	case q.state != absent || q.produced > 0:
		return fmt.Errorf("sim: the sequence is in an engine already, or was")
	}
	q.state = waiting
	q.prefill = max(1, q.Input-q.Cached)
	e.queue = append(e.queue, q)
	return nil
}

// Remove takes q out at once, with all that it holds, and gives no further event
// for it: its client has left. It does nothing for one that is not there.
func (e *Engine) Remove(q *Sequence) {
	switch q.state {
	case running:
		i := slices.Index(e.running, q)
		e.running = slices.Delete(e.running, i, i+1)
		e.free(q)
	case waiting:
		e.dead++
		if e.dead > 64 && e.dead > (len(e.queue)-e.head)/2 {
			q.state = absent
			e.compact()
		}
	}
	q.state = absent
}

// compact drops the removed sequences out of the queue.
func (e *Engine) compact() {
	kept := e.queue[:0]
	for _, q := range e.queue[e.head:] {
		if q.state == waiting {
			kept = append(kept, q)
		}
	}
	clear(e.queue[len(kept):])
	e.queue, e.head, e.dead = kept, 0, 0
}

func (e *Engine) free(q *Sequence) {
	e.kv -= q.kv
	q.kv = 0
	q.stepping = false
}

// Begin starts a step and returns how long it takes, 0 when there is nothing to
// do. Called while a step runs it returns 0 and changes nothing.
func (e *Engine) Begin() time.Duration {
	if e.stepping {
		return 0
	}
	budget, prompts, preempted := e.scheduleRunning()
	if !preempted {
		prompts += e.admit(budget)
	}
	seqs := 0
	for _, q := range e.running {
		if q.stepping {
			seqs++
		}
	}
	if seqs == 0 {
		return 0
	}
	e.stepping = true
	e.prompted += int64(prompts)
	took := e.o.Step + time.Duration(seqs)*e.o.PerSeq + time.Duration(prompts)*e.o.PerPrompt +
		time.Duration(e.kv)*e.o.PerKV/1000
	return time.Duration(float64(took) * e.slow)
}

// scheduleRunning gives each running sequence its part of the step, oldest
// first, and returns the tokens left for others.
func (e *Engine) scheduleRunning() (budget, prompts int, preempted bool) {
	budget = e.o.Chunk
	for i := 0; i < len(e.running) && budget > 0; i++ {
		q := e.running[i]
		if q.prefill > 0 {
			q.chunk = min(q.prefill, budget)
			prompts += q.chunk
			budget -= q.chunk
			q.stepping = true
			continue
		}
		for e.kv >= e.o.KVTokens && q.state == running {
			last := e.running[len(e.running)-1]
			if last.stepping { // it is q or came before: nothing of this step is lost
				prompts -= last.chunk
			}
			e.preempt(last)
			preempted = true
		}
		if q.state != running {
			break
		}
		q.kv++
		e.kv++
		budget--
		q.stepping = true
	}
	return budget, prompts, preempted
}

// preempt puts the running sequence that came last back in front of the queue.
func (e *Engine) preempt(q *Sequence) {
	e.running = e.running[:len(e.running)-1]
	e.free(q)
	q.state, q.chunk = waiting, 0
	q.prefill = q.Input + q.produced
	e.preempts++
	if e.head > 0 {
		e.head--
		e.queue[e.head] = q
		return
	}
	e.queue = slices.Insert(e.queue, 0, q)
}

// admit starts waiting sequences while the step, the cache and the number of
// sequences have room, and returns the tokens of their prompts in this step.
func (e *Engine) admit(budget int) (prompts int) {
	for budget > 0 && e.head < len(e.queue) && len(e.running) < e.o.MaxSeqs {
		q := e.queue[e.head]
		if q.state != waiting {
			e.pop()
			e.dead--
			continue
		}
		need := q.Input + q.produced + 1
		if e.kv+need > e.o.KVTokens {
			break
		}
		e.pop()
		q.state, q.kv = running, need
		e.kv += need
		q.chunk = min(q.prefill, budget)
		q.stepping = true
		budget -= q.chunk
		prompts += q.chunk
		e.running = append(e.running, q)
	}
	return prompts
}

func (e *Engine) pop() {
	e.queue[e.head] = nil
	e.head++
	if e.head == len(e.queue) {
		e.queue, e.head = e.queue[:0], 0
	} else if e.head > 1024 && e.head > len(e.queue)/2 {
		n := copy(e.queue, e.queue[e.head:])
		clear(e.queue[n:])
		e.queue, e.head = e.queue[:n], 0
	}
}

// End ends the step that Begin started and returns its tokens, oldest sequence
// first. The slice is valid until the next call of End.
func (e *Engine) End() []Event {
	e.stepping = false
	e.events = e.events[:0]
	kept := e.running[:0]
	for _, q := range e.running {
		if !q.stepping {
			kept = append(kept, q)
			continue
		}
		q.stepping = false
		q.prefill -= min(q.chunk, q.prefill)
		q.chunk = 0
		if q.prefill > 0 {
			kept = append(kept, q)
			continue
		}
		q.produced++
		done := q.produced >= q.Output
		e.events = append(e.events, Event{Seq: q, Token: q.produced, First: q.produced == 1, Finished: done})
		if done {
			e.free(q)
			q.state = absent
			continue
		}
		kept = append(kept, q)
	}
	clear(e.running[len(kept):])
	e.running = kept
	return e.events
}

// Slow makes every further step take factor times as long; 1 is as configured,
// and so is anything that is not positive.
func (e *Engine) Slow(factor float64) {
	if !(factor > 0) {
		factor = 1
	}
	e.slow = factor
}

// Running is the number of sequences that hold room in the KV cache.
func (e *Engine) Running() int { return len(e.running) }

// Waiting is the number of sequences that do not, preempted ones included.
func (e *Engine) Waiting() int { return len(e.queue) - e.head - e.dead }

// KVUsed is the part of the KV cache in use, 0 to 1.
func (e *Engine) KVUsed() float64 { return float64(e.kv) / float64(e.o.KVTokens) }

// KVTokens is the size of the KV cache in tokens.
func (e *Engine) KVTokens() int { return e.o.KVTokens }

// MaxSeqs is how many sequences can run at once.
func (e *Engine) MaxSeqs() int { return e.o.MaxSeqs }

// Preemptions is how often a running sequence lost its room, ever.
func (e *Engine) Preemptions() int64 { return e.preempts }

// PromptTokens is how many tokens of prompts were computed, ever; what was
// computed twice counts twice.
func (e *Engine) PromptTokens() int64 { return e.prompted }
