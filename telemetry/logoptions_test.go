package telemetry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/telemetry"
)

// logged is what a log with the options writes of the entries.
func logged(t *testing.T, o telemetry.LogOptions, entries ...telemetry.Entry) (text string, sampled uint64) {
	t.Helper()
	var out bytes.Buffer
	l := telemetry.NewAccessLog(&out, o)
	for _, e := range entries {
		l.Log(e)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String(), l.Sampled()
}

func TestAccessLogHasTheDetails(t *testing.T) {
	e := complete()
	text, _ := logged(t, telemetry.LogOptions{}, e)
	_, details, _ := strings.Cut(text, `,"user_agent":"curl/8 \"x\""`)
	want := `,"policy_scope":"plan:pro","shadow_scope":"route:chat","saved_ms":3000,"saved_tokens":1277,"request":"00000000000000ab","samples":true,"stream":true,` +
		`"estimate_input":1199,"estimate_output":256,"attempts":2,"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331"}` + "\n"
	if details != want {
		t.Errorf("the line ends in\n%swant\n%s", details, want)
	}
	if !json.Valid([]byte(text)) {
		t.Errorf("no JSON: %s", text)
	}
}

func TestAccessLogSamples(t *testing.T) {
	some := make([]telemetry.Entry, 10_000)
	for i := range some {
		some[i] = telemetry.Entry{Time: start, RequestID: fmt.Sprint("id-", i), Status: 200}
	}
	t.Run("a share of what went well", func(t *testing.T) {
		text, sampled := logged(t, telemetry.LogOptions{Sample: 0.1}, some...)
		n := strings.Count(text, `,"sample":0.1}`+"\n")
		if n < 850 || n > 1150 || n != strings.Count(text, "\n") || sampled != uint64(len(some)-n) {
			t.Errorf("%d lines of %d with a sample, %d not written; want about 1000 and the rest", n, strings.Count(text, "\n"), sampled)
		}
		if again, _ := logged(t, telemetry.LogOptions{Sample: 0.1}, some...); again == text {
			t.Error("another log, with another key, chose the same requests")
		}
	})
	t.Run("a share of requests that all come with the same ID", func(t *testing.T) {
		same := make([]telemetry.Entry, len(some))
		for i := range same {
			same[i] = telemetry.Entry{Time: start.Add(time.Duration(i)), RequestID: "mine", Status: 200}
		}
		if text, _ := logged(t, telemetry.LogOptions{Sample: 0.1}, same...); strings.Count(text, "\n") < 850 || strings.Count(text, "\n") > 1150 {
			t.Errorf("%d lines of 10,000, want about 1000", strings.Count(text, "\n"))
		}
	})
	t.Run("all of a smaller share when it is made larger", func(t *testing.T) {
		var out bytes.Buffer
		l := telemetry.NewAccessLog(&out, telemetry.LogOptions{Sample: 0.1})
		write := func() (text string) {
			for _, e := range some {
				l.Log(e)
			}
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			text = out.String()
			out.Reset()
			return text
		}
		few := write()
		l.Set(telemetry.LogOptions{Sample: 0.2})
		more := write()
		for line := range strings.Lines(few) {
			if !strings.Contains(more, strings.Replace(line, `"sample":0.1`, `"sample":0.2`, 1)) {
				t.Fatalf("with a larger share this line is gone: %s", line)
			}
		}
	})
	f := func(name string, share float64, e telemetry.Entry, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			e.Time, e.RequestID = start, "id"
			text, _ := logged(t, telemetry.LogOptions{Sample: share}, e)
			if text != "" {
				text = text[strings.Index(text, `"status"`):]
			}
			if text != want {
				t.Errorf("line = %q, want %q", text, want)
			}
		})
	}
	f("nothing of a request that went well", -1, telemetry.Entry{Status: 200}, "")
	f("every refusal", -1, telemetry.Entry{Status: 429}, `"status":429,"duration_ms":0}`+"\n")
	f("every bad request", -1, telemetry.Entry{Status: 400}, `"status":400,"duration_ms":0}`+"\n")
	f("every failure that the client saw only in the stream", -1, telemetry.Entry{Status: 200, Error: "cut"}, `"status":200,"duration_ms":0,"error":"cut"}`+"\n")
	f("every request that waited", -1, telemetry.Entry{Status: 200, QueueTime: 1001 * time.Millisecond}, `"status":200,"duration_ms":0,"queue_ms":1001}`+"\n")
	f("not one that waited for a second", -1, telemetry.Entry{Status: 200, QueueTime: time.Second}, "")
	f("all by default", 0, telemetry.Entry{Status: 200}, `"status":200,"duration_ms":0}`+"\n")
	f("all with more than all", 2, telemetry.Entry{Status: 200}, `"status":200,"duration_ms":0}`+"\n")
	f("all with no number", math.NaN(), telemetry.Entry{Status: 200}, `"status":200,"duration_ms":0}`+"\n")
}

func TestAccessLogRedacts(t *testing.T) {
	all := []string{"caller", "client", "path", "user_agent", "model", "error", "request_id", "cache_key", "target", "request", "nonsense"}
	e := complete()
	e.CacheKey, e.Error = "0123abcd", "dial 10.0.0.1: refused"
	text, _ := logged(t, telemetry.LogOptions{Redact: all}, e, e)
	first, second, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if first != second {
		t.Errorf("the same request has two lines:\n%s\n%s", first, second)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatal(err)
	}
	for _, name := range all[2 : len(all)-1] {
		if line[name] != "redacted" {
			t.Errorf("%s = %v, want redacted", name, line[name])
		}
	}
	for _, name := range all[:2] {
		if s, _ := line[name].(string); !regexp.MustCompile(`^redacted:[0-9a-f]{8}$`).MatchString(s) {
			t.Errorf("%s = %v, want redacted: and 8 digits", name, line[name])
		}
	}
	for _, secret := range []string{"alice", "203.0.113.7", "/v1/chat", "curl", "llama", "10.0.0.1", "01ABC", "0123abcd", "00ab"} {
		if strings.Contains(first, secret) {
			t.Errorf("the line tells %q: %s", secret, first)
		}
	}
	t.Run("tells callers apart, and is another in each log", func(t *testing.T) {
		bob := e
		bob.Caller = "key:bob"
		only := telemetry.LogOptions{Redact: []string{"caller"}}
		both, _ := logged(t, only, e, bob)
		of := regexp.MustCompile(`redacted:[0-9a-f]{8}`).FindAllString(both, -1)
		other, _ := logged(t, only, e)
		if len(of) != 2 || of[0] == of[1] || strings.Contains(other, of[0]) {
			t.Errorf("the callers are %q, and in another log\n%s", of, other)
		}
		if !strings.Contains(both, `"client":"203.0.113.7"`) {
			t.Errorf("what is not named is not told: %s", both)
		}
	})
	t.Run("leaves out what there is not", func(t *testing.T) {
		text, _ := logged(t, telemetry.LogOptions{Redact: all}, telemetry.Entry{Time: start, Status: 200})
		if want := `{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","status":200,"duration_ms":0}` + "\n"; text != want {
			t.Errorf("line = %s, want %s", text, want)
		}
	})
}
