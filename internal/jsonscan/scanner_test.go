package jsonscan_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/internal/jsonscan"
)

// found is a copy of a Value.
type found struct {
	kind   jsonscan.Kind
	raw    string
	offset int
	long   bool
}

// kept is what a Scanner returns for what Find returns.
func kept(values []jsonscan.Value) []found {
	list := make([]found, 0, len(values))
	for _, v := range values {
		f := found{kind: v.Kind(), raw: string(v.Raw()), offset: v.Offset(), long: v.TooLong()}
		if len(f.raw) > jsonscan.MaxScanned {
			f.raw, f.long = "", true
		}
		list = append(list, f)
	}
	return list
}

// cut cuts text into pieces of 1 to most bytes.
func cut(text []byte, most int, r *rand.Rand) [][]byte {
	var pieces [][]byte
	for len(text) > 0 {
		n := min(1+r.IntN(most), len(text))
		pieces, text = append(pieces, text[:n]), text[n:]
	}
	return pieces
}

// scan writes pieces, each in memory that changes afterwards, and returns the
// values.
func scan(t interface{ Fatalf(string, ...any) }, p *jsonscan.Paths, depth int, pieces ...[]byte) ([]found, error) {
	s := p.NewScanner(depth)
	for _, piece := range pieces {
		own := append([]byte(nil), piece...)
		if n, err := s.Write(own); n != len(piece) || err != nil {
			t.Fatalf("Write(%q): %d, %v", piece, n, err)
		}
		for i := range own {
			own[i] = 'X'
		}
	}
	values, err := s.Values(nil)
	return kept(values), err
}

func scanText(t *testing.T, text string, pointers ...string) ([]found, error) {
	t.Helper()
	return scan(t, compile(t, pointers...), 0, []byte(text))
}

func TestScannerFindsWhatFindFindsInAnyPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, r := draw(t)
		all := pointers(tree, "")
		all = append(all[:min(len(all), 62)], "/no such", "/0/no such")
		r.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
		paths, err := jsonscan.Compile(all...)
		if err != nil {
			t.Fatal(err)
		}
		body := render(tree, r)
		values, err := paths.Find(nil, body, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, most := range []int{1, 5, 1 << 20} {
			if got, err := scan(t, paths, 0, cut(body, most, r)...); err != nil || !reflect.DeepEqual(got, kept(values)) {
				t.Fatalf("%q in pieces of %d at %q: %+v, %v, want %+v", body, most, all, got, err, kept(values))
			}
		}
	})
}

func TestScannerTellsWhatWasCompleteWhereTheTextBrokeOff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree, r := draw(t)
		all := pointers(tree, "")
		all = all[:min(len(all), 64)]
		paths, err := jsonscan.Compile(all...)
		if err != nil {
			t.Fatal(err)
		}
		body := render(tree, r)
		values, err := paths.Find(nil, body, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := r.IntN(len(body) + 1)
		whole, wantErr := paths.Find(nil, body[:n], 0)
		want := kept(whole)
		if wantErr != nil {
			for _, f := range kept(values) {
				// A number is complete when something follows.
				if end := f.offset + len(f.raw); end > n || end == n && f.kind == jsonscan.Number {
					f = found{}
				}
				want = append(want, f)
			}
		}
		got, err := scan(t, paths, 0, cut(body[:n], 7, r)...)
		if !reflect.DeepEqual(err, wantErr) || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q at %q: %+v, %v, want %+v, %v", body[:n], all, got, err, want, wantErr)
		}
	})
}

// FuzzScanner holds a Scanner against Find: the same values and errors, except
// for two members of one name.
func FuzzScanner(f *testing.F) {
	for i, s := range seeds {
		for _, p := range []string{"/model", "/messages/0/content", "/a~1b/m~0n/1", "/0/1", "", "/", "/a", "/2"} {
			f.Add([]byte(s), p, uint64(i))
		}
	}
	for _, c := range refused {
		f.Add([]byte(c.in), "/a", uint64(1))
	}
	f.Fuzz(func(t *testing.T, body []byte, pointer string, seed uint64) {
		paths, err := jsonscan.Compile("/model", pointer, "/a", "/a/a", "/0/a", "")
		if err != nil {
			return
		}
		const depth = 20
		r := rand.New(rand.NewPCG(seed, 3))
		values, want := paths.Find(nil, body, depth)
		var twice *jsonscan.DuplicateError
		for _, most := range []int{1, 6, 1 << 20} {
			got, err := scan(t, paths, depth, cut(body, most, r)...)
			if errors.As(want, &twice) {
				if errors.As(err, &twice) {
					t.Fatalf("%q: %v", body, err)
				}
				continue
			}
			if !reflect.DeepEqual(err, want) {
				t.Fatalf("%q in pieces of %d: %v, want %v", body, most, err, want)
			}
			if want == nil && !reflect.DeepEqual(got, kept(values)) {
				t.Fatalf("%q at %q in pieces of %d: %+v, want %+v", body, pointer, most, got, kept(values))
			}
		}
	})
}

func TestScannerRefusesWhatFindRefuses(t *testing.T) {
	p := compile(t, "/a")
	for _, c := range refused {
		for name, pieces := range map[string][][]byte{"whole": {[]byte(c.in)}, "byte by byte": cut([]byte(c.in), 1, rand.New(rand.NewPCG(1, 1)))} {
			if _, err := scan(t, p, 0, pieces...); !reflect.DeepEqual(err, c.want) {
				t.Errorf("%q %s: %v, want %v", c.in, name, err, c.want)
			}
		}
	}
	nested := strings.Repeat("[", 101) + strings.Repeat("]", 101)
	if _, err := scanText(t, nested, "/a"); !reflect.DeepEqual(err, &jsonscan.DepthError{Offset: 100, Depth: 100}) {
		t.Error(err)
	}
	deep := strings.Repeat("[", 10_001)
	if _, err := scan(t, p, 1<<30, []byte(deep)); !reflect.DeepEqual(err, &jsonscan.DepthError{Offset: 10_000, Depth: 10_000}) {
		t.Error(err)
	}
}

func TestScannerCountsTheLastOfTwoMembers(t *testing.T) {
	missing := found{}
	for _, c := range []struct {
		name, in string
		want     []found // of /error, /error/message and /error/0
	}{
		{"takes the last", `{"error":1,"error":2}`, []found{{kind: jsonscan.Number, raw: "2", offset: 19}, missing, missing}},
		{"compares names unescaped", `{"error":1,"err\u006fr":null}`, []found{{kind: jsonscan.Null, raw: "null", offset: 24}, missing, missing}},
		{"forgets what was within the first", `{"error":{"message":"a"},"error":[7]}`,
			[]found{{kind: jsonscan.Array, raw: "[7]", offset: 33}, missing, {kind: jsonscan.Number, raw: "7", offset: 34}}},
		{"forgets the first where the second begins", `{"error":{"message":"a"},"error":{`, []found{missing, missing, missing}},
		{"looks within both", `{"error":{"message":"a","message":{}},"error":{"message":"b"}}`,
			[]found{{kind: jsonscan.Object, raw: `{"message":"b"}`, offset: 46}, {kind: jsonscan.String, raw: `"b"`, offset: 57}, missing}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, _ := scanText(t, c.in, "/error", "/error/message", "/error/0"); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestValuesLongerThanMaxScannedAreNotMistaken(t *testing.T) {
	digits := strings.Repeat("1", jsonscan.MaxScanned)
	for text, want := range map[string]found{
		digits:                        {kind: jsonscan.Number, raw: digits},
		digits + "1":                  {kind: jsonscan.Number, long: true},
		`"` + digits[2:] + `"`:        {kind: jsonscan.String, raw: `"` + digits[2:] + `"`},
		`"` + digits[1:] + `"`:        {kind: jsonscan.String, long: true},
		"[" + digits[1:] + "]":        {kind: jsonscan.Array, long: true},
		`{"a":` + digits + "}":        {kind: jsonscan.Object, long: true},
		`{"a":` + digits[:4090] + "}": {kind: jsonscan.Object, raw: `{"a":` + digits[:4090] + "}"},
	} {
		for _, most := range []int{1, 100, 1 << 20} {
			p := compile(t, "")
			s := p.NewScanner(0)
			for _, piece := range cut([]byte(text), most, rand.New(rand.NewPCG(1, 1))) {
				if _, err := s.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			values, err := s.Values(nil)
			if got := kept(values); err != nil || !reflect.DeepEqual(got, []found{want}) {
				t.Fatalf("%.20s of %d bytes: %.80v, %v", text, len(text), got, err)
			}
			v := values[0]
			if !want.long {
				continue
			}
			textOf, isText := v.Text()
			float, isFloat := v.Float()
			n, err := v.Int()
			if v.Raw() != nil || textOf != "" || isText || float != 0 || isFloat || n != 0 || !errors.Is(err, jsonscan.ErrNotInteger) {
				t.Errorf("%s: raw %q, text %q, %v, float %v, %v, int %v, %v", v.Kind(), v.Raw(), textOf, isText, float, isFloat, n, err)
			}
		}
	}
}

func TestValuesMayBeReadBetweenWrites(t *testing.T) {
	s := compile(t, "/a", "").NewScanner(0)
	var got []string
	for _, piece := range []string{` {"a"`, `:1`, `2`, `}`, ` `, `x`, `}`} {
		if _, err := s.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
		values, err := s.Values(make([]jsonscan.Value, 1))
		got = append(got, fmt.Sprintf("%d %s %s %v", len(values), values[1].Raw(), values[2].Raw(), err))
	}
	if want := []string{
		"3   JSON: offset 5: the end: want a colon",
		"3   JSON: offset 7: the end: want a comma or }",
		"3   JSON: offset 8: the end: want a comma or }",
		`3 12 {"a":12} <nil>`, `3 12 {"a":12} <nil>`,
		`3 12 {"a":12} JSON: offset 10: 'x': want the end`, `3 12 {"a":12} JSON: offset 10: 'x': want the end`,
	}; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestScannerOfPathsWithoutPointersChecks(t *testing.T) {
	for _, p := range []*jsonscan.Paths{{}, compile(t)} {
		for in, want := range map[string]error{`{"a":[1]}`: nil, `{"a":[1}`: syntax(7, "'}'", element)} {
			if got, err := scan(t, p, 0, []byte(in)); len(got) != 0 || !reflect.DeepEqual(err, want) {
				t.Errorf("%s: %+v, %v, want %v", in, got, err, want)
			}
		}
	}
}

func TestMemoryOfAScannerDoesNotGrowWithTheText(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	for name, c := range map[string]struct{ start, again string }{
		"long names":          {`{"usage":1`, `,"` + long + `":1`},
		"one long name":       {`{"usage":1,"`, long},
		"long escaped name":   {`{"usage":1,"`, strings.Repeat(`\u0075`, 10<<10)},
		"one long text":       {`{"usage":"`, long},
		"one long number":     {`{"usage":1`, strings.Repeat("1", 64<<10)},
		"many names":          {`{"":0`, strings.Repeat(`,"a":1,"usage":{}`, 4<<10)},
		"nested all the time": {`[`, strings.Repeat(strings.Repeat(`[`, 99)+"1"+strings.Repeat(`]`, 99)+",", 300)},
		"many elements":       {`{"usage":[0`, strings.Repeat(`,{"a":{}}`, 8<<10)},
		"white space":         {``, strings.Repeat(" ", 64<<10)},
	} {
		s := compile(t, "/usage", "/usage/total", "/0/0/0", "").NewScanner(0)
		again := []byte(c.again)
		if _, err := s.Write([]byte(c.start)); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 64 {
			if _, err := s.Write(again); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 100<<10 {
			t.Errorf("%s: %d bytes for a text of %d", name, grown, 64*len(again))
		}
		if _, err := s.Values(nil); err == nil {
			t.Errorf("%s: the text is whole", name)
		}
	}
}

// embeddings is an answer with n numbers.
func embeddings(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	text := []byte(`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0`)
	for range n {
		text = strconv.AppendFloat(append(text, ','), r.NormFloat64()/30, 'g', 9, 64)
	}
	return append(text, `]}],"model":"m","usage":{"prompt_tokens":5,"total_tokens":5}}`...)
}

func BenchmarkScanner(b *testing.B) {
	p := compile(b, "/usage/prompt_tokens", "/usage/completion_tokens", "/usage/total_tokens", "/model", "/error")
	bodies := chatBodies()
	bodies["embeddings"] = embeddings(100_000)
	for name, body := range bodies {
		b.Run(name+"/scanner", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var room [8]jsonscan.Value
			for b.Loop() {
				s := p.NewScanner(0)
				for left := body; len(left) > 0; {
					n := min(32<<10, len(left))
					if _, err := s.Write(left[:n]); err != nil {
						b.Fatal(err)
					}
					left = left[n:]
				}
				if _, err := s.Values(room[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/find", func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var room [8]jsonscan.Value
			for b.Loop() {
				if _, err := p.Find(room[:0], body, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
