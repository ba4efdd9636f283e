package gateway

import (
	"net/http"
	"slices"
	"strings"
)

// sessionCookie is the cookie of who is logged in to the dashboard.
const sessionCookie = "weir_session"

// forgetSession removes the dashboard's cookie from a request. Browsers do not tell ports
// apart: who is logged in on the admin listener sends it to this one, too, and no upstream
// may have it.
func forgetSession(h http.Header) {
	lines := h["Cookie"]
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, sessionCookie) }) {
		return
	}
	var kept []string
	for _, line := range lines {
		var cookies []string
		for one := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(one, "=")
			if one = strings.TrimSpace(one); one != "" && strings.TrimSpace(name) != sessionCookie {
				cookies = append(cookies, one)
			}
		}
		if len(cookies) > 0 {
			kept = append(kept, strings.Join(cookies, "; "))
		}
	}
	if len(kept) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = kept
}
