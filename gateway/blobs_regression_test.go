package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

func TestRegressionAnUploadTakesFromTheCallersPlan(t *testing.T) {
	const limited = `plans: {default: {policies: [
  {name: few, quota: 4, window: year, by: caller, algorithm: fixed_window},
  {name: volume, quota: 5000, window: year, unit: bytes, by: caller, algorithm: fixed_window}]}}
`
	w := keep(t, durable+limited, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	offer := func(user, bytes int) answer {
		return w.as(user, "POST", "/blobs", `{"content_type":"audio/wav","bytes":`+strconv.Itoa(bytes)+`}`)
	}
	for _, of := range []struct {
		bytes, status int
		few, volume   string
	}{
		{1000, 201, "3", "4000"},
		{3999, 201, "2", "1"},
		{2, 429, "2", "1"},
		{1, 201, "1", "0"},
	} {
		a := offer(1, of.bytes)
		if a.status != of.status || left(a, "few") != of.few || left(a, "volume") != of.volume || a.header.Get("Ratelimit-Policy") == "" {
			t.Errorf("%d bytes: %d %v %s, want %+v", of.bytes, a.status, a.header, a.body, of)
		}
		if of.status == 429 && (a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "volume") || strings.Contains(a.body, "signature")) {
			t.Errorf("the refusal: %v %s", a.header, a.body)
		}
	}
	if a := offer(2, 5001); a.status != 429 || a.header.Get("X-Should-Retry") != "false" || a.header.Get("Retry-After") != "" {
		t.Errorf("more than there is ever: %d %v %s", a.status, a.header, a.body)
	}
	for i := range 4 {
		if a := offer(3, 1); a.status != 201 || left(a, "few") != strconv.Itoa(3-i) {
			t.Errorf("another caller's: %d %v %s", a.status, a.header, a.body)
		}
	}
	if a := offer(3, 1); a.status != 429 || !strings.Contains(a.body, "few") {
		t.Errorf("one too many: %d %v %s", a.status, a.header, a.body)
	}
	if a := w.as(3, "GET", "/x", ""); a.status != 429 {
		t.Errorf("uploads and other requests are counted apart: %d %v", a.status, a.header)
	}
}

func TestRegressionWithoutTemporaryFilesLargeAnswersAreWhole(t *testing.T) {
	yaml := inFolder(t, with("offload_over: 400KiB", ""))
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	w := before(t, yaml, http.HandlerFunc(large))
	for _, n := range []int{0, 300 << 10, 400 << 10, 400<<10 + 1, 3 << 20} {
		if a := w.as(1, "GET", "/x?n="+strconv.Itoa(n), ""); !a.is(200, pattern(n)) {
			t.Errorf("%d bytes in parts: %d %v, %d bytes, %v", n, a.status, a.header, len(a.body), a.err)
		}
	}
	warned := 0
	for line := range strings.Lines(w.log.String()) {
		if strings.Contains(line, "WARN") && strings.Contains(line, "temporary files") {
			warned++
		}
	}
	if warned != 4 { // the empty one needs no file
		t.Errorf("%d warnings, want 4: %s", warned, w.log.String())
	}
	a := w.as(1, "GET", "/x?whole&n="+strconv.Itoa(3<<20), "") // which needs none either
	if a.status != 303 || w.send("GET", a.header.Get("Location"), "").body != pattern(3<<20) {
		t.Errorf("with a length: %d %v", a.status, a.header)
	}
	if a := w.as(1, "GET", "/x?breaks&n="+strconv.Itoa(1<<20), ""); a.status == 200 && a.err == nil {
		t.Errorf("an answer that breaks off is whole: %d bytes", len(a.body))
	}
}

// fetched is what is at a link of another host.
func fetched(t *testing.T, link string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	resp, err := client.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%d %.300s, %v", resp.StatusCode, text, err)
	}
	return string(text)
}

func TestRegressionNoKeyIsSentOnToAnotherHost(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "an example, not a secret")
	t.Setenv("AWS_REGION", "")
	backend := s3mem.New()
	if err := backend.CreateBucket("models"); err != nil {
		t.Fatal(err)
	}
	s3 := httptest.NewServer(gofakes3.New(backend, gofakes3.WithAutoBucket(false)).Server())
	t.Cleanup(s3.Close)
	bucket := `blobs: {url: "s3://models?use_path_style=true&endpoint=` + s3.URL + `"}`
	w := keep(t, strings.Replace(with("offload_over: 100KiB", ""), `blobs: {url: "dir:DIR/blobs", signing_key: 0123456789abcdef0123456789abcdef}`, bucket, 1), http.HandlerFunc(large))
	const n = 200 << 10
	j := w.handIn(1, "/x?n="+strconv.Itoa(n), "")
	w.becomes(1, j.ID, "completed")
	waits := []string{"Prefer", "respond-async, wait=60"}
	for name, of := range map[string]struct {
		path   string
		header []string
	}{
		"a direct answer":               {"/x?n=" + strconv.Itoa(n), nil},
		"the result of a job":           {"/jobs/" + j.ID + "/result", nil},
		"the result that is waited for": {"/x?n=" + strconv.Itoa(n), waits},
	} {
		t.Run(name, func(t *testing.T) {
			field := w.as(1, "GET", of.path, "", append(of.header, "Accept", "audio/*")...)
			if field.status != 200 || field.header.Get("Location") != "" {
				t.Fatalf("with X-Api-Key, which clients send on: %d %v %.200q", field.status, field.header, field.body)
			}
			if l := field.link(t); l.Bytes != n || l.ContentType != "audio/wav" || !strings.HasPrefix(l.URL, s3.URL) || fetched(t, l.URL) != pattern(n) {
				t.Errorf("the link: %+v", l)
			}
			bearer := w.send("GET", of.path, "", append(of.header, "Authorization", "Bearer weir_u1")...)
			if where := bearer.header.Get("Location"); bearer.status != 303 || !strings.HasPrefix(where, s3.URL) || fetched(t, where) != pattern(n) {
				t.Errorf("with Authorization, which they do not: %d %v", bearer.status, bearer.header)
			}
		})
	}
}

func TestRegressionLinksAreOfTheSchemeThatAProxySays(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct{ callers, proto, scheme string }{
		"https behind a proxy that is trusted":       {"trusted_proxies: [127.0.0.1], ", "https", "https"},
		"http where a trusted proxy says so":         {"trusted_proxies: [127.0.0.1], ", "http", "http"},
		"http where it says nothing":                 {"trusted_proxies: [127.0.0.1], ", "", "http"},
		"http behind somebody who is not trusted":    {"", "https", "http"},
		"http where what is said is no scheme of it": {"trusted_proxies: [127.0.0.1], ", "javascript", "http"},
	} {
		t.Run(name, func(t *testing.T) {
			w := keep(t, strings.Replace(with("offload_over: 100KiB", ""), "callers: {", "callers: {"+of.callers, 1), http.HandlerFunc(large))
			header := []string{"Accept", "application/json", "X-Forwarded-For", "203.0.113.1"}
			if of.proto != "" {
				header = append(header, "X-Forwarded-Proto", of.proto)
			}
			waited := w.as(1, "GET", "/x?n=200000", "", append(header, "Prefer", "respond-async, wait=60")...)
			if applied := waited.header.Get("Preference-Applied"); applied != "wait=60" {
				t.Errorf("it was not waited for: %d %v %s", waited.status, waited.header, waited.body)
			}
			direct := w.as(1, "GET", "/x?n=200000", "", header...)
			j := w.handIn(1, "/x?n=200000", "", header...)
			w.becomes(1, j.ID, "completed")
			for name, a := range map[string]answer{"waited for": waited, "direct": direct, "fetched": w.result(1, j.ID, header...)} {
				l := a.link(t)
				if !strings.HasPrefix(l.URL, of.scheme+"://weir.example/blobs/") || w.send("GET", path(t, l.URL), "").body != pattern(200000) {
					t.Errorf("%s: %d %v %+v", name, a.status, a.header, l)
				}
			}
		})
	}
}

func TestRegressionAnOffloadedAnswerThatIsBrokenOffIsCharged(t *testing.T) {
	var sent atomic.Int64
	w := keep(t, with("offload_over: 100KiB, "+policies("{name: few, quota: 100, window: year, by: caller, algorithm: fixed_window}, {name: tok, quota: 100000, window: year, unit: tokens, by: caller, algorithm: fixed_window}"), ""), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		w.Header().Set("Content-Type", "application/json")
		say(w, `{"id":"c1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"`+pattern(200<<10))
		sent.Add(1)
		<-r.Context().Done()
	}))
	words := strings.Repeat("word ", 100)
	for user, timeout := 1, 250*time.Millisecond; ; user, timeout = user+1, 2*timeout {
		before := sent.Load()
		a := w.as(user, "POST", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"`+words+`"}]}`, "X-Request-Timeout", timeout.String())
		if sent.Load() == before && timeout < 20*time.Second {
			continue // this machine was busy: the time was over too early
		}
		if a.status != 504 && a.err == nil {
			t.Errorf("it is whole: %d %v, %d bytes", a.status, a.header, len(a.body))
		}
		few, tok := w.remains(user, "few"), w.remains(user, "tok")
		if n, err := strconv.Atoi(tok); few != "99" || err != nil || n > 100000-50 {
			t.Errorf("%s requests of 100 and %s tokens of 100000 are left", few, tok)
		}
		if u := w.used("key:u" + strconv.Itoa(user)); u.Input < 50 || u.Requests != 3 { // with two looks
			t.Errorf("the ledger: %+v", u)
		}
		return
	}
}

func TestRegressionAPathAboveTheBlobsIsForbidden(t *testing.T) {
	var calls atomic.Int64
	w := keep(t, durable, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	texts := map[string]bool{}
	for _, to := range []string{
		"/blobs/../x", "/blobs/../../../../etc/passwd", "/blobs/x/../../x", "/blobs/.", "/blobs/..", "/blobs/%2e%2e/x", "/blobs/%2e%2e%2fx",
		"/blobs/..%2f..%2fetc%2fpasswd", "/blobs/%252e%252e/x", "/blobs//etc/passwd", "/blobs/%5c..%5cx", "/blobs/x%00", "/blobs/x;y", "/blobs/..;/x",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
			for name, a := range map[string]answer{"with a key": w.as(1, method, to, ""), "without": w.send(method, to, "")} {
				if a.status != 403 || a.err != nil {
					t.Errorf("%s %s %s: %d %s, want 403", method, to, name, a.status, a.body)
				}
				if method != "HEAD" {
					texts[a.detail()] = true
				}
			}
		}
	}
	if len(texts) != 1 || calls.Load() != 0 {
		t.Errorf("the texts are %v; %d calls went upstream", texts, calls.Load())
	}
}
