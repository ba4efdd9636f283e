package gateway

import (
	"context"
	"database/sql"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/inferweir/weir/storetest"
)

// told is a log that says when a text comes.
type told struct {
	text string
	came chan struct{}
	once sync.Once
}

func (l *told) Write(p []byte) (int, error) {
	if strings.Contains(string(p), l.text) {
		l.once.Do(func() { close(l.came) })
	}
	return len(p), nil
}

func TestAStartWaitsForAnUpgradeOfTheTables(t *testing.T) {
	t.Parallel()
	url := storetest.Postgres(t).URL()
	other, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	upgrade, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := upgrade.ExecContext(t.Context(), "SELECT pg_advisory_xact_lock($1)", int64(0x7765697277656972)); err != nil {
		t.Fatal(err)
	}
	log := &told{text: "waits for another instance that changes the tables", came: make(chan struct{})}
	go func() {
		select {
		case <-log.came: // after ten seconds
		case <-t.Context().Done():
		}
		_ = upgrade.Rollback()
	}()
	g := gateways(t, 1, "database: {url: '"+url+"'}\n"+`
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, log)[0]
	if err := g.Database().Ping(context.Background()); err != nil {
		t.Error(err)
	}
	select {
	case <-log.came:
	default:
		t.Error("the log does not say what it waited for")
	}
}
