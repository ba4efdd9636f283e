package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/inferweir/weir/telemetry"
)

// probed is everything that a prober sees.
type probed struct {
	Status                           int
	Type, Length, Allow, Cache, Body string
}

func probe(h http.Handler, method string) probed {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
	return probed{w.Code, w.Header().Get("Content-Type"), w.Header().Get("Content-Length"),
		w.Header().Get("Allow"), w.Header().Get("Cache-Control"), w.Body.String()}
}

func TestHealth(t *testing.T) {
	const text = "text/plain; charset=utf-8"
	f := func(name string, set func(*telemetry.Health), live, ready probed) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			var h telemetry.Health
			l, r := h.Live(), h.Ready() // handlers see changes that come later
			set(&h)
			if got := probe(l, "GET"); got != live {
				t.Errorf("live = %+v, want %+v", got, live)
			}
			if got := probe(r, "GET"); got != ready {
				t.Errorf("ready = %+v, want %+v", got, ready)
			}
		})
	}
	ok := probed{200, text, "3", "", "no-store", "ok\n"}
	f("starts live and not ready", func(*telemetry.Health) {}, ok, probed{503, text, "9", "", "no-store", "starting\n"})
	f("is ready when told", (*telemetry.Health).SetReady, ok, ok)
	f("tells the reason and stays live", func(h *telemetry.Health) {
		h.SetReady()
		h.SetNotReady("shutting down")
	}, ok, probed{503, text, "14", "", "no-store", "shutting down\n"})
	f("tells an empty reason as not ready", func(h *telemetry.Health) { h.SetNotReady("") },
		ok, probed{503, text, "10", "", "no-store", "not ready\n"})
	f("cuts a long reason before the character that does not fit", func(h *telemetry.Health) { h.SetNotReady(strings.Repeat("é", 128) + "x") },
		ok, probed{503, text, "257", "", "no-store", strings.Repeat("é", 128) + "\n"})
	f("is ready again", func(h *telemetry.Health) {
		h.SetNotReady("the store is down")
		h.SetReady()
	}, ok, ok)
}

func TestHealthMethods(t *testing.T) {
	var h telemetry.Health
	for _, handler := range []http.Handler{h.Live(), h.Ready(), telemetry.NewMetrics("v1", telemetry.Labels{}).Handler()} {
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"} {
			want := probed{405, "application/problem+json", "", "GET, HEAD", "no-store", ""}
			got := probe(handler, method)
			got.Length, got.Body = "", ""
			if got != want {
				t.Errorf("%s: %+v, want %+v", method, got, want)
			}
		}
	}
	t.Run("HEAD has the header of GET and no body", func(t *testing.T) {
		s := httptest.NewServer(h.Live())
		defer s.Close()
		res, err := http.Head(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		got := []any{res.StatusCode, res.ContentLength, res.Header.Get("Cache-Control")}
		if want := []any{200, int64(3), "no-store"}; !reflect.DeepEqual(got, want) {
			t.Errorf("HEAD = %v, want %v", got, want)
		}
	})
}
