package telemetry_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"

	"github.com/inferweir/weir/telemetry"
)

// A handler marks its phases, and the client reads them in Server-Timing.
func ExampleTiming() {
	predict := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop := telemetry.Start(r.Context(), "tokenize")
		// … the work of this phase
		stop()
		func() {
			defer telemetry.Start(r.Context(), "model")()
			// … the work of this one
		}()
		_, _ = io.WriteString(w, `{"label": "fr"}`)
	})

	server := httptest.NewServer(telemetry.Timing(predict))
	defer server.Close()
	res, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = res.Body.Close()

	timing := res.Header.Get("Server-Timing")
	fmt.Println(regexp.MustCompile(`[0-9.]+`).ReplaceAllString(timing, "…"))
	// Output: total;dur=…, tokenize;dur=…, model;dur=…
}
