package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir/internal/sim"
)

// slo is the service level of the model, before it is scaled.
var slo = struct{ TTFT, TPOT time.Duration }{2 * time.Second, 80 * time.Millisecond}

// scaled is how long a time of the model is here.
func (p plan) scaled(d time.Duration) time.Duration { return time.Duration(float64(d) / p.speed) }

// request is what a caller wants, in one attempt or several. Times count from the
// beginning of the run.
type request struct {
	kind          int // which of the load's callers
	caller        string
	number        int
	input, output int
	born          time.Duration // when it was to be sent, not when it was
	first, last   time.Duration // tokens
	tokens        int
	done          bool
	retries       *rand.Rand
}

// refusal is one 503 or 429.
type refusal struct {
	at   time.Duration
	took time.Duration // from sending it to the answer's header
}

// runner is one load against one gateway.
type runner struct {
	load   sim.Scenario
	plan   plan
	base   string
	client *http.Client
	begin  time.Time
	open   sync.WaitGroup

	mu       sync.Mutex // guards all below
	requests []*request
	refusals []refusal
	attempts int // in the measured time
	failures int // answers that are neither 200 nor a refusal, and streams that were cut
	cpu      time.Duration
	engine   engineReport
	late     time.Duration // the latest that a request was sent after its time
}

func newRunner(load sim.Scenario, p plan, base string) *runner {
	const connections = 4096
	return &runner{load: load, plan: p, base: base, client: &http.Client{Transport: &http.Transport{
		MaxIdleConns: connections, MaxIdleConnsPerHost: connections, DisableCompression: true,
	}}}
}

// sample is what gateway and engine have done so far.
type sample struct {
	cpu    time.Duration
	engine engineReport
}

// run sends what the load says and waits until the last are answered, or are not worth
// waiting for. It looks at the beginning and at the end of the measured time.
func (r *runner) run(ctx context.Context, look func() (sample, error)) error {
	defer r.client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := r.plan.warm + r.plan.length
	r.begin = time.Now()
	n := uint64(0)
	for kind, c := range r.load.Callers {
		for i := range max(1, c.Count) {
			source := rand.New(rand.NewPCG(r.plan.seed, n))
			r.open.Go(func() { r.arrivals(ctx, kind, fmt.Sprintf("%s-%d", c.Name, i+1), source) })
			n++
		}
	}
	var seen [2]sample
	for i, at := range []time.Duration{r.plan.warm, end} {
		if !r.until(ctx, at) {
			break
		}
		var err error
		if seen[i], err = look(); err != nil {
			cancel()
			r.open.Wait()
			return err
		}
	}
	r.until(ctx, end+r.plan.scaled(5*time.Second))
	interrupted := ctx.Err()
	cancel()
	r.open.Wait()
	r.cpu = seen[1].cpu - seen[0].cpu
	r.engine = engineReport{Lag: seen[1].engine.Lag - seen[0].engine.Lag}
	return interrupted
}

// until waits for a moment of the run, and reports false where ctx ends first.
func (r *runner) until(ctx context.Context, at time.Duration) bool {
	t := time.NewTimer(at - time.Since(r.begin))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// arrivals sends one caller's requests, by a Poisson process. When one is sent does
// not depend on the answers to those before.
func (r *runner) arrivals(ctx context.Context, kind int, name string, source *rand.Rand) {
	c := r.load.Callers[kind]
	rate := c.Load / float64(max(1, c.Count)) * r.load.Capacity / (c.Input.Mean + 2*c.Output.Mean)
	for at, number := time.Duration(0), 0; ; number++ {
		at += time.Duration(source.ExpFloat64() / rate * float64(time.Second))
		q := &request{
			kind: kind, caller: name, number: number, born: at,
			input: draw(c.Input, source), output: draw(c.Output, source), retries: rand.New(rand.NewPCG(source.Uint64(), 1)),
		}
		if at >= r.plan.warm+r.plan.length || !r.until(ctx, at) {
			return
		}
		r.mu.Lock()
		r.requests = append(r.requests, q)
		r.late = max(r.late, time.Since(r.begin)-at)
		r.mu.Unlock()
		r.open.Go(func() { r.serve(ctx, q) })
	}
}

// draw is a length, as the simulator draws it.
func draw(l sim.Lengths, source *rand.Rand) int {
	v := math.Exp(math.Log(l.Mean) - l.Spread*l.Spread/2 + l.Spread*source.NormFloat64())
	return int(math.Round(max(1, min(v, 8*l.Mean))))
}

// serve is one request with its retries, as an SDK makes them: after what the refusal
// says, at most a minute, or after half a second of the model, one, two, up to eight,
// less up to a quarter.
func (r *runner) serve(ctx context.Context, q *request) {
	c := r.load.Callers[q.kind]
	for attempt := 0; ctx.Err() == nil; attempt++ {
		after, again := r.try(ctx, q, c.Patience)
		if !again || attempt >= c.Retries {
			return
		}
		if after <= 0 || after > time.Minute {
			backoff := r.plan.scaled(min(500*time.Millisecond<<min(attempt, 10), 8*time.Second))
			after = backoff - time.Duration(q.retries.Float64()*0.25*float64(backoff))
		}
		if !r.until(ctx, time.Since(r.begin)+after) {
			return
		}
	}
}

// body is a chat request that the engine takes for so many tokens.
func (q *request) body() string {
	const bytesPerToken = 4
	prompt := fmt.Sprintf("%s %d ", q.caller, q.number)
	if need := q.input*bytesPerToken - len(prompt); need > 0 {
		prompt += strings.Repeat("word", need/bytesPerToken+1)[:need]
	}
	return fmt.Sprintf(`{"model":"fake","stream":true,"stream_options":{"include_usage":true},"max_tokens":4096,"fake_tokens":%d,"messages":[{"role":"user","content":%q}]}`,
		q.output, prompt)
}

// try is one attempt. again says that it got nothing and that to try again may help,
// after what the refusal said.
func (r *runner) try(ctx context.Context, q *request, patience time.Duration) (after time.Duration, again bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	impatient := time.AfterFunc(r.plan.scaled(patience), cancel)
	defer impatient.Stop()
	sent := time.Now()
	if at := sent.Sub(r.begin); r.measured(at) {
		r.mu.Lock()
		r.attempts++
		r.mu.Unlock()
	}
	in, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/v1/chat/completions", strings.NewReader(q.body()))
	if err != nil {
		return 0, false
	}
	in.Header.Set("Content-Type", "application/json")
	in.Header.Set("X-User-ID", q.caller)
	resp, err := r.client.Do(in)
	if err != nil {
		if ctx.Err() == nil {
			r.failed()
		}
		return 0, true
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		took := time.Since(sent)
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
			r.failed()
			return 0, true
		}
		r.mu.Lock()
		r.refusals = append(r.refusals, refusal{at: sent.Sub(r.begin), took: took})
		r.mu.Unlock()
		return advice(resp.Header), resp.Header.Get("X-Should-Retry") != "false"
	}
	r.read(resp.Body, q, impatient)
	if q.tokens == 0 {
		if ctx.Err() == nil {
			r.failed()
		}
		return 0, true
	}
	if !q.done && ctx.Err() == nil {
		r.failed()
	}
	return 0, false
}

// read reads a stream. The caller's patience ends with the first token: whoever sees
// words stays.
func (r *runner) read(body io.Reader, q *request, impatient *time.Timer) {
	lines := bufio.NewReaderSize(body, 32<<10)
	tokens := 0
	for {
		text, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		switch {
		case bytes.HasPrefix(text, []byte("data: [DONE]")):
			r.mu.Lock()
			q.done = tokens == q.output
			r.mu.Unlock()
			return
		case bytes.Contains(text, []byte(`"content":" `)):
			now := time.Since(r.begin)
			tokens++
			if tokens == 1 {
				impatient.Stop()
			}
			r.mu.Lock()
			if tokens == 1 {
				q.first = now
			}
			q.last, q.tokens = now, tokens
			r.mu.Unlock()
		}
	}
}

func (r *runner) failed() {
	r.mu.Lock()
	r.failures++
	r.mu.Unlock()
}

func (r *runner) measured(at time.Duration) bool {
	return at >= r.plan.warm && at < r.plan.warm+r.plan.length
}

// advice is when a refusal says to come back.
func advice(h http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	if s, err := strconv.ParseFloat(h.Get("Retry-After"), 64); err == nil && s > 0 {
		return time.Duration(s * float64(time.Second))
	}
	return 0
}
