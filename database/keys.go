package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/inferweir/weir/auth"
)

const (
	// maxLiveKeys is how many keys are kept in memory.
	maxLiveKeys = 1_000_000
	// maxKeyText bounds the plan and the author of a key, in bytes.
	maxKeyText = 256
	// maxGrace is the longest time for which a replaced key stays valid.
	maxGrace = 365 * 24 * time.Hour
)

// MaxListedKeys is how many keys List returns at most.
const MaxListedKeys = 10_000

// A change of a key that is not as it was taken to be.
var (
	// ErrKeyUnknown says that no key has the ID.
	ErrKeyUnknown = errors.New("there is no key with this ID")
	// ErrKeyRevoked says that the key is revoked already: it cannot be revoked again
	// or be replaced.
	ErrKeyRevoked = errors.New("the key is revoked already")
	// ErrKeyExpired says that a key to be replaced has expired: who needs one has to be
	// given a new one.
	ErrKeyExpired = errors.New("the key has expired")
	// ErrKeyReplaced says that a key to be replaced has a successor already.
	ErrKeyReplaced = errors.New("the key is replaced already")
)

// KeyMistake says what is wrong with a value for a key.
type KeyMistake struct {
	// Field is caller, plan, expires, grace or by; Value is what was given, and Want
	// what would be right.
	Field, Value, Want string
}

// Error names the field, the value unless it may be a key, and what would be right.
func (m *KeyMistake) Error() string {
	if strings.Contains(m.Value, auth.KeyPrefix) {
		return fmt.Sprintf("%s: %s", m.Field, m.Want)
	}
	return fmt.Sprintf("%s: %.100q: %s", m.Field, m.Value, m.Want)
}

// Key is what is known of a key: everything but the key. Times are UTC; the zero time
// is "never".
type Key struct {
	// ID is the 10 digits after weir_.
	ID string
	// Caller is whom it names: the weir.Caller's ID is "key:" and this. Plan is theirs
	// with this key, "" the default plan.
	Caller, Plan string
	Created      time.Time
	// CreatedBy is who made it, in the words of whoever asked.
	CreatedBy string
	// Expires is from when on it is not valid.
	Expires   time.Time
	Revoked   time.Time
	RevokedBy string
	// LastUsed is when it was last presented, to the minute. It is written every 10
	// seconds, and not at all by a process that is killed.
	LastUsed time.Time
	// ReplacedBy is the ID of its successor, "" for none.
	ReplacedBy string
}

// State is what can be done with the key at a time: "live" or, where it is live only
// until it Expires because it has a successor, "replaced"; "expired" or "revoked",
// which are both refused.
func (k Key) State(now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked"
	case !k.Expires.IsZero() && !now.Before(k.Expires):
		return "expired"
	case k.ReplacedBy != "":
		return "replaced"
	}
	return "live"
}

// NewKey says which key Create makes.
type NewKey struct {
	// Caller is whom it names, as in auth.Key, without the kind of an ID ("key:").
	Caller string
	// Plan is the plan of who bears it, "" the default plan. Whether there is such a
	// plan is for the caller of Create to know.
	Plan string
	// Expires is from when on it is not valid: in the future, or the zero time for
	// never.
	Expires time.Time
	// By is who makes it.
	By string
}

// Keys are the API keys that the database keeps. A change is in force at this instance
// when the call returns, and within 2 seconds at all others.
//
// All live keys are in memory, about 300 bytes each, so that no request waits for the
// database. Beyond 1,000,000 of them it is the most recently made or changed ones, and
// the log warns. While the database is away, the keys in memory go on.
type Keys struct {
	db  *DB
	now func() time.Time
	// most is maxLiveKeys and page keyPage but in tests.
	most, page int

	updating atomic.Bool // there is one refresh at a time, which alone has:
	full     bool        // more keys are live than there is room for: said already
	failed   bool        // the last refresh failed: said already
	whole    time.Time   // when all keys were last loaded; zero: they have to be

	mu sync.RWMutex // guards what follows; never held during I/O
	// live is nil until it is loaded once; then first is closed.
	live  map[[32]byte]*liveKey
	first chan struct{}
	// version is the one that live has seen: every change up to it.
	version int64
	// recent are the changes that were made here, by ID, and that version has not
	// reached: a refresh that read the database before them must not undo them.
	recent map[string]keyRow

	usesMu sync.Mutex
	uses   map[string]int64 // by ID: the minute of the last use, not yet written
}

func makeKeys(db *DB) *Keys {
	return &Keys{db: db, now: db.Now, most: maxLiveKeys, page: keyPage, first: make(chan struct{}), recent: map[string]keyRow{}, uses: map[string]int64{}}
}

// newKeys is called before db starts its goroutines.
func newKeys(db *DB) *Keys {
	k := makeKeys(db)
	db.every(keysRefreshed, k.refresh)
	db.every(usesWritten, k.writeUses)
	db.atClose(k.flushUses)
	return k
}

// Now is the time by which keys expire: that of the database, see DB.Now.
func (k *Keys) Now() time.Time { return k.now() }

// keyRow is a key as the database has it.
type keyRow struct {
	Key
	digest  [32]byte
	version int64
}

const keyColumns = "id, digest, caller, plan, created, created_by, expires, revoked, revoked_by, last_used, replaced_by, version"

// scanKey reads a row of keyColumns.
func scanKey(row interface{ Scan(...any) error }) (k keyRow, err error) {
	var digest []byte
	var created, expires, revoked, used int64
	err = row.Scan(&k.ID, &digest, &k.Caller, &k.Plan, &created, &k.CreatedBy, &expires, &revoked, &k.RevokedBy, &used, &k.ReplacedBy, &k.version)
	if err == nil && copy(k.digest[:], digest) != len(k.digest) {
		err = fmt.Errorf("weir_keys: %q: the digest has %d bytes: want %d", k.ID, len(digest), len(k.digest))
	}
	k.Created, k.Expires, k.Revoked, k.LastUsed = keyTime(created), keyTime(expires), keyTime(revoked), keyTime(used)
	return k, err
}

func keyTime(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

func keyMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Create makes a key. text is the key, which is kept nowhere: it is returned this
// once. The error is a *KeyMistake where n is wrong. After an error that wraps ErrAway
// the key may be there all the same: then nobody has it, and List shows it.
func (k *Keys) Create(ctx context.Context, n NewKey) (text string, made Key, err error) {
	now := k.now()
	if err := n.check(now); err != nil {
		return "", Key{}, err
	}
	text, row := newKeyRow(n, now)
	err = k.db.write(ctx, func(q querier) error {
		version, err := nextKeyVersion(ctx, q)
		if err != nil {
			return err
		}
		row.version = version
		return insertKey(ctx, q, row)
	})
	if err != nil {
		return "", Key{}, fmt.Errorf("make a key: %w", err)
	}
	k.changed(row)
	return text, row.Key, nil
}

func newKeyRow(n NewKey, now time.Time) (text string, row keyRow) {
	text, id := auth.NewKey()
	return text, keyRow{digest: auth.Digest(text), Key: Key{
		ID: id, Caller: n.Caller, Plan: n.Plan, CreatedBy: n.By,
		Created: keyTime(keyMicros(now)), Expires: keyTime(keyMicros(n.Expires)),
	}}
}

func (n NewKey) check(now time.Time) error {
	if err := auth.CheckCaller(n.Caller); err != nil {
		return &KeyMistake{"caller", n.Caller, err.Error()}
	}
	if !isKeyText(n.Plan) {
		return &KeyMistake{"plan", n.Plan, "want the name of a plan"}
	}
	if err := checkBy(n.By); err != nil {
		return err
	}
	switch value := n.Expires.UTC().Format(time.RFC3339); {
	case n.Expires.IsZero():
	case !n.Expires.After(now):
		return &KeyMistake{"expires", value, "is in the past: want a time to come"}
	case n.Expires.Year() > 9999:
		return &KeyMistake{"expires", value, "want a year up to 9999, or none for a key that never expires"}
	}
	return nil
}

func checkBy(by string) error {
	if !isKeyText(by) {
		return &KeyMistake{"by", by, fmt.Sprintf("want at most %d bytes of printable UTF-8", maxKeyText)}
	}
	return nil
}

// checkChange refuses what is no ID, and so keeps a key that is taken for one out of
// messages.
func checkChange(id, by string) error {
	if !auth.IsKeyID(id) {
		return ErrKeyUnknown
	}
	return checkBy(by)
}

func isKeyText(s string) bool {
	if len(s) > maxKeyText || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// nextKeyVersion must come first in a transaction that changes keys: from then on no
// other does. So versions become visible in their order.
func nextKeyVersion(ctx context.Context, q querier) (version int64, err error) {
	err = q.QueryRowContext(ctx, "UPDATE weir_keys_version SET version = version + 1 RETURNING version").Scan(&version)
	return version, err
}

func insertKey(ctx context.Context, q querier, k keyRow) error {
	_, err := q.ExecContext(ctx, "INSERT INTO weir_keys ("+keyColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
		k.ID, k.digest[:], k.Caller, k.Plan, keyMicros(k.Created), k.CreatedBy, keyMicros(k.Expires),
		keyMicros(k.Revoked), k.RevokedBy, keyMicros(k.LastUsed), k.ReplacedBy, k.version)
	return err
}

// getKey returns the key with an ID, or ErrKeyUnknown.
func getKey(ctx context.Context, q querier, id string) (keyRow, error) {
	k, err := scanKey(q.QueryRowContext(ctx, "SELECT "+keyColumns+" FROM weir_keys WHERE id = $1", id))
	if errors.Is(err, sql.ErrNoRows) {
		return keyRow{}, ErrKeyUnknown
	}
	return k, err
}

// List returns the keys of a caller, or with "" all: the newest first, those that are
// revoked or expired too, and at most 10,000.
func (k *Keys) List(ctx context.Context, caller string) ([]Key, error) {
	where, args := "", []any{}
	if caller != "" {
		where, args = " WHERE caller = $1", []any{caller}
	}
	var rows []keyRow
	err := k.db.read(ctx, func(q querier) (err error) {
		rows, err = queryKeys(ctx, q, where+" ORDER BY created DESC, id LIMIT "+strconv.Itoa(MaxListedKeys), args...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	list := make([]Key, len(rows))
	k.usesMu.Lock()
	defer k.usesMu.Unlock()
	for i, row := range rows {
		list[i] = row.Key
		if used := minuteTime(k.uses[row.ID]); used.After(row.LastUsed) {
			list[i].LastUsed = used
		}
	}
	return list, nil
}

// queryKeys reads the rows of keyColumns that suffix, which is constant, asks for.
func queryKeys(ctx context.Context, q querier, suffix string, args ...any) (list []keyRow, err error) {
	rows, err := q.QueryContext(ctx, "SELECT "+keyColumns+" FROM weir_keys"+suffix, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		k, err := scanKey(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, rows.Err()
}

// Revoke makes a key invalid for good, and returns what is known of it. The error is
// ErrKeyUnknown or ErrKeyRevoked, a *KeyMistake where by is wrong, or the database's.
func (k *Keys) Revoke(ctx context.Context, id, by string) (Key, error) {
	if err := checkChange(id, by); err != nil {
		return Key{}, err
	}
	now := k.now()
	var row keyRow
	err := k.db.write(ctx, func(q querier) error {
		version, err := nextKeyVersion(ctx, q)
		if err != nil {
			return err
		}
		if row, err = getKey(ctx, q, id); err != nil {
			return err
		}
		if !row.Revoked.IsZero() {
			return ErrKeyRevoked
		}
		row.Revoked, row.RevokedBy, row.version = keyTime(keyMicros(now)), by, version
		_, err = q.ExecContext(ctx, "UPDATE weir_keys SET revoked = $1, revoked_by = $2, version = $3 WHERE id = $4",
			keyMicros(row.Revoked), by, version, id)
		return err
	})
	if errors.Is(err, ErrKeyRevoked) {
		k.changed(row) // by another instance: who is told so is not to find it valid here
	}
	if err != nil {
		return Key{}, fmt.Errorf("revoke key %s: %w", id, err)
	}
	k.changed(row)
	return row.Key, nil
}

// Rotate makes a key for the same caller and plan, and with the same time to live from
// now on, as the one with the ID has. That expires after grace, unless it does so
// earlier; with 0 at once. text is the new key, as in Create, and made what is known
// of it. The error is ErrKeyUnknown, ErrKeyRevoked, ErrKeyExpired or ErrKeyReplaced, a
// *KeyMistake where grace or by is wrong, or the database's.
func (k *Keys) Rotate(ctx context.Context, id string, grace time.Duration, by string) (text string, made Key, err error) {
	if grace < 0 || grace > maxGrace {
		return "", Key{}, &KeyMistake{"grace", grace.String(), "want 0s to 365d"}
	}
	if err := checkChange(id, by); err != nil {
		return "", Key{}, err
	}
	now := k.now()
	var old, next keyRow
	err = k.db.write(ctx, func(q querier) (err error) {
		if old, err = replaceable(ctx, q, id, now); err != nil {
			return err
		}
		n := NewKey{Caller: old.Caller, Plan: old.Plan, By: by}
		if !old.Expires.IsZero() {
			n.Expires = now.Add(old.Expires.Sub(old.Created))
		}
		text, next = newKeyRow(n, now)
		if next.version, err = nextKeyVersion(ctx, q); err != nil {
			return err
		}
		if end := keyTime(keyMicros(now.Add(grace))); old.Expires.IsZero() || end.Before(old.Expires) {
			old.Expires = end
		}
		old.ReplacedBy = next.ID
		if _, err := q.ExecContext(ctx, "UPDATE weir_keys SET expires = $1, replaced_by = $2, version = $3 WHERE id = $4",
			keyMicros(old.Expires), old.ReplacedBy, old.version, id); err != nil {
			return err
		}
		return insertKey(ctx, q, next)
	})
	if err != nil {
		return "", Key{}, fmt.Errorf("rotate key %s: %w", id, err)
	}
	k.changed(old, next)
	return text, next.Key, nil
}

// replaceable returns the key that is to be replaced, with its next version.
func replaceable(ctx context.Context, q querier, id string, now time.Time) (keyRow, error) {
	version, err := nextKeyVersion(ctx, q)
	if err != nil {
		return keyRow{}, err
	}
	row, err := getKey(ctx, q, id)
	if err != nil {
		return keyRow{}, err
	}
	row.version = version
	switch row.State(now) {
	case "revoked":
		return keyRow{}, ErrKeyRevoked
	case "expired":
		return keyRow{}, ErrKeyExpired
	case "replaced":
		return keyRow{}, fmt.Errorf("%w, by %s", ErrKeyReplaced, row.ReplacedBy)
	}
	return row, nil
}
