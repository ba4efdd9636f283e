package database

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/storetest"
)

// fillJobs makes one caller with many waiting jobs and others with one each, all older
// than what a test creates.
func fillJobs(t testing.TB, db *DB, many, callers int) {
	t.Helper()
	ctx := context.Background()
	err := db.write(ctx, func(q querier) error {
		for _, s := range []string{
			fmt.Sprintf(`INSERT INTO weir_jobs (id, caller, plan, route, state, stage, attempt, max_attempts, not_before, fence,
				finished_fence, owner, lease_until, cancel_requested, progress_bytes, progress_events, failure_status, failure_detail, created,
				started, finished, expires, webhook, webhook_due, webhook_attempt, output_seq, output_bytes, request_bytes, idempotency_key,
				key_hash, request_hash, account)
				WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < %d)
				SELECT '019cb7a1-0000-7000-8000-' || substr(CAST(100000000000 + n AS TEXT), 1, 12),
				CASE WHEN n <= %d THEN 'key:many' ELSE 'key:' || CAST(n AS TEXT) END, '', 'POST /v1/', 'available', 2, 0, 3, 1, 0,
				0, '', 0, 0, 0, 0, 0, '', 1, 0, 0, 9000000000000000, '', 0, 0, 0, 0, 2, '', NULL, account, account
				FROM n, (SELECT head AS account FROM weir_job_requests LIMIT 1) AS r`, many+callers, many),
			`INSERT INTO weir_job_requests (job, head, body) SELECT id, account, account FROM weir_jobs WHERE id LIKE '%8000-1%'`,
			`UPDATE weir_jobs SET account = CAST('' AS ` + map[bool]string{true: "BYTEA", false: "BLOB"}[db.isPostgres()] + `)`,
			`INSERT INTO weir_job_counts (kind, name, shard, jobs, bytes) SELECT 'route', route, 1, COUNT(*), 0 FROM weir_jobs WHERE id LIKE '%8000-1%' GROUP BY route`,
			`INSERT INTO weir_job_counts (kind, name, shard, jobs, bytes) SELECT 'caller', caller, 1, COUNT(*), 0 FROM weir_jobs WHERE id LIKE '%8000-1%' GROUP BY caller`,
		} {
			if _, err := q.ExecContext(ctx, s); err != nil {
				return fmt.Errorf("%.40s: %w", s, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// newWaiting is a new job for a route.
func newWaiting(n int, caller, route string) *job.Job {
	now := time.Now()
	return &job.Job{ID: fmt.Sprintf("019cb7a1-0000-7000-9000-%012x", n), Caller: caller, Route: route, MaxAttempts: 3, Created: now,
		NotBefore: now, Expires: now.Add(time.Hour), Request: job.Request{Method: "POST", URI: "/v1/", Body: []byte("{}")}}
}

func create(t testing.TB, s job.Store, j *job.Job) {
	t.Helper()
	if _, _, err := s.Create(context.Background(), j, job.Bounds{Jobs: 1 << 20, CallerJobs: 1 << 20, Bytes: 1 << 40}); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkJobs measures what must stay fast with 100,000 waiting jobs of one caller and
// one each of 1,000 others; ahead has 10,000.
func BenchmarkJobs(b *testing.B) {
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		b.Run(kind, func(b *testing.B) {
			url := func() string { return "sqlite:" + filepath.Join(b.TempDir(), "weir.db") }
			if kind == "PostgreSQL" {
				url = storetest.Postgres(b).URL
			}
			for _, c := range []struct {
				name    string
				many    int
				callers int
				run     func(b *testing.B, s job.Store)
			}{
				{"claim", 100_000, 1000, func(b *testing.B, s job.Store) { benchmarkClaim(b, s, 1) }},
				{"claim 32", 100_000, 1000, func(b *testing.B, s job.Store) { benchmarkClaim(b, s, 32) }},
				{"create", 100_000, 1000, func(b *testing.B, s job.Store) {
					for n := range b.N {
						create(b, s, newWaiting(n+1, "key:alice", "POST /v1/"))
					}
				}},
				{"lines", 100_000, 1000, func(b *testing.B, s job.Store) {
					for range b.N {
						if l, err := s.Lines(context.Background()); err != nil || len(l) != 2 {
							b.Fatal(l, err)
						}
					}
				}},
				{"ahead", 9900, 100, benchmarkAhead},
				{"ahead of 100000", 100_000, 1000, benchmarkAhead},
			} {
				b.Run(c.name, func(b *testing.B) { benchmarkJobs(b, url(), c.many, c.callers, c.run) })
			}
		})
	}
}

func benchmarkJobs(b *testing.B, url string, many, callers int, run func(*testing.B, job.Store)) {
	db, err := Open(context.Background(), Options{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := db.Close(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	create(b, db.Jobs(), newWaiting(0, "key:first", "GET /other"))
	fillJobs(b, db, many, callers)
	b.ResetTimer()
	run(b, db.Jobs())
}

func benchmarkClaim(b *testing.B, s job.Store, most int) {
	now := time.Now()
	for range b.N {
		jobs, err := s.Claim(context.Background(), job.Claim{Owner: "one", Until: now, Route: "POST /v1/", Max: most}, now)
		if err != nil || len(jobs) != most {
			b.Fatal(len(jobs), err)
		}
	}
}

func benchmarkAhead(b *testing.B, s job.Store) {
	last := newWaiting(1, "key:many", "POST /v1/")
	create(b, s, last)
	for range b.N {
		n, err := s.Ahead(context.Background(), last.ID, time.Now())
		if err != nil || n < 10_000 {
			b.Fatal(n, err)
		}
	}
}

func TestJobsUseIndexes(t *testing.T) {
	t.Run("no look for jobs to claim, rescue, sweep or deliver reads the whole table", func(t *testing.T) {
		db := openTest(t, Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db")})
		ctx := context.Background()
		for query, args := range map[string][]any{
			"SELECT id FROM weir_jobs WHERE stage = 1 AND route = $1 AND not_before <= $2 ORDER BY not_before LIMIT 9":                     {"r", 1},
			"SELECT MIN(caller) FROM weir_jobs WHERE stage = 2 AND route = $1 AND caller > $2":                                             {"r", "c"},
			"SELECT id FROM weir_jobs WHERE stage = 2 AND route = $1 AND caller = $2 AND not_before <= $3 ORDER BY id LIMIT 9":             {"r", "c", 1},
			"SELECT id FROM weir_jobs WHERE stage = 0 AND lease_until <= $1 ORDER BY lease_until, id LIMIT 9":                              {1},
			"SELECT id FROM weir_jobs WHERE stage = 3 ORDER BY expires, id LIMIT 9":                                                        nil,
			"SELECT id FROM weir_jobs WHERE stage IN (1, 2) AND expires <= $1 ORDER BY expires, id LIMIT 9":                                {1},
			"SELECT id FROM weir_jobs WHERE stage = 4 AND expires < $1 ORDER BY expires, id LIMIT 9":                                       {1},
			"SELECT MIN(caller) FROM weir_jobs WHERE webhook_due > 0 AND caller > $1":                                                      {"c"},
			"SELECT id FROM weir_jobs WHERE webhook_due > 0 AND caller = $1 AND webhook_due <= $2 ORDER BY webhook_due, id LIMIT 9":        {"c", 1},
			"SELECT id FROM weir_jobs WHERE stage = 5 AND expires < $1 AND (webhook_due = 0 OR expires < $2) ORDER BY expires, id LIMIT 9": {1, 1},
			"SELECT id FROM weir_jobs WHERE caller = $1 AND id < $2 ORDER BY id DESC LIMIT 9":                                              {"c", "i"},
			"SELECT id FROM weir_jobs WHERE state = $1 ORDER BY id DESC LIMIT 9":                                                           {"running"},
			"SELECT id FROM weir_jobs WHERE key_hash = $1":                                                                                 {[]byte{1}},
			"SELECT route, COUNT(*) FROM weir_jobs WHERE stage = 0 GROUP BY route":                                                         nil,
		} {
			plan := explain(t, ctx, db, query, args)
			if !strings.Contains(plan, "USING") || !strings.Contains(plan, "INDEX") {
				t.Errorf("%s: %s", query, plan)
			}
		}
	})
}

func explain(t *testing.T, ctx context.Context, db *DB, query string, args []any) string {
	t.Helper()
	var plan []string
	err := db.read(ctx, func(q querier) error {
		rows, err := q.QueryContext(ctx, "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				return err
			}
			plan = append(plan, detail)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "; ")
}
