package gateway

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// Money is counted in nano-USD, 1e-9 USD, and prices in nano-USD per million tokens:
// both are integers, so that sums are exact.
const (
	// nanoUSD is the unit of a budget's policy.
	nanoUSD = "nanousd"
	// budgetName is that policy's name.
	budgetName = "budget"

	nanosPerUSD = 1_000_000_000
	perTokens   = 1_000_000
)

// price is what a model's tokens cost, in nano-USD per million.
type price struct{ input, cached, output int64 }

func newPrice(p config.Price) price {
	nanos := func(usd float64) int64 { return int64(math.Round(usd * nanosPerUSD)) }
	return price{nanos(p.Input), nanos(p.Cached), nanos(p.Output)}
}

// atLeast is what is dearer of p and other.
func (p price) atLeast(other price) price {
	return price{max(p.input, other.input), max(p.cached, other.cached), max(p.output, other.output)}
}

// of is what u costs, in nano-USD, rounded up once. It saturates. What an upstream says
// of itself may be anything: more tokens from the cache than there are tokens, or less
// than none.
func (p price) of(u weir.Usage) int64 {
	input, output := max(u.Input, 0), max(u.Output, 0)
	cached := min(max(u.Cached, 0), input)
	var high, low uint64 // the sum, in millionths of a nano-USD
	for _, part := range [...][2]int64{{input - cached, p.input}, {cached, p.cached}, {output, p.output}} {
		h, l := bits.Mul64(uint64(part[0]), uint64(part[1]))
		var carry uint64
		low, carry = bits.Add64(low, l, 0)
		high += h + carry // three products of 63 bits each fit into 128
	}
	low, carry := bits.Add64(low, perTokens-1, 0)
	if high += carry; high >= perTokens {
		return math.MaxInt64
	}
	nanos, _ := bits.Div64(high, low, perTokens)
	return int64(min(nanos, math.MaxInt64))
}

// priceList is what models cost whose names are one dialect's.
type priceList struct {
	exact   map[string]price
	longest []pricePrefix // the longest first; that of all models is ""
	dearest price
}

type pricePrefix struct {
	prefix string
	price  price
}

// newPrices makes the lists of all dialects that models are called in: what is one
// model to a server has one price, whatever its name.
func newPrices(c *config.Config) (map[string]*priceList, error) {
	lists := map[string]*priceList{}
	names := []string{"plain"}
	for _, u := range c.Upstreams {
		names = append(names, u.Dialect)
	}
	for _, name := range names {
		d, err := newDialect(name)
		if err != nil {
			return nil, fmt.Errorf("upstreams: %w", err)
		}
		if lists[d.Name()] == nil {
			lists[d.Name()] = newPriceList(c.Prices, d.Canonical)
		}
	}
	return lists, nil
}

func newPriceList(prices map[string]config.Price, canonical func(string) string) *priceList {
	l, prefixes := &priceList{exact: map[string]price{}}, map[string]price{}
	for model, configured := range prices {
		p := newPrice(configured)
		l.dearest = l.dearest.atLeast(p)
		// Two names of one model have the price of the dearer.
		if prefix, ok := strings.CutSuffix(canonical(model), "*"); ok {
			prefixes[prefix] = p.atLeast(prefixes[prefix])
		} else {
			l.exact[prefix] = p.atLeast(l.exact[prefix])
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(prefixes)) {
		l.longest = append(l.longest, pricePrefix{prefix, prefixes[prefix]})
	}
	slices.SortStableFunc(l.longest, func(a, b pricePrefix) int { return cmp.Compare(len(b.prefix), len(a.prefix)) })
	return l
}

// find is the price of a model, and whether it is its own: that of its name or of a
// beginning of it, and not that of all models. Without any price a model is free.
func (l *priceList) find(model string) (p price, own bool) {
	if p, ok := l.exact[model]; ok {
		return p, true
	}
	for i := range l.longest {
		if prefix := l.longest[i].prefix; strings.HasPrefix(model, prefix) {
			return l.longest[i].price, prefix != ""
		}
	}
	return price{}, false
}

// price is that of the request's model: of the name that the request has for it, if
// that has a price of its own, else of the one that the answer gives. Where the request
// can be read in several ways, and may name a dearer model, it is the highest of all
// until the model answers.
func (x *exchange) price() price {
	d := x.chosen.upstream.dialect
	l := x.setup.prices[d.Name()]
	if l == nil || len(l.exact) == 0 && len(l.longest) == 0 {
		return price{}
	}
	asked := d.Canonical(x.call.Model)
	p, own := l.find(asked)
	if own {
		return p
	}
	if x.answer != nil {
		if answered := d.Canonical(x.answer.Outcome().Model); answered != "" {
			p, _ = l.find(answered)
			return p
		}
	}
	if asked == "" && x.call.Err != nil {
		return l.dearest
	}
	return p
}

// withBudget is policies with the one of plan's budget, if it has one: what a caller
// spends in each window of the calendar, in UTC.
func withBudget(policies []config.Policy, plan config.Plan) []config.Policy {
	b := plan.Budget
	if b == nil {
		return policies
	}
	return append(slices.Clone(policies), config.Policy{
		Name: budgetName, Quota: b.Nanos, Window: b.Window, Unit: nanoUSD, By: "caller", Algorithm: ratelimit.FixedWindow,
	})
}

// refusal is why takes were refused, in money where that is what is missing. It is nil
// if nothing was refused.
func refusal(takes []ratelimit.Take) *weir.Problem {
	p := ratelimit.Refusal(takes)
	if p == nil || p.Unit != nanoUSD {
		return p
	}
	i := slices.IndexFunc(takes, func(t ratelimit.Take) bool {
		return t.Policy.Unit == nanoUSD && !t.Decision.Allowed && t.Policy.Name == p.Violated[0]
	})
	if i < 0 { // it is among them: Refusal found it there
		return p
	}
	t := &takes[i]
	budget := "the budget of " + perWindow(t.Policy)
	if t.Mode == ratelimit.Local {
		budget = "this instance's share of " + budget
	}
	p.Title = "Budget used up"
	switch {
	case p.RetryAfter == weir.Never:
		p.Detail = fmt.Sprintf("This request may cost %s, and that is more than %s.", dollars(t.Cost), budget)
	case t.Decision.Remaining > 0:
		p.Detail = fmt.Sprintf("This request may cost %s, and %s are left of %s.", dollars(t.Cost), dollars(t.Decision.Remaining), budget)
	default:
		p.Detail = strings.ToUpper(budget[:1]) + budget[1:] + " is used up."
	}
	if p.RetryAfter > 0 {
		// Far away a date says more than a number of seconds.
		back := time.Unix(0, t.Taken).Add(p.RetryAfter).Round(time.Second).UTC()
		p.Detail += " The next one begins at " + back.Format(time.RFC3339) + "."
	}
	return p
}

// perWindow is a budget as a configuration says it: 20 USD per month.
func perWindow(p *ratelimit.Policy) string {
	for word, window := range map[string]time.Duration{
		"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour, "week": 7 * 24 * time.Hour,
	} {
		if p.Window == window {
			return dollars(p.Quota) + " per " + word
		}
	}
	_, window, _ := strings.Cut(p.String(), " per ")
	return dollars(p.Quota) + " per " + window
}

// dollars is an amount of nano-USD as people write it, exact: 20 USD, 0.50 USD,
// 0.001234567 USD.
func dollars(nanos int64) string {
	cents := strconv.FormatInt(nanos%nanosPerUSD+nanosPerUSD, 10)[1:] // nine digits
	cents = strings.TrimRight(cents, "0")
	whole := strconv.FormatInt(nanos/nanosPerUSD, 10)
	switch len(cents) {
	case 0:
		return whole + " USD"
	case 1:
		cents += "0"
	}
	return whole + "." + cents + " USD"
}

// withoutMoney are the takes that count something else: for fields that name no unit.
func withoutMoney(takes []ratelimit.Take) []ratelimit.Take {
	isMoney := func(t ratelimit.Take) bool { return t.Policy.Unit == nanoUSD }
	if !slices.ContainsFunc(takes, isMoney) {
		return takes
	}
	return slices.DeleteFunc(slices.Clone(takes), isMoney)
}
