package cache

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
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
	if l.wishes.NoStore {
		l.why = fwdBypass
		return
	}
	l.keyed, l.partial = true, len(r.Header["Range"]) > 0
	l.base = l.cache.httpKey(&l.request, methodKey(r), r.URL)
	l.key = l.base
	if r.Method == methodQuery {
		l.content = contentKey(&l.request)
	}
	l.take(l.searchHTTP(ctx, l.now))
}

// httpKey is the primary key of requests for u (RFC 9111, section 2).
func (c *Cache) httpKey(r *Request, method string, u *url.URL) Key {
	k := NewKeyHash()
	k.Add("weir-http-1")
	c.addOwner(k, r)
	k.Add(method)
	k.Add(r.HTTP.Host)
	k.Add(u.EscapedPath())
	k.Add(u.RawQuery)
	return k.Sum()
}

// contentKey stands for the content of a QUERY, and for what says how to read it
// (RFC 10008). It is apart from the primary key, so that a change of what is at the
// URL reaches the answers to all queries.
func contentKey(r *Request) Key {
	k := NewKeyHash()
	k.Add("content")
	addValues(k, r.HTTP.Header["Content-Type"])
	addValues(k, r.HTTP.Header["Content-Encoding"])
	addValues(k, r.HTTP.Header["Content-Language"])
	k.AddBytes(r.Body)
	return k.Sum()
}

// variant is the key of the answer to the request, if answers vary by the fields
// called names.
func (l *Lookup) variant(nonce []byte, names []string) Key {
	key := varyKey(l.base, nonce, names, l.request.HTTP.Header)
	if l.request.HTTP.Method != methodQuery {
		return key
	}
	k := NewKeyHash()
	k.AddBytes(key[:])
	k.AddBytes(l.content[:])
	return k.Sum()
}

func (l *Lookup) searchHTTP(ctx context.Context, now time.Time) (f found) {
	f = found{key: l.base, why: fwdURIMiss}
	e, err := l.cache.find(ctx, l.base, now)
	if e != nil && err == nil && e.Status == 0 {
		f.marker, f.why = e, fwdVaryMiss
		f.key = l.variant(e.Body, e.Vary)
		e, err = l.cache.find(ctx, f.key, now)
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
// are for answers that do not say.
func httpWindows(h http.Header, whileRevalidate, ifError time.Duration) (time.Duration, time.Duration) {
	said, saidError := httpStaleWindows(h)
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
func (l *Lookup) flightKeyHTTP() Key {
	k := NewKeyHash()
	k.Add("flight")
	k.AddBytes(l.key[:])
	k.AddBytes(l.content[:])
	addCredentials(k, l.request.HTTP.Header)
	if l.marker == nil && l.stale == nil {
		addFields(k, l.request.HTTP.Header)
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
		StripConditions(h)
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
	if storable && httpReuse(l.request.HTTP.Header, e, now) == reuseFresh {
		l.finish(outcome{entry: e}, nil)
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

// keepHTTP stores e where requests like this one find it.
func (l *Lookup) keepHTTP(ctx context.Context, e *Entry, h http.Header, now time.Time) error {
	if l.cache.changed.since(l.base, l.asked) {
		return nil
	}
	names, _ := varyNames(h)
	if len(names) == 0 && l.upstream == http.StatusNotModified {
		// A confirmation that does not repeat the field changes nothing.
		names, _ = varyNames(e.Header)
	}
	if len(names) == 0 && l.request.HTTP.Method != methodQuery {
		l.kept = l.base
		return l.cache.keep(ctx, l.base, e, now)
	}
	marker := l.marker
	if marker == nil || !slices.Equal(marker.Vary, names) || marker.Until.Before(e.Until) {
		next := &Entry{Meta: e.Meta, Vary: names, Body: []byte(rand.Text()), Made: now, Expires: e.Until, Until: e.Until, Took: e.Took}
		if marker != nil {
			next.Body, next.Epoch = marker.Body, marker.Epoch
			next.Until = later(marker.Until, e.Until)
			next.Expires = next.Until
		}
		if err := l.cache.keep(ctx, l.base, next, now); err != nil {
			return err
		}
		marker = next
	}
	l.kept = l.variant(marker.Body, names)
	return l.cache.keep(ctx, l.kept, e, now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// changes tells the cache what an unsafe request has changed (RFC 9111, section
// 4.4), and what a HEAD says of the stored answer (section 4.3.5).
func (l *Lookup) changes(ctx context.Context, resp *http.Response) {
	ctx, now := context.WithoutCancel(ctx), time.Now()
	r := l.request.HTTP
	for _, u := range invalidated(r, resp.StatusCode, resp.Header) {
		for _, method := range []string{http.MethodGet, methodQuery} {
			key := l.cache.httpKey(&l.request, method, u)
			l.cache.changed.add(key, now)
			l.fail(l.cache.options.Store.Delete(ctx, key))
		}
	}
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
