package builtin

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// storyPieces is the pattern that cuts text into pieces before merges join
// characters within each, as the model's header says it. nextPiece is this
// pattern by hand; a model with another one needs other code.
const storyPieces = ` ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9\s]|\n| `

const (
	maxTokens     = 1 << 12
	maxTokenBytes = 64
	noMerge       = ^uint16(0)
)

// storyTokens turns text into token ids and back: byte-pair merges over
// characters (Sennrich, Haddow, Birch: Neural Machine Translation of Rare Words
// with Subword Units, 2016). It is never changed once made.
type storyTokens struct {
	texts         []string
	bos, eos, unk uint16
	chars         map[rune]uint16
	// ranks gives each pair of ids that merges its rank; made the id of the
	// token that a rank makes.
	ranks map[[2]uint16]uint16
	made  []uint16
}

// newStoryTokens checks a model's tokens and merges and indexes them. Every
// merge makes a token that no other makes, of parts that are characters or were
// made before. So what a merge makes only ever takes part in later ones, and all
// pairs of one rank can be joined in one pass.
func newStoryTokens(h *storyHeader) (*storyTokens, error) {
	t := &storyTokens{texts: h.Tokens, chars: map[rune]uint16{}, ranks: make(map[[2]uint16]uint16, len(h.Merges))}
	special := map[int]bool{h.Bos: true, h.Eos: true, h.Unk: true}
	for id := range special {
		if id < 0 || id >= len(h.Tokens) || len(special) != 3 {
			return nil, fmt.Errorf("bos %d, eos %d, unk %d: want three different tokens, 0 to %d", h.Bos, h.Eos, h.Unk, len(h.Tokens)-1)
		}
	}
	t.bos, t.eos, t.unk = uint16(h.Bos), uint16(h.Eos), uint16(h.Unk)
	ids := make(map[string]uint16, len(h.Tokens))
	usable := make([]bool, len(h.Tokens)) // in a merge
	for id, text := range h.Tokens {
		if _, twice := ids[text]; twice || text == "" || len(text) > maxTokenBytes {
			return nil, fmt.Errorf("tokens[%d]: %.40q: want 1 to %d bytes that no other token has", id, text, maxTokenBytes)
		}
		ids[text] = uint16(id)
		if r, size := utf8.DecodeRuneInString(text); size == len(text) && !special[id] {
			t.chars[r] = uint16(id)
			usable[id] = true
		}
	}
	for rank, m := range h.Merges {
		a, b := ids[m[0]], ids[m[1]]
		id, known := ids[m[0]+m[1]]
		// A text that is no token has id 0 in ids, so look at the texts, too.
		if !known || special[int(id)] || usable[id] || !usable[a] || !usable[b] || t.texts[a] != m[0] || t.texts[b] != m[1] {
			return nil, fmt.Errorf("merges[%d]: %.40q: want two characters or tokens made before, that make a new token", rank, m)
		}
		usable[id] = true
		t.ranks[[2]uint16{a, b}] = uint16(rank)
		t.made = append(t.made, id)
	}
	return t, nil
}

// nextPiece returns the length of the first piece of text, which is not empty,
// and whether it counts: the pattern leaves out white space other than spaces
// and newlines.
func nextPiece(text string) (n int, counts bool) {
	if text[0] == ' ' {
		n = 1
	}
	r, size := utf8.DecodeRuneInString(text[n:])
	switch {
	case isLetter(r):
		for n < len(text) && isLetter(rune(text[n])) {
			n++
		}
		return n, true
	case n == 1 && (size == 0 || isPatternSpace(r)):
		return n, true // a space that belongs to no word
	case isPatternSpace(r):
		return size, r == '\n'
	}
	return n + size, true
}

func isLetter(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// isPatternSpace is \s as Python's re has it, with which the model was trained:
// the four separators of ASCII are white space there.
func isPatternSpace(r rune) bool {
	return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f
}

// symbol is a token of a piece that is being merged, with the rank of the pair
// that it makes with the next one.
type symbol struct{ id, rank uint16 }

// encode appends the ids of text to ids. A character that the model does not
// know is unk. The time grows with the text's length, and by a factor of at most
// the number of merges in a word without end.
func (t *storyTokens) encode(ids []uint16, text string) []uint16 {
	var room [32]symbol
	word := room[:0]
	for len(text) > 0 {
		n, counts := nextPiece(text)
		if counts {
			word = t.split(word[:0], text[:n])
			for _, s := range t.merge(word) {
				ids = append(ids, s.id)
			}
		}
		text = text[n:]
	}
	return ids
}

func (t *storyTokens) split(word []symbol, piece string) []symbol {
	for _, r := range piece {
		id, known := t.chars[r]
		if !known {
			id = t.unk
		}
		word = append(word, symbol{id: id})
	}
	for i := range word {
		word[i].rank = t.rankAt(word, i)
	}
	return word
}

func (t *storyTokens) rankAt(word []symbol, i int) uint16 {
	if i+1 < len(word) {
		if rank, ok := t.ranks[[2]uint16{word[i].id, word[i+1].id}]; ok {
			return rank
		}
	}
	return noMerge
}

// merge joins the pairs of the lowest rank, from left to right, until no pair
// has one.
func (t *storyTokens) merge(word []symbol) []symbol {
	for {
		lowest := noMerge
		for _, s := range word {
			lowest = min(lowest, s.rank)
		}
		if lowest == noMerge {
			return word
		}
		id, n := t.made[lowest], 0
		for i := 0; i < len(word); i++ {
			s := word[i]
			if s.rank == lowest {
				s.id = id
				i++
			}
			word[n] = s
			n++
		}
		word = word[:n]
		for i, s := range word {
			if s.id == id || i+1 < n && word[i+1].id == id {
				word[i].rank = t.rankAt(word, i)
			}
		}
	}
}
