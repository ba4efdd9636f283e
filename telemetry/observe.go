package telemetry

import (
	"net/http"

	"github.com/inferweir/weir"
)

// Observe counts all that an entry tells of a request that has ended: the request, why it
// was refused, what its cache did and saved, and what the model used. RequestStarted with
// the same route must have been called, but not for what runs in the background, which is
// no request of anybody's: of that only what the model used counts. e is not kept.
func (m *Metrics) Observe(e *Entry, inBackground bool) {
	if !inBackground {
		m.observeRequest(e)
	}
	if e.Usage != (weir.Usage{}) {
		m.Tokens(e.Route, e.Model, e.Usage)
	}
}

func (m *Metrics) observeRequest(e *Entry) {
	m.RequestDone(e.Route, e.Method, e.Status, e.Duration)
	r := m.series.Load().route(e.Route)
	if e.FirstByte > 0 && e.Status < http.StatusBadRequest {
		r.firstByte.Observe(e.FirstByte.Seconds())
	}
	// What was called for: a stream from the cache has no pauses of a model's.
	if gaps := e.Usage.Output - 1; e.Stream && gaps > 0 && e.FirstByte > 0 && e.Duration > e.FirstByte {
		r.tokenGap.Observe((e.Duration - e.FirstByte).Seconds() / float64(gaps))
	}
	if reason := e.refused(); reason != "" {
		r.refusals[refusalIndex(reason)].Inc()
	}
	if e.failed() {
		r.errors.Inc()
	}
	if e.CacheResult != "" {
		m.Cache(e.Route, e.CacheResult)
	}
	if e.Saved > 0 {
		r.savedSeconds.Add(e.Saved.Seconds())
	}
	if e.SavedTokens > 0 {
		r.savedTokens.Add(float64(e.SavedTokens))
	}
}
