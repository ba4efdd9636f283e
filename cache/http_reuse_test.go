package cache

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHTTPReuse(t *testing.T) {
	f := func(t *testing.T, name string, want reuse, age time.Duration, response, request string) {
		t.Run(name, func(t *testing.T) {
			e := &Entry{Header: fields("Cache-Control: " + response), Made: noon.Add(-age)}
			e.Expires = e.Made.Add(time.Minute)
			h := http.Header{}
			if request != "" {
				h = fields(request)
			}
			if got := httpReuse(h, e, noon); got != want {
				t.Errorf("%q, %v old, to %q: got %v, want %v", response, age, request, got, want)
			}
		})
	}
	const s = time.Second
	f(t, "uses what is fresh", reuseFresh, 59*s, "max-age=60", "")
	f(t, "validates what is as old as it may become", reuseRevalidate, 60*s, "max-age=60", "")
	f(t, "validates no-cache", reuseRevalidate, 0, "max-age=60, no-cache", "")
	f(t, "validates no-cache whatever the client takes", reuseRevalidate, 61*s, "max-age=60, no-cache", "Cache-Control: max-stale")
	f(t, "uses what is fresh without some fields", reuseFresh, 0, `max-age=60, no-cache="x-a"`, "")
	f(t, "validates for no-cache", reuseRevalidate, 0, "max-age=60", "Cache-Control: no-cache")
	f(t, "validates for Pragma", reuseRevalidate, 0, "max-age=60", "Pragma: no-cache")
	f(t, "validates what is older than the client takes", reuseRevalidate, 11*s, "max-age=60", "Cache-Control: max-age=10")
	f(t, "uses what is as old as the client takes", reuseFresh, 10*s, "max-age=60", "Cache-Control: max-age=10")
	f(t, "validates what is fresh for less than the client wants", reuseRevalidate, 51*s, "max-age=60", "Cache-Control: min-fresh=10")
	f(t, "uses what is fresh for as long as the client wants", reuseFresh, 50*s, "max-age=60", "Cache-Control: min-fresh=10")
	f(t, "uses what is as stale as the client takes", reuseStale, 70*s, "max-age=60", "Cache-Control: max-stale=10")
	f(t, "validates what is staler than the client takes", reuseRevalidate, 71*s, "max-age=60", "Cache-Control: max-stale=10")
	f(t, "uses what is ever so stale where the client takes it", reuseStale, 1e6*s, "max-age=60", "Cache-Control: max-stale")
	f(t, "validates what is older than the client takes, stale or not", reuseRevalidate, 70*s, "max-age=60", "Cache-Control: max-age=65, max-stale=100")
	f(t, "validates where min-fresh contradicts max-stale", reuseRevalidate, 70*s, "max-age=60", "Cache-Control: min-fresh=1, max-stale=100")
	for _, forbids := range []string{"must-revalidate", "proxy-revalidate", "s-maxage=60"} {
		f(t, "validates what must not be stale: "+forbids, reuseRevalidate, 70*s, forbids, "Cache-Control: max-stale")
		f(t, "uses while it is fresh: "+forbids, reuseFresh, 10*s, forbids, "")
	}
}

func TestHTTPWantsFresh(t *testing.T) {
	f := func(t *testing.T, want bool, line string) {
		t.Helper()
		if got := httpWantsFresh(fields(line)); got != want {
			t.Errorf("%q: got %v, want %v", line, got, want)
		}
	}
	f(t, false, "Accept: x")
	f(t, false, "Cache-Control: max-stale=1")
	f(t, false, "Cache-Control: max-age=1, max-stale=1")
	f(t, true, "Cache-Control: max-age=1")
	f(t, true, "Cache-Control: min-fresh=0")
	f(t, true, "Cache-Control: no-cache")
	f(t, true, "Pragma: no-cache")
}

func TestHTTPServable(t *testing.T) {
	t.Run("drops the fields that no-cache and private name", func(t *testing.T) {
		e := &Entry{Header: fields(`Cache-Control: no-cache="x-a", private="X-B, x-c"`, "X-A: 1", "X-B: 1", "X-C: 1", "X-D: 1")}
		want := fields(`Cache-Control: no-cache="x-a", private="X-B, x-c"`, "X-D: 1")
		if got := httpServable(e); !reflect.DeepEqual(got, want) || len(e.Header) != 5 {
			t.Errorf("got %v of %v, want %v", got, e.Header, want)
		}
	})
	t.Run("drops nothing else", func(t *testing.T) {
		e := &Entry{Header: fields("Cache-Control: max-age=60", "X-A: 1")}
		if got := httpServable(e); !reflect.DeepEqual(got, e.Header) {
			t.Errorf("got %v, want %v", got, e.Header)
		}
	})
}

func TestVaryNames(t *testing.T) {
	f := func(t *testing.T, names []string, star bool, lines ...string) {
		t.Helper()
		got, gotStar := varyNames(http.Header{"Vary": lines})
		if !slices.Equal(got, names) || gotStar != star {
			t.Errorf("%q: got %q, %v; want %q, %v", lines, got, gotStar, names, star)
		}
	}
	f(t, nil, false)
	f(t, nil, false, "", " , ,")
	f(t, []string{"Accept", "Accept-Encoding", "X-A"}, false, "x-a, ACCEPT-encoding ,accept", "Accept,X-A")
	for _, line := range []string{"*", "*, *", "Accept, *", "*, Accept", ", *", " * ", "Accept,*,X-A"} {
		f(t, nil, true, line)
		f(t, nil, true, "X-A", line)
		f(t, nil, true, line, "X-A")
	}
	f(t, nil, true, "a b")
	f(t, nil, true, `"x-a"`)
	var many, more []string
	for i := range maxVary + 1 {
		name := "X" + strings.Repeat("x", i)
		if more = append(more, name); i < maxVary {
			many = append(many, name)
		}
	}
	f(t, many, false, strings.Join(many, ","), strings.Join(many, ","))
	f(t, nil, true, strings.Join(more, ","))
}

func TestVaryKey(t *testing.T) {
	key := func(lines ...string) Key {
		return varyKey(Key{1}, []byte("nonce"), []string{"Accept", "Accept-Encoding", "Accept-Language", "X-A", "X-B"}, fields(lines...))
	}
	same := func(t *testing.T, want bool, a, b []string) {
		t.Helper()
		if got := key(a...) == key(b...); got != want {
			t.Errorf("%q and %q: the same key: %v, want %v", a, b, got, want)
		}
	}
	list := func(lines ...string) []string { return lines }
	same(t, true, list(), list("Other: 1"))
	same(t, true, list("X-A: 1", "X-B: 2"), list("X-B: 2", "X-A: 1"))
	same(t, false, list("X-A: 1"), list("X-A: 2"))
	same(t, false, list("X-A: 1"), list("X-B: 1"))
	same(t, false, list(), list("X-A:"))
	same(t, false, list("X-A:"), list("X-A:", "X-A:"))
	same(t, true, list("X-A: 1", "X-A: 2"), list("X-A: 1, 2"))
	same(t, false, list("X-A: Hello, world"), list("X-A: Hello,world"))
	same(t, false, list("X-A: a"), list("X-A: A"))
	same(t, true, list("Accept-Encoding: GZIP , br;q=0.5"), list("Accept-Encoding: gzip,br; q=0.5"))
	same(t, true, list("Accept-Encoding: gzip", "Accept-Encoding: br"), list("Accept-Encoding: gzip, ,br"))
	same(t, false, list("Accept-Encoding: gzip"), list("Accept-Encoding: br"))
	same(t, false, list("Accept-Encoding:"), list())
	same(t, true, list("Accept-Language: de-DE, en;q=0.8"), list("Accept-Language: DE-de,EN;Q=0.8"))
	same(t, false, list("Accept-Language: de, en"), list("Accept-Language: en, de"))
	same(t, false, list("Accept-Language: en us"), list("Accept-Language: enus"))
	same(t, true, list(`Accept: text/html;level="a, b" , x/y`), list(`Accept: text/html; level="a, b",x/y`))
	same(t, false, list(`Accept: text/html;level="a, b"`), list(`Accept: text/html;level="a,b"`))
	same(t, false, list("Accept: a/b;p=X"), list("Accept: a/b;p=x"))
	t.Run("depends on the base, the nonce and the names", func(t *testing.T) {
		h := fields("X-A: 1")
		keys := map[Key]bool{
			varyKey(Key{1}, []byte("n"), []string{"X-A"}, h):        true,
			varyKey(Key{2}, []byte("n"), []string{"X-A"}, h):        true,
			varyKey(Key{1}, []byte("m"), []string{"X-A"}, h):        true,
			varyKey(Key{1}, []byte("n"), []string{"X-A", "X-B"}, h): true,
			varyKey(Key{1}, []byte("n"), nil, h):                    true,
		}
		if len(keys) != 5 {
			t.Errorf("%d different keys, want 5", len(keys))
		}
	})
}

// FuzzVaryKey looks for two values that mean different things under one key: what
// differs in more than blanks, commas and case must not match.
func FuzzVaryKey(f *testing.F) {
	f.Add("gzip, br", "br,gzip")
	f.Add(`a;b="c, d"`, `a;b="c,d"`)
	f.Add(`"\"`, `"`)
	f.Add(" a ; b", "a;b")
	bare := strings.NewReplacer(" ", "", "\t", "", ",", "", ";", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, name := range []string{"Accept", "Accept-Encoding", "Accept-Language", "X-A"} {
			key := func(v string) Key { return varyKey(Key{}, nil, []string{name}, http.Header{name: {v}}) }
			if key(a) != key(b) {
				continue
			}
			x, y := bare.Replace(a), bare.Replace(b)
			if name == "X-A" {
				x, y = strings.Trim(a, " \t"), strings.Trim(b, " \t")
			} else if name != "Accept" {
				x, y = strings.ToLower(x), strings.ToLower(y)
			}
			if x != y {
				t.Fatalf("%s: %q and %q have one key", name, a, b)
			}
		}
	})
}
