package auth

import (
	"sync"
	"time"
)

// maxVerified bounds the tokens that are remembered, about 1 MiB.
const maxVerified = 4096

// verified remembers tokens that were found valid, by their SHA-256, so that a
// signature is checked once and not for each request. When it is full the oldest
// makes room. Tokens themselves are not kept. The zero value is empty.
type verified struct {
	mu      sync.Mutex
	entries map[digest]verifiedEntry
	// ring has the keys of entries in the order in which they came; next is the
	// place of the oldest once it is full.
	ring []digest
	next int
}

type verifiedEntry struct {
	who   *identity
	until time.Time
}

// get returns whom the token names, nil if that is not known, or no longer.
func (v *verified) get(token digest, now time.Time) *identity {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e, ok := v.entries[token]; ok && now.Before(e.until) {
		return e.who
	}
	return nil
}

func (v *verified) put(token digest, who *identity, until time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.entries == nil {
		v.entries = make(map[digest]verifiedEntry)
	}
	if _, known := v.entries[token]; !known {
		if len(v.ring) < maxVerified {
			v.ring = append(v.ring, token)
		} else {
			delete(v.entries, v.ring[v.next])
			v.ring[v.next] = token
			v.next = (v.next + 1) % maxVerified
		}
	}
	v.entries[token] = verifiedEntry{who, until}
}
