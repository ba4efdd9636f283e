package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestParseEngine(t *testing.T) {
	for _, tt := range []struct {
		name, kind, text string
		want             EngineState
	}{
		{"vLLM as it is now", "vllm", `
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 37.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 12.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct",reason="capacity"} 9.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 0.8125
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="15393",num_gpu_blocks_override="None"} 1.0
vllm:request_success_total{engine="0",finished_reason="stop"} 1234.0
`, EngineState{Running: 37, Waiting: 12, KVUsed: 0.8125, KVTokens: 15393 * 16}},
		{"vLLM with a size that is not blocks times their size", "vllm", `
vllm:num_requests_running{engine="0",model_name="q"} 1
vllm:cache_config_info{block_size="1072",engine="0",kv_cache_size_tokens="3174971",num_gpu_blocks="3040"} 1
`, EngineState{Running: 1, KVTokens: 3174971}},
		{"vLLM as it was, under both names for a while", "vllm", `
vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_swapped{model_name="m"} 1.0
vllm:num_requests_waiting{model_name="m"} 4.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
vllm:kv_cache_usage_perc{model_name="m"} 0.5
vllm:cpu_cache_usage_perc{model_name="m"} 0.9
vllm:cache_config_info{block_size="16",cache_dtype="auto",num_cpu_blocks="2048",num_gpu_blocks="2375"} 1.0
`, EngineState{Running: 3, Waiting: 4, KVUsed: 0.5, KVTokens: 2375 * 16}},
		{"vLLM that does not know its size yet", "vllm", `
vllm:num_requests_running{engine="0"} 0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="None"} 1
`, EngineState{}},
		{"the ranks of vLLM, each weighted by its cache", "vllm", `
vllm:num_requests_running{engine="0",model_name="m"} 10
vllm:num_requests_running{engine="1",model_name="m"} 20
vllm:num_requests_waiting{engine="0",model_name="m"} 1
vllm:num_requests_waiting{engine="1",model_name="m"} 2
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.9
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.1
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000"} 1
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="3000"} 1
`, EngineState{Running: 30, Waiting: 3, KVUsed: 0.3, KVTokens: 64000}},
		{"several models of unknown size weigh the same", "vllm", `
vllm:num_requests_running{model_name="a"} 1
vllm:num_requests_running{model_name="b"} 2
vllm:kv_cache_usage_perc{model_name="a"} 0.5
vllm:kv_cache_usage_perc{model_name="b"} 0.25
`, EngineState{Running: 3, KVUsed: 0.375}},
		{"names that lost their colon, times, odd spacing, labels in any order", "vllm",
			"vllm_num_requests_running { model_name=\"a } b\\\" c\\\\\" , engine = \"0\", } 5 1700000000000\r\n \tvllm:num_requests_waiting\t6\t1\n" +
				"vllm:kv_cache_usage_perc 1e-1",
			EngineState{Running: 5, Waiting: 6, KVUsed: 0.1}},
		{"numbers that make no sense are not taken", "vllm", `
vllm:num_requests_running 3
vllm:num_requests_waiting NaN
vllm:num_requests_waiting{engine="1"} -1
vllm:num_requests_waiting{engine="2"} +Inf
vllm:num_requests_waiting{engine="3"} 1e300
vllm:num_requests_waiting{engine="4"} twelve
vllm:num_requests_waiting{engine="5"}
vllm:kv_cache_usage_perc 17
`, EngineState{Running: 3, KVUsed: 1}},
		{"lines that are broken are passed over", "vllm", "{} 1\nvllm:num_requests_running{engine=\"0 9\nvllm:num_requests_running{engine=0} 9\n" +
			"vllm:num_requests_running{engine=\"0\"\nvllm:num_requests_running{=\"0\"} 9\n# HELP " + strings.Repeat("x", maxEngineLine*3) +
			"\nvllm:num_requests_runningx 9\nvllm:num_requests_running 2\n", EngineState{Running: 2}},
		{"SGLang", "sglang", `
sglang:num_running_reqs{engine_type="unified",model_name="q",pp_rank="0",tp_rank="0"} 14.0
sglang:num_running_reqs_offline_batch{engine_type="unified",model_name="q",pp_rank="0",tp_rank="0"} 0.0
sglang:num_queue_reqs{engine_type="unified",model_name="q",pp_rank="0",tp_rank="0"} 2.0
sglang:num_used_tokens{engine_type="unified",model_name="q",pp_rank="0",tp_rank="0"} 123859.0
sglang:token_usage{engine_type="unified",model_name="q",pp_rank="0",tp_rank="0"} 0.28
sglang:max_total_num_tokens{engine_type="unified",model_name="q",pp_rank="0",tp_rank="0"} 471258.0
`, EngineState{Running: 14, Waiting: 2, KVUsed: 0.28, KVTokens: 471258}},
		{"SGLang's ranks of one engine are one, those of several are several", "sglang", `
sglang:num_running_reqs{dp_rank="0",model_name="q",tp_rank="0"} 4
sglang:num_running_reqs{dp_rank="0",model_name="q",tp_rank="1"} 4
sglang:num_running_reqs{dp_rank="1",model_name="q",tp_rank="2"} 6
sglang:num_used_tokens{dp_rank="0",model_name="q",tp_rank="0"} 50
sglang:num_used_tokens{dp_rank="1",model_name="q",tp_rank="2"} 300
sglang:max_total_num_tokens{dp_rank="0",model_name="q",tp_rank="0"} 100
sglang:max_total_num_tokens{dp_rank="1",model_name="q",tp_rank="2"} 300
`, EngineState{Running: 10, KVUsed: 0.875, KVTokens: 400}},
		{"SGLang's total is not added to its parts by priority", "sglang", `
sglang:num_running_reqs{pp_rank="0",priority="",tp_rank="0"} 14.0
sglang:num_running_reqs{pp_rank="0",priority="-1",tp_rank="0"} 3.0
sglang:num_running_reqs{pp_rank="0",priority="0",tp_rank="0"} 11.0
`, EngineState{Running: 14}},
		{"SGLang's size in pages, in labels", "sglang", "sglang:num_running_reqs 1\nsglang:cache_config_info{page_size=\"64\",num_pages=\"11147\"} 1\n",
			EngineState{Running: 1, KVTokens: 64 * 11147}},
		{"SGLang's size in pages, as gauges", "sglang", "sglang:num_running_reqs 1\nsglang:page_size 64\nsglang:num_pages 11147\n",
			EngineState{Running: 1, KVTokens: 64 * 11147}},
		{"Triton with TensorRT-LLM", "triton", `
nv_inference_pending_request_count{model="ensemble",version="1"} 1
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 7
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.25
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 1560
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="tensorrt_llm",version="1"} 4679
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 6239
`, EngineState{Running: 4, Waiting: 6, KVUsed: 0.25, KVTokens: 6239 * 64, MaxSeqs: 512}},
		{"TensorRT-LLM before it told what waits, and what part it uses", "triton", `
nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 4
nv_trt_llm_request_metrics{model="m",request_type="active",version="1"} 7
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="m",version="1"} 30
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m",version="1"} 40
`, EngineState{Running: 4, Waiting: 3, KVUsed: 0.75}},
		{"Triton with models of other kinds", "triton", `
nv_inference_pending_request_count{model="resnet",version="1"} 5
nv_inference_pending_request_count{model="resnet",version="2"} 6
nv_inference_count{model="resnet",version="1"} 99
`, EngineState{Waiting: 11}},
		{"Triton with vLLM", "triton", "vllm:num_requests_running{model=\"v\",version=\"1\"} 5\nvllm:num_requests_waiting{model=\"v\",version=\"1\"} 1\n",
			EngineState{Running: 5, Waiting: 1}},
		{"TensorRT-LLM's own server", "triton", `
trtllm_num_requests_running{model_name="m"} 5
trtllm_num_requests_waiting{model_name="m"} 2
trtllm_max_num_active_requests{model_name="m"} 256
trtllm_kv_cache_used_blocks{model_name="m"} 25
trtllm_kv_cache_max_blocks{model_name="m"} 100
trtllm_kv_cache_tokens_per_block{model_name="m"} 32
`, EngineState{Running: 5, Waiting: 2, KVUsed: 0.25, KVTokens: 3200, MaxSeqs: 256}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseEngine(tt.kind, strings.NewReader(tt.text))
			got.KVUsed = math.Round(got.KVUsed*1e9) / 1e9
			if err != nil || got != tt.want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
	var units strings.Builder
	for i := range maxEngineUnit + 1 {
		_, _ = fmt.Fprintf(&units, "vllm:num_requests_running{engine=\"%d\"} 1\n", i)
	}
	for _, tt := range []struct{ name, kind, text, want string }{
		{"a kind that it does not know", "ollama", "", `engine kind "ollama": want vllm, sglang or triton`},
		{"an empty text", "vllm", "", "no metric of vllm among these: is that what runs there, and are its metrics switched on?"},
		{"another kind's metrics", "sglang", "vllm:num_requests_running 1\n", "no metric of sglang among these: is that what runs there, and are its metrics switched on?"},
		{"a page of HTML", "vllm", "<html>\n<p>login\n", "no metric of vllm among these: is that what runs there, and are its metrics switched on?"},
		{"more than 8 MiB", "vllm", "vllm:num_requests_running 1\n" + strings.Repeat("#\n", maxEngineText/2), "the metrics are longer than 8 MiB"},
		{"one line of more than 8 MiB", "vllm", strings.Repeat("x", maxEngineText+1), "the metrics are longer than 8 MiB"},
		{"too many engines", "vllm", units.String(), "the metrics are of more than 1024 engines"},
	} {
		t.Run("refuses "+tt.name, func(t *testing.T) {
			if got, err := parseEngine(tt.kind, strings.NewReader(tt.text)); err == nil || err.Error() != tt.want || got != (EngineState{}) {
				t.Errorf("got %+v, %v, want %s", got, err, tt.want)
			}
		})
	}
	t.Run("takes exactly 8 MiB", func(t *testing.T) {
		text := "vllm:num_requests_running 1\n" + strings.Repeat("#\n", (maxEngineText-28)/2)
		if got, err := parseEngine("vllm", strings.NewReader(text)); err != nil || got.Running != 1 || len(text) != maxEngineText {
			t.Errorf("got %+v, %v of %d bytes", got, err, len(text))
		}
	})
	t.Run("gives the reader's error", func(t *testing.T) {
		text := io.MultiReader(strings.NewReader("vllm:num_requests_running 1\n"), &net.Buffers{}, broken{})
		if _, err := parseEngine("vllm", text); err != io.ErrUnexpectedEOF {
			t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func FuzzParseEngine(f *testing.F) {
	for _, seed := range []string{
		"vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 37.0\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.5\n",
		"vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"1e12\"} 1.0\n",
		"sglang:num_running_reqs{priority=\"\",tp_rank=\"0\"} 14.0 17\nsglang:num_used_tokens 3\nsglang:max_total_num_tokens 0",
		"nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"used\"} 1\nnv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 0\n",
		"vllm:num_requests_running{a=\"\\\"} 1\n{\"quoted\"} 1\n# EOF\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, kind := range []string{"vllm", "sglang", "triton"} {
			got, err := parseEngine(kind, bytes.NewReader(text))
			switch {
			case err != nil && got != (EngineState{}):
				t.Errorf("%s: an error and %+v", kind, got)
			case got.Running < 0 || got.Waiting < 0 || got.KVTokens < 0 || got.MaxSeqs < 0 || !(got.KVUsed >= 0 && got.KVUsed <= 1):
				t.Errorf("%s: %+v", kind, got)
			}
			slow, slowErr := parseEngine(kind, &oneByte{text})
			slow.KVUsed, got.KVUsed = math.Round(slow.KVUsed*1e6), math.Round(got.KVUsed*1e6)
			if slow != got || fmt.Sprint(slowErr) != fmt.Sprint(err) {
				t.Errorf("%s: %+v, %v at once, %+v, %v byte by byte", kind, got, err, slow, slowErr)
			}
		}
	})
}

// oneByte reads one byte at a time.
type oneByte struct{ rest []byte }

func (r *oneByte) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func TestEngineIsRead(t *testing.T) {
	const text = "vllm:num_requests_running 3\nvllm:num_requests_waiting 4\nvllm:kv_cache_usage_perc 0.5\n"
	type reading struct {
		Target int
		State  EngineState
	}
	// read starts a prober and gives its readings.
	read := func(t *testing.T, o proberOptions, targets ...string) (*prober, <-chan reading) {
		states := make(chan reading, 1000)
		o.engine.Kind, o.engine.Interval = "vllm", minInterval
		o.onEngine = func(target int, e EngineState) { states <- reading{target, e} }
		return asks(t, asked(t, o, targets...)), states
	}
	t.Run("from the root of the target, with the pool's fields", func(t *testing.T) {
		got := make(chan string, 1000)
		url := serves(t, func(w http.ResponseWriter, r *http.Request) {
			got <- fmt.Sprint(r.RequestURI, " ", r.Header)
			_, _ = io.WriteString(w, text)
		})
		began := time.Now()
		_, states := read(t, proberOptions{headers: http.Header{"Authorization": {"Bearer k"}}}, url+"/v1")
		if got, want := arrives(t, got), "/metrics map[Authorization:[Bearer k] User-Agent:[weir-probe]]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		r := arrives(t, states)
		if r.State.At.Before(began) || r.State.At.After(time.Now()) {
			t.Errorf("read at %v, which is not now", r.State.At)
		}
		if r.State.At = (time.Time{}); r != (reading{0, EngineState{Running: 3, Waiting: 4, KVUsed: 0.5}}) {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("of every target, and one that hangs delays no other", func(t *testing.T) {
		answers := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
		p, states := read(t, proberOptions{}, serves(t, answers),
			serves(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), serves(t, answers))
		seen := map[int]int{}
		// The others are read ten times at least for each time that it hangs, however
		// long the machine stands still in between.
		failed := p.engineFailures(1)
		for begin := failed; seen[0] < 10 || seen[2] < 10; failed = p.engineFailures(1) {
			if failed > begin+1 && failed < 20 {
				clear(seen)
				begin = failed
			}
			seen[arrives(t, states).Target]++
		}
		if seen[1] != 0 || failed >= 20 {
			t.Errorf("the one that hangs was read %d times and failed %d times", seen[1], p.engineFailures(1))
		}
	})
	t.Run("of a target in this process never", func(t *testing.T) {
		o := asked(t, proberOptions{engine: Engine{Kind: "vllm"}}, "http://in-process")
		o.targets[0].base = nil
		p, err := newProber(o)
		if err != nil || len(p.engines) != 1 || p.engines[0] != nil {
			t.Errorf("it would read %v, %v", p, err)
		}
	})
	for _, tt := range []struct {
		name string
		bad  http.HandlerFunc
	}{
		{"a status that is no success", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			_, _ = io.WriteString(w, text)
		}},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/metrics/", http.StatusTemporaryRedirect)
		}},
		{"a body beyond its bound", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, text)
			_, _ = w.Write(bytes.Repeat([]byte("#\n"), maxEngineText/2))
		}},
		{"metrics of something else", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") }},
		{"a body that breaks off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, text)
		}},
	} {
		t.Run("not from "+tt.name+", and again after it", func(t *testing.T) {
			turn := make(chan bool, 1) // the first request takes it
			turn <- true
			url := serves(t, func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-turn:
					tt.bad(w, r)
				default:
					_, _ = io.WriteString(w, text)
				}
			})
			p, states := read(t, proberOptions{}, url)
			if r := arrives(t, states); r.State.Running != 3 || p.engineFailures(0) != 1 {
				t.Errorf("got %+v after %d failures, want 3 running after 1", r, p.engineFailures(0))
			}
		})
	}
	t.Run("not from one that sends too slowly", func(t *testing.T) {
		url := accepts(t, func(c net.Conn) {
			says(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+text)
		})
		o := asked(t, proberOptions{engine: Engine{Kind: "vllm"}}, url)
		o.onEngine = func(_ int, e EngineState) { t.Errorf("read %+v", e) }
		p, err := newProber(o)
		if err != nil {
			t.Fatal(err)
		}
		p.scrape(t.Context(), 0)
		if p.engineFailures(0) != 1 {
			t.Errorf("%d failures, want 1", p.engineFailures(0))
		}
		stopped, stop := context.WithCancel(t.Context())
		stop()
		if p.scrape(stopped, 0); p.engineFailures(0) != 1 {
			t.Error("a scrape that was stopped counted as a failure")
		}
	})
}

func BenchmarkParseEngine(b *testing.B) {
	var text bytes.Buffer
	for i := range 5000 { // a page of vLLM's is histograms, for the most part
		_, _ = fmt.Fprintf(&text, "vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"%d\",model_name=\"m\"} %d\n", i, i)
	}
	text.WriteString("vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3\n")
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if _, err := parseEngine("vllm", bytes.NewReader(text.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}
