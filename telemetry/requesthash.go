package telemetry

import "github.com/cespare/xxhash/v2"

// RequestHash is the same for requests that ask for the same: method, path, query and
// body are, byte for byte. It is fast and no secret: who guesses a body can tell that it
// is the one. It is never 0.
func RequestHash(method, path, query string, body []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	for _, part := range []string{method, path, query} {
		_, _ = d.WriteString(part) // a hash takes everything
		_, _ = d.Write([]byte{0})
	}
	_, _ = d.Write(body)
	return max(d.Sum64(), 1)
}
