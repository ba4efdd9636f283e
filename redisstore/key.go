package redisstore

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/inferweir/weir/ratelimit"
)

// The kinds of counts, as they stand in keys and in the scripts.
const (
	kindBucket  = "b"
	kindSliding = "s"
	kindFixed   = "f"
	kindSlots   = "c"
)

func kindOf(p *ratelimit.Policy) string {
	switch {
	case p.Concurrent > 0:
		return kindSlots
	case p.Algorithm == ratelimit.SlidingWindow:
		return kindSliding
	case p.Algorithm == ratelimit.FixedWindow:
		return kindFixed
	}
	return kindBucket
}

// maxPart is how long a part may be that stands in a key as it is.
const maxPart = 64

// countKey is the key of a count. The hash tag, in braces, is the caller, so that
// all counts of a caller lie in one slot of a cluster. Of a policy what identifies
// its count, and not its quota: an edited policy keeps its counts. The length of
// windows does: what was used today says nothing of this minute.
//
//	weir:{=alice}:b,12:plan:default,7:default,8:requests
//	weir:{=alice}:f24h0m0s,12:plan:default,7:default,6:tokens
//
// No two tuples have the same key: the tag ends at the first brace, a part as it
// is has its length in front, and one that is hashed begins with # in place of = or
// a length.
func countKey(prefix string, p *ratelimit.Policy, key string) string {
	var b strings.Builder
	b.Grow(len(prefix) + len(key) + len(p.Scope) + len(p.Name) + len(p.Unit) + 20)
	b.WriteString(prefix)
	b.WriteString(":{")
	if plain(key) {
		b.WriteByte('=')
		b.WriteString(key)
	} else {
		writeHash(&b, key)
	}
	b.WriteString("}:")
	kind := kindOf(p)
	b.WriteString(kind)
	if kind == kindFixed || kind == kindSliding {
		b.WriteString(p.Window.String())
	}
	for _, part := range [...]string{p.Scope, p.Name, p.Unit} {
		b.WriteByte(',')
		if !plain(part) {
			writeHash(&b, part)
			continue
		}
		b.WriteString(strconv.Itoa(len(part)))
		b.WriteByte(':')
		b.WriteString(part)
	}
	return b.String()
}

// plain reports whether s can stand in a key as it is: short, printable, and not
// with braces, which are the cluster's.
func plain(s string) bool {
	if len(s) > maxPart {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '{' || c == '}' {
			return false
		}
	}
	return true
}

func writeHash(b *strings.Builder, s string) {
	sum := sha256.Sum256([]byte(s))
	b.WriteByte('#')
	b.WriteString(hex.EncodeToString(sum[:]))
}

// slotOf is the slot of a key in a cluster: the CRC16 (XMODEM) of its hash tag,
// modulo 16384 (Redis Cluster specification, "Key distribution model").
func slotOf(key string) uint16 {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if n := strings.IndexByte(key[open+1:], '}'); n > 0 {
			key = key[open+1 : open+1+n]
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % 16384
}
