package admin

import (
	"log/slog"
	"net/http"
	"time"
)

// UsageHandler is GET /api/v1/usage alone, of a ledger and at a time.
func UsageHandler(l ledger, now time.Time) http.Handler {
	return methods{http.MethodGet: usage{l, func() time.Time { return now }, slog.New(slog.DiscardHandler)}.show}
}
