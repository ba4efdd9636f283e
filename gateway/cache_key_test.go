package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// repeats answers with the number of its call and the request's whole body.
func repeats() *counted {
	c := &counted{}
	c.h = func(w http.ResponseWriter, r *http.Request) {
		body := taken(r)
		storable(w.Header())
		_, _ = fmt.Fprintf(w, "%d: %s", len(body), body)
	}
	return c
}

func TestRequestsThatDifferAreNotTakenForEachOther(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("All happy families are alike. ", 40<<10/30)
	almost := long[:len(long)-7] + "!" + long[len(long)-6:]
	for name, c := range map[string]struct {
		one, other, kind string
	}{
		"40 KB of prompt and one byte":    {`{"prompt":"` + long + `"}`, `{"prompt":"` + almost + `"}`, "application/json"},
		"40 KB of bytes and one byte":     {long, almost, "application/octet-stream"},
		"40 KB of text in an unknown way": {long, almost, "text/plain"},
		"seeds beyond 2^53":               {`{"seed":9007199254740992}`, `{"seed":9007199254740993}`, "application/json"},
		"numbers beyond all":              {`{"temperature":0,"x":1e400}`, `{"temperature":0,"x":1e401}`, "application/json"},
		"a number and its text":           {`{"x":1}`, `{"x":"1"}`, "application/json"},
		"upper and lower case":            {`{"x":"Go"}`, `{"x":"go"}`, "application/json"},
		"white space in a text":           {`{"x":"a b"}`, `{"x":"a  b"}`, "application/json"},
		"a member more":                   {`{"x":1}`, `{"x":1,"y":null}`, "application/json"},
		"the order of a list":             {`{"x":[1,2]}`, `{"x":[2,1]}`, "application/json"},
		"what could be joined otherwise":  {`{"a":"bc"}`, `{"ab":"c"}`, "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for mode, method := range map[string]string{"inference": "POST", "http": "QUERY"} {
				origin := repeats()
				w := site{mode: mode, share: "all"}.start(t, origin)
				ask := func(body string) {
					t.Helper()
					if a := w.open(method, "/", body, "Content-Type", c.kind).rest(); !a.is(200, fmt.Sprintf("%d: %s", len(body), body)) {
						t.Errorf("%s: %.100s got %v", mode, body, a)
					}
				}
				ask(c.one)
				ask(c.other)
				ask(c.one)
				ask(c.other)
				if got := origin.calls.Load(); got != 2 {
					t.Errorf("%s: %d calls, want 2", mode, got)
				}
			}
		})
	}
}

func TestWhatCannotBeReadInOneWayOnlyGoesPastTheCache(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"a member twice":         `{"seed":1,"seed":2}`,
		"a member twice, within": `{"seed":1,"x":{"a":1,"\u0061":2}}`,
		"no end":                 `{"seed":1`,
		"a comma too many":       `{"seed":1,}`,
		"something behind":       `{"seed":1} {"seed":2}`,
		"not UTF-8":              "{\"seed\":1,\"x\":\"\xff\"}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			origin := repeats()
			w := site{}.start(t, origin)
			for range 2 {
				if a := w.send("POST", "/", body); a.header.Get("Cache-Status") != "weir; fwd=bypass" || !a.is(200, fmt.Sprintf("%d: %s", len(body), body)) {
					t.Errorf("%v", a)
				}
			}
			if got := origin.calls.Load(); got != 2 {
				t.Errorf("%d calls, want 2", got)
			}
		})
	}
}

func TestWhatMakesNoDifferenceMakesNone(t *testing.T) {
	t.Parallel()
	origin := repeats()
	w := site{cache: ", ignore: [/user, /metadata]"}.start(t, origin)
	for _, body := range []string{
		`{"seed":1,"prompt":"é/","user":"a"}`, `{"prompt":"\u00e9\/", "seed":1}`, "{\n\t\"prompt\": \"\\u00E9/\",\n\t\"metadata\": {\"run\": 7},\n\t\"seed\": 1\n}\n",
	} {
		if a := w.send("POST", "/", body); a.err != nil || a.status != 200 {
			t.Errorf("%v", a)
		}
	}
	if got := origin.calls.Load(); got != 1 {
		t.Errorf("%d calls, want 1", got)
	}
}

// An answer larger than the route keeps is given whole, and not kept: whether its
// length is known before or not.
func TestLargeAnswersAreNotKept(t *testing.T) {
	t.Parallel()
	for _, store := range every() {
		for mode, method := range map[string]string{"inference": "POST", "http": "GET"} {
			t.Run(store+" "+mode, func(t *testing.T) {
				t.Parallel()
				c := &counted{h: func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					storable(w.Header())
					n := 64 << 10
					if strings.Contains(r.URL.Path, "more") {
						n++
					}
					if strings.Contains(r.URL.Path, "length") {
						w.Header().Set("Content-Length", fmt.Sprint(n))
					}
					_, _ = io.WriteString(w, strings.Repeat("x", n))
				}}
				w := site{store: store, mode: mode, share: "all", cache: ", max_entry: 64KiB"}.start(t, c)
				for path, calls := range map[string]int64{"/length": 1, "/chunks": 1, "/length/more": 2, "/chunks/more": 2} {
					before := c.calls.Load()
					for range 2 {
						n := 64<<10 + len(path)/12
						if a := w.send(method, path, ""); a.err != nil || len(a.body) != n {
							t.Errorf("%s: %d bytes of %d, %v", path, len(a.body), n, a.err)
						}
					}
					if got := c.calls.Load() - before; got != calls {
						t.Errorf("%s: %d calls, want %d", path, got, calls)
					}
				}
			})
		}
	}
}
