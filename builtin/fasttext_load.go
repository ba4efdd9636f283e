package builtin

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// What a model may be. The limits keep the memory for a damaged file near the
// file's own size, and are far above what fastText is used with.
const (
	magic       = 793712314
	version     = 12
	lossTree    = 1 // hierarchical softmax
	supervised  = 3
	maxDim      = 1024
	maxGram     = 32
	maxBucket   = 1 << 24
	maxLabels   = 1 << 16
	maxCount    = 1 << 33   // of a label: sums stay below 1e15, fastText's "infinity"
	largest     = 1e6       // of a weight: far from overflow in all sums
	entrySize   = 1 + 8 + 1 // the shortest dictionary entry: "", count, type
	centroids   = 256
	typeOfWord  = 0
	typeOfLabel = 1
)

// loadFastText reads a model file: version 12, supervised, quantised input,
// hierarchical softmax, with or without pruning and a quantised output. It
// checks every length and every number before use, so data may be anything. An
// error names the part of the file and the byte. The model keeps parts of data:
// the caller must not change it.
func loadFastText(data []byte) (*fastText, error) {
	r := &reader{data: data}
	f := &fastText{}
	r.header(f)
	pairs := r.dictionary(f)
	r.prune(f, pairs)
	r.section = "input matrix"
	if r.flag("quantised") != 1 {
		r.failAt(r.at-1, "not quantised: want a model made by `fasttext quantize`")
	}
	f.input = r.quantised(f.inputRows(), f.dim)
	r.section = "output matrix"
	if r.flag("quantised output") == 1 {
		f.output = r.quantised(len(f.labels), f.dim)
	} else {
		f.output = r.dense(len(f.labels), f.dim)
	}
	if left := len(data) - r.at; left > 0 {
		r.failf("%d bytes follow: want the end of the file", left)
	}
	if r.err != nil {
		return nil, r.err
	}
	return f, nil
}

// inputRows is the least number of rows that the dictionary can ask for.
func (f *fastText) inputRows() int {
	rows := int(f.nwords)
	if f.kept == nil {
		if f.maxn > 0 || f.wordNgrams > 1 {
			rows += int(f.bucket)
		}
		return rows
	}
	highest := int32(-1)
	for _, row := range f.kept.rows {
		highest = max(highest, row)
	}
	return rows + int(highest) + 1
}

// reader takes a model file apart. It keeps the first error and after that
// reads zeros, so that a caller may look for the error once at the end; whoever
// sizes something by what was read checks it first.
type reader struct {
	data    []byte
	at      int
	section string
	err     error
}

// failf notes that what was read last is wrong.
func (r *reader) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("fastText model, %s, byte %d: %s", r.section, r.at, fmt.Sprintf(format, args...))
	}
}

// failAt is failf for what begins at byte at.
func (r *reader) failAt(at int, format string, args ...any) {
	if r.err == nil {
		r.at = at
		r.failf(format, args...)
	}
}

// take returns the next n bytes, or nil and an error when fewer are left.
func (r *reader) take(what string, n int64) []byte {
	if left := int64(len(r.data) - r.at); n < 0 || n > left {
		r.failf("%s: the file ends after %d more bytes: want %d", what, left, n)
	}
	if r.err != nil {
		return nil
	}
	b := r.data[r.at:][:n:n]
	r.at += int(n)
	return b
}

func (r *reader) int32(what string) int32 {
	if b := r.take(what, 4); b != nil {
		return int32(binary.LittleEndian.Uint32(b))
	}
	return 0
}

func (r *reader) int64(what string) int64 {
	if b := r.take(what, 8); b != nil {
		return int64(binary.LittleEndian.Uint64(b))
	}
	return 0
}

// flag reads a C++ bool.
func (r *reader) flag(what string) byte {
	b := r.take(what, 1)
	if b == nil {
		return 0
	}
	if b[0] > 1 {
		r.failAt(r.at-1, "%s: %d: want 0 or 1", what, b[0])
	}
	return b[0]
}

// between reads a number and checks it.
func (r *reader) between(what string, low, high int32) int32 {
	v := r.int32(what)
	if r.err == nil && (v < low || v > high) {
		r.failAt(r.at-4, "%s: %d: want %s", what, v, span(low, high))
	}
	return v
}

func span(low, high int32) string {
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d to %d", low, high)
}

// floats reads n numbers.
func (r *reader) floats(what string, n int64) []float32 {
	b := r.take(what, 4*n)
	if b == nil {
		return nil
	}
	values := make([]float32, n)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if v := values[i]; !(v >= -largest && v <= largest) { // NaN too
			r.failAt(r.at-len(b)+4*i, "%s[%d]: %v: want a number between -%g and %g", what, i, v, largest, largest)
			return nil
		}
	}
	return values
}

func (r *reader) header(f *fastText) {
	r.section = "header"
	const any32 = math.MaxInt32
	r.between("magic number", magic, magic)
	r.between("version", version, version)
	f.dim = int(r.between("dim", 1, maxDim))
	for _, training := range []string{"ws", "epoch", "minCount", "neg"} {
		r.int32(training) // says how it was trained, not what it computes
	}
	f.wordNgrams = int(r.between("wordNgrams", 0, maxGram))
	r.between("loss", lossTree, lossTree)
	r.between("model", supervised, supervised)
	f.bucket = uint32(r.between("bucket", 0, maxBucket))
	f.minn = int(r.between("minn", 0, any32))
	f.maxn = int(r.between("maxn", 0, maxGram))
	r.int32("lrUpdateRate")
	r.take("t", 8)
	if f.bucket == 0 && (f.maxn > 0 || f.wordNgrams > 1) {
		r.failf("bucket: 0: want at least 1 for n-grams of %d characters and %d words", f.maxn, f.wordNgrams)
	}
}

// dictionary reads words and labels, and returns the number of prune pairs that
// follow, -1 for a model that was not pruned.
func (r *reader) dictionary(f *fastText) (pairs int64) {
	r.section = "dictionary"
	size := r.between("size", 0, math.MaxInt32)
	f.nwords = r.between("nwords", 0, size)
	labels := r.between("nlabels", 1, maxLabels)
	if size != f.nwords+labels {
		r.failf("size: %d: want %d words and %d labels together", size, f.nwords, labels)
	}
	r.int64("ntokens")
	pairs = r.int64("pruneidx_size")
	if left := int64(len(r.data) - r.at); int64(size)*entrySize > left {
		r.failf("size: %d entries: the file ends after %d more bytes", size, left)
	}
	if r.err != nil {
		return 0
	}
	f.ids = make(map[string]int32, size)
	counts := make([]int64, 0, labels)
	for id := int32(0); id < size && r.err == nil; id++ {
		start := r.at
		count := r.entry(f, id)
		if id < f.nwords {
			continue
		}
		if n := len(counts); count < 1 || count > maxCount || n > 0 && count > counts[n-1] {
			r.failAt(start, "entry %d: count %d: want 1 to %d, and none above the label before", id, count, int64(maxCount))
		}
		counts = append(counts, count)
	}
	if r.err == nil {
		f.tree = huffmanTree(counts)
	}
	return pairs
}

// entry reads one word or label and returns its count.
func (r *reader) entry(f *fastText, id int32) (count int64) {
	start := r.at
	end := bytes.IndexByte(r.data[start:], 0)
	if end < 0 {
		r.failf("entry %d: no NUL ends the word", id)
		return 0
	}
	word := string(r.take("word", int64(end)))
	r.take("NUL", 1)
	count = r.int64("count")
	kind, want := r.flag("type"), byte(typeOfWord)
	if id >= f.nwords {
		want = typeOfLabel
		f.labels = append(f.labels, strings.TrimPrefix(word, labelPrefix))
	}
	if r.err == nil && kind != want {
		r.failAt(start, "entry %d: %.40q: type %d: want %d words (type 0), then labels (type 1)", id, word, kind, f.nwords)
	}
	if _, twice := f.ids[word]; twice {
		r.failAt(start, "entry %d: %.40q is there twice", id, word)
	}
	f.ids[word] = id
	return count
}

// prune reads which n-gram buckets kept a row: pairs of a bucket and its row.
func (r *reader) prune(f *fastText, pairs int64) {
	r.section = "prune table"
	if pairs < 0 || r.err != nil {
		return
	}
	start := r.at
	if pairs > int64(f.bucket) {
		r.failf("%d pairs: want at most the %d buckets", pairs, f.bucket)
	}
	b := r.take("pairs", 8*pairs)
	if r.err != nil {
		return
	}
	table := make([]bucketRow, pairs)
	kept := newKeptBuckets(f.bucket)
	for i := range table {
		pair := bucketRow{binary.LittleEndian.Uint32(b[8*i:]), binary.LittleEndian.Uint32(b[8*i+4:])}
		if pair.bucket >= f.bucket || pair.row >= f.bucket || !kept.mark(pair.bucket) {
			r.failAt(start+8*i, "bucket %d, row %d: want a bucket that was not there before, and a row, 0 to %d",
				int32(pair.bucket), int32(pair.row), f.bucket-1)
			return
		}
		table[i] = pair
	}
	kept.fill(table)
	f.kept = kept
}

// quantised reads a product-quantised matrix of at least rows rows.
func (r *reader) quantised(rows, dim int) *quantMatrix {
	q := &quantMatrix{}
	normed := r.flag("qnorm") == 1
	q.rows, q.dim = r.shape(rows, dim)
	size := int64(r.int32("code size"))
	q.codes = r.take("codes", size)
	q.centroids = r.quantiser(q)
	if r.err == nil && size != int64(q.rows)*int64(q.parts) {
		r.failf("code size: %d: want %d for %d rows of %d parts", size, int64(q.rows)*int64(q.parts), q.rows, q.parts)
	}
	if normed {
		q.norms = r.take("norm codes", int64(q.rows))
		norms := quantMatrix{dim: 1}
		q.normCentroids = r.quantiser(&norms)
	}
	return q
}

// quantiser reads how q's rows are cut, into q, and the centroids.
func (r *reader) quantiser(q *quantMatrix) []float32 {
	dim := int32(q.dim)
	r.between("quantiser: dim", dim, dim)
	parts := r.between("quantiser: nsubq", 1, max(1, dim))
	q.dsub, q.parts = int(r.between("quantiser: dsub", 1, max(1, dim))), int(parts)
	last := r.int32("quantiser: lastdsub")
	if r.err == nil && ((q.parts-1)*q.dsub+int(last) != q.dim || last < 1 || int(last) > q.dsub) {
		r.failf("quantiser: %d parts of %d, the last of %d: want %d numbers in all", q.parts, q.dsub, last, q.dim)
	}
	return r.floats("centroids", centroids*int64(q.dim))
}

// dense reads a plain matrix of at least rows rows.
func (r *reader) dense(rows, dim int) *denseMatrix {
	got, _ := r.shape(rows, dim)
	return &denseMatrix{dim: dim, data: r.floats("values", int64(got)*int64(dim))}
}

// shape reads a matrix's size: at least rows rows, and exactly dim columns.
func (r *reader) shape(rows, dim int) (gotRows, gotDim int) {
	m, n := r.int64("rows"), r.int64("columns")
	if r.err == nil && (m < int64(rows) || m > int64(len(r.data)) || n != int64(dim)) {
		r.failAt(r.at-16, "%d rows of %d numbers: want %d or more of %d", m, n, rows, dim)
	}
	if r.err != nil {
		return 0, 0
	}
	return int(m), int(n)
}
