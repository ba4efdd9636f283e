package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/telemetry"
)

// Options are what a gateway needs beside its configuration.
type Options struct {
	// Models serves upstreams whose target is "builtin:". A configuration that
	// has one needs it.
	Models http.Handler
	// Log receives one line of JSON a request, and the gateway's own messages.
	// nil drops them.
	Log io.Writer
	// Version is told in the metrics.
	Version string
	// Check says that the gateway is made only to find out whether it can be: it
	// connects to no store.
	Check bool
	// File is the path of the configuration's file, for messages. "" is none.
	File string
	// Load reads that file again, for ReloadFile. nil: there is no file.
	Load func() (*config.Config, error)
}

// Gateway serves a configuration. Close it after its last request.
type Gateway struct {
	options Options
	setup   atomic.Pointer[setup] // what new requests start with
	counts  *counts
	answers *answers
	slots   slotIDs
	sizes   sizes
	models  models
	seeds   seeds
	metrics *telemetry.Metrics
	log     *telemetry.AccessLog
	health  telemetry.Health
	otlp    *telemetry.OTLP // nil: nothing is sent
	data    *data
	watcher *watcher
	events  events
	figures *telemetry.Live
	started time.Time
	recent  recentSnapshot
	sampler *background

	attempts     *Attempts
	unknownPlans atomic.Uint64
	warned       atomic.Bool // of a proxy that is not trusted

	holdings *holdings
	names    sync.Mutex // held while series come and go with the setups that have their names
	live     live
	autos    *background // nil before it begins

	autoValues map[string]autoValue // guarded by changes

	reloading sync.Mutex // held while the file is read and put in force
	changes   sync.Mutex // held while a new setup is made of the present one, and guards live
}

// New builds all that the configuration asks for, or says what it cannot.
func New(c *config.Config, o Options) (*Gateway, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Telemetry.Log.Level)); err != nil {
		return nil, fmt.Errorf("telemetry.log.level: %w", err)
	}
	g := &Gateway{
		options:  o,
		slots:    newSlotIDs(),
		metrics:  telemetry.NewMetrics(o.Version, labels(c)),
		log:      telemetry.NewAccessLog(o.Log, logOptions(c)),
		attempts: NewAttempts(c.Limits.AuthFailures),
		watcher:  newWatcher(),
		figures:  telemetry.NewLive(nil),
		started:  time.Now(),
	}
	var err error
	if g.counts, err = newCounts(c, o, g.log.Logger(), g.Note); err != nil {
		return nil, err
	}
	if g.answers, err = newAnswers(c, o, g.counts.redis, g.log.Logger()); err != nil {
		return nil, errors.Join(err, g.counts.close(context.Background()))
	}
	if err := g.openData(c); err != nil {
		return nil, errors.Join(err, g.data.close(context.Background()), g.answers.close(), g.counts.close(context.Background()))
	}
	g.holdings = newHoldings(g.forget)
	s, err := g.build(c, nil, &setup{})
	if err != nil {
		g.holdings.close()
		return nil, errors.Join(err, g.data.close(context.Background()), g.answers.close(), g.counts.close(context.Background()))
	}
	g.swap(s)
	g.live.begin(c)
	if g.otlp, err = g.openTelemetry(c); err != nil {
		return nil, errors.Join(err, g.Close(context.Background()))
	}
	if err := g.export(); err != nil {
		return nil, errors.Join(err, g.Close(context.Background()))
	}
	g.startData()
	if !g.options.Check {
		g.autos = every(time.Second, g.stepAutos)
	}
	g.startSnapshots()
	g.health.SetReady()
	return g, nil
}

// export makes the metrics that are read, not counted.
func (g *Gateway) export() error {
	return errors.Join(
		g.counts.export(g.metrics),
		g.answers.export(g.metrics),
		g.data.export(g.metrics),
		g.exportReloads(),
		g.metrics.CounterFunc("weir_telemetry_log_lines_dropped_total", "Log lines that the writer was too slow for.",
			func() float64 { return float64(g.log.Dropped()) }),
		g.metrics.CounterFunc("weir_telemetry_log_lines_sampled_total", "Lines of requests that went well that were not written, because telemetry.log.sample is a part of them.",
			func() float64 { return float64(g.log.Sampled()) }),
		g.metrics.CounterFunc("weir_auth_unknown_plans_total", "Requests whose token or key names a plan that is not there; they have the plan default.",
			func() float64 { return float64(g.unknownPlans.Load()) }),
		g.metrics.CounterFunc("weir_auth_failures_total", "Requests whose key or token is not valid.",
			func() float64 { return float64(g.attempts.failed.Load()) }),
		g.metrics.CounterFunc("weir_auth_failures_limited_total", "Requests with a key or token that were refused unseen, because their network had failed too often.",
			func() float64 { return float64(g.attempts.refused.Load()) }),
	)
}

// Logger writes the process's own messages beside the log of requests.
func (g *Gateway) Logger() *slog.Logger { return g.log.Logger() }

// Metrics is /metrics.
func (g *Gateway) Metrics() http.Handler { return g.metrics.Handler() }

// Live is /healthz.
func (g *Gateway) Live() http.Handler { return g.health.Live() }

// Ready is /readyz.
func (g *Gateway) Ready() http.Handler { return g.health.Ready() }

// Drain makes Ready say that the gateway stops, so that load balancers send
// nothing new. Requests are served as before.
func (g *Gateway) Drain() {
	g.health.SetNotReady("shutting down")
	g.data.drain() // who waits for a job learns where to find it
}

// FinishJobs begins no more attempts of jobs and waits for those that run, as long as
// ctx allows. What is left then is stopped, and given back to be run again, here after
// a start or by another instance. It is an error only where not even that could be done.
func (g *Gateway) FinishJobs(ctx context.Context) error { return g.data.closeJobs(ctx) }

// Close ends what runs in the background, writes what the caches and the log still
// hold, for as long as ctx allows, and closes idle connections, those to the shared
// store among them.
func (g *Gateway) Close(ctx context.Context) error {
	g.sampler.stop()
	g.watcher.close()
	jobs := g.data.closeJobs(ctx)
	g.changes.Lock()
	g.live.closed = true // or somebody could make what nobody closes
	g.changes.Unlock()
	g.autos.stop()
	g.holdings.close()
	return errors.Join(jobs, g.answers.close(), g.counts.close(ctx), g.data.close(ctx), g.otlp.Close(ctx), g.log.Flush(ctx))
}

// Server makes the server for the configuration's listen address, with the
// limits that concern connections, and the means to notice clients that leave. The
// caller gives it a listener.
func (g *Gateway) Server() *http.Server {
	l := g.setup.Load().config.Limits
	return &http.Server{
		Handler:           g,
		ReadHeaderTimeout: l.HeaderTimeout,
		MaxHeaderBytes:    int(l.HeaderBytes),
		IdleTimeout:       idleTimeout,
		ConnContext:       g.watcher.connContext,
		// "OPTIONS *" is refused like every target that is no path.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(g.Logger().Handler(), slog.LevelWarn),
	}
}

// idleTimeout is how long a client's connection is kept without a request: a
// little more than common load balancers do (60 s), so that they close first and
// no request meets a closing connection.
const idleTimeout = 75 * time.Second

// statusClientLeft is for the log: nobody was there to get a status. The number
// is nginx's.
const statusClientLeft = 499

// ServeHTTP serves one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := newExchange(g, w, r)
	g.serve(x, x.route)
}

// serve takes an exchange through its steps, and ends it whatever they do.
func (g *Gateway) serve(x *exchange, steps func() error) {
	defer x.finish()
	defer x.unwatch()
	defer func() {
		p := recover()
		switch err, isErr := p.(error); {
		case p == nil:
		case isErr && errors.Is(err, http.ErrAbortHandler):
			panic(p)
		default:
			x.err = fmt.Errorf("panic: %v", p)
			g.Logger().Error("a request panicked", "request_id", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			x.refuse(&weir.Problem{Detail: "Something went wrong here. The log has the request's X-Request-Id.", Err: x.err})
		}
	}()
	if err := steps(); err != nil {
		x.fail(err)
	}
}
