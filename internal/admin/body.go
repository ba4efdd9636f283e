package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir/config"
)

const (
	// maxBody is the most bytes of a request's body.
	maxBody = 1 << 20
	// maxMistakes bounds how many strange members are named.
	maxMistakes = 20
)

// read reads a body of JSON. A form of another site's page cannot have its type.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || len(r.Header["Content-Encoding"]) > 0 {
		return nil, problem(http.StatusUnsupportedMediaType, "Want a body that is not compressed, with Content-Type: application/json.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, problem(http.StatusRequestEntityTooLarge, "The body is too large: want at most %d bytes.", maxBody)
	}
	if err != nil {
		p := problem(http.StatusBadRequest, "The body cannot be read to its end within %s.", bodyTimeout)
		p.Err = err
		return nil, p
	}
	return body, nil
}

// object is what a body may be.
type object struct {
	known   func(name string) bool
	unknown string // what is said of other members
	example string
}

// read finds the members of a body, nil where it is no object, and what is wrong
// with it. Of members that are there twice it is the first.
func (o object) read(body []byte) (found map[string]json.RawMessage, mistakes config.Mistakes) {
	d := json.NewDecoder(bytes.NewReader(body))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, config.Mistakes{{Want: "want a JSON object, " + o.example}}
	}
	found = map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, o.broken(d, err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, o.broken(d, err)
		}
		name, _ := key.(string) // what else would be an error
		_, twice := found[name]
		switch {
		case !o.known(name) && len(mistakes) < maxMistakes:
			mistakes = append(mistakes, config.Mistake{Path: memberName(name), Want: o.unknown})
		case !o.known(name):
		case twice && len(mistakes) < maxMistakes:
			mistakes = append(mistakes, config.Mistake{Path: name, Want: "is there twice: want it once"})
		case !twice:
			found[name] = slices.Clone(value)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, o.broken(d, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, config.Mistakes{{Want: "something follows the JSON object: want nothing behind it"}}
	}
	return found, mistakes
}

// memberName is the name of a member as it stands in messages: like those that are known,
// with nothing around it, and without what a terminal could take for more than text.
func memberName(name string) string {
	quoted := fmt.Sprintf("%.60q", name)
	if plain := quoted[1 : len(quoted)-1]; plain != "" && !strings.ContainsAny(plain, " \\") {
		return plain
	}
	return quoted
}

func (o object) broken(d *json.Decoder, err error) config.Mistakes {
	return config.Mistakes{{Want: fmt.Sprintf("is no JSON after byte %d: %v: want %s", d.InputOffset(), err, o.example)}}
}
