package database

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir/job"
)

// jobs is the job.Store.
type jobs struct {
	db *DB
	// lock and skip are what a SELECT ends with to lock its rows: skip leaves out those
	// that another instance has locked. SQLite has one writer and needs neither.
	lock, skip string
	turns      turns
	lines      *jobLines
}

var _ job.Store = (*jobs)(nil)

func newJobs(db *DB) *jobs {
	s := &jobs{db: db, turns: turns{routes: map[string]scan{}}, lines: newJobLines(aheadKept)}
	if db.isPostgres() {
		s.lock, s.skip = " FOR UPDATE", " FOR UPDATE SKIP LOCKED"
	}
	return s
}

// The stages of a job: what the indexes of weir_jobs go by.
const (
	stageRunning = iota
	stageLater   // waits until not_before
	stageReady   // may be claimed
	stageAsked   // waits, and its caller wants it cancelled: Rescue does
	stageEnded
	stageSwept // ended, and its request and result are deleted
)

const (
	// maxJobName bounds a caller's and a route's name: PostgreSQL's index rows have
	// room for 2700 bytes.
	maxJobName    = 1024
	maxJobAccount = 64 << 10
	// maxJobBatch is how many jobs one transaction touches.
	maxJobBatch = 1000
)

// rows is a table l for FROM, of the JSON array of objects in the parameter param.
// columns have name and type. One parameter, however many rows, keeps the text of a
// statement the same, so that it is prepared once.
func (s *jobs) rows(param string, columns ...string) string {
	if s.db.isPostgres() {
		return "jsonb_to_recordset(CAST(" + param + " AS jsonb)) AS l(" + strings.Join(columns, ", ") + ")"
	}
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		name, _, _ := strings.Cut(c, " ")
		b.WriteString("value ->> '" + name + "' AS " + name)
	}
	return "(SELECT " + b.String() + " FROM json_each(" + param + ")) AS l"
}

// in is a condition: the column is one of the strings that list encodes as param.
func (s *jobs) in(column, param string) string {
	return column + " IN (SELECT lid FROM " + s.rows(param, "lid TEXT") + ")"
}

type listed struct {
	ID string `json:"lid"`
}

func list(ids []string) (string, error) {
	l := make([]listed, len(ids))
	for i, id := range ids {
		l[i].ID = id
	}
	return encodeRows(l)
}

// encodeRows is the parameter of rows.
func encodeRows(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// keyHash stands for the caller's idempotency key, nil where there is none.
func keyHash(caller, key string) []byte {
	if key == "" {
		return nil
	}
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, int64(len(caller)))
	h.Write([]byte(caller))
	h.Write([]byte(key))
	return h.Sum(nil)
}

func checkJob(j *job.Job) error {
	switch {
	case !isJobID(j.ID):
		return fmt.Errorf("database: job ID %q: want a UUID in lower case", j.ID)
	case len(toText(j.Caller)) > maxJobName:
		return fmt.Errorf("database: job %s: the caller's name has %d bytes, at most %d may be", j.ID, len(toText(j.Caller)), maxJobName)
	case len(toText(j.Route)) > maxJobName:
		return fmt.Errorf("database: job %s: the route's name has %d bytes, at most %d may be", j.ID, len(toText(j.Route)), maxJobName)
	}
	return checkAccount(j.ID, j.Account)
}

func checkAccount(id string, account []byte) error {
	if len(account) > maxJobAccount {
		return fmt.Errorf("database: job %s: the account has %d bytes, at most %d may be", id, len(account), maxJobAccount)
	}
	return nil
}

// Create implements job.Store. The bounds are exact on SQLite. On PostgreSQL they are
// compared with what is committed, so that as many jobs too many can be kept as are
// created in the same instant. A bound of 0 bounds nothing.
func (s *jobs) Create(ctx context.Context, j *job.Job, b job.Bounds) (*job.Job, bool, error) {
	if err := checkJob(j); err != nil {
		return nil, false, err
	}
	var kept *job.Job
	var created bool
	err := s.db.write(ctx, func(q querier) error {
		kept, created = nil, false
		// Another instance may insert the same key between the look and the insertion.
		for range 3 {
			old, err := s.same(ctx, q, j)
			if err != nil {
				return err
			}
			if old != nil {
				kept = old
				return nil
			}
			if err := s.checkBounds(ctx, q, j, b); err != nil {
				return err
			}
			if created, err = s.insert(ctx, q, j); err != nil {
				return err
			}
			if created {
				n, err := loadJob(ctx, q, j.ID)
				if err != nil {
					return err
				}
				kept = &n.Job
				return nil
			}
		}
		return fmt.Errorf("%w: the idempotency key of job %s changes too fast", ErrAway, j.ID)
	})
	if err != nil {
		return nil, false, err
	}
	return kept, created, nil
}

// same is the job that is kept already with the ID or the idempotency key of j, nil
// where there is none.
func (s *jobs) same(ctx context.Context, q querier, j *job.Job) (*job.Job, error) {
	found, err := loadJobs(ctx, q, selectJobs(resultBody)+"WHERE j.id = $1", j.ID)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 && j.IdempotencyKey != "" {
		found, err = loadJobs(ctx, q, selectJobs(resultBody)+"WHERE j.key_hash = $1", keyHash(j.Caller, j.IdempotencyKey))
	}
	switch {
	case err != nil || len(found) == 0:
		return nil, err
	case found[0].Caller != j.Caller || found[0].RequestHash != j.RequestHash:
		return nil, job.ErrConflict
	}
	return &found[0].Job, nil
}

func (s *jobs) checkBounds(ctx context.Context, q querier, j *job.Job, b job.Bounds) error {
	var all, size, own int64
	err := q.QueryRowContext(ctx, `SELECT CAST(COALESCE(SUM(jobs), 0) AS BIGINT), CAST(COALESCE(SUM(bytes), 0) AS BIGINT),
		(SELECT CAST(COALESCE(SUM(jobs), 0) AS BIGINT) FROM weir_job_counts WHERE kind = 'caller' AND name = $1)
		FROM weir_job_counts WHERE kind = 'route'`, toText(j.Caller)).Scan(&all, &size, &own)
	if err != nil {
		return err
	}
	if b.Jobs > 0 && all >= b.Jobs || b.CallerJobs > 0 && own >= b.CallerJobs ||
		b.Bytes > 0 && size+int64(len(j.Request.Body)) > b.Bytes {
		return job.ErrFull
	}
	return nil
}

// insert returns false where the ID or the idempotency key is taken.
func (s *jobs) insert(ctx context.Context, q querier, j *job.Job) (bool, error) {
	stage := stageReady
	if j.NotBefore.After(j.Created) {
		stage = stageLater
	}
	size := int64(len(j.Request.Body))
	r, err := q.ExecContext(ctx, `INSERT INTO weir_jobs (id, caller, plan, route, state, stage, attempt, max_attempts, not_before, fence,
		finished_fence, owner, lease_until, cancel_requested, progress_bytes, progress_events, failure_status, failure_detail, created,
		started, finished, expires, webhook, webhook_due, webhook_attempt, output_seq, output_bytes, request_bytes, idempotency_key,
		key_hash, request_hash, account)
		VALUES ($1, $2, $3, $4, 'available', $5, 0, $6, $7, 0, 0, '', 0, 0, 0, 0, 0, '', $8, 0, 0, $9, $10, 0, 0, 0, 0, $11, $12, $13, $14, $15)
		ON CONFLICT DO NOTHING`,
		j.ID, toText(j.Caller), toText(j.Plan), toText(j.Route), stage, j.MaxAttempts, toMicros(j.NotBefore), toMicros(j.Created),
		toMicros(j.Expires), toText(j.Webhook), size, toText(j.IdempotencyKey), keyHash(j.Caller, j.IdempotencyKey), j.RequestHash[:], notNull(j.Account))
	if err != nil {
		return false, err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	h, err := head{Method: []byte(j.Request.Method), URI: []byte(j.Request.URI), Host: []byte(j.Request.Host), ID: []byte(j.Request.ID)}.encode(j.Request.Header)
	if err != nil {
		return false, err
	}
	if _, err := q.ExecContext(ctx, "INSERT INTO weir_job_requests (job, head, body) VALUES ($1, $2, $3)", j.ID, h, notNull(j.Request.Body)); err != nil {
		return false, err
	}
	return true, s.count(ctx, q, []change{{id: j.ID, caller: toText(j.Caller), route: toText(j.Route), jobs: 1, bytes: size}})
}

// change is one more, or one less, job that has not ended.
type change struct {
	id, caller, route string // the names as they are stored
	jobs, bytes       int64
}

// countRow is a row of weir_job_counts.
type countRow struct {
	Kind  string `json:"lkind"`
	Name  string `json:"lname"`
	Shard int    `json:"lshard"`
	Jobs  int64  `json:"ljobs"`
	Bytes int64  `json:"lbytes"`
}

// count brings weir_job_counts up to date. It is the last statement of a transaction, so
// that others wait for its rows as short as can be, and takes them in one order.
func (s *jobs) count(ctx context.Context, q querier, changes []change) error {
	sums := map[countRow]countRow{}
	for _, c := range changes {
		// The job's own shard, so that each row comes back to zero.
		shard := strings.IndexByte("0123456789abcdef", c.id[len(c.id)-1])
		for _, k := range []countRow{{Kind: "caller", Name: c.caller, Shard: shard}, {Kind: "route", Name: c.route, Shard: shard}} {
			sum := sums[k]
			sum.Kind, sum.Name, sum.Shard = k.Kind, k.Name, k.Shard
			sum.Jobs += c.jobs
			sum.Bytes += c.bytes
			sums[k] = sum
		}
	}
	if len(sums) == 0 {
		return nil
	}
	all := make([]countRow, 0, len(sums))
	for _, r := range sums {
		all = append(all, r)
	}
	rows, err := encodeRows(all)
	if err != nil {
		return err
	}
	_, err = q.ExecContext(ctx, `INSERT INTO weir_job_counts (kind, name, shard, jobs, bytes)
		SELECT lkind, lname, lshard, ljobs, lbytes FROM `+s.rows("$1", "lkind TEXT", "lname TEXT", "lshard BIGINT", "ljobs BIGINT", "lbytes BIGINT")+`
		WHERE true ORDER BY lkind, lname, lshard
		ON CONFLICT (kind, name, shard) DO UPDATE SET jobs = weir_job_counts.jobs + excluded.jobs, bytes = weir_job_counts.bytes + excluded.bytes`, rows)
	return err
}

// FindKey implements job.Store.
func (s *jobs) FindKey(ctx context.Context, caller, key string) (*job.Job, error) {
	if key == "" {
		return nil, job.ErrNotFound
	}
	return s.one(ctx, func(q querier) ([]*storedJob, error) {
		return loadJobs(ctx, q, selectJobs(resultBody)+"WHERE j.key_hash = $1", keyHash(caller, key))
	})
}

// Get implements job.Store.
func (s *jobs) Get(ctx context.Context, caller, id string) (*job.Job, error) {
	if !isJobID(id) {
		return nil, job.ErrNotFound
	}
	return s.one(ctx, func(q querier) ([]*storedJob, error) {
		if caller == "" {
			return loadJobs(ctx, q, selectJobs(resultBody)+"WHERE j.id = $1", id)
		}
		return loadJobs(ctx, q, selectJobs(resultBody)+"WHERE j.id = $1 AND j.caller = $2", id, toText(caller))
	})
}

// one reads one job.
func (s *jobs) one(ctx context.Context, load func(querier) ([]*storedJob, error)) (*job.Job, error) {
	var found []*storedJob
	err := s.db.read(ctx, func(q querier) (err error) {
		found, err = load(q)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, job.ErrNotFound
	}
	return &found[0].Job, nil
}

// List implements job.Store.
func (s *jobs) List(ctx context.Context, f job.Filter) ([]*job.Job, error) {
	most := min(f.Max, 1000)
	if most <= 0 {
		most = 100
	}
	where, args := "WHERE true", []any{}
	add := func(condition, value string) {
		if value != "" {
			args = append(args, toText(value))
			where += fmt.Sprintf(" AND %s $%d", condition, len(args))
		}
	}
	add("j.caller =", f.Caller)
	add("j.route =", f.Route)
	add("j.state =", string(f.State))
	add("j.id <", f.Before)
	var found []*storedJob
	err := s.db.read(ctx, func(q querier) (err error) {
		found, err = loadJobs(ctx, q, fmt.Sprintf("%s%s ORDER BY j.id DESC LIMIT %d", selectJobs(noBody), where, most), args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return plain(found), nil
}

func plain(found []*storedJob) []*job.Job {
	var out []*job.Job
	for _, j := range found {
		out = append(out, &j.Job)
	}
	return out
}

// Lines implements job.Store.
func (s *jobs) Lines(ctx context.Context) ([]job.Line, error) {
	var out []job.Line
	err := s.db.read(ctx, func(q querier) (err error) {
		out = nil
		rows, err := q.QueryContext(ctx, `SELECT route, CAST(SUM(alive) AS BIGINT), CAST(SUM(running) AS BIGINT) FROM (
			SELECT name AS route, jobs AS alive, 0 AS running FROM weir_job_counts WHERE kind = 'route'
			UNION ALL SELECT route, 0, COUNT(*) FROM weir_jobs WHERE stage = 0 GROUP BY route) AS line
			GROUP BY route`)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			var l job.Line
			var alive int64
			if err := rows.Scan(&l.Route, &alive, &l.Running); err != nil {
				return err
			}
			l.Route, l.Waiting = fromText(l.Route), max(alive-l.Running, 0)
			if l.Waiting > 0 || l.Running > 0 {
				out = append(out, l)
			}
		}
		return rows.Err()
	})
	slices.SortFunc(out, func(a, b job.Line) int { return strings.Compare(a.Route, b.Route) })
	return out, err
}

// stringsOf reads a column of strings.
func stringsOf(ctx context.Context, q querier, query string, args ...any) (_ []string, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// batch is max within what one transaction may touch.
func batch(most int) int { return min(max(most, 0), maxJobBatch) }

// expiry is a pair of times as they are stored.
type expiry struct{ now, expires int64 }

func expiryOf(now, expires time.Time) expiry { return expiry{toMicros(now), toMicros(expires)} }
