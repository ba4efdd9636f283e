package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/inferweir/weir/auth"
)

// issuer is a provider of tokens: discovery and keys.
type issuer struct {
	url string
	// client reaches it without a network; nil for one that listens.
	client *http.Client
	// discoveries and fetches count what it was asked for, down makes it fail.
	discoveries, fetches atomic.Int32
	down                 atomic.Bool

	mu   sync.Mutex
	keys []jose.JSONWebKey
	// answer replaces what it says about its keys, or about itself, if it is set.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

// newIssuer is an issuer that listens on loopback.
func newIssuer(t testing.TB, keys ...signer) *issuer {
	i := &issuer{}
	i.publish(keys...)
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	i.url = server.URL
	return i
}

// newIssuerInMemory is one for tests in which time is not real.
func newIssuerInMemory(keys ...signer) *issuer {
	i := &issuer{url: "https://issuer.test"}
	i.client = &http.Client{Transport: inMemory{i}}
	i.publish(keys...)
	return i
}

type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func (i *issuer) publish(keys ...signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = nil
	for _, k := range keys {
		i.keys = append(i.keys, jose.JSONWebKey{Key: k.key.(crypto.Signer).Public(), KeyID: k.kid, Use: "sig"})
	}
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	answer, keys := i.answer, i.keys
	i.mu.Unlock()
	discovery := r.URL.Path == "/.well-known/openid-configuration"
	if discovery {
		i.discoveries.Add(1)
	} else {
		i.fetches.Add(1)
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case i.down.Load():
		http.Error(w, "down for maintenance", http.StatusBadGateway)
	case answer != nil && answer(w, r):
	case discovery:
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": i.url, "jwks_uri": i.url + "/keys",
			// What it says that it signs with does not decide what is accepted.
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		})
	case r.URL.Path == "/keys":
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys})
	default:
		http.NotFound(w, r)
	}
}

func (i *issuer) answers(f func(w http.ResponseWriter, r *http.Request) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = f
}

// options are those of the other tests, and this issuer.
func (i *issuer) options() auth.Options {
	o := options()
	o.JWT = &auth.JWT{Issuer: i.url, Audience: "weir", HTTPClient: i.client}
	return o
}

type claims map[string]any

// claims are those of a valid token, with changes; nil takes a claim out.
func (i *issuer) claims(changes claims) claims {
	c := claims{"iss": i.url, "aud": "weir", "sub": "4711", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// signer signs tokens.
type signer struct {
	algorithm jose.SignatureAlgorithm
	key       any
	kid       string
}

func (s signer) sign(t testing.TB, c claims) string {
	t.Helper()
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return s.signText(t, payload)
}

func (s signer) signText(t testing.TB, payload []byte) string {
	t.Helper()
	o := (&jose.SignerOptions{}).WithType("JWT")
	if s.kid != "" {
		o = o.WithHeader("kid", s.kid)
	}
	maker, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.key}, o)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := maker.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unsigned makes a token by hand.
func unsigned(header string, c claims, signature []byte) string {
	payload, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	b := base64.RawURLEncoding
	return b.EncodeToString([]byte(header)) + "." + b.EncodeToString(payload) + "." + b.EncodeToString(signature)
}

// The keys of the tests: making an RSA key takes a while.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edwards  = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, 32)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func rs256() signer { return signer{jose.RS256, rsaKey(), "rsa"} }
func es256() signer { return signer{jose.ES256, p256(), "ec"} }
