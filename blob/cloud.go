//go:build cloud

package blob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // opens azblob://
	_ "gocloud.dev/blob/gcsblob"   // opens gs://
)

// openCloud opens gs://BUCKET or azblob://CONTAINER, with the parameters and the
// credentials that gocloud.dev documents.
func openCloud(ctx context.Context, u *url.URL) (*bucket, error) {
	if _, err := bucketName(u); err != nil {
		return nil, err
	}
	b, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, err
	}
	options := gsOptions
	if u.Scheme == "azblob" {
		options = azureOptions
	}
	return &bucket{bucket: b, options: options}, nil
}

// gsOptions binds a PUT to its type and to at most its bytes, and to a key without a blob.
func gsOptions(g Grant) (*blob.SignedURLOptions, http.Header, error) {
	var header http.Header
	if g.Method == http.MethodPut {
		header = http.Header{
			"Content-Type":                {g.Type},
			"Content-Disposition":         {disposition(g.Name)},
			"X-Goog-Content-Length-Range": {fmt.Sprintf("0,%d", g.Bytes)},
			"X-Goog-If-Generation-Match":  {"0"},
		}
	}
	o := &blob.SignedURLOptions{BeforeSign: func(as func(any) bool) error {
		var in *storage.SignedURLOptions
		if !as(&in) {
			return errors.New("the version of gocloud.dev signs in another way")
		}
		in.Scheme = storage.SigningSchemeV4
		in.QueryParameters = url.Values{}
		if g.Method != http.MethodPut {
			if g.Type != "" {
				in.QueryParameters.Set("response-content-type", g.Type)
			}
			if g.Name != "" {
				in.QueryParameters.Set("response-content-disposition", disposition(g.Name))
			}
			return nil
		}
		for name, values := range header {
			if name == "Content-Type" {
				in.ContentType = values[0]
				continue
			}
			in.Headers = append(in.Headers, name+":"+values[0])
		}
		return nil
	}}
	return o, header, nil
}

// azureOptions makes links to read. Azure signs neither the type nor the length of what
// is sent, so that a link to upload would let anything in: there is none.
func azureOptions(g Grant) (*blob.SignedURLOptions, http.Header, error) {
	if g.Method == http.MethodPut {
		return nil, nil, noUploads(errors.New("azblob: uploads cannot be bound to a size"))
	}
	return &blob.SignedURLOptions{}, nil, nil
}
