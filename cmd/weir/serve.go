package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/internal/admin"
)

type serveCommand struct {
	Config      string `short:"c" placeholder:"FILE" help:"The configuration; without it, the built-in one."`
	PrintConfig bool   `help:"Print the configuration as YAML, with all defaults and without secrets, and end."`
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
	return serve(ctx, cfg, out)
}

func serve(ctx context.Context, cfg *config.Config, out output) error {
	g, err := newGateway(cfg, out)
	if err != nil {
		return err
	}
	defer func() {
		flushed, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = g.Close(flushed) // a log that cannot be written cannot be complained in
	}()
	public, err := listen(cfg.Listen, "listen")
	if err != nil {
		return err
	}
	defer public.Close()
	private, err := listen(cfg.Admin.Listen, "admin.listen")
	if err != nil {
		return err
	}
	defer private.Close()

	callers, operators := g.Server(), &http.Server{Handler: admin.Handler(g), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 2)
	go func() {
		if cfg.TLS != nil {
			ended <- callers.ServeTLS(public, cfg.TLS.Cert, cfg.TLS.Key)
			return
		}
		ended <- callers.Serve(public)
	}()
	go func() { ended <- operators.Serve(private) }()
	introduce(out.stdout, cfg, public.Addr(), private.Addr())

	var failed error
	running := 2
	select {
	case <-ctx.Done():
		g.Logger().Info("shutting down", "grace", cfg.ShutdownGrace.String())
	case failed = <-ended:
		running--
	}
	g.Drain()
	grace, cancel := context.WithTimeout(context.Background(), cfg.ShutdownGrace)
	defer cancel()
	if err := callers.Shutdown(grace); err != nil {
		g.Logger().Warn("requests were cut off", "after", cfg.ShutdownGrace.String())
		_ = callers.Close()
	}
	_ = operators.Close()
	for range running {
		if err := <-ended; failed == nil && !errors.Is(err, http.ErrServerClosed) {
			failed = err
		}
	}
	return failed
}

// listen says what to do about an address that is taken.
func listen(address, key string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && errors.Is(op.Err, os.ErrPermission) {
		return nil, fmt.Errorf("%s: %s: not permitted: ports below 1024 need privileges: choose another with %s in the configuration", key, address, key)
	}
	return nil, fmt.Errorf("%s: %s: %w: end what listens there, or choose another port with %s in the configuration (weir serve --print-config prints one to start from)",
		key, address, cause(err), key)
}

func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
