package cache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/internal/jsonscan"
)

// Mode says by which rules answers are kept.
type Mode string

const (
	// ModeInference keys answers on the request's body and keeps them for
	// Options.TTL. It is the default.
	ModeInference Mode = "inference"
	// ModeHTTP is a shared cache by RFC 9111: what the upstream says decides.
	ModeHTTP Mode = "http"
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

// Replay says how the events of a stored stream are sent.
type Replay string

const (
	// ReplayASAP sends them one after the other. It is the default.
	ReplayASAP Replay = "asap"
	// ReplayOriginal waits between them as long as the upstream did.
	ReplayOriginal Replay = "original"
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
	// Mode says by which rules. "" means ModeInference.
	Mode Mode
	// Store keeps the entries. nil means a MemoryStore with its defaults.
	Store Store
	// Purges knows what has been purged, by labels that Label makes. It is one for
	// all caches that share a Store. nil means one of its own.
	Purges *Purges
	// Leases let one of several instances that share a Store make a call for all of
	// them. nil means that each makes its own.
	Leases Leases
	// Scope keeps this cache's keys apart from those of others that share the
	// store: the route's name in a gateway.
	Scope string
	// Generation stands for everything else that answers depend on, such as which
	// model servers there are: with another one no answer from before is found.
	Generation string
	// TTL is how long an answer is fresh. Required in ModeInference; in ModeHTTP the
	// upstream says.
	TTL time.Duration
	// NegativeTTL is the same for 404 and 410 in ModeInference; never more than
	// TTL. 0 means DefaultNegativeTTL, less than 0 that they are not kept.
	NegativeTTL time.Duration
	// StaleWhileRevalidate is for how long after that an answer is given while a
	// new one is fetched (RFC 5861). In ModeHTTP it is for answers that do not say.
	StaleWhileRevalidate time.Duration
	// StaleIfError is for how long after that an answer is given where the upstream
	// fails: it does not answer, or with 500, 502, 503 or 504 (RFC 5861). In
	// ModeHTTP it is for answers that do not say.
	StaleIfError time.Duration
	// Share says who shares answers. "" means ShareCaller.
	Share Share
	// CallerFields are request fields that name the caller, besides the credentials
	// Authorization, X-Api-Key, Api-Key and Cookie, and are in the key as those are: with
	// ShareCaller. An answer that varies by one of them is shared with nobody else.
	CallerFields []string
	// Ignore lists JSON pointers (RFC 6901) of members that do not change the
	// answer: they are left out of the key.
	Ignore []string
	// Forms lists JSON pointers of members that say in which form an answer comes:
	// they are left out of the key of a Request that has a Form.
	Forms []string
	// Tags are labels of all answers, to purge them by.
	Tags []string
	// Replay says how stored streams are sent. "" means ReplayASAP.
	Replay Replay
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
	// Complete is asked in ModeInference whether an answer that is whole on the
	// wire is one to keep: a 200 can hold an error. nil keeps all but JSON objects
	// that have a member "error" other than null, and what is called JSON and is
	// none.
	Complete func(*Entry) bool
	// Terminal is asked whether a stream is complete by the rules of its own
	// protocol: that its connection ended without an error proves nothing. nil
	// means that it cannot be told, and streams are not kept.
	Terminal func(*Entry) bool
	// Observe, if not nil, is told how each request of Middleware was answered.
	// It must not block.
	Observe func(Event)
}

// Event says how a request was answered.
type Event struct {
	// Result is "hit", "stale", "revalidated", "miss", "collapsed" or "bypass".
	Result string
	// Err is a failure of the store; the request went on without it.
	Err error
}

// Cache answers requests again. It is safe for concurrent use. Close it when
// nothing is asked of it any more.
type Cache struct {
	options Options
	own     []string        // fields that belong to one caller
	ignore  *jsonscan.Paths // of requests without a form
	formed  *jsonscan.Paths // of requests with one
	flights flights[Key, outcome]

	lifetimes atomic.Pointer[Lifetimes] // in place of those of options

	alone   recent // keys whose answers cannot be shared
	resting recent // keys that could not be refreshed a moment ago
	changed changes

	mu       sync.Mutex         // guards versions
	versions map[string]version // of models

	ctx       context.Context // of what runs for nobody in particular
	cancel    context.CancelFunc
	refreshes chan struct{} // one token for each that runs
	tasks     tasks
}

// outcome is what a flight brings back: an answer for all, whole or still coming,
// or none, and then each member must ask for itself.
type outcome struct {
	entry  *Entry
	live   *live
	failed int // the status with which the upstream failed, where entry is stale
}

// How many keys are remembered, and for how long.
const (
	aloneFor    = time.Minute
	maxAlone    = 4096
	restFor     = time.Second
	maxResting  = 4096
	maxVersions = 4096
	// tellVersions is how often other instances are told that a model changed.
	tellVersions = time.Minute
)

// MaxRefreshes is how many answers of one Cache are made anew in the background at
// a time. Beyond it stale answers are given as long as they may be.
const MaxRefreshes = 64

// New checks the options and makes a Cache.
func New(o Options) (*Cache, error) {
	c := &Cache{alone: recent{max: maxAlone}, resting: recent{max: maxResting}, versions: map[string]version{}, refreshes: make(chan struct{}, MaxRefreshes)}
	if err := c.check(&o); err != nil {
		return nil, err
	}
	if o.Store == nil {
		o.Store = NewMemoryStore(MemoryOptions{})
	}
	if o.Purges == nil {
		p, err := NewPurges(PurgeOptions{})
		if err != nil {
			return nil, err
		}
		o.Purges = p
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
	c.lifetimes.Store(&Lifetimes{o.TTL, o.NegativeTTL, o.StaleWhileRevalidate, o.StaleIfError})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// check says what is wrong with o, all of it, and fills in what its words default
// to.
func (c *Cache) check(o *Options) error {
	var errs []error
	switch o.Mode {
	case "":
		o.Mode = ModeInference
	case ModeInference, ModeHTTP:
	default:
		errs = append(errs, fmt.Errorf("cache: Mode: %q: want inference or http", o.Mode))
	}
	if o.TTL <= 0 && o.Mode != ModeHTTP {
		errs = append(errs, fmt.Errorf("cache: TTL: %v: want more than 0, for example 10m", o.TTL))
	}
	if o.StaleWhileRevalidate < 0 {
		errs = append(errs, fmt.Errorf("cache: StaleWhileRevalidate: %v: want at least 0", o.StaleWhileRevalidate))
	}
	if o.StaleIfError < 0 {
		errs = append(errs, fmt.Errorf("cache: StaleIfError: %v: want at least 0", o.StaleIfError))
	}
	switch o.Share {
	case "":
		o.Share = ShareCaller
	case ShareCaller, SharePlan, ShareAll:
	default:
		errs = append(errs, fmt.Errorf("cache: Share: %q: want caller, plan or all", o.Share))
	}
	switch o.Replay {
	case "":
		o.Replay = ReplayASAP
	case ReplayASAP, ReplayOriginal:
	default:
		errs = append(errs, fmt.Errorf("cache: Replay: %q: want asap or original", o.Replay))
	}
	c.own = credentials()
	for _, name := range o.CallerFields {
		c.own = append(c.own, http.CanonicalHeaderKey(name))
	}
	var err error
	if c.ignore, err = jsonscan.Compile(o.Ignore...); err != nil {
		errs = append(errs, fmt.Errorf("cache: Ignore: %w", err))
	} else if c.formed, err = jsonscan.Compile(append(o.Forms[:len(o.Forms):len(o.Forms)], o.Ignore...)...); err != nil {
		errs = append(errs, fmt.Errorf("cache: Forms: %w", err))
	}
	return errors.Join(errs...)
}

// Close ends what runs in the background and waits for it. Requests are served as
// before.
func (c *Cache) Close() {
	c.cancel()
	c.tasks.close()
}

// find returns the entry under key, if there is one that is of any use and has not
// been purged.
func (c *Cache) find(ctx context.Context, key Key, now time.Time) (*Entry, error) {
	e, err := c.options.Store.Get(ctx, key, now)
	if e == nil || err != nil {
		return nil, err
	}
	e, gone := c.usable(e, key, now)
	if gone {
		return nil, c.options.Store.Delete(ctx, key)
	}
	return e, nil
}

// usable is e as it may be given at now, nil where it may not, and whether that is so for
// ever.
func (c *Cache) usable(e *Entry, key Key, now time.Time) (usable *Entry, gone bool) {
	if e = c.within(e); !e.Useful(now) {
		return nil, false
	}
	if c.options.Purges.Purged(&e.Meta, key) || c.superseded(e) {
		return nil, true
	}
	return e, false
}

// keep puts e under key, whatever became of the request that brought it. What was
// purged while it was on its way must not take the place of what came after.
func (c *Cache) keep(ctx context.Context, key Key, e *Entry, now time.Time) error {
	if c.options.Purges.Purged(&e.Meta, key) {
		return nil
	}
	return c.options.Store.Put(context.WithoutCancel(ctx), key, e, now)
}

// version is what is known of the versions of one model.
type version struct {
	current string
	told    time.Time // when other instances were told last that it changed
}

// noteVersion remembers which version of a model answered. The answers of others are
// given to nobody any more: see superseded. Where instances share answers the
// others are told, now and then: while a new version is brought in, several answer
// by turns.
func (c *Cache) noteVersion(model, current string) {
	if model == "" || current == "" {
		return
	}
	now := time.Now()
	c.mu.Lock()
	v, known := c.versions[model]
	if !known && len(c.versions) >= maxVersions {
		for other := range c.versions {
			delete(c.versions, other)
			break
		}
	}
	tell := known && v.current != current && c.options.Leases != nil && now.Sub(v.told) > tellVersions
	if v.current = current; tell {
		v.told = now
	}
	c.versions[model] = v
	c.mu.Unlock()
	if !tell {
		return
	}
	c.tasks.run(func() { // it may take long to look through the stores
		if _, err := c.options.Purges.Purge(c.ctx, Label("model", model)); err != nil && c.options.Observe != nil {
			c.options.Observe(Event{Err: err})
		}
	})
}

// versionKind begins the label of the version of the model that made an entry. The
// model and the version have a space between them.
const versionKind = "version"

// superseded reports whether another version of its model has answered since e was
// made.
func (c *Cache) superseded(e *Entry) bool {
	for _, label := range e.Labels {
		rest, ok := strings.CutPrefix(label, versionKind+":")
		if !ok {
			continue
		}
		i := strings.LastIndexByte(rest, ' ')
		if i < 0 {
			return true
		}
		c.mu.Lock()
		now, known := c.versions[rest[:i]]
		c.mu.Unlock()
		return known && now.current != rest[i+1:]
	}
	return false
}

// String is the key in hexadecimal digits, as "weir purge --key" takes it.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// changes remembers what was changed by unsafe requests, so that an answer that
// was asked for before is not kept.
type changes struct {
	mu    sync.Mutex // guards all below
	by    map[Key]time.Time
	floor time.Time // up to when it does not know any more
}

const maxChanges = 4096

func (c *changes) add(key Key, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil || len(c.by) >= maxChanges {
		if len(c.by) > 0 {
			c.floor = now
		}
		c.by = map[Key]time.Time{}
	}
	c.by[key] = now
}

// since reports whether key was changed at asked or later, as far as is known.
func (c *changes) since(key Key, asked time.Time) bool {
	at := c.last(key)
	return !at.IsZero() && !at.Before(asked)
}

// last is when key was changed, as far as is known at the latest. The zero time is
// never.
func (c *changes) last(key Key) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return later(c.by[key], c.floor)
}
