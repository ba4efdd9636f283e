package cache

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Lifetimes are for how long the answers of a Cache may be used: the members of the
// same names of Options, which begins with them.
type Lifetimes struct {
	// TTL is how long an answer is fresh. Required in ModeInference.
	TTL time.Duration
	// NegativeTTL is the same for 404 and 410. 0 means DefaultNegativeTTL, less than 0
	// that they are not kept.
	NegativeTTL time.Duration
	// StaleWhileRevalidate and StaleIfError are for how long after that an answer may
	// be used while it is made anew, and where that fails.
	StaleWhileRevalidate, StaleIfError time.Duration
}

// SetLifetimes changes for how long answers may be used, at once, also those that are
// stored: in ModeInference one is fresh until it expires by the TTL that it was stored
// with, or by this one, whichever comes first. A longer TTL is for answers that come
// from now on. The error says what is wrong with l; then nothing is changed.
func (c *Cache) SetLifetimes(l Lifetimes) error {
	if l.TTL <= 0 && c.options.Mode != ModeHTTP {
		return fmt.Errorf("cache: TTL: %v: want more than 0, for example 10m", l.TTL)
	}
	if l.StaleWhileRevalidate < 0 {
		return fmt.Errorf("cache: StaleWhileRevalidate: %v: want at least 0", l.StaleWhileRevalidate)
	}
	if l.StaleIfError < 0 {
		return fmt.Errorf("cache: StaleIfError: %v: want at least 0", l.StaleIfError)
	}
	if l.NegativeTTL == 0 {
		l.NegativeTTL = DefaultNegativeTTL
	}
	c.lifetimes.Store(&l)
	return nil
}

// within is e as it may be used by the lifetimes of now: another one where the TTL was
// longer when it was stored.
func (c *Cache) within(e *Entry) *Entry {
	if c.options.Mode == ModeHTTP {
		return e
	}
	ttl := c.ttl(e.Status)
	expires := e.Made.Add(ttl + e.cameAged())
	if !expires.Before(e.Expires) {
		return e
	}
	limited := *e
	limited.Expires = expires
	if until := expires.Add(c.staleFor(e.Status)); until.Before(e.Until) {
		limited.Until = until
	}
	if said := responseControl(e.Header); c.options.Share == ShareAll && said.lifetime() > ttl {
		limited.Header = e.Header.Clone()
		limitAge(limited.Header, ttl, ttl)
	}
	return &limited
}

// staleFor is for how long after its expiry an answer may be of use. An error is no
// last good answer.
func (c *Cache) staleFor(status int) time.Duration {
	if status/100 != 2 && status/100 != 3 {
		return 0
	}
	l := c.lifetimes.Load()
	return max(l.StaleWhileRevalidate, l.StaleIfError)
}

// ageKind begins the label of the seconds that an answer was old when it came. Its TTL
// counts from then, not from when it was made.
const ageKind = "age"

// cameAged is how old the answer was when it came.
func (e *Entry) cameAged() time.Duration {
	for _, label := range e.Labels {
		text, ok := strings.CutPrefix(label, ageKind+":")
		if !ok {
			continue
		}
		if s, err := strconv.ParseInt(text, 10, 32); err == nil && s > 0 {
			return time.Duration(s) * time.Second
		}
	}
	return 0
}
