package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The defaults of Engine.
const (
	DefaultEnginePath     = "/metrics"
	DefaultTritonPath     = ":8002/metrics"
	DefaultEngineInterval = 500 * time.Millisecond
)

// engineTimeout is the longest that reading a target's metrics takes.
const engineTimeout = time.Second

// Engine says how the model servers' own metrics are read: with GET, in the text
// format of Prometheus, with the fields of SetHeaders, within a second and 8 MiB.
// Redirects are not followed. Targets with a Transport of their own are not read.
type Engine struct {
	// Kind is what runs on the targets: "vllm", "sglang" (which shows metrics only
	// when started with --enable-metrics) or "triton", with models of any kind, with
	// vLLM or with TensorRT-LLM, trtllm-serve included. "" means that no metrics are
	// read.
	Kind string
	// Path is where a target shows its metrics, from the root of its address: a base
	// path in the target's URL is left out. It may begin with a port where that is
	// another one, as in :8002/metrics, and have a query. Default /metrics, for
	// triton :8002/metrics.
	Path string
	// Interval is the time between two readings of a target, give or take a tenth.
	// Default 500ms.
	Interval time.Duration
}

// EngineState is what a model server says of itself. Where several engines stand
// behind one address, data-parallel ranks or models, it is the sum of them.
type EngineState struct {
	// Running is how many requests it works on, Waiting how many it holds back.
	// Triton tells the first only of language models.
	Running, Waiting int
	// KVUsed is the part of its KV cache in use, from 0 to 1; of several, the mean
	// weighted by their sizes. 0 where it does not say.
	KVUsed float64
	// KVTokens is the size of its KV cache in tokens, 0 where it does not say.
	KVTokens int64
	// MaxSeqs is how many requests it runs at once at most, 0 where it does not say,
	// as vLLM and SGLang.
	MaxSeqs int
	// At is when it said so.
	At time.Time
}

func engineURLs(o proberOptions) ([]*url.URL, error) {
	kind, path := o.engine.Kind, o.engine.Path
	switch {
	case kind == "":
		return nil, nil
	case engineMetrics(kind) == nil:
		return nil, fmt.Errorf("upstream: engine.kind: %q: want vllm, sglang or triton", kind)
	case path == "" && kind == "triton":
		path = DefaultTritonPath
	case path == "":
		path = DefaultEnginePath
	}
	port, u, err := parseEnginePath(path)
	if err != nil {
		const want = "want a path from the target's root, with another port before it if need be: /metrics or :8002/metrics"
		return nil, fmt.Errorf("upstream: engine.path: %q: %s", path, want)
	}
	urls := make([]*url.URL, len(o.targets))
	for i, t := range o.targets {
		if t.base == nil {
			continue
		}
		one := *u
		one.Scheme, one.Host = t.base.Scheme, t.base.Host
		if port != "" {
			one.Host = net.JoinHostPort(t.base.Hostname(), port)
		}
		urls[i] = &one
	}
	return urls, nil
}

// parseEnginePath splits :8002/metrics. The port is "" where there is none.
func parseEnginePath(s string) (port string, path *url.URL, err error) {
	if after, ok := strings.CutPrefix(s, ":"); ok {
		slash := strings.IndexByte(after, '/')
		if slash < 0 {
			return "", nil, errors.New("no path")
		}
		port, s = after[:slash], after[slash:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", nil, errors.New("no port")
		}
	}
	path, err = url.Parse(s)
	if err != nil || !strings.HasPrefix(s, "/") || path.Host != "" || path.Fragment != "" {
		return "", nil, errors.New("no path")
	}
	return port, path, nil
}

// scrape reads a target's metrics. Where that fails nobody is told: how old the
// last state may be is for its reader to say.
func (p *prober) scrape(ctx context.Context, target int) {
	asked, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	var state EngineState
	err := p.get(asked, p.scraping, p.engines[target], func(body io.Reader) (err error) {
		state, err = parseEngine(p.options.engine.Kind, body)
		return err
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		p.failed[target].Add(1)
	case p.options.onEngine != nil:
		state.At = time.Now()
		p.options.onEngine(target, state)
	}
}

// engineFailures is how many times a target's metrics could not be read.
func (p *prober) engineFailures(target int) int64 { return p.failed[target].Load() }
