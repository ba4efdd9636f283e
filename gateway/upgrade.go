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
	switch {
	case !x.upgrades || x.decides:
		return nil
	case !slices.Contains(rt.config.Upgrade, websocket):
		return cannotUpgrade()
	case len(x.body) > 0:
		return problem(http.StatusBadRequest, "The handshake of a WebSocket has a body of %d bytes: want none.", len(x.body))
	}
	return nil
}

// tunnel passes a WebSocket through. It holds its place and its slots until either
// side closes it.
func (x *exchange) tunnel() error {
	x.watch()
	if err := x.reserve(); err != nil { // 429, 503
		return err
	}
	slot, err := x.admit(x.r.Context(), x.r.Header) // 503
	if err != nil {
		return err
	}
	x.called = true
	x.r.Body, x.r.ContentLength, x.r.TransferEncoding = http.NoBody, 0, nil
	return x.chosen.upstream.pool.Upgrade(x.w, x.r, upstream.Call{Seat: x.seat(slot), Seats: seats{x}, Sending: x.sending()})
}
