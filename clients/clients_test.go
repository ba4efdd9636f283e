package clients_test

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSame runs each client's scenarios against the stand-in and against Weir in
// front of it.
func TestSame(t *testing.T) {
	t.Parallel()
	model, weir := serveModel(t)
	groups := []string{"answers", "failures", "recovers", "cut", "ended"}
	for _, client := range clients() {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			direct := runScript(t, client, model.URL, "sk-direct-"+client, groups...)
			through := runScript(t, client, weir.base, "sk-through-"+client, groups...)
			for _, name := range slices.Sorted(maps.Keys(direct)) {
				group, _, _ := strings.Cut(name, ":")
				t.Run(name, func(t *testing.T) {
					d, w := direct.get(t, name), through.get(t, name)
					switch group {
					case "answers", "recovers":
						checkAnswer(t, client, d, w)
					case "failures":
						checkFailure(t, d, w)
					default:
						checkCut(t, client, d, w)
					}
				})
			}
			t.Run("the model is asked the same", func(t *testing.T) {
				checkAsked(t, model.from("sk-direct-"+client), model.from("sk-through-"+client))
			})
		})
	}
}

func checkAnswer(t *testing.T, client string, direct, through outcome) {
	t.Helper()
	checkSameAnswer(t, direct, through)
	checkStatuses(t, direct, through)
	checkLeast(t, client, direct, through)
	if direct.Group != "recovers" {
		return
	}
	// The model told 300 ms and, to who does not know that field, a second.
	told := 300.0
	if client == "langchain" {
		told = 1000
	}
	checkWait(t, through, http.StatusTooManyRequests, told)
}

func checkSameAnswer(t *testing.T, direct, through outcome) {
	t.Helper()
	if direct.Error != nil || direct.Value == nil {
		t.Fatalf("without Weir: %s%s: the stand-in is wrong", describe(direct.Error), short(direct.Value))
	}
	if through.Error != nil || !reflect.DeepEqual(through.Value, direct.Value) {
		t.Errorf("through Weir: %s%s\nwithout: %s", describe(through.Error), short(through.Value), short(direct.Value))
	}
}

// checkLeast wants that a caller sees the limit that has less left: the model's,
// where it has told one, and else that of the caller's plan.
func checkLeast(t *testing.T, client string, direct, through outcome) {
	t.Helper()
	field := "x-ratelimit-limit-requests"
	if _, ok := through.Attempts[0].Headers["anthropic-ratelimit-requests-limit"]; ok {
		field = "anthropic-ratelimit-requests-limit"
	}
	want := direct.Attempts[0].Headers[field]
	if want == "" {
		want = strconv.Itoa(plenty)
	}
	if got := through.Attempts[0].Headers[field]; got != want && client != "ollama" {
		t.Errorf("%s: %q, want %q", field, got, want)
	}
}

func checkFailure(t *testing.T, direct, through outcome) {
	t.Helper()
	if direct.Error == nil {
		t.Fatalf("without Weir: %s: the stand-in is wrong", short(direct.Value))
	}
	if !reflect.DeepEqual(through.Error, direct.Error) || through.Before != direct.Before {
		t.Errorf("through Weir: after %d parts %s%s\nwithout: after %d parts %s",
			through.Before, describe(through.Error), short(through.Value), direct.Before, describe(direct.Error))
	}
	checkStatuses(t, direct, through)
}

// checkCut wants that a client is told when a stream did not come to its end, in
// its API's own words, and has all that came before. Without Weir many are told
// nothing where the model's connection ended as if all was well.
func checkCut(t *testing.T, client string, direct, through outcome) {
	t.Helper()
	want := map[string]string{
		"openai": "APIError", "anthropic": "APIError", "ai": "StreamProviderError", "langchain": "APIError", "ollama": "Error",
	}[client]
	if e := through.Error; e == nil || e.Class != want || !e.says(client, "pstream") {
		t.Errorf("through Weir: %safter %d parts, want %s with a text about the upstream: %s", describe(e), through.Before, want, short(through.Value))
	}
	if through.Before != direct.Before {
		t.Errorf("through Weir: %d parts before the end, without: %d", through.Before, direct.Before)
	}
	checkStatuses(t, direct, through)
}

func checkStatuses(t *testing.T, direct, through outcome) {
	t.Helper()
	if !slices.Equal(through.statuses(), direct.statuses()) {
		t.Errorf("through Weir the attempts had %v, without %v", through.statuses(), direct.statuses())
	}
}

// says reports whether an error's message is a text for people that has a phrase.
// A client that does not find the text where its API has it shows the whole body
// or nothing of it; Anthropic's shows the body always.
func (f *failure) says(client, phrase string) bool {
	return strings.Contains(f.Message, phrase) && (client == "anthropic" || !strings.ContainsAny(f.Message, "{}"))
}

// short is a value as JSON, or its beginning and its end.
func short(v any) string {
	text := mustJSON(v)
	if len(text) > 2000 {
		return text[:1000] + " … " + text[len(text)-1000:]
	}
	return text
}

func describe(f *failure) string {
	if f == nil {
		return "no error "
	}
	return mustJSON(f) + " "
}

// checkAsked wants that Weir forwards what a client sends.
func checkAsked(t *testing.T, direct, through []asked) {
	t.Helper()
	if len(direct) != len(through) {
		t.Fatalf("through Weir the model had %d requests, without %d", len(through), len(direct))
	}
	for i, d := range direct {
		w := through[i]
		body := withoutOwnUsage(d.Body, w.Body)
		if w.Method != d.Method || w.Path != d.Path || !reflect.DeepEqual(body, d.Body) {
			t.Errorf("through Weir the model had %s %s %s\nwithout: %s %s %s", w.Method, w.Path, short(body), d.Method, d.Path, short(d.Body))
		}
		for name, values := range d.Header {
			switch name {
			case "Authorization", "X-Api-Key": // they tell the two runs apart
			case "Connection", "Content-Length", "Accept-Encoding": // each connection's own
			default:
				if !slices.Equal(w.Header[name], values) {
					t.Errorf("%s: through Weir the model had %s: %q, without %q", d.Path, name, w.Header[name], values)
				}
			}
		}
	}
}

// withoutOwnUsage takes out of a request what Weir puts in, to know what a stream
// used: the wish for a last chunk that says it.
func withoutOwnUsage(direct, through any) any {
	d, ok := direct.(object)
	w, ok2 := through.(object)
	if !ok || !ok2 || d["stream_options"] != nil || !reflect.DeepEqual(w["stream_options"], object{"include_usage": true}) {
		return through
	}
	w = maps.Clone(w)
	delete(w, "stream_options")
	return w
}

// checkWait wants that a client came back once after a refusal with that status, not
// before it was told to, and not much later. told is in milliseconds. What the client
// adds to that is its own: up to a quarter with some, and the machine may be busy, for
// seconds.
func checkWait(t *testing.T, o outcome, refusal int, told float64) {
	t.Helper()
	if want := []int{refusal, http.StatusOK}; !slices.Equal(o.statuses(), want) {
		t.Errorf("the attempts had %v, want %v: come back once, when told to", o.statuses(), want)
		return
	}
	// A timer of Node's may fire a millisecond before its time.
	waited := o.Attempts[1].Began - o.Attempts[0].Answered
	if waited < told-2 || waited > told*1.1+5000 {
		t.Errorf("came back after %.0f ms, told %.0f", waited, told)
	}
}

// TestCached runs each client twice through routes with a cache: what it reads
// from there must be what the model said, and only what it said to the end.
func TestCached(t *testing.T) {
	t.Parallel()
	model, weir := serveModel(t)
	groups := []string{"answers", "failures", "cut", "ended"}
	for _, client := range clients() {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			direct := runScript(t, client, model.URL, "sk-direct-"+client, groups...)
			first := runScript(t, client, weir.base+"/cached", "sk-cached-"+client, groups...)
			second := runScript(t, client, weir.base+"/cached", "sk-cached-"+client, groups...)
			for _, name := range slices.Sorted(maps.Keys(direct)) {
				t.Run(name, func(t *testing.T) {
					d, one, two := direct.get(t, name), first.get(t, name), second.get(t, name)
					h := two.Attempts[0].Headers
					hit, want := strings.HasPrefix(h["cache-status"], "weir; hit"), d.Group == "answers"
					if hit != want {
						t.Errorf("the second time it came from the cache: %t, want %t: %q", hit, want, h["cache-status"])
					}
					if d.Group == "answers" {
						checkSameAnswer(t, d, one)
						checkSameAnswer(t, d, two)
					} else if !reflect.DeepEqual(one.Error, two.Error) || two.Error == nil {
						t.Errorf("the first time %sthe second %s", describe(one.Error), describe(two.Error))
					}
				})
			}
		})
	}
}

// TestForms has clients ask for an answer whole, and then as a stream: what they make
// of the one that Weir makes of the other must be the same.
func TestForms(t *testing.T) {
	t.Parallel()
	_, weir := serveModel(t)
	for _, client := range []string{"openai", "anthropic"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			all := runScript(t, client, weir.base+"/cached", "sk-forms-"+client, "forms")
			whole, stream := all.get(t, "forms: whole"), all.get(t, "forms: made a stream")
			if s := stream.Attempts[0].Headers["cache-status"]; !strings.Contains(s, "; hit; ") || !strings.Contains(s, "detail=converted") {
				t.Errorf("the stream came with Cache-Status %q", s)
			}
			checkSameAnswer(t, whole, stream)
		})
	}
}

// TestLeaves has clients leave a stream whose model says no more: it must be told,
// or it would go on for nobody.
func TestLeaves(t *testing.T) {
	t.Parallel()
	model, weir := serveModel(t)
	for client, streams := range map[string]int{"openai": 2, "anthropic": 1} {
		all := runScript(t, client, weir.base, "sk-leaves-"+client, "leaves")
		if len(all) != streams {
			t.Fatalf("%s ran %d scenarios, want %d", client, len(all), streams)
		}
		for name, o := range all {
			if o.Error != nil || o.Before != 2 {
				t.Errorf("%s: %s: %s after %d parts, want that it left after 2", client, name, describe(o.Error), o.Before)
			}
			select {
			case <-model.left:
			case <-time.After(patience):
				t.Fatalf("%s: %s: the model was not told", client, name)
			}
		}
	}
}

// TestErrors has each client run into what Weir itself refuses.
func TestErrors(t *testing.T) {
	t.Parallel()
	_, weir := serveModel(t)
	for _, c := range []struct {
		name, path, key string
		status          int
		phrase          string
		classes         map[string]string
	}{
		{"a model whose server is not there", "/gone", "sk-gone", http.StatusBadGateway, "cannot be reached", map[string]string{
			"openai": "InternalServerError", "anthropic": "InternalServerError", "ai": "APICallError", "langchain": "InternalServerError", "ollama": "ResponseError",
		}},
		{"a key that nobody has", "", "weir_nobody-0123456789", http.StatusUnauthorized, "key", map[string]string{
			"openai": "AuthenticationError", "anthropic": "AuthenticationError", "ai": "APICallError", "langchain": "AuthenticationError", "ollama": "ResponseError",
		}},
	} {
		for _, client := range clients() {
			t.Run(c.name+", asked by "+client, func(t *testing.T) {
				t.Parallel()
				all := runScript(t, client, weir.base+c.path, c.key, "calls")
				for _, name := range []string{"calls: a call", "calls: a stream"} {
					o := all.get(t, name)
					if e := o.Error; e == nil || e.Class != c.classes[client] || e.Status != c.status || !e.says(client, c.phrase) {
						t.Errorf("%s: %s, want %s with status %d and a text about it: %q", name, describe(e), c.classes[client], c.status, c.phrase)
					}
				}
			})
		}
	}
}

// limitError is the error by which each client's users know a limit.
func limitError(client string) string {
	return map[string]string{
		"openai": "RateLimitError", "anthropic": "RateLimitError", "ai": "APICallError", "langchain": "RateLimitError", "ollama": "ResponseError",
	}[client]
}

// TestRefused has each client use up a quota of one request in three seconds.
func TestRefused(t *testing.T) {
	t.Parallel()
	model, weir := serveModel(t)
	for _, client := range clients() {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			all := runScript(t, client, weir.base, keyOf(client, "tight"), "refused")
			first := all.get(t, "refused: first")
			if first.Error != nil {
				t.Fatalf("the first request: %s", describe(first.Error))
			}
			for _, name := range []string{"without retries", "a stream without retries"} {
				o := all.get(t, "refused: "+name)
				checkRefusal(t, client, name, o)
			}
			checkLimitFields(t, client, first, all.get(t, "refused: without retries"))
			if leaked := model.from(keyOf(client, "tight")); leaked != nil {
				t.Errorf("the model had Weir's own key: %v", leaked)
			}
			if client == "ollama" {
				return // it never comes back by itself
			}
			patient := all.get(t, "refused: with retries")
			if patient.Error != nil {
				t.Fatalf("with retries: %s", describe(patient.Error))
			}
			checkWait(t, patient, http.StatusTooManyRequests, told(t, client, patient.Attempts[0]))
		})
	}
}

// told is the wait that an answer asks of a client, in milliseconds.
func told(t *testing.T, client string, a attempt) float64 {
	t.Helper()
	field, unit := "retry-after-ms", 1.0
	if client == "langchain" { // it knows only the other one
		field, unit = "retry-after", 1000
	}
	var n float64
	if _, err := fmt.Sscan(a.Headers[field], &n); err != nil {
		t.Fatalf("%s: %q: %v", field, a.Headers[field], err)
	}
	return n * unit
}

func checkRefusal(t *testing.T, client, name string, o outcome) {
	t.Helper()
	e := o.Error
	if e == nil || e.Class != limitError(client) || e.Status != http.StatusTooManyRequests || !e.says(client, "again in") || len(o.Attempts) != 1 {
		t.Errorf("%s: %s after %v, want one attempt, and %s with status 429 that says when to try again", name, describe(e), o.statuses(), limitError(client))
		return
	}
	switch client {
	case "openai", "langchain":
		if e.Code != "rate_limit_exceeded" || e.Type != "requests" {
			t.Errorf("%s: code %v and type %v, want rate_limit_exceeded and requests", name, e.Code, e.Type)
		}
	case "anthropic":
		if e.Type != "rate_limit_error" {
			t.Errorf("%s: type %v, want rate_limit_error", name, e.Type)
		}
	case "ai":
		if e.Retryable == nil || !*e.Retryable {
			t.Errorf("%s: it counts as final", name)
		}
	}
}

// checkLimitFields wants the limits of the caller's plan in the API's own fields,
// and nothing of the limits that the model's account has.
func checkLimitFields(t *testing.T, client string, allowed, refused outcome) {
	t.Helper()
	limit, remaining := "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"
	switch client {
	case "anthropic":
		limit, remaining = "anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"
	case "ollama": // has none of its own
		limit, remaining = "ratelimit-policy", "ratelimit"
	}
	for _, o := range []outcome{allowed, refused} {
		h := o.Attempts[0].Headers
		got, want := []string{h[limit], h[remaining]}, []string{"1", "0"}
		if client == "ollama" {
			want = []string{`"tight";q=1;w=3`, `"tight";r=0`}
			got[1], _, _ = strings.Cut(got[1], ";t=") // time goes on
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %s and %s = %q, want %q", o.Name, limit, remaining, got, want)
		}
		if h["x-request-id"] == "" {
			t.Errorf("%s: no x-request-id", o.Name)
		}
	}
}

// TestLong has each client use up a quota of one request a day: no client may
// wait for that, and none should try again and again.
func TestLong(t *testing.T) {
	t.Parallel()
	_, weir := serveModel(t)
	for _, client := range clients() {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			all := runScript(t, client, weir.base, keyOf(client, "daily"), "long")
			if o := all.get(t, "long: first"); o.Error != nil {
				t.Fatalf("the first request: %s", describe(o.Error))
			}
			o := all.get(t, "long: with retries")
			e, attempts := o.Error, 1
			if client == "ai" && e != nil {
				// It does not know the field that says so, and tries again in its
				// own time: here once.
				if e.Class != "RetryError" {
					t.Errorf("class %s, want RetryError", e.Class)
				}
				e, attempts = e.Last, 2
			}
			// LangChain has an error of its own for a quota that will not come back soon.
			classes := []string{limitError(client)}
			if client == "langchain" {
				classes = append(classes, "InsufficientQuotaError", "Error")
			}
			if e == nil || !slices.Contains(classes, e.Class) || e.Status != http.StatusTooManyRequests || len(o.Attempts) != attempts {
				t.Errorf("%s after %v, want %v with status 429 and %d attempts", describe(o.Error), o.statuses(), classes, attempts)
			}
			if client == "openai" && e != nil && e.Code != "insufficient_quota" {
				t.Errorf("code %v, want insufficient_quota", e.Code) // by it LangChain knows, too
			}
			if h := o.Attempts[0].Headers; h["x-should-retry"] != "false" {
				t.Errorf("x-should-retry: %q, want false", h["x-should-retry"])
			}
		})
	}
}
