package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// plans shows and changes what callers may use.
type plans struct{ gateway *gateway.Gateway }

// plan has the members of a plan of the configuration.
type plan struct {
	Policies json.RawMessage `json:"policies"`
	// Budget is that of the file, as it is written there. It is in force whatever the
	// policies are changed to.
	Budget string `json:"budget,omitempty"`
	// Override says that these are not the policies of the configuration's file, but
	// those that the database keeps in their place.
	Override bool `json:"override,omitempty"`
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
			all[name] = p.shown(name, policies)
		}
	}
	write(w, http.StatusOK, map[string]any{"plans": all})
	return nil
}

// shown is a plan as it is in force.
func (p plans) shown(name string, policies []config.Policy) plan {
	return plan{config.PoliciesJSON(policies, name), p.budget(name), p.gateway.Overridden(name)}
}

// budget is what each caller of a plan may spend, "" for any amount.
func (p plans) budget(name string) string {
	if b := p.gateway.Config().Plans[name].Budget; b != nil {
		return b.String()
	}
	return ""
}

func (p plans) show(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	policies, ok := p.gateway.Policies(name)
	if !ok {
		return p.unknown(name)
	}
	write(w, http.StatusOK, p.shown(name, policies))
	return nil
}

// change puts the body's policies in force: what comes after it sees them. Where there
// is a database they are kept in it, and hold at the other instances, too.
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
	before, isKept, err := p.gateway.KeepPolicies(r.Context(), name, policies, "admin "+r.RemoteAddr)
	switch {
	case errors.Is(err, gateway.ErrNoPlan):
		return p.unknown(name)
	case err != nil:
		return config.Mistakes{{Path: "policies", Want: err.Error()}}
	}
	after := json.RawMessage(config.PoliciesJSON(policies, name))
	p.gateway.Logger().Info("policies changed", "plan", name, "old", json.RawMessage(config.PoliciesJSON(before, name)), "new", after, "kept", isKept, "remote", r.RemoteAddr)
	write(w, http.StatusOK, changed{plan: plan{Policies: after, Budget: p.budget(name)}, Kept: isKept})
	return nil
}

// drop takes back what was changed: the file's policies are in force.
func (p plans) drop(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if _, ok := p.gateway.Policies(name); !ok {
		return p.unknown(name)
	}
	before, isKept, err := p.gateway.DropPolicies(r.Context(), name, "admin "+r.RemoteAddr)
	switch {
	case errors.Is(err, gateway.ErrNoPlan):
		return p.unknown(name)
	case err != nil:
		return problem(http.StatusConflict, "The policies of the file do not fit those of other plans that were changed: %v.", err)
	}
	policies, _ := p.gateway.Policies(name)
	after := json.RawMessage(config.PoliciesJSON(policies, name))
	p.gateway.Logger().Info("policies taken back to those of the file", "plan", name, "old", json.RawMessage(config.PoliciesJSON(before, name)), "new", after, "kept", isKept, "remote", r.RemoteAddr)
	write(w, http.StatusOK, changed{plan: plan{Policies: after, Budget: p.budget(name)}, Kept: isKept})
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

const example = `for example {"policies": ["5/minute"]}`

// members finds the list in a body, nil where there is none, and what else is in
// it.
func members(body []byte) (list json.RawMessage, mistakes config.Mistakes) {
	known := func(name string) bool { return name == "policies" }
	found, mistakes := object{known, "is no member of a plan: want policies", example}.read(body)
	if found == nil {
		return nil, mistakes
	}
	list, ok := found["policies"]
	switch {
	case !ok:
		mistakes = append(mistakes, config.Mistake{Path: "policies", Want: "is not there: want a list, " + example})
	case list[0] != '[':
		mistakes = append(mistakes, config.Mistake{Path: "policies", Want: "is no list: want one, " + example + `, or [] for no limit`})
		list = nil
	}
	return list, mistakes
}
