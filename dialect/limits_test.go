package dialect_test

import (
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/inferweir/weir/dialect"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 500, time.FixedZone("CET", 3600)) }

// fields makes a header of names and values in turn.
func fields(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestLimits(t *testing.T) {
	requests := func(quota, remaining int64, full time.Duration) []dialect.Limit {
		return []dialect.Limit{{Unit: "requests", Quota: quota, Remaining: remaining, Full: full}}
	}
	resets := func(text string) http.Header {
		return fields("x-ratelimit-limit-requests", "60", "x-ratelimit-remaining-requests", "59", "x-ratelimit-reset-requests", text)
	}
	policy := func(policies, states string) http.Header {
		return fields("RateLimit-Policy", policies, "RateLimit", states)
	}
	for _, c := range []struct {
		name string
		h    http.Header
		want []dialect.Limit
	}{
		{"reads nothing in nothing", nil, nil},
		{"reads openai's fields", fields(
			"x-ratelimit-limit-requests", "60", "x-ratelimit-remaining-requests", "59", "x-ratelimit-reset-requests", "1s",
			"x-ratelimit-limit-tokens", "150000", "x-ratelimit-remaining-tokens", "149984", "x-ratelimit-reset-tokens", "6m0s",
			"x-ratelimit-limit-project-tokens", "7", "x-ratelimit-remaining-project-tokens", "7", "x-ratelimit-reset-project-tokens", "1s"),
			[]dialect.Limit{{"requests", 60, 59, time.Second}, {"tokens", 150000, 149984, 6 * time.Minute}}},
		{"reads anthropic's fields, in its order of units", fields(
			"anthropic-ratelimit-output-tokens-limit", "8000", "anthropic-ratelimit-output-tokens-remaining", "8000", "anthropic-ratelimit-output-tokens-reset", "2026-03-01T11:00:00Z",
			"anthropic-ratelimit-input-tokens-limit", "40000", "anthropic-ratelimit-input-tokens-remaining", "39000", "anthropic-ratelimit-input-tokens-reset", "2026-03-01T11:00:02Z",
			"anthropic-ratelimit-requests-limit", "50", "anthropic-ratelimit-requests-remaining", "0", "anthropic-ratelimit-requests-reset", "2026-03-01T12:01:00+01:00"),
			[]dialect.Limit{{"requests", 50, 0, time.Minute - 500}, {"input_tokens", 40000, 39000, 2*time.Second - 500}, {"output_tokens", 8000, 8000, 0}}},
		{"reads a duration in milliseconds", resets("12ms"), requests(60, 59, 12*time.Millisecond)},
		{"reads a duration of several units", resets("1h2m3.5s"), requests(60, 59, time.Hour+2*time.Minute+3500*time.Millisecond)},
		{"reads azure's whole seconds", resets("9"), requests(60, 59, 9*time.Second)},
		{"takes azure's -1 for unknown", resets("-1"), requests(60, 59, 0)},
		{"reads seconds with decimals", resets("59.25"), requests(60, 59, 59250*time.Millisecond)},
		{"reads a limit without a reset", fields("x-ratelimit-limit-requests", "60", "x-ratelimit-remaining-requests", "3"), requests(60, 3, 0)},
		{"reads what remains of an unknown quota", fields("x-ratelimit-remaining-requests", "3"), requests(0, 3, 0)},
		{"leaves out what does not say how much remains", fields("x-ratelimit-limit-requests", "60", "x-ratelimit-reset-requests", "1s"), nil},
		{"leaves out a negative remainder", fields("x-ratelimit-limit-requests", "60", "x-ratelimit-remaining-requests", "-1"), nil},
		{"leaves out a negative quota", fields("x-ratelimit-limit-requests", "-60", "x-ratelimit-remaining-requests", "1"), nil},
		{"leaves out a remainder that is no whole number", fields("x-ratelimit-remaining-requests", "1.5"), nil},
		{"leaves out a remainder with a sign", fields("x-ratelimit-remaining-requests", "+1"), nil},
		{"leaves out a field that is there twice", fields("x-ratelimit-remaining-requests", "1", "x-ratelimit-remaining-requests", "2"), nil},
		{"leaves out an absurd remainder", fields("x-ratelimit-remaining-requests", "1000000000000000"), nil},
		{"leaves out a remainder that no integer holds", fields("x-ratelimit-remaining-requests", "99999999999999999999"), nil},
		{"leaves out a limit with an empty reset", resets(""), nil},
		{"leaves out a limit with a negative reset", resets("-5s"), nil},
		{"leaves out a limit with a reset in other words", resets("soon"), nil},
		{"leaves out a limit with a reset in an exponent", resets("1e3"), nil},
		{"leaves out a limit with a reset beyond a year", resets("9000h"), nil},
		{"leaves out a limit with a reset at the end of time", resets("9999-12-31T23:59:59Z"), nil},
		{"leaves out a limit with a reset of many digits", resets(strings.Repeat("9", 40)), nil},
		{"leaves out a limit with an endless reset", resets(strings.Repeat("0", 4096) + "1"), nil},
		{"reads the classic fields with seconds", fields("X-RateLimit-Limit", "100", "X-RateLimit-Remaining", "7", "X-RateLimit-Reset", "30"), requests(100, 7, 30*time.Second)},
		{"reads the classic fields with a unix time", fields("X-RateLimit-Limit", "100", "X-RateLimit-Remaining", "7", "X-RateLimit-Reset",
			strconv.FormatInt(noon().Unix()+30, 10)), requests(100, 7, 30*time.Second-500)},
		{"reads the classic fields with a unix time in milliseconds", fields("X-RateLimit-Limit", "100", "X-RateLimit-Remaining", "7", "X-RateLimit-Reset",
			strconv.FormatInt(noon().UnixMilli()+30, 10)), requests(100, 7, 30*time.Millisecond-500)},
		{"takes a unix time in the past for none used", fields("X-RateLimit-Limit", "100", "X-RateLimit-Remaining", "100", "X-RateLimit-Reset", "1500000000"), requests(100, 100, 0)},
		{"reads the fields of the draft", policy(`"burst";q=100;w=60, "daily";q=1000;w=86400`, `"burst";r=50;t=30, "daily";r=20;t=3600`), requests(1000, 20, time.Hour)},
		{"reads another weir's units", policy(`"a";q=5;w=60, "b";q=9000;w=60;weir-unit="tokens"`, `"b";r=0;t=12, "a";r=4`),
			[]dialect.Limit{{"requests", 5, 4, 0}, {"tokens", 9000, 0, 12 * time.Second}}},
		{"reads the draft's own name of requests", policy(`"a";q=5;qu="requests";pk=:c2VjcmV0:;x;y=?1;z=a/b;d=@-3`, `"a";r=4;t=1`), requests(5, 4, time.Second)},
		{"leaves out units of the draft that are not ours", policy(`"a";q=5;qu="content-bytes"`, `"a";r=4;t=1`), nil},
		{"leaves out a state without its policy", policy(`"a";q=5`, `"b";r=4;t=1`), nil},
		{"leaves out a state without a policy field", fields("RateLimit", `"b";r=4;t=1`), nil},
		{"leaves out the form of older drafts", policy("100;w=60", "limit=100, remaining=50, reset=5"), nil},
		{"leaves out a state that is malformed at its end", policy(`"a";q=5`, `"a";r=4;t=1,`), nil},
		{"leaves out a state with a negative remainder", policy(`"a";q=5`, `"a";r=-4`), nil},
		{"leaves out a state with a decimal remainder", policy(`"a";q=5`, `"a";r=4.5`), nil},
		{"leaves out a state with an absurd time", policy(`"a";q=5`, `"a";r=4;t=999999999999999`), nil},
		{"leaves out a state with bytes that are none", policy(`"a";q=5`, `"a";r=4;x=:=:`), nil},
		{"leaves out a list that is too long", policy(`"a";q=5`, strings.Repeat(`"b";r=1,`, 16)+`"a";r=4`), nil},
		{"takes the tightest of several forms", fields("x-ratelimit-limit-requests", "60", "x-ratelimit-remaining-requests", "59",
			"X-RateLimit-Limit", "100", "X-RateLimit-Remaining", "7", "RateLimit-Policy", `"a";q=5`, "RateLimit", `"a";r=7;t=1`), requests(5, 7, time.Second)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := dialect.Plain().Limits(c.h, noon()); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestSetLimits(t *testing.T) {
	all := []dialect.Limit{
		{"requests", 60, 59, time.Second}, {"tokens", 150000, 149984, 6 * time.Minute},
		{"input_tokens", 100, 50, 12*time.Millisecond + 1}, {"output_tokens", 10, 0, 0}, {"bytes", 1, 1, 0},
		{"requests", 1, 1, 0},
	}
	openAI, anthropic := speakers()[0], speakers()[1]
	for _, c := range []struct {
		name   string
		s      speaker
		limits []dialect.Limit
		want   http.Header
	}{
		{"sets requests and tokens for openai", openAI, all, fields(
			"X-Ratelimit-Limit-Requests", "60", "X-Ratelimit-Remaining-Requests", "59", "X-Ratelimit-Reset-Requests", "1s",
			"X-Ratelimit-Limit-Tokens", "150000", "X-Ratelimit-Remaining-Tokens", "149984", "X-Ratelimit-Reset-Tokens", "6m0s")},
		{"rounds openai's resets up to the millisecond", openAI, []dialect.Limit{{"requests", 1, 0, 11*time.Millisecond + 1}, {"tokens", 1, 1, 0}}, fields(
			"X-Ratelimit-Limit-Requests", "1", "X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "12ms",
			"X-Ratelimit-Limit-Tokens", "1", "X-Ratelimit-Remaining-Tokens", "1", "X-Ratelimit-Reset-Tokens", "0s")},
		{"leaves out a quota that is not known, and shows no debt", openAI, []dialect.Limit{{"requests", 0, -3, -5}}, fields(
			"X-Ratelimit-Remaining-Requests", "0")},
		{"leaves out when a used quota is full where that is not known", openAI, []dialect.Limit{{"requests", 5, 0, 0}}, fields(
			"X-Ratelimit-Limit-Requests", "5", "X-Ratelimit-Remaining-Requests", "0")},
		{"sets four units for anthropic, with dates in UTC rounded up", anthropic, all, fields(
			"Anthropic-Ratelimit-Requests-Limit", "60", "Anthropic-Ratelimit-Requests-Remaining", "59", "Anthropic-Ratelimit-Requests-Reset", "2026-03-01T11:00:02Z",
			"Anthropic-Ratelimit-Tokens-Limit", "150000", "Anthropic-Ratelimit-Tokens-Remaining", "149984", "Anthropic-Ratelimit-Tokens-Reset", "2026-03-01T11:06:01Z",
			"Anthropic-Ratelimit-Input-Tokens-Limit", "100", "Anthropic-Ratelimit-Input-Tokens-Remaining", "50", "Anthropic-Ratelimit-Input-Tokens-Reset", "2026-03-01T11:00:01Z",
			"Anthropic-Ratelimit-Output-Tokens-Limit", "10", "Anthropic-Ratelimit-Output-Tokens-Remaining", "0")},
		{"only removes without limits", openAI, nil, http.Header{}},
		{"only removes for ollama", speakers()[2], all, http.Header{}},
		{"only removes for kserve", speakers()[3], all, http.Header{}},
		{"only removes for tensorflow serving", speakers()[4], all, http.Header{}},
		{"only removes for plain", speakers()[5], all, http.Header{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := fields("RateLimit", `"a";r=1`, "RateLimit-Policy", `"a";q=1`, "RateLimit-Limit", "1", "X-RateLimit-Limit", "1",
				"X-RateLimit-Remaining-Project-Tokens", "1", "X-RateLimit-Reset-Tokens", "1s", "Anthropic-RateLimit-Unified-Status", "allowed",
				"Anthropic-Priority-Input-Tokens-Limit", "1", "X-Ms-RateLimit-Remaining", "1", "X-Request-Id", "1", "Retry-After", "1", "X-Rate", "1")
			h["x-ratelimit-limit-requests"] = []string{"not canonical"}
			c.s.SetLimits(h, c.s.path, c.limits, noon())
			want := c.want.Clone()
			maps.Copy(want, fields("X-Request-Id", "1", "Retry-After", "1", "X-Rate", "1"))
			if !reflect.DeepEqual(h, want) {
				t.Errorf("got  %v\nwant %v", h, want)
			}
		})
	}
	t.Run("sets what Limits reads again", func(t *testing.T) {
		for _, s := range []speaker{openAI, anthropic} {
			h := http.Header{}
			s.SetLimits(h, s.path, all, noon().Truncate(time.Second))
			got := s.Limits(h, noon().Truncate(time.Second))
			want := all[:2]
			if s.path == anthropic.path {
				want = slices.Clone(all[:4])
				want[2].Full = time.Second // rounded up
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %+v, want %+v", s.Name(), got, want)
			}
		}
	})
}

func TestTightest(t *testing.T) {
	type list = []dialect.Limit
	for _, c := range []struct {
		name              string
		own, theirs, want list
	}{
		{"gives nothing of nothing", nil, nil, nil},
		{"takes the one with less remaining", list{{"requests", 10, 5, 0}}, list{{"requests", 100, 4, 0}}, list{{"requests", 100, 4, 0}}},
		{"takes the later full of two with equally little", list{{"requests", 10, 0, time.Second}}, list{{"requests", 100, 0, time.Minute}}, list{{"requests", 100, 0, time.Minute}}},
		{"takes our own of two that are equal", list{{"requests", 10, 0, time.Second}}, list{{"requests", 100, 0, time.Second}}, list{{"requests", 10, 0, time.Second}}},
		{"takes one for each unit, in a fixed order", list{{"output_tokens", 1, 1, 0}, {"tokens", 9, 9, 0}, {"tokens", 8, 8, 0}},
			list{{"input_tokens", 2, 2, 0}, {"bytes", 1, 1, 0}, {"requests", 3, 3, 0}},
			list{{"requests", 3, 3, 0}, {"tokens", 8, 8, 0}, {"input_tokens", 2, 2, 0}, {"output_tokens", 1, 1, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := dialect.Tightest(c.own, c.theirs); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func FuzzLimits(f *testing.F) {
	for _, text := range []string{"", "1", "-1", "1s", "6m0s", "1e9", "1741305600000", "2026-03-01T11:00:00Z", "9223372036854775807ns",
		`"a";q=5;w=60`, `"a";r=4;t=1`, `"a\"";r=4;x=:YQ==:;y=?0;z=@5;v=*a`, `"a";r=4;t=1,`, "limit=1", "\xff", strings.Repeat(`"a";r=1,`, 20)} {
		f.Add(text, text, text)
	}
	d := dialect.OpenAI()
	f.Fuzz(func(t *testing.T, limit, remaining, reset string) {
		h := http.Header{
			"X-Ratelimit-Limit-Requests": {limit}, "X-Ratelimit-Remaining-Requests": {remaining}, "X-Ratelimit-Reset-Requests": {reset},
			"Anthropic-Ratelimit-Tokens-Limit": {limit}, "Anthropic-Ratelimit-Tokens-Remaining": {remaining}, "Anthropic-Ratelimit-Tokens-Reset": {reset},
			"X-Ratelimit-Limit": {limit}, "X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset},
			"Ratelimit-Policy": {limit, reset}, "Ratelimit": {remaining},
		}
		found := d.Limits(h, noon())
		if len(found) > 4 {
			t.Errorf("%d limits", len(found))
		}
		for _, l := range found {
			if l.Quota < 0 || l.Remaining < 0 || l.Full < 0 || l.Full > 367*24*time.Hour || l.Quota > math.MaxInt64/2 {
				t.Errorf("%+v", l)
			}
		}
		// The draft's fields alone: what is taken from them is a list to others, too.
		h = http.Header{"Ratelimit-Policy": {limit}, "Ratelimit": {remaining}}
		if found := d.Limits(h, noon()); len(found) > 0 {
			checkStrict(t, limit, remaining, found)
		}
	})
}

// checkStrict compares what was read with what a library for structured fields
// reads.
func checkStrict(t *testing.T, policies, states string, found []dialect.Limit) {
	t.Helper()
	described, err := httpsfv.UnmarshalList([]string{policies})
	if err != nil {
		t.Errorf("%q: %v", policies, err)
	}
	rest, err := httpsfv.UnmarshalList([]string{states})
	if err != nil {
		t.Errorf("%q: %v", states, err)
	}
	if len(described) == 0 || len(rest) == 0 {
		t.Errorf("read %+v in %q and %q", found, policies, states)
	}
	for _, l := range found {
		if !slices.ContainsFunc(rest, func(m httpsfv.Member) bool {
			r, ok := m.(httpsfv.Item).Params.Get("r")
			return ok && r == l.Remaining
		}) {
			t.Errorf("%+v: no item of %q has that r", l, states)
		}
	}
}
