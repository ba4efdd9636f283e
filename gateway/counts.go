package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/telemetry"
)

// maxCallers is how many counts there is room for in memory: 32 MiB. A gateway
// has callers in debt for a day, for many plans.
const maxCallers = 1 << 20

// counts is where quotas are counted: in this process, or in a Redis that several
// instances share, with leases on it, and what happens while it is away in front.
type counts struct {
	store    ratelimit.Store
	memory   *ratelimit.MemoryStore // nil with a Redis
	redis    *redisstore.Store      // nil without one
	database *database.DB           // nil without one; it counts instances alone
	leases   *ratelimit.Leases
	fallback *ratelimit.Fallback

	configured atomic.Int64 // instances

	log       *slog.Logger
	note      func(EventSnapshot)
	onFailure string
	cluster   bool
	away      atomic.Bool
	cause     atomic.Value // of the last failure, a string
	told      atomic.Int64 // when a script's failure was logged last, in Unix nanoseconds
	fallbacks atomic.Uint64
	calls     map[redisstore.Op]*atomic.Uint64
	failures  map[redisstore.Failure]*atomic.Uint64
}

func newCounts(c *config.Config, o Options, log *slog.Logger, note func(EventSnapshot)) (*counts, error) {
	n := &counts{log: log, note: note, onFailure: c.Store.OnFailure}
	n.configured.Store(int64(c.Instances))
	inMemory := strings.HasPrefix(c.Store.URL, "memory:")
	if !inMemory && o.Check {
		if _, err := redisstore.ParseURL(c.Store.URL); err != nil {
			return nil, fmt.Errorf("store.url: %w", err)
		}
	}
	if inMemory || o.Check {
		n.memory = ratelimit.NewMemoryStore(maxCallers)
		n.store = n.memory
		return n, nil
	}
	n.cluster = strings.Contains(c.Store.URL, "+cluster://")
	n.calls = zeros(redisstore.Ops())
	n.failures = zeros(redisstore.Failures())
	var err error
	n.redis, err = redisstore.New(redisstore.Options{URL: c.Store.URL, Deadline: c.Store.Deadline, Observe: n.observe})
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if n.leases, err = ratelimit.NewLeases(ratelimit.LeaseOptions{Shared: n.redis, Observe: n.fellBack}); err != nil {
		return nil, errors.Join(err, n.close(context.Background()))
	}
	n.fallback, err = ratelimit.NewFallback(ratelimit.FallbackOptions{
		Shared:    n.leases,
		OnFailure: ratelimit.OnFailure(c.Store.OnFailure),
		Instances: n.instances,
		Keys:      maxCallers,
		Observe:   n.fellBack,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store.%w", err), n.close(context.Background()))
	}
	n.store = n.fallback
	return n, nil
}

// instances is how many gateways there are: as many as tell the shared store or the
// database that they live, and at least as many as the configuration says.
func (n *counts) instances() int {
	known := int(n.configured.Load())
	if n.redis != nil {
		known = max(known, n.redis.Instances())
	}
	if n.database != nil {
		known = max(known, n.database.Instances())
	}
	return known
}

func zeros[K comparable](keys []K) map[K]*atomic.Uint64 {
	m := map[K]*atomic.Uint64{}
	for _, k := range keys {
		m[k] = new(atomic.Uint64)
	}
	return m
}

// fellBack counts what the shared store did not do.
func (n *counts) fellBack(error) { n.fallbacks.Add(1) }

// observe counts what the store did, and says once when it goes away, and once
// when it is back. One failure alone is no outage; but the goroutine that keeps the
// connection is the first to know.
func (n *counts) observe(e redisstore.Event) {
	n.calls[e.Op].Add(1)
	if e.Op.OfCache() { // which has a connection of its own
		if e.Failure != redisstore.None {
			n.failures[e.Failure].Add(1)
		}
		return
	}
	if e.Failure == redisstore.None {
		if n.away.CompareAndSwap(true, false) {
			n.log.Info("the shared store answers again")
			n.note(EventSnapshot{Kind: "store", Text: "The shared store answers again"})
		}
		return
	}
	n.failures[e.Failure].Add(1)
	cause := e.Err.Error()
	switch {
	case e.Failure == redisstore.Away:
		cause, _ = n.cause.Load().(string)
	case e.Failure == redisstore.Script:
		// No outage, and it does not end by itself: a key holds something else.
		if last := n.told.Load(); time.Since(time.Unix(0, last)) > time.Minute && n.told.CompareAndSwap(last, time.Now().UnixNano()) {
			n.log.Warn("a script failed in the shared store", "on_failure", n.onFailure, "error", cause)
			n.note(EventSnapshot{Kind: "store", Level: "warn", Text: "A script failed in the shared store: " + cause})
		}
		return
	default:
		n.cause.Store(cause)
		if e.Op != redisstore.OpRenew || n.cluster {
			return // of a cluster, one master may be away, and the others not
		}
	}
	if n.away.CompareAndSwap(false, true) {
		n.log.Warn("the shared store does not answer", "on_failure", n.onFailure, "error", cause)
		n.note(EventSnapshot{Kind: "store", Level: "error", Text: "The shared store does not answer", Details: details("on_failure", n.onFailure, "error", cause)})
	}
}

// close gives back what is held in the shared store, as far as ctx allows.
func (n *counts) close(ctx context.Context) error {
	if n.redis == nil {
		return nil
	}
	var err error
	if n.leases != nil {
		err = n.leases.Close(ctx)
	}
	n.redis.Close()
	return err
}

func (n *counts) export(m *telemetry.Metrics) error {
	evicted := n.memory.Evicted
	if n.fallback != nil {
		evicted = n.fallback.Evicted
	}
	errs := []error{m.CounterFunc("weir_ratelimit_keys_evicted_total", "Callers in debt whose count made room for others.",
		func() float64 { return float64(evicted()) })}
	if n.redis == nil {
		errs = append(errs, m.GaugeFunc("weir_ratelimit_slots_held", "Requests that hold a slot of a concurrent policy.",
			func() float64 { return float64(n.memory.Held()) }))
		return errors.Join(errs...)
	}
	errs = append(errs,
		m.GaugeFunc("weir_ratelimit_slots_held", "Requests that hold a slot of a concurrent policy.",
			func() float64 { return float64(n.redis.Held()) }),
		m.GaugeFunc("weir_redisstore_up", "1 while Redis answers, 0 while calls to it are not even made.", func() float64 {
			if n.redis.Healthy() {
				return 1
			}
			return 0
		}),
		m.GaugeFunc("weir_redisstore_instances", "Instances that share the Redis, this one included.",
			func() float64 { return float64(n.redis.Instances()) }),
		m.CounterFunc("weir_ratelimit_fallbacks_total", "Takes and settlements that the shared store did not do, and what was done instead.",
			func() float64 { return float64(n.fallbacks.Load()) }, "on_failure", n.onFailure))
	for op, calls := range n.calls {
		errs = append(errs, m.CounterFunc("weir_redisstore_calls_total", "Operations on Redis, each one round trip, or one for each slot of a cluster.",
			func() float64 { return float64(calls.Load()) }, "operation", string(op)))
	}
	for failure, failed := range n.failures {
		errs = append(errs, m.CounterFunc("weir_redisstore_failures_total", "Operations on Redis that failed, and why.",
			func() float64 { return float64(failed.Load()) }, "failure", string(failure)))
	}
	return errors.Join(errs...)
}

// slotIDs makes names for those who hold slots, which no client can guess and no
// other instance makes.
type slotIDs struct {
	instance string
	n        *atomic.Uint64
}

func newSlotIDs() slotIDs { return slotIDs{strings.ToLower(rand.Text()), new(atomic.Uint64)} }

func (s slotIDs) next() string { return s.instance + "-" + strconv.FormatUint(s.n.Add(1), 36) }
