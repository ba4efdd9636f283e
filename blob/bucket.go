package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/inferweir/weir"
)

const (
	// partSize and parts are what an upload to a bucket has in memory: so many
	// pieces of so many bytes at once, and one more that is being filled.
	partSize = 5 << 20
	parts    = 2
	// sweepPage is how many blobs are listed at once, sweepers how many are removed at
	// the same time.
	sweepPage = 1000
	sweepers  = 8
)

// bucket keeps blobs in an object store, which serves them itself.
type bucket struct {
	bucket *blob.Bucket
	log    *slog.Logger
	// options makes a grant into what gocloud.dev signs, and what a PUT must send.
	options func(g Grant) (*blob.SignedURLOptions, http.Header, error)
	// check looks at a link that has been signed; nil needs none.
	check func(link string, g Grant) error
	// abandoned removes parts of uploads that began before a time; nil where the store
	// has none.
	abandoned func(ctx context.Context, before time.Time) error
	release   func()
}

// openBucket opens the bucket of a URL. It asks it for nothing.
func openBucket(ctx context.Context, address string, log *slog.Logger) (*bucket, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("blob: %q: want dir:PATH or s3://BUCKET?region=REGION", address)
	}
	var b *bucket
	switch u.Scheme {
	case "s3":
		b, err = openS3(ctx, u)
	case "gs", "azblob":
		b, err = openCloud(ctx, u)
	default:
		err = errors.New("want dir:PATH or s3://BUCKET?region=REGION, or in builds with the tag cloud gs://BUCKET or azblob://CONTAINER")
	}
	if err != nil {
		return nil, fmt.Errorf("blob: %s: %w", address, err)
	}
	b.log = log
	return b, nil
}

// bucketName is the host of a URL that has nothing else but a query.
func bucketName(u *url.URL) (string, error) {
	if u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return "", fmt.Errorf("want %s:// and the name of a bucket, then parameters: those in it go below ?prefix=", u.Scheme)
	}
	return u.Host, nil
}

func (b *bucket) close() error {
	err := b.bucket.Close()
	if b.release != nil {
		b.release()
	}
	return err
}

// save uploads in parts. The context is cancelled where r fails: otherwise what came
// until then would become the blob.
func (b *bucket) save(ctx context.Context, key string, h head, r io.Reader) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from := &counted{r: r, failed: cancel}
	err := b.bucket.Upload(ctx, key, from, &blob.WriterOptions{
		ContentType: h.kind, ContentDisposition: disposition(h.name), DisableContentTypeDetection: true,
		BufferSize: partSize, MaxConcurrency: parts,
	})
	return from.n, err
}

// counted counts what is read, and says when reading fails.
type counted struct {
	r      io.Reader
	n      int64
	failed func()
}

// Read reads on.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.failed()
	}
	return n, err
}

func (b *bucket) open(ctx context.Context, key string) (io.ReadSeekCloser, head, error) {
	r, err := b.bucket.NewReader(ctx, key, nil)
	if err != nil {
		return nil, head{}, missing(err)
	}
	return r, head{kind: r.ContentType(), bytes: r.Size(), modified: r.ModTime()}, nil
}

func (b *bucket) stat(ctx context.Context, key string) (head, error) {
	a, err := b.bucket.Attributes(ctx, key)
	if err != nil {
		return head{}, missing(err)
	}
	return head{kind: cleanType(a.ContentType), name: nameOf(a.ContentDisposition), bytes: a.Size, modified: a.ModTime}, nil
}

func (b *bucket) remove(ctx context.Context, key string) error {
	return missing(b.bucket.Delete(ctx, key))
}

func missing(err error) error {
	if err != nil && gcerrors.Code(err) == gcerrors.NotFound {
		return ErrNotFound
	}
	return err
}

func (b *bucket) presign(ctx context.Context, g Grant) (string, http.Header, error) {
	o, header, err := b.options(g)
	if err != nil {
		return "", nil, err
	}
	o.Method, o.Expiry = g.Method, max(g.For, time.Second)
	link, err := b.bucket.SignedURL(ctx, g.Key, o)
	if err == nil && b.check != nil {
		err = b.check(link, g)
	}
	if gcerrors.Code(err) == gcerrors.Unimplemented {
		return "", nil, noUploads(err)
	}
	return link, header, err
}

// noUploads is the answer where a store cannot make a link as safe as it must be.
func noUploads(err error) error {
	return &weir.Problem{Status: http.StatusNotImplemented, RetryAfter: weir.Never, Err: err,
		Detail: "The store of large files cannot make links of this kind."}
}

// sweep lists the hours of the bucket, and removes what is in those that have passed.
func (b *bucket) sweep(ctx context.Context, now time.Time) (int, error) {
	removed := 0
	err := b.pages(ctx, &blob.ListOptions{Delimiter: "/"}, func(page []*blob.ListObject) error {
		for _, hour := range page {
			name := strings.TrimSuffix(hour.Key, "/")
			if !hour.IsDir || !validHour(name) || now.Before(expiry(name)) {
				continue
			}
			n, err := b.sweepHour(ctx, hour.Key)
			removed += n
			if err != nil {
				return err
			}
		}
		return nil
	})
	if b.abandoned != nil {
		if err := b.abandoned(ctx, now.Add(-abandoned)); err != nil {
			b.log.Warn("uploads that broke off could not be removed", "error", err)
		}
	}
	return removed, err
}

func (b *bucket) sweepHour(ctx context.Context, prefix string) (int, error) {
	removed := 0
	err := b.pages(ctx, &blob.ListOptions{Prefix: prefix}, func(page []*blob.ListObject) error {
		n, err := b.removeAll(ctx, page)
		removed += n
		return err
	})
	return removed, err
}

// pages lists what there is, a page at a time. It ends with the first error.
func (b *bucket) pages(ctx context.Context, o *blob.ListOptions, f func([]*blob.ListObject) error) error {
	for token := blob.FirstPageToken; len(token) > 0; {
		page, next, err := b.bucket.ListPage(ctx, token, sweepPage, o)
		if err != nil {
			return err
		}
		if err := f(page); err != nil {
			return err
		}
		token = next
	}
	return nil
}

// removeAll removes the blobs of a page, some at the same time. What is not ours stays.
func (b *bucket) removeAll(ctx context.Context, page []*blob.ListObject) (int, error) {
	var mu sync.Mutex // guards removed and failed
	var removed int
	var failed error
	var running sync.WaitGroup
	room := make(chan struct{}, sweepers)
	for _, object := range page {
		if object.IsDir || !validKey(object.Key) {
			continue
		}
		room <- struct{}{}
		running.Go(func() {
			err := b.remove(ctx, object.Key)
			mu.Lock()
			switch {
			case err == nil:
				removed++
			case !errors.Is(err, ErrNotFound) && failed == nil:
				failed = err
			}
			mu.Unlock()
			<-room
		})
	}
	running.Wait()
	return removed, failed
}
