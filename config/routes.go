package config

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
	// RespondAsync is whether requests become jobs: allowed, those with Prefer:
	// respond-async; always, all of them; never, the default, none. Only with an
	// Upstream and Config.Database.
	RespondAsync string `yaml:"respond_async" default:"never"`
	// OffloadOver is the size above which an answer goes to Config.Blobs, and the
	// caller gets a link. 0, the default, never does it; else at least 64KiB.
	OffloadOver Size `yaml:"offload_over" default:"0"`
	// LegacyHeaders adds X-RateLimit-Limit, -Remaining and -Reset. Default
	// false.
	LegacyHeaders bool `yaml:"legacy_headers" default:"false"`
	// Upgrade is what a connection may become: websocket. Default nothing, and
	// such a request is refused with 501.
	Upgrade []string `yaml:"upgrade"`
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
