package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
)

// Bounds on what is read of an engine's metrics.
const (
	maxEngineText = 8 << 20
	maxEngineLine = 32 << 10 // longer ones, none of which we know, are passed over
	maxEngineUnit = 1024
	// maxEngineValue bounds every number taken: beyond it, it is a mistake.
	maxEngineValue = 1 << 40
)

var (
	errEngineText = errors.New("the metrics are longer than 8 MiB")
	errEngineUnit = errors.New("the metrics are of more than 1024 engines")
)

// engineField is one thing that an engine may say of itself.
type engineField uint8

const (
	engineRunning    engineField = iota + 1
	engineWaiting                // held back by the engine
	engineQueued                 // held back before the engine
	engineActive                 // running and waiting
	engineUsed                   // part of the KV cache in use, 0 to 1
	engineUsedTokens             // or in tokens
	engineUsedBlocks             // or in blocks
	engineTokens                 // size of the KV cache in tokens
	engineBlocks                 // or in blocks
	engineBlockSize              // of so many tokens
	engineMaxSeqs
	engineFields
)

// engineMetric says what the samples of one name mean: their value is field, or the
// value of their label by says which field it is, or the labels named in labels
// hold numbers themselves.
type engineMetric struct {
	field  engineField
	by     string
	fields map[string]engineField
	labels map[string]engineField
}

// engineMetrics are the metrics of a kind of engine that we know, by name, with
// each colon written as an underscore: some exporters turn one into the other. It
// is nil for a kind that we do not know.
func engineMetrics(kind string) map[string]engineMetric {
	switch kind {
	case "vllm":
		return vllmMetrics()
	case "sglang":
		return map[string]engineMetric{
			"sglang_num_running_reqs":     {field: engineRunning},
			"sglang_num_queue_reqs":       {field: engineWaiting},
			"sglang_token_usage":          {field: engineUsed},
			"sglang_num_used_tokens":      {field: engineUsedTokens},
			"sglang_max_total_num_tokens": {field: engineTokens},
			// Labels up to 0.5.9, gauges of their own since.
			"sglang_cache_config_info": {labels: map[string]engineField{"page_size": engineBlockSize, "num_pages": engineBlocks}},
			"sglang_page_size":         {field: engineBlockSize},
			"sglang_num_pages":         {field: engineBlocks},
		}
	case "triton":
		return tritonMetrics()
	}
	return nil
}

func vllmMetrics() map[string]engineMetric {
	return map[string]engineMetric{
		"vllm_num_requests_running": {field: engineRunning},
		"vllm_num_requests_waiting": {field: engineWaiting},
		// Until 0.10 with gpu in its name, for some versions with both.
		"vllm_gpu_cache_usage_perc": {field: engineUsed},
		"vllm_kv_cache_usage_perc":  {field: engineUsed},
		// For models whose layers differ, blocks times their size is not the capacity;
		// newer versions say what it is.
		"vllm_cache_config_info": {labels: map[string]engineField{
			"block_size": engineBlockSize, "num_gpu_blocks": engineBlocks, "kv_cache_size_tokens": engineTokens,
		}},
	}
}

// tritonMetrics has Triton's own queue and what its language-model backends say:
// TensorRT-LLM, alone (trtllm-serve) or as a backend, and vLLM.
func tritonMetrics() map[string]engineMetric {
	all := vllmMetrics()
	all["nv_inference_pending_request_count"] = engineMetric{field: engineQueued}
	all["nv_trt_llm_request_metrics"] = engineMetric{by: "request_type", fields: map[string]engineField{
		"scheduled": engineRunning, "waiting": engineWaiting, "active": engineActive, "max": engineMaxSeqs,
	}}
	all["nv_trt_llm_kv_cache_block_metrics"] = engineMetric{by: "kv_cache_block_type", fields: map[string]engineField{
		"fraction": engineUsed, "used": engineUsedBlocks, "max": engineBlocks, "tokens_per": engineBlockSize,
	}}
	all["trtllm_num_requests_running"] = engineMetric{field: engineRunning}
	all["trtllm_num_requests_waiting"] = engineMetric{field: engineWaiting}
	all["trtllm_kv_cache_utilization"] = engineMetric{field: engineUsed}
	all["trtllm_kv_cache_used_blocks"] = engineMetric{field: engineUsedBlocks}
	all["trtllm_kv_cache_max_blocks"] = engineMetric{field: engineBlocks}
	all["trtllm_kv_cache_tokens_per_block"] = engineMetric{field: engineBlockSize}
	all["trtllm_max_num_active_requests"] = engineMetric{field: engineMaxSeqs}
	return all
}

// engineUnit names one of several engines behind one address: data-parallel
// ranks, or models. Labels beyond these do not tell engines apart: the ranks of one
// engine (tp_rank, pp_rank) each report the whole engine's queue.
type engineUnit struct{ replica, model string }

// engineValues are what one engine said.
type engineValues struct {
	value [engineFields]float64
	said  [engineFields]bool
}

// take notes a number, if text is one that makes sense.
func (v *engineValues) take(f engineField, text string) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || n < 0 || n > maxEngineValue {
		return
	}
	v.value[f], v.said[f] = max(v.value[f], n), true
}

// first is the first of fields that was said, 0 if none was.
func (v *engineValues) first(fields ...engineField) (n float64, ok bool) {
	for _, f := range fields {
		if v.said[f] {
			return v.value[f], true
		}
	}
	return 0, false
}

// parseEngine reads what an engine of the kind says of itself in the text format of
// Prometheus. Several engines are added up, the part of the KV cache in use
// weighted by its size. Lines that it does not know or cannot read are passed over,
// but a text with no known metric is an error. At is left for the caller.
func parseEngine(kind string, text io.Reader) (EngineState, error) {
	known := engineMetrics(kind)
	if known == nil {
		return EngineState{}, fmt.Errorf("engine kind %q: want vllm, sglang or triton", kind)
	}
	units := map[engineUnit]*engineValues{}
	limited := &io.LimitedReader{R: text, N: maxEngineText + 1}
	lines := bufio.NewReaderSize(limited, maxEngineLine)
	for {
		line, err := lines.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if limited.N <= 0 { // one byte more than allowed was there
			return EngineState{}, errEngineText
		}
		if !long {
			if err := takeLine(units, known, line); err != nil {
				return EngineState{}, err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return EngineState{}, err
		}
	}
	if len(units) == 0 {
		return EngineState{}, fmt.Errorf("no metric of %s among these: is that what runs there, and are its metrics switched on?", kind)
	}
	return sumUnits(units), nil
}

// takeLine adds what a line says to units, if it is a sample of a known metric. It
// may change the line.
func takeLine(units map[engineUnit]*engineValues, known map[string]engineMetric, line []byte) error {
	line = bytes.TrimSpace(line)
	end := bytes.IndexAny(line, "{ \t")
	if end <= 0 || line[0] == '#' {
		return nil
	}
	if colon := bytes.IndexByte(line[:end], ':'); colon >= 0 {
		line[colon] = '_'
	}
	m, ok := known[string(line[:end])]
	if !ok {
		return nil
	}
	s := engineSample{metric: m, field: m.field}
	rest, ok := eachLabel(bytes.TrimLeft(line[end:], " \t"), s.label)
	if !ok {
		return nil
	}
	if number := bytes.Fields(rest); s.field != 0 && len(number) > 0 {
		s.values.take(s.field, string(number[0])) // what may follow is a time
	}
	return s.addTo(units)
}

// engineSample is one line's meaning.
type engineSample struct {
	metric engineMetric
	field  engineField // what its value is, 0 for nothing
	unit   engineUnit
	values engineValues
}

func (s *engineSample) label(name string, value []byte) {
	if f := s.metric.labels[name]; f != 0 {
		s.values.take(f, string(value))
	}
	switch name {
	case s.metric.by:
		s.field = s.metric.fields[string(value)]
	case "engine", "dp_rank", "engine_type":
		s.unit.replica += name + "=" + string(value) + "\n"
	case "model", "model_name", "version":
		s.unit.model += name + "=" + string(value) + "\n"
	}
}

// addTo adds the sample to its unit. Where one thing is said several times, by two
// ranks, under an old name and a new one, or as a total and its parts by priority,
// the largest number counts.
func (s *engineSample) addTo(units map[engineUnit]*engineValues) error {
	if s.values.said == [engineFields]bool{} {
		return nil
	}
	v := units[s.unit]
	if v == nil {
		if len(units) >= maxEngineUnit {
			return errEngineUnit
		}
		v = &engineValues{}
		units[s.unit] = v
	}
	for f, said := range s.values.said {
		if said {
			v.value[f], v.said[f] = max(v.value[f], s.values.value[f]), true
		}
	}
	return nil
}

// eachLabel calls f with the labels that text begins with, each value as it is
// written, and returns what follows. It is not ok where they are not well-formed.
func eachLabel(text []byte, f func(name string, value []byte)) (rest []byte, ok bool) {
	if len(text) == 0 || text[0] != '{' {
		return text, true
	}
	for text = text[1:]; ; {
		text = bytes.TrimLeft(text, " \t,")
		if len(text) > 0 && text[0] == '}' {
			return text[1:], true
		}
		name, quoted, _ := bytes.Cut(text, []byte("="))
		quoted = bytes.TrimLeft(quoted, " \t")
		if len(quoted) == 0 || quoted[0] != '"' {
			return nil, false
		}
		text = quoted[1:]
		end := 0
		for end < len(text) && text[end] != '"' {
			if text[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(text) {
			return nil, false
		}
		f(string(bytes.TrimSpace(name)), text[:end])
		text = text[end+1:]
	}
}

// tokens is the size of the engine's KV cache, 0 where it is not known.
func (v *engineValues) tokens() float64 {
	if n, ok := v.first(engineTokens); ok {
		return n
	}
	return min(v.value[engineBlocks]*v.value[engineBlockSize], maxEngineValue)
}

// used is the part of the engine's KV cache in use.
func (v *engineValues) used() (part float64, ok bool) {
	if part, ok = v.first(engineUsed); ok {
		return min(part, 1), true
	}
	if v.said[engineUsedBlocks] && v.value[engineBlocks] > 0 {
		return min(v.value[engineUsedBlocks]/v.value[engineBlocks], 1), true
	}
	if all := v.tokens(); v.said[engineUsedTokens] && all > 0 {
		return min(v.value[engineUsedTokens]/all, 1), true
	}
	return 0, false
}

func sumUnits(units map[engineUnit]*engineValues) EngineState {
	var running, waiting, tokens, seqs float64
	var uses, sizes []float64
	for unit, v := range units {
		run, ran := v.first(engineRunning)
		held, ok := v.first(engineWaiting)
		if !ok && ran { // TensorRT-LLM's before it said so
			held = max(0, v.value[engineActive]-run)
		}
		running += run
		waiting += held + v.value[engineQueued]
		seqs += v.value[engineMaxSeqs]
		size := v.tokens()
		tokens += size
		if used, ok := v.used(); ok {
			if alone := units[engineUnit{replica: unit.replica}]; size == 0 && alone != nil {
				size = alone.tokens() // vLLM tells it without the model's name
			}
			uses, sizes = append(uses, used), append(sizes, size)
		}
	}
	return EngineState{
		Running: int(min(running, maxEngineValue)), Waiting: int(min(waiting, maxEngineValue)),
		KVUsed: weightedMean(uses, sizes), KVTokens: int64(min(tokens, maxEngineValue)), MaxSeqs: int(min(seqs, maxEngineValue)),
	}
}

// weightedMean weighs all values the same if a weight is not known.
func weightedMean(values, weights []float64) float64 {
	var sum, all float64
	same := slices.Contains(weights, 0)
	for i, v := range values {
		w := weights[i]
		if same {
			w = 1
		}
		sum, all = sum+v*w, all+w
	}
	if all == 0 {
		return 0
	}
	return min(sum/all, 1)
}
