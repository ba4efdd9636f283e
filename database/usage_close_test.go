package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

func TestUsageAtTheEnd(t *testing.T) {
	var log lines
	db := openTest(t, Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db"), Log: slog.New(slog.NewTextHandler(&log, nil))})
	t.Run("says what is lost", func(t *testing.T) {
		u, e := ledgerOf(db)
		e.next = errors.New("no space left")
		u.Add(Entry{Time: yesterday(), Caller: "a", UsageCounts: UsageCounts{Requests: 1, Cost: 1_500_000_000}})
		if err := u.Flush(t.Context()); err != e.next { // it is a batch from now on
			t.Fatal(err)
		}
		u.Add(Entry{Time: yesterday(), Caller: "b", UsageCounts: UsageCounts{Requests: 1, Cost: 7}})
		if err := u.close(t.Context()); err != e.next {
			t.Error(err)
		}
		if n := log.count(`level=ERROR msg="usage is lost: it could not be written before the end" rows=2 cost_usd=1.500000007 error="no space left"`); n != 1 {
			t.Errorf("said %d times: %s", n, log.b.String())
		}
	})
	t.Run("is tried again for a database that comes back", func(t *testing.T) {
		u, e := ledgerOf(db)
		u.db.engine = &returning{e, 2}
		u.Add(Entry{Time: yesterday(), Caller: "c", UsageCounts: UsageCounts{Requests: 1}})
		if err := u.close(t.Context()); err != nil || !callers(u.table(t))["c"] {
			t.Errorf("%v, the ledger has %v", err, u.table(t))
		}
	})
	t.Run("of a server that is away waits no longer than it may", func(t *testing.T) {
		s := storetest.Postgres(t)
		db, err := Open(t.Context(), Options{URL: s.URL(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		s.Pause()
		defer s.Resume()
		db.Usage().Add(Entry{Time: yesterday(), Caller: "lost", UsageCounts: UsageCounts{Requests: 1, Cost: 3}})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		watch := storetest.Stopwatch()
		err = db.Close(ctx)
		if took := watch(); err == nil || took > 6*time.Second || log.count("rows=1 cost_usd=0.000000003") != 1 {
			t.Errorf("%v after %v; the log: %s", err, took, log.b.String())
		}
	})
}

// returning is a database that is away for some writes.
type returning struct {
	*flaky
	away int
}

func (e *returning) write(ctx context.Context, f func(querier) error) error {
	if e.away--; e.away >= 0 {
		return ErrAway
	}
	return e.flaky.write(ctx, f)
}

func TestAWriterThatHasNothingToWriteLosesNothing(t *testing.T) {
	db, err := Open(t.Context(), Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db")})
	if err != nil {
		t.Fatal(err)
	}
	db.cancel()
	db.wg.Wait()
	ended, end := context.WithCancel(t.Context())
	end()
	if err := db.engine.close(ended); err != nil {
		t.Errorf("got %v: nothing is lost", err)
	}
}

func TestForgetDoesNotWait(t *testing.T) {
	u := makeUsage(&DB{observe: func(Event) {}})
	if err := u.begin(t.Context()); err != nil { // a flush that waits for a lock in the database
		t.Fatal(err)
	}
	u.Forget()
	u.written(&usageBatch{rows: []usageRow{{usageKey{caller: "a"}, UsageCounts{Cost: 1}}}})
	u.end()
	if u.own != nil {
		t.Errorf("it remembers %v", u.own)
	}
}

func TestUsageOfLongCallers(t *testing.T) {
	u := makeUsage(&DB{observe: func(Event) {}})
	for _, caller := range []string{"header:" + strings.Repeat("a", 255) + "1", "header:" + strings.Repeat("a", 255) + "2"} {
		u.Add(Entry{Time: yesterday(), Caller: caller, UsageCounts: UsageCounts{Cost: 1}})
		if _, ok := u.pending[usageKey{hour: usageHour(yesterday()), caller: caller}]; !ok {
			t.Errorf("%s is not in the ledger", caller)
		}
	}
	if len(u.pending) != 2 {
		t.Errorf("%d rows for two callers", len(u.pending))
	}
}

func TestUsageLeavesOthersTimeToWrite(t *testing.T) {
	sizes := map[string][]int{}
	both(t, func(t *testing.T, url func() string) {
		u, _ := ledgerOf(openTest(t, Options{URL: url()}))
		for i := range 1200 {
			u.Add(Entry{Time: yesterday(), Caller: fmt.Sprint(i), UsageCounts: UsageCounts{Requests: 1}})
		}
		for _, b := range u.drain() {
			sizes[t.Name()] = append(sizes[t.Name()], len(b.rows))
		}
	})
	if got, want := fmt.Sprint(sizes), fmt.Sprint(map[string][]int{t.Name() + "/SQLite": {500, 500, 200}, t.Name() + "/PostgreSQL": {1200}}); got != want {
		t.Errorf("the batches have %s rows: want %s", got, want)
	}
}
