package telemetry

import (
	"net/http"

	"github.com/cespare/xxhash/v2"
)

// RequestHash is the same for requests that ask for the same: method, host, path, query,
// body, and those fields for which counts is true, by their canonical names, are, byte for
// byte. It is fast and no secret: who guesses a body can tell that it is the one. It is
// never 0.
func RequestHash(r *http.Request, body []byte, counts func(field string) bool) uint64 {
	var d xxhash.Digest
	var fields uint64 // a sum, because they come in any order
	for name, values := range r.Header {
		if len(values) == 0 || !counts(name) {
			continue
		}
		d.Reset()
		addPart(&d, name)
		for _, v := range values {
			addPart(&d, v)
		}
		fields += d.Sum64()
	}
	d.Reset()
	addPart(&d, r.Method)
	addPart(&d, r.Host)
	addPart(&d, r.URL.Path)
	addPart(&d, r.URL.RawQuery)
	_, _ = d.Write(body)
	return max(d.Sum64()+fields, 1)
}

// addPart adds a text, and ends it with a zero byte.
func addPart(d *xxhash.Digest, text string) {
	_, _ = d.WriteString(text) // a hash takes everything
	_, _ = d.Write([]byte{0})
}
