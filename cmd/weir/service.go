package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/builtin"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/internal/admin"
)

// service is a configuration made ready to serve.
type service struct {
	file      file
	config    *config.Config
	gateway   *gateway.Gateway
	callers   *server
	operators *server
	deciders  *server      // nil: nothing is decided for others
	running   atomic.Int64 // requests of callers, and about them
}

// prepare builds all that cfg asks for, before anything listens. What is wrong is
// reported a line each. The built-in models are loaded only where something uses
// them.
func prepare(f file, cfg *config.Config, o gateway.Options, out output) (*service, error) {
	o.Log, o.Version = out.stderr, version()
	if usesBuiltin(cfg) {
		models, err := builtin.New()
		if err != nil {
			return nil, err
		}
		o.Models = models
	}
	secured, errTLS := secure(cfg.TLS)
	errDir := usable(cfg.Cache)
	o.Check = o.Check || errDir != nil // it would be said twice
	g, errGateway := gateway.New(cfg, o)
	s := &service{file: f, config: cfg, gateway: g}
	if err := errors.Join(errTLS, errDir, errGateway); err != nil {
		s.close()
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintf(out.stderr, "%s: %s\n", f, line)
		}
		return nil, errReported
	}
	s.callers = s.server("listen", cfg.Listen, s.counted(g))
	s.callers.TLSConfig, s.callers.secured = secured, secured != nil
	s.operators = s.server("admin.listen", cfg.Admin.Listen, admin.Handler(g, cfg.Admin))
	if cfg.Decide != nil {
		s.deciders = s.server("decide.listen", cfg.Decide.Listen, s.counted(g.Decide()))
	}
	return s, nil
}

// close lets go of what prepare built, and writes what the log still holds.
func (s *service) close() {
	if s.gateway == nil {
		return
	}
	flushed, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.gateway.Close(flushed) // a log that cannot be written cannot be complained in
}

func usesBuiltin(cfg *config.Config) bool {
	for _, u := range cfg.Upstreams {
		if isBuiltin(u) {
			return true
		}
	}
	return false
}

// isBuiltin holds for the models that ship with Weir: they are the only target of
// their upstream.
func isBuiltin(u config.Upstream) bool { return len(u.Targets) == 1 && u.Targets[0].URL == "builtin:" }
