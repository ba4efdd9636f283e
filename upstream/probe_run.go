package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// minInterval bounds how often targets are asked for anything.
	minInterval = 10 * time.Millisecond
	// maxProbeBody is how much of a probe's answer is read. What is longer counts as
	// read: the target has shown that it sends.
	maxProbeBody = 64 << 10
	// scrapeIdleTimeout is for how long a connection for metrics is kept unused.
	scrapeIdleTimeout = time.Minute
	// asker is the User-Agent of probes and scrapes, unless SetHeaders has another.
	asker = "weir-probe"
)

// probed is a target as a prober sees it.
type probed struct {
	// base is nil where there is nothing to fetch from.
	base   *url.URL
	health *health
}

// proberOptions are what a prober needs of its pool.
type proberOptions struct {
	probe   Probe
	engine  Engine
	targets []probed
	// transport is copied, not used: a prober never waits for a connection that
	// requests hold.
	transport *http.Transport
	headers   http.Header // as the pool's
	// onEngine is told what an engine said of itself. It must not block.
	onEngine func(target int, e EngineState)
}

// prober asks the targets of a pool how they are: one goroutine for the probes,
// one for the engines' metrics, each where it was asked for. It asks all targets at
// the same time, and each one only after it has answered or its time has run out,
// so that one that hangs delays no other.
type prober struct {
	options  proberOptions
	probing  http.RoundTripper
	scraping http.RoundTripper
	probes   []*url.URL // by target, nil where there is none
	engines  []*url.URL
	failed   []atomic.Int64 // scrapes, by target
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// newProber checks the options. Its errors name the option.
func newProber(o proberOptions) (*prober, error) {
	if o.probe.Interval <= 0 {
		o.probe.Interval = DefaultProbeInterval
	}
	if o.probe.Timeout <= 0 {
		o.probe.Timeout = DefaultProbeTimeout
	}
	if o.engine.Interval <= 0 {
		o.engine.Interval = DefaultEngineInterval
	}
	p := &prober{options: o, failed: make([]atomic.Int64, len(o.targets))}
	// Every probe makes a new connection, as a client's first request would: a kept
	// one may still be served by a server that accepts no more.
	probing := ownTransport(o.transport)
	probing.DisableKeepAlives = true
	p.probing, p.scraping = probing, ownTransport(o.transport)

	var errs [4]error
	p.probes, errs[0] = probeURLs(o)
	errs[1] = checkInterval("probe", o.probe.Interval)
	p.engines, errs[2] = engineURLs(o)
	errs[3] = checkInterval("engine", o.engine.Interval)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return p, nil
}

func checkInterval(of string, d time.Duration) error {
	if d < minInterval {
		return fmt.Errorf("upstream: %s.interval: %v: want at least %v", of, d, minInterval)
	}
	return nil
}

// ownTransport dials as t does, but shares no connection with it and no limit.
func ownTransport(t *http.Transport) *http.Transport {
	own := t.Clone()
	own.MaxConnsPerHost = 0
	own.MaxIdleConnsPerHost = 1
	own.IdleConnTimeout = scrapeIdleTimeout
	return own
}

func probeURLs(o proberOptions) ([]*url.URL, error) {
	if o.probe.Path == "" {
		return nil, nil
	}
	path, err := url.Parse(o.probe.Path)
	if err != nil || o.probe.Path[0] != '/' || path.Host != "" || path.Fragment != "" {
		return nil, fmt.Errorf("upstream: probe.path: %q: want a path that begins with /, for example /health", o.probe.Path)
	}
	urls := make([]*url.URL, len(o.targets))
	for i, t := range o.targets {
		if t.base != nil {
			urls[i] = joinURL(t.base, path)
		}
	}
	return urls, nil
}

// start begins to ask, at once. stop ends that.
func (p *prober) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	if p.probes != nil {
		due := func(target int, at time.Time) { p.options.targets[target].health.nextProbe(at) }
		p.running.Go(func() { p.rounds(ctx, asking{p.options.probe.Interval, p.probes, p.probe, due}) })
	}
	if p.engines != nil {
		p.running.Go(func() { p.rounds(ctx, asking{p.options.engine.Interval, p.engines, p.scrape, func(int, time.Time) {}}) })
	}
}

// stop ends all asking and waits until nothing of it is left. It may be called
// without start.
func (p *prober) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.running.Wait()
	for _, t := range []http.RoundTripper{p.probing, p.scraping} {
		if t, ok := t.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
	}
}

// asking is what is asked of all targets every interval.
type asking struct {
	interval time.Duration
	urls     []*url.URL // nil for a target that is not asked
	ask      func(ctx context.Context, target int)
	due      func(target int, at time.Time) // is told when a target is asked next
}

// rounds asks every target that is not being asked still, again and again.
func (p *prober) rounds(ctx context.Context, r asking) {
	busy := make([]atomic.Bool, len(r.urls))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := jittered(r.interval)
		timer.Reset(wait)
		next := time.Now().Add(wait)
		for i, u := range r.urls {
			if u == nil {
				continue
			}
			r.due(i, next)
			if busy[i].Swap(true) {
				continue
			}
			p.running.Go(func() {
				defer busy[i].Store(false)
				r.ask(ctx, i)
			})
		}
	}
}

// jittered is d, give or take a tenth.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1))
}

func (p *prober) probe(ctx context.Context, target int) {
	asked, cancel := context.WithTimeout(ctx, p.options.probe.Timeout)
	defer cancel()
	err := p.get(asked, p.probing, p.probes[target], func(body io.Reader) error {
		_, err := io.Copy(io.Discard, io.LimitReader(body, maxProbeBody))
		return err
	})
	if err != nil && ctx.Err() != nil {
		return // stopped: that says nothing of the target
	}
	p.options.targets[target].health.probed(err == nil, time.Now())
}

// get fetches u and gives its body to read if the status is a success. It follows
// no redirect.
func (p *prober) get(ctx context.Context, t http.RoundTripper, u *url.URL, read func(io.Reader) error) error {
	r := (&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{"User-Agent": {asker}}}).WithContext(ctx)
	for name, values := range p.options.headers {
		if values[0] == "" {
			values = nil // sends none, of the transport's own neither
		}
		r.Header[name] = values
	}
	resp, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return read(resp.Body)
}
