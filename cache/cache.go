package cache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/internal/jsonscan"
)

// Share says who may be given an answer that somebody else asked for.
type Share string

const (
	// ShareCaller keeps each caller's answers to itself. It is the default.
	ShareCaller Share = "caller"
	// SharePlan shares among the callers of a plan.
	SharePlan Share = "plan"
	// ShareAll shares among all.
	ShareAll Share = "all"
)

// The defaults of Options.
const (
	DefaultMaxEntry    = 8 << 20
	DefaultNegativeTTL = 5 * time.Second
	DefaultMaxBody     = 10 << 20
	DefaultDepth       = 100
)

// Options say what a Cache keeps, and for whom.
type Options struct {
	// Store keeps the entries. nil means a MemoryStore of DefaultMaxBytes.
	Store Store
	// Scope keeps this cache's keys apart from those of others that share the
	// store: the route's name in a gateway.
	Scope string
	// TTL is how long an answer is fresh. Required.
	TTL time.Duration
	// NegativeTTL is the same for 404 and 410; never more than TTL. 0 means
	// DefaultNegativeTTL, less than 0 that they are not kept.
	NegativeTTL time.Duration
	// Share says who shares answers. "" means ShareCaller.
	Share Share
	// Ignore lists JSON pointers (RFC 6901) of members that do not change the
	// answer: they are left out of the key.
	Ignore []string
	// MaxEntry bounds the body of an answer that is kept, in bytes. 0 means
	// DefaultMaxEntry.
	MaxEntry int64
	// MaxBody bounds the request body that Middleware reads, in bytes; a larger
	// one is refused with 413. 0 means DefaultMaxBody.
	MaxBody int64
	// Depth bounds how deeply the JSON of a request may nest; a deeper one goes
	// past the cache. 0 means DefaultDepth.
	Depth int
	// NoCoalesce lets identical requests that overlap run each on its own.
	NoCoalesce bool
	// Complete is asked whether an answer that is whole on the wire is one to
	// keep: a 200 can hold an error. nil keeps all but JSON objects that have a
	// member "error" other than null, and what is called JSON and is none.
	Complete func(*Entry) bool
	// Observe, if not nil, is told how each request of Middleware was answered.
	// It must not block.
	Observe func(Event)
}

// Event says how a request was answered.
type Event struct {
	// Result is "hit", "miss", "collapsed" or "bypass".
	Result string
	// Err is a failure of the store; the request went on without it.
	Err error
}

// Cache answers requests again. It is safe for concurrent use.
type Cache struct {
	options Options
	ignore  *jsonscan.Paths
	flights flights[Key, outcome]

	mu    sync.Mutex        // guards alone
	alone map[Key]time.Time // keys whose answers cannot be shared, until when
}

// outcome is what a flight brings back: an answer for all, or none, and then
// each member must ask for itself.
type outcome struct{ entry *Entry }

// New checks the options and makes a Cache.
func New(o Options) (*Cache, error) {
	var errs []error
	if o.TTL <= 0 {
		errs = append(errs, fmt.Errorf("cache: TTL: %v: want more than 0, for example 10m", o.TTL))
	}
	switch o.Share {
	case "":
		o.Share = ShareCaller
	case ShareCaller, SharePlan, ShareAll:
	default:
		errs = append(errs, fmt.Errorf("cache: Share: %q: want caller, plan or all", o.Share))
	}
	c := &Cache{alone: map[Key]time.Time{}}
	var err error
	if c.ignore, err = jsonscan.Compile(o.Ignore...); err != nil {
		errs = append(errs, fmt.Errorf("cache: Ignore: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.Store == nil {
		o.Store = NewMemoryStore(0)
	}
	if o.NegativeTTL == 0 {
		o.NegativeTTL = DefaultNegativeTTL
	}
	if o.MaxEntry <= 0 {
		o.MaxEntry = DefaultMaxEntry
	}
	if o.MaxBody <= 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.Depth <= 0 {
		o.Depth = DefaultDepth
	}
	if o.Complete == nil {
		failed, err := jsonscan.Compile("/error")
		if err != nil {
			return nil, err
		}
		o.Complete = func(e *Entry) bool { return !saysError(e, failed, o.Depth) }
	}
	c.options = o
	return c, nil
}

// Get returns the fresh answer under key that suits the client's wishes, or nil.
// An error is the store's; the request can go on as a miss.
func (c *Cache) Get(ctx context.Context, key Key, wishes Wishes, now time.Time) (*Entry, error) {
	if wishes.NoCache || wishes.NoStore {
		return nil, nil
	}
	e, err := c.options.Store.Get(ctx, key, now)
	if err != nil || e == nil || !e.Fresh(now) {
		return nil, err
	}
	if wishes.MaxAge >= 0 && e.Age(now) > wishes.MaxAge {
		return nil, nil
	}
	return e, nil
}

// Flight is one upstream call that identical requests wait for together. A nil
// Flight is that of a request that goes alone: its methods do nothing.
type Flight struct {
	cache  *Cache
	flight *flight[Key, outcome]
	leader bool
	left   sync.Once
	stop   func() bool // no longer watches the leader's own context
}

// Join joins the running call for key, or starts one. It returns nil for a
// request that has to go alone: by the cache's options, by the client's wishes,
// or because the last answer under this key could not be shared, and waiting for
// one that cannot be shared either would only make requests queue up.
//
// Every member calls Leave when its request is over. The leader makes the call
// with Context, and hands its answer to Record, or says Alone or Fail.
func (c *Cache) Join(ctx context.Context, key Key, wishes Wishes, now time.Time) *Flight {
	if c.options.NoCoalesce || wishes.NoCache || wishes.NoStore || c.goesAlone(key, now) {
		return nil
	}
	f := &Flight{cache: c}
	f.flight, f.leader = c.flights.join(ctx, key)
	if !f.leader {
		return f
	}
	// The leader's client may leave long before its handler returns.
	f.stop = context.AfterFunc(ctx, f.depart)
	// Another flight may have ended between the look-up and now: its answer is
	// in the store before its flight is gone.
	if e, err := c.Get(f.flight.ctx, key, wishes, now); err == nil && e != nil {
		f.flight.finish(outcome{e}, nil)
		f.leader = false
	}
	return f
}

// Leads reports whether the request has to make the call itself.
func (f *Flight) Leads() bool { return f == nil || f.leader }

// Wait is for followers: it returns the leader's answer; or nil when that is not
// for all, and the follower has to make the call itself; or the leader's failure.
func (f *Flight) Wait(ctx context.Context) (*Entry, error) {
	o, err := f.flight.wait(ctx)
	return o.entry, err
}

// Context is the context of the call: it has the values of ctx, and ends when all
// members of the flight have left. Without a flight it is ctx.
func (f *Flight) Context(ctx context.Context) context.Context {
	if f == nil {
		return ctx
	}
	return f.flight.ctx
}

// Alone sends every follower on its own way.
func (f *Flight) Alone() {
	if f != nil && f.leader {
		f.flight.finish(outcome{}, nil)
	}
}

// Fail gives err to every follower: the call was made and brought no answer, and
// making it again for each of them would not help.
func (f *Flight) Fail(err error) {
	if f != nil && f.leader {
		f.flight.finish(outcome{}, err)
	}
}

// Leave ends a member's part. The leader's followers go alone if it has brought
// them nothing.
func (f *Flight) Leave() {
	if f == nil {
		return
	}
	if f.stop != nil {
		f.stop()
	}
	f.Alone()
	f.depart()
}

func (f *Flight) depart() { f.left.Do(f.flight.leave) }

// For how long a key is remembered as one whose answers cannot be shared, and
// how many of them are.
const (
	aloneFor = 10 * time.Second
	maxAlone = 4096
)

func (c *Cache) goesAlone(key Key, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.alone[key]
	if ok && !now.Before(until) {
		delete(c.alone, key)
		return false
	}
	return ok
}

func (c *Cache) remember(key Key, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.alone) >= maxAlone {
		// Any of them: the worst is that some requests wait once more.
		for other := range c.alone {
			delete(c.alone, other)
			break
		}
	}
	c.alone[key] = now.Add(aloneFor)
}

// HitStatus is the Cache-Status of an answer from the store, in the terms of
// RFC 9211.
func HitStatus(e *Entry, now time.Time) string {
	return "weir; hit; ttl=" + strconv.FormatInt(int64(e.Expires.Sub(now)/time.Second), 10)
}

// The other values of Cache-Status.
const (
	StatusMiss      = "weir; fwd=miss"
	StatusStored    = "weir; fwd=miss; stored"
	StatusCollapsed = "weir; fwd=miss; collapsed"
	StatusRefreshed = "weir; fwd=request; stored"
	StatusBypass    = "weir; fwd=bypass"
)

// ServeHit answers r with e from the store.
func ServeHit(w http.ResponseWriter, r *http.Request, e *Entry, now time.Time) {
	h := w.Header()
	h["Cache-Status"] = []string{HitStatus(e, now)}
	h["Age"] = []string{strconv.FormatInt(int64(e.Age(now)/time.Second), 10)}
	e.ServeHTTP(w, r)
}

// ServeCollapsed answers r, which followed another request, with its answer.
func ServeCollapsed(w http.ResponseWriter, r *http.Request, e *Entry) {
	w.Header()["Cache-Status"] = []string{StatusCollapsed}
	e.ServeHTTP(w, r)
}

// ErrOnlyIfCached is the refusal of a client that wants an answer from the cache or none
// (RFC 9111, section 5.2.1.7).
func ErrOnlyIfCached() *weir.Problem {
	return &weir.Problem{
		Status: http.StatusGatewayTimeout,
		Title:  "Not in the cache",
		Detail: "The request has Cache-Control: only-if-cached, and no fresh answer is stored.",
		Header: http.Header{"Cache-Status": {StatusMiss}},
	}
}
