package loadtest_test

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// server is a server in virtual time: what a request is answered, and when it came.
type server struct {
	answer func(n int, r *http.Request) (*http.Response, error)

	mu   sync.Mutex
	came []time.Time
	seen []string // bodies, or paths of requests without one
}

// RoundTrip answers a request.
func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	text := r.URL.Path
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		text = string(body)
	}
	s.mu.Lock()
	n := len(s.came)
	s.came = append(s.came, time.Now())
	s.seen = append(s.seen, text)
	s.mu.Unlock()
	return s.answer(n, r)
}

// reply is an answer with a status and header fields: name, value, name, value.
func reply(status int, body string, fields ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

// after answers 200 after a time, unless the request is given up before.
func after(d time.Duration) func(int, *http.Request) (*http.Response, error) {
	return func(_ int, r *http.Request) (*http.Response, error) {
		if err := waitFor(r, d); err != nil {
			return nil, err
		}
		return reply(http.StatusOK, "ok"), nil
	}
}

func waitFor(r *http.Request, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// virtually runs a load against a server in virtual time.
func virtually(t *testing.T, ctx context.Context, o loadtest.Options, s *server) *loadtest.Report {
	t.Helper()
	o.Transport = s
	if o.URL == "" {
		o.URL = "http://server.test/"
	}
	test, err := loadtest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return test.Virtual().Run(ctx)
}

func TestOpenLoop(t *testing.T) {
	t.Run("sends at its rate however slow the server is, and measures exactly", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answer: after(20 * ms)}
			r := virtually(t, t.Context(), loadtest.Options{Stages: rate(500, 4*time.Second)}, s)
			if r.Sent != 2000 || r.OK != 2000 || r.Rate != 500 || r.DurationS != 4 || r.Unsent != 0 || len(r.Errors) != 0 {
				t.Errorf("%+v, want 2000 requests in 4 s, all answered", r)
			}
			// Three digits: 20 ms is counted as up to 20.015.
			if want := (loadtest.Quantiles{P50: 20, P90: 20, P95: 20, P99: 20, P999: 20, Max: 20}); !within(r.LatencyMS, want, 0.001) {
				t.Errorf("latency = %+v, want %+v", r.LatencyMS, want)
			}
			if len(r.Warnings) != 0 {
				t.Errorf("warnings = %q, want none", r.Warnings)
			}
		})
	})
	t.Run("sends its warm-up at the first rate and does not count it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			s := &server{answer: after(ms)}
			r := virtually(t, t.Context(), loadtest.Options{Stages: []loadtest.Stage{{10, 20, time.Second}}, Warmup: 2 * time.Second, Body: "{{seq}}"}, s)
			if r.Sent != 15 || len(s.came) != 35 || r.WarmupS != 2 || s.came[20].Sub(begin) != 2*time.Second || s.seen[20] != "0" {
				t.Errorf("%d counted of %d, from %v on with number %s; want 15 of 35, from 2 s on with number 0", r.Sent, len(s.came), s.came[20].Sub(begin), s.seen[20])
			}
		})
	})
	t.Run("ends after a number of requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answer: after(ms)}
			r := virtually(t, t.Context(), loadtest.Options{Stages: rate(50, time.Hour), Requests: 100}, s)
			if r.Sent != 100 || r.Rate != 50 || r.DurationS != 2 {
				t.Errorf("sent %d at %g/s in %g s, want 100 at 50/s in 2 s", r.Sent, r.Rate, r.DurationS)
			}
		})
	})
	t.Run("counts what it may not send as an error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answer: after(10 * time.Second)}
			r := virtually(t, t.Context(), loadtest.Options{Stages: rate(10, 2*time.Second), MaxInFlight: 5}, s)
			if r.Sent != 5 || r.Unsent != 15 || !reflect.DeepEqual(r.Errors, map[string]int64{"unsent": 15}) {
				t.Errorf("sent %d, unsent %d, errors %v; want 5, 15 and those 15", r.Sent, r.Unsent, r.Errors)
			}
			if got := r.ErrorShare(); got != 0.75 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "15 requests were due") {
				t.Errorf("error share %g, warnings %q; want 0.75 and one about 15 requests", got, r.Warnings)
			}
		})
	})
}

// rate is one stage.
func rate(perSecond float64, d time.Duration) []loadtest.Stage {
	return []loadtest.Stage{{From: perSecond, To: perSecond, For: d}}
}

// within tells whether quantiles are as wanted, to a share.
func within(got, want loadtest.Quantiles, share float64) bool {
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		a, b := g.Field(i).Float(), w.Field(i).Float()
		if a < b*(1-share) || a > b*(1+share) {
			return false
		}
	}
	return true
}

// stalling answers in 10 ms, but for one second, in which it answers nothing.
func stalling() *server {
	from := time.Now().Add(2 * time.Second)
	return &server{answer: func(_ int, r *http.Request) (*http.Response, error) {
		if now := time.Now(); !now.Before(from) && now.Before(from.Add(time.Second)) {
			if err := waitFor(r, time.Until(from.Add(time.Second))); err != nil {
				return nil, err
			}
		}
		return after(10*ms)(0, r)
	}}
}

// TestStall is what open loops are for: with ten clients only ten requests meet the
// stall, and the percentiles of a closed loop look as if there were none.
func TestStall(t *testing.T) {
	t.Run("an open loop reports it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := virtually(t, t.Context(), loadtest.Options{Stages: rate(100, 10*time.Second)}, stalling())
			// 100 of 1000 are due in the stall, and wait 0 to 1 s.
			if q := r.LatencyMS; q.P50 > 11 || q.P95 < 450 || q.P99 < 890 || q.Max < 1000 {
				t.Errorf("latency = %+v, want a median of 10 ms, the 95th percentile at half a second, the 99th at 0.9 s and 1 s at most", q)
			}
			i := r.Intervals[2]
			if i.Sent != 100 || i.P50MS < 450 || i.MaxMS < 1000 || r.Intervals[1].MaxMS > 11 {
				t.Errorf("the third second = %+v, want the stall in it", i)
			}
		})
	})
	t.Run("a closed loop hides it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := virtually(t, t.Context(), loadtest.Options{Concurrency: 10, Duration: 10 * time.Second}, stalling())
			if q := r.LatencyMS; q.P50 > 11 || q.P95 > 11 || q.P99 > 11 || q.Max < 1000 {
				t.Errorf("latency = %+v, want 10 ms up to the 99th percentile", q)
			}
			if r.Sent < 8900 || r.Sent > 9100 {
				t.Errorf("sent %d, want about 9000: nothing in the second of the stall", r.Sent)
			}
		})
	})
}

func TestClosedLoop(t *testing.T) {
	t.Run("has as many in flight as clients, and ends after its time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answer: after(100 * ms)}
			r := virtually(t, t.Context(), loadtest.Options{Concurrency: 3, Duration: time.Second, Warmup: time.Second}, s)
			if r.Sent != 30 || len(s.came) != 60 || r.Loop != "closed" || r.Rate != 30 {
				t.Errorf("%d counted of %d at %g/s, want 30 of 60 at 30/s", r.Sent, len(s.came), r.Rate)
			}
		})
	})
	t.Run("ends after a number of requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := virtually(t, t.Context(), loadtest.Options{Concurrency: 4, Requests: 10}, &server{answer: after(100 * ms)})
			if r.Sent != 10 || r.DurationS != 0.3 {
				t.Errorf("sent %d in %g s, want 10 in 0.3 s", r.Sent, r.DurationS)
			}
		})
	})
}

func TestEarlyEnd(t *testing.T) {
	half := 0.5
	failing := func(from int) *server {
		return &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			if n >= from {
				return reply(http.StatusServiceUnavailable, "", "Retry-After", "2"), nil
			}
			return after(ms)(n, r)
		}}
	}
	t.Run("the error budget ends a load that fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			r := virtually(t, t.Context(), loadtest.Options{Stages: rate(100, time.Minute), MaxErrors: &half}, failing(1000))
			// In the window of five seconds half are errors 2.5 s after the first.
			if took := time.Since(begin); r.Ended != loadtest.EndedErrors || took < 12*time.Second || took > 14*time.Second {
				t.Errorf("ended %q after %v, want %q after 12 to 14 s", r.Ended, took, loadtest.EndedErrors)
			}
			if r.RetryAfter == nil || r.RetryAfter.Advised != r.RetryAfter.Refused || r.RetryAfter.MaxS != 2 || r.RetryAfter.P50S < 1.9 {
				t.Errorf("retry advice = %+v, want 2 s in all", r.RetryAfter)
			}
		})
	})
	t.Run("the error budget lets few errors pass", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := failing(0)
			answer := s.answer
			s.answer = func(n int, r *http.Request) (*http.Response, error) {
				if n%3 == 0 {
					return answer(n, r)
				}
				return after(ms)(n, r)
			}
			r := virtually(t, t.Context(), loadtest.Options{Stages: rate(100, 10*time.Second), MaxErrors: &half}, s)
			if r.Ended != "" || r.Sent != 1000 || r.Errors["503"] != 334 {
				t.Errorf("ended %q after %d with %v, want all 1000 and 334 errors", r.Ended, r.Sent, r.Errors)
			}
		})
	})
	t.Run("who interrupts it gets a report of what was answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3050*ms)
			defer cancel()
			r := virtually(t, ctx, loadtest.Options{Stages: rate(10, time.Hour)}, &server{answer: after(500 * ms)})
			if r.Ended != loadtest.EndedInterrupted || r.Sent != 31 || r.OK != 26 || r.Unfinished != 5 || len(r.Errors) != 0 {
				t.Errorf("ended %q: sent %d, ok %d, unfinished %d, errors %v; want 31, 26, 5 and none", r.Ended, r.Sent, r.OK, r.Unfinished, r.Errors)
			}
		})
	})
}

func TestErrorKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := func(body io.Reader) *http.Response {
			r := reply(http.StatusOK, "")
			r.Body = io.NopCloser(body)
			return r
		}
		s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			switch n {
			case 0:
				return reply(http.StatusTooManyRequests, "", "Retry-After-Ms", "1500", "Retry-After", "2"), nil
			case 1:
				return reply(http.StatusServiceUnavailable, ""), nil
			case 2:
				return reply(http.StatusBadGateway, ""), nil
			case 3:
				return reply(http.StatusNotFound, ""), nil
			case 4:
				return nil, io.EOF
			case 5:
				return broken(io.MultiReader(strings.NewReader("half"), errReader{io.ErrUnexpectedEOF})), nil
			case 6:
				return nil, waitFor(r, time.Hour)
			case 7:
				return broken(errReader{context.DeadlineExceeded}), nil
			case 8:
				return reply(http.StatusFound, "", "Location", "/"), nil
			}
			return reply(http.StatusOK, ""), nil
		}}
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(10, 1100*ms), Timeout: 2 * time.Second}, s)
		want := map[string]int64{"429": 1, "503": 1, "5xx": 1, "4xx": 1, "cut": 2, "timeout": 2, "redirect": 1}
		if !reflect.DeepEqual(r.Errors, want) || r.OK != 2 {
			t.Errorf("errors = %v with %d ok, want %v with 2", r.Errors, r.OK, want)
		}
		statuses := map[string]int64{"200": 4, "302": 1, "404": 1, "429": 1, "502": 1, "503": 1}
		if !reflect.DeepEqual(r.Statuses, statuses) {
			t.Errorf("statuses = %v, want %v", r.Statuses, statuses)
		}
		// The two that were waited for in vain, and the two answers.
		if r.LatencyMS.Max < 2000 || r.LatencyMS.P50 > 1 {
			t.Errorf("latency = %+v, want those of the answers and the timeout of 2 s", r.LatencyMS)
		}
		if a := r.RetryAfter; a == nil || a.Refused != 2 || a.Advised != 1 || a.MaxS != 1.5 {
			t.Errorf("retry advice = %+v, want 1.5 s in one of two", a)
		}
	})
}

// errReader fails.
type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestHeadersOfAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: func(n int, _ *http.Request) (*http.Response, error) {
			status := []string{"weir; hit; ttl=5", "weir; fwd=miss; stored", "weir; fwd=uri-miss; collapsed", "weir; fwd=bypass"}[n%4]
			return reply(http.StatusOK, "1234", "Cache-Status", status, "Server-Timing", "queue;dur=2.5, upstream;desc=x;dur=10, total, bad;dur=x"), nil
		}}
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(8, time.Second)}, s)
		if want := map[string]int64{"hit": 2, "miss": 2, "collapsed": 2, "bypass": 2}; !reflect.DeepEqual(r.Cache, want) || r.HitRatio != 0.25 || r.Bytes != 32 {
			t.Errorf("cache = %v, %g hits, %d bytes; want %v, a quarter and 32", r.Cache, r.HitRatio, r.Bytes, want)
		}
		want := map[string]loadtest.TimingReport{"queue": {Count: 8, MeanMS: 2.5}, "upstream": {Count: 8, MeanMS: 10}}
		if !reflect.DeepEqual(r.ServerTiming, want) {
			t.Errorf("server timing = %v, want %v", r.ServerTiming, want)
		}
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []loadtest.Progress
		r := virtually(t, t.Context(), loadtest.Options{
			Stages: rate(100, 4*time.Second), Warmup: time.Second, Progress: func(p loadtest.Progress) { all = append(all, p) },
		}, &server{answer: after(50 * ms)})
		if len(all) < 19 || len(all) > 21 || r.Sent != 400 {
			t.Fatalf("%d times for %d requests, want 20 for 400", len(all), r.Sent)
		}
		i := slices.IndexFunc(all, func(p loadtest.Progress) bool { return p.Elapsed >= 3*time.Second })
		p := all[i]
		if all[0].Elapsed != -750*ms || p.Total != 4*time.Second || p.Sent < 290 || p.Sent > 310 || p.InFlight < 4 || p.InFlight > 6 ||
			p.Rate < 95 || p.Rate > 140 || p.P95 < 49*ms || p.P95 > 51*ms || p.Errors != 0 {
			t.Errorf("after 3 s = %+v, want 300 sent at 100/s in 50 ms", p)
		}
	})
}

func TestServiceLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			return after(time.Duration(n%10+1)*10*ms)(n, r)
		}}
		fast, slow := objective(t, "p50<60ms"), objective(t, "p99<80ms")
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(100, 10*time.Second), Objectives: []loadtest.Objective{fast, slow}}, s)
		// Of ten answers the five below 60 ms are inside both.
		if r.Goodput != 50 || r.Met() {
			t.Errorf("goodput %g/s, met %t; want 50/s and not met", r.Goodput, r.Met())
		}
		if !r.SLO[0].Met || r.SLO[1].Met || r.SLO[0].ValueMS < 49.9 || r.SLO[0].ValueMS > 50.1 || r.SLO[1].ValueMS < 99 {
			t.Errorf("slo = %+v, want 50 ms met and 100 ms not met", r.SLO)
		}
	})
}

func objective(t *testing.T, text string) loadtest.Objective {
	t.Helper()
	o, err := loadtest.ParseObjective(text)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestParseObjective(t *testing.T) {
	for _, good := range []string{"p95<300ms", "ttft<1s", "itl_p99<80ms", "latency < 1s", "p99.9<2s", "p100<1m", "latency_p50<1ms"} {
		if o, err := loadtest.ParseObjective(good); err != nil || o.String() != good {
			t.Errorf("%q: %v, %v", good, o, err)
		}
	}
	for _, bad := range []string{"", "p95", "p95<", "p95<300", "p95>300ms", "p0<1s", "p101<1s", "p<1s", "errors<1s", "itl_<1s", "<1s", "p95<-1s", "p999<1s"} {
		_, err := loadtest.ParseObjective(bad)
		if err == nil || !strings.Contains(err.Error(), "want a percentile and a time, for example p95<300ms") {
			t.Errorf("%q: %v, want what would be right", bad, err)
		}
	}
}

// TestMistakes checks that every mistake of the options is told.
func TestMistakes(t *testing.T) {
	share := 1.5
	_, err := loadtest.New(loadtest.Options{
		URL: "localhost:8080", Stages: rate(2_000_000, 48*time.Hour), Concurrency: -1, Arrivals: "uniform", MaxInFlight: 1_000_000, Warmup: -1,
		Timeout: 2 * time.Hour, Requests: -1, MaxErrors: &share, Callers: []loadtest.Caller{{Name: "a"}}, Objectives: []loadtest.Objective{objective(t, "ttft<1s")},
		Header: http.Header{"X Y": {"z"}},
	})
	if err == nil {
		t.Fatal("no mistake")
	}
	for _, want := range []string{
		"--rate, --concurrency: want one of them", "--concurrency: -1: want from 1 to 100000", `--arrivals: "uniform": want constant or poisson`, "--max-in-flight: 1000000: want",
		"--rate, --ramp: from 2,000,000 to 2,000,000: want from 0 to 1,000,000 a second", "--duration: 48h: want a time above 0 and at most 24h", "--warmup: -1ns", "--timeout: 2h: want",
		"--requests: -1: want", "--max-errors: want from 0% to 100%", `--caller: "a" with weight 0: want a name and a weight above 0`, "--slo: ttft<1s: want --stream", `URL: "localhost:8080": want http://HOST:PORT/PATH`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("mistakes have no %q:\n%v", want, err)
		}
	}
	for _, c := range []struct {
		o    loadtest.Options
		want string
	}{
		{loadtest.Options{URL: "http://h/", Stages: rate(0, time.Second)}, "--rate: nothing would be sent"},
		{loadtest.Options{URL: "http://h/", Stages: rate(1, time.Second), Method: "GE T"}, `-X: "GE T": want a method`},
		{loadtest.Options{URL: "http://h/", Stages: rate(1, time.Second), Header: http.Header{"X-A": {"a\nb"}}}, "--header: X-A: want a text without line breaks"},
		{loadtest.Options{URL: "http://h/", Concurrency: 1}, "--duration: 0s: want a time above 0"},
		{loadtest.Options{URL: "http://h/", Concurrency: 1, Requests: 1, CallerHeader: http.Header{"A": {"b"}}}, "--caller-header: want --callers with it"},
		{loadtest.Options{URL: "http://h/", Concurrency: 1, Requests: 1, CallerCount: 2, Callers: []loadtest.Caller{{Name: "a", Weight: 1}}}, "--caller, --callers: want one of them"},
	} {
		if _, err := loadtest.New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
}

// TestUsersInURLs keeps passwords out of what is printed: no server would get them.
func TestUsersInURLs(t *testing.T) {
	for _, of := range []string{"http://alice:s3cret@h.test/x", "http://alice:s3cret@h.test:port/x", `http://alice:s3cret@h.test:{{pick "1" "1"}}/x`} {
		_, err := loadtest.New(loadtest.Options{URL: of, Stages: []loadtest.Stage{{10, 10, time.Second}}})
		if err == nil || !strings.Contains(err.Error(), "user") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want an error that names a user and not the password", of, err)
		}
	}
}

// TestDescription says what will be sent.
func TestDescription(t *testing.T) {
	test, err := loadtest.New(loadtest.Options{
		URL: "http://h.test/x", Body: "{}", Arrivals: loadtest.Poisson, Warmup: time.Second, CallerCount: 5,
		Stages: []loadtest.Stage{{10, 500, 30 * time.Second}, {500, 500, 90 * time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "POST http://h.test/x\nOpen loop, poisson arrivals, 10 to 500/s in 30 s, 500/s for 90 s, for 120 s\nafter a warm-up of 1 s, from 5 callers."
	if got := test.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
