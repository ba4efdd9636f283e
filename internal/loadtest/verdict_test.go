package loadtest_test

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// TestErrorBudgetOfTheWholeLoad judges loads that the last five seconds never had
// enough answers to end.
func TestErrorBudgetOfTheWholeLoad(t *testing.T) {
	failing := func(every int) *server {
		return &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			if n%every == 0 {
				return reply(http.StatusInternalServerError, ""), nil
			}
			return after(ms)(n, r)
		}}
	}
	tenth := 0.1
	none := 0.0
	all := 1.0
	for _, c := range []struct {
		name string
		o    loadtest.Options
		s    func() *server
		want string // how it ended
		over bool
	}{
		{"a short load is over its budget", loadtest.Options{Stages: rate(5, time.Second), MaxErrors: &tenth}, func() *server { return failing(2) }, "", true},
		{"a slow load is over its budget", loadtest.Options{Stages: rate(1, time.Minute), MaxErrors: &tenth}, func() *server { return failing(5) }, "", true},
		{"a single request is enough", loadtest.Options{Concurrency: 1, Requests: 1, MaxErrors: &none}, func() *server { return failing(1) }, "", true},
		{"what may not be sent is an error", loadtest.Options{Stages: rate(5, time.Second), MaxInFlight: 1, MaxErrors: &tenth}, func() *server { return &server{answer: after(time.Minute)} }, "", true},
		{"errors at the budget are within it", loadtest.Options{Stages: rate(1, 20*time.Second), MaxErrors: &tenth}, func() *server { return failing(10) }, "", false},
		{"a budget of everything is never exceeded", loadtest.Options{Stages: rate(5, time.Second), MaxErrors: &all}, func() *server { return failing(1) }, "", false},
		{"without a budget errors are no failure", loadtest.Options{Stages: rate(5, time.Second)}, func() *server { return failing(1) }, "", false},
		{"a load that its last seconds end is over its budget", loadtest.Options{Stages: rate(100, time.Minute), MaxErrors: &tenth}, func() *server { return failing(2) }, loadtest.EndedErrors, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := virtually(t, t.Context(), c.o, c.s())
				if r.Ended != c.want || r.OverBudget != c.over {
					t.Errorf("ended %q, over the budget %t with %v of %d; want %q and %t", r.Ended, r.OverBudget, r.Errors, r.Sent, c.want, c.over)
				}
				warned := strings.Contains(strings.Join(r.Warnings, "\n"), "allowed")
				if warned != (c.over && c.want == "") {
					t.Errorf("warnings = %q, want one of the budget only where the load went on to its end", r.Warnings)
				}
			})
		})
	}
	t.Run("what is interrupted is judged by what was answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3050*ms)
			defer cancel()
			r := virtually(t, ctx, loadtest.Options{Stages: rate(2, time.Hour), MaxErrors: &tenth}, failing(2))
			if r.Ended != loadtest.EndedInterrupted || !r.OverBudget {
				t.Errorf("ended %q, over the budget %t; want %q and true", r.Ended, r.OverBudget, loadtest.EndedInterrupted)
			}
		})
	})
}

// TestRetryAfterForms reads the two forms of RFC 9110 section 10.2.3, and what model
// APIs add to them.
func TestRetryAfterForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The clock of a server that is an hour ahead.
		ahead := time.Now().Add(time.Hour).UTC()
		date := func(d time.Duration) string { return ahead.Add(d).Format(http.TimeFormat) }
		here := func(d time.Duration) string { return time.Now().UTC().Add(d).Format(http.TimeFormat) }
		none := time.Duration(-1)
		for _, c := range []struct {
			name   string
			fields []string
			want   time.Duration
		}{
			{"seconds", []string{"Retry-After", "120"}, 2 * time.Minute},
			{"no wait at all", []string{"Retry-After", "0"}, 0},
			{"a month", []string{"Retry-After", "2678400"}, 31 * 24 * time.Hour},
			{"more than a year counts as one", []string{"Retry-After", "99999999999"}, 366 * 24 * time.Hour},
			{"milliseconds, which are more exact", []string{"Retry-After-Ms", "1500", "Retry-After", "2"}, 1500 * ms},
			{"milliseconds that are none", []string{"Retry-After-Ms", "1m1", "Retry-After", "2"}, 2 * time.Second},
			{"a date beside the answer's own", []string{"Retry-After", date(90 * time.Second), "Date", date(0)}, 90 * time.Second},
			{"a date that is past", []string{"Retry-After", date(-time.Minute), "Date", date(0)}, 0},
			{"a date without another counts from now", []string{"Retry-After", here(time.Minute)}, time.Minute},
			{"a date beside one that is none counts from now", []string{"Retry-After", here(time.Minute), "Date", "yesterday"}, time.Minute},
			{"the form of RFC 850", []string{"Retry-After", ahead.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"), "Date", date(0)}, time.Minute},
			{"the form of asctime", []string{"Retry-After", ahead.Add(time.Minute).Format(time.ANSIC), "Date", date(0)}, time.Minute},
			{"a negative number is no advice", []string{"Retry-After", "-5"}, none},
			{"a fraction is no advice", []string{"Retry-After", "1.5"}, none},
			{"a word is no advice", []string{"Retry-After", "soon"}, none},
			{"not a number is no advice", []string{"Retry-After-Ms", "NaN"}, none},
			{"nothing is no advice", nil, none},
		} {
			s := &server{answer: func(int, *http.Request) (*http.Response, error) {
				return reply(http.StatusTooManyRequests, "", c.fields...), nil
			}}
			r := virtually(t, t.Context(), loadtest.Options{Concurrency: 1, Requests: 1}, s)
			want := &loadtest.RetryReport{Refused: 1}
			if c.want >= 0 {
				want.Advised, want.P50S, want.MaxS = 1, c.want.Seconds(), c.want.Seconds()
			}
			got := r.RetryAfter // with three digits
			if got == nil || got.Refused != 1 || got.Advised != want.Advised || got.MaxS < want.MaxS*0.999 || got.MaxS > want.MaxS*1.001 {
				t.Errorf("%s: %+v, want %+v", c.name, got, want)
			}
		}
	})
}

// TestRedirects are not followed, and are no answers.
func TestRedirects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			switch n {
			case 0, 1:
				return reply(http.StatusFound, "", "Location", "/login?token=s3cret#top"), nil
			case 2:
				return reply(http.StatusPermanentRedirect, "", "Location", "http://bob:s3cret@other.test/"), nil
			case 3:
				return reply(http.StatusMultipleChoices, ""), nil
			case 4:
				return reply(http.StatusNotModified, ""), nil
			}
			return after(ms)(n, r)
		}}
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(10, time.Second)}, s)
		if want := map[string]int64{"redirect": 4}; !reflect.DeepEqual(r.Errors, want) || r.OK != 6 || r.LatencyMS.P50 < 0.9 {
			t.Errorf("errors = %v, %d ok, %+v; want %v, 6 and the latencies of these", r.Errors, r.OK, r.LatencyMS, want)
		}
		want := map[string]string{"redirect": "302 Found, to http://server.test/login?…, which is not followed"}
		if !reflect.DeepEqual(r.ErrorExamples, want) {
			t.Errorf("examples = %q, want %q", r.ErrorExamples, want)
		}
	})
	t.Run("one without a place says so, and none has a user in it", func(t *testing.T) {
		for location, want := range map[string]string{
			"":                         "307 Temporary Redirect, without a place to go to",
			"http://bob:x@other.test/": "307 Temporary Redirect, to http://other.test/, which is not followed",
			"http://[bad":              "307 Temporary Redirect, to what is no URL",
		} {
			synctest.Test(t, func(t *testing.T) {
				s := &server{answer: func(int, *http.Request) (*http.Response, error) {
					r := reply(http.StatusTemporaryRedirect, "")
					if location != "" {
						r.Header.Set("Location", location)
					}
					return r, nil
				}}
				r := virtually(t, t.Context(), loadtest.Options{Concurrency: 1, Requests: 3, Stream: true}, s)
				if got := r.ErrorExamples["redirect"]; got != want || r.Errors["redirect"] != 3 {
					t.Errorf("%q: %q in %v, want %q in 3", location, got, r.Errors, want)
				}
			})
		}
	})
}

// TestLongestLoad runs a day, with what it keeps bounded.
func TestLongestLoad(t *testing.T) {
	day := loadtest.MaxDuration
	t.Run("an open loop may take a day, with its ramps and warm-up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			stages := []loadtest.Stage{{0, 0.5, 2 * time.Hour}, {0.5, 0.5, day - 3*time.Hour}}
			r := virtually(t, t.Context(), loadtest.Options{Stages: stages, Warmup: time.Hour}, &server{answer: after(ms)})
			const requests = 1800 + 21*1800
			if took := time.Since(begin); r.Ended != "" || r.Sent != requests || r.OK != requests || took > day || took < day-3*time.Second {
				t.Errorf("sent %d in %v, want %d in %v", r.Sent, took, requests, day)
			}
			sum := int64(0)
			for _, i := range r.Intervals {
				sum += i.Sent
			}
			// 128 s are the least power of two that has 23 h in 900 parts.
			if len(r.Intervals) > 900 || r.IntervalS != 128 || sum != requests {
				t.Errorf("%d intervals of %g s with %d requests, want at most 900 of 128 s with all", len(r.Intervals), r.IntervalS, sum)
			}
		})
	})
	t.Run("a second more is refused", func(t *testing.T) {
		for _, o := range []loadtest.Options{
			{Stages: rate(1, day-time.Hour), Warmup: time.Hour + time.Second},
			{Stages: []loadtest.Stage{{1, 2, time.Second}, {2, 2, day}}},
			{Concurrency: 1, Duration: day, Warmup: time.Second},
		} {
			o.URL = "http://server.test/"
			_, err := loadtest.New(o)
			if want := "--duration: 24h0m1s with ramps and warm-up: want at most 24h"; err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}
