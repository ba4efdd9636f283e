package database

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/auth"
)

// TestKeysOfAnyHistory makes, revokes and replaces keys at three instances, which
// refresh when they like and whose pages are small, and compares them with what must
// be so.
func TestKeysOfAnyHistory(t *testing.T) {
	db := openTest(t, Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db")})
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		err := db.write(ctx, func(q querier) error {
			_, err := q.ExecContext(ctx, "DELETE FROM weir_keys")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		c := &keyClock{t: keyStart}
		h := &keyHistory{t: t, c: c}
		for range 3 {
			k := makeKeys(db)
			k.now, k.page = c.now, rapid.IntRange(1, 3).Draw(t, "page")
			h.instances = append(h.instances, k)
			h.refresh(k)
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			h.step(h.instances[rapid.IntRange(0, 2).Draw(t, "instance")])
		}
		for _, k := range h.instances {
			h.refresh(k)
			h.check(k)
		}
	})
}

// keyHistory is what a test did, and so what must hold.
type keyHistory struct {
	t         *rapid.T
	c         *keyClock
	instances []*Keys
	keys      []*keyFate
}

// keyFate is what must be so of one key.
type keyFate struct {
	text, id          string
	key               auth.Key
	expires           time.Time
	revoked, replaced bool
}

func (h *keyHistory) refresh(k *Keys) {
	if err := k.update(context.Background()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *keyHistory) live(f *keyFate) bool {
	return !f.revoked && (f.expires.IsZero() || h.c.now().Before(f.expires))
}

func (h *keyHistory) check(k *Keys) {
	for _, f := range h.keys {
		got, err := k.Find(auth.Digest(f.text))
		if h.live(f) && (err != nil || got != f.key) {
			h.t.Fatalf("key %s: %+v, %v; want %+v", f.id, got, err, f.key)
		}
		if !h.live(f) && !errors.Is(err, auth.ErrNoKey) {
			h.t.Fatalf("key %s: %+v, %v; want %v", f.id, got, err, auth.ErrNoKey)
		}
	}
}

// step does something at an instance, which must know of it at once, whatever it has
// missed of the others.
func (h *keyHistory) step(k *Keys) {
	ctx := context.Background()
	action := rapid.SampledFrom([]string{"create", "create", "revoke", "rotate", "refresh", "reload", "wait"}).Draw(h.t, "action")
	var f *keyFate
	if len(h.keys) > 0 {
		f = rapid.SampledFrom(h.keys).Draw(h.t, "key")
	} else if action == "revoke" || action == "rotate" {
		return
	}
	switch action {
	case "create":
		made := &keyFate{key: auth.Key{Caller: "alice", Plan: fmt.Sprint(len(h.keys))}}
		if rapid.Bool().Draw(h.t, "expires") {
			made.expires = h.c.now().Add(time.Minute)
		}
		h.create(k, made)
	case "revoke":
		_, err := k.Revoke(ctx, f.id, "")
		if f.revoked != errors.Is(err, ErrKeyRevoked) || !f.revoked && err != nil {
			h.t.Fatalf("revoke: %v; revoked before: %t", err, f.revoked)
		}
		f.revoked = true
		if _, err := k.Find(auth.Digest(f.text)); !errors.Is(err, auth.ErrNoKey) {
			h.t.Fatalf("revoked here: %v", err)
		}
	case "rotate":
		h.rotate(k, f)
	case "refresh":
		h.refresh(k)
		h.check(k)
	case "reload":
		k.whole = time.Time{}
		h.refresh(k)
		h.check(k)
	case "wait":
		h.c.forward(30 * time.Second)
	}
}

func (h *keyHistory) create(k *Keys, made *keyFate) {
	text, key, err := k.Create(context.Background(), NewKey{Caller: made.key.Caller, Plan: made.key.Plan, Expires: made.expires})
	if err != nil {
		h.t.Fatal(err)
	}
	made.text, made.id = text, key.ID
	h.keys = append(h.keys, made)
	if got, err := k.Find(auth.Digest(text)); err != nil || got != made.key {
		h.t.Fatalf("made here: %+v, %v", got, err)
	}
}

func (h *keyHistory) rotate(k *Keys, f *keyFate) {
	grace := time.Duration(rapid.IntRange(0, 1).Draw(h.t, "grace")) * time.Minute
	live, now := h.live(f), h.c.now()
	text, made, err := k.Rotate(context.Background(), f.id, grace, "")
	if may := live && !f.replaced; may != (err == nil) {
		h.t.Fatalf("rotate: %v; live %t, replaced %t", err, live, f.replaced)
	}
	if err != nil {
		return
	}
	h.keys = append(h.keys, &keyFate{text: text, id: made.ID, key: f.key, expires: made.Expires})
	f.replaced = true
	if end := now.Add(grace); f.expires.IsZero() || end.Before(f.expires) {
		f.expires = end
	}
}

// TestKeysThatChangeWhileTheyAreRead replaces a key again and again while an instance
// reads all keys, in small pages: at no moment is a valid key refused.
func TestKeysThatChangeWhileTheyAreRead(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		db := openTest(t, Options{URL: url()})
		c := &keyClock{t: keyStart}
		reader, writer := keysOn(t, db, c), keysOn(t, db, c)
		reader.page = 2
		stable, _ := createKey(t, writer, NewKey{Caller: "stable"})
		var current atomic.Pointer[string]
		text, made := createKey(t, writer, NewKey{Caller: "alice"})
		first := text
		current.Store(&first)
		refreshKeys(t, reader)

		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				reader.whole = time.Time{}
				reader.refresh(t.Context())
			}
		})
		wg.Go(func() {
			for !stop.Load() {
				wantKey(t, reader, stable, auth.Key{Caller: "stable"})
				wantKey(t, writer, *current.Load(), auth.Key{Caller: "alice"})
			}
		})
		for range 60 {
			next, key, err := writer.Rotate(t.Context(), made.ID, time.Hour, "")
			if err != nil {
				t.Error(err)
				break
			}
			current.Store(&next)
			text, made = next, key
			// The reader makes and revokes too, and must not forget that it did.
			gone, own := createKey(t, reader, NewKey{Caller: "bob"})
			wantKey(t, reader, gone, auth.Key{Caller: "bob"})
			_, err = reader.Revoke(t.Context(), own.ID, "")
			wantKeyErr(t, err, nil)
			for range 20 {
				wantNoKey(t, reader, gone)
			}
		}
		stop.Store(true)
		wg.Wait()
		refreshKeys(t, reader)
		wantKey(t, reader, text, auth.Key{Caller: "alice"})
		if n := len(reader.recent); n > 0 {
			t.Errorf("%d changes are remembered for ever", n)
		}
	})
}

func TestKeysOfARestoredDatabase(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		db := openTest(t, Options{URL: url()})
		c := &keyClock{t: keyStart}
		k := keysOn(t, db, c)
		kept, _ := createKey(t, k, NewKey{Caller: "alice"})
		lost, made := createKey(t, k, NewKey{Caller: "bob"})
		ctx := t.Context()
		err := db.write(ctx, func(q querier) error {
			if _, err := q.ExecContext(ctx, "DELETE FROM weir_keys WHERE id = $1", made.ID); err != nil {
				return err
			}
			_, err := q.ExecContext(ctx, "UPDATE weir_keys_version SET version = 1")
			return err
		})
		wantKeyErr(t, err, nil)
		k.version = 2 // as after a refresh
		refreshKeys(t, k)
		wantKey(t, k, kept, auth.Key{Caller: "alice"})
		wantNoKey(t, k, lost)
	})
}

func BenchmarkKeysFind(b *testing.B) {
	const n = 100_000
	k := &Keys{now: time.Now, most: maxLiveKeys, live: map[[32]byte]*liveKey{}, uses: map[string]int64{}}
	digests := make([][32]byte, n)
	for i := range digests {
		id := fmt.Sprintf("%010d", i)
		digests[i] = auth.Digest(id)
		apply(k.live, keyRow{Key: Key{ID: id, Caller: "caller " + id, Plan: "pro"}, digest: digests[i], version: 1})
	}
	b.Run("one after the other", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := k.Find(digests[i%1000]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("at the same time", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, err := k.Find(digests[i%1000]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
