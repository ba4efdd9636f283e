package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
)

func problem(status int, format string, args ...any) *weir.Problem {
	return &weir.Problem{Status: status, Detail: fmt.Sprintf(format, args...)}
}

// refuse writes err: a *weir.Problem, or everything that is wrong with a body.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	if p, ok := errors.AsType[*weir.Problem](err); ok {
		p.ServeHTTP(w, r)
		return
	}
	if list, ok := errors.AsType[config.Mistakes](err); ok {
		w.Header()["Content-Type"] = []string{"application/problem+json"}
		write(w, http.StatusBadRequest, described(list))
		return
	}
	(&weir.Problem{Err: err}).ServeHTTP(w, r)
}

// mistaken is a problem (RFC 9457) with a member of its own.
type mistaken struct {
	Type     string    `json:"type"`
	Title    string    `json:"title"`
	Status   int       `json:"status"`
	Detail   string    `json:"detail"`
	Mistakes []mistake `json:"mistakes"`
}

type mistake struct {
	Path   string `json:"path,omitempty"`
	Value  string `json:"value,omitempty"`
	Detail string `json:"detail"`
}

// unchanged begins what is said of a change that is not made.
const unchanged = "Nothing is changed: "

func described(list config.Mistakes) mistaken {
	p := mistaken{Type: "about:blank", Title: http.StatusText(http.StatusBadRequest), Status: http.StatusBadRequest}
	p.Detail = unchanged + list[0].Error()
	if n := len(list); n > 1 {
		p.Detail += fmt.Sprintf("; and %d more", n-1)
	}
	for _, m := range list {
		value := m.Value
		if plain, err := strconv.Unquote(value); err == nil { // JSON has quotes of its own
			value = plain
		}
		p.Mistakes = append(p.Mistakes, mistake{m.Path, value, m.Want})
	}
	return p
}

// write answers with v as JSON. Its Content-Type is application/json unless it has
// one.
func write(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false)
	// A buffer takes everything, and these are texts and numbers.
	_ = e.Encode(v)
	h := w.Header()
	if h["Content-Type"] == nil {
		h["Content-Type"] = []string{"application/json"}
	}
	h["Content-Length"] = []string{strconv.Itoa(body.Len())}
	h["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // a client that has left needs no answer
}
