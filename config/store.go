package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Store is the place of shared state.
type Store struct {
	// URL is "memory:", the default, which is this process alone; or a Redis
	// server, redis://[USER:PASSWORD@]HOST[:PORT][/DB] and rediss:// with TLS; or
	// redis+cluster://[USER:PASSWORD@]HOST,HOST…; or
	// redis+sentinel://[USER:PASSWORD@]MASTER@HOST,HOST…[/DB], which may end in
	// ?sentinel_user=USER&sentinel_password=PASSWORD. rediss+cluster and
	// rediss+sentinel are with TLS. What has another meaning in a URL is written
	// %40 for @, %2F for / and so on.
	URL string `yaml:"url" default:"memory:" secret:"url"`
	// Deadline is the longest that a request waits for a Redis. Default 20ms, from
	// 1ms to 10s.
	Deadline time.Duration `yaml:"deadline" default:"20ms" min:"1ms" max:"10s" with:"URL!memory:"`
	// OnFailure is what happens to requests that a Redis does not answer for:
	// local, each instance enforces its share of the quotas (see
	// Config.Instances); open, they are not counted; closed, they are refused
	// with 503. Default local.
	OnFailure string `yaml:"on_failure" default:"local" with:"URL!memory:"`
}

// Redacted is the URL without its password, for logs.
func (s Store) Redacted() string { return redactURL(s.URL) }

const (
	memoryStore   = "memory:"
	maxStoreHosts = 100
)

// storeSchemes are those of a Redis.
func storeSchemes() []string {
	return []string{
		"redis://", "rediss://", "redis+cluster://", "rediss+cluster://", "redis+sentinel://", "rediss+sentinel://",
	}
}

func (k *checker) store(s Store) {
	if s.URL == memoryStore && k.clean("store.url") {
		for _, key := range []string{"store.deadline", "store.on_failure"} {
			if k.said(key) && k.clean(key) {
				k.fail(key, "has no effect with store.url memory:, which is in this process: want it with a Redis URL")
			}
		}
	} else if k.clean("store.url") {
		if want := storeURLMistake(s.URL); want != "" {
			k.fail("store.url", want)
		}
	}
}

// storeURL is the text of a Redis URL in its parts. hosts is never empty.
type storeURL struct {
	scheme string // with its ://
	// cluster and sentinel say which kind of hosts, TLS or not.
	cluster, sentinel bool
	// user is USER:PASSWORD. hasUser tells an empty one from none.
	user    string
	hasUser bool
	master  string
	hosts   []string
	db      string
	hasDB   bool
	// query begins with its ?, if it has one.
	query string
}

func splitStoreURL(text string) storeURL {
	var u storeURL
	scheme, rest, _ := strings.Cut(text, "://")
	u.scheme = scheme + "://"
	u.cluster, u.sentinel = strings.HasSuffix(scheme, "+cluster"), strings.HasSuffix(scheme, "+sentinel")
	if i := strings.IndexByte(rest, '?'); i >= 0 {
		rest, u.query = rest[:i], rest[i:]
	}
	var authority string
	authority, u.db, u.hasDB = strings.Cut(rest, "/")
	at := strings.LastIndexByte(authority, '@')
	u.hosts = strings.Split(authority[at+1:], ",")
	u.user, u.hasUser = authority[:max(at, 0)], at >= 0
	if u.sentinel {
		at := strings.LastIndexByte(u.user, '@')
		u.master = u.user[at+1:]
		u.user, u.hasUser = u.user[:max(at, 0)], at >= 0
	}
	return u
}

// storeURLMistake says what is wrong with the URL of a Redis, "" for nothing.
func storeURLMistake(text string) string {
	u := splitStoreURL(text)
	example := u.scheme + "localhost:6379/0"
	switch {
	case u.cluster:
		example = u.scheme + "h1:6379,h2:6379"
	case u.sentinel:
		example = u.scheme + "mymaster@h1:26379,h2:26379/0"
	}
	n, err := strconv.ParseUint(u.db, 10, 16)
	switch {
	case strings.Contains(text, "#"):
		return "want no fragment in the URL, and %23 for #"
	case u.query != "" && !u.sentinel:
		return "want no query in the URL, and %3F for ?"
	case u.query != "" && queryMistake(u.query) != "":
		return queryMistake(u.query)
	case u.sentinel && (u.master == "" || !isHostname(u.master)):
		return "want the name of the master before the hosts, for example " + example
	case u.hasUser && userMistake(u.user) != "":
		return userMistake(u.user)
	case len(u.hosts) > 1 && !u.cluster && !u.sentinel:
		return "want one host: for several there are redis+cluster:// and redis+sentinel://"
	case len(u.hosts) > maxStoreHosts:
		return fmt.Sprintf("%d hosts: want at most %d", len(u.hosts), maxStoreHosts)
	case slices.ContainsFunc(u.hosts, func(h string) bool { return !isHostPort(h) }):
		return "want a host, with a port if need be, for example " + example
	case u.hasDB && u.cluster && u.db != "0":
		return "want no database: a cluster has no other than 0"
	case u.hasDB && (err != nil || strconv.FormatUint(n, 10) != u.db):
		return "want the number of a database after the /, for example " + example
	}
	return ""
}

// queryMistake says what is wrong with the query of sentinels.
func queryMistake(query string) string {
	const want = "want no other query than ?sentinel_user=USER&sentinel_password=PASSWORD, with %26 for & and %25 for %"
	values, err := url.ParseQuery(query[1:])
	if err != nil {
		return want
	}
	for name, given := range values {
		switch {
		case name != "sentinel_user" && name != "sentinel_password" || len(given) != 1 || given[0] == "":
			return want
		case given[0] == redacted:
			return errRedacted
		}
	}
	return ""
}

// userMistake says what is wrong with USER:PASSWORD.
func userMistake(s string) string {
	user, password, found := strings.Cut(s, ":")
	_, errUser := url.PathUnescape(user)
	plain, errPassword := url.PathUnescape(password)
	switch {
	case plain == redacted:
		return errRedacted
	case !found || plain == "" || errUser != nil || errPassword != nil || strings.ContainsAny(s, "@ "):
		return "want USER:PASSWORD@ or :PASSWORD@ before the host, with %40 for @, %2F for / and %25 for %"
	}
	return ""
}

// isHostPort holds for HOST, HOST:PORT and IPv6 in brackets.
func isHostPort(s string) bool {
	if strings.HasSuffix(s, "]") || !strings.Contains(s, ":") {
		s += ":6379"
	}
	host, portText, err := net.SplitHostPort(s)
	port, errPort := strconv.ParseUint(portText, 10, 16)
	if err != nil || errPort != nil || port == 0 {
		return false
	}
	if strings.HasPrefix(s, "[") {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is6()
	}
	return host != "" && isHostname(host)
}

// redactURL takes the password out of a URL; what stands there without a colon
// may be one too, unless it names a master or who asks a PostgreSQL.
func redactURL(text string) string {
	if !slices.ContainsFunc(storeSchemes(), func(scheme string) bool { return strings.HasPrefix(text, scheme) }) {
		return redactService(text)
	}
	u := splitStoreURL(text)
	user, _, _ := strings.Cut(u.user, ":")
	out := u.scheme
	switch {
	case strings.Contains(u.user, ":"):
		out += user + ":" + redacted + "@"
	case u.hasUser:
		out += redacted + "@"
	}
	if u.sentinel {
		if strings.Contains(u.master, ":") {
			u.master = redacted
		}
		out += u.master + "@"
	}
	out += strings.Join(u.hosts, ",")
	if u.hasDB {
		out += "/" + u.db
	}
	if u.query != "" {
		parts := strings.Split(u.query[1:], "&")
		for i, part := range parts {
			if name, _, _ := strings.Cut(part, "="); name != "sentinel_user" {
				parts[i] = name + "=" + redacted
			}
		}
		out += "?" + strings.Join(parts, "&")
	}
	return out
}

// mayHoldPassword holds for the text of a URL that a message had better not
// show: with a user, or with something after a colon that is no port.
func mayHoldPassword(raw string) bool {
	if strings.HasPrefix(raw, sqliteScheme) || strings.HasPrefix(raw, dirScheme) {
		return false // the path of a file
	}
	_, rest, found := strings.Cut(raw, "://")
	if !found {
		rest = raw
	}
	for part := range strings.FieldsFuncSeq(rest, func(r rune) bool { return r == ',' || r == '/' }) {
		host, port, hasPort := strings.Cut(part, ":")
		if hasPort && (host == "" || strings.Trim(port, "0123456789") != "") {
			return true
		}
	}
	return strings.ContainsAny(rest, "@?%")
}
