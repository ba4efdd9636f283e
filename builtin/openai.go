package builtin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// apiError is a refusal of an OpenAI endpoint, in the form that OpenAI's clients
// raise as an error of their own.
type apiError struct {
	status int
	// param names the member of the body that is wrong, "" where it is none.
	param string
	// code is for programs, such as "model_not_found"; "" where there is none.
	code string
	// message says what is wrong and what would be right.
	message string
}

// Error gives the text for people.
func (e *apiError) Error() string { return e.message }

// kind is the error's type in OpenAI's words.
func (e *apiError) kind() string {
	if e.status >= http.StatusInternalServerError {
		return "server_error"
	}
	return "invalid_request_error"
}

// body is the error as a JSON object.
func (e *apiError) body() []byte {
	orNull := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	type inner struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	text, err := json.Marshal(map[string]inner{"error": {e.message, e.kind(), orNull(e.param), orNull(e.code)}})
	if err != nil { // strings only: cannot happen
		return fmt.Appendf(nil, `{"error":{"message":"","type":%q,"param":null,"code":null}}`, e.kind())
	}
	return text
}

func (e *apiError) write(w http.ResponseWriter) {
	text := append(e.body(), '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(e.status)
	_, _ = w.Write(text) // a client that has left needs no answer
}

// invalid is a refusal for what a member of the body says.
func invalid(param, format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, param: param, message: fmt.Sprintf(format, args...)}
}

// readAPIBody is readBody with refusals in OpenAI's form.
func readAPIBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, *apiError) {
	body, problem := readBody(w, r, most)
	if problem != nil {
		return nil, &apiError{status: problem.Status, message: problem.Detail}
	}
	return body, nil
}

// duplicate returns which member of a body err says is there twice, as a place
// such as "messages[0].role", or "" if it says something else.
func duplicate(err error) string {
	twice, ok := errors.AsType[*jsonscan.DuplicateError](err)
	if !ok {
		return ""
	}
	var place strings.Builder
	for step := range strings.SplitSeq(strings.TrimPrefix(twice.Pointer, "/"), "/") {
		switch _, err := strconv.ParseUint(step, 10, 32); {
		case place.Len() == 0:
			place.WriteString(step)
		case err == nil:
			place.WriteString("[" + step + "]")
		default:
			place.WriteString("." + strings.NewReplacer("~1", "/", "~0", "~").Replace(step))
		}
	}
	return place.String()
}
