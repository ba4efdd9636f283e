//go:build unix

package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// TestUsageAtTheEnd ends weir while its database does not answer.
func TestUsageAtTheEnd(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	begin := func(t *testing.T, url string) *inProcess {
		hook := newHook(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("{}")) })
		s := serve(t, jobsConfig(t, url, hook.URL))
		eventually(t, "the database is there", func() bool {
			return strings.Contains(fetch(t, s.client, s.admin+"/metrics").Body, "\nweir_database_up 1\n")
		})
		server.Pause()
		for range 3 {
			resp, err := s.client.Post(s.base+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"m"}`))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(resp, err)
			}
			_ = resp.Body.Close()
		}
		return s
	}
	requests := func(t *testing.T, url string) int64 {
		return number(t, openDatabase(t, url), "SELECT COALESCE(SUM(requests), 0) FROM weir_usage")
	}
	t.Run("says what is lost", func(t *testing.T) {
		url := server.URL()
		s := begin(t, url)
		defer server.Resume()
		status := s.stop(t)
		if log := s.stderr.String(); status != exitOK || !strings.Contains(log, `"level":"ERROR","msg":"usage is lost: it could not be written before the end","rows":1,"cost_usd":"0.000000000"`) {
			t.Errorf("exit status %d\n%s", status, log)
		}
	})
	t.Run("waits for a database that comes back", func(t *testing.T) {
		url := server.URL()
		s := begin(t, url)
		s.signal()
		time.AfterFunc(time.Second, server.Resume) // of the five that there are
		status := s.stop(t)
		if n := requests(t, url); status != exitOK || n != 3 || strings.Contains(s.stderr.String(), "usage is lost") {
			t.Errorf("exit status %d, %d requests in the ledger: want 3\n%s", status, n, &s.stderr)
		}
	})
}
