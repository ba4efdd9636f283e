package config

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The stores that Cache.Tiers names.
const (
	memoryTier = "memory"
	dirTier    = "dir"
	redisTier  = "redis"
)

// smallest is the tier with the least room for an entry: its key in the file,
// and that room, 0 where no tier has a bound.
func (c *Cache) smallest() (key string, least Size) {
	for _, tier := range c.Tiers {
		switch {
		case tier == memoryTier && (least == 0 || c.Memory.MaxBytes < least):
			key, least = "cache.memory.max_bytes", c.Memory.MaxBytes
		case tier == dirTier && c.Dir != nil && (least == 0 || c.Dir.MaxBytes < least):
			key, least = "cache.dir.max_bytes", c.Dir.MaxBytes
		}
	}
	return key, least
}

func (k *checker) cache(c *Config) {
	tiers := c.Cache.Tiers
	if len(tiers) == 0 {
		k.fail("cache.tiers", "want at least one store, for example [memory]")
	}
	once(k, "cache.tiers", tiers, "the same store twice")
	if c.Cache.Dir != nil && k.clean("cache.dir.path") {
		k.printable("cache.dir.path", c.Cache.Dir.Path)
	}
	for i, tier := range tiers {
		at := fmt.Sprintf("cache.tiers[%d]", i)
		switch {
		case !k.clean(at):
		case tier == dirTier && c.Cache.Dir == nil && !k.said("cache.dir"):
			k.fail(at, "has no directory: want cache.dir with it, for example cache: {tiers: [memory, dir], dir: {path: /var/cache/weir}}")
		case tier == redisTier && c.Store.URL == memoryStore && k.clean("store.url"):
			k.fail(at, "has no server: want a Redis as store.url, for example redis://localhost:6379/0")
		}
	}
}

// routeCacheKeys are those that say nothing without a mode.
func routeCacheKeys() []string {
	return []string{
		"ttl", "auto", "stale_while_revalidate", "stale_if_error", "share", "only", "ignore", "tags", "coalesce",
		"replay", "max_entry", "charge_hits",
	}
}

func (k *checker) routeCache(path string, r RouteCache, shared *Cache) {
	switch {
	case r.Mode == cacheOff && !k.said(path+".mode"):
		k.noMode(path)
	case r.Mode == cacheHTTP:
		for _, key := range []string{"ttl", "auto", "only", "ignore", "replay"} {
			if at := path + "." + key; k.said(at) && k.clean(at) {
				k.fail(at, "has no effect with mode http, where the upstream's own fields decide: want this key left out, or mode: inference")
			}
		}
	case r.Mode == cacheInference && r.TTL == 0:
		k.fail(path+".ttl", "missing: want a duration, for example 10m, with mode inference")
	case r.Mode == cacheInference && r.Auto != nil && k.clean(path+".ttl"):
		k.autoTTL(path+".auto", r)
	}
	for i, pointer := range r.Ignore {
		at := fmt.Sprintf("%s.ignore[%d]", path, i)
		if k.clean(at) && !isPointer(pointer) {
			k.fail(at, "want a JSON pointer (RFC 6901) to a member, for example /user or /metadata/id")
		}
	}
	once(k, path+".ignore", r.Ignore, "the same pointer twice")
	k.tags(path+".tags", r.Tags)
	at, known := path+".max_entry", k.clean("cache.tiers") && k.clean("cache.memory") && k.clean("cache.dir")
	if key, least := shared.smallest(); known && k.said(at) && k.clean(at) && least > 0 && r.MaxEntry > least {
		k.fail(at, fmt.Sprintf("want at most %s, which is %v", key, least))
	}
}

// noMode reports the first key only: the one missing is to blame for all of them.
func (k *checker) noMode(path string) {
	want := "has no effect without mode: want mode: inference, mode: http, or mode: off, next to it"
	if k.live != nil {
		want = "has no effect on a route without a cache: want cache.mode in the file, inference or http"
	}
	for _, key := range routeCacheKeys() {
		if k.said(path+"."+key) && k.clean(path) {
			k.fail(path+"."+key, want)
			return
		}
	}
}

// What a route may have of tags: each entry carries all of them.
const (
	maxTags = 16
	maxTag  = 64
)

func (k *checker) tags(path string, tags []string) {
	if len(tags) > maxTags {
		k.fail(path, fmt.Sprintf("%d tags: want at most %d", len(tags), maxTags))
	}
	// Header fields that list tags part them by commas or by spaces.
	bad := func(r rune) bool { return r == ' ' || r == ',' || !unicode.IsPrint(r) }
	for i, tag := range tags {
		at := fmt.Sprintf("%s[%d]", path, i)
		if k.clean(at) && (utf8.RuneCountInString(tag) > maxTag || strings.ContainsFunc(tag, bad)) {
			k.fail(at, fmt.Sprintf("want 1 to %d printable characters without spaces and commas", maxTag))
		}
	}
	once(k, path, tags, "the same tag twice")
}

// isPointer holds for JSON pointers other than "", which is the whole document.
func isPointer(s string) bool {
	if !strings.HasPrefix(s, "/") {
		return false
	}
	for i := range len(s) {
		if s[i] == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return false
		}
	}
	return true
}
