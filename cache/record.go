package cache

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/internal/jsonscan"
)

// Keep says what is known of an answer beside its head.
type Keep struct {
	// Stream says that the answer is a stream: those who wait for it read it while
	// it comes.
	Stream bool
	// Judge, if not nil, is asked at the end of an answer that may be stored, or that
	// others may have waited for: who reads what it says may know better than its status.
	Judge func() Judgement
	// Failed, if not nil, gives the error that followers get in place of the one
	// with which the answer broke off. See ErrTold.
	Failed func(error) error
	// own are the fields that go with the answer, where the head has others, too.
	own http.Header
}

// Judgement is what an answer says of itself.
type Judgement struct {
	// Complete says that it is whole and good by the rules of its own protocol.
	Complete bool
	// Version is the version of the model that made it, "" if it does not say.
	Version string
	// Tokens is how many tokens it took, 0 if it does not say: see Entry.Tokens.
	Tokens int64
}

// Recording is an answer on its way to the client that is also kept, for the
// followers of its flight and for the store.
type Recording struct {
	lookup  *Lookup
	ctx     context.Context
	keeping Keep

	status   int
	resp     *http.Response
	header   http.Header
	own      http.Header // the fields of header that go with the answer
	length   int64       // declared; negative: none
	received time.Time
	keep     bool // the body is being kept
	done     bool

	body     []byte // where live is nil
	live     *live
	over     bool // live became too large to be kept
	arrivals arrivals
}

// Record begins to keep the answer whose status and head these are. It judges by
// them alone: an answer that is not for the followers sends them on their own way
// at once, and a body without a length that ends with its connection is never kept,
// because it may have been cut. After it, Status tells what is to be done with the
// answer.
func (l *Lookup) Record(ctx context.Context, resp *http.Response, k Keep) *Recording {
	rec := &Recording{
		lookup: l, ctx: ctx, keeping: k,
		status: resp.StatusCode, header: resp.Header, own: resp.Header, resp: resp, length: resp.ContentLength, received: time.Now(),
	}
	if k.own != nil {
		rec.own = k.own
	}
	if l.cache.options.Mode == ModeHTTP {
		l.fail(l.cache.Changed(ctx, l.request.HTTP, resp.StatusCode, resp.Header))
		l.freshenWithHead(ctx, resp)
	}
	if l.stale != nil {
		l.upstream = resp.StatusCode
	}
	if !l.keyed || l.request.HTTP.Method == http.MethodHead {
		return rec
	}
	shareable, storable := rec.judge(resp)
	if storable { // it may be purged already: see Purges
		m := l.meta()
		storable = !l.cache.options.Purges.Purged(&m, l.key)
	}
	l.stored = storable
	if storable && l.cache.options.Mode != ModeHTTP {
		l.ttl = l.cache.ttl(resp.StatusCode)
	}
	if rec.keep = storable || shareable && l.leads; !rec.keep {
		l.apart()
		return rec
	}
	if !shareable {
		l.apart()
	}
	if shareable && l.leads && (rec.keeping.Stream || l.cache.options.Mode == ModeHTTP) {
		head := &Entry{Status: rec.status, Header: rec.kept(), Made: rec.received.Add(-ageOf(rec.header))}
		if l.cache.options.Mode == ModeHTTP {
			head.Header = httpServable(head) // to those who read along, it is not confirmed
			head.Made, head.Expires = httpTimes(rec.status, rec.header, l.asked, rec.received)
		}
		rec.live = newLive(head, l.cache.options.MaxEntry)
		l.flight.offer(outcome{live: rec.live})
		return rec
	}
	if n := resp.ContentLength; n > 0 {
		rec.body = make([]byte, 0, min(n, 1<<20)) // a length is a promise: do not pay for it in advance
	}
	return rec
}

// judge says whether the answer may be given to somebody who asks the same now, and
// to somebody who asks later.
func (rec *Recording) judge(resp *http.Response) (shareable, storable bool) {
	l, c := rec.lookup, rec.lookup.cache
	closeDelimited := resp.ContentLength < 0 && resp.ProtoMajor == 1 && !slices.Contains(resp.TransferEncoding, "chunked")
	switch {
	case closeDelimited && !rec.keeping.Stream && resp.StatusCode != http.StatusNoContent:
		return false, false
	case resp.ContentLength > c.options.MaxEntry:
		return false, false
	case resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusNotModified:
		return false, false
	case len(resp.Header["Set-Cookie"]) > 0 || len(resp.Header["Content-Range"]) > 0 || len(resp.Trailer) > 0:
		return false, false
	}
	if c.options.Mode == ModeHTTP {
		return rec.judgeHTTP(l)
	}
	if rec.keeping.Stream || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		if rec.keeping.Judge == nil && c.options.Terminal == nil {
			return false, false // nobody can tell whether it is whole
		}
		rec.keeping.Stream = true
	}
	if c.options.Share != ShareCaller && resp.StatusCode/100 == 4 && c.ttl(resp.StatusCode) == 0 {
		return false, false // it may be about who asked
	}
	if !c.permits(resp.Header, rec.keeping.Stream) || !c.keyedBy(resp.Header["Vary"]) {
		return false, false
	}
	return true, c.ttl(resp.StatusCode) > 0
}

// permits reports whether Cache-Control lets an answer be used again. What servers
// put on every stream by reflex does not count there.
func (c *Cache) permits(h http.Header, stream bool) bool {
	for name := range directives(h) {
		switch name {
		case "no-store", "no-cache":
			if !stream {
				return false
			}
		case "private":
			if c.options.Share != ShareCaller {
				return false
			}
		}
	}
	return true
}

// judgeHTTP is judge by RFC 9111. A failure that says nothing to the contrary is
// everybody's who waits for it, and nobody's later.
func (rec *Recording) judgeHTTP(l *Lookup) (shareable, storable bool) {
	r := l.request.HTTP
	if l.partial && rec.status != http.StatusOK {
		return false, false
	}
	if !httpMayStore(r, rec.status, rec.header) {
		return rec.status >= http.StatusInternalServerError && rec.bare(), false
	}
	e := rec.entryHTTP(nil)
	storable = e.Until.After(rec.received)
	names, _ := varyNames(rec.header)
	if !l.alike(names) {
		return false, storable
	}
	return httpReuse(r.Header, e, rec.received) == reuseFresh, storable
}

// bare reports whether the head says nothing about whom the answer is for.
func (rec *Recording) bare() bool {
	for _, name := range []string{"Cache-Control", "Cdn-Cache-Control", targetedField, "Vary", "Set-Cookie"} {
		if len(rec.header[name]) > 0 {
			return false
		}
	}
	return true
}

// keyedBy reports whether the key has everything that the answer varies by.
func (c *Cache) keyedBy(vary []string) bool {
	for _, line := range vary {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if name == "*" || unkeyed(name) || slices.Contains(c.own, name) && c.options.Share != ShareCaller {
				return false
			}
		}
	}
	return true
}

// ttl is for how long an answer with this status is kept; 0 means not at all. It
// is a list of what may be kept, so that an error is never replayed.
func (c *Cache) ttl(status int) time.Duration {
	switch status {
	case http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusMovedPermanently, http.StatusPermanentRedirect:
		return c.lifetimes.Load().TTL
	case http.StatusNotFound, http.StatusGone:
		l := c.lifetimes.Load()
		return max(0, min(l.NegativeTTL, l.TTL))
	}
	return 0
}

// ReadAhead is how many bytes may be read of the answer before its client takes
// them, for upstream.Pool.Relay: all, as long as others wait for it.
func (rec *Recording) ReadAhead() int64 {
	if rec.keep && rec.lookup.leads {
		return rec.lookup.cache.options.MaxEntry
	}
	return 0
}

// ReadAlong reports whether others read the answer while it comes, for
// upstream.Pool.Relay: whoever has the leader's place must not hold them up.
func (rec *Recording) ReadAlong() bool { return rec.live != nil && rec.live.reading() }

// Write keeps p. It never fails: an answer that grows too large is let go.
func (rec *Recording) Write(p []byte) (int, error) {
	if !rec.keep || len(p) == 0 {
		return len(p), nil
	}
	if rec.live != nil {
		if rec.live.write(p) && !rec.over {
			rec.over, rec.lookup.stored = true, false
			rec.lookup.apart() // nobody joins any more; who reads goes on
		}
	} else if int64(len(rec.body)+len(p)) > rec.lookup.cache.options.MaxEntry {
		rec.giveUp()
		return len(p), nil
	} else {
		rec.body = append(rec.body, p...)
	}
	if rec.keeping.Stream {
		rec.arrivals = rec.arrivals.add(rec.size(), time.Since(rec.received))
	}
	return len(p), nil
}

// size is how much has come.
func (rec *Recording) size() int {
	if rec.live == nil {
		return len(rec.body)
	}
	rec.live.mu.Lock()
	defer rec.live.mu.Unlock()
	return rec.live.start + len(rec.live.data)
}

// giveUp keeps nothing and sends the followers on their own way.
func (rec *Recording) giveUp() {
	rec.keep, rec.lookup.stored, rec.body = false, false, nil
	rec.lookup.apart()
}

// Finish ends the recording of an answer that is whole: it is stored, then given
// to the followers. An error is the store's; the answer is good all the same.
func (rec *Recording) Finish() error {
	if rec.done || !rec.keep {
		return nil
	}
	rec.done = true
	l := rec.lookup
	var j Judgement
	if rec.keeping.Judge != nil {
		j = rec.keeping.Judge()
	}
	if rec.over {
		rec.live.cost(time.Since(l.asked), j.Tokens)
		rec.live.end(nil)
		return nil
	}
	body := rec.body
	if rec.live != nil {
		body = rec.live.data // only this goroutine writes it
	}
	if rec.length >= 0 && rec.length != int64(len(body)) && l.stored {
		rec.keep = false // a transport that does not check
		rec.breakOff(io.ErrUnexpectedEOF)
		return nil
	}
	e := rec.entry(fit(body))
	if j.Tokens > 0 { // also of what is not stored: followers were spared them
		e.Labels = append(e.Labels, Label(tokensKind, strconv.FormatInt(j.Tokens, 10)))
	}
	var err error
	if len(rec.resp.Trailer) > 0 { // some are not announced
		l.stored = false
	}
	if l.stored {
		err = rec.store(e, j)
	}
	if rec.live != nil {
		rec.live.cost(time.Since(l.asked), e.Tokens())
		rec.live.end(nil)
	}
	l.finish(outcome{entry: e}, nil)
	return err
}

// store puts e where it belongs, if it is one to keep.
func (rec *Recording) store(e *Entry, j Judgement) error {
	l, c := rec.lookup, rec.lookup.cache
	l.stored = false
	switch {
	case rec.keeping.Judge != nil:
		if !j.Complete {
			return nil
		}
	case len(e.Frames) > 0 && c.options.Terminal != nil:
		if !c.options.Terminal(e) {
			return nil
		}
	}
	if c.options.Mode != ModeHTTP && len(e.Frames) == 0 && !c.options.Complete(e) {
		return nil
	}
	l.stored = true
	now := time.Now()
	if m := l.model(); m != "" && j.Version != "" {
		v := strings.ReplaceAll(j.Version, " ", "_") // one word
		c.noteVersion(m, v)
		e.Labels = append(e.Labels, Label(versionKind, m+" "+v))
	}
	if c.options.Mode == ModeHTTP {
		return l.keepHTTP(rec.ctx, e, rec.header, now)
	}
	l.kept = l.key
	return c.keep(rec.ctx, l.key, e, now)
}

// entry makes the entry of the whole answer.
func (rec *Recording) entry(body []byte) *Entry {
	l := rec.lookup
	var e *Entry
	if l.cache.options.Mode == ModeHTTP {
		e = rec.entryHTTP(body)
	} else {
		e = rec.entryInference(body)
	}
	e.Took = time.Since(l.asked)
	e.Meta = l.meta()
	if age := ageOf(rec.header); age > 0 && l.cache.options.Mode != ModeHTTP {
		e.Labels = append(e.Labels, Label(ageKind, strconv.FormatInt(int64(age/time.Second), 10)))
	}
	if rec.keeping.Stream {
		e.Frames = rec.arrivals.frames(rec.header, body)
	}
	return e
}

func (rec *Recording) entryInference(body []byte) *Entry {
	c, now := rec.lookup.cache, time.Now()
	ttl := c.ttl(rec.status)
	e := &Entry{
		Status:  rec.status,
		Header:  rec.kept(),
		Body:    body,
		Made:    now.Add(-ageOf(rec.header)),
		Expires: now.Add(ttl),
	}
	e.Until = e.Expires.Add(c.staleFor(rec.status))
	e.ETag = strongETag(e.Status, rec.header, body)
	return e
}

func (rec *Recording) entryHTTP(body []byte) *Entry {
	e := &Entry{Status: rec.status, Header: rec.kept(), Body: body, ETag: rec.header.Get("Etag")}
	e.Made, e.Expires = httpTimes(rec.status, rec.header, rec.lookup.asked, rec.received)
	e.Until = rec.lookup.until(e)
	return e
}

// kept are the fields that go with the answer to those who wait for it, and into
// the store.
func (rec *Recording) kept() http.Header {
	c := rec.lookup.cache
	if c.options.Mode == ModeHTTP {
		return httpKeep(rec.own, rec.received)
	}
	h := keep(rec.own, !rec.lookup.stored)
	// In the entry, so that hits and followers are told what the first client is.
	c.restrict(h, rec.lookup.request.HTTP.Method, rec.lookup.ttl, rec.lookup.ttl)
	return h
}

// meta is what an entry of this request can be purged by.
func (l *Lookup) meta() Meta {
	labels := make([]string, 0, len(l.cache.options.Tags)+3)
	for _, tag := range l.cache.options.Tags {
		labels = append(labels, Label("tag", tag))
	}
	labels = append(labels, Label("path", l.request.HTTP.URL.EscapedPath()), Label("route", l.cache.options.Scope))
	if m := l.model(); m != "" {
		labels = append(labels, Label("model", m))
	}
	return Meta{Owner: l.request.Caller.ID, Labels: labels, Epoch: l.epoch}
}

// model names the model of the request among those of all routes.
func (l *Lookup) model() string {
	if l.request.Model == "" {
		return ""
	}
	return l.cache.options.Scope + "/" + l.request.Model
}

// fit gives back what a grown buffer has too much: an entry is kept for long.
func fit(b []byte) []byte {
	if cap(b)-len(b) > len(b)/8 {
		return append(make([]byte, 0, len(b)), b...)
	}
	return b
}

// saysError reports whether the body of e tells of an error under a status that
// does not.
func saysError(e *Entry, failed *jsonscan.Paths, depth int) bool {
	if !isJSON(e.Header) {
		return false
	}
	var room [1]jsonscan.Value
	found, err := failed.Find(room[:0], e.Body, depth)
	return err != nil || found[0].Kind() > jsonscan.Null
}

// Cut ends the recording of an answer that broke off: it is not stored, and the
// followers fail as the client does.
func (rec *Recording) Cut(err error) {
	if rec.done || !rec.keep {
		return
	}
	rec.done = true
	rec.breakOff(err)
}

func (rec *Recording) breakOff(err error) {
	rec.lookup.stored = false
	if rec.live != nil {
		rec.live.end(err)
	}
	rec.lookup.Fail(err)
}

// Body returns body with every byte that is read from it recorded, and the end
// judged: io.EOF finishes the recording, another error cuts it.
func (rec *Recording) Body(body io.ReadCloser) io.ReadCloser {
	return &recordedBody{ReadCloser: body, rec: rec}
}

type recordedBody struct {
	io.ReadCloser
	rec *Recording
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	_, _ = b.rec.Write(p[:n])
	switch {
	case err == io.EOF: // and not an error whose cause is that the transport ended
		b.rec.lookup.fail(b.rec.Finish())
	case err != nil && b.rec.keeping.Failed != nil:
		b.rec.Cut(b.rec.keeping.Failed(err))
	case err != nil:
		b.rec.Cut(err)
	}
	return n, err
}

// restrict says in the head of an answer what a cache in front may do with it. Of
// one that is not for all, nothing: its Cache-Control becomes private, and keeps
// what else the upstream said, unless that was stricter already. One that is for
// all may be kept for most, or less where the upstream said so, and for unsaid where
// it said nothing; but nobody keeps the answer to a POST. What is said to caches in
// front alone goes: they would not look at Cache-Control (RFC 9213). In ModeHTTP the
// upstream says.
func (c *Cache) restrict(h http.Header, method string, most, unsaid time.Duration) {
	if c.options.Mode == ModeHTTP {
		return
	}
	for name := range h {
		if name == "Surrogate-Control" || name == "X-Accel-Expires" || strings.HasSuffix(name, "Cdn-Cache-Control") {
			delete(h, name)
		}
	}
	switch {
	case c.options.Share != ShareAll:
		privatize(h)
	case conditional(method):
		limitAge(h, most, unsaid)
	}
}

func limitAge(h http.Header, longest, unsaid time.Duration) {
	most := int64(longest / time.Second)
	var kept []string
	aged := false
	for name, value := range directives(h) {
		switch name {
		case "no-store":
			return
		case "s-maxage", "max-age":
			n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64)
			if err != nil || n < 0 {
				n = 0 // what cannot be read has expired
			}
			value = strconv.FormatInt(min(n, most), 10)
			aged = aged || name == "max-age"
		}
		if value != "" {
			name += "=" + value
		}
		kept = append(kept, name)
	}
	if !aged {
		kept = append(kept, "max-age="+strconv.FormatInt(int64(unsaid/time.Second), 10))
	}
	h["Cache-Control"] = []string{strings.Join(kept, ", ")}
	delete(h, "Expires") // max-age is ahead of it
}

func privatize(h http.Header) {
	kept := []string{"private"}
	for name, value := range directives(h) {
		switch name {
		case "no-store":
			return
		case "private", "public", "s-maxage", "proxy-revalidate":
			continue
		}
		if value != "" {
			name += "=" + value
		}
		kept = append(kept, name)
	}
	h["Cache-Control"] = []string{strings.Join(kept, ", ")}
}
