package builtin

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"unicode/utf8"
)

// What an embeddings file may be.
const (
	embedMagic    = "WEIREMB\x01" // the last byte is the version
	embedHeader   = len(embedMagic) + 3*4
	embedChecksum = 4
	embedMaxDim   = 1024
	embedMaxWords = 1 << 20
	embedMaxScale = 1e3 // far from overflow in the longest text
)

// loadEmbedding reads an embeddings file. All its numbers are little-endian:
//
//	8 bytes           "WEIREMB" and the version, 1
//	3 uint32          dimensions, number of words, bytes of text
//	dimensions float32    the component, of length 1, to remove from a sentence
//	words uint8       the length of each word in bytes
//	text              the words in ascending order, one after the other
//	words float32     the scale of each word
//	words * dimensions int8   the vectors: times its scale, a word's weighted vector
//	uint32            CRC-32 (IEEE) of all that is before
//
// It checks the sizes before it uses them, so data may be anything, and
// allocates 4 bytes a word: the model reads the rest in data, which the caller
// must not change. An error names the part of the file.
func loadEmbedding(data []byte) (*embedding, error) {
	e, words, err := cutEmbedding(data)
	if err != nil {
		return nil, err
	}
	at := len(data) - embedChecksum
	if got, want := crc32.ChecksumIEEE(data[:at]), binary.LittleEndian.Uint32(data[at:]); got != want {
		return nil, fmt.Errorf("embeddings file, checksum: %08x: want %08x", got, want)
	}
	var square float64
	for _, v := range e.component {
		square += float64(v) * float64(v)
	}
	if !(math.Abs(square-1) < 1e-3) { // NaN too
		return nil, fmt.Errorf("embeddings file, component: squares sum to %v: want 1", square)
	}
	if err := e.setWords(words); err != nil {
		return nil, err
	}
	for i := range len(e.ends) {
		if s := e.scale(i); !(s >= 0 && s <= embedMaxScale) {
			return nil, fmt.Errorf("embeddings file, scale %d: %v: want 0 to %v", i, s, embedMaxScale)
		}
	}
	return e, nil
}

// cutEmbedding cuts data into its parts and returns, besides, the lengths of the
// words. It looks at nothing but sizes.
func cutEmbedding(data []byte) (e *embedding, lengths []byte, err error) {
	if len(data) < embedHeader+embedChecksum || string(data[:len(embedMagic)]) != embedMagic {
		return nil, nil, fmt.Errorf("embeddings file: %d bytes that begin with %.8q: want %q and a header", len(data), data[:min(8, len(data))], embedMagic)
	}
	var sizes [3]int64
	for i := range sizes {
		sizes[i] = int64(binary.LittleEndian.Uint32(data[len(embedMagic)+4*i:]))
	}
	dim, words, text := sizes[0], sizes[1], sizes[2]
	if dim < 1 || dim > embedMaxDim || words < 1 || words > embedMaxWords {
		return nil, nil, fmt.Errorf("embeddings file, header: %d dimensions, %d words: want 1 to %d and 1 to %d", dim, words, embedMaxDim, embedMaxWords)
	}
	rest := data[embedHeader : len(data)-embedChecksum]
	if want := 4*dim + words + text + 4*words + words*dim; want != int64(len(rest)) {
		return nil, nil, fmt.Errorf("embeddings file: %d bytes after the header: want %d for %d words of %d dimensions", len(rest), want, words, dim)
	}
	take := func(n int64) []byte {
		part := rest[:n:n]
		rest = rest[n:]
		return part
	}
	component, lengths := take(4*dim), take(words)
	e = &embedding{dim: int(dim), text: take(text), scales: take(4 * words), rows: take(words * dim)}
	e.component = make([]float32, dim)
	for i := range e.component {
		e.component[i] = math.Float32frombits(binary.LittleEndian.Uint32(component[4*i:]))
	}
	return e, lengths, nil
}

// setWords finds the end of each word in the text, and checks that the words
// are as the look-up needs them.
func (e *embedding) setWords(lengths []byte) error {
	e.ends = make([]uint32, len(lengths))
	end, before := 0, []byte(nil)
	for i, n := range lengths {
		start := end
		end += int(n)
		if end > len(e.text) {
			return fmt.Errorf("embeddings file, word %d: it ends at byte %d of the text: want at most %d", i, end, len(e.text))
		}
		word := e.text[start:end]
		if bytes.Compare(word, before) <= 0 || !utf8.Valid(word) {
			return fmt.Errorf("embeddings file, word %d: %.40q after %.40q: want UTF-8 in ascending order", i, word, before)
		}
		e.ends[i], before = uint32(end), word
	}
	if end != len(e.text) {
		return fmt.Errorf("embeddings file, words: %d bytes: want the %d of the text", end, len(e.text))
	}
	return nil
}
