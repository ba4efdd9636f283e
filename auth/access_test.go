package auth_test

import (
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
)

func TestAllowAndDeny(t *testing.T) {
	i := newIssuer(t, rs256())
	type verdict struct {
		denied, exempt bool
	}
	served, exempt, denied := verdict{}, verdict{exempt: true}, verdict{denied: true}
	f := func(name string, allow, deny []string, remote string, h http.Header, want verdict) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			o := i.options()
			o.Allow, o.Deny = allow, deny
			a := newAuth(t, o)
			c, err := a.Identify(t.Context(), h.Clone(), remote)
			got := verdict{exempt: err == nil && a.Exempt(c)}
			if err != nil {
				got.denied = true
				named := slices.Contains(deny, c.ID) // who is denied by name is known by it
				if p := problem(t, err); !reflect.DeepEqual(p, &weir.Problem{Status: 403, Detail: "This caller is denied here."}) || auth.Failed(err) || c != (weir.Caller{}) && !named {
					t.Errorf("caller %+v, refused with %+v", c, p)
				}
			}
			if got != want {
				t.Errorf("caller %q: %+v, want %+v", c.ID, got, want)
			}
		})
	}
	list := func(entries ...string) []string { return entries }
	none := http.Header{}
	alice := http.Header{"X-Api-Key": {aliceKey}}
	user := http.Header{"X-User-Id": {"bob"}, "X-Forwarded-For": {"203.0.113.7"}}
	token := http.Header{"X-Api-Key": {rs256().sign(t, i.claims(nil))}}

	f("without lists everybody is served", nil, nil, stranger, none, served)
	f("who is not on a list is served", list("192.0.2.1", "key:bob"), list("192.0.2.2", "jwt:1"), stranger, alice, served)
	f("an allowed address is exempt", list("203.0.113.7"), nil, stranger, none, exempt)
	f("an allowed network is exempt", list("203.0.0.0/16"), nil, stranger, none, exempt)
	f("a network is taken without its host bits", list("203.0.113.99/24"), nil, stranger, none, exempt)
	f("an allowed address is exempt whoever comes from there", list("203.0.113.7"), nil, stranger, alice, exempt)
	f("an allowed key is exempt", list("key:alice"), nil, stranger, alice, exempt)
	f("an allowed token is exempt", list("jwt:4711"), nil, stranger, token, exempt)
	f("an allowed user is exempt", list("header:bob"), nil, proxy, user, exempt)
	f("an allowed user is not exempt on a stranger's word", list("header:bob"), nil, stranger, user, served)
	f("another way to the same name is another caller", list("header:alice", "jwt:alice"), list("header:alice2"), stranger, alice, served)
	f("names are compared to the letter", list("key:Alice"), list("key:alic", "key:alice "), stranger, alice, served)

	f("a denied address is refused", nil, list("203.0.113.7"), stranger, none, denied)
	f("a denied network is refused", nil, list("0.0.0.0/0"), stranger, none, denied)
	f("a denied network is refused with a valid key", nil, list("203.0.113.0/24"), stranger, alice, denied)
	f("a denied network is refused before a bad key is looked at", nil, list("203.0.113.0/24"), stranger, http.Header{"X-Api-Key": {badKey}}, denied)
	f("a denied key is refused", nil, list("key:alice"), stranger, alice, denied)
	f("a denied token is refused", nil, list("jwt:4711"), stranger, token, denied)
	f("a denied user is refused", nil, list("header:bob"), proxy, user, denied)
	f("a denied client is found behind a proxy", nil, list("203.0.113.7"), proxy, user, denied)
	f("a denied proxy is not its client", nil, list("10.0.0.2"), proxy, user, served)
	f("all of IPv4 is not IPv6", nil, list("0.0.0.0/0"), "[2001:db8::7]:1", none, served)
	f("all of IPv6 is not IPv4", nil, list("::/0"), stranger, none, served)
	f("all of IPv6 is all of it", nil, list("::/0"), "[2001:db8::7]:1", none, denied)
	f("deny wins over an allowed caller", list("key:alice"), list("203.0.113.0/24"), stranger, alice, denied)
	f("deny wins over an allowed network", list("203.0.113.7"), list("key:alice"), stranger, alice, denied)
	f("deny wins over a longer prefix", list("203.0.113.7"), list("203.0.113.0/24"), stranger, none, denied)
	f("no network holds a peer without an address", list("0.0.0.0/0"), list("::/0"), "@", none, served)

	for _, form := range []string{"1.2.3.4", "::ffff:1.2.3.4", "::ffff:102:304", "1.2.3.0/24", "::ffff:1.2.3.0/120", "::ffff:102:300/120", "0.0.0.0/0", "::ffff:0:0/96"} {
		for _, peer := range []string{"1.2.3.4:1", "[::ffff:1.2.3.4]:1", "[::ffff:102:304]:1", "[64:ff9b::1.2.3.4]:1", "[2002:102:304::1]:1"} {
			f(form+" on deny is "+peer, nil, list(form), peer, none, denied)
			f(form+" on allow is "+peer, list(form), nil, peer, none, exempt)
		}
		f(form+" on deny is not another", nil, list(form), "[2001:db8::1]:1", none, served)
	}
}

func TestADeniedAddressCausesNoFetch(t *testing.T) {
	i := newIssuer(t, rs256())
	o := i.options()
	o.Deny = []string{"203.0.113.0/24"}
	a := newAuth(t, o)
	_, err := a.Identify(t.Context(), http.Header{"X-Api-Key": {rs256().sign(t, i.claims(nil))}}, stranger)
	if p, n := problem(t, err), i.discoveries.Load(); p.Status != 403 || n != 0 {
		t.Errorf("%v after %d fetches, want 403 after none", p, n)
	}
}

func TestFailedAndNetwork(t *testing.T) {
	i := newIssuer(t, rs256())
	o := i.options()
	o.Require, o.PrefixV4 = true, 24
	a := newAuth(t, o)
	if auth.Failed(nil) {
		t.Error("no error is said to be a failure")
	}
	f := func(name, remote string, h http.Header, presents, failed bool, network string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if got := a.Presents(h); got != presents {
				t.Errorf("presents a credential: %v, want %v", got, presents)
			}
			before := a.Network(h, remote)
			_, err := a.Identify(t.Context(), h, remote)
			if got := auth.Failed(err); got != failed {
				t.Errorf("failed: %v for %v, want %v", got, err, failed)
			}
			want := netip.Prefix{}
			if network != "" {
				want = netip.MustParsePrefix(network)
			}
			if after := a.Network(h, remote); before != want || after != want {
				t.Errorf("network is %v before Identify and %v afterwards, want %v", before, after, want)
			}
		})
	}
	behind := func(name, value string) http.Header {
		return http.Header{name: {value}, "X-Forwarded-For": {"192.0.2.1, 203.0.113.7"}}
	}
	f("a valid key", stranger, http.Header{"X-Api-Key": {aliceKey}}, true, false, "203.0.113.0/24")
	f("an unknown key", stranger, http.Header{"X-Api-Key": {badKey}}, true, true, "203.0.113.0/24")
	f("an unknown key behind a proxy", proxy, behind("Authorization", "Bearer "+badKey), true, true, "203.0.113.0/24")
	f("an unknown key that says it is behind a proxy", "[2001:db8:1:2:3::]:1", behind("X-Api-Key", badKey), true, true, "2001:db8:1:2::/64")
	f("a misplaced key", stranger, http.Header{"Authorization": {"Basic " + aliceKey}}, true, true, "203.0.113.0/24")
	f("an unknown key from nowhere", "@", http.Header{"X_Api.Key": {badKey}}, true, true, "")
	f("a bad token", "[::ffff:203.0.113.7]:1", http.Header{"X-Api-Key": {unsigned(`{"alg":"none"}`, i.claims(nil), nil)}}, true, true, "203.0.113.0/24")
	f("no credential", stranger, http.Header{}, false, false, "203.0.113.0/24")
	f("an upstream's key", stranger, http.Header{"Authorization": {"Bearer sk-weir_1"}, "X-Api-Key": {"sk-1"}}, false, false, "203.0.113.0/24")
	f("a key in a header that is not looked at", stranger, http.Header{"Api-Key": {badKey}}, false, false, "203.0.113.0/24")
}
