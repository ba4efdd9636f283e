package cache

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fields makes a header of "Name: value" lines.
func fields(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		h.Add(name, strings.TrimSpace(value))
	}
	return h
}

// said is a control that says nothing but what set adds.
func said(set func(*control)) control {
	c := control{maxAge: -1, sharedMaxAge: -1, staleWhileRevalidate: -1, staleIfError: -1}
	if set != nil {
		set(&c)
	}
	return c
}

func TestResponseControl(t *testing.T) {
	maxAge := func(d time.Duration) control { return said(func(c *control) { c.maxAge = d }) }
	targeted := func(set func(*control)) control {
		return said(func(c *control) {
			c.targeted = true
			if set != nil {
				set(c)
			}
		})
	}
	for _, test := range []struct {
		name  string
		lines []string
		want  control
	}{
		{"says nothing without the field", nil, said(nil)},
		{"reads a number", []string{"Cache-Control: max-age=60"}, maxAge(time.Minute)},
		{"reads a number in quotes", []string{`Cache-Control: max-age="60"`}, maxAge(time.Minute)},
		{"reads leading zeros", []string{"Cache-Control: max-age=0060"}, maxAge(time.Minute)},
		{"takes names in any case", []string{"Cache-Control: MAX-AGE=60"}, maxAge(time.Minute)},
		{"takes a number that is too large as the longest", []string{"Cache-Control: max-age=99999999999999999999999"}, maxAge(longest)},
		{"takes no number as stale", []string{"Cache-Control: max-age"}, maxAge(0)},
		{"takes an empty number as stale", []string{"Cache-Control: max-age="}, maxAge(0)},
		{"takes a negative number as stale", []string{"Cache-Control: max-age=-1"}, maxAge(0)},
		{"takes a fraction as stale", []string{"Cache-Control: max-age=60.5"}, maxAge(0)},
		{"takes letters behind a number as stale", []string{"Cache-Control: max-age=60a"}, maxAge(0)},
		{"takes single quotes as stale", []string{"Cache-Control: max-age='60'"}, maxAge(0)},
		{"takes a blank before the sign as stale", []string{"Cache-Control: max-age =60"}, maxAge(0)},
		{"takes a blank behind the sign as stale", []string{"Cache-Control: max-age= 60"}, maxAge(0)},
		{"takes two numbers as stale", []string{"Cache-Control: max-age=60, max-age=1"}, maxAge(0)},
		{"takes two numbers on two lines as stale", []string{"Cache-Control: max-age=1", "Cache-Control: max-age=60"}, maxAge(0)},
		{"takes the same number twice", []string{"Cache-Control: max-age=60, max-age=60"}, maxAge(time.Minute)},
		{"does not read within quotes", []string{`Cache-Control: ext="max-age=1, no-store", max-age=60`}, maxAge(time.Minute)},
		{"does not read behind an escaped quote", []string{`Cache-Control: ext="\", no-store", max-age=60`}, maxAge(time.Minute)},
		{"leaves what it does not know alone", []string{"Cache-Control: immutable, foo=bar, max-age=60"}, maxAge(time.Minute)},
		{"reads empty members", []string{"Cache-Control: , ,max-age=60,,"}, maxAge(time.Minute)},
		{
			"reads all directives, on all lines",
			[]string{"Cache-Control: public,must-revalidate,proxy-revalidate", "Cache-Control: no-store, must-understand, s-maxage=1, stale-while-revalidate=2, stale-if-error=3"},
			said(func(c *control) {
				c.public, c.mustRevalidate, c.proxyRevalidate, c.noStore, c.mustUnderstand = true, true, true, true, true
				c.sharedMaxAge, c.staleWhileRevalidate, c.staleIfError = time.Second, 2*time.Second, 3*time.Second
			}),
		},
		{"reads no-cache", []string{"Cache-Control: no-cache"}, said(func(c *control) { c.noCache = true })},
		{"reads no-cache of fields", []string{`Cache-Control: no-cache="set-cookie, x-a"`}, said(func(c *control) { c.noCacheFields = []string{"Set-Cookie", "X-A"} })},
		{"reads no-cache of a field without quotes", []string{`Cache-Control: no-cache=x-a`}, said(func(c *control) { c.noCacheFields = []string{"X-A"} })},
		{"takes no-cache of no field as of all", []string{`Cache-Control: no-cache=""`}, said(func(c *control) { c.noCache = true })},
		{"takes no-cache of commas as of all", []string{`Cache-Control: no-cache=" , "`}, said(func(c *control) { c.noCache = true })},
		{"takes private of what is no field as of all", []string{`Cache-Control: private="a b"`}, said(func(c *control) { c.private = true })},
		{"takes private with an open quote as of all", []string{`Cache-Control: private="x-a`}, said(func(c *control) { c.private = true })},
		{"reads private of a field", []string{`Cache-Control: private="X-A"`}, said(func(c *control) { c.privateFields = []string{"X-A"} })},
		{"reads a targeted field alone", []string{"Cache-Control: no-store", "CDN-Cache-Control: max-age=60"}, targeted(func(c *control) { c.maxAge = time.Minute })},
		{"reads its own targeted field first", []string{"CDN-Cache-Control: no-store", "Weir-Cache-Control: max-age=60"}, targeted(func(c *control) { c.maxAge = time.Minute })},
		{"leaves an empty targeted field", []string{"Cache-Control: max-age=60", "CDN-Cache-Control:"}, maxAge(time.Minute)},
		{"leaves a targeted field that is no dictionary", []string{"Cache-Control: max-age=60", "CDN-Cache-Control: max-age=1, &"}, maxAge(time.Minute)},
		{"leaves a targeted field with a name in capitals", []string{"Cache-Control: max-age=60", "CDN-Cache-Control: Max-Age=1"}, maxAge(time.Minute)},
		{"reads the next targeted field behind one that is none", []string{"Weir-Cache-Control: ?", "CDN-Cache-Control: max-age=60"}, targeted(func(c *control) { c.maxAge = time.Minute })},
		{"ignores parameters in a targeted field", []string{"CDN-Cache-Control: max-age=60;x=1"}, targeted(func(c *control) { c.maxAge = time.Minute })},
		{"takes the last of two in a targeted field", []string{"CDN-Cache-Control: max-age=1, max-age=60"}, targeted(func(c *control) { c.maxAge = time.Minute })},
		{"takes a decimal in a targeted field as stale", []string{"CDN-Cache-Control: max-age=60.5"}, targeted(func(c *control) { c.maxAge = 0 })},
		{"takes a negative number in a targeted field as stale", []string{"CDN-Cache-Control: max-age=-60"}, targeted(func(c *control) { c.maxAge = 0 })},
		{"takes a large number in a targeted field as the longest", []string{"CDN-Cache-Control: max-age=999999999999999"}, targeted(func(c *control) { c.maxAge = longest })},
		{"takes a list in a targeted field as stale", []string{"CDN-Cache-Control: max-age=(1 2)"}, targeted(func(c *control) { c.maxAge = 0 })},
		{"takes a false directive in a targeted field as absent", []string{"CDN-Cache-Control: no-store=?0, max-age=60"}, targeted(func(c *control) { c.maxAge = time.Minute })},
		{
			"reads fields and flags in a targeted field",
			[]string{`CDN-Cache-Control: no-cache="x-a", private, no-store=?1`},
			targeted(func(c *control) { c.noCacheFields, c.private, c.noStore = []string{"X-A"}, true, true }),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := responseControl(fields(test.lines...)); !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestHTTPDate(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	f := func(t *testing.T, in string, want time.Time, wantOK bool) {
		t.Helper()
		if got, ok := httpDate(in, now); ok != wantOK || !got.Equal(want) {
			t.Errorf("%q: got %v, %v; want %v, %v", in, got, ok, want, wantOK)
		}
	}
	sunday := time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC)
	f(t, "Sun, 06 Nov 1994 08:49:37 GMT", sunday, true)
	f(t, "sun, 06 nov 1994 08:49:37 gmt", sunday, true)
	f(t, "Sunday, 06-Nov-94 08:49:37 GMT", sunday, true)
	f(t, "Sun Nov  6 08:49:37 1994", sunday, true)
	f(t, "Monday, 06-Nov-76 08:49:37 GMT", time.Date(2076, 11, 6, 8, 49, 37, 0, time.UTC), true)
	f(t, "Monday, 06-Nov-77 08:49:37 GMT", time.Date(1977, 11, 6, 8, 49, 37, 0, time.UTC), true)
	f(t, "Sun, 06 Nov 1994 08:49:37 CET", time.Time{}, false)
	f(t, "Sunday, 06-Nov-94 08:49:37 EST", time.Time{}, false)
	f(t, "Sun, 06 Nov 1994 08:49:37 UTC", time.Time{}, false)
	f(t, "0", time.Time{}, false)
	f(t, "", time.Time{}, false)
	f(t, "Sun, 31 Feb 1994 08:49:37 GMT", time.Time{}, false)
	f(t, "Sun, 06 Nov 1994 08:49:37.9 GMT", sunday, true)
}

func TestRequestControl(t *testing.T) {
	silent := wants{maxAge: -1, minFresh: -1, maxStale: -1}
	f := func(t *testing.T, want wants, lines ...string) {
		t.Helper()
		if got := requestControl(fields(lines...)); got != want {
			t.Errorf("%q: got %+v, want %+v", lines, got, want)
		}
	}
	f(t, silent)
	f(t, silent, "Cache-Control: max-age=x, min-fresh, max-stale=-1, foo")
	f(t, wants{noCache: true, noStore: true, maxAge: 0, minFresh: time.Second, maxStale: time.Minute},
		"Cache-Control: no-cache, no-store, max-age=0", `Cache-Control: No-Transform, min-fresh="1", max-stale=60`)
	f(t, wants{maxAge: -1, minFresh: -1, maxStale: longest}, "Cache-Control: max-stale")
	f(t, wants{noCache: true, maxAge: -1, minFresh: -1, maxStale: -1}, "Pragma: foo, No-Cache")
	f(t, silent, "Pragma: no-cache", "Cache-Control: foo")
}

// FuzzResponseControl looks for answers that a field makes reusable although it
// does not say so in so many words, and for panics.
func FuzzResponseControl(f *testing.F) {
	for _, s := range []string{"max-age=60", `no-cache="a,b", private=x`, `a="\", no-store`, "max-age=1,max-age=2", "s-maxage=(1 2);q", `"`, "=", ",;"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, line string, targeted bool) {
		name := "Cache-Control"
		if targeted {
			name = "Cdn-Cache-Control"
		}
		c := responseControl(http.Header{name: {line}})
		for _, d := range []time.Duration{c.maxAge, c.sharedMaxAge, c.staleWhileRevalidate, c.staleIfError} {
			if d < -1 || d > longest {
				t.Fatalf("%q: %v is no time", line, d)
			}
			if d > 0 && !strings.ContainsAny(line, "123456789") {
				t.Fatalf("%q: %v from nowhere", line, d)
			}
		}
		for _, field := range append(c.noCacheFields, c.privateFields...) {
			if !isToken(field) {
				t.Fatalf("%q: field %q", line, field)
			}
		}
		if c.targeted != (targeted && c.targeted) {
			t.Fatalf("%q: targeted without a targeted field", line)
		}
	})
}
