package jsonscan_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/jsonscan"
)

func canonical(t testing.TB, body string, ignore ...string) string {
	t.Helper()
	out, err := jsonscan.AppendCanonical(nil, []byte(body), compile(t, ignore...), 0)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return string(out)
}

func TestCanonicalForm(t *testing.T) {
	for in, want := range map[string]string{
		" 1 ":   "1",
		"1.0":   "1.0",
		"1e0":   "1e0",
		"-0":    "-0",
		"1E400": "1E400",
		"[ 9007199254740993 , 9007199254740992 ]": "[9007199254740993,9007199254740992]",
		" [ ] ":                               "[]",
		" { } ":                               "{}",
		"[ [ ] , { } , null , true , false ]": "[[],{},null,true,false]",
		`{ "b" : 2 , "a" : 1 }`:               `{"a":1,"b":2}`,
		`{"b":{"d":[{"f":1,"e":2}],"c":3},"a":{"z":1,"y":{"x":1,"w":2}}}`: `{"a":{"y":{"w":2,"x":1},"z":1},"b":{"c":3,"d":[{"e":2,"f":1}]}}`,
		`{"a":{"z":1,"y":2},"b":[{"d":{"f":1,"e":2}},{"h":1,"g":2}]}`:     `{"a":{"y":2,"z":1},"b":[{"d":{"e":2,"f":1}},{"g":2,"h":1}]}`,
		`[{"b":{},"a":{"d":{},"c":[]}},{"x":{"z":1,"y":2}},3]`:            `[{"a":{"c":[],"d":{}},"b":{}},{"x":{"y":2,"z":1}},3]`,
		`{"b":1,"":2,"a":3,"B":4}`:                                        `{"":2,"B":4,"a":3,"b":1}`,
		`{"ab":1,"a":2,"a\u0000":3,"a!":4}`:                               `{"a":2,"a\u0000":3,"a!":4,"ab":1}`,
		`{"12345678b":1,"12345678":2,"12345678a":3}`:                      `{"12345678":2,"12345678a":3,"12345678b":1}`,
		`{"\u0062":1,"\u0061":2}`:                                         `{"a":2,"b":1}`,
		`{"😀":1,"\uffff":2,"é":3,"z":4}`:                                  "{\"z\":4,\"é\":3,\"\uffff\":2,\"😀\":1}",
		`"\u0041\/\u00e9\ud83d\ude00\u007f\u2028"`:                        "\"A/é😀\x7f\u2028\"",
		`"\u0022\u005c\u0008\u0009\u000a\u000c\u000d"`:                    `"\"\\\b\t\n\f\r"`,
		`"\"\\\b\t\n\f\r"`:                                                `"\"\\\b\t\n\f\r"`,
		`"\u0000\u001F\u000B plain \n text"`:                              `"\u0000\u001f\u000b plain \n text"`,
		`"\\u0041"`:                                                       `"\\u0041"`,
		`"\\\u0041"`:                                                      `"\\A"`,
	} {
		if got := canonical(t, in); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
}

func TestCanonicalFormKeepsApartWhatMayDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, in := range []string{
		"1", "1.0", "1e0", "10e-1", "-1", "0", "-0", "0.0", `"1"`, "[1]", `{"1":1}`, "true", `"true"`, "null", `"null"`, "[]", "{}", `""`, "[null]", `[""]`,
		"9007199254740992", "9007199254740993", "1e400", "1e401", "1e-400", "1E400",
		`"Go"`, `"go"`, `" go"`, `"go "`, `"é"`, `"e\u0301"`, `"\\u00e9"`, `"\u0000"`, `"\\u0000"`, `"\ufffd"`, `"\ufeff"`,
		`{"a":1}`, `{"a":1,"b":null}`, `{"a":1,"b":{}}`, `{"a":{"b":1}}`, `{"a":{},"b":1}`, `{"a\":1,\"b":1}`, `{"a":[1,2]}`, `{"a":[2,1]}`, `{"a":[[1],2]}`, `{"a":"1,2"}`,
	} {
		out := canonical(t, in)
		if other, ok := seen[out]; ok {
			t.Errorf("%s and %s both give %s", in, other, out)
		}
		seen[out] = in
	}
}

func TestCanonicalFormLeavesOutWhatIsIgnored(t *testing.T) {
	for _, c := range []struct {
		in, want string
		ignore   []string
	}{
		{`{"user":"x","model":"m","metadata":{"b":1,"a":2}}`, `{"model":"m"}`, []string{"/user", "/metadata"}},
		{`{"model":"m"}`, `{"model":"m"}`, []string{"/user", "/metadata"}},
		{`{"\u0075ser":1}`, `{}`, []string{"/user"}},
		{`{"a":1,"b":2,"c":3}`, `{"a":1,"c":3}`, []string{"/b"}},
		{`{"c":1,"b":2,"a":3}`, `{"a":3,"c":1}`, []string{"/b"}},
		{`{"c":1,"b":2,"a":3}`, `{"b":2,"c":1}`, []string{"/a"}},
		{`{"c":1,"b":2,"a":3}`, `{"a":3,"b":2}`, []string{"/c"}},
		{`{"c":1,"b":2,"a":3}`, `{}`, []string{"/c", "/b", "/a"}},
		{`{"c":1,"b":{"z":{"q":1,"p":2},"y":1},"a":{"f":1,"e":2}}`, `{"a":{"e":2,"f":1},"c":1}`, []string{"/b"}},
		{`{"c":{"z":1,"y":2},"b":{"z":1,"y":2},"a":{"z":1,"y":2}}`, `{"b":{"y":2,"z":1},"c":{"y":2}}`, []string{"/a", "/c/z"}},
		{`{"user":{"user":1},"a":{"user":1}}`, `{"a":{"user":1},"user":{}}`, []string{"/user/user"}},
		{`{"m":[{"id":1,"t":"x"},{"id":2,"t":"y"}]}`, `{"m":[{"id":1,"t":"x"},{"t":"y"}]}`, []string{"/m/1/id"}},
		{`[1,2,3]`, `[2,3]`, []string{"/0"}},
		{`[1,2,3]`, `[1,3]`, []string{"/1"}},
		{`[1]`, `[]`, []string{"/0"}},
	} {
		if got := canonical(t, c.in, c.ignore...); got != c.want {
			t.Errorf("%s without %q\ngot  %s\nwant %s", c.in, c.ignore, got, c.want)
		}
	}
}

func TestAppendCanonicalRefuses(t *testing.T) {
	const halves = "both halves of a surrogate pair"
	ignore := compile(t, "/user")
	for in, want := range map[string]error{
		``:                       syntax(0, "the end", "a value"),
		`{"a":1,}`:               syntax(7, "'}'", "a member name in quotes"),
		`{"b":1,"a":2,"b":3}`:    duplicate("/b"),
		`{"user":1,"user":2}`:    duplicate("/user"),
		`{"user":{"a":1,"a":2}}`: duplicate("/user/a"),
		`"\ud800"`:               syntax(1, `'\'`, halves),
		`"x\udc00"`:              syntax(2, `'\'`, halves),
		`"\ud800\n"`:             syntax(1, `'\'`, halves),
		`"\ud800\ud800\udc00"`:   syntax(1, `'\'`, halves),
		`"\ud83d\ude00\ude00"`:   syntax(13, `'\'`, halves),
		`"\ud83d\uzzzz"`:         syntax(1, `'\'`, halves),
		`{"\udfff":1}`:           syntax(2, `'\'`, halves),
		"\"\xed\xa0\x80\"":       syntax(1, "byte 0xed", "UTF-8"),
		"\"\xff\"":               syntax(1, "byte 0xff", "UTF-8"),
		`[[[]]]`:                 &jsonscan.DepthError{Offset: 2, Depth: 2},
	} {
		got, err := jsonscan.AppendCanonical([]byte("key:"), []byte(in), ignore, 2)
		if !reflect.DeepEqual(err, want) || string(got) != "key:" {
			t.Errorf("%q: %q, %v, want %v", in, got, err, want)
		}
	}
	_, err := jsonscan.AppendCanonical(nil, []byte("{}"), compile(t, "/user", ""), 0)
	if want := `ignore: "": names the whole body: want a member, for example /user`; fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestAppendCanonicalAppends(t *testing.T) {
	for _, ignore := range []*jsonscan.Paths{nil, {}, compile(t)} {
		for in, want := range map[string]string{`[1]`: `key:[1]`, `{"b":1,"a":[{"d":1,"c":2}]}`: `key:{"a":[{"c":2,"d":1}],"b":1}`} {
			dst := append(make([]byte, 0, 200), "key:"...)
			got, err := jsonscan.AppendCanonical(dst, []byte(in), ignore, 0)
			if err != nil || string(got) != want || &got[0] != &dst[0] {
				t.Errorf("%s: %s, %v, want %s in the same place", in, got, err, want)
			}
		}
	}
}

// worstCases are megabytes made to be slow: each is fatal to some simple way of
// doing it.
func worstCases(size int) map[string][]byte {
	repeat := func(head, each, tail string) []byte {
		return []byte(head + strings.Repeat(each, (size-len(head)-len(tail))/len(each)) + tail)
	}
	var up, down strings.Builder
	for i := 0; up.Len() < size; i++ {
		fmt.Fprintf(&up, `,"%x":1`, i)
	}
	for i := 0; down.Len() < size; i++ {
		fmt.Fprintf(&down, `,"%x":1`, 0xfffff-i)
	}
	shuffled := strings.Repeat(`{"b":`, 99) + `"` + strings.Repeat("x", size-99*(5+7)-2) + `"` + strings.Repeat(`,"a":1}`, 99)
	return map[string][]byte{
		"many members":                              []byte("{" + up.String()[1:] + "}"),
		"many members, reversed":                    []byte("{" + down.String()[1:] + "}"),
		"a long string below many shuffled objects": []byte(shuffled),
		"small shuffled objects":                    repeat("[1", `,{"b":1,"a":1}`, "]"),
		"shuffled objects of 40 members":            repeat("[1", `,{`+fortyNames()+`}`, "]"),
		"deep arrays":                               repeat("[1", ","+strings.Repeat("[", 99)+strings.Repeat("]", 99), "]"),
		"escaped names":                             repeat("[1", `,{"\u0062":1,"\u0061":1}`, "]"),
		"unicode escapes":                           repeat(`"`, `\u00e9`, `"`),
		"short escapes":                             repeat(`"`, `\n`, `"`),
		"two-byte text":                             repeat(`"`, `é`, `"`),
		"three-byte text":                           repeat(`"`, `日`, `"`),
		"alternating text":                          repeat(`"`, `aé`, `"`),
		"digits":                                    repeat("", "1", ""),
		"white space":                               repeat("1", " ", ""),
		"empty objects":                             repeat("[1", ",{}", "]"),
	}
}

func fortyNames() string {
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf(`"%x":1`, 99-i))
	}
	return strings.Join(names, ",")
}

// quickest returns the shortest time that f took of three.
func quickest(t *testing.T, f func() error) time.Duration {
	t.Helper()
	best := time.Hour
	for range 3 {
		start := time.Now()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	return best
}

func TestNoBodyTakesQuadraticTime(t *testing.T) {
	// The yardstick is an ordinary body of the same size, so that neither the
	// machine nor the race detector matters. Bodies take up to ten times as long;
	// comparing 26,000 names each with each takes hundreds of times as long.
	const size, most = 256 << 10, 80
	plain := []byte("[0" + strings.Repeat(`,{"a":1}`, size/8) + "]")
	yardstick := quickest(t, func() error { return jsonscan.Check(plain, 0) })
	for name, body := range worstCases(size) {
		took := quickest(t, func() error {
			if err := jsonscan.Check(body, 0); err != nil {
				return err
			}
			_, err := jsonscan.AppendCanonical(nil, body, nil, 0)
			return err
		})
		if took > most*yardstick {
			t.Errorf("%s: %v, %d times an ordinary body's %v", name, took, took/yardstick, yardstick)
		}
	}
}
