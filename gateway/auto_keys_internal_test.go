package gateway

import (
	"testing"

	"github.com/inferweir/weir/config"
)

// Two values with one key would be one value: names may have slashes and spaces.
func TestValuesThatLoadMovesHaveKeysOfTheirOwn(t *testing.T) {
	policy := func(route, name, unit string) string {
		return policyKey("route:"+route, config.Policy{Name: name, Unit: unit})
	}
	seen := map[string]int{}
	for i, key := range []string{
		policy("a", "b/c", ""), policy("a/b", "c", ""), policy("a", "c", "tokens"), policy("a", "c tokens", ""),
		policy("a", "cache.ttl", ""), ttlKey(config.Route{Name: "a"}), policy("a", `"b/c"`, ""), ttlKey(config.Route{Name: `a/"cache.ttl"`}),
		policy("a", "c", "requests"),
	} {
		if other, same := seen[key]; same {
			t.Errorf("%s is the key of %d and of %d", key, other, i)
		}
		seen[key] = i
	}
	if got := policy("POST /v1/chat", "daily", ""); got != "route:POST /v1/chat/daily" {
		t.Errorf("a usual name is %s", got)
	}
}
