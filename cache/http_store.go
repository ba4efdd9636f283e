package cache

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// httpMayStore says whether a shared cache may keep an answer (RFC 9111, sections
// 3 and 3.5), as far as its head shows. Whether it is complete must be found out
// besides. r has the fields that go upstream, credentials included.
func httpMayStore(r *http.Request, status int, h http.Header) bool {
	return (r.Method == http.MethodGet || r.Method == methodQuery) && mayHold(r.Header, status, h)
}

// httpMayFreshen says whether e, which freshen made of the answer to a request with
// these fields, may be stored: its new fields are the answer to that request alone
// if a new answer with them would be.
func httpMayFreshen(request http.Header, e *Entry) bool { return mayHold(request, e.Status, e.Header) }

// mayHold is httpMayStore for any method.
func mayHold(request http.Header, status int, h http.Header) bool {
	if !understood(status) {
		return false
	}
	c := responseControl(h)
	switch {
	case c.private, requestControl(request).noStore:
		return false
	case c.noStore && !c.mustUnderstand: // all that gets here is understood (section 5.2.2.3)
		return false
	case len(h["Set-Cookie"]) > 0 || len(h["Content-Range"]) > 0:
		return false // for one client, and a part
	case hasCredentials(request) && !c.public && !c.mustRevalidate && c.sharedMaxAge < 0:
		return false
	}
	if _, star := varyNames(h); star {
		return false
	}
	return c.public || c.lifetime() >= 0 || !c.targeted && len(h["Expires"]) > 0 || heuristic(status)
}

// hasCredentials says whether a request identifies somebody. RFC 9111 speaks of
// Authorization alone; keys of model servers and cookies do the same.
func hasCredentials(h http.Header) bool {
	return slices.ContainsFunc(credentials(), func(name string) bool { return len(h[name]) > 0 })
}

// understood lists the statuses that are kept: those whose caching is fully
// implemented. Errors that are one moment's or one client's, such as 500 or 429,
// are not among them, whatever their fields allow, and 206 and 304 are not
// complete.
func understood(status int) bool {
	switch status {
	case http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect:
		return true
	}
	return heuristic(status)
}

// heuristic lists the statuses that can be kept without saying so (RFC 9110,
// section 15.1), less 206.
func heuristic(status int) bool {
	switch status {
	case http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent, http.StatusMultipleChoices, http.StatusMovedPermanently,
		http.StatusPermanentRedirect, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusRequestURITooLong,
		http.StatusNotImplemented:
		return true
	}
	return false
}

// httpKeep copies the fields of an answer that are to be stored (RFC 9111, section
// 3.1): all but those of one connection or exchange, those that Connection names,
// those that are private, and cookies. An answer without a date gets the time when it was
// received (RFC 9110, section 6.6.1).
func httpKeep(h http.Header, received time.Time) http.Header {
	kept := keep(h, true)
	if etag := h["Etag"]; len(etag) > 0 {
		kept["Etag"] = slices.Clone(etag)
	}
	for _, name := range []string{"Proxy-Authentication-Info", "Proxy-Authorization", "Set-Cookie"} {
		delete(kept, name)
	}
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			delete(kept, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	c := responseControl(h)
	for _, name := range c.privateFields {
		delete(kept, name)
	}
	if _, ok := dateOf(kept, "Date", received); !ok {
		kept["Date"] = []string{received.UTC().Format(http.TimeFormat)}
	}
	return kept
}

// What a heuristic lifetime is: a part of the time since the last change, and at
// most so long (RFC 9111, section 4.2.2).
const (
	heuristicPart = 10
	heuristicMost = 24 * time.Hour
)

// httpTimes says when an answer was made, which is when it came less the age that
// it came with, and when it stops being fresh (RFC 9111, sections 4.2.1 to 4.2.3).
// asked is when the request was sent. An answer that says nothing of its freshness
// expires when it was made, unless its last change allows a guess; an error is
// never fresh by a guess.
func httpTimes(status int, h http.Header, asked, received time.Time) (made, expires time.Time) {
	date, dated := dateOf(h, "Date", received)
	if !dated {
		date = received
	}
	// Date has whole seconds. Half a second is no age.
	apparent := max(0, received.Truncate(time.Second).Sub(date))
	made = received.Add(-min(longest, max(apparent, ageOf(h)+max(0, received.Sub(asked)))))
	return made, made.Add(lifetime(status, h, date, received))
}

// lifetime is the freshness lifetime of an answer of that date.
func lifetime(status int, h http.Header, date, received time.Time) time.Duration {
	c := responseControl(h)
	if given := c.lifetime(); given >= 0 {
		return given
	}
	if !c.targeted && len(h["Expires"]) > 0 {
		expires, ok := dateOf(h, "Expires", received)
		if !ok {
			return 0 // "0", or none that can be read: it has expired
		}
		return min(longest, max(0, expires.Sub(date)))
	}
	if changed, ok := dateOf(h, "Last-Modified", received); ok && status < 400 && (heuristic(status) || c.public) {
		return min(heuristicMost, max(0, date.Sub(changed)/heuristicPart))
	}
	return 0
}

// ageOf is the age that an answer came with: the first member of Age, if it is a
// number (RFC 9111, section 5.1).
func ageOf(h http.Header) time.Duration {
	if len(h["Age"]) == 0 {
		return 0
	}
	first, _, _ := strings.Cut(h["Age"][0], ",")
	age, _ := seconds(strings.Trim(first, " \t"))
	return age
}

// httpStaleWindows says for how long after it has expired an answer may be used
// while a new one is fetched, and when none can be had (RFC 5861). Negative: it
// does not say, and an operator can. 0: not at all, because it says so, or because
// it must not be used stale (RFC 9111, section 4.2.4).
func httpStaleWindows(h http.Header) (whileRevalidate, ifError time.Duration) {
	c := responseControl(h)
	if c.neverStale() {
		return 0, 0
	}
	return c.staleWhileRevalidate, c.staleIfError
}
