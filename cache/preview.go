package cache

import (
	"context"
	"net/http"
	"time"
)

// Preview is LookUp for who asks what would become of a request: what is found does not
// count as used, stays in the tier where it is, and is not deleted where it is of no use
// any more. The Lookup is only to be read, and to be given to Serve.
func (c *Cache) Preview(ctx context.Context, r Request, now time.Time) (*Lookup, error) {
	return c.lookUp(ctx, &Lookup{previews: true, request: r, now: now})
}

// find is Cache.find for l.
func (l *Lookup) find(ctx context.Context, key Key, now time.Time) (*Entry, error) {
	if !l.previews {
		return l.cache.find(ctx, key, now)
	}
	e, err := peek(ctx, l.cache.options.Store, key, now)
	if e == nil || err != nil {
		return nil, err
	}
	e, _ = l.cache.usable(e, key, now)
	return e, nil
}

// peeker is a Store that can be looked into.
type peeker interface {
	// Peek is Get without any trace.
	Peek(ctx context.Context, key Key, now time.Time) (*Entry, error)
}

// peek looks into s: where it cannot but count that, it does.
func peek(ctx context.Context, s Store, key Key, now time.Time) (*Entry, error) {
	if p, ok := s.(peeker); ok {
		return p.Peek(ctx, key, now)
	}
	return s.Get(ctx, key, now)
}

// Peek is Get for who only looks: the entry is worth no more by it.
func (s *MemoryStore) Peek(_ context.Context, key Key, now time.Time) (*Entry, error) {
	if it := s.budget.find(key); it != nil && it.useful(now) {
		return it.entry, nil
	}
	return nil, nil
}

// Peek is Get for who only looks: nothing is put into the tiers before. Of the files of a
// DirStore, and of a store in Redis, it is not told apart from Get.
func (t *Tiers) Peek(ctx context.Context, key Key, now time.Time) (best *Entry, err error) {
	var failed error
	for i, s := range t.stores {
		e, err := t.peekAt(ctx, i, s, key, now)
		if err != nil {
			failed = err
			continue
		}
		if e == nil || t.purges.Purged(&e.Meta, key) {
			continue
		}
		if best == nil || best.Made.Before(e.Made) || e.Fresh(now) {
			best = e
		}
		if e.Fresh(now) {
			break
		}
	}
	if best == nil {
		return nil, failed
	}
	return best, nil
}

// peekAt looks into tier i. What waits to be written to one behind the first is in it.
func (t *Tiers) peekAt(ctx context.Context, i int, s Store, key Key, now time.Time) (*Entry, error) {
	if i == 0 {
		return peek(ctx, s, key, now)
	}
	return t.behind[i-1].look(key, now, func() (*Entry, error) { return peek(ctx, s, key, now) })
}

// Forwarded is why the request is forwarded, in the words of RFC 9211,
// section 2.2: miss, uri-miss, vary-miss, stale, request, method, partial or bypass; ""
// where Entry is the answer.
func (l *Lookup) Forwarded() string {
	if l == nil || l.Entry != nil {
		return ""
	}
	return l.why
}

// Wishes are what the client's Cache-Control asks that has a say here.
type Wishes struct {
	NoStore, NoCache, OnlyIfCached bool
	// MaxAge is the oldest answer that it takes; less than 0 is any.
	MaxAge time.Duration
}

// Wishes are those of the request.
func (l *Lookup) Wishes() Wishes {
	return Wishes{NoStore: l.wishes.noStore, NoCache: l.wishes.noCache, OnlyIfCached: l.wishes.onlyIfCached, MaxAge: l.wishes.maxAge}
}

// Stale is an answer that is stored, and that the upstream would be asked about, or that
// would be given if the upstream fails: for how much longer that is so. It is nil where
// there is none.
func (l *Lookup) Stale() (e *Entry, ifError time.Duration) {
	if l == nil || l.stale == nil {
		return nil, 0
	}
	_, window := l.windows(l.stale)
	return l.stale, max(window-l.now.Sub(l.stale.Expires), 0)
}

// Running reports whether Join would wait for the same request, which runs here now.
func (l *Lookup) Running() bool {
	if !l.joins() {
		return false
	}
	g := &l.cache.flights
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running[l.flightKey()] != nil
}

// ServeHead answers as Serve would begin to, without a body and without waiting between
// the parts of a stream: for the status that the client would get.
func (l *Lookup) ServeHead(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	// It breaks off: that is all that was asked for.
	_ = l.Serve(headOnly{w}, r.WithContext(ctx))
}

// headOnly takes no body.
type headOnly struct{ http.ResponseWriter }

// Write says that nobody reads on.
func (headOnly) Write([]byte) (int, error) { return 0, http.ErrBodyNotAllowed }
