package gateway_test

import (
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/inferweir/weir/database"
)

// answersLater sends the head with the first part at once, where there is one, and the rest
// when the gate is open: "" breaks off.
func answersLater(g *gate, status int, kind, first, rest string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", kind)
		if first != "" {
			w.WriteHeader(status)
			say(w, first)
		}
		switch {
		case !g.wait(r):
		case rest == "":
			panic(http.ErrAbortHandler)
		case first == "":
			w.WriteHeader(status)
		}
		_, _ = io.WriteString(w, rest)
	}
}

// What fails the one who asks fails those who wait for the same answer. That it is read
// along, or came whole, makes no difference, and neither does who pays for it.
func TestLedgerOfFollowers(t *testing.T) {
	t.Parallel()
	const stream, whole = "text/event-stream", "application/json"
	plain := strings.Replace(hi, `"m"`, `"m","temperature":0`, 1)
	f := func(name string, status int, kind, first, rest string, want database.UsageRow) {
		for _, charge := range []string{"charge_hits: true", "charge_hits: false"} {
			t.Run(name+" with "+charge, func(t *testing.T) {
				t.Parallel()
				// try tells whether the second came in time to wait with the first.
				try := func() bool {
					g := newGate()
					c := &counted{h: answersLater(g, status, kind, first, rest)}
					w := inFront(t, "database: {url: \"sqlite:"+t.TempDir()+"/weir.db\"}\n"+strings.Replace(followed, "charge_hits: true", charge, 1), c)
					body, done := plain, make(chan answer, 2)
					if kind == stream {
						body = toldStream
					}
					go func() { done <- w.send("POST", chats, body) }()
					w.until(func() bool { return c.calls.Load() == 1 })
					if first != "" { // it has come as far as to be read along
						follower := w.open("POST", chats, body)
						follower.sees(first)
						go func() { done <- follower.rest() }()
					} else {
						go func() { done <- w.send("POST", chats, body) }()
						w.until(func() bool { return w.metric(`weir_gateway_requests_in_flight{route="chat"}`) == "2" })
					}
					g.open()
					after(t, "an answer", done)
					after(t, "the other answer", done)
					w.until(func() bool { return strings.Count(w.log.String(), `"route":"chat"`) == 2 })
					if c.calls.Load() != 1 || strings.Count(w.log.String(), "collapsed") != 1 {
						return false
					}
					if got := w.usage(database.ByModel); !reflect.DeepEqual(got, []database.UsageRow{want}) {
						t.Errorf("the ledger has\n%+v, want\n%+v", got, want)
					}
					return true
				}
				for range 20 {
					if try() {
						return
					}
				}
				t.Error("nobody has waited for another's answer")
			})
		}
	}
	row := func(model string, c database.UsageCounts) database.UsageRow {
		return database.UsageRow{Model: model, UsageCounts: c}
	}
	both := database.UsageCounts{Requests: 2, Errors: 2}
	hit := database.UsageCounts{Requests: 2, Hits: 1, Input: 9, Output: 5}
	told := `{"model":"m","choices":[{"finish_reason":"stop","message":{"content":"a"}}],"usage":{"prompt_tokens":9,"completion_tokens":5}}`
	f("a stream that is read along is a hit", 200, stream, aDelta, itsEnd+itsUse+itsDone, row("m", hit))
	f("an answer that came whole is a hit", 200, whole, "", told, row("m", hit))
	f("a stream that broke off is an error of both", 200, stream, aDelta, "", row("m", database.UsageCounts{Requests: 2, Errors: 2, Input: 8, Output: 1}))
	f("a 500 that is read along is an error of both", 500, stream, "data: x\n\n", itsDone, row("", both))
	f("a 500 that came whole is an error of both", 500, whole, "", `{"error":{"message":"x"}}`, row("", both))
	f("no answer is an error of both", 200, whole, "", "", row("", both))
}
