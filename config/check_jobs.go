package config

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/inferweir/weir/job"
)

// The values of Route.RespondAsync that are asked for by name.
const (
	neverAsync  = "never"
	alwaysAsync = "always"
)

const (
	webhookPrefix = "whsec_"
	// What the secret of Standard Webhooks may have, in bytes.
	minWebhookSecret = 24
	maxWebhookSecret = 64
)

func (k *checker) jobs(c *Config) {
	if k.said("jobs") && c.Database == nil && !k.said("database") && k.clean("jobs") {
		k.fail("jobs", "has no effect without database, which keeps the jobs: want it with one, for example database: {url: sqlite:weir.db}")
		return
	}
	hooks := c.Jobs.Webhooks
	if hooks == nil {
		return
	}
	const at = "jobs.webhooks.secret"
	switch text, own := strings.CutPrefix(hooks.Secret, webhookPrefix); {
	case hooks.Secret == "" || !k.clean(at):
	case hooks.Secret == redacted:
		k.fail(at, errRedacted)
	default:
		secret, err := base64.StdEncoding.DecodeString(text)
		if !own || err != nil || len(secret) < minWebhookSecret || len(secret) > maxWebhookSecret {
			k.fail(at, fmt.Sprintf("want %s and then %d to %d bytes in base64", webhookPrefix, minWebhookSecret, maxWebhookSecret))
		}
	}
	once(k, "jobs.webhooks.allow", hooks.Allow, "the same target twice")
	for i, target := range hooks.Allow {
		at := fmt.Sprintf("jobs.webhooks.allow[%d]", i)
		if err := job.CheckWebhookAllow(target); err != nil && k.clean(at) {
			k.fail(at, err.Error())
		}
	}
}

// minOffload is the smallest Route.OffloadOver: below it a link costs more than
// the answer.
const minOffload Size = 64 << 10

// deferred checks what of a route's work is put off, and what of its answers is put
// away.
func (k *checker) deferred(path string, r *Route, c *Config) {
	async, offload, entry := path+".respond_async", path+".offload_over", path+".cache.max_entry"
	switch {
	case r.RespondAsync == neverAsync || !k.clean(async):
	case c.Database == nil && !k.said("database"):
		k.fail(async, "needs a database, which keeps the jobs: want database with it, for example database: {url: sqlite:weir.db}")
	case r.RespondAsync == alwaysAsync && len(r.Upgrade) > 0 && k.clean(path+".upgrade"):
		k.fail(async, "never upgrades a connection, which upgrade asks for: want allowed, or a route without upgrade")
	}
	if r.OffloadOver > 0 && r.OffloadOver < minOffload && k.clean(offload) {
		k.fail(offload, fmt.Sprintf("want at least %v, or 0 for never", minOffload))
	}
	if r.OffloadOver > 0 && r.Cache.Mode != cacheOff && r.Cache.MaxEntry > r.OffloadOver && k.said(entry) && k.clean(entry) && k.clean(offload) {
		k.fail(entry, fmt.Sprintf("want at most offload_over, which is %v: the same answer would come as itself from the cache, and as a link from the upstream", r.OffloadOver))
	}
}

// ownPath reports a route below the paths that Weir answers itself. One without
// an upstream is about the paths of another server.
func (k *checker) ownPath(at string, r *Route, c *Config) {
	p := r.Match.Path
	switch {
	case r.Upstream == "" || !k.clean(at):
	case c.Database != nil && strings.HasPrefix(p, "/jobs/"):
		k.fail(at, "never matches: with a database, callers find their jobs below /jobs/: want another path")
	case c.Blobs != nil && (p == "/blobs" || strings.HasPrefix(p, "/blobs/")):
		k.fail(at, "never matches: with blobs, callers find theirs at /blobs: want another path")
	}
}
