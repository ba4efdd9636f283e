package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Probe asks the targets of an upstream by itself whether they are well. One that
// twice in a row is not is left out until it is again.
type Probe struct {
	// Path is what is asked for with GET, after the target's base path, with a query
	// if need be; a 2xx is well. Required.
	Path string `yaml:"path" required:"a path, for example /health"`
	// Interval is the time from one question to the next to the same target.
	// Default 5s, from 100ms to 1h.
	Interval time.Duration `yaml:"interval" default:"5s" min:"100ms" max:"1h"`
	// Timeout is how long an answer may take. Default 1s, or Interval where that
	// is less; from 1ms to Interval.
	Timeout time.Duration `yaml:"timeout" default:"1s" min:"1ms" max:"1h"`
}

// Retry says how often a request is tried. It is tried again only before the
// first byte of an answer.
type Retry struct {
	// Attempts is how often in all; 1 never tries again. Default 2, from 1 to 5.
	Attempts int `yaml:"attempts" default:"2" min:"1" max:"5"`
	// Budget is how many of the requests in flight may be further attempts, as a
	// share; three at once always may. Default 0.2, from 0 to 1, with four
	// decimals at most.
	Budget float64 `yaml:"budget" default:"0.2" zero:"true" with:"Attempts!1"`
	// Post tries POST and PATCH again even where something of them was written, so
	// that they may run twice. Default false.
	Post bool `yaml:"post" default:"false" with:"Attempts!1"`
}

// Hedge sends a request that takes long to a second target as well, and takes
// the answer that comes first. Never streams. It needs two targets.
type Hedge struct {
	// After is how long the first target has. Default p95.
	After After `yaml:"after" default:"p95"`
	// Budget is how many of the requests may have a second call, as a share.
	// Default 0.05, above 0, at most 1, with four decimals at most.
	Budget float64 `yaml:"budget" default:"0.05"`
	// Post does it for POST and PATCH too, which then may run twice. Default
	// false.
	Post bool `yaml:"post" default:"false"`
}

// After is a time: a fixed one, or the one within which a share of the latest
// answers came. In the file it is a duration, or p50 to p99. Exactly one of the
// two is above 0.
type After struct {
	// Quantile is that share: 0.95 for p95. From 0.5 to 0.99.
	Quantile float64
	// Duration is the fixed time. At least 1ms.
	Duration time.Duration
}

// String gives a as it is written in the file.
func (a After) String() string {
	if a.Duration > 0 {
		return formatDuration(a.Duration)
	}
	return fmt.Sprintf("p%.0f", 100*a.Quantile)
}

const wantAfter = "want p50 to p99, or a duration of at least 1ms, for example p95 or 200ms"

// parseAfter reads p95 or 200ms.
func parseAfter(s string) (After, error) {
	if digits, ok := strings.CutPrefix(s, "p"); ok {
		n, err := strconv.ParseUint(digits, 10, 8)
		if err != nil || n < 50 || n > 99 || len(digits) != 2 {
			return After{}, errors.New(wantAfter)
		}
		return After{Quantile: float64(n) / 100}, nil
	}
	d, err := parseDuration(s)
	if err != nil || d < time.Millisecond {
		return After{}, errors.New(wantAfter)
	}
	return After{Duration: d}, nil
}

// Breaker leaves a target out that fails.
type Breaker struct {
	// Failures is how many in a row it takes: no connection, an answer cut off or
	// late, a 5xx. 0 turns it off. Default 5, from 0 to 1000.
	Failures int `yaml:"failures" default:"5" min:"0" max:"1000"`
	// OpenFor is how long it is left out, before one request tries it again; where
	// that fails it is twice as long, and so on, up to ten times as long. Default
	// 10s, from 100ms to 1h.
	OpenFor time.Duration `yaml:"open_for" default:"10s" min:"100ms" max:"1h" with:"Failures"`
}

// Concurrency bounds how many requests one target has at the same time. Between
// the two Weir finds out by itself how many are best. In the file it may be one
// number, which is both.
type Concurrency struct {
	// Min is how many it always may have. Default 1, from 1 to Max.
	Min int `yaml:"min" default:"1" min:"1" max:"65535"`
	// Max is how many it never has more than. Default 256, or Connections.Max
	// where that is less; from 1 to 65535.
	Max int `yaml:"max" default:"256" min:"1" max:"65535"`
}

// SLO is how long a caller should wait at most. Weir lets fewer requests run at
// once where it is missed, and refuses those that would come too late. At least
// one of the two.
type SLO struct {
	// TTFT is the time to the first token, or byte, the wait in the queue
	// included. 0, the default, is none; else from 10ms to 1h.
	TTFT time.Duration `yaml:"ttft" min:"10ms" max:"1h"`
	// TPOT is the time for each token after it. 0, the default, is none; else from
	// 1ms to 1m. Only with a dialect that has tokens.
	TPOT time.Duration `yaml:"tpot" min:"1ms" max:"1m"`
}

// Queue is where requests wait for a target that has room.
type Queue struct {
	// Max is how many may wait. 0 lets none wait and refuses at once. Default 256,
	// from 0 to 65535.
	Max int `yaml:"max" default:"256" min:"0" max:"65535"`
	// MaxWait is how long one may wait; with a SLO.TTFT it is at most 0.4 of that.
	// Default 10s, from 1ms to 1h.
	MaxWait time.Duration `yaml:"max_wait" default:"10s" min:"1ms" max:"1h" with:"Max"`
	// Status is what a refusal says: 503, which is the default, or 429 for clients
	// that come back after no other.
	Status int `yaml:"status" default:"503"`
	// KeepaliveAfter is how long a stream waits without a word; then it is begun,
	// and comments keep its connection open. 0s never begins one early. Default
	// 5s, up to 1h.
	KeepaliveAfter time.Duration `yaml:"keepalive_after" default:"5s" min:"0s" max:"1h" with:"Max"`
}

// Batch puts requests that come at the same time into one call: embeddings with
// dialect openai and ollama, instances and inputs with tfserving and kserve.
type Batch struct {
	// MaxSize is how many items a call has. Default 32, from 2 to 4096.
	MaxSize int `yaml:"max_size" default:"32" min:"2" max:"4096"`
	// MaxDelay is how long the first of them waits for others. Default 5ms, from
	// 1ms to 10s.
	MaxDelay time.Duration `yaml:"max_delay" default:"5ms" min:"1ms" max:"10s"`
}

// Engine is where the targets say how busy they are.
type Engine struct {
	// Metrics is the path of their metrics in Prometheus's form, from the root of
	// the target's address, whatever its base path is. It may begin with another
	// port, such as ":8002/metrics". Default /metrics, for triton :8002/metrics.
	Metrics string `yaml:"metrics" default:"/metrics"`
	// Kind is what they are: vllm, sglang or triton. Required.
	Kind string `yaml:"kind" required:"what serves the models: vllm, sglang or triton"`
}
