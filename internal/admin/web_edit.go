package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
)

func (d *dashboard) editPage() page {
	return page{
		path: "/config/edit", title: "Change the configuration", template: "edit", within: "/config",
		data:  func(v *view) (any, error) { return d.editOf(v) },
		posts: map[string]func(http.ResponseWriter, *http.Request) error{"/config/save": d.save},
	}
}

// field is one input of a form.
type field struct {
	// Key is the key of the document, with dots; targets have their place in the list.
	Key, Label, Hint string
	// Type is text, number, lines or select.
	Type    string
	Options []string
	// Value is what the input has, Was what was in force when the form was made, and
	// File what the file says where that is something else.
	Value, Was, File string
	Differs          bool
	Moved            []string // what load has moved in it, and to what
	Wrong            []string // what is wrong with the value
}

// ID is that of the input.
func (f field) ID() string { return "field-" + strings.ReplaceAll(f.Key, ".", "-") }

// editData is what the form shows.
type editData struct {
	Kind, Name string
	Fields     []field
	// Targets says which targets the fields are of.
	Targets    string
	Override   bool
	NoDatabase bool
}

func (d *dashboard) editOf(v *view) (editData, error) {
	kind, name := v.Request.FormValue("kind"), v.Request.FormValue("name")
	inForce, file := d.gateway.Config(), d.gateway.File()
	doc, ok := inForce.EditDoc(kind, name)
	if !ok {
		return editData{}, problem(http.StatusNotFound, "There is no %s %.100q in the configuration: go back to it, and choose one of those that are there.", kindName(kind), name)
	}
	data := editData{Kind: kind, Name: name, Fields: fieldsOf(kind, doc, inForce, name), NoDatabase: inForce.Database == nil, Targets: d.targetsMark(inForce, kind, name)}
	for _, o := range d.gateway.Overrides() {
		data.Override = data.Override || o.Kind == kind && o.Name == name
	}
	var asFile []field
	if doc, ok := file.EditDoc(kind, name); ok {
		asFile = fieldsOf(kind, doc, file, name)
	}
	moved := movedIn(movedRows(inForce, v.Snapshot.Auto), kind, name)
	for i := range data.Fields {
		f := &data.Fields[i]
		f.Was, f.Moved = f.Value, moved[f.Key]
		for _, o := range asFile {
			if o.Key == f.Key && o.Value != f.Value {
				f.Differs, f.File = true, o.Value
			}
		}
		if _, sent := v.Request.PostForm[f.Key]; sent {
			f.Value, f.Was = textOf(v.Request, f.Key), textOf(v.Request, "was."+f.Key)
		}
	}
	if v.Failed != nil {
		all := len(v.Failed.Mistakes)
		v.Failed.Mistakes = beside(data.Fields, v.Failed.Mistakes, prefixOf(inForce, kind, name))
		if all > 0 && len(v.Failed.Mistakes) == 0 {
			v.Failed.Detail = "What is wrong stands beside the fields."
		}
	}
	v.Page = &page{path: v.Page.path, title: strings.ToUpper(kind[:1]) + kind[1:] + " " + name, about: "Changes hold at once, for requests that begin after them.", template: v.Page.template, within: v.Page.within}
	return data, nil
}

// kindName is a kind for messages.
func kindName(kind string) string {
	if slices.Contains([]string{"plan", "route", "upstream"}, kind) {
		return kind
	}
	return "plan, route or upstream"
}

// targetsMark tells the targets of an upstream, in their order, from all others, without
// saying what they are.
func (d *dashboard) targetsMark(c *config.Config, kind, name string) string {
	if kind != "upstream" {
		return ""
	}
	var urls []string
	for _, t := range c.Upstreams[name].Targets {
		urls = append(urls, strconv.Quote(t.URL))
	}
	return encode(d.guard.sessions.sign("targets", strings.Join(urls, " ")))
}

// prefixOf is what the paths of mistakes in a plan, route or upstream begin with.
func prefixOf(c *config.Config, kind, name string) string {
	if kind == "route" {
		i := slices.IndexFunc(c.Routes, func(r config.Route) bool { return r.Name == name })
		return fmt.Sprintf("routes[%d].", i)
	}
	return kind + "s." + name + "."
}

// beside puts mistakes beside the fields that they are of, and returns the others.
func beside(fields []field, mistakes []mistake, prefix string) (others []mistake) {
	for _, m := range mistakes {
		key, ok := strings.CutPrefix(m.Path, prefix)
		i := slices.IndexFunc(fields, func(f field) bool { return isOf(key, f.Key) })
		if !ok || i < 0 {
			others = append(others, m)
			continue
		}
		text := m.Detail
		if m.Value != "" {
			text = "“" + m.Value + "”: " + text
		}
		if place := strings.TrimPrefix(key, fields[i].Key); place != "" && fields[i].Type == "lines" {
			text = ordinal(place) + text
		}
		fields[i].Wrong = append(fields[i].Wrong, text)
	}
	return others
}

// isOf holds where the path of a mistake is that of a field, or within it.
func isOf(path, key string) bool {
	if i, ok := strings.CutPrefix(key, "targets."); ok {
		key = "targets[" + i + "]"
	}
	rest, ok := strings.CutPrefix(path, key)
	if !ok && strings.HasPrefix(key, path+".") {
		return true // of all of a group: its first field has it
	}
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// ordinal names the policy that a path such as [2].window is in.
func ordinal(place string) string {
	number, key, _ := strings.Cut(strings.TrimPrefix(place, "["), "]")
	i, err := strconv.Atoi(number)
	if err != nil {
		return ""
	}
	text := fmt.Sprintf("policy %d", i+1)
	if key = strings.TrimPrefix(key, "."); key != "" {
		text += ", " + key
	}
	return text + ": "
}

// save puts what was changed in a form in force: only that, so that two people who change
// different things do not undo each other.
func (d *dashboard) save(w http.ResponseWriter, r *http.Request) error {
	kind, name := r.PostFormValue("kind"), r.PostFormValue("name")
	c := d.gateway.Config()
	doc, ok := c.EditDoc(kind, name)
	switch {
	case !ok:
		return problem(http.StatusNotFound, "There is no such plan, route or upstream.")
	case r.PostFormValue("targets") != d.targetsMark(c, kind, name):
		return &weir.Problem{Status: http.StatusConflict, Title: "Nothing is changed", Detail: "The targets are not what they were when the form was loaded: open it again."}
	}
	patch := map[string]any{}
	for _, f := range fieldsOf(kind, doc, c, name) {
		text := textOf(r, f.Key)
		if _, sent := r.PostForm[f.Key]; !sent || text == textOf(r, "was."+f.Key) {
			continue
		}
		value, err := f.json(text, prefixOf(c, kind, name))
		if err != nil {
			return err
		}
		put(patch, f.path(c, name), value)
	}
	if len(patch) == 0 {
		return d.see(w, r, editHref(kind, name), "unchanged")
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	if _, err := d.gateway.Edit(r.Context(), config.Edit{Kind: kind, Name: name, Doc: text}, who(r)); err != nil {
		return editError(err, "")
	}
	return d.see(w, r, editHref(kind, name), "edited")
}

func editHref(kind, name string) string {
	return "/config/edit?" + url.Values{"kind": {kind}, "name": {name}}.Encode()
}

// textOf is what a form has for a field, in one form whatever browsers end lines with.
func textOf(r *http.Request, key string) string {
	return strings.TrimSpace(strings.ReplaceAll(r.PostFormValue(key), "\r\n", "\n"))
}

// put sets a member of nested objects.
func put(patch map[string]any, path []string, value any) {
	for _, key := range path[:len(path)-1] {
		next, ok := patch[key].(map[string]any)
		if !ok {
			next = map[string]any{}
			patch[key] = next
		}
		patch = next
	}
	patch[path[len(path)-1]] = value
}

// path is where the value of a field stands in a document.
func (f field) path(c *config.Config, name string) []string {
	if i, ok := strings.CutPrefix(f.Key, "targets."); ok {
		at, _ := strconv.Atoi(i)
		return []string{"targets", c.Upstreams[name].Targets[at].URL}
	}
	return strings.Split(f.Key, ".")
}

// json is what a text means for a field: nothing takes it back to the file.
func (f field) json(text, prefix string) (any, error) {
	switch f.Type {
	case "lines":
		list, err := policyList(text)
		if err != nil {
			return nil, config.Mistakes{{Path: prefix + f.Key, Want: err.Error()}}
		}
		return list, nil
	case "number":
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n, nil
		}
	}
	if text == "" {
		return nil, nil
	}
	return text, nil
}
