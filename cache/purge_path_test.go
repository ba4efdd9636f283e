package cache_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

func TestLabelOfAPath(t *testing.T) {
	for path, want := range map[string]string{
		"":                       "path:",
		"/v1/models":             "path:/v1/models",
		"/%69/abc":               "path:/i/abc",
		"/%7Euser/%2d%2E%5f":     "path:/~user/-._",
		"/caf%c3%a9":             "path:/caf%C3%A9",
		"/caf%C3%A9":             "path:/caf%C3%A9",
		"/café":                  "path:/caf%C3%A9",
		"/a b%20c":               "path:/a%20b%20c",
		"/a+b%2Bc":               "path:/a+b+c",
		"/models/x%3agenerate":   "path:/models/x:generate",
		"/(a),b%28c%29":          "path:/(a),b(c)",
		"/%ff%00":                "path:/%FF%00",
		"/a%3fb%23c":             "path:/a%3Fb%23c",
		"/a%2fb":                 "path:/a/b",
		"/a%252fb%25":            "path:/a%252fb%25", // escaped twice is another path
		"/v1/*":                  "path:/v1/*",
		"/%69/*":                 "path:/i/*",
		"*":                      "path:*",
		"/v1/%2A":                "path:/v1/%2A",
		"/v1/%2a":                "path:/v1/%2A",
		"/v1/**":                 "path:/v1/%2A*",
		"/*/x":                   "path:/%2A/x",
		"/50%/x":                 "path:/50%/x", // no path: a purge of it is refused
		"/a%2*":                  "path:/a%2*",
		"/" + "\xc3" + "(":       "path:/%C3(",
		"/" + "\u2028" + "%c3*":  "path:/%E2%80%A8%C3*",
		"/!$&'()+,;=:@-._~":      "path:/!$&'()+,;=:@-._~",
		"/%22%3c%3E%5b%5D%5E%60": "path:/%22%3C%3E%5B%5D%5E%60",
	} {
		got := cache.Label("path", path)
		if got != want {
			t.Errorf("%q\n got %q\nwant %q", path, got, want)
		}
		if again := cache.Label("path", strings.TrimPrefix(got, "path:")); again != got {
			t.Errorf("%q: its label %q has the label %q", path, got, again)
		}
	}
	if got := cache.Label("tag", "a%62*/é"); got != "tag:a%62*/é" {
		t.Errorf("a tag is %q: want it as it is", got)
	}
}

// A star in the path of an entry is a character, however it is written.
func TestStarsInPathsOfEntries(t *testing.T) {
	for _, c := range []struct {
		entry, purge string
		want         bool
	}{
		{"/a*", "/a%2A", true},
		{"/a%2a", "/a%2A", true},
		{"/a%2A", "/a*", true},
		{"/a*", "/a*", true},
		{"/a*", "/a**", true},
		{"/a*", "/*", true},
		{"/a*", "/a", false},
		{"/a*", "/ab", false},
		{"/a%2A", "/ab", false},
		{"/ab", "/a%2A", false},
		{"/ab", "/a%2A*", false},
		{"/ab", "/a**", false},
		{"/a*b", "/a%2Ab", true},
		{"/a*b", "/a%2A*", true},
		{"*", "/a", false},
		{"*", "%2A", true},
		{"*", "*", true},
	} {
		t.Run(fmt.Sprintf("%s by %s", c.entry, c.purge), func(t *testing.T) {
			p := newPurges(t, cache.PurgeOptions{})
			purge(t, p, cache.Label("path", c.purge))
			if got := p.Purged(&cache.Meta{Labels: []string{cache.Label("path", c.entry)}}, cache.Key{}); got != c.want {
				t.Errorf("purged %v, want %v", got, c.want)
			}
		})
	}
}

// escape writes path with some characters escaped that need not be.
func escape(t *rapid.T, path, name string) string {
	var b strings.Builder
	must := func(c byte) bool { return c <= ' ' || c >= 0x7f || strings.IndexByte(`%?#"<>[]^{|}*\`+"`", c) >= 0 }
	ways := rapid.SliceOfN(rapid.IntRange(0, 5), len(path), len(path)).Draw(t, name)
	for i := range len(path) {
		c := path[i]
		switch way := ways[i]; {
		case way == 0 || way < 3 && must(c):
			fmt.Fprintf(&b, "%%%02x", c)
		case way == 1 || must(c):
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func TestPurgesMeetAllFormsOfAPath(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := "/" + rapid.OneOf(
			rapid.StringOf(rapid.SampledFrom([]rune("ai/*%é~.: (?2A"))),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) }),
		).Draw(rt, "path")
		// As of a request, through the standard library's URL.
		u, err := url.ParseRequestURI("/" + escape(rt, path[1:], "entry"))
		if err != nil {
			rt.Fatal(err)
		}
		m := &cache.Meta{Labels: []string{cache.Label("path", u.EscapedPath())}}
		decoded := &cache.Meta{Labels: []string{cache.Label("path", (&url.URL{Path: path}).EscapedPath())}}
		start := path[:rapid.IntRange(1, len(path)).Draw(rt, "start")]
		for _, value := range []string{escape(rt, path, "purge"), escape(rt, start, "prefix") + "*"} {
			for _, label := range []string{cache.Label("path", value), "path:" + value} {
				p, err := cache.NewPurges(cache.PurgeOptions{})
				if err != nil {
					rt.Fatal(err)
				}
				if _, err := p.Purge(context.Background(), label); err != nil {
					rt.Fatal(err)
				}
				if !p.Purged(m, cache.Key{}) || !p.Purged(decoded, cache.Key{}) {
					rt.Fatalf("a purge of %q leaves %q or %q", label, m.Labels, decoded.Labels)
				}
			}
		}
		other := path + "x"
		p, err := cache.NewPurges(cache.PurgeOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		if _, err := p.Purge(context.Background(), cache.Label("path", escape(rt, other, "other"))); err != nil {
			rt.Fatal(err)
		}
		if p.Purged(m, cache.Key{}) {
			rt.Fatalf("a purge of %q takes %q", other, path)
		}
	})
}

// The whole way: what a handler finds by the path decoded is purged by it.
func TestPathPurgeIsNotEvadedByEscapes(t *testing.T) {
	purges := newPurges(t, cache.PurgeOptions{})
	c, err := cache.New(cache.Options{Mode: cache.ModeHTTP, Store: memoryStore(), Purges: purges})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	calls := 0
	handler := c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls++
		w.Header().Set("Cache-Control", "max-age=60")
	}))
	ask := func(target string) int {
		before := calls
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", target, nil))
		return calls - before
	}
	for _, target := range []string{"/i/abc", "/%69/abc", "/i/%61bc", "/i%2Fabc"} {
		ask(target)
		if ask(target) != 0 {
			t.Errorf("%s is not kept", target)
		}
	}
	purge(t, purges, cache.Label("path", "/i/*"))
	for _, target := range []string{"/i/abc", "/%69/abc", "/i/%61bc", "/i%2Fabc"} {
		if ask(target) != 1 {
			t.Errorf("%s survives the purge of /i/*", target)
		}
	}
}
