// Package admin serves the operators of a gateway, on a listener of its own:
// metrics and health, and the API that shows and changes what is in force.
package admin

import (
	"net/http"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// Handler serves /metrics, /healthz and /readyz, which need no token, and the API
// below /api/, which needs c.Token. Where that is "", the API answers only clients
// on this machine that name it as such, and no web pages.
func Handler(g *gateway.Gateway, c config.Admin) http.Handler {
	plans := plans{g}
	api := http.NewServeMux()
	api.Handle("/api/v1/plans", methods{http.MethodGet: plans.list})
	api.Handle("/api/v1/plans/{name}", methods{http.MethodGet: plans.show, http.MethodPatch: plans.change})
	api.Handle("/", notFound("want /api/v1/plans or /api/v1/plans/NAME."))

	mux := http.NewServeMux()
	mux.Handle("/metrics", g.Metrics())
	mux.Handle("/healthz", g.Live())
	mux.Handle("/readyz", g.Ready())
	mux.Handle("/api/", newGuard(g, c.Token).before(api))
	mux.Handle("/", notFound("want /metrics, /healthz, /readyz or /api/v1/plans."))
	return mux
}

func notFound(want string) http.Handler {
	return &weir.Problem{Status: http.StatusNotFound, Detail: "This is the admin listener: " + want}
}

// methods are what a path can do. GET serves HEAD as well.
type methods map[string]func(http.ResponseWriter, *http.Request) error

// ServeHTTP lets the request's method answer, and writes its error.
func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	do, ok := m[method]
	if !ok {
		refuse(w, r, m.notAllowed(r.Method))
		return
	}
	if err := do(w, r); err != nil {
		refuse(w, r, err)
	}
}

func (m methods) notAllowed(method string) error {
	var allowed []string
	for _, name := range []string{http.MethodGet, http.MethodHead, http.MethodPatch} {
		if m[name] != nil || name == http.MethodHead && m[http.MethodGet] != nil {
			allowed = append(allowed, name)
		}
	}
	allow := strings.Join(allowed, ", ")
	p := problem(http.StatusMethodNotAllowed, "%.20q is not a method of this path: want %s.", method, allow)
	p.Header = http.Header{"Allow": {allow}}
	return p
}
