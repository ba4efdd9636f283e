package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/inferweir/weir/job"
)

const (
	// maxPromoted is how many jobs whose time has come one claim makes ready.
	maxPromoted = 512
	// maxClaimBytes bounds the bodies that one claim reads into memory: it stops after
	// the job that passes it.
	maxClaimBytes = 64 << 20
)

// queued is a job that may be claimed.
type queued struct {
	id, caller string
	bytes      int64
}

// Claim implements job.Store. Callers with jobs are found by a skip scan: one look into
// the index a caller, however many jobs each has; where that finds hundreds of callers it
// is remembered for half a second, so that a caller who is new among them may come so
// much later. At most 1000 jobs are given at a time, and fewer when their requests have
// more than 64 MiB.
func (s *jobs) Claim(ctx context.Context, c job.Claim, now time.Time) ([]*job.Job, error) {
	if c.Max <= 0 {
		return nil, nil
	}
	c.Max = batch(c.Max)
	next := without(s.turns.take(c.Route, c.Max, now), c.Except)
	var out []*job.Job
	var scanned, asked []string
	err := s.db.write(ctx, func(q querier) (err error) {
		out, scanned = nil, nil
		if err := s.promote(ctx, q, c.Route, now); err != nil {
			return err
		}
		asked = next
		var picked []queued
		if len(asked) == c.Max {
			if picked, err = s.pick(ctx, q, c, asked, now); err != nil {
				return err
			}
		}
		if len(picked) < c.Max {
			if scanned, err = s.callers(ctx, q, c); err != nil {
				return err
			}
			if scanned = without(scanned, c.Except); len(scanned) == 0 {
				return nil
			}
			asked = scanned[:min(c.Max, len(scanned))]
			if picked, err = s.pick(ctx, q, c, asked, now); err != nil || len(picked) == 0 {
				return err
			}
		}
		out, err = s.run(ctx, q, c, picked, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(scanned) > 0 {
		s.turns.keep(c.Route, scanned[len(asked):], now)
	}
	return out, nil
}

// without is callers but for those who are passed over.
func without(callers, except []string) []string {
	if len(except) == 0 {
		return callers
	}
	passed := make(map[string]bool, len(except))
	for _, caller := range except {
		passed[toText(caller)] = true
	}
	return slices.DeleteFunc(slices.Clone(callers), func(caller string) bool { return passed[caller] })
}

const (
	// turnsFrom is how many callers a scan must find to be remembered, and turnsFor for
	// how long it is.
	turnsFrom = 256
	turnsFor  = 500 * time.Millisecond
	// maxTurns is how many callers are remembered, and of how many routes.
	maxTurns = 4096
)

// turns remembers of each route which callers come next. A caller is taken out with
// their turn: they come again with the next scan.
type turns struct {
	mu     sync.Mutex
	routes map[string]scan
}

// scan is who comes next, as it was found at a time.
type scan struct {
	callers []string
	at      time.Time
}

// take returns the next n callers, or none where fewer are remembered.
func (t *turns) take(route string, n int, now time.Time) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.routes[route]
	if age := now.Sub(r.at); age < 0 || age > turnsFor || len(r.callers) < n {
		delete(t.routes, route)
		return nil
	}
	t.routes[route] = scan{r.callers[n:], r.at}
	return r.callers[:n]
}

// keep remembers who comes next.
func (t *turns) keep(route string, callers []string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(callers) < turnsFrom || len(t.routes) >= maxTurns {
		delete(t.routes, route)
		return
	}
	t.routes[route] = scan{callers, now}
}

// promote makes jobs ready whose time has come.
func (s *jobs) promote(ctx context.Context, q querier, route string, now time.Time) error {
	ids, err := stringsOf(ctx, q, fmt.Sprintf(`SELECT id FROM weir_jobs WHERE stage = 1 AND route = $1 AND not_before <= $2
		ORDER BY not_before LIMIT %d`, maxPromoted)+s.skip, toText(route), toMicros(now))
	if err != nil || len(ids) == 0 {
		return err
	}
	param, err := list(ids)
	if err != nil {
		return err
	}
	_, err = q.ExecContext(ctx, "UPDATE weir_jobs SET stage = 2 WHERE stage + 0 = 1 AND "+s.in("id", "$1"), param)
	return err
}

// callers are those with jobs that are ready, first whoever was given one longest ago; of
// those who never were, first whose job is the oldest.
func (s *jobs) callers(ctx context.Context, q querier, c job.Claim) ([]string, error) {
	return stringsOf(ctx, q, fmt.Sprintf(`WITH RECURSIVE c (caller) AS (
			SELECT MIN(caller) FROM weir_jobs WHERE stage = 2 AND route = $1
			UNION ALL
			SELECT (SELECT MIN(w.caller) FROM weir_jobs w WHERE w.stage = 2 AND w.route = $1 AND w.caller > c.caller) FROM c WHERE c.caller IS NOT NULL)
		SELECT c.caller FROM c LEFT JOIN weir_job_turns t ON t.route = $1 AND t.caller = c.caller WHERE c.caller IS NOT NULL
		ORDER BY COALESCE(t.turn, 0), CASE WHEN t.turn IS NULL THEN
			(SELECT MIN(w.id) FROM weir_jobs w WHERE w.stage = 2 AND w.route = $1 AND w.caller = c.caller) ELSE '' END LIMIT %d`, maxTurns), toText(c.Route))
}

// pick chooses jobs round robin: of each caller the oldest, then of each the next, until
// there are enough.
func (s *jobs) pick(ctx context.Context, q querier, c job.Claim, callers []string, now time.Time) ([]queued, error) {
	lines := map[string][]queued{}
	open, each, total := callers, 0, 0
	for len(open) > 0 && total < c.Max {
		each += (c.Max - total + len(open) - 1) / len(open)
		if c.PerCaller > 0 {
			each = min(each, c.PerCaller)
		}
		if err := s.oldest(ctx, q, pickFrom{c.Route, open, each}, now, lines); err != nil {
			return nil, err
		}
		var more []string
		total = 0
		for _, caller := range callers {
			total += len(lines[caller])
		}
		for _, caller := range open {
			if len(lines[caller]) == each && each != c.PerCaller {
				more = append(more, caller)
			}
		}
		open = more
	}
	var out []queued
	var size int64
	for round := 0; len(out) < c.Max; round++ {
		before := len(out)
		for _, caller := range callers {
			if round >= len(lines[caller]) || len(out) == c.Max || size > maxClaimBytes {
				continue
			}
			out = append(out, lines[caller][round])
			size += lines[caller][round].bytes
		}
		if len(out) == before {
			break
		}
	}
	return out, nil
}

// pickFrom asks for the oldest jobs of each of some callers.
type pickFrom struct {
	route   string
	callers []string
	each    int
}

// oldest puts the oldest jobs that may run of each caller into lines. On PostgreSQL it
// locks them, and leaves out what others have locked.
func (s *jobs) oldest(ctx context.Context, q querier, p pickFrom, now time.Time, lines map[string][]queued) error {
	line := `SELECT id, caller, request_bytes FROM weir_jobs WHERE stage = 2 AND route = $1 AND caller = %s AND not_before <= $2 ORDER BY id LIMIT $3`
	if s.db.isPostgres() {
		param, err := list(p.callers)
		if err != nil {
			return err
		}
		found, err := scanQueued(ctx, q, "SELECT w.* FROM "+s.rows("$4", "lid TEXT")+", LATERAL ("+fmt.Sprintf(line, "l.lid")+s.skip+") AS w",
			toText(p.route), toMicros(now), p.each, param)
		for _, caller := range p.callers {
			lines[caller] = nil
		}
		for _, w := range found {
			lines[w.caller] = append(lines[w.caller], w)
		}
		return err
	}
	for _, caller := range p.callers {
		found, err := scanQueued(ctx, q, fmt.Sprintf(line, "$4"), toText(p.route), toMicros(now), p.each, caller)
		if err != nil {
			return err
		}
		lines[caller] = found
	}
	return nil
}

func scanQueued(ctx context.Context, q querier, query string, args ...any) (_ []queued, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []queued
	for rows.Next() {
		var w queued
		if err := rows.Scan(&w.id, &w.caller, &w.bytes); err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, rows.Err()
}

// run gives the picked jobs to the claimer, and their callers a new turn each.
func (s *jobs) run(ctx context.Context, q querier, c job.Claim, picked []queued, now time.Time) ([]*job.Job, error) {
	ids := make([]string, len(picked))
	callers := map[string]int{} // the last of theirs, counted from 1
	for i, w := range picked {
		ids[i] = w.id
		callers[w.caller] = i + 1
	}
	param, err := list(ids)
	if err != nil {
		return nil, err
	}
	// stage + 0 keeps SQLite from going through all that are ready, instead of the IDs.
	if _, err := q.ExecContext(ctx, `UPDATE weir_jobs SET state = 'running', stage = 0, fence = fence + 1, attempt = attempt + 1, owner = $1,
		lease_until = $2, started = $3, progress_bytes = 0, progress_events = 0 WHERE stage + 0 = 2 AND `+s.in("id", "$4"),
		toText(c.Owner), toMicros(c.Until), toMicros(now), param); err != nil {
		return nil, err
	}
	found, err := loadJobs(ctx, q, selectJobs(requestBody)+"WHERE "+s.in("j.id", "$1"), param)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*job.Job, len(found))
	for _, j := range found {
		byID[j.ID] = &j.Job
	}
	var out []*job.Job
	for _, id := range ids {
		if j := byID[id]; j != nil {
			out = append(out, j)
		}
	}
	return out, s.turn(ctx, q, c.Route, callers)
}

// turn writes down who was given jobs, in which order. callers are positions in it.
func (s *jobs) turn(ctx context.Context, q querier, route string, callers map[string]int) error {
	var last int64
	if err := q.QueryRowContext(ctx, "SELECT COALESCE(MAX(turn), 0) FROM weir_job_turns WHERE route = $1", toText(route)).Scan(&last); err != nil {
		return err
	}
	type turnRow struct {
		Caller string `json:"lid"`
		Turn   int64  `json:"lturn"`
	}
	turns := make([]turnRow, 0, len(callers))
	for caller, n := range callers {
		turns = append(turns, turnRow{caller, last + int64(n)})
	}
	param, err := encodeRows(turns)
	if err != nil {
		return err
	}
	from := s.rows("$2", "lid TEXT", "lturn BIGINT")
	insert := "INSERT INTO weir_job_turns (route, caller, turn) SELECT CAST($1 AS TEXT), lid, lturn FROM " + from + " WHERE true ORDER BY lid ON CONFLICT (route, caller) DO "
	if !s.db.isPostgres() {
		_, err = q.ExecContext(ctx, insert+"UPDATE SET turn = excluded.turn", toText(route), param)
		return err
	}
	// Another instance that has just given the same caller a job has written down
	// nearly the same, so it is not waited for.
	if _, err := q.ExecContext(ctx, `UPDATE weir_job_turns t SET turn = free.lturn FROM (
		SELECT caller, lturn FROM weir_job_turns, `+from+` WHERE route = $1 AND caller = lid FOR UPDATE OF weir_job_turns SKIP LOCKED) AS free
		WHERE t.route = $1 AND t.caller = free.caller`, toText(route), param); err != nil {
		return err
	}
	_, err = q.ExecContext(ctx, insert+"NOTHING", toText(route), param)
	return err
}
