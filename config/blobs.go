package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Blobs is where large answers, uploads and the results of jobs are kept.
type Blobs struct {
	// URL is dir:PATH, a directory that is made if need be; s3://BUCKET, with
	// options as ?region=eu-west-1; or, in builds with the tag cloud, gs://BUCKET
	// and azblob://CONTAINER. A relative path is relative to the working directory.
	// Default dir:blobs.
	URL string `yaml:"url" default:"dir:blobs" secret:"url"`
	// SignFor is how long a link to a blob is good. Default 5m, from 1s to 7d.
	SignFor time.Duration `yaml:"sign_for" default:"5m" min:"1s" max:"7d"`
	// SigningKey signs the links that Weir itself serves, and names the callers in
	// keys. "", the default, is a key that the database keeps, the same for all
	// instances, or without one a new key at each start; else at least 32 bytes.
	SigningKey string `yaml:"signing_key" secret:"true"`
}

// Redacted is the URL without what may be secret in it, for logs.
func (b Blobs) Redacted() string { return redactURL(b.URL) }

// Dir is the directory of the blobs, and whether they are in one.
func (b Blobs) Dir() (path string, ok bool) { return strings.CutPrefix(b.URL, dirScheme) }

const dirScheme = "dir:"

// minSigningKey is the least length of a key of HMAC-SHA-256, in bytes (RFC 2104,
// section 3).
const minSigningKey = 32

func (k *checker) blobs(b *Blobs) {
	const at, key = "blobs.url", "blobs.signing_key"
	if b == nil {
		return
	}
	if want := blobsMistake(b.URL); want != "" && k.clean(at) {
		k.fail(at, want)
	}
	switch {
	case b.SigningKey == "" || !k.clean(key):
	case b.SigningKey == redacted:
		k.fail(key, errRedacted)
	case len(b.SigningKey) < minSigningKey:
		k.fail(key, fmt.Sprintf("want at least %d bytes, for example what openssl rand -hex 32 prints", minSigningKey))
	}
}

// blobsMistake says what is wrong with the URL of blobs, "" for nothing. Whether
// the program was built with what it takes, the package blob knows.
func blobsMistake(text string) string {
	if path, ok := strings.CutPrefix(text, dirScheme); ok {
		if path == "" || strings.HasPrefix(path, "//") || strings.Contains(path, "?") || !isPrintable(path) {
			return "want a directory after dir:, for example dir:blobs or dir:/var/lib/weir/blobs"
		}
		return ""
	}
	for _, s := range []struct{ scheme, bucket string }{{"s3://", "bucket"}, {"gs://", "bucket"}, {"azblob://", "container"}} {
		rest, ok := strings.CutPrefix(text, s.scheme)
		if !ok {
			continue
		}
		u := splitService(rest)
		query, err := url.ParseQuery(u.query)
		secret := slices.ContainsFunc(slices.Collect(maps.Keys(query)), holdsSecret)
		switch {
		case u.hasUser || secret:
			return "want no secrets in the URL: the store's own variables and files have them"
		case !isBucket(u.host):
			return fmt.Sprintf("want the name of a %s after %s: 3 to 63 of a-z, 0-9, - and .", s.bucket, s.scheme)
		case u.path != "" || err != nil || strings.Contains(text, "#"):
			return fmt.Sprintf("want nothing after the %s but options, for example %sweir?region=eu-west-1", s.bucket, s.scheme)
		}
		return ""
	}
	return "want one of dir:PATH, s3://BUCKET, gs://BUCKET, azblob://CONTAINER"
}

// isBucket holds for the names that every object store takes, and for _, which
// some do.
func isBucket(s string) bool {
	ends := len(s) >= 3 && len(s) <= 63 && isAlnum(s[0]) && isAlnum(s[len(s)-1])
	return ends && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-._") == ""
}
