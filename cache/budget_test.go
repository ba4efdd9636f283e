package cache_test

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

// shelf is what a store of bounded bytes must do, told as simply as possible: it
// looks at all entries for every decision.
type shelf struct {
	max, share int64
	items      map[string]*shelved
	inflation  float64
	own        map[string]float64
	puts       int
	evictions  uint64
}

type shelved struct {
	name, owner string
	size        int64
	until       time.Time
	cost        float64
	uses        int
	base        float64
	put         int
}

func (it *shelved) worth() float64 { return it.base + float64(float64(it.uses)*it.cost) }

// least orders items of one owner by who goes first.
func (s *shelf) least(a, b *shelved) int {
	return cmp.Or(cmp.Compare(a.worth(), b.worth()), cmp.Compare(a.put, b.put))
}

func (s *shelf) bytes(owner string, all bool) (n int64) {
	for _, it := range s.items {
		if all || it.owner == owner {
			n += it.size
		}
	}
	return n
}

// forget drops what is remembered of owners who have nothing.
func (s *shelf) forget(but string) {
	for owner := range s.own {
		if owner != but && s.bytes(owner, false) == 0 {
			delete(s.own, owner)
		}
	}
}

func (s *shelf) get(name string, now time.Time) bool {
	it := s.items[name]
	if it == nil {
		return false
	}
	if !now.Before(it.until) {
		delete(s.items, name)
		s.forget("")
		return false
	}
	it.uses++
	it.base = s.inflation + s.own[it.owner]
	return true
}

func (s *shelf) put(name string, e *cache.Entry, now time.Time) bool {
	it := &shelved{name: name, owner: e.Owner, size: e.Size(), until: e.Until, uses: 1}
	it.cost = max(float64(e.Took)/float64(time.Millisecond), 0.1) / float64(it.size)
	byUntil := slices.SortedFunc(maps.Values(s.items), func(a, b *shelved) int { return a.until.Compare(b.until) })
	for i, old := range byUntil {
		if now.Before(old.until) || i >= 16 && s.max-s.bytes("", true) >= it.size {
			break
		}
		delete(s.items, old.name)
	}
	s.forget("")
	old := s.items[name]
	free := s.max - s.bytes("", true) + s.bytes(it.owner, false)
	if old != nil && old.owner != it.owner {
		free += old.size
	}
	if it.size > s.max || it.owner != "" && it.size > s.share && it.size > free {
		return false
	}
	if old != nil {
		it.uses = old.uses
		delete(s.items, name)
	}
	s.forget(it.owner)
	for s.bytes("", true)+it.size > s.max {
		s.evict(it)
		s.forget(it.owner)
	}
	s.puts++
	it.put, it.base = s.puts, s.inflation+s.own[it.owner]
	s.items[name] = it
	return true
}

// over gives the owner who has to make room because of his share.
func (s *shelf) over(it *shelved) (owner string, any bool) {
	if it.owner != "" && s.bytes(it.owner, false)+it.size > s.share {
		return it.owner, true
	}
	most := int64(0)
	for _, other := range s.items {
		if n := s.bytes(other.owner, false); other.owner != "" && n > s.share && (n > most || n == most && other.owner < owner) {
			owner, most = other.owner, n
		}
	}
	return owner, most > 0
}

func (s *shelf) evict(it *shelved) {
	owner, over := s.over(it)
	var victim *shelved
	for _, other := range s.items {
		switch {
		case over && other.owner != owner:
		case victim == nil, over && s.least(other, victim) < 0, !over && s.leastOfAll(other, victim) < 0:
			victim = other
		}
	}
	if over {
		s.own[owner] = victim.worth() - s.inflation
	} else {
		s.inflation = victim.worth() - s.own[victim.owner]
	}
	s.evictions++
	delete(s.items, victim.name)
}

func (s *shelf) leastOfAll(a, b *shelved) int {
	return cmp.Or(cmp.Compare(a.worth()-s.own[a.owner], b.worth()-s.own[b.owner]), cmp.Compare(a.put, b.put))
}

// The store keeps exactly what the simple one keeps, in random use by callers of
// whom some are greedy; and whatever it keeps, its bytes are within the bound, and
// nobody within his share lost an entry to one who is not.
func TestMemoryStoreKeepsWhatTheModelKeeps(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const most = 64 << 10
		share := rapid.SampledFrom([]float64{0.1, 0.25, 0.5, 1}).Draw(rt, "share")
		s := cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: most, CallerShare: share})
		model := &shelf{max: most, share: int64(share * most), items: map[string]*shelved{}, own: map[string]float64{}}
		ctx, now := context.Background(), time.Now()
		names := make([]string, 60)
		for i := range names {
			names[i] = strconv.Itoa(i)
		}
		for step := range rapid.SampledFrom([]int{20, 100, 300}).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 1000).Draw(rt, "pause")) * time.Millisecond)
			name := rapid.SampledFrom(names).Draw(rt, "key")
			switch rapid.SampledFrom([]string{"put", "put", "put", "get", "get", "delete"}).Draw(rt, "what") {
			case "put":
				e := &cache.Entry{Body: make([]byte, rapid.SampledFrom([]int{0, 1000, 2000, 4000, 5000, 8000, 12_000, 20_000, 40_000, most}).Draw(rt, "size"))}
				e.Owner = rapid.SampledFrom([]string{"", "a", "a", "a", "b", "c"}).Draw(rt, "owner")
				if share == 1 {
					e.Owner = "" // which is the same: callers have no shares
				}
				e.Until = now.Add(time.Duration(rapid.SampledFrom([]int{-1, 10, 1000, 20_000, 200_000, 1_000_000}).Draw(rt, "ttl"))*time.Millisecond + time.Duration(step)) // no two alike
				e.Took = time.Duration(rapid.SampledFrom([]int{0, 1, 5, 50, 51, 500, 5000}).Draw(rt, "took")) * time.Millisecond
				before, had := maps.Clone(model.items), map[string]int64{}
				for _, it := range before {
					had[it.owner] = model.bytes(it.owner, false)
				}
				took := model.put(name, e, now)
				if err := s.Put(ctx, key(name), e, now); (err == nil) != took {
					rt.Fatalf("put %d bytes of %q: %v, the model took it: %t", e.Size(), e.Owner, err, took)
				}
				wantNoTheft(rt, model, before, had, e.Owner, now)
			case "get":
				e, err := s.Get(ctx, key(name), now)
				if want := model.get(name, now); err != nil || (e != nil) != want {
					rt.Fatalf("get %s: %+v, %v, the model has it: %t", name, e, err, want)
				}
			case "delete":
				delete(model.items, name)
				model.forget("")
				if err := s.Delete(ctx, key(name)); err != nil {
					rt.Fatal(err)
				}
			}
			want := cache.Stats{Entries: len(model.items), Bytes: model.bytes("", true), Evictions: model.evictions}
			if got := s.Stats(); got != want || got.Bytes > most {
				rt.Fatalf("got %+v, want %+v", got, want)
			}
		}
		for _, name := range names {
			if e, _ := s.Get(ctx, key(name), now); (e != nil) != model.get(name, now) {
				rt.Fatalf("in the end: key %s: %+v, the model has %+v", name, e, model.items[name])
			}
		}
	})
}

// wantNoTheft looks at what a put displaced: who has more than his share may only
// have displaced entries of such.
func wantNoTheft(rt *rapid.T, after *shelf, before map[string]*shelved, had map[string]int64, owner string, now time.Time) {
	if owner == "" || after.bytes(owner, false) <= after.share {
		return
	}
	for name, it := range before {
		stays := after.items[name] != nil
		if !stays && now.Before(it.until) && it.owner != owner && (it.owner == "" || had[it.owner] <= after.share) {
			rt.Fatalf("%q has %d bytes of a share of %d, and took an entry from %q, who had %d",
				owner, after.bytes(owner, false), after.share, it.owner, had[it.owner])
		}
	}
}

// shareStore is a store of 100 KiB of which a caller's share is 25 KiB.
type shareStore struct {
	t     *testing.T
	store *cache.MemoryStore
	now   time.Time
}

func newShareStore(t *testing.T) shareStore {
	return shareStore{t, cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: 100 << 10}), time.Now()}
}

// fill puts n entries of 5 KiB for owner, overhead included, from number first on.
func (s shareStore) fill(owner string, first, n int, took time.Duration) {
	s.t.Helper()
	for i := range n {
		if err := s.put(owner, owner+strconv.Itoa(first+i), 5<<10, took); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s shareStore) put(owner, name string, size int, took time.Duration) error {
	e := &cache.Entry{Meta: cache.Meta{Owner: owner}, Until: s.now.Add(time.Hour), Took: took}
	e.Body = make([]byte, size-int(e.Size()))
	return s.store.Put(context.Background(), key(name), e, s.now)
}

// want checks how many of the numbers below most each owner has.
func (s shareStore) want(most int, want map[string]int) {
	s.t.Helper()
	for owner, n := range want {
		got := 0
		for i := range most {
			if e, _ := s.store.Get(context.Background(), key(owner+strconv.Itoa(i)), s.now); e != nil {
				got++
			}
		}
		if got != n {
			s.t.Errorf("%q has %d entries, want %d", owner, got, n)
		}
	}
}

func TestCallerShare(t *testing.T) {
	const cheap, dear = time.Millisecond, time.Hour
	t.Run("a lone caller may use everything", func(t *testing.T) {
		s := newShareStore(t)
		s.fill("alice", 0, 20, cheap)
		s.want(20, map[string]int{"alice": 20})
	})
	t.Run("a caller over his share gives way to one within, whatever his entries are worth", func(t *testing.T) {
		s := newShareStore(t)
		s.fill("alice", 0, 20, dear)
		s.fill("bob", 0, 5, cheap)
		s.want(20, map[string]int{"alice": 15, "bob": 5})
	})
	t.Run("a flood of one caller takes only his own", func(t *testing.T) {
		s := newShareStore(t)
		for _, owner := range []string{"alice", "bob", "carol"} {
			s.fill(owner, 0, 5, cheap)
		}
		s.fill("mallory", 0, 1000, dear)
		s.want(1000, map[string]int{"alice": 5, "bob": 5, "carol": 5, "mallory": 5})
	})
	t.Run("a flood does not make its last entries worth more than others'", func(t *testing.T) {
		s := newShareStore(t)
		s.fill("alice", 0, 5, 2*dear)
		s.fill("bob", 0, 5, 2*dear)
		s.fill("carol", 0, 5, 2*dear)
		s.fill("mallory", 0, 1000, dear)
		s.fill("dan", 0, 5, dear) // all are within their shares: the least goes
		s.want(1000, map[string]int{"alice": 5, "bob": 5, "carol": 5, "mallory": 0, "dan": 5})
	})
	t.Run("nobody's entries have no share", func(t *testing.T) {
		s := newShareStore(t)
		s.fill("", 0, 20, dear)
		s.fill("alice", 0, 5, cheap) // each is the least when it comes, but for the one that it displaces
		s.want(20, map[string]int{"": 15, "alice": 5})
	})
	t.Run("an entry larger than a share only takes what nobody else uses", func(t *testing.T) {
		s := newShareStore(t)
		s.fill("alice", 0, 5, cheap)
		s.fill("bob", 0, 10, cheap)
		if err := s.put("bob", "large", 75<<10, dear); err != nil {
			t.Error(err)
		}
		s.want(20, map[string]int{"alice": 5, "bob": 0})
		err := s.put("bob", "larger", 80<<10, dear)
		const want = "cache: an entry of 81920 bytes does not fit into a caller's share of 25600 bytes, and others use the rest of the store"
		if err == nil || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
		if e, _ := s.store.Get(context.Background(), key("large"), s.now); e == nil {
			t.Error("what was refused displaced another")
		}
	})
	t.Run("with a share of 1 only worth counts", func(t *testing.T) {
		s := newShareStore(t)
		s.store = cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: 100 << 10, CallerShare: 1})
		s.fill("alice", 0, 20, cheap)
		s.fill("mallory", 0, 20, dear)
		s.want(20, map[string]int{"alice": 0, "mallory": 20})
	})
}

func TestMemoryStoreCountsRightUnderLoad(t *testing.T) {
	const most = 256 << 10
	s, now := cache.NewMemoryStore(cache.MemoryOptions{MaxBytes: most}), time.Now()
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 4 {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		wg.Go(func() {
			for range 3000 {
				name := strconv.Itoa(random.IntN(200))
				e := &cache.Entry{Meta: cache.Meta{Owner: strconv.Itoa(random.IntN(5))}, Body: make([]byte, random.IntN(5000))}
				e.Until, e.Took = now.Add(time.Duration(random.IntN(50))*time.Millisecond), time.Duration(random.IntN(9))*time.Second
				switch random.IntN(8) {
				case 0:
					_ = s.Delete(ctx, key(name))
				case 1, 2, 3:
					if err := s.Put(ctx, key(name), e, now); err != nil {
						t.Error(err)
					}
				case 4:
					if st := s.Stats(); st.Bytes > most {
						t.Errorf("%+v", st)
					}
				default:
					_, _ = s.Get(ctx, key(name), now.Add(time.Duration(random.IntN(20))*time.Millisecond))
				}
			}
		})
	}
	wg.Wait()
	var held cache.Stats
	for i := range 200 {
		if e, _ := s.Get(ctx, key(strconv.Itoa(i)), now.Add(-time.Hour)); e != nil {
			held.Entries, held.Bytes = held.Entries+1, held.Bytes+e.Size()
		}
	}
	if got := s.Stats(); got.Entries != held.Entries || got.Bytes != held.Bytes || got.Evictions == 0 {
		t.Errorf("got %+v, but it has %+v", got, held)
	}
	if n, err := s.Sweep(ctx, func(*cache.Meta) bool { return true }); n != held.Entries || err != nil || s.Stats().Bytes != 0 {
		t.Errorf("swept %d of %d, %v: %+v left", n, held.Entries, err, s.Stats())
	}
}
