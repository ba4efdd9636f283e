// Package admin serves the operators of a gateway, on a listener of its own:
// metrics and health.
package admin

import (
	"net/http"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/gateway"
)

// Handler serves /metrics, /healthz and /readyz, which need no token.
func Handler(g *gateway.Gateway) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", g.Metrics())
	mux.Handle("/healthz", g.Live())
	mux.Handle("/readyz", g.Ready())
	mux.Handle("/", &weir.Problem{
		Status: http.StatusNotFound,
		Detail: "This is the admin listener: want /metrics, /healthz or /readyz.",
	})
	return mux
}
