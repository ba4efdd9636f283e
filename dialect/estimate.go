package dialect

import (
	"bytes"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// Estimate is what a request may cost, told before it runs. It is what a quota
// reserves; what was really used is settled afterwards.
type Estimate struct {
	// Input is the number of prompt tokens: about one for four bytes of text, which
	// is near for English and high for most other languages. Pictures, sound and
	// documents inside the body are 1,000 tokens each. 0 where the body holds none,
	// where no model runs, and where it was not read.
	Input int64
	// Output is the largest cap on generated tokens that the request names, for
	// all of its answers together; 0 where it names none. It saturates.
	Output int64
	// Answers is how many answers the model is to generate; at least 1.
	Answers int64
}

const (
	bytesPerToken = 4

	// dataTokens is what a picture, a sound or a document counts. Models bill
	// pictures by their size on screen, some 85 to 1,600 tokens; by its bytes a
	// photograph would count hundreds of thousands, and no quota would let it pass.
	dataTokens = 1000

	// textMost is the length above which a string without a space that has only
	// the letters of base64 is taken for data.
	textMost = 1 << 10
)

// weight adds up the parts of a prompt.
type weight struct{ bytes, tokens int64 }

// add counts one member as it is written. White space between tokens is not
// counted: no model sees it.
func (w *weight) add(raw []byte) {
	var texts, rest, numbers, data int64
	objects := false
	for i := 0; i < len(raw); {
		switch c := raw[i]; {
		case c == '"':
			end := jsonscan.StringEnd(raw, i)
			if isData(raw[i+1 : max(i+1, end-1)]) {
				data++
			} else {
				texts += int64(end - i)
			}
			i = end
			continue
		case c == '-' || '0' <= c && c <= '9':
			end := jsonscan.ValueEnd(raw, i)
			rest, numbers, i = rest+int64(end-i), numbers+1, end
			continue
		case c == '{':
			objects = true
		}
		if !jsonscan.IsSpace(raw[i]) {
			rest++
		}
		i++
	}
	w.tokens += data * dataTokens
	w.bytes += texts
	if len(raw) > 0 && raw[0] == '[' && numbers > 0 && !objects {
		w.tokens += numbers // token ids: each is one, however it is written
		return
	}
	w.bytes += rest
}

func (w *weight) total() int64 { return w.tokens + (w.bytes+bytesPerToken-1)/bytesPerToken }

// isData reports whether the inside of a string is a file in base64: a data URL,
// or long, and without anything but its letters.
func isData(text []byte) bool {
	if bytes.HasPrefix(text, []byte("data:")) {
		head := text[:min(len(text), 256)] // the longest media types have some 120 letters
		if i := bytes.Index(head, []byte(";base64,")); i >= 0 {
			return isBase64(text[i+len(";base64,"):])
		}
		return false
	}
	return len(text) > textMost && isBase64(text)
}

// isBase64 knows both alphabets. Encoders write / as \/ and line breaks as \n, so
// a backslash is a letter, too.
func isBase64(text []byte) bool {
	for _, c := range text {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '+', c == '/', c == '-', c == '_', c == '=', c == '\\':
		default:
			return false
		}
	}
	return true
}

// largest returns the largest positive number among values, 0 if there is none.
func largest(values []jsonscan.Value) int64 {
	var most int64
	for _, v := range values {
		most = max(most, number(v))
	}
	return most
}

// number reads a cap or a count as the most lenient server would: a fraction is
// rounded up, a text that is a number is one. What is too large saturates; what
// is none is 0.
func number(v jsonscan.Value) int64 {
	switch v.Kind() {
	case jsonscan.Number:
		n, err := v.Int()
		if n == 0 && err != nil { // a fraction
			f, _ := v.Float()
			return ceil(f)
		}
		return n
	case jsonscan.String:
		text, _ := v.Text()
		text = strings.ReplaceAll(strings.TrimSpace(text), "_", "") // Python's int takes both
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil || n != 0 { // out of range: the nearest
			return n
		}
		f, _ := strconv.ParseFloat(text, 64)
		return ceil(f)
	}
	return 0
}

// ceil rounds up, within int64. What is no number is 0.
func ceil(f float64) int64 {
	switch f = math.Ceil(f); {
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f > 0:
		return int64(f)
	}
	return 0
}

// times multiplies two numbers that are not negative; the result saturates.
func times(a, b int64) int64 {
	high, low := bits.Mul64(uint64(a), uint64(b))
	if high > 0 || low > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low)
}
