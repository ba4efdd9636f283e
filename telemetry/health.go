package telemetry

import (
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/inferweir/weir"
)

// Health answers the two questions that an orchestrator asks. The zero value
// lives and is not ready: "starting". Its methods may be called concurrently.
type Health struct {
	// state is nil until the first call: starting. Ready is the empty reason.
	state atomic.Pointer[string]
}

// SetReady makes Ready answer 200 from now on.
func (h *Health) SetReady() {
	ready := ""
	h.state.Store(&ready)
}

// SetNotReady makes Ready answer 503 with the reason from now on; at most 256
// bytes of it. An empty reason is told as "not ready". The reason is public:
// it must name no address and no secret.
func (h *Health) SetNotReady(reason string) {
	if reason == "" {
		reason = "not ready"
	}
	reason = cut(reason)
	h.state.Store(&reason)
}

// Live is /healthz: 200 and "ok" as long as the process can answer at all. It
// does not look at readiness, because who restarts a server that only waits
// for its upstream makes things worse.
func (h *Health) Live() http.Handler {
	return probe(func() string { return "" })
}

// Ready is /readyz: 200 and "ok" after SetReady, else 503 and the reason, as
// plain text.
func (h *Health) Ready() http.Handler {
	return probe(func() string {
		if s := h.state.Load(); s != nil {
			return *s
		}
		return "starting"
	})
}

// probe answers 200, or 503 where there is a reason against it.
func probe(reason func() string) http.Handler {
	return readOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		status, text := http.StatusOK, "ok\n"
		if s := reason(); s != "" {
			status, text = http.StatusServiceUnavailable, s+"\n"
		}
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(text)))
		h.Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text)) // a prober that has left needs no answer
	}))
}

// readOnly lets GET and HEAD through and keeps the answers out of caches: what
// a probe or a scrape reads is about now.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			p := weir.Problem{
				Status: http.StatusMethodNotAllowed,
				Detail: "This resource can only be read: use GET or HEAD.",
				Header: http.Header{"Allow": {"GET, HEAD"}},
			}
			p.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
