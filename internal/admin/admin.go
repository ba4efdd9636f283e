// Package admin serves the operators of a gateway, on a listener of its own:
// metrics and health, and the API that shows and changes what is in force.
package admin

import (
	"context"
	"net/http"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// purger removes answers from the caches.
type purger interface {
	// Purge removes what kind and value say: a key, tag, path or caller, or all
	// with "". It returns how many answers this process has removed. With an error
	// other instances may have kept theirs.
	Purge(ctx context.Context, kind, value string) (removed int, err error)
}

// Handler serves /metrics, /healthz and /readyz, which need no token, and the API
// below /api/, which needs c.Token. Where that is "", the API answers only clients
// on this machine that name it as such, and no web pages.
func Handler(g *gateway.Gateway, c config.Admin) http.Handler {
	return handler(g, g, c)
}

func handler(g *gateway.Gateway, p purger, c config.Admin) http.Handler {
	caches := caches{p, g.Logger()}
	api := http.NewServeMux()
	for _, e := range []edits{planEdits(g), routeEdits(g), upstreamEdits(g)} {
		api.Handle("/api/v1/"+e.kind+"s", e.all())
		api.Handle("/api/v1/"+e.kind+"s/{name...}", e.one()) // a route's may have slashes
	}
	configuration := configuration{g}
	api.Handle("/api/v1/config", methods{http.MethodGet: configuration.show})
	api.Handle("/api/v1/reload", methods{http.MethodPost: configuration.reload})
	api.Handle("/api/v1/audit", methods{http.MethodGet: configuration.audit})
	streams := newStreams(g)
	guard := newGuard(g, c.Token)
	live := &live{gateway: g, guard: guard, streams: streams}
	api.Handle("/api/v1/snapshot", methods{http.MethodGet: live.snapshot})
	api.Handle("/api/v1/events", methods{http.MethodGet: live.events})
	api.Handle("/api/v1/explain", methods{http.MethodPost: explains{g}.explain})
	api.Handle("/api/v1/cache/purge", methods{http.MethodPost: caches.purge})
	keys := Keys(KeysOptions{Keys: storedKeys(g), Plans: g.Plans, By: remote, Log: g.Logger(), Note: g.Note})
	api.Handle("/api/v1/keys", keys)
	api.Handle("/api/v1/keys/", keys)
	api.Handle("/api/v1/usage", methods{http.MethodGet: newUsage(g.Database(), g.Logger()).show})
	jobs := g.JobsAPI()
	if jobs == nil {
		jobs = &weir.Problem{Status: http.StatusConflict, Detail: "There are no jobs: they need a database in the configuration, for example database: {url: sqlite:weir.db}."}
	}
	api.Handle("/api/v1/jobs", jobs)
	api.Handle("/api/v1/jobs/", jobs)
	api.Handle("/", notFound("below /api/v1/ want plans, routes, upstreams, config, reload, audit, snapshot, events, explain, keys, usage, jobs or cache/purge."))

	mux := http.NewServeMux()
	mux.Handle("/metrics", g.Metrics())
	mux.Handle("/healthz", g.Live())
	mux.Handle("/readyz", g.Ready())
	mux.Handle("/api/", guard.before(api))
	mux.Handle("/debug/", guard.before(newProfiles()))
	if err := handleDashboard(mux, g, guard, streams); err != nil {
		g.Logger().Error("there is no dashboard", "error", err.Error())
	}
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
	for _, name := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		if m[name] != nil || name == http.MethodHead && m[http.MethodGet] != nil {
			allowed = append(allowed, name)
		}
	}
	allow := strings.Join(allowed, ", ")
	p := problem(http.StatusMethodNotAllowed, "%.20q is not a method of this path: want %s.", method, allow)
	p.Header = http.Header{"Allow": {allow}}
	return p
}
