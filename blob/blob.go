// Package blob keeps what is too large for a database or for an answer: results,
// answers and inputs of models. A directory, or a bucket of an object store, holds
// them; links with an expiry and a signature give them out and take them in, so that
// they need not pass through the program twice.
//
// When a blob goes is in its key, and so is whose it is: nothing else is kept about it
// anywhere, and every instance on the same store, after every restart, knows as much.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir"
)

// ErrNotFound says that there is no such blob, any more or yet.
var ErrNotFound = errors.New("blob: there is no such blob")

// errExists says that a key has a blob, which stays as it is.
var errExists = errors.New("blob: the key has a blob already")

const (
	// minSigningKey is the length of a SigningKey: whoever sees a link can try keys
	// for as long as they like.
	minSigningKey = 32
	// maxFor is how long a link may be good; what S3 allows too.
	maxFor = 7 * 24 * time.Hour
	// retryAfter is the advice while the store cannot be asked.
	retryAfter = 5 * time.Second
)

// Options say where blobs are kept, and how they are given out.
type Options struct {
	// URL is dir:PATH, a directory that is made if need be; s3://BUCKET, with
	// parameters as in docs/blobs.md; or, in builds with the tag cloud, gs://BUCKET and
	// azblob://CONTAINER.
	URL string
	// SigningKey is the secret, at least 32 bytes, that links of a directory are signed
	// with, and that names of callers in keys are made of. Instances that share a store
	// share it. With another one, links that are out are void, and no caller owns the
	// blobs that there are.
	SigningKey []byte
	// Secret is asked for the SigningKey where that is empty, when it is needed first and
	// until there is an answer, which is remembered. Until then what needs it is a
	// *weir.Problem with status 503. Several may ask at the same time.
	Secret func(ctx context.Context) ([]byte, error)
	// SignFor is how long a link is good that is given out without saying for how
	// long. Default 5 minutes, at most 7 days.
	SignFor time.Duration
	// Path is what Serve serves, with a slash at both ends. Default "/blobs/".
	Path string
	// MaxUpload is how many bytes an upload may have. Default 5 GiB.
	MaxUpload int64
	// BodyMinRate is how slowly an upload may come, in bytes per second over half a
	// minute. Default 1 KiB/s.
	BodyMinRate int64
	// Admit is asked before a link to upload is given out, with the bytes that it would
	// be for: what it says no to, with a *weir.Problem, gets that as the answer and no
	// link. Default: nobody is asked.
	Admit func(r *http.Request, c weir.Caller, bytes int64) error
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Log is told what Sweep could not remove. Default: nobody.
	Log *slog.Logger
}

// Meta says whose a blob is, what is in it, and until when it is needed.
type Meta struct {
	// Caller is the ID of a weir.Caller.
	Caller string
	// Type is a media type; what is none becomes application/octet-stream.
	Type string
	// Name is what a file made of it should be called; "" leaves that to whoever makes
	// it. What is dangerous in a file name is replaced.
	Name string
	// Until is when the blob may go. It goes at the end of that hour.
	Until time.Time
}

// Info is what is known of a blob.
type Info struct {
	Key   string
	Bytes int64
	Type  string
	Name  string
	// Expires is when it goes: the end of the hour in its key.
	Expires time.Time
}

// head is what a backend knows of a blob.
type head struct {
	kind, name string
	bytes      int64
	modified   time.Time
}

// backend is where blobs are. Keys are valid wherever one is an argument.
type backend interface {
	// save keeps what r gives until io.EOF, all of it or nothing. Errors of r come back
	// as they are; errExists says that the key is taken.
	save(ctx context.Context, key string, h head, r io.Reader) (int64, error)
	open(ctx context.Context, key string) (io.ReadSeekCloser, head, error)
	stat(ctx context.Context, key string) (head, error)
	// remove deletes a blob; ErrNotFound is no error of it.
	remove(ctx context.Context, key string) error
	// sweep removes what expired before now.
	sweep(ctx context.Context, now time.Time) (int, error)
	close() error
}

// presigner is a backend that serves its blobs itself, by links that it signs.
type presigner interface {
	presign(ctx context.Context, g Grant) (string, http.Header, error)
}

// Store keeps blobs and gives out links to them. It is safe for concurrent use, also
// of several instances on one directory or bucket.
type Store struct {
	o       Options
	keys    atomic.Pointer[keys] // nil until the secret is known
	backend backend
	away    presigner // nil: the blobs are served here
	uploads uploading
}

// Open opens the store at o.URL. A directory is made, and tried: one that cannot be
// written, or is on a file system without hard links, is an error. A bucket is not asked
// for anything yet.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if len(o.SigningKey) < minSigningKey && (o.Secret == nil || len(o.SigningKey) > 0) {
		return nil, fmt.Errorf("blob: the signing key has %d bytes: want at least %d, as of openssl rand -base64 32", len(o.SigningKey), minSigningKey)
	}
	if path, ok := strings.CutPrefix(o.URL, "dir:"); ok {
		d, err := openDirectory(path, s.o.Log)
		if err != nil {
			return nil, err
		}
		s.backend = d
		return s, nil
	}
	b, err := openBucket(ctx, o.URL, s.o.Log)
	if err != nil {
		return nil, err
	}
	s.backend, s.away = b, b
	return s, nil
}

// prepare checks options and fills in their defaults.
func prepare(o Options) (*Store, error) {
	if o.SignFor == 0 {
		o.SignFor = 5 * time.Minute
	}
	if o.Path == "" {
		o.Path = "/blobs/"
	}
	if o.MaxUpload == 0 {
		o.MaxUpload = 5 << 30
	}
	if o.BodyMinRate == 0 {
		o.BodyMinRate = 1 << 10
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.SignFor < time.Second || o.SignFor > maxFor:
		return nil, fmt.Errorf("blob: links that are good for %v: want from 1s to %v", o.SignFor, maxFor)
	case !strings.HasPrefix(o.Path, "/") || !strings.HasSuffix(o.Path, "/") || o.Path == "/":
		return nil, fmt.Errorf("blob: path %q: want one with a slash at both ends, as /blobs/", o.Path)
	case o.MaxUpload < 0 || o.BodyMinRate < 0:
		return nil, fmt.Errorf("blob: uploads of at most %d bytes, at least %d bytes a second: neither can be negative", o.MaxUpload, o.BodyMinRate)
	}
	s := &Store{o: o}
	if len(o.SigningKey) == 0 && o.Secret != nil {
		return s, nil
	}
	return s, s.derive(o.SigningKey)
}

// Close lets go of the store. What runs may fail from then on.
func (s *Store) Close() error { return s.backend.close() }

// Save keeps what r gives until it ends, under a new key, and returns when that is
// durable: on a directory, the file and its directories are on the disk. Nothing of it
// can be seen before, and nothing is left where it fails. An error of r comes back as it
// is; one of the store is a *weir.Problem with status 503.
func (s *Store) Save(ctx context.Context, m Meta, r io.Reader) (Info, error) {
	if !m.Until.After(s.o.Now()) {
		return Info{}, fmt.Errorf("blob: keep until %s: want a time to come", m.Until.UTC().Format(time.RFC3339))
	}
	if err := s.ready(ctx); err != nil {
		return Info{}, err
	}
	key := s.NewKey(m.Caller, m.Until)
	return s.save(ctx, key, head{kind: cleanType(m.Type), name: cleanName(m.Name)}, r)
}

func (s *Store) save(ctx context.Context, key string, h head, r io.Reader) (Info, error) {
	from := &source{ctx: ctx, r: r}
	n, err := s.backend.save(ctx, key, h, from)
	switch {
	case from.err != nil:
		return Info{}, from.err
	case errors.Is(err, errExists):
		return Info{}, err
	case err != nil:
		return Info{}, unavailable(err)
	}
	h.bytes = n
	return info(key, h), nil
}

// source is what is saved. It remembers its error: it is not the store's.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

// Read reads from the source, unless its time is over.
func (s *source) Read(p []byte) (int, error) {
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Open reads a blob. The error is ErrNotFound where there is none, and a *weir.Problem
// with status 503 where the store cannot be asked.
func (s *Store) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	body, _, err := s.open(ctx, key)
	if err != nil {
		return nil, err // not a nil *T in an interface
	}
	return body, nil
}

func (s *Store) open(ctx context.Context, key string) (io.ReadSeekCloser, head, error) {
	if !s.alive(key) {
		return nil, head{}, ErrNotFound
	}
	body, h, err := s.backend.open(ctx, key)
	if err != nil {
		return nil, head{}, found(err)
	}
	return body, h, nil
}

// Stat says what is known of a blob, with the errors of Open.
func (s *Store) Stat(ctx context.Context, key string) (Info, error) {
	if !s.alive(key) {
		return Info{}, ErrNotFound
	}
	h, err := s.backend.stat(ctx, key)
	if err != nil {
		return Info{}, found(err)
	}
	return info(key, h), nil
}

// Delete removes a blob. One that is not there is removed; the error is a *weir.Problem
// with status 503.
func (s *Store) Delete(ctx context.Context, key string) error {
	if !validKey(key) {
		return nil
	}
	if err := s.backend.remove(ctx, key); err != nil && !errors.Is(err, ErrNotFound) {
		return unavailable(err)
	}
	return nil
}

// Sweep removes the blobs whose hour has passed, and what uploads that broke off have
// left for more than a day; of a bucket, also in the store itself. It says how many blobs
// it removed. Several instances may sweep at the same time; of a bucket, more than one may
// then count the same blob. It is to be called every few minutes.
func (s *Store) Sweep(ctx context.Context) (removed int, err error) {
	return s.backend.sweep(ctx, s.o.Now())
}

func info(key string, h head) Info {
	return Info{Key: key, Bytes: h.bytes, Type: h.kind, Name: h.name, Expires: expiry(key)}
}

// found is an error of a backend in the words of the package.
func found(err error) error {
	if errors.Is(err, ErrNotFound) {
		return ErrNotFound
	}
	return unavailable(err)
}

func unavailable(err error) *weir.Problem {
	return &weir.Problem{
		Status: http.StatusServiceUnavailable, RetryAfter: retryAfter, Err: err,
		Detail: "The store of large files cannot be reached. Try again in 5 seconds.",
	}
}
