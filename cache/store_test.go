package cache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/storetest"
)

func TestMemoryStore(t *testing.T) {
	storetest.Cache(t, func(*testing.T) cache.Store { return cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: 48 << 20}) })
}

func TestDirStore(t *testing.T) {
	storetest.Cache(t, func(t *testing.T) cache.Store {
		return openDir(t, cache.DirOptions{Path: t.TempDir(), MaxBytes: 48 << 20})
	})
}

func openDir(t testing.TB, o cache.DirOptions) *cache.DirStore {
	t.Helper()
	s, err := cache.OpenDir(o)
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

func key(s string) cache.Key {
	k := cache.NewKeyHash()
	k.Add(s)
	return k.Sum()
}

func TestMemoryStoreKeepsToItsBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const most = 64 << 10
		s, now := cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: most}), time.Now()
		sizes := map[string]int64{}
		for i := range rapid.IntRange(1, 200).Draw(rt, "steps") {
			name := strconv.Itoa(rapid.IntRange(0, 99).Draw(rt, "key"))
			e := &cache.Entry{
				Body:  make([]byte, rapid.IntRange(0, most+1000).Draw(rt, "size")),
				Until: now.Add(time.Duration(rapid.IntRange(-1, 10).Draw(rt, "ttl")) * time.Second),
				Took:  time.Duration(i) * time.Millisecond,
			}
			err := s.Put(context.Background(), key(name), e, now)
			if (err != nil) != (e.Size() > most) {
				rt.Fatalf("an entry of %d bytes in a store of %d: %v", e.Size(), most, err)
			}
			if err == nil {
				sizes[name] = e.Size()
			}
			now = now.Add(100 * time.Millisecond)
			var held int64
			n := 0
			for name, size := range sizes {
				if got, _ := s.Get(context.Background(), key(name), now.Add(-time.Hour)); got != nil {
					held, n = held+size, n+1
				}
			}
			if st := s.Stats(); st.Bytes > most || st.Bytes != held || st.Entries != n {
				rt.Fatalf("%+v with %d entries of %d bytes in a store of %d", st, n, held, most)
			}
		}
	})
}

func TestMemoryStoreGivesUpWhatSavesLeast(t *testing.T) {
	s, now := cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: 100 << 10}), time.Now()
	put := func(name string, size int, took time.Duration) {
		t.Helper()
		e := &cache.Entry{Body: make([]byte, size), Until: now.Add(time.Hour), Took: took}
		if err := s.Put(context.Background(), key(name), e, now); err != nil {
			t.Fatal(err)
		}
	}
	has := func(name string) bool {
		e, _ := s.Get(context.Background(), key(name), now)
		return e != nil
	}
	put("slow and small", 1<<10, 3*time.Second)
	put("slow and large", 30<<10, 3*time.Second)
	for i := range 200 { // 200 quick answers of 10 KiB do not displace them
		put("quick "+strconv.Itoa(i), 10<<10, 5*time.Millisecond)
	}
	if !has("slow and small") || !has("slow and large") {
		t.Error("quick answers displaced one that took 3 s")
	}
	if has("quick 0") || !has("quick 199") {
		t.Error("of equal answers the older one was kept")
	}
	if s.Stats().Evictions == 0 {
		t.Error("no eviction was counted")
	}
	// What was worth most once does not stay for ever.
	for i := range 60_000 {
		put("new "+strconv.Itoa(i), 10<<10, 20*time.Millisecond)
	}
	if s.Stats().Entries == 0 || has("slow and large") {
		t.Error("an answer that nobody asked for again outlived 60,000 others")
	}
}

func TestMemoryStoreGivesUpExpiredEntriesFirst(t *testing.T) {
	s, now := cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: 50 << 10}), time.Now()
	put := func(name string, ttl, took time.Duration) {
		t.Helper()
		e := &cache.Entry{Body: make([]byte, 10<<10), Until: now.Add(ttl), Took: took}
		if err := s.Put(context.Background(), key(name), e, now); err != nil {
			t.Fatal(err)
		}
	}
	put("expensive but expired", time.Second, time.Hour)
	for i := range 3 {
		put("cheap "+strconv.Itoa(i), time.Hour, time.Millisecond)
	}
	now = now.Add(2 * time.Second)
	put("another", time.Hour, time.Millisecond)
	if st := s.Stats(); st.Evictions != 0 || st.Entries != 4 {
		t.Errorf("%+v: want the expired entry gone and four fresh ones kept", st)
	}
}

// However parts are gathered before they are hashed, the key is SHA-256 over
// every part behind its length.
func TestKeyHash(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k, plain := cache.NewKeyHash(), sha256.New()
		for range rapid.IntRange(0, 20).Draw(rt, "parts") {
			part := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "byte")}, rapid.IntRange(0, 1500).Draw(rt, "length"))
			_ = binary.Write(plain, binary.BigEndian, uint64(len(part)))
			plain.Write(part)
			if rapid.Bool().Draw(rt, "as text") {
				k.Add(string(part))
			} else {
				k.AddBytes(part)
			}
		}
		if got := k.Sum(); !bytes.Equal(got[:], plain.Sum(nil)) {
			rt.Fatalf("got %x, want %x", got, plain.Sum(nil))
		}
	})
}
