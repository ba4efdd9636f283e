package builtin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// embedAnswer is an answer as a client reads it.
type embedAnswer struct {
	Object string
	Data   []struct {
		Object    string
		Index     int
		Embedding json.RawMessage
	}
	Model string
	Usage struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	}
}

func serveEmbed(t testing.TB) *Models {
	t.Helper()
	return &Models{embedding: loadEmbed(t)}
}

func postEmbed(m *Models, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	m.serveEmbeddings(w, httptest.NewRequest("POST", "/v1/embeddings", strings.NewReader(body)))
	return w
}

// embedOK sends body and returns the answer and its vectors, whatever their form.
func embedOK(t *testing.T, m *Models, body string) (a embedAnswer, vectors [][]float32) {
	t.Helper()
	w := postEmbed(m, body)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Content-Length") != strconv.Itoa(w.Body.Len()) {
		t.Fatalf("%.80s: got %d %v, %d bytes: %.200s", body, w.Code, w.Header(), w.Body.Len(), w.Body)
	}
	d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		t.Fatal(err)
	}
	for _, one := range a.Data {
		var vector []float32
		if one.Embedding[0] == '"' {
			var text string
			if err := json.Unmarshal(one.Embedding, &text); err != nil {
				t.Fatal(err)
			}
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			vector = make([]float32, len(raw)/4)
			if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, vector); err != nil || len(raw)%4 != 0 {
				t.Fatalf("%d bytes: %v", len(raw), err)
			}
		} else if err := json.Unmarshal(one.Embedding, &vector); err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, vector)
	}
	return a, vectors
}

func TestServesEmbeddings(t *testing.T) {
	m := serveEmbed(t)
	first, second := m.Embed("Where is the station?"), m.Embed("Bananas are yellow")
	for _, c := range []struct {
		name, body string
		want       [][]float32
		tokens     int
	}{
		{"one text", `{"model": "weir-embed", "input": "Where is the station?"}`, [][]float32{first}, 4},
		{"a list of texts, in their order", `{"input": ["Bananas are yellow", "Where is the station?"], "model": "weir-embed"}`, [][]float32{second, first}, 7},
		{"base64, as OpenAI's clients ask for", `{"model":"weir-embed","input":["Where is the station?"],"encoding_format":"base64"}`, [][]float32{first}, 4},
		{"what was not set as null", `{"model":"weir-embed","input":"Bananas are yellow","encoding_format":null,"dimensions":null,"user":null}`, [][]float32{second}, 3},
		{"members that it does not know", `{"model":"weir-embed","input":"Bananas are yellow","user":{"id":7},"truncate":[1,{"a":2}],"Model":"x","encoding_format":"float","dimensions":1e2}`, [][]float32{second}, 3},
		{"escapes", `{"mod\u0065l":"weir\u002dembed","input":"B\u0061nanas\nare\tyellow"}`, [][]float32{second}, 3},
		{"unknown words among its tokens", `{"model":"weir-embed","input":["?!", "qwzblat 12,5 🌧"]}`, [][]float32{m.Embed("?!"), m.Embed("qwzblat 12,5 🌧")}, 3},
	} {
		t.Run("takes "+c.name, func(t *testing.T) {
			a, vectors := embedOK(t, m, c.body)
			if !reflect.DeepEqual(vectors, c.want) {
				t.Errorf("got %v, want %v", vectors, c.want)
			}
			if a.Object != "list" || a.Model != "weir-embed" || a.Usage.Prompt != c.tokens || a.Usage.Total != c.tokens {
				t.Errorf("got %s %s %+v, want a list of weir-embed and %d tokens", a.Object, a.Model, a.Usage, c.tokens)
			}
			for i, one := range a.Data {
				if one.Object != "embedding" || one.Index != i {
					t.Errorf("data[%d] is %s %d", i, one.Object, one.Index)
				}
			}
		})
	}
	t.Run("writes the members in OpenAI's order", func(t *testing.T) {
		got := postEmbed(m, `{"model":"weir-embed","input":"a","dimensions":1,"encoding_format":"base64"}`).Body.String()
		one := base64.StdEncoding.EncodeToString(binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.Copysign(1, float64(m.Embed("a")[0]))))))
		want := `{"object":"list","data":[{"object":"embedding","index":0,"embedding":"` + one + `"}],"model":"weir-embed","usage":{"prompt_tokens":1,"total_tokens":1}}` + "\n"
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestEmbeddingsAreCutAndScaledAgain(t *testing.T) {
	m := serveEmbed(t)
	whole := m.Embed("How do I open a bank account?")
	for _, n := range []int{1, 2, 64, 99, 100} {
		_, vectors := embedOK(t, m, fmt.Sprintf(`{"model":"weir-embed","input":"How do I open a bank account?","dimensions":%d}`, n))
		var square float64
		for _, v := range whole[:n] {
			square += float64(v) * float64(v)
		}
		for i, v := range vectors[0] {
			if want := float64(whole[i]) / math.Sqrt(square); len(vectors[0]) != n || math.Abs(float64(v)-want) > 1e-6 {
				t.Errorf("%d of %d: number %d is %v, want %v", len(vectors[0]), n, i, v, want)
			}
		}
	}
}

func TestEmbeddingsLimitsAreInclusive(t *testing.T) {
	m := serveEmbed(t)
	most := strings.Repeat(`"x",`, MaxInputs-1) + `"` + strings.Repeat("a", MaxTextBytes) + `"`
	if a, _ := embedOK(t, m, `{"model":"weir-embed","input":[`+most+`]}`); len(a.Data) != MaxInputs || a.Usage.Total != MaxInputs {
		t.Errorf("%d embeddings, %d tokens, want %d", len(a.Data), a.Usage.Total, MaxInputs)
	}
	whole := `{"model":"weir-embed","input":"x"}`
	embedOK(t, m, whole+strings.Repeat(" ", MaxBodyBytes-len(whole)))
}

func TestRefusesEmbeddings(t *testing.T) {
	m := serveEmbed(t)
	with := func(member string) string { return `{"model":"weir-embed","input":"x",` + member + `}` }
	input := func(value string) string { return `{"model":"weir-embed","input":` + value + `}` }
	for _, c := range []struct {
		name, body  string
		status      int
		param, code string
		message     string
	}{
		{"nothing", "", 400, "", "", "body: JSON: offset 0: the end: want a value"},
		{"half a body", `{"model":"weir-embed"`, 400, "", "", "body: JSON: offset 21: the end: want a comma or }"},
		{"bytes that are no text", `{"model":"` + "\xff" + `"}`, 400, "", "", "body: JSON: offset 10: byte 0xff: want UTF-8"},
		{"a list", `[1]`, 400, "", "", `body: a list: want an object such as {"model": "weir-embed", "input": "text"}`},
		{"null", `null`, 400, "", "", `body: null: want an object such as {"model": "weir-embed", "input": "text"}`},
		{"deep nesting", `{"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`, 400, "", "", "body: JSON: offset 104: nested too deeply: want at most 100 levels"},
		{"no model", `{"input":"x"}`, 400, "model", "", `model: missing: want "weir-embed"`},
		{"a model that is null", `{"model":null,"input":"x"}`, 400, "model", "", `model: null: want "weir-embed"`},
		{"a model that is a number", `{"model":3,"input":"x"}`, 400, "model", "", `model: 3: want "weir-embed"`},
		{"another model", `{"model":"text-embedding-3-small","input":"x"}`, 404, "model", "model_not_found", `The model "text-embedding-3-small" does not exist: want "weir-embed" for embeddings`},
		{"another model first", `{"model":"","input":3}`, 404, "model", "model_not_found", `The model "" does not exist: want "weir-embed" for embeddings`},
		{"the model twice", `{"model":"weir-embed","model":"weir-embed","input":"x"}`, 400, "model", "", `body: JSON: "/model": two members of this name: want one`},
		{"the input twice, escaped", `{"model":"weir-embed","input":"x","\u0069nput":"y"}`, 400, "input", "", `body: JSON: "/input": two members of this name: want one`},
		{"an unknown member twice", `{"model":"weir-embed","input":"x","a":1,"a":1}`, 400, "", "", `body: JSON: "/a": two members of this name: want one`},
		{"no input", `{"model":"weir-embed"}`, 400, "input", "", "input: missing: want a text or a list of texts"},
		{"an input of null", input(`null`), 400, "input", "", "input: null: want a text or a list of texts"},
		{"an input that is an object", input(`{"text":"x"}`), 400, "input", "", "input: an object: want a text or a list of texts"},
		{"an input that is a number", input(`42`), 400, "input", "", "input: 42: want a text or a list of texts"},
		{"an empty text", input(`""`), 400, "input", "", "input: an empty text: want at least one character"},
		{"an empty text in a list", input(`["x",""]`), 400, "input", "", "input[1]: an empty text: want at least one character"},
		{"an empty list", input(`[]`), 400, "input", "", "input: an empty list: want at least one text"},
		{"token ids", input(`[15496, 995]`), 400, "input", "", "input[0]: 15496: weir-embed has no token ids: want a text or a list of texts"},
		{"lists of token ids", input(`[[15496, 995]]`), 400, "input", "", "input[0]: a list: weir-embed has no token ids: want a text or a list of texts"},
		{"null among texts", input(`["x",null]`), 400, "input", "", "input[1]: null: want a text"},
		{"an object among texts", input(`[{"text":"x"}]`), 400, "input", "", "input[0]: an object: want a text"},
		{"true among texts", input(`["x","y",true]`), 400, "input", "", "input[2]: true: want a text"},
		{"too long a text", input(`"` + strings.Repeat("a", MaxTextBytes+1) + `"`), 400, "input", "", "input: 65537 bytes: want at most 65536"},
		{"too long a text in a list", input(`["x","` + strings.Repeat("é", MaxTextBytes/2) + `e"]`), 400, "input", "", "input[1]: 65537 bytes: want at most 65536"},
		{"too many texts", input(`[` + strings.Repeat(`"x",`, MaxInputs) + `"x"]`), 400, "input", "", "input: more than 2048 texts: want at most 2048"},
		{"another format", with(`"encoding_format":"hex"`), 400, "encoding_format", "", `encoding_format: "hex": want "float" or "base64"`},
		{"a format that is a number", with(`"encoding_format":1`), 400, "encoding_format", "", `encoding_format: 1: want "float" or "base64"`},
		{"no dimensions", with(`"dimensions":0`), 400, "dimensions", "", "dimensions: 0: want an integer from 1 to 100"},
		{"too many dimensions", with(`"dimensions":101`), 400, "dimensions", "", "dimensions: 101: want an integer from 1 to 100"},
		{"a fraction of dimensions", with(`"dimensions":1.5`), 400, "dimensions", "", "dimensions: 1.5: want an integer from 1 to 100"},
		{"dimensions without end", with(`"dimensions":1e999`), 400, "dimensions", "", "dimensions: 1e999: want an integer from 1 to 100"},
		{"dimensions in words", with(`"dimensions":"100"`), 400, "dimensions", "", `dimensions: "100": want an integer from 1 to 100`},
		{"a body too long", input(`"` + strings.Repeat("a", MaxBodyBytes) + `"`), 413, "", "", "body: want at most 10485760 bytes"},
	} {
		t.Run("refuses "+c.name, func(t *testing.T) {
			got := postEmbed(m, c.body)
			want := httptest.NewRecorder()
			(&apiError{c.status, c.param, c.code, c.message}).write(want)
			if got.Code != want.Code || got.Body.String() != want.Body.String() || !reflect.DeepEqual(got.Header(), want.Header()) {
				t.Errorf("got  %d %s%v\nwant %d %s%v", got.Code, got.Body, got.Header(), want.Code, want.Body, want.Header())
			}
		})
	}
}

func TestRefusesOtherMethodsForEmbeddings(t *testing.T) {
	m := serveEmbed(t)
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		w := httptest.NewRecorder()
		m.serveEmbeddings(w, httptest.NewRequest(method, "/v1/embeddings", nil))
		want := `{"error":{"message":"\"` + method + `\": want POST","type":"invalid_request_error","param":null,"code":null}}` + "\n"
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" || w.Body.String() != want {
			t.Errorf("%s: got %d, Allow %q, %s", method, w.Code, w.Header().Get("Allow"), w.Body)
		}
	}
}

func TestRefusesBodiesThatNeverArrive(t *testing.T) {
	m := serveEmbed(t)
	f := func(name string, r *http.Request, status int, message string) {
		t.Helper()
		w := httptest.NewRecorder()
		m.serveEmbeddings(w, r)
		if w.Code != status || !strings.Contains(w.Body.String(), message) {
			t.Errorf("%s: got %d %s, want %d %s", name, w.Code, w.Body, status, message)
		}
	}
	post := func(body io.Reader) *http.Request { return httptest.NewRequest("POST", "/v1/embeddings", body) }
	f("a body that breaks off", post(iotest.ErrReader(io.ErrUnexpectedEOF)), 400, "body: it ended before it was whole")
	f("a body of unknown length that is too long", post(io.LimitReader(endless{}, MaxBodyBytes+1)), 413, "body: want at most 10485760 bytes")
	none := post(nil)
	none.Body = nil
	f("no body at all", none, 400, "offset 0")
	announced := post(iotest.ErrReader(io.ErrUnexpectedEOF))
	announced.ContentLength = MaxBodyBytes + 1
	f("a body announced as too long, which is not read", announced, 413, "body: want at most 10485760 bytes")
}

// endless is spaces without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// endsAfter is a context that ends after it was looked at so many times.
type endsAfter struct {
	context.Context
	looks int
}

func (c *endsAfter) Err() error {
	if c.looks--; c.looks < 0 {
		return context.Canceled
	}
	return nil
}

func TestEmbeddingsStopWhenTheRequestEnds(t *testing.T) {
	m := serveEmbed(t)
	const body = `{"model":"weir-embed","input":["one","two","three"]}`
	ask := func(ctx context.Context) (w *httptest.ResponseRecorder, panicked any) {
		defer func() { panicked = recover() }()
		w = httptest.NewRecorder()
		m.serveEmbeddings(w, httptest.NewRequestWithContext(ctx, "POST", "/v1/embeddings", strings.NewReader(body)))
		return w, nil
	}
	for looks := range 4 { // before each text, and when the answer is made
		if w, panicked := ask(&endsAfter{t.Context(), looks}); panicked != http.ErrAbortHandler || w.Body.Len() > 0 {
			t.Errorf("a client that leaves after %d looks: got %d %s, %v", looks, w.Code, w.Body, panicked)
		}
	}
	if w, panicked := ask(&endsAfter{t.Context(), 4}); panicked != nil || w.Code != http.StatusOK {
		t.Errorf("a client that leaves after the answer: got %d %s, %v", w.Code, w.Body, panicked)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	want := `{"error":{"message":"The request's time ran out before there was an answer.","type":"server_error","param":null,"code":null}}` + "\n"
	if w, panicked := ask(late); panicked != nil || w.Code != http.StatusGatewayTimeout || w.Body.String() != want {
		t.Errorf("out of time: got %d %s, %v", w.Code, w.Body, panicked)
	}
}

func FuzzEmbeddings(f *testing.F) {
	m := serveEmbed(f)
	for _, body := range []string{
		`{"model":"weir-embed","input":"Where is the station?"}`,
		`{"model":"weir-embed","input":["a","b"],"encoding_format":"base64","dimensions":7}`,
		`{"model":"weir-embed","input":[1,2]}`, `{"model":"x"}`, `{"input":{}}`, `[`, "\xff",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w := postEmbed(m, body)
		var a struct {
			Error *struct{ Message, Type string }
			Data  []struct{ Embedding any }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("%q: %v", w.Body, err)
		}
		switch w.Code {
		case http.StatusOK:
			if len(a.Data) == 0 || a.Error != nil {
				t.Errorf("got %s, want embeddings", w.Body)
			}
		case http.StatusBadRequest, http.StatusNotFound:
			if a.Error == nil || a.Error.Message == "" || a.Error.Type != "invalid_request_error" {
				t.Errorf("got %s, want an error with a message", w.Body)
			}
		default:
			t.Errorf("%q: got %d %s", body, w.Code, w.Body)
		}
	})
}

func BenchmarkServeEmbeddings(b *testing.B) {
	m := serveEmbed(b)
	list := strings.Repeat(`"What is the best way to remove a coffee stain from a white shirt?",`, MaxInputs-1)
	for _, c := range []struct{ name, body string }{
		{"one sentence", `{"model":"weir-embed","input":"What is the best way to remove a coffee stain from a white shirt?"}`},
		{"one sentence in base64", `{"model":"weir-embed","input":"What is the best way to remove a coffee stain from a white shirt?","encoding_format":"base64"}`},
		{"2048 sentences", `{"model":"weir-embed","input":[` + list + `"x"]}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w := postEmbed(m, c.body); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
