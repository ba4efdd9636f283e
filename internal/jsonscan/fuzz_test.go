package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/inferweir/weir/internal/jsonscan"
)

var seeds = []string{
	`{"model":"m","messages":[{"role":"user","content":"hi \"you\"\n\u00e9 日本 😀 \ud83d\ude00"}],"max_tokens":1e2,"stream":true,"n":null}`,
	` [ 1 , -0.0e+5 , 9007199254740993 , "\/\b\f\r\t\\" , [ ] , { } , false ] `, `{"b":{"d":1,"c":[{"f":0,"e":-1}]},"a":{}}`,
	`{"a":1,"\u0061":2}`, `{"":{"":[""]}}`, `"\ud800"`, `{"\udc00":"\udc00\ud800"}`, "\"\xff\"", `[[[[[[]]]]]]`, `01`, `{"a":}`, `"`, ``,
	`{"a/b":{"m~n":[10,20,30]},"0":{"1":"x"}}`, `{"k1":1,"k2":2,"k3":3,"k10":10,"longer than eight b":1,"longer than eight a":2}`,
}

// duplicates tells whether an object in body, which is valid, has two members of
// one name, and how deep body nests. certain is false if a name holds U+FFFD: it
// may stand for a lone surrogate, of which encoding/json makes one name of many.
func duplicates(t *testing.T, body []byte) (found bool, depth int, certain bool) {
	type level struct {
		seen   map[string]bool // nil in an array
		inName bool
	}
	levels, certain := []level{{}}, true
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // or it would stop at a number that no float64 holds
	for {
		token, err := d.Token()
		if err != nil {
			break
		}
		top := &levels[len(levels)-1]
		name, isText := token.(string)
		isName := top.seen != nil && top.inName && isText
		if top.seen != nil {
			top.inName = !top.inName
		}
		if isName {
			found = found || top.seen[name]
			certain = certain && !strings.ContainsRune(name, utf8.RuneError)
			top.seen[name] = true
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{seen: map[string]bool{}, inName: true})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
			if up := &levels[len(levels)-1]; up.seen != nil {
				up.inName = true
			}
		}
		depth = max(depth, len(levels)-1)
	}
	if len(levels) != 1 {
		t.Fatalf("encoding/json stopped within %q", body)
	}
	return found, depth, certain
}

// FuzzCheck holds Check against encoding/json: they differ in duplicates,
// invalid UTF-8 and the depth, and in nothing else.
func FuzzCheck(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := jsonscan.Check(body, 20)
		if !json.Valid(body) || !utf8.Valid(body) {
			if err == nil {
				t.Fatalf("%q passes", body)
			}
			return
		}
		found, depth, certain := duplicates(t, body)
		var tooDeep *jsonscan.DepthError
		var twice *jsonscan.DuplicateError
		switch {
		case depth > 20 && !found && certain:
			if !errors.As(err, &tooDeep) {
				t.Fatalf("%q: %v, want a depth error", body, err)
			}
		case depth <= 20 && found && certain:
			if !errors.As(err, &twice) {
				t.Fatalf("%q: %v, want a duplicate", body, err)
			}
		case depth <= 20 && certain:
			if err != nil {
				t.Fatalf("%q: %v", body, err)
			}
		case err != nil && !errors.As(err, &tooDeep) && !errors.As(err, &twice):
			t.Fatalf("%q: %v", body, err)
		}
	})
}

// exactInt is the reference for Value.Int.
func exactInt(number string) (int64, error) {
	r, ok := new(big.Rat).SetString(number)
	switch {
	case !ok:
		return 0, errors.New("not a number")
	case !r.IsInt():
		return 0, jsonscan.ErrNotInteger
	case r.Num().IsInt64():
		return r.Num().Int64(), nil
	case r.Sign() < 0:
		return math.MinInt64, jsonscan.ErrRange
	}
	return math.MaxInt64, jsonscan.ErrRange
}

// sameValue compares what Find found with what encoding/json decoded.
func sameValue(t *testing.T, v jsonscan.Value, want any) {
	t.Helper()
	if got := decode(t, v.Raw()); !reflect.DeepEqual(got, want) {
		t.Fatalf("found %q, want %v", v.Raw(), want)
	}
	wantText, wantIsText := want.(string)
	if text, ok := v.Text(); text != wantText || ok != wantIsText {
		t.Fatalf("%s: text %q, %v, want %q, %v", v.Raw(), text, ok, wantText, wantIsText)
	}
	wantBool, wantIsBool := want.(bool)
	if b, ok := v.Bool(); b != wantBool || ok != wantIsBool {
		t.Fatalf("%s: bool %v, %v", v.Raw(), b, ok)
	}
	number, isNumber := want.(json.Number)
	if !isNumber {
		if _, err := v.Int(); !errors.Is(err, jsonscan.ErrNotInteger) {
			t.Fatalf("%s: int: %v", v.Raw(), err)
		}
		if _, ok := v.Float(); ok {
			t.Fatalf("%s is a float", v.Raw())
		}
		return
	}
	float, err := strconv.ParseFloat(string(number), 64)
	if got, ok := v.Float(); ok != (err == nil) || ok && got != float {
		t.Fatalf("%s: float %v, %v", number, got, ok)
	}
	if _, exponent, _ := strings.Cut(strings.ToLower(string(number)), "e"); len(exponent) > 5 {
		return // too much for the reference
	}
	wantInt, wantErr := exactInt(string(number))
	if got, err := v.Int(); got != wantInt || !errors.Is(err, wantErr) {
		t.Fatalf("%s: int %d, %v, want %d, %v", number, got, err, wantInt, wantErr)
	}
}

// FuzzFind holds Find against decoding the whole body.
func FuzzFind(f *testing.F) {
	for _, s := range seeds {
		for _, p := range []string{"/model", "/messages/0/content", "/a~1b/m~0n/1", "/0/1", "", "/", "/a", "/2"} {
			f.Add([]byte(s), p)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer string) {
		p, err := jsonscan.Compile("/model", pointer)
		if err != nil {
			return
		}
		values, err := p.Find(nil, body, 0)
		if want := jsonscan.Check(body, 0); !reflect.DeepEqual(err, want) {
			t.Fatalf("%q: %v, but Check says %v", body, err, want)
		}
		if err != nil {
			return
		}
		if _, _, certain := duplicates(t, body); !certain {
			return
		}
		tree := decode(t, body)
		for i, pointer := range []string{"/model", pointer} {
			want, ok := at(tree, pointer)
			if (values[i].Kind() != jsonscan.Missing) != ok {
				t.Fatalf("%q at %q: found %q, want %v", body, pointer, values[i].Raw(), want)
			}
			if ok {
				sameValue(t, values[i], want)
				if !bytes.HasPrefix(body[values[i].Offset():], values[i].Raw()) {
					t.Fatalf("%q at %q: offset %d", body, pointer, values[i].Offset())
				}
			}
		}
	})
}

// FuzzCanonical checks that the canonical form means what the body means, that
// every way of writing the same tree has this form, and no other tree.
func FuzzCanonical(f *testing.F) {
	for i, s := range seeds {
		f.Add([]byte(s), uint64(i))
	}
	f.Fuzz(func(t *testing.T, body []byte, seed uint64) {
		form, err := jsonscan.AppendCanonical(nil, body, nil, 0)
		if err != nil {
			var syntax *jsonscan.SyntaxError
			if errors.As(err, &syntax) && syntax.Want == "both halves of a surrogate pair" {
				return
			}
			if want := jsonscan.Check(body, 0); !reflect.DeepEqual(err, want) {
				t.Fatalf("%q: %v, but Check says %v", body, err, want)
			}
			return
		}
		if err := jsonscan.Check(body, 0); err != nil {
			t.Fatalf("%q has a canonical form, but Check says %v", body, err)
		}
		tree := decode(t, body)
		if got := decode(t, form); !reflect.DeepEqual(got, tree) {
			t.Fatalf("%q became %q", body, form)
		}
		sameForm(t, form, tree, rand.New(rand.NewPCG(seed, 1)))
	})
}

// sameForm checks form against other ways of writing tree, and against a tree
// that differs in one scalar.
func sameForm(t interface{ Fatalf(string, ...any) }, form []byte, tree any, r *rand.Rand) {
	for _, other := range [][]byte{form, render(tree, r), render(tree, r)} {
		if got, err := jsonscan.AppendCanonical(nil, other, nil, 0); err != nil || !bytes.Equal(got, form) {
			t.Fatalf("%q: %v: gives %q, want %q", other, err, got, form)
		}
	}
	count := scalars(tree)
	if count == 0 {
		return
	}
	n := r.IntN(count)
	other := render(changed(tree, &n), r)
	if got, err := jsonscan.AppendCanonical(nil, other, nil, 0); err != nil || bytes.Equal(got, form) {
		t.Fatalf("%q: %v: gives %q too", other, err, got)
	}
}
