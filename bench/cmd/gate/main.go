// Command gate is what else one can put in front of a model server: a reverse proxy
// with a limit on how many requests are there at once. Which limit is a flag. It
// prints its address and serves until it is killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
)

// A limiter lets requests through. release is called when the request is over.
type limiter interface {
	acquire(ctx context.Context, caller string) (release func(), err error)
}

// errFull is a refusal.
var errFull = errors.New("full")

func main() {
	kind := flag.String("limit", "fifo", "none, fifo, round-robin, adaptive or adaptive-queue")
	places := flag.Int("places", 64, "`requests` at once of fifo and round-robin")
	target := flag.String("target", "", "`URL` of the model server")
	flag.Parse()
	if err := serve(*kind, *places, *target); err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
}

func serve(kind string, places int, target string) error {
	to, err := url.Parse(target)
	if err != nil || to.Host == "" {
		return fmt.Errorf("--target: %q: want a URL", target)
	}
	limit, err := newLimiter(kind, places)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("gate serves on http://%s\n", l.Addr())
	const connections = 4096
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		FlushInterval: -1,
		Transport:     &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections, DisableCompression: true},
		// Clients leave all the time here: that is no news.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			release, err := limit.acquire(r.Context(), r.Header.Get("X-User-ID"))
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			defer release()
			proxy.ServeHTTP(w, r)
		}),
	}
	return server.Serve(l)
}

func newLimiter(kind string, places int) (limiter, error) {
	if places < 1 {
		return nil, fmt.Errorf("--places: %d: want 1 or more", places)
	}
	adaptive := adaptivelimiter.NewBuilder[any]()
	switch kind {
	case "none":
		return open{}, nil
	case "fifo":
		return fifo(make(chan struct{}, places)), nil
	case "round-robin":
		return &turns{places: places, lines: map[string][]chan struct{}{}}, nil
	case "adaptive":
		return failsafe{limit: adaptive.Build()}, nil
	case "adaptive-queue":
		// The factors that its own documentation names as defaults where it has a queue.
		return failsafe{limit: adaptive.WithQueueing(2, 3).Build(), wait: true}, nil
	}
	return nil, fmt.Errorf("--limit: %q: want none, fifo, round-robin, adaptive or adaptive-queue", kind)
}

type open struct{}

func (open) acquire(context.Context, string) (func(), error) { return func() {}, nil }

// fifo is a fixed number of places; who waits does so in the order of arrival, as
// goroutines that wait to send do.
type fifo chan struct{}

func (f fifo) acquire(ctx context.Context, _ string) (func(), error) {
	select {
	case f <- struct{}{}:
		return func() { <-f }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// failsafe is failsafe-go's limit, which follows the times of whole answers, with its
// defaults: without a queue, or with that which it has.
type failsafe struct {
	limit adaptivelimiter.AdaptiveLimiter[any]
	wait  bool
}

func (f failsafe) acquire(ctx context.Context, _ string) (func(), error) {
	var permit adaptivelimiter.Permit
	var err error
	if f.wait {
		permit, err = f.limit.AcquirePermit(ctx)
	} else if p, ok := f.limit.TryAcquirePermit(); ok {
		permit = p
	} else {
		err = errFull
	}
	if err != nil {
		return nil, err
	}
	return func() {
		// What was cut short says nothing of how long answers take.
		if ctx.Err() != nil {
			permit.Drop()
		} else {
			permit.Record()
		}
	}, nil
}
