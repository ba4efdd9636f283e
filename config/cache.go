package config

import "time"

// Cache is what the caches of all routes share.
type Cache struct {
	// Tiers are the stores, read in order and filled back: memory, dir and redis,
	// each at most once. dir needs Dir, and redis a Store.URL that is a Redis.
	// Default memory alone.
	Tiers []string `yaml:"tiers" default:"[memory]"`
	// Memory is the store in this process. It counts with
	// the tier memory.
	Memory Memory `yaml:"memory" with:"Tiers=memory"`
	// Dir is the store in files. nil, the default, is none. It counts with the
	// tier dir.
	Dir *CacheDir `yaml:"dir" with:"Tiers=dir"`
	// CallerShare is the part of the tiers memory and dir that the answers to one
	// caller may keep when others need room. 1 lets one caller keep everything.
	// Default 0.25, above 0, at most 1, with four decimals at most.
	CallerShare float64 `yaml:"caller_share" default:"0.25"`
	// NegativeTTL is how long a 404 or 410 is kept. 0s keeps none. Where the
	// upstream's own fields decide, with mode http, they decide this, too.
	// Default 5s.
	NegativeTTL time.Duration `yaml:"negative_ttl" default:"5s"`
}

// Memory is the cache store in this process.
type Memory struct {
	// MaxBytes is how much all its entries may take. Default 256MiB, at least
	// 1.
	MaxBytes Size `yaml:"max_bytes" default:"256MiB" min:"1"`
}

// CacheDir is the cache store in files.
type CacheDir struct {
	// Path is the directory, which is made if need be. It belongs to this process
	// alone. Required.
	Path string `yaml:"path" required:"a directory, for example /var/cache/weir"`
	// MaxBytes is how much all its files may take. Default 10GiB, at least 1MiB.
	MaxBytes Size `yaml:"max_bytes" default:"10GiB" min:"1MiB"`
}

// The modes of a RouteCache.
const (
	cacheOff       = "off"
	cacheInference = "inference"
	cacheHTTP      = "http"
)

// RouteCache says which answers of a route are kept, and for whom.
type RouteCache struct {
	// Mode is off, the default; inference: keyed on the request's body, and kept
	// for TTL; or http: the upstream's own fields decide what is kept and for how
	// long (RFC 9111).
	Mode string `yaml:"mode" default:"off"`
	// TTL is how long an answer is fresh. Required with mode inference, at
	// least 1ms.
	TTL time.Duration `yaml:"ttl" min:"1ms" with:"Mode!http"`
	// Auto lets the load move TTL, which is where it starts. nil, the default, leaves it
	// where it is.
	Auto *AutoTTL `yaml:"auto" with:"Mode!http"`
	// StaleWhileRevalidate is how long after that an answer may still be given at
	// once while a new one is fetched; with mode http it stands in for an answer's
	// own stale-while-revalidate (RFC 5861). Default 0s, which is not at all.
	StaleWhileRevalidate time.Duration `yaml:"stale_while_revalidate" default:"0s"`
	// StaleIfError is how long after that an answer may still be given where the
	// upstream fails; with mode http it stands in for an answer's own
	// stale-if-error (RFC 5861). Default 0s, which is not at all.
	StaleIfError time.Duration `yaml:"stale_if_error" default:"0s"`
	// Share is who may get an answer that another's request brought: caller,
	// nobody else; plan, callers of one plan; all. Default caller.
	Share string `yaml:"share" default:"caller"`
	// Only is deterministic, the requests that always have the same answer
	// (temperature 0, a seed, an API without sampling), or all. Default
	// deterministic.
	Only string `yaml:"only" default:"deterministic" with:"Mode!http"`
	// Ignore are JSON pointers (RFC 6901) of members that are left out of the
	// key, such as /user. Default none.
	Ignore []string `yaml:"ignore" with:"Mode!http"`
	// Tags are what the route's answers can be purged by. At most 16, each of 1 to
	// 64 printable characters other than space and comma. Default none.
	Tags []string `yaml:"tags"`
	// Coalesce lets equal requests that come at the same time wait for one
	// answer. Default true.
	Coalesce bool `yaml:"coalesce" default:"true"`
	// Replay is how a stream from the cache is written: asap, as fast as it is
	// read, or original, with the pauses that it had. Default asap.
	Replay string `yaml:"replay" default:"asap" with:"Mode!http"`
	// MaxEntry is the largest answer that is kept. Default 8MiB, or the bound of
	// the smallest of Cache.Tiers where that is less; from 1 to that bound.
	MaxEntry Size `yaml:"max_entry" default:"8MiB" min:"1"`
	// ChargeHits takes from the quota for answers from the cache, too. Default
	// false.
	ChargeHits bool `yaml:"charge_hits" default:"false"`
}

// AutoTTL are the bounds between which the load moves a TTL.
type AutoTTL struct {
	// Min is what it becomes where there is room. Required, at least 1ms.
	Min time.Duration `yaml:"min" min:"1ms" required:"the shortest that the ttl may become, for example 1m"`
	// Max is what it becomes where there is too much to do. Required, at least Min.
	Max time.Duration `yaml:"max" min:"1ms" required:"the longest that the ttl may become, for example 1h"`
}
