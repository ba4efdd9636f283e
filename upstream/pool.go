package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// The defaults of Options.
const (
	DefaultMaxConnections   = 512
	DefaultIdleConnections  = 128
	DefaultIdleTimeout      = 90 * time.Second
	DefaultConnectTimeout   = time.Second
	DefaultFirstByteTimeout = 60 * time.Second
	DefaultBetweenBytes     = 30 * time.Second
	DefaultTotalTimeout     = 10 * time.Minute
	maxResponseHeaderBytes  = 256 << 10
	connectionBufferSize    = 32 << 10
	keepAliveInterval       = 30 * time.Second
)

// A Target is one server of a pool.
type Target struct {
	// URL is the server's base URL: http or https, with a path that goes before
	// the request's, if any. A target with a Transport of its own needs only a
	// name here.
	URL string
	// Weight is its share of the requests beside the other targets'. 0 means 1.
	Weight int
	// Transport carries this target's requests. nil means the pool's.
	Transport http.RoundTripper
}

// Timeouts bound one exchange with a target. 0 means the default. A handler in
// this process is bound by them as far as it obeys its context: the exchange
// lasts until it has returned.
type Timeouts struct {
	// Connect is the longest that a TCP or TLS handshake takes. Default 1s.
	Connect time.Duration
	// FirstByte is the longest from the start until the first byte of the body,
	// waiting for a free connection included. Default 60s.
	FirstByte time.Duration
	// BetweenBytes is the longest silence within a body. Default 30s.
	BetweenBytes time.Duration
	// Total is the longest that an exchange takes. Default 10m.
	Total time.Duration
}

// Options describe a pool.
type Options struct {
	// Name is the pool's name in messages.
	Name string
	// Targets has at least one.
	Targets []Target
	// Balance is "least_busy" (the default): the target with the fewest requests
	// in flight for its weight, or "round_robin": each in turn by weight.
	Balance string
	// SetHeaders replaces fields of every request, for example the credentials
	// that the targets want. An empty value removes the field.
	SetHeaders map[string]string
	// MaxConnections bounds the connections to one target, IdleConnections those
	// kept open when unused (less than 0: none), IdleTimeout for how long. 0 means
	// 512, 128, 90s.
	MaxConnections, IdleConnections int
	IdleTimeout                     time.Duration
	Timeouts                        Timeouts
	// Closed, if not nil, reads from an answer's status and fields for how long
	// its target admits nothing more: 0 where it says nothing of the kind. Until
	// then, but for a minute at most, other targets are chosen, as long as one of
	// them is open. The answer's Request is the one that went out. Closed must not
	// block, nor touch the body.
	Closed func(*http.Response) time.Duration
	// Observe, if not nil, is told of every exchange at its end. It must not
	// block.
	Observe func(Event)
}

// Event is one exchange with a target that has ended.
type Event struct {
	// Target is the URL of the target.
	Target string
	// Result is "ok" for any complete answer, else "connect" (no connection),
	// "timeout", "busy", "cut" or "cancelled".
	Result string
	// Status is the answer's status, 0 if there was none.
	Status int
	// FirstByte is the time until the answer's head, Total until its end.
	FirstByte, Total time.Duration
	Err              error
}

// Pool sends requests to its targets. It is safe for concurrent use.
type Pool struct {
	options   Options
	targets   []*target
	transport *http.Transport
	headers   http.Header // SetHeaders, canonical
	balance   balancer
	buffers   sync.Pool // of *[copyBufferSize]byte, for Relay
}

type target struct {
	name      string
	base      *url.URL
	weight    int64
	transport http.RoundTripper
	inFlight  atomic.Int64
	// closedUntil is the time, in Unix nanoseconds, until which it admits nothing.
	closedUntil atomic.Int64
}

// maxClosed bounds how long one answer can keep a target from being chosen: what
// it said may be wrong, or no longer true.
const maxClosed = time.Minute

// New checks the options and makes a Pool. Close it when it is no longer used.
func New(o Options) (*Pool, error) {
	var errs []error
	if len(o.Targets) == 0 {
		errs = append(errs, errors.New("upstream: no targets: want at least one"))
	}
	setDefaults(&o)
	p := &Pool{options: o, transport: newTransport(o), headers: http.Header{}}
	for i, t := range o.Targets {
		base, err := parseTarget(t)
		if err != nil {
			errs = append(errs, fmt.Errorf("upstream: targets[%d]: %q: %w", i, t.URL, err))
			continue
		}
		one := &target{name: t.URL, base: base, weight: int64(max(t.Weight, 1)), transport: t.Transport}
		if one.transport == nil {
			one.transport = p.transport
		}
		p.targets = append(p.targets, one)
	}
	switch o.Balance {
	case "", "least_busy":
		p.balance = &leastBusy{}
	case "round_robin":
		p.balance = newRoundRobin(p.targets)
	default:
		errs = append(errs, fmt.Errorf("upstream: balance: %q: want least_busy or round_robin", o.Balance))
	}
	for name, value := range o.SetHeaders {
		p.headers[http.CanonicalHeaderKey(name)] = []string{value}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

func setDefaults(o *Options) {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	set(&o.IdleTimeout, DefaultIdleTimeout)
	set(&o.Timeouts.Connect, DefaultConnectTimeout)
	set(&o.Timeouts.FirstByte, DefaultFirstByteTimeout)
	set(&o.Timeouts.BetweenBytes, DefaultBetweenBytes)
	set(&o.Timeouts.Total, DefaultTotalTimeout)
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.IdleConnections == 0 {
		o.IdleConnections = DefaultIdleConnections
	}
}

func parseTarget(t Target) (*url.URL, error) {
	if t.Transport != nil {
		return &url.URL{Scheme: "http", Host: "in-process"}, nil
	}
	u, err := url.Parse(t.URL)
	switch {
	case err != nil:
		return nil, errors.New("want a URL, for example http://10.0.0.1:8000")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, errors.New("want http:// or https:// and a host, for example http://10.0.0.1:8000")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("want no user, query or fragment")
	}
	return u, nil
}

// newTransport makes connections that suit model calls: many at once to few
// hosts, bodies passed on as they are, nothing taken from the environment.
func newTransport(o Options) *http.Transport {
	dialer := &net.Dialer{Timeout: o.Timeouts.Connect, KeepAlive: keepAliveInterval}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    o.Timeouts.Connect,
		MaxConnsPerHost:        o.MaxConnections,
		MaxIdleConnsPerHost:    o.IdleConnections,
		IdleConnTimeout:        o.IdleTimeout,
		DisableCompression:     true, // the client's Accept-Encoding decides
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: maxResponseHeaderBytes,
		ReadBufferSize:         connectionBufferSize,
		WriteBufferSize:        connectionBufferSize,
	}
}

// Close closes the connections that are idle; those in use close with their
// exchange.
func (p *Pool) Close() { p.transport.CloseIdleConnections() }

// Closed is how many targets said that they admit nothing now.
func (p *Pool) Closed() int {
	n, now := 0, time.Now()
	for _, t := range p.targets {
		if !t.open(now) {
			n++
		}
	}
	return n
}

// InFlight is how many exchanges have not ended.
func (p *Pool) InFlight() int64 {
	var n int64
	for _, t := range p.targets {
		n += t.inFlight.Load()
	}
	return n
}

// Do sends in to one of the targets and returns its answer when the head is
// there. The caller closes the answer's body, at its end or before.
//
// in is a request as a server got it. What goes out has its method, path and
// query unchanged after the target's base path, its fields without those that
// concern only one connection, and the X-Forwarded fields. in itself is not
// changed, and its body is read once: a request that has a body is sent again on
// another connection only if nothing of it was written. One that is safe and has
// none may be sent again when a kept connection turns out to be dead.
//
// An error is a *weir.Problem with status 502 (no connection, or it broke), 503
// (all connections are busy) or 504 (too slow), or it wraps the error of ctx,
// when that ended first.
func (p *Pool) Do(ctx context.Context, in *http.Request) (*http.Response, error) {
	now := time.Now()
	t := p.balance.choose(p.targets, now)
	t.inFlight.Add(1)
	x := &exchange{pool: p, target: t, started: now}
	x.start(ctx)
	x.connected.Store(t.transport != p.transport) // only our own tells when it is
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { x.connected.Store(true) }}
	out := outgoing(httptrace.WithClientTrace(x.ctx, trace), in, t.base)
	for name, values := range p.headers {
		if values[0] == "" {
			delete(out.Header, name)
			continue
		}
		out.Header[name] = values
	}
	resp, err := t.transport.RoundTrip(out)
	if err != nil {
		return nil, x.fail(ctx, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		return nil, x.fail(ctx, errors.New("the target switched protocols unasked"))
	}
	if resp.Request == nil {
		resp.Request = out
	}
	x.status, x.firstByte = resp.StatusCode, time.Since(x.started)
	if p.options.Closed != nil {
		if d := min(p.options.Closed(resp), maxClosed); d > 0 {
			t.closedUntil.Store(time.Now().Add(d).UnixNano())
		}
	}
	RemoveHopByHop(resp.Header)
	resp.Body = &body{ReadCloser: resp.Body, exchange: x, caller: ctx}
	return resp, nil
}

// ServeHTTP makes the pool a reverse proxy.
func (p *Pool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resp, err := p.Do(r.Context(), r)
	if err != nil {
		problem, ok := errors.AsType[*weir.Problem](err)
		if !ok {
			problem = weir.Ended(r.Context())
		}
		if problem == nil {
			panic(http.ErrAbortHandler)
		}
		problem.ServeHTTP(w, r)
		return
	}
	// A client that takes nothing must not hold the target's connection for ever.
	out := http.NewResponseController(w)
	if out.SetWriteDeadline(time.Now().Add(p.options.Timeouts.Total)) == nil {
		defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // the connection's next answer has its own
	}
	if err := p.Relay(w, resp, Ahead{}); err != nil {
		// The client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler)
	}
}
