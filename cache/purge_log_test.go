package cache_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

// purgeLog is a PurgeLog in memory, that can fail and lose.
type purgeLog struct {
	mu       sync.Mutex
	err      error // of Append
	deaf     bool  // Follow tells nothing
	state    cache.PurgeState
	appended [][]string
	changed  []chan struct{}
}

func (l *purgeLog) Append(_ context.Context, labels []string, known uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	l.state.Seq = max(l.state.Seq, known) + 1
	if l.state.Labels == nil {
		l.state.Labels = map[string]uint64{}
	}
	for _, label := range labels {
		l.state.Labels[label] = l.state.Seq
	}
	l.appended = append(l.appended, slices.Clone(labels))
	l.tellLocked()
	return l.state.Seq, nil
}

func (l *purgeLog) tellLocked() {
	for _, c := range l.changed {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (l *purgeLog) Follow(ctx context.Context, changed func(cache.PurgeState)) {
	c := make(chan struct{}, 1)
	c <- struct{}{}
	l.mu.Lock()
	l.changed = append(l.changed, c)
	l.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c:
		}
		l.mu.Lock()
		s, deaf := l.state, l.deaf
		s.Labels = maps.Clone(s.Labels)
		l.mu.Unlock()
		if !deaf {
			changed(s)
		}
	}
}

// set changes the log as something else would.
func (l *purgeLog) set(change func(*purgeLog)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
	l.tellLocked()
}

func (l *purgeLog) told() [][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.appended)
}

func TestPurgeLog(t *testing.T) {
	meta := func(epoch uint64, labels ...string) *cache.Meta { return &cache.Meta{Labels: labels, Epoch: epoch} }
	for _, c := range []struct {
		name string
		run  func(t *testing.T, log *purgeLog)
	}{
		{"a purge reaches the other instances, and sweeps what only they have", func(t *testing.T, log *purgeLog) {
			store := cache.NewMemoryStore(cache.MemoryOptions{})
			a, b := newPurges(t, cache.PurgeOptions{Log: log}), newPurges(t, cache.PurgeOptions{Log: log, Stores: []cache.Sweeper{store}})
			put(t, store, "x", *meta(b.Epoch(), "tag:a"))
			put(t, store, "y", *meta(b.Epoch(), "tag:b"))
			purge(t, a, "tag:a")
			synctest.Wait()
			if b.Epoch() != 1 || !b.Purged(meta(0, "tag:a"), cache.Key{}) || b.Purged(meta(0, "tag:b"), cache.Key{}) {
				t.Errorf("the other instance is at epoch %d", b.Epoch())
			}
			if has(t, store, "x") || !has(t, store, "y") {
				t.Error("the other instance did not sweep what was purged, or more")
			}
			if c := newPurges(t, cache.PurgeOptions{Log: log}); !c.Purged(meta(0, "tag:a"), cache.Key{}) || c.Epoch() != 1 {
				t.Error("an instance that starts later does not know the purge")
			}
		}},
		{"a purge that cannot be told holds here, keeps nothing of its kind, and is told later", func(t *testing.T, log *purgeLog) {
			a, b := newPurges(t, cache.PurgeOptions{Log: log}), newPurges(t, cache.PurgeOptions{Log: log})
			away := errors.New("away")
			log.set(func(l *purgeLog) { l.err = away })
			if _, err := a.Purge(t.Context(), "tag:a"); !errors.Is(err, away) {
				t.Errorf("got %v", err)
			}
			synctest.Wait()
			if !a.Purged(meta(0, "tag:a"), cache.Key{}) || b.Purged(meta(0, "tag:a"), cache.Key{}) {
				t.Error("purged elsewhere without a log, or not here")
			}
			// Another purge has the number that this one would have: an entry asked
			// for between the two must not survive the other one.
			between := a.Epoch()
			if !a.Purged(meta(between, "tag:a", "tag:b"), cache.Key{}) || a.Purged(meta(between, "tag:b"), cache.Key{}) {
				t.Error("what is asked for now survives, or more than the label is purged")
			}
			log.set(func(l *purgeLog) { l.err = nil })
			purge(t, b, "tag:b")
			synctest.Wait()
			if !a.Purged(meta(between, "tag:b"), cache.Key{}) || !b.Purged(meta(between, "tag:b"), cache.Key{}) {
				t.Error("an entry from before a purge survives it because of another purge")
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if want := [][]string{{"tag:b"}, {"tag:a"}}; !slices.EqualFunc(log.told(), want, slices.Equal) {
				t.Errorf("the log was told %v, want %v", log.told(), want)
			}
			if !b.Purged(meta(0, "tag:a"), cache.Key{}) || a.Purged(meta(a.Epoch(), "tag:a"), cache.Key{}) || a.Epoch() != b.Epoch() {
				t.Errorf("epochs %d and %d after the log was told", a.Epoch(), b.Epoch())
			}
		}},
		{"what is asked for while a purge of it cannot be told counts as purged, and that is observed once", observesUntold},
		{"a log that lost purges: everything is purged, everywhere, and counted on from there", func(t *testing.T, log *purgeLog) {
			a, b := newPurges(t, cache.PurgeOptions{Log: log}), newPurges(t, cache.PurgeOptions{Log: log})
			for range 7 {
				purge(t, a, "tag:a")
				synctest.Wait()
			}
			entry := meta(a.Epoch(), "tag:x")
			log.set(func(l *purgeLog) { l.state = cache.PurgeState{Seq: 3} })
			synctest.Wait()
			for name, p := range map[string]*cache.Purges{"a": a, "b": b, "new": newPurges(t, cache.PurgeOptions{Log: log})} {
				if !p.Purged(entry, cache.Key{}) || p.Purged(meta(p.Epoch(), "tag:x"), cache.Key{}) || p.Epoch() < 8 {
					t.Errorf("%s: epoch %d: want 8 at least, and what is older purged", name, p.Epoch())
				}
			}
		}},
		{"an older state on its way beside a purge loses nothing", func(t *testing.T, log *purgeLog) {
			p := newPurges(t, cache.PurgeOptions{Log: log})
			log.set(func(l *purgeLog) { l.deaf = true })
			purge(t, p, "tag:a")
			entry := meta(p.Epoch(), "tag:x")
			p.Merge(cache.PurgeState{}) // read before the purge was appended
			log.set(func(l *purgeLog) { l.deaf = false })
			time.Sleep(time.Minute)
			if p.Purged(entry, cache.Key{}) || p.Epoch() != 1 {
				t.Errorf("epoch %d: everything was purged", p.Epoch())
			}
		}},
		{"a log that never tells of a purge has lost it", func(t *testing.T, log *purgeLog) {
			p := newPurges(t, cache.PurgeOptions{Log: log})
			log.set(func(l *purgeLog) { l.deaf = true })
			purge(t, p, "tag:a")
			entry := meta(p.Epoch(), "tag:x")
			p.Merge(cache.PurgeState{})
			time.Sleep(9 * time.Second)
			if p.Purged(entry, cache.Key{}) {
				t.Error("it had ten seconds")
			}
			time.Sleep(2 * time.Second)
			if !p.Purged(entry, cache.Key{}) {
				t.Error("the purge is lost, and nothing was purged for it")
			}
		}},
		{"a log that is away at the start delays it for a moment only", func(t *testing.T, log *purgeLog) {
			log.deaf, log.state = true, cache.PurgeState{Seq: 4, Labels: map[string]uint64{"tag:a": 4}}
			var errs []error
			start := time.Now()
			p := newPurges(t, cache.PurgeOptions{Log: log, LogWait: 300 * time.Millisecond, Observe: func(err error) { errs = append(errs, err) }})
			if took := time.Since(start); took != 300*time.Millisecond || len(errs) != 1 {
				t.Errorf("waited %v, observed %v", took, errs)
			}
			log.set(func(l *purgeLog) { l.deaf = false })
			synctest.Wait()
			if p.Epoch() != 4 || !p.Purged(meta(3, "tag:a"), cache.Key{}) {
				t.Errorf("epoch %d once it is back", p.Epoch())
			}
		}},
		{"a log knows what a missing file would", func(t *testing.T, log *purgeLog) {
			log.state = cache.PurgeState{Seq: 4, Labels: map[string]uint64{"tag:a": 4}}
			store := cache.NewMemoryStore(cache.MemoryOptions{})
			put(t, store, "good", *meta(4, "tag:a"))
			put(t, store, "purged", *meta(3, "tag:a"))
			put(t, store, "from a time that the log has lost", *meta(5, "tag:a"))
			p := newPurges(t, cache.PurgeOptions{Log: log, Path: filepath.Join(t.TempDir(), "purges"), Stores: []cache.Sweeper{store}})
			synctest.Wait()
			if !has(t, store, "good") || has(t, store, "purged") || has(t, store, "from a time that the log has lost") || p.Epoch() != 4 {
				t.Errorf("epoch %d, kept %+v", p.Epoch(), store.Stats())
			}
		}},
		{"with neither log nor file nothing is kept", func(t *testing.T, log *purgeLog) {
			log.deaf = true
			store := cache.NewMemoryStore(cache.MemoryOptions{})
			put(t, store, "x", *meta(0, "tag:a"))
			p := newPurges(t, cache.PurgeOptions{Log: log, Path: filepath.Join(t.TempDir(), "purges"), Stores: []cache.Sweeper{store}})
			if has(t, store, "x") || p.Epoch() != 0 {
				t.Errorf("epoch %d, kept %+v", p.Epoch(), store.Stats())
			}
		}},
		{"a number that is not new is no purge elsewhere", func(t *testing.T, log *purgeLog) {
			p := newPurges(t, cache.PurgeOptions{Log: stuckLog{log}})
			if _, err := p.Purge(t.Context(), "tag:a"); err == nil || !strings.Contains(err.Error(), "gave the number 0: want one above 0") {
				t.Errorf("got %v", err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.run(t, &purgeLog{}) })
		})
	}
}

// observesUntold asks as somebody does who would keep what is asked for now.
func observesUntold(t *testing.T, log *purgeLog) {
	const again = "cache: purges are shared again: answers with all labels are kept"
	var observed []string
	p := newPurges(t, cache.PurgeOptions{Log: log, Observe: func(err error) {
		observed = append(observed, err.Error())
		if got, want := errors.Is(err, cache.ErrPurgesShared), err.Error() == again; got != want {
			t.Errorf("%v: is ErrPurgesShared %v, want %v", err, got, want)
		}
	}})
	key := purgeKey("x")
	m := cache.Meta{Owner: "key:alice", Labels: []string{"tag:a", "path:/v1/x", "route:chat"}}
	keeps := func() bool {
		m.Epoch = p.Epoch()
		return !p.Purged(&m, key)
	}
	for label, want := range map[string]bool{
		"tag:a": false, "path:/v1/x": false, "path:/v1/*": false, "caller:key:alice": false, "key:" + hex.EncodeToString(key[:]): false, "all": false,
		"tag:b": true, "path:/v2/*": true, "caller:key:bob": true,
	} {
		log.set(func(l *purgeLog) { l.err = errors.New("away") })
		for range 3 {
			if _, err := p.Purge(t.Context(), label); err == nil {
				t.Errorf("%s: no error", label)
			}
		}
		time.Sleep(5 * time.Minute) // with many retries
		if got := keeps(); got != want {
			t.Errorf("%s cannot be told: keeps %v, want %v", label, got, want)
		}
		log.set(func(l *purgeLog) { l.err = nil })
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if !keeps() {
			t.Errorf("%s is told, and nothing is kept", label)
		}
		if want := []string{fmt.Sprintf("cache: purges cannot be shared: answers with these labels are not kept until they can: [%q]: away", label), again}; !slices.Equal(observed, want) {
			t.Errorf("observed %q, want %q", observed, want)
		}
		observed = nil
	}
	log.set(func(l *purgeLog) { l.err = errors.New("away") })
	for i := range 7 {
		_, _ = p.Purge(t.Context(), fmt.Sprintf("tag:%d", i))
	}
	synctest.Wait()
	log.set(func(l *purgeLog) { l.err = nil })
	purge(t, p, "tag:other") // the log tells of it, and so is back
	synctest.Wait()
	if len(observed) != 2 || observed[1] != again {
		t.Errorf("observed %q, want the beginning and the end", observed)
	}
}

// stuckLog gives every purge the number 0.
type stuckLog struct{ *purgeLog }

func (stuckLog) Append(context.Context, []string, uint64) (uint64, error) { return 0, nil }
