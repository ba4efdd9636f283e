package dialect

import (
	"bytes"
	"cmp"
	"math"
	"net/http"

	"github.com/inferweir/weir/internal/jsonscan"
)

// Request is what Read looks at.
type Request struct {
	// Method is the client's. Path is the path as the upstream gets it, decoded:
	// behind the base path of the upstream's address, if it has one. A model server
	// at http://host/v1 gets /v1/chat/completions, whatever the client called.
	Method, Path string
	// Query is what stands behind the path and its question mark, escapes and all;
	// "" where nothing does.
	Query string
	// Body is the whole body, without any Content-Encoding. The Call keeps it: it
	// must not change afterwards.
	Body []byte
	// Depth is how many levels the body may nest; 0 means jsonscan.DefaultDepth.
	Depth int
}

// Call is what a request asks for. It does not change once Read has returned it,
// and may be used by several goroutines at once.
type Call struct {
	// Endpoint names the operation, from a closed set, for example
	// "chat/completions". It is "" where the path and the method are none that
	// is known: the request is passed on unread.
	Endpoint string
	// Model is what path, query (the parameter model, on OpenAI's endpoints) and
	// body name. "" where none does, and where they name different models: then
	// Err says so. If only the body is at fault, it is the path's.
	Model string
	// Stream says that the client asked for a stream.
	Stream bool
	// Deterministic says that the same request has the same answer: its
	// temperature is 0, it has a seed, or the API does not sample; and no tool
	// looks at the world meanwhile. It is false where the body cannot be read, and
	// for calls of which nothing is known: they may look at a job, or at a server's
	// health.
	Deterministic bool
	Estimate      Estimate
	// Items is how many things the body holds that are answered each by itself:
	// inputs, prompts, instances. 1 where the body is one thing, 0 where that is
	// not known.
	Items int
	// Manages says that the call changes the server itself, for everybody, such
	// as Ollama's pull or Triton's load.
	Manages bool
	// Err says why the request could not be read in one way only: the body is no
	// JSON, has a member twice, or one that readers who ignore case take for
	// another ("Model"); or two models are named. Then another reader may see
	// another model. Model is not the body's, Estimate.Input is at least what the
	// length of the body makes, and all else above that comes from the body is as
	// little sure as the body. Err is nil where the body was read, is empty, or
	// need not be read.
	Err error

	endpoint *endpoint // nil with Endpoint ""
	path     string
	body     []byte
	depth    int
	items    jsonscan.Value // the member that Items counts

	formRead        bool // what follows was read
	stream, options span // the members of FormPointers; to is 0 where there is none

	usageAsked    bool // the client itself asked for the usage of its stream
	usageInjected bool // Body asks for it
	usage         edit // how
}

// Generates reports whether a model writes the answer, so that it has output
// tokens.
func (c *Call) Generates() bool {
	if c.endpoint == nil || c.endpoint.answers == nil {
		return false
	}
	return c.endpoint.answers.reasons
}

// MayEndUnsaid reports whether a whole answer may come without a reason for its end,
// though a model writes it: older versions of Ollama give none.
func (c *Call) MayEndUnsaid() bool { return c.Generates() && c.endpoint.answers.lines }

// role is what a member of a request is read for.
type role uint8

const (
	roleModel role = iota
	roleStream
	roleOptions // of the stream
	roleUsage   // in these options
	roleTemperature
	roleSeed
	roleCap     // on the tokens of one answer
	roleAnswers // how many are wanted
	roleText    // what the model reads
	roleLarge   // often long, and not counted: to be passed over as a whole
	roleItems
	roleUnsteady // unless it says nothing, the answer depends on more than the request
	roleTools    // likewise, by their types
	roles
)

// streaming says when an endpoint streams.
type streaming uint8

const (
	ifAsked streaming = iota // "stream": true
	unlessNot
	always
)

// sampling says when an endpoint's answers are the same each time.
type sampling uint8

const (
	// steady answers are, unless a temperature that is not 0 stands there
	// without a seed.
	steady sampling = iota
	// sampled answers are, if the temperature is 0 or there is a seed: the
	// servers' own default is above 0.
	sampled
	// varied answers never are: pictures, speech.
	varied
)

// maxPointers is the most members that a form may name; a Read has room for as
// many values on its stack.
const maxPointers = 40

// requestForm says where in a body what is. The zero values of its fields are
// those of an API that gives one answer to one input.
type requestForm struct {
	pointers [roles][]string
	streams  streaming
	sampling sampling
	// count tells the number of items from the member with roleItems.
	count func(jsonscan.Value) int
	// prompts says that each item is a prompt that is answered by itself.
	prompts bool
	// orFiles says that other bodies than JSON, such as multipart forms and
	// tensors in binary, are right, too. They are not read.
	orFiles func(body []byte) bool
	// others says that bodies are anybody's, whose members have other meanings,
	// too. Only what looks like the model's is then taken for it.
	others bool

	names names // that other members must not look like
	paths *jsonscan.Paths
	first [roles + 1]int // the values of role r are values[first[r]:first[r+1]]
}

// compiled makes f ready for Read.
func (f requestForm) compiled() *requestForm {
	var all []string
	for r, pointers := range f.pointers {
		f.first[r] = len(all)
		all = append(all, pointers...)
		if f.others && role(r) != roleModel || role(r) == roleLarge {
			continue
		}
		for _, p := range pointers {
			f.names.add(p)
		}
	}
	f.first[roles] = len(all)
	f.paths = mustCompile(all...)
	return &f
}

// found are the values of a form's pointers in one body.
type found struct {
	form   *requestForm
	values []jsonscan.Value
}

func (f found) all(r role) []jsonscan.Value { return f.values[f.form.first[r]:f.form.first[r+1]] }

// one is the value of a role that has one pointer at most.
func (f found) one(r role) jsonscan.Value {
	if values := f.all(r); len(values) > 0 {
		return values[0]
	}
	return jsonscan.Value{}
}

// Read tells what a request asks for. It reads the body once, and whatever the
// body is, the Call is good to be passed on.
func (d *Dialect) Read(r Request) *Call {
	c := &Call{path: r.Path, body: r.Body, depth: r.Depth, Estimate: Estimate{Answers: 1}}
	e, model := d.find(r.Path)
	switch {
	case e != nil && (e.manages || asks(r.Method)):
		c.endpoint, c.Endpoint, c.Model, c.Manages = e, e.name, model, e.manages
		if e.either != nil {
			c.endpoint = cmp.Or(e.either.endpoint(r.Body, r.Depth), e)
		}
		if e.request != nil {
			c.read(c.endpoint.request, r.Query)
		}
	case d.other != nil:
		c.readOther(d.other)
	}
	return c
}

// asks reports whether a request of this method can be a call of a model. GET
// /v1/chat/completions lists the answers that are stored.
func asks(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace:
		return false
	}
	return true
}

// read reads the body of a known endpoint, of whose path Model is. Servers that
// have the model there, Azure and LiteLLM, look nowhere else.
func (c *Call) read(f *requestForm, query string) {
	c.Stream = f.streams == always
	path, asked := c.Model, ""
	if path == "" && c.endpoint.api == apiOpenAI {
		asked, c.Err = queryModel(query)
	}
	if len(c.body) == 0 {
		c.Model = cmp.Or(path, asked)
		return
	}
	if f.orFiles != nil && f.orFiles(c.body) {
		return
	}
	var room [maxPointers]jsonscan.Value
	values, err := f.paths.Find(room[:0], c.body, c.depth)
	if err != nil {
		c.doubt(err)
		return
	}
	in := found{f, values}
	c.readMembers(in)
	if err := in.lookalike(c.body); err != nil {
		c.doubt(err)
		return
	}
	if c.Err != nil {
		c.doubt(nil) // which the query raised
		return
	}
	if path == "" {
		named, _ := in.one(roleModel).Text()
		if c.Model, err = oneModel(asked, named); err != nil {
			c.doubt(err)
			return
		}
	}
	if c.Stream && len(in.all(roleUsage)) > 0 {
		c.askUsage(in)
	}
}

// readMembers takes over all that the body says but the model.
func (c *Call) readMembers(in found) {
	f := in.form
	if asked, isBool := in.one(roleStream).Bool(); f.streams != always {
		c.Stream = asked || f.streams == unlessNot && !isBool
	}
	if c.endpoint.forms != nil {
		c.formRead, c.stream, c.options = true, spanOf(in.one(roleStream)), spanOf(in.one(roleOptions))
	}
	c.Deterministic = in.deterministic()
	c.Items = 1
	if f.count != nil {
		c.items = in.one(roleItems)
		c.Items = f.count(c.items)
	}
	c.Estimate = in.estimate(c.Items)
}

// doubt notes that others may read the request in another way. The quota must not
// be evaded by a body that only others can read.
func (c *Call) doubt(err error) {
	if c.Err == nil {
		c.Err = err
	}
	c.Deterministic, c.Items, c.items = false, 0, jsonscan.Value{}
	c.Estimate.Input = max(c.Estimate.Input, (int64(len(c.body))+bytesPerToken-1)/bytesPerToken)
}

// readOther reads a body of which nothing is known. What is no JSON has no
// temperature; what only some read as JSON may.
func (c *Call) readOther(f *requestForm) {
	if len(c.body) == 0 {
		c.Deterministic = true
		return
	}
	var room [maxPointers]jsonscan.Value
	values, err := f.paths.Find(room[:0], c.body, c.depth)
	if err != nil {
		c.Err = err
		c.Deterministic = !maybeObject(c.body)
		return
	}
	in := found{f, values}
	c.Stream, _ = in.one(roleStream).Bool()
	c.Deterministic = in.deterministic()
	if c.Err = in.lookalike(c.body); c.Err == nil {
		c.Model, _ = in.one(roleModel).Text()
	}
}

// maybeObject reports whether some reader might take body for a JSON object.
func maybeObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, "\ufeff \t\r\n"), []byte("{"))
}

// isForm is the orFiles of endpoints that take uploads: a multipart form begins
// with its boundary. Anything else would be JSON to some reader, or to none.
func isForm(body []byte) bool { return bytes.HasPrefix(bytes.TrimLeft(body, "\r\n"), []byte("--")) }

// lookalike returns an error if the body has a member that looks like one that is
// read, and is none.
func (f found) lookalike(body []byte) error {
	from := 0
	for from < len(body) && jsonscan.IsSpace(body[from]) {
		from++
	}
	if from == len(body) || body[from] != '{' {
		return nil
	}
	return f.form.names.lookalike(bytes.TrimRight(body, " \t\r\n"), from, f.values[f.form.first[roleText]:f.form.first[roleLarge+1]])
}

func (f found) deterministic() bool {
	if f.form.sampling == varied {
		return false
	}
	for _, v := range f.all(roleUnsteady) {
		if !saysNothing(v) {
			return false
		}
	}
	if !steadyTools(f.one(roleTools)) {
		return false
	}
	if seeded(f.all(roleSeed)) {
		return true
	}
	zeros := 0
	for _, v := range f.all(roleTemperature) {
		switch t, isNumber := v.Float(); {
		case isNumber && t == 0:
			zeros++
		case v.Kind() > jsonscan.Null:
			return false // a text, too: lenient servers take "0.7" for 0.7
		}
	}
	return zeros > 0 || f.form.sampling == steady
}

// seeded reports whether all seeds of a request, one at least, make the same answer
// each time. To vLLM and llama.cpp -1 is random; to llama.cpp, which keeps 32 bits,
// so is every number that ends as -1 does.
func seeded(seeds []jsonscan.Value) bool {
	good := 0
	for _, v := range seeds {
		if v.Kind() <= jsonscan.Null {
			continue
		}
		n, err := v.Int()
		if err != nil || n < 0 || uint32(n) == math.MaxUint32 {
			return false
		}
		good++
	}
	return good > 0
}

// saysNothing reports whether a member is as good as absent: null, false, 0, or
// empty.
func saysNothing(v jsonscan.Value) bool {
	switch v.Kind() {
	case jsonscan.Missing, jsonscan.Null:
		return true
	case jsonscan.Bool:
		yes, _ := v.Bool()
		return !yes
	case jsonscan.Number:
		f, ok := v.Float()
		return ok && f == 0
	case jsonscan.String:
		return len(v.Raw()) == len(`""`)
	case jsonscan.Array:
		return jsonscan.Elements(v.Raw()) == 0
	}
	return false
}

// steadyTools reports whether all tools are run by the client, or there are none.
// Those that the server runs, such as a web search, answer differently tomorrow.
// What a tool without a type is, the servers that allow it agree: the client's.
func steadyTools(tools jsonscan.Value) bool {
	switch tools.Kind() {
	case jsonscan.Missing, jsonscan.Null:
		return true
	case jsonscan.Array:
	default:
		return false
	}
	for w := jsonscan.Into(tools.Raw()); ; {
		tool, ok := w.Next()
		if !ok {
			return true
		}
		if tool[0] != '{' {
			return false
		}
		switch kind, plain := member(tool, `"type"`); {
		case !plain:
			return false
		case kind.to == 0:
		default:
			if name := string(tool[kind.from:kind.to]); name != `"function"` && name != `"custom"` {
				return false
			}
		}
	}
}

func (f found) estimate(items int) Estimate {
	var w weight
	for _, v := range f.all(roleText) {
		w.add(v.Raw())
	}
	answers := max(1, largest(f.all(roleAnswers)))
	if f.form.prompts {
		answers = times(answers, int64(max(1, items)))
	}
	return Estimate{Input: w.total(), Output: times(largest(f.all(roleCap)), answers), Answers: answers}
}

// countTexts is the count of what is a string, a list of strings, a list of token
// ids, or a list of such lists.
func countTexts(v jsonscan.Value) int {
	switch v.Kind() {
	case jsonscan.String:
		return 1
	case jsonscan.Array:
	default:
		return 0
	}
	w := jsonscan.Into(v.Raw())
	first, ok := w.Next()
	switch {
	case !ok:
		return 0
	case first[0] == '"', first[0] == '[':
		return jsonscan.Elements(v.Raw())
	case first[0] == '{':
		return 0 // parts of one text to some, one text each to others
	}
	return 1
}

// countList is the count of a list of anything.
func countList(v jsonscan.Value) int {
	if v.Kind() != jsonscan.Array {
		return 0
	}
	return jsonscan.Elements(v.Raw())
}

// countRows is the count of a shape's first dimension.
func countRows(v jsonscan.Value) int {
	const most = 1 << 30
	if n, err := v.Int(); err == nil && n > 0 && n <= most {
		return int(n)
	}
	return 0
}
