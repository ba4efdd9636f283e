package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
	"github.com/inferweir/weir/ratelimit"
)

// The paths that are Weir's own, where there are jobs and blobs.
const (
	jobsPath  = "/jobs/"
	blobsPath = "/blobs/"
)

// own is what serves the request if its path is one of Weir's own.
func (x *exchange) own() func() error {
	d, path := x.gateway.data, x.r.URL.Path
	switch {
	case x.decides:
	case d.jobs != nil && strings.HasPrefix(path, jobsPath):
		return x.serveJobs
	case d.blobs != nil && (strings.HasPrefix(path, blobsPath) || path+"/" == blobsPath):
		return x.serveBlobs
	}
	return nil
}

// ownAnswers take as long as their clients do, who may load much, or follow a job.
const ownAnswers = 12 * time.Hour

func (x *exchange) longAnswer() {
	// Not every writer has deadlines.
	_ = http.NewResponseController(x.w).SetWriteDeadline(x.started.Add(ownAnswers))
}

// exchangeKey is of the exchange in the context of a request for blobs.
type exchangeKey struct{}

// asReached is the request for who answers with links: with the scheme by which its
// client reached it, which is what a trusted proxy says of that, and all that is left of
// X-Forwarded-Proto.
func (x *exchange) asReached() *http.Request {
	r, u := x.r.WithContext(context.WithValue(x.r.Context(), exchangeKey{}, x)), *x.r.URL
	if x.r.Header.Get("X-Forwarded-Proto") == "https" {
		u.Scheme = "https"
	}
	r.URL = &u
	if x.keyInField && x.gateway.data.linksLeave {
		// Clients take Authorization out where they are sent to another host, but not
		// this field: they are told of the link, and not sent there.
		r.Header = r.Header.Clone()
		r.Header["Accept"] = []string{"application/json"}
	}
	return r
}

// admitUpload takes from the policies of the caller's plan for a link to upload: a
// request, and the bytes that it may bring.
func admitUpload(r *http.Request, _ weir.Caller, bytes int64) error {
	x, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if !ok || x.exempt {
		return nil
	}
	x.takes = nil
	for _, p := range x.setup.policiesOf(x.caller.ID, x.plan) {
		if p.by == "route" || p.by == "model" || strings.HasPrefix(p.by, "header:") || p.Concurrent > 0 {
			continue // an upload has none of these
		}
		t := ratelimit.Take{Policy: p.Policy, Key: x.countedBy(p.by)}
		switch p.Unit {
		case ratelimit.Requests:
			t.Cost = 1
		case "bytes":
			t.Cost = bytes
		}
		x.takes = append(x.takes, t)
	}
	err := x.take(x.takes)
	x.reserved = false // nothing is given back: what is not sent could have been
	return err
}

// serveJobs answers about the caller's jobs.
func (x *exchange) serveJobs() error {
	if err := checkRequest(x.r, x.setup.config.Limits); err != nil { // 400, 414, 431, 501, 505
		return err
	}
	if err := x.authenticate(); err != nil { // 400, 401, 403
		return err
	}
	x.longAnswer()
	x.jobID, _, _ = strings.Cut(strings.TrimPrefix(x.r.URL.Path, jobsPath), "/")
	return x.gateway.data.jobs.Serve(x.w, x.asReached(), x.caller) // 404, 405, 409, 410, 503
}

// serveBlobs answers with blobs, and takes them. A signed URL needs no credentials: it
// is one.
func (x *exchange) serveBlobs() error {
	if err := checkRequest(x.r, x.setup.config.Limits); err != nil {
		if p, ok := errors.AsType[*weir.Problem](err); ok && p.Status == http.StatusBadRequest {
			return blob.Forbidden() // no key has such a path
		}
		return err
	}
	signed := x.r.URL.Query().Has("signature")
	presents := x.setup.callers.Presents(x.r.Header)
	if err := x.authenticate(); err != nil {
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok || presents || !signed || p.Status != http.StatusUnauthorized {
			return err
		}
		x.caller = weir.Caller{Anonymous: true} // who would need a key elsewhere
	}
	x.longAnswer()
	caller := &x.caller
	if signed && x.caller.Anonymous {
		caller = nil
	}
	return x.gateway.data.blobs.Serve(x.w, x.asReached(), caller) // 400, 403, 404, 405, 409, 411, 413, 416, 503
}
