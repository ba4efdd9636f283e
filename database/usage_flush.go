package database

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// usageBatchRows is how many rows are written in one transaction, and
	// usageStatementRows in one statement.
	usageBatchRows = 5000
	// usageFileRows is usageBatchRows for SQLite, whose one writer others wait for.
	usageFileRows      = 500
	usageStatementRows = 500
)

// usageBatch is written as a whole, once, however often that is tried.
type usageBatch struct {
	id   string
	rows []usageRow
}

type usageRow struct {
	usageKey
	UsageCounts
}

// ownUsage is what this process has added to the ledger itself.
type ownUsage struct {
	hour   int64
	caller string
}

// begin waits for whoever writes.
func (u *Usage) begin(ctx context.Context) error {
	select {
	case <-u.writing:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (u *Usage) end() { u.writing <- struct{}{} }

// flush is Flush for whoever has begun.
func (u *Usage) flush(ctx context.Context) error {
	for _, drain := range []bool{false, true} {
		if drain { // only now: what waits must not grow beyond its bound
			u.batches = u.drain()
		}
		if err := u.writeBatches(ctx); err != nil {
			return err
		}
	}
	return nil
}

// drain takes all that waits in memory, as batches. Their rows are sorted: two
// instances that write the same rows then never wait for each other in a circle.
func (u *Usage) drain() []usageBatch {
	u.mu.Lock()
	pending := u.pending
	u.pending = map[usageKey]UsageCounts{}
	u.taken += len(pending)
	u.mu.Unlock()
	rows := make([]usageRow, 0, len(pending))
	for key, counts := range pending {
		rows = append(rows, usageRow{key, counts})
	}
	slices.SortFunc(rows, func(a, b usageRow) int {
		return cmp.Or(cmp.Compare(a.hour, b.hour), strings.Compare(a.caller, b.caller), strings.Compare(a.route, b.route), strings.Compare(a.model, b.model))
	})
	var batches []usageBatch
	most := usageFileRows
	if u.db.isPostgres() {
		most = usageBatchRows
	}
	for part := range slices.Chunk(rows, most) {
		batches = append(batches, usageBatch{rand.Text(), part})
	}
	return batches
}

// writeBatches writes the batches that there are, in order. One that fails stays, with
// its name and rows as they are.
func (u *Usage) writeBatches(ctx context.Context) error {
	for len(u.batches) > 0 {
		b := &u.batches[0]
		if err := u.db.write(ctx, func(q querier) error { return b.write(ctx, q, u.db) }); err != nil {
			return err
		}
		u.written(b)
		u.mu.Lock()
		u.taken -= len(b.rows)
		u.mu.Unlock()
		u.batches = u.batches[1:]
	}
	u.batches = nil
	return nil
}

// written remembers what of the ledger is this process's own.
func (u *Usage) written(b *usageBatch) {
	if u.forgotten.Load() {
		u.own = nil
		return
	}
	for i := range b.rows {
		r := &b.rows[i]
		key := ownUsage{r.hour, r.caller}
		if _, ok := u.own[key]; r.Cost > 0 && (ok || len(u.own) < maxUsageKeys) {
			u.own[key] += r.Cost
		}
	}
}

// write writes b, unless that has been done.
func (b *usageBatch) write(ctx context.Context, q querier, db *DB) error {
	done, err := q.ExecContext(ctx, `INSERT INTO weir_usage_batches (id, written) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`, b.id, db.Now().UnixMicro())
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return err
	}
	for part := range slices.Chunk(b.rows, usageStatementRows) {
		args := make([]any, 0, len(part)*usageColumns)
		for i := range part {
			r := &part[i]
			args = append(args, r.hour, r.caller, r.route, r.model)
			for _, n := range r.all() {
				args = append(args, *n)
			}
		}
		if _, err := q.ExecContext(ctx, upsertUsage(len(part), db.isPostgres()), args...); err != nil {
			return err
		}
	}
	return nil
}

// usageColumns is how many columns the table has, usageSums the names of those that
// are summed, in the order of UsageCounts.all.
const usageColumns = 12

func usageSums() [8]string {
	return [...]string{"requests", "input_tokens", "cached_tokens", "output_tokens", "hits", "refused", "errors", "cost"}
}

// upsertUsage is the statement that adds rows to the table. What would not fit into
// the column any more stays at its bound. SQLite would look for each of the names $1 to
// $6000 among all those before it, so there they are ?.
func upsertUsage(rows int, postgres bool) string {
	var s strings.Builder
	s.WriteString("INSERT INTO weir_usage (hour, caller, route, model")
	for _, name := range usageSums() {
		s.WriteString(", " + name)
	}
	s.WriteString(") VALUES ")
	for i := range rows {
		if i > 0 {
			s.WriteString(", ")
		}
		for j := range usageColumns {
			s.WriteString([...]string{"(", ", "}[min(j, 1)])
			if postgres {
				s.WriteString("$" + strconv.Itoa(i*usageColumns+j+1))
			} else {
				s.WriteString("?")
			}
		}
		s.WriteString(")")
	}
	s.WriteString(" ON CONFLICT (hour, caller, route, model) DO UPDATE SET ")
	most := strconv.FormatInt(maxUsage, 10)
	for i, name := range usageSums() {
		if i > 0 {
			s.WriteString(", ")
		}
		sum := "weir_usage." + name + " + excluded." + name
		s.WriteString(name + " = CASE WHEN " + sum + " > " + most + " THEN " + most + " ELSE " + sum + " END")
	}
	return s.String()
}

const (
	// usageLastWait is how long the end waits for a database that is away, and
	// usageLastTry how often it tries.
	usageLastWait = 5 * time.Second
	usageLastTry  = 250 * time.Millisecond
)

// close writes what waits, and says what is lost where that cannot be done.
func (u *Usage) close(ctx context.Context) error {
	last, stop := context.WithTimeout(ctx, usageLastWait)
	defer stop()
	err := u.Flush(ctx)
	for errors.Is(err, ErrAway) && last.Err() == nil {
		select {
		case <-last.Done():
		case <-time.After(usageLastTry):
			err = u.Flush(ctx)
		}
	}
	if err == nil {
		return nil
	}
	rows, cost := u.unwritten()
	u.db.log.Error("usage is lost: it could not be written before the end",
		"rows", rows, "cost_usd", fmt.Sprintf("%d.%09d", cost/nanosPerUSD, cost%nanosPerUSD), "error", err.Error())
	return err
}

const nanosPerUSD = 1_000_000_000

// unwritten are the rows that wait, and what they cost in 1e-9 USD.
func (u *Usage) unwritten() (rows int, cost int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var sum UsageCounts
	for _, counts := range u.pending {
		sum.add(counts)
	}
	rows = len(u.pending)
	select {
	case <-u.writing:
		defer u.end()
	default: // somebody writes still
		return rows, sum.Cost
	}
	for _, b := range u.batches {
		rows += len(b.rows)
		for i := range b.rows {
			sum.add(b.rows[i].UsageCounts)
		}
	}
	return rows, sum.Cost
}

// flushOrSay is Flush for nobody. That the database is away is said elsewhere.
func (u *Usage) flushOrSay(ctx context.Context) {
	if err := u.Flush(ctx); err != nil && !errors.Is(err, ErrAway) && ctx.Err() == nil {
		u.db.log.Error("usage could not be written: it is kept in memory and tried again", "error", err.Error())
	}
}

// sweep removes what is old.
func (u *Usage) sweep(ctx context.Context) {
	now := u.db.Now()
	err := u.db.write(ctx, func(q querier) error {
		if _, err := q.ExecContext(ctx, `DELETE FROM weir_usage WHERE hour < $1`, now.Add(-usageKept).UnixMicro()); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, `DELETE FROM weir_usage_batches WHERE written < $1`, now.Add(-usageBatchesKept).UnixMicro())
		return err
	})
	if err != nil && !errors.Is(err, ErrAway) && ctx.Err() == nil {
		u.db.log.Error("old usage could not be removed: it is tried again in an hour", "error", err.Error())
	}
}
