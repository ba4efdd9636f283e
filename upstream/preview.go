package upstream

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Preview is the one of targets that Choose would take now, which it does not count as
// sent: -1 where that is left to chance, or the pool has none of them.
func (p *Pool) Preview(targets []int, load []float64, prefix Prefix) int {
	targets = slices.DeleteFunc(slices.Clone(targets), func(t int) bool { return t < 0 || t >= len(p.targets) })
	if len(targets) == 0 {
		return -1
	}
	return p.balance.preview(targets, load, prefix)
}

// URL is that of target i, or its name where it has a transport of its own. It is "" for
// a number that no target has.
func (p *Pool) URL(i int) string {
	if i < 0 || i >= len(p.targets) {
		return ""
	}
	return p.targets[i].name
}

// OpensAtOf is when target i may be open again, as far as is known: the zero time where
// it is open, and for a number that no target has.
func (p *Pool) OpensAtOf(i int, now time.Time) time.Time {
	if i < 0 || i >= len(p.targets) {
		return time.Time{}
	}
	return p.targets[i].health.opensAt(now)
}

// Outgoing is the header with which in would go to target i: without the fields that
// concern the client's connection, and with those that the pool adds and replaces, secrets
// included. It is nil for a number that no target has.
func (p *Pool) Outgoing(in *http.Request, i int) http.Header {
	if i < 0 || i >= len(p.targets) {
		return nil
	}
	out := outgoing(context.WithoutCancel(in.Context()), in, p.targets[i].base)
	p.setFields(out.Header)
	return out.Header
}

// setFields sets in h what Options.SetHeaders says.
func (p *Pool) setFields(h http.Header) {
	for name, values := range p.headers {
		if values[0] == "" {
			delete(h, name)
			continue
		}
		h[name] = values
	}
}
