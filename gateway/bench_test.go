package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// sink is a ResponseWriter that keeps nothing.
type sink struct{ h http.Header }

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(int)             {}

func benchmark(b *testing.B, route, body string) {
	cfg, err := config.Parse("bench.yaml", []byte(`
plans: {default: {policies: [1000000000/minute]}}
upstreams: {u: {targets: ["builtin:"]}}
routes: [{name: all, match: {path: /*}, upstream: u`+route+`}]`), nil)
	if err != nil {
		b.Fatal(err)
	}
	g, err := gateway.New(cfg, gateway.Options{Models: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["Content-Length"] = []string{"47"}
		_, _ = io.WriteString(w, `{"predictions":[{"label":"fr","score":0.931}]}`+"\n")
	})})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = g.Close(b.Context()) }()
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"*/*"}, "User-Agent": {"bench"}}
	r, err := http.NewRequest("POST", "/predict", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.RequestURI, r.RemoteAddr, r.Host = "/predict", "127.0.0.1:9", "h"
	b.ReportAllocs()
	for b.Loop() {
		in := *r
		in.Header = header.Clone()
		in.Body, in.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		g.ServeHTTP(&sink{http.Header{}}, &in)
	}
}

const (
	question  = `{"instances": ["Où est la bibliothèque ?"], "parameters": {"k": 1}}`
	withCache = ", cache: {mode: inference, ttl: 1h}"
)

// A hit from memory, with a policy to look at.
func BenchmarkHit(b *testing.B) { benchmark(b, withCache, question) }

// A request that goes to a handler in this process, with a policy that it takes
// from.
func BenchmarkInProcess(b *testing.B) { benchmark(b, "", question) }
