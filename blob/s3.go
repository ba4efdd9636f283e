package blob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	gcaws "gocloud.dev/aws"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// openS3 opens s3://BUCKET. The credentials are where the AWS SDK looks for them: the
// environment, its files, the machine's role.
func openS3(ctx context.Context, u *url.URL) (*bucket, error) {
	name, err := bucketName(u)
	if err != nil {
		return nil, err
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, err
	}
	p, err := takeS3Parameters(q)
	if err != nil {
		return nil, err
	}
	cfg, err := gcaws.V2ConfigFromURLParams(ctx, q)
	if err != nil {
		return nil, err
	}
	if cfg.Region == "" {
		return nil, errors.New("want the region of the bucket: ?region=eu-west-1, or AWS_REGION in the environment")
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if of, ok := cfg.HTTPClient.(interface{ GetTransport() *http.Transport }); ok {
		transport := of.GetTransport() // a copy, with the certificates of AWS_CA_BUNDLE
		transport.ResponseHeaderTimeout = 30 * time.Second
		client.Transport = transport
	}
	cfg.HTTPClient = client
	in := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = p.pathStyle
		if p.endpoint != "" {
			o.BaseEndpoint = &p.endpoint
		}
	})
	b, err := s3blob.OpenBucket(ctx, in, name, &s3blob.Options{
		EncryptionType: p.encryption, KMSEncryptionID: p.kmsKey, RequestChecksumCalculation: cfg.RequestChecksumCalculation,
	})
	if err != nil {
		return nil, err
	}
	if p.prefix != "" {
		b = blob.PrefixedBucket(b, p.prefix)
	}
	uploads := multipart{client: in, bucket: name, prefix: p.prefix}
	return &bucket{bucket: b, options: s3Options, check: checkS3, abandoned: uploads.abort, release: client.CloseIdleConnections}, nil
}

// s3Parameters are those of our own. The others are gocloud.dev's.
type s3Parameters struct {
	endpoint, prefix, kmsKey string
	pathStyle                bool
	encryption               types.ServerSideEncryption
}

// takeS3Parameters removes our parameters from q, and sets those whose defaults
// are others than the SDK's.
func takeS3Parameters(q url.Values) (s3Parameters, error) {
	for name, values := range q {
		if len(values) != 1 {
			return s3Parameters{}, fmt.Errorf("parameter %s is there %d times: want one", name, len(values))
		}
	}
	take := func(name string) string { defer q.Del(name); return q.Get(name) }
	p := s3Parameters{endpoint: take("endpoint"), prefix: take("prefix"), kmsKey: take("kmskeyid")}
	var errs []error
	insecure, err := flag("disable_https", take("disable_https"))
	errs = append(errs, err)
	p.pathStyle, err = flag("use_path_style", take("use_path_style"))
	errs = append(errs, err, checkEndpoint(p.endpoint, insecure))
	if kind := take("ssetype"); kind != "" {
		p.encryption = types.ServerSideEncryption(kind)
		if known := p.encryption.Values(); !slices.Contains(known, p.encryption) {
			errs = append(errs, fmt.Errorf("ssetype=%s: want one of %v", kind, known))
		}
	}
	if p.prefix != "" && !strings.HasSuffix(p.prefix, "/") {
		errs = append(errs, fmt.Errorf("prefix=%s: want a slash at its end", p.prefix))
	}
	if p.endpoint != "" && q.Get("region") == "" {
		q.Set("region", "us-east-1") // most other servers have no regions, and want some name
	}
	// The checksums that the SDK adds by itself are unknown to many other servers, and
	// would be part of what a link to upload must send.
	for _, name := range []string{"request_checksum_calculation", "response_checksum_validation"} {
		if q.Get(name) == "" {
			q.Set(name, "when_required")
		}
	}
	return p, errors.Join(errs...)
}

func flag(name, value string) (bool, error) {
	if value == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s=%s: want true or false", name, value)
	}
	return on, nil
}

// checkEndpoint refuses to send what is in blobs over a network in the clear, unless that
// is asked for.
func checkEndpoint(endpoint string, insecure bool) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("endpoint=%s: want the address of a server, as https://minio.example:9000", endpoint)
	}
	if u.Scheme == "https" || insecure || u.Hostname() == "localhost" {
		return nil
	}
	if at, err := netip.ParseAddr(u.Hostname()); err == nil && at.IsLoopback() {
		return nil
	}
	return fmt.Errorf("endpoint=%s: want https: only on this machine it can be http, or with disable_https=true", endpoint)
}

// s3Options makes what is signed of a grant. The body of a PUT has exactly the type, the
// number of bytes and the file name of the grant, and there must not be a blob yet.
func s3Options(g Grant) (*blob.SignedURLOptions, http.Header, error) {
	name := disposition(g.Name)
	o := &blob.SignedURLOptions{BeforeSign: func(as func(any) bool) error {
		var get *s3.GetObjectInput
		var put *s3.PutObjectInput
		switch {
		case as(&get):
			if g.Type != "" {
				get.ResponseContentType = &g.Type
			}
			if g.Name != "" {
				get.ResponseContentDisposition = &name
			}
		case as(&put):
			put.ContentType, put.ContentLength, put.ContentDisposition = &g.Type, &g.Bytes, &name
			put.IfNoneMatch = new("*")
		default:
			return errors.New("the version of gocloud.dev signs in another way")
		}
		return nil
	}}
	if g.Method != http.MethodPut {
		return o, nil, nil
	}
	return o, http.Header{
		"Content-Type": {g.Type}, "Content-Length": {strconv.FormatInt(g.Bytes, 10)},
		"Content-Disposition": {name}, "If-None-Match": {"*"},
	}, nil
}

// checkS3 makes sure that what binds an upload is in its signature: a change in the SDK
// must not make it unbound.
func checkS3(link string, g Grant) error {
	if g.Method != http.MethodPut {
		return nil
	}
	u, err := url.Parse(link)
	if err != nil {
		return err
	}
	signed := strings.Split(u.Query().Get("X-Amz-SignedHeaders"), ";")
	for _, name := range []string{"content-disposition", "content-length", "content-type", "if-none-match"} {
		if !slices.Contains(signed, name) {
			return fmt.Errorf("the SDK did not sign %s", name)
		}
	}
	return nil
}

// multipart finds uploads whose parts are kept, and paid for, until somebody removes
// them: those that broke off together with the program.
type multipart struct {
	client         *s3.Client
	bucket, prefix string
}

// abortPages is how many pages of a thousand uploads one sweep looks at.
const abortPages = 100

func (m multipart) abort(ctx context.Context, before time.Time) error {
	in := &s3.ListMultipartUploadsInput{Bucket: &m.bucket}
	if m.prefix != "" {
		in.Prefix = &m.prefix
	}
	var failed error
	for range abortPages {
		page, err := m.client.ListMultipartUploads(ctx, in)
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, upload := range page.Uploads {
			if upload.Key == nil || upload.Initiated == nil || upload.Initiated.After(before) || !validKey(strings.TrimPrefix(*upload.Key, m.prefix)) {
				continue
			}
			_, err := m.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &m.bucket, Key: upload.Key, UploadId: upload.UploadId})
			if failed == nil {
				failed = err
			}
		}
		if page.IsTruncated == nil || !*page.IsTruncated {
			break
		}
		in.KeyMarker, in.UploadIdMarker = page.NextKeyMarker, page.NextUploadIdMarker
	}
	return failed
}
