package dialect_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/dialect"
)

// refusals are the problems that Weir has, by the name of their golden files.
func refusals() map[string]weir.Problem {
	secret := errors.New("dial tcp 10.1.2.3:8000: connection refused")
	quota := func(detail, unit string, wait time.Duration) weir.Problem {
		return weir.Problem{Status: 429, Type: weir.TypeQuotaExceeded, Title: "Quota exceeded", Detail: detail, RetryAfter: wait, Violated: []string{"default"}, Unit: unit}
	}
	return map[string]weir.Problem{
		"quota-requests":   quota("Request refused: 5 requests per 60 seconds are used up. Try again in 27 seconds.", "requests", 26604*time.Millisecond),
		"quota-one":        quota("Request refused: 1 request per second is used up. Try again in 1 second.", "requests", 120*time.Millisecond),
		"quota-minute":     quota("Request refused: 5 requests per 5 minutes are used up. Try again in 60 seconds.", "requests", time.Minute),
		"quota-tokens":     quota("Request refused: it costs 5086 tokens, and 652 are left of 10000 tokens per 60 seconds. Try again in 27 seconds.", "tokens", 26604*time.Millisecond),
		"quota-output":     quota("Request refused: 9000 output tokens per 60 seconds are used up. Try again in 2 seconds.", "output_tokens", 2*time.Second),
		"quota-bytes":      quota("Request refused: 1000 bytes per 60 seconds are used up. Try again in 3 seconds.", "bytes", 2000000001),
		"quota-money":      quota("The budget of 20 USD per month is used up. The next one begins at 2026-12-01T00:00:00Z.", "nanousd", 30*time.Second),
		"quota-of-what":    quota("Request refused: 5 requests per 60 seconds are used up.", "", 2*time.Second),
		"quota-day":        quota("Request refused: 1000 requests per 24 hours are used up. Try again in 43200 seconds.", "requests", 12*time.Hour),
		"quota-never":      quota(`Request refused: it costs 37313 tokens, and "default" never has more than 30000 at once (30000 tokens per 60 seconds).`, "tokens", weir.Never),
		"busy-429":         {Status: 429, Type: weir.TypeReducedCapacity, Detail: "The queue is full.", RetryAfter: 1500 * time.Millisecond},
		"busy-503":         {Status: 503, Type: weir.TypeReducedCapacity, Detail: `All connections to upstream "llm" were busy for 5s.`, RetryAfter: time.Second},
		"store-closed":     {Status: 503, Title: "Quota not known", Err: secret},
		"bad-request":      {Status: 400, Detail: "The path has a segment \"..\".\nSee <docs> & more: \u2028\xff."},
		"bad-key":          {Status: 401, Detail: "The key is not known.", Header: http.Header{"Www-Authenticate": {`Bearer realm="weir", error="invalid_token"`}}},
		"plan-used-up":     {Status: 402, Detail: "The plan is used up."},
		"not-allowed":      {Status: 403, Detail: "This call changes the server itself."},
		"no-route":         {Status: 404, Detail: "No route has this path."},
		"no-method":        {Status: 405, Detail: "PUT is not a method of this path: want POST.", Header: http.Header{"Allow": {"POST"}}},
		"slow-body":        {Status: 408, Detail: "The body came too slowly."},
		"conflict":         {Status: 409, Detail: "A request with this Idempotency-Key is running."},
		"large-body":       {Status: 413, Detail: "The body is larger than 1048576 bytes."},
		"long-url":         {Status: 414, Detail: "The URL is longer than 8192 bytes."},
		"media-type":       {Status: 415, Detail: "Want application/json."},
		"unprocessable":    {Status: 422, Detail: "The Idempotency-Key was used for another request."},
		"many-fields":      {Status: 431, Detail: "More than 100 fields."},
		"fault":            {Detail: "Something went wrong here. The log has the request's X-Request-Id.", Err: secret},
		"no-words":         {Err: secret},
		"no-words-at-all":  {Status: 599},
		"upgrade":          {Status: 501, Detail: "WebSocket is not supported."},
		"upstream-gone":    {Status: 502, Detail: `Upstream "llm" cannot be reached.`, Err: secret},
		"upstream-slow":    {Status: 504, Detail: `Upstream "llm" sent nothing for 30s.`, Err: secret},
		"overloaded-as-is": {Status: 529, Detail: "Overloaded."},
	}
}

// speaker is a dialect, and a path of it whose errors are in its own form.
type speaker struct {
	*dialect.Dialect
	path string
}

func speakers() []speaker {
	return []speaker{
		{dialect.OpenAI(), "/v1/chat/completions"},
		{dialect.Anthropic(), "/v1/messages"},
		{dialect.Ollama(), "/api/chat"},
		{dialect.KServe(), "/v2/models/m/infer"},
		{dialect.TFServing(), "/v1/models/m:predict"},
		{dialect.Plain(), "/predict"},
	}
}

func refuse(s speaker, p weir.Problem) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	w.Header().Set("Ratelimit", `"default";r=0;t=27`)
	s.Refuse(w, dialect.Refusal{Problem: &p, Path: s.path, RequestID: "req_1"})
	return w
}

// shown is an answer as a golden file has it. Retry-After-Ms is drawn by chance
// from a range, so the range stands in its place.
func shown(t *testing.T, w *httptest.ResponseRecorder, wait time.Duration) string {
	t.Helper()
	if text := w.Header().Get("Retry-After-Ms"); text != "" {
		least := int64((wait + time.Millisecond - 1) / time.Millisecond)
		most := int64((wait + wait/10 + time.Millisecond - 1) / time.Millisecond)
		if ms, err := strconv.ParseInt(text, 10, 64); err != nil || ms < least || ms > most {
			t.Errorf("Retry-After-Ms: %s: want %d to %d", text, least, most)
		}
		w.Header().Set("Retry-After-Ms", fmt.Sprintf("(%d to %d)", least, most))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", w.Code)
	for _, name := range slices.Sorted(maps.Keys(w.Header())) {
		for _, v := range w.Header()[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, v)
		}
	}
	return b.String() + "\n" + w.Body.String()
}

// golden compares got with a file, which -update writes.
func golden(t *testing.T, got string, at ...string) {
	t.Helper()
	name := filepath.Join(append([]string{"testdata"}, at...)...)
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v: write it with: go test ./dialect -run %s -update", err, t.Name())
	}
	if got != string(want) {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", name, got, want)
	}
}

func TestRefuse(t *testing.T) {
	for _, s := range speakers() {
		for name, p := range refusals() {
			t.Run(s.Name()+" "+name, func(t *testing.T) {
				w := refuse(s, p)
				golden(t, shown(t, w, p.RetryAfter), "errors", s.Name(), name+".txt")
				if !json.Valid(w.Body.Bytes()) {
					t.Error("the body is no JSON")
				}
			})
		}
	}
	t.Run("has a golden file for each case, and no other", func(t *testing.T) {
		files, err := filepath.Glob("testdata/errors/*/*.txt")
		if err != nil {
			t.Fatal(err)
		}
		if want := len(speakers()) * len(refusals()); len(files) != want {
			t.Errorf("%d files, want %d", len(files), want)
		}
	})
}

func TestRefuseTellsClientsWhatTheyLookAt(t *testing.T) {
	everywhere := func(t *testing.T, f func(t *testing.T, s speaker, name string, p weir.Problem, w *httptest.ResponseRecorder)) {
		t.Helper()
		for _, s := range speakers() {
			for name, p := range refusals() {
				f(t, s, s.Name()+" "+name, p, refuse(s, p))
			}
		}
	}
	t.Run("says x-should-retry: false where the wait is long or for ever, and only there", func(t *testing.T) {
		everywhere(t, func(t *testing.T, _ speaker, name string, p weir.Problem, w *httptest.ResponseRecorder) {
			want := ""
			if p.RetryAfter > time.Minute || p.RetryAfter == weir.Never {
				want = "false"
			}
			if got := w.Header().Get("X-Should-Retry"); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		})
	})
	t.Run("has both Retry-After of at least 1 and Retry-After-Ms, or neither", func(t *testing.T) {
		everywhere(t, func(t *testing.T, _ speaker, name string, p weir.Problem, w *httptest.ResponseRecorder) {
			h := w.Header()
			if p.RetryAfter <= 0 {
				if h["Retry-After"] != nil || h["Retry-After-Ms"] != nil {
					t.Errorf("%s: has a wait: %v", name, h)
				}
				return
			}
			seconds, err := strconv.Atoi(h.Get("Retry-After"))
			if err != nil || seconds < 1 || time.Duration(seconds)*time.Second < p.RetryAfter || h.Get("Retry-After-Ms") == "" {
				t.Errorf("%s: %v", name, h)
			}
		})
	})
	t.Run("never shows the cause, and never says nothing", func(t *testing.T) {
		everywhere(t, func(t *testing.T, _ speaker, name string, _ weir.Problem, w *httptest.ResponseRecorder) {
			if strings.Contains(w.Body.String(), "10.1.2.3") {
				t.Errorf("%s: shows the cause: %s", name, w.Body)
			}
			if bytes.Contains(w.Body.Bytes(), []byte(`"message":""`)) || bytes.Contains(w.Body.Bytes(), []byte(`"error":""`)) {
				t.Errorf("%s: says nothing: %s", name, w.Body)
			}
		})
	})
	t.Run("leaves the fields that describe limits alone", func(t *testing.T) {
		everywhere(t, func(t *testing.T, _ speaker, name string, _ weir.Problem, w *httptest.ResponseRecorder) {
			if got := w.Header().Get("Ratelimit"); got != `"default";r=0;t=27` {
				t.Errorf("%s: RateLimit: %s", name, got)
			}
		})
	})
	t.Run("calls a quota that is used up for long insufficient_quota on openai, and no other", func(t *testing.T) {
		s := speakers()[0]
		for name, p := range refusals() {
			if p.Type != weir.TypeQuotaExceeded {
				continue
			}
			w := refuse(s, p)
			long := w.Header().Get("X-Should-Retry") == "false" && p.RetryAfter != weir.Never
			if got := strings.Contains(w.Body.String(), `"code":"insufficient_quota"`); got != long {
				t.Errorf("%s: insufficient_quota %t, want %t", name, got, long)
			}
		}
	})
	t.Run("has all four members of an openai error, always", func(t *testing.T) {
		s := speakers()[0]
		for name, p := range refusals() {
			var body struct {
				Error map[string]any `json:"error"`
			}
			if err := json.Unmarshal(refuse(s, p).Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(maps.Keys(body.Error)); !slices.Equal(got, []string{"code", "message", "param", "type"}) {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
	t.Run("has a null request_id on anthropic where there is none", func(t *testing.T) {
		w := httptest.NewRecorder()
		dialect.Anthropic().Refuse(w, dialect.Refusal{Problem: &weir.Problem{Status: 404}, Path: "/v1/messages"})
		const want = `{"type":"error","error":{"type":"not_found_error","message":"Not Found"},"request_id":null}` + "\n"
		if got := w.Body.String(); got != want || w.Header()["Request-Id"] != nil {
			t.Errorf("%s%v\nwant\n%s", got, w.Header(), want)
		}
	})
	t.Run("speaks the path's API where a server has several", func(t *testing.T) {
		for _, c := range []struct {
			d          *dialect.Dialect
			path, want string
		}{
			{dialect.OpenAI(), "/v1/messages", `{"type":"error","error":{`},
			{dialect.OpenAI(), "/v1/unheard/of", `{"error":{"message":`},
			{dialect.Ollama(), "/v1/chat/completions", `{"error":{"message":`},
			{dialect.Ollama(), "/v1/messages", `{"type":"error","error":{`},
			{dialect.Ollama(), "/api/tags", `{"error":"`},
			{dialect.KServe(), "/openai/v1/chat/completions", `{"error":{"message":`},
			{dialect.KServe(), "/v1/models/m:predict", `{"error":"`},
			{dialect.Plain(), "/v1/chat/completions", `{"type":"about:blank"`},
		} {
			w := httptest.NewRecorder()
			c.d.Refuse(w, dialect.Refusal{Problem: &weir.Problem{Status: 502, Detail: "Gone."}, Path: c.path})
			if !strings.HasPrefix(w.Body.String(), c.want) {
				t.Errorf("%s %s: %s, want %s…", c.d.Name(), c.path, w.Body, c.want)
			}
		}
	})
	t.Run("sends no body to HEAD", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			dialect.OpenAI().Refuse(w, dialect.Refusal{Problem: &weir.Problem{Status: 404}, Path: r.URL.Path})
		}))
		defer server.Close()
		answer, err := http.Head(server.URL + "/v1/models")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode != 404 || answer.ContentLength <= 0 {
			t.Errorf("%d, Content-Length %d", answer.StatusCode, answer.ContentLength)
		}
	})
}
