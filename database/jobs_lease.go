package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/inferweir/weir/job"
)

// leaseRow is a lease as a parameter of rows.
type leaseRow struct {
	ID     string `json:"lid"`
	Fence  int64  `json:"lfence"`
	Bytes  *int64 `json:"lbytes"`
	Events *int64 `json:"levents"`
}

// Renew implements job.Store. Where progress is shorter than leases, that of the rest
// stays as it is.
func (s *jobs) Renew(ctx context.Context, leases []job.Lease, until time.Time, progress []job.Progress) (job.Renewal, error) {
	var out job.Renewal
	for start := 0; start < len(leases); start += maxJobBatch {
		end := min(start+maxJobBatch, len(leases))
		rows := make([]leaseRow, 0, end-start)
		for i, l := range leases[start:end] {
			if !isJobID(l.ID) {
				continue
			}
			r := leaseRow{ID: l.ID, Fence: l.Fence}
			if start+i < len(progress) {
				r.Bytes, r.Events = &progress[start+i].Bytes, &progress[start+i].Events
			}
			rows = append(rows, r)
		}
		held, err := s.renew(ctx, rows, until)
		if err != nil {
			return job.Renewal{}, err
		}
		for _, l := range leases[start:end] {
			asked, ok := held[l]
			switch {
			case !ok:
				out.Lost = append(out.Lost, l.ID)
			case asked:
				out.Cancelled = append(out.Cancelled, l.ID)
			}
		}
	}
	return out, nil
}

// renew returns the leases that are still held, and whether they are to be cancelled.
func (s *jobs) renew(ctx context.Context, leases []leaseRow, until time.Time) (map[job.Lease]bool, error) {
	param, err := encodeRows(leases)
	if err != nil {
		return nil, err
	}
	var held map[job.Lease]bool
	err = s.db.write(ctx, func(q querier) (err error) {
		held = map[job.Lease]bool{}
		rows, err := q.QueryContext(ctx, `UPDATE weir_jobs SET lease_until = $1, progress_bytes = COALESCE(lbytes, progress_bytes),
			progress_events = COALESCE(levents, progress_events) FROM `+s.rows("$2", "lid TEXT", "lfence BIGINT", "lbytes BIGINT", "levents BIGINT")+`
			WHERE id = lid AND fence = lfence AND stage + 0 = 0 RETURNING id, fence, cancel_requested`, toMicros(until), param)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			var l job.Lease
			var asked int64
			if err := rows.Scan(&l.ID, &l.Fence, &asked); err != nil {
				return err
			}
			held[l] = asked != 0
		}
		return rows.Err()
	})
	return held, err
}

// output is what is known of a running job's chunks.
type output struct {
	ID    string `json:"lid"`
	Fence int64  `json:"lfence"`
	Seq   int64  `json:"lseq"`
	Bytes int64  `json:"lbytes"`
}

// Append implements job.Store. All chunks are kept in one transaction.
func (s *jobs) Append(ctx context.Context, chunks []job.Chunk) error {
	var leases []leaseRow
	seen := map[job.Lease]bool{}
	for _, c := range chunks {
		if l := (job.Lease{ID: c.ID, Fence: c.Fence}); isJobID(c.ID) && !seen[l] {
			seen[l] = true
			leases = append(leases, leaseRow{ID: c.ID, Fence: c.Fence})
		}
	}
	if len(leases) == 0 {
		return ctx.Err()
	}
	param, err := encodeRows(leases)
	if err != nil {
		return err
	}
	return s.db.write(ctx, func(q querier) error {
		held, err := s.outputs(ctx, q, param)
		if err != nil {
			return err
		}
		kept := s.number(held, chunks)
		ends := make([]*output, 0, len(held))
		for _, o := range held {
			ends = append(ends, o)
		}
		param, err := encodeRows(ends)
		if err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, "UPDATE weir_jobs SET output_seq = lseq, output_bytes = lbytes FROM "+
			s.rows("$1", "lid TEXT", "lfence BIGINT", "lseq BIGINT", "lbytes BIGINT")+" WHERE id = lid AND fence = lfence AND stage + 0 = 0", param); err != nil {
			return err
		}
		return insertChunks(ctx, q, kept)
	})
}

// outputs locks the jobs of leases that are still held.
func (s *jobs) outputs(ctx context.Context, q querier, leases string) (_ map[job.Lease]*output, err error) {
	rows, err := q.QueryContext(ctx, "SELECT id, fence, output_seq, output_bytes FROM weir_jobs, "+
		s.rows("$1", "lid TEXT", "lfence BIGINT")+" WHERE id = lid AND fence = lfence AND stage + 0 = 0 ORDER BY id"+s.lockOf(), leases)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	held := map[job.Lease]*output{}
	for rows.Next() {
		var o output
		if err := rows.Scan(&o.ID, &o.Fence, &o.Seq, &o.Bytes); err != nil {
			return nil, err
		}
		held[job.Lease{ID: o.ID, Fence: o.Fence}] = &o
	}
	return held, rows.Err()
}

// lockOf locks the rows of weir_jobs alone in a join.
func (s *jobs) lockOf() string {
	if s.db.isPostgres() {
		return " FOR UPDATE OF weir_jobs"
	}
	return ""
}

// numbered is a chunk that is kept, and the bytes up to its end.
type numbered struct {
	job.Chunk
	total int64
}

// number gives chunks their Seq and leaves out those that are not kept. After one for
// which there was no room none is kept, so that what is kept has no hole.
func (s *jobs) number(held map[job.Lease]*output, chunks []job.Chunk) []numbered {
	var kept []numbered
	for _, c := range chunks {
		o := held[job.Lease{ID: c.ID, Fence: c.Fence}]
		if o == nil {
			continue
		}
		if o.Bytes+int64(len(c.Data)) > job.MaxOutput {
			o.Bytes = job.MaxOutput + 1
			continue
		}
		o.Bytes += int64(len(c.Data))
		o.Seq++
		c.Seq = o.Seq
		kept = append(kept, numbered{c, o.Bytes})
	}
	return kept
}

func insertChunks(ctx context.Context, q querier, chunks []numbered) error {
	const rowsEach = 16
	for len(chunks) > 0 {
		n := min(len(chunks), rowsEach)
		var values strings.Builder
		args := make([]any, 0, 6*n)
		for i, c := range chunks[:n] {
			if i > 0 {
				values.WriteString(", ")
			}
			fmt.Fprintf(&values, "($%d, $%d, $%d, $%d, $%d, $%d)", 6*i+1, 6*i+2, 6*i+3, 6*i+4, 6*i+5, 6*i+6)
			args = append(args, c.ID, c.Seq, c.Fence, c.Attempt, c.total, notNull(c.Data))
		}
		if _, err := q.ExecContext(ctx, "INSERT INTO weir_job_output (job, seq, fence, attempt, total, data) VALUES "+values.String(), args...); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}

// Output implements job.Store. It returns at most 1000 chunks at a time.
func (s *jobs) Output(ctx context.Context, id string, seq int64, maxBytes int) ([]job.Chunk, error) {
	if !isJobID(id) {
		return nil, job.ErrNotFound
	}
	seq = max(seq, 0)
	var out []job.Chunk
	err := s.db.read(ctx, func(q querier) (err error) {
		out = nil
		rows, err := q.QueryContext(ctx, fmt.Sprintf(`SELECT seq, fence, attempt, data FROM weir_job_output WHERE job = $1 AND seq > $2 AND seq <= $2 + %d
			AND (seq = $2 + 1 OR total <= $3 + COALESCE((SELECT total FROM weir_job_output WHERE job = $1 AND seq = $2), 0)) ORDER BY seq`, maxJobBatch),
			id, min(seq, 1<<40), maxBytes)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			c := job.Chunk{ID: id}
			if err := rows.Scan(&c.Seq, &c.Fence, &c.Attempt, &c.Data); err != nil {
				return err
			}
			c.Data = nilIfEmpty(c.Data)
			out = append(out, c)
		}
		return rows.Err()
	})
	if err != nil || len(out) > 0 {
		return out, err
	}
	_, err = s.Get(ctx, "", id)
	return nil, err
}

// locked is what the end of an attempt needs of a job's row, which it has locked.
type locked struct {
	change
	state         job.State
	stage         int
	fence         int64
	finishedFence int64
	attempt       int
	asked         bool // to be cancelled
	last          bool // no attempt may follow
}

// lockJob locks a job's row. caller "" is whoever may see all.
func (s *jobs) lockJob(ctx context.Context, q querier, caller, id string) (locked, error) {
	l := locked{change: change{id: id}}
	var asked int64
	err := q.QueryRowContext(ctx, `SELECT caller, route, request_bytes, state, stage, fence, finished_fence, attempt, cancel_requested
		FROM weir_jobs WHERE id = $1`+s.lock, id).Scan(&l.caller, &l.route, &l.bytes, &l.state, &l.stage, &l.fence, &l.finishedFence, &l.attempt, &asked)
	if errors.Is(err, sql.ErrNoRows) || err == nil && caller != "" && l.caller != toText(caller) {
		return l, job.ErrNotFound
	}
	l.asked = asked != 0
	return l, err
}

// less is the change of the counts when the job ends.
func (l locked) less() change {
	c := l.change
	c.jobs, c.bytes = -1, -c.bytes
	return c
}

// Finish implements job.Store. When it is called again under the same fence with the
// same State, as after an ErrUnknown, it does nothing and returns nil.
func (s *jobs) Finish(ctx context.Context, l job.Lease, o job.Outcome, now time.Time) error {
	if !o.State.Ended() && o.State != job.Available && o.State != job.Retryable {
		return fmt.Errorf("database: job %s: an attempt cannot end as %q: want completed, cancelled, discarded, retryable or available", l.ID, o.State)
	}
	if err := checkAccount(l.ID, o.Account); err != nil {
		return err
	}
	if !isJobID(l.ID) {
		return job.ErrLost
	}
	return s.db.write(ctx, func(q querier) error {
		j, err := s.lockJob(ctx, q, "", l.ID)
		switch {
		case errors.Is(err, job.ErrNotFound):
			return job.ErrLost
		case err != nil:
			return err
		case j.stage != stageRunning && j.fence == l.Fence && j.finishedFence == l.Fence && j.state == o.State:
			return nil
		case j.stage != stageRunning || j.fence != l.Fence:
			return job.ErrLost
		}
		if err := s.finish(ctx, q, j, o, now); err != nil {
			return err
		}
		if o.State == job.Available {
			return nil
		}
		if err := s.setResult(ctx, q, j, o.Result); err != nil {
			return err
		}
		if !o.State.Ended() {
			return nil
		}
		return s.count(ctx, q, []change{j.less()})
	})
}

// finish writes the row of a job whose attempt ends.
func (s *jobs) finish(ctx context.Context, q querier, j locked, o job.Outcome, now time.Time) error {
	set := "state = $1, stage = $2, finished_fence = fence, owner = '', lease_until = 0, progress_bytes = $3, progress_events = $4"
	args := []any{string(o.State), stageEnded, o.Progress.Bytes, o.Progress.Events}
	add := func(column string, value any) {
		args = append(args, value)
		set += fmt.Sprintf(", %s = $%d", column, len(args))
	}
	if o.Account != nil {
		add("account", o.Account)
	}
	if o.State == job.Available {
		set += ", attempt = attempt - 1, started = CASE WHEN attempt = 1 THEN 0 ELSE started END"
	} else {
		f := o.Failure
		if f == nil {
			f = &job.Failure{}
		}
		add("failure_status", f.Status)
		add("failure_detail", toText(f.Detail))
	}
	if o.State.Ended() {
		add("finished", toMicros(now))
		add("expires", toMicros(o.Expires))
		set += fmt.Sprintf(", webhook_due = CASE WHEN webhook = '' THEN 0 ELSE CAST($%d AS BIGINT) END", len(args)-1)
	} else {
		add("not_before", toMicros(o.NotBefore))
		args[1] = stageOf(j.asked, o.NotBefore, now)
	}
	args = append(args, j.id, j.fence)
	r, err := q.ExecContext(ctx, fmt.Sprintf("UPDATE weir_jobs SET %s WHERE id = $%d AND fence = $%d AND stage = 0", set, len(args)-1, len(args)), args...)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return job.ErrLost
	}
	return nil
}

// stageOf is the stage of a job that waits again.
func stageOf(asked bool, notBefore, now time.Time) int {
	switch {
	case asked:
		return stageAsked
	case notBefore.After(now):
		return stageLater
	}
	return stageReady
}

// setResult replaces the result of a job, whose last attempt may have left one.
func (s *jobs) setResult(ctx context.Context, q querier, j locked, r *job.Result) error {
	if j.attempt > 1 {
		keep := ""
		if r != nil {
			keep = r.Blob
		}
		if err := dropResult(ctx, q, j.id, keep); err != nil {
			return err
		}
	}
	if r == nil {
		return nil
	}
	h, err := head{}.encode(r.Header)
	if err != nil {
		return err
	}
	_, err = q.ExecContext(ctx, "INSERT INTO weir_job_results (job, status, bytes, blob, head, body) VALUES ($1, $2, $3, $4, $5, $6)",
		j.id, r.Status, r.Bytes, toText(r.Blob), h, notNull(r.Body))
	return err
}

// dropResult deletes a job's result, and says that nobody needs its blob any more,
// unless that is keep.
func dropResult(ctx context.Context, q querier, id, keep string) error {
	if _, err := q.ExecContext(ctx, `INSERT INTO weir_job_blobs (blob) SELECT blob FROM weir_job_results
		WHERE job = $1 AND blob <> '' AND blob <> $2 ON CONFLICT DO NOTHING`, id, toText(keep)); err != nil {
		return err
	}
	_, err := q.ExecContext(ctx, "DELETE FROM weir_job_results WHERE job = $1", id)
	return err
}
