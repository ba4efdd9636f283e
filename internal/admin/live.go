package admin

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// actor is who sent a request to the API, as the log and the audit name them.
func actor(r *http.Request) string { return "admin " + r.RemoteAddr }

// configuration shows which configuration is in force, and reloads it.
type configuration struct{ gateway *gateway.Gateway }

// difference is a key that is not as in the file.
type difference struct {
	Path    string `json:"path"`
	File    string `json:"file"`
	InForce string `json:"in_force"`
	Why     string `json:"why,omitempty"` // "" where it was edited
}

// differences are what was changed since the file was read, and what load has moved from
// where it starts.
func (c configuration) differences() []difference {
	found := config.Differences(c.gateway.File(), c.gateway.Config())
	list := make([]difference, len(found))
	for i, d := range found {
		list[i] = difference{Path: d.Path, File: d.File, InForce: d.InForce}
	}
	for _, a := range c.gateway.Auto() {
		if a.Value != a.File {
			list = append(list, difference{a.Path, a.File, a.Value, "moved by load"})
		}
	}
	return list
}

// shownConfig is a configuration in the form of the file, without secrets.
func shownConfig(c *config.Config) (string, error) {
	text, err := c.Redacted().YAML()
	return string(text), err
}

// show answers with the file and with what is in force, or with the latter alone as
// YAML.
func (c configuration) show(w http.ResponseWriter, r *http.Request) error {
	inForce, err := shownConfig(c.gateway.Config())
	if err != nil {
		return err
	}
	switch format := r.URL.Query().Get("format"); format {
	case "", "json":
	case "yaml":
		h := w.Header()
		h["Content-Type"] = []string{"application/yaml"}
		h["Content-Length"] = []string{strconv.Itoa(len(inForce))}
		h["Cache-Control"] = []string{"no-store"}
		_, _ = w.Write([]byte(inForce)) // a client that has left needs no answer
		return nil
	default:
		return problem(http.StatusBadRequest, "%.40q is no format: want json or yaml.", format)
	}
	file, err := shownConfig(c.gateway.File())
	if err != nil {
		return err
	}
	write(w, http.StatusOK, map[string]any{
		"file": file, "in_force": inForce, "differences": c.differences(), "overrides": c.gateway.Overrides(),
		"auto": c.gateway.Auto(),
	})
	return nil
}

// reload reads the file again and puts it in force.
func (c configuration) reload(w http.ResponseWriter, r *http.Request) error {
	err := c.gateway.ReloadFile(actor(r))
	_, mistaken := errors.AsType[config.Mistakes](err)
	switch {
	case errors.Is(err, gateway.ErrNoFile):
		return problem(http.StatusConflict, "There is no file to reload: Weir was started without --config.")
	case errors.Is(err, gateway.ErrNeedsRestart):
		return problem(http.StatusConflict, "Nothing is changed: %v.", err)
	case mistaken:
		return err
	case err != nil:
		return problem(http.StatusBadRequest, "Nothing is changed: %v.", err)
	}
	write(w, http.StatusOK, map[string]any{"reloaded": true, "differences": c.differences()})
	return nil
}

// mostAudit is how many changes are shown where nobody says how many.
const mostAudit = 100

// audit answers with the last changes, the newest first.
func (c configuration) audit(w http.ResponseWriter, r *http.Request) error {
	most := mostAudit
	if text := r.URL.Query().Get("max"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 10_000 {
			return problem(http.StatusBadRequest, "max: %.40q: want a number from 1 to 10000.", text)
		}
		most = n
	}
	changes, err := c.gateway.Audit(r.Context(), most)
	if err != nil {
		p := problem(http.StatusServiceUnavailable, "The database, which remembers the changes, does not answer.")
		p.Err = err
		return p
	}
	if changes == nil {
		changes = []gateway.Change{}
	}
	write(w, http.StatusOK, map[string]any{"changes": changes})
	return nil
}
