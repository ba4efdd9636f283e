package main

import (
	"encoding/json"
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// bytesPerToken is how much text is one token here: about what tokenizers make of
// English. The text that comes back keeps to it: every word of vocabulary with the
// blank before it is so long.
const bytesPerToken = 4

// vocabulary is what answers are made of: 32 words of three letters.
const vocabulary = "theandforwasnotyoubutherhisoneallhadoutsheseetwowaywhoitsnowdayhowmanoldnewboyputsayuseanyairsea"

// tokensOf is how many tokens a text of so many bytes is: at least one, because
// every prompt begins with something.
func tokensOf(bytes int) int {
	return max(1, (bytes+bytesPerToken-1)/bytesPerToken)
}

// keyOf is what an answer depends on, with the bounds on its length: the seed and
// the prompt. So the same prompt always gets the same text, streamed or not.
func keyOf(seed uint64, prompt []byte) uint64 {
	h := fnv.New64a()
	var s [8]byte
	for i := range s {
		s[i] = byte(seed >> (8 * i))
	}
	_, _ = h.Write(s[:]) // a hash takes everything
	_, _ = h.Write(prompt)
	return h.Sum64()
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014): it spreads
// neighbouring numbers over all 64 bits.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// appendWords appends the words from, from+1 … to-1 of the answer with that key. They
// have only letters and blanks: nothing to escape in JSON.
func appendWords(b []byte, key uint64, from, to int) []byte {
	const letters = bytesPerToken - 1
	const words = uint64(len(vocabulary) / letters)
	for i := from; i < to; i++ {
		word := mix(key+uint64(i)) % words * letters
		b = append(b, ' ')
		b = append(b, vocabulary[word:word+letters]...)
	}
	return b
}

// drawLength is how long an answer is that nobody gave a length: lognormal with
// this median and this standard deviation of the logarithm, and at least one token.
func drawLength(key uint64, median int, sigma float64) int {
	normal := rand.New(rand.NewPCG(key, mix(key))).NormFloat64()
	const most = 1 << 30 // far above every context: the exponential may overflow
	return int(min(most, max(1, math.Round(float64(median)*math.Exp(sigma*normal)))))
}

// textLength is how many bytes of text a prompt has: a string, a list of parts with
// a text each (what is not text counts nothing), or, as an OpenAI prompt may be, a
// list of strings. ids is how many token IDs there are instead, where it is a list
// of numbers.
func textLength(raw json.RawMessage) (bytes, ids int) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return len(one), 0
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return 0, 0
	}
	for _, item := range list {
		var part struct {
			Text string `json:"text"`
		}
		var id float64
		switch {
		case json.Unmarshal(item, &one) == nil:
			bytes += len(one)
		case json.Unmarshal(item, &id) == nil:
			ids++
		case json.Unmarshal(item, &part) == nil:
			bytes += len(part.Text)
		}
	}
	return bytes, ids
}
