package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuer signs tokens, and serves its key as OpenID issuers do.
type issuer struct {
	t   *testing.T
	url string
	key *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"%s/keys","authorization_endpoint":"%s/a","token_endpoint":"%s/t","id_token_signing_alg_values_supported":["ES256"]}`, i.url, i.url, i.url, i.url)
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	i.url = s.URL
	return i
}

// token is a Bearer value with these claims besides the usual ones.
func (i *issuer) token(claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": i.url, "aud": "weir", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "1"}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	payload, _ := json.Marshal(all)
	signed, err := signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return "Bearer " + text
}

func TestTokensNameCallersAndPlans(t *testing.T) {
	i := newIssuer(t)
	seen := make(chan string, 100)
	w := start(t, strings.ReplaceAll(`
limits: {auth_failures: 2}
callers:
  jwt: {issuer: ISSUER, audience: weir}
  overrides: [{caller: "jwt:carla", policies: [{name: pro, quota: 9, window: 1h}]}]
plans: {default: {policies: [1/hour]}, pro: {policies: [3/hour]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{match: {path: /*}, upstream: u}]
`, "ISSUER", i.url), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Authorization") }))
	for _, c := range []struct {
		claims map[string]any
		want   string // RateLimit-Policy
	}{
		{map[string]any{"sub": "anna", "plan": "pro"}, `"pro";q=3;w=3600`},
		{map[string]any{"sub": "bert"}, `"default";q=1;w=3600`},
		{map[string]any{"sub": "carla", "plan": "pro"}, `"pro";q=9;w=3600`},
		{map[string]any{"sub": "dora", "plan": "gold"}, `"default";q=1;w=3600`},
	} {
		a := w.send("GET", "/", "", "Authorization", i.token(c.claims))
		if a.status != 200 || a.header.Get("RateLimit-Policy") != c.want {
			t.Errorf("%v: %d %q, want %q", c.claims, a.status, a.header.Get("RateLimit-Policy"), c.want)
		}
		if got := <-seen; got != "" {
			t.Errorf("%v: the upstream got %q", c.claims, got)
		}
	}
	if got := w.metric("weir_auth_unknown_plans_total"); got != "1" {
		t.Errorf("weir_auth_unknown_plans_total %s", got)
	}
	expired := i.token(map[string]any{"sub": "anna", "exp": time.Now().Add(-time.Hour).Unix()})
	for n, want := range []int{401, 401, 429} {
		if a := w.send("GET", "/", "", "Authorization", expired); a.status != want {
			t.Errorf("expired token %d: %d, want %d", n, a.status, want)
		}
	}
	if a := w.send("GET", "/", "", "Authorization", "Bearer sk-other"); a.status != 200 || <-seen != "Bearer sk-other" {
		t.Errorf("the upstream's own credential: %d", a.status)
	}
}
