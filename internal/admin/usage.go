package admin

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/database"
)

// ledger is what the usage is asked of: database.Usage.
type ledger interface {
	Flush(ctx context.Context) error
	Query(ctx context.Context, f database.UsageFilter) (database.UsageReport, error)
}

// usage shows who used what. Its ledger is nil where there is no database.
type usage struct {
	ledger ledger
	now    func() time.Time
	log    *slog.Logger
}

func newUsage(db *database.DB, log *slog.Logger) usage {
	if db == nil {
		return usage{now: time.Now, log: log}
	}
	return usage{db.Usage(), db.Now, log}
}

const (
	// usageWait is how long the database may take for an answer, and usageFlush for
	// what it is told before.
	usageWait  = 10 * time.Second
	usageFlush = 5 * time.Second
	// usageSince is how far back an answer goes that is asked for no time.
	usageSince = 24 * time.Hour

	formatJSON = "json"
	formatCSV  = "csv"
)

// show answers GET /api/v1/usage. What waits at this instance is written first.
func (u usage) show(w http.ResponseWriter, r *http.Request) error {
	if u.ledger == nil {
		return problem(http.StatusConflict, "Usage is kept in a database, and the configuration has none: add database: {url: sqlite:weir.db}.")
	}
	f, format, err := usageFilter(r, u.now())
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(r.Context(), usageWait)
	defer stop()
	unwritten := u.flush(ctx)
	report, err := u.ledger.Query(ctx, f)
	if err != nil {
		return &weir.Problem{
			Status: http.StatusServiceUnavailable, RetryAfter: 5 * time.Second, Err: err,
			Detail: "The database does not answer, or cannot be read. What is used meanwhile is kept, and written when it can be.",
		}
	}
	if unwritten != nil {
		// A database that is full, say, can still be read.
		u.log.Warn("usage is shown without what could not be written", "error", unwritten.Error())
		w.Header()["X-Usage-Incomplete"] = []string{"true"}
	}
	if format == formatCSV {
		writeUsageCSV(w, f, report)
		return nil
	}
	answer := usageJSON(f, report)
	answer.Incomplete = unwritten != nil
	write(w, http.StatusOK, answer)
	return nil
}

// flush writes what waits, and leaves time to read.
func (u usage) flush(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, usageFlush)
	defer stop()
	return u.ledger.Flush(ctx)
}

// usageFilter reads what is wanted: from, to, caller, route, model, by, max and format,
// each at most once.
func usageFilter(r *http.Request, now time.Time) (f database.UsageFilter, format string, err error) {
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return f, "", problem(http.StatusBadRequest, "The query cannot be read: want from, to, caller, route, model, by, max and format, with %%XX for special characters.")
	}
	texts := map[string]*string{"caller": &f.Caller, "route": &f.Route, "model": &f.Model}
	f.From, f.To = now.Add(-usageSince), now
	f.By = []string{database.ByCaller, database.ByRoute, database.ByModel}
	format = formatJSON
	if media, _, err := mime.ParseMediaType(r.Header.Get("Accept")); err == nil && media == "text/csv" {
		format = formatCSV
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name][0]
		if len(given[name]) > 1 {
			return f, "", problem(http.StatusBadRequest, "%.60s: is there %d times: want it once.", name, len(given[name]))
		}
		switch name {
		case "from":
			f.From, err = usageTime(name, value, now)
		case "to":
			f.To, err = usageTime(name, value, now)
		case "caller", "route", "model":
			*texts[name] = value
		case "by":
			f.By = strings.FieldsFunc(value, func(c rune) bool { return c == ',' })
		case "max":
			f.Max, err = usageMax(value)
		case "format":
			if format = value; value != formatJSON && value != formatCSV {
				err = problem(http.StatusBadRequest, "format: %.60q: want json or csv.", value)
			}
		default:
			err = problem(http.StatusBadRequest, "%.60q is no parameter of this path: want from, to, caller, route, model, by, max and format.", name)
		}
		if err != nil {
			return f, "", err
		}
	}
	if f.Max == 0 && format == formatCSV {
		f.Max = database.MaxUsageRows // a file has no next page
	}
	if err := f.Check(); err != nil {
		return f, "", problem(http.StatusBadRequest, "%v.", err)
	}
	return f, format, nil
}

// usageTime reads an instant (RFC 3339), the beginning of a day in UTC, or how long ago.
func usageTime(name, text string, now time.Time) (time.Time, error) {
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	// Ten thousand days are more than anything is kept, and no clock overflows.
	const most = 10_000 * 24 * time.Hour
	ago, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 13)
		ago = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || ago < 0 || ago > most {
		return time.Time{}, problem(http.StatusBadRequest, "%s: %.60q: want an instant such as 2026-01-31T12:00:00Z, a day such as 2026-01-31, or how long ago: 24h or 7d.", name, text)
	}
	return now.Add(-ago), nil
}

func usageMax(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > database.MaxUsageRows {
		return 0, problem(http.StatusBadRequest, "max: %.60q: want a number of rows from 1 to %d.", text, database.MaxUsageRows)
	}
	return n, nil
}

// counts are sums in the form of the API.
type usageCounts struct {
	Requests int64 `json:"requests"`
	Hits     int64 `json:"hits"`
	Refused  int64 `json:"refused"`
	Errors   int64 `json:"errors"`
	Input    int64 `json:"input_tokens"`
	Cached   int64 `json:"cached_tokens"`
	Output   int64 `json:"output_tokens"`
	// Cost is in USD. It is a text: many readers of JSON make floats of numbers.
	Cost string `json:"cost_usd"`
}

func countsOf(c database.UsageCounts) usageCounts {
	return usageCounts{c.Requests, c.Hits, c.Refused, c.Errors, c.Input, c.Cached, c.Output, usd(c.Cost)}
}

// usd is an amount of 1e-9 USD in USD, exact.
func usd(nanos int64) string {
	const whole = 1_000_000_000
	return fmt.Sprintf("%d.%09d", nanos/whole, nanos%whole)
}

// usageRow is one group: those of its members are there that were asked for.
type usageRow struct {
	Hour   string  `json:"hour,omitempty"`
	Day    string  `json:"day,omitempty"`
	Month  string  `json:"month,omitempty"`
	Caller *string `json:"caller,omitempty"`
	Route  *string `json:"route,omitempty"`
	Model  *string `json:"model,omitempty"`
	usageCounts
}

type usageAnswer struct {
	From   string      `json:"from"`
	To     string      `json:"to"`
	By     []string    `json:"by"`
	Rows   []usageRow  `json:"rows"`
	Total  usageCounts `json:"total"`
	Groups int64       `json:"groups"`
	Cut    bool        `json:"cut"`
	// Incomplete says that what waits at this instance could not be written, and is not
	// in the sums.
	Incomplete bool `json:"incomplete,omitempty"`
}

func usageJSON(f database.UsageFilter, report database.UsageReport) usageAnswer {
	a := usageAnswer{
		From: f.From.UTC().Truncate(time.Hour).Format(time.RFC3339), To: f.To.UTC().Format(time.RFC3339),
		By: append([]string{}, f.By...), Rows: []usageRow{}, Total: countsOf(report.Total),
		Groups: report.Groups, Cut: report.Groups > int64(len(report.Rows)),
	}
	for i := range report.Rows {
		from, row := &report.Rows[i], usageRow{}
		for _, by := range f.By {
			switch by {
			case database.ByHour:
				row.Hour = groupText(by, from)
			case database.ByDay:
				row.Day = groupText(by, from)
			case database.ByMonth:
				row.Month = groupText(by, from)
			case database.ByCaller:
				row.Caller = &from.Caller
			case database.ByRoute:
				row.Route = &from.Route
			case database.ByModel:
				row.Model = &from.Model
			}
		}
		row.usageCounts = countsOf(from.UsageCounts)
		a.Rows = append(a.Rows, row)
	}
	return a
}

// groupText is what a row has in the column that by groups by.
func groupText(by string, row *database.UsageRow) string {
	switch by {
	case database.ByCaller:
		return row.Caller
	case database.ByRoute:
		return row.Route
	case database.ByModel:
		return row.Model
	case database.ByDay:
		return row.Time.Format(time.DateOnly)
	case database.ByMonth:
		return row.Time.Format("2006-01")
	}
	return row.Time.Format(time.RFC3339)
}

// writeUsageCSV answers in the form of RFC 4180, with a first line of names.
func writeUsageCSV(w http.ResponseWriter, f database.UsageFilter, report database.UsageReport) {
	var body bytes.Buffer
	out := csv.NewWriter(&body)
	out.UseCRLF = true
	// A buffer takes everything.
	_ = out.Write(append(slices.Clone(f.By), "requests", "hits", "refused", "errors", "input_tokens", "cached_tokens", "output_tokens", "cost_usd"))
	for i := range report.Rows {
		row := &report.Rows[i]
		var cells []string
		for _, by := range f.By {
			cells = append(cells, cell(groupText(by, row)))
		}
		for _, n := range []int64{row.Requests, row.Hits, row.Refused, row.Errors, row.Input, row.Cached, row.Output} {
			cells = append(cells, strconv.FormatInt(n, 10))
		}
		_ = out.Write(append(cells, usd(row.Cost)))
	}
	out.Flush()
	h := w.Header()
	h["Content-Type"] = []string{"text/csv; charset=utf-8; header=present"}
	h["Content-Disposition"] = []string{`attachment; filename="usage.csv"`}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Content-Length"] = []string{strconv.Itoa(body.Len())}
	h["Cache-Control"] = []string{"no-store"}
	// Where that is more than there are lines, the last were cut off.
	h["X-Total-Count"] = []string{strconv.FormatInt(report.Groups, 10)}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body.Bytes()) // a client that has left needs no answer
}

// cell is text that a spreadsheet does not take for a formula: callers and models have
// names that came from outside.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r\n", rune(text[0])) {
		return "'" + text
	}
	return text
}
