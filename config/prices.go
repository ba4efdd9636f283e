package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// Price is what the tokens of a model cost, in US dollars per million tokens.
// Each from 0 to 1000000, with nine decimals at most.
type Price struct {
	// Input is for tokens of the prompt. Required; 0 is free.
	Input float64 `yaml:"input" default:"0" money:"true" required:"US dollars per million tokens of the prompt, for example 0.15"`
	// Cached is for those of them that the model server had in its prefix cache.
	// Default Input.
	Cached float64 `yaml:"cached" default:"0" money:"true"`
	// Output is for generated tokens. Required; 0 is free.
	Output float64 `yaml:"output" default:"0" money:"true" required:"US dollars per million tokens of the answer, for example 0.6"`
}

// Budget is how much money a caller may spend in a window. In the file it is
// "20 USD/month", "0.50 USD per day" or "20 USD per 7d".
type Budget struct {
	// Nanos is the amount in 1e-9 US dollars. From 1 to 9e14, and at most one for
	// each nanosecond of Window.
	Nanos int64
	// Window is the time in which it comes back. From 1ms to 366d.
	Window time.Duration
}

// maxPrice is the most that a million tokens may cost, in US dollars.
const maxPrice = 1_000_000

const wantPrice = "want US dollars from 0 to 1000000, with nine decimals at most, for example 0.15"

// parsePrice reads 0.15, so that what is printed of it is what was read: fifteen
// digits are what a float64 keeps.
func parsePrice(s string) (float64, error) {
	n, err := parseNanos(s)
	if err != nil || n > maxPrice*nanosPerUSD {
		return 0, errors.New(wantPrice)
	}
	return float64(n) / nanosPerUSD, nil
}

// nanosPerUSD is how many of the smallest amounts that are counted a US dollar has.
const nanosPerUSD = 1_000_000_000

// parseNanos reads an amount such as 20 or 0.50, with at most nine decimals.
func parseNanos(s string) (int64, error) {
	whole, decimals, point := strings.Cut(s, ".")
	n, err := strconv.ParseUint(whole+decimals+"000000000"[min(len(decimals), 9):], 10, 63)
	if err != nil || whole == "" || point && decimals == "" || len(decimals) > 9 {
		return 0, errors.New("want an amount with nine decimals at most, for example 20 or 0.50")
	}
	return int64(n), nil
}

// formatNanos is the inverse of parseNanos.
func formatNanos(n int64) string {
	decimals := strings.TrimRight(fmt.Sprintf("%09d", n%nanosPerUSD), "0")
	return strings.TrimSuffix(strconv.FormatInt(n/nanosPerUSD, 10)+"."+decimals, ".")
}

// maxBudget is the largest amount, in US dollars: its count stands in a header
// field, where 1e15 is too much (RFC 9651, section 3.3.1).
const maxBudget = 900_000

const wantBudget = "want AMOUNT USD/WINDOW, for example 20 USD/month or 0.50 USD per day"

// String gives b as it is written in the file.
func (b Budget) String() string {
	if word := windowWord(b.Window); word != "" {
		return formatNanos(b.Nanos) + " USD/" + word
	}
	_, window, _ := strings.Cut(ratelimit.Policy{Quota: 1, Window: b.Window}.String(), " per ")
	return formatNanos(b.Nanos) + " USD per " + window
}

// parseBudget reads 20 USD/month. Its windows are those of the short form of a
// policy.
func parseBudget(s string) (Budget, error) {
	amount, window, found := strings.Cut(s, "/")
	if !found {
		amount, window, found = strings.Cut(s, " per ")
	}
	words := strings.Fields(amount)
	if !found || len(words) != 2 {
		return Budget{}, errors.New(wantBudget)
	}
	nanos, err := parseNanos(words[0])
	limit, errWindow := ratelimit.ParsePolicy("1/" + window)
	switch {
	case err != nil:
		return Budget{}, err
	case words[1] != "USD":
		return Budget{}, errors.New("want USD: prices are in US dollars, and nothing here knows what another currency is worth")
	case errWindow != nil:
		return Budget{}, errors.New("want a window from 1ms to 366d after the amount: a duration in one unit, such as 7d, or second, minute, hour, day, week, month, year")
	case nanos == 0:
		return Budget{}, errors.New("want an amount above 0")
	case nanos > maxBudget*nanosPerUSD:
		return Budget{}, fmt.Errorf("want at most %d USD", maxBudget)
	case nanos > int64(limit.Window):
		return Budget{}, fmt.Errorf("want at most one US dollar a second, which is what can be counted: %s USD in this window", formatNanos(int64(limit.Window)))
	}
	return Budget{Nanos: nanos, Window: limit.Window}, nil
}
