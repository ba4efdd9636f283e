// Score is a small model API without a gateway, to try docs/tuning.md on: /score
// computes for tens of milliseconds, as a model in the process does, and /ping needs
// only a moment. It says in Server-Timing where the time of an answer went.
//
//	go run ./examples/tuning/score
//	curl -i 'http://127.0.0.1:8000/score?text=hello'
//
// With -workers 1 one text is scored at a time, and the others wait in a queue that is
// fair between callers: /ping stays quick.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/telemetry"
)

const (
	// maxWork bounds -work: what one answer may compute.
	maxWork = 10_000_000
	// rest is how many hashes are made before a look whether the client is still there.
	rest = 1000
)

// model scores texts. A nil pool bounds nothing.
type model struct {
	pool *admission.Pool
	work int // hashes of an answer
}

// ServeHTTP marks its phases by name; telemetry.Timing around it tells them.
func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	words := m.tokenize(r)
	if len(words) == 0 {
		http.Error(w, "text: want some words, for example ?text=hello", http.StatusBadRequest)
		return
	}
	score, err := m.inPool(r.Context(), words)
	if problem, ok := errors.AsType[*weir.Problem](err); ok {
		problem.ServeHTTP(w, r)
		return
	}
	if err != nil {
		return // the client has left
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]int{"words": len(words), "score": score}) // a client that has left needs no answer
}

func (m *model) tokenize(r *http.Request) []string {
	defer telemetry.Start(r.Context(), "tokenize")()
	return strings.Fields(r.URL.Query().Get("text"))
}

// inPool computes when a worker is free.
func (m *model) inPool(ctx context.Context, words []string) (int, error) {
	if m.pool == nil {
		return m.compute(ctx, words)
	}
	started := telemetry.Start(ctx, "wait")
	defer started() // also where no worker came
	return admission.Run(ctx, m.pool, func(ctx context.Context) (int, error) {
		started()
		return m.compute(ctx, words)
	})
}

// compute stands for the model: it burns a processor.
func (m *model) compute(ctx context.Context, words []string) (int, error) {
	defer telemetry.Start(ctx, "model")()
	sum := sha256.Sum256([]byte(strings.Join(words, " ")))
	for i := range m.work {
		if i%rest == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		sum = sha256.Sum256(sum[:])
	}
	return int(sum[0]), nil
}

// api is all of it, timed.
func api(m *model) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /score", m)
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "pong") })
	return telemetry.Timing(mux)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8000", "`address` to serve on")
	workers := flag.Int("workers", 0, "texts that are scored at once; 0: no bound")
	work := flag.Int("work", 300_000, "`hashes` that an answer takes")
	flag.Parse()
	if err := run(*listen, *workers, *work); err != nil {
		log.Fatal("score: ", err)
	}
}

// run serves until the process is told to end, and then answers what it has begun.
func run(listen string, workers, work int) error {
	if work < 1 || work > maxWork {
		return fmt.Errorf("-work: %d: want from 1 to %d", work, maxWork)
	}
	m := &model{work: work}
	if workers != 0 {
		pool, err := admission.NewPool(admission.PoolOptions{Workers: workers})
		if err != nil {
			return err
		}
		m.pool = pool
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	at, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("-listen: %w: want a free address of this machine, for example 127.0.0.1:8002", err)
	}
	server := &http.Server{Handler: api(m), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(at) }() // ends with the server, below
	log.Printf("scores texts on http://%s/score?text=hello", at.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = server.Shutdown(grace)
	<-failed
	return err
}
