package config

import (
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Database is where keys, usage, jobs and overrides are kept.
type Database struct {
	// URL is sqlite:PATH, a file of this machine that is made if need be and
	// belongs to one instance; or postgres://[USER:PASSWORD@]HOST[:PORT]/NAME with
	// options as ?sslmode=require, which several instances may share. A relative
	// path is relative to the working directory. Default sqlite:weir.db.
	URL string `yaml:"url" default:"sqlite:weir.db" secret:"url"`
	// Pool bounds the connections to it.
	Pool Pool `yaml:"pool"`
}

// Pool bounds the connections of one instance to its database.
type Pool struct {
	// Size is how many connections are kept open; with SQLite it is how many
	// readers there are at most. Default 10, from 1 to 1000.
	Size int `yaml:"size" default:"10" min:"1" max:"1000"`
	// Overflow is how many more are opened where all of Size are busy, and closed
	// again. Default 20, from 0 to 1000.
	Overflow int `yaml:"overflow" default:"20" min:"0" max:"1000" with:"../URL!sqlite:*"`
	// PrePing asks a connection that has been idle whether it still works before it
	// is used. Default true.
	PrePing bool `yaml:"pre_ping" default:"true" with:"../URL!sqlite:*"`
	// MaxLifetime is how old a connection gets before it is replaced. 0s never
	// replaces one. Default 30m, else at least 1m.
	MaxLifetime time.Duration `yaml:"max_lifetime" default:"30m" with:"../URL!sqlite:*"`
}

// Redacted is the URL without its password, for logs.
func (d Database) Redacted() string { return redactURL(d.URL) }

// SQLite is the path of the database's file, and whether it is one.
func (d Database) SQLite() (path string, ok bool) { return strings.CutPrefix(d.URL, sqliteScheme) }

const sqliteScheme = "sqlite:"

const (
	wantSQLite   = "want the path of a file after sqlite:, for example sqlite:weir.db or sqlite:/var/lib/weir/weir.db"
	wantPostgres = "postgres://weir:PASSWORD@localhost:5432/weir"
	minLifetime  = time.Minute
)

func (k *checker) database(c *Config) {
	const at = "database.url"
	d := c.Database
	if d == nil {
		return
	}
	if want := databaseMistake(d.URL); want != "" && k.clean(at) {
		k.fail(at, want)
	}
	if _, isFile := d.SQLite(); isFile {
		k.poolOfFile(d.Pool)
		return
	}
	if lifetime := "database.pool.max_lifetime"; d.Pool.MaxLifetime > 0 && d.Pool.MaxLifetime < minLifetime && k.clean(lifetime) {
		k.fail(lifetime, "want at least 1m, or 0s for connections that are never replaced")
	}
}

// poolOfFile reports what SQLite does not do, where the file asks for more than
// the defaults.
func (k *checker) poolOfFile(p Pool) {
	usual := Pool{}
	setDefaults(reflect.ValueOf(&usual).Elem())
	because := "with SQLite, which has no server to connect to: want it with postgres://, or pool.size, the number of readers"
	if p.Overflow != usual.Overflow {
		k.noEffect("database.pool", because, "overflow")
	}
	if p.PrePing != usual.PrePing {
		k.noEffect("database.pool", because, "pre_ping")
	}
	if p.MaxLifetime != usual.MaxLifetime {
		k.noEffect("database.pool", because, "max_lifetime")
	}
}

// databaseMistake says what is wrong with the URL of a database, "" for nothing.
func databaseMistake(text string) string {
	if path, ok := strings.CutPrefix(text, sqliteScheme); ok {
		return sqliteMistake(path)
	}
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(text, scheme); ok {
			return postgresMistake(rest)
		}
	}
	return "want sqlite:PATH, or a PostgreSQL, for example " + wantPostgres
}

func sqliteMistake(path string) string {
	switch {
	case strings.Contains(path, ":memory:") || strings.Contains(path, "mode=memory"):
		return "would lose keys, usage and jobs at every restart: " + wantSQLite
	case path == "" || strings.HasPrefix(path, "//") || strings.HasPrefix(path, "file:") || strings.Contains(path, "?"):
		return wantSQLite
	case strings.HasSuffix(path, "/"):
		return "is a directory: " + wantSQLite
	case !isPrintable(path):
		return "want a path of printable characters without spaces around them"
	}
	return ""
}

// postgresMistake looks at what stands after the scheme. Which options there are,
// its driver knows.
func postgresMistake(rest string) string {
	u := splitService(rest)
	query, err := url.ParseQuery(u.query)
	name, errName := url.PathUnescape(u.path)
	hosts := strings.Split(u.host, ",")
	switch {
	case strings.Contains(rest, "#"):
		return "want no fragment in the URL, and %23 for #"
	case err != nil:
		return "want options as ?sslmode=require&connect_timeout=2 at the end of the URL, with %26 for & and %25 for %"
	case u.hasUser && roleMistake(u.user) != "":
		return roleMistake(u.user)
	case u.host == "" && query.Get("host") == "":
		return "want the host of a PostgreSQL, for example " + wantPostgres
	case len(hosts) > maxStoreHosts:
		return fmt.Sprintf("%d hosts: want at most %d", len(hosts), maxStoreHosts)
	case u.host != "" && slices.ContainsFunc(hosts, func(h string) bool { return !isHostPort(h) }):
		return "want a host, with a port if need be, for example " + wantPostgres
	case errName != nil || strings.Contains(u.path, "/") || !isPrintable(name):
		return "want the name of a database after the /, for example " + wantPostgres
	}
	for _, option := range slices.Sorted(maps.Keys(query)) {
		switch {
		case strings.HasPrefix(option, "pool_"):
			return "want no pool_… in the URL: database.pool says how many connections there are"
		case slices.Contains(query[option], redacted):
			return errRedacted
		}
	}
	return ""
}

// roleMistake says what is wrong with USER or USER:PASSWORD.
func roleMistake(s string) string {
	user, password, _ := strings.Cut(s, ":")
	_, errUser := url.PathUnescape(user)
	plain, errPassword := url.PathUnescape(password)
	switch {
	case plain == redacted:
		return errRedacted
	case user == "" || errUser != nil || errPassword != nil || strings.ContainsAny(s, "@ "):
		return "want USER@ or USER:PASSWORD@ before the host, with %40 for @, %2F for / and %25 for %"
	}
	return ""
}

// serviceURL is what stands in a URL after its scheme.
type serviceURL struct {
	user, host, path, query string
	// hasUser, hasPath and hasQuery tell an empty one from none.
	hasUser, hasPath, hasQuery bool
}

func splitService(rest string) serviceURL {
	var u serviceURL
	rest, u.query, u.hasQuery = strings.Cut(rest, "?")
	u.host, u.path, u.hasPath = strings.Cut(rest, "/")
	if at := strings.LastIndexByte(u.host, '@'); at >= 0 {
		u.user, u.host, u.hasUser = u.host[:at], u.host[at+1:], true
	}
	return u
}

// redactService takes out the password of a database or an object store, and the
// options that hold secrets.
func redactService(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return text
	}
	u := splitService(rest)
	out := scheme + "://"
	if u.hasUser {
		user, _, hasPassword := strings.Cut(u.user, ":")
		if out += user; hasPassword {
			out += ":" + redacted
		}
		out += "@"
	}
	out += u.host
	if u.hasPath {
		out += "/" + u.path
	}
	if !u.hasQuery {
		return out
	}
	parts := strings.Split(u.query, "&")
	for i, part := range parts {
		if name, value, _ := strings.Cut(part, "="); value != "" && holdsSecret(name) {
			parts[i] = name + "=" + redacted
		}
	}
	return out + "?" + strings.Join(parts, "&")
}

// holdsSecret holds for the options of a URL whose values are not to be shown.
func holdsSecret(option string) bool {
	option = strings.ToLower(option)
	return slices.ContainsFunc([]string{"password", "secret", "token", "credential", "%"}, func(word string) bool {
		return strings.Contains(option, word)
	})
}
