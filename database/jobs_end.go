package database

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/inferweir/weir/job"
)

// maxSweptBytes bounds what one transaction of Sweep deletes, but for its first job.
const maxSweptBytes = 64 << 20

// keptTurns is how many claims of a route ago a caller without jobs must have had its
// last turn to be forgotten.
const keptTurns = 10_000

// endColumns set what every end of jobs sets: $1 is now, $2 when they expire.
const endColumns = `stage = 4, finished = $1, expires = $2, owner = '', lease_until = 0,
	webhook_due = CASE WHEN webhook = '' THEN 0 ELSE CAST($1 AS BIGINT) END`

// Cancel implements job.Store.
func (s *jobs) Cancel(ctx context.Context, caller, id string, now, expires time.Time) (*job.Job, bool, error) {
	if !isJobID(id) {
		return nil, false, job.ErrNotFound
	}
	var out *job.Job
	var ended bool
	err := s.db.write(ctx, func(q querier) error {
		out, ended = nil, false
		j, err := s.lockJob(ctx, q, caller, id)
		if err != nil {
			return err
		}
		switch j.stage {
		case stageRunning:
			_, err = q.ExecContext(ctx, "UPDATE weir_jobs SET cancel_requested = 1 WHERE id = $1", id)
		case stageLater, stageReady, stageAsked:
			ended = true
			err = s.end(ctx, q, ending{job.Cancelled, nil, expiryOf(now, expires)}, []locked{j})
		}
		if err != nil {
			return err
		}
		n, err := loadJob(ctx, q, id)
		if err != nil {
			return err
		}
		out = &n.Job
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return out, ended, nil
}

// ending is how jobs end. failure nil leaves theirs as it is.
type ending struct {
	state   job.State
	failure *job.Failure
	expiry
}

// end ends jobs that the transaction has locked.
func (s *jobs) end(ctx context.Context, q querier, e ending, jobs []locked) error {
	if len(jobs) == 0 {
		return nil
	}
	changes := make([]change, len(jobs))
	for i, j := range jobs {
		changes[i] = j.less()
	}
	param, err := list(idsOf(jobs))
	if err != nil {
		return err
	}
	query, args := "UPDATE weir_jobs SET "+endColumns+", state = $3", []any{e.now, e.expires, string(e.state)}
	if e.failure != nil {
		query += ", failure_status = $4, failure_detail = $5"
		args = append(args, e.failure.Status, e.failure.Detail)
	}
	args = append(args, param)
	if _, err := q.ExecContext(ctx, query+" WHERE "+s.in("id", fmt.Sprintf("$%d", len(args))), args...); err != nil {
		return err
	}
	return s.count(ctx, q, changes)
}

func idsOf(jobs []locked) []string {
	ids := make([]string, len(jobs))
	for i, j := range jobs {
		ids[i] = j.id
	}
	return ids
}

// Retry implements job.Store. A job that is not discarded is ErrLost, one whose request
// was swept is ErrNotFound. The bounds of Create do not hold for it.
func (s *jobs) Retry(ctx context.Context, id string, now, expires time.Time) (*job.Job, error) {
	if !isJobID(id) {
		return nil, job.ErrNotFound
	}
	var out *job.Job
	err := s.db.write(ctx, func(q querier) error {
		out = nil
		j, err := s.lockJob(ctx, q, "", id)
		switch {
		case err != nil:
			return err
		case j.stage == stageSwept:
			return job.ErrNotFound
		case j.state != job.Discarded:
			return job.ErrLost
		}
		if err := dropResult(ctx, q, id, ""); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, `UPDATE weir_jobs SET state = 'available', stage = 2, max_attempts = attempt + 1, not_before = $1,
			finished = 0, expires = $2, account = $4, cancel_requested = 0, webhook_due = 0, webhook_attempt = webhook_attempt + 1 WHERE id = $3`,
			toMicros(now), toMicros(expires), id, []byte{}); err != nil {
			return err
		}
		n, err := loadJob(ctx, q, id)
		if err != nil {
			return err
		}
		out = &n.Job
		j.jobs = 1
		return s.count(ctx, q, []change{j.change})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Rescue implements job.Store. At most 1000 jobs of each kind are touched at a time.
func (s *jobs) Rescue(ctx context.Context, now, expires time.Time, most int) ([]*job.Job, error) {
	most = batch(most)
	var out []*job.Job
	err := s.db.write(ctx, func(q querier) error {
		out = nil
		ended, err := s.rescueLeases(ctx, q, expiryOf(now, expires), most)
		if err != nil {
			return err
		}
		asked, err := s.lockJobs(ctx, q, fmt.Sprintf("stage = 3 ORDER BY expires, id LIMIT %d", most-len(ended)))
		if err != nil {
			return err
		}
		if err := s.end(ctx, q, ending{job.Cancelled, nil, expiryOf(now, expires)}, asked); err != nil {
			return err
		}
		ended = append(ended, idsOf(asked)...)
		tired, err := s.lockJobs(ctx, q, fmt.Sprintf("stage IN (1, 2) AND expires <= $1 ORDER BY expires, id LIMIT %d", most-len(ended)), toMicros(now))
		if err != nil {
			return err
		}
		waited := &job.Failure{Status: 504, Detail: "The job waited longer than it may."}
		if err := s.end(ctx, q, ending{job.Discarded, waited, expiryOf(now, expires)}, tired); err != nil {
			return err
		}
		found, err := s.load(ctx, q, append(ended, idsOf(tired)...))
		out = plain(found)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// rescueLeases ends the attempts whose lease has run out, and returns the jobs that have
// ended with them.
func (s *jobs) rescueLeases(ctx context.Context, q querier, e expiry, most int) ([]string, error) {
	late, err := s.lockJobs(ctx, q, fmt.Sprintf("stage = 0 AND lease_until <= $1 ORDER BY lease_until, id LIMIT %d", most), e.now)
	if err != nil || len(late) == 0 {
		return nil, err
	}
	var asked, again, last []locked
	for _, j := range late {
		switch {
		case j.asked:
			asked = append(asked, j)
		case j.last:
			last = append(last, j)
		default:
			again = append(again, j)
		}
	}
	stopped := &job.Failure{Status: 503, Detail: "The instance that ran the job stopped."}
	if err := s.end(ctx, q, ending{job.Cancelled, nil, e}, asked); err != nil {
		return nil, err
	}
	if err := s.end(ctx, q, ending{job.Discarded, stopped, e}, last); err != nil {
		return nil, err
	}
	if len(again) > 0 {
		param, err := list(idsOf(again))
		if err != nil {
			return nil, err
		}
		if _, err := q.ExecContext(ctx, `UPDATE weir_jobs SET state = 'retryable', stage = 2, not_before = $1, owner = '', lease_until = 0,
			failure_status = $2, failure_detail = $3 WHERE `+s.in("id", "$4"), e.now, stopped.Status, stopped.Detail, param); err != nil {
			return nil, err
		}
	}
	var ended []string
	for _, j := range late {
		if j.asked || j.last {
			ended = append(ended, j.id)
		}
	}
	return ended, nil
}

// lockJobs locks the rows of jobs that where describes and no other instance has locked.
func (s *jobs) lockJobs(ctx context.Context, q querier, where string, args ...any) (_ []locked, err error) {
	rows, err := q.QueryContext(ctx, `SELECT id, caller, route, request_bytes, cancel_requested, CASE WHEN attempt >= max_attempts THEN 1 ELSE 0 END
		FROM weir_jobs WHERE `+where+s.skip, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []locked
	for rows.Next() {
		var l locked
		var asked, last int64
		if err := rows.Scan(&l.id, &l.caller, &l.route, &l.bytes, &asked, &last); err != nil {
			return nil, err
		}
		l.asked, l.last = asked != 0, last != 0
		out = append(out, l)
	}
	return out, rows.Err()
}

// load reads jobs without bodies, in the order of ids.
func (s *jobs) load(ctx context.Context, q querier, ids []string) ([]*storedJob, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	param, err := list(ids)
	if err != nil {
		return nil, err
	}
	found, err := loadJobs(ctx, q, selectJobs(noBody)+"WHERE "+s.in("j.id", "$1"), param)
	place := make(map[string]int, len(ids))
	for i, id := range ids {
		place[id] = i
	}
	slices.SortFunc(found, func(a, b *storedJob) int { return cmp.Compare(place[a.ID], place[b.ID]) })
	return found, err
}

// Sweep implements job.Store. It works in transactions that delete little each.
func (s *jobs) Sweep(ctx context.Context, now, forget time.Time, most int) ([]string, error) {
	for _, part := range []struct {
		where string
		until time.Time
		drop  func(ctx context.Context, q querier, ids string) error
	}{
		{"stage = 4 AND expires < $1", now, s.sweep},
		{fmt.Sprintf("stage = 5 AND expires < $1 AND (webhook_due = 0 OR expires < $1 - %d)", job.WebhookKept.Microseconds()), forget, s.forget},
	} {
		for left := most; left > 0; {
			var n int
			err := s.db.write(ctx, func(q querier) (err error) {
				n, err = s.dropSome(ctx, q, fmt.Sprintf("%s ORDER BY expires, id LIMIT %d", part.where, min(left, 100)), toMicros(part.until), part.drop)
				return err
			})
			if err != nil {
				return nil, err
			}
			if n == 0 {
				break
			}
			left -= n
		}
	}
	var blobs []string
	err := s.db.write(ctx, func(q querier) error {
		if err := s.forgetCallers(ctx, q); err != nil {
			return err
		}
		var err error
		blobs, err = stringsOf(ctx, q, fmt.Sprintf("SELECT blob FROM weir_job_blobs ORDER BY blob LIMIT %d", max(most, 0)))
		return err
	})
	for i := range blobs {
		blobs[i] = fromText(blobs[i])
	}
	return blobs, err
}

// dropSome hands the first jobs of where to drop, and returns how many.
func (s *jobs) dropSome(ctx context.Context, q querier, where string, until int64, drop func(context.Context, querier, string) error) (int, error) {
	found, err := s.sizes(ctx, q, where, until)
	if err != nil || len(found) == 0 {
		return 0, err
	}
	var ids []string
	var size int64
	for _, j := range found {
		if size += j.bytes; size > maxSweptBytes && len(ids) > 0 {
			break
		}
		ids = append(ids, j.id)
	}
	param, err := list(ids)
	if err != nil {
		return 0, err
	}
	return len(ids), drop(ctx, q, param)
}

func (s *jobs) sizes(ctx context.Context, q querier, where string, until int64) ([]queued, error) {
	return scanQueued(ctx, q, "SELECT id, caller, CASE WHEN stage = 5 THEN 0 ELSE request_bytes + output_bytes END FROM weir_jobs WHERE "+where+s.skip, until)
}

// sweep deletes what is large of jobs that have ended.
func (s *jobs) sweep(ctx context.Context, q querier, ids string) error {
	if _, err := q.ExecContext(ctx, `INSERT INTO weir_job_blobs (blob) SELECT blob FROM weir_job_results
		WHERE blob <> '' AND `+s.in("job", "$1")+" ON CONFLICT DO NOTHING", ids); err != nil {
		return err
	}
	for _, table := range []string{"weir_job_results", "weir_job_output", "weir_job_requests"} {
		if _, err := q.ExecContext(ctx, "DELETE FROM "+table+" WHERE "+s.in("job", "$1"), ids); err != nil {
			return err
		}
	}
	_, err := q.ExecContext(ctx, "UPDATE weir_jobs SET stage = 5 WHERE "+s.in("id", "$1"), ids)
	return err
}

func (s *jobs) forget(ctx context.Context, q querier, ids string) error {
	_, err := q.ExecContext(ctx, "DELETE FROM weir_jobs WHERE "+s.in("id", "$1"), ids)
	return err
}

// forgetCallers deletes what is counted of callers that have no jobs any more.
func (s *jobs) forgetCallers(ctx context.Context, q querier) error {
	if _, err := q.ExecContext(ctx, `DELETE FROM weir_job_counts WHERE (kind, name, shard) IN (
		SELECT kind, name, shard FROM weir_job_counts WHERE jobs = 0 AND bytes = 0 LIMIT 1000`+s.skip+`) AND jobs = 0 AND bytes = 0`); err != nil {
		return err
	}
	_, err := q.ExecContext(ctx, fmt.Sprintf(`DELETE FROM weir_job_turns WHERE (route, caller) IN (
		SELECT t.route, t.caller FROM weir_job_turns t
		WHERE t.turn < (SELECT MAX(m.turn) FROM weir_job_turns m WHERE m.route = t.route) - %d
		AND NOT EXISTS (SELECT 1 FROM weir_job_counts c WHERE c.kind = 'caller' AND c.name = t.caller) LIMIT 1000`+s.skip+`)`, keptTurns))
	return err
}

// Dropped implements job.Store.
func (s *jobs) Dropped(ctx context.Context, blobs []string) error {
	for len(blobs) > 0 {
		n := min(len(blobs), maxJobBatch)
		names := make([]string, n)
		for i, b := range blobs[:n] {
			names[i] = toText(b)
		}
		param, err := list(names)
		if err != nil {
			return err
		}
		if err := s.db.write(ctx, func(q querier) error {
			_, err := q.ExecContext(ctx, "DELETE FROM weir_job_blobs WHERE "+s.in("blob", "$1"), param)
			return err
		}); err != nil {
			return err
		}
		blobs = blobs[n:]
	}
	return nil
}
