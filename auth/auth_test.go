package auth_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
	"weak"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
)

const (
	aliceKey  = "weir_alice-0123456789abcdef"
	alice2Key = "weir_alice-second-key"
	bobKey    = "weir_bob-fedcba9876543210"
	badKey    = "weir_nobody-knows-this-one"

	proxy    = "10.0.0.2:4711"
	stranger = "203.0.113.7:4711"
)

func options() auth.Options {
	return auth.Options{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Keys: []auth.Key{
			{Caller: "alice", Key: aliceKey, Plan: "pro"},
			{Caller: "bob", Key: bobKey},
			{Caller: "alice", Key: alice2Key, Plan: "basic"},
		},
	}
}

func newAuth(t testing.TB, o auth.Options) *auth.Authenticator {
	t.Helper()
	a, err := auth.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func key(name, plan string) weir.Caller {
	c := byIP("203.0.113.7", "203.0.113.7/32")
	c.ID, c.Plan, c.Anonymous = "key:"+name, plan, false
	return c
}

func byIP(addr, net string) weir.Caller {
	p := netip.MustParsePrefix(net)
	id := "ip:" + net
	if p.IsSingleIP() {
		id = "ip:" + p.Addr().String()
	}
	return weir.Caller{ID: id, Addr: netip.MustParseAddr(addr), Net: p, Anonymous: true}
}

var strangerCaller = byIP("203.0.113.7", "203.0.113.7/32")

// refusal is the part of a Problem that clients act on.
type refusal struct {
	status    int
	challenge string
}

func problem(t *testing.T, err error) *weir.Problem {
	t.Helper()
	var p *weir.Problem
	if !errors.As(err, &p) {
		t.Fatalf("error is %T (%v), want *weir.Problem", err, err)
	}
	return p
}

const (
	realm     = `Bearer realm="weir"`
	badToken  = realm + `, error="invalid_token"`
	badFields = realm + `, error="invalid_request"`
)

func TestKeys(t *testing.T) {
	a := newAuth(t, options())
	type fields = map[string][]string
	accept := func(name string, h fields, want weir.Caller, left fields) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			h := http.Header(h).Clone()
			got, err := a.Identify(t.Context(), h, stranger)
			if err != nil || got != want {
				t.Errorf("caller %+v, %v\nwant   %+v", got, err, want)
			}
			if !reflect.DeepEqual(fields(h), left) {
				t.Errorf("header is %v, want %v", h, left)
			}
		})
	}
	refuse := func(name string, h fields, challenge string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			got, err := a.Identify(t.Context(), http.Header(h).Clone(), stranger)
			p := problem(t, err)
			if got != (weir.Caller{}) {
				t.Errorf("caller %+v, want none", got)
			}
			if r := (refusal{p.Status, p.Header.Get("WWW-Authenticate")}); r != (refusal{401, challenge}) {
				t.Errorf("refused with %+v, want %+v", r, refusal{401, challenge})
			}
			if p.RetryAfter != 0 {
				t.Errorf("RetryAfter is %v, want none", p.RetryAfter)
			}
			if !strings.Contains(p.Detail, `"Authorization: Bearer KEY"`) {
				t.Errorf("detail %q does not say how to send a key", p.Detail)
			}
			if strings.Contains(p.Error(), "weir_") {
				t.Errorf("%q repeats a key", p.Error())
			}
		})
	}
	alice, bob := key("alice", "pro"), key("bob", "")
	none := fields{}

	accept("a bearer key names the caller and is removed", fields{"Authorization": {"Bearer " + aliceKey}}, alice, none)
	accept("a key in x-api-key does too", fields{"X-Api-Key": {bobKey}}, bob, none)
	accept("the scheme has any case and any white space", fields{"Authorization": {" \tbEARER \t  " + bobKey + "\t "}}, bob, none)
	accept("white space around x-api-key is ignored", fields{"X-Api-Key": {"\t" + bobKey + " "}}, bob, none)
	accept("other values of the same header stay",
		fields{"Authorization": {"Bearer sk-1", "Bearer " + bobKey, "Basic eDp5"}, "X-Api-Key": {"sk-2"}}, bob,
		fields{"Authorization": {"Bearer sk-1", "Basic eDp5"}, "X-Api-Key": {"sk-2"}})
	accept("other members of the same value stay",
		fields{"X-Api-Key": {"sk-1, " + bobKey + ", sk-2"}, "Authorization": {"Bearer " + bobKey + ",Bearer sk-3"}}, bob,
		fields{"X-Api-Key": {"sk-1, sk-2"}, "Authorization": {"Bearer sk-3"}})
	accept("an upstream's key is not touched", fields{"Authorization": {"Bearer sk-1"}, "X-Api-Key": {"sk-2 , sk-3"}}, strangerCaller,
		fields{"Authorization": {"Bearer sk-1"}, "X-Api-Key": {"sk-2 , sk-3"}})
	accept("weir_ inside another's key is not Weir's", fields{"Authorization": {"Bearer sk-weir_1.weir_2"}}, strangerCaller,
		fields{"Authorization": {"Bearer sk-weir_1.weir_2"}})
	accept("the prefix in capitals is not Weir's", fields{"X-Api-Key": {"WEIR_1"}}, strangerCaller, fields{"X-Api-Key": {"WEIR_1"}})
	accept("the same key twice is one", fields{"Authorization": {"Bearer " + bobKey, "bearer " + bobKey}, "X-Api-Key": {bobKey, bobKey}}, bob, none)
	for range 20 { // maps give their keys in random order
		accept("of two keys of one caller the first configured gives the plan",
			fields{"Authorization": {"Bearer " + alice2Key}, "X-Api-Key": {aliceKey}}, alice, none)
	}
	accept("a key counts and is removed in every spelling of the header",
		fields{"x-api-key": {bobKey}, "X_Api_Key": {bobKey}, "X.API_KEY": {bobKey, "sk-1"}, "AUTHORIZATION": {"Bearer " + bobKey}}, bob,
		fields{"X.API_KEY": {"sk-1"}})
	accept("sixteen keys are enough for anybody", fields{"X-Api-Key": slices.Repeat([]string{bobKey}, 16)}, bob, none)

	refuse("an unknown key", fields{"Authorization": {"Bearer " + badKey}}, badToken)
	refuse("an unknown key in x-api-key", fields{"X-Api-Key": {badKey}}, badToken)
	refuse("an unknown key beside a valid one", fields{"Authorization": {"Bearer " + aliceKey, "Bearer " + badKey}}, badToken)
	refuse("an unknown key beside a valid one in one value", fields{"X-Api-Key": {aliceKey + "," + badKey}}, badToken)
	refuse("an unknown key in another spelling of the header", fields{"X-Api-Key": {aliceKey}, "X_Api_Key": {badKey}}, badToken)
	refuse("the prefix alone", fields{"X-Api-Key": {"weir_"}}, badToken)
	refuse("a valid key cut short", fields{"X-Api-Key": {aliceKey[:len(aliceKey)-1]}}, badToken)
	refuse("a valid key in another case", fields{"X-Api-Key": {"weir_" + strings.ToUpper(aliceKey[5:])}}, badToken)
	refuse("a valid key and a word", fields{"Authorization": {"Bearer " + aliceKey + " please"}}, badToken)
	refuse("a very long key", fields{"X-Api-Key": {aliceKey + strings.Repeat("x", 1<<16)}}, badToken)
	refuse("keys of two callers", fields{"Authorization": {"Bearer " + aliceKey}, "X-Api-Key": {bobKey}}, badFields)
	refuse("keys of two callers in one header", fields{"X-Api-Key": {aliceKey, bobKey}}, badFields)
	refuse("keys of two callers in one value", fields{"X-Api-Key": {aliceKey + "," + bobKey}}, badFields)
	refuse("seventeen keys", fields{"X-Api-Key": slices.Repeat([]string{bobKey}, 17)}, badFields)
	refuse("a key without a scheme", fields{"Authorization": {aliceKey}}, badFields)
	refuse("a key with another scheme", fields{"Authorization": {"Basic " + aliceKey}}, badFields)
	refuse("a key in quotes", fields{"Authorization": {`Bearer "` + aliceKey + `"`}}, badFields)
	refuse("a key as a parameter", fields{"Authorization": {"Token key=" + aliceKey}}, badFields)
	refuse("a key after an upstream's", fields{"Authorization": {"Bearer sk-1 " + aliceKey}}, badFields)
	refuse("a scheme in x-api-key", fields{"X-Api-Key": {"Bearer " + aliceKey}}, badFields)
	refuse("a key after a space that is not ASCII", fields{"Authorization": {"Bearer\u00a0" + aliceKey}}, badFields)
	for range 20 {
		refuse("an unknown key is named first of several mistakes",
			fields{"Authorization": {"Basic " + aliceKey}, "X-Api-Key": {bobKey, aliceKey}, "X_Api_Key": {badKey}}, badToken)
	}
}

func TestLongestKey(t *testing.T) {
	longest := "weir_" + strings.Repeat("x", 507)
	a := newAuth(t, auth.Options{Keys: []auth.Key{{Caller: "bob", Key: longest}}})
	if got, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {longest}}, stranger); err != nil || got != key("bob", "") {
		t.Errorf("caller %+v, %v, want bob", got, err)
	}
	_, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {longest + "x"}}, stranger)
	if p := problem(t, err); p.Status != 401 {
		t.Errorf("one byte more: status %d, want 401", p.Status)
	}
}

func TestIdentifyDoesNotWriteIntoSharedValues(t *testing.T) {
	a := newAuth(t, options())
	shared := []string{"sk-1", aliceKey, "sk-2"}
	if _, err := a.Identify(t.Context(), http.Header{"X-Api-Key": shared}, stranger); err != nil {
		t.Fatal(err)
	}
	if want := []string{"sk-1", aliceKey, "sk-2"}; !slices.Equal(shared, want) {
		t.Errorf("the slice of values is now %q, want %q", shared, want)
	}
}

func TestOrderOfIdentifiers(t *testing.T) {
	addr := byIP("203.0.113.7", "203.0.113.7/32")
	named := addr
	named.ID, named.Anonymous = "header:bob@example.com", false
	f := func(name string, identify []string, require, withKey, withHeader bool, want weir.Caller, status int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			o := options()
			o.Identify, o.Require = identify, require
			h := http.Header{"X-Forwarded-For": {"203.0.113.7"}}
			if withKey {
				h.Set("X-Api-Key", aliceKey)
			}
			if withHeader {
				h.Set("X-User-ID", " bob@example.com\t")
			}
			got, err := newAuth(t, o).Identify(t.Context(), h, proxy)
			if got != want {
				t.Errorf("caller %+v, %v\nwant   %+v", got, err, want)
			}
			if status == 0 && err == nil {
				return
			}
			if p := problem(t, err); p.Status != status || p.Header.Get("WWW-Authenticate") != realm {
				t.Errorf("refused with %v %v, want %d %s", p, p.Header, status, realm)
			}
		})
	}
	alice := key("alice", "pro")
	refused := weir.Caller{}

	f("by default a key comes before a header", nil, false, true, true, alice, 0)
	f("by default a header comes before the address", nil, false, false, true, named, 0)
	f("by default the address names who has neither", nil, false, false, false, addr, 0)
	f("a header listed first names the caller, without the key's plan", []string{"header", "api_key"}, false, true, true, named, 0)
	f("the address listed first names everybody", []string{"ip", "api_key", "header"}, false, true, true, addr, 0)
	f("jwt matches nothing without an issuer", []string{"jwt", "header"}, false, false, true, named, 0)
	f("a key that is not listed names nobody", []string{"header"}, false, true, false, addr, 0)
	f("without a match the address names the caller", []string{"api_key", "header"}, false, false, false, addr, 0)
	f("an empty list leaves only the address", []string{}, false, true, true, addr, 0)
	f("require accepts a key", nil, true, true, false, alice, 0)
	f("require accepts a key of a proxy that names the user", []string{"header", "api_key"}, true, true, true, named, 0)
	f("require does not count the header", nil, true, false, true, refused, 401)
	f("require does not count the address", []string{"ip", "api_key"}, true, false, false, refused, 401)
}

func TestUnknownKeyIsRefusedWhateverElse(t *testing.T) {
	for _, identify := range [][]string{nil, {}, {"ip"}, {"header", "ip"}, {"header", "api_key"}} {
		for _, user := range [][]string{nil, {"bob"}, {"bob", "eve"}, {""}} {
			o := options()
			o.Identify = identify
			h := http.Header{"Authorization": {"Bearer " + badKey}, "X-Forwarded-For": {"192.0.2.1"}}
			if user != nil {
				h["X-User-Id"] = user
			}
			_, err := newAuth(t, o).Identify(t.Context(), h, proxy)
			if p := problem(t, err); p.Status != 401 {
				t.Errorf("identify %q, X-User-ID %q: status %d, want 401", identify, user, p.Status)
			}
		}
	}
}

func TestIdentityHeader(t *testing.T) {
	f := func(name string, values []string, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			a := newAuth(t, options())
			h := http.Header{"X-User-Id": slices.Clone(values), "X-Forwarded-For": {"203.0.113.7"}}
			got, err := a.Identify(t.Context(), h, proxy)
			if strings.HasPrefix(want, "header:") {
				caller := strangerCaller
				caller.ID, caller.Anonymous = want, false
				if err != nil || got != caller {
					t.Errorf("caller %+v, %v\nwant   %+v", got, err, caller)
				}
				if !slices.Equal(h["X-User-Id"], values) {
					t.Errorf("the header goes on as %q, want %q", h["X-User-Id"], values)
				}
			} else if p := problem(t, err); p.Status != 400 || p.Detail != want {
				t.Errorf("refused with %d %q\nwant         400 %q", p.Status, p.Detail, want)
			}

			h = http.Header{"X-User-Id": values}
			if got, err := a.Identify(t.Context(), h, stranger); err != nil || got != strangerCaller || len(h) != 0 {
				t.Errorf("from a stranger: caller %+v, %v, header %v\nwant %+v and an empty header", got, err, h, strangerCaller)
			}
		})
	}
	mistake := func(what string) string {
		return "The header X-User-ID " + what + ": the proxy must send exactly one value of 1 to 256 bytes of printable UTF-8."
	}
	f("names the caller", []string{"bob"}, "header:bob")
	f("may hold spaces, colons and commas", []string{"cn=Bob B., ou=x:y"}, "header:cn=Bob B., ou=x:y")
	f("may be of any script", []string{"Žofie 明"}, "header:Žofie 明")
	f("loses white space around it", []string{" \tbob \t"}, "header:bob")
	f("may have 256 bytes", []string{strings.Repeat("é", 128)}, "header:"+strings.Repeat("é", 128))
	f("must not have 257 bytes", []string{"x" + strings.Repeat("é", 128)}, mistake("is 257 bytes long"))
	f("must not be empty", []string{""}, mistake("is empty"))
	f("must not be white space", []string{" \t "}, mistake("is empty"))
	f("must not be doubled", []string{"bob", "eve"}, mistake("has 2 values"))
	f("must not be doubled even if both are the same", []string{"bob", "bob"}, mistake("has 2 values"))
	f("must not be without a value", []string{}, mistake("has 0 values"))
	f("must not hold control characters", []string{"bob\x1b[2J"}, mistake("holds a character that is not printable"))
	f("must not hold C1 control characters", []string{"bob\u0085"}, mistake("holds a character that is not printable"))
	f("must not hold tabs inside", []string{"bob\tb"}, mistake("holds a character that is not printable"))
	f("must not hold invisible characters", []string{"bob\u200b"}, mistake("holds a character that is not printable"))
	f("must not turn the direction of text", []string{"bob\u202ekey"}, mistake("holds a character that is not printable"))
	f("must be UTF-8", []string{"bob\xff"}, mistake("is not UTF-8"))
}

func TestIdentityHeaderIsCheckedWhoeverNamesTheCaller(t *testing.T) {
	o := options()
	o.Identify = []string{"api_key"}
	h := http.Header{"X-User-Id": {"bob", "eve"}, "X-Api-Key": {aliceKey}}
	_, err := newAuth(t, o).Identify(t.Context(), h, proxy)
	if p := problem(t, err); p.Status != 400 {
		t.Errorf("status %d, want 400", p.Status)
	}
}

func TestHeaderOfAnotherName(t *testing.T) {
	o := options()
	o.Header = "x-forwarded-user"
	a := newAuth(t, o)
	h := http.Header{"X-Forwarded-User": {"bob"}, "X_forwarded_user": {"eve"}, "X-User-Id": {"carol"}}
	want := byIP("10.0.0.2", "10.0.0.2/32")
	want.ID, want.Anonymous = "header:bob", false
	if got, err := a.Identify(t.Context(), h, proxy); err != nil || got != want {
		t.Errorf("caller %+v, %v\nwant   %+v", got, err, want)
	}
	// X-User-ID means nothing to this Weir and is the upstream's affair.
	if want := (http.Header{"X-Forwarded-User": {"bob"}, "X-User-Id": {"carol"}}); !reflect.DeepEqual(h, want) {
		t.Errorf("header is %v, want %v", h, want)
	}
	if _, err := a.Identify(t.Context(), h, stranger); err != nil || h.Get("X-Forwarded-User") != "" {
		t.Errorf("from a stranger: %v, header %v, want it without X-Forwarded-User", err, h)
	}
}

func TestRemovedHeaders(t *testing.T) {
	forged := []string{
		"X-User-Id", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Real-Ip", "Forwarded",
		"X-Forwarded-User", "X-Forwarded-Prefix",
	}
	spellings := []string{
		"X_User_ID", "X_user_id", "x-user-id", "X-USER-ID", "X-User_ID", "x_user-id", "X.User.Id", "X-User-ID",
		"X_Forwarded_For", "x-forwarded-for", "X_FORWARDED_FOR", "X-Forwarded_Host", "X_Forwarded_Proto", "X-forwarded-Port", "X_Real_IP", "x-real-ip", "FORWARDED",
		"X_Forwarded_User",
	}
	innocent := []string{
		"X-User", "X-User-Id-2", "Xuserid", "X-Users-Id", "Xx-Forwarded-For", "X-Forwarded", "X-Forwarded-", "X-Real-Ips", "Forwarded-By", "Accept", "Content_Type", "",
	}
	fill := func(lists ...[]string) http.Header {
		h := make(http.Header)
		for _, name := range slices.Concat(lists...) {
			h[name] = []string{"192.0.2.1"}
		}
		return h
	}
	f := func(name, remote, id string, want http.Header) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			h := fill(forged, spellings, innocent)
			got, err := newAuth(t, options()).Identify(t.Context(), h, remote)
			if err != nil || got.ID != id {
				t.Errorf("caller %q, %v, want %q", got.ID, err, id)
			}
			if !reflect.DeepEqual(h, want) {
				t.Errorf("header has %q\nwant       %q", slices.Sorted(maps.Keys(h)), slices.Sorted(maps.Keys(want)))
			}
		})
	}
	f("from a stranger all of them go", stranger, "ip:203.0.113.7", fill(innocent))
	f("from a unix socket all of them go", "@", "ip:unknown", fill(innocent))
	f("from a trusted proxy only the other spellings go", proxy, "header:192.0.2.1", fill(forged, innocent))
}

func TestMiddleware(t *testing.T) {
	a := newAuth(t, options())
	var got weir.Caller
	var header http.Header
	h := a.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = weir.CallerFrom(r.Context())
		header = r.Header
		w.WriteHeader(http.StatusNoContent)
	}))

	t.Run("passes the caller on with a clean copy of the request", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = stranger
		sent := http.Header{"Authorization": {"Bearer " + aliceKey}, "X-Forwarded-For": {"192.0.2.1"}, "Accept": {"text/plain"}}
		r.Header = sent.Clone()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if want := key("alice", "pro"); w.Code != http.StatusNoContent || got != want {
			t.Errorf("status %d, caller %+v\nwant 204, %+v", w.Code, got, want)
		}
		if want := (http.Header{"Accept": {"text/plain"}}); !reflect.DeepEqual(header, want) {
			t.Errorf("the next handler sees %v, want %v", header, want)
		}
		if !reflect.DeepEqual(r.Header, sent) {
			t.Errorf("the request itself has %v now, want %v", r.Header, sent)
		}
		if _, ok := weir.CallerFrom(r.Context()); ok {
			t.Error("the request itself has a caller")
		}
	})
	t.Run("answers who fails", func(t *testing.T) {
		got = weir.Caller{}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Api-Key", badKey)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		want := `{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The presented Weir key is not valid. ` +
			`It may be mistyped, revoked or expired: send one Weir key, as \"Authorization: Bearer KEY\" or as \"x-api-key: KEY\"."}` + "\n"
		if w.Code != 401 || w.Body.String() != want || got.ID != "" {
			t.Errorf("status %d, caller %q, body %s\nwant 401, nobody, %s", w.Code, got.ID, w.Body, want)
		}
		wantHeader := http.Header{
			"Www-Authenticate": {badToken}, "Content-Type": {"application/problem+json"},
			"Content-Length": {fmt.Sprint(len(want))}, "Cache-Control": {"no-store"},
		}
		if !reflect.DeepEqual(w.Header(), wantHeader) {
			t.Errorf("header %v\nwant   %v", w.Header(), wantHeader)
		}
	})
}

func TestNewReportsEveryMistake(t *testing.T) {
	f := func(name string, o auth.Options, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			a, err := auth.New(o)
			if len(want) == 0 {
				if err != nil || a == nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || a != nil {
				t.Fatalf("got %v and error %v, want only an error", a, err)
			}
			if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
				t.Errorf("got:\n%s\nwant:\n%s", err, strings.Join(want, "\n"))
			}
			many, ok := err.(interface{ Unwrap() []error })
			if !ok || len(many.Unwrap()) != len(want) {
				t.Errorf("error %T does not unwrap to %d errors", err, len(want))
			}
		})
	}
	keys := func(k ...auth.Key) auth.Options { return auth.Options{Keys: k} }
	prefix := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }

	f("the zero value is right", auth.Options{})
	f("the test's own options are right", options())
	f("a key must have something in it", keys(auth.Key{Caller: "a"}, auth.Key{Caller: "b", Key: "weir_"}),
		`keys[0] (caller "a"): the key is empty: want one that begins weir_`,
		`keys[1] (caller "b"): the key has nothing after weir_: want a random secret there`)
	f("a key must have the prefix", keys(auth.Key{Caller: "a", Key: "sk-hidden"}, auth.Key{Caller: "b", Key: " weir_hidden"}),
		`keys[0] (caller "a"): the key does not begin weir_: want one that does`,
		`keys[1] (caller "b"): the key does not begin weir_: want one that does`)
	f("a key must be sendable", keys(auth.Key{Caller: "a", Key: "weir_hidden\n"}, auth.Key{Caller: "b", Key: "weir_hid,den"}, auth.Key{Caller: "c", Key: "weir_hiddén"}),
		`keys[0] (caller "a"): the key holds a character that no header may carry in it: want letters, digits and -._~+/=`,
		`keys[1] (caller "b"): the key holds a character that no header may carry in it: want letters, digits and -._~+/=`,
		`keys[2] (caller "c"): the key holds a character that no header may carry in it: want letters, digits and -._~+/=`)
	f("a key must not be too long", keys(auth.Key{Caller: "a", Key: "weir_" + strings.Repeat("x", 508)}, auth.Key{Caller: "b", Key: "weir_" + strings.Repeat("x", 507)}),
		`keys[0] (caller "a"): the key is 513 bytes long: want at most 512`)
	f("a key must be somebody's alone", keys(auth.Key{Caller: "a", Key: aliceKey}, auth.Key{Caller: "b", Key: aliceKey}, auth.Key{Caller: "a", Key: aliceKey}),
		`keys[1] (caller "b"): the same key as keys[0] (caller "a"): want a key of its own`,
		`keys[2] (caller "a"): the same key as keys[0] (caller "a"): want a key of its own`)
	f("a caller must have a name", keys(auth.Key{Key: aliceKey}, auth.Key{Caller: "b\n", Key: bobKey}),
		`keys[0].caller: "": is empty: want 1 to 256 bytes of printable UTF-8`,
		`keys[1].caller: "b\n": holds a character that is not printable: want 1 to 256 bytes of printable UTF-8`)
	f("identifiers must be known and listed once", auth.Options{Identify: []string{"cookie", "ip", "API_KEY", "ip"}},
		`identify[0]: "cookie": want api_key, jwt, header or ip`,
		`identify[2]: "API_KEY": want api_key, jwt, header or ip`,
		`identify[3]: "ip": is identify[1] already: want each at most once`)
	f("require needs something that can satisfy it", auth.Options{Require: true, Identify: []string{"header", "ip"}},
		`require: true: would refuse everybody, because identify lists neither api_key nor jwt: want one of them there`)
	f("require with tokens is right", auth.Options{Require: true, Identify: []string{"jwt"}, JWT: &auth.JWT{Issuer: "https://login.example.com", Audience: "weir"}})
	f("an issuer must say who, for whom and where", auth.Options{JWT: &auth.JWT{JWKSURL: "/keys"}},
		`jwt.issuer: "": want the iss of the tokens, for example https://login.example.com`,
		`jwt.audience: "": want the aud of tokens that are meant for this gateway`,
		`jwt.jwks_url: "/keys": want a URL such as https://login.example.com/keys`)
	f("an issuer without a URL needs one for its keys", auth.Options{JWT: &auth.JWT{Issuer: "kubernetes/serviceaccount", Audience: "weir"}},
		`jwt.issuer: "kubernetes/serviceaccount": want a URL such as https://login.example.com, or jwks_url beside it`)
	f("a URL must be a plain one", auth.Options{JWT: &auth.JWT{Issuer: "https://me:secret@login.example.com", Audience: "weir"}},
		`jwt.issuer: "https://me:secret@login.example.com": want a URL such as https://login.example.com, or jwks_url beside it`)
	f("an issuer with a URL for its keys is right", auth.Options{JWT: &auth.JWT{Issuer: "kubernetes/serviceaccount", Audience: "weir", JWKSURL: "http://10.0.0.1/keys"}})
	f("proxies must be networks of one family", auth.Options{TrustedProxies: []netip.Prefix{{}, prefix("::ffff:10.0.0.0/90"), prefix("::ffff:10.0.0.0/104")}},
		`trusted_proxies[0]: invalid Prefix: want an address and a prefix length, for example 10.0.0.0/8`,
		`trusted_proxies[1]: ::ffff:10.0.0.0/90: mixes IPv4 and IPv6: want an IPv4 network, for example 10.0.0.0/8`)
	f("lists hold addresses, networks and callers",
		auth.Options{
			Allow: []string{"192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "key:alice", "jwt:4711", "header:bob b.", "::ffff:198.51.100.1"},
			Deny:  []string{"", "alice", "192.0.2.256", "192.0.2.0/33", "fe80::1%eth0", "::ffff:0:0/90", "ip:192.0.2.1", "key:", "header:\n", "host.example"},
		},
		`deny[0]: "": want an address, a CIDR or a caller such as key:alice`,
		`deny[1]: "alice": want an address, a CIDR or a caller such as key:alice`,
		`deny[2]: "192.0.2.256": want an address, a CIDR or a caller such as key:alice`,
		`deny[3]: "192.0.2.0/33": want an address, a CIDR or a caller such as key:alice`,
		`deny[4]: "fe80::1%eth0": want an address, a CIDR or a caller such as key:alice`,
		`deny[5]: "::ffff:0:0/90": mixes IPv4 and IPv6: want an IPv4 network, for example 10.0.0.0/8`,
		`deny[6]: "ip:192.0.2.1": want the address or the network itself, for example 192.0.2.1`,
		`deny[7]: "key:": the name after key: is empty: want 1 to 256 bytes of printable UTF-8`,
		`deny[8]: "header:\n": the name after header: holds a character that is not printable: want 1 to 256 bytes of printable UTF-8`,
		`deny[9]: "host.example": want an address, a CIDR or a caller such as key:alice`)
	f("mistakes of the other list are reported too", auth.Options{Allow: []string{"key:a", "x"}}, `allow[1]: "x": want an address, a CIDR or a caller such as key:alice`)
	f("nobody is on both lists, in whatever form", auth.Options{
		Allow: []string{"key:alice", "10.1.2.3/8", "192.0.2.1"},
		Deny:  []string{"key:alicia", "::ffff:192.0.2.1", "10.0.0.0/8", "key:alice", "10.0.0.0/9"},
	},
		`deny[1]: "::ffff:192.0.2.1": is allow[2] too: want it on one of the lists`,
		`deny[2]: "10.0.0.0/8": is allow[1] too: want it on one of the lists`,
		`deny[3]: "key:alice": is allow[0] too: want it on one of the lists`)
	f("the header must be a header's name", auth.Options{Header: "X User"}, `header: "X User": want the name of a header, for example X-User-ID`)
	f("the header must not mean something else", auth.Options{Header: "x_forwarded_for"},
		`header: "x_forwarded_for": has another meaning: want a header of its own, for example X-User-ID`)
	f("prefixes must be in range", auth.Options{PrefixV4: 33, PrefixV6: 129}, `ip_prefix.v4: 33: want 1 to 32`, `ip_prefix.v6: 129: want 1 to 128`)
	f("prefixes must not be negative", auth.Options{PrefixV4: -1, PrefixV6: -1}, `ip_prefix.v4: -1: want 1 to 32`, `ip_prefix.v6: -1: want 1 to 128`)
	f("all mistakes come at once",
		auth.Options{Keys: []auth.Key{{Caller: "a", Key: "sk-hidden"}}, Identify: []string{""}, TrustedProxies: []netip.Prefix{{}}, Header: ":", PrefixV4: 33, PrefixV6: -2},
		`keys[0] (caller "a"): the key does not begin weir_: want one that does`,
		`identify[0]: "": want api_key, jwt, header or ip`,
		`trusted_proxies[0]: invalid Prefix: want an address and a prefix length, for example 10.0.0.0/8`,
		`header: ":": want the name of a header, for example X-User-ID`,
		`ip_prefix.v4: 33: want 1 to 32`, `ip_prefix.v6: -2: want 1 to 128`)
}

func TestKeysStaySecret(t *testing.T) {
	t.Run("formatting options shows no key", func(t *testing.T) {
		o := options()
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			text := fmt.Sprintf(verb, o)
			if strings.Contains(text, aliceKey) || strings.Contains(text, fmt.Sprintf("%x", aliceKey)) {
				t.Errorf("%s shows the key: %s", verb, text)
			}
		}
	})
	t.Run("nothing refers to the text of the keys after New", func(t *testing.T) {
		a, text := newFromText(t)
		runtime.GC()
		runtime.GC()
		if text.Value() != nil {
			t.Error("the text that held the keys is still reachable")
		}
		got, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {aliceKey}}, stranger)
		if want := key("alice", "pro"); err != nil || got != want {
			t.Errorf("caller %+v, %v\nwant   %+v", got, err, want)
		}
	})
}

// newFromText makes an Authenticator whose caller, key and plan are slices of
// one text, as a parser of configuration may give them.
//
//go:noinline
func newFromText(t *testing.T) (*auth.Authenticator, weak.Pointer[byte]) {
	text := strings.Join([]string{"alice", aliceKey, "pro"}, "|")
	part := strings.Split(text, "|")
	a := newAuth(t, auth.Options{Keys: []auth.Key{{Caller: part[0], Key: part[1], Plan: part[2]}}})
	return a, weak.Make(unsafe.StringData(text))
}
