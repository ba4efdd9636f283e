package config_test

import (
	"reflect"
	"testing"

	"github.com/inferweir/weir/config"
)

// What comes over the network is refused or put in force, and what is in force reads back as
// the same.
func FuzzEdited(f *testing.F) {
	for _, doc := range []string{
		`{"policies":["5/minute",{"quota":5,"window":"1h","auto":{"min":1,"max":9}}],"weight":2,"budget":"1 USD/day"}`,
		`{"cache":{"ttl":"1m","auto":{"min":"1s"}},"max_body":"1KiB"}`, `["1/second"]`, `{"concurrency":7}`,
		`{"targets":{"http://10.0.0.1:8000":3},"concurrency":{"max":9},"queue":{"max":0,"max_wait":"1s"}}`, `{"a":"\ud800\u0000"}`,
	} {
		f.Add([]byte(doc), uint8(0))
		f.Add([]byte(doc), uint8(1))
		f.Add([]byte(doc), uint8(2))
	}
	f.Fuzz(func(t *testing.T, doc []byte, of uint8) {
		file := parse(t, editable)
		e := config.Edit{Kind: "plan", Name: "pro", Doc: doc}
		switch of % 3 {
		case 1:
			e.Kind, e.Name = "route", "chat"
		case 2:
			e.Kind, e.Name = "upstream", "llm"
		}
		changed, err := file.Edited([]config.Edit{e})
		if err != nil {
			return
		}
		if e.Doc, _ = changed.EditDoc(e.Kind, e.Name); len(e.Doc) == 0 {
			t.Fatalf("%s leaves nothing", doc)
		}
		again, err := file.Edited([]config.Edit{e})
		if err != nil {
			t.Fatalf("%s becomes %s: %v", doc, e.Doc, err)
		}
		if !reflect.DeepEqual(again, changed) {
			t.Fatalf("%s becomes %s: %+v", doc, e.Doc, config.Differences(changed, again))
		}
	})
}

// A file that is taken apart and put together again means the same.
func FuzzApplySets(f *testing.F) {
	f.Add(fileForSets, "routes.0.cache.ttl", "1m")
	f.Add(minimal, "upstreams.m.targets.0", "http://h")
	f.Add("a: [{b: {c: \"\\u0001\"}}, |\n  x\n]", "a.0.b", "")
	f.Fuzz(func(t *testing.T, text, path, value string) {
		before, err := config.Parse("x", []byte(text), testEnv)
		again, errSets := config.ApplySets("x", []byte(text), nil)
		if err == nil {
			if errSets != nil {
				t.Fatal(errSets)
			}
			if after, err := config.Parse("x", again, testEnv); err != nil || !reflect.DeepEqual(after, before) {
				t.Fatalf("%v\n%s", err, again)
			}
		}
		changed, err := config.ApplySets("x", []byte(text), map[string]any{path: value})
		if err != nil {
			return
		}
		if _, err := config.ApplySets("x", changed, nil); err != nil && len(changed) < 1<<19 {
			t.Fatalf("%v\n%s", err, changed)
		}
	})
}
