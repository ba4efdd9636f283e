package cache

import (
	"container/heap"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultCallerShare is the part of a store that one caller may keep when others
// need room, unless told.
const DefaultCallerShare = 0.25

const (
	shards = 64
	// expiredAtOnce bounds how many expired entries one put clears away beyond what
	// it needs the room of. A put adds one, so that they cannot pile up.
	expiredAtOnce = 16
	// mostUses is where uses are no longer counted: an entry that was worth so much
	// once should not outlive the model that made it, and a hot one is then only read.
	mostUses = 1 << 20
)

// budget decides which entries of a store stay. It knows of each its size, what
// it is worth, until when it is useful, and whose it is.
//
// When there is no room it gives up expired entries first, then those that save
// least: by frequency times the time that the upstream needed, for each byte (GDSF:
// Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency
// Caching Policy", HP Labs 1998). It takes them from the caller who wants room if
// he has more than his share; else from the caller who has most, if that is more
// than his share; else from whoever has the least worth. So a lone caller may use
// everything that nobody else needs, and nobody who keeps within his share loses
// an entry to one who does not.
//
// A use does not move an entry, it only marks it. Uses make an entry worth more,
// never less, so what the heaps say is at most what is true: an entry at the top
// that was not used since it was weighed is the least of all.
type budget struct {
	max   int64 // bytes
	share int64 // bytes of one owner, or max where there are no shares

	shards [shards]shard

	mu        sync.Mutex // guards all below but inflation; taken before a shard's
	accounts  map[string]*account
	byLeast   ordered[*account]
	byBytes   ordered[*account] // those that have a share: the largest first
	byExpiry  ordered[*item]
	bytes     int64 // of items, of what is being written, and of victims not yet deleted
	entries   int
	puts      uint64
	evictions uint64
	// inflation is the worth that an entry needs beyond its own to be above what was
	// given up last: what is kept must have been used since.
	inflation worth
}

// shard is a part of the index, so that readers do not wait for each other.
type shard struct {
	mu    sync.RWMutex
	items map[Key]*item
}

// account is what one owner has.
type account struct {
	owner   string
	limited bool  // has a share
	bytes   int64 // of items, and of what is being written for him
	byWorth ordered[*item]
	// own is inflation by what was given up because he had more than his share. It
	// makes his entries older, and nobody else's.
	own worth
	at  [2]int32 // in byLeast and byBytes
}

// item is one entry as the budget sees it.
type item struct {
	key     Key
	entry   *Entry // nil in a store that has it elsewhere
	account *account
	size    int64
	until   int64   // in Unix nanoseconds
	cost    float64 // milliseconds saved by each use, for each byte
	put     uint64  // of entries worth the same the one put first goes first
	weighed float64 // what it was worth when it was last looked at by the budget
	base    worth   // inflation at its last use
	uses    atomic.Uint32
	at      [2]int32 // in byWorth and byExpiry
}

// worth is a number that is read without the lock.
type worth struct{ bits atomic.Uint64 }

func (w *worth) load() float64   { return math.Float64frombits(w.bits.Load()) }
func (w *worth) store(v float64) { w.bits.Store(math.Float64bits(v)) }

func newBudget(most int64, share float64) *budget {
	b := &budget{max: most, share: most, accounts: map[string]*account{}}
	if !(share > 0) { // which is how NaN is none
		share = DefaultCallerShare
	}
	if share < 1 {
		b.share = int64(share * float64(most))
	}
	for i := range b.shards {
		b.shards[i].items = map[Key]*item{}
	}
	b.byLeast = ordered[*account]{
		less: func(x, y *account) bool { return x.before(y) },
		at:   func(a *account) *int32 { return &a.at[0] },
	}
	b.byBytes = ordered[*account]{
		less: func(x, y *account) bool { return x.bytes > y.bytes || x.bytes == y.bytes && x.owner < y.owner },
		at:   func(a *account) *int32 { return &a.at[1] },
	}
	b.byExpiry = ordered[*item]{
		less: func(x, y *item) bool { return x.until < y.until },
		at:   func(it *item) *int32 { return &it.at[1] },
	}
	return b
}

// newItem is an item for a copy of e that takes size bytes of the store.
func newItem(key Key, e *Entry, size int64) *item {
	// An answer that took no measurable time still saves a call.
	saved := max(float64(e.Took)/float64(time.Millisecond), 0.1)
	it := &item{key: key, size: size, until: nanoseconds(e.Until), cost: saved / float64(size)}
	it.uses.Store(1)
	return it
}

// nanoseconds is t in Unix nanoseconds; what these cannot hold is past or never.
func nanoseconds(t time.Time) int64 {
	switch s := t.Unix(); {
	case s < math.MinInt64/int64(time.Second)+1:
		return math.MinInt64
	case s > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	}
	return t.UnixNano()
}

func (it *item) useful(now time.Time) bool { return nanoseconds(now) < it.until }

// worth is what the item is worth now. The conversion keeps the product rounded, so
// that every processor finds the same.
func (it *item) worth() float64 { return it.base.load() + float64(float64(it.uses.Load())*it.cost) }

// find gives the item of key, or nil.
func (b *budget) find(key Key) *item {
	s := &b.shards[key[0]%shards]
	s.mu.RLock()
	it := s.items[key]
	s.mu.RUnlock()
	return it
}

// use counts a use of it. What has not changed is not written, so that the entries
// that are asked for most do not move between processors.
func (b *budget) use(it *item) {
	if it.uses.Load() < mostUses {
		it.uses.Add(1)
	}
	if now := b.inflation.load() + it.account.own.load(); it.base.load() != now {
		it.base.store(now)
	}
}

// stats reads the sizes and counts.
func (b *budget) stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{Entries: b.entries, Bytes: b.bytes, Evictions: b.evictions}
}

// snapshot gives the items of one shard.
func (s *shard) snapshot() []*item {
	s.mu.RLock()
	defer s.mu.RUnlock()
	items := make([]*item, 0, len(s.items))
	for _, it := range s.items {
		items = append(items, it)
	}
	return items
}

// accountLocked gives the owner's account, and makes one.
func (b *budget) accountLocked(owner string) *account {
	if b.share >= b.max {
		owner = "" // there are no shares: all are one
	}
	a := b.accounts[owner]
	if a == nil {
		a = &account{owner: owner, limited: owner != ""}
		a.byWorth = ordered[*item]{
			less: func(x, y *item) bool { return x.weighed < y.weighed || x.weighed == y.weighed && x.put < y.put },
			at:   func(it *item) *int32 { return &it.at[0] },
		}
		b.accounts[owner] = a
		heap.Push(&b.byLeast, a)
		if a.limited {
			heap.Push(&b.byBytes, a)
		}
	}
	return a
}

// chargeLocked changes the bytes of an account, and closes one that has none.
func (b *budget) chargeLocked(a *account, bytes int64) {
	a.bytes += bytes
	if a.bytes > 0 {
		if a.limited {
			heap.Fix(&b.byBytes, int(a.at[1]))
		}
		return
	}
	delete(b.accounts, a.owner)
	heap.Remove(&b.byLeast, int(a.at[0]))
	if a.limited {
		heap.Remove(&b.byBytes, int(a.at[1]))
	}
}

// attachLocked makes it known. Its bytes are not counted here: they were when it
// got its place.
func (b *budget) attachLocked(it *item) {
	a := it.account
	b.puts++
	it.put = b.puts
	it.base.store(b.inflation.load() + a.own.load())
	it.weighed = it.worth()
	s := &b.shards[it.key[0]%shards]
	s.mu.Lock()
	s.items[it.key] = it
	s.mu.Unlock()
	b.entries++
	heap.Push(&a.byWorth, it)
	heap.Push(&b.byExpiry, it)
	heap.Fix(&b.byLeast, int(a.at[0]))
}

// detachLocked makes it unknown and takes it from its owner's bytes, but leaves it
// in those of the store until freedLocked.
func (b *budget) detachLocked(it *item) {
	b.hide(it.key)
	b.replaceLocked(it)
}

func (b *budget) hide(key Key) {
	s := &b.shards[key[0]%shards]
	s.mu.Lock()
	delete(s.items, key)
	s.mu.Unlock()
}

// replaceLocked is detachLocked for an item in whose place another is attached:
// readers, who do not wait, find the one or the other.
func (b *budget) replaceLocked(it *item) {
	b.entries--
	a := it.account
	heap.Remove(&a.byWorth, int(it.at[0]))
	heap.Remove(&b.byExpiry, int(it.at[1]))
	heap.Fix(&b.byLeast, int(a.at[0]))
	b.chargeLocked(a, -it.size)
}

// freedLocked counts the bytes of detached items as free.
func (b *budget) freedLocked(items ...*item) {
	for _, it := range items {
		b.bytes -= it.size
	}
}

// drop detaches it if it is still known, and reports whether it was. Its bytes
// are free.
func (b *budget) drop(it *item) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.find(it.key) != it {
		return false
	}
	b.detachLocked(it)
	b.freedLocked(it)
	return true
}

// reserveLocked finds it a place among the entries of owner: after it, its size is
// counted, and attachLocked makes it known, or unreserveLocked gives up the place.
// The victims are detached, with an error too. With replace the entry that has the
// key now is one of them.
func (b *budget) reserveLocked(it *item, owner string, replace bool, now time.Time) (victims []*item, err error) {
	victims, room := b.expireLocked(it.size, now)
	a := b.accountLocked(owner)
	var old *item
	free := room + a.bytes // without taking from others
	if replace {
		if old = b.find(it.key); old != nil && old.account != a {
			free += old.size
		}
	}
	if err := b.admits(a, it.size, free); err != nil {
		b.chargeLocked(a, 0)
		return victims, err
	}
	b.chargeLocked(a, it.size)
	if old != nil {
		it.uses.Store(old.uses.Load())
		b.replaceLocked(old)
		victims, room = append(victims, old), room+old.size
	}
	for room < it.size {
		victim := b.evictLocked(a)
		if victim == nil {
			if old != nil {
				b.hide(old.key)
			}
			b.chargeLocked(a, -it.size)
			return victims, fmt.Errorf("cache: no room for %d bytes: what could be given up is still being written or deleted", it.size)
		}
		victims, room = append(victims, victim), room+victim.size
	}
	b.bytes += it.size
	it.account = a
	return victims, nil
}

// unreserveLocked gives up the place of an item that was not attached.
func (b *budget) unreserveLocked(it *item) {
	b.bytes -= it.size
	b.chargeLocked(it.account, -it.size)
}

// restoreLocked makes a detached item known again, which is still there.
func (b *budget) restoreLocked(it *item) {
	again := &item{key: it.key, entry: it.entry, size: it.size, until: it.until, cost: it.cost}
	again.uses.Store(it.uses.Load())
	again.account = b.accountLocked(it.account.owner)
	b.chargeLocked(again.account, it.size)
	b.attachLocked(again)
}

// expireLocked detaches expired items: some, and more while there is no room
// for size bytes.
func (b *budget) expireLocked(size int64, now time.Time) (gone []*item, room int64) {
	room = b.max - b.bytes
	for len(b.byExpiry.list) > 0 && (len(gone) < expiredAtOnce || room < size) {
		first := b.byExpiry.list[0]
		if first.useful(now) {
			break
		}
		b.detachLocked(first)
		gone, room = append(gone, first), room+first.size
	}
	return gone, room
}

// admits says why size bytes for a cannot have a place: they are more than there
// is, or more than the owner's share and than what is free without taking from
// others.
func (b *budget) admits(a *account, size, free int64) error {
	switch {
	case size > b.max:
		return fmt.Errorf("cache: an entry of %d bytes does not fit into a store of %d", size, b.max)
	case a.limited && size > b.share && size > free:
		return fmt.Errorf("cache: an entry of %d bytes does not fit into a caller's share of %d bytes, and others use the rest of the store", size, b.share)
	}
	return nil
}

// evictLocked detaches the item that has to go first for one of a's, which is
// counted in a's bytes already. It returns nil if there is none.
func (b *budget) evictLocked(a *account) *item {
	from, own := b.payerLocked(a)
	if from == nil {
		return nil
	}
	it := from.byWorth.list[0]
	if own {
		from.own.store(it.weighed - b.inflation.load())
	} else {
		b.inflation.store(it.weighed - from.own.load())
	}
	b.evictions++
	b.detachLocked(it)
	return it
}

// payerLocked says whose least item goes, and whether because of his share.
func (b *budget) payerLocked(a *account) (from *account, own bool) {
	if !a.limited || a.bytes <= b.share {
		a = nil
		if len(b.byBytes.list) > 0 && b.byBytes.list[0].bytes > b.share {
			a = b.byBytes.list[0]
		}
	}
	if a != nil {
		b.weighLocked(a)
		if len(a.byWorth.list) == 0 {
			return nil, true
		}
		return a, true
	}
	for {
		least := b.byLeast.list[0]
		if len(least.byWorth.list) == 0 {
			return nil, false
		}
		if !b.weighLocked(least) {
			return least, false
		}
	}
}

// weighLocked weighs a's least items again until the least of them is what it
// seems. It reports whether anything changed.
func (b *budget) weighLocked(a *account) (changed bool) {
	for len(a.byWorth.list) > 0 {
		it := a.byWorth.list[0]
		now := it.worth()
		if now == it.weighed {
			break
		}
		it.weighed, changed = now, true
		heap.Fix(&a.byWorth, 0)
	}
	if changed {
		heap.Fix(&b.byLeast, int(a.at[0]))
	}
	return changed
}

// before orders accounts by their least items: one with none is last. What was
// given up because of their shares does not count between them.
func (a *account) before(other *account) bool {
	if len(a.byWorth.list) == 0 || len(other.byWorth.list) == 0 {
		return len(a.byWorth.list) > 0
	}
	x, y := a.byWorth.list[0], other.byWorth.list[0]
	mine, its := x.weighed-a.own.load(), y.weighed-other.own.load()
	return mine < its || mine == its && x.put < y.put
}

// ordered is a heap.Interface of elements that know their place in it.
type ordered[T any] struct {
	list []T
	less func(x, y T) bool
	at   func(T) *int32
}

func (h *ordered[T]) Len() int           { return len(h.list) }
func (h *ordered[T]) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }

func (h *ordered[T]) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	*h.at(h.list[i]), *h.at(h.list[j]) = int32(i), int32(j)
}

func (h *ordered[T]) Push(x any) {
	v := x.(T)
	*h.at(v) = int32(len(h.list))
	h.list = append(h.list, v)
}

func (h *ordered[T]) Pop() any {
	last := len(h.list) - 1
	v := h.list[last]
	var none T
	h.list[last] = none
	h.list = h.list[:last]
	return v
}
