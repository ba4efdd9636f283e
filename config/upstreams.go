package config

import "time"

// Upstream is a model API: one or several servers that are the same to a
// caller.
type Upstream struct {
	// Targets are the servers. At least one.
	Targets []Target `yaml:"targets" required:"a list of URLs, for example [http://127.0.0.1:8000]"`
	// Dialect is the form of its API: openai, anthropic, ollama, kserve, tfserving,
	// or plain, the default, which is any HTTP.
	Dialect string `yaml:"dialect" default:"plain"`
	// SetHeaders are fields that replace the caller's on the way upstream.
	// Their values are secrets: no message and no print-out shows them.
	SetHeaders map[string]string `yaml:"set_headers" secret:"true"`
	// Balance chooses the target of a request: least_busy, the one with the least
	// work in flight for its weight; two_choices, the less busy one of two at
	// random; round_robin; or prefix, the one that had a prompt with the same
	// beginning, unless it is much busier than the others. Default least_busy.
	Balance string `yaml:"balance" default:"least_busy"`
	// Probe asks the targets whether they are well. nil, the default, asks none.
	Probe *Probe `yaml:"probe"`
	// Connections bound the connections to each target.
	Connections Connections `yaml:"connections"`
	// Timeouts bound the parts of an upstream call.
	Timeouts Timeouts `yaml:"timeouts"`
	// Retry says how often a request is tried.
	Retry Retry `yaml:"retry"`
	// Hedge sends slow requests to a second target. nil, the default, sends none.
	Hedge *Hedge `yaml:"hedge"`
	// Breaker leaves a target out that fails.
	Breaker Breaker `yaml:"breaker"`
	// Concurrency bounds how many requests each target has at the same time.
	Concurrency Concurrency `yaml:"concurrency"`
	// SLO is how long a caller should wait at most. nil, the default, is no aim.
	SLO *SLO `yaml:"slo"`
	// Queue is where requests wait for a target that has room.
	Queue Queue `yaml:"queue"`
	// Batch puts requests together. nil, the default, puts none.
	Batch *Batch `yaml:"batch"`
	// Engine is where the targets say how busy they are. nil, the default, asks
	// none.
	Engine *Engine `yaml:"engine"`
}

// Target is one server of an upstream. In the file it is a URL alone, with
// weight 1, or a mapping with these keys.
type Target struct {
	// URL is http:// or https:// with a host and, if wanted, a base path that
	// goes before the request's path; or exactly "builtin:" for the models that
	// ship with Weir, which is then the only target. Required, unique.
	URL string `yaml:"url" required:"a URL, for example http://127.0.0.1:8000"`
	// Weight is the target's share of the requests against the others'.
	// Default 1, from 1 to 1000.
	Weight int `yaml:"weight" default:"1" min:"1" max:"1000"`
}

// balancePrefix is the Balance that looks at prompts.
const balancePrefix = "prefix"

// builtinTarget is the URL of the models that ship with Weir.
const builtinTarget = "builtin:"

// Connections bound the connections to one target.
type Connections struct {
	// Max is how many may be open. Default 512, from 1 to 65535.
	Max int `yaml:"max" default:"512" min:"1" max:"65535"`
	// Idle is how many stay open without a request; 0 keeps none. Default 128,
	// or Max where that is less.
	Idle int `yaml:"idle" default:"128" min:"0" max:"65535"`
	// IdleTimeout is how long one stays open without a request. Default 90s,
	// at least 1ms.
	IdleTimeout time.Duration `yaml:"idle_timeout" default:"90s" min:"1ms"`
}

// Timeouts bound the parts of an upstream call. Each is at least 1ms.
type Timeouts struct {
	// Connect is for each handshake, that of TCP and that of TLS. Default 1s.
	Connect time.Duration `yaml:"connect" default:"1s" min:"1ms"`
	// FirstByte is from the start, the wait for a connection included, to the
	// first byte of the answer's body. Default 60s.
	FirstByte time.Duration `yaml:"first_byte" default:"60s" min:"1ms"`
	// BetweenBytes is the longest pause within an answer. Default 30s.
	BetweenBytes time.Duration `yaml:"between_bytes" default:"30s" min:"1ms"`
	// Total is for the whole call. Default 10m.
	Total time.Duration `yaml:"total" default:"10m" min:"1ms"`
}
