package builtin

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
)

// modelFile is a model to write: what fasttext_load.go reads. Its numbers are
// drawn from a fixed seed, so that the same modelFile is always the same bytes.
type modelFile struct {
	dim, dsub        int
	wordNgrams       int
	bucket           int
	minn, maxn       int
	words, labels    []string
	kept             []bucketRow // pruned if not nil
	qnorm, qout      bool
	labelCounts      []int64
	version, loss    int32 // 0: what is supported
	notQuantised     bool
	trailing         int
	badType, badFlag bool
	weight           float32 // 0: drawn
}

// small models that between them use everything that lid.176 does not: unpruned
// n-grams, word n-grams, parts of unequal length, a quantised output, rows
// without norms, a dictionary without </s>.
func smallModels() map[string]modelFile {
	words := []string{"the", "zug", "été", "да", "水", "fox", "a"}
	labels := []string{"__label__x", "__label__yy", "__label__z-z", "plain", "__label__é"}
	counts := []int64{50, 20, 20, 7, 1}
	return map[string]modelFile{
		"quantised output": {
			dim: 5, dsub: 2, wordNgrams: 3, bucket: 97, minn: 1, maxn: 3, qnorm: true, qout: true,
			words: append([]string{"</s>"}, words...), labels: labels, labelCounts: counts,
		},
		"words only": {
			dim: 4, dsub: 4, wordNgrams: 2, bucket: 61,
			words: words, labels: labels, labelCounts: counts,
		},
		"no n-grams": {
			dim: 3, dsub: 2, wordNgrams: 1, qnorm: true, words: append(words, "</s>"), labels: labels, labelCounts: counts,
		},
		"pruned": {
			dim: 6, dsub: 3, wordNgrams: 2, bucket: 7, minn: 2, maxn: 4, qout: true,
			kept:  []bucketRow{{5, 0}, {1, 2}, {6, 1}},
			words: append([]string{"</s>"}, words...), labels: labels[:3], labelCounts: []int64{3, 3, 3},
		},
		"pruned of all n-grams": {
			dim: 2, dsub: 1, wordNgrams: 2, bucket: 7, minn: 2, maxn: 4,
			kept:  []bucketRow{},
			words: append([]string{"</s>"}, words...), labels: labels[:1], labelCounts: []int64{3},
		},
	}
}

type modelWriter struct {
	bytes.Buffer
	rand *rand.Rand
	file modelFile
}

func (w *modelWriter) put(values ...any) {
	for _, v := range values {
		if err := binary.Write(&w.Buffer, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
}

// encode writes m in fastText's format.
func (m modelFile) encode() []byte {
	w := &modelWriter{rand: rand.New(rand.NewPCG(1, 2)), file: m}
	w.header()
	rows := len(m.words) + m.bucket
	if m.kept != nil {
		rows = len(m.words) + len(m.kept)
	}
	w.put(!m.notQuantised)
	w.quantised(rows, m.dim)
	if m.badFlag {
		w.put(int8(2))
	} else {
		w.put(m.qout)
	}
	if m.qout {
		w.quantised(len(m.labels), m.dim)
	} else {
		w.put(int64(len(m.labels)), int64(m.dim))
		w.floats(len(m.labels) * m.dim)
	}
	w.put(make([]byte, m.trailing))
	return w.Bytes()
}

func (w *modelWriter) header() {
	m := w.file
	version, loss := m.version, m.loss
	if version == 0 {
		version = 12
	}
	if loss == 0 {
		loss = lossTree
	}
	w.put(int32(magic), version, int32(m.dim), int32(5), int32(5), int32(1), int32(5), int32(m.wordNgrams), loss, int32(supervised))
	w.put(int32(m.bucket), int32(m.minn), int32(m.maxn), int32(100), float64(1e-4))
	w.put(int32(len(m.words)+len(m.labels)), int32(len(m.words)), int32(len(m.labels)), int64(1000))
	if m.kept == nil {
		w.put(int64(-1))
	} else {
		w.put(int64(len(m.kept)))
	}
	for i, word := range m.words {
		w.put([]byte(word), byte(0), int64(100-i), m.badType)
	}
	for i, label := range m.labels {
		w.put([]byte(label), byte(0), m.labelCounts[i], int8(typeOfLabel))
	}
	for _, pair := range m.kept {
		w.put(pair.bucket, pair.row)
	}
}

func (w *modelWriter) quantised(rows, dim int) {
	parts := (dim + w.file.dsub - 1) / w.file.dsub
	w.put(w.file.qnorm, int64(rows), int64(dim), int32(rows*parts))
	w.codes(rows * parts)
	w.quantiser(dim, w.file.dsub)
	if w.file.qnorm {
		w.codes(rows)
		w.quantiser(1, 1)
	}
}

func (w *modelWriter) codes(n int) {
	for range n {
		w.put(uint8(w.rand.IntN(256)))
	}
}

func (w *modelWriter) quantiser(dim, dsub int) {
	parts := (dim + dsub - 1) / dsub
	w.put(int32(dim), int32(parts), int32(dsub), int32(dim-(parts-1)*dsub))
	w.floats(centroids * dim)
}

func (w *modelWriter) floats(n int) {
	for range n {
		v := float32(3 * w.rand.NormFloat64())
		if w.file.weight != 0 {
			v = w.file.weight
		}
		w.put(v)
	}
}
