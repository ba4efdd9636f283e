// Fakeengine is a model server without a model, to try a gateway on: it speaks
// OpenAI's API, works in steps as vLLM does, with a KV cache that can be full, says in
// its metrics how busy it is, and fails when it is told to. docs/overload-tools.md
// has its flags and faults.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves until ctx ends, or prints the simulator's table, and returns the exit
// status: 2 for a wrong command line, 1 for what failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "fakeengine: %v\n", err)
		return 2
	case o.simulate:
		err = simulate(o, stdout)
	default:
		err = serve(ctx, o, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "fakeengine: %v\n", err)
		return 1
	}
	return 0
}

// serve serves until ctx ends, and then gives open requests no time: whoever sends
// them is a test.
func serve(ctx context.Context, o options, stdout io.Writer) error {
	h := &http.Server{ReadHeaderTimeout: 10 * time.Second}
	l, err := listen(o.listen, func() { h.SetKeepAlivesEnabled(true) })
	if err != nil {
		return err
	}
	defer l.Close()
	s, err := newServer(o, func(d time.Duration) {
		// Connections that are idle end at once, those in use after their answer.
		h.SetKeepAlivesEnabled(false)
		l.refuse(d)
	})
	if err != nil {
		return err
	}
	if o.log {
		s.log = stdout
	}
	h.Handler = s.handler()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { s.loop.run(ctx) })
	group.Go(func() {
		<-ctx.Done()
		_ = h.Close()
	})
	defer stop() // before the wait
	fmt.Fprintf(stdout, "fakeengine serves on http://%s\n", l.Addr())
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
