// Expensive is a small API with one slow endpoint, protected in three lines: its
// answers are cached for a minute, identical requests that overlap run once, and
// each client may make 30 requests a minute that are not in the cache.
//
//	go run ./examples/expensive
//	curl -i 'http://127.0.0.1:8000/expensive?n=20'
//
// Several copies that are given the same Redis share the limit; while it is away,
// each enforces its share:
//
//	go run ./examples/expensive -listen 127.0.0.1:8001 -redis redis://127.0.0.1:6379/0
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/telemetry"
)

// expensive stands for a model: it takes two seconds to square a number.
func expensive(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 32)
	if err != nil {
		http.Error(w, "n: want a whole number, for example ?n=20", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(2 * time.Second):
	case <-r.Context().Done(): // everybody who waited has left
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]int64{"n": n, "square": n * n}) // a client that has left needs no answer
}

// api puts the protection around it. The cache comes before the limit, so that an
// answer from the cache costs nothing; exchange the two to count every request.
func api(counts ratelimit.Store) (http.Handler, error) {
	answers, err := cache.New(cache.Options{TTL: time.Minute, Share: cache.ShareAll})
	if err != nil {
		return nil, err
	}
	limit, err := ratelimit.New(ratelimit.Options{
		Policies: []ratelimit.Policy{{Quota: 30, Window: time.Minute}},
		Store:    counts,
	})
	if err != nil {
		return nil, err
	}
	protect := weir.Chain(telemetry.Timing, answers.Middleware, limit.Middleware)
	mux := http.NewServeMux()
	mux.Handle("GET /expensive", protect(http.HandlerFunc(expensive)))
	return mux, nil
}

// shared is where copies of this program that have the same Redis count together;
// without one each counts in its own memory. stop tells the others that this copy
// is gone.
func shared(url string) (counts ratelimit.Store, stop func(), err error) {
	if url == "" {
		return ratelimit.NewMemoryStore(0), func() {}, nil
	}
	redis, err := redisstore.New(redisstore.Options{URL: url})
	if err != nil {
		return nil, nil, err
	}
	counts, err = ratelimit.NewFallback(ratelimit.FallbackOptions{Shared: redis, Instances: redis.Instances})
	return counts, redis.Close, err
}

// serve answers requests until ctx ends, and then those that are under way.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:8000", "the `address` to serve on")
	redis := flag.String("redis", "", "the `URL` of a Redis to count in, for example redis://127.0.0.1:6379/0")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	counts, stop, err := shared(*redis)
	if err != nil {
		return err
	}
	defer stop()
	handler, err := api(counts)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	log.Printf("serving http://%s/expensive?n=20", listener.Addr())
	return serve(ctx, listener, handler)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
