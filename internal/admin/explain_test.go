package admin_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/inferweir/weir/gateway"
)

func TestExplain(t *testing.T) {
	explain := func(t *testing.T, o *operators, body string) gateway.Explanation {
		t.Helper()
		rec := o.ask("POST", "/api/v1/explain", body)
		var told gateway.Explanation
		if err := json.Unmarshal(rec.Body.Bytes(), &told); err != nil || rec.Code != http.StatusOK {
			t.Fatalf("%d %s: %v", rec.Code, rec.Body, err)
		}
		return told
	}
	outcomes := func(told gateway.Explanation) string {
		var all []string
		for _, d := range told.Decisions {
			all = append(all, d.Step+" "+d.Outcome)
		}
		return strings.Join(all, ", ")
	}

	t.Run("tells every decision", func(t *testing.T) {
		told := explain(t, open(t, twoPlans, ""), `{"method": "POST", "path": "/v1/chat/completions", "headers": {"X-Api-Key": "weir_alice"}, "body": {"model": "m", "max_tokens": 5}}`)
		equal(t, outcomes(told), "route all, caller key:alice, plan pro, body read, model m, cache off, policies allowed, queue runs, upstream http://127.0.0.1:1, answer 200 OK")
		equal(t, told.Cost, map[string]int64{"requests": 1, "output_tokens": 5, "bytes": 28})
	})
	t.Run("counts nothing", func(t *testing.T) {
		o := open(t, twoPlans, "")
		for range 10 { // of 5 a minute
			equal(t, explain(t, o, `{"path": "/v1/models"}`).Status, 200)
		}
	})
	t.Run("takes a body as a text, as JSON, or not at all", func(t *testing.T) {
		o := open(t, twoPlans, "")
		for body, want := range map[string]string{
			`{"path": "/v1/chat/completions", "body": {"model" : "m" }}`:                                            "m",
			`{"path": "/v1/chat/completions", "body": "{\"model\":\"text\"}"}`:                                      "text",
			`{"path": "/v1/chat/completions", "method": "POST", "body": null}`:                                      "none",
			`{"path": "/v1/chat/completions", "headers": {"content-type": "application/json"}, "body": [1, "two"]}`: "none",
		} {
			told := explain(t, o, body)
			if got := told.Decisions[4].Outcome; got != want || told.Decisions[4].Step != "model" {
				t.Errorf("%s: model %s, want %s", body, got, want)
			}
		}
	})
	t.Run("knows where a request comes from", func(t *testing.T) {
		equal(t, explain(t, open(t, twoPlans, ""), `{"path": "/v1/models", "remote_addr": "192.0.2.7"}`).Caller, "ip:192.0.2.7")
	})
}

func TestExplainRefusals(t *testing.T) {
	o := open(t, twoPlans, "")
	for name, c := range map[string]struct {
		body, want string
		status     int
	}{
		"no JSON":                 {`path`, "want a JSON object", 400},
		"no path":                 {`{}`, "path: is not there", 400},
		"a strange member":        {`{"path": "/", "url": "/"}`, "url: is no member of a request: want method, path, headers, body or remote_addr", 400},
		"a path that is no text":  {`{"path": 7}`, "path: is no text", 400},
		"headers of numbers":      {`{"path": "/", "headers": {"A": 1}}`, "headers: is no object of texts", 400},
		"a strange method":        {`{"path": "/", "method": "GET /"}`, `method: \"GET /\": want a method`, 400},
		"a body that is too long": {`{"path": "/", "body": "` + strings.Repeat("a", 25<<20) + `"}`, "The body is too large: want at most 25165824 bytes.", 413},
	} {
		t.Run(name, func(t *testing.T) {
			rec := o.ask("POST", "/api/v1/explain", c.body)
			if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) || strings.Contains(rec.Body.String(), "changed") {
				t.Errorf("%d %s, want %d with %s", rec.Code, rec.Body, c.status, c.want)
			}
		})
	}
	if rec := o.ask("POST", "/api/v1/explain", `{}`, "Content-Type", "text/plain"); rec.Code != http.StatusUnsupportedMediaType {
		t.Errorf("a body of another type: %d", rec.Code)
	}
	if rec := o.ask("GET", "/api/v1/explain", ""); rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", rec.Code, rec.Header().Get("Allow"))
	}
	if rec := open(t, twoPlans, "token").ask("POST", "/api/v1/explain", `{"path": "/"}`); rec.Code != http.StatusUnauthorized {
		t.Errorf("without the token: %d", rec.Code)
	}
}
