package upstream_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/upstream"
)

// TestTargetsThatAdmitNothingAreLeftAlone asks two targets in turn; one of them
// says with its answers that it is used up.
func TestTargetsThatAdmitNothingAreLeftAlone(t *testing.T) {
	for _, balance := range []string{"least_busy", "round_robin"} {
		t.Run(balance, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked strings.Builder
				says := map[string]string{}
				target := func(name string) upstream.Target {
					return upstream.Target{URL: name, Transport: upstream.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						asked.WriteString(name)
						w.Header().Set("X-Closed", says[name])
					}))}
				}
				pool, err := upstream.New(upstream.Options{
					Name: "llm", Balance: balance, Targets: []upstream.Target{target("a"), target("b")},
					Closed: func(resp *http.Response) time.Duration {
						d, err := time.ParseDuration(resp.Header.Get("X-Closed"))
						if err != nil || resp.StatusCode != http.StatusOK || resp.Request.Method != "GET" {
							return 0
						}
						return d
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				ask := func(n int, want string) {
					t.Helper()
					asked.Reset()
					for range n {
						pool.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
					}
					if got := asked.String(); got != want {
						t.Errorf("asked %s, want %s", got, want)
					}
				}
				ask(4, "abab")
				says["b"] = "10s"
				ask(6, "abaaaa")
				if n := pool.Closed(); n != 1 {
					t.Errorf("%d targets are closed, want 1", n)
				}
				says["a"] = "1h"
				ask(1, "a")
				asked.Reset()
				w := httptest.NewRecorder()
				pool.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
				if asked.Len() != 0 || w.Code != 503 || w.Header().Get("Retry-After") != "10" ||
					!strings.Contains(w.Body.String(), `No target of upstream \"llm\" is available: 2 of 2 asked for a pause.`) {
					t.Errorf("all are closed: asked %q, %d %v %s", asked.String(), w.Code, w.Header(), w.Body)
				}
				says["a"], says["b"] = "", ""
				time.Sleep(10 * time.Second)
				asked.Reset()
				for range 3 {
					pool.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
				}
				if got := asked.String(); got != "bbb" {
					t.Errorf("asked %s when b is open again, want bbb", got)
				}
				time.Sleep(50 * time.Second)
				if n := pool.Closed(); n != 0 {
					t.Errorf("%d targets are closed after a minute, want none: nothing closes one for longer", n)
				}
			})
		})
	}
}
