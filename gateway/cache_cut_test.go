package gateway_test

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wire is an origin that answers every request with the same bytes, and ends the
// connection when it is told to.
type wire struct {
	url   string
	calls atomic.Int64
	end   chan struct{} // one for each connection
}

func startWire(t *testing.T, answer string, reset bool) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &wire{url: "http://" + l.Addr().String(), end: make(chan struct{}, 100)}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); close(o.end); wg.Wait() })
	serve := func(c net.Conn) {
		defer func() { _ = c.Close() }()
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_ = taken(r)
		o.calls.Add(1)
		_, _ = io.WriteString(c, answer)
		<-o.end
		if reset {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	return o
}

const (
	begins      = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"
	begins10    = "HTTP/1.0 200 OK\r\nCache-Control: max-age=60\r\n"
	jsonType    = "Content-Type: application/json\r\n"
	sseType     = "Content-Type: text/event-stream\r\n"
	ndjsonType  = "Content-Type: application/x-ndjson\r\n"
	inChunks    = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" // a wire answers one request a connection
	untilClosed = "Connection: close\r\n\r\n"
	lastChunk   = "0\r\n\r\n"
	wholeChat   = `{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}`
	cutChat     = `{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hel`
	claudeStart = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"c\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n" +
		"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hel\"}}\n\n"
	claudeLong = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":5}}\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	ollamaStart = `{"model":"l","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"Hel"},"done":false}` + "\n"
	ollamaLong  = `{"model":"l","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"length"}` + "\n"
)

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// ending is an answer that may not be kept.
type ending struct {
	name   string
	answer string
	reset  bool // the connection is broken, not closed
	clean  bool // nobody can know by it that something is missing
	ended  bool // as the API goes, it was whole
}

// transports are answers of which the transport shows that they are not whole, or
// does not show that they are.
func transports() []ending {
	return []ending{
		{name: "a length that is not reached", answer: begins + jsonType + "Content-Length: 109\r\n\r\n" + cutChat},
		{name: "a length that is not reached, though the text has an end", answer: begins + jsonType + "Content-Length: 200\r\n\r\n" + wholeChat},
		{name: "no last chunk", answer: begins + jsonType + inChunks + chunk(wholeChat)},
		{name: "half a chunk", answer: begins + jsonType + inChunks + chunk(wholeChat)[:80]},
		{name: "no end but the connection's", answer: begins + jsonType + untilClosed + wholeChat, clean: true},
		{name: "no end but the connection's, in HTTP/1.0", answer: begins10 + jsonType + "\r\n" + wholeChat, clean: true},
		{name: "no end, and a reset", answer: begins + jsonType + untilClosed + wholeChat, reset: true},
		{name: "events without a last chunk", answer: begins + sseType + inChunks + chunk(firstEvent) + chunk(nextEvent)},
		{name: "events, and a reset", answer: begins + sseType + untilClosed + firstEvent, reset: true},
		{name: "events to the last, and half a chunk", answer: begins + sseType + inChunks + chunk(firstEvent+lastEvents) + chunk("data: more\n\n")[:10], ended: true},
	}
}

// notKept asks twice for what o answers.
func (w *instance) notKept(t *testing.T, o *wire, f flowing, e ending) {
	t.Helper()
	for i := range 2 {
		r := w.open(f.method, chats, f.body)
		o.end <- struct{}{} // its head is there, and what came with it
		if a := r.rest(); a.hit() || a.status != 200 || !e.clean && !(e.ended && f.upstream != "") && !a.told() {
			t.Errorf("request %d: %v", i, a)
		}
		w.serves(0) // who comes before that is TestWhoComesAgain's
	}
	if got := o.calls.Load(); got != 2 {
		t.Errorf("%d calls, want 2", got)
	}
}

func TestWhatTheTransportCutsIsNotKept(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]flowing{
		"plain":  {site{}, "POST", `{"x":1}`},
		"openai": {site{upstream: ", dialect: openai"}, "POST", streamed},
		"http":   {site{mode: "http", share: "all"}, "GET", ""},
	} {
		for _, e := range transports() {
			t.Run(name+": "+e.name, func(t *testing.T) {
				t.Parallel()
				o := startWire(t, e.answer, e.reset)
				f.at(t, o.url).notKept(t, o, f, e)
			})
		}
	}
	for _, store := range every()[1:] {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			e := transports()[2]
			o := startWire(t, e.answer, e.reset)
			f := flowing{site{store: store, mode: "http", share: "all"}, "GET", ""}
			f.at(t, o.url).notKept(t, o, f, e)
		})
	}
}

// Of an answer over HTTP/2 the reset of its stream says that it is cut.
func TestWhatHTTP2CutsIsNotKept(t *testing.T) {
	cut := false
	c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		if r.ProtoMajor != 2 {
			t.Errorf("asked in %s", r.Proto)
		}
		storable(w.Header())
		w.Header().Set("Content-Type", "application/json")
		say(w, wholeChat)
		if cut {
			panic(http.ErrAbortHandler)
		}
	}}
	api := httptest.NewUnstartedServer(c)
	api.EnableHTTP2 = true
	api.StartTLS()
	t.Cleanup(api.Close)
	roots := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", roots)
	for _, f := range []flowing{{site{}, "POST", `{"x":1}`}, {site{mode: "http", share: "all"}, "GET", ""}} {
		w, before := f.at(t, api.URL), c.calls.Load()
		cut = true
		for range 2 {
			if a := w.send(f.method, chats, f.body); !a.told() || a.hit() {
				t.Errorf("%v", a)
			}
		}
		cut = false
		for range 2 { // whole, it is kept
			if a := w.send(f.method, chats, f.body); !a.is(200, wholeChat) {
				t.Errorf("%v", a)
			}
		}
		if got := c.calls.Load() - before; got != 3 {
			t.Errorf("%d calls, want 3", got)
		}
	}
}

// An answer that the transport ended well is not whole until the model says so.
func TestWhatTheModelDidNotEndIsNotKept(t *testing.T) {
	t.Parallel()
	length := "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n"
	for name, c := range map[string]struct {
		dialect, path, body, kind, text string
		clean                           bool
	}{
		"openai without a terminal event":      {"openai", chats, streamed, sseType, firstEvent + nextEvent, false},
		"openai cut within its last event":     {"openai", chats, streamed, sseType, firstEvent + lastEvents[:len(lastEvents)-40], false},
		"openai with a finish, and no [DONE]":  {"openai", chats, streamed, sseType, firstEvent + lastEvents[:len(lastEvents)-len("data: [DONE]\n\n")], true},
		"openai cut at its length":             {"openai", chats, streamed, sseType, firstEvent + length + "data: [DONE]\n\n", true},
		"openai with [DONE] and no finish":     {"openai", chats, streamed, sseType, firstEvent + nextEvent + "data: [DONE]\n\n", true},
		"openai with an error in it":           {"openai", chats, streamed, sseType, firstEvent + "data: {\"error\":{\"message\":\"gone\"}}\n\ndata: [DONE]\n\n", false},
		"anthropic without message_stop":       {"anthropic", "/v1/messages", streamed, sseType, claudeStart, false},
		"anthropic cut at its length":          {"anthropic", "/v1/messages", streamed, sseType, claudeStart + claudeLong, true},
		"ollama without done":                  {"ollama", "/api/chat", streamed, ndjsonType, ollamaStart, false},
		"ollama cut at its length":             {"ollama", "/api/chat", streamed, ndjsonType, ollamaStart + ollamaLong, true},
		"openai, not streamed, and cut so":     {"openai", chats, streamed, jsonType, `{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"length"}]}`, true},
		"openai, not streamed, and an error":   {"openai", chats, streamed, jsonType, `{"error":{"message":"gone"}}`, false},
		"plain JSON that is none":              {"plain", "/predict", `{"x":1}`, jsonType, `{"label":`, true},
		"plain JSON that says an error":        {"plain", "/predict", `{"x":1}`, jsonType, `{"error":"gone"}`, false},
		"plain JSON with nothing in it at all": {"plain", "/predict", `{"x":1}`, jsonType, "", true},
	} {
		for _, framing := range []string{inChunks, untilClosed} {
			t.Run(fmt.Sprintf("%s %.12s", name, framing), func(t *testing.T) {
				t.Parallel()
				said := begins + c.kind + framing + c.text
				if framing == inChunks {
					said = begins + c.kind + framing + lastChunk
					if c.text != "" {
						said = begins + c.kind + framing + chunk(c.text) + lastChunk
					}
				}
				o := startWire(t, said, false)
				w := site{upstream: ", dialect: " + c.dialect, cache: ", only: all"}.at(t, o.url)
				for range 2 {
					done := make(chan answer, 1)
					go func() { done <- w.send("POST", c.path, c.body) }()
					o.end <- struct{}{}
					if a := after(t, "the answer", done); a.hit() || !c.clean && !a.told() {
						t.Errorf("%v", a)
					}
					w.serves(0)
				}
				if got := o.calls.Load(); got != 2 {
					t.Errorf("%d calls, want 2", got)
				}
			})
		}
	}
}

// Followers of an answer that is cut are told, too.
func TestFollowersOfACutAnswerAreTold(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := startWire(t, begins+sseType+inChunks+chunk(firstEvent), false)
			w := f.at(t, o.url)
			all := []*reading{w.open(f.method, chats, f.body), w.open(f.method, chats, f.body)}
			for _, r := range all {
				r.sees(firstEvent)
			}
			o.end <- struct{}{}
			for _, r := range all {
				if a := r.rest(); !a.told() {
					t.Errorf("%v", a)
				}
			}
			if got := o.calls.Load(); got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
		})
	}
}

// Who has seen the end of an answer that is not kept, and comes again at once, is
// not given it again as if it were still running: he may be asking again because of
// what it was.
func TestWhoComesAgainGetsANewAnswer(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]struct {
		status     int
		kind, text string
	}{
		"after an error":            {500, "application/json", `{"error":{"message":"busy"}}`},
		"after an error in a 200":   {200, "application/json", `{"error":{"message":"busy"}}`},
		"after an error in events":  {200, "text/event-stream", firstEvent + "data: {\"error\":{\"message\":\"busy\"}}\n\n"},
		"after a stream that ended": {200, "text/event-stream", firstEvent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				w.Header().Set("Content-Type", f.kind)
				w.WriteHeader(f.status)
				_, _ = io.WriteString(w, f.text)
			}}
			w := site{upstream: ", dialect: openai"}.start(t, c)
			const n = 50
			for range n {
				if a := w.send("POST", chats, streamed); !a.told() {
					t.Errorf("%v", a)
				}
			}
			if got := c.calls.Load(); got != n {
				t.Errorf("%d calls for %d requests that came one after the other", got, n)
			}
		})
	}
}

// A client that goes on reading where its upstream is silent is told in time.
func TestASilentUpstreamIsACutOne(t *testing.T) {
	t.Parallel()
	for name, f := range streaming() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := startWire(t, begins+sseType+inChunks+chunk(firstEvent), false)
			f.upstream += ", timeouts: {between_bytes: 200ms}"
			w := f.at(t, o.url)
			began := time.Now()
			for range 2 {
				if a := w.send(f.method, chats, f.body); !a.told() || a.hit() {
					t.Errorf("%v", a)
				}
			}
			// Who says nothing has 30 s and more, for each of the two.
			if took := time.Since(began); took > 30*time.Second || o.calls.Load() != 2 {
				t.Errorf("%d calls, %v", o.calls.Load(), took)
			}
		})
	}
}
