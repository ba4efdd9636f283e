package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
	"github.com/inferweir/weir/dialect"
)

// offloads reports whether large answers to the request go to the blobs.
func (x *exchange) offloads() bool {
	return x.chosen.config.OffloadOver > 0 && x.gateway.data.blobs != nil && !x.inBackground() && x.r.Method != http.MethodHead && !x.call.Stream
}

// keepsOffloaded is how long the blob of a direct answer is kept. Its client is there.
const keepsOffloaded = time.Hour

// offload takes an answer that is larger than the route sends to the blobs, and
// answers with a link to it. Otherwise it reports false, and resp can be passed on.
func (x *exchange) offload(resp *http.Response) (bool, error) {
	most := int64(x.chosen.config.OffloadOver)
	switch {
	case !x.offloads() || resp.StatusCode != http.StatusOK || x.early:
		return false, nil
	case isStream(resp.Header): // which is read as it comes
		return false, nil
	case resp.ContentLength >= 0 && resp.ContentLength <= most, len(resp.Header["Content-Encoding"]) > 0:
		return false, nil
	}
	begun := &spool{}
	if resp.ContentLength < 0 {
		n, err := begun.fill(resp.Body, most+1)
		if n <= most || begun.full {
			resp.Body = &resumed{begun, resp.Body, err}
			if err == nil && !begun.full {
				resp.ContentLength = n
			}
			if begun.full {
				x.gateway.Logger().Warn("an answer of unknown length is sent directly, whatever its length is: there is no room for temporary files", "request_id", x.id, "error", begun.cause.Error())
			}
			return false, nil
		}
	}
	defer begun.Close()
	meta := blob.Meta{Caller: x.caller.ID, Type: resp.Header.Get("Content-Type"), Until: time.Now().Add(keepsOffloaded)}
	info, err := x.gateway.data.blobs.Save(x.r.Context(), meta, io.MultiReader(begun, resp.Body))
	_ = resp.Body.Close()
	if err != nil {
		return true, x.notOffloaded(err)
	}
	x.offloaded = info.Bytes
	for name, values := range resp.Header {
		switch {
		case strings.HasPrefix(name, "Content-"), name == "Etag", name == "Last-Modified", name == "Accept-Ranges", name == "Age", name == "Expires", dialect.IsLimitField(name):
		default:
			x.w.Header()[name] = values
		}
	}
	x.w.Header()["Cache-Control"] = []string{"no-store"} // the link is the caller's, and ends soon
	return true, x.gateway.data.blobs.Answer(x.w, x.asReached(), info, x.caller)
}

// isStream reports whether an answer's body is a stream of events.
func isStream(h http.Header) bool { return hasType(h, eventStream) || hasType(h, jsonLines) }

// The types of streams.
const (
	eventStream = "text/event-stream"
	jsonLines   = "application/x-ndjson"
)

func hasType(h http.Header, kind string) bool {
	got, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.TrimSpace(got) == kind
}

// notOffloaded is why an answer could not be taken to the blobs: it broke off, or they
// do not take it.
func (x *exchange) notOffloaded(err error) error {
	if x.r.Context().Err() != nil || isCut(err) {
		return err
	}
	if p, ok := errors.AsType[*weir.Problem](err); ok {
		return p
	}
	return &weir.Problem{
		Status: http.StatusBadGateway, Err: err,
		Detail: fmt.Sprintf("The answer of upstream %q is larger than is sent directly, and could not be kept as a whole.", x.chosen.upstream.name),
	}
}

// spool holds the beginning of an answer whose length is not known: a little of it in
// memory, the rest in a file that has no name any more.
type spool struct {
	memory bytes.Buffer
	file   *os.File
	named  bool   // the system keeps it until it is closed
	full   bool   // the file takes no more: what was read is in rest
	cause  error  // of that
	rest   []byte // what comes behind the file
}

// inMemory is how much a spool keeps in memory.
const inMemory = 256 << 10

// fill reads at most most bytes of an answer, and prepares for reading them. Nothing
// that was read is lost where the file takes no more. The error is the answer's.
func (s *spool) fill(body io.Reader, most int64) (n int64, err error) {
	body = io.LimitReader(body, most)
	buffer := make([]byte, 32<<10)
	for err == nil && !s.full {
		var read int
		read, err = body.Read(buffer)
		n += int64(read)
		s.keep(buffer[:read])
	}
	if s.file != nil {
		_, _ = s.file.Seek(0, io.SeekStart) // a failure shows at the first Read
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (s *spool) keep(p []byte) {
	if s.file == nil && s.memory.Len()+len(p) <= inMemory {
		s.memory.Write(p)
		return
	}
	written := 0
	if s.file == nil {
		if file, err := os.CreateTemp("", "weir-answer-*"); err != nil {
			s.cause = err
		} else {
			s.file, s.named = file, os.Remove(file.Name()) != nil
		}
	}
	if s.file != nil {
		written, s.cause = s.file.Write(p)
	}
	if s.cause != nil {
		s.full, s.rest = true, bytes.Clone(p[written:])
	}
}

// Read implements io.Reader.
func (s *spool) Read(p []byte) (int, error) {
	if s.memory.Len() > 0 {
		return s.memory.Read(p)
	}
	if s.file != nil {
		if n, err := s.file.Read(p); n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
	}
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close lets go of the file.
func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if s.named {
		err = errors.Join(err, os.Remove(s.file.Name()))
	}
	return err
}

// resumed is a body of which the beginning has been read: to its end, or an error, or
// as far as there was room.
type resumed struct {
	begun *spool
	body  io.ReadCloser
	err   error
}

// Read implements io.Reader.
func (r *resumed) Read(p []byte) (int, error) {
	n, err := r.begun.Read(p)
	switch {
	case !errors.Is(err, io.EOF):
		return n, err
	case r.err != nil:
		return n, r.err
	}
	return r.body.Read(p)
}

// Close implements io.Closer.
func (r *resumed) Close() error { return errors.Join(r.begun.Close(), r.body.Close()) }
