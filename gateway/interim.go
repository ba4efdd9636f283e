package gateway

import (
	"context"
	"maps"
	"net/http/httptrace"
	"net/textproto"
	"sync"

	"github.com/inferweir/weir/upstream"
)

// maxInterim is how many interim answers of one request are passed on.
const maxInterim = 16

// interim passes interim answers, such as 103 (Early Hints), on to the client. The
// transport has them in a goroutine of its own, which may be late: end is called
// before anything else is written.
type interim struct {
	mu    sync.Mutex // guards all below, and the client's head until end
	w     *response
	n     int
	ended bool
}

// watch returns a context with which a request's interim answers are passed on.
func (i *interim) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(status int, fields textproto.MIMEHeader) error {
			// 100 and 101 are about this side's connection alone.
			if status > 101 {
				i.pass(status, fields)
			}
			return nil
		},
	})
}

func (i *interim) pass(status int, fields textproto.MIMEHeader) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended || i.n == maxInterim || i.w.exchange.early {
		return
	}
	i.n++
	h := i.w.Header()
	before := maps.Clone(h)
	maps.Copy(h, fields)
	upstream.RemoveHopByHop(h)
	i.w.WriteHeader(status)
	clear(h)
	maps.Copy(h, before)
}

func (i *interim) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = true
}
