package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// Size is a number of bytes. In the file it is 512, 8KiB, 256MiB, 10GiB, or
// decimal 10MB.
type Size int64

// String gives s in the largest unit of 1024 that it is a whole number of.
func (s Size) String() string {
	for _, u := range sizeUnits() {
		if s != 0 && u.binary && int64(s)%u.factor == 0 {
			return strconv.FormatInt(int64(s)/u.factor, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Percent is a share: 0.01 is 1 %. In the file it is 1% or 0.5%, above 0 % and
// at most 50 %, with four decimals at most.
type Percent float64

// String gives p as it is written in the file.
func (p Percent) String() string {
	return strconv.FormatFloat(float64(p.millionths())/1e4, 'f', -1, 64) + "%"
}

// millionths is p to the digit that the file can say.
func (p Percent) millionths() int64 { return int64(math.Round(float64(p) * 1e6)) }

// parsePercent reads 1% or 0.5%, with at most four decimals, so that what is
// printed is what was read.
func parsePercent(s string) (Percent, error) {
	wrong := errors.New("want a share in percent, for example 1% or 0.5%")
	number, ok := strings.CutSuffix(s, "%")
	whole, decimals, point := strings.Cut(number, ".")
	if !ok || point && decimals == "" || len(decimals) > 4 {
		return 0, wrong
	}
	n, err := strconv.ParseUint(whole+decimals+"0000"[len(decimals):], 10, 32)
	if err != nil || whole == "" {
		return 0, wrong
	}
	return Percent(float64(n) / 1e6), nil
}

// parseFraction reads 0.25: from 0 to 1, with at most four decimals, so that what
// is printed is what was read.
func parseFraction(s string) (f float64, ok bool) {
	whole, decimals, point := strings.Cut(s, ".")
	n, err := strconv.ParseUint(whole+decimals+"0000"[min(len(decimals), 4):], 10, 32)
	if err != nil || whole == "" || point && decimals == "" || len(decimals) > 4 || n > 1e4 {
		return 0, false
	}
	return float64(n) / 1e4, true
}

// windowWords are the windows that have names.
func windowWords() []unit {
	return []unit{
		{name: "second", factor: int64(time.Second)}, {name: "minute", factor: int64(time.Minute)},
		{name: "hour", factor: int64(time.Hour)}, {name: "day", factor: 24 * int64(time.Hour)},
		{name: "week", factor: 7 * 24 * int64(time.Hour)},
		{name: "month", factor: int64(ratelimit.Month)}, {name: "year", factor: int64(ratelimit.Year)},
	}
}

// windowWord is the name of a window that has one, else "".
func windowWord(d time.Duration) string {
	for _, w := range windowWords() {
		if w.factor == int64(d) {
			return w.name
		}
	}
	return ""
}

// parseWindow reads a duration, or one of windowWords.
func parseWindow(s string) (time.Duration, error) {
	for _, w := range windowWords() {
		if w.name == s {
			return time.Duration(w.factor), nil
		}
	}
	d, err := parseDuration(s)
	if err != nil {
		return 0, errors.New("want a duration, for example 1m, or a word: second, minute, hour, day, week, month, year")
	}
	return d, nil
}

// formatWindow is the inverse of parseWindow. Months and years are words: nobody
// would know them by their seconds, and only a word says that a fixed window
// follows the calendar.
func formatWindow(d time.Duration) string {
	if d == ratelimit.Month || d == ratelimit.Year {
		return windowWord(d)
	}
	return formatDuration(d)
}

type unit struct {
	name   string
	factor int64
	binary bool
}

// sizeUnits are in falling order, so that the longest name that fits is found
// first.
func sizeUnits() []unit {
	return []unit{
		{"TiB", 1 << 40, true}, {"GiB", 1 << 30, true}, {"MiB", 1 << 20, true}, {"KiB", 1 << 10, true},
		{"TB", 1e12, false}, {"GB", 1e9, false}, {"MB", 1e6, false}, {"KB", 1e3, false},
		{"B", 1, false},
	}
}

func durationUnits() []unit {
	return []unit{
		{"d", int64(24 * time.Hour), false}, {"h", int64(time.Hour), false}, {"m", int64(time.Minute), false},
		{"s", int64(time.Second), false}, {"ms", int64(time.Millisecond), false},
	}
}

func parseSize(s string) (Size, error) {
	digits := leadingDigits(s)
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, errors.New("want a size, for example 8KiB or 512")
	}
	if digits == s {
		return Size(n), nil
	}
	for _, u := range sizeUnits() {
		if s[len(digits):] == u.name {
			if n > math.MaxInt64/u.factor {
				return 0, errors.New("want a size below 8388608TiB")
			}
			return Size(n * u.factor), nil
		}
	}
	return 0, errors.New("want a size, for example 8KiB or 512")
}

func parseRate(s string) (Size, error) {
	size, ok := strings.CutSuffix(s, "/s")
	n, err := parseSize(size)
	if !ok || err != nil {
		return 0, errors.New("want a size per second, for example 1KiB/s")
	}
	return n, nil
}

// parseDuration reads 250ms, 5s, 10m, 24h, 7d, or several of them from the
// largest unit to the smallest: 1h30m.
func parseDuration(s string) (time.Duration, error) {
	wrong := errors.New("want a duration, for example 10m")
	if s == "" {
		return 0, wrong
	}
	var total int64
	units := durationUnits()
	for s != "" {
		digits := leadingDigits(s)
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return 0, wrong
		}
		s = s[len(digits):]
		name := s[:len(s)-len(strings.TrimLeft(s, "dhms"))]
		s = s[len(name):]
		for len(units) > 0 && units[0].name != name {
			units = units[1:]
		}
		if len(units) == 0 {
			return 0, wrong
		}
		if n > (math.MaxInt64-total)/units[0].factor {
			return 0, errors.New("want a duration below 106751d")
		}
		total += n * units[0].factor
		units = units[1:]
	}
	return time.Duration(total), nil
}

// formatDuration is the inverse of parseDuration.
func formatDuration(d time.Duration) string {
	var out strings.Builder
	rest := int64(d)
	for _, u := range durationUnits() {
		if n := rest / u.factor; n > 0 {
			fmt.Fprintf(&out, "%d%s", n, u.name)
			rest %= u.factor
		}
	}
	if out.Len() == 0 {
		return "0s"
	}
	return out.String()
}

func leadingDigits(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}

// parsePrefix reads a network, or an address as a network of one.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case !p.IsValid():
		return netip.Prefix{}, errors.New("want a network or an address, for example 10.0.0.0/8")
	case p.Addr().Is4In6():
		return netip.Prefix{}, errors.New("want the IPv4 network itself, for example 10.0.0.0/8")
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("has bits beyond its length: want %v", p.Masked())
	}
	return p, nil
}

// setText gives v the value that text says. It does not look at ranges.
func setText(v reflect.Value, text string, r rule) error {
	switch v.Interface().(type) {
	case time.Duration:
		parse := parseDuration
		if r.words {
			parse = parseWindow
		}
		d, err := parse(text)
		v.SetInt(int64(d))
		return err
	case Percent:
		p, err := parsePercent(text)
		if err == nil && (p <= 0 || p > maxExcess) {
			err = fmt.Errorf("want more than 0%% and at most %v", maxExcess)
		}
		v.SetFloat(float64(p))
		return err
	case Budget:
		b, err := parseBudget(text)
		v.Set(reflect.ValueOf(b))
		return err
	case float64:
		return setFloat(v, text, r)
	case After:
		a, err := parseAfter(text)
		v.Set(reflect.ValueOf(a))
		return err
	case Size:
		parse := parseSize
		if r.rate {
			parse = parseRate
		}
		n, err := parse(text)
		v.SetInt(int64(n))
		return err
	case netip.Prefix:
		p, err := parsePrefix(text)
		v.Set(reflect.ValueOf(p))
		return err
	case bool:
		switch text {
		case "true", "True", "TRUE":
			v.SetBool(true)
		case "false", "False", "FALSE":
			v.SetBool(false)
		default:
			return errors.New(wanted(v.Type(), r))
		}
	case int, int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return errors.New(wanted(v.Type(), r))
		}
		v.SetInt(n)
	default:
		v.SetString(text)
	}
	return nil
}

func setFloat(v reflect.Value, text string, r rule) error {
	if r.money {
		f, err := parsePrice(text)
		v.SetFloat(f)
		return err
	}
	if r.number {
		n, err := parseNanos(text)
		if err != nil || n == 0 || n > 1e6*nanosPerUSD {
			return errors.New(wanted(v.Type(), r))
		}
		v.SetFloat(float64(n) / nanosPerUSD)
		return nil
	}
	f, ok := parseFraction(text)
	if !ok || f == 0 && !r.zero {
		return errors.New(wanted(v.Type(), r))
	}
	v.SetFloat(f)
	return nil
}

// wanted says what kind of value belongs to a type.
func wanted(t reflect.Type, r rule) string {
	switch reflect.Zero(t).Interface().(type) {
	case time.Duration:
		return "want a duration, for example 10m"
	case Size:
		if r.rate {
			return "want a size per second, for example 1KiB/s"
		}
		return "want a size, for example 8KiB or 512"
	case netip.Prefix:
		return "want a network or an address, for example 10.0.0.0/8"
	case Percent:
		return "want a share in percent, for example 1% or 0.5%"
	case Policy:
		return "want a policy, for example 5/minute or {quota: 5, window: 1m}"
	case Target:
		return "want a URL, or a mapping with url and weight"
	case Concurrency:
		return "want a whole number, or a mapping with min and max"
	case Auto, AutoTTL:
		return "want a mapping with min and max"
	case After:
		return wantAfter
	case Budget:
		return wantBudget
	}
	switch t.Kind() {
	case reflect.Bool:
		return "want true or false"
	case reflect.Int, reflect.Int64:
		return "want a whole number"
	case reflect.Float64:
		if r.money {
			return wantPrice
		}
		if r.number {
			return "want a number above 0 and at most 1000000, for example 200 or 0.5"
		}
		if r.zero {
			return "want a fraction from 0 to 1, for example 0.25"
		}
		return "want a fraction above 0 and at most 1, for example 0.25"
	case reflect.Slice:
		return "want a list"
	case reflect.Struct, reflect.Map, reflect.Pointer:
		return "want a mapping"
	}
	return "want a text"
}
