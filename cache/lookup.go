package cache

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/inferweir/weir"
)

// Request is what a Cache is told of a request.
type Request struct {
	// HTTP is the request as it goes upstream, credentials included. Its body is
	// not read.
	HTTP *http.Request
	// Body is the whole body.
	Body []byte
	// Caller sent it.
	Caller weir.Caller
	// Model is the model it asks for, under one name. "" is none.
	Model string
	// Form is the form in which the answer is to come, for a request that could ask
	// for the same in another one; see Options.Forms. "" is the only one.
	Form string
	// Samples says that the same request may rightly have another answer each time:
	// it goes past the cache.
	Samples bool
}

// Lookup is the way of one request through a cache:
//
//	l, err := c.LookUp(ctx, request, now)      // l.Entry is the answer, if it is there
//	defer l.Leave()
//	answered, err := l.Join(ctx)               // or somebody else is fetching it
//	l.Prepare(outgoing.Header)
//	resp, err := roundTrip(outgoing.WithContext(l.Context(ctx)))
//	if l.Replace(ctx, resp, err) == Replaced   // the stored answer is still good, or better than none
//	recording := l.Record(ctx, resp, Keep{})   // else this one is passed on and kept
//
// Serve sends l.Entry or what Join found. A Lookup is for one goroutine. A nil
// Lookup is that of a request without a cache: its methods do nothing.
type Lookup struct {
	// Entry is the answer, if the cache has one.
	Entry *Entry
	// Refresh says that Entry is stale and given all the same: somebody should make
	// it anew, see Refreshing.
	Refresh bool
	// Err is a failure of the store. The request goes on as if nothing were stored.
	Err error

	previews bool // it is only looked at

	cache   *Cache
	request Request
	wishes  wants
	now     time.Time
	epoch   uint64    // of purges, when the request began
	keyed   bool      // it has a part in the cache
	base    Key       // of the request, whatever the form and the fields that answers vary by
	key     Key       // where its answer is, or is to be as far as is known
	kept    Key       // where it is
	other   Key       // where it is in another form
	own     Key       // of the caller and a QUERY's content, in ModeHTTP
	stale   *Entry    // what is stored, and must be asked about
	marker  *Entry    // says by what the answers vary
	why     string    // it is forwarded
	began   time.Time // when the request was looked up
	asked   time.Time // when the upstream was
	changed time.Time // when what is at the URL was, in ModeHTTP

	validating bool     // the upstream was asked whether stale is still good
	again      bool     // it has been asked a second time
	partial    bool     // the request is for a part of the answer
	upstream   int      // status of an answer that was replaced
	cookies    []string // of a confirmation, for who asked for it
	stored     bool
	ttl        time.Duration // of an answer that is stored, in ModeInference
	collapsed  bool
	detail     string

	live    *liveReader
	flight  *flight[Key, outcome]
	leads   bool
	release func(shareable bool)
	sent    bool // the upstream was asked
	gone    bool // everybody left before it answered
	alone   bool // what it brought is not for those who wait
	left    sync.Once
	stop    func() bool // no longer watches the leader's own context
}

// The reasons for which a request is forwarded (RFC 9211, section 2.2).
const (
	fwdMiss     = "miss"
	fwdURIMiss  = "uri-miss"
	fwdVaryMiss = "vary-miss"
	fwdStale    = "stale"
	fwdRequest  = "request"
	fwdMethod   = "method"
	fwdPartial  = "partial"
	fwdBypass   = "bypass"
)

// LookUp looks for the answer of a request. The error is a *weir.Problem for a
// client that wants an answer from the cache or none (RFC 9111, section 5.2.1.7);
// the Lookup is there in any case.
func (c *Cache) LookUp(ctx context.Context, r Request, now time.Time) (*Lookup, error) {
	return c.lookUp(ctx, &Lookup{request: r, now: now})
}

func (c *Cache) lookUp(ctx context.Context, l *Lookup) (*Lookup, error) {
	l.cache, l.wishes, l.began, l.asked, l.epoch = c, requestControl(l.request.HTTP.Header), l.now, l.now, c.options.Purges.Epoch()
	if c.options.Mode == ModeHTTP {
		l.lookUpHTTP(ctx)
	} else {
		l.lookUpInference(ctx)
	}
	if l.Entry == nil && l.wishes.onlyIfCached {
		return l, l.onlyIfCached()
	}
	return l, nil
}

func (l *Lookup) lookUpInference(ctx context.Context) {
	base, err := l.cache.inferenceKey(&l.request)
	if err != nil || l.wishes.noStore || l.request.Samples {
		l.why = fwdBypass
		return
	}
	l.keyed, l.base, l.key = true, base, base.inForm(l.request.Form)
	l.take(l.searchInference(ctx, l.now))
}

// found is what a search brought.
type found struct {
	key           Key    // where the answer is, or is to be
	fresh         *Entry // the answer
	stale, marker *Entry
	refresh       bool // stale may be given all the same
	why           string
	err           error
}

// take takes over what was found.
func (l *Lookup) take(f found) {
	l.key, l.Entry, l.stale, l.marker, l.Refresh, l.why, l.Err = f.key, f.fresh, f.stale, f.marker, f.refresh, f.why, f.err
	if f.refresh {
		l.Entry = f.stale
	}
}

func (l *Lookup) searchInference(ctx context.Context, now time.Time) (f found) {
	f = found{key: l.key, why: fwdMiss}
	if l.wishes.noCache {
		f.why = fwdRequest
		return f
	}
	e, err := l.find(ctx, l.key, now)
	if e == nil || err != nil {
		f.err = err
		return f
	}
	switch past := now.Sub(e.Expires); {
	case l.wishes.maxAge >= 0 && e.Age(now) > l.wishes.maxAge:
		f.why = fwdRequest
	case past < 0:
		f.fresh = e
	default:
		f.stale, f.refresh, f.why = e, past < l.cache.lifetimes.Load().StaleWhileRevalidate, fwdStale
	}
	return f
}

func (l *Lookup) search(ctx context.Context, now time.Time) found {
	if l.cache.options.Mode == ModeHTTP {
		return l.searchHTTP(ctx, now)
	}
	return l.searchInference(ctx, now)
}

// Alternative returns the fresh answer to the same request in another form, or nil.
func (l *Lookup) Alternative(ctx context.Context, form string) *Entry {
	if l == nil || !l.keyed || l.Entry != nil || l.wishes.noCache || l.cache.options.Mode == ModeHTTP {
		return nil
	}
	key := l.base.inForm(form)
	e, err := l.find(ctx, key, l.now)
	if err != nil {
		l.Err = err
	}
	if e == nil || !e.Fresh(l.now) || l.wishes.maxAge >= 0 && e.Age(l.now) > l.wishes.maxAge {
		return nil
	}
	l.other = key
	return e
}

// Convert makes an answer out of e, from Alternative, with another type and body.
// It is not stored.
func (l *Lookup) Convert(e *Entry, contentType string, body []byte, stream bool) {
	made := *e
	made.Header = e.Header.Clone()
	made.Header["Content-Type"] = []string{contentType}
	delete(made.Header, "Content-Encoding")
	made.Body, made.Frames = body, nil
	if stream {
		made.Frames = arrivals(nil).frames(made.Header, body)
	}
	made.ETag = strongETag(made.Status, made.Header, body)
	l.Entry, l.kept, l.detail = &made, l.other, "converted"
}

// Keyed reports whether the request has a part in the cache: its answer may be
// stored, or come from there.
func (l *Lookup) Keyed() bool { return l != nil && l.keyed }

// Key names the answer, for purging it. It is zero where the request goes past the
// cache.
func (l *Lookup) Key() (key Key) {
	if l.Keyed() {
		key = cmp.Or(l.kept, l.key)
	}
	return key
}

// Result is how the request was answered, in one word: hit, stale, revalidated,
// collapsed, miss or bypass.
func (l *Lookup) Result() string {
	switch {
	case l.collapsed:
		return "collapsed"
	case l.Entry != nil && l.upstream == http.StatusNotModified:
		return "revalidated"
	case l.Entry != nil && (l.Refresh || l.upstream != 0 || !l.Entry.Fresh(l.now)):
		return "stale"
	case l.Entry != nil:
		return "hit"
	case !l.keyed:
		return "bypass"
	}
	return "miss"
}

// Status is the Cache-Status of the answer (RFC 9211).
func (l *Lookup) Status() string {
	s := "weir"
	if l.Entry != nil && l.upstream == 0 && !l.collapsed {
		s += "; hit; ttl=" + strconv.FormatInt(wholeSeconds(l.Entry.Expires.Sub(l.now)), 10)
	} else {
		s += "; fwd=" + l.why
	}
	if l.upstream != 0 {
		s += "; fwd-status=" + strconv.Itoa(l.upstream)
	}
	if l.stored {
		s += "; stored"
	}
	if l.collapsed {
		s += "; collapsed"
	}
	if l.detail != "" {
		s += "; detail=" + l.detail
	}
	return s
}

// wholeSeconds are those that have passed entirely.
func wholeSeconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d < 0 && d%time.Second != 0 {
		s--
	}
	return s
}

// SetFields sets Cache-Status in the head of an answer, behind what other caches
// said where the answer is passed on, and says what a cache in front may do with
// it.
func (l *Lookup) SetFields(h http.Header, passedOn bool) {
	own := []string{l.Status()}
	if passedOn { // the cache nearest to the origin comes first
		own = append(h["Cache-Status"], own...)
	}
	h["Cache-Status"] = own
	delete(h, targetedField) // it was for us
	if l.Entry == nil && l.live == nil {
		// Whether the body is one to keep shows only at its end: who has it asks again,
		// unless the upstream said that there is no need to.
		l.cache.restrict(h, l.request.HTTP.Method, l.ttl, 0)
	}
}

// Serve answers r with Entry, or with the running answer that Join found. The head
// is written here. An error says that the answer broke off, and the connection
// must, too.
func (l *Lookup) Serve(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h["Cache-Status"] = []string{l.Status()}
	if l.live != nil {
		head := l.live.live.head
		copyFields(h, head.Header)
		asTyped(h)
		if l.cache.options.Mode == ModeHTTP {
			h["Age"] = []string{strconv.FormatInt(int64(head.Age(time.Now())/time.Second), 10)}
		}
		w.WriteHeader(head.Status)
		if err := http.NewResponseController(w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		return l.live.follow(r.Context(), w)
	}
	if left, ok := l.keptInFront(r.Method); ok {
		// nginx does not take Age off max-age. It takes this, and passes it to nobody.
		h["X-Accel-Expires"] = []string{strconv.FormatInt(left, 10)}
	}
	if !l.collapsed || l.cache.options.Mode == ModeHTTP {
		h["Age"] = []string{strconv.FormatInt(int64(l.Entry.Age(l.now)/time.Second), 10)}
	}
	if len(l.cookies) > 0 {
		h["Set-Cookie"] = append(h["Set-Cookie"], l.cookies...)
	}
	switch {
	case l.cache.options.Mode == ModeHTTP:
		e := *l.Entry
		if l.upstream != http.StatusNotModified {
			e.Header = httpServable(l.Entry)
		}
		serveHTTPEntry(w, r, &e)
		return nil
	case len(l.Entry.Frames) > 0:
		copyFields(h, l.Entry.Header)
		asTyped(h)
		h["Etag"] = []string{l.Entry.ETag}
		w.WriteHeader(l.Entry.Status)
		if r.Method == http.MethodHead {
			return nil
		}
		return l.Entry.replay(r.Context(), w, l.cache.options.Replay == ReplayOriginal)
	}
	l.Entry.ServeHTTP(w, r)
	return nil
}

// keptInFront is for how many seconds a cache in front may keep Entry, by what it
// says of that, where it is for all.
func (l *Lookup) keptInFront(method string) (left int64, ok bool) {
	if l.cache.options.Mode != ModeHTTP && l.cache.options.Share != ShareAll || !conditional(method) {
		return 0, false
	}
	// What is said to this cache, or to those that know more fields, is not for it.
	c := responseControl(http.Header{"Cache-Control": l.Entry.Header["Cache-Control"]})
	given := c.lifetime()
	if c.noStore || c.noCache || c.private || given < 0 {
		return 0, false
	}
	left = wholeSeconds(given - l.Entry.Age(l.now))
	if l.cache.options.Mode != ModeHTTP {
		left = min(left, wholeSeconds(l.Entry.Expires.Sub(l.now)))
	}
	return max(0, left), true
}

func copyFields(to, from http.Header) {
	for name, values := range from {
		to[name] = values
	}
}

// Prepare makes the head of the request that goes upstream: the conditions that the
// cache answers itself leave it, and where something is stored the upstream is
// asked whether that is still good.
func (l *Lookup) Prepare(h http.Header) {
	if !l.Keyed() {
		return
	}
	l.asked, l.sent = time.Now(), true
	if l.cache.options.Mode == ModeHTTP {
		l.prepareHTTP(h)
		return
	}
	stripConditions(h)
}

// Replacement is what Replace did.
type Replacement int

const (
	// Passed says that the upstream's answer, or failure, is the one.
	Passed Replacement = iota
	// Replaced says that Entry is the answer, and the upstream's is closed.
	Replaced
	// AskAgain says that the upstream confirmed something that is not stored: it has
	// to be asked again. That happens once.
	AskAgain
)

// Replace looks whether what is stored is to be given in place of the upstream's
// answer, or of err where there is none: because the upstream says that it is still
// good, or because the upstream fails and it is not too old for that.
func (l *Lookup) Replace(ctx context.Context, resp *http.Response, err error) Replacement {
	if !l.Keyed() || l.stale == nil {
		return Passed
	}
	if err == nil && l.validating && resp.StatusCode == http.StatusNotModified {
		return l.confirmed(ctx, resp)
	}
	status, fails := failure(resp, err)
	_, window := l.windows(l.stale)
	now := time.Now()
	if !fails || window <= 0 || ctx.Err() != nil || now.Sub(l.stale.Expires) >= window || l.wishes.noCache {
		return Passed
	}
	if resp != nil {
		closeBody(resp)
	}
	l.Entry, l.upstream, l.now, l.detail = l.stale, status, now, staleIfError
	l.finish(outcome{entry: l.stale, failed: status}, nil)
	return Replaced
}

// staleIfError is the detail of a stale answer in place of a failure.
const staleIfError = "stale-if-error"

// failure says whether a model is down, and with what status that is told.
func failure(resp *http.Response, err error) (status int, fails bool) {
	if err != nil {
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok {
			return 0, false
		}
		status = p.Status
	} else {
		status = resp.StatusCode
	}
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return status, true
	}
	return 0, false
}

func closeBody(resp *http.Response) {
	// A short one is read, so that its connection can be used again.
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}

// windows are for how long past its expiry e may be used while it is made anew,
// and where that fails.
func (l *Lookup) windows(e *Entry) (whileRevalidate, ifError time.Duration) {
	lifetimes := l.cache.lifetimes.Load()
	whileRevalidate, ifError = lifetimes.StaleWhileRevalidate, lifetimes.StaleIfError
	if l.cache.options.Mode == ModeHTTP {
		return httpWindows(e, whileRevalidate, ifError)
	}
	return whileRevalidate, ifError
}

// Refreshing is the Lookup of a request that makes Entry anew in the background, in
// the place of the one that l belongs to. It is nil where that is being done, has
// just failed, or is done for too many others. Its owner sends Request upstream with
// the Lookup's Context, which ends with the Cache, and then calls Leave.
func (l *Lookup) Refreshing() *Lookup {
	c := l.cache
	if c.resting.has(l.key, time.Now()) {
		return nil
	}
	select {
	case c.refreshes <- struct{}{}:
	default:
		return nil
	}
	if !c.tasks.begin() {
		<-c.refreshes
		return nil
	}
	f := c.flights.lead(c.ctx, l.flightKey())
	if f == nil {
		<-c.refreshes
		c.tasks.done()
		return nil
	}
	stop := context.AfterFunc(c.ctx, f.cancel)
	r := &Lookup{
		cache: c, request: l.request, wishes: requestControl(nil), now: l.now, began: time.Now(), changed: l.changed, epoch: c.options.Purges.Epoch(),
		keyed: true, base: l.base, key: l.key, own: l.own, stale: l.Entry, marker: l.marker, why: fwdStale,
		flight: f, leads: true,
	}
	r.request.HTTP = wholly(l.request.HTTP)
	r.release = func(bool) {
		stop()
		if r.sent && !r.stored && r.upstream != http.StatusNotModified {
			c.resting.add(l.key, time.Now().Add(restFor))
		}
		<-c.refreshes
		c.tasks.done()
	}
	return r
}

// Needed reports whether the answer of a Refreshing Lookup is still to be made anew:
// nobody has done it meanwhile, and no other instance does. It may ask the store, so
// it is for the background.
func (l *Lookup) Needed() bool {
	if l.lookAgain() {
		return false
	}
	leases := l.cache.options.Leases
	if leases == nil || l.Err != nil {
		return true
	}
	release, err := leases.Lead(l.flight.ctx, l.flightKey())
	if err != nil { // out of reach, or nobody waits for anybody
		return true
	}
	if release == nil {
		return false // an instance is at it
	}
	freed := l.release
	l.release = func(bool) {
		l.end(release)
		freed(false)
	}
	return true
}

// wholly is a request like r for the whole answer, whatever part of it the client
// of r asked for, and how fresh.
func wholly(r *http.Request) *http.Request {
	whole := r.Clone(r.Context())
	if whole.Method == http.MethodHead {
		whole.Method = http.MethodGet
	}
	for _, name := range []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Cache-Control", "Pragma"} {
		delete(whole.Header, name)
	}
	return whole
}

// Request is the request that the Lookup is of.
func (l *Lookup) Request() *http.Request { return l.request.HTTP }

func (l *Lookup) onlyIfCached() *weir.Problem {
	return &weir.Problem{
		Status: http.StatusGatewayTimeout,
		Title:  "Not in the cache",
		Detail: "The request has Cache-Control: only-if-cached, and no fresh answer is stored.",
		Header: http.Header{"Cache-Status": {l.Status()}},
	}
}
