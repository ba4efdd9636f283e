package telemetry_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/telemetry"
)

func TestBrief(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := telemetry.Brief(in); got != want {
			t.Errorf("%q:\n got %q\nwant %q", in, got, want)
		}
	}
	f("", "")
	f("invalid_request_error: The model does not exist.", "invalid_request_error: The model does not exist.")
	f(`The model "gpt" isn't there: it's 'gone'`, "The model … isn't there: it's …")
	f("`a` and “b” and ‘c’ and «d» and „e”.", "… and … and … and … and ….")
	f(`Invalid prompt: {"content":"a } b \" c","x":[1,{}]}, sorry`, "Invalid prompt: …, sorry")
	f(`{'content': 'it] isn\'t } over'} x`, "… x")
	f(`got "it's \"secret\" all`, "got …")
	f("got {secret", "got …")
	f("got 'secret and the user's words", "got …")
	f("['a', 'b'] then [c]", "… then …")
	f("naïve \xff\"\xfe\" ok", "naïve … ok")
	f(strings.Repeat("é", 200), strings.Repeat("é", 80))
	f(strings.Repeat("x", 159)+`"secret" y`, strings.Repeat("x", 159))
}

func FuzzBrief(f *testing.F) {
	f.Add(`a "b" {c`)
	f.Fuzz(func(t *testing.T, in string) {
		got := telemetry.Brief(in)
		if len(got) > 160 || strings.ContainsAny(got, "\"{[`") || strings.ToValidUTF8(got, "") != got {
			t.Errorf("%q: %q", in, got)
		}
	})
}

func TestAccessLogHidesAddressesInErrorsWithTheTarget(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		text, _ := logged(t, telemetry.LogOptions{Redact: []string{"target"}}, telemetry.Entry{Time: start, Status: 502, Target: "http://10.0.0.1:8000", Error: in})
		var line struct{ Target, Error string }
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if line.Error != want || line.Target != "redacted" {
			t.Errorf("%s:\n got %q, target %q\nwant %q, redacted", in, line.Error, line.Target, want)
		}
	}
	f("dial tcp 127.0.0.1:1: connect: connection refused", "dial tcp …: connect: connection refused")
	f("dial tcp [::1]:80: i/o timeout", "dial tcp …: i/o timeout")
	f("dial tcp: lookup llm on 10.0.0.53:53: no such host", "dial tcp: lookup … on …: no such host")
	f("read tcp 10.0.0.2:4711->10.0.0.1:8000: read: connection reset by peer", "read tcp …: read: connection reset by peer")
	f(`Get "http://llm:8000/v1": EOF`, `Get "…": EOF`)
	f("tls: certificate is valid for a.internal, ::1, not b.internal", "tls: certificate is valid for …, …, not …")
	f(`502 Bad Gateway: Upstream "llm" cannot be reached.`, `502 Bad Gateway: Upstream "llm" cannot be reached.`)
}

func TestRefusalsAreNeitherErrorsNorLatencies(t *testing.T) {
	c := newClock()
	l := c.live()
	m := telemetry.NewMetrics("v1", telemetry.Labels{Routes: []string{"chat"}, Upstreams: []string{"llm"}})
	f := func(status int, refused string) {
		e := telemetry.Entry{Route: "chat", Caller: "key:a", Method: "POST", Status: status, Refused: refused, Duration: time.Second, UpstreamTime: time.Second}
		observe(l, e)
		m.RequestStarted("chat")
		m.Observe(&e, false)
	}
	f(200, "")
	f(503, "") // the upstream's own
	f(401, telemetry.RefusedKey)
	f(403, telemetry.RefusedDenied)
	f(429, telemetry.RefusedAttempts)
	f(429, telemetry.RefusedQuota)
	f(529, telemetry.RefusedQueue)
	f(503, telemetry.RefusedStopping)
	f(503, telemetry.RefusedStore)
	f(502, telemetry.RefusedUpstream)
	f(503, telemetry.RefusedAway)
	f(504, telemetry.RefusedDeadline)
	f(504, telemetry.RefusedRequest)
	f(500, telemetry.RefusedInternal)
	f(499, "")
	f(418, "no word of these")
	observe(l, telemetry.Entry{Route: "chat", Status: 202, Own: true, Duration: time.Second})
	c.pass(time.Second)
	s := l.Snapshot()
	equal(t, "counts", s.Routes["chat"].LiveCounts, telemetry.LiveCounts{
		Requests: 17, Errors: 5, Refused: 1, Shed: 2, Unauthorized: 3, Uncounted: 1, Upstream: 2 * time.Second,
	})
	equal(t, "latencies", []int64{s.Routes["chat"].Latency.N, s.Series[0].Latency.N}, []int64{2, 2})
	equal(t, "caller", []int64{s.Callers[0].Requests, s.Callers[0].Errors, s.Callers[0].Refused, s.Callers[0].Shed}, []int64{16, 5, 1, 2})

	m.UpstreamAnswer("llm", 200)
	m.UpstreamAnswer("llm", 529)
	m.UpstreamAnswer("llm", 0)
	m.UpstreamAnswer("strange", 301)
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`weir_gateway_errors_total{route="chat"} 5`,
		`weir_gateway_refusals_total{reason="key",route="chat"} 1`,
		`weir_gateway_refusals_total{reason="stopping",route="chat"} 1`,
		`weir_gateway_refusals_total{reason="other",route="chat"} 1`,
		`weir_gateway_refusals_total{reason="quota",route="other"} 0`,
		`weir_upstream_answers_total{class="2xx",upstream="llm"} 1`,
		`weir_upstream_answers_total{class="5xx",upstream="llm"} 1`,
		`weir_upstream_answers_total{class="3xx",upstream="other"} 1`,
	} {
		if !strings.Contains(rec.Body.String(), want+"\n") {
			t.Errorf("the page does not have %s", want)
		}
	}
}
