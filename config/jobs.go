package config

import "time"

// Jobs says how long jobs live. There are some only with a Database.
type Jobs struct {
	// ResultTTL is how long a result can be fetched after its job has ended.
	// Default 24h, from 1m to 90d.
	ResultTTL time.Duration `yaml:"result_ttl" default:"24h" min:"1m" max:"90d"`
	// Attempts is how often a job is tried in all; 1 never tries one again.
	// Default 3, from 1 to 100.
	Attempts int `yaml:"attempts" default:"3" min:"1" max:"100"`
	// Webhooks tells callers that a job has ended. nil, the default, tells nobody.
	Webhooks *Webhooks `yaml:"webhooks"`
}

// Webhooks are calls to a URL that a caller named when it handed in a job.
type Webhooks struct {
	// Secret signs them, as in Standard Webhooks: whsec_ and 24 to 64 bytes in
	// base64. Required.
	Secret string `yaml:"secret" secret:"true" required:"whsec_ and 24 to 64 bytes in base64: echo whsec_$(head -c 32 /dev/urandom | base64)"`
	// Allow are targets that may be called although their addresses are private, or their
	// ports unusual: a host, an address or a network, each with or without a port, or *:PORT
	// for any public host, as job.WebhookOptions says. At most 256. Default none.
	Allow []string `yaml:"allow"`
}
