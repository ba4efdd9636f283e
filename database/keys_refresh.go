package database

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// keysRefreshed is how often the database is asked whether keys have changed.
	keysRefreshed = time.Second
	// keysReloaded is how often all keys are read again: this lets go of those that
	// have expired, and finds what was changed by hand.
	keysReloaded = time.Hour
	// usesWritten is how often the uses of keys are written.
	usesWritten = 10 * time.Second
	// keyPage is how many keys are read at a time, and how many uses written.
	keyPage  = 5000
	usesPage = 500
)

// refresh brings what is in memory up to what the database has.
func (k *Keys) refresh(ctx context.Context) {
	if !k.updating.CompareAndSwap(false, true) {
		return
	}
	defer k.updating.Store(false)
	err := k.update(ctx)
	switch {
	case err == nil:
		k.failed = false
	case ctx.Err() != nil:
	default:
		k.whole = time.Time{} // it may come back as another one, or as one of before
		if !k.failed {
			k.db.log.Warn("the keys in the database cannot be read: those in memory go on", "error", err.Error())
		}
		k.failed = true
	}
}

func (k *Keys) update(ctx context.Context) error {
	var version int64
	err := k.db.look(ctx, func(q querier) error {
		return q.QueryRowContext(ctx, "SELECT version FROM weir_keys_version").Scan(&version)
	})
	if err != nil {
		return err
	}
	k.mu.RLock()
	seen, loaded := k.version, k.live != nil
	k.mu.RUnlock()
	restored := version < seen // from a copy, say
	if loaded && version > seen {
		if err := k.readChanges(ctx); err != nil {
			return err
		}
	}
	since := k.now().Sub(k.whole)
	if !loaded || restored || since < 0 || since > keysReloaded {
		return k.readAll(ctx, version, restored)
	}
	return nil
}

// readChanges puts in force what has changed, in order.
func (k *Keys) readChanges(ctx context.Context) error {
	k.mu.RLock()
	version := k.version
	k.mu.RUnlock()
	return k.changesAfter(ctx, version, func(rows []keyRow) {
		k.mu.Lock()
		for _, row := range rows {
			k.applyLocked(row)
		}
		k.seenLocked(rows[len(rows)-1].version)
		k.mu.Unlock()
		k.room(k.trim())
	})
}

func (k *Keys) changesAfter(ctx context.Context, version int64, apply func(rows []keyRow)) error {
	for more := true; more; {
		rows, err := k.readPage(ctx, " WHERE version > $1 ORDER BY version", version)
		if err != nil {
			return err
		}
		if more = len(rows) == k.page; len(rows) > 0 {
			version = rows[len(rows)-1].version
			apply(rows)
		}
	}
	return nil
}

// readAll reads the live keys that there are at version, from the newest on, a page at
// a time so that no statement takes long, and then what has changed meanwhile. While
// it reads, changes come into force as ever.
func (k *Keys) readAll(ctx context.Context, version int64, restored bool) error {
	now := k.now()
	live := map[[32]byte]*liveKey{}
	full := false
	for before, more := version+1, true; more && !full; {
		rows, err := k.readPage(ctx, " WHERE version < $1 AND revoked = 0 AND (expires = 0 OR expires > $2) ORDER BY version DESC", before, keyMicros(now))
		if err != nil {
			return err
		}
		more = len(rows) == k.page
		for _, row := range rows {
			before = row.version
			if full = len(live) == k.most; full {
				break
			}
			live[row.digest] = newLiveKey(row)
		}
		if k.Loaded() && !restored {
			if err := k.readChanges(ctx); err != nil {
				return err
			}
		}
	}
	err := k.changesAfter(ctx, version, func(rows []keyRow) {
		for _, row := range rows {
			apply(live, row)
		}
		version = rows[len(rows)-1].version
	})
	if err != nil {
		return err
	}
	k.replace(live, version, restored)
	k.whole = now
	k.room(full)
	return nil
}

func (k *Keys) readPage(ctx context.Context, suffix string, args ...any) (rows []keyRow, err error) {
	err = k.db.look(ctx, func(q querier) (err error) {
		rows, err = queryKeys(ctx, q, suffix+" LIMIT "+strconv.Itoa(k.page), args...)
		return err
	})
	return rows, err
}

// room says once when there are more keys than there is room for.
func (k *Keys) room(full bool) {
	if full && !k.full {
		k.db.log.Warn("more keys are live than are kept in memory: those that were made or changed longest ago are refused", "kept", k.most)
	}
	k.full = full
}

// writeUses writes when keys were last used.
func (k *Keys) writeUses(ctx context.Context) { _ = k.flushUses(ctx) } // it is tried again

// flushUses writes what writeUses does. What it could not write is kept for the next
// time.
func (k *Keys) flushUses(ctx context.Context) error {
	k.usesMu.Lock()
	uses := k.uses
	k.uses = map[string]int64{}
	k.usesMu.Unlock()
	ids := slices.SortedFunc(maps.Keys(uses), func(a, b string) int {
		return cmp.Or(cmp.Compare(uses[a], uses[b]), strings.Compare(a, b))
	})
	for len(ids) > 0 {
		// Those of one minute, which is written as one number.
		minute, n := uses[ids[0]], 0
		for n < min(len(ids), usesPage) && uses[ids[n]] == minute {
			n++
		}
		if err := k.writeMinute(ctx, minute, ids[:n]); err != nil {
			k.keepUses(uses, ids)
			return err
		}
		ids = ids[n:]
	}
	return nil
}

func (k *Keys) writeMinute(ctx context.Context, minute int64, ids []string) error {
	var statement strings.Builder
	statement.WriteString("UPDATE weir_keys SET last_used = $1 WHERE last_used < $2 AND id IN (")
	at := keyMicros(minuteTime(minute))
	args := []any{at, at}
	for i, id := range ids {
		if i > 0 {
			statement.WriteString(", ")
		}
		args = append(args, id)
		statement.WriteString("$" + strconv.Itoa(len(args)))
	}
	statement.WriteString(")")
	return k.db.write(ctx, func(q querier) error {
		_, err := q.ExecContext(ctx, statement.String(), args...)
		return err
	})
}

// keepUses puts back what was not written.
func (k *Keys) keepUses(uses map[string]int64, ids []string) {
	k.usesMu.Lock()
	defer k.usesMu.Unlock()
	for _, id := range ids {
		if len(k.uses) >= k.most {
			return
		}
		k.uses[id] = max(k.uses[id], uses[id])
	}
}
