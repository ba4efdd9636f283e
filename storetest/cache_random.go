package storetest

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

func concurrentCache(t *testing.T, s cache.Store) {
	now := time.Now()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 300 {
				key := strconv.Itoa((i + j) % 20)
				if err := s.Put(context.Background(), cacheKey(key), entry(key, now, time.Minute), now); err != nil {
					t.Error(err)
				}
				if e, err := s.Get(context.Background(), cacheKey(key), now); err != nil || e == nil || string(e.Body) != key {
					t.Errorf("key %s: %+v, %v", key, e, err)
				}
			}
		})
	}
	wg.Wait()
}

// Each entry says in every part whose it is and which: what is got must be one
// entry that was put under the key, not parts of two.
func concurrentDeletes(t *testing.T, s cache.Store) {
	now := time.Now()
	versioned := func(key string, version int) *cache.Entry {
		text := key + "," + strconv.Itoa(version)
		e := entry(strings.Repeat(text+"\n", 1+version*37%400), now, time.Minute)
		e.ETag, e.Labels, e.Epoch = `"`+text+`"`, []string{text}, uint64(version)
		return e
	}
	var wg sync.WaitGroup
	for i := range 6 {
		random := rand.New(rand.NewPCG(uint64(i), 0))
		wg.Go(func() {
			for version := range 200 {
				key := strconv.Itoa(random.IntN(5))
				var err error
				switch random.IntN(4) {
				case 0:
					err = s.Delete(context.Background(), cacheKey(key))
				case 1, 2:
					err = s.Put(context.Background(), cacheKey(key), versioned(key, version), now)
				default:
					var got *cache.Entry
					if got, err = s.Get(context.Background(), cacheKey(key), now); got != nil {
						wantEntry(t, "key "+key, got, versioned(key, int(got.Epoch)))
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for key := range 5 {
		e := versioned(strconv.Itoa(key), 1000)
		putEntry(t, s, strconv.Itoa(key), e, now)
		wantEntry(t, "when all is quiet", getEntry(t, s, strconv.Itoa(key), now), e)
	}
}

// cacheModel puts, deletes and gets at random beside a map that forgets nothing. A
// store may have forgotten; it may not remember what is not so.
func cacheModel(t *testing.T, open func(t *testing.T) cache.Store) {
	s, now := open(t), time.Now().Truncate(time.Second)
	model := map[string]*cache.Entry{}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 50).Draw(rt, "steps") {
			key := strconv.Itoa(rapid.IntRange(0, 30).Draw(rt, "key"))
			switch rapid.SampledFrom([]string{"put", "put", "get", "get", "delete"}).Draw(rt, "what") {
			case "put":
				body := rapid.StringN(0, 2000, 20_000).Draw(rt, "body")
				e := entry(body, now, time.Duration(rapid.IntRange(1, 100).Draw(rt, "ttl"))*time.Second)
				e.Until = e.Expires.Add(time.Duration(rapid.IntRange(0, 100).Draw(rt, "stale")) * time.Second)
				e.Owner = rapid.SampledFrom([]string{"", "key:alice", "key:bob"}).Draw(rt, "owner")
				putEntry(rt, s, key, e, now)
				model[key] = e
			case "delete":
				if err := s.Delete(context.Background(), cacheKey(key)); err != nil {
					rt.Fatal(err)
				}
				delete(model, key)
			default:
				now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(rt, "pause")) * time.Second)
				got, want := getEntry(rt, s, key, now), model[key]
				if got == nil {
					continue
				}
				if want == nil || !want.Useful(now) {
					rt.Fatalf("key %s: got %q, the model has %+v", key, got.Body, want)
				}
				wantEntry(rt, "key "+key, got, want)
			}
		}
	})
}
