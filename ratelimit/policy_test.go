package ratelimit_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

func TestParsePolicy(t *testing.T) {
	ok := func(in string, want ratelimit.Policy) {
		t.Helper()
		got, err := ratelimit.ParsePolicy(in)
		if err != nil || got != want {
			t.Errorf("%q\n got %+v, %v\nwant %+v", in, got, err, want)
		}
	}
	requests := func(quota int64, window time.Duration) ratelimit.Policy {
		return ratelimit.Policy{Quota: quota, Window: window, Unit: "requests"}
	}
	ok("5/minute", requests(5, time.Minute))
	ok(" 5 / minute ", requests(5, time.Minute))
	ok("5 per minute", requests(5, time.Minute))
	ok("100 per 1h", requests(100, time.Hour))
	ok("10 per 30s", requests(10, 30*time.Second))
	ok("10/30s", requests(10, 30*time.Second))
	ok("1/250ms", requests(1, 250*time.Millisecond))
	ok("1 request/second", requests(1, time.Second))
	ok("9/day", requests(9, 24*time.Hour))
	ok("9/2w", requests(9, 14*24*time.Hour))
	ok("200000 tokens/minute", ratelimit.Policy{Quota: 200000, Window: time.Minute, Unit: "tokens"})
	ok("7 input_tokens per 7d", ratelimit.Policy{Quota: 7, Window: 7 * 24 * time.Hour, Unit: "input_tokens"})
	ok("20 concurrent", ratelimit.Policy{Concurrent: 20})

	bad := func(in, want string) {
		t.Helper()
		if got, err := ratelimit.ParsePolicy(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v, %v; want an error with %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "5", "minute", "/minute", "0/minute", "-1/minute", "1.5/minute", "5/", "5/minutes ago",
		"5/0s", "5/-1s", "5/1", "5/1y", "5/400d", "5/9223372036854775807w", "99999999999999999999/minute", "5 a b/minute", "0 concurrent", "5 parallel"} {
		bad(in, "want QUOTA [UNIT] per WINDOW")
	}
	bad("5 bananas/minute", `unit: "bananas": want one of requests, tokens`)
	bad("2000000/1ms", "at most one a nanosecond")
	bad("9000000000000000000 concurrent", "want at most 999999999999999")
}

func TestPolicyString(t *testing.T) {
	for _, s := range []string{"5 per 1m", "100 per 1h", "10 per 30s", "1 per 250ms", "200000 tokens per 1m", "9 per 14d", "20 concurrent", "5 per month", "7 tokens per year"} {
		p, err := ratelimit.ParsePolicy(s)
		if err != nil || p.String() != s {
			t.Errorf("%q becomes %q, %v", s, p, err)
		}
	}
}

func TestPrepareRefusesWhatCannotBeCounted(t *testing.T) {
	for want, p := range map[string]ratelimit.Policy{
		"quota: 0: want at least 1":            {Window: time.Second},
		"window: 0s: want from 1ms":            {Quota: 1},
		"window: 10000h0m0s: want from 1ms":    {Quota: 1, Window: 10000 * time.Hour},
		"burst: -1: want at least 1":           {Quota: 1, Window: time.Second, Burst: -1},
		"burst: 1000000: comes back after":     {Quota: 1, Window: 24 * time.Hour, Burst: 1_000_000},
		"name: \"a\\nb\": want printable":      {Name: "a\nb", Quota: 1, Window: time.Second},
		"concurrent: 5: takes no quota":        {Concurrent: 5, Quota: 1},
		"want at most one a nanosecond: 1000":  {Quota: 1 << 40, Window: time.Second},
		"want at most 999999999999999: they":   {Quota: 1 << 62, Window: time.Second},
		"burst: 9: has no meaning with fixed":  {Quota: 10, Window: time.Second, Burst: 9, Algorithm: ratelimit.FixedWindow},
		"lease: has no meaning with sliding":   {Quota: 10, Window: time.Second, MaxExcess: 0.1, Algorithm: ratelimit.SlidingWindow},
		"lease.max_excess: 0.6: want from 0":   {Quota: 10, Window: time.Second, MaxExcess: 0.6},
		"lease.max_excess: NaN: want from 0":   {Quota: 10, Window: time.Second, MaxExcess: math.NaN()},
		`algorithm: "leaky": want token_bucke`: {Quota: 10, Window: time.Second, Algorithm: "leaky"},
		"want whole microseconds with fixed_w": {Quota: 1, Window: time.Second + 1, Algorithm: ratelimit.FixedWindow},
		`unit: "tokens": want no unit with co`: {Concurrent: 5, Unit: "tokens"},
	} {
		if _, err := p.Prepare(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", p, err, want)
		}
	}
}

func TestPrepareChangesNothingThatIsPrepared(t *testing.T) {
	for _, p := range append(extremes(t), shared(t)...) {
		again := prepare(t, *p)
		if got, want := again.Concurrent+again.Burst, p.Concurrent+p.Burst; got != want || again.Algorithm != p.Algorithm || again.Unit != p.Unit || again.String() != p.String() {
			t.Errorf("%+v becomes %+v", *p, *again)
		}
	}
}

func TestPrepareFillsInTheDefaults(t *testing.T) {
	for _, c := range []struct{ in, want ratelimit.Policy }{
		{ratelimit.Policy{Quota: 5, Window: time.Minute}, ratelimit.Policy{Quota: 5, Window: time.Minute, Burst: 5, Unit: ratelimit.Requests, Algorithm: ratelimit.TokenBucket}},
		{ratelimit.Policy{Quota: 5, Window: time.Minute, Algorithm: ratelimit.FixedWindow}, ratelimit.Policy{Quota: 5, Window: time.Minute, Burst: 5, Unit: ratelimit.Requests, Algorithm: ratelimit.FixedWindow}},
		{ratelimit.Policy{Concurrent: 7}, ratelimit.Policy{Concurrent: 7, Unit: ratelimit.Requests}},
	} {
		p := prepare(t, c.in)
		if got := (ratelimit.Policy{Quota: p.Quota, Window: p.Window, Burst: p.Burst, Unit: p.Unit, Algorithm: p.Algorithm, Concurrent: p.Concurrent}); got != c.want {
			t.Errorf("%+v becomes %+v, want %+v", c.in, got, c.want)
		}
		if tk := (ratelimit.Take{Policy: p}); tk.Burst() != max(c.want.Burst, c.want.Concurrent) {
			t.Errorf("%+v: a burst of %d", c.in, tk.Burst())
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{"5/minute", "100 per 1h", "200000 tokens/minute", "20 concurrent", "9000000000000000000 concurrent", "5 per 9223372036854775807w"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ratelimit.ParsePolicy(s)
		if err != nil {
			return
		}
		if err := p.Validate(); err != nil {
			t.Fatalf("%q gives a policy that is not valid: %v", s, err)
		}
		if again, err := ratelimit.ParsePolicy(p.String()); err != nil || again != p {
			t.Fatalf("%q becomes %q, which is read as %+v, %v", s, p, again, err)
		}
	})
}
