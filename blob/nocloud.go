//go:build !cloud

package blob

import (
	"context"
	"fmt"
	"net/url"
)

func openCloud(_ context.Context, u *url.URL) (*bucket, error) {
	return nil, fmt.Errorf("this program was built without %s://: build with -tags cloud", u.Scheme)
}
