package blob_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
)

// served is a store with one blob of alice's, and a link to it.
type served struct {
	clock *clock
	store *blob.Store
	dir   string
	base  string
	info  blob.Info
	link  string // a path
}

func newServed(t testing.TB) *served {
	t.Helper()
	v := &served{clock: newClock()}
	v.store, v.dir = openDir(t, v.clock, nil)
	v.base = serve(t, v.store).URL
	var err error
	v.info, err = v.store.Save(context.Background(), blob.Meta{Caller: alice.ID, Type: "text/html", Name: "Ergebnis für \"a\".html", Until: v.clock.at.Add(24 * time.Hour)},
		strings.NewReader("<script>0123456789</script>"))
	if err != nil {
		t.Fatal(err)
	}
	v.link = v.sign(t, blob.Grant{Method: http.MethodGet, Key: v.info.Key})
	return v
}

func (v *served) sign(t testing.TB, g blob.Grant) string {
	t.Helper()
	l, err := v.store.Link(context.Background(), g)
	if err != nil {
		t.Fatal(err)
	}
	return l.URL
}

func TestServe(t *testing.T) {
	v := newServed(t)
	etag := `"` + v.info.Key[len(v.info.Key)-26:] + `"`
	t.Run("gives a file out that no browser shows", func(t *testing.T) {
		got := ask(t, http.MethodGet, v.base+v.link, nil)
		got.header.Del("Date")
		is, err := os.Stat(filepath.Join(v.dir, v.info.Key))
		if err != nil {
			t.Fatal(err)
		}
		want := answer{200, http.Header{
			"Accept-Ranges":                {"bytes"},
			"Cache-Control":                {"public, max-age=300, immutable"},
			"Content-Disposition":          {`attachment; filename="Ergebnis f_r _a_.html"; filename*=UTF-8''Ergebnis%20f%C3%BCr%20_a_.html`},
			"Content-Length":               {"27"},
			"Content-Security-Policy":      {"sandbox; default-src 'none'"},
			"Content-Type":                 {"text/html"},
			"Cross-Origin-Resource-Policy": {"cross-origin"},
			"Etag":                         {etag},
			"Last-Modified":                {is.ModTime().UTC().Format(http.TimeFormat)},
			"Referrer-Policy":              {"no-referrer"},
			"X-Content-Type-Options":       {"nosniff"},
		}, "<script>0123456789</script>"}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
	t.Run("gives out parts, and says what has not changed", func(t *testing.T) {
		for _, c := range []struct {
			name, value, also, alsoValue string
			status                       int
			body                         string
		}{
			{"Range", "bytes=8-17", "", "", 206, "0123456789"},
			{"Range", "bytes=-9", "", "", 206, "</script>"},
			{"Range", "bytes=8-9", "If-Range", etag, 206, "01"},
			{"Range", "bytes=8-9", "If-Range", `"other"`, 200, "<script>0123456789</script>"},
			{"Range", "bytes=" + strings.Repeat("0-0,", 16) + "1-1", "", "", 200, "<script>0123456789</script>"},
			{"If-None-Match", etag, "", "", 304, ""},
			{"If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT", "", "", 304, ""},
		} {
			fields := []string{c.name, c.value}
			if c.also != "" {
				fields = append(fields, c.also, c.alsoValue)
			}
			if got := ask(t, http.MethodGet, v.base+v.link, nil, fields...); got.status != c.status || got.body != c.body {
				t.Errorf("%s: %s: %d %q, want %d %q", c.name, c.value, got.status, got.body, c.status, c.body)
			}
		}
	})
	t.Run("says with a problem that a part is not there", func(t *testing.T) {
		got := ask(t, http.MethodGet, v.base+v.link, nil, "Range", "bytes=100-")
		got.header.Del("Date")
		got.header.Del("Content-Length")
		got.header.Del("X-Should-Retry")
		want := answer{416, http.Header{
			"Cache-Control":                {"no-store"},
			"Content-Range":                {"bytes */27"},
			"Content-Type":                 {"application/problem+json"},
			"Cross-Origin-Resource-Policy": {"cross-origin"},
			"Referrer-Policy":              {"no-referrer"},
			"X-Content-Type-Options":       {"nosniff"},
		}, got.body}
		if !reflect.DeepEqual(got, want) || !strings.Contains(got.body, "want a Range within them") {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
	t.Run("answers HEAD with a link to GET", func(t *testing.T) {
		got := ask(t, http.MethodHead, v.base+v.link, nil)
		if got.status != 200 || got.body != "" || got.header.Get("Content-Length") != "27" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("answers with another type and name where the link says so", func(t *testing.T) {
		link := v.sign(t, blob.Grant{Method: http.MethodGet, Key: v.info.Key, Type: "text/plain", Name: "../a.txt"})
		got := ask(t, http.MethodGet, v.base+link, nil)
		if got.status != 200 || got.header.Get("Content-Type") != "text/plain" || got.header.Get("Content-Disposition") != `attachment; filename="_._a.txt"` {
			t.Errorf("%+v", got)
		}
	})
	t.Run("gives a link to who has no credentials, the owner, and an address", func(t *testing.T) {
		for _, id := range []string{"", alice.ID, nobody.ID} {
			if got := ask(t, http.MethodGet, v.base+v.link, nil, "X-Caller", id); got.status != 200 {
				t.Errorf("%q: %+v", id, got)
			}
		}
		if got := ask(t, http.MethodGet, v.base+v.link, nil, "X-Caller", bob.ID); got.status != 404 || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("another caller: %+v", got)
		}
	})
	t.Run("knows no other methods", func(t *testing.T) {
		for method, at := range map[string]string{"DELETE": v.link, "POST": v.link, "GET": "/blobs/", "PUT": "/blobs"} {
			if got := ask(t, method, v.base+at, nil); got.status != 405 || got.header.Get("Allow") == "" {
				t.Errorf("%s %s: %+v", method, at, got)
			}
		}
	})
}

func TestServeFreshLinks(t *testing.T) {
	v := newServed(t)
	at := v.base + "/blobs/" + v.info.Key
	t.Run("redirects the owner to a link that is good", func(t *testing.T) {
		got := ask(t, http.MethodGet, at, nil, "X-Caller", alice.ID)
		to := got.header.Get("Location")
		if got.status != 303 || !strings.HasPrefix(to, "/blobs/"+v.info.Key+"?") || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Vary") != "Accept" {
			t.Fatalf("%+v", got)
		}
		if got := ask(t, http.MethodGet, v.base+to, nil); got.status != 200 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("answers JSON where that is asked for by name", func(t *testing.T) {
		for accept, want := range map[string]int{
			"application/json": 200, "text/html, application/json;q=0.5": 200, "application/json; charset=utf-8": 200,
			"": 303, "*/*": 303, "application/json;q=0": 303, "application/problem+json": 303, strings.Repeat("a/b,", 32) + "application/json": 303,
		} {
			if got := ask(t, http.MethodGet, at, nil, "X-Caller", alice.ID, "Accept", accept); got.status != want {
				t.Errorf("%q: %+v", accept, got)
			}
		}
		got := ask(t, http.MethodGet, at, nil, "X-Caller", alice.ID, "Accept", "application/json")
		want := map[string]any{"url": v.base + v.link, "expires": "2026-11-22T18:25:00Z", "bytes": 27.0, "content_type": "text/html"}
		var said map[string]any
		if err := json.Unmarshal([]byte(got.body), &said); err != nil || !reflect.DeepEqual(said, want) {
			t.Errorf("%s, %v, want %v", got.body, err, want)
		}
	})
	t.Run("has nothing for others", func(t *testing.T) {
		for id, want := range map[string]int{bob.ID: 404, nobody.ID: 404, "": 403} {
			if got := ask(t, http.MethodGet, at, nil, "X-Caller", id); got.status != want {
				t.Errorf("%q: %+v", id, got)
			}
		}
	})
	t.Run("has nothing where there is no blob", func(t *testing.T) {
		key := v.store.NewKey(alice.ID, v.clock.at.Add(time.Hour))
		link := v.sign(t, blob.Grant{Method: http.MethodGet, Key: key})
		for _, at := range []string{"/blobs/" + key, link} {
			if got := ask(t, http.MethodGet, v.base+at, nil, "X-Caller", alice.ID); got.status != 404 {
				t.Errorf("%+v", got)
			}
		}
	})
	t.Run("says https where the request came so, and never the host in Location", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host, r.TLS = "evil.example", &tls.ConnectionState{}
		w := httptest.NewRecorder()
		if err := v.store.Answer(w, r, v.info, alice); err != nil || strings.Contains(w.Header().Get("Location"), "evil") {
			t.Errorf("%v, %v", w.Header(), err)
		}
		r.Header.Set("Accept", "application/json")
		w = httptest.NewRecorder()
		if err := v.store.Answer(w, r, v.info, alice); err != nil || !strings.Contains(w.Body.String(), `"url":"https://evil.example/blobs/`) {
			t.Errorf("%s, %v", w.Body, err)
		}
	})
	t.Run("answers with no link to another's blob", func(t *testing.T) {
		for _, c := range []weir.Caller{bob, {}} {
			w := httptest.NewRecorder()
			err := v.store.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil), v.info, c)
			if p, ok := err.(*weir.Problem); !ok || p.Status != 404 || len(w.Header()) != 0 {
				t.Errorf("%v, %v", err, w.Header())
			}
		}
	})
	t.Run("redirects to S3", func(t *testing.T) {
		address, _ := newS3(t)
		s := open(t, blob.Options{URL: address, SigningKey: secret})
		i, err := s.Save(context.Background(), blob.Meta{Caller: alice.ID, Type: "text/plain", Name: "a.txt", Until: time.Now().Add(time.Hour)}, strings.NewReader("text"))
		if err != nil {
			t.Fatal(err)
		}
		base := serve(t, s).URL
		got := ask(t, http.MethodGet, base+"/blobs/"+i.Key, nil, "X-Caller", alice.ID)
		to, err := url.Parse(got.header.Get("Location"))
		if err != nil || got.status != 303 || to.Query().Get("response-content-disposition") != `attachment; filename="a.txt"` {
			t.Fatalf("%+v, %v", got, err)
		}
		if got := ask(t, http.MethodGet, to.String(), nil); got.status != 200 || got.body != "text" {
			t.Errorf("%+v", got)
		}
	})
}

// TestServeRefuses changes what a good link says: each change is 403, with one text.
func TestServeRefuses(t *testing.T) {
	v := newServed(t)
	put := v.sign(t, blob.Grant{Method: http.MethodPut, Key: v.store.NewKey(alice.ID, v.clock.at.Add(time.Hour)), Type: "text/plain", Name: "a.txt", Bytes: 10})
	named := v.sign(t, blob.Grant{Method: http.MethodGet, Key: v.info.Key, Type: "text/plain", Name: "a.txt"})
	other := v.store.NewKey(bob.ID, v.clock.at.Add(24*time.Hour))
	otherTag := v.info.Key[:11] + other[11:37] + v.info.Key[37:]
	with := func(link, name, value string) string {
		u, err := url.Parse(link)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Del(name); value != "" {
			q.Set(name, value)
		}
		return u.Path + "?" + q.Encode()
	}
	signature := func(link string) string { u, _ := url.Parse(link); return u.Query().Get("signature") }
	good := signature(v.link)
	last := map[bool]string{true: "B", false: "A"}[good[42] == 'A']
	for name, c := range map[string]struct{ method, at string }{
		"PUT with a link to GET":         {"PUT", v.link},
		"GET with a link to PUT":         {"GET", put},
		"another blob's":                 {"GET", strings.Replace(v.link, v.info.Key, other, 1)},
		"another caller's":               {"GET", strings.Replace(v.link, v.info.Key, otherTag, 1)},
		"another hour's":                 {"GET", strings.Replace(v.link, "2026112318", "2026112319", 1)},
		"another expiry":                 {"GET", with(v.link, "expires", "1795372000")},
		"no expiry":                      {"GET", with(v.link, "expires", "")},
		"an expiry with a zero":          {"GET", strings.Replace(v.link, "expires=", "expires=0", 1)},
		"an expiry with a plus":          {"GET", strings.Replace(v.link, "expires=", "expires=%2B", 1)},
		"an expiry beyond all time":      {"GET", with(v.link, "expires", "99999999999999999999")},
		"no signature":                   {"GET", with(v.link, "signature", "")},
		"an empty signature":             {"GET", strings.Replace(v.link, good, "", 1)},
		"another signature":              {"GET", with(v.link, "signature", good[:42]+last)},
		"a shorter signature":            {"GET", with(v.link, "signature", good[:42])},
		"a padded signature":             {"GET", with(v.link, "signature", good+"=")},
		"a signature with a line break":  {"GET", with(v.link, "signature", good[:20]+"\n"+good[20:])},
		"bits behind the signature":      {"GET", with(v.link, "signature", good[:42]+string(good[42]+1))},
		"a type that was not signed":     {"GET", with(v.link, "type", "text/html")},
		"another type":                   {"GET", with(named, "type", "text/html")},
		"another name":                   {"GET", with(named, "name", "b.txt")},
		"no name":                        {"GET", with(named, "name", "")},
		"type and name exchanged":        {"GET", with(with(named, "type", "a.txt"), "name", "text/plain")},
		"more bytes":                     {"PUT", with(put, "bytes", "11")},
		"no bytes":                       {"PUT", with(put, "bytes", "")},
		"another type to send":           {"PUT", with(put, "type", "text/html")},
		"a parameter twice":              {"GET", v.link + "&signature=" + good},
		"a parameter more":               {"GET", v.link + "&download=1"},
		"an empty parameter":             {"GET", v.link + "&type="},
		"a semicolon":                    {"GET", v.link + ";type=a"},
		"a very long query":              {"GET", v.link + "&name=" + strings.Repeat("a", 4096)},
		"an escaped letter":              {"GET", strings.Replace(v.link, "/blobs/2", "/blobs/%32", 1)},
		"an escaped slash":               {"GET", strings.Replace(v.link, v.info.Key, strings.ReplaceAll(v.info.Key, "/", "%2F"), 1)},
		"dots":                           {"GET", "/blobs/../../etc/passwd"},
		"escaped dots":                   {"GET", "/blobs/%2e%2e/%2e%2e/etc/passwd?expires=1&signature=a"},
		"backslashes":                    {"GET", "/blobs/..%5c..%5cetc"},
		"a zero byte":                    {"GET", "/blobs/" + v.info.Key + "%00"},
		"an absolute path":               {"GET", "/blobs//etc/passwd"},
		"an empty segment":               {"GET", "/blobs/" + strings.Replace(v.info.Key, "/", "//", 1)},
		"capital letters":                {"GET", strings.Replace(v.link, v.info.Key, strings.ToUpper(v.info.Key), 1)},
		"a file that is being written":   {"GET", "/blobs/uploads/aaaaaaaaaaaaaaaaaaaaaaaaaa"},
		"a path that is not served here": {"GET", "/other"},
	} {
		got := ask(t, c.method, v.base+c.at, nil)
		if got.status != 403 || !strings.Contains(got.body, "This link is not good: it has expired, or was not made for this request.") {
			t.Errorf("%s: %s %s: %d %s", name, c.method, c.at, got.status, got.body)
		}
	}
	t.Run("a link that has expired", func(t *testing.T) {
		v.clock.at = v.clock.at.Add(5*time.Minute - time.Second)
		if got := ask(t, http.MethodGet, v.base+v.link, nil); got.status != 200 || got.header.Get("Cache-Control") != "public, max-age=1, immutable" {
			t.Errorf("%+v", got)
		}
		v.clock.at = v.clock.at.Add(time.Second)
		if got := ask(t, http.MethodGet, v.base+v.link, nil); got.status != 403 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a link that would be good for more than 7 days", func(t *testing.T) {
		v := newServed(t)
		week := v.sign(t, blob.Grant{Method: http.MethodGet, Key: v.store.NewKey(alice.ID, v.clock.at.Add(9*24*time.Hour)), For: 7 * 24 * time.Hour})
		if got := ask(t, http.MethodGet, v.base+week, nil); got.status != 404 {
			t.Errorf("%+v", got)
		}
		v.clock.at = v.clock.at.Add(-time.Second)
		if got := ask(t, http.MethodGet, v.base+week, nil); got.status != 403 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a link of another signing key", func(t *testing.T) {
		stranger, _ := openDir(t, v.clock, func(o *blob.Options) { o.SigningKey = []byte(strings.Repeat("x", 32)) })
		l, err := stranger.Link(context.Background(), blob.Grant{Method: http.MethodGet, Key: v.info.Key})
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, http.MethodGet, v.base+l.URL, nil); got.status != 403 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a blob that has expired or is swept is 404", func(t *testing.T) {
		v := newServed(t)
		if err := v.store.Delete(context.Background(), v.info.Key); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, http.MethodGet, v.base+v.link, nil); got.status != 404 {
			t.Errorf("%+v", got)
		}
	})
}

// FuzzServe looks for a request that is answered though nobody signed it.
func FuzzServe(f *testing.F) {
	v := newServed(f)
	links := []string{v.link, v.sign(f, blob.Grant{Method: http.MethodGet, Key: v.info.Key, Type: "text/plain", Name: "a b.txt"})}
	for _, link := range links {
		at, query, _ := strings.Cut(link, "?")
		f.Add(at, query)
		f.Add(at, query+"&expires=1")
		f.Add(strings.Replace(at, "/blobs/", "/blobs/%2e%2e/", 1), query)
	}
	h := handler(v.store)
	f.Fuzz(func(t *testing.T, at, query string) {
		u, err := url.ParseRequestURI(at)
		if err != nil || u.Host != "" {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = u.Path, u.RawPath, query
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 400 {
			return
		}
		got, err := url.ParseQuery(query)
		if err != nil {
			t.Fatalf("%s?%s: %d", at, query, w.Code)
		}
		for _, link := range links {
			signed, err := url.Parse(link)
			if err == nil && at == signed.Path && reflect.DeepEqual(got, signed.Query()) {
				return
			}
		}
		t.Fatalf("%s?%s: %d", at, query, w.Code)
	})
}
