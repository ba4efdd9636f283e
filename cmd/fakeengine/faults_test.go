package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func unmarshal(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
}

func (e *engine) fault(body string) {
	e.t.Helper()
	if status, text := e.ask("/debug/fault", body); status != http.StatusOK {
		e.t.Fatalf("%s: %d %s", body, status, text)
	}
}

func (e *engine) noFault() {
	e.t.Helper()
	r, err := http.NewRequest(http.MethodDelete, e.base+"/debug/fault", nil)
	if err != nil {
		e.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		e.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		e.t.Fatal(resp.Status)
	}
}

const streamed = `{"prompt":"x","stream":true,"fake_tokens":50}`

func TestFaults(t *testing.T) {
	e := start(t, fast)
	works := func(t *testing.T) {
		t.Helper()
		if status, text := e.ask("/v1/completions", streamed); status != http.StatusOK || readStream(t, text).Events == 0 {
			t.Errorf("without a fault: %d %s", status, text)
		}
	}
	t.Run("error answers with its status, and only below its path", func(t *testing.T) {
		e.fault(`{"kind":"error","status":502,"path":"/v1/comp"}`)
		defer works(t)
		defer e.noFault()
		if status, text := e.ask("/v1/completions", streamed); status != 502 || !strings.Contains(text, `"error":{"message":`) {
			t.Errorf("%d %s", status, text)
		}
		if status, _ := e.ask("/v1/embeddings", `{"input":"x"}`); status != http.StatusOK {
			t.Error(status)
		}
	})
	t.Run("a share of the requests meets a fault, the same with the same seed", func(t *testing.T) {
		e.fault(`{"kind":"error","share":0.5}`)
		defer works(t)
		defer e.noFault()
		failed := 0
		for range 60 {
			if status, _ := e.ask("/v1/embeddings", `{"input":"x"}`); status == http.StatusInternalServerError {
				failed++
			}
		}
		if failed != 31 {
			t.Errorf("%d of 60 failed", failed)
		}
	})
	t.Run("retry_after says how much of the fault is left", func(t *testing.T) {
		e.fault(`{"kind":"retry_after","status":429,"for":"50s"}`)
		defer works(t)
		defer e.noFault()
		resp, err := e.post(context.Background(), "/v1/completions", streamed)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if after := resp.Header.Get("Retry-After"); resp.StatusCode != 429 || after > "50" || after < "20" || len(after) != 2 {
			t.Errorf("%s with Retry-After %q", resp.Status, after)
		}
	})
	t.Run("reset cuts the connection after so many bytes", func(t *testing.T) {
		defer works(t)
		defer e.noFault()
		e.fault(`{"kind":"reset","after_bytes":500}`)
		resp, err := e.post(context.Background(), "/v1/completions", streamed)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); len(text) > 500 || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v, want at most 500 and a reset", len(text), err)
		}
	})
	t.Run("reset before the first byte is no answer at all", func(t *testing.T) {
		defer works(t)
		defer e.noFault()
		e.fault(`{"kind":"reset"}`)
		if resp, err := e.post(context.Background(), "/v1/completions", streamed); err == nil {
			_ = resp.Body.Close()
			t.Errorf("there is an answer: %s", resp.Status)
		}
	})
	t.Run("hang sends so many bytes and nothing more until its client leaves", func(t *testing.T) {
		defer works(t)
		defer e.noFault()
		e.fault(`{"kind":"hang","after_bytes":500}`)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		resp, err := e.post(ctx, "/v1/completions", streamed)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text := make([]byte, 500)
		if n, err := io.ReadFull(resp.Body, text); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		before := e.stats().Failed
		cancel()
		e.until("the hang to end", func(s stats) bool { return s.Failed == before+1 })
	})
	t.Run("hang ends with its time", func(t *testing.T) {
		defer works(t)
		begin := time.Now()
		e.fault(`{"kind":"hang","for":"100ms"}`)
		resp, err := e.post(context.Background(), "/v1/completions", streamed)
		if err == nil { // the fault was over before the request was there
			_ = resp.Body.Close()
		}
		if took := time.Since(begin); took < 100*time.Millisecond {
			t.Errorf("it hung for %v: %v", took, err)
		}
	})
	e.until("the accounts to add up", func(s stats) bool {
		return s.Requests == s.Completed+s.Failed+s.Cancelled && s.Running == 0 && s.KVUsed == 0
	})
}

func TestSlowFault(t *testing.T) {
	e := start(t, "--step", "1ms")
	e.fault(`{"kind":"slow","factor":20}`)
	begin := time.Now()
	if status, text := e.ask("/v1/completions", `{"prompt":"x","fake_tokens":10}`); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("10 steps of 1ms, 20 times slower, took %v", took)
	}
}

func TestRefuseFault(t *testing.T) {
	e := start(t, fast)
	addr := strings.TrimPrefix(e.base, "http://")
	begin := time.Now()
	e.fault(`{"kind":"refuse","for":"500ms"}`)
	if conn, err := net.Dial("tcp", addr); err == nil {
		_ = conn.Close()
		if time.Since(begin) < 500*time.Millisecond {
			t.Error("it listens")
		}
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Since(begin) > patience {
			t.Fatalf("it never listens again: %v", err)
		}
	}
	if status, text := e.ask("/v1/completions", `{"prompt":"x","max_tokens":1}`); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

func TestFaultMistakes(t *testing.T) {
	e := start(t)
	for _, c := range []struct{ body, want string }{
		{`nothing`, "want an object"},
		{`{"kind":"boom"}`, `kind: "boom": want error, reset, hang, slow, refuse or retry_after`},
		{`{"kind":"error","staus":500}`, "unknown field"},
		{`{"kind":"error","status":200}`, "status: 200: want 400 to 599"},
		{`{"kind":"error","share":2}`, "share: 2: want more than 0 and at most 1"},
		{`{"kind":"error","for":"soon"}`, `for: "soon": want a time`},
		{`{"kind":"error","for":"2h"}`, `for: "2h": want a time of at most 1h0m0s`},
		{`{"kind":"error","path":"/debug"}`, "faults do not reach /debug"},
		{`{"kind":"error","path":"v1"}`, "want the beginning of a path"},
		{`{"kind":"reset","after_bytes":-1}`, "after_bytes: -1: want 0 or more"},
		{`{"kind":"slow"}`, "factor: 0: want 0.01 to 1000"},
		{`{"kind":"retry_after"}`, "for: missing"},
	} {
		t.Run(c.body+" is refused with the reason", func(t *testing.T) {
			status, text := e.ask("/debug/fault", c.body)
			var got struct{ Error struct{ Message string } }
			unmarshal(t, text, &got)
			if status != http.StatusBadRequest || !strings.Contains(got.Error.Message, c.want) {
				t.Errorf("%d %q, want 400 and %q", status, got.Error.Message, c.want)
			}
		})
	}
	t.Run("there are at most 16 at once", func(t *testing.T) {
		for range maxFaults {
			e.fault(`{"kind":"error","path":"/v1/none"}`)
		}
		if status, text := e.ask("/debug/fault", `{"kind":"error"}`); status != http.StatusBadRequest || !strings.Contains(text, "16 faults already") {
			t.Errorf("%d %s", status, text)
		}
		var all []fault
		e.get("/debug/fault", &all)
		if len(all) != maxFaults || all[0] != (fault{Kind: "error", Status: 500, Share: 1, Path: "/v1/none"}) {
			t.Errorf("%+v", all)
		}
	})
}

func TestMetrics(t *testing.T) {
	line := regexp.MustCompile(`^([a-z_:]+)\{([a-z_]+="(?:[^"\\]|\\.)*",?)+\} ([0-9.e+-]+)$`)
	read := func(t *testing.T, e *engine) map[string]string {
		t.Helper()
		resp, err := http.Get(e.base + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		values, typed := map[string]string{}, ""
		for _, l := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
			if name, ok := strings.CutPrefix(l, "# TYPE "); ok {
				typed, _, _ = strings.Cut(name, " ")
			}
			if strings.HasPrefix(l, "# ") {
				continue
			}
			m := line.FindStringSubmatch(l)
			if m == nil || m[1] != typed {
				t.Fatalf("%q is no sample of %s", l, typed)
			}
			name, labels, _ := strings.Cut(l[:strings.LastIndexByte(l, ' ')], "{")
			if strings.HasSuffix(name, "_info") || strings.Contains(labels, "finished_reason") {
				name += "{" + labels
			}
			values[name] = m[3]
		}
		return values
	}
	check := func(t *testing.T, got, want map[string]string) {
		t.Helper()
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%s is %q, want %q", name, got[name], value)
			}
		}
	}
	t.Run("vLLM's say how busy the engine is", func(t *testing.T) {
		e := start(t, "--speed", "20", "--max-seqs", "1", "--kv-tokens", "64000", "--model", `m"1`)
		if status, text := e.ask("/v1/completions", `{"prompt":"12345678","max_tokens":3,"ignore_eos":true}`); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		leave := e.open(`{"prompt":"x","stream":true,"fake_tokens":30000}`)
		check(t, read(t, e), map[string]string{
			"vllm:num_requests_running": "1", "vllm:num_requests_waiting": "0", "vllm:prompt_tokens_total": "3", "vllm:num_preemptions_total": "0",
			`vllm:cache_config_info{engine="0",model_name="m\"1",block_size="16",num_gpu_blocks="4000",enable_prefix_caching="False"}`: "1",
			`vllm:request_success_total{engine="0",model_name="m\"1",finished_reason="length"}`:                                        "1",
		})
		leave()
		e.until("the cancel", func(s stats) bool { return s.Cancelled == 1 })
		check(t, read(t, e), map[string]string{"vllm:num_requests_running": "0", "vllm:kv_cache_usage_perc": "0"})
	})
	t.Run("SGLang's say the same", func(t *testing.T) {
		e := start(t, "--speed", "20", "--kind", "sglang")
		defer e.open(`{"prompt":"x","stream":true,"fake_tokens":30000}`)()
		check(t, read(t, e), map[string]string{
			"sglang:num_running_reqs": "1", "sglang:num_queue_reqs": "0", "sglang:max_total_num_tokens": "80000", "sglang:prompt_tokens_total": "1",
		})
	})
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"--help", 0, "size of the KV cache in tokens"},
		{"--nonsense", 2, "flag provided but not defined: -nonsense"},
		{"serve", 2, `"serve": want no arguments, only flags`},
		{"--speed 0 --kv-tokens 1", 2, "--kv-tokens: 1: want 64 to 1073741824\n--speed: 0: want 0.001 to 10000"},
		{"--step 0s", 2, "--step: 0s: want 1µs to 1m"},
		{"--kind triton", 2, `--kind: "triton": want vllm or sglang`},
		{"--max-model-len 90000", 2, "--max-model-len: 90000: want 2 to 80000"},
		{"--listen 127.0.0.1:http-nothing", 1, "http-nothing"},
		{"--simulate --scenario nothing", 1, `--scenario: "nothing": want a part of one of these names: abuser 0.7x;`},
	} {
		t.Run("fakeengine "+c.args, func(t *testing.T) {
			var out, failed bytes.Buffer
			if status := run(context.Background(), strings.Fields(c.args), &out, &failed); status != c.status || !strings.Contains(failed.String(), c.want) || out.Len() > 0 {
				t.Errorf("status %d, %q, %q, want %d and %q", status, failed.String(), out.String(), c.status, c.want)
			}
		})
	}
}

func TestSimulate(t *testing.T) {
	var out, failed bytes.Buffer
	if status := run(context.Background(), strings.Fields("--simulate --scenario abuser --kv-tokens 40000"), &out, &failed); status != 0 {
		t.Fatalf("%d %s", status, failed.String())
	}
	for _, want := range []string{"abuser 0.7x", "abuser 10x", "no gateway, cancel", "Gradient2", "Weir, engine metrics"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, out.String())
		}
	}
}
