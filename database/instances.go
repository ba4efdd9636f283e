package database

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"time"
)

const (
	// beatEvery is how often an instance says that it lives, and counts the others.
	beatEvery = 5 * time.Second
	// beatsFor is how long one that says nothing counts as alive.
	beatsFor = 3 * beatEvery
)

// instances counts those who share the database, by what each writes into it.
type instances struct {
	db   *DB
	id   string
	live atomic.Int64
}

func newInstances(db *DB) *instances {
	i := &instances{db: db, id: rand.Text()}
	db.every(beatEvery, i.beat)
	db.atClose(i.leave)
	return i
}

// beat says that this instance lives, and counts. While the database is away the count
// stays: who shares it has not left for that.
func (i *instances) beat(ctx context.Context) {
	now := i.db.Now()
	var live int64
	err := i.db.write(ctx, func(q querier) error {
		if _, err := q.ExecContext(ctx, `INSERT INTO weir_instances (id, seen) VALUES ($1, $2)
			ON CONFLICT (id) DO UPDATE SET seen = excluded.seen`, i.id, now.UnixMicro()); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, "DELETE FROM weir_instances WHERE seen < $1", now.Add(-time.Hour).UnixMicro()); err != nil {
			return err
		}
		return q.QueryRowContext(ctx, "SELECT count(*) FROM weir_instances WHERE seen > $1", now.Add(-beatsFor).UnixMicro()).Scan(&live)
	})
	if err == nil {
		i.live.Store(live)
	}
}

// leave says that this instance is gone, so that the others need not wait to see it.
// That it could not be said is no error of Close: nothing is lost.
func (i *instances) leave(ctx context.Context) error {
	_ = i.db.write(ctx, func(q querier) error {
		_, err := q.ExecContext(ctx, "DELETE FROM weir_instances WHERE id = $1", i.id)
		return err
	})
	return nil
}

// Instances is how many instances share the database, this one included, where
// Options.Serves is set: those that have said that they live within 15 seconds. It is 0
// until that is known.
func (db *DB) Instances() int {
	if db.instances == nil {
		return 0
	}
	return int(db.instances.live.Load())
}
