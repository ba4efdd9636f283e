package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// edits shows and changes what of the configuration may change while the gateway runs:
// its plans, its routes, or its upstreams.
type edits struct {
	gateway *gateway.Gateway
	kind    string // plan, route or upstream
	example string // of a body
	names   func(*config.Config) []string
}

func planEdits(g *gateway.Gateway) edits {
	return edits{g, "plan", `for example {"policies": ["5/minute"]}`, func(c *config.Config) []string { return slices.Sorted(maps.Keys(c.Plans)) }}
}

func routeEdits(g *gateway.Gateway) edits {
	return edits{g, "route", `for example {"cache": {"ttl": "10m"}}`, func(c *config.Config) []string {
		names := make([]string, len(c.Routes))
		for i, r := range c.Routes {
			names[i] = r.Name
		}
		return names
	}}
}

func upstreamEdits(g *gateway.Gateway) edits {
	return edits{g, "upstream", `for example {"concurrency": 8}`, func(c *config.Config) []string { return slices.Sorted(maps.Keys(c.Upstreams)) }}
}

// all and one are what the paths can do.
func (e edits) all() methods { return methods{http.MethodGet: e.list} }

func (e edits) one() methods {
	return methods{http.MethodGet: e.show, http.MethodPatch: e.change, http.MethodDelete: e.revert}
}

// list answers {"plans": {NAME: …}}, by name.
func (e edits) list(w http.ResponseWriter, _ *http.Request) error {
	all := map[string]json.RawMessage{}
	s := e.edited()
	inForce := e.gateway.Config()
	for _, name := range e.names(inForce) {
		if doc, ok := inForce.EditDoc(e.kind, name); ok {
			all[name] = s.shown(doc, name)
		}
	}
	write(w, http.StatusOK, map[string]any{e.kind + "s": all})
	return nil
}

// edited is what is shown beside the documents of a kind.
type edited struct {
	kind      string
	file      *config.Config
	overrides map[string]gateway.Override
	auto      map[string][]moved
}

// moved is a value that load moves.
type moved struct {
	What   string `json:"what"`
	Value  string `json:"value"`
	Min    string `json:"min"`
	Max    string `json:"max"`
	Reason string `json:"reason"`
}

// edited finds it.
func (e edits) edited() edited {
	s := edited{e.kind, e.gateway.File(), map[string]gateway.Override{}, map[string][]moved{}}
	for _, o := range e.gateway.Overrides() {
		if o.Kind == e.kind {
			s.overrides[o.Name] = o
		}
	}
	for _, a := range e.gateway.Auto() {
		if a.Kind == e.kind {
			s.auto[a.Name] = append(s.auto[a.Name], moved{a.What, a.Value, a.Min, a.Max, a.Reason})
		}
	}
	return s
}

// shown is what is in force, and beside it what was edited and what the file says, where
// that is not the same, and what load moves.
func (s edited) shown(doc json.RawMessage, name string) json.RawMessage {
	if o, overridden := s.overrides[name]; overridden {
		doc = with(doc, "override", o.Doc)
		if written, ok := s.file.EditDoc(s.kind, name); ok {
			doc = with(doc, "file", json.RawMessage(written))
		}
		doc = with(doc, "kept", o.Kept, "by", o.By, "at", o.At)
		if o.LeftOut != "" {
			doc = with(doc, "left_out", o.LeftOut)
		}
	}
	if auto := s.auto[name]; len(auto) > 0 {
		doc = with(doc, "auto", auto)
	}
	return doc
}

// show answers with what is in force, or with an edit that is left out because the file
// has nothing of the name.
func (e edits) show(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	s := e.edited()
	doc, ok := e.gateway.Config().EditDoc(e.kind, name)
	if _, there := s.overrides[name]; !ok && !there {
		return e.unknown(name)
	}
	if !ok {
		doc = []byte("{}")
	}
	write(w, http.StatusOK, s.shown(doc, name))
	return nil
}

// change merges the body into what is in force: what comes after it sees that. Where
// there is a database it is kept there, and holds at the other instances, too.
func (e edits) change(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if _, ok := e.gateway.Config().EditDoc(e.kind, name); !ok {
		return e.unknown(name)
	}
	body, err := read(w, r)
	if err != nil {
		return err
	}
	known := func(member string) bool {
		return slices.ContainsFunc(config.EditKeys(e.kind), func(key string) bool {
			first, _, _ := strings.Cut(key, ".")
			return first == member
		})
	}
	members, mistakes := object{known, "is no member of " + aKind(e.kind) + " that can be changed: want " + e.members(), e.example}.read(body)
	if len(mistakes) == 0 && len(members) == 0 {
		mistakes = config.Mistakes{{Want: "want a member to change: " + e.members() + ", " + e.example}}
	}
	if len(mistakes) > 0 {
		return append(mistakes, e.wrong(name, members)...)
	}
	c, err := e.gateway.Edit(r.Context(), config.Edit{Kind: e.kind, Name: name, Doc: body}, actor(r))
	if err != nil {
		return e.refused(name, err)
	}
	e.write(w, c)
	return nil
}

// wrong is what else is wrong with the members of a body.
func (e edits) wrong(name string, members map[string]json.RawMessage) config.Mistakes {
	if len(members) == 0 {
		return nil
	}
	doc, err := json.Marshal(members)
	if err == nil {
		_, err = e.gateway.Config().Edited([]config.Edit{{Kind: e.kind, Name: name, Doc: doc}})
	}
	list, _ := errors.AsType[config.Mistakes](err)
	return list
}

// members are those that a body may have.
func (e edits) members() string {
	var names []string
	for _, key := range config.EditKeys(e.kind) {
		first, _, _ := strings.Cut(key, ".")
		names = append(names, first)
	}
	return oneOf(slices.Compact(names))
}

// oneOf joins words: a, b or c.
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func aKind(kind string) string {
	if kind == "upstream" {
		return "an " + kind
	}
	return "a " + kind
}

// revert takes back what was changed: what the file says is in force.
func (e edits) revert(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	c, err := e.gateway.Revert(r.Context(), e.kind, name, actor(r))
	if list, ok := errors.AsType[config.Mistakes](err); ok {
		return problem(http.StatusConflict, "What the file says of %s %.100q does not fit what else was changed: %v.", e.kind, name, list[0])
	}
	if err != nil {
		return e.refused(name, err)
	}
	e.write(w, c)
	return nil
}

// write answers with what is in force now.
func (e edits) write(w http.ResponseWriter, c gateway.Change) {
	after := c.After
	if after == nil { // it is in no file any more
		after = json.RawMessage("{}")
	}
	if c.Doc == nil {
		write(w, http.StatusOK, with(after, "kept", c.Kept))
		return
	}
	written, _ := e.gateway.File().EditDoc(e.kind, c.Name)
	write(w, http.StatusOK, with(after, "override", c.Doc, "file", json.RawMessage(written), "kept", c.Kept))
}

// refused is what a client is told of err.
func (e edits) refused(name string, err error) error {
	if errors.Is(err, gateway.ErrNoSuch) {
		return e.unknown(name)
	}
	if _, ok := errors.AsType[config.Mistakes](err); ok {
		return err
	}
	return config.Mistakes{{Path: e.kind + "s." + name, Want: err.Error()}}
}

// unknown names what there is, but not too much of it.
func (e edits) unknown(name string) error {
	const most = 20
	known := e.names(e.gateway.Config())
	if len(known) == 0 {
		return problem(http.StatusNotFound, "There is no %s %.100q: the configuration has none.", e.kind, name)
	}
	if len(known) > most {
		known = append(known[:most:most], "…")
	}
	return problem(http.StatusNotFound, "There is no %s %.100q: want %s.", e.kind, name, strings.Join(known, ", "))
}

// with is a JSON object with more members, pairs of a name and a value, behind its own.
func with(doc json.RawMessage, more ...any) json.RawMessage {
	var out bytes.Buffer
	out.Write(bytes.TrimSuffix(bytes.TrimSpace(doc), []byte("}")))
	for i := 0; i+1 < len(more); i += 2 {
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		value, err := json.Marshal(more[i+1])
		if err != nil { // texts, numbers, and JSON that was read
			value = []byte("null")
		}
		fmt.Fprintf(&out, "%q:%s", more[i], value)
	}
	out.WriteByte('}')
	return out.Bytes()
}
