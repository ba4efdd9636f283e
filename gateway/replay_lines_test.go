package gateway_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/gateway"
)

// logLine is a line of a log: of POST /v1/chat/completions by alice, at a second of the hour,
// with further members. Two with one hash asked for the same.
func logLine(second float64, hash int, members string) string {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(second * float64(time.Second)))
	return fmt.Sprintf(`{"time":"%s","level":"INFO","msg":"request","request_id":"r-%v","caller":"key:alice","plan":"pro","route":"chat","method":"POST","path":"/v1/chat/completions","status":200,"duration_ms":500,"upstream_ms":500,"upstream":"llm","model":"m","input_tokens":10,"output_tokens":20,"finish":"stop","bytes_in":100,"bytes_out":300,"client":"192.0.2.1","request":"%016x","estimate_input":10,"estimate_output":40%s}`+"\n",
		at.Format("2006-01-02T15:04:05.000Z07:00"), second, hash, members)
}

const replayed1 = `
callers: {keys: [{caller: alice, key: weir_alice, plan: pro}], deny: [key:mallory, 203.0.113.0/24]}
plans: {default: {policies: [2/minute]}, pro: {policies: [POLICY]}}
upstreams: {llm: {targets: ["http://192.0.2.9:1"], dialect: openai, concurrency: 1, queue: {max: 1, max_wait: 1s}}}
routes: [{name: chat, match: {path: /v1/chat/completions}, upstream: llm, cache: {CACHE}}]
`

func under(policy, cache string) string {
	return strings.NewReplacer("POLICY", policy, "CACHE", cache).Replace(replayed1)
}

// fates are how the requests of a log are answered under a configuration, by ID.
func fates(t *testing.T, yaml, log string) (string, *gateway.ReplayReport) {
	t.Helper()
	all, report := replayed(t, yaml, []byte(log))
	var b strings.Builder
	for line := range strings.Lines(log) {
		if _, id, ok := strings.Cut(line, `"request_id":"`); ok {
			id, _, _ = strings.Cut(id, `"`)
			if fate, ok := all[id]; ok {
				b.WriteString(strings.Fields(fate)[0] + " ")
			}
		}
	}
	return strings.TrimSpace(b.String()), report
}

func TestReplayOfLines(t *testing.T) {
	t.Parallel()
	const off, kept = "mode: off", "mode: inference, ttl: 1m, share: all"
	f := func(name, yaml, want string, lines ...string) {
		t.Run(name, func(t *testing.T) {
			if got, _ := fates(t, yaml, strings.Join(lines, "")); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	f("goes by arrival, not by the order of lines", under("1/hour", off), "denied upstream", logLine(5, 1, ""), logLine(1, 2, ""))
	f("gives back what was reserved and not used", under("90 tokens/hour", off), "upstream upstream denied", logLine(1, 1, ""), logLine(10, 2, ""), logLine(20, 3, ""))
	f("keeps what is the same", under("9/hour", kept), "upstream hit upstream upstream", logLine(1, 1, ""), logLine(20, 1, ""), logLine(30, 2, ""), logLine(90, 1, ""))
	f("joins what is the same and runs", under("9/hour", kept), "upstream collapsed", logLine(1, 1, ""), logLine(1.2, 1, ""))
	const charged, stream = kept + ", charge_hits: true", `,"stream":true,"first_byte_ms":100`
	const left, asks48, asks49 = stream + `,"status":499,"duration_ms":150`, `,"estimate_output":38`, `,"estimate_output":39`
	f("charges who reads a stream along", under("100 tokens/hour", charged), "upstream collapsed denied", logLine(1, 1, stream), logLine(1.2, 1, stream), logLine(5, 2, ""))
	f("charges what was produced to who reads along and leaves", under("100 tokens/hour", charged), "upstream left upstream", logLine(1, 1, stream), logLine(1.2, 1, left), logLine(5, 2, asks48))
	f("charges not less than that", under("100 tokens/hour", charged), "upstream left denied", logLine(1, 1, stream), logLine(1.2, 1, left), logLine(5, 2, asks49))
	f("keeps nothing that samples", under("9/hour", kept), "upstream upstream", logLine(1, 1, `,"samples":true`), logLine(20, 1, `,"samples":true`))
	f("keeps what samples where the route says so", under("9/hour", kept+", only: all"), "upstream hit", logLine(1, 1, `,"samples":true`), logLine(20, 1, `,"samples":true`))
	f("keeps nothing that the upstream did not let be kept", under("9/hour", kept), "upstream upstream", logLine(1, 1, `,"cache":"weir; fwd=miss"`), logLine(20, 1, ""))
	f("shares with nobody else", under("9/hour", "mode: inference, ttl: 1m"), "upstream upstream hit", logLine(1, 1, ""), strings.Replace(logLine(20, 1, ""), "key:alice", "ip:192.0.2.1", 1), logLine(25, 1, ""))
	f("queues, and refuses what the queue has no room for", under("9/hour", off), "upstream upstream shed", logLine(1, 1, ""), logLine(1.1, 2, ""), logLine(1.2, 3, ""))
	f("lets a client leave that left", under("9/hour", off), "upstream left upstream", logLine(1, 1, ""), logLine(1.1, 2, `,"status":499,"duration_ms":200`), logLine(1.4, 3, ""))
	f("goes on for others whose client waits, when the first has left", under("9/hour", kept), "upstream collapsed", logLine(1, 1, `,"status":499,"duration_ms":200`), logLine(1.1, 1, ""))
	f("goes on for them from the queue", under("9/hour", kept), "upstream upstream collapsed", logLine(1, 2, ""), logLine(1.1, 1, `,"status":499,"duration_ms":200`), logLine(1.2, 1, ""))
	f("makes an answer anew for a client that left", under("9/hour", kept+", stale_while_revalidate: 1h"), "upstream stale hit", logLine(1, 1, ""), logLine(70, 1, `,"status":499`), logLine(80, 1, ""))
	f("knows the plans of the new file", under("9/hour", off), "upstream upstream denied",
		strings.Replace(logLine(1, 1, ""), "key:alice", "ip:192.0.2.1", 1), strings.Replace(logLine(3, 2, ""), "key:alice", "ip:192.0.2.1", 1), strings.Replace(logLine(5, 3, ""), "key:alice", "ip:192.0.2.1", 1))
	f("refuses who is denied", under("9/hour", off), "other other upstream",
		strings.Replace(logLine(1, 1, ""), "key:alice", "key:mallory", 1), strings.Replace(logLine(3, 1, ""), "192.0.2.1", "203.0.113.5", 1), logLine(5, 1, ""))
	f("has no route for other paths", under("9/hour", off), "other", strings.Replace(logLine(1, 1, ""), "/v1/chat/completions", "/other", 1))
	f("leaves what was refused before any policy", under("1/hour", off), "other upstream", logLine(1, 1, `,"status":401,"caller":"","route":"","upstream":""`), logLine(2, 1, ""))
	f("refuses a job, and then does not run it", under("1/hour", off), "upstream denied upstream",
		logLine(1, 1, ""), logLine(2, 2, `,"status":202,"job":"j1","upstream":""`), logLine(3, 3, `,"job":"j1","client":""`), strings.Replace(logLine(3.1, 4, ""), `"key:alice"`, `"ip:192.0.2.1"`, 1))
	f("has the attempts of a job take their place", under("9/hour", off), "job upstream", logLine(2, 2, `,"status":202,"job":"j1","upstream":""`), logLine(3, 3, `,"job":"j1","client":""`), logLine(3.1, 4, ""))
	f("refreshes by itself", under("9/hour", kept+", stale_while_revalidate: 1h"), "upstream stale hit",
		logLine(1, 1, ""), logLine(70, 1, ""), strings.Replace(logLine(70, 1, `,"refresh":true`), "r-70", "none", 1), logLine(80, 1, ""))
	f("gives stale answers where the upstream fails", under("9/hour", kept+", stale_if_error: 1h"), "upstream stale", logLine(1, 1, ""), logLine(70, 1, `,"status":500`))
	f("goes by the log where fields decide", under("9/hour", "mode: http"), "upstream hit upstream", logLine(1, 1, ""), logLine(2, 1, `,"cache":"weir; hit; ttl=7","upstream":""`), logLine(3, 1, ""))
}

func TestReplayGuessesWhatTheLogDoesNotSay(t *testing.T) {
	log := logLine(1, 1, "") + logLine(3, 2, `,"duration_ms":900`) + logLine(5, 3, `,"duration_ms":700`) +
		logLine(10, 4, `,"status":429,"policy":"pro","duration_ms":0,"upstream_ms":0,"upstream":""`) + // the median, 700 ms
		logLine(20, 2, `,"status":503,"shed":"expired","duration_ms":0,"upstream_ms":0,"upstream":""`) // 900 ms, as before
	_, report := fates(t, under("9/hour", "mode: off"), log)
	if got, want := fmt.Sprintf("%.3f", report.New.Seconds), "3.700"; got != want {
		t.Errorf("the upstream works for %s s, want %s", got, want)
	}
	touched := map[string]int64{}
	for _, a := range report.Assumptions {
		touched[a.What] = a.Requests
	}
	for what, want := range map[string]int64{
		"the upstream was not asked in the log; it takes the median of its route (guessed)":                    1,
		"the upstream was not asked in the log; it takes as long as for the same request elsewhere in the log": 1,
		"refused in one and not in the other; its client comes back, or does not, as it does in the log":       2,
	} {
		if touched[what] != want {
			t.Errorf("%q touches %d requests, want %d: %v", what, touched[what], want, touched)
		}
	}
}

func TestReplayReportsWhatChanges(t *testing.T) {
	log := logLine(1, 1, "") + logLine(2, 2, "") + logLine(3, 1, `,"status":429,"policy":"old","policy_scope":"plan:pro","duration_ms":0,"upstream_ms":0,"upstream":""`)
	_, report := fates(t, under("1/hour", "mode: inference, ttl: 1m"), log)
	wait := gateway.ReplayWait{}
	want := gateway.ReplayReport{
		From: time.Date(2026, 3, 1, 12, 0, 1, 0, time.UTC), To: time.Date(2026, 3, 1, 12, 0, 3, 0, time.UTC), Lines: 3,
		Logged: gateway.ReplayTotals{Requests: 3, Upstream: 2, Denied: 1, Calls: 2, Seconds: 1, InputTokens: 20, OutputTokens: 40, Wait: wait},
		New:    gateway.ReplayTotals{Requests: 3, Upstream: 1, Hits: 1, Denied: 1, Calls: 1, Seconds: 0.5, InputTokens: 10, OutputTokens: 20, Wait: wait},
		Routes: []gateway.ReplayGroup{{
			Name: "chat", Requests: 3, Logged: gateway.ReplayCounts{Upstream: 2, Denied: 1}, New: gateway.ReplayCounts{Upstream: 1, Cached: 1, Denied: 1}, Newly: 1, NoLonger: 1,
		}},
		Policies: []gateway.ReplayPolicy{{Name: "plan:pro old", Logged: 1}, {Name: "plan:pro pro", New: 1}},
	}
	want.Callers = []gateway.ReplayGroup{want.Routes[0]}
	want.Callers[0].Name = "key:alice"
	want.Assumptions = []gateway.ReplayAssumption{
		{What: "counts, caches and queues are empty when the log begins", Requests: 3},
		{What: "refused in one and not in the other; its client comes back, or does not, as it does in the log", Requests: 2},
		{What: "the answer passed no cache in the log, so its fields are not known; it is taken that they let it be kept", Requests: 1},
	}
	same(t, *report, want)
}

func TestReplayReadsLogs(t *testing.T) {
	t.Parallel()
	c := configured(t, under("9/hour", "mode: off"))
	f := func(name, log string, o gateway.ReplayOptions, want string) {
		t.Run(name, func(t *testing.T) {
			report, err := gateway.Replay(t.Context(), c, strings.NewReader(log), o)
			got := ""
			if err == nil {
				got = fmt.Sprintf("%d of %d lines, %d skipped", report.New.Requests, report.Lines, report.Skipped)
			} else {
				got = err.Error()
			}
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	one := logLine(1, 1, "")
	f("of nothing", "", gateway.ReplayOptions{}, "0 of 0 lines, 0 skipped")
	f("with empty lines", "\n"+one+"\r\n\n", gateway.ReplayOptions{}, "1 of 1 lines, 0 skipped")
	f("without an end of line", strings.TrimSpace(one), gateway.ReplayOptions{}, "1 of 1 lines, 0 skipped")
	f("with the process's own messages", `{"time":"2026-03-01T12:00:00.000Z","level":"INFO","msg":"serving"}`+"\nnot JSON\n"+one, gateway.ReplayOptions{}, "1 of 3 lines, 2 skipped")
	f("with a line that is longer than any", `{"msg":"`+strings.Repeat("x", 1<<20)+"\"}\n"+one, gateway.ReplayOptions{}, "1 of 2 lines, 1 skipped")
	f("with times that are none", strings.Replace(one, "2026", "0001", 1)+strings.Replace(one, `"time":"`, `"time":"x`, 1)+one, gateway.ReplayOptions{}, "1 of 3 lines, 2 skipped")
	f("with numbers that cannot be", logLine(1, 1, `,"duration_ms":1e300`)+logLine(1, 1, `,"queue_ms":-1`)+logLine(1, 1, `,"bytes_in":-5`)+logLine(1, 1, `,"status":7`)+one, gateway.ReplayOptions{}, "1 of 5 lines, 4 skipped")
	f("compressed", zipped(t, one+logLine(2, 2, "")), gateway.ReplayOptions{}, "2 of 2 lines, 0 skipped")
	f("in two compressed parts", zipped(t, one)+zipped(t, logLine(2, 2, "")), gateway.ReplayOptions{}, "2 of 2 lines, 0 skipped")
	f("whose compressed data are none", zipped(t, one)[:20]+strings.Repeat("\xff", 40), gateway.ReplayOptions{}, "log: line 1: flate: corrupt input before offset 34")
	f("up to a bound", one+one, gateway.ReplayOptions{MaxRequests: 2}, "2 of 2 lines, 0 skipped")
	f("not above it", one+one+one, gateway.ReplayOptions{MaxRequests: 2}, "log: line 3: more than 2 requests: want a part of the log")
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// FuzzReplay looks for lines that no gateway writes and a replay does not survive.
func FuzzReplay(f *testing.F) {
	for _, members := range []string{"", `,"status":499`, `,"cache":"weir; hit; ttl=-3"`, `,"job":"j","client":""`, `,"status":101`, `,"path":"redacted","caller":"redacted:0","client":"redacted:0"`, `,"cache":"weir; fwd=miss","cache_key":"f","finish":"length"`, `,"stream":true,"first_byte_ms":90000`} {
		f.Add(logLine(1, 1, members) + logLine(1.1, 1, ""))
	}
	f.Fuzz(func(t *testing.T, log string) {
		c := configured(t, under("9/hour", "mode: inference, ttl: 1m, stale_while_revalidate: 1m, charge_hits: true"))
		told := int64(0)
		report, err := gateway.Replay(t.Context(), c, strings.NewReader(log), gateway.ReplayOptions{MaxRequests: 100, Each: func(gateway.ReplayedRequest) { told++ }})
		if err == nil && report.New.Requests != told {
			t.Errorf("%d requests were told of, %d counted", told, report.New.Requests)
		}
	})
}
