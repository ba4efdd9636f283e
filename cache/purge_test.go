package cache_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

// newPurges makes one that the test closes.
func newPurges(t testing.TB, o cache.PurgeOptions) *cache.Purges {
	t.Helper()
	p, err := cache.NewPurges(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func purge(t testing.TB, p *cache.Purges, labels ...string) {
	t.Helper()
	if _, err := p.Purge(context.Background(), labels...); err != nil {
		t.Fatal(err)
	}
}

func purgeKey(s string) cache.Key {
	k := cache.NewKeyHash()
	k.Add(s)
	return k.Sum()
}

// put stores an answer that was asked for at epoch.
func put(t testing.TB, s cache.Store, name string, m cache.Meta) {
	t.Helper()
	now := time.Now()
	e := &cache.Entry{Meta: m, Status: 200, Body: []byte(name), Made: now, Expires: now.Add(time.Hour), Until: now.Add(time.Hour)}
	if err := s.Put(context.Background(), purgeKey(name), e, now); err != nil {
		t.Fatal(err)
	}
}

func has(t testing.TB, s cache.Store, name string) bool {
	t.Helper()
	e, err := s.Get(context.Background(), purgeKey(name), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return e != nil
}

func TestPurgesByLabel(t *testing.T) {
	key, another := purgeKey("the entry"), purgeKey("another")
	m := cache.Meta{Owner: "key:alice", Labels: []string{
		cache.Label("tag", "llama"), cache.Label("path", "/v1/models"), cache.Label("model", "chat/llama-3"), cache.Label("route", "chat"), "tag:star*",
	}}
	for label, want := range map[string]bool{
		"all":                                   true,
		"tag:llama":                             true,
		"tag:lla*":                              false, // only paths have prefixes
		"tag:star*":                             true,
		"path:/v1/models":                       true,
		"path:/v1/*":                            true,
		"path:*":                                true,
		"path:/v1/models*":                      true,
		"path:/v1/models/*":                     false,
		"path:/v1":                              false,
		"path:/%761/m%6Fdels":                   true,
		"path:/%761/*":                          true,
		"path:/v1/model%2A":                     false,
		"caller:key:alice":                      true,
		"caller:key:alic":                       false,
		"caller:key:*":                          false,
		"model:chat/llama-3":                    true,
		"model:chat/llama":                      false,
		"route:chat":                            true,
		"route:embed":                           false,
		"key:" + hex.EncodeToString(key[:]):     true,
		"key:" + strings.Repeat("00", 32):       false,
		"key:" + hex.EncodeToString(another[:]): false,
	} {
		t.Run(label, func(t *testing.T) {
			p := newPurges(t, cache.PurgeOptions{})
			if p.Purged(&m, key) {
				t.Error("purged before anything was")
			}
			purge(t, p, label)
			if got := p.Purged(&m, key); got != want {
				t.Errorf("purged: %v, want %v", got, want)
			}
			after := m
			after.Epoch = p.Epoch()
			if p.Purged(&after, key) {
				t.Error("what is asked for after a purge counts as purged")
			}
		})
	}
	t.Run("nothing is purged where nobody keeps purges", func(t *testing.T) {
		var none *cache.Purges
		if _, err := none.Purge(t.Context(), "all"); none.Purged(&m, key) || none.Epoch() != 0 || none.Close() != nil || err == nil {
			t.Errorf("a nil *Purges knows of a purge, or did one: %v", err)
		}
	})
	t.Run("no caller is nobody's name", func(t *testing.T) {
		p := newPurges(t, cache.PurgeOptions{})
		p.Merge(cache.PurgeState{Seq: 1, Labels: map[string]uint64{"caller:": 1, "path:": 1}})
		if p.Purged(&cache.Meta{}, key) {
			t.Error("an entry of no caller is purged with the caller \"\"")
		}
	})
}

func TestPurgeRefusesLabels(t *testing.T) {
	for label, want := range map[string]string{
		"":                                   `cache: purge: label 2: "": want all, or tag:, path:, caller:, key:, model: or route: and a value`,
		"*":                                  `cache: purge: label 2: "*": want all, or tag:, path:, caller:, key:, model: or route: and a value`,
		"llama":                              `cache: purge: label 2: "llama": want all, or tag:, path:, caller:, key:, model: or route: and a value`,
		"tag:":                               `cache: purge: label 2: "tag:": want a value after the colon`,
		"path:/50%/x":                        `cache: purge: label 2: "path:/50%/x": want % only before two hexadecimal digits, and %25 for the character`,
		"key:12":                             `cache: purge: label 2: "key:12": want the 64 hexadecimal digits of a key`,
		"key:" + strings.Repeat("g", 64):     `cache: purge: label 2: "key:` + strings.Repeat("g", 64) + `": want the 64 hexadecimal digits of a key`,
		"path:/" + strings.Repeat("a", 5000): `cache: purge: label 2: "path:/` + strings.Repeat("a", 34) + `"…: 5006 bytes: want at most 4096`,
	} {
		p := newPurges(t, cache.PurgeOptions{})
		if _, err := p.Purge(t.Context(), "tag:a", label); err == nil || err.Error() != want {
			t.Errorf("label %.50q\n got %v\nwant %s", label, err, want)
		}
		if p.Epoch() != 0 {
			t.Errorf("label %.50q: a refused purge changed something", label)
		}
	}
	p := newPurges(t, cache.PurgeOptions{})
	if _, err := p.Purge(t.Context()); err == nil || err.Error() != `cache: purge: no label: want at least one, for example "tag:llama", or "all"` {
		t.Errorf("without labels: %v", err)
	}
}

func TestPurgeConcernsWhatWasAskedForBefore(t *testing.T) {
	store := cache.NewMemoryStore(cache.MemoryOptions{})
	p := newPurges(t, cache.PurgeOptions{Stores: []cache.Sweeper{store}})
	put(t, store, "stored", cache.Meta{Labels: []string{"tag:a"}, Epoch: p.Epoch()})
	put(t, store, "other", cache.Meta{Labels: []string{"tag:b"}, Epoch: p.Epoch()})
	running := cache.Meta{Labels: []string{"tag:a"}, Epoch: p.Epoch()} // asked for, and not answered yet

	removed, err := p.Purge(t.Context(), "tag:a")
	if removed != 1 || err != nil || has(t, store, "stored") || !has(t, store, "other") {
		t.Errorf("removed %d, %v: want the one entry with the label gone", removed, err)
	}
	put(t, store, "running", running)
	if !p.Purged(&running, purgeKey("running")) {
		t.Error("an answer that was on its way during the purge is not purged")
	}
	if p.Purged(&cache.Meta{Labels: []string{"tag:a"}, Epoch: p.Epoch()}, purgeKey("x")) {
		t.Error("what was asked for after the purge is purged")
	}

	name := purgeKey("other")
	removed, err = p.Purge(t.Context(), cache.Label("key", hex.EncodeToString(name[:])))
	if removed != 1 || err != nil || has(t, store, "other") || !has(t, store, "running") {
		t.Errorf("removed %d by key, %v: want that entry gone alone", removed, err)
	}
}

// brokenStore is a store that fails, and a Sweeper.
type brokenStore struct{ err error }

func (s brokenStore) Get(context.Context, cache.Key, time.Time) (*cache.Entry, error) {
	return nil, s.err
}
func (s brokenStore) Put(context.Context, cache.Key, *cache.Entry, time.Time) error { return s.err }
func (s brokenStore) Delete(context.Context, cache.Key) error                       { return s.err }
func (s brokenStore) Sweep(context.Context, func(*cache.Meta) bool) (int, error)    { return 0, s.err }

func TestPurgeIsDoneWhateverFails(t *testing.T) {
	noStore, noLog := errors.New("no store"), errors.New("no log")
	store := cache.NewMemoryStore(cache.MemoryOptions{})
	log := &purgeLog{err: noLog}
	blocked := filepath.Join(t.TempDir(), "file")
	path := filepath.Join(blocked, "purges")
	newPurges(t, cache.PurgeOptions{Path: path}) // makes the file
	p := newPurges(t, cache.PurgeOptions{Log: log, Stores: []cache.Sweeper{brokenStore{noStore}, store}, Path: path})
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, store, "a", cache.Meta{Labels: []string{"tag:a"}})
	removed, err := p.Purge(t.Context(), "tag:a")
	if removed != 1 || !errors.Is(err, noStore) || !errors.Is(err, noLog) || !strings.Contains(err.Error(), "not saved") {
		t.Errorf("removed %d, %v: want one, and the errors of the log, the file and the other store", removed, err)
	}
	if !p.Purged(&cache.Meta{Labels: []string{"tag:a"}}, cache.Key{}) {
		t.Error("not purged")
	}
	if err := os.Remove(blocked); err != nil { // so that Close can save
		t.Fatal(err)
	}
}

func TestPurgesAreBounded(t *testing.T) {
	entry := func(epoch uint64, labels ...string) *cache.Meta { return &cache.Meta{Labels: labels, Epoch: epoch} }
	t.Run("of 10,001 labels the older ones become a floor", func(t *testing.T) {
		p := newPurges(t, cache.PurgeOptions{})
		state := cache.PurgeState{Seq: 10_000, Labels: map[string]uint64{}}
		for i := range uint64(10_000) {
			state.Labels[fmt.Sprintf("tag:%d", i+1)] = i + 1
		}
		p.Merge(state)
		if p.Purged(entry(1, "tag:x"), cache.Key{}) {
			t.Error("10,000 labels are within the bound, and what has none of them is purged")
		}
		purge(t, p, "tag:one more")
		for label, seq := range state.Labels {
			if !p.Purged(entry(seq-1, label), cache.Key{}) {
				t.Fatalf("%s was purged at %d, and is there again", label, seq)
			}
		}
		if !p.Purged(entry(5000, "tag:x"), cache.Key{}) || p.Purged(entry(5001, "tag:x"), cache.Key{}) {
			t.Error("the older half did not become a floor at 5,001")
		}
	})
	t.Run("of 65 prefixes the oldest becomes a floor", func(t *testing.T) {
		p := newPurges(t, cache.PurgeOptions{})
		for i := range 65 {
			purge(t, p, fmt.Sprintf("path:/%02d/*", i))
		}
		for i := range uint64(65) {
			if !p.Purged(entry(i, fmt.Sprintf("path:/%02d/x", i)), cache.Key{}) {
				t.Errorf("prefix %d was purged, and is there again", i)
			}
		}
		if !p.Purged(entry(0, "path:/x"), cache.Key{}) || p.Purged(entry(1, "path:/x"), cache.Key{}) {
			t.Error("the oldest prefix did not become a floor at 1")
		}
	})
}

// Beside a model that remembers every purge for ever: what was purged never comes
// back, and what is asked for now is not purged.
func TestPurgesNeverForget(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p, err := cache.NewPurges(cache.PurgeOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		labels := []string{"all", "tag:a", "tag:b", "path:/a*", "path:/ab", "caller:x"}
		var entries []cache.Meta
		purged := map[int]bool{}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "ask") {
				entries = append(entries, cache.Meta{Epoch: p.Epoch(), Owner: rapid.SampledFrom([]string{"", "x"}).Draw(rt, "owner"), Labels: []string{
					rapid.SampledFrom([]string{"tag:a", "tag:b"}).Draw(rt, "tag"), rapid.SampledFrom([]string{"path:/ab", "path:/b"}).Draw(rt, "path"),
				}})
				continue
			}
			label := rapid.SampledFrom(labels).Draw(rt, "label")
			if _, err := p.Purge(context.Background(), label); err != nil {
				rt.Fatal(err)
			}
			for i, m := range entries {
				prefix, isPrefix := strings.CutSuffix(label, "*")
				purged[i] = purged[i] || label == "all" || slices.Contains(m.Labels, label) || label == "caller:"+m.Owner ||
					isPrefix && strings.HasPrefix(m.Labels[1], prefix)
			}
		}
		for i := range entries {
			if got := p.Purged(&entries[i], cache.Key{}); got != purged[i] {
				rt.Fatalf("entry %d %+v: purged %v, want %v", i, entries[i], got, purged[i])
			}
		}
	})
}

func TestPurgesFile(t *testing.T) {
	meta := func(epoch uint64, label string) *cache.Meta {
		return &cache.Meta{Labels: []string{label}, Epoch: epoch}
	}
	reopen := func(t *testing.T, path string, stores ...cache.Sweeper) *cache.Purges {
		return newPurges(t, cache.PurgeOptions{Path: path, Stores: stores})
	}
	t.Run("keeps purges over a restart", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "new", "purges")
		p := reopen(t, path)
		purge(t, p, "tag:a")
		purge(t, p, "path:/v1/*", "caller:x")
		q := reopen(t, path) // the first is not closed: it was killed
		if q.Epoch() != 2 || !q.Purged(meta(0, "tag:a"), cache.Key{}) || q.Purged(meta(1, "tag:a"), cache.Key{}) ||
			!q.Purged(meta(1, "path:/v1/x"), cache.Key{}) || !q.Purged(&cache.Meta{Owner: "x", Epoch: 1}, cache.Key{}) || q.Purged(meta(0, "tag:b"), cache.Key{}) {
			t.Errorf("after a restart at epoch %d other things are purged", q.Epoch())
		}
	})
	t.Run("what was purged in a directory stays so, also what came late", func(t *testing.T) {
		root := t.TempDir()
		open := func() *cache.DirStore {
			s, err := cache.OpenDir(cache.DirOptions{Path: filepath.Join(root, "entries")})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		dir := open()
		p := reopen(t, filepath.Join(root, "purges"), dir)
		put(t, dir, "before", *meta(p.Epoch(), "tag:a"))
		late := *meta(p.Epoch(), "tag:a")
		purge(t, p, "tag:a")
		put(t, dir, "late", late)
		put(t, dir, "after", *meta(p.Epoch(), "tag:a"))
		if err := dir.Close(); err != nil {
			t.Fatal(err)
		}
		dir = open()
		defer func() { _ = dir.Close() }()
		tiers := newTiers(t, reopen(t, filepath.Join(root, "purges"), dir), dir)
		for name, want := range map[string]bool{"before": false, "late": false, "after": true} {
			if got := has(t, tiers, name); got != want {
				t.Errorf("%s: there %v, want %v", name, got, want)
			}
		}
	})
	t.Run("without a record everything stored is gone, and counting goes on above it", func(t *testing.T) {
		for name, spoil := range map[string]func([]byte) []byte{
			"missing":  nil,
			"empty":    func([]byte) []byte { return nil },
			"cut":      func(b []byte) []byte { return b[:len(b)-1] },
			"one bit":  func(b []byte) []byte { b[len(b)-3] ^= 1; return b },
			"too long": func(b []byte) []byte { return append(b, bytes.Repeat([]byte{' '}, 64<<20)...) },
			"another":  func([]byte) []byte { return []byte("purges: []\n") },
		} {
			t.Run(name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "purges")
				store := cache.NewMemoryStore(cache.MemoryOptions{})
				p := reopen(t, path, store)
				for range 5 {
					purge(t, p, "tag:a")
				}
				put(t, store, "kept", *meta(p.Epoch(), "tag:a"))
				put(t, store, "early", *meta(0, "tag:b"))
				if spoil == nil {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				} else {
					b, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, spoil(b), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				q := reopen(t, path, store)
				if has(t, store, "kept") || has(t, store, "early") || !q.Purged(meta(5, "tag:a"), cache.Key{}) || q.Epoch() != 6 {
					t.Errorf("kept %v at epoch %d: want nothing kept, and 6", has(t, store, "kept"), q.Epoch())
				}
				if again := reopen(t, path, store); again.Epoch() != 6 {
					t.Errorf("epoch %d at the next start, want 6", again.Epoch())
				}
			})
		}
	})
	t.Run("does not start where it cannot know and cannot delete, or cannot write", func(t *testing.T) {
		failed := errors.New("busy")
		_, err := cache.NewPurges(cache.PurgeOptions{Path: filepath.Join(t.TempDir(), "purges"), Stores: []cache.Sweeper{brokenStore{failed}}})
		if !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := cache.NewPurges(cache.PurgeOptions{Path: filepath.Join(file, "purges")}); err == nil {
			t.Error("no error for a path below a file")
		}
	})
	t.Run("has all of many purges at once", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "purges")
		p := reopen(t, path)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { purge(t, p, fmt.Sprintf("tag:%d", i)) })
		}
		wg.Wait()
		q := reopen(t, path)
		for i := range 20 {
			if !q.Purged(meta(0, fmt.Sprintf("tag:%d", i)), cache.Key{}) {
				t.Errorf("purge %d was lost", i)
			}
		}
		if q.Epoch() != 20 {
			t.Errorf("epoch %d after 20 purges", q.Epoch())
		}
	})
}

func TestPurgedAllocatesNothing(t *testing.T) {
	p := newPurges(t, cache.PurgeOptions{})
	purge(t, p, "tag:a", "path:/v1/*", "caller:x", "key:"+strings.Repeat("ab", 32))
	old := cache.Meta{Owner: "key:somebody with a long name, longer than 32 bytes", Labels: []string{"tag:b", "path:/v2/x"}}
	for name, m := range map[string]*cache.Meta{"asked for since": {Epoch: p.Epoch()}, "older": &old} {
		if n := testing.AllocsPerRun(100, func() { p.Purged(m, cache.Key{}) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkPurged(b *testing.B) {
	p, err := cache.NewPurges(cache.PurgeOptions{})
	if err != nil {
		b.Fatal(err)
	}
	purge(b, p, "tag:a", "path:/v1/*")
	for name, m := range map[string]*cache.Meta{
		"newer": {Epoch: 1, Labels: []string{"tag:b", "path:/v2/x", "route:chat", "model:chat/m"}},
		"older": {Epoch: 0, Labels: []string{"tag:b", "path:/v2/x", "route:chat", "model:chat/m"}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if p.Purged(m, cache.Key{}) {
					b.Fatal("purged")
				}
			}
		})
	}
}
