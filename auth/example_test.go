package auth_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
)

func Example() {
	a, err := auth.New(auth.Options{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Keys:           []auth.Key{{Caller: "alice", Key: "weir_4fUq0WJ6mB", Plan: "pro"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := a.Middleware()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := weir.CallerFrom(r.Context())
		fmt.Printf("%s, plan %q, network %s\n", caller.ID, caller.Plan, caller.Net)
	}))
	get := func(peer, name, value string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = peer
		r.Header.Set(name, value)
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != http.StatusOK {
			fmt.Println(w.Code, w.Header().Get("WWW-Authenticate"))
		}
	}
	get("203.0.113.7:4711", "Authorization", "Bearer weir_4fUq0WJ6mB")
	get("203.0.113.7:4711", "Authorization", "Bearer weir_guessed")
	get("[2001:db8:1:2:3:4:5:6]:4711", "X-User-ID", "root")
	get("10.0.0.2:4711", "X-Forwarded-For", "192.0.2.1, 203.0.113.7")
	get("10.0.0.2:4711", "X-User-ID", "bob")
	// Output:
	// key:alice, plan "pro", network 203.0.113.7/32
	// 401 Bearer realm="weir", error="invalid_token"
	// ip:2001:db8:1:2::/64, plan "", network 2001:db8:1:2::/64
	// ip:203.0.113.7, plan "", network 203.0.113.7/32
	// header:bob, plan "", network 10.0.0.2/32
}
