package builtin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/inferweir/weir/builtin"
)

// reply is what a client sees of an answer.
type reply struct {
	Status      int
	ContentType string
	Allow       string
	Body        string
}

func serve(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(load(t))
	t.Cleanup(s.Close)
	return s
}

func send(t *testing.T, r *http.Request) reply {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Length"); r.Method != http.MethodHead && got != strconv.Itoa(len(body)) {
		t.Errorf("Content-Length %q, want %d", got, len(body))
	}
	return reply{resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("Allow"), string(body)}
}

func request(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPredictions(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		name, method, path, body string
		want                     string
	}{
		{"answers in the order of the instances", "POST", "/predict/language",
			`{"instances": ["Où est la bibliothèque ?", "明日は雨が降るそうなので、傘を持って行ってください。", "", "Wo finde ich die nächste Apotheke?"]}`,
			`{"predictions":[{"label":"fr","score":0.931},{"label":"ja","score":1},{"label":"und","score":0},{"label":"de","score":0.9993}]}` + "\n"},
		{"answers for sentiment", "POST", "/predict/sentiment",
			`{"instances": ["VADER is smart, handsome, and funny.", "Today SUX!", "The train leaves from platform seven."]}`,
			`{"predictions":[{"label":"positive","score":0.8316},{"label":"negative","score":0.5461},{"label":"neutral","score":1}]}` + "\n"},
		{"reads escapes and newlines", "POST", "/predict/language", ` {"instances":["O\u00f9 est\nla biblioth\u00e8que ?"] } ` + "\n",
			`{"predictions":[{"label":"fr","score":0.931}]}` + "\n"},
		{"answers a query", "GET", "/predict/language?text=O%C3%B9+est+la%20biblioth%C3%A8que+?", "",
			`{"predictions":[{"label":"fr","score":0.931}]}` + "\n"},
		{"answers a query of several texts, in order", "GET", "/predict/language?text=12345&lang=x&text=Wo+finde+ich+die+n%C3%A4chste+Apotheke%3F", "",
			`{"predictions":[{"label":"und","score":0},{"label":"de","score":0.9993}]}` + "\n"},
		{"answers a query for sentiment", "GET", "/predict/sentiment?text=Today+SUX!", "",
			`{"predictions":[{"label":"negative","score":0.5461}]}` + "\n"},
		{"answers HEAD without a body", "HEAD", "/predict/language?text=hello", "", ""},
		{"takes an empty text in a query", "GET", "/predict/language?text=", "", `{"predictions":[{"label":"und","score":0}]}` + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := reply{http.StatusOK, "application/json", "", c.want}
			if got := send(t, request(t, c.method, s.URL+c.path, c.body)); got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestAnyContentTypeIsReadAsJSON(t *testing.T) {
	s := serve(t)
	for _, contentType := range []string{"", "application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"} {
		r := request(t, "POST", s.URL+"/predict/language", `{"instances":["Où est la bibliothèque ?"]}`)
		r.Header.Set("Content-Type", contentType)
		want := reply{http.StatusOK, "application/json", "", `{"predictions":[{"label":"fr","score":0.931}]}` + "\n"}
		if got := send(t, r); got != want {
			t.Errorf("%q: got %+v, want %+v", contentType, got, want)
		}
	}
}

func TestLimitsAreInclusive(t *testing.T) {
	s := serve(t)
	most := strings.Repeat(`"",`, builtin.MaxInstances-1) + `"` + strings.Repeat("a", builtin.MaxTextBytes) + `"`
	got := send(t, request(t, "POST", s.URL+"/predict/language", `{"instances":[`+most+`]}`))
	if got.Status != http.StatusOK || strings.Count(got.Body, "label") != builtin.MaxInstances {
		t.Errorf("got %d with %d predictions, want 200 with %d", got.Status, strings.Count(got.Body, "label"), builtin.MaxInstances)
	}
	whole := `{"instances":["a"]}`
	whole += strings.Repeat(" ", builtin.MaxBodyBytes-len(whole))
	if got := send(t, request(t, "POST", s.URL+"/predict/language", whole)); got.Status != http.StatusOK {
		t.Errorf("a body of %d bytes: got %+v, want 200", len(whole), got)
	}
}

// refusal is a request and the problem that answers it.
type refusal struct {
	name, method, path, body string
	status                   int
	detail                   string
}

func TestRefusalsOfBodies(t *testing.T) {
	const form = `want {"instances": ["text", ...]}`
	long := strings.Repeat("é", builtin.MaxTextBytes/2+1)
	wantRefusals(t, []refusal{
		{"no body", "POST", "/predict/language", "", 400, "body: byte 0: unexpected end of JSON input: " + form},
		{"JSON that ends early", "POST", "/predict/language", `{"instances": ["a"`, 400, "body: byte 18: unexpected end of JSON input: " + form},
		{"JSON with a mistake", "POST", "/predict/sentiment", `{"instances": ['a']}`, 400, `body: byte 16: invalid character '\'' looking for beginning of value: ` + form},
		{"something after the JSON", "POST", "/predict/language", `{"instances": ["a"]} x`, 400, "body: byte 22: invalid character 'x' after top-level value: " + form},
		{"text that is not UTF-8", "POST", "/predict/language", "{\"instances\": [\"\ufffd caf\xe9\"]}", 400, "body: byte 23: not UTF-8: want JSON in UTF-8"},
		{"a list", "POST", "/predict/language", `["a"]`, 400, "body: a list: " + form},
		{"null", "POST", "/predict/language", `null`, 400, "body: null: " + form},
		{"a string", "POST", "/predict/language", `"a"`, 400, `body: "a": ` + form},
		{"an object without instances", "POST", "/predict/language", `{}`, 400, `body: no member "instances": ` + form},
		{"an unknown member", "POST", "/predict/language", `{"instances": ["a"], "parameters": {}}`, 400, `body: unknown member "parameters": ` + form},
		{"another spelling", "POST", "/predict/language", `{"Instances": ["a"]}`, 400, `body: unknown member "Instances": ` + form},
		{"a long unknown member", "POST", "/predict/language", `{"` + strings.Repeat("é", 500) + `": 1}`, 400, `body: unknown member "` + strings.Repeat("é", 20) + `"...: ` + form},
		{"instances twice", "POST", "/predict/language", `{"instances": ["a"], "instances": ["b"]}`, 400, `body: member "instances" is there twice: want it once`},
		{"instances that is a string", "POST", "/predict/language", `{"instances": "a"}`, 400, `instances: "a": want a list of texts`},
		{"instances that is null", "POST", "/predict/language", `{"instances": null}`, 400, "instances: null: want a list of texts"},
		{"instances that is an object", "POST", "/predict/language", `{"instances": {"a": 1}}`, 400, "instances: an object: want a list of texts"},
		{"no instances", "POST", "/predict/language", `{"instances": []}`, 400, "instances: an empty list: want at least one text"},
		{"a number", "POST", "/predict/language", `{"instances": ["a", "b", 42]}`, 400, "instances[2]: 42: want a string"},
		{"a long number", "POST", "/predict/language", `{"instances": [` + strings.Repeat("1", 99) + `]}`, 400, "instances[0]: " + strings.Repeat("1", 40) + "...: want a string"},
		{"null in the list", "POST", "/predict/language", `{"instances": [null]}`, 400, "instances[0]: null: want a string"},
		{"true in the list", "POST", "/predict/sentiment", `{"instances": [true]}`, 400, "instances[0]: true: want a string"},
		{"an object in the list", "POST", "/predict/language", `{"instances": [{"text": "a"}]}`, 400, "instances[0]: an object: want a string"},
		{"a list in the list", "POST", "/predict/language", `{"instances": ["a", ["b"]]}`, 400, "instances[1]: a list: want a string"},
		{"a text too long", "POST", "/predict/sentiment", `{"instances": ["a", "` + long + `"]}`, 400, "instances[1]: 65538 bytes: want at most 65536"},
		{"too many texts", "POST", "/predict/language", `{"instances": [` + strings.Repeat(`"",`, builtin.MaxInstances) + `""]}`, 400, "instances: more than 1024 texts: want at most 1024"},
		{"a body too long", "POST", "/predict/language", strings.Repeat(" ", builtin.MaxBodyBytes+1), 413, "body: want at most 10485760 bytes"},
		{"JSON too deep", "POST", "/predict/language", strings.Repeat("[", 20000), 400, "body: byte 10001: invalid character '[' exceeded max depth: " + form},
	})
}

func TestRefusalsOfQueriesPathsAndMethods(t *testing.T) {
	const paths = "want /predict/language or /predict/sentiment, by POST or by GET with ?text=..., or /v1/chat/completions, /v1/embeddings or /v1/models"
	wantRefusals(t, []refusal{
		{"a query without text", "GET", "/predict/language", "", 400, "query: no text: want ?text=..., once for each text"},
		{"HEAD without text", "HEAD", "/predict/language?txt=a", "", 400, ""},
		{"a query that is no query", "GET", "/predict/language?text=100%", "", 400, `query: invalid URL escape "%": want ?text=... with every special character as %XX`},
		{"a query that is not UTF-8", "GET", "/predict/language?text=a&text=caf%E9", "", 400, `text[1]: "caf` + "\ufffd" + `": want UTF-8`},
		{"a query of too many texts", "GET", "/predict/language?" + strings.Repeat("text=&", builtin.MaxInstances+1), "", 400, "text: 1025 texts: want at most 1024"},
		{"a query with a text too long", "GET", "/predict/language?text=" + strings.Repeat("a", builtin.MaxTextBytes+1), "", 400, "text[0]: 65537 bytes: want at most 65536"},
		{"an unknown path", "GET", "/predict/sentiments", "", 404, `"/predict/sentiments": ` + paths},
		{"the root", "GET", "/", "", 404, `"/": ` + paths},
		{"a path with a slash too many", "POST", "/predict/language/", "{}", 404, `"/predict/language/": ` + paths},
		{"another method", "PUT", "/predict/language", "{}", 405, `"PUT": want GET, HEAD, POST`},
		{"another method for sentiment", "PUT", "/predict/sentiment?text=a", "", 405, `"PUT": want GET, HEAD, POST`},
	})
}

func wantRefusals(t *testing.T, refusals []refusal) {
	s := serve(t)
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			got := send(t, request(t, c.method, s.URL+c.path, c.body))
			if got.Status != c.status || got.ContentType != "application/problem+json" {
				t.Fatalf("got %+v, want status %d as problem+json", got, c.status)
			}
			if _, allow, _ := strings.Cut(c.detail, "want "); c.status == 405 && got.Allow != allow {
				t.Errorf("Allow: %q, want %q", got.Allow, allow)
			}
			if c.method == http.MethodHead {
				return
			}
			want := map[string]any{"type": "about:blank", "title": http.StatusText(c.status), "status": float64(c.status), "detail": c.detail}
			wantJSON(t, got.Body, want)
		})
	}
}

func wantJSON(t *testing.T, body string, want any) {
	t.Helper()
	var got any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	g, _ := json.Marshal(got)
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g, w) {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func TestBodyOfUnknownLengthIsBounded(t *testing.T) {
	s := serve(t)
	// A reader that hides its length makes the client send chunks.
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/predict/language",
		io.MultiReader(strings.NewReader(strings.Repeat(" ", builtin.MaxBodyBytes)), strings.NewReader(`{"instances":["a"]}`)))
	if err != nil {
		t.Fatal(err)
	}
	if got := send(t, r); got.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("got %+v, want 413", got)
	}
}

// countdown is a context that ends after so many looks at it.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestStopsBetweenTextsWhenTheRequestEnds(t *testing.T) {
	m := load(t)
	post := func(ctx context.Context, path string) *http.Request {
		return httptest.NewRequestWithContext(ctx, "POST", path, strings.NewReader(`{"instances":["a","b","c","d"]}`))
	}
	for _, path := range []string{"/predict/language", "/predict/sentiment"} {
		for looks := range 5 { // before each text, and when the answer is made
			w := httptest.NewRecorder()
			wantAborted(t, func() { m.ServeHTTP(w, post(&countdown{t.Context(), looks}, path)) })
			if w.Body.Len() > 0 {
				t.Errorf("%s: after %d looks: got %s", path, looks, w.Body)
			}
		}
		late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		w := httptest.NewRecorder()
		m.ServeHTTP(w, post(late, path))
		wantJSON(t, w.Body.String(), map[string]any{"type": "about:blank", "title": "Gateway Timeout", "status": 504, "detail": "The request's time ran out before there was an answer."})
	}
}

func TestARefusalOfARequestThatEndedIsNotWritten(t *testing.T) {
	m := load(t)
	for _, path := range []string{"/predict/language", "/v1/embeddings", chatPath} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("the upstream's time is up")) // as the gateway ends a request: it answers by itself
		w := httptest.NewRecorder()
		wantAborted(t, func() { m.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", path, strings.NewReader("{"))) })
		if w.Body.Len() > 0 {
			t.Errorf("%s: got %s", path, w.Body)
		}
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New("connection reset by 10.0.0.7") }

func TestBodies(t *testing.T) {
	m := load(t)
	t.Run("says that a body broke off, and not why", func(t *testing.T) {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest("POST", "/predict/language", brokenBody{}))
		wantJSON(t, w.Body.String(), map[string]any{"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "body: it ended before it was whole"})
	})
	t.Run("refuses a body that says it is too long without reading it", func(t *testing.T) {
		r := httptest.NewRequest("POST", "/predict/language", brokenBody{})
		r.ContentLength = builtin.MaxBodyBytes + 1
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		if w.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("got %d %s, want 413", w.Code, w.Body)
		}
	})
	t.Run("takes a request without any body", func(t *testing.T) {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, &http.Request{Method: "POST", URL: &url.URL{Path: "/predict/sentiment"}})
		if w.Code != http.StatusBadRequest {
			t.Errorf("got %d %s, want 400", w.Code, w.Body)
		}
	})
	t.Run("writes nothing to HEAD", func(t *testing.T) {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest("HEAD", "/predict/language?text=hello", nil))
		if w.Code != http.StatusOK || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "48" {
			t.Errorf("got %d %q %v, want 200, no body and the length that GET has", w.Code, w.Body, w.Header())
		}
	})
}

func FuzzBody(f *testing.F) {
	for _, body := range []string{
		`{"instances": ["Où est la bibliothèque ?", ""]}`, `{"instances": [1, null, {}]}`, `{"instances": "a", "b": [`, `null`, "",
		`{"instances": ["\ud800", "\u0000"]}`, "\xff", `{"a":1,"a":2}`, `[[[[]]]]`, `{"instances":["a"],"instances":[]}`,
	} {
		f.Add(body, true)
		f.Add(body, false)
	}
	m := load(f)
	f.Fuzz(func(t *testing.T, body string, language bool) {
		path := "/predict/sentiment"
		if language {
			path = "/predict/language"
		}
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest("POST", path, strings.NewReader(body)))
		var want struct{ Instances []string }
		switch w.Code {
		case http.StatusOK:
			if err := json.Unmarshal([]byte(body), &want); err != nil {
				t.Fatalf("%q: accepted: %v", body, err)
			}
			var got struct{ Predictions []builtin.Prediction }
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got.Predictions) != len(want.Instances) {
				t.Fatalf("%q: got %s, %v: want %d predictions", body, w.Body, err, len(want.Instances))
			}
		case http.StatusBadRequest:
			var got struct{ Detail string }
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Detail == "" || len(got.Detail) > 400 || !utf8.ValidString(got.Detail) {
				t.Fatalf("%q: got %s, %v: want a short detail", body, w.Body, err)
			}
		default:
			t.Fatalf("%q: got %d %s, want 200 or 400", body, w.Code, w.Body)
		}
	})
}
