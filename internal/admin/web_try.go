package admin

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir/config"
)

// try is a command that makes a request which the configuration serves: a GET where a
// route is for one, else what the first route is for, with a small body.
func try(c *config.Config) string {
	route, method := tried(c)
	path := cmp.Or(strings.TrimSuffix(route.Match.Path, "*"), "/")
	if strings.HasPrefix(path, "/predict/") {
		path += "?text=hello"
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil || host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	scheme := "http://"
	if c.TLS != nil {
		scheme = "https://"
	}
	command := "curl -i"
	if c.Callers.Require {
		command += ` -H "Authorization: Bearer $WEIR_KEY"`
	}
	if method != http.MethodGet {
		body := "{}"
		if route.Match.Model != "" {
			body = `{"model": "` + strings.TrimSuffix(route.Match.Model, "*") + `"}`
		}
		command += " -H 'Content-Type: application/json' -d " + inShell(body)
	}
	if method != http.MethodGet && method != http.MethodPost {
		command += " -X " + method
	}
	return command + " " + inShell(scheme+net.JoinHostPort(host, port)+path)
}

// tried is a route and a method that it is for. Routes for all methods are for a GET where
// their upstream has no dialect, or where they have more than one path: the others are
// where models are asked, by POST.
func tried(c *config.Config) (route config.Route, method string) {
	for _, r := range c.Routes {
		all := len(r.Match.Methods) == 0
		plain := strings.HasSuffix(r.Match.Path, "*") || slices.Contains([]string{"", "plain"}, c.Upstreams[r.Upstream].Dialect)
		if r.Match.Model == "" && (slices.Contains(r.Match.Methods, http.MethodGet) || all && plain) {
			return r, http.MethodGet
		}
	}
	if len(c.Routes) == 0 {
		return config.Route{}, http.MethodGet
	}
	route, method = c.Routes[0], http.MethodPost
	if methods := route.Match.Methods; len(methods) > 0 && !slices.Contains(methods, method) {
		method = methods[0]
	}
	return route, method
}

// inShell is a text that a shell takes as it is.
func inShell(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
