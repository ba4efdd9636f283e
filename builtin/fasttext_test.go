package builtin

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
)

// answer is what fastText itself says to a text.
type answer struct {
	Text        string  `json:"text"`
	Repeat      int     `json:"repeat"` // 0 means once
	Language    string  `json:"language"`
	Label       string  `json:"label"`
	Probability float64 `json:"probability"`
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func TestEmbeddedModelIsThePublishedOne(t *testing.T) {
	sums, err := files.ReadFile("models/lid176/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	model, err := files.ReadFile(languageModel)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(model)
	if got, want := hex.EncodeToString(sum[:])+"  lid.176.ftz\n", string(sums); got != want {
		t.Errorf("embedded model: %s want %s", got, want)
	}
	if len(model) != 938013 {
		t.Errorf("embedded model: %d bytes, want 938013", len(model))
	}
}

// TestComputesWhatFastTextComputes uses small models with everything that the
// built-in one does not have. classify leaves out the rule that a text the model
// knows nothing of gets no answer.
func TestComputesWhatFastTextComputes(t *testing.T) {
	classify := func(f *fastText, text string) answer {
		l := line{model: f, sum: make([]float32, f.dim)}
		l.read(text)
		l.end()
		best := f.likeliest(l.sum)
		return answer{Text: text, Label: f.labels[best.label], Probability: math.Exp(float64(best.score))}
	}
	var known struct {
		Models map[string]struct {
			SHA256  string
			Answers []answer
		}
	}
	readJSON(t, "testdata/small-known.json", &known)
	models := smallModels()
	if len(known.Models) != len(models) {
		t.Fatalf("known answers for %d models, want %d", len(known.Models), len(models))
	}
	for name, want := range known.Models {
		t.Run(name, func(t *testing.T) {
			data := models[name].encode()
			sum := sha256.Sum256(data)
			if got := hex.EncodeToString(sum[:]); got != want.SHA256 {
				t.Fatalf("the model written is not the one that was asked: sha256 %s, want %s", got, want.SHA256)
			}
			f, err := loadFastText(data)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range want.Answers {
				got := classify(f, a.Text)
				if got.Label != strings.TrimPrefix(a.Label, labelPrefix) || math.Abs(got.Probability-a.Probability) > 2e-6 {
					t.Errorf("%q: got %s %.6f, fastText says %s %.6f", a.Text, got.Label, got.Probability, a.Label, a.Probability)
				}
				if label, p := f.predict(a.Text); label != "" && (label != got.Label || p != got.Probability) {
					t.Errorf("%q: predict says %s %v, want %s %v", a.Text, label, p, got.Label, got.Probability)
				}
			}
		})
	}
}

func TestKnowsNothing(t *testing.T) {
	f, err := loadFastText(smallModels()["words only"].encode())
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"": false, "\n": false, "unknown words": false, "__label__x": false, "</s> the": false, "the": true, "unknown the": true} {
		if label, p := f.predict(text); label != "" != want || p > 0 != want {
			t.Errorf("%q: got %q %v, want an answer: %v", text, label, p, want)
		}
	}
}

// TestAgreesOnTheBuiltInModel is tighter than what Models.Language shows, which
// is rounded.
func TestAgreesOnTheBuiltInModel(t *testing.T) {
	f, known := loadBuiltIn(t)
	worst := 0.0
	for _, a := range append(append(known.Sentences, known.Odd...), known.Long...) {
		text := strings.Repeat(a.Text, max(1, a.Repeat))
		label, p := f.predict(text)
		if label == "" {
			label, p = known.Prior.Label, known.Prior.Probability
			if a.Probability != p {
				t.Errorf("%.60q: no answer, fastText says %s %.6f", text, a.Label, a.Probability)
			}
		}
		worst = max(worst, math.Abs(p-a.Probability))
		if label != a.Label || math.Abs(p-a.Probability) > 5e-6 {
			t.Errorf("%.60q: got %s %.6f, fastText says %s %.6f", text, label, p, a.Label, a.Probability)
		}
	}
	t.Logf("largest difference of a probability: %.2g", worst)
}

type knownAnswers struct {
	Prior                answer
	Sentences, Odd, Long []answer
}

func loadBuiltIn(t *testing.T) (*fastText, knownAnswers) {
	t.Helper()
	data, err := files.ReadFile(languageModel)
	if err != nil {
		t.Fatal(err)
	}
	f, err := loadFastText(data)
	if err != nil {
		t.Fatal(err)
	}
	var known knownAnswers
	readJSON(t, "testdata/lid176-known.json", &known)
	if len(known.Sentences) < 40 || len(known.Odd) < 90 || len(known.Long) < 4 {
		t.Fatalf("testdata/lid176-known.json: %d sentences, %d odd, %d long texts: some are lost", len(known.Sentences), len(known.Odd), len(known.Long))
	}
	return f, known
}

func TestHuffmanTree(t *testing.T) {
	// Worked by hand with fastText's rule: the smaller of the next leaf and the
	// next inner node, the inner node where both are equal.
	for _, c := range []struct {
		name   string
		counts []int64
		want   []huffmanNode
	}{
		{"one label has no inner node", []int64{4}, []huffmanNode{}},
		{"two labels: the rarer is left", []int64{4, 3}, []huffmanNode{{1, 0}}},
		{"an inner node goes before an equal leaf", []int64{4, 2, 1, 1}, []huffmanNode{{3, 2}, {4, 1}, {5, 0}}},
		{"equal labels pair up", []int64{1, 1, 1, 1}, []huffmanNode{{3, 2}, {1, 0}, {4, 5}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := huffmanTree(c.counts); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%v: got %v, want %v", c.counts, got, c.want)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	full := func() modelFile { return smallModels()["pruned"] }
	for _, c := range []struct {
		name   string
		damage func(*modelFile)
		want   string
	}{
		{"another version", func(m *modelFile) { m.version = 11 }, "header, byte 4: version: 11: want 12"},
		{"another loss", func(m *modelFile) { m.loss = 3 }, "header, byte 32: loss: 3: want 1"},
		{"a dimension too large", func(m *modelFile) { m.dim = 1025 }, "header, byte 8: dim: 1025: want 1 to 1024"},
		{"n-grams without buckets", func(m *modelFile) { m.bucket, m.kept = 0, nil }, "bucket: 0: want at least 1 for n-grams of 4 characters and 2 words"},
		{"a word typed as a label", func(m *modelFile) { m.badType = true }, `dictionary, byte 92: entry 0: "</s>": type 1: want 8 words (type 0), then labels (type 1)`},
		{"a word that is there twice", func(m *modelFile) { m.words[2] = "the" }, `entry 2: "the" is there twice`},
		{"label counts that rise", func(m *modelFile) { m.labelCounts = []int64{1, 2, 1} }, "entry 9: count 2: want 1 to 8589934592, and none above the label before"},
		{"a label without a count", func(m *modelFile) { m.labelCounts = []int64{1, 1, 0} }, "entry 10: count 0: want 1 to"},
		{"a bucket that kept two rows", func(m *modelFile) { m.kept[2].bucket = 5 }, "prune table, byte 277: bucket 5, row 1: want a bucket that was not there before, and a row, 0 to 6"},
		{"a bucket too high", func(m *modelFile) { m.kept[1].bucket = 7 }, "bucket 7, row 2: want a bucket"},
		{"a negative row", func(m *modelFile) { m.kept[1].row = math.MaxUint32 }, "bucket 1, row -1: want a bucket"},
		{"a row that the matrix lacks", func(m *modelFile) { m.kept[1].row = 3 }, "input matrix, byte 287: 11 rows of 6 numbers: want 12 or more of 6"},
		{"an input that is not quantised", func(m *modelFile) { m.notQuantised = true }, "input matrix, byte 285: not quantised: want a model made by `fasttext quantize`"},
		{"a flag of 2", func(m *modelFile) { m.badFlag = true }, "quantised output: 2: want 0 or 1"},
		{"a weight that is not a number", func(m *modelFile) { m.weight = float32(math.NaN()) }, "centroids[0]: NaN: want a number between -1e+06 and 1e+06"},
		{"an infinite weight", func(m *modelFile) { m.weight = float32(math.Inf(-1)) }, "centroids[0]: -Inf: want a number"},
		{"bytes after the end", func(m *modelFile) { m.trailing = 3 }, "output matrix, byte 12677: 3 bytes follow: want the end of the file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := full()
			c.damage(&m)
			wantLoadError(t, m.encode(), c.want)
		})
	}
}

func wantLoadError(t *testing.T, data []byte, want string) {
	t.Helper()
	f, err := loadFastText(data)
	if err == nil || f != nil || !strings.HasPrefix(err.Error(), "fastText model, ") || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, %v, want an error with %q", f, err, want)
	}
}

func TestLoadErrorsOfFiles(t *testing.T) {
	t.Run("names where an empty file ends", func(t *testing.T) {
		wantLoadError(t, nil, "header, byte 0: magic number: the file ends after 0 more bytes: want 4")
	})
	t.Run("names another kind of file", func(t *testing.T) {
		wantLoadError(t, []byte("PK\x03\x04 and so on"), "header, byte 0: magic number: 67324752: want 793712314")
	})
	t.Run("refuses every shorter file", func(t *testing.T) {
		for name, m := range smallModels() {
			data := m.encode()
			for n := 0; n < len(data); n += 1 + n/700*12 { // every byte of header and dictionary, then samples
				if f, err := loadFastText(data[:n]); err == nil || f != nil {
					t.Fatalf("%s: cut at byte %d of %d: no error", name, n, len(data))
				}
			}
		}
	})
	t.Run("refuses the built-in model cut anywhere", func(t *testing.T) {
		data, err := files.ReadFile(languageModel)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(data); n += 9973 {
			if _, err := loadFastText(data[:n]); err == nil {
				t.Fatalf("cut at byte %d of %d: no error", n, len(data))
			}
		}
	})
	t.Run("allocates little for large numbers in a small file", func(t *testing.T) {
		data := smallModels()["pruned"].encode()
		for _, large := range []uint64{1<<62 | 1<<30, 1<<56 | 1<<24, 1<<34 | 1<<10} {
			for at := 0; at+8 <= 600; at++ {
				damaged := append([]byte(nil), data...)
				binary.LittleEndian.PutUint64(damaged[at:], large)
				if used := allocated(func() { _, _ = loadFastText(damaged) }); used > 8<<20 {
					t.Errorf("%#x at byte %d: %d bytes allocated for a file of %d", large, at, used, len(data))
				}
			}
		}
	})
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func FuzzLoad(f *testing.F) {
	for _, m := range smallModels() {
		f.Add(m.encode(), "the zug été да")
	}
	f.Add([]byte("\xba\x16\x4f\x2f"), "")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		model, err := loadFastText(data)
		if err != nil {
			if model != nil {
				t.Errorf("a model with the error %v", err)
			}
			return
		}
		if label, p := model.predict(text); math.IsNaN(p) || p < 0 || p > 1.001 || label == "" && p != 0 {
			t.Errorf("%q: got %q %v, want a probability", text, label, p)
		}
	})
}
