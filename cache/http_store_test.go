package cache

import (
	"net/http"
	"reflect"
	"testing"
	"time"
)

// noon is a time with a fraction of a second, as real ones are.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 300_000_000, time.UTC)

// at is an HTTP-date so long after noon.
func at(d time.Duration) string { return noon.Add(d).UTC().Format(http.TimeFormat) }

func TestHTTPMayStore(t *testing.T) {
	f := func(t *testing.T, name string, want bool, method string, status int, request, response []string) {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{Method: method, Header: fields(request...)}
			if got := httpMayStore(r, status, fields(response...)); got != want {
				t.Errorf("%s %q -> %d %q: got %v, want %v", method, request, status, response, got, want)
			}
		})
	}
	fresh := []string{"Cache-Control: max-age=60"}
	f(t, "stores what is fresh", true, "GET", 200, nil, fresh)
	f(t, "stores the answer to a QUERY", true, "QUERY", 200, nil, fresh)
	for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "BREW"} {
		f(t, "does not store the answer to "+method, false, method, 200, nil, fresh)
	}
	for _, status := range []int{200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501} {
		f(t, "stores what is heuristically cacheable", true, "GET", status, nil, nil)
	}
	for _, status := range []int{302, 303, 307} {
		f(t, "does not store a redirect that does not say so", false, "GET", status, nil, nil)
		f(t, "stores a redirect that says so", true, "GET", status, nil, fresh)
		f(t, "stores a redirect with Expires", true, "GET", status, nil, []string{"Expires: 0"})
		f(t, "stores a redirect that is public", true, "GET", status, nil, []string{"Cache-Control: public"})
		f(t, "does not look at Expires beside a targeted field", false, "GET", status, nil, []string{"Expires: " + at(time.Hour), "CDN-Cache-Control: foo"})
	}
	for _, status := range []int{100, 101, 103, 199, 201, 202, 205, 206, 299, 304, 400, 401, 403, 407, 412, 416, 418, 429, 500, 502, 503, 504, 599} {
		f(t, "does not store what it does not understand", false, "GET", status, nil, []string{"Cache-Control: public, max-age=60"})
	}
	f(t, "does not store no-store", false, "GET", 200, nil, []string{"Cache-Control: max-age=60, no-store"})
	f(t, "does not look at no-store beside must-understand", true, "GET", 200, nil, []string{"Cache-Control: max-age=60, no-store, must-understand"})
	f(t, "does not store must-understand with a status that it does not", false, "GET", 299, nil, []string{"Cache-Control: max-age=60, must-understand"})
	f(t, "does not store private", false, "GET", 200, nil, []string{"Cache-Control: private, max-age=60"})
	f(t, "does not store private in quotes that hold no field", false, "GET", 200, nil, []string{`Cache-Control: private="", max-age=60`})
	f(t, "stores private fields' rest", true, "GET", 200, nil, []string{`Cache-Control: private="x-a", max-age=60`})
	f(t, "stores no-cache, to be validated", true, "GET", 200, nil, []string{"Cache-Control: no-cache"})
	f(t, "does not store for a request with no-store", false, "GET", 200, []string{"Cache-Control: no-store"}, fresh)
	f(t, "does not store cookies", false, "GET", 200, nil, append(fresh, "Set-Cookie: a=b"))
	f(t, "does not store public cookies", false, "GET", 200, nil, []string{"Cache-Control: public, max-age=60", "Set-Cookie: a=b"})
	f(t, "does not store a part that is called whole", false, "GET", 200, nil, append(fresh, "Content-Range: bytes 0-1/2"))
	f(t, "does not store what varies by anything", false, "GET", 200, nil, append(fresh, "Vary: Accept, *"))
	for _, credential := range []string{"Authorization: Bearer x", "X-Api-Key: x", "Api-Key: x", "Cookie: a=b"} {
		with := []string{credential}
		f(t, "does not store for somebody", false, "GET", 200, with, fresh)
		f(t, "does not store for somebody by Expires", false, "GET", 200, with, []string{"Expires: " + at(time.Hour)})
		f(t, "does not take proxy-revalidate for a permission", false, "GET", 200, with, []string{"Cache-Control: max-age=60, proxy-revalidate"})
		f(t, "stores public for somebody", true, "GET", 200, with, []string{"Cache-Control: public"})
		f(t, "stores must-revalidate for somebody", true, "GET", 200, with, []string{"Cache-Control: max-age=60, must-revalidate"})
		f(t, "stores s-maxage for somebody", true, "GET", 200, with, []string{"Cache-Control: s-maxage=60"})
		f(t, "lets no field that it does not read permit", false, "GET", 200, with, []string{"Cache-Control: public", "CDN-Cache-Control: max-age=60"})
		f(t, "lets a targeted field permit", true, "GET", 200, with, []string{"Cache-Control: private", "CDN-Cache-Control: public, max-age=60"})
	}
}

func TestHTTPMayFreshen(t *testing.T) {
	f := func(t *testing.T, want bool, request, stored []string) {
		t.Helper()
		if got := httpMayFreshen(fields(request...), &Entry{Status: 200, Header: fields(stored...)}); got != want {
			t.Errorf("%q for %q: got %v, want %v", stored, request, got, want)
		}
	}
	somebody := []string{"Authorization: Bearer x"}
	f(t, true, nil, []string{"Cache-Control: max-age=60"})
	f(t, false, nil, []string{"Cache-Control: max-age=60, no-store"})
	f(t, false, nil, []string{"Cache-Control: max-age=60, private"})
	f(t, false, nil, []string{"Cache-Control: max-age=60", "Vary: *"})
	f(t, false, somebody, []string{"Cache-Control: max-age=60"})
	f(t, true, somebody, []string{"Cache-Control: max-age=60, public"})
	f(t, false, []string{"Cache-Control: no-store"}, []string{"Cache-Control: max-age=60"})
}

func TestHTTPKeep(t *testing.T) {
	got := httpKeep(fields(
		"Connection: close, x-hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Connection: x", "Te: x", "Trailer: x", "Transfer-Encoding: chunked", "Upgrade: h2c",
		"Proxy-Authenticate: Basic", "Proxy-Authentication-Info: x", "Proxy-Authorization: x", "Set-Cookie: a=b", "Age: 5", "Content-Length: 3",
		`Cache-Control: private="X-Private", no-cache="x-checked", max-age=60`, "X-Private: 1", "X-Checked: 1",
		`ETag: W/"a"`, "Last-Modified: "+at(-time.Hour), "Content-Type: text/plain", "Vary: Accept", "Retry-After: 5", "X-Unknown: 1", "X-Unknown: 2",
	), noon)
	want := fields(
		`Cache-Control: private="X-Private", no-cache="x-checked", max-age=60`, "X-Checked: 1", "Date: "+at(0),
		`ETag: W/"a"`, "Last-Modified: "+at(-time.Hour), "Content-Type: text/plain", "Vary: Accept", "Retry-After: 5", "X-Unknown: 1", "X-Unknown: 2",
	)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := httpKeep(fields("Date: "+at(-time.Minute)), noon)["Date"]; got[0] != at(-time.Minute) {
		t.Errorf("the origin's date became %v", got)
	}
}

func TestHTTPTimes(t *testing.T) {
	f := func(t *testing.T, name string, status int, age, life time.Duration, lines ...string) {
		t.Run(name, func(t *testing.T) {
			made, expires := httpTimes(status, fields(lines...), noon.Add(-2*time.Second), noon)
			if got := noon.Sub(made); got != age {
				t.Errorf("age: got %v, want %v", got, age)
			}
			if got := expires.Sub(made); got != life {
				t.Errorf("lifetime: got %v, want %v", got, life)
			}
		})
	}
	const s, m, h = time.Second, time.Minute, time.Hour
	f(t, "takes as long as the answer took for its age", 200, 2*s, m, "Cache-Control: max-age=60")
	f(t, "does not take the fraction of a second for an age", 200, 2*s, m, "Cache-Control: max-age=60", "Date: "+at(0))
	f(t, "adds the age that it came with", 200, 12*s, m, "Cache-Control: max-age=60", "Age: 10")
	f(t, "takes the older of Age and Date", 200, 30*s, m, "Cache-Control: max-age=60", "Age: 10", "Date: "+at(-30*s))
	f(t, "leaves a date in the future", 200, 2*s, m, "Cache-Control: max-age=60", "Date: "+at(h))
	f(t, "leaves a date that is none", 200, 2*s, m, "Cache-Control: max-age=60", "Date: yesterday")
	f(t, "takes the first of several ages", 200, 12*s, m, "Cache-Control: max-age=60", "Age: 10, 20")
	f(t, "takes the first of several lines of ages", 200, 12*s, m, "Cache-Control: max-age=60", "Age: 10", "Age: 20")
	f(t, "ignores an age that is negative", 200, 2*s, m, "Cache-Control: max-age=60", "Age: -10")
	f(t, "ignores an age that is no number", 200, 2*s, m, "Cache-Control: max-age=60", "Age: 10.5")
	f(t, "takes an age that is too large for the longest", 200, longest, m, "Cache-Control: max-age=60", "Age: 99999999999999999999")
	f(t, "prefers s-maxage", 200, 2*s, 10*s, "Cache-Control: max-age=60, s-maxage=10", "Expires: "+at(h))
	f(t, "prefers max-age to Expires", 200, 2*s, m, "Cache-Control: max-age=60", "Expires: "+at(h))
	f(t, "counts Expires from Date", 200, 10*s, 70*s, "Expires: "+at(m), "Date: "+at(-10*s))
	f(t, "counts Expires from when it came", 200, 2*s, m-300*time.Millisecond, "Expires: "+at(m))
	f(t, "takes Expires: 0 for the past", 200, 2*s, 0, "Expires: 0", "Last-Modified: "+at(-24*h))
	f(t, "takes Expires in another zone for the past", 200, 2*s, 0, "Expires: Sun, 22 Nov 2099 12:00:00 CET")
	f(t, "takes two Expires that differ for the past", 200, 2*s, 0, "Expires: "+at(h), "Expires: "+at(2*h))
	f(t, "takes two Expires that are the same", 200, 2*s, h, "Expires: "+at(h), "Expires: "+at(h), "Date: "+at(0))
	f(t, "does not overflow", 200, 2*s, longest, "Expires: Fri, 31 Dec 9999 23:59:59 GMT")
	f(t, "does not look at Expires beside a targeted field", 200, 2*s, 0, "Expires: "+at(h), "Weir-Cache-Control: public")
	f(t, "guesses a tenth of the time since the last change", 200, 2*s, h, "Last-Modified: "+at(-10*h), "Date: "+at(0))
	f(t, "guesses from when it came without a date", 200, 2*s, h+30*time.Millisecond, "Last-Modified: "+at(-10*h))
	f(t, "guesses no more than a day", 200, 2*s, 24*h, "Last-Modified: "+at(-10000*h))
	f(t, "guesses nothing of a change in the future", 200, 2*s, 0, "Last-Modified: "+at(h))
	f(t, "guesses nothing where max-age is given", 200, 2*s, 0, "Cache-Control: max-age=0", "Last-Modified: "+at(-10*h))
	f(t, "guesses nothing where max-age is wrong", 200, 2*s, 0, "Cache-Control: max-age=x", "Last-Modified: "+at(-10*h))
	f(t, "guesses nothing of an error", 404, 2*s, 0, "Last-Modified: "+at(-10*h))
	f(t, "guesses nothing of a public error", 410, 2*s, 0, "Last-Modified: "+at(-10*h), "Cache-Control: public")
	f(t, "takes an error's word", 404, 2*s, m, "Cache-Control: max-age=60")
	f(t, "guesses nothing of a redirect", 302, 2*s, 0, "Last-Modified: "+at(-10*h))
	f(t, "guesses of a public redirect", 302, 2*s, h, "Last-Modified: "+at(-10*h), "Cache-Control: public", "Date: "+at(0))
	f(t, "says nothing of what says nothing", 200, 2*s, 0)
}

func TestHTTPStaleWindows(t *testing.T) {
	f := func(t *testing.T, whileRevalidate, ifError time.Duration, value string) {
		t.Helper()
		gotW, gotE := httpStaleWindows(http.Header{"Cache-Control": {value}})
		if gotW != whileRevalidate || gotE != ifError {
			t.Errorf("%q: got %v and %v, want %v and %v", value, gotW, gotE, whileRevalidate, ifError)
		}
	}
	f(t, -1, -1, "max-age=60")
	f(t, 30*time.Second, -1, "max-age=60, stale-while-revalidate=30")
	f(t, -1, time.Minute, "max-age=60, stale-if-error=60")
	f(t, 0, time.Minute, "max-age=60, stale-while-revalidate=x, stale-if-error=60")
	f(t, 30*time.Second, 0, `no-cache="x-a", stale-while-revalidate=30, stale-if-error=0`)
	for _, forbids := range []string{"must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"} {
		f(t, 0, 0, "max-age=60, stale-while-revalidate=30, stale-if-error=60, "+forbids)
		f(t, 0, 0, forbids)
	}
}
