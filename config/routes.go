package config

import "time"

// Cache is what the caches of all routes share.
type Cache struct {
	// Tiers are the stores, read in order: memory, the default.
	Tiers []string `yaml:"tiers" default:"[memory]"`
	// Memory is the store in this process.
	Memory Memory `yaml:"memory"`
	// NegativeTTL is how long a 404 or 410 is kept. 0s keeps none. Default 5s.
	NegativeTTL time.Duration `yaml:"negative_ttl" default:"5s"`
}

// Memory is the cache store in this process.
type Memory struct {
	// MaxBytes is how much all its entries may take. Default 256MiB, at least
	// 1.
	MaxBytes Size `yaml:"max_bytes" default:"256MiB" min:"1"`
}

// Route says what happens to the requests that it matches.
type Route struct {
	// Name stands in metrics and messages. Unique. The default is methods and
	// path, for example "GET,POST /predict/*".
	Name string `yaml:"name"`
	// Match says which requests.
	Match Match `yaml:"match" required:"a mapping with a path"`
	// Upstream names one of Config.Upstreams. Required, unless there is
	// Config.Decide: then a route without it, "", only serves decisions.
	Upstream string `yaml:"upstream" required:"the name of an upstream" unless:"/decide"`
	// Policies apply besides those of the caller's plan. Default none.
	Policies []Policy `yaml:"policies"`
	// Cache says which answers are kept.
	Cache RouteCache `yaml:"cache"`
	// MaxBody is the largest request body; a larger one is refused with 413.
	// Default 10MiB, at least 1.
	MaxBody Size `yaml:"max_body" default:"10MiB" min:"1"`
	// RespondAsync is never, the default: Prefer: respond-async is ignored.
	RespondAsync string `yaml:"respond_async" default:"never"`
	// LegacyHeaders adds X-RateLimit-Limit, -Remaining and -Reset. Default
	// false.
	LegacyHeaders bool `yaml:"legacy_headers" default:"false"`
}

// Match says which requests a route takes: those that fit all that is said.
type Match struct {
	// Path is the request's path, or with a * at its end the beginning of it.
	// Required.
	Path string `yaml:"path" required:"a path, for example /v1/*"`
	// Methods are GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS or QUERY.
	// Default all.
	Methods []string `yaml:"methods"`
	// Model is the member "model" of a JSON body, or with a * at its end the
	// beginning of it. "", the default, is any body. Only with an Upstream, but
	// for "*".
	Model string `yaml:"model"`
}

// RouteCache says which answers of a route are kept, and for whom.
type RouteCache struct {
	// Mode is off, the default, or inference: keyed on the request's body.
	Mode string `yaml:"mode" default:"off"`
	// TTL is how long an answer is fresh. Required with mode inference, at
	// least 1ms.
	TTL time.Duration `yaml:"ttl" min:"1ms"`
	// Share is who may get an answer that another's request brought: caller,
	// nobody else; plan, callers of one plan; all. Default caller.
	Share string `yaml:"share" default:"caller"`
	// Only is deterministic, the requests that always have the same answer
	// (temperature 0, a seed, an API without sampling), or all. Default
	// deterministic.
	Only string `yaml:"only" default:"deterministic"`
	// Ignore are JSON pointers (RFC 6901) of members that are left out of the
	// key, such as /user. Default none.
	Ignore []string `yaml:"ignore"`
	// Coalesce lets equal requests that come at the same time wait for one
	// answer. Default true.
	Coalesce bool `yaml:"coalesce" default:"true"`
	// MaxEntry is the largest answer that is kept. Default 8MiB, or
	// Memory.MaxBytes where that is less; from 1 to Memory.MaxBytes.
	MaxEntry Size `yaml:"max_entry" default:"8MiB" min:"1"`
	// ChargeHits takes from the quota for answers from the cache, too. Default
	// false.
	ChargeHits bool `yaml:"charge_hits" default:"false"`
}
