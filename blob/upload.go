package blob

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

const (
	// maxOffer is how long the JSON of a POST may be.
	maxOffer = 16 << 10
	minKeep  = time.Minute
	maxKeep  = 7 * 24 * time.Hour
)

// wanted is the body of a POST.
type wanted struct {
	ContentType string `json:"content_type"`
	Bytes       int64  `json:"bytes"`
	Name        string `json:"name"`
	Keep        string `json:"keep"`
}

// offered is the answer to it.
type offered struct {
	Key       string    `json:"key"`
	Upload    upload    `json:"upload"`
	URL       string    `json:"url"`
	Expires   time.Time `json:"expires"`
	KeptUntil time.Time `json:"kept_until"`
}

// upload is how to send the bytes.
type upload struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Expires time.Time         `json:"expires"`
}

// offer answers with a link to upload and one to fetch what was uploaded.
func (s *Store) offer(w http.ResponseWriter, r *http.Request, c *weir.Caller) error {
	if c == nil || c.ID == "" {
		return &weir.Problem{Status: http.StatusUnauthorized, Detail: "A link to upload is for somebody: send your credentials."}
	}
	want, keep, err := s.readWanted(r)
	if err != nil {
		return err
	}
	if s.o.Admit != nil {
		if err := s.o.Admit(r, *c, want.Bytes); err != nil {
			return refused(err)
		}
	}
	key := s.NewKey(c.ID, s.o.Now().Add(keep))
	put, err := s.Link(r.Context(), Grant{Method: http.MethodPut, Key: key, Type: want.ContentType, Name: want.Name, Bytes: want.Bytes})
	if err != nil {
		return refused(err)
	}
	g := Grant{Method: http.MethodGet, Key: key}
	if s.away != nil {
		g.Type, g.Name = want.ContentType, want.Name
	}
	get, err := s.Link(r.Context(), g)
	if err != nil {
		return refused(err)
	}
	headers := make(map[string]string, len(put.Header))
	for name, values := range put.Header {
		headers[name] = values[0]
	}
	w.Header()["Location"] = []string{s.o.Path + key}
	return writeJSON(w, http.StatusCreated, offered{
		Key: key, Upload: upload{Method: http.MethodPut, URL: absolute(r, put), Headers: headers, Expires: put.Expires},
		URL: absolute(r, get), Expires: get.Expires, KeptUntil: expiry(key),
	})
}

func (s *Store) readWanted(r *http.Request) (want wanted, keep time.Duration, err error) {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxOffer+1))
	if err != nil {
		return wanted{}, 0, brokenOff(err)
	}
	if len(text) > maxOffer {
		return wanted{}, 0, &weir.Problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("Want JSON of at most %d bytes that describes the file; the file itself goes to the link in the answer.", maxOffer)}
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&want); err != nil {
		return wanted{}, 0, bad(`Want JSON as {"content_type": "image/png", "bytes": 1048576, "name": "a.png", "keep": "24h"}: ` + strings.TrimPrefix(err.Error(), "json: ") + ".")
	}
	if _, err := d.Token(); err != io.EOF {
		return wanted{}, 0, bad("Want one JSON object and nothing after it.")
	}
	if want.Keep == "" {
		want.Keep = "24h"
	}
	keep, err = parseKeep(want.Keep)
	switch {
	case err != nil || keep < minKeep || keep > maxKeep:
		return wanted{}, 0, bad(fmt.Sprintf("keep: %q: want from 1m to 7d, for example 24h.", want.Keep))
	case want.ContentType == "" || cleanType(want.ContentType) != want.ContentType:
		return wanted{}, 0, bad(fmt.Sprintf("content_type: %q: want a media type, for example image/png.", want.ContentType))
	case want.Bytes < 1:
		return wanted{}, 0, bad(fmt.Sprintf("bytes: %d: want how long the file is.", want.Bytes))
	case want.Bytes > s.o.MaxUpload:
		return wanted{}, 0, &weir.Problem{Status: http.StatusRequestEntityTooLarge, RetryAfter: weir.Never, Detail: fmt.Sprintf("bytes: %d: want at most %d.", want.Bytes, s.o.MaxUpload)}
	}
	want.Name = cleanName(want.Name)
	return want, keep, nil
}

// parseKeep reads a duration, also in days.
func parseKeep(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 8)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// put takes in a blob. It is there all at once, and once: a link that got into other
// hands cannot replace it.
func (s *Store) put(w http.ResponseWriter, r *http.Request, key string, c *weir.Caller) error {
	claim, err := s.claimed(r, key, c)
	if err != nil {
		return err
	}
	if err := checkUpload(r, claim); err != nil {
		return err
	}
	if err := s.uploads.begin(key); err != nil {
		return err
	}
	defer s.uploads.end(key)
	switch _, err := s.Stat(r.Context(), key); {
	case err == nil:
		return taken()
	case !errors.Is(err, ErrNotFound):
		return refused(err)
	}
	from := &paced{r: r.Body, left: r.ContentLength, rate: s.o.BodyMinRate, control: http.NewResponseController(w)}
	i, err := s.save(r.Context(), key, head{kind: claim.kind, name: claim.name}, from)
	from.end()
	if err != nil {
		return s.unsaved(err)
	}
	g := Grant{Method: http.MethodGet, Key: key}
	link, err := s.Link(r.Context(), g)
	if err != nil {
		return refused(err)
	}
	w.Header()["Location"] = []string{s.o.Path + key}
	return writeJSON(w, http.StatusCreated, linked{URL: absolute(r, link), Expires: link.Expires, Bytes: i.Bytes, ContentType: i.Type})
}

// checkUpload compares what comes with what the link is for.
func checkUpload(r *http.Request, c claim) error {
	types := r.Header["Content-Type"]
	switch {
	case r.ContentLength < 0, r.ContentLength == 0 && len(r.Header["Content-Length"]) == 0: // net/http says 0 where HTTP/1.1 says nothing
		return &weir.Problem{Status: http.StatusLengthRequired, Detail: "Want a Content-Length."}
	case r.ContentLength == 0:
		return bad("Content-Length: 0: want at least 1 byte: the link is used up by one upload.")
	case r.ContentLength > c.bytes:
		return &weir.Problem{Status: http.StatusRequestEntityTooLarge, RetryAfter: weir.Never, Detail: fmt.Sprintf("The link is for at most %d bytes.", c.bytes)}
	case len(types) != 1 || types[0] != c.kind:
		return &weir.Problem{Status: http.StatusUnsupportedMediaType, Detail: "The link is for Content-Type: " + c.kind + "."}
	case len(r.Header["Content-Range"]) > 0:
		return bad("Want all of the file, without Content-Range.")
	case len(r.Header["Content-Encoding"]) > 0:
		return &weir.Problem{Status: http.StatusUnsupportedMediaType, Detail: "Want the file as it is, without Content-Encoding."}
	}
	return nil
}

// unsaved is why an upload is not there.
func (s *Store) unsaved(err error) error {
	if errors.Is(err, errExists) {
		return taken()
	}
	if p, ok := errors.AsType[*weir.Problem](err); ok {
		return p
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &weir.Problem{Status: http.StatusRequestTimeout, Detail: fmt.Sprintf("The body came too slowly: want at least %d bytes a second.", s.o.BodyMinRate), Err: err}
	}
	return brokenOff(err)
}

func taken() error {
	return &weir.Problem{Status: http.StatusConflict, RetryAfter: weir.Never, Detail: "The link has been used: the file is there and stays as it is."}
}

func brokenOff(err error) error {
	return &weir.Problem{Status: http.StatusBadRequest, Detail: "The body broke off.", Err: err}
}

func bad(detail string) error {
	return &weir.Problem{Status: http.StatusBadRequest, Detail: detail}
}

// paced reads a body of a known length that must keep coming: within any half a minute
// as many bytes as its rate.
type paced struct {
	r       io.Reader
	left    int64
	rate    int64
	control *http.ResponseController
	since   time.Time // of what got counts
	got     int64
}

// Read reads on, until the length is reached: what ends sooner or goes on has broken off.
func (p *paced) Read(b []byte) (int, error) {
	if now := time.Now(); p.since.IsZero() || now.Sub(p.since) > time.Second && p.got >= p.rate*int64(stall/time.Second) {
		p.since, p.got = now, 0
		_ = p.control.SetReadDeadline(now.Add(stall)) // where that can be set
	}
	n, err := p.r.Read(b)
	p.got += int64(n)
	p.left -= int64(n)
	switch {
	case p.left < 0:
		return 0, errors.New("the body is longer than its Content-Length")
	case err == io.EOF && p.left > 0:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// end gives the connection back without a deadline.
func (p *paced) end() { _ = p.control.SetReadDeadline(time.Time{}) }
