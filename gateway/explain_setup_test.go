package gateway_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// explainedWeir is a gateway with the configuration explained, and what its upstream has
// seen. It is stopped within a test: a property needs many.
type explainedWeir struct {
	*weir
	calls *atomic.Int64
	lines chan string // of the log
	stop  func()
}

// lineWriter passes what is written on by the line.
type lineWriter chan string

func (l lineWriter) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		l <- string(line)
	}
	return len(p), nil
}

func startExplained(t *testing.T) *explainedWeir {
	t.Helper()
	calls := new(atomic.Int64)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		explainedModel(w, r)
	}))
	cfg, err := config.Parse("test.yaml", []byte(strings.ReplaceAll(explained, "%s", upstream.URL)), nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(lineWriter, 1<<12) // more than a test makes
	g, err := gateway.New(unhurried(cfg), gateway.Options{Version: "test", Log: lines})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(g)
	server.Config = g.Server()
	server.Start()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	return &explainedWeir{weir: &weir{t: t, url: server.URL, gateway: g, client: client}, calls: calls, lines: lines, stop: func() {
		client.CloseIdleConnections()
		server.Close()
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
		upstream.Close()
	}}
}

// recorder takes an answer.
type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(int)             {}
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
