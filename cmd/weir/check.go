package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/inferweir/weir/builtin"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

type checkCommand struct {
	Config string `short:"c" required:"" placeholder:"FILE" help:"The configuration to check."`
}

// Run builds all that the file asks for, as serve would, and lets go of it.
func (c *checkCommand) Run(out output) error {
	cfg, err := load(c.Config, out)
	if err != nil {
		return err
	}
	if _, err := newGateway(cfg, out); err != nil {
		return fmt.Errorf("%s: %w", c.Config, err)
	}
	fmt.Fprintf(out.stdout, "%s: good: %s, %s, %s\n", c.Config,
		count(len(cfg.Routes), "route"), count(len(cfg.Upstreams), "upstream"), count(len(cfg.Plans), "plan"))
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// load reads a configuration, the built-in one for the empty path. Its mistakes
// are reported a line each.
func load(path string, out output) (*config.Config, error) {
	if path == "" {
		return config.Parse("built-in configuration", config.Builtin(), nil)
	}
	cfg, err := config.Load(path)
	if mistakes, ok := errors.AsType[config.Mistakes](err); ok {
		fmt.Fprintln(out.stderr, mistakes)
		return nil, errReported
	}
	return cfg, err
}

// newGateway builds the gateway of cfg. The built-in models are loaded only where
// something uses them.
func newGateway(cfg *config.Config, out output) (*gateway.Gateway, error) {
	o := gateway.Options{Log: out.stderr, Version: version()}
	if usesBuiltin(cfg) {
		models, err := builtin.New()
		if err != nil {
			return nil, err
		}
		o.Models = models
	}
	return gateway.New(cfg, o)
}

func usesBuiltin(cfg *config.Config) bool {
	for _, u := range cfg.Upstreams {
		for _, t := range u.Targets {
			if t.URL == "builtin:" {
				return true
			}
		}
	}
	return false
}

type versionCommand struct{}

// Run prints the version of the program and of Go.
func (versionCommand) Run(out output) error {
	fmt.Fprintf(out.stdout, "weir %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}
