package admin

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// movedRow is a value that load may move, in the words of the file.
type movedRow struct {
	gateway.AutoSnapshot
	Now, Least, Most, Was string
	Moved                 bool // it is not what the file says
}

// movedRows are the values that load may move, as pages show them.
func movedRows(c *config.Config, autos []gateway.AutoSnapshot) []movedRow {
	policies := autoPolicies(c)
	rows := make([]movedRow, len(autos))
	for i, a := range autos {
		a.Path = cmp.Or(a.Path, a.What)
		shown := func(value string) string { return withUnit(policies[a.Path], value) }
		rows[i] = movedRow{a, shown(a.Value), shown(a.Min), shown(a.Max), shown(a.File), a.Value != a.File}
	}
	return rows
}

// withUnit is a value of a policy with its unit and window, as the short form has them.
// That of a TTL, which has no policy, has its unit.
func withUnit(p config.Policy, value string) string {
	n, err := strconv.ParseInt(value, 10, 64)
	switch {
	case err != nil || p.Auto == nil:
		return value
	case p.Concurrent > 0:
		p.Concurrent = n
	default:
		p.Quota = n
	}
	return p.Limit().String()
}

// autoPolicies are the policies that load may move, by the paths of what it moves.
func autoPolicies(c *config.Config) map[string]config.Policy {
	found := map[string]config.Policy{}
	add := func(owner string, policies []config.Policy) {
		for i, p := range policies {
			if p.Auto != nil {
				path := fmt.Sprintf("%s.policies[%d]", owner, i)
				found[path+".quota"], found[path+".concurrent"] = p, p
			}
		}
	}
	for name, plan := range c.Plans {
		add("plans."+name, plan.Policies)
	}
	for i, r := range c.Routes {
		add(fmt.Sprintf("routes[%d]", i), r.Policies)
	}
	return found
}

// movedIn says what load has moved of a plan or route, and to what, by the key of the
// field that it is in.
func movedIn(rows []movedRow, kind, name string) map[string][]string {
	found := map[string][]string{}
	for _, row := range rows {
		if !row.Moved || row.Kind != kind || row.Name != name {
			continue
		}
		if strings.HasSuffix(row.Path, ".cache.ttl") {
			found["cache.ttl"] = append(found["cache.ttl"], "it to "+row.Now)
			continue
		}
		_, policy, _ := strings.Cut(strings.TrimPrefix(row.What, kind+":"+name), "/")
		found["policies"] = append(found["policies"], policy+" to "+row.Now)
	}
	return found
}
