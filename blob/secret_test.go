package blob_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
)

func TestASecretThatComesLater(t *testing.T) {
	away, asked := errors.New("away"), 0
	s, err := blob.Open(t.Context(), blob.Options{URL: "dir:" + t.TempDir(), Secret: func(context.Context) ([]byte, error) {
		if asked++; asked <= 4 {
			return nil, away
		}
		return []byte(strings.Repeat("s", 32)), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	bob := weir.Caller{ID: "key:bob"}
	key := "2099010100/" + strings.Repeat("a", 26) + "/" + strings.Repeat("a", 26)
	save := func() (blob.Info, error) {
		return s.Save(t.Context(), blob.Meta{Caller: bob.ID, Until: time.Now().Add(time.Hour)}, strings.NewReader("x"))
	}
	_, saved := save()
	_, linked := s.Link(t.Context(), blob.Grant{Method: http.MethodGet, Key: key})
	for what, err := range map[string]error{
		"Save": saved, "Link": linked,
		"GET":  s.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/blobs/"+key, nil), &bob),
		"POST": s.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/blobs/", strings.NewReader("{}")), &bob),
	} {
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok || p.Status != http.StatusServiceUnavailable || p.RetryAfter <= 0 || !errors.Is(err, away) {
			t.Errorf("%s without the secret: %v: want 503 with advice", what, err)
		}
	}
	if s.Owns(bob.ID, key) || s.NewKey(bob.ID, time.Now().Add(time.Hour)) != "" {
		t.Error("there are owners, or keys, without a secret")
	}
	i, err := save()
	if err != nil || !s.Owns(bob.ID, i.Key) || s.Owns("key:eve", i.Key) {
		t.Errorf("with the secret: %+v, %v", i, err)
	}
	if _, err := s.Link(t.Context(), blob.Grant{Method: http.MethodGet, Key: i.Key}); err != nil || asked != 5 {
		t.Errorf("%v, asked %d times: want 5", err, asked)
	}
}
