package main

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/inferweir/weir/config"
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
	s, err := prepare(c.Config, cfg, out)
	if err != nil {
		return err
	}
	defer s.close()
	return s.serve(ctx, out.stdout)
}

// serve listens, says where, and answers until ctx ends.
func (s *service) serve(ctx context.Context, stdout io.Writer) error {
	public, err := listen("listen", s.config.Listen)
	if err != nil {
		return err
	}
	defer public.Close()
	private, err := listen("admin.listen", s.config.Admin.Listen)
	if err != nil {
		return err
	}
	defer private.Close()

	ended := make(chan error, 2)
	go func() {
		if s.config.TLS != nil {
			ended <- s.callers.ServeTLS(public, "", "") // the certificate is in TLSConfig
			return
		}
		ended <- s.callers.Serve(public)
	}()
	go func() { ended <- s.operators.Serve(private) }()
	introduce(stdout, s, public.Addr(), private.Addr())

	running := 2
	stopped, failed := s.await(ctx, ended)
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
