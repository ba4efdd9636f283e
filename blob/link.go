package blob

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// Grant is what a link is good for.
type Grant struct {
	// Method is GET, which covers HEAD, or PUT.
	Method string
	Key    string
	// Caller, unless "", must own the key.
	Caller string
	// Type is the media type that a PUT must send and a GET is answered with; "" answers
	// with that of the blob. Name, likewise, is the file name.
	Type, Name string
	// Bytes is how long the body of a PUT may be. A bucket of S3 wants exactly as much.
	Bytes int64
	// For is how long the link is good: at most 7 days, and never longer than the blob.
	// 0 is the SignFor of the Store.
	For time.Duration
}

// Link lets whoever has it do one thing with one blob for some time.
type Link struct {
	// URL is a path with a query where the blobs are served here, and otherwise
	// absolute.
	URL string
	// Header is what a PUT must send, exactly. It is nil for a GET.
	Header http.Header
	// Expires is when the link ceases to be good. It is asked for at the beginning of
	// a request: what has begun goes on.
	Expires time.Time
	// Local says that URL is a path that Serve serves.
	Local bool
}

// Link makes a link. It does not look whether there is a blob. A key that is not one, has
// expired, or is not g.Caller's is ErrNotFound.
func (s *Store) Link(ctx context.Context, g Grant) (Link, error) {
	return s.sign(ctx, s.away, g)
}

// Sign makes a link as Store.Link does, but opens no directory: it needs nothing
// but o, for a directory URL and SigningKey, for a bucket the URL and the credentials. A
// Grant with a Caller always needs the SigningKey.
func Sign(ctx context.Context, o Options, g Grant) (Link, error) {
	s, err := prepare(o)
	if err != nil {
		return Link{}, err
	}
	if Signs(o.URL) {
		if len(o.SigningKey) < minSigningKey {
			return Link{}, fmt.Errorf("blob: the signing key has %d bytes: want at least %d", len(o.SigningKey), minSigningKey)
		}
		return s.sign(ctx, nil, g)
	}
	b, err := openBucket(ctx, o.URL, s.o.Log)
	if err != nil {
		return Link{}, err
	}
	link, err := s.sign(ctx, b, g)
	return link, errors.Join(err, b.close())
}

// Signs reports whether links to the blobs at a URL are signed with a SigningKey, and not
// by the store that has them.
func Signs(address string) bool { return strings.HasPrefix(address, "dir:") }

func (s *Store) sign(ctx context.Context, by presigner, g Grant) (Link, error) {
	if err := s.ready(ctx); err != nil {
		return Link{}, err
	}
	if err := s.check(&g); err != nil {
		return Link{}, err
	}
	now := s.o.Now()
	expires := now.Add(g.For)
	if end := expiry(g.Key); expires.After(end) {
		expires = end
	}
	expires = time.Unix(expires.Unix(), 0).UTC()
	if g.For = expires.Sub(now); g.For <= 0 {
		return Link{}, ErrNotFound
	}
	if by != nil {
		at, header, err := by.presign(ctx, g)
		if err != nil {
			if p, ok := errors.AsType[*weir.Problem](err); ok {
				return Link{}, p
			}
			return Link{}, unavailable(err)
		}
		return Link{URL: at, Header: header, Expires: expires}, nil
	}
	c := claim{method: g.Method, key: g.Key, expires: expires.Unix(), kind: g.Type, name: g.Name, bytes: g.Bytes}
	link := Link{URL: s.o.Path + g.Key + "?" + s.keys.Load().query(c), Expires: expires, Local: true}
	if g.Method == http.MethodPut {
		link.Header = http.Header{"Content-Type": {g.Type}}
	}
	return link, nil
}

// check refuses a grant that no link can be made of, and fills in what is left out.
func (s *Store) check(g *Grant) error {
	g.Name = cleanName(g.Name)
	if g.For == 0 {
		g.For = s.o.SignFor
	}
	switch {
	case !s.alive(g.Key), g.Caller != "" && !s.Owns(g.Caller, g.Key):
		return ErrNotFound
	case g.For < time.Second || g.For > maxFor:
		return fmt.Errorf("blob: a link that is good for %v: want from 1s to %v", g.For, maxFor)
	case g.Type != "" && cleanType(g.Type) != g.Type:
		return fmt.Errorf("blob: type %q: want a media type, as image/png", g.Type)
	case g.Method == http.MethodGet && g.Bytes != 0:
		return errors.New("blob: a link to GET has no number of bytes")
	case g.Method == http.MethodGet:
		return nil
	case g.Method != http.MethodPut:
		return fmt.Errorf("blob: a link to %q: want GET or PUT", g.Method)
	case g.Type == "":
		return errors.New("blob: a link to PUT needs the type of what is sent, as image/png")
	case g.Bytes < 1 || g.Bytes > s.o.MaxUpload:
		return fmt.Errorf("blob: a link to PUT %d bytes: want from 1 to %d", g.Bytes, s.o.MaxUpload)
	}
	return nil
}

// claim is what a signature is about.
type claim struct {
	method, key string
	expires     int64 // Unix seconds
	kind, name  string
	bytes       int64
}

// mac is the signature of a claim: HMAC-SHA-256 over its fields in order, each behind its
// length, so that no two claims are the same text. The caller is in the key.
func (k keys) mac(c claim) []byte {
	mac := hmac.New(sha256.New, k.link)
	for _, field := range []string{
		"weir blob link 1", c.method, c.key, strconv.FormatInt(c.expires, 10), c.kind, c.name, strconv.FormatInt(c.bytes, 10),
	} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
		mac.Write([]byte(field))
	}
	return mac.Sum(nil)
}

// query is a claim and its signature as the query of a link. Its members are sorted, as
// some caches do too.
func (k keys) query(c claim) string {
	q := url.Values{"expires": {strconv.FormatInt(c.expires, 10)}, "signature": {base64.RawURLEncoding.EncodeToString(k.mac(c))}}
	if c.kind != "" {
		q.Set("type", c.kind)
	}
	if c.name != "" {
		q.Set("name", c.name)
	}
	if c.bytes != 0 {
		q.Set("bytes", strconv.FormatInt(c.bytes, 10))
	}
	return q.Encode()
}

// maxQuery is longer than any query that was signed: a type and a name of 255 bytes each,
// three for each byte.
const maxQuery = 2048

// verify is the claim of a link, and whether it is good at a time.
func (k keys) verify(method, key, query string, now time.Time) (claim, bool) {
	if len(query) > maxQuery || !validKey(key) {
		return claim{}, false
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return claim{}, false
	}
	c := claim{method: method, key: key}
	var signature []byte
	for name, values := range q {
		if len(values) != 1 || values[0] == "" {
			return claim{}, false
		}
		good := true
		switch value := values[0]; name {
		case "expires":
			c.expires, good = number(value)
		case "bytes":
			c.bytes, good = number(value)
		case "type":
			c.kind = value
		case "name":
			c.name = value
		case "signature":
			signature, good = decode(value)
		default:
			good = false
		}
		if !good {
			return claim{}, false
		}
	}
	if !hmac.Equal(signature, k.mac(c)) {
		return claim{}, false
	}
	return c, c.expires > now.Unix() && c.expires <= now.Add(maxFor).Unix()
}

// number reads a number as it is written, and in no other way.
func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == s
}

func decode(s string) ([]byte, bool) {
	if len(s) != base64.RawURLEncoding.EncodedLen(sha256.Size) { // also where it has line breaks
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil
}
