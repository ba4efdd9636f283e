package cache

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// wants is what a request says of the answers that it takes (RFC 9111, section
// 5.2.1). A duration that is negative was not given.
type wants struct {
	noCache, noStore, onlyIfCached bool
	maxAge, minFresh, maxStale     time.Duration
}

// requestControl reads the Cache-Control of a request, or, without one, its Pragma
// (section 5.4). Numbers that are none it takes as not given: these directives are
// wishes.
func requestControl(h http.Header) wants {
	w := wants{maxAge: -1, minFresh: -1, maxStale: -1}
	lines := h["Cache-Control"]
	if len(lines) == 0 {
		for d := range cacheDirectives(h["Pragma"]) {
			w.noCache = w.noCache || d.name == "no-cache"
		}
		return w
	}
	for d := range cacheDirectives(lines) {
		value, ok := d.seconds()
		switch {
		case d.name == "no-cache":
			w.noCache = true
		case d.name == "no-store":
			w.noStore = true
		case d.name == "only-if-cached":
			w.onlyIfCached = true
		case d.name == "max-age" && ok:
			w.maxAge = value
		case d.name == "min-fresh" && ok:
			w.minFresh = value
		case d.name == "max-stale" && ok:
			w.maxStale = value
		case d.name == "max-stale" && d.form == none:
			w.maxStale = longest
		}
	}
	return w
}

// reuse is what may be done with a stored answer.
type reuse int

const (
	reuseFresh      reuse = iota // use it
	reuseStale                   // use it although it is stale: the request allows that
	reuseRevalidate              // ask the origin first
)

// httpReuse says whether a stored answer may be used for a request without asking
// (RFC 9111, sections 4, 4.2.4 and 5.2). That it matches the request is known.
func httpReuse(request http.Header, e *Entry, now time.Time) reuse {
	w := requestControl(request)
	c := responseControl(e.Header)
	switch left := e.Expires.Sub(now); {
	case c.noCache || w.noCache:
		return reuseRevalidate
	case w.maxAge >= 0 && e.Age(now) > w.maxAge:
		return reuseRevalidate
	case w.minFresh >= 0 && left < w.minFresh:
		return reuseRevalidate
	case left > 0:
		return reuseFresh
	case w.maxStale >= 0 && -left <= w.maxStale && !c.neverStale():
		return reuseStale
	}
	return reuseRevalidate
}

// httpWantsFresh says that a request does not take an answer that is stale, or too
// old for it, while a new one is fetched (RFC 9111, section 5.2.1.1): what
// stale-while-revalidate allows is then not for it.
func httpWantsFresh(request http.Header) bool {
	w := requestControl(request)
	return w.noCache || w.minFresh >= 0 || w.maxAge >= 0 && w.maxStale < 0
}

// httpServable gives the fields of a stored answer that is used without
// validation: all but those that no-cache and private name (RFC 9111, section
// 5.2.2.4). They are the entry's own where none is dropped: not to be changed.
func httpServable(e *Entry) http.Header {
	c := responseControl(e.Header)
	if len(c.noCacheFields) == 0 && len(c.privateFields) == 0 {
		return e.Header
	}
	h := make(http.Header, len(e.Header))
	for name, values := range e.Header {
		if !slices.Contains(c.noCacheFields, name) && !slices.Contains(c.privateFields, name) {
			h[name] = values
		}
	}
	return h
}

// maxVary is by how many fields an answer may vary. One that names more matches no
// request.
const maxVary = 32

// varyNames gives the request fields that Vary names, canonical, sorted and once
// each. star says that the answer matches no other request: it varies by "*", which
// counts anywhere in the list, or by what is no field name.
func varyNames(h http.Header) (names []string, star bool) {
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.Trim(name, " \t")
			if name == "" {
				continue
			}
			if name == "*" || !isToken(name) {
				return nil, true
			}
			if name = http.CanonicalHeaderKey(name); slices.Contains(names, name) {
				continue
			}
			if names = append(names, name); len(names) > maxVary {
				return nil, true
			}
		}
	}
	slices.Sort(names)
	return names, false
}

// varyKey is the key of the answer to requests that have the same values as this
// one in the fields called names (RFC 9111, section 4.1). nonce tells apart what
// was stored before and after an invalidation.
func varyKey(base Key, nonce []byte, names []string, request http.Header) Key {
	k := NewKeyHash()
	k.Add("vary-1")
	k.AddBytes(base[:])
	k.AddBytes(nonce)
	k.length(len(names))
	for _, name := range names {
		k.Add(name)
		lines := request[name]
		if len(lines) == 0 { // absent matches absent alone, not empty
			k.length(0)
			continue
		}
		k.length(1)
		k.Add(normalized(name, lines))
	}
	return k.Sum()
}

// normalized gives one form to all values of a field that mean the same. Lines of
// one field are a list. Blanks around commas are meaningless where a field is known
// to be a list; in an unknown one they can be part of a text.
func normalized(name string, lines []string) string {
	var folded bool
	switch name {
	case "Accept-Encoding", "Accept-Language", "Accept-Charset":
		folded = true
	case "Accept":
	default:
		trimmed := make([]string, len(lines))
		for i, line := range lines {
			trimmed[i] = strings.Trim(line, " \t")
		}
		return strings.Join(trimmed, ", ")
	}
	var b strings.Builder
	for _, line := range lines {
		for rest := line; rest != ""; {
			var item string
			if item, rest = cutMember(rest, ','); strings.Trim(item, " \t") == "" {
				continue
			}
			if b.Len() > 0 {
				b.WriteByte(',')
			}
			for first := true; first || item != ""; first = false {
				var part string
				if part, item = cutMember(item, ';'); !first {
					b.WriteByte(';')
				}
				b.WriteString(strings.Trim(part, " \t"))
			}
		}
	}
	if folded {
		return strings.ToLower(b.String())
	}
	return b.String()
}
