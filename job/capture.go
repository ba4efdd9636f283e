package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	weir "github.com/inferweir/weir"
)

// maxHeader is how many bytes of fields an answer may have that is kept.
const maxHeader = 64 << 10

// errUnkept says that there is nowhere to keep an answer.
var errUnkept = errors.New("job: the answer is larger than 64 KiB, and there are no Blobs to keep it")

// errBroken ends the saving of an answer that did not become whole.
var errBroken = errors.New("job: the answer broke off")

// read reads an answer to its end, and keeps it where it may be the job's.
func (s *Jobs) read(a *attempt, resp *http.Response) verdict {
	v := verdict{after: retryAfter(resp.Header, s.now())}
	if passes(resp.StatusCode) && !a.last() {
		// Nobody gets this body. Its end is read all the same, because the account is
		// complete there; what is long is not worth that.
		_, _ = io.CopyN(io.Discard, resp.Body, MaxInline)
		v.status = resp.StatusCode
		return v
	}
	header, err := kept(resp.Header, a.job.Request.Method == http.MethodHead)
	if err != nil {
		v.err = err
		return v
	}
	end := Completed
	if passes(resp.StatusCode) {
		end = Discarded
	}
	c := &capture{s: s, a: a, kind: resp.Header.Get("Content-Type"), end: end}
	defer c.giveUp()
	if err := c.copy(resp); err != nil {
		v.err = err
		return v
	}
	v.status = resp.StatusCode
	v.result = &Result{Status: resp.StatusCode, Header: header, Body: c.head, Blob: c.key, Bytes: a.bytes.Load()}
	return v
}

// bodyless reports whether an answer has no body, whatever its fields say.
func bodyless(method string, status int) bool {
	return method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
}

// declared is the length that an answer says its body has, -1 where it says none.
func declared(resp *http.Response) int64 {
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		return n
	}
	if resp.ContentLength > 0 {
		return resp.ContentLength
	}
	return -1
}

// moment are the fields about the moment of the answer and who asked: the direct call
// would have sent them, but they are wrong by the time that the result is fetched, and
// the answer to the fetch has its own. Cookies are somebody's credentials, which are not
// stored.
func moment() []string {
	return []string{
		"Date", "Age", "Server-Timing", "Retry-After", "Retry-After-Ms", "X-Should-Retry", "Ratelimit",
		"Ratelimit-Policy", "X-Request-Id", "Traceparent", "Tracestate", "Set-Cookie", "Set-Cookie2", "Alt-Svc", "Cache-Status",
		"Preference-Applied", "Clear-Site-Data",
	}
}

// kept are the fields of an answer that its result has: what the direct call would have
// sent, without those of the connection and of the moment. The length is that of the
// kept body, except for HEAD, which has none; trailers are dropped, as most proxies do.
func kept(h http.Header, head bool) (http.Header, error) {
	length := h.Get("Content-Length")
	out := endToEnd(h)
	for _, name := range moment() {
		delete(out, name)
	}
	maps.DeleteFunc(out, func(name string, _ []string) bool {
		name = textproto.CanonicalMIMEHeaderKey(name)
		return strings.HasPrefix(name, "X-Ratelimit-") || strings.HasPrefix(name, "Anthropic-Ratelimit-") ||
			strings.HasPrefix(name, http.TrailerPrefix)
	})
	if head && length != "" {
		out.Set("Content-Length", length)
	}
	size := 0
	for name, values := range out {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	if size > maxHeader {
		return nil, &weir.Problem{Status: http.StatusBadGateway, Detail: fmt.Sprintf("The answer's header is larger than %d bytes.", maxHeader)}
	}
	return out, nil
}

// capture keeps a body: up to MaxInline in memory, and what is larger as a blob, through
// a pipe, so that no more than a buffer of it is ever in memory.
type capture struct {
	s    *Jobs
	a    *attempt
	kind string
	end  State
	// head is the body as long as it is small, key its blob once it is saved.
	head []byte
	key  string
	// pipe leads to the blob, saved has what became of it.
	pipe  *io.PipeWriter
	saved chan saved
}

type saved struct {
	key string
	err error
}

// copy reads the body of resp to its end.
func (c *capture) copy(resp *http.Response) error {
	if bodyless(c.a.job.Request.Method, resp.StatusCode) {
		_, err := io.CopyN(io.Discard, resp.Body, MaxInline)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	}
	events := c.a.output.of(c.kind)
	c.a.bytes.Store(0)
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if err := c.write(buf[:n]); err != nil {
				return err
			}
			if events {
				c.s.emit(c.a, buf[:n])
			}
			c.a.bytes.Add(int64(n))
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the answer after %d bytes: %w", c.a.bytes.Load(), err)
		}
		if c.a.ctx.Err() != nil {
			return context.Cause(c.a.ctx)
		}
	}
	if want, got := declared(resp), c.a.bytes.Load(); want >= 0 && got != want {
		return fmt.Errorf("the answer has %d bytes and says that it has %d: %w", got, want, io.ErrUnexpectedEOF)
	}
	if events {
		c.s.emitRest(c.a)
	}
	return c.close()
}

func (c *capture) write(p []byte) error {
	if c.pipe == nil && len(c.head)+len(p) <= MaxInline {
		c.head = append(c.head, p...)
		return nil
	}
	if c.pipe == nil {
		if c.s.o.Blobs == nil {
			return errUnkept
		}
		c.save()
		if _, err := c.pipe.Write(c.head); err != nil {
			return unsaved(err)
		}
		c.head = nil
	}
	if _, err := c.pipe.Write(p); err != nil {
		return unsaved(err)
	}
	return nil
}

// save begins a blob. It is needed for as long as the result of a job can be that ends
// when it expires.
func (c *capture) save() {
	j := c.a.job
	m := BlobMeta{Caller: j.Caller, Type: c.kind, Until: c.s.expires(c.end, j.Expires)}
	r, w := io.Pipe()
	c.pipe, c.saved = w, make(chan saved, 1)
	go func() { // ends with close or giveUp, which wait for it
		key, err := c.s.o.Blobs.Save(c.a.ctx, m, r)
		_ = r.CloseWithError(errors.Join(errBroken, err)) // nobody reads any more
		c.saved <- saved{key, err}
	}()
}

// close makes the blob durable, if there is one.
func (c *capture) close() error {
	if c.pipe == nil {
		return nil
	}
	_ = c.pipe.Close()
	done := <-c.saved
	c.pipe = nil
	if done.err != nil {
		return unsaved(done.err)
	}
	c.key = done.key
	return nil
}

// giveUp drops a blob that is not whole. It does nothing after close.
func (c *capture) giveUp() {
	if c.pipe == nil {
		return
	}
	_ = c.pipe.CloseWithError(errBroken)
	if done := <-c.saved; done.err == nil && done.key != "" {
		c.s.deleteBlob(done.key)
	}
	c.pipe = nil
}

func unsaved(err error) error {
	return &weir.Problem{Status: http.StatusServiceUnavailable, Detail: "The answer could not be kept.", Err: fmt.Errorf("save the answer: %w", err)}
}

// streams reports whether a body of this type is a stream whose events are shown while it
// runs, and whether they are lines.
func streams(contentType string) (events, lines bool) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil && kind == "" {
		kind = strings.ToLower(strings.TrimSpace(contentType))
	}
	switch kind {
	case "text/event-stream":
		return true, false
	case "application/x-ndjson":
		return true, true
	}
	return false, false
}
