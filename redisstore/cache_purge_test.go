package redisstore_test

import (
	"context"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// reports are what Follow reported.
type reports struct {
	mu  sync.Mutex
	all []cache.PurgeState
}

func (r *reports) add(s cache.PurgeState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, s)
}

// last is the newest report, and how many there are.
func (r *reports) last() (s cache.PurgeState, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n = len(r.all); n > 0 {
		s = r.all[n-1]
	}
	return s, n
}

// numbers are the numbers of all reports.
func (r *reports) numbers() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []uint64
	for _, s := range r.all {
		all = append(all, s.Seq)
	}
	return all
}

// follow follows the log until the test ends, and waits for the first report.
func follow(t testing.TB, c *redisstore.CacheStore) *reports {
	t.Helper()
	r := &reports{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.Follow(ctx, r.add) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	storetest.Eventually(t, soon, "the log is told", func() bool { _, n := r.last(); return n > 0 })
	return r
}

// tells waits until the last report is want.
func tells(t testing.TB, r *reports, want cache.PurgeState) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for {
		got, _ := r.last()
		if len(got.Labels) == 0 {
			got.Labels = nil
		}
		if reflect.DeepEqual(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("told %+v, want %+v", got, want)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// purge appends a purge and checks its number.
func purge(t testing.TB, c *redisstore.CacheStore, known, want uint64, labels ...string) {
	t.Helper()
	if got, err := c.Append(context.Background(), labels, known); err != nil || got != want {
		t.Fatalf("purge of %.60q after %d: number %d, %v; want %d", labels, known, got, err, want)
	}
}

func TestPurgeLog(t *testing.T) {
	for _, masters := range []int{1, 3} {
		t.Run("tells every instance of every purge, on "+strconv.Itoa(masters)+" servers", func(t *testing.T) {
			t.Parallel()
			url, _ := serve(t, masters)
			a, b := openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{})
			at, bt := follow(t, a), follow(t, b)
			tells(t, at, cache.PurgeState{})
			purge(t, a, 0, 1, "tag:llama")
			for _, r := range []*reports{at, bt} {
				tells(t, r, cache.PurgeState{Seq: 1, Labels: map[string]uint64{"tag:llama": 1}})
			}
			purge(t, b, 0, 2, "path:/v1/*", "=seq", "")
			purge(t, b, 2, 3, "tag:llama")
			purge(t, a, 100, 101, "caller:key:alice")
			for _, r := range []*reports{at, bt} {
				tells(t, r, cache.PurgeState{Seq: 101, Labels: map[string]uint64{"tag:llama": 3, "path:/v1/*": 2, "=seq": 2, "": 2, "caller:key:alice": 101}})
			}
			purge(t, b, 0, 102, "tag:x", "all")
			late := follow(t, openCache(t, redisstore.Options{URL: url}, redisstore.CacheOptions{}))
			for _, r := range []*reports{at, bt, late} {
				tells(t, r, cache.PurgeState{Seq: 102, Floor: 102})
			}
			if all := bt.numbers(); !slices.IsSorted(all) {
				t.Errorf("told out of order: %v", all)
			}
		})
	}
}

func TestPurgeLogNumbers(t *testing.T) {
	t.Run("numbers the purges of many instances one after the other", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var mu sync.Mutex
		var all []uint64
		var wg sync.WaitGroup
		var told []*reports
		for i := range 2 {
			c := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
			told = append(told, follow(t, c))
			for j := range 4 {
				wg.Go(func() {
					known := uint64(0)
					for k := range 25 {
						seq, err := c.Append(context.Background(), []string{"tag:" + strconv.Itoa(100*i+25*j+k)}, known)
						if err != nil || seq <= known {
							t.Errorf("number %d after %d, %v", seq, known, err)
							return
						}
						known = seq
						mu.Lock()
						all = append(all, seq)
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		slices.Sort(all)
		if len(all) != 200 || len(slices.Compact(all)) != 200 || all[199] != 200 {
			t.Errorf("%d numbers, up to %d, want each from 1 to 200", len(all), all[len(all)-1])
		}
		for _, r := range told {
			storetest.Eventually(t, soon, "all 200 are told", func() bool { s, _ := r.last(); return s.Seq == 200 && len(s.Labels) == 200 })
			if !slices.IsSorted(r.numbers()) {
				t.Errorf("told out of order: %v", r.numbers())
			}
		}
	})
}

func TestPurgeLogFull(t *testing.T) {
	t.Run("purges everything when there are too many labels to list", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		c := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		r := follow(t, c)
		labels := make([]string, redisstore.MaxLabels)
		for i := range labels {
			labels[i] = "tag:" + strconv.Itoa(i)
		}
		purge(t, c, 0, 1, labels...)
		storetest.Eventually(t, soon, "all labels are told", func() bool { s, _ := r.last(); return len(s.Labels) == redisstore.MaxLabels && s.Floor == 0 })
		purge(t, c, 1, 2, "tag:0") // is listed
		storetest.Eventually(t, soon, "all labels are told", func() bool { s, _ := r.last(); return s.Seq == 2 && s.Floor == 0 })
		purge(t, c, 2, 3, "tag:one more")
		tells(t, r, cache.PurgeState{Seq: 3, Floor: 3})
		purge(t, c, 3, 4, "tag:next")
		tells(t, r, cache.PurgeState{Seq: 4, Floor: 3, Labels: map[string]uint64{"tag:next": 4}})
		if _, err := c.Append(context.Background(), make([]string, redisstore.MaxLabels+1), 0); err == nil || !strings.Contains(err.Error(), "want at most") {
			t.Errorf("too many labels at once: %v", err)
		}
		if _, err := c.Append(context.Background(), []string{"tag:x"}, 1<<60); err == nil || !strings.Contains(err.Error(), "want at most") {
			t.Errorf("a number that no script can count to: %v", err)
		}
	})
}

func TestPurgeLogSoon(t *testing.T) {
	t.Run("reaches the other instance within milliseconds, one purge after the other", func(t *testing.T) {
		server := storetest.Redis(t)
		a, b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		told := make(chan uint64, 1000)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { b.Follow(ctx, func(s cache.PurgeState) { told <- s.Seq }) })
		defer func() { cancel(); wg.Wait() }()
		<-told
		var took []time.Duration
		for i := range uint64(40) {
			began := time.Now()
			purge(t, a, i, i+1, "tag:"+strconv.FormatUint(i, 10))
			for <-told != i+1 {
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		t.Logf("from %v, median %v, to %v", took[0], took[20], took[39])
		// Not the median: another test may have the machine for a while.
		if took[10] > 25*time.Millisecond {
			t.Errorf("one of four purges was told within %v, want a few milliseconds", took[10])
		}
	})
	t.Run("reads a log that is long less often", func(t *testing.T) {
		got := []time.Duration{redisstore.PauseAfter(0), redisstore.PauseAfter(time.Millisecond), redisstore.PauseAfter(time.Minute)}
		if want := []time.Duration{2 * time.Millisecond, 8 * time.Millisecond, 50 * time.Millisecond}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

func TestPurgeLogOnAFullServer(t *testing.T) {
	t.Run("takes a purge, and tells it", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		a, b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		r := follow(t, b)
		lease := leads(t, a, "k")
		server.MustDo("CONFIG", "SET", "maxmemory", "1")
		purge(t, a, 0, 1, "tag:llama")
		tells(t, r, cache.PurgeState{Seq: 1, Labels: map[string]uint64{"tag:llama": 1}})
		purge(t, b, 7, 8, "tag:x", "tag:y")
		tells(t, r, cache.PurgeState{Seq: 8, Labels: map[string]uint64{"tag:llama": 1, "tag:x": 8, "tag:y": 8}})
		purge(t, a, 0, 9, "all")
		tells(t, r, cache.PurgeState{Seq: 9, Floor: 9})
		if lease(true); server.MustDo("EXISTS", a.LeaseKey(cacheKey("k"))) != "0" {
			t.Error("a lease can not be ended")
		}
	})
	t.Run("says so where the server is before Redis 7, and purges nothing", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var seen observed
		c := openCache(t, redisstore.Options{URL: server.URL(), Observe: seen.observe}, redisstore.CacheOptions{})
		c.AsBefore7()
		purge(t, c, 0, 1, "tag:llama")
		server.MustDo("CONFIG", "SET", "maxmemory", "1")
		for range 3 * redisstore.DefaultBreakerFailures {
			if n, err := c.Append(context.Background(), []string{"tag:x"}, 1); n != 0 || err == nil || !strings.Contains(err.Error(), "OOM") {
				t.Fatalf("number %d, %v: want what the server said", n, err)
			}
		}
		if !c.Healthy() || seen.of(redisstore.OpCachePurge, redisstore.Memory) != 3*redisstore.DefaultBreakerFailures {
			t.Error("want each told as a lack of memory, and the breaker closed")
		}
		server.MustDo("CONFIG", "SET", "maxmemory", "0")
		purge(t, c, 1, 2, "tag:x")
	})
}

func TestPurgeLogAway(t *testing.T) {
	t.Run("tells after an outage what was purged meanwhile, and without messages as well", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		o := redisstore.Options{URL: server.URL(), Deadline: 200 * time.Millisecond}
		a, b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{}), openCache(t, o, redisstore.CacheOptions{})
		r := follow(t, b)
		for i := range uint64(5) {
			server.MustDo("CLIENT", "KILL", "TYPE", "pubsub")
			server.MustDo("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			storetest.Eventually(t, soon, "a purges", func() bool {
				_, err := a.Append(context.Background(), []string{"tag:" + strconv.Itoa(int(i))}, i)
				return err == nil
			})
			storetest.Eventually(t, soon, "b is told", func() bool { s, _ := r.last(); return s.Labels["tag:"+strconv.Itoa(int(i))] > i })
		}
		before, _ := r.last()
		server.Pause()
		cacheOutage(t, b, 200*time.Millisecond)
		server.Resume()
		works(t, a)
		purge(t, a, before.Seq+100, before.Seq+101, "tag:paused")
		storetest.Eventually(t, soon, "b is told", func() bool { s, _ := r.last(); return s.Labels["tag:paused"] == before.Seq+101 })

		server.MustDo("ACL", "SETUSER", "default", "resetchannels")
		server.MustDo("CLIENT", "KILL", "TYPE", "pubsub")
		storetest.Eventually(t, soon, "no messages arrive", func() bool { return !a.Listening() && !b.Listening() })
		storetest.Eventually(t, soon, "a purges", func() bool { _, err := a.Append(context.Background(), []string{"tag:silent"}, 0); return err == nil })
		storetest.Eventually(t, soon, "b is told", func() bool { s, _ := r.last(); return s.Labels["tag:silent"] > 0 })
	})
}

func TestPurgeLogLost(t *testing.T) {
	t.Run("tells that the log was lost, however long the next one is", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		a, b := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{}), openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		r := follow(t, a)
		for i := range uint64(3) {
			purge(t, b, i, i+1, "tag:x")
		}
		tells(t, r, cache.PurgeState{Seq: 3, Labels: map[string]uint64{"tag:x": 3}})
		server.MustDo("FLUSHALL")
		tells(t, r, cache.PurgeState{})
		// b has seen number 3: what was purged until then is lost, so that all is.
		purge(t, b, 0, 4, "tag:y")
		tells(t, r, cache.PurgeState{Seq: 4, Floor: 4})

		fresh := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		_, reported := r.last()
		server.MustDo("FLUSHALL")
		for i := range uint64(9) {
			purge(t, fresh, i, i+1, "tag:z")
		}
		tells(t, r, cache.PurgeState{Seq: 9, Labels: map[string]uint64{"tag:z": 9}})
		if all := r.numbers()[reported:]; slices.Min(all) >= 4 {
			t.Errorf("told %v: none smaller than 4 says that the log was lost", all)
		}
	})
	t.Run("ends with its context, and with the cache", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		c := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{}, 2)
		for _, ctx := range []context.Context{ctx, context.Background()} {
			go func() {
				c.Follow(ctx, func(cache.PurgeState) {})
				ended <- struct{}{}
			}()
		}
		cancel()
		<-ended
		c.Close()
		<-ended
	})
}

func TestPurgesAcrossInstances(t *testing.T) {
	server := storetest.Redis(t)
	var both [2]*cache.Purges
	for i := range both {
		c := openCache(t, redisstore.Options{URL: server.URL()}, redisstore.CacheOptions{})
		p, err := cache.NewPurges(cache.PurgeOptions{Log: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		both[i] = p
	}
	a, b := both[0], both[1]
	llama, other := cache.Meta{Labels: []string{"tag:llama"}, Epoch: b.Epoch()}, cache.Meta{Labels: []string{"tag:other"}, Epoch: b.Epoch()}
	if b.Purged(&llama, cacheKey("k")) || b.Purged(&other, cacheKey("k")) {
		t.Fatal("purged before anybody purged anything")
	}
	if _, err := a.Purge(context.Background(), "tag:llama"); err != nil || !a.Purged(&llama, cacheKey("k")) {
		t.Fatalf("not purged where it was asked for: %v", err)
	}
	storetest.Eventually(t, soon, "the purge reaches the other instance", func() bool { return b.Purged(&llama, cacheKey("k")) })
	if b.Purged(&other, cacheKey("k")) {
		t.Error("purged without a reason")
	}
	server.MustDo("FLUSHALL")
	storetest.Eventually(t, soon, "everything is purged where the log is lost", func() bool { return a.Purged(&other, cacheKey("k")) && b.Purged(&other, cacheKey("k")) })
}
