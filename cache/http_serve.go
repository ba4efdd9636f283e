package cache

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// serveHTTPEntry answers a GET, HEAD or QUERY with a complete stored answer, as
// its origin would (RFC 9110, section 13.2.2): 304 to a client that has it, the
// ranges of it that are asked for, or all. The caller has set the fields that
// describe the hit, such as Age; for an answer that was not validated the entry's
// fields are those of httpServable.
//
// If-Match and If-Unmodified-Since are an origin's to look at (RFC 9111, section
// 4.3.2): a request with them does not come here, or they do not count.
func serveHTTPEntry(w http.ResponseWriter, r *http.Request, e *Entry) {
	h := w.Header()
	for name, values := range e.Header {
		if name != targetedField { // it was for us
			h[name] = slices.Clip(values)
		}
	}
	if e.Status/100 == 2 && notModified(r, e) {
		writeNotModified(w)
		return
	}
	if wanted := rangeWanted(r, e); wanted != "" {
		serveRange(w, r, e, wanted)
		return
	}
	if e.Status != http.StatusNoContent {
		h["Content-Length"] = []string{strconv.Itoa(len(e.Body))}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // the origin said nothing: neither do we
	}
	w.WriteHeader(e.Status)
	if r.Method != http.MethodHead && e.Status != http.StatusNoContent {
		_, _ = w.Write(e.Body) // a client that has left needs no answer
	}
}

// notModified says whether the client has the answer already. Where it sends tags,
// its date does not count, and a date only counts for GET and HEAD.
func notModified(r *http.Request, e *Entry) bool {
	if lines := r.Header["If-None-Match"]; len(lines) > 0 {
		return listsTag(lines, e.Header.Get("Etag"))
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	since, ok := dateOf(r.Header, "If-Modified-Since", e.Made)
	if !ok {
		return false
	}
	changed, ok := dateOf(e.Header, "Last-Modified", e.Made)
	if !ok { // what was received then has not changed later (RFC 9111, section 4.3.2)
		if changed, ok = dateOf(e.Header, "Date", e.Made); !ok {
			changed = e.Made
		}
	}
	return !changed.After(since)
}

// listsTag compares weakly (RFC 9110, section 13.1.2). "*" is any answer, also one
// without a tag.
func listsTag(lines []string, etag string) bool {
	for _, line := range lines {
		for item := range members(line) {
			item = strings.Trim(item, " \t")
			if item == "*" || etag != "" && weakly(item) == weakly(etag) {
				return true
			}
		}
	}
	return false
}

// writeNotModified writes 304 with the fields that help the client to update what
// it has (RFC 9110, section 15.4.5).
func writeNotModified(w http.ResponseWriter) {
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "Content-Language", "Content-Length", "Content-Range", "Content-Type"} {
		delete(h, name)
	}
	if len(h["Etag"]) > 0 {
		delete(h, "Last-Modified") // the tag says it better
	}
	w.WriteHeader(http.StatusNotModified)
}

// maxRanges is how many ranges one answer may have. A request for more gets all: it
// is nobody's reader (RFC 9110, section 17.15).
const maxRanges = 16

// rangeWanted is the Range of a request to which it applies, else "": GET and QUERY
// of a 200, in bytes, and of the version that If-Range names.
func rangeWanted(r *http.Request, e *Entry) string {
	lines := r.Header["Range"]
	if len(lines) != 1 || e.Status != http.StatusOK || r.Method != http.MethodGet && r.Method != methodQuery {
		return ""
	}
	unit, ranges, ok := strings.Cut(lines[0], "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") || strings.Count(ranges, ",") >= maxRanges {
		return "" // a unit that is not known does not count (RFC 9110, section 14.2)
	}
	if conditions := r.Header["If-Range"]; len(conditions) > 0 && !sameVersion(conditions, e) {
		return ""
	}
	return "bytes=" + ranges
}

// sameVersion evaluates If-Range (RFC 9110, section 13.1.5): strongly, and a date
// only exactly.
func sameVersion(conditions []string, e *Entry) bool {
	if len(conditions) != 1 {
		return false
	}
	if c := conditions[0]; isStrong(c) || strings.HasPrefix(c, "W/") {
		return isStrong(c) && c == e.Header.Get("Etag")
	}
	date, ok := httpDate(conditions[0], e.Made)
	changed, has := dateOf(e.Header, "Last-Modified", e.Made)
	return ok && has && date.Equal(changed) && strongChange(e.Header)
}

// serveRange writes parts of the answer: 206, or 416 if it has none of them.
func serveRange(w http.ResponseWriter, r *http.Request, e *Entry, wanted string) {
	// The conditions have been looked at. ServeContent reads the range alone.
	part := &http.Request{Method: http.MethodGet, URL: r.URL, Header: http.Header{"Range": {wanted}}}
	if _, ok := w.Header()["Content-Type"]; !ok {
		w.Header()["Content-Type"] = nil // else it would guess one
	}
	http.ServeContent(w, part.WithContext(r.Context()), "", time.Time{}, bytes.NewReader(e.Body))
}
