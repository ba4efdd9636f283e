package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// command runs one command line in this process.
func command(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, log transcript
	status = run(ctx, args, output{&out, &log})
	return status, out.String(), log.String()
}

// fakeWeir is a server with answers of its own.
func fakeWeir(t *testing.T, h http.HandlerFunc) string {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func TestWarmSendsWhatIsWritten(t *testing.T) {
	var mu sync.Mutex
	var got []string
	url := fakeWeir(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Header.Del("Content-Length")
		header, _ := json.Marshal(r.Header)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%s %s %s %s %s", r.Method, r.RequestURI, r.Host, header, body))
		w.Header().Set("Cache-Status", "weir; fwd=miss; stored")
	})
	host := strings.TrimPrefix(url, "http://")
	f := func(name, line, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			got = nil
			status, stdout, stderr := command(t.Context(), "warm", "--url", url+"/base/", write(t, "requests.jsonl", line))
			if status != exitOK || stdout != "1 request: 1 stored, 0 already there, 0 not cacheable, 0 failed\n" || stderr != "" {
				t.Fatalf("%d %s%s", status, stdout, stderr)
			}
			want := []string{strings.ReplaceAll(want, "HOST", host)}
			for i := range got {
				got[i] = strings.ReplaceAll(got[i], `"User-Agent":["weir-warm/devel"]`, "UA")
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
	f("an object, with its numbers, its order and its escapes, less white space", `{"path": "/v1", "body": {"b" : 9007199254740993, "a": [1.0, 1e2, "\u00e9<\/b>"] , "b": 1}}`,
		`POST /base/v1 HOST {"Content-Type":["application/json"],UA} {"b":9007199254740993,"a":[1.0,1e2,"\u00e9<\/b>"],"b":1}`)
	f("a list", `{"path": "/v1", "body": [ 1, 2 ]}`, `POST /base/v1 HOST {"Content-Type":["application/json"],UA} [1,2]`)
	f("a text, and says nothing of its type", `{"path": "/v1", "body": "caf\u00e9\n"}`, "POST /base/v1 HOST {UA} café\n")
	f("no body", `{"path": "/v1?a=b&c=%2F"}`, `GET /base/v1?a=b&c=%2F HOST {UA} `)
	f("an empty text", `{"path": "/v1", "body": ""}`, `POST /base/v1 HOST {UA} `)
	f("another type", `{"path": "/v1", "headers": {"content-type": "application/x+json"}, "body": {}}`, `POST /base/v1 HOST {"Content-Type":["application/x+json"],UA} {}`)
	f("another type behind the body", `{"path": "/v1", "body": {}, "headers": {"Content-Type": "application/x+json"}}`, `POST /base/v1 HOST {"Content-Type":["application/x+json"],UA} {}`)
	f("the fields that are in a key", `{"path": "/v1", "method": "QUERY", "headers": {"Host": "api.example", "accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "sdk"}}`,
		`QUERY /base/v1 api.example {"Accept":["*/*"],"Accept-Encoding":["gzip"],"User-Agent":["sdk"]} `)
	f("another server in a query", `{"path": "/v1?next=//evil.example/../x;y"}`, `GET /base/v1?next=//evil.example/../x;y HOST {UA} `)
	f("a line without its end, and one with two", "\r\n"+`{"path": "/v1"}`+"\r", `GET /base/v1 HOST {UA} `)
}

func TestWarmRefusesThePathsThatWeirRefuses(t *testing.T) {
	s := serve(t, newEcho(t).config())
	f := func(path, want string) {
		t.Helper()
		t.Run(path, func(t *testing.T) {
			t.Helper()
			if want != "" {
				what, right, _ := strings.Cut(want, ": ")
				want = "has " + what + ", and Weir answers such paths with 400: want " + right
			}
			if got := pathMistake(path); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			resp, err := http.Get(s.base + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if refused := resp.StatusCode == http.StatusBadRequest; refused != (want != "") {
				t.Errorf("Weir answers %s", resp.Status)
			}
		})
	}
	f("/other/a", "")
	f("/", "")
	f("/a%20b/%C3%A9/é:@&=+$,~!*'()[]", "")
	f("/a...b/.c/...", "")
	f("/a?b=//c/../d;e%2f\\%252f", "")
	f("//evil.example/x", "two slashes together: one")
	f("/a//b", "two slashes together: one")
	f("/a//?b", "two slashes together: one")
	f("/a/../b", "a segment . or ..: the path that it leads to")
	f("/..", "a segment . or ..: the path that it leads to")
	f("/./a", "a segment . or ..: the path that it leads to")
	f("/a/%2E%2e/b", "a segment . or ..: the path that it leads to")
	f("/a\\b", "a backslash: a slash")
	f("/a%5Cb", "a backslash: a slash")
	f("/a%2Fb", "an escaped slash: a slash, or the name without one")
	f("/a%2fb", "an escaped slash: a slash, or the name without one")
	f("/a;b", "a semicolon: none")
	f("/a%3Bb", "a semicolon: none")
	f("/a%252Eb", "a character that is escaped twice: it escaped once")
	f("/a%252fb", "a character that is escaped twice: it escaped once")
	f("/a%0ab", "an escaped control character: none")
	f("/a%7Fb", "an escaped control character: none")
}

func TestWarmComesBackWhenItIsTold(t *testing.T) {
	var asked atomic.Int64
	url := fakeWeir(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if n := asked.Add(1); n <= 5 {
			w.Header().Set("Retry-After-Ms", "1")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader([]int{429, 503}[n%2])
			return
		}
		w.Header().Set("Cache-Status", "weir; fwd=miss; stored")
		_, _ = w.Write(body)
	})
	status, stdout, stderr := command(t.Context(), "warm", "--url", url, "--concurrency", "1", write(t, "r.jsonl", `{"path": "/a", "body": {"a": 1}}`))
	if status != exitOK || asked.Load() != 6 || stderr != "" || !strings.HasPrefix(stdout, "1 request: 1 stored") {
		t.Errorf("%d after %d requests: %s%s", status, asked.Load(), stdout, stderr)
	}
}

func TestWarmDoesNotWaitLongerThanItMay(t *testing.T) {
	url := fakeWeir(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(429)
		_, _ = io.WriteString(w, `{"detail": "Try again in 60 seconds."}`)
	})
	name := write(t, "r.jsonl", `{"path": "/a"}`)
	status, stdout, stderr := command(t.Context(), "warm", "--url", url, "--timeout", "59s", name)
	if status != exitFailed || stderr != name+":1: 429 Too Many Requests: Try again in 60 seconds\n" || !strings.HasSuffix(stdout, ", 1 failed\n") {
		t.Errorf("%d %s%s", status, stdout, stderr)
	}
	silent := fakeWeir(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, _, stderr = command(t.Context(), "warm", "--url", silent, "--timeout", "10ms", name)
	if stderr != name+":1: no answer within 10ms\n" {
		t.Error(stderr)
	}
}

func TestWarmSaysWhyARequestFailed(t *testing.T) {
	url := fakeWeir(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cut":
			w.Header().Set("Cache-Status", "weir; fwd=miss; stored")
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 200_000))
		case "/chunks":
			_, _ = w.Write(make([]byte, 200_000))
			panic(http.ErrAbortHandler)
		case "/never":
			w.Header().Set("X-Should-Retry", "false")
			w.WriteHeader(429)
			_, _ = io.WriteString(w, `{"detail": "Request refused: a cost above the burst."}`)
		case "/ollama":
			w.WriteHeader(500)
			_, _ = io.WriteString(w, `{"error": "no such model"}`)
		case "/page":
			w.WriteHeader(502)
			_, _ = io.WriteString(w, "<html>"+strings.Repeat("x", 200_000))
		case "/long":
			w.WriteHeader(500)
			_, _ = io.WriteString(w, `{"detail": "`+strings.Repeat("é", 1000)+`"}`)
		case "/moved":
			http.Redirect(w, r, "/never", http.StatusFound)
		}
	})
	lines := `{"path": "/cut"}
{"path": "/chunks"}
{"path": "/never"}
{"path": "/ollama"}
{"path": "/page"}
{"path": "/long"}
{"path": "/moved"}
`
	status, stdout, stderr := command(t.Context(), "warm", "--url", url, write(t, "r.jsonl", lines))
	var reasons []string
	for line := range strings.Lines(stderr) {
		_, reason, _ := strings.Cut(line, ".jsonl:")
		reasons = append(reasons, reason)
	}
	want := []string{
		"1: the answer was cut off\n", "2: the answer was cut off\n", "3: 429 Too Many Requests: Request refused: a cost above the burst\n",
		"4: 500 Internal Server Error: no such model\n", "5: 502 Bad Gateway\n", "6: 500 Internal Server Error: " + strings.Repeat("é", 250) + "…\n",
	}
	if status != exitFailed || stdout != "7 requests: 0 stored, 0 already there, 1 not cacheable, 6 failed\n" || !reflect.DeepEqual(reasons, want) {
		t.Errorf("%d %s%q\nwant %q", status, stdout, reasons, want)
	}
}

func TestWarmIsInterrupted(t *testing.T) {
	arrived := make(chan struct{}, 100)
	url := fakeWeir(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			w.Header().Set("Cache-Status", "weir; hit; ttl=3")
			return
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	go func() { // ends with the two requests
		for range 2 {
			<-arrived
		}
		interrupt()
	}()
	lines := `{"path": "/quick"}` + strings.Repeat("\n"+`{"path": "/endless"}`, 9)
	status, stdout, stderr := command(ctx, "warm", "--json", "--url", url, "--concurrency", "2", write(t, "r.jsonl", lines))
	const want = `{"requests":1,"stored":0,"already_there":1,"not_cacheable":0,"failed":0}` + "\n"
	if status != exitFailed || stdout != want || stderr != "weir: interrupted: 9 requests not sent to the end\n" {
		t.Errorf("%d %s%s", status, stdout, stderr)
	}
}

func TestWarmReadsLongFiles(t *testing.T) {
	t.Parallel()
	var bytesRead, requests atomic.Int64
	url := fakeWeir(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		bytesRead.Add(n)
		requests.Add(1)
	})
	t.Run("sends the longest line", func(t *testing.T) {
		line := `{"path":"/a","body":"` + strings.Repeat("x", maxLine-23) + `"}`
		if len(line) != maxLine {
			t.Fatal(len(line))
		}
		status, _, stderr := command(t.Context(), "warm", "--url", url, write(t, "r.jsonl", line+"\r\n"))
		if status != exitOK || bytesRead.Load() != maxLine-23 || stderr != "" {
			t.Errorf("%d, %d bytes: %s", status, bytesRead.Load(), stderr)
		}
	})
	t.Run("refuses a longer one, and still reads the rest", func(t *testing.T) {
		requests.Store(0)
		long := `{"path":"/a","body":"` + strings.Repeat("x", maxLine-22) + `"}`
		name := write(t, "r.jsonl", `{"path":"/a"}`+"\n"+long+"\n{}\n"+strings.Repeat("y", 3*maxLine))
		status, stdout, stderr := command(t.Context(), "warm", "--url", url, name)
		want := name + ":2: longer than 10485760 bytes: want shorter lines\n" + name + `:3: path: missing: want one, for example {"path": "/v1/embeddings", "body": {"input": "text"}}` + "\n" +
			name + ":4: longer than 10485760 bytes: want shorter lines\n"
		if status != exitFailed || stdout != "" || stderr != want || requests.Load() != 0 {
			t.Errorf("%d %s%.1000s\nwant %s", status, stdout, stderr, want)
		}
	})
	t.Run("names 1000 mistakes, and not all", func(t *testing.T) {
		name := write(t, "r.jsonl", strings.Repeat("x\n", 5000))
		status, _, stderr := command(t.Context(), "warm", "--url", url, name)
		if lines := strings.Split(stderr, "\n"); status != exitFailed || len(lines) != 1002 || lines[1000] != name+": more than 1000 mistakes" {
			t.Errorf("%d, %d lines: %.200s", status, len(lines), stderr)
		}
	})
	t.Run("refuses what is not UTF-8", func(t *testing.T) {
		name := write(t, "r.jsonl", "{\"path\": \"/\xff\"}\n")
		if status, _, stderr := command(t.Context(), "warm", "--url", url, name); status != exitFailed || stderr != name+":1: is not UTF-8: want JSON in UTF-8\n" {
			t.Errorf("%d %s", status, stderr)
		}
	})
}

// Its first byte has left before anybody knows how it ends.
func TestAStreamThatALengthLimitEndsIsCalledStored(t *testing.T) {
	var asked atomic.Int64
	model := fakeWeir(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "text/event-stream")
		for _, data := range []string{`{"choices":[{"index":0,"delta":{"content":"a"}}]}`, `{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}`, "[DONE]"} {
			_, _ = io.WriteString(w, "data: "+data+"\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	})
	s := serve(t, fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
upstreams: {llm: {targets: [%q], dialect: openai}}
routes: [{match: {path: /v1/*}, upstream: llm, cache: {mode: inference, ttl: 1h}}]
`, model))
	name := write(t, "r.jsonl", `{"path": "/v1/chat/completions", "body": {"model": "m", "temperature": 0, "stream": true, "messages": [{"role": "user", "content": "b"}]}}`)
	for n := range int64(2) {
		status, stdout, stderr := command(t.Context(), "warm", "--url", s.base, name)
		if status != exitOK || stdout != "1 request: 1 stored, 0 already there, 0 not cacheable, 0 failed\n" || asked.Load() != n+1 {
			t.Errorf("%d %s%s, asked %d times", status, stdout, stderr, asked.Load())
		}
	}
}

func TestWhatACacheStatusSays(t *testing.T) {
	f := func(name string, want outcome, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if got := cacheStatus(fields); got != want {
				t.Errorf("cacheStatus(%q) = %d, want %d", fields, got, want)
			}
		})
	}
	f("stored", stored, "weir; fwd=miss; stored")
	f("stored after it was stale", stored, "weir; fwd=stale; fwd-status=200; stored; ttl=60")
	f("a hit", present, "weir; hit; ttl=580")
	f("what another request of the file brought", present, "weir; fwd=miss; collapsed")
	f("what another request brought and this one stored", stored, "weir; fwd=miss; collapsed; stored")
	f("past the cache", notCacheable, "weir; fwd=bypass")
	f("missed and not stored", notCacheable, "weir; fwd=miss")
	f("no cache", notCacheable)
	f("an empty field", notCacheable, "")
	f("another cache before it", stored, "origin; hit, weir; fwd=miss; stored")
	f("another cache in another field", present, "origin; fwd=miss; stored", `"weir"; hit`)
	f("another cache alone", notCacheable, "cdn; hit")
	f("quoted separators are none", notCacheable, `weir; fwd=bypass; detail="; stored, weir; hit \"; hit"`)
	f("a quote without end", notCacheable, `weir; detail="; stored`)
	f("Weir behind Weir: the nearer one", present, "weir; fwd=miss; stored, weir; hit")
}

func TestProgressIsForTerminals(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, w := range []io.Writer{file, &bytes.Buffer{}} {
		if p := newProgress(w, 3); p.terminal != nil {
			t.Errorf("%T is no terminal", w)
		}
	}
	var text bytes.Buffer
	p := &progress{terminal: &text, total: 3}
	p.clear()
	p.show(&warmed{Requests: 1})
	p.show(&warmed{Requests: 2}) // too soon
	p.clear()
	if want := "\r\x1b[K1 of 3 requests, 0 failed\r\x1b[K"; text.String() != want {
		t.Errorf("%q, want %q", &text, want)
	}
}

func TestTheFirstFailuresAreKept(t *testing.T) {
	var w warmed
	for _, line := range []int{30, 20, 10, 25, 15, 5, 1, 2, 3, 4, 40, 6, 7} {
		w.add(failed, failure{Line: line})
	}
	var lines []int
	for _, f := range w.Failures {
		lines = append(lines, f.Line)
	}
	if want := []int{1, 2, 3, 4, 5, 6, 7, 10, 15, 20}; !slices.Equal(lines, want) || w.Failed != 13 {
		t.Errorf("%v of %d, want %v of 13", lines, w.Failed, want)
	}
}

func TestWhatIsPurgedIsFetchedAgain(t *testing.T) {
	s := serve(t, newEcho(t).config())
	lines := `{"path": "/tagged/a"}
{"path": "/tagged/b", "body": {"a": 1}}
{"path": "/other/a"}
{"path": "/other/ab"}
`
	name := write(t, "r.jsonl", lines)
	warm := func(want string) {
		t.Helper()
		status, stdout, stderr := command(t.Context(), "warm", "--url", s.base, name)
		if status != exitOK || stdout != want+"\n" {
			t.Errorf("%d %s%s, want %s", status, stdout, stderr, want)
		}
	}
	const all = "4 requests: 0 stored, 4 already there, 0 not cacheable, 0 failed"
	warm("4 requests: 4 stored, 0 already there, 0 not cacheable, 0 failed")
	f := func(name, removed, fetched string, flags ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			warm(all)
			status, stdout, stderr := command(t.Context(), append([]string{"purge", "--admin", s.admin}, flags...)...)
			if status != exitOK || !strings.HasSuffix(stdout, ": "+removed+" removed here\n") || stderr != "" {
				t.Errorf("%d %s%s, want %s", status, stdout, stderr, removed)
			}
			warm("4 requests: " + fetched + ", 0 not cacheable, 0 failed")
		})
	}
	f("by tag", "2 answers", "2 stored, 2 already there", "--tag", "llama")
	f("by a tag that none has", "0 answers", "0 stored, 4 already there", "--tag", "llam")
	f("by path", "1 answer", "1 stored, 3 already there", "--path", "/other/a")
	f("by the beginning of paths", "2 answers", "2 stored, 2 already there", "--path", "/other/a*")
	f("by caller", "4 answers", "4 stored, 0 already there", "--caller", "ip:127.0.0.1")
	f("by another caller", "0 answers", "0 stored, 4 already there", "--caller", "ip:127.0.0.2")
	f("by a key that none has", "0 answers", "0 stored, 4 already there", "--key", strings.Repeat("0", 64))
	f("all", "4 answers", "4 stored, 0 already there", "--all")
}

func TestWhatIsWarmInFilesIsThereAfterARestart(t *testing.T) {
	text := newEcho(t).config() + fmt.Sprintf("cache: {tiers: [memory, dir], dir: {path: %q}}\n", t.TempDir())
	// The port is another one each time, and the host is in the key.
	name := write(t, "r.jsonl", `{"path": "/tagged/a", "headers": {"Host": "api.example"}}`+"\n"+`{"path": "/other/a", "headers": {"Host": "api.example"}}`)
	warm := func(want string) {
		t.Helper()
		s := serve(t, text)
		status, stdout, stderr := command(t.Context(), "warm", "--url", s.base, name)
		if status != exitOK || stdout != "2 requests: "+want+", 0 not cacheable, 0 failed\n" {
			t.Errorf("%d %s%s, want %s", status, stdout, stderr, want)
		}
		if status, stdout, stderr := command(t.Context(), "purge", "--admin", s.admin, "--tag", "llama"); status != exitOK {
			t.Errorf("%d %s%s", status, stdout, stderr)
		}
		s.stop(t)
	}
	warm("2 stored, 0 already there")
	warm("1 stored, 1 already there")
}
