package auth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
)

func jwtCaller(name, plan string) weir.Caller {
	c := key("", plan)
	c.ID = "jwt:" + name
	return c
}

func TestValidTokens(t *testing.T) {
	i := newIssuer(t, rs256(), es256())
	a := newAuth(t, i.options())
	type fields = map[string][]string
	f := func(name string, h fields, want weir.Caller, left fields) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			h := http.Header(h).Clone()
			if !a.Presents(h) {
				t.Error("the request is said to present nothing")
			}
			got, err := a.Identify(t.Context(), h, stranger)
			if err != nil || got != want {
				t.Errorf("caller %+v, %v\nwant   %+v", got, err, want)
			}
			if !reflect.DeepEqual(fields(h), left) {
				t.Errorf("header is %v, want %v", h, left)
			}
		})
	}
	token := rs256().sign(t, i.claims(nil))
	pro := es256().sign(t, i.claims(claims{"sub": "bob@example.com", "plan": "pro"}))
	bob, none := jwtCaller("4711", ""), fields{}

	f("a token names the caller and is removed", fields{"Authorization": {"Bearer " + token}}, bob, none)
	f("a token signed with another kind of key gives a plan too", fields{"Authorization": {"Bearer " + pro}}, jwtCaller("bob@example.com", "pro"), none)
	f("the scheme has any case and any white space", fields{"Authorization": {"\tbEARER \t " + token + " "}}, bob, none)
	f("x-api-key carries a token too", fields{"X-Api-Key": {token}}, bob, none)
	f("other values of the same header stay", fields{"Authorization": {"Bearer sk-1", "bearer " + token, "Basic eDp5"}, "X-Api-Key": {"sk-2"}}, bob,
		fields{"Authorization": {"Bearer sk-1", "Basic eDp5"}, "X-Api-Key": {"sk-2"}})
	f("other members of the same value stay", fields{"Authorization": {"Bearer sk-1, Bearer " + token}, "X-Api-Key": {token + ", sk-2"}}, bob,
		fields{"Authorization": {"Bearer sk-1"}, "X-Api-Key": {"sk-2"}})
	f("the same token twice is one", fields{"Authorization": {"Bearer " + token, "BEARER " + token}, "X-Api-Key": {token, token}}, bob, none)
	f("a token is removed in every spelling of the header", fields{"x-api-key": {token}, "X_Api_Key": {token}, "AUTHORIZATION": {"Bearer " + token}}, bob, none)
	f("a key beside a token names the caller, and both are removed", fields{"Authorization": {"Bearer " + token}, "X-Api-Key": {aliceKey}}, key("alice", "pro"), none)
	f("a token of another issuer beside it stays", fields{"Authorization": {"Bearer " + token}, "X-Api-Key": {rs256().sign(t, i.claims(claims{"iss": "https://other.test"}))}}, bob,
		fields{"X-Api-Key": {rs256().sign(t, i.claims(claims{"iss": "https://other.test"}))}})

	changed := func(name string, changes claims, want weir.Caller) {
		t.Helper()
		f(name, fields{"Authorization": {"Bearer " + rs256().sign(t, i.claims(changes))}}, want, none)
	}
	changed("one audience of several is enough", claims{"aud": []string{"other", "weir"}}, bob)
	changed("a plan may be a number", claims{"plan": 3}, jwtCaller("4711", "3"))
	changed("a name may have any script", claims{"sub": "Žofie 明"}, jwtCaller("Žofie 明", ""))
	changed("a name may have 256 bytes", claims{"sub": strings.Repeat("é", 128)}, jwtCaller(strings.Repeat("é", 128), ""))
	changed("an array is no plan", claims{"plan": []string{"pro"}}, bob)
	changed("an object is no plan", claims{"plan": claims{"name": "pro"}}, bob)
	changed("true is no plan", claims{"plan": true}, bob)
	changed("a plan that cannot be printed is none", claims{"plan": "pro\n"}, bob)
	changed("an unknown plan is passed on", claims{"plan": "gold"}, jwtCaller("4711", "gold"))
	changed("a token may begin within the leeway", claims{"nbf": time.Now().Add(4 * time.Minute).Unix()}, bob)

	if d, k := i.discoveries.Load(), i.fetches.Load(); d != 1 || k != 1 {
		t.Errorf("the issuer was asked for its document %d times and for its keys %d times, want once each", d, k)
	}
}

func TestOtherClaims(t *testing.T) {
	i := newIssuer(t, rs256())
	o := i.options()
	o.JWT.CallerClaim, o.JWT.PlanClaim = "https://example.com/~user", "tier"
	a := newAuth(t, o)
	f := func(name string, user any, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			token := rs256().sign(t, i.claims(claims{"https://example.com/~user": user, "tier": "basic", "plan": "pro"}))
			got, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {token}}, stranger)
			if want == "" {
				if p := problem(t, err); p.Status != 401 {
					t.Errorf("refused with %v, want 401", p)
				}
			} else if caller := jwtCaller(want, "basic"); err != nil || got != caller {
				t.Errorf("caller %+v, %v\nwant   %+v", got, err, caller)
			}
		})
	}
	f("name the caller and the plan", "eve", "eve")
	f("may be a number, as its decimal text", 4711, "4711")
	f("are not rounded", json.Number("12345678901234567890"), "12345678901234567890")
	f("may have a fraction and a sign", json.Number("-47.110"), "-47.110")
	f("must have no exponent", json.Number("1e9"), "")
	f("must be there", nil, "")
	f("must not be empty", "", "")
	f("must not be true", true, "")
	f("must not be an array", []int{4711}, "")
}

func TestTokensOfEveryAlgorithm(t *testing.T) {
	signers := []signer{
		{jose.RS256, rsaKey(), "a"}, {jose.RS384, rsaKey(), "a"}, {jose.RS512, rsaKey(), "a"},
		{jose.PS256, rsaKey(), "a"}, {jose.PS384, rsaKey(), "a"}, {jose.PS512, rsaKey(), "a"},
		{jose.ES256, p256(), "b"}, {jose.ES384, p384(), "c"}, {jose.ES512, p521(), "d"}, {jose.EdDSA, edwards(), "e"},
	}
	i := newIssuer(t, signers[0], signers[6], signers[7], signers[8], signers[9])
	a := newAuth(t, i.options())
	for _, s := range signers {
		for _, kid := range []string{s.kid, ""} {
			s.kid = kid
			got, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {s.sign(t, i.claims(nil))}}, stranger)
			if want := jwtCaller("4711", ""); err != nil || got != want {
				t.Errorf("%s with key ID %q: caller %+v, %v\nwant %+v", s.algorithm, kid, got, err, want)
			}
		}
	}
}

// publicPEM is the public key as text: what somebody may take for a secret.
func publicPEM() []byte {
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func hs256(c claims, secret []byte) string {
	text := strings.TrimSuffix(unsigned(`{"alg":"HS256","kid":"rsa"}`, c, nil), ".")
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + strings.Split(unsigned("{}", nil, mac.Sum(nil)), ".")[2]
}

func TestTokensThatAreNotValid(t *testing.T) {
	i := newIssuer(t, rs256(), es256())
	a := newAuth(t, i.options())
	f := func(name string, h http.Header, challenge string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if !a.Presents(h) {
				t.Error("the request is said to present nothing")
			}
			got, err := a.Identify(t.Context(), h.Clone(), stranger)
			p := problem(t, err)
			if r := (refusal{p.Status, p.Header.Get("WWW-Authenticate")}); r != (refusal{401, challenge}) || got != (weir.Caller{}) {
				t.Errorf("caller %+v, refused with %+v, want %+v", got, r, refusal{401, challenge})
			}
			if !auth.Failed(err) {
				t.Error("the failure is not said to be one of a credential")
			}
			if strings.Contains(p.Error(), "eyJ") {
				t.Errorf("%q repeats a token", p.Error())
			}
		})
	}
	bad := func(name, token string) {
		t.Helper()
		f(name, http.Header{"Authorization": {"Bearer " + token}}, badToken)
		f(name+", in x-api-key", http.Header{"X-Api-Key": {token}}, badToken)
	}
	changed := func(name string, changes claims) {
		t.Helper()
		bad(name, rs256().sign(t, i.claims(changes)))
	}
	valid := i.claims(nil)
	good := rs256().sign(t, valid)
	parts := strings.Split(good, ".")

	bad("a forged signature", signer{jose.RS256, otherRSA(), "rsa"}.sign(t, valid))
	bad("a forged signature without a key ID", signer{jose.RS256, otherRSA(), ""}.sign(t, valid))
	bad("a signature of other claims", parts[0]+"."+strings.Split(unsigned("{}", i.claims(claims{"sub": "root"}), nil), ".")[1]+"."+parts[2])
	bad("a signature cut short", good[:len(good)-4])
	bad("no signature", parts[0]+"."+parts[1]+".")
	bad("an empty header", "."+parts[1]+"."+parts[2])
	bad("a header that is not JSON", "AAAA."+parts[1]+"."+parts[2])
	bad("algorithm none", unsigned(`{"alg":"none"}`, valid, nil))
	bad("algorithm none with a signature", unsigned(`{"alg":"none","kid":"rsa"}`, valid, []byte("x")))
	bad("algorithm nOnE", unsigned(`{"alg":"nOnE"}`, valid, nil))
	bad("no algorithm", unsigned(`{"kid":"rsa"}`, valid, nil))
	bad("HS256 with the public key as the secret", hs256(valid, publicPEM()))
	bad("HS256 with the modulus as the secret", hs256(valid, rsaKey().N.Bytes()))
	bad("HS256 with no secret", hs256(valid, nil))
	bad("the key ID of another key", signer{jose.RS256, rsaKey(), "ec"}.sign(t, valid))
	bad("an unknown key ID", signer{jose.RS256, rsaKey(), "new"}.sign(t, valid))
	bad("its own key in the header", signEmbedded(t, valid))
	changed("expired", claims{"exp": time.Now().Add(-time.Second).Unix()})
	changed("expired long ago", claims{"exp": 0})
	changed("no exp", claims{"exp": nil})
	changed("an exp that is no number", claims{"exp": "tomorrow"})
	later := func(member string, changes claims) string { // the last of two members wins in encoding/json
		text := must(json.Marshal(i.claims(changes)))
		return rs256().signText(t, append(text[:len(text)-1], ","+member+"}"...))
	}
	bad("an Exp after an exp that is over", later(`"Exp":99999999999`, claims{"exp": 1}))
	bad("an AUD after another audience", later(`"AUD":"weir"`, claims{"aud": "other"}))
	bad("an Nbf after an nbf that is to come", later(`"Nbf":1`, claims{"nbf": 99999999999}))
	bad("an iss in other letters of Unicode", later("\"i\u017fs\":\"x\"", nil))
	changed("another audience", claims{"aud": "weir2"})
	changed("no audience", claims{"aud": nil})
	changed("other audiences", claims{"aud": []string{"we", "ir"}})
	changed("valid only later", claims{"nbf": time.Now().Add(6 * time.Minute).Unix()})
	changed("no sub", claims{"sub": nil})
	changed("an empty sub", claims{"sub": ""})
	changed("a sub of 257 bytes", claims{"sub": strings.Repeat("x", 257)})
	changed("a sub with a line end", claims{"sub": "bob\n"})
	changed("a sub that is an array", claims{"sub": []string{"bob"}})
	changed("a sub that is true", claims{"sub": true})
	changed("a sub that is a number, which RFC 7519 does not allow", claims{"sub": 4711})

	other := rs256().sign(t, i.claims(claims{"sub": "eve"}))
	f("two tokens", http.Header{"Authorization": {"Bearer " + good}, "X-Api-Key": {other}}, badFields)
	f("two tokens in one value", http.Header{"X-Api-Key": {good + "," + other}}, badFields)
	f("a token without a scheme", http.Header{"Authorization": {good}}, badFields)
	f("a token with another scheme", http.Header{"Authorization": {"DPoP " + good}}, badFields)
	f("a token in quotes", http.Header{"Authorization": {`Bearer "` + good + `"`}}, badFields)
	f("a token and a word", http.Header{"Authorization": {"Bearer " + good + " please"}}, badFields)
	f("a token as a parameter", http.Header{"Authorization": {"Token t=" + good}}, badFields)
	f("a scheme in x-api-key", http.Header{"X-Api-Key": {"Bearer " + good}}, badFields)
	f("an unknown key beside a token", http.Header{"Authorization": {"Bearer " + good}, "X-Api-Key": {badKey}}, badToken)
	f("a bad token beside a key", http.Header{"Authorization": {"Bearer " + parts[0] + "." + parts[1] + ".AAAA"}, "X-Api-Key": {aliceKey}}, badToken)

	t.Run("who has an expired token is told so", func(t *testing.T) {
		_, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {rs256().sign(t, i.claims(claims{"exp": 1}))}}, stranger)
		if p := problem(t, err); p.Detail != "The presented token has expired: get a new one from its issuer." {
			t.Errorf("detail %q", p.Detail)
		}
	})
	if n := i.fetches.Load(); n > 2 {
		t.Errorf("the keys were fetched %d times, want at most twice", n)
	}
}

// signEmbedded signs with a key of nobody, and brings it along.
func signEmbedded(t *testing.T, c claims) string {
	maker, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: otherRSA()}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	signed := must(maker.Sign(must(json.Marshal(c))))
	return must(signed.CompactSerialize())
}

func TestValuesThatAreNotTheIssuersTokens(t *testing.T) {
	i := newIssuer(t, rs256())
	a := newAuth(t, i.options())
	f := func(name, value string) {
		t.Helper()
		for _, h := range []http.Header{{"Authorization": {"Bearer " + value}}, {"X-Api-Key": {value}}, {"Authorization": {"Bearer sk-1, Bearer " + value + " "}}} {
			want := h.Clone()
			if a.Presents(h) {
				t.Errorf("%s: the request is said to present a credential", name)
			}
			got, err := a.Identify(t.Context(), h, stranger)
			if err != nil || got != strangerCaller || !reflect.DeepEqual(h, want) {
				t.Errorf("%s: caller %+v, %v\nwant %+v; header %v, want %v", name, got, err, strangerCaller, h, want)
			}
		}
	}
	token := func(changes claims) string { return rs256().sign(t, i.claims(changes)) }
	parts := strings.Split(token(nil), ".")
	f("a token of another issuer", token(claims{"iss": "https://login.example.com"}))
	f("an issuer with a slash more", token(claims{"iss": i.url + "/"}))
	f("an issuer in capitals", token(claims{"iss": strings.ToUpper(i.url)}))
	f("an issuer in an array", token(claims{"iss": []string{i.url}}))
	f("a token without an issuer", token(claims{"iss": nil}))
	f("ISS is not iss", token(claims{"iss": nil, "ISS": i.url}))
	f("the issuer somewhere else", token(claims{"iss": nil, "aud": i.url, "act": claims{"iss": i.url}}))
	f("a token of more than 16 KiB", token(claims{"roles": strings.Repeat("x", 16<<10)}))
	f("two parts", parts[0]+"."+parts[1])
	f("five parts, an encrypted token", parts[0]+"."+parts[1]+"."+parts[2]+".AA.AA")
	f("a payload that is not JSON", parts[0]+".AAAA."+parts[2])
	f("a payload that is not base64", parts[0]+".A."+parts[2])
	f("only dots", "..")
	f("a host's name", "api.example.com")
	f("an opaque key", "sk-proj-abcdefghijkl")

	if d, k := i.discoveries.Load(), i.fetches.Load(); d+k != 0 {
		t.Errorf("the issuer was asked %d times, want never", d+k)
	}
	t.Run("without an issuer every token is the upstream's affair", func(t *testing.T) {
		a, h := newAuth(t, options()), http.Header{"Authorization": {"Bearer " + token(nil)}}
		want := h.Clone()
		if got, err := a.Identify(t.Context(), h, stranger); err != nil || got != strangerCaller || !reflect.DeepEqual(h, want) || a.Presents(h) {
			t.Errorf("caller %+v, %v, header %v\nwant %+v, header %v", got, err, h, strangerCaller, want)
		}
	})
}

func TestOrderOfTokens(t *testing.T) {
	i := newIssuer(t, rs256())
	alice, token := key("alice", "pro"), jwtCaller("4711", "gold")
	named, refused := strangerCaller, weir.Caller{}
	named.ID, named.Anonymous = "header:bob", false
	f := func(name string, identify []string, require bool, with string, want weir.Caller) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			o := i.options()
			o.Identify, o.Require = identify, require
			h := http.Header{"X-Forwarded-For": {"203.0.113.7"}}
			if strings.Contains(with, "key") {
				h.Set("X-Api-Key", aliceKey)
			}
			if strings.Contains(with, "token") {
				h.Set("Authorization", "Bearer "+rs256().sign(t, i.claims(claims{"plan": "gold"})))
			}
			if strings.Contains(with, "header") {
				h.Set("X-User-ID", "bob")
			}
			got, err := newAuth(t, o).Identify(t.Context(), h, proxy)
			if got != want || (err != nil) != (want == refused) {
				t.Errorf("caller %+v, %v\nwant   %+v", got, err, want)
			}
			if h.Get("Authorization") != "" {
				t.Errorf("the token goes on: %q", h)
			}
			if err != nil && (problem(t, err).Status != 401 || auth.Failed(err) || problem(t, err).Header.Get("WWW-Authenticate") != realm) {
				t.Errorf("refused with %v, want 401 for a missing credential", err)
			}
		})
	}
	f("by default a key comes before a token", nil, false, "key token header", alice)
	f("by default a token comes before a header", nil, false, "token header", token)
	f("a token listed first names the caller", []string{"jwt", "api_key"}, false, "key token header", token)
	f("a header listed first names the caller, without the token's plan", []string{"header", "jwt"}, false, "token header", named)
	f("a token that is not listed names nobody and is removed", []string{"ip"}, false, "token", strangerCaller)
	f("require accepts a token", nil, true, "token", token)
	f("require accepts a token that names nobody", []string{"header", "jwt"}, true, "token header", named)
	f("require does not count the header", nil, true, "header", refused)
}
