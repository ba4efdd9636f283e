package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// dimensions of an embedding.
const dimensions = 16

// compute takes the time of one call with n inputs: a + b n, one call after the other.
// It has answered where it is false.
func (s *server) compute(w http.ResponseWriter, r *http.Request, n int) bool {
	select {
	case s.calls <- struct{}{}:
	case <-r.Context().Done():
		return false
	}
	defer func() { <-s.calls }()
	if !s.pause(r.Context(), s.o.embedStep+time.Duration(n)*s.o.embedItem) {
		return false
	}
	s.loop.count(func(t *stats) { t.Calls++; t.CallItems += int64(n) })
	return true
}

// unit is a number from 0 up to 1.
func unit(key uint64) float64 { return float64(key>>11) / (1 << 53) }

// embeddings answers with a vector for each input, always the same one for the same
// input.
func (s *server) embeddings(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	var in struct {
		Input json.RawMessage `json:"input"`
	}
	if err := json.Unmarshal(body, &in); err != nil || len(in.Input) == 0 {
		writeError(w, http.StatusBadRequest, "BadRequestError", "input: want a string or a list of them")
		return
	}
	inputs := []json.RawMessage{in.Input}
	var list []json.RawMessage
	if json.Unmarshal(in.Input, &list) == nil && (len(list) == 0 || list[0][0] == '"' || list[0][0] == '[') {
		inputs = list
	}
	if len(inputs) == 0 || len(inputs) > maxInputs {
		writeError(w, http.StatusBadRequest, "BadRequestError", fmt.Sprintf("input: %d of them: want 1 to %d", len(inputs), maxInputs))
		return
	}
	type item struct {
		Object    string    `json:"object"`
		Index     int       `json:"index"`
		Embedding []float64 `json:"embedding"`
	}
	items, tokens := make([]item, len(inputs)), 0
	for i, input := range inputs {
		bytes, ids := textLength(input)
		if bytes+ids == 0 {
			writeError(w, http.StatusBadRequest, "BadRequestError", fmt.Sprintf("input[%d]: %.40s: want a text that is not empty", i, input))
			return
		}
		tokens += tokensOf(bytes) + ids
		items[i] = item{"embedding", i, vector(keyOf(s.o.seed, input))}
	}
	if !s.compute(w, r, len(inputs)) {
		return
	}
	type usage struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	}
	writeJSON(w, struct {
		Object string `json:"object"`
		Data   []item `json:"data"`
		Model  string `json:"model"`
		Usage  usage  `json:"usage"`
	}{"list", items, s.o.model, usage{tokens, tokens}})
}

func vector(key uint64) []float64 {
	v := make([]float64, dimensions)
	for i := range v {
		v[i] = 2*unit(mix(key+uint64(i))) - 1
	}
	return v
}

// predict answers TensorFlow Serving's call with a number from 0 up to 1 for each
// instance. As there, one instance that is no good (here: null) fails the call.
func (s *server) predict(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, format string, args ...any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": fmt.Sprintf(format, args...)}) // a client that left needs no answer
	}
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	if !strings.HasSuffix(r.PathValue("call"), ":predict") {
		fail(http.StatusNotFound, "%s: want /v1/models/NAME:predict", r.URL.Path)
		return
	}
	var in struct {
		Instances []json.RawMessage `json:"instances"`
	}
	if err := json.Unmarshal(body, &in); err != nil || len(in.Instances) == 0 || len(in.Instances) > maxInputs {
		fail(http.StatusBadRequest, "instances: want a list of 1 to %d", maxInputs)
		return
	}
	predictions := make([]float64, len(in.Instances))
	for i, instance := range in.Instances {
		if string(instance) == "null" {
			fail(http.StatusBadRequest, "instances[%d]: null: want a value", i)
			return
		}
		predictions[i] = unit(mix(keyOf(s.o.seed, instance)))
	}
	if s.compute(w, r, len(in.Instances)) {
		writeJSON(w, map[string][]float64{"predictions": predictions})
	}
}
