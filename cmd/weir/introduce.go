package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/inferweir/weir/config"
)

// introduce says what is served where. For the built-in models it gives lines to
// paste.
func introduce(w io.Writer, cfg *config.Config, public, private net.Addr) {
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	base := scheme + "://" + reachable(public)
	fmt.Fprintf(w, "Weir serves on %s\n\n", base)
	for _, r := range cfg.Routes {
		methods := strings.Join(r.Match.Methods, ",")
		if methods == "" {
			methods = "any method"
		}
		fmt.Fprintf(w, "  %-10s %-24s -> %s", methods, r.Match.Path, targets(cfg.Upstreams[r.Upstream]))
		if r.Cache.Mode != "off" {
			fmt.Fprintf(w, ", cached for %s", short(r.Cache.TTL))
		}
		fmt.Fprintln(w)
	}
	if plan, ok := cfg.Plans["default"]; ok {
		for _, p := range plan.Policies {
			fmt.Fprintf(w, "\nEach caller has %d %s in %s; an answer from the cache costs nothing.\n", p.Quota, p.Unit, short(p.Window))
		}
	}
	fmt.Fprintf(w, "Metrics and health: http://%s/metrics, /healthz, /readyz\n", reachable(private))
	if usesBuiltin(cfg) && cfg.TLS == nil {
		try(w, cfg, base)
	}
}

// try prints three lines to paste: a prediction, the same from the cache, and a
// refusal.
func try(w io.Writer, cfg *config.Config, base string) {
	for _, r := range cfg.Routes {
		if r.Match.Path != "/predict/language" {
			continue
		}
		predict := fmt.Sprintf(`curl -si %s/predict/language -d '{"instances": ["Où est la bibliothèque ?"]}'`, base)
		fmt.Fprintf(w, `
Try it. A prediction:

  %s

The same again, from the cache (Cache-Status: weir; hit):

  %s

New texts until one is refused, with the time to come back:

  for i in 1 2 3 4 5 6; do curl -si "%s/predict/language?text=this+is+text+$i" | grep -iE '^HTTP|^ratelimit:|^retry-after:|detail'; done

Your own model behind it: weir serve --print-config > weir.yaml, change targets, weir serve -c weir.yaml
`, predict, predict, base)
		return
	}
}

// short leaves the zeros of a duration out: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// reachable is an address that works in a URL on this machine.
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func targets(u config.Upstream) string {
	if len(u.Targets) == 1 && u.Targets[0].URL == "builtin:" {
		return "the built-in model"
	}
	names := make([]string, len(u.Targets))
	for i, t := range u.Targets {
		names[i] = t.URL
	}
	return strings.Join(names, ", ")
}
