package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// maxExplained is the most bytes of a request to explain one: a body of 10 MiB, written as
// JSON.
const maxExplained = 24 << 20

const explainExample = `for example {"method": "POST", "path": "/v1/chat/completions", "headers": {"Authorization": "Bearer weir_…"}, "body": {"model": "llama-3", "messages": []}}`

// explains tells what would become of a request.
type explains struct{ gateway *gateway.Gateway }

// explain answers with every decision about the request in the body. Nothing is counted.
func (e explains) explain(w http.ResponseWriter, r *http.Request) error {
	err := e.tell(w, r)
	if list, ok := errors.AsType[config.Mistakes](err); ok {
		// Nothing would have been changed anyhow.
		p := described(list)
		p.Detail = strings.TrimPrefix(p.Detail, unchanged)
		w.Header()["Content-Type"] = []string{"application/problem+json"}
		write(w, http.StatusBadRequest, p)
		return nil
	}
	return err
}

func (e explains) tell(w http.ResponseWriter, r *http.Request) error {
	body, err := readExplained(w, r)
	if err != nil {
		return err
	}
	request, err := explainRequest(body)
	if err != nil {
		return err
	}
	told, err := e.gateway.Explain(r.Context(), request)
	if err != nil {
		return err
	}
	write(w, http.StatusOK, told)
	return nil
}

// readExplained is read for a body that holds another one.
func readExplained(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || len(r.Header["Content-Encoding"]) > 0 {
		return nil, problem(http.StatusUnsupportedMediaType, "Want a body that is not compressed, with Content-Type: application/json.")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxExplained))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, problem(http.StatusRequestEntityTooLarge, "The body is too large: want at most %d bytes.", maxExplained)
	}
	if err != nil {
		p := problem(http.StatusBadRequest, "The body cannot be read to its end within %s.", bodyTimeout)
		p.Err = err
		return nil, p
	}
	return body, nil
}

// explainRequest reads the members of body, or tells everything that is wrong with them.
func explainRequest(body []byte) (gateway.ExplainRequest, error) {
	var r gateway.ExplainRequest
	known := func(name string) bool {
		switch name {
		case "method", "path", "headers", "body", "remote_addr":
			return true
		}
		return false
	}
	found, mistakes := object{known, "is no member of a request: want method, path, headers, body or remote_addr", explainExample}.read(body)
	if found == nil {
		return r, mistakes
	}
	for _, one := range []struct {
		name string
		to   *string
	}{{"method", &r.Method}, {"path", &r.Path}, {"remote_addr", &r.RemoteAddr}} {
		if text, ok := found[one.name]; ok && json.Unmarshal(text, one.to) != nil {
			mistakes = append(mistakes, config.Mistake{Path: one.name, Want: "is no text: want one in quotes"})
		}
	}
	if text, ok := found["headers"]; ok && json.Unmarshal(text, &r.Headers) != nil {
		mistakes = append(mistakes, config.Mistake{Path: "headers", Want: `is no object of texts: want one, for example {"Accept": "*/*"}`})
	}
	if text, ok := found["body"]; ok {
		setBody(&r, text)
	}
	if len(mistakes) > 0 {
		return r, mistakes
	}
	return r, nil
}

// setBody makes value the body of r: a text as it is, null as none, and anything else as
// JSON, less the white space between its parts, of which Content-Type then tells.
func setBody(r *gateway.ExplainRequest, value json.RawMessage) {
	if string(value) == "null" || json.Unmarshal(value, &r.Body) == nil {
		return
	}
	var text bytes.Buffer
	_ = json.Compact(&text, value) // it was read as JSON
	r.Body = text.String()
	for name := range r.Headers {
		if strings.EqualFold(name, "Content-Type") {
			return
		}
	}
	if r.Headers == nil {
		r.Headers = map[string]string{}
	}
	r.Headers["Content-Type"] = "application/json"
}
