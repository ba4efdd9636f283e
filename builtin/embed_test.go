package builtin

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"
)

func loadEmbed(t testing.TB) *embedding {
	t.Helper()
	e, err := loadEmbedding(embedFile())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func cosine(t *testing.T, e *embedding, a, b string) float64 {
	t.Helper()
	v, _ := e.embed(a)
	w, _ := e.embed(b)
	var sum float64
	for i := range v {
		sum += float64(v[i]) * float64(w[i])
	}
	return sum
}

func TestEmbeddingsFileIsTheOneThatItsNoticeTells(t *testing.T) {
	sum := fmt.Sprintf("%x", sha256.Sum256(embedFile()))
	for name, want := range map[string]string{
		"SHA256SUMS": sum + "  weir-embed.bin\n",
		"NOTICE":     fmt.Sprintf("Size:      %d bytes\nSHA-256:   %s\n", len(embedFile()), sum),
	} {
		text, err := os.ReadFile("models/glove/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s: want %s", name, want)
		}
	}
}

func TestEmbedComputesWhatAnotherProgramComputes(t *testing.T) {
	var known struct {
		Sentences []struct {
			Text   string
			Words  int
			Begins []float32
		}
	}
	readJSON(t, "testdata/embed-known.json", &known)
	if len(known.Sentences) < 8 {
		t.Fatalf("only %d sentences", len(known.Sentences))
	}
	e := loadEmbed(t)
	for _, s := range known.Sentences {
		got, words := e.embed(s.Text)
		if words != s.Words || len(got) != 100 {
			t.Errorf("%q: %d words, %d numbers, want %d and 100", s.Text, words, len(got), s.Words)
		}
		for i, want := range s.Begins {
			if math.Abs(float64(got[i]-want)) > 1e-5 {
				t.Errorf("%q: begins %v, want %v", s.Text, got[:len(s.Begins)], s.Begins)
				break
			}
		}
	}
}

func TestEmbedTellsParaphrasesFromOtherQuestions(t *testing.T) {
	var pairs struct {
		Triples []struct{ Text, Paraphrase, Unrelated string }
	}
	readJSON(t, "testdata/embed-pairs.json", &pairs)
	if len(pairs.Triples) < 20 {
		t.Fatalf("only %d pairs", len(pairs.Triples))
	}
	e := loadEmbed(t)
	var same, other []float64
	behind := 0
	for _, c := range pairs.Triples {
		s, o := cosine(t, e, c.Text, c.Paraphrase), cosine(t, e, c.Text, c.Unrelated)
		if s <= o {
			t.Logf("%q: paraphrase %.3f, unrelated %.3f", c.Text, s, o)
			behind++
		}
		same, other = append(same, s), append(other, o)
	}
	above := 0.0
	for _, s := range same {
		for _, o := range other {
			if s > o {
				above++
			}
		}
	}
	auc := above / float64(len(same)*len(other))
	slices.Sort(same)
	slices.Sort(other)
	n := len(same)
	sameMedian, otherMedian := (same[(n-1)/2]+same[n/2])/2, (other[(n-1)/2]+other[n/2])/2
	t.Logf("%d pairs: paraphrases %.3f (lowest %.3f), unrelated %.3f (highest %.3f), AUC %.4f, %d behind", n, sameMedian, same[0], otherMedian, other[n-1], auc, behind)
	if sameMedian <= .75 || otherMedian >= .3 || auc < .97 || 20*behind > n {
		t.Error("want medians above .75 and below .3, AUC of .97 or more, at most one of 20 behind its partner")
	}
}

func TestEmbed(t *testing.T) {
	e := loadEmbed(t)
	same := func(a, b string) {
		t.Helper()
		if c := cosine(t, e, a, b); c < 1-1e-5 {
			t.Errorf("%q and %q: cosine %v, want 1", a, b, c)
		}
	}
	below := func(most float64, a, b string) {
		t.Helper()
		if c := cosine(t, e, a, b); c > most {
			t.Errorf("%q and %q: cosine %v, want at most %v", a, b, c, most)
		}
	}
	t.Run("reads words and not how they are set", func(t *testing.T) {
		same("Dog bites man.", "MAN  bites\n\tdog!")
		same("We can’t", "we can't")
		same("you won't see", "YOU not see")
		same("10,000 apples", "apples: 10000")
		same("well-known", "Well-Known")
		same("blue-zebra", "zebra blue")
	})
	t.Run("reads numbers as wholes", func(t *testing.T) {
		below(.9, "It happened in 1914", "It happened in 1941")
		below(.9, "version 3.5", "version 35")
		below(.4, "1914", "1941")
	})
	t.Run("reads negation", func(t *testing.T) {
		below(.999, "I do like fish", "I don't like fish")
		same("we do not like fish", "we do like fish: not")
	})
	t.Run("compares unknown words by their spelling", func(t *testing.T) {
		below(.3, "qwzblat", "vrunkpof")
		if c := cosine(t, e, "kubernetesque", "kubernetesques"); c < .6 || c > .99 {
			t.Errorf("two forms of an unknown word: cosine %v", c)
		}
		same("明日は雨です", "「明日は雨です」")
		below(.4, "明日は雨です", "私は学生です")
		below(.4, "🌧", "🌞")
	})
	t.Run("gives every text length 1, and counts what it reads", func(t *testing.T) {
		for text, want := range map[string]int{
			"": 0, " \n": 0, "?!": 0, "a": 1, "I": 1, "the": 1, "it's": 1, "n't": 1, "'": 0, "a-b": 1, "3.5.1": 1, "½": 1,
			"e\u0301te\u0301": 1, "\u0301": 0, "\xff\xfe": 2, "--x--": 1, "don't-stop": 1, "x, y": 2, strings.Repeat("long", 20_000): 1,
		} {
			v, words := e.embed(text)
			var square float64
			for _, x := range v {
				square += float64(x) * float64(x)
			}
			if words != want || math.Abs(square-1) > 1e-5 {
				t.Errorf("%.20q: %d words, want %d; squares sum to %v, want 1", text, words, want, square)
			}
		}
		below(.5, "", "?!")
		below(.5, "", "the")
	})
	t.Run("is the same through Models", func(t *testing.T) {
		m := &Models{embedding: e}
		want, _ := e.embed("Same here")
		if got := m.Embed("Same here"); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestEmbedFindsEveryWordOfTheFile(t *testing.T) {
	e := loadEmbed(t)
	if len(e.ends) != 50_000 {
		t.Errorf("%d words, want 50000", len(e.ends))
	}
	for i := range e.ends {
		word := string(e.word(i))
		if got, ok := e.find(word); !ok || got != i {
			t.Fatalf("%q: found at %d, %v, want %d", word, got, ok, i)
		}
		run, rest := nextRun(word)
		if run != word || rest != "" {
			t.Fatalf("%q is read as %q and %q: no text can ask for it", word, run, rest)
		}
		if _, ok := e.find(word + "\x00"); ok {
			t.Fatalf("%q with a zero is found", word)
		}
	}
}

// embedParts is an embeddings file to write: what embed_load.go reads.
type embedParts struct {
	magic     string
	sizes     [3]uint32
	component []float32
	lengths   []byte
	text      string
	scales    []float32
	rows      []int8
	trailing  int
	badSum    bool
}

func smallEmbed() embedParts {
	return embedParts{
		magic: embedMagic, sizes: [3]uint32{3, 4, 12}, component: []float32{0.6, 0, 0.8},
		lengths: []byte{1, 3, 3, 5}, text: "abatcatété", scales: []float32{.5, 1, .25, 0},
		rows: []int8{1, 2, 3, -128, 0, 127, 4, 5, 6, 1, 1, 1},
	}
}

func (p embedParts) encode() []byte {
	b := bytes.NewBufferString(p.magic)
	for _, part := range []any{p.sizes, p.component, p.lengths, []byte(p.text), p.scales, p.rows, make([]byte, p.trailing)} {
		if err := binary.Write(b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	sum := crc32.ChecksumIEEE(b.Bytes())
	if p.badSum {
		sum++
	}
	return binary.LittleEndian.AppendUint32(b.Bytes(), sum)
}

func TestLoadEmbedding(t *testing.T) {
	e, err := loadEmbedding(smallEmbed().encode())
	if err != nil {
		t.Fatal(err)
	}
	sum := make([]float32, 3)
	for _, word := range []string{"a", "bat", "cat", "été", "at", "bats"} {
		known := e.addKnown(sum, word)
		if want := word != "at" && word != "bats"; known != want {
			t.Errorf("%s is known: %v, want %v", word, known, want)
		}
	}
	if want := []float32{.5 - 128 + 1, 1 + 1.25, 1.5 + 127 + 1.5}; !reflect.DeepEqual(sum, want) {
		t.Errorf("sum %v, want %v", sum, want)
	}
	if got, words := e.embed("ÉTÉ"); words != 1 || slices.ContainsFunc(got, func(v float32) bool { return v != v }) {
		t.Errorf("a word whose vector is zero: %v, %d words", got, words)
	}
}

func TestLoadEmbeddingErrors(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		name   string
		damage func(*embedParts)
		want   string
	}{
		{"names another version", func(p *embedParts) { p.magic = "WEIREMB\x02" }, `begin with "WEIREMB\x02": want "WEIREMB\x01"`},
		{"names no dimensions", func(p *embedParts) { p.sizes[0] = 0 }, "header: 0 dimensions, 4 words: want 1 to 1024"},
		{"names too many dimensions", func(p *embedParts) { p.sizes[0] = 1025 }, "header: 1025 dimensions"},
		{"names no words", func(p *embedParts) { p.sizes[1] = 0 }, "header: 3 dimensions, 0 words"},
		{"names too many words", func(p *embedParts) { p.sizes[1] = 1<<20 + 1 }, "1048577 words: want 1 to 1024 and 1 to 1048576"},
		{"names a wrong size of text", func(p *embedParts) { p.sizes[2] = 11 }, "bytes after the header: want "},
		{"refuses bytes at the end", func(p *embedParts) { p.trailing = 1 }, "57 bytes after the header: want 56 for 4 words of 3 dimensions"},
		{"names a wrong checksum", func(p *embedParts) { p.badSum = true }, "checksum: "},
		{"wants a component of length 1", func(p *embedParts) { p.component[1] = 1 }, "component: squares sum to 2"},
		{"wants a component of numbers", func(p *embedParts) { p.component[0] = nan }, "component: squares sum to NaN: want 1"},
		{"wants the words in order", func(p *embedParts) { p.text = "acatbatété" }, `word 2: "bat" after "cat": want UTF-8 in ascending order`},
		{"wants each word once", func(p *embedParts) { p.text = "abatbatété" }, `word 2: "bat" after "bat"`},
		{"wants no empty word", func(p *embedParts) { p.lengths = []byte{0, 4, 3, 5} }, `word 0: "" after ""`},
		{"wants UTF-8", func(p *embedParts) { p.text = "abatcat\xfft\xc3\xa9 " }, `word 3: "\xff`},
		{"wants words within the text", func(p *embedParts) { p.lengths[3] = 200 }, "word 3: it ends at byte 207 of the text: want at most 12"},
		{"wants all of the text used", func(p *embedParts) { p.lengths[3] = 3 }, "words: 10 bytes: want the 12 of the text"},
		{"wants scales of numbers", func(p *embedParts) { p.scales[2] = nan }, "scale 2: NaN: want 0 to 1000"},
		{"wants small scales", func(p *embedParts) { p.scales[2] = 1001 }, "scale 2: 1001: want 0 to 1000"},
		{"wants scales that are not negative", func(p *embedParts) { p.scales[0] = -1 }, "scale 0: -1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := smallEmbed()
			c.damage(&p)
			e, err := loadEmbedding(p.encode())
			if err == nil || e != nil || !strings.HasPrefix(err.Error(), "embeddings file") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v, want an error with %q", e, err, c.want)
			}
		})
	}
	t.Run("refuses a file cut or changed anywhere", func(t *testing.T) {
		data := smallEmbed().encode()
		for n := range data {
			if _, err := loadEmbedding(data[:n]); err == nil {
				t.Errorf("cut at byte %d of %d: no error", n, len(data))
			}
			damaged := slices.Clone(data)
			damaged[n] ^= 0x10
			if _, err := loadEmbedding(damaged); err == nil {
				t.Errorf("byte %d changed: no error", n)
			}
		}
	})
	t.Run("refuses the built-in file cut or changed", func(t *testing.T) {
		data := slices.Clone(embedFile())
		for n := 0; n < len(data); n += 100_003 {
			if _, err := loadEmbedding(data[:n]); err == nil {
				t.Errorf("cut at byte %d: no error", n)
			}
			data[n] ^= 1
			if _, err := loadEmbedding(data); err == nil {
				t.Errorf("byte %d changed: no error", n)
			}
			data[n] ^= 1
		}
	})
	t.Run("allocates little, whatever the sizes say", func(t *testing.T) {
		data := smallEmbed().encode()
		for at := len(embedMagic); at < embedHeader; at++ {
			for _, b := range []byte{0x0f, 0x7f, 0xff} {
				damaged := slices.Clone(data)
				damaged[at] = b
				if used := allocated(func() { _, _ = loadEmbedding(damaged) }); used > 64<<10 {
					t.Errorf("%#x at byte %d: %d bytes allocated for a file of %d", b, at, used, len(data))
				}
			}
		}
		if used := allocated(func() { _, _ = loadEmbedding(embedFile()) }); used > 300<<10 {
			t.Errorf("the built-in file: %d bytes allocated", used)
		}
	})
}

// FuzzLoadEmbedding mends the checksum, so that what is behind it is tried too.
func FuzzLoadEmbedding(f *testing.F) {
	f.Add(smallEmbed().encode(), "a bat, été 12")
	f.Add([]byte(embedMagic), "")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		if len(data) >= embedChecksum {
			data = slices.Clone(data)
			at := len(data) - embedChecksum
			binary.LittleEndian.PutUint32(data[at:], crc32.ChecksumIEEE(data[:at]))
		}
		e, err := loadEmbedding(data)
		if err != nil {
			if e != nil {
				t.Errorf("a model with the error %v", err)
			}
			return
		}
		v, _ := e.embed(text)
		for _, x := range v {
			if !(x >= -1.001 && x <= 1.001) {
				t.Errorf("%q: got %v, want numbers from -1 to 1", text, v)
			}
		}
	})
}

func FuzzEmbed(f *testing.F) {
	e := loadEmbed(f)
	for _, text := range []string{"", "I don't think so, Mr. O'Neill-Smith: 3.5%", "明日は 🌧", "e\u0301", "\xff", "n't 'll", "İ"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, words := e.embed(text)
		var square float64
		for _, x := range v {
			square += float64(x) * float64(x)
		}
		most := strings.Count(text, "") // a word has a letter, a number or a symbol
		if !(math.Abs(square-1) < 1e-4) || words < 0 || words > most {
			t.Errorf("%q: squares sum to %v, want 1; %d words", text, square, words)
		}
		if words == 0 && strings.IndexFunc(strings.ToLower(text), unicode.IsLetter) >= 0 {
			t.Errorf("%q: no words", text)
		}
	})
}

func BenchmarkEmbed(b *testing.B) {
	e := loadEmbed(b)
	for _, c := range []struct{ name, text string }{
		{"sentence", "What is the best way to remove a coffee stain from a white shirt?"},
		{"64 KiB of words", strings.Repeat("zebra ", MaxTextBytes/6)},
		{"64 KiB of letters", strings.Repeat("b ", MaxTextBytes/2)},
		{"64 KiB of one unknown word", strings.Repeat("x", MaxTextBytes)},
		{"64 KiB of numbers", strings.Repeat("1 ", MaxTextBytes/2)},
		{"64 KiB of hyphens", strings.Repeat("q-", MaxTextBytes/2)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.embed(c.text)
			}
		})
	}
}

func BenchmarkLoadEmbedding(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		loadEmbed(b)
	}
}
