package gateway

import (
	"errors"
	"net/http"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/telemetry"
)

// noteRefusal remembers why p refuses the request, for the log and the metrics. What has
// been said first counts: it is nearest to the cause.
func (x *exchange) noteRefusal(p *weir.Problem) {
	if x.refusedFor == "" {
		x.refusedFor = x.reasonFor(p)
	}
}

// reasonFor is why p refuses the request, one of telemetry's words.
func (x *exchange) reasonFor(p *weir.Problem) string {
	refusal, byQueue := errors.AsType[*admission.Refusal](p)
	switch {
	case byQueue && refusal.Reason == admission.NoTarget:
		return telemetry.RefusedUpstream
	case byQueue && refusal.Reason == admission.QueueClosed:
		return telemetry.RefusedStopping
	case byQueue, errors.Is(p, job.ErrFull):
		return telemetry.RefusedQueue
	case x.storeMode == storeClosed && p.Status == http.StatusServiceUnavailable:
		return telemetry.RefusedStore
	case p.Type == typeAbnormalUsage:
		return telemetry.RefusedAttempts
	}
	switch p.Status {
	case http.StatusUnauthorized:
		return telemetry.RefusedKey
	case http.StatusForbidden:
		return telemetry.RefusedDenied
	case http.StatusTooManyRequests:
		return telemetry.RefusedQuota
	case 0, http.StatusInternalServerError:
		return telemetry.RefusedInternal
	case http.StatusBadGateway:
		return telemetry.RefusedUpstream
	case http.StatusServiceUnavailable:
		if x.called {
			return telemetry.RefusedUpstream
		}
		return telemetry.RefusedAway
	case http.StatusGatewayTimeout:
		if weir.Ended(x.r.Context()) != nil {
			return telemetry.RefusedDeadline
		}
		return telemetry.RefusedUpstream
	}
	return telemetry.RefusedRequest
}

// notePolicy remembers which policy refused the request.
func (x *exchange) notePolicy(name string, takes []ratelimit.Take) {
	x.policy = name
	for i := range takes {
		if t := &takes[i]; t.Policy.Name == name && !t.Decision.Allowed && !t.Policy.Shadow {
			x.scopes[0] = t.Policy.Scope
			return
		}
	}
}

// clientAddr is the address of who sent the request; "" where nobody did.
func (x *exchange) clientAddr() string {
	addr := x.caller.Addr
	if !addr.IsValid() && !x.inBackground() { // it was refused before that was known
		addr = x.setup.callers.ClientAddr(x.r.Header, x.r.RemoteAddr)
	}
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}
