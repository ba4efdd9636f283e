package admin

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
)

// maxPurged is the longest value of a purge, in bytes: it is remembered, and told to
// the other instances. With its kind it has to fit the 4096 bytes of a label.
const maxPurged = 4000

// purgeExample is what a body of a purge looks like.
const purgeExample = `for example {"tag": "llama"}, {"path": "/v1/chat/*"} or {"all": true}`

// kinds are what can be purged: the members of the body.
func kinds() []string { return []string{"key", "tag", "path", "caller", "all"} }

// caches forgets answers.
type caches struct {
	purger purger
	log    *slog.Logger
}

// purged is the answer to a purge. Removed counts those of this process.
type purged struct {
	Purged  map[string]json.RawMessage `json:"purged"`
	Removed int                        `json:"removed"`
}

// purge removes the answers that the body names.
func (c caches) purge(w http.ResponseWriter, r *http.Request) error {
	body, err := read(w, r)
	if err != nil {
		return err
	}
	p, mistakes := purgeIn(body)
	if len(mistakes) > 0 {
		return mistakes
	}
	removed, err := c.remove(r, p)
	if err != nil {
		return err
	}
	write(w, http.StatusOK, purged{map[string]json.RawMessage{p.kind: p.written}, removed})
	return nil
}

// remove removes what r asks for, and logs who did.
func (c caches) remove(r *http.Request, p purge) (removed int, err error) {
	removed, err = c.purger.Purge(r.Context(), p.kind, p.value)
	if err != nil {
		c.log.Error("purge incomplete", p.kind, p.value, "removed", removed, "remote", r.RemoteAddr, "error", err.Error())
		return removed, incomplete(removed, err)
	}
	c.log.Info("cache purged", p.kind, p.value, "removed", removed, "remote", r.RemoteAddr)
	return removed, nil
}

// purgeAgain is when to purge again what not all instances were told of.
const purgeAgain = time.Second

// incomplete says that a purge may not hold everywhere, or not for ever: it could
// not be told to the other instances, or not be written down. Why is for the log.
func incomplete(removed int, err error) error {
	if p, ok := errors.AsType[*weir.Problem](err); ok {
		return p
	}
	return &weir.Problem{
		Status: http.StatusServiceUnavailable, RetryAfter: purgeAgain, Err: err,
		Detail: fmt.Sprintf("Purged in this instance, with %d answers removed; but other instances, or this one after a restart, may still give such answers: not all could be told. The log says why. Purge again.", removed),
	}
}

// purge is what is to be removed. written is the value as the answer has it.
type purge struct {
	kind, value string
	written     json.RawMessage
}

// purgeIn reads the one member of a body.
func purgeIn(body []byte) (purge, config.Mistakes) {
	known := func(name string) bool { return slices.Contains(kinds(), name) }
	found, mistakes := object{known, "is nothing that can be purged: want key, tag, path, caller or all", purgeExample}.read(body)
	if len(mistakes) > 0 {
		return purge{}, mistakes
	}
	var p purge
	for _, kind := range kinds() {
		raw, ok := found[kind]
		switch {
		case !ok:
		case p.kind != "":
			return purge{}, config.Mistakes{{Path: kind, Want: "stands beside " + p.kind + ": want one of them, and another request for the other"}}
		default:
			p.kind = kind
			if want := p.read(raw); want != "" {
				mistakes = config.Mistakes{{Path: kind, Want: want}}
			}
		}
	}
	if p.kind == "" {
		return purge{}, config.Mistakes{{Want: "it is empty: want one of key, tag, path, caller and all, " + purgeExample}}
	}
	return p, mistakes
}

// read takes the value of a kind, or says what is wrong with it.
func (p *purge) read(raw json.RawMessage) (want string) {
	p.written = raw
	if p.kind == "all" {
		if string(raw) != "true" {
			return `want true: {"all": true} purges everything`
		}
		return ""
	}
	if raw[0] != '"' || json.Unmarshal(raw, &p.value) != nil {
		return "is no text: want one, " + purgeExample
	}
	if p.kind == "key" {
		p.value = strings.ToLower(p.value)
	}
	return p.mistake()
}

// mistake says why no answer can have the value, "" where one can.
func (p *purge) mistake() string {
	v := p.value
	if v == "" {
		return "is empty: want what to purge, " + purgeExample
	}
	if len(v) > maxPurged {
		return fmt.Sprintf("%d bytes: want at most %d", len(v), maxPurged)
	}
	odd := func(r rune) bool { return r == ' ' || r == ',' || !unicode.IsPrint(r) }
	switch _, err := hex.DecodeString(v); {
	case p.kind == "key" && (err != nil || len(v) != 64):
		return "want the 64 hexadecimal digits of a key"
	case p.kind == "tag" && strings.ContainsFunc(v, odd):
		return "want a tag, without spaces and commas"
	case p.kind == "path":
		return pathMistake(v)
	case p.kind == "caller" && !isCaller(v):
		return "want the ID of a caller: key:NAME, jwt:NAME, header:NAME or ip:ADDRESS"
	}
	return ""
}

// pathMistake says why no request has the path, "" where one can. It may be escaped
// or not: all forms of a path mean its answers.
func pathMistake(v string) string {
	start, _ := strings.CutSuffix(v, "*")
	plain, err := url.PathUnescape(start)
	inURL := len((&url.URL{Path: plain}).EscapedPath()) // at least what it takes in a label
	switch {
	case !strings.HasPrefix(v, "/"):
		return "want a path that begins with /, for example /v1/chat/completions, or /v1/* for all that begin so"
	case strings.Contains(start, "*"):
		return "want * only at the end, for example /v1/*, and %2A for the character"
	case strings.ContainsAny(start, "?#"):
		return "want a path without query and fragment: its answers to all queries are purged"
	case err != nil:
		return "want a path in which % stands before two hexadecimal digits, and %25 for the character"
	case inURL > maxPurged:
		return fmt.Sprintf("%d bytes as it stands in a URL: want at most %d", inURL, maxPurged)
	}
	return ""
}

// isCaller holds for the form of a caller's ID: the way that named it, and a name.
func isCaller(id string) bool {
	way, name, _ := strings.Cut(id, ":")
	return name != "" && slices.Contains([]string{"key", "jwt", "header", "ip"}, way)
}
