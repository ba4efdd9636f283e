package main

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"runtime/debug"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

type checkCommand struct {
	Config file `short:"c" required:"" placeholder:"FILE" help:"The configuration to check."`
}

// Run builds all that the file asks for, as serve would, and lets go of it.
func (c *checkCommand) Run(out output) error {
	cfg, err := load(c.Config, out)
	if err != nil {
		return err
	}
	s, err := prepare(c.Config, cfg, gateway.Options{Check: true}, out)
	if err != nil {
		return err
	}
	s.close()
	_, err = fmt.Fprintf(out.stdout, "%s: good: %s, %s, %s\n", c.Config,
		count(len(cfg.Routes), "route"), count(len(cfg.Upstreams), "upstream"), count(len(cfg.Plans), "plan"))
	return err
}

func count[N int | int64](n N, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// file is the path of a configuration; "" is the built-in one, which no flag can
// ask for: an unset variable in a script must not be served with other limits
// than its author wrote.
type file string

// Validate refuses --config "".
func (f file) Validate() error {
	if f == "" {
		return errors.New(`"": want the path of a file, for example weir.yaml`)
	}
	return nil
}

// String is the name for messages.
func (f file) String() string {
	if f == "" {
		return "built-in configuration"
	}
	return string(f)
}

// load reads a configuration. Its mistakes are reported a line each.
func load(f file, out output) (*config.Config, error) {
	if f == "" {
		return config.Parse(f.String(), config.Builtin(), nil)
	}
	cfg, err := config.Load(string(f))
	if mistakes, ok := errors.AsType[config.Mistakes](err); ok {
		fmt.Fprintln(out.stderr, mistakes)
		return nil, errReported
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: want a configuration (weir serve --print-config prints one to start from)", err)
	}
	return cfg, err
}

type versionCommand struct{}

// Run prints the version of the program and of Go.
func (versionCommand) Run(out output) error {
	_, err := fmt.Fprintf(out.stdout, "weir %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}
