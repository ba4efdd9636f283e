package admin

import (
	"net/http"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// HandlerWith is Handler with p in the place of the gateway's caches.
func HandlerWith(g *gateway.Gateway, p purger, c config.Admin) http.Handler {
	return handler(g, p, c)
}
