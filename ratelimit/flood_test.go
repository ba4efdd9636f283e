package ratelimit

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

func prepared(t testing.TB, p Policy) *Policy {
	t.Helper()
	ready, err := p.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return ready
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func floodSize() int {
	if testing.Short() {
		return 100_000
	}
	return 1_000_000
}

// Stores are known that forget who is blocked when enough other keys come, and
// others that keep a little of every key that ever came.
func TestAKeyFloodNeitherFreesWhoIsBlockedNorTakesMemory(t *testing.T) {
	ctx, n := context.Background(), floodSize()
	for _, algorithm := range []string{TokenBucket, SlidingWindow, FixedWindow} {
		t.Run(algorithm, func(t *testing.T) {
			now := time.Now().Round(0)
			now = now.Add(time.Hour - time.Duration(now.UnixNano())%time.Hour) // an hour begins
			hour := prepared(t, Policy{Name: "hour", Quota: 10, Window: time.Hour, Algorithm: algorithm})
			// The flood's policy has a window that is 24 times as long, so its debts
			// are larger in time and yet smaller in what they are worth.
			day := prepared(t, Policy{Name: "day", Quota: 10, Window: 24 * time.Hour, Algorithm: algorithm})
			store := NewMemoryStore(1 << 14)
			victim := []Take{{Policy: hour, Key: "victim", Cost: 10}}
			if allowed, err := store.Take(ctx, victim, now); err != nil || !allowed {
				t.Fatal(allowed, err)
			}
			victim[0].Cost = 1
			before, flood := heap(), make([]Take, 1)
			for i := range n {
				flood[0] = Take{Policy: day, Key: strconv.Itoa(i), Cost: 1}
				if _, err := store.Take(ctx, flood, now); err != nil {
					t.Fatal(err)
				}
				if i%1000 == 0 {
					if allowed, err := store.Take(ctx, victim, now); allowed || err != nil {
						t.Fatalf("the blocked caller was admitted after %d other keys: %v", i, err)
					}
				}
			}
			if after := heap(); after > before+(64<<10) {
				t.Errorf("the heap grew from %d to %d bytes", before, after)
			}
			if evicted := store.Evicted(); evicted < uint64(n)*8/10 {
				t.Errorf("%d keys in a table of 16,384 evicted only %d", n, evicted)
			}
			checkTables(t, store)
		})
	}
}

func TestAKeyFloodOfSlotsFreesNobodysAndTakesNoMemory(t *testing.T) {
	ctx, now, store := context.Background(), time.Now(), NewMemoryStore(1<<10)
	one := prepared(t, Policy{Name: "one", Concurrent: 1})
	victim := []Take{{Policy: one, Key: "victim", ID: "first", Cost: 1}}
	if allowed, err := store.Take(ctx, victim, now); err != nil || !allowed {
		t.Fatal(allowed, err)
	}
	victim[0].ID = "second"
	before, flood := heap(), make([]Take, 1)
	for i := range floodSize() {
		key := strconv.Itoa(i)
		flood[0] = Take{Policy: one, Key: key, ID: key, Cost: 1}
		if allowed, err := store.Take(ctx, flood, now); err != nil || !allowed {
			t.Fatal(allowed, err)
		}
		if i%1000 == 0 {
			if allowed, err := store.Take(ctx, victim, now); allowed || err != nil {
				t.Fatalf("a second slot of one was given after %d other keys: %v", i, err)
			}
		}
		flood[0].Cost = -1
		if err := store.Settle(ctx, flood, now); err != nil {
			t.Fatal(err)
		}
	}
	// What the 64 maps keep for the next keys is a few hundred bytes each.
	if after := heap(); after > before+(128<<10) {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	if store.Held() != 1 {
		t.Errorf("%d slots are held, want 1", store.Held())
	}
}

func TestMemoryStoreIsAsLargeAsItSays(t *testing.T) {
	for _, keys := range []int{1, 16, 1000, 1 << 14, 1<<14 + 1} {
		store, room := NewMemoryStore(keys), 16
		for room < keys {
			room *= 2
		}
		buckets := len(store.buckets.groups) * int(unsafe.Sizeof(group[[1]int64]{}))
		windows := len(store.windows().groups) * int(unsafe.Sizeof(group[[3]int64]{}))
		if buckets > room*32 || windows > room*80 {
			t.Errorf("room for %d counts takes %d and %d bytes, want at most 32 and 80 for each of %d", keys, buckets, windows, room)
		}
		if n := len(store.buckets.groups); n&(n-1) != 0 || n*slotsPerGroup < keys {
			t.Errorf("room for %d counts has %d groups of %d", keys, n, slotsPerGroup)
		}
	}
}

// checkTables fails unless every count stands once, in the group where it is
// looked for.
func checkTables(t testing.TB, s *MemoryStore) {
	t.Helper()
	checkTable(t, &s.buckets)
	checkTable(t, s.windows())
}

func checkTable[C cell](t testing.TB, table *table[C]) {
	t.Helper()
	for i := range table.groups {
		g := &table.groups[i]
		for j := range g.slots {
			a := &g.slots[j]
			for k := j + 1; k < slotsPerGroup; k++ {
				if b := &g.slots[k]; a.tag != 0 && a.tag>>scaleBits == b.tag>>scaleBits {
					t.Errorf("group %d: slots %d and %d are of the same count: %+v, %+v", i, j, k, *a, *b)
				}
			}
			// The bits of the tag that say the group, those below the scale's aside.
			if mask := uint64(len(table.groups)-1) &^ (1<<scaleBits - 1); a.tag != 0 && a.tag&mask != uint64(i)&mask {
				t.Errorf("group %d: slot %d has tag %x", i, j, a.tag)
			}
			if a.debt(0) < 0 {
				t.Errorf("group %d: slot %d has the debt %v", i, j, a.debt(0))
			}
		}
	}
}

func TestTableKeepsWhatItIsGivenUntilSomethingWeighsMore(t *testing.T) {
	random := rand.New(rand.NewPCG(10, 11))
	for range 200 {
		table, now := newTable[[3]int64](2), int64(1_000_000)
		plain := map[uint64][3]int64{} // by tag, without the scale
		for range 200 {
			now += random.Int64N(100)
			n := 1 + random.Uint64N(20)
			hash := n<<scaleBits | n&1
			g := &gauge{scale: uint8(1 + random.IntN(10))}
			tag, b := g.tag(hash), table.group(hash)
			value := [3]int64{now + random.Int64N(2000) - 200, random.Int64N(100), random.Int64N(100)}
			debts := map[uint64]float64{}
			for i := range b.slots {
				debts[b.slots[i].tag>>scaleBits] = b.slots[i].debt(now)
			}
			_, known := debts[tag>>scaleBits]
			evicted := b.put(tag, value, now)
			plain[tag>>scaleBits] = value
			if b.find(tag) != value {
				t.Fatalf("put %v, found %v", value, b.find(tag))
			}
			gone := 0
			for old, debt := range debts {
				if old == tag>>scaleBits || old == 0 || b.find(old<<scaleBits) == plain[old] {
					continue
				}
				gone++
				for other, more := range debts {
					if other != old && more < debt {
						t.Fatalf("the count with debt %v made room, and there was one with %v", debt, more)
					}
				}
				if evicted != (debt > 0) {
					t.Fatalf("a debt of %v made room, reported as %t", debt, evicted)
				}
			}
			if gone > 1 || known && gone > 0 {
				t.Fatalf("%d counts made room for one, which was known: %t", gone, known)
			}
			checkTable(t, &table)
		}
	}
}

func TestExactlyTheQuotaOfConcurrentCallersIsAdmitted(t *testing.T) {
	now := time.Now()
	for _, p := range []Policy{
		{Name: TokenBucket, Quota: 100, Window: time.Hour},
		{Name: SlidingWindow, Quota: 100, Window: time.Hour, Algorithm: SlidingWindow},
		{Name: FixedWindow, Quota: 100, Window: time.Hour, Algorithm: FixedWindow},
		{Name: "slots", Concurrent: 100},
	} {
		policy, store := prepared(t, p), NewMemoryStore(1<<10)
		for round := range 20 {
			var admitted atomic.Int64
			var wg sync.WaitGroup
			begin := make(chan struct{})
			for i := range 200 {
				wg.Go(func() {
					takes := []Take{{Policy: policy, Key: strconv.Itoa(round), ID: strconv.Itoa(i), Cost: 1}}
					<-begin
					if allowed, err := store.Take(context.Background(), takes, now); err != nil {
						t.Error(err)
					} else if allowed {
						admitted.Add(1)
					}
				})
			}
			close(begin)
			wg.Wait()
			if n := admitted.Load(); n != 100 {
				t.Fatalf("%s: admitted %d of 200 concurrent callers, want exactly 100", p.Name, n)
			}
		}
	}
}
