package gateway

import (
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// response is the http.ResponseWriter of an exchange. Whoever writes the answer,
// it sets the fields that every answer has.
type response struct {
	http.ResponseWriter
	exchange  *exchange
	status    int // 0: nothing is written yet
	sent      int64
	firstByte time.Duration
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if status >= 200 && w.status == 0 {
		w.status = status
		w.firstByte = time.Since(w.exchange.started)
		w.exchange.setFields(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// setFields sets the fields of every answer. What an upstream said stands behind
// what is said here, where a field is a list.
func (x *exchange) setFields(h http.Header) {
	h["X-Request-Id"] = []string{x.id}
	h["Server-Timing"] = append([]string{x.timings.Header()}, h["Server-Timing"]...)
	ratelimit.SetFields(h, x.takes)
	if x.chosen == nil {
		return
	}
	if x.chosen.config.LegacyHeaders {
		ratelimit.SetLegacyFields(h, x.takes)
	}
	if x.cacheStatus != "" {
		// RFC 9211: the cache nearest to the origin comes first.
		h["Cache-Status"] = append(foreign(h["Cache-Status"]), x.cacheStatus)
		x.chosen.cache.Privatize(h)
	}
}

// foreign leaves out what this cache said itself.
func foreign(statuses []string) (others []string) {
	for _, s := range statuses {
		if !strings.HasPrefix(s, "weir;") {
			others = append(others, s)
		}
	}
	return others
}

// dropLimitFields removes the fields in which an upstream tells its own limits.
func dropLimitFields(h http.Header) {
	for name := range h {
		if name == "Ratelimit" || name == "Ratelimit-Policy" || strings.HasPrefix(name, "X-Ratelimit-") {
			delete(h, name)
		}
	}
}
