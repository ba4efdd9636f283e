package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// anyModel is the pattern in Config.Prices of models without a price of their own.
const anyModel = "*"

// budgetPolicy is the name of the policy that a plan's budget is.
const budgetPolicy = "budget"

// maxModel bounds the pattern of a model, in bytes.
const maxModel = 2 * maxName

func (k *checker) prices(prices map[string]Price) {
	for _, model := range slices.Sorted(maps.Keys(prices)) {
		path := "prices." + shownKey(model)
		star := strings.IndexByte(model, '*')
		switch {
		case !k.printable(path, model) && k.clean(path), len(model) > maxModel:
			k.fail(path, fmt.Sprintf("want the name of a model, of 1 to %d bytes", maxModel))
		case star >= 0 && star < len(model)-1 && k.clean(path):
			k.fail(path, `want * only at the end, for example "llama-*", or "*" alone for every other model`)
		}
	}
}

// budget checks that the plan's budget at path can be counted on the routes that s
// is about.
func (k *checker) budget(path, plan string, c *Config, s served) {
	if c.Plans[plan].Budget == nil || !k.said(path) || !k.clean(path) {
		return
	}
	_, priced := c.Prices[anyModel]
	switch want := neverCounts(Policy{Unit: "tokens"}, s); {
	case !priced && k.clean("prices"):
		k.fail(path, `needs a price for every model, or one without a price would be free: want prices with "*", for example prices: {"*": {input: 3, output: 15}}`)
	case want != "":
		why, _, _ := strings.Cut(want, ": want ")
		k.fail(path, why+": want an upstream with dialect openai, anthropic, ollama or kserve")
	}
}

// besideBudget reports the policies that have the name of the one that the budget
// is.
func (k *checker) besideBudget(path string, policies []Policy, b *Budget) {
	for i, p := range policies {
		if at := fmt.Sprintf("%s[%d]", path, i); b != nil && p.Name == budgetPolicy && k.clean(at) {
			k.fail(at, `has the name "budget", which is that of the plan's budget: want another name`)
		}
	}
}

// besideBudgets does it for an override, whose policies are at path, and for the
// plans that its caller may have.
func (k *checker) besideBudgets(path string, o Override, c *Config) {
	names, known := c.plansUnder(o)
	if !known {
		names = slices.Sorted(maps.Keys(c.Plans))
	}
	for _, name := range names {
		k.besideBudget(path, o.Policies, c.Plans[name].Budget)
	}
}
