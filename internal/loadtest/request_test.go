package loadtest_test

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// bodies sends a template n times and gives what came.
func bodies(t *testing.T, template string, n int64) (seen []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: after(0)}
		virtually(t, t.Context(), loadtest.Options{
			Concurrency: 1, Requests: n, Body: template, Seed: 3, CallerCount: 2,
			Line: func(name string) ([]string, error) {
				switch name {
				case "a.txt":
					return []string{`one "1"`, "two"}, nil
				case "empty.txt":
					return nil, nil
				}
				return nil, fmt.Errorf("%s: no such file", name)
			},
		}, s)
		seen = s.seen
	})
	return seen
}

func TestTemplates(t *testing.T) {
	for template, want := range map[string]string{ // the path where there is no body
		"plain text":                             `^(plain text){3}$`,
		`{"n": {{seq}}}`:                         `^\{"n": 0\}\{"n": 1\}\{"n": 2\}$`,
		`{{caller}};`:                            `^([12];){3}$`,
		`{{rand 5 7}},`:                          `^([567],){3}$`,
		`{{rand 5 5}},`:                          `^(5,){3}$`,
		`{{zipf 10}},`:                           `^(([1-9]|10),){3}$`,
		`{{zipf 1}}`:                             `^111$`,
		`{{pick "a" "b"}}`:                       `^[ab]{3}$`,
		`{{words 0}}.`:                           `^\.{3}$`,
		`{{words 3}}.`:                           `^([a-z]+ [a-z]+ [a-z]+\.){3}$`,
		`{{line "a.txt"}};`:                      `^one "1";two;one "1";$`,
		`{"p": {{json (line "a.txt")}}}`:         `^\{"p": "one \\"1\\""\}\{"p": "two"\}\{"p": "one \\"1\\""\}$`,
		`{{if eq seq 1}}b{{else}}a{{end}}`:       `^aba$`,
		`{{"<&>" | json}}`:                       `^("<&>"){3}$`,
		`{{/* nothing */}}x`:                     `^xxx$`,
		`{{if eq seq 9}}{{line "a.txt"}}{{end}}`: `^///$`,
	} {
		if got := strings.Join(bodies(t, template, 3), ""); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %q, want %s", template, got, want)
		}
	}
	if first, second := bodies(t, "{{words 5}}", 5), bodies(t, "{{words 5}}", 5); !slices.Equal(first, second) {
		t.Errorf("the same seed gives %q and %q", first, second)
	}
}

// TestZipf checks that small numbers are frequent, and large ones come.
func TestZipf(t *testing.T) {
	counts := map[string]int{}
	for _, n := range bodies(t, "{{zipf 100}}", 20_000) {
		counts[n]++
	}
	if counts["1"] < 3000 || counts["1"] > 6000 || counts["1"] < 3*counts["4"] || counts["100"] == 0 {
		t.Errorf("1: %d, 4: %d, 100: %d of 20000; want about a fifth, a quarter of that, and some", counts["1"], counts["4"], counts["100"])
	}
}

// TestTemplateMistakes are found before anything is sent.
func TestTemplateMistakes(t *testing.T) {
	line := func(name string) ([]string, error) {
		if name == "empty.txt" {
			return nil, nil
		}
		return nil, errors.New(name + ": no such file")
	}
	for template, want := range map[string]string{
		"{{seq":                                 "--body: line 1: unclosed action",
		"{{nope}}":                              `--body: line 1: function "nope" not defined`,
		"{{rand 5 1}}":                          "error calling rand: 5 1: want a smaller number and a larger one",
		"{{rand -9223372036854775808 0}}":       "want a smaller number and a larger one",
		"{{rand 1}}":                            "wrong number of args for rand",
		"{{zipf 0}}":                            "error calling zipf: 0: want from 1",
		"{{pick}}":                              "want texts to choose from",
		"{{words 100001}}":                      "error calling words: 100001: want from 0 to 100000",
		`{{line "nope.txt"}}`:                   "--body: nope.txt: no such file",
		`{{line "empty.txt"}}`:                  "--body: empty.txt: has no lines: want at least one",
		`{{if true}}{{line "nope.txt"}}{{end}}`: "--body: nope.txt: no such file",
		`{{json (line "nope.txt")}}`:            "--body: nope.txt: no such file",
		`{{line (print "a" "b")}}`:              "--body: line: want the name of a file in quotes",
		`{{"nope.txt" | line}}`:                 `line: "nope.txt": want the name of a file in quotes`,
		"{{range 1000000000}}{{end}}":           "a template has no range, with and template: want text, calls and if",
		"{{with 1}}x{{end}}":                    "a template has no range, with and template",
		`{{define "x"}}y{{end}}`:                "a template has no define and no block",
		`{{if true}}{{range 9}}{{end}}{{end}}`:  "a template has no range",
		strings.Repeat("{{words 100000}}", 20):  "the text is longer than 10485760 bytes",
		strings.Repeat("x", 11<<20):             "--body: 11534336 bytes: want at most 10485760",
	} {
		_, err := loadtest.New(loadtest.Options{URL: "http://h.test/", Concurrency: 1, Requests: 1, Body: template, Line: line})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %.200v, want %q", template, err, want)
		}
	}
}

func TestRequests(t *testing.T) {
	var got []*http.Request
	s := &server{answer: func(_ int, r *http.Request) (*http.Response, error) {
		got = append(got, r)
		return reply(http.StatusOK, ""), nil
	}}
	send := func(t *testing.T, o loadtest.Options) *http.Request {
		t.Helper()
		got = nil
		synctest.Test(t, func(t *testing.T) {
			o.Concurrency, o.Requests = 1, 1
			virtually(t, t.Context(), o, s)
		})
		if len(got) != 1 {
			t.Fatalf("%d requests, want 1", len(got))
		}
		return got[0]
	}
	t.Run("without a body is a GET", func(t *testing.T) {
		r := send(t, loadtest.Options{URL: "http://h.test/a?b={{seq}}"})
		if r.Method != "GET" || r.URL.String() != "http://h.test/a?b=0" || len(r.Header) != 0 || r.Body != nil {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
	})
	t.Run("with a body is a POST of JSON, which can be sent again", func(t *testing.T) {
		r := send(t, loadtest.Options{Body: ` {"a": 1}`, Header: http.Header{"Host": {"other.test"}, "X-A": {"1", "2-{{seq}}"}}})
		want := http.Header{"Content-Type": {"application/json"}, "X-A": {"1", "2-0"}}
		if r.Method != "POST" || r.Host != "other.test" || !equalHeaders(r.Header, want) || r.ContentLength != 9 || r.GetBody == nil {
			t.Errorf("%s at %s, %v, %d bytes; want a POST at other.test with %v", r.Method, r.Host, r.Header, r.ContentLength, want)
		}
	})
	t.Run("has the type that it is given", func(t *testing.T) {
		r := send(t, loadtest.Options{Body: "{}", Method: "put", Header: http.Header{"Content-Type": {"text/x"}}})
		if r.Method != "PUT" || r.Header.Get("Content-Type") != "text/x" {
			t.Errorf("%s %v", r.Method, r.Header)
		}
	})
	t.Run("has the fields of its caller", func(t *testing.T) {
		r := send(t, loadtest.Options{Body: "text", Callers: []loadtest.Caller{{Name: "a", Weight: 1, Header: http.Header{"X-User-Id": {"alice"}}}}})
		if r.Header.Get("X-User-Id") != "alice" || r.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%v", r.Header)
		}
		r = send(t, loadtest.Options{CallerCount: 1, CallerHeader: http.Header{"Authorization": {"Bearer key-{{caller}}"}}})
		if r.Header.Get("Authorization") != "Bearer key-1" {
			t.Errorf("%v", r.Header)
		}
	})
}

func equalHeaders(a, b http.Header) bool {
	return fmt.Sprint(a) == fmt.Sprint(b)
}

func TestCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuses := &server{answer: func(_ int, r *http.Request) (*http.Response, error) {
			if r.Header.Get("X-User-Id") == "b" {
				return reply(http.StatusTooManyRequests, ""), nil
			}
			return after(10*ms)(0, r)
		}}
		r := virtually(t, t.Context(), loadtest.Options{Stages: rate(1000, 4*time.Second), Seed: 1, Callers: []loadtest.Caller{
			{Name: "a", Weight: 3, Header: http.Header{"X-User-Id": {"a"}}}, {Name: "b", Weight: 1, Header: http.Header{"X-User-Id": {"b"}}},
		}}, refuses)
		a, b := r.Callers[0], r.Callers[1]
		if math.Abs(float64(a.Sent)-3000) > 120 || a.OK != a.Sent || a.Refused != 0 || b.Refused != b.Sent || a.Sent+b.Sent != 4000 {
			t.Errorf("callers = %+v, want three quarters and one, which is refused", r.Callers)
		}
		if a.P50MS < 9.8 || a.P50MS > 10.2 || b.P50MS != 0 || r.CallerCount != 2 {
			t.Errorf("callers = %+v, want 10 ms for a", r.Callers)
		}
	})
	t.Run("a number of callers have equal shares", func(t *testing.T) {
		counts := map[string]int{}
		for _, name := range bodies(t, "{{caller}}", 4000) {
			counts[name]++
		}
		if len(counts) != 2 || counts["1"] < 1850 || counts["2"] < 1850 {
			t.Errorf("%v, want about 2000 of each", counts)
		}
	})
}
