package config

import (
	"slices"
	"strings"
)

// The part of the schema that this version knows but refuses is written here
// and nowhere else. In a pattern, * stands for any name and [] for any index.

// laterKeys are the keys that this version refuses as not yet supported.
func laterKeys() []string {
	return []string{
		"tls.acme",
		"rls",
		"callers.overrides[].budget",
		"routes[].cache.semantic",
		"limits.connections_per_ip",
	}
}

func policyPatterns() []string {
	return []string{"plans.*.policies[]", "routes[].policies[]", "callers.overrides[].policies[]"}
}

// choice is what a value may be. A word that ends in "://" stands for every
// value that begins with it.
type choice []string

// choices are the keys whose values are words.
func choices() map[string]choice {
	all := map[string]choice{
		"store.url":                append(choice{memoryStore}, storeSchemes()...),
		"store.on_failure":         {"local", "open", "closed"},
		"callers.identify[]":       {"api_key", "jwt", "header", "ip"},
		"upstreams.*.dialect":      {"plain", "openai", "anthropic", "ollama", "kserve", "tfserving"},
		"upstreams.*.balance":      {"least_busy", "two_choices", "round_robin", balancePrefix},
		"upstreams.*.queue.status": {"503", "429"},
		"upstreams.*.engine.kind":  {"vllm", "sglang", "triton"},
		"plans.*.priority":         {"critical", "standard", "batch"},
		"routes[].upgrade[]":       {"websocket"},
		"cache.tiers[]":            {memoryTier, dirTier, redisTier},
		"routes[].match.methods[]": {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"},
		"routes[].cache.mode":      {cacheOff, cacheInference, cacheHTTP},
		"routes[].cache.share":     {"caller", "plan", "all"},
		"routes[].cache.only":      {"deterministic", "all"},
		"routes[].cache.replay":    {"asap", "original"},
		"routes[].respond_async":   {"never", "allowed", "always"},
		"telemetry.log.level":      {"debug", "info", "warn", "error"},
		"telemetry.log.redact[]": {
			"caller", "client", "path", "user_agent", "model", "error", "request_id", "cache_key", "target", "request",
		},
	}
	for _, policy := range policyPatterns() {
		all[policy+".unit"] = choice{"requests", "tokens", "input_tokens", "output_tokens", "bytes"}
		all[policy+".algorithm"] = choice{"token_bucket", "sliding_window", "fixed_window"}
	}
	return all
}

// notYet is said of everything that only a later version does.
const notYet = "not yet supported"

// refuse returns what is wrong with value, or "".
func (c choice) refuse(value string) string {
	known := slices.ContainsFunc(c, func(w string) bool {
		return w == value || strings.HasSuffix(w, "://") && strings.HasPrefix(value, w)
	})
	if known {
		return ""
	}
	return "want " + oneOf(c)
}
