package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/internal/sim"
)

// The names of the servers whose metrics there are.
const (
	kindVLLM   = "vllm"
	kindSGLang = "sglang"
)

// options are the flags.
type options struct {
	listen           string
	kind             string
	model            string
	engine           sim.EngineOptions
	blockSize        int
	maxQueue         int
	maxInput         int
	speed            float64
	seed             uint64
	output           int
	sigma            float64
	streamInterval   int
	embedStep        time.Duration
	embedItem        time.Duration
	prefixCache      bool
	ignoreDisconnect bool
	log              bool
	simulate         bool
	scenario         string
	slo              admission.SLO
	fixed            int
}

// bounds of the flags: what a machine of today can show.
const (
	maxSpeed     = 10_000
	maxTokens    = 1 << 30
	maxSequences = 1 << 16
)

// parseOptions reads the command line. The error is flag.ErrHelp where help was
// asked for, and was printed to out.
func parseOptions(args []string, out io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("fakeengine", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.listen, "listen", "127.0.0.1:8000", "`address` to serve on; port 0 takes a free one")
	f.StringVar(&o.kind, "kind", kindVLLM, "whose metrics /metrics has: vllm or sglang")
	f.StringVar(&o.model, "model", "fake", "`name` of the model")
	f.IntVar(&o.engine.KVTokens, "kv-tokens", 80_000, "size of the KV cache in `tokens`")
	f.IntVar(&o.blockSize, "block-size", 16, "`tokens` of a block of the KV cache, as the metrics count it")
	f.IntVar(&o.engine.MaxSeqs, "max-seqs", 256, "`sequences` that run at once")
	f.IntVar(&o.engine.Chunk, "max-batched-tokens", 2048, "`tokens` computed in one step: longer prompts take several")
	f.IntVar(&o.maxQueue, "max-queue", 0, "`requests` that wait and run at once; above it the answer is 503. 0: no bound")
	f.IntVar(&o.maxInput, "max-model-len", 0, "`tokens` of a prompt and its answer together; more is 400. 0: what the KV cache has")
	f.Float64Var(&o.speed, "speed", 1, "how many times faster than the model of the engine says time goes")
	f.Uint64Var(&o.seed, "seed", 1, "of the texts, of the lengths that nobody asked for and of the faults with a share")
	f.IntVar(&o.output, "output-tokens", 150, "median length in `tokens` of an answer whose request has no fake_tokens")
	f.Float64Var(&o.sigma, "output-sigma", 0.7, "standard deviation of that length's logarithm; 0: always the median")
	f.IntVar(&o.streamInterval, "stream-interval", 1, "`tokens` in one event of a stream")
	f.DurationVar(&o.engine.Step, "step", 9*time.Millisecond, "`time` of a step by itself")
	f.DurationVar(&o.engine.PerSeq, "step-seq", 120*time.Microsecond, "what each sequence adds to a step")
	f.DurationVar(&o.engine.PerPrompt, "step-prompt", 90*time.Microsecond, "what each token of a prompt adds to a step")
	f.DurationVar(&o.engine.PerKV, "step-kv", 80*time.Microsecond, "what a thousand tokens in the KV cache add to a step")
	f.DurationVar(&o.embedStep, "embed-step", 8*time.Millisecond, "`time` of a call of embeddings or predictions by itself")
	f.DurationVar(&o.embedItem, "embed-item", 500*time.Microsecond, "what each input or instance adds to such a call")
	f.BoolVar(&o.prefixCache, "prefix-cache", false, "prompts that begin as one before it did are not computed again")
	f.BoolVar(&o.ignoreDisconnect, "ignore-disconnect", false, "go on with a sequence whose client has left")
	f.BoolVar(&o.log, "log", false, "print the path and the user of each request for text before the engine takes it")
	f.BoolVar(&o.simulate, "simulate", false, "print how gateways would do in front of this engine, in simulated time, and end")
	f.StringVar(&o.scenario, "scenario", "", "with --simulate: only the scenarios with this `text` in their name")
	f.DurationVar(&o.slo.TTFT, "ttft", 2*time.Second, "with --simulate: the `time` to the first token that callers are to get")
	f.DurationVar(&o.slo.TPOT, "tpot", 80*time.Millisecond, "with --simulate: the `time` for each further token")
	f.IntVar(&o.fixed, "fixed", 64, "with --simulate: `requests` at once of the gateways with a fixed limit")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q: want no arguments, only flags", f.Arg(0))
	}
	if o.maxInput == 0 {
		o.maxInput = max(2, o.engine.KVTokens)
	}
	return o, o.check()
}

// check reports every flag that is wrong.
func (o *options) check() error {
	var errs []error
	between := func(name string, v, low, high int) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("--%s: %d: want %d to %d", name, v, low, high))
		}
	}
	between("kv-tokens", o.engine.KVTokens, 64, maxTokens)
	between("block-size", o.blockSize, 1, 1<<16)
	between("max-seqs", o.engine.MaxSeqs, 1, maxSequences)
	between("max-batched-tokens", o.engine.Chunk, 1, maxTokens)
	between("max-queue", o.maxQueue, 0, 1<<20)
	between("max-model-len", o.maxInput, 2, max(2, o.engine.KVTokens))
	between("output-tokens", o.output, 1, maxTokens)
	between("stream-interval", o.streamInterval, 1, 1<<16)
	between("fixed", o.fixed, 1, maxSequences)
	for _, d := range []struct {
		name string
		low  time.Duration
		v    time.Duration
	}{
		// Zero would be the model's default, and a step without time would never let go.
		{"step", time.Microsecond, o.engine.Step}, {"step-seq", 1, o.engine.PerSeq}, {"step-prompt", 1, o.engine.PerPrompt},
		{"step-kv", 1, o.engine.PerKV}, {"embed-step", 0, o.embedStep}, {"embed-item", 0, o.embedItem},
		{"ttft", time.Millisecond, o.slo.TTFT}, {"tpot", time.Microsecond, o.slo.TPOT},
	} {
		if d.v < d.low || d.v > time.Minute {
			errs = append(errs, fmt.Errorf("--%s: %v: want %v to 1m", d.name, d.v, d.low))
		}
	}
	if !(o.speed >= 0.001 && o.speed <= maxSpeed) {
		errs = append(errs, fmt.Errorf("--speed: %v: want 0.001 to %d", o.speed, maxSpeed))
	}
	if !(o.sigma >= 0 && o.sigma <= 5) {
		errs = append(errs, fmt.Errorf("--output-sigma: %v: want 0 to 5", o.sigma))
	}
	if o.kind != kindVLLM && o.kind != kindSGLang {
		errs = append(errs, fmt.Errorf("--kind: %q: want vllm or sglang", o.kind))
	}
	if o.model == "" {
		errs = append(errs, errors.New("--model: empty: want a name"))
	}
	return errors.Join(errs...)
}
