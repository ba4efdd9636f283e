package cache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/storetest"
)

// slowStore is a store that takes its time to write, and remembers what was done.
type slowStore struct {
	*cache.MemoryStore
	takes time.Duration

	mu      sync.Mutex
	running map[cache.Key]bool
	overlap bool
	log     []string
}

func newSlowStore(takes time.Duration) *slowStore {
	return &slowStore{MemoryStore: cache.NewMemoryStore(cache.MemoryOptions{}), takes: takes, running: map[cache.Key]bool{}}
}

func (s *slowStore) Put(ctx context.Context, key cache.Key, e *cache.Entry, now time.Time) error {
	return s.write(ctx, key, "put "+string(e.Body), func() error { return s.MemoryStore.Put(ctx, key, e, now) })
}

func (s *slowStore) Delete(ctx context.Context, key cache.Key) error {
	return s.write(ctx, key, "delete", func() error { return s.MemoryStore.Delete(ctx, key) })
}

func (s *slowStore) write(ctx context.Context, key cache.Key, what string, do func() error) error {
	s.mu.Lock()
	s.log = append(s.log, what)
	s.overlap = s.overlap || s.running[key]
	s.running[key] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running[key] = false
	}()
	select {
	case <-time.After(s.takes):
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slowStore) done() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log, ", ")
}

// overlapped says whether two wrote one key at once.
func (s *slowStore) overlapped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overlap
}

func newTiers(t testing.TB, p *cache.Purges, stores ...cache.Store) *cache.Tiers {
	t.Helper()
	tiers := cache.NewTiers(p, stores...)
	t.Cleanup(func() {
		if err := tiers.Close(); err != nil {
			t.Error(err)
		}
	})
	return tiers
}

// answer is an entry of an age, fresh for a minute and of use for an hour.
func answer(body string, now time.Time, age time.Duration) *cache.Entry {
	made := now.Add(-age)
	return &cache.Entry{Status: 200, Body: []byte(body), Made: made, Expires: made.Add(time.Minute), Until: made.Add(time.Hour)}
}

func putBody(t testing.TB, s cache.Store, name string, e *cache.Entry, now time.Time) {
	t.Helper()
	if err := s.Put(context.Background(), purgeKey(name), e, now); err != nil {
		t.Fatal(err)
	}
}

// body is what s has under name, "" for nothing.
func body(t testing.TB, s cache.Store, name string, now time.Time) string {
	t.Helper()
	e, err := s.Get(context.Background(), purgeKey(name), now)
	if err != nil {
		t.Fatal(err)
	}
	if e == nil {
		return ""
	}
	return string(e.Body)
}

func memoryStore() *cache.MemoryStore { return cache.NewMemoryStore(cache.MemoryOptions{}) }

func TestTiers(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) []cache.Store{
		"memory and memory": func(*testing.T) []cache.Store { return []cache.Store{memoryStore(), memoryStore()} },
		"memory and a directory": func(t *testing.T) []cache.Store {
			return []cache.Store{memoryStore(), directory(t)}
		},
		"a small memory, a directory and a larger memory": func(t *testing.T) []cache.Store {
			return []cache.Store{cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: 64 << 10}), directory(t), memoryStore()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Cache(t, func(t *testing.T) cache.Store { return newTiers(t, nil, open(t)...) })
		})
	}
}

func directory(t *testing.T) *cache.DirStore {
	t.Helper()
	s, err := cache.OpenDir(cache.DirOptions{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestTiersRead(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"an entry of the last tier is filled back into all before", func(t *testing.T) {
			a, b, c, now := memoryStore(), memoryStore(), memoryStore(), time.Now()
			tiers := newTiers(t, nil, a, b, c)
			putBody(t, c, "x", answer("found", now, 0), now)
			if got := body(t, tiers, "x", now); got != "found" {
				t.Fatalf("got %q", got)
			}
			synctest.Wait()
			if got := []string{body(t, a, "x", now), body(t, b, "x", now)}; fmt.Sprint(got) != "[found found]" {
				t.Errorf("the tiers before have %q", got)
			}
		}},
		{"a fresh entry is given without asking further", func(t *testing.T) {
			a, now := memoryStore(), time.Now()
			tiers := newTiers(t, nil, a, brokenStore{errors.New("asked")})
			tiers.Observe = func(err error) { t.Error(err) }
			putBody(t, a, "x", answer("near", now, 59*time.Second), now)
			if got := body(t, tiers, "x", now); got != "near" {
				t.Errorf("got %q", got)
			}
		}},
		{"of stale entries a fresh one behind wins, and of stale ones alone the newest", func(t *testing.T) {
			now := time.Now()
			for _, c := range []struct {
				ages [3]time.Duration
				want string
			}{
				{[3]time.Duration{5 * time.Minute, 4 * time.Minute, time.Second}, "2"},
				{[3]time.Duration{5 * time.Minute, 3 * time.Minute, 4 * time.Minute}, "1"},
				{[3]time.Duration{2 * time.Minute, 3 * time.Minute, 4 * time.Minute}, "0"},
				{[3]time.Duration{5 * time.Minute, time.Second, 0}, "1"},
			} {
				stores := []cache.Store{memoryStore(), memoryStore(), memoryStore()}
				for i, age := range c.ages {
					putBody(t, stores[i], "x", answer(fmt.Sprint(i), now, age), now)
				}
				tiers := newTiers(t, nil, stores...)
				if got := body(t, tiers, "x", now); got != c.want {
					t.Errorf("ages %v: got %s, want %s", c.ages, got, c.want)
				}
				if got := body(t, stores[0], "x", now); got != c.want {
					t.Errorf("ages %v: the first tier has %s then, want %s", c.ages, got, c.want)
				}
			}
		}},
		{"what is purged is not there, and is deleted where it was", func(t *testing.T) {
			a, b, now := memoryStore(), memoryStore(), time.Now()
			p := newPurges(t, cache.PurgeOptions{})
			tiers := newTiers(t, p, a, b)
			putBody(t, a, "x", answer("old", now, 0), now)
			putBody(t, b, "x", answer("old", now, 0), now)
			purge(t, p, "all")
			if got := body(t, tiers, "x", now); got != "" {
				t.Errorf("got %q", got)
			}
			synctest.Wait()
			if a.Stats().Entries != 0 || b.Stats().Entries != 0 {
				t.Errorf("left: %+v, %+v", a.Stats(), b.Stats())
			}
			putBody(t, tiers, "x", answer("late", now, 0), now)
			synctest.Wait()
			if got := []string{body(t, a, "x", now), body(t, b, "x", now)}; fmt.Sprint(got) != "[ ]" {
				t.Errorf("what was on its way during the purge was kept: %q", got)
			}
			newer := answer("new", now, 0)
			newer.Epoch = p.Epoch()
			putBody(t, b, "x", newer, now)
			putBody(t, a, "x", answer("old", now, 0), now)
			if got := body(t, tiers, "x", now); got != "new" {
				t.Errorf("behind a purged entry: got %q", got)
			}
		}},
		{"what is purged stays where others write: it may be a newer one by now", func(t *testing.T) {
			far, now := &sharedStore{lateStore: lateStore{memoryStore()}}, time.Now()
			p := newPurges(t, cache.PurgeOptions{})
			tiers := newTiers(t, p, memoryStore(), far)
			putBody(t, far, "x", answer("old", now, 0), now)
			purge(t, p, "all")
			time.AfterFunc(time.Second/2, func() { // another instance, after the old one was read
				newer := answer("new", now, 0)
				newer.Epoch = p.Epoch()
				putBody(t, far, "x", newer, now)
			})
			if got := body(t, tiers, "x", now); got != "" {
				t.Errorf("got %q, which is purged", got)
			}
			synctest.Wait()
			if got := body(t, tiers, "x", now); got != "new" {
				t.Errorf("then %q, want the new one", got)
			}
		}},
		{"no tiers have nothing", func(t *testing.T) {
			tiers, now := newTiers(t, nil), time.Now()
			putBody(t, tiers, "x", answer("lost", now, 0), now)
			if got := body(t, tiers, "x", now); got != "" {
				t.Errorf("got %q", got)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, c.run) })
	}
}

func TestTiersThatFail(t *testing.T) {
	failed, now := errors.New("away"), time.Now()
	broken := brokenStore{failed}
	t.Run("an entry of another tier is found, and the error observed", func(t *testing.T) {
		for i, stores := range [][]cache.Store{{broken, memoryStore()}, {memoryStore(), broken, memoryStore()}} {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var errs []error
				tiers := newTiers(t, nil, stores...)
				tiers.Observe = func(err error) {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
				last := stores[len(stores)-1]
				putBody(t, last, "x", answer("found", now, 0), now)
				if got := body(t, tiers, "x", now); got != "found" {
					t.Errorf("got %q", got)
				}
				putBody(t, tiers, "y", answer("y", now, 0), now)
				synctest.Wait()
				if got := body(t, last, "y", now); got != "y" {
					t.Errorf("the last tier has %q", got)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(errs) != 3 { // of the read, of filling it back, of the write
					t.Fatalf("observed %v", errs)
				}
				for _, err := range errs {
					if want := fmt.Sprintf("cache: tier %d (cache_test.brokenStore): away", i+1); err.Error() != want || !errors.Is(err, failed) {
						t.Errorf("observed %q, want %q", err, want)
					}
				}
			})
		}
	})
	t.Run("nothing found where one failed is an error", func(t *testing.T) {
		tiers := newTiers(t, nil, memoryStore(), broken)
		if e, err := tiers.Get(t.Context(), purgeKey("x"), now); e != nil || !errors.Is(err, failed) {
			t.Errorf("got %+v, %v", e, err)
		}
	})
	t.Run("all tiers are deleted from, and the error says of which not", func(t *testing.T) {
		store := memoryStore()
		putBody(t, store, "x", answer("x", now, 0), now)
		err := newTiers(t, nil, broken, store).Delete(t.Context(), purgeKey("x"))
		if !errors.Is(err, failed) || body(t, store, "x", now) != "" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a single tier that fails is an error of Put", func(t *testing.T) {
		if err := newTiers(t, nil, broken).Put(t.Context(), purgeKey("x"), answer("x", now, 0), now); !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a sweep counts what it could delete", func(t *testing.T) {
		store := memoryStore()
		putBody(t, store, "x", answer("x", now, 0), now)
		n, err := newTiers(t, nil, broken, store).Sweep(t.Context(), func(*cache.Meta) bool { return true })
		if n != 1 || !errors.Is(err, failed) {
			t.Errorf("%d, %v", n, err)
		}
	})
}

func TestTiersWriteInOrder(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"a writer waits for the first tier only, and reads what it wrote", func(t *testing.T) {
			near, far, now := memoryStore(), newSlowStore(time.Second), time.Now()
			tiers := newTiers(t, nil, near, far)
			start := time.Now()
			for i := range 10 {
				putBody(t, tiers, fmt.Sprint(i), answer(fmt.Sprint(i), now, 0), now)
			}
			if err := near.Delete(t.Context(), purgeKey("9")); err != nil { // as if it had made room
				t.Fatal(err)
			}
			if got := body(t, tiers, "9", now); got != "9" || time.Since(start) != 0 {
				t.Errorf("got %q after %v", got, time.Since(start))
			}
			time.Sleep(3*time.Second + 1) // ten writes by four workers
			if far.Stats().Entries != 10 {
				t.Errorf("%d entries behind", far.Stats().Entries)
			}
		}},
		{"an entry that was put and deleted is nowhere in the end", func(t *testing.T) {
			for _, pause := range []time.Duration{0, time.Millisecond, 2 * time.Second} { // waiting, being written, written
				near, far, now := memoryStore(), newSlowStore(time.Second), time.Now()
				tiers := newTiers(t, nil, near, far)
				putBody(t, tiers, "x", answer("x", now, 0), now)
				time.Sleep(pause)
				if err := tiers.Delete(t.Context(), purgeKey("x")); err != nil {
					t.Error(err)
				}
				if got := body(t, tiers, "x", now); got != "" {
					t.Errorf("after %v: got %q behind Delete", pause, got)
				}
				time.Sleep(5 * time.Second)
				if near.Stats().Entries+far.Stats().Entries != 0 {
					t.Errorf("after %v: it came back: %s", pause, far.done())
				}
			}
		}},
		{"also where the deleter would not wait", func(t *testing.T) {
			near, far, now := memoryStore(), newSlowStore(time.Second), time.Now()
			tiers := newTiers(t, nil, near, far)
			putBody(t, tiers, "x", answer("x", now, 0), now)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if err := tiers.Delete(ctx, purgeKey("x")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if got := body(t, tiers, "x", now); got != "" {
				t.Errorf("got %q behind Delete", got)
			}
			time.Sleep(5 * time.Second)
			if got := far.done(); got != "put x, delete" || far.Stats().Entries != 0 {
				t.Errorf("done: %s", got)
			}
		}},
		{"of many writes to one key the last stays, and no two overlap", func(t *testing.T) {
			near, far, now := memoryStore(), newSlowStore(time.Second), time.Now()
			tiers := newTiers(t, nil, near, far)
			for i := range 9 {
				putBody(t, tiers, "x", answer(fmt.Sprint(i), now, 0), now)
				time.Sleep(300 * time.Millisecond)
			}
			time.Sleep(5 * time.Second)
			if got := body(t, far, "x", now); got != "8" || far.overlapped() {
				t.Errorf("behind is %q, overlapping writes: %v; done: %s", got, far.overlapped(), far.done())
			}
		}},
		{"what is found late does not replace what was put meanwhile", func(t *testing.T) {
			near, middle, far, now := memoryStore(), memoryStore(), &lateStore{MemoryStore: memoryStore()}, time.Now()
			tiers := newTiers(t, nil, near, middle, far)
			putBody(t, far, "x", answer("old", now, 2*time.Minute), now)
			var wg sync.WaitGroup
			wg.Go(func() { body(t, tiers, "x", now) })
			synctest.Wait()
			putBody(t, tiers, "x", answer("new", now, 0), now)
			wg.Wait()
			if got := body(t, near, "x", now); got == "old" {
				t.Error("the first tier has the old one again")
			}
			synctest.Wait()
			if got := body(t, middle, "x", now); got != "new" {
				t.Errorf("the middle tier has %q", got)
			}
			if got := body(t, tiers, "x", now); got != "new" {
				t.Errorf("got %q", got)
			}
		}},
		{"and does not come back when it was deleted meanwhile", func(t *testing.T) {
			near, far, now := memoryStore(), &lateStore{MemoryStore: memoryStore()}, time.Now()
			tiers := newTiers(t, nil, near, far)
			putBody(t, far, "x", answer("old", now, 0), now)
			var wg sync.WaitGroup
			wg.Go(func() { body(t, tiers, "x", now) })
			synctest.Wait()
			if err := tiers.Delete(t.Context(), purgeKey("x")); err != nil {
				t.Error(err)
			}
			wg.Wait()
			if got := body(t, near, "x", now); got != "" {
				t.Errorf("the first tier has %q", got)
			}
		}},
		{"what is purged while it waits is not written", func(t *testing.T) {
			far, now := newSlowStore(time.Second), time.Now()
			p := newPurges(t, cache.PurgeOptions{})
			tiers := newTiers(t, p, memoryStore(), far)
			for i := range 10 {
				putBody(t, tiers, fmt.Sprint(i), answer(fmt.Sprint(i), now, 0), now)
			}
			synctest.Wait()
			purge(t, p, "all")
			time.Sleep(5 * time.Second)
			if got := far.Stats().Entries; got != 4 {
				t.Errorf("%d entries behind, want the four that were being written", got)
			}
		}},
		{"a sweep reaches what waits and what is being written", func(t *testing.T) {
			near, far, now := memoryStore(), newSlowStore(time.Second), time.Now()
			tiers := newTiers(t, nil, near, far)
			for i := range 10 {
				putBody(t, tiers, fmt.Sprint(i), answer(fmt.Sprint(i), now, 0), now)
			}
			synctest.Wait()
			if n, err := tiers.Sweep(t.Context(), func(*cache.Meta) bool { return true }); n != 20 || err != nil {
				t.Errorf("%d, %v: want ten in the first tier, six that waited, and four that were being written", n, err)
			}
			time.Sleep(5 * time.Second)
			if got := far.Stats().Entries; got != 0 {
				t.Errorf("%d entries came behind the sweep", got)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, c.run) })
	}
}

// lateStore answers reads a second after it looked.
type lateStore struct{ *cache.MemoryStore }

func (s *lateStore) Get(ctx context.Context, key cache.Key, now time.Time) (*cache.Entry, error) {
	e, err := s.MemoryStore.Get(ctx, key, now)
	time.Sleep(time.Second)
	return e, err
}

// sharedStore is one that other instances write to.
type sharedStore struct {
	lateStore
	purgeLog
}

func TestTiersAreBounded(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"at 256 entries", func(t *testing.T) {
			far, now := newSlowStore(time.Second), time.Now()
			tiers := newTiers(t, nil, memoryStore(), far)
			for i := range 300 {
				putBody(t, tiers, fmt.Sprint(i), answer(fmt.Sprint(i), now, 0), now)
			}
			if got, want := tiers.Stats(), (cache.TierStats{Queued: 256, Dropped: 44}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			time.Sleep(65 * time.Second)
			if got, want := tiers.Stats(), (cache.TierStats{Dropped: 44}); got != want || far.Stats().Entries != 256 {
				t.Errorf("%+v, want %+v, with %d entries behind", got, want, far.Stats().Entries)
			}
		}},
		{"at 64 MiB", func(t *testing.T) {
			near, now := memoryStore(), time.Now()
			tiers := newTiers(t, nil, near, newSlowStore(time.Second))
			for i := range 10 {
				e := answer("", now, 0)
				e.Body = make([]byte, 10<<20)
				putBody(t, tiers, fmt.Sprint(i), e, now)
			}
			if got, want := tiers.Stats(), (cache.TierStats{Queued: 6, Dropped: 4}); got != want || near.Stats().Entries != 10 {
				t.Errorf("%+v, want %+v, and %d entries in the first tier", got, want, near.Stats().Entries)
			}
		}},
		{"one that does not fit any more takes what waits for its key along", func(t *testing.T) {
			far, now := newSlowStore(time.Second), time.Now()
			tiers := newTiers(t, nil, memoryStore(), far)
			for i := range 256 {
				putBody(t, tiers, fmt.Sprint(i), answer("first", now, 0), now)
			}
			big := answer("", now, 0)
			big.Body = make([]byte, 64<<20)
			putBody(t, tiers, "255", big, now)
			time.Sleep(65 * time.Second)
			if got := body(t, far, "255", now); got != "" {
				t.Errorf("behind is %q, which is older than what the first tier has", got)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, c.run) })
	}
}

func TestTiersClose(t *testing.T) {
	t.Run("writes what waits, and takes no more", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far, now := memoryStore(), newSlowStore(time.Second), time.Now()
			tiers := newTiers(t, nil, near, far)
			for i := range 12 {
				putBody(t, tiers, fmt.Sprint(i), answer(fmt.Sprint(i), now, 0), now)
			}
			if err := tiers.Close(); err != nil || far.Stats().Entries != 12 {
				t.Errorf("%v, with %d entries behind", err, far.Stats().Entries)
			}
			putBody(t, tiers, "late", answer("late", now, 0), now)
			if got := body(t, tiers, "late", now); got != "late" || body(t, far, "late", now) != "" {
				t.Errorf("a late entry: got %q", got)
			}
		})
	})
	t.Run("gives up after five seconds, and says so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			now, start := time.Now(), time.Now()
			tiers := cache.NewTiers(nil, memoryStore(), newSlowStore(2*time.Second))
			for i := range 20 {
				putBody(t, tiers, fmt.Sprint(i), answer(fmt.Sprint(i), now, 0), now)
			}
			err := tiers.Close()
			if err == nil || err.Error() != "cache: 8 entries were not written to the tiers behind the first within 5s" {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took != 5*time.Second {
				t.Errorf("after %v", took)
			}
		})
	})
}

// Whatever is done to few keys through slow tiers, the end is as in a map.
func TestTiersEndAsWritten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 11), 1, 40).Draw(rt, "steps")
		var wrong []string
		synctest.Test(t, func(t *testing.T) {
			far, now := newSlowStore(3*time.Millisecond), time.Now()
			tiers := newTiers(t, nil, memoryStore(), far)
			want := map[string]string{}
			for i, step := range steps {
				name := fmt.Sprint(step % 3)
				switch step / 3 {
				case 0, 1:
					want[name] = fmt.Sprint(i)
					putBody(t, tiers, name, answer(want[name], now, 0), now)
				case 2:
					delete(want, name)
					if err := tiers.Delete(t.Context(), purgeKey(name)); err != nil {
						t.Error(err)
					}
				case 3:
					time.Sleep(time.Millisecond)
				}
				if got := body(t, tiers, name, now); got != want[name] {
					wrong = append(wrong, fmt.Sprintf("after step %d key %s is %q, want %q", i, name, got, want[name]))
				}
			}
			time.Sleep(time.Second)
			for _, name := range []string{"0", "1", "2"} {
				if got := body(t, far, name, now); got != want[name] || far.overlapped() {
					wrong = append(wrong, fmt.Sprintf("behind, key %s is %q in the end, want %q; overlap: %v", name, got, want[name], far.overlapped()))
				}
			}
		})
		if wrong != nil {
			rt.Fatal(wrong)
		}
	})
}
