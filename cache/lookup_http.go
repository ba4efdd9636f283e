package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// targetedField is the field with which an upstream speaks to this cache alone
// (RFC 9213).
const targetedField = "Weir-Cache-Control"

func (l *Lookup) lookUpHTTP(ctx context.Context) {
	r := l.request.HTTP
	switch r.Method {
	case http.MethodGet, http.MethodHead, methodQuery:
	default:
		l.why = fwdMethod
		return
	}
	// The content of a GET has no meaning that a cache could know (RFC 9110, section
	// 9.3.1), but for those who send one.
	if l.wishes.noStore || r.Method != methodQuery && len(l.request.Body) > 0 {
		l.why = fwdBypass
		return
	}
	l.keyed, l.partial = true, len(r.Header["Range"]) > 0
	l.base = l.cache.httpKey(r, methodKey(r), r.URL)
	l.key, l.own, l.changed = l.base, l.cache.ownKey(&l.request), l.cache.changed.last(l.base)
	l.take(l.searchHTTP(ctx, l.now))
}

// httpKey is the primary key of requests for u (RFC 9111, section 2), whoever sends
// them: who changes what is there changes it for all.
func (c *Cache) httpKey(r *http.Request, method string, u *url.URL) Key {
	k := NewKeyHash()
	k.Add("weir-http-2")
	k.Add(c.options.Scope)
	k.Add(c.options.Generation)
	k.Add(string(c.options.Share))
	k.Add(method)
	k.Add(r.Host)
	k.Add(u.EscapedPath())
	k.Add(u.RawQuery)
	return k.Sum()
}

// ownKey stands for what tells apart the answers at one URL besides the fields that
// they vary by: whose they are, and of a QUERY its content, with what says how to
// read it (RFC 10008). It is zero where there is nothing.
func (c *Cache) ownKey(r *Request) Key {
	query := r.HTTP.Method == methodQuery
	if c.options.Share == ShareAll && !query {
		return Key{}
	}
	k := NewKeyHash()
	c.addOwner(k, r)
	if query {
		k.Add("content")
		addValues(k, r.HTTP.Header["Content-Type"])
		addValues(k, r.HTTP.Header["Content-Encoding"])
		addValues(k, r.HTTP.Header["Content-Language"])
		k.AddBytes(r.Body)
	}
	return k.Sum()
}

// variant is the key of the answer to the request, if answers vary by the fields
// called names.
func (l *Lookup) variant(nonce []byte, names []string) Key {
	key := varyKey(l.base, nonce, names, l.request.HTTP.Header)
	if l.own == (Key{}) {
		return key
	}
	k := NewKeyHash()
	k.AddBytes(key[:])
	k.AddBytes(l.own[:])
	return k.Sum()
}

func (l *Lookup) searchHTTP(ctx context.Context, now time.Time) (f found) {
	f = found{key: l.base, why: fwdURIMiss}
	e, err := l.find(ctx, l.base, now)
	if e != nil && err == nil && e.Status == 0 {
		f.marker, f.why = e, fwdVaryMiss
		f.key = l.variant(e.Body, e.Vary)
		e, err = l.find(ctx, f.key, now)
	}
	if e == nil || err != nil {
		f.err = err
		if l.partial && err == nil {
			f.why = fwdPartial
		}
		return f
	}
	switch httpReuse(l.request.HTTP.Header, e, now) {
	case reuseFresh, reuseStale:
		f.fresh = e
		return f
	}
	f.stale, f.why = e, fwdStale
	if e.Fresh(now) { // the client wants it newer
		f.why = fwdRequest
	}
	window, _ := l.windows(e)
	f.refresh = !e.Fresh(now) && now.Sub(e.Expires) < window && !httpWantsFresh(l.request.HTTP.Header)
	return f
}

// httpWindows are the windows of RFC 5861 that an answer allows. The configuration's
// are for answers that do not say; but not for errors, and not for answers that
// nothing is said of how long they are good.
func httpWindows(e *Entry, whileRevalidate, ifError time.Duration) (time.Duration, time.Duration) {
	if e.Status >= http.StatusBadRequest || !e.Expires.After(e.Made) {
		whileRevalidate = 0
		if c := responseControl(e.Header); e.Status >= http.StatusBadRequest || c.lifetime() < 0 {
			ifError = 0
		}
	}
	said, saidError := httpStaleWindows(e.Header)
	if said >= 0 {
		whileRevalidate = said
	}
	if saidError >= 0 {
		ifError = saidError
	}
	return whileRevalidate, ifError
}

// flightKeyHTTP has the fields by which answers are known to vary, or all. A
// client's credentials are in it in any case: what is for one may be not for
// another, and that shows only in the answer.
func (l *Lookup) flightKeyHTTP(key Key, known bool) Key {
	k := NewKeyHash()
	k.Add("flight")
	k.AddBytes(key[:])
	k.AddBytes(l.own[:])
	addCredentials(k, l.request.HTTP.Header)
	if !known {
		k.AddFields(l.request.HTTP.Header)
	}
	return k.Sum()
}

// prepareHTTP asks whether what is stored is still good. Where nothing is, a whole
// answer is asked for, so that it can be stored; but not if the last one could not.
func (l *Lookup) prepareHTTP(h http.Header) {
	switch {
	case l.stale != nil && !l.again:
		l.validating = setValidators(h, l.stale)
	case l.request.HTTP.Method == http.MethodHead, l.partial:
	case !l.cache.alone.has(l.flightKey(), l.asked):
		stripConditions(h)
	}
}

// confirmed takes over an answer with status 304 (RFC 9111, section 4.3.4).
func (l *Lookup) confirmed(ctx context.Context, resp *http.Response) Replacement {
	closeBody(resp)
	now := time.Now()
	if !freshensWith(l.stale, resp.Header) {
		// It is about another answer than the one that is stored.
		l.again, l.validating = true, false
		return AskAgain
	}
	e := freshen(l.stale, resp.Header, l.asked, now)
	e.Epoch = l.epoch
	e.Until = l.until(e)
	l.upstream = http.StatusNotModified
	storable := httpMayFreshen(l.request.HTTP.Header, e)
	if storable {
		l.Err = l.keepHTTP(ctx, e, resp.Header, now)
	}
	l.Entry, l.now, l.Refresh = e, now, false
	l.cookies = resp.Header["Set-Cookie"]
	names, _ := varyNames(resp.Header)
	if storable && l.alike(names) && httpReuse(l.request.HTTP.Header, e, now) == reuseFresh {
		l.finish(outcome{entry: e}, nil)
	} else {
		l.apart() // each has to ask for itself
	}
	return Replaced
}

// retain is for how long past its expiry an answer is kept that the upstream can
// confirm.
const (
	leastRetained = time.Hour
	mostRetained  = 24 * time.Hour
)

// until is when an answer stops being of use.
func (l *Lookup) until(e *Entry) time.Time {
	whileRevalidate, ifError := l.windows(e)
	keep := max(whileRevalidate, ifError)
	if len(e.Header["Etag"]) > 0 || len(e.Header["Last-Modified"]) > 0 {
		keep = max(keep, min(max(leastRetained, e.Expires.Sub(e.Made)), mostRetained))
	}
	return e.Expires.Add(keep)
}

// keepHTTP stores e where requests like this one find it. Those who come then do not
// wait for each other either if those who came now could not.
func (l *Lookup) keepHTTP(ctx context.Context, e *Entry, h http.Header, now time.Time) error {
	err := l.putHTTP(ctx, e, h, now)
	if l.alone {
		l.cache.alone.add(l.afterPurges(l.flightKeyHTTP(l.Key(), true)), now.Add(aloneFor))
	}
	return err
}

func (l *Lookup) putHTTP(ctx context.Context, e *Entry, h http.Header, now time.Time) error {
	c := l.cache
	if c.changed.since(l.base, l.began) {
		return nil
	}
	names, _ := varyNames(h)
	if len(names) == 0 && l.upstream == http.StatusNotModified {
		// A confirmation that does not repeat the field changes nothing.
		names, _ = varyNames(e.Header)
	}
	// What was found when the request began may be another by now.
	there, err := c.find(ctx, l.base, now)
	if err != nil {
		return err
	}
	if there != nil && there.Status != 0 {
		there = nil
	}
	if len(names) == 0 && l.own == (Key{}) && there == nil {
		l.kept = l.base
		return c.keep(ctx, l.base, e, now)
	}
	marker := l.mark(there, names, e, now)
	if marker != there {
		if err := c.keep(ctx, l.base, marker, now); err != nil {
			return err
		}
	}
	l.kept = l.variant(marker.Body, marker.Vary)
	err = c.keep(ctx, l.kept, e, now)
	if c.changed.since(l.base, l.began) { // just now: nobody may find it
		err = errors.Join(err, c.options.Store.Delete(context.WithoutCancel(ctx), l.kept))
	}
	return err
}

// markedFor is for how long beyond an answer its marker is kept, so that it does not
// have to be written for each.
const markedFor = 24 * time.Hour

// mark is the marker for an answer that varies by names, where there is one already,
// or nil. The names only become more: were they what the last answer says, one
// caller could make all others ask again and again.
func (l *Lookup) mark(there *Entry, names []string, e *Entry, now time.Time) *Entry {
	m := &Entry{Meta: e.Meta, Vary: names, Made: now, Until: e.Until.Add(markedFor), Took: e.Took}
	if there != nil {
		names = slices.Compact(slices.Sorted(slices.Values(slices.Concat(there.Vary, names))))
		if len(names) == len(there.Vary) && !there.Until.Before(e.Until) {
			return there
		}
		m.Meta, m.Vary, m.Body, m.Until = there.Meta, names, there.Body, later(there.Until, m.Until)
	} else if !l.changed.IsZero() {
		// There may be answers from before the change, whose marker had to make room.
		m.Body = strconv.AppendInt(nil, l.changed.UnixNano(), 10)
	} // else it is the one that everybody makes, here and elsewhere
	m.Expires = m.Until
	return m
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// alike reports whether those who wait for this request are alike in the fields
// called names: by what was known, or thought, to matter.
func (l *Lookup) alike(names []string) bool {
	switch {
	case len(names) == 0 && l.upstream == http.StatusNotModified:
		return true // it is the answer that they were told of
	case l.marker != nil:
		return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(l.marker.Vary, name) })
	case l.stale != nil:
		return len(names) == 0
	}
	return !slices.ContainsFunc(names, unkeyed)
}

// Changed tells a cache in ModeHTTP of the answer to a request, its own or one that
// took another way to the same server: what an unsafe request has changed is
// forgotten (RFC 9111, section 4.4), whoever had it.
func (c *Cache) Changed(ctx context.Context, r *http.Request, status int, h http.Header) error {
	if c.options.Mode != ModeHTTP {
		return nil
	}
	ctx, now := context.WithoutCancel(ctx), time.Now()
	var errs []error
	for _, u := range invalidated(r, status, h) {
		for _, method := range []string{http.MethodGet, methodQuery} {
			key := c.httpKey(r, method, u)
			c.changed.add(key, now)
			errs = append(errs, c.change(ctx, key, now))
		}
	}
	return errors.Join(errs...)
}

// change makes nobody find what is under key. A marker stays one, with another nonce:
// were it deleted, the next would be the one from before.
func (c *Cache) change(ctx context.Context, key Key, now time.Time) error {
	e, err := c.find(ctx, key, now)
	switch {
	case err != nil || e == nil:
		return err
	case e.Status != 0:
		return c.options.Store.Delete(ctx, key)
	}
	next := *e
	next.Body = []byte(rand.Text())
	return c.keep(ctx, key, &next, now)
}

// freshenWithHead takes over what a HEAD says of the stored answer (RFC 9111,
// section 4.3.5).
func (l *Lookup) freshenWithHead(ctx context.Context, resp *http.Response) {
	ctx, now := context.WithoutCancel(ctx), time.Now()
	r := l.request.HTTP
	if r.Method != http.MethodHead || l.stale == nil || resp.StatusCode != http.StatusOK {
		return
	}
	get := r.WithContext(ctx)
	get.Method = http.MethodGet
	if !httpMayStore(get, resp.StatusCode, resp.Header) {
		return // what it says is not for others
	}
	if headAgrees(l.stale, resp) {
		e := freshen(l.stale, resp.Header, l.asked, now)
		e.Epoch = l.epoch
		e.Until = l.until(e)
		l.fail(l.keepHTTP(ctx, e, resp.Header, now))
		return
	}
	l.fail(l.cache.options.Store.Delete(ctx, l.key))
}

// headAgrees reports whether a HEAD's answer is about the stored one.
func headAgrees(e *Entry, resp *http.Response) bool {
	for _, name := range []string{"Etag", "Last-Modified"} {
		if now := resp.Header[name]; len(now) > 0 && !slices.Equal(now, e.Header[name]) {
			return false
		}
	}
	return resp.ContentLength < 0 || resp.ContentLength == int64(len(e.Body))
}

func (l *Lookup) fail(err error) {
	if err != nil {
		l.Err = err
	}
}
