package cache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/internal/jsonscan"
)

// Recording is an answer on its way to the client that is also kept, for the
// followers of its flight and for the store.
type Recording struct {
	cache  *Cache
	key    Key
	flight *Flight
	ctx    context.Context
	asked  time.Time
	whole  func() bool

	status int
	header http.Header
	age    time.Duration
	body   []byte
	length int64 // declared; negative: none
	keep   bool  // body is being kept
	store  bool  // and will go into the store
	done   bool
}

// Ask is what a Recording is about.
type Ask struct {
	Key    Key
	Flight *Flight
	Wishes Wishes
	// Now is when the request was sent upstream.
	Now time.Time
	// Stream says that the answer is a stream, of whatever type: it passes, and is
	// given to nobody else.
	Stream bool
	// Complete, if not nil, is asked at the end of the answer whether it may be
	// stored: who reads what it says may know better than its status.
	Complete func() bool
}

// Record begins to keep the answer whose status and header these are. It judges
// by them alone: an answer that is not for the followers sends them on their own
// way at once, and a body without a length that ends with its connection is never
// kept, because it may have been cut. CacheStatus then tells the client what is
// to be done with the answer.
func (c *Cache) Record(ctx context.Context, a Ask, resp *http.Response) *Recording {
	rec := &Recording{
		cache:  c,
		key:    a.Key,
		flight: a.Flight,
		ctx:    ctx,
		asked:  a.Now,
		whole:  a.Complete,
		status: resp.StatusCode,
		header: resp.Header,
		length: resp.ContentLength,
	}
	if seconds, err := strconv.ParseUint(resp.Header.Get("Age"), 10, 31); err == nil {
		rec.age = time.Duration(seconds) * time.Second
	}
	rec.keep = !a.Stream && c.shareable(resp)
	rec.store = rec.keep && !a.Wishes.NoStore && c.ttl(resp.StatusCode) > 0
	if !rec.store && a.Flight == nil {
		rec.keep = false
	}
	if !rec.keep {
		rec.giveUp()
		return rec
	}
	if n := resp.ContentLength; n > 0 {
		rec.body = make([]byte, 0, min(n, 1<<20)) // a length is a promise: do not pay for it in advance
	}
	return rec
}

// shareable says whether an answer may be given to somebody who asked the same:
// a follower now, or a hit later.
func (c *Cache) shareable(resp *http.Response) bool {
	h := resp.Header
	closeDelimited := resp.ContentLength < 0 && resp.ProtoMajor == 1 && !slices.Contains(resp.TransferEncoding, "chunked")
	switch {
	case closeDelimited && resp.StatusCode != http.StatusNoContent:
		return false
	case resp.ContentLength > c.options.MaxEntry:
		return false
	case resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusNotModified:
		return false
	case len(h["Set-Cookie"]) > 0 || len(h["Content-Range"]) > 0 || len(resp.Trailer) > 0:
		return false
	case strings.HasPrefix(h.Get("Content-Type"), "text/event-stream"):
		return false
	}
	for name := range directives(h) {
		switch name {
		case "no-store", "no-cache":
			return false
		case "private":
			if c.options.Share != ShareCaller {
				return false
			}
		}
	}
	return c.keyedBy(h["Vary"])
}

// keyedBy reports whether the key has everything that the answer varies by.
func (c *Cache) keyedBy(vary []string) bool {
	for _, line := range vary {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			credential := slices.Contains(credentials(), name)
			if name == "*" || unkeyed(name) || credential && c.options.Share != ShareCaller {
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
		return c.options.TTL
	case http.StatusNotFound, http.StatusGone:
		return min(c.options.NegativeTTL, c.options.TTL)
	}
	return 0
}

// CacheStatus is the Cache-Status of the answer that is being recorded.
func (rec *Recording) CacheStatus(w Wishes) string {
	switch {
	case !rec.store:
		return StatusMiss
	case w.NoCache:
		return StatusRefreshed
	}
	return StatusStored
}

// ReadAhead is how many bytes may be read of the answer before its client takes
// them, for upstream.Pool.Relay: all, as long as others wait for it.
func (rec *Recording) ReadAhead() int64 {
	if rec.keep && rec.flight != nil {
		return rec.cache.options.MaxEntry
	}
	return 0
}

// Write keeps p. It never fails: an answer that grows too large is let go.
func (rec *Recording) Write(p []byte) (int, error) {
	if rec.keep {
		if int64(len(rec.body)+len(p)) > rec.cache.options.MaxEntry {
			rec.giveUp()
		} else {
			rec.body = append(rec.body, p...)
		}
	}
	return len(p), nil
}

// giveUp keeps nothing and sends the followers on their own way.
func (rec *Recording) giveUp() {
	rec.keep, rec.store, rec.body = false, false, nil
	if rec.flight != nil {
		rec.cache.remember(rec.key, time.Now())
		rec.flight.Alone()
	}
}

// Finish ends the recording of an answer that is whole: it is stored, then given
// to the followers. An error is the store's; the answer is good all the same.
func (rec *Recording) Finish() error {
	if rec.done || !rec.keep {
		return nil
	}
	if rec.length >= 0 && rec.length != int64(len(rec.body)) {
		rec.giveUp() // a transport that does not check
		return nil
	}
	rec.done = true
	now := time.Now()
	e := &Entry{
		Status:  rec.status,
		Header:  keep(rec.header, !rec.store),
		Body:    fit(rec.body),
		Made:    now.Add(-rec.age),
		Expires: now.Add(rec.cache.ttl(rec.status)),
		Until:   now.Add(rec.cache.ttl(rec.status)),
		Took:    now.Sub(rec.asked),
	}
	// In the entry, so that hits and followers are told what the first client is.
	rec.cache.Privatize(e.Header)
	e.ETag = strongETag(e.Status, rec.header, e.Body)
	var err error
	if rec.store && (rec.whole == nil || rec.whole()) && rec.cache.options.Complete(e) {
		// The client may have left, the followers may not: store all the same.
		err = rec.cache.options.Store.Put(context.WithoutCancel(rec.ctx), rec.key, e, now)
	}
	if rec.flight != nil && rec.flight.leader {
		rec.flight.flight.finish(outcome{e}, nil)
	}
	return err
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
	rec.flight.Fail(err)
}

// Body returns body with every byte that is read from it recorded, and the end
// judged: io.EOF finishes the recording, another error cuts it. failed gives the
// error that followers get in place of the one that was read.
func (rec *Recording) Body(body io.ReadCloser, failed func(error) error) io.ReadCloser {
	return &recordedBody{ReadCloser: body, rec: rec, failed: failed}
}

type recordedBody struct {
	io.ReadCloser
	rec    *Recording
	failed func(error) error
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	_, _ = b.rec.Write(p[:n])
	switch {
	case errors.Is(err, io.EOF):
		_ = b.rec.Finish()
	case err != nil:
		b.rec.Cut(b.failed(err))
	}
	return n, err
}

// Privatize marks an answer of a cache that does not share it with all, so that
// no other cache on the way does: its Cache-Control becomes private, and keeps
// what else the upstream said, unless that was stricter already.
func (c *Cache) Privatize(h http.Header) {
	if c.options.Share == ShareAll {
		return
	}
	for name := range h {
		// Fields that speak to a cache in front, which then ignores Cache-Control
		// (RFC 9213).
		if name == "Surrogate-Control" || strings.HasSuffix(name, "Cdn-Cache-Control") {
			delete(h, name)
		}
	}
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
