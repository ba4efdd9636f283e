package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/storetest"
)

var keyStart = time.Date(2030, 1, 31, 12, 0, 30, 0, time.UTC)

// keyClock is a clock that a test sets.
type keyClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *keyClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *keyClock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// keysOn are the keys of one more instance, which refreshes when the test does.
func keysOn(t *testing.T, db *DB, c *keyClock) *Keys {
	t.Helper()
	k := makeKeys(db)
	k.now = c.now
	refreshKeys(t, k)
	return k
}

func refreshKeys(t *testing.T, k *Keys) {
	t.Helper()
	if err := k.update(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func createKey(t *testing.T, k *Keys, n NewKey) (string, Key) {
	t.Helper()
	text, made, err := k.Create(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return text, made
}

// wantKey checks what Find says of a key: its caller and plan, or that there is none.
func wantKey(t *testing.T, k *Keys, text string, want auth.Key) {
	t.Helper()
	got, err := k.Find(auth.Digest(text))
	if err != nil || got != want {
		t.Errorf("found %+v, %v; want %+v", got, err, want)
	}
}

func wantNoKey(t *testing.T, k *Keys, text string) {
	t.Helper()
	if got, err := k.Find(auth.Digest(text)); !errors.Is(err, auth.ErrNoKey) {
		t.Errorf("found %+v, %v; want %v", got, err, auth.ErrNoKey)
	}
}

func wantKeyErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func wantKeyList(t *testing.T, k *Keys, caller string, want ...Key) {
	t.Helper()
	got, err := k.List(t.Context(), caller)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("list %+v, %v\nwant %+v", got, err, want)
	}
}

func TestKeys(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		db := openTest(t, Options{URL: url()})
		t.Run("are in force where they are made at once, elsewhere with the next refresh", func(t *testing.T) {
			c := &keyClock{t: keyStart}
			here, there := keysOn(t, db, c), keysOn(t, db, c)
			text, made := createKey(t, here, NewKey{Caller: "alice", Plan: "pro", By: "test"})
			want := Key{ID: text[5:15], Caller: "alice", Plan: "pro", Created: keyStart, CreatedBy: "test"}
			if made != want {
				t.Errorf("made %+v\nwant %+v", made, want)
			}
			wantKey(t, here, text, auth.Key{Caller: "alice", Plan: "pro"})
			wantNoKey(t, there, text)
			refreshKeys(t, there)
			wantKey(t, there, text, auth.Key{Caller: "alice", Plan: "pro"})

			c.forward(time.Hour)
			revoked, err := here.Revoke(t.Context(), made.ID, "test 2")
			want.Revoked, want.RevokedBy, want.LastUsed = keyStart.Add(time.Hour), "test 2", time.Time{}
			if err != nil || revoked != want {
				t.Errorf("revoked %+v, %v\nwant %+v", revoked, err, want)
			}
			wantNoKey(t, here, text)
			wantKey(t, there, text, auth.Key{Caller: "alice", Plan: "pro"})
			refreshKeys(t, there)
			wantNoKey(t, there, text)
		})
		t.Run("are as they were after a restart", func(t *testing.T) {
			c := &keyClock{t: keyStart}
			k := keysOn(t, db, c)
			live, _ := createKey(t, k, NewKey{Caller: "alice:admin", Plan: "a"})
			other, _ := createKey(t, k, NewKey{Caller: "alice:admin", Plan: "b"})
			gone, made := createKey(t, k, NewKey{Caller: "alice:admin"})
			_, err := k.Revoke(t.Context(), made.ID, "")
			wantKeyErr(t, err, nil)
			again := keysOn(t, db, c)
			wantKey(t, again, live, auth.Key{Caller: "alice:admin", Plan: "a"})
			wantKey(t, again, other, auth.Key{Caller: "alice:admin", Plan: "b"})
			wantNoKey(t, again, gone)
		})
		t.Run("expire by the clock, to the microsecond", func(t *testing.T) {
			c := &keyClock{t: keyStart}
			k := keysOn(t, db, c)
			text, _ := createKey(t, k, NewKey{Caller: "bob", Expires: keyStart.Add(time.Minute)})
			c.forward(time.Minute - time.Microsecond)
			wantKey(t, k, text, auth.Key{Caller: "bob"})
			c.forward(time.Microsecond)
			wantNoKey(t, k, text)
			c.forward(-time.Hour) // a clock that was set back
			wantKey(t, k, text, auth.Key{Caller: "bob"})
		})
		t.Run("cannot be revoked twice, or when they are not there", func(t *testing.T) {
			k := keysOn(t, db, &keyClock{t: keyStart})
			text, made := createKey(t, k, NewKey{Caller: "bob"})
			_, err := k.Revoke(t.Context(), made.ID, "")
			wantKeyErr(t, err, nil)
			_, err = k.Revoke(t.Context(), made.ID, "")
			wantKeyErr(t, err, ErrKeyRevoked)
			_, err = k.Revoke(t.Context(), "0000000000", "")
			wantKeyErr(t, err, ErrKeyUnknown)
			_, err = k.Revoke(t.Context(), text, "")
			wantKeyErr(t, err, ErrKeyUnknown)
			if strings.Contains(err.Error(), text) {
				t.Errorf("the error has the key: %v", err)
			}
		})
		t.Run("are nowhere in the database", func(t *testing.T) {
			k := keysOn(t, db, &keyClock{t: keyStart})
			text, made := createKey(t, k, NewKey{Caller: "carol"})
			row, err := dumpKey(db, made.ID)
			if err != nil || !strings.Contains(row, made.ID) || strings.Contains(row, text[16:59]) {
				t.Errorf("%v: the row is %q", err, row)
			}
		})
	})
}

// dumpKey is all that the database has of a key, as text.
func dumpKey(db *DB, id string) (string, error) {
	var all string
	ctx := context.Background()
	err := db.read(ctx, func(q querier) error {
		rows, err := queryKeys(ctx, q, " WHERE id = $1", id)
		all = fmt.Sprintf("%+v %q", rows, rows[0].digest[:])
		return err
	})
	return all, err
}

func TestKeyLists(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		db := openTest(t, Options{URL: url()})
		c := &keyClock{t: keyStart}
		k := keysOn(t, db, c)
		if got, err := k.List(t.Context(), ""); err != nil || len(got) != 0 {
			t.Errorf("an empty database has %v, %v", got, err)
		}
		_, first := createKey(t, k, NewKey{Caller: "alice", By: "x"})
		c.forward(time.Second)
		text, second := createKey(t, k, NewKey{Caller: "bob", Plan: "pro", Expires: keyStart.Add(time.Hour)})
		c.forward(time.Second)
		_, third := createKey(t, k, NewKey{Caller: "alice"})

		wantKeyList(t, k, "", third, second, first)
		wantKeyList(t, k, "alice", third, first)
		c.forward(40 * time.Second)
		if got, err := k.Look(auth.Digest(text)); err != nil || got != (auth.Key{Caller: "bob", Plan: "pro"}) {
			t.Errorf("looked up %+v, %v", got, err)
		}
		wantKeyList(t, k, "bob", second) // to look is not to use
		wantKey(t, k, text, auth.Key{Caller: "bob", Plan: "pro"})
		t.Run("say at once when a key was used here, to the minute, and elsewhere once it is written", func(t *testing.T) {
			used := second
			used.LastUsed = keyStart.Truncate(time.Minute).Add(time.Minute)
			wantKeyList(t, k, "bob", used)
			other := keysOn(t, db, c)
			wantKeyList(t, other, "bob", second)
			wantKeyErr(t, k.flushUses(t.Context()), nil)
			wantKeyList(t, other, "bob", used)
		})
		t.Run("show keys that are no longer valid", func(t *testing.T) {
			c.forward(2 * time.Hour)
			gone, err := k.Revoke(t.Context(), first.ID, "y")
			wantKeyErr(t, err, nil)
			wantKeyList(t, k, "alice", third, gone)
			list, err := k.List(t.Context(), "")
			wantKeyErr(t, err, nil)
			var states []string
			for _, key := range list {
				states = append(states, key.State(c.now()))
			}
			if want := []string{"live", "expired", "revoked"}; !reflect.DeepEqual(states, want) {
				t.Errorf("states %v, want %v", states, want)
			}
		})
	})
}

func TestRotate(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		db := openTest(t, Options{URL: url()})
		setUp := func(t *testing.T, expires time.Duration) (*keyClock, *Keys, string, Key) {
			c := &keyClock{t: keyStart}
			k := keysOn(t, db, c)
			n := NewKey{Caller: "alice", Plan: "pro", By: "x"}
			if expires > 0 {
				n.Expires = keyStart.Add(expires)
			}
			text, made := createKey(t, k, n)
			return c, k, text, made
		}
		find := func(t *testing.T, k *Keys, id string) Key {
			t.Helper()
			list, err := k.List(t.Context(), "alice")
			wantKeyErr(t, err, nil)
			for _, key := range list {
				if key.ID == id {
					return key
				}
			}
			t.Fatalf("no key %s", id)
			return Key{}
		}
		alice := auth.Key{Caller: "alice", Plan: "pro"}

		t.Run("leaves the old key valid for the grace", func(t *testing.T) {
			c, k, old, was := setUp(t, 0)
			other := keysOn(t, db, c)
			c.forward(time.Hour)
			next, made, err := k.Rotate(t.Context(), was.ID, time.Hour, "y")
			want := Key{ID: next[5:15], Caller: "alice", Plan: "pro", Created: keyStart.Add(time.Hour), CreatedBy: "y"}
			if err != nil || made != want {
				t.Errorf("made %+v, %v\nwant %+v", made, err, want)
			}
			refreshKeys(t, other)
			for _, k := range []*Keys{k, other} {
				wantKey(t, k, old, alice)
				wantKey(t, k, next, alice)
			}
			was.Expires, was.ReplacedBy = keyStart.Add(2*time.Hour), made.ID
			was.LastUsed = keyStart.Add(time.Hour).Truncate(time.Minute)
			if got := find(t, k, was.ID); got != was || got.State(c.now()) != "replaced" {
				t.Errorf("the old key is %+v\nwant %+v", got, was)
			}
			c.forward(time.Hour)
			for _, k := range []*Keys{k, other} {
				wantNoKey(t, k, old)
				wantKey(t, k, next, alice)
			}
		})
		t.Run("ends the old key at once without a grace", func(t *testing.T) {
			_, k, old, was := setUp(t, 0)
			next, _, err := k.Rotate(t.Context(), was.ID, 0, "")
			wantKeyErr(t, err, nil)
			wantNoKey(t, k, old)
			wantKey(t, k, next, alice)
		})
		t.Run("keeps the time to live, and does not prolong the old key", func(t *testing.T) {
			c, k, _, was := setUp(t, 90*time.Minute)
			c.forward(time.Hour)
			_, made, err := k.Rotate(t.Context(), was.ID, 24*time.Hour, "")
			wantKeyErr(t, err, nil)
			if want := keyStart.Add(150 * time.Minute); !made.Expires.Equal(want) {
				t.Errorf("the new key expires %v, want %v", made.Expires, want)
			}
			if got := find(t, k, was.ID); !got.Expires.Equal(was.Expires) {
				t.Errorf("the old key expires %v, want %v", got.Expires, was.Expires)
			}
		})
		t.Run("refuses a key that is revoked, expired, replaced or not there", func(t *testing.T) {
			c, k, _, was := setUp(t, time.Hour)
			_, next, err := k.Rotate(t.Context(), was.ID, time.Minute, "")
			wantKeyErr(t, err, nil)
			refused := func(id string, want error) {
				t.Helper()
				before, err := k.List(t.Context(), "")
				wantKeyErr(t, err, nil)
				text, made, err := k.Rotate(t.Context(), id, time.Minute, "")
				if text != "" || made != (Key{}) || !errors.Is(err, want) {
					t.Errorf("%q, %+v, %v; want %v", text, made, err, want)
				}
				wantKeyList(t, k, "", before...)
			}
			refused(was.ID, ErrKeyReplaced)
			c.forward(time.Hour)
			refused(was.ID, ErrKeyExpired)
			refused(next.ID, ErrKeyExpired)
			_, err = k.Revoke(t.Context(), next.ID, "")
			wantKeyErr(t, err, nil)
			refused(next.ID, ErrKeyRevoked)
			refused("zzzzzzzzzz", ErrKeyUnknown)
			refused("", ErrKeyUnknown)
		})
	})
}

func TestKeyMistakes(t *testing.T) {
	db := openTest(t, Options{URL: "sqlite:" + t.TempDir() + "/weir.db"})
	k := keysOn(t, db, &keyClock{t: keyStart})
	secret, made := createKey(t, k, NewKey{Caller: "alice"})
	wrong := func(err error, want string) {
		t.Helper()
		if m := (*KeyMistake)(nil); !errors.As(err, &m) || m.Error() != want {
			t.Errorf("error %v\nwant  %v", err, want)
		}
	}
	create := func(n NewKey, want string) {
		t.Helper()
		text, _, err := k.Create(t.Context(), n)
		if wrong(err, want); text != "" {
			t.Errorf("a key was made of %+v", n)
		}
	}
	create(NewKey{}, `caller: "": is empty: want 1 to 256 bytes of printable UTF-8`)
	create(NewKey{Caller: "a\x1b[31m"}, `caller: "a\x1b[31m": holds a character that is not printable: want 1 to 256 bytes of printable UTF-8`)
	create(NewKey{Caller: "key:alice"}, `caller: "key:alice": begins with key: as the ID of a caller does: want the name alone, for example "alice"`)
	create(NewKey{Caller: secret}, "caller: is a key: want the name of who is to bear it")
	create(NewKey{Caller: "a", Plan: "x\n"}, `plan: "x\n": want the name of a plan`)
	create(NewKey{Caller: "a", By: strings.Repeat("x", 257)}, `by: "`+strings.Repeat("x", 100)+`": want at most 256 bytes of printable UTF-8`)
	create(NewKey{Caller: "a", Expires: keyStart}, `expires: "2030-01-31T12:00:30Z": is in the past: want a time to come`)
	create(NewKey{Caller: "a", Expires: keyStart.AddDate(9000, 0, 0)}, `expires: "11030-01-31T12:00:30Z": want a year up to 9999, or none for a key that never expires`)
	_, err := k.Revoke(t.Context(), made.ID, "\xff")
	wrong(err, `by: "\xff": want at most 256 bytes of printable UTF-8`)
	for _, grace := range []time.Duration{-1, 366 * 24 * time.Hour} {
		_, _, err = k.Rotate(t.Context(), made.ID, grace, "")
		wrong(err, fmt.Sprintf(`grace: %q: want 0s to 365d`, grace))
	}
	wantKeyList(t, k, "", made)
}

// withinTwoSeconds waits until ok holds, for two seconds at most.
func withinTwoSeconds(t *testing.T, ok func() bool) {
	t.Helper()
	storetest.Eventually(t, 2*time.Second, "it is so", ok)
}

func TestKeyChangesReachOtherInstances(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		one := url()
		a, b := openTest(t, Options{URL: one}).Keys(), openTest(t, Options{URL: one}).Keys()
		found := func(k *Keys, text string) bool {
			_, err := k.Find(auth.Digest(text))
			return err == nil
		}
		withinTwoSeconds(t, func() bool { return a.Loaded() && b.Loaded() })
		made, key := createKey(t, a, NewKey{Caller: "alice"})
		withinTwoSeconds(t, func() bool { return found(b, made) })
		next, _, err := b.Rotate(t.Context(), key.ID, time.Hour, "")
		wantKeyErr(t, err, nil)
		withinTwoSeconds(t, func() bool { return found(a, next) })
		_, err = b.Revoke(t.Context(), key.ID, "")
		wantKeyErr(t, err, nil)
		if found(b, made) {
			t.Error("the instance that revoked the key takes it")
		}
		withinTwoSeconds(t, func() bool { return !found(a, made) })
	})
}

func TestUsesOfKeys(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		one := url()
		t.Run("are written when the database is closed", func(t *testing.T) {
			db, err := Open(t.Context(), Options{URL: one})
			wantKeyErr(t, err, nil)
			text, _ := createKey(t, db.Keys(), NewKey{Caller: "alice"})
			withinTwoSeconds(t, db.Keys().Loaded)
			before := time.Now().Truncate(time.Minute)
			wantKey(t, db.Keys(), text, auth.Key{Caller: "alice"})
			closeTest(t, db)
			list, err := openTest(t, Options{URL: one}).Keys().List(t.Context(), "alice")
			if err != nil || len(list) != 1 || list[0].LastUsed.Before(before) || list[0].LastUsed.After(time.Now()) {
				t.Errorf("list %+v, %v; want a use since %v", list, err, before)
			}
		})
		t.Run("are written for many keys in few statements, the latest time of each", func(t *testing.T) {
			db := openTest(t, Options{URL: one})
			c := &keyClock{t: keyStart}
			k := keysOn(t, db, c)
			const n = 2*usesPage + 3
			for i := range n {
				k.uses[fmt.Sprintf("unknown%03d", i)] = keyStart.Unix() / 60
			}
			text, made := createKey(t, k, NewKey{Caller: "bob"})
			wantKey(t, k, text, auth.Key{Caller: "bob"})
			wantKeyErr(t, k.flushUses(t.Context()), nil)
			c.forward(-time.Hour)
			k.uses[made.ID] = c.now().Unix() / 60
			wantKeyErr(t, k.flushUses(t.Context()), nil)
			c.forward(time.Hour)
			made.LastUsed = keyStart.Truncate(time.Minute)
			wantKeyList(t, k, "bob", made)
			if len(k.uses) > 0 {
				t.Errorf("%d uses are left", len(k.uses))
			}
		})
		t.Run("that could not be written are kept", func(t *testing.T) {
			db := openTest(t, Options{URL: one})
			c := &keyClock{t: keyStart}
			k := keysOn(t, db, c)
			text, made := createKey(t, k, NewKey{Caller: "carol"})
			wantKey(t, k, text, auth.Key{Caller: "carol"})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := k.flushUses(ctx); err == nil {
				t.Error("written with a context that is over")
			}
			wantKeyErr(t, k.flushUses(t.Context()), nil)
			made.LastUsed = keyStart.Truncate(time.Minute)
			wantKeyList(t, keysOn(t, db, c), "carol", made)
		})
	})
}

func TestKeysWhileTheDatabaseIsAway(t *testing.T) {
	server := storetest.Postgres(t)
	url := server.URL()
	db := openTest(t, Options{URL: url})
	text, made := createKey(t, db.Keys(), NewKey{Caller: "alice"})
	withinTwoSeconds(t, db.Keys().Loaded)
	server.Stop()
	late := openTest(t, Options{URL: url}).Keys()

	t.Run("go on as they are", func(t *testing.T) {
		_, err := db.Keys().Revoke(t.Context(), made.ID, "")
		wantKeyErr(t, err, ErrAway)
		wantKey(t, db.Keys(), text, auth.Key{Caller: "alice"})
		fresh, _ := auth.NewKey()
		wantNoKey(t, db.Keys(), fresh)
	})
	t.Run("are not unknown where they were never read", func(t *testing.T) {
		_, err := late.Find(auth.Digest(text))
		if wantKeyErr(t, err, ErrAway); errors.Is(err, auth.ErrNoKey) || late.Loaded() {
			t.Errorf("%v, loaded %t", err, late.Loaded())
		}
	})
	server.Start()
	t.Run("are read when it is back", func(t *testing.T) {
		storetest.Eventually(t, 30*time.Second, "they are read", late.Loaded)
		wantKey(t, late, text, auth.Key{Caller: "alice"})
	})
}

// keyLog gathers what is logged.
type keyLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *keyLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *keyLog) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func TestTooManyKeys(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		log := &keyLog{}
		db := openTest(t, Options{URL: url(), Log: slog.New(slog.NewTextHandler(log, nil))})
		c := &keyClock{t: keyStart}
		k := keysOn(t, db, c)
		var all []string
		for range 14 {
			text, _ := createKey(t, k, NewKey{Caller: "alice"})
			all = append(all, text)
		}
		check := func(t *testing.T, k *Keys, kept int) {
			t.Helper()
			for i, text := range all {
				if i < len(all)-kept {
					wantNoKey(t, k, text)
				} else {
					wantKey(t, k, text, auth.Key{Caller: "alice"})
				}
			}
		}
		few := makeKeys(db)
		few.now, few.most, few.page = c.now, 10, 4
		t.Run("leaves those in memory that were made last, and warns once", func(t *testing.T) {
			refreshKeys(t, few)
			check(t, few, 10)
			few.whole = time.Time{}
			refreshKeys(t, few)
			check(t, few, 10)
			if n := log.count("more keys are live than are kept in memory"); n != 1 {
				t.Errorf("%d warnings, want 1", n)
			}
		})
		t.Run("makes room for a new one", func(t *testing.T) {
			text, _ := createKey(t, few, NewKey{Caller: "alice"})
			all = append(all, text)
			refreshKeys(t, few)
			check(t, few, 10)
		})
		t.Run("has room again when some are revoked and expired", func(t *testing.T) {
			list, err := k.List(t.Context(), "")
			wantKeyErr(t, err, nil)
			for _, key := range list[:5] {
				_, err := k.Revoke(t.Context(), key.ID, "")
				wantKeyErr(t, err, nil)
			}
			all = nil
			few.whole = time.Time{}
			refreshKeys(t, few)
			if len(few.live) != 10 || few.full {
				t.Errorf("%d keys, full %t", len(few.live), few.full)
			}
		})
	})
}
