package auth_test

import (
	"net/http"
	"testing"

	"github.com/inferweir/weir/auth"
)

func TestOneThatTakesAnothersPlaceKnowsItsTokens(t *testing.T) {
	i := newIssuer(t, rs256())
	first, err := auth.New(i.options())
	if err != nil {
		t.Fatal(err)
	}
	token, other := rs256().sign(t, i.claims(nil)), rs256().sign(t, i.claims(claims{"sub": "bob"}))
	names := func(a *auth.Authenticator, token, want string) {
		t.Helper()
		c, err := a.Identify(t.Context(), http.Header{"Authorization": {"Bearer " + token}}, stranger)
		if err != nil || c.ID != want {
			t.Errorf("%v, %v, want %s", c.ID, err, want)
		}
	}
	names(first, token, "jwt:4711")
	next := i.options()
	next.After, next.Keys = first, []auth.Key{{Caller: "alice", Key: aliceKey}}
	second, err := auth.New(next)
	if err != nil {
		t.Fatal(err)
	}
	// What they know stays while one of them is open, whichever is closed.
	for range 2 {
		_ = first.Close()
	}
	i.answers(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true })
	names(second, token, "jwt:4711")
	names(second, other, "jwt:bob")
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times, want once", n)
	}
	changed := i.options()
	jwt := *changed.JWT
	jwt.CallerClaim, changed.JWT, changed.After = "email", &jwt, second
	third, err := auth.New(changed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := third.Identify(t.Context(), http.Header{"Authorization": {"Bearer " + token}}, stranger); err == nil {
		t.Error("what was learnt of another JWT is believed")
	}
	_, _ = second.Close(), third.Close()
}
