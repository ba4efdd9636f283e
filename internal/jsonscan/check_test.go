package jsonscan_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/inferweir/weir/internal/jsonscan"
)

func syntax(offset int, found, want string) error {
	return &jsonscan.SyntaxError{Offset: offset, Found: found, Want: want}
}

func duplicate(pointer string) error { return &jsonscan.DuplicateError{Pointer: pointer} }

func TestCheckAccepts(t *testing.T) {
	for _, in := range []string{
		// Scalars alone, and white space in every place.
		`0`, `-0`, `"x"`, `""`, `true`, `false`, `null`,
		" \t\r\n null \t\r\n ", "[ \n]", "{ \t}", " { \"a\" : [ 1 , 2 ] , \"b\" : { } } ",
		// Arrays and objects.
		`[]`, `[[]]`, `[""]`, `[null]`, `[1,null,"a",{}]`, `[[],[[]]]`, `{}`, `{"":0}`, `{"a":[]}`,
		`{"a":{"a":{"a":1}}}`, `{"a":1,"A":2}`, `{"a":1,"a ":2}`, `{"a":1,"aa":2,"aaa":3}`,
		`{"a\u0000":1,"a":2}`, `[{"a":1},{"a":2}]`, `{"a":{"b":1},"b":2}`, `{"a":null,"b":true}`,
		// Numbers.
		`[-0.0]`, `1.0`, `-1`, `123.456e78`, `0e+1`, `0E1`, `0e0`, `1E-2`, `1e+02`, `20e1`, `-123`,
		`1e400`, `-1e-400`, `9007199254740993`, `100000000000000000000000000000000000000`,
		`0.00000000000000000000000000000000000000000000000000000000000000000000000001`, `1e99999999999999999999`,
		// Strings.
		`"\"\\\/\b\f\n\r\t"`, `"\u0000"`, `"\u00e9"`, `"\uD83D\uDE00"`, `"\ud83d\ude00"`, `"\uFFFF"`, `"\u002c"`,
		`"\\u0000"`, `"\\\\"`, `"a/*b*/c"`, `"é"`, `"日本語"`, `"😀"`, "\"\u007f\"", "\"\u2028\u2029\"", "\"\ufeff\"",
		"\"\U0010ffff\"", "\"\ufffd\"", "\"\ud7ff\ue000\"", "\"\u0080\u07ff\u0800\"",
		`"1234567"`, `"12345678"`, `"123456789"`, `"1234567\""`, `"12345678\""`, `"1234567é9abcdef"`,
		// Lone surrogates: in the grammar, of no meaning.
		`"\ud800"`, `"\udc00"`, `"\ud800\ud800"`, `"\udc00\ud800"`, `"\ud800x"`, `"\ud800\n"`,
		`{"\ud800":1,"\ud801":2}`, `{"\udc00":1,"\ufffd":2}`,
	} {
		if err := jsonscan.Check([]byte(in), 0); err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if !json.Valid([]byte(in)) {
			t.Errorf("%s: encoding/json disagrees", in)
		}
	}
}

// What is wanted, in refused.
const (
	value, end, quote, digit = "a value", "the end", "a closing quote", "a digit"
	element, member, name    = "a comma or ]", "a comma or }", "a member name in quotes"
)

// refused are texts that are not JSON, and why.
var refused = []struct {
	in   string
	want error
}{
	// The whole.
	{``, syntax(0, end, value)},
	{` `, syntax(1, end, value)},
	{"\ufeff1", syntax(0, "byte 0xef", value)},
	{"\v1", syntax(0, "byte 0x0b", value)},
	{"\u00a01", syntax(0, "byte 0xc2", value)},
	{"1\x00", syntax(1, "byte 0x00", end)},
	{`1 2`, syntax(2, "'2'", end)},
	{`{}}`, syntax(2, "'}'", end)},
	{`[]]`, syntax(2, "']'", end)},
	{`{}//`, syntax(2, "'/'", end)},
	{`"a"b`, syntax(3, "'b'", end)},
	{`/**/1`, syntax(0, "'/'", value)},
	{`a`, syntax(0, "'a'", value)},
	{`'a'`, syntax(0, "'''", value)},
	{`NaN`, syntax(0, "'N'", value)},
	{`Infinity`, syntax(0, "'I'", value)},
	{`undefined`, syntax(0, "'u'", value)},
	// Literals.
	{`tru`, syntax(3, end, "true")},
	{`True`, syntax(0, "'T'", value)},
	{`trux`, syntax(3, "'x'", "true")},
	{`fals`, syntax(4, end, "false")},
	{`nul`, syntax(3, end, "null")},
	{`nan`, syntax(1, "'a'", "null")},
	{`truefalse`, syntax(4, "'f'", end)},
	// Numbers.
	{`-`, syntax(1, end, digit)},
	{`+1`, syntax(0, "'+'", value)},
	{`.5`, syntax(0, "'.'", value)},
	{`-.5`, syntax(1, "'.'", digit)},
	{`5.`, syntax(2, end, digit)},
	{`5.e1`, syntax(2, "'e'", digit)},
	{`01`, syntax(1, "'1'", end)},
	{`-01`, syntax(2, "'1'", end)},
	{`[00]`, syntax(2, "'0'", element)},
	{`1e`, syntax(2, end, digit)},
	{`1e+`, syntax(3, end, digit)},
	{`1eE2`, syntax(2, "'E'", digit)},
	{`1e1.5`, syntax(3, "'.'", end)},
	{`1.2.3`, syntax(3, "'.'", end)},
	{`--1`, syntax(1, "'-'", digit)},
	{`-a`, syntax(1, "'a'", digit)},
	{`-Infinity`, syntax(1, "'I'", digit)},
	{`0x1f`, syntax(1, "'x'", end)},
	{`1_000`, syntax(1, "'_'", end)},
	{`１`, syntax(0, "byte 0xef", value)},
	// Strings.
	{`"`, syntax(1, end, quote)},
	{`"abc`, syntax(4, end, quote)},
	{`"0123456789abcdef`, syntax(17, end, quote)},
	{`"\`, syntax(2, end, "an escape")},
	{`"\"`, syntax(3, end, quote)},
	{`"\x41"`, syntax(2, "'x'", `one of "\/bfnrtu`)},
	{`"\U0041"`, syntax(2, "'U'", `one of "\/bfnrtu`)},
	{`"\'"`, syntax(2, "'''", `one of "\/bfnrtu`)},
	{"\"\\\n\"", syntax(2, "byte 0x0a", `one of "\/bfnrtu`)},
	{`"\u"`, syntax(3, "'\"'", "a hexadecimal digit")},
	{`"\u00"`, syntax(5, "'\"'", "a hexadecimal digit")},
	{`"\u00g0"`, syntax(5, "'g'", "a hexadecimal digit")},
	{`"\u+123"`, syntax(3, "'+'", "a hexadecimal digit")},
	{`"\u00`, syntax(5, end, "a hexadecimal digit")},
	{`"\ud800\u"`, syntax(9, "'\"'", "a hexadecimal digit")},
	{"\"\n\"", syntax(1, "byte 0x0a", `control characters written as \u escapes`)},
	{"\"abcdefghij\tk\"", syntax(11, "byte 0x09", `control characters written as \u escapes`)},
	{"\"\x00\"", syntax(1, "byte 0x00", `control characters written as \u escapes`)},
	{"\"\x1f\"", syntax(1, "byte 0x1f", `control characters written as \u escapes`)},
	// UTF-8: stray, cut short, overlong, surrogate, beyond the last.
	{"\"\x80\"", syntax(1, "byte 0x80", "UTF-8")},
	{"\"\xe9\"", syntax(1, "byte 0xe9", "UTF-8")},
	{"\"\xff\"", syntax(1, "byte 0xff", "UTF-8")},
	{"\"é\xc3\"", syntax(3, "byte 0xc3", "UTF-8")},
	{"\"日\xe6\x97\"", syntax(4, "byte 0xe6", "UTF-8")},
	{"\"\xe6\x97", syntax(1, "byte 0xe6", "UTF-8")},
	{"\"\xf0\x9f\x98\"", syntax(1, "byte 0xf0", "UTF-8")},
	{"\"\xc0\xaf\"", syntax(1, "byte 0xc0", "UTF-8")},
	{"\"\xe0\x80\xaf\"", syntax(1, "byte 0xe0", "UTF-8")},
	{"\"\xf0\x80\x80\xaf\"", syntax(1, "byte 0xf0", "UTF-8")},
	{"\"\xed\xa0\x80\"", syntax(1, "byte 0xed", "UTF-8")},
	{"\"\xed\xbf\xbf\"", syntax(1, "byte 0xed", "UTF-8")},
	{"\"\xf4\x90\x80\x80\"", syntax(1, "byte 0xf4", "UTF-8")},
	{"\"\xe6\x97\x28\"", syntax(1, "byte 0xe6", "UTF-8")},
	{"{\"\xff\":1}", syntax(2, "byte 0xff", "UTF-8")},
	// Arrays.
	{`[`, syntax(1, end, value)},
	{`[1`, syntax(2, end, element)},
	{`[1,`, syntax(3, end, value)},
	{`[1,]`, syntax(3, "']'", value)},
	{`[,1]`, syntax(1, "','", value)},
	{`[1,,2]`, syntax(3, "','", value)},
	{`[1 2]`, syntax(3, "'2'", element)},
	{`[1}`, syntax(2, "'}'", element)},
	{`["a":1]`, syntax(4, "':'", element)},
	{`[1;2]`, syntax(2, "';'", element)},
	{`]`, syntax(0, "']'", value)},
	// Objects.
	{`{`, syntax(1, end, name)},
	{`{"a"`, syntax(4, end, "a colon")},
	{`{"a":`, syntax(5, end, value)},
	{`{"a":1`, syntax(6, end, member)},
	{`{"a":1,`, syntax(7, end, name)},
	{`{"a":1,}`, syntax(7, "'}'", name)},
	{`{,"a":1}`, syntax(1, "','", name)},
	{`{"a" 1}`, syntax(5, "'1'", "a colon")},
	{`{"a"}`, syntax(4, "'}'", "a colon")},
	{`{"a":}`, syntax(5, "'}'", value)},
	{`{"a"::1}`, syntax(5, "':'", value)},
	{`{"a":1 "b":2}`, syntax(7, "'\"'", member)},
	{`{"a":1]`, syntax(6, "']'", member)},
	{`{a:1}`, syntax(1, "'a'", name)},
	{`{'a':1}`, syntax(1, "'''", name)},
	{`{1:1}`, syntax(1, "'1'", name)},
	{`{null:1}`, syntax(1, "'n'", name)},
	{`{"a":1,/**/"b":2}`, syntax(7, "'/'", name)},
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range refused {
		if err := jsonscan.Check([]byte(c.in), 0); !reflect.DeepEqual(err, c.want) {
			t.Errorf("%q: %v, want %v", c.in, err, c.want)
		}
	}
}

func TestCheckRefusesTwoMembersOfOneName(t *testing.T) {
	many := func(last string) string {
		var b strings.Builder
		for i := range 100 {
			b.WriteString(`"a long name ` + strings.Repeat("x", i) + `":0,`)
		}
		return "{" + b.String() + `"` + last + `":0}`
	}
	for _, c := range []struct{ in, want string }{
		{`{"a":1,"a":1}`, "/a"},
		{`{"a":1,"b":2,"a":3}`, "/a"},
		{`{"":1,"":2}`, "/"},
		{`{"model":1,"\u006dodel":2}`, "/model"},
		{`{"\u006dodel":1,"mode\u006c":2}`, "/model"},
		{`{"😀":1,"\ud83d\ude00":2}`, "/😀"},
		{`{"\/":1,"/":2}`, "/~1"},
		{`{"a/b~c":{"d":0,"d":0}}`, "/a~1b~0c/d"},
		{`{"a":[0,{"b":[[{"c":1,"c":2}]]}]}`, "/a/1/b/0/0/c"},
		{`[[],{"longer than eight":1,"longer than eight":2}]`, "/1/longer than eight"},
		{`{"b":1,"a":1,"b":2,"a":2}`, "/b"},
		{many("a long name xxxxxxx"), "/a long name xxxxxxx"},
		{many(`a l\u006fng name `), "/a long name "},
		{`{"\ud800":1,"\uD800":2}`, "/\xed\xa0\x80"},
	} {
		want := duplicate(c.want)
		if err := jsonscan.Check([]byte(c.in), 0); !reflect.DeepEqual(err, want) {
			t.Errorf("%s: %v, want %v", c.in, err, want)
		}
	}
	if err := jsonscan.Check([]byte(many("another")), 0); err != nil {
		t.Errorf("many different names: %v", err)
	}
}

func TestCheckBoundsTheDepth(t *testing.T) {
	nested := func(n int) []byte {
		return []byte(strings.Repeat(`{"a":[`, n/2) + "1" + strings.Repeat("]}", n/2))
	}
	for _, c := range []struct {
		in    []byte
		depth int
		want  error
	}{
		{[]byte("1"), 1, nil},
		{[]byte("[[],{},[]]"), 2, nil},
		{[]byte("[[],{},[]]"), 1, &jsonscan.DepthError{Offset: 1, Depth: 1}},
		{nested(100), 0, nil},
		{nested(102), 0, &jsonscan.DepthError{Offset: 300, Depth: 100}},
		{nested(102), -1, &jsonscan.DepthError{Offset: 300, Depth: 100}},
		{nested(102), 102, nil},
		{nested(10_000), 1 << 30, nil},
		{nested(10_002), 1 << 30, &jsonscan.DepthError{Offset: 30_000, Depth: 10_000}},
	} {
		if err := jsonscan.Check(c.in, c.depth); !reflect.DeepEqual(err, c.want) {
			t.Errorf("%d bytes, depth %d: %v, want %v", len(c.in), c.depth, err, c.want)
		}
	}
}

func TestErrorsNameThePlaceAndWhatWouldBeRight(t *testing.T) {
	long := strings.Repeat("é", 100)
	for in, want := range map[string]string{
		`{"a":}`:                              `JSON: offset 5: '}': want a value`,
		`[[1]]`:                               `JSON: offset 1: nested too deeply: want at most 1 levels`,
		`{"a\n":1,"a\u000a":2}`:               `JSON: "/a\n": two members of this name: want one`,
		`{"` + long + `":1,"` + long + `":2}`: `JSON: "/` + strings.Repeat("é", 63) + `…": two members of this name: want one`,
	} {
		if err := jsonscan.Check([]byte(in), 1); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	var d *jsonscan.DuplicateError
	if err := jsonscan.Check([]byte(`{"`+long+`":1,"`+long+`":2}`), 1); !errors.As(err, &d) || d.Pointer != "/"+long {
		t.Errorf("%v, want the whole pointer %q", d, "/"+long)
	}
}
