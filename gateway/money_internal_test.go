package gateway

import (
	"context"
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/dialect"
	"github.com/inferweir/weir/ratelimit"
)

func TestPriceOf(t *testing.T) {
	p := newPrice(config.Price{Input: 0.15, Cached: 0.075, Output: 0.6})
	for name, c := range map[string]struct {
		price price
		usage weir.Usage
		want  int64
	}{
		"a request of a usual size is exact":                  {p, weir.Usage{Input: 1000, Output: 500}, 450_000},
		"cached tokens cost less":                             {p, weir.Usage{Input: 1000, Cached: 400, Output: 0}, 120_000},
		"what is less than the smallest amount is rounded up": {price{input: 1}, weir.Usage{Input: 1}, 1},
		"is rounded once, not for each part":                  {price{1, 1, 1}, weir.Usage{Input: 2, Cached: 1, Output: 1}, 1},
		"nothing costs nothing":                               {p, weir.Usage{}, 0},
		"without a price it is free":                          {price{}, weir.Usage{Input: math.MaxInt64}, 0},
		"more cached than there are tokens is no gift":        {p, weir.Usage{Input: 10, Cached: 1000}, 750},
		"a negative cache is none":                            {p, weir.Usage{Input: 10, Cached: -1000}, 1500},
		"negative tokens are none":                            {p, weir.Usage{Input: -10, Cached: 5, Output: -10}, 0},
		"what does not fit is the most that does":             {price{math.MaxInt64, math.MaxInt64, math.MaxInt64}, weir.Usage{Input: math.MaxInt64, Cached: 1, Output: math.MaxInt64}, math.MaxInt64},
		"a price has nine decimals":                           {newPrice(config.Price{Input: 999999.999999999}), weir.Usage{Input: 1_000_000}, 999_999_999_999_999},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.price.of(c.usage); got != c.want {
				t.Errorf("%+v of %+v is %d: want %d", c.price, c.usage, got, c.want)
			}
		})
	}
	t.Run("is what integers without a bound give", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			draw := func(name string) int64 { return rapid.Int64Range(0, math.MaxInt64).Draw(t, name) }
			p := price{draw("input price"), draw("cached price"), draw("output price")}
			u := weir.Usage{Input: draw("input"), Output: draw("output")}
			u.Cached = rapid.Int64Range(0, u.Input).Draw(t, "cached")
			sum := new(big.Int)
			for _, part := range [][2]int64{{u.Input - u.Cached, p.input}, {u.Cached, p.cached}, {u.Output, p.output}} {
				sum.Add(sum, new(big.Int).Mul(big.NewInt(part[0]), big.NewInt(part[1])))
			}
			sum.Add(sum, big.NewInt(perTokens-1))
			sum.Div(sum, big.NewInt(perTokens))
			want := int64(math.MaxInt64)
			if sum.IsInt64() {
				want = sum.Int64()
			}
			if got := p.of(u); got != want {
				t.Errorf("%+v of %+v is %d: want %d", p, u, got, want)
			}
		})
	})
}

func TestPriceList(t *testing.T) {
	prices := map[string]config.Price{
		"*": {Input: 9, Output: 1}, "llama-*": {Input: 2}, "llama-3-*": {Input: 3}, "llama-3-8b": {Input: 1},
		"Llama3:latest": {Input: 4, Output: 1}, "llama3": {Input: 5},
	}
	usd := func(input, output int64) price { return price{input * nanosPerUSD, 0, output * nanosPerUSD} }
	for name, c := range map[string]struct {
		dialect *dialect.Dialect
		model   string
		want    price
		own     bool
	}{
		"the name itself comes first":                 {dialect.OpenAI(), "llama-3-8b", usd(1, 0), true},
		"then the longest beginning":                  {dialect.OpenAI(), "llama-3-70b", usd(3, 0), true},
		"then a shorter one":                          {dialect.OpenAI(), "llama-2", usd(2, 0), true},
		"then all models":                             {dialect.OpenAI(), "gpt", usd(9, 1), false},
		"a model without a name is one of all":        {dialect.OpenAI(), "", usd(9, 1), false},
		"names are told apart where servers do":       {dialect.OpenAI(), "LLAMA-3-8b", usd(9, 1), false},
		"and not where they do not: it is the dearer": {dialect.Ollama(), "llama3", usd(5, 1), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got, own := newPriceList(prices, c.dialect.Canonical).find(c.model); got != c.want || own != c.own {
				t.Errorf("%q costs %+v, %v: want %+v, %v", c.model, got, own, c.want, c.own)
			}
		})
	}
	t.Run("without a price a model is free", func(t *testing.T) {
		if got, own := newPriceList(nil, dialect.OpenAI().Canonical).find("m"); got != (price{}) || own {
			t.Errorf("m costs %+v, %v", got, own)
		}
	})
	t.Run("the dearest is so in each part", func(t *testing.T) {
		if got := newPriceList(prices, dialect.OpenAI().Canonical).dearest; got != usd(9, 1) {
			t.Errorf("the dearest is %+v: want %+v", got, usd(9, 1))
		}
	})
}

func TestDollars(t *testing.T) {
	for nanos, want := range map[int64]string{
		0: "0 USD", 20_000_000_000: "20 USD", 500_000_000: "0.50 USD", 1_234_567: "0.001234567 USD", 12_340_000_000: "12.34 USD", 1: "0.000000001 USD",
	} {
		if got := dollars(nanos); got != want {
			t.Errorf("%d is %q: want %q", nanos, got, want)
		}
	}
}

// The windows that budgets are charged for at the start are those that are counted.
func TestWindowStart(t *testing.T) {
	t.Parallel()
	windows := []time.Duration{time.Minute, time.Hour, 90 * time.Minute, 24 * time.Hour, 7 * 24 * time.Hour, 10 * 24 * time.Hour, ratelimit.Month, ratelimit.Year}
	ends := func(t *rapid.T, window time.Duration, at time.Time) time.Time {
		p, err := ratelimit.Policy{Name: "b", Quota: 10, Window: window, Algorithm: ratelimit.FixedWindow}.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		takes := []ratelimit.Take{{Policy: p, Key: "k", Cost: 1}}
		if _, err := ratelimit.NewMemoryStore(0).Take(context.Background(), takes, at); err != nil {
			t.Fatal(err)
		}
		return at.Add(takes[0].Decision.Full)
	}
	base := time.Now().Add(2 * 366 * 24 * time.Hour) // a store knows no time before it was made
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.SampledFrom(windows).Draw(t, "window")
		now := base.Add(time.Duration(rapid.Int64Range(0, int64(50*366*24*time.Hour)).Draw(t, "later")))
		start := windowStart(now, window)
		if start.After(now) {
			t.Fatalf("the window of %v begins at %v", now, start)
		}
		end := ends(t, window, now)
		if got := ends(t, window, start); !near(got, end) {
			t.Errorf("what begins at %v ends at %v: want %v", start, got, end)
		}
		if before := start.Add(-time.Millisecond); !near(ends(t, window, before), start) {
			t.Errorf("the window before ends at %v: want %v", ends(t, window, before), start)
		}
	})
}

// near allows for two readings of the system's clock, of which one is monotonic.
func near(a, b time.Time) bool { return a.Sub(b).Abs() < time.Millisecond/2 }

func TestModelsOfTheLedger(t *testing.T) {
	var m models
	for i := range mostModels {
		name := time.Duration(i).String()
		if got := m.name(name, false); got != name {
			t.Fatalf("%q became %q", name, got)
		}
	}
	for _, c := range []struct {
		model  string
		priced bool
		want   string
	}{{"one-more", false, "(others)"}, {"dear", true, "dear"}, {"0s", false, "0s"}, {"", false, ""}} {
		if got := m.name(c.model, c.priced); got != c.want {
			t.Errorf("%q became %q: want %q", c.model, got, c.want)
		}
	}
}
