package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/dialect"
)

// Decide answers whether a request that another server has received may go on: 200,
// or the refusal that the client is to get, both with the fields that tell it what
// is left. It is for nginx's auth_request, Traefik's ForwardAuth and Caddy's
// forward_auth, on a listener that only these can reach.
//
// The request's own method and target are in X-Forwarded-Method and
// X-Forwarded-Uri, as Traefik and Caddy send them, or in X-Original-Method (GET if
// absent) and X-Original-URI, as nginx is told to. Its caller is found as always:
// in its fields, which are passed on, and behind the server as a trusted proxy.
//
// What is decided is what can be known without a body: policies that count
// requests are taken from; those that count tokens or bytes, and slots, are looked
// at. Routes for certain models are passed over, because the model stands in the
// body. The cache and the upstream have no part in it.
func (g *Gateway) Decide() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := newExchange(g, w, r)
		x.decides = true
		g.serve(x, x.decide)
	})
}

// decide is route for a request that is elsewhere.
func (x *exchange) decide() error {
	if err := x.original(); err != nil { // 400
		return err
	}
	if err := x.match(); err != nil { // 400, 404, 405, 414, 431
		return err
	}
	if err := x.authenticate(); err != nil { // 400, 401, 403, 429
		return err
	}
	if err := x.chooseUnread(); err != nil { // 403, 404
		return err
	}
	if err := x.reserve(); err != nil { // 429, 503
		return err
	}
	x.reserved = false // nothing more will be known
	x.w.WriteHeader(http.StatusOK)
	return nil
}

// chooseUnread is choose for a request without a body.
func (x *exchange) chooseUnread() error {
	x.call = new(dialect.Call)
	i := slices.IndexFunc(x.candidates, func(rt *route) bool { return rt.model.fits("") })
	if i < 0 {
		return problem(http.StatusNotFound, "The routes with this path are for certain models, and a decision knows no model.")
	}
	rt := x.candidates[i]
	x.begin(rt)
	return x.mayManage(rt)
}

// original puts the request in place that another server asks about.
func (x *exchange) original() error {
	h := x.r.Header
	method, uri := h["X-Forwarded-Method"], h["X-Forwarded-Uri"]
	if nginx := h["X-Original-Uri"]; len(nginx) > 0 {
		// Each server overwrites its own fields and passes the others on: were one
		// kind preferred, a client could write it.
		if len(uri) > 0 || len(method) > 0 {
			return problem(http.StatusBadRequest, "The request's target stands in X-Original-URI and in X-Forwarded-Uri or -Method: want one of the two.")
		}
		method, uri = h["X-Original-Method"], nginx
		if len(method) == 0 {
			method = []string{http.MethodGet}
		}
	}
	if len(uri) != 1 || len(method) != 1 {
		return problem(http.StatusBadRequest, "Want the method and the target of the request to decide on, once each: X-Forwarded-Method and X-Forwarded-Uri, or X-Original-Method and X-Original-URI.")
	}
	u, err := url.ParseRequestURI(uri[0])
	// A fragment is no part of a target: the other server, or its application, may
	// take the path to end there.
	if err != nil || !strings.HasPrefix(uri[0], "/") || strings.Contains(uri[0], "#") {
		return &weir.Problem{Status: http.StatusBadRequest, Detail: "The target of the request to decide on is no path.", Err: err}
	}
	// What becomes of the connection, the other server and its application say.
	for _, name := range []string{"X-Forwarded-Method", "X-Forwarded-Uri", "X-Original-Method", "X-Original-Uri", "Upgrade"} {
		delete(h, name)
	}
	// nginx passes the length of a body on even where it is told to send none.
	refuseUnread(x.w.ResponseWriter, x.r)
	x.r = x.r.Clone(x.r.Context())
	x.r.Method, x.r.URL, x.r.RequestURI = method[0], u, uri[0]
	x.r.Body, x.r.ContentLength, x.r.TransferEncoding = http.NoBody, 0, nil
	return nil
}
