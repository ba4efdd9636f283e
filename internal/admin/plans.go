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
	"github.com/inferweir/weir/gateway"
)

// maxBody is the most bytes of a request's body.
const maxBody = 1 << 20

// plans shows and changes what callers may use.
type plans struct{ gateway *gateway.Gateway }

// plan has the members of a plan of the configuration.
type plan struct {
	Policies json.RawMessage `json:"policies"`
}

// changed is a plan that is not as the configuration has it.
type changed struct {
	plan
	// Kept is whether the change outlives this process.
	Kept bool `json:"kept"`
}

func (p plans) list(w http.ResponseWriter, _ *http.Request) error {
	all := map[string]plan{}
	for _, name := range p.gateway.Plans() {
		if policies, ok := p.gateway.Policies(name); ok {
			all[name] = plan{config.PoliciesJSON(policies, name)}
		}
	}
	write(w, http.StatusOK, map[string]any{"plans": all})
	return nil
}

func (p plans) show(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	policies, ok := p.gateway.Policies(name)
	if !ok {
		return p.unknown(name)
	}
	write(w, http.StatusOK, plan{config.PoliciesJSON(policies, name)})
	return nil
}

// change puts the body's policies in force. What comes after it in this process
// sees them; nothing is written anywhere.
func (p plans) change(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if _, ok := p.gateway.Policies(name); !ok {
		return p.unknown(name)
	}
	body, err := read(w, r)
	if err != nil {
		return err
	}
	policies, err := policiesIn(body, p.gateway.Config(), name)
	if err != nil {
		return err
	}
	before, err := p.gateway.SetPolicies(name, policies)
	switch {
	case errors.Is(err, gateway.ErrNoPlan):
		return p.unknown(name)
	case err != nil:
		return config.Mistakes{{Path: "policies", Want: err.Error()}}
	}
	after := json.RawMessage(config.PoliciesJSON(policies, name))
	p.gateway.Logger().Info("policies changed", "plan", name, "old", json.RawMessage(config.PoliciesJSON(before, name)), "new", after, "remote", r.RemoteAddr)
	write(w, http.StatusOK, changed{plan: plan{after}})
	return nil
}

// unknown names the plans that there are, but not too many.
func (p plans) unknown(name string) error {
	const most = 20
	known := p.gateway.Plans()
	switch n := len(known); {
	case n == 0:
		return problem(http.StatusNotFound, "There is no plan %.100q: the configuration has none.", name)
	case n > most:
		known = append(known[:most], "…")
	}
	return problem(http.StatusNotFound, "There is no plan %.100q: want %s.", name, strings.Join(known, ", "))
}

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

// policiesIn reads {"policies": […]} for a plan of c, or tells everything that is
// wrong in it.
func policiesIn(body []byte, c *config.Config, plan string) ([]config.Policy, error) {
	list, mistakes := members(body)
	if list == nil {
		return nil, mistakes
	}
	policies, err := c.ParsePlan(list, plan)
	if err != nil {
		more, ok := errors.AsType[config.Mistakes](err)
		if !ok {
			return nil, err
		}
		mistakes = append(mistakes, more...)
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return policies, nil
}

const (
	example = `for example {"policies": ["5/minute"]}`
	// maxMistakes bounds how many strange members are named.
	maxMistakes = 20
)

// members finds the list in a body, nil where there is none, and what else is in
// it.
func members(body []byte) (list json.RawMessage, mistakes config.Mistakes) {
	d := json.NewDecoder(bytes.NewReader(body))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, config.Mistakes{{Want: "want a JSON object, " + example}}
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, broken(d, err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, broken(d, err)
		}
		switch name, _ := key.(string); { // what else would be an error
		case name != "policies" && len(mistakes) < maxMistakes:
			mistakes = append(mistakes, config.Mistake{Path: fmt.Sprintf("%.60q", name), Want: "is no member of a plan: want policies"})
		case name != "policies":
		case list != nil:
			mistakes = append(mistakes, config.Mistake{Path: name, Want: "is there twice: want it once"})
		default:
			list = slices.Clone(value)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, broken(d, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, config.Mistakes{{Want: "something follows the JSON object: want nothing behind it"}}
	}
	switch {
	case list == nil:
		mistakes = append(mistakes, config.Mistake{Path: "policies", Want: "is not there: want a list, " + example})
	case list[0] != '[':
		mistakes = append(mistakes, config.Mistake{Path: "policies", Want: "is no list: want one, " + example + `, or [] for no limit`})
		list = nil
	}
	return list, mistakes
}

func broken(d *json.Decoder, err error) config.Mistakes {
	return config.Mistakes{{Want: fmt.Sprintf("is no JSON after byte %d: %v: want %s", d.InputOffset(), err, example)}}
}
