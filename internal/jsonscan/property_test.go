package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/internal/jsonscan"
)

// trees generates what JSON can say, as encoding/json decodes it.
func trees(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		text := rapid.OneOf(rapid.StringN(0, 12, -1), rapid.SampledFrom([]string{"", "a", "b", "model", "12345678", "12345678a", "12345678b", "~/", "0", "\x00", "\uffff", "😀"}))
		kinds := 6
		if depth == 0 {
			kinds = 4
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return text.Draw(t, "text")
		case 3:
			return json.Number(numbers().Draw(t, "number"))
		case 4:
			return rapid.SliceOfN(trees(depth-1), 0, 4).Draw(t, "array")
		}
		return rapid.MapOfN(text, trees(depth-1), 0, 40/(4-depth)/(4-depth)).Draw(t, "object")
	})
}

func numbers() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?`),
		rapid.SampledFrom([]string{"0", "-0", "1", "1.0", "1e3", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "9007199254740993"}),
	)
}

func draw(t *rapid.T) (any, *rand.Rand) {
	tree := trees(3).Draw(t, "tree")
	return tree, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
}

func TestEveryWayToWriteATreeHasOneCanonicalForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, r := draw(t)
		form, err := jsonscan.AppendCanonical(nil, render(tree, r), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		sameForm(t, form, tree, r)
	})
}

func TestIgnoredMembersLeaveNoTrace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, r := draw(t)
		all := pointers(tree, "")
		slices.Sort(all)
		if len(all) == 1 {
			return
		}
		ignored := all[1+r.IntN(len(all)-1)]
		paths, err := jsonscan.Compile(ignored)
		if err != nil {
			t.Fatal(err)
		}
		got, err := jsonscan.AppendCanonical(nil, render(tree, r), paths, 0)
		if err != nil {
			t.Fatal(err)
		}
		want, err := jsonscan.AppendCanonical(nil, render(without(tree, ignored), r), nil, 0)
		if err != nil || string(got) != string(want) {
			t.Fatalf("without %q: %s, want %s (%v)", ignored, got, want, err)
		}
	})
}

func TestEverythingInATreeIsFoundInOnePass(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		tree, source := draw(r)
		all := pointers(tree, "")
		all = append(all[:min(len(all), 62)], "/no such", "/0/no such")
		paths, err := jsonscan.Compile(all...)
		if err != nil {
			r.Fatal(err)
		}
		body := render(tree, source)
		values, err := paths.Find(nil, body, 0)
		if err != nil || len(values) != len(all) {
			r.Fatalf("%q: %d values, %v", body, len(values), err)
		}
		for i, v := range values {
			want, ok := at(tree, all[i])
			if ok != (v.Kind() != jsonscan.Missing) {
				r.Fatalf("%q at %q: %q", body, all[i], v.Raw())
			}
			if ok {
				sameValue(t, v, want)
			}
		}
	})
}

func TestAMemberMoreOfTheSameNameIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, r := draw(t)
		object, ok := tree.(map[string]any)
		if !ok || len(object) == 0 {
			return
		}
		list := names(object)
		again := list[r.IntN(len(list))]
		one, two := render(object, r), render(map[string]any{again: nil}, r)
		body := string(one[:bytes.LastIndexByte(one, '}')]) + "," + string(two[bytes.IndexByte(two, '{')+1:])
		want := &jsonscan.DuplicateError{Pointer: pointers(map[string]any{again: nil}, "")[1]}
		_, canonicalErr := jsonscan.AppendCanonical(nil, []byte(body), nil, 0)
		for _, err := range []error{jsonscan.Check([]byte(body), 0), canonicalErr} {
			var got *jsonscan.DuplicateError
			if !errors.As(err, &got) || *got != *want {
				t.Fatalf("%q: %v, want %v", body, err, want)
			}
		}
	})
}
