package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/internal/admin"
)

// accounts are a ledger that writes down what it is asked for.
type accounts struct {
	flushed bool
	asked   database.UsageFilter
	report  database.UsageReport
	err     error // of Query
	full    error // of Flush
}

func (a *accounts) Flush(context.Context) error {
	a.flushed = true
	return a.full
}

func (a *accounts) Query(_ context.Context, f database.UsageFilter) (database.UsageReport, error) {
	if !a.flushed {
		return database.UsageReport{}, errors.New("what waits was not written first")
	}
	a.asked = f
	return a.report, a.err
}

func noon() time.Time { return time.Date(2026, 11, 22, 12, 34, 56, 0, time.UTC) }

func (a *accounts) ask(query string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/usage?"+query, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	admin.UsageHandler(a, noon()).ServeHTTP(w, r)
	return w
}

func TestUsageIsAskedFor(t *testing.T) {
	by := []string{"caller", "route", "model"}
	day := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	for query, want := range map[string]database.UsageFilter{
		"":                              {From: noon().Add(-24 * time.Hour), To: noon(), By: by},
		"from=7d&to=24h":                {From: noon().Add(-7 * 24 * time.Hour), To: noon().Add(-24 * time.Hour), By: by},
		"from=90m":                      {From: noon().Add(-90 * time.Minute), To: noon(), By: by},
		"from=2026-11-01&to=2026-11-22": {From: day(11, 1), To: day(11, 22), By: by},
		"from=2026-11-01T02:00:00%2B02:00&caller=key:alice&route=chat&model=m&by=month,caller&max=7": {
			From: day(11, 1), To: noon(), Caller: "key:alice", Route: "chat", Model: "m", By: []string{"month", "caller"}, Max: 7,
		},
		"by=":               {From: noon().Add(-24 * time.Hour), To: noon(), By: []string{}},
		"by=day&format=csv": {From: noon().Add(-24 * time.Hour), To: noon(), By: []string{"day"}, Max: database.MaxUsageRows},
	} {
		t.Run(query, func(t *testing.T) {
			a := &accounts{}
			w := a.ask(query)
			want.From, a.asked.From = want.From.UTC(), a.asked.From.UTC()
			if w.Code != http.StatusOK || !reflect.DeepEqual(a.asked, want) {
				t.Errorf("%d: asked for %+v: want %+v", w.Code, a.asked, want)
			}
		})
	}
}

func TestUsageAnswersInJSON(t *testing.T) {
	a := &accounts{report: database.UsageReport{
		Rows: []database.UsageRow{
			{Time: noon().Truncate(24 * time.Hour), Caller: "key:alice", UsageCounts: database.UsageCounts{Requests: 1, Input: 2, Cached: 3, Output: 4, Hits: 5, Refused: 6, Errors: 7, Cost: 1_234_567}},
			{Time: noon().Truncate(24 * time.Hour), UsageCounts: database.UsageCounts{Requests: 1}},
		},
		Total: database.UsageCounts{Requests: 9, Cost: 20_000_000_001}, Groups: 3,
	}}
	w := a.ask("from=2026-11-22T05:06:07Z&by=day,caller")
	want := `{"from":"2026-11-22T05:00:00Z","to":"2026-11-22T12:34:56Z","by":["day","caller"],"rows":[` +
		`{"day":"2026-11-22","caller":"key:alice","requests":1,"hits":5,"refused":6,"errors":7,"input_tokens":2,"cached_tokens":3,"output_tokens":4,"cost_usd":"0.001234567"},` +
		`{"day":"2026-11-22","caller":"","requests":1,"hits":0,"refused":0,"errors":0,"input_tokens":0,"cached_tokens":0,"output_tokens":0,"cost_usd":"0.000000000"}],` +
		`"total":{"requests":9,"hits":0,"refused":0,"errors":0,"input_tokens":0,"cached_tokens":0,"output_tokens":0,"cost_usd":"20.000000001"},"groups":3,"cut":true}`
	if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusOK || got != want {
		t.Errorf("%d\n%s\nwant\n%s", w.Code, got, want)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control: %q", got)
	}
}

func TestUsageAnswersInCSV(t *testing.T) {
	names := []string{"key:alice", "=1+1", "+1", "-1", "@SUM(A1)", "\tx", `a "b", c`, "a\nb"}
	a := &accounts{report: database.UsageReport{Groups: 100}}
	for _, name := range names {
		a.report.Rows = append(a.report.Rows, database.UsageRow{
			Time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Caller: name, UsageCounts: database.UsageCounts{Requests: 1, Cost: 1_234_567},
		})
	}
	want := "month,caller,requests,hits,refused,errors,input_tokens,cached_tokens,output_tokens,cost_usd\r\n"
	for _, cell := range []string{"key:alice", "'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", `"a ""b"", c"`, "\"a\r\nb\""} {
		want += "2026-11," + cell + ",1,0,0,0,0,0,0,0.001234567\r\n"
	}
	for _, asked := range []*httptest.ResponseRecorder{a.ask("by=month,caller&format=csv"), a.ask("by=month,caller", "Accept", "text/csv; header=present")} {
		if got := asked.Body.String(); asked.Code != http.StatusOK || got != want {
			t.Errorf("%d\n%q\nwant\n%q", asked.Code, got, want)
		}
		for name, want := range map[string]string{
			"Content-Type": "text/csv; charset=utf-8; header=present", "X-Content-Type-Options": "nosniff",
			"Content-Disposition": `attachment; filename="usage.csv"`, "X-Total-Count": "100", "Cache-Control": "no-store",
		} {
			if got := asked.Header().Get(name); got != want {
				t.Errorf("%s: %q: want %q", name, got, want)
			}
		}
	}
}

// detailOf is what a problem says.
func detailOf(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var p struct{ Detail string }
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	return p.Detail
}

func TestUsageRefuses(t *testing.T) {
	for query, want := range map[string]string{
		"from=yesterday":                `from: "yesterday": want an instant such as 2026-01-31T12:00:00Z, a day such as 2026-01-31, or how long ago: 24h or 7d.`,
		"to=-1h":                        `to: "-1h": want an instant such as 2026-01-31T12:00:00Z, a day such as 2026-01-31, or how long ago: 24h or 7d.`,
		"from=99999d":                   `from: "99999d": want an instant such as 2026-01-31T12:00:00Z, a day such as 2026-01-31, or how long ago: 24h or 7d.`,
		"from=2026-11-22&to=2026-11-01": `from: 2026-11-22T00:00:00Z: want it before to, 2026-11-01T00:00:00Z.`,
		"by=week":                       `by: "week": want hour, day, month, caller, route, model.`,
		"by=hour,day":                   `by: "hour" and "day": want one of hour, day and month.`,
		"max=0":                         `max: "0": want a number of rows from 1 to 100000.`,
		"max=1e3":                       `max: "1e3": want a number of rows from 1 to 100000.`,
		"format=xml":                    `format: "xml": want json or csv.`,
		"user=alice":                    `"user" is no parameter of this path: want from, to, caller, route, model, by, max and format.`,
		"caller=a&caller=b":             `caller: is there 2 times: want it once.`,
		"a;b":                           `The query cannot be read: want from, to, caller, route, model, by, max and format, with %XX for special characters.`,
	} {
		t.Run(query, func(t *testing.T) {
			w := (&accounts{}).ask(query)
			if got := detailOf(t, w); w.Code != http.StatusBadRequest || got != want {
				t.Errorf("%d %q: want %q", w.Code, got, want)
			}
		})
	}
	t.Run("while the database is away, and says when to come back", func(t *testing.T) {
		w := (&accounts{err: database.ErrAway, full: database.ErrAway}).ask("")
		if want := "The database does not answer, or cannot be read. What is used meanwhile is kept, and written when it can be."; w.Code != http.StatusServiceUnavailable || detailOf(t, w) != want || w.Header().Get("Retry-After") != "5" {
			t.Errorf("%d %q, Retry-After: %q", w.Code, detailOf(t, w), w.Header().Get("Retry-After"))
		}
	})
	t.Run("where there is no database, and says what to do", func(t *testing.T) {
		w := open(t, twoPlans, "").ask(http.MethodGet, "/api/v1/usage", "")
		if want := "Usage is kept in a database, and the configuration has none: add database: {url: sqlite:weir.db}."; w.Code != http.StatusConflict || detailOf(t, w) != want {
			t.Errorf("%d %q: want %q", w.Code, detailOf(t, w), want)
		}
	})
}

func TestUsageOfADatabaseThatIsFull(t *testing.T) {
	a := &accounts{full: errors.New("no space left on device"), report: database.UsageReport{Rows: []database.UsageRow{{UsageCounts: database.UsageCounts{Requests: 7}}}, Groups: 1}}
	for query, want := range map[string]string{"by=": `"incomplete":true`, "by=&format=csv": "7,0,0,0,0,0,0,0.000000000"} {
		w := a.ask(query)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) || w.Header().Get("X-Usage-Incomplete") != "true" {
			t.Errorf("%s: %d %v %s: want what is written, and that it is not all", query, w.Code, w.Header(), w.Body)
		}
	}
	a.full = nil
	if w := a.ask("by="); strings.Contains(w.Body.String(), "incomplete") || w.Header()["X-Usage-Incomplete"] != nil {
		t.Errorf("%v %s: want all of it", w.Header(), w.Body)
	}
	a.err = errors.New("no such table")
	if w := a.ask("by="); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "5" {
		t.Errorf("one that cannot be read: %d %v", w.Code, w.Header())
	}
}

func TestUsageOfAGateway(t *testing.T) {
	o := open(t, twoPlans+"database: {url: 'sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"'}\n", "")
	r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(`{"model":"m"}`))
	r.Header.Set("Authorization", "Bearer weir_alice")
	o.gateway.ServeHTTP(httptest.NewRecorder(), r)
	w := o.ask(http.MethodGet, "/api/v1/usage?by=caller,route,model", "", "Accept", "text/csv")
	want := "caller,route,model,requests,hits,refused,errors,input_tokens,cached_tokens,output_tokens,cost_usd\r\nkey:alice,all,,1,0,0,1,0,0,0,0.000000000\r\n"
	if w.Code != http.StatusOK || w.Body.String() != want {
		t.Errorf("%d %q: want %q", w.Code, w.Body.String(), want)
	}
}
