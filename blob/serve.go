package blob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

const (
	// askFor is how long a request waits for the store to say whether it has a blob.
	askFor = 10 * time.Second
	// stall is how long one piece of an answer may take to leave, and over what time
	// the rate of an upload is measured.
	stall = 30 * time.Second
	// maxRanges is how many ranges of a blob one answer may have. Others get all of it
	// (RFC 9110, section 14.2).
	maxRanges = 16
)

// Serve serves the requests below Path:
//
//	GET, HEAD KEY with a signature   the blob, or parts of it (a directory only)
//	GET, HEAD KEY                    a fresh link for its owner, as Answer
//	PUT KEY with a signature         takes it in, once (a directory only)
//	POST without a key               a link to upload
//
// c is who asks, nil where the request has no credentials. A link needs none; but another
// caller's than the owner's make the blob 404. Errors are *weir.Problem. Nothing is
// written then.
func (s *Store) Serve(w http.ResponseWriter, r *http.Request, c *weir.Caller) error {
	key, ok := strings.CutPrefix(r.URL.Path, s.o.Path)
	switch {
	case key == "" && ok, r.URL.Path == strings.TrimSuffix(s.o.Path, "/"):
		if r.Method != http.MethodPost {
			return notAllowed("POST")
		}
		if err := s.ready(r.Context()); err != nil {
			return err
		}
		return s.offer(w, r, c)
	case !ok, r.URL.RawPath != "", !validKey(key):
		// A RawPath is a spelling that no key needs, such as %2e for a dot.
		return forbidden()
	}
	if err := s.ready(r.Context()); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if r.URL.RawQuery == "" {
			return s.fresh(w, r, key, c)
		}
		return s.get(w, r, key, c)
	case http.MethodPut:
		return s.put(w, r, key, c)
	}
	return notAllowed("GET, HEAD, PUT")
}

// fresh answers the owner with a link.
func (s *Store) fresh(w http.ResponseWriter, r *http.Request, key string, c *weir.Caller) error {
	if c == nil {
		return forbidden()
	}
	if !s.Owns(c.ID, key) {
		return gone()
	}
	ctx, cancel := context.WithTimeout(r.Context(), askFor)
	defer cancel()
	i, err := s.Stat(ctx, key)
	if err != nil {
		return refused(err)
	}
	return s.Answer(w, r, i, *c)
}

// claimed is what the link of a request is good for.
func (s *Store) claimed(r *http.Request, key string, c *weir.Caller) (claim, error) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	good, ok := s.keys.Load().verify(method, key, r.URL.RawQuery, s.o.Now())
	switch {
	case !ok || s.away != nil:
		return claim{}, forbidden()
	case c != nil && !c.Anonymous && !s.Owns(c.ID, key), !s.alive(key):
		return claim{}, gone()
	}
	return good, nil
}

// get serves the bytes. They never change, so that caches may keep them for as long as
// the link is good.
func (s *Store) get(w http.ResponseWriter, r *http.Request, key string, c *weir.Caller) error {
	claim, err := s.claimed(r, key, c)
	if err != nil {
		return err
	}
	body, head, err := s.open(r.Context(), key)
	if err != nil {
		return refused(err)
	}
	defer body.Close()
	if claim.kind != "" {
		head.kind = claim.kind
	}
	if claim.name != "" {
		head.name = claim.name
	}
	h := w.Header()
	h["Content-Type"] = []string{head.kind}
	h["Content-Disposition"] = []string{disposition(head.name)}
	h["Etag"] = []string{`"` + key[keyLen-textLen:] + `"`}
	h["Cache-Control"] = []string{"public, max-age=" + strconv.FormatInt(claim.expires-s.o.Now().Unix(), 10) + ", immutable"}
	// Whatever a model made is no page of this site: nobody shall guess its type,
	// show it as a document, or run what is in it.
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Content-Security-Policy"] = []string{"sandbox; default-src 'none'"}
	h["Cross-Origin-Resource-Policy"] = []string{"cross-origin"} // the link is the permission
	h["Referrer-Policy"] = []string{"no-referrer"}               // and in the address
	if strings.Count(strings.Join(r.Header["Range"], ","), ",") >= maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}
	out := &steady{ResponseWriter: w, control: http.NewResponseController(w)}
	http.ServeContent(out, r, "", head.modified, body)
	out.end()
	if out.refused {
		for _, name := range []string{"Content-Type", "Content-Disposition", "Content-Security-Policy", "Etag", "Cache-Control", "Last-Modified"} {
			delete(h, name) // they are of the file
		}
		return &weir.Problem{Status: http.StatusRequestedRangeNotSatisfiable, RetryAfter: weir.Never,
			Detail: fmt.Sprintf("The file has %d bytes: want a Range within them, as bytes=0-1023.", head.bytes)}
	}
	return nil
}

// steady ends an answer whose client has stopped reading: each piece has its own time to
// leave, however long all of them take.
type steady struct {
	http.ResponseWriter
	control *http.ResponseController
	set     time.Time
	// refused says that the range is not there. Nothing is written then: the answer is a
	// problem, as all others are.
	refused bool
}

// WriteHeader holds back the plain text that http.ServeContent answers with where a range
// is not there.
func (s *steady) WriteHeader(status int) {
	if s.refused = status == http.StatusRequestedRangeNotSatisfiable; !s.refused {
		s.ResponseWriter.WriteHeader(status)
	}
}

// Write gives a piece the time that it has.
func (s *steady) Write(p []byte) (int, error) {
	if s.refused {
		return len(p), nil
	}
	if now := time.Now(); now.Sub(s.set) > time.Second {
		s.set = now
		_ = s.control.SetWriteDeadline(now.Add(stall)) // where that can be set
	}
	return s.ResponseWriter.Write(p)
}

// end gives the connection back without a deadline.
func (s *steady) end() {
	if !s.set.IsZero() {
		_ = s.control.SetWriteDeadline(time.Time{})
	}
}

// Unwrap is for http.ResponseController.
func (s *steady) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// refused is an error of this package as a client gets it.
func refused(err error) error {
	if errors.Is(err, ErrNotFound) {
		return gone()
	}
	if p, ok := errors.AsType[*weir.Problem](err); ok {
		return p
	}
	return &weir.Problem{Status: http.StatusInternalServerError, Err: err}
}

func forbidden() error { return Forbidden() }

// Forbidden is the refusal of a link, the same for all that can be wrong with one, so that
// it does not help to make a better one.
func Forbidden() *weir.Problem {
	return &weir.Problem{Status: http.StatusForbidden, RetryAfter: weir.Never,
		Detail: "This link is not good: it has expired, or was not made for this request. Its owner gets a fresh one by GET of its path, without the query and with credentials."}
}

func gone() error {
	return &weir.Problem{Status: http.StatusNotFound, RetryAfter: weir.Never, Detail: "There is no such file, or it has expired."}
}

func notAllowed(methods string) error {
	return &weir.Problem{Status: http.StatusMethodNotAllowed, Detail: "Want " + methods + ".", Header: http.Header{"Allow": {methods}}}
}
