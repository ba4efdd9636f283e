package config_test

import (
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
)

func TestMergeEdit(t *testing.T) {
	f := func(old, patch, want string) {
		t.Helper()
		got, err := config.MergeEdit([]byte(old), []byte(patch))
		if err != nil || string(got) != want || (want == "") != (got == nil) {
			t.Errorf("%s and %s\ngot  %s, %v\nwant %s", old, patch, got, err, want)
		}
	}
	f("", "", "")
	f("", "{}", "")
	f("{}", "null", "")
	f("null", `{"weight": 2}`, `{"weight":2}`)
	f(`{"weight":2}`, `{"weight":null}`, "")
	f(`{"weight":2}`, `{"priority" : "batch", "weight": 3, "policies": [ "5/minute", {"a": null} ]}`, `{"policies":["5/minute",{"a":null}],"weight":3,"priority":"batch"}`)
	f(`{"policies":["5/minute"],"weight":2}`, `{"policies":["6/minute"]}`, `{"policies":["6/minute"],"weight":2}`)
	f(`{"cache":{"ttl":"1m"},"max_body":1}`, `{"cache":{"stale_if_error":"1h","auto":{"max":"2h","min":"1m"}}}`,
		`{"cache":{"ttl":"1m","auto":{"min":"1m","max":"2h"},"stale_if_error":"1h"},"max_body":1}`)
	f(`{"cache":{"ttl":"1m","auto":{"min":"1m","max":"2h"}}}`, `{"cache":{"auto":{"max":"3h"}}}`, `{"cache":{"ttl":"1m","auto":{"min":"1m","max":"3h"}}}`)
	f(`{"cache":{"ttl":"1m","auto":{"min":"1m","max":"2h"}}}`, `{"cache":{"auto":null}}`, `{"cache":{"ttl":"1m"}}`)
	f(`{"cache":{"auto":{"min":"1m","max":"2h"}}}`, `{"cache":{"auto":null}}`, "")
	f(`{"cache":{"auto":{"min":"1m"}},"max_body":1}`, `{"cache":{"auto":{"min":null}}}`, `{"max_body":1}`)
	f(`{"cache":{"ttl":"1m"}}`, `{"cache":null}`, "")
	f("", `{"cache":{"ttl":null}}`, "")
	f(`{"cache":{"auto":{}},"weight":null}`, `{"max_body":1}`, `{"max_body":1}`)
	f(`{"cache":{"auto":{"min":null}}}`, "{}", "")
	f("", `{"concurrency": 16}`, `{"concurrency":{"min":16,"max":16}}`)
	f(`{"concurrency": "16"}`, `{"concurrency": {"max": 32}}`, `{"concurrency":{"min":16,"max":32}}`)
	f(`{"concurrency": {"max": 32}}`, `{"concurrency": 8}`, `{"concurrency":{"min":8,"max":8}}`)
	f(`{"queue":{"max":1}}`, `{"targets":{"http://b":2,"http://a":1},"queue":{"max_wait":"1s"}}`, `{"targets":{"http://a":1,"http://b":2},"queue":{"max":1,"max_wait":"1s"}}`)
	f(`{"targets":{"http://a?<&>":1}}`, `{"targets":{"http://b":null}}`, `{"targets":{"http://a?<&>":1}}`)
	// What is wrong stays as it is, to be reported.
	f(`{"cache":5}`, `{"queue":[],"colour":{"b":null,"a":[ 1 ]}}`, `{"cache":5,"queue":[],"colour":{"b":null,"a":[1]}}`)
	f(`{"cache":5}`, `{"cache":{"ttl":"1m"}}`, `{"cache":{"ttl":"1m"}}`)
	f("", `{"concurrency": 0, "weight": 1e3}`, `{"weight":1e3,"concurrency":0}`)
}

func TestMergeEditOfWhatIsNoDocument(t *testing.T) {
	f := func(old, patch, want string) {
		t.Helper()
		if got, err := config.MergeEdit([]byte(old), []byte(patch)); err == nil || got != nil || err.Error() != want {
			t.Errorf("%.40s and %.40s\ngot  %s, %v\nwant %s", old, patch, got, err, want)
		}
	}
	f("", "5", `want a JSON object, for example {"policies": ["5/minute"]}`)
	f("", `["5/minute"]`, `want a JSON object, for example {"policies": ["5/minute"]}`)
	f(`"x"`, "{}", `want a JSON object, for example {"policies": ["5/minute"]}`)
	f("", "{", "JSON: offset 1: the end: want a member name in quotes")
	f("", "nul", "JSON: offset 3: the end: want null")
	f("", `{"a":1,"a":2}`, `JSON: "/a": two members of this name: want one`)
	f("", "\xff", "JSON: offset 0: byte 0xff: want a value")
	f("", strings.Repeat("[", 101)+strings.Repeat("]", 101), "JSON: offset 100: nested too deeply: want at most 100 levels")
	f("", `{"weight":`+strings.Repeat(" ", 1<<20)+"1}", "1048588 bytes: want at most 1MiB")
}

func TestEditKeysAreThoseOfTheFile(t *testing.T) {
	for _, kind := range []string{"plan", "route", "upstream"} {
		if len(config.EditKeys(kind)) < 4 {
			t.Error(kind)
		}
		for _, key := range config.EditKeys(kind) {
			pattern := map[string]string{"plan": "plans.*.", "route": "routes[].", "upstream": "upstreams.*."}[kind] + key
			text, path := sample(pattern+".surprise", "1")
			if got := about(text, path); len(got) > 1 || len(got) == 1 && !strings.HasPrefix(got[0].Want, "unknown key: ") {
				t.Errorf("%s: %v", pattern, got)
			}
		}
	}
	if keys := config.EditKeys("caller"); keys != nil {
		t.Error(keys)
	}
}
