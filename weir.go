// Package weir holds the words that every part of Weir shares: who calls
// (Caller), what a refusal says (Problem), what a model call used (Usage), and
// how handlers are wrapped (Middleware, Chain).
//
// The parts themselves are packages of their own: auth, ratelimit, cache and
// upstream each work alone as net/http middleware or as plain functions, and
// gateway puts them together into the server that the command weir runs.
package weir

import (
	"context"
	"net/http"
	"net/netip"
	"time"
)

// Middleware wraps a handler in another one.
type Middleware func(http.Handler) http.Handler

// Chain makes one Middleware of several. The first is the outermost: it sees
// the request first and the answer last. Without arguments it changes nothing.
func Chain(m ...Middleware) Middleware {
	return func(h http.Handler) http.Handler {
		for i := len(m) - 1; i >= 0; i-- {
			h = m[i](h)
		}
		return h
	}
}

// Caller is who sent a request, as far as limits, the fair queue, the cache and
// the ledger are concerned.
type Caller struct {
	// ID names the caller uniquely: the way it was identified, a colon and a
	// value, so that nobody can take another's name by another way. For example
	// "key:alice", "jwt:4711", "header:bob", "ip:203.0.113.7" or
	// "ip:2001:db8:1:2::/64". It is never empty for an identified request.
	ID string
	// Plan is the plan that the identifier carries, "" where it carries none:
	// the gateway then takes the plan named "default".
	Plan string
	// Addr is the client's own address, found behind trusted proxies, with
	// transition addresses (IPv4-mapped, NAT64, 6to4, Teredo) unwrapped.
	Addr netip.Addr
	// Net is Addr cut to the configured prefix: what "by IP" means. Two
	// addresses in one Net count as one client.
	Net netip.Prefix
	// Anonymous says that nothing but the address identified the caller.
	Anonymous bool
}

type callerKey struct{}

// WithCaller returns a context that carries c.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns the caller that WithCaller put into ctx, and whether there
// was one.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// Usage is what a model call used, in tokens. The zero value means unknown or
// nothing.
type Usage struct {
	// Input counts all prompt tokens, Cached the part of them that the model
	// server had in its prefix cache, Output the generated ones.
	Input, Cached, Output int64
}

// Add returns the sum of u and v.
func (u Usage) Add(v Usage) Usage {
	return Usage{Input: u.Input + v.Input, Cached: u.Cached + v.Cached, Output: u.Output + v.Output}
}

// Never is the RetryAfter of a refusal that no waiting changes, such as a cost
// above the burst.
const Never time.Duration = -1
