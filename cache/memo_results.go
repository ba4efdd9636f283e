package cache

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/inferweir/weir/internal/jsonscan"
)

// memoMemory keeps results as they are, and of too many those used last.
type memoMemory[K comparable, V any] struct {
	most   int
	purges *Purges

	mu      sync.Mutex // guards what follows
	results map[K]*list.Element
	recent  list.List // of *memoKept[K, V], the last used first
}

type memoKept[K comparable, V any] struct {
	key    K
	result *memoResult[V]
}

func newMemoMemory[K comparable, V any](most int, p *Purges) *memoMemory[K, V] {
	return &memoMemory[K, V]{most: most, purges: p, results: map[K]*list.Element{}}
}

func (m *memoMemory[K, V]) get(_ context.Context, key K, now time.Time) (*memoResult[V], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.results[key]
	if e == nil {
		return nil, nil
	}
	r := e.Value.(*memoKept[K, V]).result
	if !now.Before(r.until) || m.purges.Purged(&r.Meta, Key{}) {
		m.removeLocked(e)
		return nil, nil
	}
	m.recent.MoveToFront(e)
	return r, nil
}

func (m *memoMemory[K, V]) put(_ context.Context, key K, r *memoResult[V]) (V, error) {
	if m.purges.Purged(&r.Meta, Key{}) {
		return r.value, nil // there may be a newer one
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.results[key]; e != nil {
		m.removeLocked(e)
	}
	for len(m.results) >= m.most {
		m.removeLocked(m.recent.Back())
	}
	m.results[key] = m.recent.PushFront(&memoKept[K, V]{key, r})
	return r.value, nil
}

func (m *memoMemory[K, V]) removeLocked(e *list.Element) {
	delete(m.results, e.Value.(*memoKept[K, V]).key)
	m.recent.Remove(e)
}

// memoStore keeps results as entries of a Store.
type memoStore[K comparable, V any] struct {
	store  Store
	name   string
	purges *Purges
}

// memoDepth is how deep a key may nest.
const memoDepth = 100

func (m *memoStore[K, V]) get(ctx context.Context, key K, now time.Time) (*memoResult[V], error) {
	name, err := m.key(key)
	if err != nil {
		return nil, &memoMisfit{err}
	}
	e, err := m.store.Get(ctx, name, now)
	if err != nil {
		return nil, fmt.Errorf("cache: looking for a result of %s: %w", m.name, err)
	}
	if e == nil || m.purges.Purged(&e.Meta, name) {
		return nil, nil
	}
	r := &memoResult[V]{Meta: e.Meta, made: e.Made, expires: e.Expires, until: e.Until, took: e.Took}
	if json.Unmarshal(e.Body, &r.value) != nil {
		return nil, nil // of an older V: the next put replaces it
	}
	return r, nil
}

func (m *memoStore[K, V]) put(ctx context.Context, key K, r *memoResult[V]) (value V, err error) {
	body, err := json.Marshal(r.value)
	if err == nil {
		err = json.Unmarshal(body, &value)
	}
	if err != nil {
		return value, &memoMisfit{fmt.Errorf("cache: a result of %s, a %T, has no JSON that gives it back: %w", m.name, r.value, err)}
	}
	name, err := m.key(key)
	if err != nil {
		return value, &memoMisfit{err}
	}
	if m.purges.Purged(&r.Meta, name) {
		return value, nil // there may be a newer one
	}
	header := http.Header{"Content-Type": {"application/json"}}
	err = m.store.Put(ctx, name, &Entry{
		Meta:    r.Meta,
		Status:  http.StatusOK,
		Header:  header,
		Body:    body,
		ETag:    strongETag(http.StatusOK, header, body),
		Made:    r.made,
		Expires: r.expires,
		Until:   r.until,
		Took:    r.took,
	}, r.made)
	if err != nil {
		return value, fmt.Errorf("cache: keeping a result of %s: %w", m.name, err)
	}
	return value, nil
}

// key names a result in the store. Two keys that differ must not have one name,
// so the JSON has to give the key back: that of a struct with unexported fields
// would be the same for all.
func (m *memoStore[K, V]) key(key K) (name Key, err error) {
	misfit := func(err error) error {
		return fmt.Errorf("cache: a key of %s, a %T, cannot name a result in a store: %w", m.name, key, err)
	}
	text, err := json.Marshal(key)
	if err != nil {
		return name, misfit(err)
	}
	var back K
	if err := json.Unmarshal(text, &back); err != nil {
		return name, misfit(err)
	}
	if back != key {
		return name, misfit(fmt.Errorf("its JSON %.100s gives back another key: want no unexported fields, pointers, interfaces, and text in UTF-8", text))
	}
	canonical, err := jsonscan.AppendCanonical(make([]byte, 0, 2*len(text)), text, nil, memoDepth)
	if err != nil {
		return name, misfit(err)
	}
	k := NewKeyHash()
	k.Add("weir memo 1")
	k.Add(m.name)
	k.AddBytes(canonical)
	return k.Sum(), nil
}
