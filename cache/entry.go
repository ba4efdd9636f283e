package cache

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Key names an answer: SHA-256 over all that it depends on.
type Key [sha256.Size]byte

// KeyHash builds a Key of parts. Each part is preceded by its length, so that
// no two lists of parts give the same input.
type KeyHash struct {
	h     hash.Hash
	small []byte // parts that the hash has not seen yet
}

// smallParts is how many bytes are gathered before they are hashed: most parts
// are short, and a call of the hash costs more than they do.
const smallParts = 1024

// NewKeyHash starts a key.
func NewKeyHash() *KeyHash { return &KeyHash{h: sha256.New(), small: make([]byte, 0, smallParts)} }

// Add adds one part.
func (k *KeyHash) Add(part string) {
	if len(k.small)+8+len(part) > smallParts {
		k.AddBytes([]byte(part))
		return
	}
	k.length(len(part))
	k.small = append(k.small, part...)
}

// AddBytes adds one part.
func (k *KeyHash) AddBytes(part []byte) {
	k.length(len(part))
	if len(k.small)+len(part) <= smallParts {
		k.small = append(k.small, part...)
		return
	}
	k.flush()
	_, _ = k.h.Write(part)
}

func (k *KeyHash) length(n int) {
	if len(k.small)+8 > smallParts {
		k.flush()
	}
	k.small = binary.BigEndian.AppendUint64(k.small, uint64(n))
}

func (k *KeyHash) flush() {
	_, _ = k.h.Write(k.small)
	k.small = k.small[:0]
}

// Sum is the key of the parts added so far.
func (k *KeyHash) Sum() (key Key) {
	k.flush()
	k.h.Sum(key[:0])
	return key
}

// Entry is a complete answer. It is shared and never changed once made.
type Entry struct {
	Meta
	// Status is the answer's; 0 says that the entry is none, but tells by which
	// request fields the answers under its key vary: see Vary.
	Status int
	// Header has the fields of the answer that belong to it and not to one
	// connection or one caller.
	Header http.Header
	Body   []byte
	// ETag is strong: the upstream's own, or in inference mode else a hash of the
	// answer. "" is none.
	ETag string
	// Made is when the answer was made, as far as can be told: when it came, less
	// the age that it came with.
	Made time.Time
	// Expires is when it stops being fresh.
	Expires time.Time
	// Until is when it stops being of any use: stores forget it then. It is not
	// before Expires, and later by as long as a stale answer may be used.
	Until time.Time
	// Took is how long it took to make: what a hit saves.
	Took time.Duration
	// Frames are the events of a stream, in order. nil for other answers.
	Frames []Frame
	// Vary are the request fields by which answers vary, for an entry with Status 0,
	// whose Body is then a part of the keys of those answers.
	Vary []string
}

// Meta is what is known of an entry beside the answer: by what it can be purged.
type Meta struct {
	// Owner is the caller whose request brought it, and who has it on his share of
	// a store. "" is nobody's.
	Owner string
	// Labels are what else it can be purged by, see Label.
	Labels []string
	// Epoch says which purges it has survived: those up to that number.
	Epoch uint64
}

// Frame is one event of a stream.
type Frame struct {
	// End is where it ends in the body: the first byte that is not its own.
	End int
	// At is when its last byte had come, counted from the answer's head.
	At time.Duration
}

// Fresh reports whether the entry may be used at now without asking anybody.
func (e *Entry) Fresh(now time.Time) bool { return now.Before(e.Expires) }

// Useful reports whether the entry is of any use at now.
func (e *Entry) Useful(now time.Time) bool { return now.Before(e.Until) }

// Age is how old the answer is at now.
func (e *Entry) Age(now time.Time) time.Duration { return max(0, now.Sub(e.Made)) }

// entryOverhead is about what an entry costs beside the bytes that it holds: its
// own struct, the store's bookkeeping, and the header's map.
const entryOverhead = 1024

// Size is what the entry counts against a store's bound, in bytes.
func (e *Entry) Size() int64 {
	n := int64(entryOverhead + cap(e.Body) + len(e.ETag) + len(e.Owner) + 16*len(e.Frames))
	for _, text := range [][]string{e.Labels, e.Vary} {
		for _, v := range text {
			n += int64(len(v)) + 16
		}
	}
	for name, values := range e.Header {
		n += int64(len(name)) + 40
		for _, v := range values {
			n += int64(len(v)) + 16
		}
	}
	return n
}

// A Store keeps entries for as long as they are useful, or until they make room for
// others. Its methods are safe for concurrent use. An error says that the store
// could not answer; a missing entry is nil without an error.
type Store interface {
	Get(ctx context.Context, key Key, now time.Time) (*Entry, error)
	Put(ctx context.Context, key Key, e *Entry, now time.Time) error
	Delete(ctx context.Context, key Key) error
}

// A Sweeper is a Store that can be rid of what has been purged before it would
// forget it.
type Sweeper interface {
	// Sweep deletes all entries of which gone says so, and returns how many.
	Sweep(ctx context.Context, gone func(*Meta) bool) (int, error)
}

// ServeHTTP answers r with the entry, without the fields that describe the hit:
// with 304 where the request is a GET, HEAD or QUERY that has the answer
// already. The caller sets Cache-Status and Age before.
func (e *Entry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for name, values := range e.Header {
		h[name] = values
	}
	h["Etag"] = []string{e.ETag}
	asTyped(h)
	if e.Status/100 == 2 && conditional(r.Method) && matches(r.Header["If-None-Match"], e.ETag) {
		for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Language"} {
			delete(h, name)
		}
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(len(e.Body))}
	w.WriteHeader(e.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(e.Body) // a client that has left needs no answer
	}
}

// asTyped keeps the server from guessing a type for an answer that has none.
func asTyped(h http.Header) {
	if _, typed := h["Content-Type"]; !typed {
		h["Content-Type"] = nil
	}
}

// conditional says for which methods others may keep an answer, and If-None-Match
// means "not if unchanged". For the rest it asks not to act (RFC 9110, section
// 13.1.2): a POST ignores it here.
func conditional(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == methodQuery
}

// matches compares weakly, as If-None-Match asks (RFC 9110, section 13.1.2).
func matches(lines []string, etag string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.TrimSpace(item)
			if item == "*" || strings.TrimPrefix(item, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// strongETag is the upstream's own tag if it is strong, else a hash of what a
// client would receive.
func strongETag(status int, h http.Header, body []byte) string {
	if own := h.Get("Etag"); len(own) >= 2 && own[0] == '"' && own[len(own)-1] == '"' && !strings.Contains(own[1:len(own)-1], `"`) {
		return own
	}
	k := NewKeyHash()
	k.Add(strconv.Itoa(status))
	k.Add(h.Get("Content-Type"))
	k.Add(h.Get("Content-Encoding"))
	k.AddBytes(body)
	sum := k.Sum()
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}

// ofOneAnswer are the response fields that describe one exchange, not the answer:
// they are made anew for each.
func ofOneAnswer(name string) bool {
	switch name {
	case "Age", "Cache-Status", "Connection", "Content-Length", "Etag", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection",
		"Ratelimit", "Ratelimit-Policy", "Retry-After", "Retry-After-Ms", "Server-Timing", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade", "X-Accel-Expires", "X-Request-Id", "X-Should-Retry":
		return true
	}
	// Limits have many spellings; of a key of http.Header only the first letter of
	// a part is a capital, or not.
	return strings.Contains(name, "atelimit") || strings.Contains(name, "ate-Limit")
}

func isAdvice(name string) bool {
	return name == "Retry-After" || name == "Retry-After-Ms" || name == "X-Should-Retry"
}

// keep copies the fields that belong to the answer. A refusal that goes to
// followers only keeps its advice when to come back.
func keep(h http.Header, advice bool) http.Header {
	kept := make(http.Header, len(h))
	for name, values := range h {
		if !ofOneAnswer(name) || advice && isAdvice(name) {
			kept[name] = slices.Clone(values)
		}
	}
	return kept
}
