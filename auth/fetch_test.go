package auth_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/go-jose/go-jose/v4"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
)

// present sends token to a and returns the status that it gives: 200 for a caller
// by token.
func present(t testing.TB, a *auth.Authenticator, token string) int {
	t.Helper()
	c, err := a.Identify(t.Context(), http.Header{"Authorization": {"Bearer " + token}}, stranger)
	if err == nil {
		if !strings.HasPrefix(c.ID, "jwt:") {
			t.Fatalf("caller %+v, want one by token", c)
		}
		return 200
	}
	return err.(*weir.Problem).Status
}

func expect(t testing.TB, a *auth.Authenticator, token string, want int, when string) {
	t.Helper()
	if got := present(t, a, token); got != want {
		t.Errorf("%s: status %d, want %d", when, got, want)
	}
}

func TestAnIssuerThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256())
		i.down.Store(true)
		a := newAuth(t, i.options())
		defer a.Close()
		token := rs256().sign(t, i.claims(nil))

		_, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {token}}, stranger)
		p := problem(t, err)
		if p.Status != 503 || p.Type != weir.TypeReducedCapacity || p.RetryAfter != time.Second || auth.Failed(err) {
			t.Errorf("refused with %v, type %q, again after %v, failed %v\nwant 503, %q, 1s, false", p, p.Type, p.RetryAfter, auth.Failed(err), weir.TypeReducedCapacity)
		}
		if strings.Contains(p.Detail, "issuer.test") || !strings.Contains(p.Error(), "https://issuer.test") {
			t.Errorf("the client reads %q and the log %q: want the address in the log alone", p.Detail, p.Error())
		}
		for _, h := range []http.Header{{"X-Api-Key": {aliceKey}}, {"Authorization": {"Bearer sk-1"}}, {}} {
			if _, err := a.Identify(t.Context(), h, stranger); err != nil {
				t.Errorf("%v: %v, want everybody without a token served", h, err)
			}
		}

		for range 100 {
			expect(t, a, token, 503, "before the next attempt")
		}
		if n := i.discoveries.Load(); n != 1 {
			t.Errorf("asked %d times within a second, want once", n)
		}
		for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			time.Sleep(wait*time.Second - 1)
			before := i.discoveries.Load()
			expect(t, a, token, 503, "before the time")
			if got := i.discoveries.Load() - before; got != 0 {
				t.Errorf("asked %d times before %ds were over, want never", got, wait)
			}
			time.Sleep(time.Nanosecond)
			expect(t, a, token, 503, "while it is down")
			if got := i.discoveries.Load() - before; got != 1 {
				t.Errorf("asked %d times around %ds, want once, at the end", got, wait)
			}
		}

		i.down.Store(false)
		expect(t, a, token, 503, "when it is back, before the next attempt")
		time.Sleep(30 * time.Second)
		expect(t, a, token, 200, "when it is back")
		if d, k := i.discoveries.Load(), i.fetches.Load(); d != 9 || k != 1 {
			t.Errorf("asked %d times for the document and %d times for the keys, want 9 and 1", d, k)
		}
	})
}

func TestKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256())
		a := newAuth(t, i.options())
		defer a.Close()
		old, newer := rs256().sign(t, i.claims(nil)), es256().sign(t, i.claims(nil))
		expect(t, a, old, 200, "the first key")
		expect(t, a, newer, 401, "the second key within ten seconds, before it is published")
		time.Sleep(10 * time.Second)
		i.publish(rs256(), es256())
		expect(t, a, newer, 200, "the second key as soon as it is published")
		expect(t, a, rs256().sign(t, i.claims(claims{"n": 1})), 200, "the first key beside it")
		if d, k := i.discoveries.Load(), i.fetches.Load(); d != 1 || k != 2 {
			t.Errorf("asked %d times for the document and %d times for the keys, want 1 and 2", d, k)
		}
	})
}

func TestRotationWithoutKeyIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := signer{jose.RS256, rsaKey(), ""}, signer{jose.RS256, otherRSA(), ""}
		i := newIssuerInMemory(first)
		a := newAuth(t, i.options())
		defer a.Close()
		expect(t, a, first.sign(t, i.claims(nil)), 200, "the first key")
		time.Sleep(10 * time.Second)
		i.publish(second)
		expect(t, a, second.sign(t, i.claims(nil)), 200, "the second key")
		expect(t, a, first.sign(t, i.claims(claims{"n": 1})), 401, "the first key afterwards")
	})
}

func TestAWithdrawnKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256(), es256())
		a := newAuth(t, i.options())
		defer a.Close()
		token := rs256().sign(t, i.claims(nil))
		fresh := func(n int) string { return rs256().sign(t, i.claims(claims{"n": n})) }
		expect(t, a, token, 200, "before")
		i.publish(es256())
		time.Sleep(5*time.Minute - 1)
		expect(t, a, token, 200, "a remembered token, for five minutes, without another look")
		if n := i.fetches.Load(); n != 1 {
			t.Errorf("keys were fetched %d times for one token, want once", n)
		}
		time.Sleep(time.Nanosecond)
		expect(t, a, token, 401, "a remembered token after five minutes")
		expect(t, a, fresh(1), 401, "a new token of the withdrawn key")
	})
}

func TestKeysAreRenewedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256())
		a := newAuth(t, i.options())
		defer a.Close()
		fresh := func(n int) string { return rs256().sign(t, i.claims(claims{"n": n})) }
		expect(t, a, fresh(0), 200, "at first")
		i.answers(func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-r.Context().Done():
			case <-time.After(3 * time.Second):
			}
			return false
		})
		time.Sleep(150 * time.Second)
		start := time.Now()
		expect(t, a, fresh(1), 200, "after half the time")
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v, want not at all", waited)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := i.fetches.Load(); n != 2 {
			t.Errorf("keys were fetched %d times, want twice", n)
		}
	})
}

func TestKeysThatMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256())
		a := newAuth(t, i.options())
		defer a.Close()
		fresh := func(s signer, n int) string {
			return s.sign(t, i.claims(claims{"n": n, "exp": time.Now().Add(3 * time.Hour).Unix()}))
		}
		moved := func(oldStatus int) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				switch r.URL.Path {
				case "/.well-known/openid-configuration":
					_, _ = io.WriteString(w, `{"issuer":"https://issuer.test","jwks_uri":"https://issuer.test/new"}`)
				case "/new":
					_, _ = io.WriteString(w, `{"keys":[`+string(must(jose.JSONWebKey{Key: p256().Public(), KeyID: "ec"}.MarshalJSON()))+`]}`)
				default:
					w.WriteHeader(oldStatus)
					_, _ = io.WriteString(w, `{"keys":[`+string(must(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "rsa"}.MarshalJSON()))+`]}`)
				}
				return true
			}
		}
		expect(t, a, fresh(rs256(), 0), 200, "at first")
		i.answers(moved(http.StatusNotFound))
		time.Sleep(6 * time.Minute)
		expect(t, a, fresh(es256(), 1), 503, "when they are gone")
		time.Sleep(time.Second)
		expect(t, a, fresh(es256(), 2), 200, "a second later, where the document says now")

		i.answers(nil)
		a = newAuth(t, i.options())
		defer a.Close()
		expect(t, a, fresh(rs256(), 3), 200, "another time")
		i.answers(moved(http.StatusOK))
		time.Sleep(time.Hour - time.Second)
		expect(t, a, fresh(es256(), 4), 401, "while the old place answers, within an hour")
		time.Sleep(time.Minute)
		expect(t, a, fresh(es256(), 5), 200, "after an hour")
	})
}

func TestTheLastKeysServeForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256())
		a := newAuth(t, i.options())
		defer a.Close()
		fresh := func(n int) string {
			return rs256().sign(t, i.claims(claims{"n": n, "exp": time.Now().Add(2 * time.Hour).Unix()}))
		}
		expect(t, a, fresh(0), 200, "at first")
		i.down.Store(true)
		time.Sleep(time.Hour - time.Second)
		expect(t, a, fresh(1), 200, "before an hour is over")
		expect(t, a, es256().sign(t, i.claims(nil)), 503, "an unknown key, which nobody can judge")
		time.Sleep(time.Second)
		expect(t, a, fresh(2), 503, "after an hour")
		time.Sleep(time.Minute)
		i.down.Store(false)
		expect(t, a, fresh(3), 200, "when it is back")
	})
}

func TestATokenIsForgottenWhenItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256())
		a := newAuth(t, i.options())
		defer a.Close()
		token := rs256().sign(t, i.claims(claims{"exp": time.Now().Add(time.Minute).Unix()}))
		expect(t, a, token, 200, "at first")
		time.Sleep(time.Minute - 1)
		expect(t, a, token, 200, "in its last moment")
		time.Sleep(time.Nanosecond)
		expect(t, a, token, 401, "when it has expired")
	})
}

func TestManyTokensPushOutTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := signer{jose.EdDSA, edwards(), "ed"}
		i := newIssuerInMemory(s)
		a := newAuth(t, i.options())
		defer a.Close()
		tokens := make([]string, 4098)
		for n := range tokens {
			tokens[n] = s.sign(t, i.claims(claims{"n": n}))
			expect(t, a, tokens[n], 200, "at first")
		}
		// Half of their time later the key is withdrawn: only what is remembered
		// is still good.
		time.Sleep(4 * time.Minute)
		i.publish(rs256())
		expect(t, a, s.sign(t, i.claims(claims{"n": "x"})), 200, "which renews the keys")
		synctest.Wait()
		for n, want := range map[int]int{0: 401, 1: 401, 2: 401, 3: 200, 2000: 200, 4097: 200} {
			expect(t, a, tokens[n], want, fmt.Sprintf("token %d", n))
		}
	})
}

func TestRandomKeyIDsCannotHammerTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuerInMemory(rs256())
		a := newAuth(t, i.options())
		defer a.Close()
		var wg sync.WaitGroup
		for second := range 60 {
			for n := range 50 {
				wg.Go(func() {
					header := fmt.Sprintf(`{"alg":"RS256","kid":"%d-%d"}`, second, n)
					if n%2 == 0 {
						header = `{"alg":"RS256"}`
					}
					token := unsigned(header, i.claims(claims{"n": n}), []byte{byte(second), byte(n)})
					expect(t, a, token, 401, "a garbage key ID")
				})
			}
			wg.Wait()
			time.Sleep(time.Second)
		}
		if d, k := i.discoveries.Load(), i.fetches.Load(); d != 1 || k < 2 || k > 7 {
			t.Errorf("3000 tokens in a minute: asked %d times for the document and %d times for the keys, want once and 2 to 7 times", d, k)
		}
		expect(t, a, rs256().sign(t, i.claims(nil)), 200, "a good token afterwards")
	})
}

func TestConcurrentFirstTokensShareOneFetch(t *testing.T) {
	i := newIssuer(t, rs256())
	release := make(chan struct{})
	i.answers(func(http.ResponseWriter, *http.Request) bool { <-release; return false })
	a := newAuth(t, i.options())
	defer a.Close()
	var wg sync.WaitGroup
	var started sync.WaitGroup
	for n := range 50 {
		token := rs256().sign(t, i.claims(claims{"n": n}))
		started.Add(1)
		wg.Go(func() {
			started.Done()
			expect(t, a, token, 200, "a first token")
		})
	}
	started.Wait()
	close(release)
	wg.Wait()
	if d, k := i.discoveries.Load(), i.fetches.Load(); d != 1 || k != 1 {
		t.Errorf("asked %d times for the document and %d times for the keys, want once each", d, k)
	}
}

func TestAnIssuerThatHangs(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
	identify := func(t *testing.T, a *auth.Authenticator, i *issuer, ctx context.Context) (*weir.Problem, time.Duration) {
		start := time.Now()
		_, err := a.Identify(ctx, http.Header{"X-Api-Key": {rs256().sign(t, i.claims(nil))}}, stranger)
		return problem(t, err), time.Since(start)
	}
	f := func(name string, check func(t *testing.T, a *auth.Authenticator, i *issuer)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuerInMemory(rs256())
				i.answers(hang)
				a := newAuth(t, i.options())
				check(t, a, i)
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
	f("costs a token five seconds, and the next nothing", func(t *testing.T, a *auth.Authenticator, i *issuer) {
		if p, waited := identify(t, a, i, t.Context()); p.Status != 503 || waited != 5*time.Second {
			t.Errorf("%v after %v, want 503 after 5s", p, waited)
		}
		if p, waited := identify(t, a, i, t.Context()); p.Status != 503 || waited != 0 || p.RetryAfter != time.Second {
			t.Errorf("%v after %v, again after %v, want 503 at once, again after 1s", p, waited, p.RetryAfter)
		}
	})
	f("costs five seconds once while the last keys serve", func(t *testing.T, a *auth.Authenticator, i *issuer) {
		fresh := func(n int) string { return rs256().sign(t, i.claims(claims{"n": n})) }
		i.answers(nil)
		expect(t, a, fresh(0), 200, "while it answers")
		i.answers(hang)
		time.Sleep(6 * time.Minute)
		for n, want := range []time.Duration{5 * time.Second, 0, 0, 0, 0, 0} {
			start := time.Now()
			expect(t, a, fresh(n+1), 200, "while it hangs")
			if waited := time.Since(start); waited != want {
				t.Errorf("token %d waited %v, want %v", n, waited, want)
			}
			time.Sleep(time.Minute)
		}
		if n := i.fetches.Load(); n != 2 {
			t.Errorf("keys were fetched %d times where they were, want twice: then they may have moved", n)
		}
	})
	f("costs a request no more than it has, and the others keep waiting", func(t *testing.T, a *auth.Authenticator, i *issuer) {
		i.answers(func(_ http.ResponseWriter, r *http.Request) bool {
			select {
			case <-time.After(2 * time.Second):
			case <-r.Context().Done():
			}
			return false
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if p, waited := identify(t, a, i, ctx); p.Status != 504 || waited != time.Second || auth.Failed(p) {
			t.Errorf("%v after %v, want 504 after 1s", p, waited)
		}
		start := time.Now()
		expect(t, a, rs256().sign(t, i.claims(nil)), 200, "who came later")
		if waited := time.Since(start); waited != 3*time.Second || i.discoveries.Load() != 1 {
			t.Errorf("waited %v, with %d fetches: want 3s and the fetch of the one that left", waited, i.discoveries.Load())
		}
	})
	f("does not keep a client that leaves", func(t *testing.T, a *auth.Authenticator, i *issuer) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if p, waited := identify(t, a, i, ctx); p.Status != 503 || waited != time.Second {
			t.Errorf("%v after %v, want 503 after 1s", p, waited)
		}
	})
	f("is waited for by Close until its fetch is gone", func(t *testing.T, a *auth.Authenticator, i *issuer) {
		gone := false
		i.answers(func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			time.Sleep(time.Second)
			gone = true
			return true
		})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		identify(t, a, i, ctx)
		synctest.Wait()
		if err := a.Close(); err != nil || !gone {
			t.Errorf("closed with %v, the fetch was gone: %v, want nil, true", err, gone)
		}
	})
	f("does not keep Close waiting", func(t *testing.T, a *auth.Authenticator, i *issuer) {
		var wg sync.WaitGroup
		wg.Go(func() {
			if p, _ := identify(t, a, i, t.Context()); p.Status != 503 {
				t.Errorf("%v, want 503", p)
			}
		})
		synctest.Wait()
		start := time.Now()
		for range 2 {
			if err := a.Close(); err != nil || time.Since(start) != 0 {
				t.Errorf("closed with %v after %v, want at once", err, time.Since(start))
			}
		}
		wg.Wait()
		time.Sleep(time.Hour)
		if p, waited := identify(t, a, i, t.Context()); p.Status != 503 || waited != 0 || i.discoveries.Load() != 1 {
			t.Errorf("after Close: %v after %v with %d fetches, want 503 at once and no fetch more", p, waited, i.discoveries.Load())
		}
		if _, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {aliceKey}}, stranger); err != nil {
			t.Errorf("after Close: %v, want keys to work", err)
		}
	})
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("with an issuer that listens", func(t *testing.T) {
		listening := newIssuer(t, rs256())
		a := newAuth(t, listening.options())
		expect(t, a, rs256().sign(t, listening.claims(nil)), 200, "a token")
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := newAuth(t, options()).Close(); err != nil {
		t.Errorf("without an issuer: %v", err)
	}
}

func TestKeysWithoutDiscovery(t *testing.T) {
	i := newIssuer(t, rs256())
	o := i.options()
	o.JWT.Issuer, o.JWT.JWKSURL = "kubernetes/serviceaccount", i.url+"/keys"
	a := newAuth(t, o)
	defer a.Close()
	expect(t, a, rs256().sign(t, i.claims(claims{"iss": o.JWT.Issuer})), 200, "an issuer that is no URL")
	if d, k := i.discoveries.Load(), i.fetches.Load(); d != 0 || k != 1 {
		t.Errorf("asked %d times for the document and %d times for the keys, want never and once", d, k)
	}
}

func TestAnswersOfTheIssuer(t *testing.T) {
	f := func(name, path, body string, want int, reason string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			i := newIssuerInMemory(rs256())
			i.answers(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != path {
					return false
				}
				if there, ok := strings.CutPrefix(body, "redirect "); ok {
					http.Redirect(w, r, there, http.StatusFound)
				} else {
					_, _ = io.WriteString(w, body)
				}
				return true
			})
			a := newAuth(t, i.options())
			defer a.Close()
			_, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {rs256().sign(t, i.claims(nil))}}, stranger)
			if want == 200 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if p := problem(t, err); p.Status != want || !strings.Contains(p.Error(), reason) || len(p.Error()) > 700 {
				t.Errorf("refused with %v\nwant %d, %q", p, want, reason)
			}
		})
	}
	const document, keys = "/.well-known/openid-configuration", "/keys"
	good := string(must(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "rsa"}.MarshalJSON()))
	with := func(k string) string { return `{"keys":[` + k + `]}` }
	f("a document of another issuer", document, `{"issuer":"https://other.test","jwks_uri":"https://issuer.test/keys"}`, 503, "other.test")
	f("a document without keys", document, `{"issuer":"https://issuer.test"}`, 503, "jwks_uri")
	f("keys at no URL", document, `{"issuer":"https://issuer.test","jwks_uri":"file:///etc/passwd"}`, 503, "want a URL")
	f("keys without TLS", document, `{"issuer":"https://issuer.test","jwks_uri":"http://issuer.test/keys"}`, 503, "want https")
	f("a document that is not JSON", document, strings.Repeat("<p>", 10000), 503, "discovery")
	f("a document without end", document, `{"issuer":"`+strings.Repeat("x", 1<<20), 503, "too large")
	f("a redirect", document, "redirect /keys", 503, "discovery")
	f("redirects without end", keys, "redirect /keys", 503, "3 redirects")
	f("a redirect away from TLS", keys, "redirect http://issuer.test/other", 503, "redirected from https")
	f("keys without end", keys, `{"keys":["`+strings.Repeat("x", 1<<20)+`"]}`, 503, "too large")
	f("keys that are not JSON", keys, "<p>", 503, "not a key set")
	f("no keys", keys, with(""), 503, "no key")
	f("too many keys", keys, with(strings.TrimSuffix(strings.Repeat(good+",", 65), ",")), 503, "65 keys")
	f("keys of unknown kinds are passed over", keys, with(`{"kty":"OKP","crv":"Ed448","x":"AA"},{"kty":"oct","k":"AA","kid":"rsa"},{"kty":"EC","crv":"secp256k1"},7,null,{"kty":5},`+good), 200, "")
	f("a key for encryption signs nothing", keys, with(strings.Replace(good, "{", `{"use":"enc",`, 1)), 503, "want sig")
	f("a secret is no key", keys, with(`{"kty":"oct","k":"c2VjcmV0","kid":"rsa","alg":"HS256"}`), 503, "want RSA, EC or OKP")
	f("an RSA key that is too small", keys, with(`{"kty":"RSA","n":"`+strings.Repeat("_", 170)+`","e":"AQAB"}`), 503, "2048 to 8192")
	f("an RSA key that is too large", keys, with(`{"kty":"RSA","n":"`+strings.Repeat("_", 2000)+`","e":"AQAB"}`), 503, "2048 to 8192")
	f("an RSA exponent of 1", keys, with(`{"kty":"RSA","n":"`+strings.Repeat("_", 344)+`","e":"AQ"}`), 503, "odd number")
	f("a point that is not on the curve", keys, with(`{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}`), 503, "keys[0]")
	f("an Ed25519 key of another length", keys, with(`{"kty":"OKP","crv":"Ed25519","x":"AQ"}`), 503, "32 bytes")
	f("a key for another algorithm", keys, with(strings.Replace(good, "{", `{"alg":"RS512",`, 1)), 401, "no known key")
}
