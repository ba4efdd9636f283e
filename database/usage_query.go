package database

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What the ledger can be asked by: UsageFilter.By.
const (
	ByHour   = "hour"
	ByDay    = "day"
	ByMonth  = "month"
	ByCaller = "caller"
	ByRoute  = "route"
	ByModel  = "model"
)

// UsageGroupings are all that UsageFilter.By may hold.
func UsageGroupings() []string {
	return []string{ByHour, ByDay, ByMonth, ByCaller, ByRoute, ByModel}
}

// UsageFilter says what of the ledger is wanted, and how it is put together.
type UsageFilter struct {
	// From and To bound the hours, in UTC: those that begin in the hour of From or
	// later, and before To. The zero time is no bound.
	From, To time.Time
	// Caller, Route and Model are those that are wanted; "" is all.
	Caller, Route, Model string
	// By are the columns that have rows of their own, from UsageGroupings, each at
	// most once, and one of hour, day and month. Rows are sorted by them, in this
	// order. Without any there is one row at most. Days and months are those of UTC.
	By []string
	// Max is how many rows are returned at most. 0 is DefaultUsageRows; the most is
	// MaxUsageRows.
	Max int
}

// How many rows a query returns unless it says otherwise, and how many at most.
const (
	DefaultUsageRows = 1000
	MaxUsageRows     = 100_000
)

// UsageRow is what was used by one group. What the query was not grouped by is zero.
type UsageRow struct {
	// Time is the beginning of the hour, day or month, in UTC.
	Time                 time.Time
	Caller, Route, Model string
	UsageCounts
}

// UsageReport answers a UsageFilter.
type UsageReport struct {
	Rows []UsageRow
	// Total is the sum of all groups, also of those that are cut off.
	Total UsageCounts
	// Groups is how many there are. Where that is more than len(Rows), the last were
	// cut off.
	Groups int64
}

// Query sums what the ledger holds. It sees what has been written, by any instance:
// call Flush first for what waits here. The error says what is wrong with f, or wraps
// ErrAway.
func (u *Usage) Query(ctx context.Context, f UsageFilter) (UsageReport, error) {
	if err := f.Check(); err != nil {
		return UsageReport{}, err
	}
	query, args := f.statement(u.db.isPostgres())
	var report UsageReport
	err := u.db.read(ctx, func(q querier) error {
		report = UsageReport{}
		rows, err := q.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			row, to := UsageRow{}, make([]any, 0, len(f.By)+17)
			var at int64
			for _, by := range f.By {
				to = append(to, map[string]any{ByCaller: &row.Caller, ByRoute: &row.Route, ByModel: &row.Model}[by])
				if to[len(to)-1] == nil {
					to[len(to)-1] = &at
				}
			}
			for _, counts := range []*UsageCounts{&row.UsageCounts, &report.Total} {
				for _, n := range counts.all() {
					to = append(to, n)
				}
			}
			if err := rows.Scan(append(to, &report.Groups)...); err != nil {
				return err
			}
			if f.byTime() != "" {
				row.Time = time.UnixMicro(at).UTC()
			}
			report.Rows = append(report.Rows, row)
		}
		return rows.Err()
	})
	if err != nil {
		return UsageReport{}, fmt.Errorf("usage: %w", err)
	}
	return report, nil
}

// byTime is the column of time that f groups by, "" for none.
func (f *UsageFilter) byTime() string {
	for _, by := range f.By {
		if by == ByHour || by == ByDay || by == ByMonth {
			return by
		}
	}
	return ""
}

// Check says what is wrong with f.
func (f *UsageFilter) Check() error {
	for i, by := range f.By {
		switch {
		case !slices.Contains(UsageGroupings(), by):
			return fmt.Errorf("by: %.60q: want %s", by, strings.Join(UsageGroupings(), ", "))
		case slices.Contains(f.By[:i], by):
			return fmt.Errorf("by: %q: is there twice: want it once", by)
		case by != f.byTime() && (by == ByHour || by == ByDay || by == ByMonth):
			return fmt.Errorf("by: %q and %q: want one of hour, day and month", f.byTime(), by)
		}
	}
	switch {
	case f.Max < 0 || f.Max > MaxUsageRows:
		return fmt.Errorf("max: %d: want from 1 to %d rows", f.Max, MaxUsageRows)
	case !f.From.IsZero() && !f.To.IsZero() && !f.From.Before(f.To):
		return fmt.Errorf("from: %s: want it before to, %s", f.From.UTC().Format(time.RFC3339), f.To.UTC().Format(time.RFC3339))
	}
	return nil
}

// statement is the query. The sums of all groups are in each row, so that they are
// of the same moment.
func (f *UsageFilter) statement(postgres bool) (query string, args []any) {
	where := func(condition string, arg any) string {
		word := " AND "
		if len(args) == 0 {
			word = " WHERE "
		}
		args = append(args, arg)
		return word + condition + "$" + strconv.Itoa(len(args))
	}
	var columns, groups, order []string
	for _, by := range f.By {
		column, sorted := usageColumn(by, postgres)
		columns = append(columns, column)
		groups = append(groups, column)
		order = append(order, sorted)
	}
	for _, form := range []string{"CAST(SUM(%s) AS BIGINT)", "CAST(SUM(SUM(%s)) OVER () AS BIGINT)"} {
		for _, name := range usageSums() {
			columns = append(columns, fmt.Sprintf(form, name))
		}
	}
	query = "SELECT " + strings.Join(append(columns, "COUNT(*) OVER ()"), ", ") + " FROM weir_usage"
	if !f.From.IsZero() {
		query += where("hour >= ", usageHour(f.From))
	}
	if !f.To.IsZero() {
		query += where("hour < ", f.To.UnixMicro())
	}
	for _, is := range [][2]string{{"caller", f.Caller}, {"route", f.Route}, {"model", f.Model}} {
		if is[1] != "" {
			query += where(is[0]+" = ", usageName(is[1]))
		}
	}
	if len(groups) == 0 {
		query += " HAVING COUNT(*) > 0"
	} else {
		query += " GROUP BY " + strings.Join(groups, ", ") + " ORDER BY " + strings.Join(order, ", ")
	}
	most := f.Max
	if most == 0 {
		most = DefaultUsageRows
	}
	return query + " LIMIT " + strconv.Itoa(most), args
}

// usageColumn is the expression that by groups by, and the one that it is sorted by:
// names by their bytes, on both databases.
func usageColumn(by string, postgres bool) (column, sorted string) {
	const day = "(hour - hour % 86400000000)"
	switch {
	case by == ByDay:
		return day, day
	case by == ByMonth && postgres:
		column = "CAST(EXTRACT(EPOCH FROM date_trunc('month', to_timestamp(hour / 1000000) AT TIME ZONE 'UTC')) AS BIGINT) * 1000000"
		return column, column
	case by == ByMonth:
		column = "CAST(strftime('%s', hour / 1000000, 'unixepoch', 'start of month') AS INTEGER) * 1000000"
		return column, column
	case by == ByHour:
		return by, by
	case postgres:
		return by, by + ` COLLATE "C"`
	}
	return by, by
}

// Spent sums the cost, in nano-USD, of each caller since the beginning of the hour that
// from is in. With others it leaves out what this process itself has added: that is
// what somebody is to begin with who has counted all of that already.
//
// At most MaxUsageRows callers are returned, those that spent the most.
func (u *Usage) Spent(ctx context.Context, from time.Time, others bool) (map[string]int64, error) {
	if err := u.begin(ctx); err != nil {
		return nil, err
	}
	defer u.end()
	// What may or may not have been written would be in the sums and not among what
	// is known to be ours.
	if err := u.writeBatches(ctx); err != nil {
		return nil, err
	}
	spent := map[string]int64{}
	err := u.db.read(ctx, func(q querier) error {
		clear(spent)
		rows, err := q.QueryContext(ctx, `SELECT caller, CAST(SUM(cost) AS BIGINT) AS spent FROM weir_usage WHERE hour >= $1 AND cost > 0
			GROUP BY caller ORDER BY spent DESC LIMIT `+strconv.Itoa(MaxUsageRows), usageHour(from))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var caller string
			var cost int64
			if err := rows.Scan(&caller, &cost); err != nil {
				return err
			}
			spent[caller] = cost
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	if others {
		for key, cost := range u.own {
			if _, ok := spent[key.caller]; ok && key.hour >= usageHour(from) {
				spent[key.caller] -= cost
			}
		}
	}
	for caller, cost := range spent {
		if cost <= 0 {
			delete(spent, caller)
		}
	}
	return spent, nil
}

// Forget drops what Spent needs to leave out what this process has added: it takes
// memory. Call it when nobody will ask for that any more. It does not wait: while usage
// is being written, whoever writes does it.
func (u *Usage) Forget() {
	u.forgotten.Store(true)
	select {
	case <-u.writing:
		u.own = nil
		u.end()
	default:
	}
}
