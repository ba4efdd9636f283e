package config

import (
	"slices"
	"strings"
)

// The part of the schema that this version knows but refuses is written here
// and nowhere else. In a pattern, * stands for any name and [] for any index.

// laterKeys are the keys that this version refuses as not yet supported.
func laterKeys() []string {
	keys := []string{
		"tls.acme",
		"database", "blobs", "prices", "jobs", "rls",
		"plans.*.budget",
		"routes[].cache.semantic", "routes[].offload_over",
		"limits.connections_per_ip",
		"telemetry.log.sample", "telemetry.log.redact", "telemetry.otlp", "telemetry.traces",
	}
	for _, policy := range policyPatterns() {
		keys = append(keys, policy+".auto")
	}
	return keys
}

func policyPatterns() []string {
	return []string{"plans.*.policies[]", "routes[].policies[]", "callers.overrides[].policies[]"}
}

// choice is what a value may be. A word that ends in "://" stands for every
// value that begins with it.
type choice struct {
	now   []string
	later []string // known, but refused as not yet supported
}

// choices are the keys whose values are words.
func choices() map[string]choice {
	all := map[string]choice{
		"store.url":                {now: append([]string{memoryStore}, storeSchemes()...)},
		"store.on_failure":         {now: []string{"local", "open", "closed"}},
		"callers.identify[]":       {now: []string{"api_key", "jwt", "header", "ip"}},
		"upstreams.*.dialect":      {now: []string{"plain", "openai", "anthropic", "ollama", "kserve", "tfserving"}},
		"upstreams.*.balance":      {now: []string{"least_busy", "two_choices", "round_robin", balancePrefix}},
		"upstreams.*.queue.status": {now: []string{"503", "429"}},
		"upstreams.*.engine.kind":  {now: []string{"vllm", "sglang", "triton"}},
		"plans.*.priority":         {now: []string{"critical", "standard", "batch"}},
		"routes[].upgrade[]":       {now: []string{"websocket"}},
		"cache.tiers[]":            {now: []string{memoryTier, dirTier, redisTier}},
		"routes[].match.methods[]": {
			now: []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"},
		},
		"routes[].cache.mode":    {now: []string{cacheOff, cacheInference, cacheHTTP}},
		"routes[].cache.share":   {now: []string{"caller", "plan", "all"}},
		"routes[].cache.only":    {now: []string{"deterministic", "all"}},
		"routes[].cache.replay":  {now: []string{"asap", "original"}},
		"routes[].respond_async": {now: []string{"never"}, later: []string{"allowed", "always"}},
		"telemetry.log.level":    {now: []string{"debug", "info", "warn", "error"}},
	}
	for _, policy := range policyPatterns() {
		all[policy+".unit"] = choice{now: []string{"requests", "tokens", "input_tokens", "output_tokens", "bytes"}}
		all[policy+".algorithm"] = choice{now: []string{"token_bucket", "sliding_window", "fixed_window"}}
	}
	return all
}

// notYet is said of everything that only a later version does.
const notYet = "not yet supported"

// refuse returns what is wrong with value, or "".
func (c choice) refuse(value string) string {
	has := func(words []string) bool {
		return slices.ContainsFunc(words, func(w string) bool {
			return w == value || strings.HasSuffix(w, "://") && strings.HasPrefix(value, w)
		})
	}
	switch {
	case has(c.now):
		return ""
	case has(c.later):
		return notYet
	}
	return "want " + oneOf(c.now)
}
