package builtin

import (
	_ "embed"
	"encoding/binary"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// embedModel is the name of the embeddings model in requests.
const embedModel = "weir-embed"

const (
	// embedModelFile is the place of the model in the source tree, for messages.
	embedModelFile = "models/glove/weir-embed.bin"

	// unknownNorm is the length of the vector of a number or of an unknown word:
	// it counts as much as most known words, whose vectors are 4 to 6 long.
	unknownNorm = 5

	// commonNorm is the same for the most frequent words that the file lacks, "a"
	// and "i". That of "the" is .08 long.
	commonNorm = .05

	// longestLookup is longer than every word in the file.
	longestLookup = math.MaxUint8
)

//go:embed models/glove/weir-embed.bin
var embedData []byte

// embedFile returns the model's file, which must not be changed. It is not
// copied: it is part of the program, and the system loads what is used of it.
func embedFile() []byte { return embedData }

// embedding is a model that turns a text into a vector: the sum of its words'
// vectors, each weighted by how rare the word is, less its part along one
// component that all texts share, scaled to length 1. This is SIF of Arora, Liang
// and Ma (A Simple but Tough-to-Beat Baseline for Sentence Embeddings, 2017). The
// weights are in the file.
type embedding struct {
	dim       int
	component []float32
	ends      []uint32 // where each word ends in text
	text      []byte   // the words, ascending
	scales    []byte   // words x float32
	rows      []byte   // words x dim x int8
}

// Embed returns what a text is about as a vector of 100 numbers of length 1: the
// more two texts are about the same things, the larger is the dot product of
// their vectors, which is their cosine: some .86 for the same question in other
// words, about 0 for texts that have nothing to do with each other, and 1 for
// the same words in another order.
//
// It is a mean of word vectors (GloVe, the 50,000 most frequent English words)
// and knows nothing of grammar: "dog bites man" is "man bites dog", "not" hardly
// counts, and a question about France is close to the same question about
// Germany. High values do not say that two questions have the same answer. Numbers
// and words that it does not know are compared by how they are written, and so is
// a text that has no word, number or symbol, such as "?!". Every text has a vector
// of length 1, the empty one too, which is like nothing but itself.
func (m *Models) Embed(text string) []float32 {
	vector, _ := m.embedding.embed(text)
	return vector
}

// embed returns the vector of a text and how many words, numbers and symbols
// were read, known or not.
func (e *embedding) embed(text string) (vector []float32, words int) {
	sum := make([]float32, e.dim)
	text = strings.ReplaceAll(strings.ToLower(text), "’", "'")
	for run, rest := nextRun(text); run != ""; run, rest = nextRun(rest) {
		e.addRun(sum, run)
		words++
	}
	if words == 0 {
		addUnknown(sum, strings.TrimSpace(text))
	}
	var along float32
	for i, c := range e.component {
		along += float32(c * sum[i])
	}
	for i, c := range e.component {
		sum[i] -= float32(c * along)
	}
	toUnit(sum)
	return sum, words
}

// toUnit scales v to length 1. It leaves zeros, which no text has.
func toUnit(v []float32) {
	var square float64
	for _, x := range v {
		square += float64(float64(x) * float64(x))
	}
	if square == 0 {
		return
	}
	norm := math.Sqrt(square)
	for i, x := range v {
		v[i] = float32(float64(x) / norm)
	}
}

// nextRun returns the first run of letters and digits in text, with what joins
// them, such as "don't", "well-known", "10,000" and "3.5", or one symbol, such as
// an emoji. It is "" when there is none.
func nextRun(text string) (run, rest string) {
	start := strings.IndexFunc(text, func(r rune) bool { return inWord(r) || unicode.Is(unicode.So, r) })
	if start < 0 {
		return "", ""
	}
	text = text[start:]
	last, end := utf8.DecodeRuneInString(text)
	if !inWord(last) {
		return text[:end], text[end:]
	}
	for end < len(text) {
		r, size := utf8.DecodeRuneInString(text[end:])
		next, _ := utf8.DecodeRuneInString(text[end+size:])
		if !inWord(r) && !unicode.IsMark(r) && !joins(last, r, next) {
			break
		}
		last = r
		end += size
	}
	return text[:end], text[end:]
}

func inWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }

// joins tells whether r holds a run together between last and next.
func joins(last, r, next rune) bool {
	switch r {
	case '\'', '-':
		return inWord(last) && inWord(next)
	case '.', ',':
		return unicode.IsNumber(last) && unicode.IsNumber(next)
	}
	return false
}

// addRun adds the vectors of what is in run: one word, or the words that it is
// made of.
func (e *embedding) addRun(sum []float32, run string) {
	if e.addKnown(sum, run) {
		return
	}
	if base, ok := strings.CutSuffix(run, "n't"); ok {
		e.addKnown(sum, "not")
		switch base {
		case "ca", "wo", "sha": // their verbs add nothing to "not"
			return
		}
		run = base
	}
	for part := range strings.FieldsFuncSeq(run, func(r rune) bool { return r == '\'' || r == '-' }) {
		if !e.addKnown(sum, part) {
			addUnknown(sum, part)
		}
	}
}

// addKnown adds the vector of a word and tells whether the file has it.
func (e *embedding) addKnown(sum []float32, word string) bool {
	i, ok := e.find(word)
	if !ok {
		return false
	}
	scale := e.scale(i)
	for j, v := range e.rows[i*e.dim:][:len(sum)] {
		sum[j] += float32(scale * float32(int8(v)))
	}
	return true
}

// find returns the number of a word in the file.
func (e *embedding) find(word string) (i int, ok bool) {
	if len(word) > longestLookup {
		return 0, false
	}
	low, high := 0, len(e.ends)
	for low < high {
		middle := int(uint(low+high) / 2)
		switch other := e.word(middle); {
		case string(other) < word:
			low = middle + 1
		case string(other) == word:
			return middle, true
		default:
			high = middle
		}
	}
	return 0, false
}

func (e *embedding) word(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = e.ends[i-1]
	}
	return e.text[start:e.ends[i]]
}

func (e *embedding) scale(i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(e.scales[4*i:]))
}

// addUnknown adds a vector that only a word's spelling gives: the sum of one
// pseudo-random vector for each three letters in a row, so that names and words
// of other languages are like themselves and a little like their other forms. A
// number is one piece: 1914 is not like 1941.
func addUnknown(sum []float32, word string) {
	if strings.IndexFunc(word, unicode.IsNumber) >= 0 {
		addSigns(sum, spelling(strings.ReplaceAll(word, ",", "")), unknownNorm)
		return
	}
	switch word {
	case "a", "i", "ll", "m", "re", "s", "t", "ve": // "I'll", "I'm", "we're", "it's", "isn't", "we've"
		addSigns(sum, spelling(word), commonNorm)
		return
	}
	word = "<" + word + ">"
	pieces := max(1, utf8.RuneCountInString(word)-2)
	norm := unknownNorm / float32(math.Sqrt(float64(pieces)))
	for range pieces {
		_, first := utf8.DecodeRuneInString(word)
		_, second := utf8.DecodeRuneInString(word[first:])
		_, third := utf8.DecodeRuneInString(word[first+second:])
		addSigns(sum, spelling(word[:first+second+third]), norm)
		word = word[first:]
	}
}

// spelling is the 64-bit FNV-1a hash of s.
func spelling(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(s) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// addSigns adds a vector of length norm whose numbers differ in their signs
// only. The signs are drawn from seed by SplitMix64 (Steele, Lea and Flood: Fast
// Splittable Pseudorandom Number Generators, 2014).
func addSigns(sum []float32, seed uint64, norm float32) {
	each := norm / float32(math.Sqrt(float64(len(sum))))
	var bits uint64
	for i := range sum {
		if i%64 == 0 {
			seed += 0x9e3779b97f4a7c15
			bits = (seed ^ seed>>30) * 0xbf58476d1ce4e5b9
			bits = (bits ^ bits>>27) * 0x94d049bb133111eb
			bits ^= bits >> 31
		}
		if bits&1 == 0 {
			sum[i] += each
		} else {
			sum[i] -= each
		}
		bits >>= 1
	}
}
