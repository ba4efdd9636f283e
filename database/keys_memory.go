package database

import (
	"cmp"
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/auth"
)

// maxRecentKeys bounds the changes that are remembered until the next refresh, which
// is at most a second away. Beyond it a refresh that runs at the same moment can undo
// one for a second.
const maxRecentKeys = 10_000

// liveKey is a key in memory. Only used changes.
type liveKey struct {
	id      string
	key     auth.Key
	digest  [32]byte
	expires int64 // microseconds since the epoch, 0 for never
	version int64
	used    atomic.Int64 // the minute, since the epoch, of its last use here
}

func newLiveKey(row keyRow) *liveKey {
	return &liveKey{
		id: row.ID, key: auth.Key{Caller: row.Caller, Plan: row.Plan}, digest: row.digest,
		expires: keyMicros(row.Expires), version: row.version,
	}
}

// Find returns the Caller and the Plan of the live key with a digest, for
// auth.Options.Stored. It answers from memory: auth.ErrNoKey where no key has it, or
// it is revoked or expired; an error that wraps ErrAway before the keys could be read
// for the first time.
//
// How long it takes depends on a digest, which says nothing about the keys that are
// like it, and on a hash of that with a seed of the process.
func (k *Keys) Find(digest [32]byte) (auth.Key, error) {
	now := k.now()
	found, err := k.find(digest, now)
	if err != nil {
		return auth.Key{}, err
	}
	k.note(found, now.Unix()/60)
	return found.key, nil
}

// Look is Find for who does not use the key: that is not noted.
func (k *Keys) Look(digest [32]byte) (auth.Key, error) {
	found, err := k.find(digest, k.now())
	if err != nil {
		return auth.Key{}, err
	}
	return found.key, nil
}

func (k *Keys) find(digest [32]byte, now time.Time) (*liveKey, error) {
	k.mu.RLock()
	found, loaded := k.live[digest], k.live != nil
	k.mu.RUnlock()
	if !loaded {
		return nil, fmt.Errorf("%w: the keys have not been read yet", ErrAway)
	}
	if found == nil || subtle.ConstantTimeCompare(found.digest[:], digest[:]) != 1 {
		return nil, auth.ErrNoKey
	}
	if found.expires != 0 && now.UnixMicro() >= found.expires {
		return nil, auth.ErrNoKey
	}
	return found, nil
}

// AwaitLoaded waits until the keys are in memory, or ctx is over.
func (k *Keys) AwaitLoaded(ctx context.Context) error {
	select {
	case <-k.first:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Loaded reports whether the keys are in memory. Until then Find knows none.
func (k *Keys) Loaded() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.live != nil
}

// note remembers that a key was used, once a minute.
func (k *Keys) note(used *liveKey, minute int64) {
	before := used.used.Load()
	if before >= minute || !used.used.CompareAndSwap(before, minute) {
		return
	}
	k.usesMu.Lock()
	defer k.usesMu.Unlock()
	if _, there := k.uses[used.id]; there || len(k.uses) < k.most {
		k.uses[used.id] = minute
	}
}

func minuteTime(minute int64) time.Time { return keyTime(minute * 60e6) }

// changed puts in force what was written here.
func (k *Keys) changed(rows ...keyRow) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, row := range rows {
		if row.version > k.version && len(k.recent) < maxRecentKeys {
			k.recent[row.ID] = row
		}
		k.applyLocked(row)
	}
}

// applyLocked puts a row in force unless something newer is.
func (k *Keys) applyLocked(row keyRow) {
	if recent, ok := k.recent[row.ID]; k.live != nil && (!ok || recent.version <= row.version) {
		apply(k.live, row)
	}
}

// apply brings live up to a row. A key that has expired stays: Find refuses it, and it
// goes when all are read again.
func apply(live map[[32]byte]*liveKey, row keyRow) {
	switch was := live[row.digest]; {
	case was != nil && was.version > row.version:
	case !row.Revoked.IsZero():
		delete(live, row.digest)
	default:
		next := newLiveKey(row)
		if was != nil {
			next.used.Store(was.used.Load())
		}
		live[row.digest] = next
	}
}

// seenLocked says that all changes up to version are in force.
func (k *Keys) seenLocked(version int64) {
	k.version = version
	for id, row := range k.recent {
		if row.version <= version {
			delete(k.recent, id)
		}
	}
}

// replace puts all keys in force that there were at version, and what was changed here
// since. Where the database is as it was before, nothing was.
func (k *Keys) replace(live map[[32]byte]*liveKey, version int64, restored bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if restored {
		clear(k.recent)
	}
	for digest, was := range k.live {
		if next := live[digest]; next != nil {
			next.used.Store(was.used.Load())
		}
	}
	if k.live == nil {
		close(k.first)
	}
	k.live = live
	k.seenLocked(version)
	for _, row := range k.recent {
		apply(k.live, row)
	}
}

// trim lets go of the keys that were changed longest ago, once there are a hundredth
// more than there is room for, and reports whether there is too little room.
func (k *Keys) trim() (full bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if over := len(k.live) - k.most; over <= k.most/100 {
		return over > 0
	}
	all := make([]*liveKey, 0, len(k.live))
	for _, key := range k.live {
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b *liveKey) int { return cmp.Compare(a.version, b.version) })
	for _, key := range all[:len(all)-k.most] {
		delete(k.live, key.digest)
	}
	return true
}
