package storetest

import (
	"context"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

// Cache tests a cache.Store. open makes an empty store with room for at least
// 1 MiB; what it needs to close, it registers with t.Cleanup.
func Cache(t *testing.T, open func(t *testing.T) cache.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s cache.Store)
	}{
		{"gives back what was put, and nothing else", getPut},
		{"gives back the newest entry of a key", putAgain},
		{"forgets an entry at the moment it expires", expiry},
		{"serves many readers and writers at once", concurrentCache},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
	t.Run("never gives an expired or another entry", func(t *testing.T) { cacheModel(t, open) })
}

func cacheKey(s string) cache.Key {
	k := cache.NewKeyHash()
	k.Add(s)
	return k.Sum()
}

func entry(body string, made time.Time, ttl time.Duration) *cache.Entry {
	return &cache.Entry{
		Status:  200,
		Header:  http.Header{"Content-Type": {"text/plain"}, "X-Many": {"a", "b"}},
		Body:    []byte(body),
		ETag:    `"` + strconv.Itoa(len(body)) + `"`,
		Made:    made.UTC().Truncate(time.Millisecond),
		Expires: made.Add(ttl).UTC().Truncate(time.Millisecond),
		Until:   made.Add(ttl).UTC().Truncate(time.Millisecond),
		Took:    20 * time.Millisecond,
	}
}

func getEntry(t testing.TB, s cache.Store, key string, now time.Time) *cache.Entry {
	t.Helper()
	e, err := s.Get(context.Background(), cacheKey(key), now)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func putEntry(t testing.TB, s cache.Store, key string, e *cache.Entry, now time.Time) {
	t.Helper()
	if err := s.Put(context.Background(), cacheKey(key), e, now); err != nil {
		t.Fatal(err)
	}
}

func getPut(t *testing.T, s cache.Store) {
	now := time.Now().Truncate(time.Second)
	if e := getEntry(t, s, "a", now); e != nil {
		t.Fatalf("an empty store has %+v", e)
	}
	a, empty := entry("answer a", now, time.Minute), entry("", now, time.Minute)
	putEntry(t, s, "a", a, now)
	putEntry(t, s, "empty", empty, now)
	for key, want := range map[string]*cache.Entry{"a": a, "empty": empty, "b": nil} {
		got := getEntry(t, s, key, now)
		if (got == nil) != (want == nil) || got != nil && (got.Status != want.Status || string(got.Body) != string(want.Body) ||
			got.ETag != want.ETag || !got.Made.Equal(want.Made) || !got.Expires.Equal(want.Expires) || got.Took != want.Took ||
			!reflect.DeepEqual(got.Header, want.Header)) {
			t.Errorf("key %s\n got %+v\nwant %+v", key, got, want)
		}
	}
}

func putAgain(t *testing.T, s cache.Store) {
	now := time.Now()
	for _, body := range []string{"first", "second", "third and longest"} {
		putEntry(t, s, "a", entry(body, now, time.Minute), now)
		if e := getEntry(t, s, "a", now); e == nil || string(e.Body) != body {
			t.Fatalf("after putting %q: %+v", body, e)
		}
	}
}

func expiry(t *testing.T, s cache.Store) {
	now := time.Now().Truncate(time.Second)
	putEntry(t, s, "a", entry("a", now, time.Minute), now)
	if getEntry(t, s, "a", now.Add(time.Minute-time.Millisecond)) == nil {
		t.Error("gone before it expired")
	}
	if e := getEntry(t, s, "a", now.Add(time.Minute)); e != nil {
		t.Errorf("given when it had expired: %+v", e)
	}
}

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

// cacheModel puts and gets at random beside a map that forgets nothing. A store
// may have forgotten; it may not remember what is not so.
func cacheModel(t *testing.T, open func(t *testing.T) cache.Store) {
	s, now := open(t), time.Now().Truncate(time.Second)
	model := map[string]*cache.Entry{}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 50).Draw(rt, "steps") {
			key := strconv.Itoa(rapid.IntRange(0, 30).Draw(rt, "key"))
			if rapid.Bool().Draw(rt, "put") {
				body := rapid.StringN(0, 2000, 20_000).Draw(rt, "body")
				e := entry(body, now, time.Duration(rapid.IntRange(1, 100).Draw(rt, "ttl"))*time.Second)
				putEntry(t, s, key, e, now)
				model[key] = e
				continue
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(rt, "pause")) * time.Second)
			got, want := getEntry(t, s, key, now), model[key]
			if got != nil && (want == nil || string(got.Body) != string(want.Body) || !want.Fresh(now)) {
				rt.Fatalf("key %s: got %q, the model has %+v", key, got.Body, want)
			}
		}
	})
}
