package jsonscan_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/inferweir/weir/internal/jsonscan"
)

func compile(t testing.TB, pointers ...string) *jsonscan.Paths {
	t.Helper()
	p, err := jsonscan.Compile(pointers...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// findOne returns what body has at pointer.
func findOne(t testing.TB, body, pointer string) jsonscan.Value {
	t.Helper()
	values, err := compile(t, pointer).Find(nil, []byte(body), 0)
	if err != nil || len(values) != 1 {
		t.Fatalf("%s at %q: %v, %v", body, pointer, values, err)
	}
	return values[0]
}

func TestFindsSeveralPointersInOrder(t *testing.T) {
	const body = ` {"messages":[{"role":"user","content":"hi"},{"role":"assistant"}],"stream" : true ,
		"\u006dodel":"weir-\u0073tory","max_tokens":null,"n":{"0":"zero","a/b":{"~":1.50}},"":[]} `
	pointers := []string{"/model", "/stream", "/max_tokens", "/max_completion_tokens", "/messages/1/role", "/messages/2",
		"/messages/-", "/messages/00", "/messages/0/role/0", "/n/0", "/n/a~1b/~0", "/", "/messages/1", "", "/model"}
	whole := body[1 : len(body)-1]
	want := []string{`"weir-\u0073tory"`, "true", "null", "missing", `"assistant"`, "missing",
		"missing", "missing", "missing", `"zero"`, "1.50", "[]", `{"role":"assistant"}`, whole, `"weir-\u0073tory"`}

	values, err := compile(t, pointers...).Find(nil, []byte(body), 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, v := range values {
		if v.Kind() == jsonscan.Missing {
			got = append(got, "missing")
			continue
		}
		got = append(got, string(v.Raw()))
		if at := body[v.Offset():]; !strings.HasPrefix(at, string(v.Raw())) {
			t.Errorf("%s: offset %d", pointers[i], v.Offset())
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestFindAppendsAndLeavesValuesAloneOnError(t *testing.T) {
	p := compile(t, "/a")
	one, err := p.Find(nil, []byte(`{"a":1}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	two, err := p.Find(one, []byte(`{"a":2}`), 0)
	if err != nil || len(two) != 2 || string(two[0].Raw()) != "1" || string(two[1].Raw()) != "2" {
		t.Errorf("%v, %v", two, err)
	}
	for in, want := range map[string]error{
		`{"a":1,"b":}`:                syntax(11, "'}'", "a value"),
		`{"a":1,"\u0061":2}`:          duplicate("/a"),
		`{"a":1,"b":[{"c":1,"c":2}]}`: duplicate("/b/0/c"),
		`{"a":1}{"a":2}`:              syntax(7, "'{'", "the end"),
		`{"a":[[]]}`:                  &jsonscan.DepthError{Offset: 6, Depth: 2},
	} {
		got, err := p.Find(one, []byte(in), 2)
		if in == `{"a":1,"b":[{"c":1,"c":2}]}` {
			got, err = p.Find(one, []byte(in), 3)
		}
		if !reflect.DeepEqual(err, want) || !reflect.DeepEqual(got, one) {
			t.Errorf("%s: %v, %v, want %v, %v", in, got, err, one, want)
		}
	}
}

func TestPathsWithoutPointersFindNothing(t *testing.T) {
	for _, p := range []*jsonscan.Paths{{}, compile(t)} {
		if got, err := p.Find(nil, []byte(`{"a":1}`), 0); got != nil || err != nil {
			t.Errorf("%v, %v", got, err)
		}
	}
}

func TestFoundValuesCannotBeExtendedIntoTheBody(t *testing.T) {
	body := []byte(`{"a":1,"b":2}`)
	values, err := compile(t, "/a").Find(nil, body, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(values[0].Raw(), "xyz"...)
	if string(body) != `{"a":1,"b":2}` {
		t.Errorf("the body became %s", body)
	}
}

func TestCompileRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"model":   `"model": want a JSON pointer, which starts with a slash, for example /model`,
		"#/model": `"#/model": want a JSON pointer, which starts with a slash, for example /model`,
		"/a~":     `"/a~": ~ not followed by 0 or 1: want ~0 for ~ and ~1 for /`,
		"/a~2b":   `"/a~2b": ~ not followed by 0 or 1: want ~0 for ~ and ~1 for /`,
		"/~01~/b": `"/~01~/b": ~ not followed by 0 or 1: want ~0 for ~ and ~1 for /`,
		"/a/\xff": `"/a/\xff": want a JSON pointer in UTF-8`,
	} {
		if p, err := jsonscan.Compile("/ok", in); p != nil || err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	if _, err := jsonscan.Compile(make([]string, 64)...); err != nil {
		t.Errorf("64 pointers: %v", err)
	}
	if _, err := jsonscan.Compile(make([]string, 65)...); err == nil || err.Error() != "65 JSON pointers: want at most 64" {
		t.Errorf("65 pointers: %v", err)
	}
}

func TestTildesInPointersAreUnescapedOnce(t *testing.T) {
	for pointer, name := range map[string]string{"/~01": "~1", "/~10": "/0", "/~00": "~0", "/~0~1": "~/"} {
		if v := findOne(t, `{"`+name+`":true}`, pointer); v.Kind() != jsonscan.Bool {
			t.Errorf("%s does not find %s", pointer, name)
		}
	}
}

func TestKindsAndTypedValues(t *testing.T) {
	type all struct {
		kind     string
		text     string
		isText   bool
		value    bool
		isBool   bool
		float    float64
		isNumber bool
	}
	for in, want := range map[string]all{
		`{}`:              {kind: "missing"},
		`{"v":null}`:      {kind: "null"},
		`{"v":true}`:      {kind: "bool", value: true, isBool: true},
		`{"v":false}`:     {kind: "bool", isBool: true},
		`{"v":[1]}`:       {kind: "array"},
		`{"v":{"v":"x"}}`: {kind: "object"},
		`{"v":""}`:        {kind: "string", isText: true},
		`{"v":"true"}`:    {kind: "string", text: "true", isText: true},
		`{"v":"\"\\\/\b\f\n\r\t\u0000é\u00e9\ud83d\ude00"}`: {kind: "string", text: "\"\\/\b\f\n\r\t\x00éé😀", isText: true},
		`{"v":"\ud800\udfffx\ud800x\udc00\ud800"}`:          {kind: "string", text: "\U000103ffx�x��", isText: true},
		`{"v":0.7}`:    {kind: "number", float: 0.7, isNumber: true},
		`{"v":-1E-2}`:  {kind: "number", float: -0.01, isNumber: true},
		`{"v":1e-999}`: {kind: "number", isNumber: true},
		`{"v":1e999}`:  {kind: "number"},
	} {
		v := findOne(t, in, "/v")
		got := all{kind: v.Kind().String()}
		got.text, got.isText = v.Text()
		got.value, got.isBool = v.Bool()
		got.float, got.isNumber = v.Float()
		if got != want {
			t.Errorf("%s: %+v, want %+v", in, got, want)
		}
	}
	if got := jsonscan.Kind(99).String(); got != "Kind(99)" {
		t.Errorf("unknown kind: %s", got)
	}
}

func TestIntIsExactOrSaysWhy(t *testing.T) {
	const notInteger, outside = "want an integer", "want an integer of at most 64 bits"
	zeros := strings.Repeat("0", 1000)
	for _, c := range []struct {
		in   string
		want int64
		err  string
	}{
		{"0", 0, ""}, {"-0", 0, ""}, {"0.0", 0, ""}, {"-0e5", 0, ""}, {"0e99999999999999999999", 0, ""}, {"0." + zeros, 0, ""},
		{"7", 7, ""}, {"-12", -12, ""}, {"1.0", 1, ""}, {"1e3", 1000, ""}, {"1E+3", 1000, ""}, {"-1.5e1", -15, ""},
		{"20e-1", 2, ""}, {"0.002e3", 2, ""}, {"1" + zeros + "e-1000", 1, ""}, {"0." + zeros + "1e1001", 1, ""},
		{"100000.00", 100000, ""}, {"9007199254740993", 9007199254740993, ""}, {"9007199254740993.0", 9007199254740993, ""},
		{"999999999999999999", 999999999999999999, ""}, {"-99999999999999999", -99999999999999999, ""},
		{"9223372036854775807", math.MaxInt64, ""}, {"-9223372036854775808", math.MinInt64, ""},
		{"9.223372036854775807e18", math.MaxInt64, ""}, {"-922337203685477580.8e1", math.MinInt64, ""},
		{"9223372036854775808", math.MaxInt64, "9223372036854775808: " + outside},
		{"-9223372036854775809", math.MinInt64, "-9223372036854775809: " + outside},
		{"9999999999999999999", math.MaxInt64, "9999999999999999999: " + outside},
		{"18446744073709551617", math.MaxInt64, "18446744073709551617: " + outside},
		{"1e19", math.MaxInt64, "1e19: " + outside}, {"-1e400", math.MinInt64, "-1e400: " + outside},
		{"1e99999999999999999999", math.MaxInt64, "1e99999999999999999999: " + outside},
		{"1.5", 0, "1.5: " + notInteger}, {"1e-1", 0, "1e-1: " + notInteger}, {"9223372036854775807.5", 0, "9223372036854775807.5: " + notInteger},
		{"1e-99999999999999999999", 0, "1e-99999999999999999999: " + notInteger}, {"12e-2", 0, "12e-2: " + notInteger},
		{`"1"`, 0, "string: " + notInteger}, {"null", 0, "null: " + notInteger}, {"true", 0, "bool: " + notInteger},
		{"[1]", 0, "array: " + notInteger}, {`{"a":1}`, 0, "object: " + notInteger},
	} {
		got, err := findOne(t, c.in, "").Int()
		message := ""
		if err != nil {
			message = err.Error()
		}
		if got != c.want || message != c.err {
			t.Errorf("%.50s: %d, %q, want %d, %q", c.in, got, message, c.want, c.err)
		}
		if isRange := strings.HasSuffix(c.err, outside); errors.Is(err, jsonscan.ErrRange) != isRange ||
			errors.Is(err, jsonscan.ErrNotInteger) != (c.err != "" && !isRange) {
			t.Errorf("%.50s: %v wraps the wrong error", c.in, err)
		}
	}
	if _, err := (jsonscan.Value{}).Int(); fmt.Sprint(err) != "missing: want an integer" {
		t.Errorf("missing: %v", err)
	}
}

func TestBodiesAreScannedWithoutAllocations(t *testing.T) {
	p, none := compile(t, chatPointers...), compile(t)
	values, form := make([]jsonscan.Value, 0, len(chatPointers)), make([]byte, 0, 1<<20)
	for name, body := range chatBodies() {
		scan := func() {
			var err error
			if values, err = p.Find(values[:0], body, 0); err != nil || len(values) != len(chatPointers) {
				t.Fatal(len(values), err)
			}
			if form, err = jsonscan.AppendCanonical(form[:0], body, none, 0); err != nil || len(form) == 0 {
				t.Fatal(len(form), err)
			}
		}
		// The least of many: a garbage collection takes the memory that scans
		// share, and the race detector has it lost now and then.
		least := testing.AllocsPerRun(1, scan)
		for range 50 {
			least = min(least, testing.AllocsPerRun(1, scan))
		}
		if least > 0 {
			t.Errorf("%s: %v allocations, want none", name, least)
		}
	}
}

func TestAScanLeavesNothingToTheNext(t *testing.T) {
	p := compile(t, "/b")
	for range 3 { // so that some have the memory of others
		for _, c := range []struct {
			in, form string
			err      error
		}{
			{`{"\u0062":1,"a":{"d":1,"c":2}}`, `{"a":{"c":2,"d":1}}`, nil},
			{`{"a":{"d":1,"c":2},"a":`, "", syntax(23, end, value)},
			{`{"c":1,"a":{"\u0063":1,"c":2}}`, "", duplicate("/a/c")},
			{`{"d":{"f":1,"e":{"a":1,"\u0061":2`, "", syntax(33, end, member)},
			{`{"c":1,"a":2}`, `{"a":2,"c":1}`, nil},
			{`[]`, `[]`, nil},
		} {
			got, err := jsonscan.AppendCanonical(nil, []byte(c.in), p, 0)
			if string(got) != c.form || !reflect.DeepEqual(err, c.err) {
				t.Errorf("%s: %s, %v, want %s, %v", c.in, got, err, c.form, c.err)
			}
			if _, err := p.Find(nil, []byte(c.in), 0); !reflect.DeepEqual(err, c.err) {
				t.Errorf("%s: %v, want %v", c.in, err, c.err)
			}
		}
	}
}
