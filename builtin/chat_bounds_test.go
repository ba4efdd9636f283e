package builtin_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/builtin"
)

// filled is head, as many parts as a body may have between it and tail, numbered
// where they have a %d, and tail. A part is without the comma.
func filled(head, part, tail string, most int) string {
	var b strings.Builder
	b.WriteString(head)
	for i := 0; b.Len()+len(tail)+len(part)+8 <= most; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		if strings.Contains(part, "%d") {
			fmt.Fprintf(&b, part, i)
		} else {
			b.WriteString(part)
		}
	}
	b.WriteString(tail)
	return b.String()
}

// hostileChats are bodies that take as much room as they may, each to cost much
// in one place.
func hostileChats(most int) map[string]string {
	const user = `{"model":"weir-story","max_tokens":1,"messages":[{"role":"user","content":"a"}],`
	member := func(name, part string) string { return filled(user+`"`+name+`":[`, part, "]}", most) }
	messages := func(head, part, tail string) string {
		return filled(`{"model":"weir-story","max_tokens":1,"messages":[`+head, part, tail+"]}", most)
	}
	word := strings.Repeat("surprisedsilvermountainlibrarytogether", builtin.MaxChatBytes/38)
	return map[string]string{
		"zeros for modalities":         member("modalities", "0"),
		"texts for modalities":         member("modalities", `"text"`),
		"zeros for messages":           messages("", "0", ""),
		"empty messages":               messages("", "{}", ""),
		"system messages":              messages("", `{"role":"system","content":""}`, ""),
		"zeros for parts":              messages(`{"role":"user","content":[`, "0", "]}"),
		"parts":                        messages(`{"role":"user","content":[`, `{"type":"text","text":""}`, "]}"),
		"parts of escapes":             messages(`{"role":"user","content":[`, `{"type":"t\u0065xt","text":"\u0061"}`, "]}"),
		"messages of parts":            messages("", `{"role":"system","content":[`+strings.Repeat(`{"type":"text","text":""},`, 99)+`{"type":"text","text":""}]}`, ""),
		"names in a message":           messages(`{"role":"user","content":"a",`, `"%d":0`, "}"),
		"names with escapes":           messages(`{"role":"user","content":"a",`, `"\u0061%d":0`, "}"),
		"names in a part":              messages(`{"role":"user","content":[{"type":"text","text":"a",`, `"%d":0`, "}]}"),
		"zeros for stops":              member("stop", "0"),
		"stops":                        member("stop", `"a"`),
		"tools":                        member("tools", "{}"),
		"biases":                       filled(user+`"logit_bias":{`, `"%d":0`, "}}", most),
		"unknown names":                filled(user, `"%d":0`, "}", most),
		"unknown lists":                member("a", "[0]"),
		"unknown names with escapes":   filled(user, `"\u0061%d":0`, "}", most),
		"a name that is there twice":   filled(user+`"a":{`, `"%d":0`, `,"1":0}}`, most),
		"a long model":                 `{"model":"` + strings.Repeat("a", most-12) + `"}`,
		"a long text":                  messages(`{"role":"user","content":"`+strings.Repeat("a", most-100), "", `"}`),
		"a long number":                user + `"seed":1` + strings.Repeat("0", most-len(user)-9) + "}",
		"a word without end":           `{"model":"weir-story","max_tokens":1,"messages":[{"role":"system","content":"` + word + `"},{"role":"user","content":""}]}`,
		"a word without end to answer": `{"model":"weir-story","messages":[{"role":"user","content":"` + word + `"}]}`,
		"deep lists":                   filled(user+`"a":[`, strings.Repeat("[", 90)+strings.Repeat("]", 90), "]}", most),
	}
}

// TestHostileChatsCostLittle measures what a request allocates from its first
// byte to the last of its answer. The bodies are read to their ends, for their
// length is not announced.
func TestHostileChatsCostLittle(t *testing.T) {
	// Reading a body takes two and a quarter times its size, and 200,000 names make
	// it nine. The rest is for the race detector, under which pools forget.
	const room = 18 * builtin.MaxChatBodyBytes
	m := load(t)
	for name, body := range hostileChats(builtin.MaxChatBodyBytes) {
		t.Run(name, func(t *testing.T) {
			if len(body) > builtin.MaxChatBodyBytes {
				t.Fatalf("a body of %d bytes", len(body))
			}
			r := httptest.NewRequestWithContext(t.Context(), "POST", chatPath, io.MultiReader(strings.NewReader(body)))
			w := httptest.NewRecorder()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			m.ServeHTTP(w, r)
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			allocated := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes: %d in %v, %.1f MiB in %d allocations", len(body), w.Code, took.Round(100*time.Microsecond), float64(allocated)/(1<<20), after.Mallocs-before.Mallocs)
			if allocated > room {
				t.Errorf("%d bytes were allocated, want at most %d", allocated, room)
			}
			if w.Code != 200 && w.Code != 400 && w.Code != 404 {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
		})
	}
	t.Run("a body too long is not read", func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := ask(t, m, strings.Repeat(" ", builtin.MaxBodyBytes))
		runtime.ReadMemStats(&after)
		if allocated := after.TotalAlloc - before.TotalAlloc; w.Code != 413 || allocated > builtin.MaxBodyBytes+64<<10 { // the test's own copy
			t.Errorf("got %d and %d bytes allocated", w.Code, allocated)
		}
	})
}
