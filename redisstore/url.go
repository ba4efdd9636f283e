package redisstore

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Kind is how the servers of an address work together.
type Kind string

// The kinds of addresses.
const (
	// Single is one server, or a name that always leads to the master.
	Single Kind = "single"
	// Cluster is a Redis Cluster: counts lie on several masters.
	Cluster Kind = "cluster"
	// Sentinel is a master that sentinels watch and replace.
	Sentinel Kind = "sentinel"
)

// Address says where Redis is, and as whom to go there. ParseURL makes it.
type Address struct {
	// Kind says what Hosts are: the server, some nodes, or the sentinels.
	Kind Kind
	// Hosts are host:port each, at least one.
	Hosts []string
	// TLS is for the servers and for the sentinels.
	TLS bool
	// Master is the name by which sentinels know the master.
	Master string
	// User and Password are for the servers. Without a user it is "default".
	User, Password string
	// SentinelUser and SentinelPassword are for the sentinels.
	SentinelUser, SentinelPassword string
	// DB is the number of the database; a cluster has only 0.
	DB int
}

// String names the address without passwords, for logs.
func (a Address) String() string {
	scheme, at := "redis", ""
	if a.TLS {
		scheme = "rediss"
	}
	if a.Kind != Single {
		scheme += "+" + string(a.Kind)
	}
	if a.Kind == Sentinel {
		at = a.Master + "@"
	}
	return scheme + "://" + at + strings.Join(a.Hosts, ",") + "/" + strconv.Itoa(a.DB)
}

// maxHosts bounds the hosts of an address; a few are enough to find the others.
const maxHosts = 100

// ParseURL reads the address of a Redis, and connects to nothing:
//
//	redis://[[user]:password@]host[:6379][/db]
//	redis+cluster://[[user]:password@]host[:6379][,host...]
//	redis+sentinel://[[user]:password@]master@host[:26379][,host...][/db][?sentinel_user=&sentinel_password=]
//
// With rediss in place of redis the connections use TLS, with the system's roots.
// User and password are for the servers; sentinels that want a password have
// parameters for it. What has another meaning in a URL is percent-encoded: %40 for
// @. No error repeats a password.
func ParseURL(raw string) (Address, error) {
	scheme, rest, found := strings.Cut(raw, "://")
	a := Address{TLS: strings.HasPrefix(scheme, "rediss")}
	switch scheme {
	case "redis", "rediss":
		a.Kind = Single
	case "redis+cluster", "rediss+cluster":
		a.Kind = Cluster
	case "redis+sentinel", "rediss+sentinel":
		a.Kind = Sentinel
	default:
		found = false
	}
	if !found {
		return Address{}, errors.New("want redis://host:6379/0, rediss:// for TLS, redis+cluster://host,host or redis+sentinel://master@host,host/0")
	}
	rest, query, _ := strings.Cut(rest, "?")
	rest, db, hasDB := strings.Cut(rest, "/")
	before, hosts := cutLast(rest, '@')
	if a.Kind == Sentinel {
		before, a.Master = cutLast(before, '@')
	}
	steps := []error{a.parseLogin(before), a.parseHosts(hosts), a.parseQuery(query)}
	if hasDB {
		steps = append(steps, a.parseDB(db))
	}
	if a.Kind == Sentinel && (a.Master == "" || !plain(a.Master) || strings.Contains(a.Master, ":")) {
		steps = append(steps, errors.New("want the name of the master before the hosts, as in redis+sentinel://mymaster@host,host/0"))
	}
	for _, err := range steps {
		if err != nil {
			return Address{}, err
		}
	}
	return a, nil
}

// cutLast cuts s at the last c; without one all of s is behind it.
func cutLast(s string, c byte) (before, after string) {
	i := strings.LastIndexByte(s, c)
	return s[:max(i, 0)], s[i+1:]
}

func (a *Address) parseLogin(login string) error {
	if login == "" {
		return nil
	}
	user, password, found := strings.Cut(login, ":")
	var err1, err2 error
	a.User, err1 = url.PathUnescape(user)
	a.Password, err2 = url.PathUnescape(password)
	if !found || a.Password == "" || err1 != nil || err2 != nil || strings.Contains(login, "@") {
		return errors.New("want user:password@ or :password@ before the host, with %40 for @, %2F for / and %25 for %")
	}
	return nil
}

func (a *Address) parseHosts(list string) error {
	hosts := strings.Split(list, ",")
	if a.Kind == Single && len(hosts) > 1 {
		return fmt.Errorf("%q: want one host with redis://, or redis+cluster://, or redis+sentinel://", list)
	}
	if len(hosts) > maxHosts {
		return fmt.Errorf("%d hosts: want at most %d", len(hosts), maxHosts)
	}
	fallback := "6379"
	if a.Kind == Sentinel {
		fallback = "26379"
	}
	for _, given := range hosts {
		host := given
		if strings.HasSuffix(host, "]") || !strings.Contains(host, ":") {
			host += ":" + fallback
		}
		name, port, err := net.SplitHostPort(host)
		if err != nil {
			return fmt.Errorf("host %q: want host:port, and an IPv6 address in brackets", given)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !isHost(name, host[0] == '[') {
			return fmt.Errorf("host %q: want host:port with a port from 1 to 65535", given)
		}
		a.Hosts = append(a.Hosts, net.JoinHostPort(name, port))
	}
	return nil
}

// isHost holds for names and addresses; those of IPv6 stand in brackets.
func isHost(name string, brackets bool) bool {
	if brackets {
		ip, err := netip.ParseAddr(name)
		return err == nil && ip.Is6()
	}
	return name != "" && plain(name) && !strings.ContainsAny(name, "[]:%")
}

func (a *Address) parseDB(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return fmt.Errorf("database %q: want its number after the /, for example 0", text)
	}
	if n != 0 && a.Kind == Cluster {
		return fmt.Errorf("database %d: want 0 or none: a cluster has no others", n)
	}
	a.DB = int(n)
	return nil
}

func (a *Address) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("parameters: want name=value, with special characters percent-encoded")
	}
	for name, given := range values {
		if a.Kind != Sentinel {
			return fmt.Errorf("parameter %q: want none: only redis+sentinel:// has parameters", name)
		}
		switch name {
		case "sentinel_user":
			a.SentinelUser = given[0]
		case "sentinel_password":
			a.SentinelPassword = given[0]
		default:
			return fmt.Errorf("parameter %q: want sentinel_user or sentinel_password", name)
		}
	}
	return nil
}
