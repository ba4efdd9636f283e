package config

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// overload checks what an upstream at path does when it is slow, full or gone.
func (k *checker) overload(path string, u Upstream) {
	k.balance(path, u)
	k.probe(path, u)
	k.repeats(path, u)
	k.concurrency(path, u)
	k.slo(path+".slo", u)
	k.queue(path+".queue", u.Queue)
	if u.Breaker.Failures == 0 {
		k.noEffect(path+".breaker", "with failures 0, which turns the breaker off", "open_for")
	}
	if u.Batch != nil && !joins(u.Dialect) && k.clean(path+".dialect") {
		k.fail(path+".batch", fmt.Sprintf("has no effect with dialect %s, whose calls cannot be joined: want dialect openai, ollama, kserve or tfserving", u.Dialect))
	}
	if u.Engine != nil && k.overHTTP(path+".engine", u.Targets) {
		k.enginePath(path+".engine.metrics", u.Engine.Metrics)
	}
}

// noEffect reports those of the keys at path that the file has although another
// one says that they change nothing.
func (k *checker) noEffect(path, because string, keys ...string) {
	for _, key := range keys {
		if at := path + "." + key; k.said(at) && k.clean(at) {
			k.fail(at, "has no effect "+because)
		}
	}
}

func (k *checker) balance(path string, u Upstream) {
	if u.Balance == balancePrefix && !countsTokens(u.Dialect) && k.clean(path+".dialect") {
		k.fail(path+".balance", fmt.Sprintf("has no effect with dialect %s, which has no prompts: want dialect openai, anthropic, ollama or kserve, or another balance", u.Dialect))
	}
}

func (k *checker) probe(path string, u Upstream) {
	at := path + ".probe"
	if u.Probe == nil || !k.overHTTP(at, u.Targets) {
		return
	}
	k.requestPath(at+".path", u.Probe.Path, "/health")
	if u.Probe.Timeout > u.Probe.Interval && k.clean(at) {
		k.fail(at+".timeout", "want at most probe.interval, which is "+formatDuration(u.Probe.Interval))
	}
}

// repeats checks what sends a request more than once.
func (k *checker) repeats(path string, u Upstream) {
	if u.Retry.Attempts == 1 {
		k.noEffect(path+".retry", "with attempts 1, which never tries again", "budget", "post")
	}
	at := path + ".hedge"
	if u.Hedge != nil && k.overHTTP(at, u.Targets) && len(u.Targets) == 1 {
		k.fail(at, "want at least two targets: the second call goes to another one")
	}
}

// concurrency checks that there can be as many requests as the file says. Over
// HTTP/1.1, which targets without TLS speak, each has a connection of its own.
func (k *checker) concurrency(path string, u Upstream) {
	at := path + ".concurrency"
	if !k.clean(at) {
		return
	}
	switch c := u.Concurrency; {
	case c.Max > u.Connections.Max && oneEach(u.Targets) && k.clean(path+".connections"):
		k.fail(k.orAbove(at, "max"), fmt.Sprintf("want at most connections.max, which is %d: each request has a connection of its own", u.Connections.Max))
	case c.Min > c.Max:
		k.fail(at+".min", fmt.Sprintf("want at most concurrency.max, which is %d", c.Max))
	}
}

// oneEach holds where a target takes no more requests than connections.
func oneEach(targets []Target) bool {
	return slices.ContainsFunc(targets, func(t Target) bool { return strings.HasPrefix(t.URL, "http://") })
}

func (k *checker) slo(path string, u Upstream) {
	switch {
	case u.SLO == nil || !k.clean(path):
	case u.SLO.TTFT == 0 && u.SLO.TPOT == 0:
		k.fail(path, "want ttft, tpot or both, for example {ttft: 2s, tpot: 80ms}")
	case u.SLO.TPOT > 0 && !countsTokens(u.Dialect) && k.clean(parent(path)+".dialect"):
		k.fail(path+".tpot", fmt.Sprintf("has no effect with dialect %s, which has no tokens: want ttft alone, or dialect openai, anthropic, ollama or kserve", u.Dialect))
	}
}

func (k *checker) queue(path string, q Queue) {
	if q.Max == 0 {
		k.noEffect(path, "with max 0, which lets no request wait", "max_wait", "keepalive_after")
	}
}

// overHTTP reports whether the upstream has targets that can be asked, and where
// it has none says so at path.
func (k *checker) overHTTP(path string, targets []Target) bool {
	builtin := slices.ContainsFunc(targets, func(t Target) bool { return t.URL == builtinTarget })
	if builtin && k.clean(path) {
		k.fail(path, "has no effect with builtin:, which is in this process: want a target with a URL")
	}
	return !builtin
}

// requestPath checks a path that Weir itself asks a target for.
func (k *checker) requestPath(path, value, example string) {
	outside := func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }
	_, err := url.ParseRequestURI(value)
	switch {
	case !k.clean(path):
	case !strings.HasPrefix(value, "/") || strings.HasPrefix(value, "//"):
		k.fail(path, "want a path that begins with one /, for example "+example)
	case strings.ContainsFunc(value, outside) || err != nil:
		k.fail(path, "want a path of ASCII characters without spaces and fragment, and with %25 for %, for example "+example)
	}
}

// enginePath checks a path that may have another port before it.
func (k *checker) enginePath(path, value string) {
	port, hasPort := strings.CutPrefix(value, ":")
	if !hasPort {
		k.requestPath(path, value, "/metrics, or :8002/metrics for another port")
		return
	}
	port, _, hasPath := strings.Cut(port, "/")
	if n, err := strconv.ParseUint(port, 10, 16); (err != nil || n == 0 || !hasPath) && k.clean(path) {
		k.fail(path, "want a port from 1 to 65535 and a path after the colon, for example :8002/metrics")
		return
	}
	k.requestPath(path, value[1+len(port):], ":8002/metrics")
}

// joins holds for the dialects that have calls of which several can be one.
func joins(dialect string) bool {
	return dialect != "plain" && dialect != "anthropic"
}

// upgrade checks what the connections of a route may become.
func (k *checker) upgrade(path string, r *Route, c *Config) {
	once(k, path, r.Upgrade, "the same protocol twice")
	if !k.said(path) || !k.clean(path) {
		return
	}
	builtin := slices.ContainsFunc(c.Upstreams[r.Upstream].Targets, func(t Target) bool { return t.URL == builtinTarget })
	switch {
	case len(r.Upgrade) == 0:
		k.fail(path, "want websocket, or leave the key out")
	case r.Upstream == "":
		k.fail(path, "has no effect without an upstream: want one, or leave the key out")
	case builtin:
		k.fail(path, "has no effect with builtin:, which speaks plain HTTP: want a target with a URL")
	case r.Cache.Mode != cacheOff && k.clean(parent(path)+".cache.mode"):
		k.fail(path, "want a route without a cache: what goes over an upgraded connection is no answer to keep")
	case len(r.Match.Methods) > 0 && !slices.Contains(r.Match.Methods, "GET") && k.clean(parent(path)+".match"):
		k.fail(path, "never happens: a connection is upgraded by GET: want GET in match.methods")
	case r.Match.Model != "" && r.Match.Model != "*" && k.clean(parent(path)+".match"):
		k.fail(path, "never happens: a request to upgrade has no body, which names the model: want a route without match.model")
	}
}
