package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// Bounds of a request.
const (
	maxBody   = 16 << 20
	maxInputs = 2048 // embeddings or instances in one call, as OpenAI's API has it
)

// server answers for one engine.
type server struct {
	o      options
	start  time.Time
	loop   *loop
	faults *faults
	prefix *prefixCache // nil: none
	model  []byte       // its name in JSON
	ids    atomic.Int64 // the last answer's
	log    io.Writer    // nil: none

	// calls has a place for the one call of embeddings or predictions that is computed.
	calls chan struct{}
	// refuse makes the listener refuse connections for so long.
	refuse func(time.Duration)
}

func newServer(o options, refuse func(time.Duration)) (*server, error) {
	model, err := json.Marshal(o.model)
	if err != nil {
		return nil, fmt.Errorf("--model: %w", err)
	}
	s := &server{o: o, start: time.Now(), faults: newFaults(o.seed), model: model, calls: make(chan struct{}, 1), refuse: refuse}
	s.loop = newLoop(o, s.faults.slowness)
	if o.prefixCache {
		s.prefix = newPrefixCache(o.engine.KVTokens/o.blockSize, o.blockSize)
	}
	return s, nil
}

// handler is all that is served. Faults come first, and not to /debug.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) { s.generate(w, r, chatForm) })
	mux.HandleFunc("POST /v1/completions", func(w http.ResponseWriter, r *http.Request) { s.generate(w, r, textForm) })
	mux.HandleFunc("POST /v1/embeddings", s.embeddings)
	mux.HandleFunc("POST /v1/models/{call}", s.predict)
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /debug/stats", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.loop.snapshot()) })
	mux.HandleFunc("GET /debug/cancels", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.loop.lastCancels()) })
	mux.HandleFunc("GET /debug/fault", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.faults.list(time.Now())) })
	mux.HandleFunc("DELETE /debug/fault", func(w http.ResponseWriter, _ *http.Request) {
		s.faults.clear()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /debug/fault", s.addFault)
	return s.faulty(mux)
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		ID       string `json:"id"`
		Object   string `json:"object"`
		Created  int64  `json:"created"`
		OwnedBy  string `json:"owned_by"`
		MaxModel int    `json:"max_model_len"`
	}
	writeJSON(w, struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", []model{{s.o.model, "model", s.start.Unix(), "fakeengine", s.o.maxInput}}})
}

func (s *server) addFault(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	f, err := parseFault(http.MaxBytesReader(w, r.Body, maxFaultBody), now)
	if err == nil {
		err = s.faults.add(f, now)
	}
	if err != nil {
		writeError(w, http.StatusBadRequest, "BadRequestError", err.Error())
		return
	}
	writeJSON(w, f)
	if f.Kind == faultRefuse {
		// The answer is on its way before the connection may be closed.
		_ = http.NewResponseController(w).Flush()
		s.refuse(f.until.Sub(now))
	}
}

// readBody reads a request to its end, without which net/http does not notice that the
// client leaves. It has answered where ok is false.
func readBody(w http.ResponseWriter, r *http.Request) (body []byte, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		return body, true
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		writeError(w, http.StatusRequestEntityTooLarge, "BadRequestError", fmt.Sprintf("the body is longer than %d bytes", maxBody))
	} else {
		writeError(w, http.StatusBadRequest, "BadRequestError", "the body: "+err.Error())
	}
	return nil, false
}

// writeError answers in OpenAI's form, as vLLM does.
func writeError(w http.ResponseWriter, status int, kind, message string) {
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // a client that left needs no answer
		Error detail `json:"error"`
	}{detail{Message: message, Type: kind, Code: status}})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
}

// pause waits for a time of the engine's model, and reports whether it passed: false
// where the client left before.
func (s *server) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(time.Duration(float64(d) * s.faults.slowness(time.Now()) / s.o.speed))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
