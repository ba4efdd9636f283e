package cache

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestSetValidators(t *testing.T) {
	f := func(t *testing.T, name string, stored, want []string, wantOK bool) {
		t.Run(name, func(t *testing.T) {
			out := fields(`If-None-Match: "client"`, "If-Modified-Since: "+at(0), "Accept: x")
			ok := setValidators(out, &Entry{Header: fields(stored...)})
			if wanted := fields(append(want, "Accept: x")...); ok != wantOK || !reflect.DeepEqual(out, wanted) {
				t.Errorf("got %v, %v; want %v, %v", out, ok, wanted, wantOK)
			}
		})
	}
	changed := at(-time.Hour)
	f(t, "sends a tag", []string{`ETag: "a"`}, []string{`If-None-Match: "a"`}, true)
	f(t, "sends a weak tag as it came", []string{`ETag: W/"a"`}, []string{`If-None-Match: W/"a"`}, true)
	f(t, "sends the time of the last change", []string{"Last-Modified: " + changed}, []string{"If-Modified-Since: " + changed}, true)
	f(t, "sends both", []string{`ETag: "a"`, "Last-Modified: " + changed}, []string{`If-None-Match: "a"`, "If-Modified-Since: " + changed}, true)
	f(t, "leaves no condition without a validator", nil, nil, false)
}

func TestFreshensWith(t *testing.T) {
	f := func(t *testing.T, name string, want bool, stored, received []string) {
		t.Run(name, func(t *testing.T) {
			e := &Entry{Header: fields(append(stored, "Date: "+at(0))...), Made: noon}
			if got := freshensWith(e, fields(received...)); got != want {
				t.Errorf("%q with %q: got %v, want %v", stored, received, got, want)
			}
		})
	}
	strong, weak, other := `ETag: "a"`, `ETag: W/"a"`, `ETag: "b"`
	hour, now := "Last-Modified: "+at(-time.Hour), "Last-Modified: "+at(0)
	list := func(lines ...string) []string { return lines }
	f(t, "takes the same strong tag", true, list(strong), list(strong))
	f(t, "refuses another strong tag", false, list(strong), list(other))
	f(t, "refuses another strong tag with the same date", false, list(strong, hour), list(other, hour))
	f(t, "refuses a strong tag for a weak one", false, list(weak), list(strong))
	f(t, "takes a weak tag for the same strong one", true, list(strong), list(weak))
	f(t, "takes the same weak tag", true, list(weak), list(weak))
	f(t, "refuses another weak tag", false, list(weak), list(`ETag: W/"b"`))
	f(t, "takes the same date", true, list(strong, hour), list(hour))
	f(t, "takes the same date in another form", true, list(hour), list("Last-Modified: "+noon.Add(-time.Hour).Format(time.ANSIC)))
	f(t, "refuses another date", false, list(hour), list(now))
	f(t, "refuses a date where none is stored", false, list(strong), list(hour))
	f(t, "takes a strong tag that is new where the date is the same and sure", true, list(hour), list(strong, hour))
	f(t, "refuses a strong tag that is new where the date is not sure", false, list(now), list(strong, now))
	f(t, "takes a weak tag that is new where the date is the same", true, list(hour), list(weak, hour))
	f(t, "takes one that says nothing", true, list(strong, hour), nil)
	f(t, "takes one that says nothing for one that has nothing", true, nil, nil)
	f(t, "refuses a tag for one that has nothing", false, nil, list(strong))
}

func TestFreshen(t *testing.T) {
	stored := fields("Cache-Control: max-age=10", "Date: "+at(-time.Hour), `ETag: "a"`, "Content-Type: text/plain", "Content-Encoding: gzip", "X-Old: 1", "X-Both: 1")
	e := &Entry{
		Meta: Meta{Owner: "alice", Epoch: 7}, Status: 200, Header: stored.Clone(), Body: []byte("body"), ETag: `"a"`,
		Made: noon.Add(-time.Hour), Expires: noon.Add(-50 * time.Minute), Until: noon.Add(10 * time.Minute), Took: time.Second,
	}
	got := freshen(e, fields(
		"Cache-Control: max-age=60", "Age: 5", `ETag: W/"a"`, "X-Both: 2", "X-New: 3", "Content-Type: text/html", "Content-Encoding: br", "Content-Length: 0",
		"Content-Range: bytes 0-1/2", "Connection: x-hop", "X-Hop: 1", "Set-Cookie: a=b", "Content-Language: de",
	), noon.Add(-time.Second), noon)
	want := *e
	want.Header = fields("Cache-Control: max-age=60", "Date: "+at(0), `ETag: W/"a"`, "Content-Type: text/plain", "Content-Encoding: gzip",
		"X-Old: 1", "X-Both: 2", "X-New: 3", "Content-Language: de")
	want.ETag = `W/"a"`
	want.Made = noon.Add(-6 * time.Second)
	want.Expires = want.Made.Add(time.Minute)
	want.Until = want.Expires.Add(time.Hour)
	if !reflect.DeepEqual(got, &want) {
		t.Errorf("got  %+v\nwant %+v", got, &want)
	}
	if !reflect.DeepEqual(e.Header, stored) {
		t.Errorf("the stored entry became %v", e.Header)
	}
	t.Run("drops what has become private", func(t *testing.T) {
		got := freshen(e, fields(`Cache-Control: private="x-old"`), noon, noon).Header
		if _, ok := got["X-Old"]; ok {
			t.Errorf("got %v", got)
		}
	})
	t.Run("keeps the lifetime that was given", func(t *testing.T) {
		got := freshen(e, fields(`ETag: "a"`), noon, noon)
		if !got.Made.Equal(noon) || !got.Expires.Equal(noon.Add(10*time.Second)) {
			t.Errorf("made %v, expires %v", got.Made, got.Expires)
		}
	})
}

func TestInvalidated(t *testing.T) {
	f := func(t *testing.T, name, method, target string, status int, want []string, lines ...string) {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, u := range invalidated(httptest.NewRequest(method, target, nil), status, fields(lines...)) {
				got = append(got, u.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	const here = "http://h/a/b?c=d"
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "BREW"} {
		f(t, method+" invalidates its target", method, here, 200, []string{here})
	}
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"} {
		f(t, method+" invalidates nothing", method, here, 200, nil, "Location: /x")
	}
	for _, status := range []int{200, 201, 204, 301, 303, 399} {
		f(t, "an answer that is no error invalidates", "POST", here, status, []string{here})
	}
	for _, status := range []int{400, 404, 500, 503, 101} {
		f(t, "an error invalidates nothing", "POST", here, status, nil, "Location: /x")
	}
	f(t, "Location and Content-Location are resolved", "POST", here, 201, []string{here, "http://h/a/x", "http://h/y?z"}, "Location: x#fragment", "Content-Location: /y?z")
	f(t, "each URL comes once", "POST", here, 201, []string{here, "http://h/x"}, "Location: /x", "Content-Location: http://H:80/x")
	f(t, "a URL with an escaped path stays as it is", "POST", "http://h/a%2Fb", 200, []string{"http://h/a%2Fb"})
	f(t, "another host is left alone", "POST", here, 201, []string{here}, "Location: http://other/x", "Content-Location: //other/x")
	f(t, "another port is left alone", "POST", here, 201, []string{here}, "Location: http://h:8080/x")
	f(t, "another scheme is left alone", "POST", here, 201, []string{here}, "Location: ftp://h/x", "Content-Location: mailto:h")
	f(t, "what is no URL is left alone", "POST", here, 201, []string{here}, "Location: ://", "Content-Location: http://h:x/")
	t.Run("a request as a server has it has a host", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodPost, "/a?b", nil)
		r.Host, r.URL.Host, r.URL.Scheme = "h:8080", "", ""
		got := invalidated(r, 200, fields("Location: http://h:8080/x"))
		if len(got) != 2 || got[0].String() != "http://h:8080/a?b" || got[1].String() != "http://h:8080/x" {
			t.Errorf("got %v", got)
		}
	})
}
