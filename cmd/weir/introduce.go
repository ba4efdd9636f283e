package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// introduce says what is served where. For the built-in models it gives lines to
// paste.
func introduce(w io.Writer, s *service) {
	base := s.callers.base()
	var text strings.Builder
	fmt.Fprintf(&text, "Weir serves on %s\n\n", base)
	for _, r := range s.config.Routes {
		methods := strings.Join(r.Match.Methods, ",")
		if methods == "" {
			methods = "any method"
		}
		fmt.Fprintf(&text, "  %-10s %-24s -> %s", methods, r.Match.Path, targets(s.config.Upstreams[r.Upstream]))
		switch r.Cache.Mode {
		case "inference":
			fmt.Fprintf(&text, ", cached for %s", short(r.Cache.TTL))
		case "http":
			text.WriteString(", cached as its answers say")
		}
		text.WriteByte('\n')
	}
	text.WriteString(quotas(s.config))
	fmt.Fprintf(&text, "\nDashboard: %[1]s/\nMetrics and health: %[1]s/metrics, /healthz, /readyz\n", s.operators.base())
	if s.deciders != nil {
		fmt.Fprintf(&text, "Decisions for other servers: %s\n", s.deciders.base())
	}
	text.WriteString(try(s, base))
	_, _ = io.WriteString(w, text.String()) // whom nobody reads can serve all the same
}

func quota(p config.Policy) string {
	if p.Concurrent > 0 {
		return count(p.Concurrent, "request") + " at a time"
	}
	window := short(p.Window)
	switch p.Window {
	case ratelimit.Month:
		window = "a month"
	case ratelimit.Year:
		window = "a year"
	}
	return count(p.Quota, strings.ReplaceAll(strings.TrimSuffix(p.Unit, "s"), "_", " ")) + " in " + window
}

// quotas says what a caller without a plan of its own may use.
func quotas(cfg *config.Config) string {
	var parts []string
	for _, p := range cfg.Plans["default"].Policies {
		if (p.By == "caller" || p.By == "ip") && !p.Shadow {
			parts = append(parts, quota(p))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	who := "Each caller"
	if len(cfg.Plans) > 1 {
		who = "A caller of the default plan"
	}
	cached := false
	for _, r := range cfg.Routes {
		cached = cached || r.Cache.Mode != "off" && !r.Cache.ChargeHits
	}
	if cached {
		parts[len(parts)-1] += "; an answer from the cache costs nothing"
	}
	return fmt.Sprintf("\n%s has %s.\n", who, strings.Join(parts, ",\nand "))
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
	switch n := len(u.Targets); {
	case n == 0:
		return "decisions only"
	case isBuiltin(u):
		return "the built-in model"
	case n > 1:
		return fmt.Sprintf("%s and %d more", u.Targets[0].URL, n-1)
	}
	return u.Targets[0].URL
}
