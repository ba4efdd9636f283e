package database

import (
	"context"
	"errors"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/storetest"
)

// eachUsage runs f on both databases, with a ledger that writes only when it is told to.
func eachUsage(t *testing.T, f func(t *testing.T, u *Usage)) {
	t.Helper()
	run := func(name, url string) {
		t.Run(name, func(t *testing.T) {
			db, err := Open(t.Context(), Options{URL: url})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
			f(t, makeUsage(db))
		})
	}
	run("sqlite", "sqlite:"+filepath.Join(t.TempDir(), "weir.db"))
	run("postgres", shared().URL())
}

// yesterday is a time that no ledger is old enough to have forgotten: it is swept when
// it is opened.
func yesterday() time.Time { return time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour) }

// flaky is a database whose writes end as it is told.
type flaky struct {
	engine
	next error // of the next writes; nil: they succeed
	done bool  // what fails was written nevertheless
}

func (e *flaky) write(ctx context.Context, f func(querier) error) error {
	if e.next == nil || e.done {
		if err := e.engine.write(ctx, f); err != nil {
			return err
		}
	}
	return e.next
}

// ledgerOf is a ledger that writes to db when it is told to, and fails as told.
func ledgerOf(db *DB) (*Usage, *flaky) {
	e := &flaky{engine: db.engine}
	return makeUsage(&DB{engine: e, postgres: db.postgres, observe: func(Event) {}, log: db.log}), e
}

// failer is a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// table is all that the ledger has, by key.
func (u *Usage) table(t failer) map[usageKey]UsageCounts {
	t.Helper()
	report, err := u.Query(context.Background(), UsageFilter{By: []string{ByHour, ByCaller, ByRoute, ByModel}, Max: MaxUsageRows})
	if err != nil {
		t.Fatalf("%v", err)
	}
	rows, total := map[usageKey]UsageCounts{}, UsageCounts{}
	for _, r := range report.Rows {
		rows[usageKey{r.Time.UnixMicro(), r.Caller, r.Route, r.Model}] = r.UsageCounts
		total.add(r.UsageCounts)
	}
	if report.Total != total || report.Groups != int64(len(rows)) {
		t.Fatalf("%d groups with the total %+v: want %d, %+v", report.Groups, report.Total, len(rows), total)
	}
	return rows
}

func (u *Usage) mustFlush(t failer) {
	t.Helper()
	if err := u.Flush(context.Background()); err != nil {
		t.Fatalf("%v", err)
	}
}

func (u *Usage) mustExec(t failer, query string) {
	t.Helper()
	err := u.db.write(context.Background(), func(q querier) error {
		_, err := q.ExecContext(context.Background(), query)
		return err
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// usageModel is what a ledger should have.
type usageModel struct {
	u    *Usage
	e    *flaky
	want map[usageKey]UsageCounts
	own  map[string]int64
}

func (m *usageModel) add(t *rapid.T) {
	entry := Entry{
		Time:   yesterday().Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "half hours")) * 30 * time.Minute),
		Caller: rapid.SampledFrom([]string{"key:a", "key:b", "ip:1"}).Draw(t, "caller"),
		Route:  rapid.SampledFrom([]string{"x", "y"}).Draw(t, "route"),
		Model:  rapid.SampledFrom([]string{"", "m"}).Draw(t, "model"),
	}
	for _, n := range entry.all() {
		*n = rapid.Int64Range(0, 1000).Draw(t, "count")
	}
	m.u.Add(entry)
	key := usageKey{usageHour(entry.Time), entry.Caller, entry.Route, entry.Model}
	counts := m.want[key]
	counts.add(entry.UsageCounts)
	m.want[key] = counts
	if entry.Cost > 0 {
		m.own[entry.Caller] += entry.Cost
	}
}

// flush ends as it is drawn, and what is not known to be written is tried again.
func (m *usageModel) flush(t *rapid.T) {
	switch rapid.SampledFrom([]string{"written", "away", "unknown", "unknown but written"}).Draw(t, "outcome") {
	case "away":
		m.e.next = ErrAway
	case "unknown":
		m.e.next = ErrUnknown
	case "unknown but written":
		m.e.next, m.e.done = ErrUnknown, true
	}
	told := m.e.next
	due := len(m.u.pending)+len(m.u.batches) > 0
	err := m.u.Flush(context.Background())
	m.e.next, m.e.done = nil, false
	if due && !errors.Is(err, told) || !due && err != nil {
		t.Fatalf("flush: %v: want %v", err, told)
	}
	if err == nil {
		m.check(t)
	}
}

func (m *usageModel) check(t failer) {
	t.Helper()
	if got := m.u.table(t); !maps.Equal(got, m.want) {
		t.Fatalf("the ledger has\n%v: want\n%v", got, m.want)
	}
}

func (m *usageModel) spent(t *rapid.T) {
	if spent, err := m.u.Spent(context.Background(), yesterday(), true); err != nil || len(spent) > 0 {
		t.Fatalf("others spent %v, %v: there are none", spent, err)
	}
}

func TestUsageIsCountedOnceWhateverBecomesOfItsBatches(t *testing.T) {
	eachUsage(t, func(t *testing.T, u *Usage) {
		rapid.Check(t, func(t *rapid.T) {
			u.mustExec(t, "DELETE FROM weir_usage")
			m := &usageModel{want: map[usageKey]UsageCounts{}, own: map[string]int64{}}
			m.u, m.e = ledgerOf(u.db)
			t.Repeat(map[string]func(*rapid.T){"add": m.add, "flush": m.flush, "spent": m.spent})
			m.u.mustFlush(t)
			m.check(t)
			if spent, err := m.u.Spent(context.Background(), yesterday(), false); err != nil || !maps.Equal(spent, m.own) {
				t.Fatalf("spent %v, %v: want %v", spent, err, m.own)
			}
		})
	})
}

func TestUsageThatWaits(t *testing.T) {
	day := yesterday().UnixMicro()
	one := func(caller string, n int64) Entry {
		return Entry{Time: yesterday(), Caller: caller, Route: "r", Model: "m", UsageCounts: UsageCounts{Requests: n}}
	}
	eachUsage(t, func(t *testing.T, db *Usage) {
		t.Run("is all written when many add it at once, while it is written", func(t *testing.T) {
			u, _ := ledgerOf(db.db)
			u.mustExec(t, "DELETE FROM weir_usage")
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 500 {
						u.Add(one("key:a", 1))
					}
				})
			}
			for range 5 {
				u.mustFlush(t)
			}
			wg.Wait()
			u.mustFlush(t)
			if got, want := u.table(t), (map[usageKey]UsageCounts{{day, "key:a", "r", "m"}: {Requests: 4000}}); !maps.Equal(got, want) {
				t.Errorf("the ledger has %v: want %v", got, want)
			}
		})
		t.Run("is all written by two who write the same rows", func(t *testing.T) {
			u, _ := ledgerOf(db.db)
			u.mustExec(t, "DELETE FROM weir_usage")
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					other, _ := ledgerOf(db.db)
					for range 20 {
						for _, caller := range []string{"key:a", "key:b", "key:c"} {
							other.Add(one(caller, 1))
						}
						if err := other.Flush(context.Background()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			want := map[usageKey]UsageCounts{{day, "key:a", "r", "m"}: {Requests: 40}, {day, "key:b", "r", "m"}: {Requests: 40}, {day, "key:c", "r", "m"}: {Requests: 40}}
			if got := u.table(t); !maps.Equal(got, want) {
				t.Errorf("the ledger has %v: want %v", got, want)
			}
		})
		t.Run("is written in several batches where it is much", func(t *testing.T) {
			u, _ := ledgerOf(db.db)
			u.mustExec(t, "DELETE FROM weir_usage")
			const rows = usageBatchRows + usageStatementRows + 1
			for i := range rows {
				e := one("key:a", 1)
				e.Model = time.Duration(i).String()
				u.Add(e)
			}
			u.mustFlush(t)
			report, err := u.Query(t.Context(), UsageFilter{By: []string{ByModel}, Max: 1})
			if err != nil || report.Groups != rows || report.Total != (UsageCounts{Requests: rows}) {
				t.Errorf("the ledger has %d rows and %+v, %v: want %d of one request", report.Groups, report.Total, err, rows)
			}
		})
	})
	t.Run("is put together where there is no room for more, and no request is lost", func(t *testing.T) {
		u := makeUsage(nil)
		const more = 25_000
		for i := range maxUsageKeys + more {
			e := one("key:a", 1)
			e.Model = time.Duration(i).String()
			u.Add(e)
		}
		if got, want := u.Stats(), (UsageStats{Keys: maxUsageKeys + maxUsageModels + 1, Folded: more}); got != want {
			t.Errorf("it has %+v: want %+v", got, want)
		}
		requests := map[string]int64{}
		for key, counts := range u.pending {
			requests[key.caller] += counts.Requests
		}
		if want := map[string]int64{"key:a": maxUsageKeys, Others: more}; !maps.Equal(requests, want) {
			t.Errorf("the callers have %v requests: want %v", requests, want)
		}
		if got := u.pending[usageKey{day, Others, "r", Others}].Requests; got != more-maxUsageModels {
			t.Errorf("the last that there is room for has %d requests: want %d", got, more-maxUsageModels)
		}
	})
}

func TestUsageTakesWhateverItIsTold(t *testing.T) {
	eachUsage(t, func(t *testing.T, u *Usage) {
		t.Run("names that a database refuses", func(t *testing.T) {
			u.mustExec(t, "DELETE FROM weir_usage")
			for _, name := range []string{"a\x00b", "a\xffb", strings.Repeat("é", 300), "'; DROP TABLE usage; --", "\u2028"} {
				u.Add(Entry{Time: yesterday(), Caller: name, Route: name, Model: name, UsageCounts: UsageCounts{Requests: 1}})
			}
			u.mustFlush(t)
			got := slices.Sorted(maps.Keys(callers(u.table(t))))
			if want := []string{"'; DROP TABLE usage; --", "a\uFFFDb", strings.Repeat("é", 256), "\u2028"}; !slices.Equal(got, want) {
				t.Errorf("the callers are %q: want %q", got, want)
			}
		})
		t.Run("numbers that no model used", func(t *testing.T) {
			u.mustExec(t, "DELETE FROM weir_usage")
			for range 3 { // in memory
				u.Add(Entry{Time: yesterday(), UsageCounts: UsageCounts{Requests: 1, Input: math.MaxInt64, Output: math.MinInt64, Cost: maxUsage - 1}})
				u.mustFlush(t) // and in the table
			}
			want := map[usageKey]UsageCounts{{hour: yesterday().UnixMicro()}: {Requests: 3, Input: maxUsage, Cost: maxUsage}}
			if got := u.table(t); !maps.Equal(got, want) {
				t.Errorf("the ledger has %v: want %v", got, want)
			}
		})
	})
}

func TestUsageHour(t *testing.T) {
	for at, want := range map[time.Time]time.Time{
		time.Date(2026, 11, 22, 12, 59, 59, 999_999_999, time.UTC):               time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		time.Date(2026, 11, 22, 12, 0, 0, 0, time.FixedZone("IST", 5*3600+1800)): time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC),
		time.Date(1969, 12, 31, 22, 59, 59, 0, time.UTC):                         time.Date(1969, 12, 31, 22, 0, 0, 0, time.UTC),
	} {
		if got := time.UnixMicro(usageHour(at)); !got.Equal(want) {
			t.Errorf("%v is in the hour %v: want %v", at, got.UTC(), want)
		}
	}
}

func callers(rows map[usageKey]UsageCounts) map[string]bool {
	all := map[string]bool{}
	for key := range rows {
		all[key.caller] = true
	}
	return all
}

func TestUsageIsSwept(t *testing.T) {
	eachUsage(t, func(t *testing.T, u *Usage) {
		now := time.Now().UTC().Truncate(time.Hour)
		add := func(at time.Time) {
			u.Add(Entry{Time: at, Caller: "key:a", UsageCounts: UsageCounts{Requests: 1}})
			u.mustFlush(t)
		}
		add(now.Add(-usageKept - time.Hour))
		add(now.Add(-usageKept + time.Hour))
		add(now)
		u.mustExec(t, "UPDATE weir_usage_batches SET written = 0 WHERE id = (SELECT MIN(id) FROM weir_usage_batches)")
		u.sweep(t.Context())
		want := map[usageKey]UsageCounts{
			{hour: now.Add(-usageKept + time.Hour).UnixMicro(), caller: "key:a"}: {Requests: 1},
			{hour: now.UnixMicro(), caller: "key:a"}:                             {Requests: 1},
		}
		if got := u.table(t); !maps.Equal(got, want) {
			t.Errorf("the ledger has %v: want %v", got, want)
		}
		var batches int
		err := u.db.read(t.Context(), func(q querier) error {
			return q.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM weir_usage_batches").Scan(&batches)
		})
		if err != nil || batches != 2 {
			t.Errorf("%d batches are remembered, %v: want the 2 of this week", batches, err)
		}
	})
}

func TestSpentLeavesOutWhatThisProcessAdded(t *testing.T) {
	eachUsage(t, func(t *testing.T, db *Usage) {
		start := yesterday()
		add := func(u *Usage, at time.Time, caller string, cost int64) {
			u.Add(Entry{Time: at, Caller: caller, Route: "r", UsageCounts: UsageCounts{Cost: cost}})
		}
		before, _ := ledgerOf(db.db)
		add(before, start.Add(-time.Minute), "key:a", 1000) // the month before
		add(before, start, "key:a", 10)
		add(before, start.Add(40*time.Hour), "key:a", 20)
		add(before, start, "key:b", 5)
		before.mustFlush(t)

		u, e := ledgerOf(db.db)
		add(u, start.Add(50*time.Hour), "key:a", 7)
		u.mustFlush(t)
		add(u, start.Add(50*time.Hour), "key:b", 3)
		e.next, e.done = ErrUnknown, true
		if err := u.Flush(t.Context()); !errors.Is(err, ErrUnknown) {
			t.Fatalf("flush: %v", err)
		}
		if _, err := u.Spent(t.Context(), start, true); !errors.Is(err, ErrUnknown) {
			t.Errorf("spent while a batch is in doubt: %v: want %v", err, ErrUnknown)
		}
		e.next = nil
		add(u, start.Add(50*time.Hour), "key:c", 9) // waits
		wantSpent := func(others bool, want map[string]int64) {
			t.Helper()
			if got, err := u.Spent(t.Context(), start, others); err != nil || !maps.Equal(got, want) {
				t.Errorf("spent %v, %v: want %v", got, err, want)
			}
		}
		wantSpent(true, map[string]int64{"key:a": 30, "key:b": 5})
		wantSpent(false, map[string]int64{"key:a": 37, "key:b": 8})
		u.Forget()
		wantSpent(true, map[string]int64{"key:a": 37, "key:b": 8})
	})
}

func TestUsageQuery(t *testing.T) {
	now, paris := time.Now().UTC(), time.FixedZone("CET", 3600)
	first := func(month int) time.Time {
		return time.Date(now.Year(), now.Month()+time.Month(month), 1, 0, 0, 0, 0, time.UTC)
	}
	before, last, second := first(-2), first(-1), first(-1).AddDate(0, 0, 1) // the first of two months, and the second of the last
	entries := []Entry{
		{last.Add(-time.Second), "key:b", "chat", "m1", UsageCounts{Requests: 1, Input: 10, Cost: 1}},
		{last.Add(-30 * time.Minute).In(paris), "key:b", "chat", "m1", UsageCounts{Requests: 1, Input: 20, Cost: 2}}, // the month before, though it is the next in Paris
		{last, "key:B", "chat", "m2", UsageCounts{Requests: 1, Output: 5, Cost: 4, Cached: 1}},
		{last.Add(23 * time.Hour), "key:b", "embed", "", UsageCounts{Requests: 2, Refused: 1, Errors: 1}},
		{second.Add(5 * time.Hour), "ip:1", "chat", "m1", UsageCounts{Requests: 3, Hits: 3}},
	}
	total := UsageCounts{Requests: 8, Hits: 3, Refused: 1, Errors: 1, Input: 30, Cached: 1, Output: 5, Cost: 7}
	earlier := UsageCounts{Requests: 2, Input: 30, Cost: 3}
	later := UsageCounts{Requests: 6, Hits: 3, Refused: 1, Errors: 1, Cached: 1, Output: 5, Cost: 4}
	cases := map[string]struct {
		filter UsageFilter
		want   UsageReport
	}{
		"sums everything":                   {UsageFilter{}, UsageReport{[]UsageRow{{UsageCounts: total}}, total, 1}},
		"has no row where there is nothing": {UsageFilter{Caller: "key:x"}, UsageReport{}},
		"has months that begin in UTC": {UsageFilter{By: []string{ByMonth}}, UsageReport{[]UsageRow{
			{Time: before, UsageCounts: earlier}, {Time: last, UsageCounts: later},
		}, total, 2}},
		"has days that begin in UTC": {UsageFilter{By: []string{ByDay}, From: last}, UsageReport{[]UsageRow{
			{Time: last, UsageCounts: UsageCounts{Requests: 3, Refused: 1, Errors: 1, Cached: 1, Output: 5, Cost: 4}},
			{Time: second, UsageCounts: UsageCounts{Requests: 3, Hits: 3}},
		}, later, 2}},
		"begins with the whole hour of from, and ends before to": {
			UsageFilter{By: []string{ByHour}, From: last.Add(59 * time.Minute), To: last.Add(23 * time.Hour)},
			UsageReport{[]UsageRow{{Time: last, UsageCounts: entries[2].UsageCounts}}, entries[2].UsageCounts, 1},
		},
		"sorts by the bytes of names, in the order asked for": {UsageFilter{By: []string{ByRoute, ByCaller}}, UsageReport{[]UsageRow{
			{Route: "chat", Caller: "ip:1", UsageCounts: UsageCounts{Requests: 3, Hits: 3}},
			{Route: "chat", Caller: "key:B", UsageCounts: entries[2].UsageCounts},
			{Route: "chat", Caller: "key:b", UsageCounts: earlier},
			{Route: "embed", Caller: "key:b", UsageCounts: entries[3].UsageCounts},
		}, total, 4}},
		"cuts off the last, and sums them all the same": {UsageFilter{By: []string{ByCaller, ByMonth}, Max: 2}, UsageReport{[]UsageRow{
			{Caller: "ip:1", Time: last, UsageCounts: UsageCounts{Requests: 3, Hits: 3}},
			{Caller: "key:B", Time: last, UsageCounts: entries[2].UsageCounts},
		}, total, 4}},
		"has those that are asked for": {UsageFilter{Caller: "key:b", Route: "chat", Model: "m1", By: []string{ByModel}}, UsageReport{[]UsageRow{
			{Model: "m1", UsageCounts: earlier},
		}, earlier, 1}},
	}
	eachUsage(t, func(t *testing.T, u *Usage) {
		for _, e := range entries {
			u.Add(e)
		}
		u.mustFlush(t)
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				if got, err := u.Query(t.Context(), c.filter); err != nil || !reflect.DeepEqual(got, c.want) {
					t.Errorf("got  %+v, %v\nwant %+v", got, err, c.want)
				}
			})
		}
	})
}

func TestUsageQueryRefuses(t *testing.T) {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for want, f := range map[string]UsageFilter{
		`by: "week": want hour, day, month, caller, route, model`:             {By: []string{"week"}},
		`by: "caller": is there twice: want it once`:                          {By: []string{ByCaller, ByCaller}},
		`by: "day" and "hour": want one of hour, day and month`:               {By: []string{ByDay, ByCaller, ByHour}},
		`max: -1: want from 1 to 100000 rows`:                                 {Max: -1},
		`max: 100001: want from 1 to 100000 rows`:                             {Max: 100_001},
		`from: 2026-11-01T00:00:00Z: want it before to, 2026-11-01T00:00:00Z`: {From: at, To: at},
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := new(Usage).Query(t.Context(), f); err == nil || err.Error() != want {
				t.Errorf("got %v: want %s", err, want)
			}
		})
	}
}

func TestUsageOutlivesTheDatabase(t *testing.T) {
	entry := Entry{Time: yesterday(), Caller: "key:a", UsageCounts: UsageCounts{Requests: 1}}
	want := map[usageKey]UsageCounts{{hour: entry.Time.UnixMicro(), caller: "key:a"}: {Requests: 2}}
	t.Run("is written when the database is closed", func(t *testing.T) {
		url := "sqlite:" + filepath.Join(t.TempDir(), "weir.db")
		for range 2 {
			db, err := Open(t.Context(), Options{URL: url})
			if err != nil {
				t.Fatal(err)
			}
			db.Usage().Add(entry)
			if err := db.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		db, err := Open(t.Context(), Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(context.Background())
		if got := db.Usage().table(t); !maps.Equal(got, want) {
			t.Errorf("the ledger has %v: want %v", got, want)
		}
	})
	t.Run("waits for a server that is stopped", func(t *testing.T) {
		server := storetest.Postgres(t)
		db, err := Open(t.Context(), Options{URL: server.URL()})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close(context.Background())
		u := makeUsage(db)
		u.Add(entry)
		server.Stop()
		if err := u.Flush(t.Context()); !errors.Is(err, ErrAway) {
			t.Errorf("flush without a server: %v: want %v", err, ErrAway)
		}
		u.Add(entry)
		if got, want := u.Stats(), (UsageStats{Keys: 2}); got != want {
			t.Errorf("%+v waits: want %+v, of which one is in the batch that failed", got, want)
		}
		server.Start()
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for errors.Is(u.Flush(ctx), ErrAway) && ctx.Err() == nil {
			<-again.C
		}
		if got := u.table(t); !maps.Equal(got, want) {
			t.Errorf("the ledger has %v: want %v", got, want)
		}
		if got := u.Stats(); got != (UsageStats{}) {
			t.Errorf("%+v waits when all is written", got)
		}
	})
}
