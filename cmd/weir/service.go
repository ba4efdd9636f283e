package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/internal/admin"
)

// service is a configuration made ready to serve.
type service struct {
	file      file
	reader    *reader
	config    *config.Config
	gateway   *gateway.Gateway
	callers   *server
	operators *server
	deciders  *server      // nil: nothing is decided for others
	running   atomic.Int64 // requests of callers, and about them
	end       time.Time    // of the grace to shut down; zero before
}

// prepare builds all that cfg asks for, before anything listens. What is wrong is
// reported a line each. The built-in models are loaded only where something uses
// them.
func prepare(f file, cfg *config.Config, o gateway.Options, out output) (*service, error) {
	o.Log, o.Version = out.stderr, version()
	models := newModels()
	if usesBuiltin(cfg) {
		if _, err := models.load(); err != nil {
			return nil, err
		}
	}
	o.Models = models
	r := &reader{file: f, models: models}
	if r.canReload() {
		o.File, o.Load = string(f), r.load
	}
	secured, errTLS := secure(cfg.TLS)
	errDir := usable(cfg)
	o.Check = o.Check || errDir != nil // it would be said twice
	g, errGateway := gateway.New(cfg, o)
	s := &service{file: f, reader: r, config: cfg, gateway: g}
	if err := errors.Join(errTLS, errDir, errGateway); err != nil {
		s.close()
		for line := range strings.SplitSeq(err.Error(), "\n") {
			// The gateway says which part it is of, and so does the part itself.
			fmt.Fprintf(out.stderr, "%s: %s\n", f, strings.Replace(line, "database: database: ", "database: ", 1))
		}
		return nil, errReported
	}
	if file, several := sharedFile(cfg); several {
		fmt.Fprintf(out.stderr, "%s: warning: instances: %d with %s, a file that belongs to one instance: on several machines each has its own, and on one they wait for each other's writes: want database.url with a PostgreSQL, or instances: 1\n", f, cfg.Instances, file)
	}
	s.callers = s.server("listen", cfg.Listen, s.counted(g))
	s.callers.TLSConfig, s.callers.secured = secured, secured != nil
	s.operators = s.server("admin.listen", cfg.Admin.Listen, admin.Handler(g, cfg.Admin))
	if cfg.Decide != nil {
		s.deciders = s.server("decide.listen", cfg.Decide.Listen, s.counted(g.Decide()))
	}
	return s, nil
}

// sharedFile is the URL of a database that is a file, and whether several instances are
// to use it.
func sharedFile(cfg *config.Config) (url string, several bool) {
	if cfg.Database == nil || cfg.Instances < 2 {
		return "", false
	}
	_, isFile := cfg.Database.SQLite()
	return cfg.Database.URL, isFile
}

// closeTakes is how long it may take at least to write what only the memory has, such
// as usage that waits for the database.
const closeTakes = 5 * time.Second

// close lets go of what prepare built, and writes what is in memory alone, as far as
// what is left of the grace to shut down allows. What is lost the log says.
func (s *service) close() {
	if s.gateway == nil {
		return
	}
	flushed, cancel := context.WithTimeout(context.Background(), max(closeTakes, time.Until(s.end)))
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
