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

// Deliveries implements job.Store. Callers with webhooks that are due are found as Claim
// finds those with jobs: one look into the index a caller, however many each has.
func (s *jobs) Deliveries(ctx context.Context, t job.Turn, now time.Time) ([]job.Delivery, error) {
	if t.Max <= 0 {
		return nil, nil
	}
	t.Max = batch(t.Max)
	var out []job.Delivery
	err := s.db.write(ctx, func(q querier) error {
		out = nil
		callers, err := s.dueCallers(ctx, q, t, now)
		if err != nil || len(callers) == 0 {
			return err
		}
		ids, err := s.dueOf(ctx, q, callers, t.Share(len(callers)), now)
		if err != nil || len(ids) == 0 {
			return err
		}
		param, err := list(ids)
		if err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, "UPDATE weir_jobs SET webhook_due = $1, webhook_attempt = webhook_attempt + 1 WHERE "+s.in("id", "$2"),
			toMicros(t.Until), param); err != nil {
			return err
		}
		found, err := s.load(ctx, q, ids)
		for _, j := range found {
			out = append(out, job.Delivery{Job: j.Job, Attempt: j.webhookAttempt})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// dueCallers are those whose turn it is, as they are written in the table: first whose
// webhook has been due longest.
func (s *jobs) dueCallers(ctx context.Context, q querier, t job.Turn, now time.Time) ([]string, error) {
	found, err := scanDue(ctx, q, fmt.Sprintf(`WITH RECURSIVE c (caller) AS (
			SELECT MIN(caller) FROM weir_jobs WHERE webhook_due > 0
			UNION ALL
			SELECT (SELECT MIN(w.caller) FROM weir_jobs w WHERE w.webhook_due > 0 AND w.caller > c.caller) FROM c WHERE c.caller IS NOT NULL)
		SELECT d.caller, d.due FROM (SELECT c.caller AS caller,
			(SELECT MIN(w.webhook_due) FROM weir_jobs w WHERE w.webhook_due > 0 AND w.caller = c.caller) AS due FROM c WHERE c.caller IS NOT NULL) AS d
		WHERE d.due <= $1 ORDER BY d.due LIMIT %d`, maxTurns), toMicros(now))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b dueCaller) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(fromText(a.caller), fromText(b.caller)))
	})
	callers := make([]string, len(found))
	for i, d := range found {
		callers[i] = d.caller
	}
	callers = without(callers, t.Except)
	return callers[:min(t.Max, len(callers))], nil
}

// dueCaller is a caller, and since when a webhook of theirs is due.
type dueCaller struct {
	caller string
	due    int64
}

func scanDue(ctx context.Context, q querier, query string, args ...any) (_ []dueCaller, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []dueCaller
	for rows.Next() {
		var d dueCaller
		if err := rows.Scan(&d.caller, &d.due); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

// dueOf are the jobs of each caller whose webhooks have been due longest, caller by
// caller. On PostgreSQL it locks them, and leaves out what others have locked.
func (s *jobs) dueOf(ctx context.Context, q querier, callers []string, each int, now time.Time) ([]string, error) {
	const due = `SELECT id, caller, webhook_due FROM weir_jobs WHERE webhook_due > 0 AND caller = %s AND webhook_due <= $1 ORDER BY webhook_due, id LIMIT $2`
	lines := map[string][]string{}
	if s.db.isPostgres() {
		param, err := list(callers)
		if err != nil {
			return nil, err
		}
		found, err := scanQueued(ctx, q, "SELECT w.* FROM "+s.rows("$3", "lid TEXT")+", LATERAL ("+fmt.Sprintf(due, "l.lid")+s.skip+") AS w", toMicros(now), each, param)
		if err != nil {
			return nil, err
		}
		for _, w := range found {
			lines[w.caller] = append(lines[w.caller], w.id)
		}
	} else {
		for _, caller := range callers {
			found, err := scanQueued(ctx, q, fmt.Sprintf(due, "$3"), toMicros(now), each, caller)
			if err != nil {
				return nil, err
			}
			for _, w := range found {
				lines[caller] = append(lines[caller], w.id)
			}
		}
	}
	var ids []string
	for _, caller := range callers {
		ids = append(ids, lines[caller]...)
	}
	return ids, nil
}

// Delivered implements job.Store. It is ErrLost where the attempt is not the last one
// that was leased.
func (s *jobs) Delivered(ctx context.Context, id string, attempt int, next time.Time) error {
	if !isJobID(id) || attempt < 1 {
		return job.ErrLost
	}
	return s.db.write(ctx, func(q querier) error {
		r, err := q.ExecContext(ctx, "UPDATE weir_jobs SET webhook_due = $1 WHERE id = $2 AND webhook_attempt = $3", toMicros(next), id, attempt)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return job.ErrLost
		}
		return nil
	})
}
