package blob

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// linked is an answer that is elsewhere.
type linked struct {
	URL         string    `json:"url"`
	Expires     time.Time `json:"expires"`
	Bytes       int64     `json:"bytes"`
	ContentType string    `json:"content_type"`
}

// Answer answers with a fresh link to a blob in place of its bytes: 303 with Location,
// or, where the request says Accept: application/json, 200 with {"url", "expires",
// "bytes", "content_type"}. A blob that is not c's is 404. It has written nothing
// where it returns an error, a *weir.Problem.
func (s *Store) Answer(w http.ResponseWriter, r *http.Request, i Info, c weir.Caller) error {
	g := Grant{Method: http.MethodGet, Key: i.Key, Caller: c.ID}
	if s.away != nil { // here, the blob itself knows
		g.Type, g.Name = cleanType(i.Type), i.Name
	}
	if c.ID == "" {
		return gone()
	}
	link, err := s.Link(r.Context(), g)
	if err != nil {
		return refused(err)
	}
	h := w.Header()
	h["Cache-Control"] = []string{"no-store"}
	h["Vary"] = append(h["Vary"], "Accept")
	if wantsJSON(r.Header) {
		return writeJSON(w, http.StatusOK, linked{URL: absolute(r, link), Expires: link.Expires, Bytes: i.Bytes, ContentType: i.Type})
	}
	h["Location"] = []string{link.URL}
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// absolute is the URL of a link as whoever asked for it can use it. The host is what they
// said: only they get it.
func absolute(r *http.Request, l Link) string {
	if !l.Local {
		return l.URL
	}
	u := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil || r.URL.Scheme == "https" {
		u.Scheme = "https"
	}
	return u.String() + l.URL
}

// maxAccept is how many kinds of an Accept are looked at.
const maxAccept = 32

// wantsJSON reports whether a client asks for JSON by name. What it lists with a higher
// weight does not matter: no other answer has a body.
func wantsJSON(h http.Header) bool {
	for i, part := range strings.SplitN(strings.Join(h["Accept"], ","), ",", maxAccept+1) {
		if i == maxAccept {
			break
		}
		kind, parameters, err := mime.ParseMediaType(part)
		if err != nil || kind != "application/json" {
			continue
		}
		q, err := strconv.ParseFloat(parameters["q"], 64)
		return err != nil || q > 0
	}
	return false
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetEscapeHTML(false) // a link is copied as it stands
	if err := out.Encode(v); err != nil {
		return &weir.Problem{Status: http.StatusInternalServerError, Err: err}
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(text.Len())}
	h["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a client that has left needs no answer
	return nil
}
