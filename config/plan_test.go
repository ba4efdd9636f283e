package config_test

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// asInFile is what the file with the policies of its plan pro at the %s says of them,
// without its lines.
func asInFile(t *testing.T, file, policies string) error {
	t.Helper()
	_, err := config.Parse("weir.yaml", fmt.Appendf(nil, file, policies), nil)
	mistakes, ok := errors.AsType[config.Mistakes](err)
	if !ok {
		return err
	}
	for i := range mistakes {
		mistakes[i].File, mistakes[i].Line = "", 0
	}
	return mistakes
}

// inPlan puts policies, a JSON list, in place of those of a plan.
func inPlan(t *testing.T, file, plan, policies string) ([]config.Policy, error) {
	t.Helper()
	c := parse(t, file)
	next, err := c.Edited([]config.Edit{{Kind: "plan", Name: plan, Doc: []byte(`{"policies": ` + policies + `}`)}})
	equal(t, c, parse(t, file))
	if err != nil {
		return nil, err
	}
	return next.Plans[plan].Policies, nil
}

// served is a file whose plan pro has the policies at the %s.
const (
	served = `
callers: {keys: [{caller: a, key: weir_a, plan: pro}]}
plans: {pro: {policies: %s}}
upstreams: {m: {targets: [http://h]}}
routes: [{match: {path: /a}, upstream: m}]
`
	decided = `
decide: {}
callers: {keys: [{caller: a, key: weir_a, plan: pro}]}
plans: {pro: {policies: %s}}
routes: [{match: {path: /a}}]
`
	unowned = `
plans: {pro: {policies: %s}}
upstreams: {m: {targets: [http://h]}}
routes: [{match: {path: /a}, upstream: m}]
`
	shared = `
store: {url: redis://h}
callers:
  trusted_proxies: [10.0.0.0/8]
  keys: [{caller: a, key: weir_a, plan: pro}]
  overrides: [{caller: "key:a", policies: [{name: mine, quota: 1, window: 1s}]}]
plans: {pro: {policies: %s}}
upstreams: {m: {targets: [http://h], dialect: openai}}
routes: [{match: {path: /a}, upstream: m, policies: [9/minute]}]
`
)

func TestEditedPoliciesAreWrongAsInTheFile(t *testing.T) {
	f := func(name, file, policies, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			policies := quoted(policies)
			got, err := inPlan(t, fmt.Sprintf(file, "[]"), "pro", policies)
			if err == nil || got != nil || err.Error() != want {
				t.Errorf("got %v, %v\nwant %s", got, err, want)
			}
			equal(t, err, asInFile(t, file, policies))
		})
	}
	f("of tokens that nothing counts", served, "[5 tokens/minute, {name: out, quota: 5, window: 1m, unit: output_tokens}]",
		`plans.pro.policies[0]: "5 tokens/minute": never counts: upstream m has the dialect plain, which does not say how many tokens a request uses: want unit requests, or dialect openai, anthropic, ollama or kserve`+"\n"+
			`plans.pro.policies[1].unit: "output_tokens": never counts: upstream m has the dialect plain, which does not say how many tokens a request uses: want unit requests, or dialect openai, anthropic, ollama or kserve`)
	f("of a lease without a Redis", served, "[{quota: 100, window: 1m, lease: {max_excess: 1%}}]",
		"plans.pro.policies[0].lease: has no effect with store.url memory:, which nothing is asked for over a network: want it with a Redis URL")
	f("of a lease that holds nothing", shared, "[{quota: 99, window: 1m, lease: {max_excess: 1%}}]",
		`plans.pro.policies[0].lease.max_excess: "1%": would never hold a whole unit: want at least 1.0102% with a quota of 99, or a greater quota`)
	f("of fields that never arrive", served, "[{name: a, quota: 5, window: 1m, by: header:X_Team}, {name: b, quota: 5, window: 1m, by: header:X-User-ID}, {name: c, concurrent: 5, by: header:Authorization}]",
		`plans.pro.policies[0].by: "header:X_Team": never matches: fields with an underscore in their names are removed: want another one, for example header:X-Team`+"\n"+
			`plans.pro.policies[1].by: "header:X-User-ID": never matches: the field is believed only from callers.trusted_proxies, which is empty, and removed from all other requests`+"\n"+
			`plans.pro.policies[2].by: "header:Authorization": all who present a key of callers.keys would share one count: it is removed from the field before anything is counted: want by: caller`)
	f("of what decisions never see", decided, "[5 bytes/minute, 5 tokens/minute, 5 concurrent, {name: m, quota: 5, window: 1m, by: model}]",
		`plans.pro.policies[0]: "5 bytes/minute": never counts: without an upstream nobody sees the bodies of request and answer: want unit requests, or an upstream`+"\n"+
			`plans.pro.policies[1]: "5 tokens/minute": never counts: without an upstream nothing says how many tokens a request uses: want unit requests, or an upstream`+"\n"+
			`plans.pro.policies[2]: "5 concurrent": would never be given back: without an upstream nobody sees where a request ends: want a quota in a window, or an upstream`+"\n"+
			`plans.pro.policies[3].by: "model": never tells models apart: without an upstream the body, which names the model, is not read: want an upstream, or another word, such as caller`)
	f("of a plan that nobody has", unowned, "[5/minute]",
		"plans.pro.policies: never match: nothing gives a caller this plan: want it in callers.keys, in callers.overrides or, with callers.jwt, in a token")
	f("of names", shared, `[5/minute, {name: pro, quota: 1, window: 1s}, {name: "", quota: 1, window: 1s}, {name: "a\"b", quota: 1, window: 1s}]`,
		`plans.pro.policies[2].name: "": empty: want a text, or leave the key out`+"\n"+
			`plans.pro.policies[1]: the same name "pro" and unit as plans.pro.policies[0]: want another name`+"\n"+
			`plans.pro.policies[3].name: "a\"b": want a name of 1 to 128 printable ASCII characters without " and \`)
}

func TestEditedPoliciesAreRightAsInTheFile(t *testing.T) {
	for _, test := range []struct{ name, file, policies string }{
		{"no limit", served, "[]"},
		{"no limit for nobody", unowned, "[]"},
		{"bytes and models of an upstream", served, "[5/minute, 10 bytes/second, 20 concurrent, {name: m, quota: 1, window: 1s, by: model}]"},
		{"requests that are decided on", decided, "[5/minute, {name: ip, quota: 1, window: 1s, by: ip}]"},
		{"tokens, leases and a proxy's field", shared, "[5 tokens/minute, {quota: 100, window: 1m, lease: {max_excess: 1%}}, {name: u, quota: 1, window: 1s, by: header:X-User-ID}]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			policies := quoted(test.policies)
			got, err := inPlan(t, fmt.Sprintf(test.file, "[]"), "pro", policies)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, plain(got), plain(parse(t, fmt.Sprintf(test.file, policies)).Plans["pro"].Policies))
		})
	}
}

// named are n policies of one second, with names of their own.
func named(prefix string, n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("{name: %s%d, quota: 1, window: 1s}", prefix, i))
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func TestEditedPoliciesLeaveRoomForRoutesAndOverrides(t *testing.T) {
	f := func(name, route, overrides, policies, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			file := `
callers:
  jwt: {issuer: https://login.example.com, audience: weir}
  keys: [{caller: a, key: weir_a, plan: pro}, {caller: b, key: weir_b}]
  overrides: ` + overrides + `
plans: {default: {}, pro: {policies: %s}}
upstreams: {m: {targets: [http://h]}}
routes:
  - {name: few, match: {path: /few}, upstream: m}
  - {name: many, match: {path: /many}, upstream: m, policies: ` + route + `}
`
			_, err := inPlan(t, fmt.Sprintf(file, "[]"), "pro", quoted(policies))
			if got := fmt.Sprint(err); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			// The file says so at the route.
			if inFile := asInFile(t, file, policies); (inFile == nil) != (err == nil) {
				t.Errorf("the file: %v", inFile)
			}
		})
	}
	const all = ratelimit.MaxTakes
	f("as many as there is room for", named("r", 2), "[]", named("p", all-2), "<nil>")
	f("one too many beside a route's", named("r", 2), "[]", named("p", all-1), `plans.pro.policies: 33 policies together with those of route "many": want at most 32`)
	key := func(of string) string { return `[{caller: "` + of + `", policies: ` + named("o", 3) + "}]" }
	f("one too many beside an override's", "[]", key("key:a"), named("p", all-2), "plans.pro.policies: 33 policies together with those of callers.overrides[0]: want at most 32")
	f("one too many beside both", named("r", 2), key("key:a"), named("p", all-4), `plans.pro.policies: 33 policies together with those of callers.overrides[0] and route "many": want at most 32`)
	f("an override replaces those of its names", named("r", 2), key("key:a"), named("o", all-2), "<nil>")
	f("an override of another plan's caller", named("r", 2), key("key:b"), named("p", all-2), "<nil>")
	f("an override of a token, which can name any plan", named("r", 2), key("jwt:4711"), named("p", all-4), `plans.pro.policies: 33 policies together with those of callers.overrides[0] and route "many": want at most 32`)
	f("more than there is room for at all", "[]", "[]", named("p", all+1), "plans.pro.policies: 33 policies: want at most 32")
}

// quoted makes JSON of a list in the flow form of YAML: words become texts.
func quoted(list string) string {
	word := regexp.MustCompile(`"(?:[^"\\]|\\.)*"|[^\[\]{},":\s](?:[^\[\]{},":]|:[^ ])*`)
	return word.ReplaceAllStringFunc(list, func(w string) string {
		if strings.HasPrefix(w, `"`) {
			return w
		}
		return strconv.Quote(w)
	})
}
