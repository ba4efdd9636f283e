package config_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/config"
)

// drawDoc draws a document for one of what editable has, not always a right one.
func drawDoc(t *rapid.T, kind string) map[string]any {
	from := func(label string, values ...any) any { return rapid.SampledFrom(values).Draw(t, label) }
	doc := map[string]any{}
	set := func(into map[string]any, key string, value any) {
		if rapid.IntRange(0, 2).Draw(t, key) == 0 {
			into[key] = value
		}
	}
	policies := []any{}
	for _, p := range rapid.SliceOfN(rapid.Custom(drawPolicy), 0, 3).Draw(t, "policies") {
		policies = append(policies, written([]config.Policy{p})[0])
	}
	if rapid.Bool().Draw(t, "short") {
		policies = []any{"5/minute", from("second", "1000 tokens/hour", "3 concurrent", "7 per 90s")}
	}
	switch kind {
	case "plan":
		set(doc, "policies", policies)
		set(doc, "weight", from("weight", 1, 7, 1000))
		set(doc, "priority", from("priority", "critical", "standard", "batch"))
		set(doc, "budget", from("budget", "20 USD/month", "0.5 USD per day"))
	case "route":
		set(doc, "policies", policies)
		set(doc, "max_body", from("max_body", "1MiB", 17, "10KB"))
		cache, auto := map[string]any{}, map[string]any{}
		set(auto, "min", from("min", "1ms", "10m"))
		set(auto, "max", from("max", "10m", "2h"))
		set(cache, "auto", auto)
		set(cache, "ttl", from("ttl", "10m", "90s", "2h"))
		set(cache, "stale_while_revalidate", from("swr", "0s", "1h30m"))
		set(cache, "stale_if_error", from("sie", "0s", "7d"))
		set(doc, "cache", cache)
	case "upstream":
		limits, queue, targets := map[string]any{}, map[string]any{}, map[string]any{}
		set(limits, "min", from("least", 1, 8, 20))
		set(limits, "max", from("most", 8, 20, 64))
		set(doc, "concurrency", from("limits", limits, limits, 16, 64))
		set(queue, "max", from("room", 0, 1, 65535))
		set(queue, "max_wait", from("wait", "1ms", "1h"))
		set(doc, "queue", queue)
		set(targets, "http://10.0.0.1:8000", from("first", 1, 1000))
		set(targets, "http://10.0.0.2:8000", from("other", 1, 5))
		set(doc, "targets", targets)
	}
	return doc
}

func drawEdit(t *rapid.T) config.Edit {
	object := rapid.SampledFrom([][2]string{{"plan", "default"}, {"plan", "pro"}, {"route", "chat"}, {"upstream", "llm"}}).Draw(t, "object")
	doc, err := json.Marshal(drawDoc(t, object[0]))
	if err != nil {
		t.Fatal(err)
	}
	return config.Edit{Kind: object[0], Name: object[1], Doc: doc}
}

func same(t *rapid.T, got, want *config.Config) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got\n%+v\nwant\n%+v\ndifferences %+v", got, want, config.Differences(want, got))
	}
}

func TestEditDocReadsBackAsTheSame(t *testing.T) {
	file := parse(t, editable)
	tried, accepted := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		e := drawEdit(t)
		tried++
		changed, err := file.Edited([]config.Edit{e})
		if err != nil {
			return
		}
		accepted++
		doc, ok := changed.EditDoc(e.Kind, e.Name)
		if !ok || !json.Valid(doc) {
			t.Fatalf("%s", doc)
		}
		again, err := file.Edited([]config.Edit{{Kind: e.Kind, Name: e.Name, Doc: doc}})
		if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
		same(t, again, changed)
	})
	if accepted < tried/10 {
		t.Errorf("%d of %d edits were right", accepted, tried)
	}
}

func TestAMergedEditIsBothAfterEachOther(t *testing.T) {
	file := parse(t, editable)
	tried, accepted := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		first := drawEdit(t)
		doc, err := json.Marshal(drawDoc(t, first.Kind))
		if err != nil {
			t.Fatal(err)
		}
		second := config.Edit{Kind: first.Kind, Name: first.Name, Doc: doc}
		tried++
		once, err := file.Edited([]config.Edit{first})
		if err != nil {
			return
		}
		twice, errTwice := once.Edited([]config.Edit{second})
		merged, err := config.MergeEdit(first.Doc, second.Doc)
		if err != nil {
			t.Fatal(err)
		}
		got, errMerged := file.Edited([]config.Edit{{Kind: first.Kind, Name: first.Name, Doc: merged}})
		if (errTwice == nil) != (errMerged == nil) {
			t.Fatalf("after each other %v, merged %v", errTwice, errMerged)
		}
		if errTwice != nil {
			return
		}
		accepted++
		same(t, got, twice)
		both, err := file.Edited([]config.Edit{first, second})
		if err != nil {
			t.Fatal(err)
		}
		same(t, both, twice)
	})
	if accepted < tried/10 {
		t.Errorf("%d of %d edits were right", accepted, tried)
	}
}

func TestAMergeIsInOneForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := drawEdit(t).Doc
		merged, err := config.MergeEdit(nil, doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, of := range [][2][]byte{{merged, nil}, {merged, merged}, {nil, merged}, {doc, doc}, {merged, doc}} {
			again, err := config.MergeEdit(of[0], of[1])
			if err != nil || string(again) != string(merged) {
				t.Fatalf("%s and %s are %s, %v; want %s", of[0], of[1], again, err, merged)
			}
		}
	})
}
