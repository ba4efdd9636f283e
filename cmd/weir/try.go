package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// triedPath is the path of the lines to paste.
const triedPath = "/predict/language"

// try gives lines to paste: a prediction, the same from the cache, and a refusal;
// those of them that the configuration makes true.
func try(s *service, base string) string {
	r, ok := triable(s.config)
	if !ok {
		return ""
	}
	var text strings.Builder
	predict := fmt.Sprintf(`curl -si %s%s -d '{"instances": ["Où est la bibliothèque ?"]}'`, base, triedPath)
	fmt.Fprintf(&text, "\nTry it. A prediction:\n\n  %s\n", predict)
	if r.Cache.Mode == "inference" {
		fmt.Fprintf(&text, "\nThe same again, from the cache (Cache-Status: weir; hit):\n\n  %s\n", predict)
	}
	if n := refusedAfter(s.config, r); n <= maxTries {
		fmt.Fprintf(&text, `
New texts until one is refused, with the time to come back:

  curl -si "%s%s?text=text+[1-%d]" | grep -iE '^HTTP|^RateLimit:|^Retry|detail'
`, base, triedPath, n+1)
	}
	if s.file == "" {
		text.WriteString("\nYour own model behind it: weir serve --print-config > weir.yaml, change targets, weir serve -c weir.yaml\n")
	}
	return text.String()
}

// maxTries is how many answers a newcomer likes to scroll past.
const maxTries = 20

// triable finds the route of triedPath, where curl gets a prediction of the
// built-in models from it without a key, a certificate or a certain body.
func triable(cfg *config.Config) (config.Route, bool) {
	if cfg.TLS != nil || cfg.Callers.Require {
		return config.Route{}, false
	}
	for _, r := range cfg.Routes {
		start, isPrefix := strings.CutSuffix(r.Match.Path, "*")
		if start != triedPath && (!isPrefix || !strings.HasPrefix(triedPath, start)) {
			continue
		}
		served := func(method string) bool {
			return len(r.Match.Methods) == 0 || slices.Contains(r.Match.Methods, method)
		}
		return r, isBuiltin(cfg.Upstreams[r.Upstream]) && r.Match.Model == "" && served("GET") && served("POST")
	}
	return config.Route{}, false
}

// refusedAfter is how many requests at once a caller without a plan may send to
// r, or many where nothing limits it.
func refusedAfter(cfg *config.Config, r config.Route) int64 {
	n := int64(maxTries + 1)
	for _, p := range slices.Concat(cfg.Plans["default"].Policies, r.Policies) {
		if p.Shadow || p.Concurrent > 0 || p.Unit != ratelimit.Requests {
			continue // these lines would not meet it
		}
		burst := p.Burst
		if burst == 0 {
			burst = p.Quota
		}
		n = min(n, burst)
	}
	return n
}
