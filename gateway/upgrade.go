package gateway

import (
	"net/http"
	"slices"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/upstream"
)

// websocket is the one protocol that a connection can be upgraded to. A server that
// takes any other, for example HTTP/2, would get requests that nobody here looks at.
const websocket = "websocket"

// cannotUpgrade is the refusal where no route lists the upgrade.
func cannotUpgrade() *weir.Problem {
	return problem(http.StatusNotImplemented, "The connection cannot be upgraded on this path.")
}

// mayUpgrade refuses an upgrade that the route does not list.
func (x *exchange) mayUpgrade(rt *route) error {
	if x.upgrades && !x.decides && !slices.Contains(rt.config.Upgrade, websocket) {
		return cannotUpgrade()
	}
	return nil
}

// tunnel passes a WebSocket through. It holds its place and its slots until either
// side closes it.
func (x *exchange) tunnel() error {
	if err := x.reserve(); err != nil { // 429, 503
		return err
	}
	slot, err := x.admit(x.r.Context(), x.r.Header) // 503
	if err != nil {
		return err
	}
	x.called = true
	return x.chosen.upstream.pool.Upgrade(x.w, x.r, upstream.Call{Seat: seat{slot}, Seats: seats{x}})
}
