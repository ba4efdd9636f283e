package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

type serveCommand struct {
	Config      file `short:"c" placeholder:"FILE" help:"The configuration; without it, the built-in one."`
	PrintConfig bool `help:"Print the configuration as YAML, with all defaults and without secrets, and end."`
}

// Run serves until ctx ends, then lets running requests finish.
func (c *serveCommand) Run(ctx context.Context, out output) error {
	if c.PrintConfig && c.Config == "" {
		_, err := out.stdout.Write(config.Builtin())
		return err
	}
	first, _ := digestOf(string(c.Config)) // an error is load's, too
	cfg, err := load(c.Config, out)
	if err != nil {
		return err
	}
	if c.PrintConfig {
		text, err := cfg.YAML()
		if err != nil {
			return err
		}
		_, err = out.stdout.Write(text)
		return err
	}
	s, err := prepare(c.Config, cfg, gateway.Options{}, out)
	if err != nil {
		return err
	}
	defer s.close()
	s.reader.last, s.reader.seen = first, first
	return s.serve(ctx, out.stdout)
}

// serve listens, says where, and answers until ctx ends.
func (s *service) serve(ctx context.Context, stdout io.Writer) error {
	hangup, stop := hangups()
	defer stop()
	servers := s.servers()
	for _, v := range servers {
		if err := v.listen(); err != nil {
			return err
		}
		defer v.listener.Close()
	}
	ended := make(chan error, len(servers))
	for _, v := range servers {
		go func() { ended <- v.serve() }()
	}
	introduce(stdout, s)

	reloading, stopReloading := context.WithCancel(ctx)
	var reloads sync.WaitGroup
	reloads.Go(func() { s.reload(reloading, hangup) })
	running := len(servers)
	stopped, failed := s.await(ctx, ended)
	stopReloading()
	reloads.Wait()
	if stopped {
		running--
	}
	s.shutDown()
	for range running {
		if err := <-ended; failed == nil && !errors.Is(err, http.ErrServerClosed) {
			failed = err
		}
	}
	return failed
}
