package cache

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// setValidators makes out a request that asks whether a stored answer is still
// right (RFC 9111, section 4.3.1), in place of what the client wanted to know. It
// reports false, and leaves a request without conditions, if the answer has
// nothing to be recognized by.
func setValidators(out http.Header, e *Entry) bool {
	stripConditions(out)
	etag, changed := e.Header.Get("Etag"), e.Header.Get("Last-Modified")
	if etag != "" {
		out["If-None-Match"] = []string{etag} // as it came: only its origin compares it
	}
	if changed != "" {
		// Also beside a tag, for a server on the way that knows no tags.
		out["If-Modified-Since"] = []string{changed}
	}
	return etag != "" || changed != ""
}

// freshensWith says whether a 304 with these fields is about the stored answer
// (RFC 9111, section 4.3.4). A tag in it has to be the stored one's, else a
// modification date has to. A 304 without either answers the only question that
// was asked.
func freshensWith(e *Entry, h http.Header) bool {
	etag, stored := h.Get("Etag"), e.Header.Get("Etag")
	changed := h.Get("Last-Modified")
	switch {
	case isStrong(etag) && stored != "":
		return etag == stored
	case isStrong(etag):
		return sameChange(e, changed) && strongChange(e.Header)
	case etag != "" && stored != "":
		return weakly(etag) == weakly(stored)
	case etag != "" || changed != "":
		return sameChange(e, changed)
	}
	return true
}

// sameChange compares a Last-Modified field with the stored answer's.
func sameChange(e *Entry, changed string) bool {
	stored := e.Header.Get("Last-Modified")
	if changed == "" || stored == "" {
		return false
	}
	a, okA := httpDate(changed, e.Made)
	b, okB := httpDate(stored, e.Made)
	return changed == stored || okA && okB && a.Equal(b)
}

// strongChange says whether Last-Modified tells versions apart for sure: there was
// no time for a second change within the same second (RFC 9110, section 8.8.2.2).
func strongChange(h http.Header) bool {
	changed, ok := dateOf(h, "Last-Modified", time.Time{})
	date, dated := dateOf(h, "Date", time.Time{})
	return ok && dated && date.Sub(changed) >= time.Second
}

func isStrong(etag string) bool { return strings.HasPrefix(etag, `"`) }

// weakly is a tag as it is compared weakly (RFC 9110, section 8.8.3.2).
func weakly(etag string) string { return strings.TrimPrefix(etag, "W/") }

// freshen is the stored answer with the fields and times of the answer that
// validated it (RFC 9111, sections 3.2 and 4.3.4). The entry itself stays as it
// is. Until keeps its distance to Expires; the caller knows better if the new
// fields change what may be done with a stale answer.
func freshen(e *Entry, h http.Header, asked, received time.Time) *Entry {
	fresh := *e
	fresh.Header = make(http.Header, len(e.Header))
	for name, values := range e.Header {
		fresh.Header[name] = values
	}
	for name, values := range httpKeep(h, received) {
		if !ofContent(name) {
			fresh.Header[name] = values
		}
	}
	for _, name := range responseControl(h).privateFields {
		delete(fresh.Header, name)
	}
	fresh.ETag = fresh.Header.Get("Etag")
	timed := fresh.Header
	if age := h["Age"]; len(age) > 0 {
		timed = timed.Clone()
		timed["Age"] = age
	}
	fresh.Made, fresh.Expires = httpTimes(e.Status, timed, asked, received)
	fresh.Until = fresh.Expires.Add(max(0, e.Until.Sub(e.Expires)))
	return &fresh
}

// ofContent names the fields that describe the stored bytes. Those do not change
// with a 304, and an origin that says otherwise would make them unreadable (RFC
// 9111, section 3.2).
func ofContent(name string) bool {
	switch name {
	case "Content-Encoding", "Content-Length", "Content-Range", "Content-Type":
		return true
	}
	return false
}

// invalidated lists the URLs whose stored answers are out of date after r (RFC
// 9111, section 4.4): its own, and those that Location and Content-Location name,
// if they are of the same host. It is empty for safe methods and errors.
//
// The scheme is not compared: what it is for the client cannot be seen behind
// something that ends TLS, and one host's answers have one owner here.
func invalidated(r *http.Request, status int, h http.Header) []*url.URL {
	if isSafe(r.Method) || status < 200 || status > 399 {
		return nil
	}
	target := *r.URL
	target.Host, target.User, target.Fragment, target.RawFragment = r.Host, nil, "", ""
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	urls := []*url.URL{&target}
	for _, name := range []string{"Location", "Content-Location"} {
		if h.Get(name) == "" {
			continue
		}
		other, err := target.Parse(h.Get(name))
		if err != nil || other.Opaque != "" || hostOf(other) != hostOf(&target) || other.Scheme != "http" && other.Scheme != "https" {
			continue
		}
		other.Host, other.Scheme, other.User = target.Host, target.Scheme, nil
		other.Fragment, other.RawFragment = "", ""
		if !slices.ContainsFunc(urls, func(u *url.URL) bool { return u.String() == other.String() }) {
			urls = append(urls, other)
		}
	}
	return urls
}

// hostOf is a URL's host and port in one form.
func hostOf(u *url.URL) string {
	host := strings.ToLower(u.Hostname())
	switch port := u.Port(); port {
	case "", "80", "443":
		return host
	default:
		return host + ":" + port
	}
}

// isSafe lists the methods that change nothing (RFC 9110, section 9.2.1; RFC
// 10008). One that is not known may change anything.
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, methodQuery:
		return true
	}
	return false
}
