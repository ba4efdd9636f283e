package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/gateway"
)

// odd is an upstream whose answers end as the model's name says, after 200 ms: by
// themselves, by a length limit, not to be stored, or without the end of a stream.
func odd(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	how := func(kind string) bool { return bytes.Contains(body, []byte(`"`+kind+`"`)) }
	finish := "stop"
	if how("length") {
		finish = "length"
	}
	if how("no-store") {
		w.Header().Set("Cache-Control", "no-store")
	}
	if !bytes.Contains(body, []byte(`"stream":true`)) {
		time.Sleep(200 * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		answer := fmt.Sprintf(`{"object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":%q,"message":{"role":"assistant","content":"a"}}],"usage":{"prompt_tokens":9,"completion_tokens":5}}`, finish)
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
		say(w, answer)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	time.Sleep(100 * time.Millisecond)
	say(w, "data: {\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n")
	time.Sleep(100 * time.Millisecond)
	if how("cut") {
		return
	}
	say(w, fmt.Sprintf("data: {\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":%q}]}\n\ndata: [DONE]\n\n", finish))
}

// A burst of nine, one later, and a burst again when a minute has passed.
func burstsOf(kind string, stream bool) []arrival {
	var all []arrival
	add := func(at time.Duration) {
		all = append(all, arrival{
			at: at, id: fmt.Sprintf("r-%02d", len(all)), key: fmt.Sprintf("weir_u%d", len(all)%4), path: "/v1/chat/completions",
			body: fmt.Sprintf(`{"model":%q,"temperature":0,"stream":%t,"messages":[{"role":"user","content":"q"}]}`, kind, stream),
		})
	}
	for i := range 9 {
		add(time.Duration(i*5) * time.Millisecond)
	}
	add(10 * time.Second)
	for i := range 5 {
		add(90*time.Second + time.Duration(i*7)*time.Millisecond)
	}
	return all
}

func TestAReplayKeepsAndSharesWhatTheGatewayDoes(t *testing.T) {
	t.Parallel()
	keeping := strings.Replace(generous, "upstream: llm}]", "upstream: llm, cache: {mode: inference, ttl: 1h, share: all}}]", 1)
	f := func(name, kind string, stream bool, want string, apparent bool) {
		t.Run(name, func(t *testing.T) {
			all := burstsOf(kind, stream)
			lived := liveOf(t, keeping, all, odd)
			if got := tallied(outcomes(t, lived)); got != want {
				t.Errorf("the gateway has %s, want %s", got, want)
			}
			got, _ := replayed(t, keeping, lived)
			if different := differences(got, outcomes(t, lived)); len(different) > 0 {
				t.Errorf("replayed under its own configuration: %s", strings.Join(different, "\n"))
			}
			got, _ = replayed(t, keeping, liveOf(t, generous, all, odd))
			if different := differences(got, outcomes(t, lived)); apparent != (len(different) == 0) {
				t.Errorf("recorded without a cache: %s", strings.Join(different, "\n"))
			}
		})
	}
	f("of what ends by itself", "stop", false, "map[collapsed:8 hit:6 upstream:1]", true)
	f("of what ends by a length limit", "length", false, "map[collapsed:12 upstream:3]", true)
	f("of streams", "stop", true, "map[collapsed:8 hit:6 upstream:1]", true)
	f("of streams that end by a length limit", "length", true, "map[collapsed:12 upstream:3]", true)
	f("of streams that break off", "cut", true, "map[collapsed:12 upstream:3]", true)
	// A log without a cache does not say what the upstream forbids.
	f("of what is not to be stored", "no-store", false, "map[upstream:15]", false)
}

// assumed is how many requests each assumption of a report touches, without those that
// are made of all.
func assumed(report *gateway.ReplayReport) []string {
	all := []string{}
	for _, a := range report.Assumptions {
		if what, _, _ := strings.Cut(a.What, ","); !strings.HasPrefix(what, "counts") {
			what, _, _ = strings.Cut(what, ";")
			all = append(all, fmt.Sprintf("%d %s", a.Requests, what))
		}
	}
	slices.Sort(all)
	return all
}

func TestReplayOfAnswersByTheirEnds(t *testing.T) {
	t.Parallel()
	const kept = "mode: inference, ttl: 1m, share: all"
	const unseen, shared, unsaid = "the answer passed no cache in the log", "the answer was not kept", "the log does not say how the answer ended"
	f := func(name, yaml, want string, assumptions []string, lines ...string) {
		t.Run(name, func(t *testing.T) {
			got, report := fates(t, yaml, strings.Join(lines, ""))
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			same(t, assumed(report), assumptions)
		})
	}
	openai := under("9/hour", kept)
	ollama := strings.NewReplacer("dialect: openai", "dialect: ollama", "/v1/chat/completions", "/api/chat").Replace(openai)
	unended := func(line string) string { return strings.Replace(line, `"finish":"stop",`, "", 1) }
	chat := func(line string) string { return strings.Replace(line, "/v1/chat/completions", "/api/chat", 1) }
	const miss = `,"cache":"weir; fwd=miss"`
	f("keeps what the model ended", openai, "upstream hit", []string{"1 " + unseen}, logLine(1, 1, ""), logLine(5, 1, ""))
	f("keeps nothing that a length limit ended", openai, "upstream upstream", []string{}, logLine(1, 1, `,"finish":"length"`), logLine(5, 1, `,"finish":"length"`))
	f("keeps no stream without an end", openai, "upstream upstream", []string{}, unended(logLine(1, 1, `,"stream":true`)), unended(logLine(5, 1, `,"stream":true`)))
	f("keeps no answer without an end", openai, "upstream upstream", []string{}, unended(logLine(1, 1, "")), unended(logLine(5, 1, "")))
	f("keeps no answer that is an error", openai, "upstream upstream", []string{}, logLine(1, 1, `,"error":"cut"`), logLine(5, 1, `,"error":"cut"`))
	f("keeps what an older server ended", ollama, "upstream hit", []string{"1 " + unseen, "1 " + unsaid}, unended(chat(logLine(1, 1, ""))), unended(chat(logLine(5, 1, ""))))
	f("keeps a 404 without an end", openai, "upstream hit", []string{"1 " + unseen}, unended(logLine(1, 1, `,"status":404`)), unended(logLine(3, 1, `,"status":404`)))
	f("shares what is not kept", openai, "upstream collapsed", []string{"1 refused in one and not in the other", "1 " + shared}, logLine(1, 1, miss), logLine(1.1, 1, `,"status":429,"policy":"p","upstream":"","cache":""`))
	f("and knows that where the log has it", openai, "upstream collapsed", []string{}, logLine(1, 1, miss), logLine(1.1, 1, `,"upstream":"","cache":"weir; fwd=miss; collapsed"`))
	f("shares nothing whose followers were sent away", openai, "upstream upstream upstream", []string{}, logLine(1, 1, miss), logLine(1.1, 1, miss+`,"queue_ms":400`), logLine(50, 1, miss))
}

func TestReplayOfRedactedLogs(t *testing.T) {
	t.Parallel()
	const kept = "mode: inference, ttl: 1m, share: all"
	f := func(name, want string, assumptions []string, lines ...string) {
		t.Run(name, func(t *testing.T) {
			got, report := fates(t, under("2/hour", kept), strings.Join(lines, ""))
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			same(t, assumed(report), assumptions)
		})
	}
	hide := func(line, member, value string) string {
		before, rest, _ := strings.Cut(line, `"`+member+`":"`)
		_, after, _ := strings.Cut(rest, `"`)
		return before + `"` + member + `":"` + value + `"` + after
	}
	path := func(line string) string { return hide(line, "path", "redacted") }
	caller := func(line string) string { return hide(line, "caller", "redacted:0123abcd") }
	client := func(line string) string { return hide(line, "client", "redacted:0123abcd") }
	request := func(line string) string { return hide(line, "request", "redacted") }
	const unseen = "1 the answer passed no cache in the log"
	const refused = "refused in one and not in the other"
	f("stays on the route of a path", "upstream hit", []string{unseen, "2 the path is hidden (telemetry.log.redact)"}, path(logLine(1, 1, "")), path(logLine(5, 1, "")))
	f("has no route for a path where the log has none", "other", []string{"1 the path is hidden (telemetry.log.redact)"}, strings.Replace(path(logLine(1, 1, "")), `"route":"chat"`, `"route":"gone"`, 1))
	f("keeps the plan of a caller", "upstream upstream denied", []string{"1 " + refused, "3 the caller is hidden (telemetry.log.redact)"},
		caller(logLine(1, 1, `,"finish":"length"`)), caller(logLine(2, 2, `,"finish":"length"`)), caller(logLine(3, 3, "")))
	f("has no network for a client", "upstream", []string{unseen, "1 the client's address is hidden (telemetry.log.redact)"}, client(logLine(1, 1, "")))
	f("keeps nothing without a hash", "upstream upstream", []string{"2 the line has no hash of the request"}, request(logLine(1, 1, "")), strings.Replace(logLine(5, 1, ""), `"request":"0000000000000001",`, "", 1))
	f("keeps nothing that samples, with a hash or without", "upstream", []string{}, request(logLine(1, 1, `,"samples":true`)))
}

func TestReplayOfALogWhoseEndIsMissing(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	for i := range 400 {
		log.WriteString(logLine(float64(i), 1000*i+i*i*i%977, ""))
	}
	whole := zipped(t, log.String())
	f := func(name, log string, cutOff bool) {
		t.Run(name, func(t *testing.T) {
			report, err := gateway.Replay(t.Context(), configured(t, under("9/hour", "mode: off")), strings.NewReader(log), gateway.ReplayOptions{})
			if err != nil {
				t.Fatal(err)
			}
			n := report.New.Requests
			if report.CutOff != cutOff || (n == 400) == cutOff || n == 0 || report.Lines-n != report.Skipped || report.Skipped > 1 {
				t.Errorf("cut off: %t, %d requests of %d lines, %d skipped", report.CutOff, n, report.Lines, report.Skipped)
			}
		})
	}
	f("has what is there", whole[:len(whole)*3/4], true)
	f("has the parts that are whole", zipped(t, logLine(1, 1, ""))+whole[:30], true)
	f("has all", whole, false)
}
