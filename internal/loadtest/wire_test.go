package loadtest_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// secondFails answers the first request of each connection, reads the second and hangs
// up. It counts both.
func secondFails(t *testing.T) (url string, came *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came = &atomic.Int64{}
	serve := func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for n := range 2 {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			came.Add(1)
			if n == 0 {
				if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")); err != nil {
					return
				}
			}
		}
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return "http://" + l.Addr().String(), came
}

func TestNothingIsSentAgain(t *testing.T) {
	for name, o := range map[string]loadtest.Options{
		"GET":                     {},
		"with an Idempotency-Key": {Method: "POST", Header: http.Header{"Idempotency-Key": {"{{seq}}"}}},
		"PUT":                     {Method: "PUT"},
	} {
		t.Run(name, func(t *testing.T) {
			url, came := secondFails(t)
			o.URL, o.Concurrency, o.Requests = url, 1, 20
			r := loaded(t, o)
			if want := map[string]int64{"cut": 10}; r.OK != 10 || !reflect.DeepEqual(r.Errors, want) || came.Load() != 20 {
				t.Errorf("ok %d, errors %v of %d that came; want 10, %v and 20: %q", r.OK, r.Errors, came.Load(), want, r.ErrorExamples)
			}
		})
	}
}

// What fails before there is a connection is a connection that failed, whoever says so.
func TestHandshakesThatFail(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, o := range map[string]loadtest.Options{
		"refused": {URL: s.URL},
		"silent":  {URL: "https://" + silent.Addr().String(), Timeout: 50 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			o.Insecure, o.Concurrency, o.Requests = true, 1, 2
			r := loaded(t, o)
			if want := map[string]int64{"connect": 2}; !reflect.DeepEqual(r.Errors, want) {
				t.Errorf("errors %v, want %v: %q", r.Errors, want, r.ErrorExamples)
			}
		})
	}
}

// A warm-up fills caches, and must not fill them with what is measured.
func TestAWarmUpSendsOtherRequests(t *testing.T) {
	for name, o := range map[string]loadtest.Options{
		"open":            {Stages: rate(200, time.Second/5), Warmup: time.Second / 5},
		"open, poisson":   {Stages: rate(200, time.Second/5), Warmup: time.Second / 5, Arrivals: loadtest.Poisson},
		"closed":          {Concurrency: 2, Requests: 40, Warmup: time.Second / 10},
		"one for another": {Stages: rate(200, time.Second/5), Rehearsal: true},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			seen := map[string]int{}
			s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				seen[r.URL.RawQuery]++
			}))
			defer s.Close()
			o.URL, o.Seed = s.URL+"/?{{seq}}-{{rand 1 1000000000}}-{{words 5}}", 7
			loaded(t, o)
			if o.Rehearsal { // the other one
				o.Rehearsal = false
				loaded(t, o)
			}
			values := map[string]bool{}
			warmed := 0
			for query, times := range seen {
				_, drawn, _ := strings.Cut(strings.TrimPrefix(query, "-"), "-")
				if times > 1 || values[drawn] {
					t.Errorf("%s: came more than once", query)
				}
				values[drawn] = true
				if strings.HasPrefix(query, "-") {
					warmed++
				}
			}
			if len(seen) < 80 && o.Concurrency == 0 || warmed == 0 || warmed == len(seen) {
				t.Errorf("%d requests, %d of them of a warm-up", len(seen), warmed)
			}
		})
	}
}

// What a seed draws does not depend on how many requests a warm-up has sent.
func TestASeedDrawsTheSameAfterAWarmUp(t *testing.T) {
	drawn := func(warmup time.Duration) map[string]int {
		var mu sync.Mutex
		seen := map[string]int{}
		s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if q := r.URL.RawQuery; !strings.HasPrefix(q, "-") {
				seen[q+" of "+r.Header.Get("X-Caller")]++
			}
		}))
		defer s.Close()
		loaded(t, loadtest.Options{
			URL: s.URL + "/?{{seq}}-{{rand 1 1000000000}}", Seed: 7, Concurrency: 1, Requests: 50, Warmup: warmup,
			Callers: []loadtest.Caller{
				{Name: "a", Weight: 1, Header: http.Header{"X-Caller": {"{{caller}} {{seq}}"}}},
				{Name: "b", Weight: 1, Header: http.Header{"X-Caller": {"{{caller}} {{seq}}"}}},
			},
		})
		return seen
	}
	want := drawn(0)
	if got := drawn(50 * ms); len(want) != 50 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	callers := map[string]int{}
	for request := range want {
		number, rest, _ := strings.Cut(request, "-")
		_, caller, _ := strings.Cut(rest, " of ")
		if !strings.HasSuffix(caller, " "+number) {
			t.Errorf("%s: the field is that of another request", request)
		}
		callers[caller[:1]]++
	}
	if callers["a"] == 0 || callers["b"] == 0 {
		t.Errorf("callers %v, want both", callers)
	}
}

func TestQueriesAreEscaped(t *testing.T) {
	var query atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { query.Store(r.URL.RawQuery) }))
	defer s.Close()
	r := loaded(t, loadtest.Options{URL: s.URL + `/?q={{pick "a b\"ü"}}&x=%20`, Concurrency: 1, Requests: 1})
	if got, want := query.Load(), "q=a%20b%22%C3%BC&x=%20"; r.OK != 1 || got != want {
		t.Errorf("ok %d, query %v, want 1 and %s", r.OK, got, want)
	}
}
