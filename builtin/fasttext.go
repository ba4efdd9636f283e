package builtin

import (
	"math"
	"math/bits"
)

// endOfLine is the word that fastText appends to every line, in training too.
const endOfLine = "</s>"

// labelPrefix is how fastText tells labels from words in its training text.
// The model file keeps it; answers are given without it.
const labelPrefix = "__label__"

// fastText is a supervised fastText classifier as `fasttext quantize` writes
// it: product-quantised rows for words and character n-grams, hierarchical
// softmax over labels. It computes what the reference implementation (version
// 0.9.2) computes, in the same order and in the same precision, so that scores
// agree to about six decimals. It is never changed once loaded and is safe for
// concurrent use.
type fastText struct {
	dim        int
	wordNgrams int
	minn, maxn int
	bucket     uint32
	// ids holds words, 0 to nwords-1, and labels from there on.
	ids    map[string]int32
	nwords int32
	labels []string
	// kept is nil for a model whose n-grams have all kept their rows.
	kept   *keptBuckets
	input  *quantMatrix
	output scorer
	// tree holds the inner nodes of the Huffman tree, its root last.
	tree []huffmanNode
}

// scorer is the output matrix, one row for each inner node of the tree.
type scorer interface {
	dot(row int, hidden []float32) float32
}

// predict returns the likeliest label of text and its probability. The label is
// "" when text holds no word and no n-gram that the model knows: fastText would
// answer with its prior, which says nothing about the text.
func (f *fastText) predict(text string) (label string, probability float64) {
	l := line{model: f, sum: make([]float32, f.dim)}
	l.read(text)
	if l.rows == 0 {
		return "", 0
	}
	l.end()
	best := f.likeliest(l.sum)
	return f.labels[best.label], math.Exp(float64(best.score))
}

// line sums the rows of one line of text.
type line struct {
	model *fastText
	sum   []float32
	rows  int
	// hashes are those of the words so far; kept only for word n-grams.
	hashes []uint32
}

// read adds every word of text, split where fastText splits: at ASCII white
// space and NUL. A newline would end a line in fastText; here a text is one
// line. The word </s> ends it, as it does there.
func (l *line) read(text string) {
	for i := 0; i < len(text); {
		if isSpace(text[i]) {
			i++
			continue
		}
		start := i
		for i < len(text) && !isSpace(text[i]) {
			i++
		}
		word := text[start:i]
		if word == endOfLine {
			return
		}
		l.addWord(word)
	}
}

// end appends the word </s> and the word n-grams, and turns the sum into the
// mean.
func (l *line) end() {
	f := l.model
	if id, ok := f.ids[endOfLine]; ok && id < f.nwords {
		l.addRow(id) // fastText gives this word no n-grams
	}
	if f.wordNgrams > 1 {
		l.hashes = append(l.hashes, hashText(endOfLine))
		l.addWordNgrams()
	}
	if l.rows == 0 {
		return
	}
	scale := float32(1 / float64(l.rows))
	for i := range l.sum {
		l.sum[i] *= scale
	}
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == '\v' || c == '\f' || c == 0
}

// addWord adds the row of word, if it has one, and those of its n-grams. A word
// that looks like a label is left out, known or not.
func (l *line) addWord(word string) {
	f := l.model
	id, known := f.ids[word]
	if known && id >= f.nwords || !known && len(word) >= len(labelPrefix) && word[:len(labelPrefix)] == labelPrefix {
		return
	}
	if f.wordNgrams > 1 {
		l.hashes = append(l.hashes, hashText(word))
	}
	if known {
		l.addRow(id)
	}
	if f.maxn > 0 {
		l.addNgrams(word)
	}
}

// addNgrams adds the character n-grams of <word>, minn to maxn UTF-8 characters
// long. The angle brackets alone are no n-gram.
func (l *line) addNgrams(word string) {
	f := l.model
	size := len(word) + 2
	at := func(i int) byte {
		switch i {
		case 0:
			return '<'
		case size - 1:
			return '>'
		}
		return word[i-1]
	}
	for i := range size {
		if continues(at(i)) {
			continue
		}
		hash := uint32(fnvOffset)
		for j, n := i, 1; j < size && n <= f.maxn; n++ {
			hash = fnvAdd(hash, at(j))
			for j++; j < size && continues(at(j)); j++ {
				hash = fnvAdd(hash, at(j))
			}
			if n >= f.minn && (n > 1 || i > 0 && j < size) {
				l.addBucket(hash % f.bucket)
			}
		}
	}
}

// continues says whether c is a UTF-8 character's second or later byte.
func continues(c byte) bool { return c&0xC0 == 0x80 }

// addWordNgrams adds the sequences of 2 to wordNgrams words. The arithmetic is
// fastText's: 64 bits wide, on hashes that are signed 32-bit numbers.
func (l *line) addWordNgrams() {
	f := l.model
	for i, first := range l.hashes {
		hash := uint64(int64(int32(first)))
		for j := i + 1; j < len(l.hashes) && j < i+f.wordNgrams; j++ {
			hash = hash*116049371 + uint64(int64(int32(l.hashes[j])))
			l.addBucket(uint32(hash % uint64(f.bucket)))
		}
	}
}

func (l *line) addBucket(bucket uint32) {
	row := int32(bucket)
	if kept := l.model.kept; kept != nil {
		if row = kept.row(bucket); row < 0 {
			return
		}
	}
	l.addRow(l.model.nwords + row)
}

func (l *line) addRow(row int32) {
	l.model.input.addRow(l.sum, int(row))
	l.rows++
}

const (
	fnvOffset = 2166136261
	fnvPrime  = 16777619
)

// fnvAdd is a step of FNV-1a, except that fastText extends the byte's sign: its
// models depend on it.
func fnvAdd(hash uint32, c byte) uint32 {
	return (hash ^ uint32(int32(int8(c)))) * fnvPrime
}

func hashText(s string) uint32 {
	hash := uint32(fnvOffset)
	for i := range len(s) {
		hash = fnvAdd(hash, s[i])
	}
	return hash
}

// keptBuckets says which n-gram buckets kept a row when the model was pruned,
// and which. Most n-grams of a text kept none, so the answer "none" has to be
// quick: it costs one look into a bitmap of bucket/8 bytes.
type keptBuckets struct {
	bits   []uint64
	before []uint32 // set bits before each word of bits
	rows   []int32  // one for each set bit, in order
}

// bucketRow is a bucket that kept a row, and which.
type bucketRow struct{ bucket, row uint32 }

func newKeptBuckets(buckets uint32) *keptBuckets {
	words := (buckets + 63) / 64
	return &keptBuckets{bits: make([]uint64, words), before: make([]uint32, words)}
}

// mark notes that bucket kept a row, and says whether that is news.
func (k *keptBuckets) mark(bucket uint32) bool {
	word, bit := bucket/64, uint64(1)<<(bucket%64)
	if k.bits[word]&bit != 0 {
		return false
	}
	k.bits[word] |= bit
	return true
}

// fill notes the row of every bucket, all of which are marked.
func (k *keptBuckets) fill(table []bucketRow) {
	total := uint32(0)
	for i, set := range k.bits {
		k.before[i] = total
		total += uint32(bits.OnesCount64(set))
	}
	k.rows = make([]int32, total)
	for _, pair := range table {
		k.rows[k.index(pair.bucket)] = int32(pair.row)
	}
}

// index is the place of bucket, which is marked, in rows.
func (k *keptBuckets) index(bucket uint32) uint32 {
	word, bit := bucket/64, uint64(1)<<(bucket%64)
	return k.before[word] + uint32(bits.OnesCount64(k.bits[word]&(bit-1)))
}

// row returns the row of bucket after the words, or -1.
func (k *keptBuckets) row(bucket uint32) int32 {
	if k.bits[bucket/64]&(1<<(bucket%64)) == 0 {
		return -1
	}
	return k.rows[k.index(bucket)]
}

// huffmanNode is an inner node: its children are leaves (below the number of
// labels, and then a label's number) or inner nodes (counted on from there).
type huffmanNode struct {
	left, right int32
}

// huffmanTree builds the tree from label counts, which must fall and be
// positive, as fastText does: equal counts merge inner nodes first.
func huffmanTree(counts []int64) []huffmanNode {
	labels := len(counts)
	tree := make([]huffmanNode, 0, labels-1)
	sums := make([]int64, 0, labels-1)
	leaf, node := labels-1, 0
	smallest := func() (int32, int64) {
		if leaf >= 0 && (node >= len(sums) || counts[leaf] < sums[node]) {
			leaf--
			return int32(leaf + 1), counts[leaf+1]
		}
		node++
		return int32(labels + node - 1), sums[node-1]
	}
	for range labels - 1 {
		left, a := smallest()
		right, b := smallest()
		tree = append(tree, huffmanNode{left: left, right: right})
		sums = append(sums, a+b)
	}
	return tree
}

// leafScore is a label and the logarithm of its probability.
type leafScore struct {
	label int
	score float32
}

// likeliest returns the best label for the mean of a line's rows.
func (f *fastText) likeliest(hidden []float32) leafScore {
	best := leafScore{score: float32(math.Inf(-1))}
	f.descend(len(f.labels)+len(f.tree)-1, 0, hidden, &best)
	return best
}

// descend looks for a better leaf than best below node. The likelier child goes
// first, so that the other is mostly cut off: the result is that of looking at
// every leaf. Depth is bounded: counts fall, so a tree of depth d has a sum of
// counts that grows as fast as Fibonacci's numbers.
func (f *fastText) descend(node int, score float32, hidden []float32, best *leafScore) {
	if score <= best.score {
		return
	}
	if node < len(f.labels) {
		*best = leafScore{label: node, score: score}
		return
	}
	inner := node - len(f.labels)
	right := sigmoid(f.output.dot(inner, hidden))
	leftScore, rightScore := score+logOf(1-right), score+logOf(right)
	children := f.tree[inner]
	if leftScore >= rightScore {
		f.descend(int(children.left), leftScore, hidden, best)
		f.descend(int(children.right), rightScore, hidden, best)
		return
	}
	f.descend(int(children.right), rightScore, hidden, best)
	f.descend(int(children.left), leftScore, hidden, best)
}

// sigmoid rounds where fastText rounds.
func sigmoid(x float32) float32 {
	return float32(1 / float64(1+float32(math.Exp(-float64(x)))))
}

// logOf is fastText's logarithm: kept finite at 0, so a probability of 1 comes
// out a hundred-thousandth above 1.
func logOf(p float32) float32 {
	return float32(math.Log(float64(p) + 1e-5))
}
