package dialect

import (
	"bytes"

	"github.com/inferweir/weir/internal/jsonscan"
)

// tamed returns data with zeros in the place of NaN and Infinity, at the same
// length, so that every other value is where it was. Python's servers write them
// into log probabilities, although they are no JSON, and SDKs in Python read them.
// odd is false if there are none.
func tamed(data []byte) (tame []byte, odd bool) {
	if !bytes.Contains(data, []byte("NaN")) && !bytes.Contains(data, []byte("Infinity")) {
		return nil, false
	}
	tame = bytes.Clone(data)
	for i := 0; i < len(tame); {
		if tame[i] == '"' {
			i = jsonscan.StringEnd(tame, i)
			continue
		}
		n := 1
		for _, word := range []string{"NaN", "Infinity", "-Infinity"} {
			if bytes.HasPrefix(tame[i:], []byte(word)) {
				n = copy(tame[i:], "        0"[9-len(word):])
			}
		}
		i += n
	}
	return tame, true
}
