package dialect

import (
	"path"
	"strings"

	"github.com/inferweir/weir/internal/jsonscan"
)

// A Dialect is one family of model APIs. It is safe for concurrent use. Make one
// with OpenAI, Anthropic, Ollama, KServe, TFServing or Plain.
type Dialect struct {
	name      string
	api       api // of what is no known endpoint and in no area
	areas     []area
	endpoints []*endpoint
	other     *requestForm // of what is no known endpoint; nil: not read
	aliases   bool         // a model has several names
}

// area is a part of a server's paths where another API than the dialect's own
// stands, known endpoint or not.
type area struct {
	within string // is part of the path
	api    api
}

// Name is the dialect's name in a configuration, for example "openai".
func (d *Dialect) Name() string { return d.name }

// Canonical is the one name of a model of which a server knows several: who counts
// or chooses by model must not be evaded by another of its names. Only Ollama has
// that: Llama3, llama3:latest, library/llama3 and registry.ollama.ai/library/llama3
// are llama3. A * at the end, of a pattern, stays.
func (d *Dialect) Canonical(model string) string {
	if !d.aliases {
		return model
	}
	model = strings.ToLower(model)
	model = strings.TrimPrefix(strings.TrimPrefix(model, "https://"), "http://")
	model = strings.TrimPrefix(model, "registry.ollama.ai/")
	model = strings.TrimPrefix(model, "library/")
	return strings.TrimSuffix(model, ":latest")
}

// api is whose form errors and limit fields have. One server often speaks several:
// vLLM serves Anthropic's messages beside OpenAI's endpoints.
type api uint8

const (
	apiPlain api = iota
	apiOpenAI
	apiAnthropic
	apiOllama
	apiKServe // KServe, Triton and TensorFlow Serving: {"error": "text"}
)

// endpoint is one operation of an API.
type endpoint struct {
	// name is told in logs and metrics, for example "chat/completions".
	name string
	api  api
	// match reports whether a path is this endpoint's, and the model that the
	// path names, if it does. The path has no slash at its end; if the endpoint
	// manages, it is a plainPath.
	match func(path string) (model string, ok bool)
	// manages says that the call changes the server itself, such as Ollama's pull.
	manages bool
	// either tells by the body which other endpoint this is; nil: it is itself.
	either  *either
	request *requestForm // nil: the body is not read
	answers *answerForm  // nil: the answer is not read
	batch   *batchForm   // nil: requests are not put together
	forms   *formWays    // nil: there is one form, or none is made of another
}

// find returns the endpoint of a path, nil if none is known. One slash at the end
// does not matter: most servers send the client on to the path without.
func (d *Dialect) find(path string) (*endpoint, string) {
	path = strings.TrimSuffix(path, "/")
	plain := ""
	for _, e := range d.endpoints {
		p := path
		if e.manages {
			if plain == "" {
				plain = plainPath(path)
			}
			p = plain
		}
		if model, ok := e.match(p); ok {
			return e, model
		}
	}
	return nil, ""
}

// either is a choice between endpoints by the first of some members that a body has.
type either struct {
	members *jsonscan.Paths
	are     []*endpoint // in the order of members
}

// endpoint returns the one that body is for, nil if it has none of the members or
// cannot be read.
func (e *either) endpoint(body []byte, depth int) *endpoint {
	var room [maxPointers]jsonscan.Value
	values, err := e.members.Find(room[:0], body, depth)
	if err != nil {
		return nil
	}
	for i, v := range values {
		if v.Kind() > jsonscan.Null {
			return e.are[i]
		}
	}
	return nil
}

// apiOf is whose form the answers of a path have.
func (d *Dialect) apiOf(path string) api {
	if e, _ := d.find(path); e != nil {
		return e.api
	}
	for _, a := range d.areas {
		if strings.Contains(path, a.within) {
			return a.api
		}
	}
	return d.api
}

// endsIn matches paths that end in one of the suffixes: the same API stands below
// many prefixes ("/v1", "/openai/v1", none).
func endsIn(suffixes ...string) func(string) (string, bool) {
	return func(path string) (string, bool) {
		for _, s := range suffixes {
			if strings.HasSuffix(path, s) {
				return "", true
			}
		}
		return "", false
	}
}

// modelBelow matches prefix, a model, perhaps one of the steps with a version's
// name, and the suffix: with prefix "/v1/models/", step "/versions/" and suffix
// ":predict" it takes m out of "/v1/models/m/versions/3:predict".
func modelBelow(prefix, suffix string, steps ...string) func(string) (string, bool) {
	return func(path string) (string, bool) {
		_, rest, ok := strings.Cut(path, prefix)
		if !ok {
			return "", false
		}
		rest, ok = strings.CutSuffix(rest, suffix)
		if !ok {
			return "", false
		}
		for _, step := range steps {
			if model, version, ok := strings.Cut(rest, step); ok && oneStep(version) {
				rest = model
				break
			}
		}
		return rest, oneStep(rest)
	}
}

func oneStep(s string) bool { return s != "" && strings.IndexByte(s, '/') < 0 }

// changes makes endpoints that manage the server out of the ends of their paths.
// How a server reads paths is its own affair: another spelling of one, with
// slashes doubled or in capitals, is taken for it as well.
func changes(a api, suffixes ...string) []*endpoint {
	var all []*endpoint
	for _, s := range suffixes {
		all = append(all, &endpoint{name: strings.TrimPrefix(s, "/"), api: a, manages: true, match: endsIn(s)})
	}
	return all
}

// changesBelow is changes for everything below a path.
func changesBelow(a api, folder string) *endpoint {
	return &endpoint{name: strings.TrimPrefix(folder, "/"), api: a, manages: true, match: func(p string) (string, bool) {
		return "", strings.HasSuffix(p, folder) || strings.Contains(p, folder+"/")
	}}
}

// below keeps of an endpoint what is below a folder.
func below(folder string, e *endpoint) *endpoint {
	match := e.match
	e.match = func(path string) (string, bool) {
		if !strings.Contains(path, folder) {
			return "", false
		}
		return match(path)
	}
	return e
}

// plainPath is p in small letters, without doubled slashes, dots, and a slash at
// the end.
func plainPath(p string) string { return strings.ToLower(path.Clean("/" + p)) }

// mustCompile is jsonscan.Compile for the constants of this package.
func mustCompile(pointers ...string) *jsonscan.Paths {
	p, err := jsonscan.Compile(pointers...)
	if err != nil {
		panic("dialect: " + err.Error()) // a mistake in this package, found by its first test
	}
	return p
}
