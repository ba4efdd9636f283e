package database

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/inferweir/weir/job"
)

const (
	// aheadKept is how long the lines of jobs are remembered: whoever waits asks again
	// and again, and in a long line each answer would read all of it.
	aheadKept = time.Second
	// maxAheadLines is how many routes, and how many callers, are remembered at a time.
	maxAheadLines = 1000
	// maxAheadJobs is how many jobs of one caller are counted.
	maxAheadJobs = 200_000
)

// jobLines remembers who waits for what.
type jobLines struct {
	routes  recall[[]line]
	callers recall[ownLine] // by route and caller
}

func newJobLines(kept time.Duration) *jobLines {
	return &jobLines{recall[[]line]{kept: kept}, recall[ownLine]{kept: kept}}
}

// line is what may run of one caller.
type line struct {
	caller     string // as it is stored
	turn, jobs int64
	first      string
}

// ownLine are the jobs of one caller that may run, in their order.
type ownLine struct {
	turn int64
	ids  []string
}

// Ahead implements job.Store. It counts those who may run now, as if the job might, too,
// as it was up to a second ago.
func (s *jobs) Ahead(ctx context.Context, id string, now time.Time) (int64, error) {
	if !isJobID(id) {
		return 0, job.ErrNotFound
	}
	var found []*storedJob
	err := s.db.read(ctx, func(q querier) (err error) {
		found, err = loadJobs(ctx, q, selectJobs(noBody)+"WHERE j.id = $1", id)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, job.ErrNotFound
	case found[0].State != job.Available && found[0].State != job.Retryable:
		return 0, nil
	}
	route, caller := toText(found[0].Route), toText(found[0].Caller)
	all, err := s.lines.routes.get(ctx, route, now, func(ctx context.Context) ([]line, error) { return s.line(ctx, route, now) })
	if err != nil {
		return 0, err
	}
	key := strconv.Itoa(len(route)) + " " + route + caller
	own, err := s.lines.callers.get(ctx, key, now, func(ctx context.Context) (ownLine, error) { return s.ownLine(ctx, route, caller, now) })
	if err != nil {
		return 0, err
	}
	older, _ := slices.BinarySearch(own.ids, id)
	first := id
	if older > 0 {
		first = own.ids[0]
	}
	// Each other caller has as many turns as this one before the job, and one more if it
	// comes first.
	n := int64(older)
	for _, l := range all {
		rounds := int64(older)
		switch {
		case l.caller == caller:
			continue
		case l.turn < own.turn || l.turn == own.turn && l.first < first:
			rounds++
		}
		n += min(l.jobs, rounds)
	}
	return n, nil
}

// line reads how many jobs of each caller may run on a route.
func (s *jobs) line(ctx context.Context, route string, now time.Time) (all []line, err error) {
	err = s.db.read(ctx, func(q querier) (err error) {
		all = nil
		rows, err := q.QueryContext(ctx, `SELECT w.caller, COALESCE((SELECT turn FROM weir_job_turns t WHERE t.route = $1 AND t.caller = w.caller), 0),
			CAST(SUM(w.jobs) AS BIGINT), MIN(w.first) FROM (
				SELECT caller, COUNT(*) AS jobs, MIN(id) AS first
				FROM weir_jobs WHERE stage = 2 AND route = $1 AND not_before <= $2 GROUP BY caller
				UNION ALL SELECT caller, COUNT(*), MIN(id)
				FROM weir_jobs WHERE stage = 1 AND route = $1 AND not_before <= $2 GROUP BY caller) AS w GROUP BY w.caller`,
			route, toMicros(now))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			var l line
			if err := rows.Scan(&l.caller, &l.turn, &l.jobs, &l.first); err != nil {
				return err
			}
			all = append(all, l)
		}
		return rows.Err()
	})
	return all, err
}

// ownLine reads which jobs of one caller may run on a route.
func (s *jobs) ownLine(ctx context.Context, route, caller string, now time.Time) (own ownLine, err error) {
	err = s.db.read(ctx, func(q querier) (err error) {
		own = ownLine{}
		if err := q.QueryRowContext(ctx, `SELECT COALESCE(MAX(turn), 0) FROM weir_job_turns WHERE route = $1 AND caller = $2`, route, caller).Scan(&own.turn); err != nil {
			return err
		}
		own.ids, err = stringsOf(ctx, q, `SELECT id FROM weir_jobs WHERE stage = 2 AND route = $1 AND caller = $2 AND not_before <= $3
			UNION ALL SELECT id FROM weir_jobs WHERE stage = 1 AND route = $1 AND caller = $2 AND not_before <= $3 LIMIT `+strconv.Itoa(maxAheadJobs),
			route, caller, toMicros(now))
		return err
	})
	slices.Sort(own.ids)
	return own, err
}

// recall remembers what was loaded for a while. Whoever asks for what is being loaded
// waits for that.
type recall[T any] struct {
	kept time.Duration

	mu  sync.Mutex
	all map[string]*recalled[T] // guarded by mu
}

type recalled[T any] struct {
	at    time.Time
	done  chan struct{} // closed when what follows is there
	value T
	err   error
}

// get returns what load returns, or has returned for key less than kept before now. The
// value is shared: it is only to be read.
func (r *recall[T]) get(ctx context.Context, key string, now time.Time, load func(context.Context) (T, error)) (T, error) {
	r.mu.Lock()
	one := r.all[key]
	if one == nil || now.Sub(one.at).Abs() >= r.kept {
		one = &recalled[T]{at: now, done: make(chan struct{})}
		r.putLocked(key, one)
		r.mu.Unlock()
		// Others wait for it, too.
		one.value, one.err = load(context.WithoutCancel(ctx))
		if one.err != nil {
			r.forget(key, one)
		}
		close(one.done)
		return one.value, one.err
	}
	r.mu.Unlock()
	select {
	case <-one.done:
		return one.value, one.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// putLocked remembers one, in place of what is old where there is no room.
func (r *recall[T]) putLocked(key string, one *recalled[T]) {
	if r.all == nil {
		r.all = map[string]*recalled[T]{}
	}
	if len(r.all) >= maxAheadLines {
		for k, old := range r.all {
			if one.at.Sub(old.at).Abs() >= r.kept {
				delete(r.all, k)
			}
		}
	}
	if len(r.all) >= maxAheadLines {
		clear(r.all)
	}
	r.all[key] = one
}

// forget lets the next one load again.
func (r *recall[T]) forget(key string, one *recalled[T]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[key] == one {
		delete(r.all, key)
	}
}
