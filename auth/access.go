package auth

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/inferweir/weir"
)

// callerList is who stands on Options.Allow or Options.Deny. A look-up takes as
// many steps as there are prefix lengths in the list, at most 161, however long
// the list is. The values are places in the list, for messages.
type callerList struct {
	ids      map[string]int
	networks map[netip.Prefix]int
	// v4 and v6 are the lengths of the networks' prefixes.
	v4, v6 []int
}

func newCallerList(place string, entries []string) (callerList, []error) {
	l := callerList{ids: make(map[string]int), networks: make(map[netip.Prefix]int)}
	var errs []error
	for i, entry := range entries {
		id, network, err := parseListed(entry)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s[%d]: %q: %w", place, i, entry, err))
		case id != "":
			l.ids[id] = i
		default:
			l.networks[network] = i
			lengths := &l.v6
			if network.Addr().Is4() {
				lengths = &l.v4
			}
			if !slices.Contains(*lengths, network.Bits()) {
				*lengths = append(*lengths, network.Bits())
			}
		}
	}
	return l, errs
}

var (
	errListed = errors.New("want an address, a CIDR or a caller such as key:alice")
	errMixed  = errors.New("mixes IPv4 and IPv6: want an IPv4 network, for example 10.0.0.0/8")
	errByIP   = errors.New("want the address or the network itself, for example 192.0.2.1")
)

// parseListed reads an entry of a list: the ID of a caller, else a network.
func parseListed(entry string) (id string, network netip.Prefix, err error) {
	switch kind, name, _ := strings.Cut(entry, ":"); kind {
	case "key", "jwt", "header":
		if wrong := nameMistake(name); wrong != "" {
			return "", netip.Prefix{}, fmt.Errorf("the name after %s: %s: want 1 to %d bytes of printable UTF-8", kind, wrong, maxName)
		}
		return entry, netip.Prefix{}, nil
	case "ip":
		return "", netip.Prefix{}, errByIP
	}
	var p netip.Prefix
	if strings.Contains(entry, "/") {
		p, err = netip.ParsePrefix(entry)
	} else {
		var addr netip.Addr
		addr, err = netip.ParseAddr(entry)
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	if err != nil || strings.Contains(entry, "%") { // a zone means something on one host only, and netip drops it
		return "", netip.Prefix{}, errListed
	}
	network, mixed := plainNetwork(p)
	if mixed {
		return "", netip.Prefix{}, errMixed
	}
	return "", network, nil
}

func (a *Authenticator) setLists(o Options) []error {
	var errs, more []error
	a.allow, errs = newCallerList("allow", o.Allow)
	a.deny, more = newCallerList("deny", o.Deny)
	errs = append(errs, more...)
	for i, entry := range o.Deny {
		id, network, err := parseListed(entry)
		if err != nil {
			continue // said above
		}
		j, both := a.allow.networks[network]
		if id != "" {
			j, both = a.allow.ids[id]
		}
		if both {
			errs = append(errs, fmt.Errorf("deny[%d]: %q: is allow[%d] too: want it on one of the lists", i, entry, j))
		}
	}
	return errs
}

func (l *callerList) hasID(id string) bool {
	_, ok := l.ids[id]
	return ok
}

// hasAddr reports whether one of the networks holds addr; none holds the zero
// Addr.
func (l *callerList) hasAddr(addr netip.Addr) bool {
	lengths := l.v6
	if addr.Is4() {
		lengths = l.v4
	}
	for _, bits := range lengths {
		p, err := addr.Prefix(bits)
		if _, ok := l.networks[p]; ok && err == nil {
			return true
		}
	}
	return false
}

// Exempt reports whether c, a result of Identify, stands on Options.Allow, by
// its ID or by its address: no rate limit should count it or refuse it. Who is
// denied too never gets as far.
func (a *Authenticator) Exempt(c weir.Caller) bool {
	return a.allow.hasID(c.ID) || a.allow.hasAddr(c.Addr)
}

// denied is the answer to who is on Options.Deny. It does not say by which entry.
func denied() *weir.Problem {
	return &weir.Problem{Status: http.StatusForbidden, Detail: "This caller is denied here."}
}
