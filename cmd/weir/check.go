package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/inferweir/weir/blob"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/gateway"
)

type checkCommand struct {
	Config file `short:"c" required:"" placeholder:"FILE" help:"The configuration to check."`
}

// Run builds all that the file asks for, as serve would, and lets go of it.
func (c *checkCommand) Run(ctx context.Context, out output) error {
	cfg, err := load(c.Config, out)
	if err != nil {
		return err
	}
	s, err := prepare(c.Config, cfg, gateway.Options{Check: true}, out)
	if err != nil {
		return err
	}
	s.close()
	if err := errors.Join(c.bucket(ctx, cfg.Blobs), c.database(ctx, cfg, out)); err != nil {
		fmt.Fprintln(out.stderr, err)
		return errReported
	}
	_, err = fmt.Fprintf(out.stdout, "%s: good: %s, %s, %s\n", c.Config,
		count(len(cfg.Routes), "route"), count(len(cfg.Upstreams), "upstream"), count(len(cfg.Plans), "plan"))
	return err
}

// bucket finds out whether this program can use the object store that the file
// names. It is not asked for anything.
func (c *checkCommand) bucket(ctx context.Context, b *config.Blobs) error {
	if b == nil {
		return nil
	}
	if _, isDir := b.Dir(); isDir {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, bucketTakes)
	defer cancel()
	store, err := blob.Open(ctx, blob.Options{URL: b.URL, SigningKey: make([]byte, 32)}) // nothing is signed
	if err != nil {
		return fmt.Errorf("%s: blobs.url: %s", c.Config, oneLine(strings.TrimPrefix(err.Error(), "blob: ")))
	}
	return store.Close()
}

// bucketTakes is how long it may take to find the credentials of an object store.
const bucketTakes = 2 * time.Second

// database asks a PostgreSQL whether it has room for the connections of all
// instances, and whether Weir can use its tables, or make them. What it says of
// room, or that it says nothing, is a warning: it may be different when Weir starts.
func (c *checkCommand) database(ctx context.Context, cfg *config.Config, out output) error {
	d := cfg.Database
	if d == nil {
		return nil
	}
	if _, isFile := d.SQLite(); isFile {
		return nil // usable has looked at it
	}
	most, reserved, err := database.Connections(ctx, d.URL)
	switch room, all := most-reserved, cfg.Instances*(d.Pool.Size+d.Pool.Overflow); {
	case errors.Is(err, database.ErrAway):
		fmt.Fprintf(out.stderr, "%s: warning: database.url: cannot be asked how many connections it has room for: %s: this is no mistake of the file: Weir starts without its database, and goes on trying\n",
			c.Config, oneLine(err.Error()))
		return nil
	case err != nil:
		return c.refused(d, err)
	case all > room:
		fmt.Fprintf(out.stderr, "%s: warning: database.pool: %s with %d + %d connections each may open %d, and the database has room for %d - %d = %d: want a smaller size or overflow, or a larger max_connections\n",
			c.Config, count(cfg.Instances, "instance"), d.Pool.Size, d.Pool.Overflow, all, most, reserved, room)
	}
	if err := database.Look(ctx, d.URL); err != nil && !errors.Is(err, database.ErrAway) {
		return c.refused(d, err)
	}
	return nil
}

// refused is why serve could not use a database. The driver quotes the whole URL, in
// which options may hold secrets.
func (c *checkCommand) refused(d *config.Database, err error) error {
	text := quotedURL().ReplaceAllLiteralString(oneLine(err.Error()), d.Redacted())
	return fmt.Errorf("%s: database.url: %s", c.Config, strings.TrimPrefix(text, "database: "))
}

// quotedURL is where the driver of PostgreSQL shows a URL.
func quotedURL() *regexp.Regexp { return regexp.MustCompile("`[^`]*`") }

// oneLine is the text of a library's error, which may have several lines.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

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
