package upstream

import (
	"context"
	"errors"
	"net/http"
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
	writeSlack              = time.Second
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

// Timeouts bound what a request waits for. 0 means the default. A handler in this
// process is bound by them as far as it obeys its context: the exchange lasts
// until it has returned.
type Timeouts struct {
	// Connect is the longest that a TCP or TLS handshake takes. Default 1s.
	Connect time.Duration
	// FirstByte is the longest from the start of an attempt until the first byte of
	// its answer's body, waiting for a free connection included. Default 60s.
	FirstByte time.Duration
	// BetweenBytes is the longest silence within a body. Default 30s.
	BetweenBytes time.Duration
	// Total is the longest that a request takes, all its attempts together and the
	// last one's answer included. After an upgrade it is the longest that neither
	// side sends anything: a socket may live for days. Default 10m.
	Total time.Duration
}

// Options describe a pool.
type Options struct {
	// Name is the pool's name in messages.
	Name string
	// Targets has at least one.
	Targets []Target
	// Balance is how a target is chosen among those that are open: see Choose.
	Balance string
	// SetHeaders replaces fields of every request, for example the credentials
	// that the targets want. An empty value removes the field.
	SetHeaders map[string]string
	// MaxConnections bounds the connections to one target, IdleConnections those
	// kept open when unused (less than 0: none), IdleTimeout for how long. 0 means
	// 512, 128, 90s. A request for which no connection is free waits for one within
	// Timeouts.FirstByte.
	MaxConnections, IdleConnections int
	IdleTimeout                     time.Duration
	Timeouts                        Timeouts
	// Retry says when a request is repeated, Hedge when it is asked twice at once.
	Retry Retry
	Hedge Hedge
	// Breaker, Probe and Engine say what is found out about targets, and how.
	Breaker Breaker
	Probe   Probe
	Engine  Engine
	// Closed, if not nil, reads from an answer's status and fields for how long
	// its target admits nothing more: 0 where it says nothing of the kind. Until
	// then, but for a minute at most, the target is sent nothing. The answer's
	// Request is the one that went out. Closed must not block, nor touch the body.
	Closed func(*http.Response) time.Duration
	// Changed, if not nil, is called when a target may be open again before the time
	// that OpensAt said. It must not block, nor call the pool.
	Changed func()
	// OnTarget, if not nil, is told when a breaker opens or closes and when probes
	// eject a target or bring it back. It must not block, nor call the pool.
	OnTarget func(TargetEvent)
	// OnEngine, if not nil, is told what a target's engine says of itself, by the
	// target's number. It must not block.
	OnEngine func(target int, e EngineState)
	// Observe, if not nil, is told of every exchange at its end. It must not
	// block.
	Observe func(Event)
}

// The values of Event.Result.
const (
	// ResultOK is any complete answer, of whatever status.
	ResultOK = "ok"
	// ResultConnect is no connection, ResultTimeout one of Timeouts, ResultBusy no
	// free connection in time, ResultCut an answer or a socket that broke off.
	ResultConnect = "connect"
	ResultTimeout = "timeout"
	ResultBusy    = "busy"
	ResultCut     = "cut"
	// ResultCancelled is an exchange given up by this side: the client left, its time
	// was over, its answer was not read to the end, or a hedge was faster.
	ResultCancelled = "cancelled"
	// ResultRequest is a request whose own body could not be read.
	ResultRequest = "request"
	// ResultUnused is a seat given back without an exchange: only Seat.End sees it.
	ResultUnused = "unused"
)

// The values of Event.Reason.
const (
	ReasonRetry = "retry"
	ReasonHedge = "hedge"
)

// Event is one exchange with a target that has ended.
type Event struct {
	// Target is the URL of the target, Index its number.
	Target string
	Index  int
	// Result is one of the Result constants.
	Result string
	// Status is the answer's status, 0 if there was none.
	Status int
	// Attempt counts the attempts of one request from 1. Reason is why there was
	// another one than the first, ReasonRetry or ReasonHedge, else "".
	Attempt int
	Reason  string
	// Retried says that the client was not to get this answer or this error, because
	// another attempt was made or had been made.
	Retried bool
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
	buffers   sync.Pool // of *[copyBufferSize]byte, for Relay and Upgrade

	requests atomic.Int64 // in flight: what budgets are a share of
	retries  budget
	hedges   budget
	heads    latencies // when answers' heads came, for Hedge.Quantile

	prober  *prober
	closing context.Context // ended by Close, and with it the sockets of Upgrade
	stop    context.CancelFunc
	running sync.WaitGroup // what Close waits for: see enter

	mu     sync.Mutex
	closed bool // guarded by mu
}

// New checks the options and makes a Pool. Where probes or engine metrics are
// asked for it starts them. Close it when it is no longer used.
func New(o Options) (*Pool, error) {
	var errs []error
	if len(o.Targets) == 0 {
		errs = append(errs, errors.New("upstream: no targets: want at least one"))
	}
	setDefaults(&o)
	errs = append(errs, o.Retry.check(), o.Hedge.check())
	p := &Pool{options: o, transport: newTransport(o), headers: http.Header{}}
	p.retries = budget{share: o.Retry.Budget, least: leastRetries}
	p.hedges = budget{share: o.Hedge.Budget, least: leastHedges}
	for i, t := range o.Targets {
		one, err := p.newTarget(i, t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.targets = append(p.targets, one)
	}
	var err error
	if p.balance, err = newBalancer(o.Balance, p.targets); err != nil {
		errs = append(errs, err)
	}
	for name, value := range o.SetHeaders {
		p.headers[http.CanonicalHeaderKey(name)] = []string{value}
	}
	if len(p.targets) == len(o.Targets) { // or their numbers would not be theirs
		p.prober, err = p.newProber()
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p.closing, p.stop = context.WithCancel(context.Background())
	p.prober.start()
	return p, nil
}

func (p *Pool) newProber() (*prober, error) {
	o := proberOptions{probe: p.options.Probe, engine: p.options.Engine, transport: p.transport, headers: p.headers, onEngine: p.options.OnEngine}
	for _, t := range p.targets {
		one := probed{health: &t.health}
		if t.transport == p.transport {
			one.base = t.base
		}
		o.targets = append(o.targets, one)
	}
	return newProber(o)
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
	if o.Retry.Attempts == 0 {
		o.Retry.Attempts = DefaultAttempts
	}
	if o.Retry.Budget == 0 {
		o.Retry.Budget = DefaultRetryBudget
	}
	o.Retry.Budget = max(o.Retry.Budget, 0)
	if o.Hedge.Budget == 0 {
		o.Hedge.Budget = DefaultHedgeBudget
	}
}

// Close stops the probes, ends the sockets of Upgrade, waits for both, and closes
// the connections that are idle; those in use close with their exchange.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.prober.stop()
	p.running.Wait()
	p.transport.CloseIdleConnections()
}

// enter makes Close wait until leave is called. It is false where Close does not
// wait any more.
func (p *Pool) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.running.Add(1)
	}
	return !p.closed
}

func (p *Pool) leave() { p.running.Done() }

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
	// A client that takes nothing must not hold the target's connection for ever. The
	// answer's own end at the total comes first: it says why.
	out := http.NewResponseController(w)
	if out.SetWriteDeadline(time.Now().Add(p.options.Timeouts.Total+writeSlack)) == nil {
		defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // the connection's next answer has its own
	}
	if err := p.Relay(w, resp, Ahead{}); err != nil {
		// The client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler)
	}
}
