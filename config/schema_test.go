package config_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
)

// sample is a file in which value stands at the place that pattern names, and
// the path of that place.
func sample(pattern, value string) (text, path string) {
	path = strings.ReplaceAll(strings.ReplaceAll(pattern, "*", "x"), "[]", "[0]")
	steps := strings.Split(pattern, ".")
	for _, step := range slices.Backward(steps) {
		name, isList := strings.CutSuffix(step, "[]")
		if isList {
			value = "[" + value + "]"
		}
		if name == "*" {
			name = "x"
		}
		value = fmt.Sprintf("{%q: %s}", name, value)
	}
	return value + "\n", path
}

// about returns what is said of path in a file.
func about(text, path string) []config.Mistake {
	_, err := config.Parse("weir.yaml", []byte(text), testEnv)
	mistakes, _ := errors.AsType[config.Mistakes](err)
	return slices.DeleteFunc(slices.Clone(mistakes), func(m config.Mistake) bool { return m.Path != path })
}

func TestEveryLaterKeyIsKnownAndRefused(t *testing.T) {
	keys := config.LaterKeys()
	if len(keys) != 5 {
		t.Fatalf("%d keys", len(keys))
	}
	for _, key := range keys {
		for _, value := range []string{"1", "null", "{a: [b]}"} {
			text, path := sample(key, value)
			equal(t, about(text, path), []config.Mistake{{File: "weir.yaml", Line: 1, Path: path, Want: "not yet supported"}})
		}
	}
}

func TestTheWholeSchemaIsKnown(t *testing.T) {
	text, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = config.Parse("full.yaml", text, testEnv)
	mistakes, _ := errors.AsType[config.Mistakes](err)
	var got []string
	for _, m := range mistakes {
		if m.Want != "not yet supported" {
			t.Error(m)
		}
		got = append(got, m.Path)
	}
	equal(t, got, []string{
		"routes[0].cache.semantic",
	})
}

// holdsKeys holds for the structs that are mappings in the file.
func holdsKeys(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Tag.Get("yaml") != ""
}

// supported lists every key of t with its tags: those that hold keys too.
func supported(t reflect.Type, prefix string, tags map[string]reflect.StructTag) {
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		key, inner := prefix+name, f.Type
		if f.Type.Kind() == reflect.Pointer {
			inner = f.Type.Elem()
		}
		if f.Type.Kind() == reflect.Slice {
			inner = f.Type.Elem()
			if holdsKeys(inner) {
				key += "[]"
			}
		}
		if f.Type.Kind() == reflect.Map && holdsKeys(f.Type.Elem()) {
			key, inner = key+".*", f.Type.Elem()
		}
		if holdsKeys(inner) {
			supported(inner, key+".", tags)
		} else {
			tags[key] = f.Tag
		}
	}
}

// describedAs is the key under which the reference has it. Plans, routes and
// overrides have the same policies: they are described once.
func describedAs(key string) string {
	for _, owner := range []string{"routes[]", "callers.overrides[]"} {
		if rest, ok := strings.CutPrefix(key, owner+".policies[]."); ok {
			return "plans.*.policies[]." + rest
		}
	}
	return key
}

// bounds are how the reference says what a number is between.
func bounds(tag reflect.StructTag) string {
	least, most := tag.Get("min"), tag.Get("max")
	if most == "" {
		return ""
	}
	return "rom " + least + " to " + most
}

func TestTheReferenceHasEveryKey(t *testing.T) {
	reference, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(reference)) {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			key, _, _ := strings.Cut(rest, "`")
			if lines[key] != "" {
				t.Errorf("%s has two lines", key)
			}
			lines[key] = line
		}
	}
	tags := map[string]reflect.StructTag{}
	supported(reflect.TypeFor[config.Config](), "", tags)
	if len(tags) < 110 {
		t.Fatalf("%d keys", len(tags))
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		key = describedAs(key)
		value := tags[key].Get("default")
		switch line := lines[key]; {
		case line == "":
			t.Errorf("no line for %s", key)
		case value != "" && !strings.Contains(line, "`"+value+"`"):
			t.Errorf("%s: no default %s in %s", key, value, line)
		case !strings.Contains(line, bounds(tags[key])):
			t.Errorf("%s: no bounds %q in %s", key, bounds(tags[key]), line)
		case strings.Count(line, "|")-strings.Count(line, `\|`) != 5:
			t.Errorf("want four cells: %s", line)
		}
	}
	for key := range lines {
		holds := func(k string) bool { return k == key || strings.HasPrefix(k, key+"[]") }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(tags)), holds) {
			t.Errorf("the reference has a key that does not exist: %s", key)
		}
	}
	for _, key := range config.LaterKeys() {
		key = describedAs(key)
		if !strings.Contains(string(reference), "`"+key+"`") {
			t.Errorf("no word of %s", key)
		}
	}
}
