package main

import (
	"fmt"
	"net/http"
	"strconv"
)

// sample is one line of metrics.
type sample struct {
	name, kind, help string
	labels           string // with a comma in front, behind those that all have
	value            float64
}

// metrics writes what the engine says of itself in the names of --kind, in
// Prometheus's text format 0.0.4.
func (s *server) metrics(w http.ResponseWriter, _ *http.Request) {
	now := s.loop.snapshot()
	samples, labels := s.vllm(now), `engine="0",model_name=`
	if s.o.kind == kindSGLang {
		samples, labels = s.sglang(now), `engine_type="unified",tp_rank="0",model_name=`
	}
	labels += strconv.Quote(s.o.model)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	last := ""
	for _, m := range samples {
		if m.name != last {
			fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
			last = m.name
		}
		fmt.Fprintf(w, "%s{%s%s} %s\n", m.name, labels, m.labels, strconv.FormatFloat(m.value, 'g', -1, 64))
	}
}

// vllm are the metrics of vLLM's engine that say how busy it is.
func (s *server) vllm(now stats) []sample {
	blocks := s.o.engine.KVTokens / s.o.blockSize
	info := fmt.Sprintf(`,block_size="%d",num_gpu_blocks="%d",enable_prefix_caching=%q`, s.o.blockSize, blocks, pythonBool(s.o.prefixCache))
	return []sample{
		{"vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", "", float64(now.Running)},
		{"vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", "", float64(now.Waiting)},
		{"vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", "", now.KVUsed},
		{"vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig.", info, 1},
		{"vllm:num_preemptions_total", "counter", "Cumulative number of preemption from the engine.", "", float64(now.Preemptions)},
		{"vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", "", float64(now.PromptTokens)},
		{"vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", "", float64(now.Generated)},
		{"vllm:prefix_cache_queries_total", "counter", "Prefix cache queries, in terms of number of queried tokens.", "", float64(now.PromptTokens)},
		{"vllm:prefix_cache_hits_total", "counter", "Prefix cache hits, in terms of number of cached tokens.", "", float64(now.CachedTokens)},
		{"vllm:request_success_total", "counter", "Count of successfully processed requests.", `,finished_reason="stop"`, float64(now.stopped)},
		{"vllm:request_success_total", "counter", "", `,finished_reason="length"`, float64(now.lengthened)},
		{"vllm:request_success_total", "counter", "", `,finished_reason="abort"`, float64(now.Cancelled)},
	}
}

// sglang are the same in SGLang's names.
func (s *server) sglang(now stats) []sample {
	return []sample{
		{"sglang:num_running_reqs", "gauge", "The number of running requests.", "", float64(now.Running)},
		{"sglang:num_queue_reqs", "gauge", "The number of requests in the waiting queue.", "", float64(now.Waiting)},
		{"sglang:token_usage", "gauge", "The token usage.", "", now.KVUsed},
		{"sglang:num_used_tokens", "gauge", "The number of used tokens.", "", now.KVUsed * float64(s.o.engine.KVTokens)},
		{"sglang:max_total_num_tokens", "gauge", "Maximum total number of tokens in the KV cache pool.", "", float64(s.o.engine.KVTokens)},
		{"sglang:num_retracted_reqs", "gauge", "The number of retracted requests.", "", float64(now.Preemptions)},
		{"sglang:prompt_tokens_total", "counter", "Number of prefill tokens processed.", "", float64(now.PromptTokens)},
		{"sglang:generation_tokens_total", "counter", "Number of generation tokens processed.", "", float64(now.Generated)},
		{"sglang:cached_tokens_total", "counter", "Number of cached prompt tokens.", "", float64(now.CachedTokens)},
		{"sglang:num_requests_total", "counter", "Number of requests processed.", "", float64(now.Completed)},
		{"sglang:num_aborted_requests_total", "counter", "Number of requests aborted.", "", float64(now.Cancelled)},
	}
}

func pythonBool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}
