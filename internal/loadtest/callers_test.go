package loadtest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
	"pgregory.net/rapid"
)

// TestCallersAddUp checks, for loads of all kinds of answers which end at any moment,
// that what was sent for a caller is what became of it, and that all callers together
// are the load.
func TestCallersAddUp(t *testing.T) {
	rapid.Check(t, func(random *rapid.T) {
		kinds := rapid.SliceOfN(rapid.SampledFrom([]int{200, 200, 204, 302, 404, 429, 500, 503, 0, -1}), 1, 30).Draw(random, "answers")
		callers := rapid.IntRange(2, 60).Draw(random, "callers")
		open := rapid.Bool().Draw(random, "open loop")
		ends := time.Duration(rapid.IntRange(1, 3000).Draw(random, "ends after ms")) * ms
		var r *loadtest.Report
		synctest.Test(t, func(t *testing.T) {
			r = randomLoad(t, kinds, callers, open, ends)
		})
		if callers > 50 {
			if len(r.Callers) != 0 {
				random.Errorf("%d rows for %d callers, want none", len(r.Callers), callers)
			}
			return
		}
		var all loadtest.CallerReport
		for _, c := range r.Callers {
			if c.Sent != c.OK+c.Refused+c.Errors+c.Unfinished || min(c.OK, c.Refused, c.Errors, c.Unfinished) < 0 {
				random.Errorf("%+v: what was sent is not what became of it", c)
			}
			if c.P50MS > c.P95MS || c.P95MS > r.LatencyMS.Max {
				random.Errorf("%+v: want no time above the longest of all, %g ms", c, r.LatencyMS.Max)
			}
			all.Sent, all.OK, all.Refused = all.Sent+c.Sent, all.OK+c.OK, all.Refused+c.Refused
			all.Errors, all.Unfinished = all.Errors+c.Errors, all.Unfinished+c.Unfinished
		}
		want := loadtest.CallerReport{Sent: r.Sent, OK: r.OK, Refused: r.Errors["429"] + r.Errors["503"], Unfinished: r.Unfinished}
		for _, n := range r.Errors {
			want.Errors += n
		}
		want.Errors -= want.Refused + r.Unsent
		if all != want {
			random.Errorf("all callers together %+v, want %+v", all, want)
		}
	})
}

// randomLoad gives answers by their status in turn, after 100 ms: 0 breaks the
// connection, and -1 never answers.
func randomLoad(t *testing.T, kinds []int, callers int, open bool, ends time.Duration) *loadtest.Report {
	ctx, stop := context.WithTimeout(t.Context(), ends)
	defer stop()
	s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
		status := kinds[n%len(kinds)]
		if status < 0 {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		if err := waitFor(r, 100*ms); err != nil {
			return nil, err
		}
		if status == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		return reply(status, "x", "Location", "/elsewhere", "Retry-After", "1"), nil
	}}
	o := loadtest.Options{CallerCount: callers, Timeout: 700 * ms, Seed: 9, Concurrency: 7, Duration: 2 * time.Second}
	if open {
		o.Concurrency, o.Duration, o.Stages, o.MaxInFlight = 0, 0, rate(40, 2*time.Second), 10
	}
	return virtually(t, ctx, o, s)
}

func TestCallerTable(t *testing.T) {
	callers := []loadtest.CallerReport{
		{Name: "alice", Sent: 1000, OK: 900, Refused: 60, Errors: 38, Unfinished: 2, P50MS: 12.3, P95MS: 45.6},
		{Name: "an organisation with a name that is very long", Sent: 3, Refused: 3},
	}
	const note = "  Refused is 429 and 503, errors are all others. Times of callers are of answers\n  without an error, in steps of 2 %: coarser than those of all requests."
	for _, c := range []struct {
		name string
		r    loadtest.Report
		want string
	}{
		{"a load that ended", loadtest.Report{Callers: callers},
			"  caller                       sent       ok  refused   errors   p50 ms   p95 ms\n" +
				"  alice                       1,000      900       60       38     12.3     45.6\n" +
				"  an organisation with a…         3        0        3        0        –        –\n" + note + "\n"},
		{"a load that was cut off", loadtest.Report{Callers: callers, Unfinished: 2, Unsent: 7},
			"  caller            sent       ok  refused   errors unfinished   p50 ms   p95 ms\n" +
				"  alice            1,000      900       60       38          2     12.3     45.6\n" +
				"  an organisa…         3        0        3        0          0        –        –\n" + note + "\n  Requests that were never sent are no caller's.\n"},
		{"more callers than have figures", loadtest.Report{CallerCount: 51}, "  51 callers: a table of them is made of up to 50.\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.r.Method, c.r.Target, c.r.Loop = "GET", "http://a/", "closed"
			text := textOf(t, &c.r)
			checkWidth(t, text)
			if !strings.Contains(text, "\n\n"+c.want) {
				t.Errorf("the report is\n%s\nwant in it\n%s", text, c.want)
			}
		})
	}
}

// textOf is a report as a terminal shows it.
func textOf(t *testing.T, r *loadtest.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestCausesAreWhole checks that a long cause of an error, and of what is not comparable,
// is told to its end however narrow a terminal is.
func TestCausesAreWhole(t *testing.T) {
	var cause []string
	for i := range 40 {
		cause = append(cause, fmt.Sprintf("cause-%d", i))
	}
	long := strings.Join(cause, " ") + " http://" + strings.Repeat("a", 150) + "/end"
	errs := map[string]int64{}
	for i := range 12 {
		errs[fmt.Sprintf("kind-%d", i)] = int64(i)
	}
	r := &loadtest.Report{Method: "GET", Target: "http://a/", Loop: "closed", Errors: errs, ErrorExamples: map[string]string{"cut": long, "body": "a\tbell \a and\nan escape \x1b[31m"}}
	text := textOf(t, r)
	checkWidth(t, text)
	for _, c := range []struct{ what, want string }{
		{"a long cause", "cut: " + long},
		{"many kinds", "1 × kind-1,0 × kind-0"},
		{"what no terminal may be told", "body: a bell and an escape [31m"},
	} {
		// Lines are broken between words and within long ones: neither is of interest here.
		joined := strings.NewReplacer(" ", "", "\n", "").Replace(text)
		if want := strings.ReplaceAll(c.want, " ", ""); !strings.Contains(joined, want) {
			t.Errorf("%s: the report is\n%s\nwant %q in it", c.what, text, c.want)
		}
	}
	var b bytes.Buffer
	if err := loadtest.Compare(&loadtest.Report{Target: long}, &loadtest.Report{Target: "http://b/"}).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	checkWidth(t, b.String())
	if joined := strings.NewReplacer(" ", "", "\n", "").Replace(b.String()); !strings.Contains(joined, "/end,ishttp://b/") {
		t.Errorf("the comparison is\n%s\nwant both targets to their ends", &b)
	}
}
