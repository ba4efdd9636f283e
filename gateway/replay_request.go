package gateway

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/dialect"
)

// start takes the steps that need no body: a status other than 0 refuses it.
func (r *rerun) start() int {
	v, in := r.replayer, r.in
	rt, path := v.pathOf(in)
	x := &exchange{gateway: v.gateway, setup: v.setup, started: v.now, r: &http.Request{
		Method: in.method, URL: &url.URL{Path: path}, RequestURI: path,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody,
	}}
	x.w = &response{ResponseWriter: nobody{http.Header{}}, exchange: x}
	r.x = x
	if in.path == hidden {
		r.assume(assumePath)
		if rt == nil {
			return http.StatusNotFound
		}
		x.candidates, x.chosen, x.fits = []*route{rt}, rt, rt.upstream
	} else if err := x.match(); err != nil {
		return statusOf(err)
	}
	if status := r.identify(); status != 0 {
		return status
	}
	return r.choose()
}

// pathOf is the path of a request. Of one that is hidden it is what the route of the log,
// which comes with it, has at least; nil: the configuration has no such route.
func (v *replayer) pathOf(in *logged) (*route, string) {
	if in.path != hidden {
		return nil, in.path
	}
	for _, rt := range v.setup.routes {
		if rt.name == in.route {
			return rt, rt.path
		}
	}
	return nil, "/"
}

func statusOf(err error) int {
	if p, ok := errors.AsType[*weir.Problem](err); ok && p.Status != 0 {
		return p.Status
	}
	return http.StatusInternalServerError
}

// identify finds out what plan the caller has. Who it is, the log says.
func (r *rerun) identify() int {
	v, in, x := r.replayer, r.in, r.x
	caller := weir.Caller{ID: in.caller, Plan: in.plan}
	if strings.HasPrefix(in.client, hidden+":") {
		r.assume(assumeClient)
	} else if in.client != "" {
		// By the address alone: is it denied, and what network is it of?
		by, err := v.setup.callers.Identify(v.ctx, http.Header{}, net.JoinHostPort(in.client, "0"))
		if p, ok := errors.AsType[*weir.Problem](err); ok && p.Status == http.StatusForbidden {
			return p.Status
		}
		caller.Addr, caller.Net = by.Addr, by.Net
		if strings.HasPrefix(in.caller, "ip:") && by.ID != "" {
			caller.ID, caller.Anonymous = by.ID, true
		}
	}
	kind, name, _ := strings.Cut(caller.ID, ":")
	switch kind {
	case "key":
		i := slices.IndexFunc(v.setup.config.Callers.Keys, func(k config.Key) bool { return k.Caller == name })
		if i >= 0 {
			caller.Plan = v.setup.config.Callers.Keys[i].Plan
		} else {
			r.assume(assumeKey)
		}
	case "jwt": // its token says
	case hidden:
		r.assume(assumeCaller)
	default:
		caller.Plan = ""
	}
	switch {
	case slices.Contains(v.setup.config.Callers.Deny, caller.ID):
		return http.StatusForbidden
	case v.require && kind == "ip":
		return http.StatusUnauthorized
	}
	x.plan = v.setup.planOf(caller)
	x.caller, x.exempt = caller, v.setup.callers.Exempt(caller)
	x.caller.Plan = x.plan
	return 0
}

// choose takes the route that serves the model. The name in the log may be the answer's
// and not the request's: where the route of the log does not serve it, or none does, the
// request stays on that route.
func (r *rerun) choose() int {
	v, in, x := r.replayer, r.in, r.x
	fits := func(rt *route) bool { return rt.model.fits(rt.upstream.dialect.Canonical(in.model)) }
	chosen := slices.IndexFunc(x.candidates, fits)
	logged := slices.IndexFunc(x.candidates, func(rt *route) bool { return rt.name == in.route })
	if logged >= 0 && chosen != logged && !fits(x.candidates[logged]) {
		r.assume(assumeModel)
		chosen = logged
	}
	if chosen < 0 {
		return http.StatusNotFound
	}
	x.chosen = x.candidates[chosen]
	x.call, x.readAs = r.read(x.chosen), x.chosen.upstream
	if in.bytesIn > int64(x.chosen.config.MaxBody) {
		return http.StatusRequestEntityTooLarge
	}
	if err := x.mayManage(x.chosen); err != nil {
		return statusOf(err)
	}
	x.body = v.bytes(in.bytesIn)
	r.noteUnknown()
	return 0
}

// read makes what the dialect would have read in the body, of what the log says of it.
func (r *rerun) read(rt *route) *dialect.Call {
	v, in := r.replayer, r.in
	if !rt.reads {
		return new(dialect.Call)
	}
	d := rt.upstream.dialect
	request := dialect.Request{Method: in.method, Path: rt.upstream.path(r.x.r.URL.Path), Depth: v.setup.config.Limits.JSONDepth}
	c := d.Read(request)
	if in.bytesIn > 0 {
		said := map[string]any{"stream": in.stream}
		if c.Model == "" && in.model != "" {
			said["model"] = in.model
		}
		request.Body, _ = json.Marshal(said) // strings and a boolean
		c = d.Read(request)
	}
	c.Err, c.Stream = nil, in.stream
	if in.model != "" {
		c.Model = in.model
	}
	if in.hash != 0 {
		c.Deterministic = !in.samples
	}
	c.Estimate.Input, c.Estimate.Output = in.estimateIn, in.estimateOut
	return c
}
