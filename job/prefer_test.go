package job_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/job"
)

func TestParsePrefer(t *testing.T) {
	type p = job.Preferences
	const day = 24 * time.Hour
	f := func(name string, want p, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if got := job.ParsePrefer(http.Header{"Prefer": fields}); got != want {
				t.Errorf("ParsePrefer(%q) = %+v, want %+v", fields, got, want)
			}
		})
	}
	f("without a field there is no preference", p{})
	f("respond-async alone", p{Async: true}, "respond-async")
	f("names in any case", p{Async: true, Wait: 5 * time.Second}, "Respond-Async, WAIT=5")
	f("several fields count as one", p{Async: true, Wait: 10 * time.Second}, "wait=10", "respond-async")
	f("parameters are of no matter", p{Async: true, Wait: 3 * time.Second}, `respond-async; x="a,wait=9;b"; y, wait=3;z=1`)
	f("spaces around everything", p{Async: true, Wait: 7 * time.Second}, " respond-async ,\t wait = 7 ")
	f("a quoted number", p{Wait: 5 * time.Second}, `wait="5"`)
	f("preferences that we do not know", p{Async: true}, `return=minimal, handling=lenient, foo="bar, wait=5", respond-async`)
	f("a quoted comma and an escaped quote do not end a value", p{Async: true}, `foo="a\", wait=5", respond-async`)
	f("an empty value is none", p{Async: true}, `respond-async=""`)
	f("respond-async with a value is another preference", p{}, "respond-async=no")
	f("the first of two counts", p{Wait: 1 * time.Second}, "wait=1, wait=2")
	f("wait=0", p{Async: true}, "respond-async, wait=0")
	f("a negative wait", p{}, "wait=-1")
	f("a fraction", p{}, "wait=1.5")
	f("a wait of no number leaves the next", p{Wait: 4 * time.Second}, "wait=soon, wait=4")
	f("a wait that is too large is a day", p{Wait: day}, "wait="+strings.Repeat("9", 400))
	f("a day and a second", p{Wait: day}, "wait=86401")
	f("a quote that never ends takes the rest of its field", p{Wait: 2 * time.Second}, `foo="bar, respond-async`, "wait=2")
	f("commas alone", p{Async: true}, ",,,respond-async,,")
	f("what is too long is not read", p{}, strings.Repeat(",", 4096), "respond-async")
}

func FuzzParsePrefer(f *testing.F) {
	for _, s := range []string{"respond-async, wait=5", `foo="a\", b"; x=1, wait="10"`, `wait="`, "wait=99999999999999999999", `"\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, field string) {
		got := job.ParsePrefer(http.Header{"Prefer": {field}})
		if got.Wait < 0 || got.Wait > 24*time.Hour || got.Wait%time.Second != 0 {
			t.Errorf("ParsePrefer(%q).Wait = %v", field, got.Wait)
		}
		if got.Async && !strings.Contains(strings.ToLower(field), "respond-async") {
			t.Errorf("ParsePrefer(%q).Async", field)
		}
		if again := job.ParsePrefer(http.Header{"Prefer": {field, field}}); again != got && !strings.Contains(field, `"`) && len(field) < 2048 {
			t.Errorf("ParsePrefer(%q) twice = %+v, once %+v", field, again, got)
		}
	})
}
