package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

var start = time.Date(2026, 3, 4, 5, 6, 7, 8_900_000, time.FixedZone("", 3600))

// full is an entry with every member.
func full() telemetry.Entry {
	return telemetry.Entry{
		Time: start, RequestID: "01ABC", Caller: "key:alice", Plan: "pro", Route: "chat",
		Upstream: "llm", Target: "http://user:pw@10.0.0.1:8000/base?key=secret",
		Method: "POST", Path: "/v1/chat/completions?prompt=secret", Proto: "HTTP/1.1", Client: "203.0.113.7",
		Status: 200, BytesIn: 512, BytesOut: 1 << 20,
		Duration: 1234567 * time.Microsecond, FirstByte: 250 * time.Millisecond,
		QueueTime: 1500 * time.Microsecond, UpstreamTime: 240 * time.Millisecond, CacheTime: 23 * time.Microsecond,
		Model: "llama-3.1-8b", Finish: "stop", Usage: weir.Usage{Input: 1200, Cached: 1024, Output: 77}, UsageEstimated: true,
		Cache: "weir; fwd=miss; stored", Policy: "pro", Error: "none", UserAgent: `curl/8 "x"`,
	}
}

// complete is full with what only some entries have.
func complete() telemetry.Entry {
	e := full()
	e.ShadowScope = "route:chat"
	e.PolicyScope, e.CacheResult, e.Saved, e.SavedTokens = "plan:pro", telemetry.ResultHit, 3*time.Second, 1277
	e.Request, e.Samples, e.Stream, e.Estimate, e.Attempts = 0xab, true, true, weir.Usage{Input: 1199, Output: 256}, 2
	e.TraceID, e.SpanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	return e
}

// lines logs the entries and returns what the writer got.
func lines(t *testing.T, level slog.Level, entries ...telemetry.Entry) string {
	t.Helper()
	var out bytes.Buffer
	l := telemetry.NewAccessLog(&out, telemetry.LogOptions{Level: level})
	for _, e := range entries {
		l.Log(e)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestAccessLogLines(t *testing.T) {
	f := func(name string, e telemetry.Entry, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if got := lines(t, slog.LevelInfo, e); got != want+"\n" {
				t.Errorf("line =\n%swant\n%s", got, want)
			}
		})
	}
	f("has every member in a fixed order, without queries and passwords", full(),
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","request_id":"01ABC","caller":"key:alice","plan":"pro",`+
			`"route":"chat","method":"POST","path":"/v1/chat/completions","status":200,"duration_ms":1234.567,"first_byte_ms":250,`+
			`"upstream_ms":240,"queue_ms":1.5,"cache_ms":0.023,"cache":"weir; fwd=miss; stored","policy":"pro","model":"llama-3.1-8b",`+
			`"input_tokens":1200,"cached_tokens":1024,"output_tokens":77,"usage_estimated":true,"finish":"stop","error":"none",`+
			`"bytes_in":512,"bytes_out":1048576,"upstream":"llm","target":"http://10.0.0.1:8000/base","client":"203.0.113.7",`+
			`"proto":"HTTP/1.1","user_agent":"curl/8 \"x\""}`)
	f("leaves out what is empty", telemetry.Entry{Time: start},
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","status":0,"duration_ms":0}`)
	f("warns of a refusal for quota", telemetry.Entry{Time: start, Status: 429, Policy: "daily"},
		`{"time":"2026-03-04T04:06:07.008Z","level":"WARN","msg":"request","status":429,"duration_ms":0,"policy":"daily"}`)
	f("takes other refusals as usual", telemetry.Entry{Time: start, Status: 499},
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","status":499,"duration_ms":0}`)
	f("reports failures as errors, without the query of a URL in them",
		telemetry.Entry{Time: start, Status: 502, Error: `Post "http://a/b?key=\"s e": dial tcp: refused? yes`},
		`{"time":"2026-03-04T04:06:07.008Z","level":"ERROR","msg":"request","status":502,"duration_ms":0,`+
			`"error":"Post \"http://a/b?… e\": dial tcp: refused? yes"}`)
	f("escapes what could end a line or fool a reader",
		telemetry.Entry{Time: start, Path: "/a\n\"\\\x00\x1b[31m\x7f\u0085\u2028\u202e\ufeff\xff\U000e0001<é😀"},
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request",`+
			`"path":"/a\u000a\"\\\u0000\u001b[31m\u007f\u0085\u2028\u202e\ufeff\ufffd\udb40\udc01<é😀","status":0,"duration_ms":0}`)
	f("cuts after 256 bytes", telemetry.Entry{Time: start, Path: "/" + strings.Repeat("x", 300)},
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","path":"/`+strings.Repeat("x", 255)+`","status":0,"duration_ms":0}`)
	f("cuts before a character that does not fit", telemetry.Entry{Time: start, Path: strings.Repeat("x", 254) + "😀"},
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","path":"`+strings.Repeat("x", 254)+`","status":0,"duration_ms":0}`)
	f("cuts a target down to scheme, host and path", telemetry.Entry{Time: start, Target: "https://u:p@x@h/a@b#f"},
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","status":0,"duration_ms":0,"target":"https://h/a@b"}`)
	f("keeps the target of the built-in models", telemetry.Entry{Time: start, Target: "builtin:"},
		`{"time":"2026-03-04T04:06:07.008Z","level":"INFO","msg":"request","status":0,"duration_ms":0,"target":"builtin:"}`)
}

func TestAccessLogLevel(t *testing.T) {
	t.Run("leaves out what is below the level", func(t *testing.T) {
		got := lines(t, slog.LevelWarn,
			telemetry.Entry{Time: start, Status: 200}, telemetry.Entry{Time: start, Status: 429}, telemetry.Entry{Time: start, Status: 500})
		want := `{"time":"2026-03-04T04:06:07.008Z","level":"WARN","msg":"request","status":429,"duration_ms":0}` + "\n" +
			`{"time":"2026-03-04T04:06:07.008Z","level":"ERROR","msg":"request","status":500,"duration_ms":0}` + "\n"
		if got != want {
			t.Errorf("lines =\n%swant\n%s", got, want)
		}
	})
	t.Run("takes now for a missing time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // a bubble begins at midnight UTC 2000-01-01
			want := `{"time":"2000-01-01T00:00:00.000Z","level":"INFO","msg":"request","status":204,"duration_ms":0}` + "\n"
			if got := lines(t, slog.LevelInfo, telemetry.Entry{Status: 204}); got != want {
				t.Errorf("line = %swant %s", got, want)
			}
		})
	})
}

func TestLogger(t *testing.T) {
	t.Run("writes the process's own messages in the same form", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			l := telemetry.NewAccessLog(&out, telemetry.LogOptions{})
			l.Logger().Debug("not written")
			l.Logger().Info("listening", "address", "127.0.0.1:8080", slog.Group("g", "time", "as given"))
			l.Log(telemetry.Entry{Status: 200})
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := `{"time":"2000-01-01T00:00:00.000Z","level":"INFO","msg":"listening","address":"127.0.0.1:8080","g":{"time":"as given"}}` + "\n" +
				`{"time":"2000-01-01T00:00:00.000Z","level":"INFO","msg":"request","status":200,"duration_ms":0}` + "\n"
			if got := out.String(); got != want {
				t.Errorf("lines =\n%swant\n%s", got, want)
			}
		})
	})
}

// writerFunc is an io.Writer.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAccessLogConcurrency(t *testing.T) {
	t.Run("gives each line to the writer in one piece", func(t *testing.T) {
		var writes [][]byte // written by one goroutine at a time
		l := telemetry.NewAccessLog(writerFunc(func(p []byte) (int, error) {
			writes = append(writes, bytes.Clone(p))
			return len(p), nil
		}), telemetry.LogOptions{})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 250 {
					e := full()
					e.Status = 200 + i
					l.Log(e)
					l.Logger().Info("mixed in")
				}
			})
		}
		wg.Wait()
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, p := range writes {
			if !json.Valid(p) || bytes.Count(p, []byte("\n")) != 1 {
				t.Fatalf("write = %q, want one line of JSON", p)
			}
		}
		if len(writes) != 4000 || l.Dropped() != 0 {
			t.Errorf("%d writes and %d dropped, want 4000 and 0", len(writes), l.Dropped())
		}
	})
}

func TestAccessLogBadWriters(t *testing.T) {
	f := func(name string, w writerFunc, want uint64) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			l := telemetry.NewAccessLog(w, telemetry.LogOptions{})
			for range 3 {
				l.Log(full())
			}
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := l.Dropped(); got != want {
				t.Errorf("Dropped() = %d, want %d", got, want)
			}
		})
	}
	f("counts lines that a writer refuses", func([]byte) (int, error) { return 0, errors.New("disk full") }, 3)
	f("counts lines that a writer cuts short", func(p []byte) (int, error) { return len(p) - 1, nil }, 3)
	f("survives a writer that panics", func([]byte) (int, error) { panic("closed") }, 3)
	f("counts nothing for a good writer", io.Discard.Write, 0)

	t.Run("never waits for a writer that hangs, and keeps at most 4 MiB", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hung := make(chan struct{})
			written := 0
			l := telemetry.NewAccessLog(writerFunc(func(p []byte) (int, error) {
				<-hung
				written += len(p)
				return len(p), nil
			}), telemetry.LogOptions{})
			l.Log(full())
			synctest.Wait() // the writer has the first line
			const calls = 20_000
			for range calls {
				l.Log(full())
			}
			dropped := l.Dropped()
			if dropped == 0 || dropped == calls {
				t.Errorf("Dropped() = %d of %d, want some", dropped, calls)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := l.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Flush() = %v, want that the deadline is over", err)
			}
			close(hung)
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			line := len(lines(t, slog.LevelInfo, full()))
			if want := line * (1 + calls - int(dropped)); written != want || written > 4<<20+line {
				t.Errorf("written = %d bytes, want %d, and at most 4 MiB and a line", written, want)
			}
			l.Log(full())
			if err := l.Flush(t.Context()); err != nil || l.Dropped() != dropped {
				t.Errorf("Flush() = %v, Dropped() = %d, want nil and %d: it has recovered", err, l.Dropped(), dropped)
			}
		})
	})
	t.Run("flush waits for the line that the writer has", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			done := false
			l := telemetry.NewAccessLog(writerFunc(func(p []byte) (int, error) {
				time.Sleep(time.Minute)
				done = true
				return len(p), nil
			}), telemetry.LogOptions{})
			l.Log(full())
			synctest.Wait()
			if err := l.Flush(t.Context()); err != nil || !done {
				t.Errorf("Flush() = %v with the line written: %v, want nil and true", err, done)
			}
		})
	})
}

func FuzzAccessLog(f *testing.F) {
	f.Add("/a?b", "http://u:p@h/x", `Get "http://h/?q=\"": EOF`)
	f.Add("\xff\xfe\u2028", "://@", `?\`)
	f.Fuzz(func(t *testing.T, path, target, failure string) {
		line := lines(t, slog.LevelInfo, telemetry.Entry{Time: start, Path: path, Target: target, Error: failure, UserAgent: path})
		var got struct{ Path, UserAgent string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if strings.ContainsAny(got.Path, "?#") || len(line) > 6*4*256+300 {
			t.Errorf("line = %q", line)
		}
		for _, r := range strings.TrimSuffix(line, "\n") {
			if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 || r == 0x2028 || r == utf8.RuneError && !strings.Contains(path+target+failure, "\ufffd") {
				t.Errorf("line has a raw %U: %q", r, line)
			}
		}
	})
}
