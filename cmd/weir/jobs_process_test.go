//go:build unix

package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx, for a look into the database

	"github.com/inferweir/weir/storetest"
)

// soak is how often each database sees its weir killed, by WEIR_SOAK. Where that is
// set, what else depends on size or time is as large as it is in production.
func soak(t *testing.T) (kills int, set bool) {
	t.Helper()
	text, set := os.LookupEnv("WEIR_SOAK")
	if !set {
		return 10, false
	}
	kills, err := strconv.Atoi(text)
	if err != nil || kills < 1 {
		t.Fatalf("WEIR_SOAK: %q: want how often weir is killed on each database, for example 250", text)
	}
	return kills, true
}

// onEachDatabase runs f beside itself, with the URL of an empty SQLite and of an empty
// PostgreSQL.
func onEachDatabase(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("on SQLite", func(t *testing.T) {
		t.Parallel()
		f(t, "sqlite:"+filepath.Join(t.TempDir(), "weir.db"))
	})
	t.Run("on PostgreSQL", func(t *testing.T) {
		t.Parallel()
		f(t, storetest.Postgres(t).URL())
	})
}

// openDatabase opens what a weir has open, to look at it from outside.
func openDatabase(t *testing.T, url string) *sql.DB {
	t.Helper()
	driver, name := "pgx", url
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
		driver, name = "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// rows runs a query and scans each row into what scan names.
func rows(t *testing.T, db *sql.DB, scan func(scan func(...any) error) error, query string, args ...any) {
	t.Helper()
	found, err := db.Query(query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer found.Close()
	for found.Next() {
		if err := scan(found.Scan); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	if err := found.Err(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// number is what a query for one counts.
func number(t *testing.T, db *sql.DB, query string, args ...any) (n int64) {
	t.Helper()
	rows(t, db, func(scan func(...any) error) error { return scan(&n) }, query, args...)
	return n
}

// kill ends a process as the system does when it has no memory left.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	if status := p.wait(t); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("it had ended by itself, with %v; stderr:\n%s", status, &p.stderr)
	}
}

// hook is an upstream whose handler a test can look into.
type hook struct {
	*httptest.Server
	calls atomic.Int64
}

func newHook(t *testing.T, serve http.HandlerFunc) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.calls.Add(1)
		serve(w, r)
	}))
	t.Cleanup(h.Close)
	return h
}

// jobsConfig is a configuration of a route for jobs, /work, and of one for people,
// /v1/, in front of the same server. It ends with the list of routes.
func jobsConfig(t *testing.T, database, upstream string, more ...string) string {
	t.Helper()
	return fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
database: {url: %[1]q}
blobs: {url: "dir:%[2]s"}
jobs: {attempts: 100}
shutdown_grace: 1s
upstreams:
  work: {targets: [%[3]q], concurrency: 8, queue: {max_wait: 20s}}
  chat: {targets: [%[3]q], concurrency: 64, dialect: openai}
routes:
  - match: {path: /v1/*}
    upstream: chat
  - match: {path: /work*}
    upstream: work
    respond_async: allowed
%[4]s`, database, filepath.Join(t.TempDir(), "blobs"), upstream, strings.Join(more, ""))
}

// route is one more route of jobsConfig, with its settings, each a line.
func route(path, upstream string, settings ...string) string {
	return fmt.Sprintf("  - match: {path: %s}\n    upstream: %s\n    %s\n", path, upstream, strings.Join(settings, "\n    "))
}

// jobView is what Weir shows of a job.
type jobView struct {
	ID, State string
	Attempt   int
	Finished  string
	Error     *struct{ Status int }
}

// ended reports whether nothing follows.
func (j jobView) ended() bool {
	return j.State == "completed" || j.State == "discarded" || j.State == "cancelled"
}

// errNotNow is the refusal of a job or of a question, with advice on when to come back.
var errNotNow = errors.New("503 with Retry-After")

// handIn sends a request that is to be a job and returns the job's ID. The answer is
// errNotNow, or 202.
func handIn(ctx context.Context, c *http.Client, base, key, body string) (id string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/work", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Prefer", "respond-async")
	r.Header.Set("Idempotency-Key", key)
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	a, err := read(resp)
	id, isJob := strings.CutPrefix(a.field("Location"), "/jobs/")
	switch {
	case err != nil:
		return "", err
	case a.Status == http.StatusServiceUnavailable && a.field("Retry-After") != "":
		return "", errNotNow
	case a.Status != http.StatusAccepted || !isJob:
		return "", &wrongAnswer{fmt.Sprintf("handed in %s: %d %s", key, a.Status, a.Body)}
	}
	return id, nil
}

// wrongAnswer is an answer that nobody should get.
type wrongAnswer struct{ text string }

// Error implements error.
func (e *wrongAnswer) Error() string { return e.text }

// look asks how a job stands.
func look(ctx context.Context, c *http.Client, base, id string) (j jobView, err error) {
	a, err := get(ctx, c, base+"/jobs/"+id)
	switch {
	case err != nil:
		return j, err
	case a.Status == http.StatusServiceUnavailable && a.field("Retry-After") != "":
		return j, errNotNow
	case a.Status != http.StatusOK:
		return j, &wrongAnswer{fmt.Sprintf("job %s: %d %s", id, a.Status, a.Body)}
	}
	if err := json.Unmarshal([]byte(a.Body), &j); err != nil {
		return j, &wrongAnswer{fmt.Sprintf("job %s: %v in %s", id, err, a.Body)}
	}
	return j, nil
}

// get is fetch for a goroutine.
func get(ctx context.Context, c *http.Client, url string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return answer{}, err
	}
	return read(resp)
}

// complaints collects what is wrong, from any goroutine. It keeps the first ones.
type complaints struct {
	mu   sync.Mutex
	all  int
	kept []string
}

func (c *complaints) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all++; len(c.kept) < 20 {
		c.kept = append(c.kept, fmt.Sprintf(format, args...))
	}
}

// report fails the test for them.
func (c *complaints) report(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range c.kept {
		t.Error(text)
	}
	if c.all > len(c.kept) {
		t.Errorf("and %d more", c.all-len(c.kept))
	}
}

// pause waits for d, or until ctx ends, which it reports.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
