package auth_test

import (
	"net/http"
	"testing"

	"github.com/inferweir/weir/auth"
)

func TestPreviewFindsStoredKeysInItsOwnWay(t *testing.T) {
	text, _ := auth.NewKey()
	asked, looked := 0, 0
	find := func(n *int) func([32]byte) (auth.Key, error) {
		return func([32]byte) (auth.Key, error) {
			*n++
			return auth.Key{Caller: "alice", Plan: "pro"}, nil
		}
	}
	a, err := auth.New(auth.Options{Stored: find(&asked)})
	if err != nil {
		t.Fatal(err)
	}
	h := func() http.Header { return http.Header{"X-Api-Key": {text}} }
	got, err := a.Preview(find(&looked)).Identify(t.Context(), h(), "192.0.2.1:1")
	if err != nil || got.ID != "key:alice" || got.Plan != "pro" || asked != 0 || looked != 1 {
		t.Errorf("a preview names %+v, %v, after %d uses and %d looks; want key:alice after 0 and 1", got, err, asked, looked)
	}
	if _, err := a.Preview(nil).Identify(t.Context(), h(), "192.0.2.1:1"); !auth.Failed(err) {
		t.Errorf("without stored keys: %v, want the key refused", err)
	}
	if got, err := a.Identify(t.Context(), h(), "192.0.2.1:1"); err != nil || got.ID != "key:alice" || asked != 1 || looked != 1 {
		t.Errorf("the authenticator itself names %+v, %v, after %d uses and %d looks", got, err, asked, looked)
	}
}
