package auth_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/internal/jsonscan"
)

// validKeys are those of options.
func validKeys() []string { return []string{aliceKey, alice2Key, bobKey} }

// spellings generates names that a server may take for one of names.
func spellings(names ...string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		name := []byte(rapid.SampledFrom(names).Draw(t, "name"))
		if rapid.Bool().Draw(t, "canonical") {
			return http.CanonicalHeaderKey(string(name))
		}
		for i, c := range name {
			switch {
			case c == '-':
				name[i] = rapid.SampledFrom([]byte("-_. ")).Draw(t, "separator")
			case rapid.Bool().Draw(t, "upper"):
				name[i] = strings.ToUpper(string(c))[0]
			}
		}
		return string(name)
	})
}

// credentials generates values with keys, words that are often around them, and
// tokens.
func credentials(tokens ...string) *rapid.Generator[string] {
	piece := rapid.OneOf(
		rapid.SampledFrom(append(slices.Concat(validKeys(), tokens), "Bearer", "bearer", "Basic", "sk-1", "weir_", badKey, "weir_\x00", `"`, "=", "-")),
		rapid.SampledFrom([]string{" ", "\t", ",", ", ", "\u00a0"}),
	)
	return rapid.Map(rapid.SliceOfN(piece, 0, 6), func(p []string) string { return strings.Join(p, "") })
}

// normal is the name that an upstream may make of name.
func normal(name string) string {
	return strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(strings.ToLower(name))
}

// holdsKey reports whether value has a valid key as a word of its own.
func holdsKey(value string) bool { return holds(value, validKeys()...) }

func holds(value string, secrets ...string) bool {
	for _, k := range secrets {
		if slices.Contains(strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" \t,=\"\u00a0", r) }), k) {
			return true
		}
	}
	return false
}

func TestAStrangerIsItsAddressOrItsCredential(t *testing.T) {
	addresses := rapid.SampledFrom([]string{"192.0.2.1", "10.0.0.1", "::1", "fd00::1", "unknown", "10.0.0.1, 192.0.2.1", "for=10.0.0.1", "eve", "", "eve\x00"})
	i := newIssuerInMemory(rs256())
	valid, forged := rs256().sign(t, i.claims(claims{"plan": "gold"})), signer{jose.RS256, otherRSA(), "rsa"}.sign(t, i.claims(nil))
	others := rs256().sign(t, i.claims(claims{"iss": "https://other.test"}))
	rapid.Check(t, func(t *rapid.T) {
		o := i.options()
		o.Identify = rapid.SampledFrom([][]string{nil, {"header", "api_key"}, {"header", "ip"}, {"ip"}, {}, {"jwt", "api_key"}}).Draw(t, "identify")
		a := newAuthRapid(t, o)
		h := http.Header{}
		for range rapid.IntRange(0, 4).Draw(t, "credentials") {
			name := spellings("authorization", "x-api-key").Draw(t, "credential")
			h[name] = append(h[name], credentials(valid, forged, others, "Bearer "+valid, "Bearer "+others).Draw(t, "value"))
		}
		for range rapid.IntRange(0, 4).Draw(t, "claims") {
			name := spellings("x-user-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-user", "x-real-ip", "forwarded").Draw(t, "claim")
			h[name] = append(h[name], addresses.Draw(t, "address"))
		}
		presented := strings.Join(slices.Concat(slices.Collect(maps.Values(h))...), "\n")
		before, presents := h.Clone(), a.Presents(h)

		c, err := a.Identify(t.Context(), h, stranger)
		if err != nil {
			var p *weir.Problem
			reason := strings.Contains(presented, "weir_") || strings.Contains(presented, valid) || strings.Contains(presented, forged)
			if !errors.As(err, &p) || p.Status != 401 || !reason || !presents || !auth.Failed(err) {
				t.Fatalf("refused with %v, want 401 and only because of a credential; presents %v, failed %v", err, presents, auth.Failed(err))
			}
			return
		}
		byToken := jwtCaller("4711", "gold")
		switch {
		case c == strangerCaller:
		case c == key("alice", "pro") && strings.Contains(presented, aliceKey):
		case c == key("alice", "basic") && strings.Contains(presented, alice2Key):
		case c == key("bob", "") && strings.Contains(presented, bobKey):
		case c == byToken && strings.Contains(presented, valid):
		default:
			t.Fatalf("caller %+v, want who owns the key or token, or the address of the peer", c)
		}
		for name, values := range h {
			switch n := normal(name); {
			case n == "x-user-id", n == "x-real-ip", n == "forwarded", strings.HasPrefix(n, "x-forwarded-"):
				t.Fatalf("%q goes on to the upstream", name)
			case len(values) == 0, slices.ContainsFunc(values, func(v string) bool { return holdsKey(v) || holds(v, valid, forged) }):
				t.Fatalf("%q goes on to the upstream as %q", name, values)
			case !presents && !slices.Equal(values, before[name]):
				t.Fatalf("%q goes on to the upstream as %q, it was %q", name, values, before[name])
			}
		}
	})
}

// FuzzToken compares which values are taken for the issuer's tokens with a naive
// reader, and looks what becomes of them.
func FuzzToken(f *testing.F) {
	i := newIssuerInMemory(rs256())
	valid := rs256().sign(f, i.claims(nil))
	other := rs256().sign(f, i.claims(claims{"iss": "https://other.test"}))
	parts := strings.Split(valid, ".")
	for _, header := range []string{`{"alg":"RS256","kid":"rsa"}`, `{"alg":"none"}`, `{"kid":7}`} {
		f.Add(header, `{"iss":"https://issuer.test","aud":["weir"],"exp":99999999999,"sub":"x"}`, parts[2], "Bearer ")
	}
	f.Add(`{"alg":"RS256","kid":"rsa"}`, `{"iss":"https:\/\/issuer.test"}`, "", "Bearer "+valid+", Bearer ")
	f.Add("", `{"iss":"https://issuer.test","iss":"x"}`, "=", "Basic "+other+" ")
	f.Add("", `{"iss":7}`, ".", valid)
	f.Add("", "", "", valid+","+other+",bearer ")
	a := newAuth(f, i.options())
	f.Fuzz(func(t *testing.T, header, payload, signature, before string) {
		b := base64.RawURLEncoding
		value := before + b.EncodeToString([]byte(header)) + "." + b.EncodeToString([]byte(payload)) + "." + signature
		for _, name := range []string{"Authorization", "X-Api-Key"} {
			h := http.Header{name: {value}}
			presents := a.Presents(h)
			if want := naiveToken(value, i.url); !strings.Contains(value, auth.KeyPrefix) && presents != want {
				t.Fatalf("%q: presents a credential: %v, want %v", value, presents, want)
			}
			c, err := a.Identify(t.Context(), h, stranger)
			switch {
			case err == nil && presents:
				if strings.HasPrefix(c.ID, "key:") || c == jwtCaller("4711", "") && !naiveToken(h.Get(name), i.url) && strings.Contains(value, valid) {
					break
				}
				t.Fatalf("%q: caller %+v, header %q", value, c, h)
			case err == nil:
				if c != strangerCaller || h.Get(name) != value {
					t.Fatalf("%q: caller %+v, header %q", value, c, h)
				}
			case !presents || !auth.Failed(err) || err.(*weir.Problem).Status != 401:
				t.Fatalf("%q: %v", value, err)
			}
		}
	})
}

// naiveToken reports whether value has a word of three parts that says it is
// issuer's.
func naiveToken(value, issuer string) bool {
	for _, word := range regexp.MustCompile(`[-_.A-Za-z0-9]+`).FindAllString(value, -1) {
		parts := strings.Split(word, ".")
		if len(parts) != 3 || len(word) > 16<<10 {
			continue
		}
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil || jsonscan.Check(text, 0) != nil {
			continue
		}
		var members map[string]any
		if json.Unmarshal(text, &members) == nil && members["iss"] == any(issuer) {
			return true
		}
	}
	return false
}

// FuzzIdentify holds the same for any bytes, with the walk's result against
// naiveClient where the peer is trusted.
func FuzzIdentify(f *testing.F) {
	f.Add(uint8(0), "Bearer "+aliceKey, bobKey, "bob", "192.0.2.1, 10.0.0.3", "X_User_ID")
	f.Add(uint8(1), "Bearer sk-1, bearer "+bobKey, "sk-1", "bob", "unknown, 10.0.0.3", "X_Forwarded_For")
	f.Add(uint8(2), "Basic "+aliceKey, "weir_", "\x00", "[::ffff:10.0.0.1]:80,fd00::1%eth0", "authorization")
	f.Add(uint8(3), "", "", "", "", "")
	i := newIssuerInMemory(rs256())
	f.Add(uint8(1), "Bearer "+rs256().sign(f, i.claims(nil)), "sk-1", "bob", "192.0.2.1", "X_Api_Key")
	a := newAuth(f, i.options())
	peers := []string{stranger, proxy, "[fd00::7]:1", "@"}
	f.Fuzz(func(t *testing.T, peer uint8, authorization, apiKey, user, forwarded, name string) {
		remote := peers[int(peer)%len(peers)]
		trusted := remote == proxy || remote == "[fd00::7]:1"
		h := http.Header{name: {user, authorization}, "Authorization": {authorization}, "X-Api-Key": {apiKey}, "X-User-Id": {user}, "X-Forwarded-For": strings.Split(forwarded, "\n")}
		c, err := a.Identify(t.Context(), h, remote)
		if err != nil {
			var p *weir.Problem
			if !errors.As(err, &p) || p.Status != 401 && (p.Status != 400 || !trusted) {
				t.Fatalf("refused with %v, want 401, or 400 for a trusted proxy", err)
			}
			return
		}
		if want := a.ClientAddr(h, remote); c.Addr != want || c.Addr.IsValid() && !c.Net.Contains(c.Addr) {
			t.Fatalf("caller's address is %v in %v, want %v", c.Addr, c.Net, want)
		}
		who, value, _ := strings.Cut(c.ID, ":")
		switch {
		case who == "key" && (strings.Contains(authorization+apiKey+user, aliceKey) || strings.Contains(authorization+apiKey+user, alice2Key) || strings.Contains(authorization+apiKey+user, bobKey)):
		case who == "jwt" && value == "4711":
		case who == "header" && trusted && value != "" && value == strings.Trim(user, " \t"):
		case who == "ip" && c.Anonymous && c.Plan == "":
		default:
			t.Fatalf("caller is %+v", c)
		}
		if h.Get("X-User-Id") != "" && !trusted || slices.ContainsFunc(h["Authorization"], holdsKey) || slices.ContainsFunc(h["X-Api-Key"], holdsKey) {
			t.Fatalf("the header goes on as %q", h)
		}
	})
}

// FuzzForwardedFor lets a client choose the beginning of X-Forwarded-For and
// sends it through a chain of our proxies, each of which appends its peer. The
// answer must be the client, whatever it wrote.
func FuzzForwardedFor(f *testing.F) {
	f.Add("192.0.2.1", uint8(0), false)
	f.Add("10.0.0.1, 10.0.0.2", uint8(1), true)
	f.Add("unknown", uint8(2), false)
	f.Add("::ffff:10.0.0.1,\n,[fd00::1%x]:80", uint8(3), true)
	f.Add(strings.Repeat("10.0.0.1,", 200), uint8(4), false)
	a := newAuth(f, options())
	f.Fuzz(func(t *testing.T, written string, proxies uint8, separate bool) {
		client, lines := "203.0.113.7", strings.Split(written, "\n")
		peer := client
		for i := range int(proxies % 90) {
			if separate {
				lines = append(lines, peer)
			} else {
				lines[len(lines)-1] += ", " + peer
			}
			peer = []string{"10.0.0.1", "fd00::1", "::ffff:10.0.0.2"}[i%3]
		}
		remote := netip.AddrPortFrom(netip.MustParseAddr(peer), 4711).String()
		if got := a.ClientAddr(http.Header{"X-Forwarded-For": lines}, remote); got.String() != client {
			t.Fatalf("%q from %s: client is %v, want %s", lines, remote, got, client)
		}

		// The same lines straight from a proxy have an answer as well: the
		// naive one.
		lines = strings.Split(written, "\n")
		if got, want := a.ClientAddr(http.Header{"X-Forwarded-For": lines}, proxy), naiveClient(lines); got != want && want.Is4() {
			t.Fatalf("%q: client is %v, want %v", lines, got, want)
		}
	})
}

// naiveClient walks the whole list with the standard library's parser. It knows
// only IPv4 addresses without ports, and gives the zero Addr for lists that
// have others.
func naiveClient(lines []string) netip.Addr {
	client := netip.MustParseAddr("10.0.0.2")
	entries := strings.Split(strings.Join(lines, ","), ",")
	slices.Reverse(entries)
	for i, e := range entries {
		e = strings.Trim(e, " \t")
		if strings.ContainsAny(e, ":[") {
			return netip.Addr{}
		}
		addr, err := netip.ParseAddr(e)
		if err != nil || i == 100 {
			return client
		}
		if client = addr; !netip.MustParsePrefix("10.0.0.0/8").Contains(addr) {
			return client
		}
	}
	return client
}

func TestTheWalkAgreesWithTheNaiveOne(t *testing.T) {
	a := newAuth(t, options())
	entry := rapid.SampledFrom([]string{"10.0.0.9", "10.1.2.3", "203.0.113.7", "192.0.2.1", "unknown", "", " 10.9.9.9 ", "10.0.0.256"})
	line := rapid.Map(rapid.SliceOfN(entry, 1, 8), func(e []string) string { return strings.Join(e, ",") })
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(line, 1, 20).Draw(t, "lines")
		if got, want := a.ClientAddr(http.Header{"X-Forwarded-For": lines}, proxy), naiveClient(lines); got != want {
			t.Fatalf("client is %v, want %v", got, want)
		}
	})
}

func BenchmarkIdentify(b *testing.B) {
	o := options()
	for i := range 10000 {
		o.Keys = append(o.Keys, keyOf(fmt.Sprintf("caller-%d", i)))
	}
	i := newIssuerInMemory(rs256())
	o.JWT = i.options().JWT
	a := newAuth(b, o)
	h := http.Header{
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Content-Type": {"application/json"}, "Content-Length": {"1234"}, "User-Agent": {"OpenAI/Python 1.99"},
		"X-Stainless-Arch": {"x64"}, "X-Stainless-Lang": {"python"}, "X-Stainless-Os": {"Linux"}, "X-Stainless-Runtime": {"CPython"}, "X-Request-Id": {"1"},
		"X-Forwarded-For": {"192.0.2.1, 203.0.113.7, 10.9.9.9"}, "X-Forwarded-Proto": {"https"},
	}
	run := func(name, remote string, credential []string) {
		b.Run(name, func(b *testing.B) {
			h := h.Clone()
			b.ReportAllocs()
			for b.Loop() {
				h["Authorization"] = credential
				if _, err := a.Identify(b.Context(), h, remote); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("key", stranger, []string{"Bearer " + aliceKey})
	run("key-behind-proxy", proxy, []string{"Bearer " + aliceKey})
	run("token", stranger, []string{"Bearer " + rs256().sign(b, i.claims(nil))})
	run("token-of-another", stranger, []string{"Bearer " + rs256().sign(b, i.claims(claims{"iss": "https://other.test"}))})
	run("address", stranger, []string{"Bearer sk-1"})
	run("address-behind-proxy", proxy, []string{"Bearer sk-1"})
}

func keyOf(name string) auth.Key { return auth.Key{Caller: name, Key: "weir_" + name} }

func newAuthRapid(t *rapid.T, o auth.Options) *auth.Authenticator {
	a, err := auth.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
