package admin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/inferweir/weir"
)

const purgePath = "/api/v1/cache/purge"

func TestPurge(t *testing.T) {
	f := func(name, body, kind, value, shown string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			o := open(t, twoPlans, "")
			got := o.ask("POST", purgePath, body)
			equal(t, said(got), [2]any{200, `{"purged":` + shown + `,"removed":12}` + "\n"})
			equal(t, [2]string{got.Header().Get("Content-Type"), got.Header().Get("Cache-Control")}, [2]string{"application/json", "no-store"})
			equal(t, o.purged.asked, [][2]string{{kind, value}})
		})
	}
	hash := strings.Repeat("0123456789abcdef", 4)
	f("by key", `{"key": "`+hash+`"}`, "key", hash, `{"key":"`+hash+`"}`)
	f("by a key in capitals", `{"key": "`+strings.ToUpper(hash)+`"}`, "key", hash, `{"key":"`+strings.ToUpper(hash)+`"}`)
	f("by tag", ` {"tag" : "llama"} `, "tag", "llama", `{"tag":"llama"}`)
	f("by a tag in another script", `{"tag": "mod\u00e8le:7"}`, "tag", "modèle:7", `{"tag":"mod\u00e8le:7"}`)
	f("by path", `{"path": "/v1/chat/completions"}`, "path", "/v1/chat/completions", `{"path":"/v1/chat/completions"}`)
	f("by the beginning of paths", `{"path": "/v1/*"}`, "path", "/v1/*", `{"path":"/v1/*"}`)
	f("by a path that is escaped", `{"path": "/caf%C3%A9%2F/(a),b*"}`, "path", "/caf%C3%A9%2F/(a),b*", `{"path":"/caf%C3%A9%2F/(a),b*"}`)
	f("by a path that is not escaped", `{"path": "/café 1/*"}`, "path", "/café 1/*", `{"path":"/café 1/*"}`)
	f("by a path with escapes that it does not need", `{"path": "/%69/%c3%a9"}`, "path", "/%69/%c3%a9", `{"path":"/%69/%c3%a9"}`)
	f("by a path with a star in it", `{"path": "/a%2A/b%2a*"}`, "path", "/a%2A/b%2a*", `{"path":"/a%2A/b%2a*"}`)
	f("by caller", `{"caller": "key:Zoë B."}`, "caller", "key:Zoë B.", `{"caller":"key:Zoë B."}`)
	f("by a caller's address", `{"caller": "ip:2001:db8::/64"}`, "caller", "ip:2001:db8::/64", `{"caller":"ip:2001:db8::/64"}`)
	f("all", `{"all": true}`, "all", "", `{"all":true}`)
	f("the longest path", `{"path": "/`+strings.Repeat("a", 3999)+`"}`, "path", "/"+strings.Repeat("a", 3999), `{"path":"/`+strings.Repeat("a", 3999)+`"}`)

	t.Run("logs who purged what", func(t *testing.T) {
		o := open(t, twoPlans, "")
		o.ask("POST", purgePath, `{"caller": "key:alice"}`)
		equal(t, o.logged(), []map[string]any{{
			"level": "INFO", "msg": "cache purged", "caller": "key:alice", "removed": 12.0, "remote": "127.0.0.1:50000",
		}})
	})
}

func TestRefusedPurges(t *testing.T) {
	o := open(t, twoPlans, "")
	f := func(name string, got *httptest.ResponseRecorder, status int, detail string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			var p struct{ Detail string }
			if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
				t.Fatalf("%q: %v", got.Body, err)
			}
			equal(t, [3]any{got.Code, got.Header().Get("Content-Type"), p.Detail}, [3]any{status, "application/problem+json", detail})
			equal(t, len(o.purged.asked), 0)
		})
	}
	bad := func(name, body, detail string) {
		t.Helper()
		f(name, o.ask("POST", purgePath, body), 400, "Nothing is changed: "+detail)
	}
	const example = `for example {"tag": "llama"}, {"path": "/v1/chat/*"} or {"all": true}`
	bad("no body", "", "want a JSON object, "+example)
	bad("a text alone", `"llama"`, "want a JSON object, "+example)
	bad("a list", `[{"tag": "llama"}]`, "want a JSON object, "+example)
	bad("null", `null`, "want a JSON object, "+example)
	bad("nothing", `{}`, "it is empty: want one of key, tag, path, caller and all, "+example)
	bad("two members", `{"tag": "llama", "path": "/v1/*"}`, "path: stands beside tag: want one of them, and another request for the other")
	bad("a member twice", `{"tag": "llama", "tag": "mistral"}`, "tag: is there twice: want it once")
	bad("an unknown member", `{"tags": ["llama"]}`, `tags: is nothing that can be purged: want key, tag, path, caller or all`)
	bad("a member in capitals", `{"Tag": "llama"}`, `Tag: is nothing that can be purged: want key, tag, path, caller or all`)
	bad("an unknown member beside a right one", `{"tag": "llama", "route": "chat"}`, `route: is nothing that can be purged: want key, tag, path, caller or all`)
	bad("half an object", `{"tag": "llama"`, "is no JSON after byte 15: EOF: want "+example)
	bad("more behind the object", `{"all": true} {}`, "something follows the JSON object: want nothing behind it")
	bad("a number as tag", `{"tag": 7}`, "tag: is no text: want one, "+example)
	bad("a list of tags", `{"tag": ["llama"]}`, "tag: is no text: want one, "+example)
	bad("null as path", `{"path": null}`, "path: is no text: want one, "+example)
	bad("an object as caller", `{"caller": {"id": 1}}`, "caller: is no text: want one, "+example)
	bad("all: false", `{"all": false}`, `all: want true: {"all": true} purges everything`)
	bad("all as text", `{"all": "true"}`, `all: want true: {"all": true} purges everything`)
	bad("an empty tag", `{"tag": ""}`, "tag: is empty: want what to purge, "+example)
	bad("an empty caller", `{"caller": ""}`, "caller: is empty: want what to purge, "+example)
	bad("a key that is none", `{"key": "abc"}`, "key: want the 64 hexadecimal digits of a key")
	bad("a key of 64 other characters", `{"key": "`+strings.Repeat("g", 64)+`"}`, "key: want the 64 hexadecimal digits of a key")
	bad("a tag with a space", `{"tag": "a b"}`, "tag: want a tag, without spaces and commas")
	bad("a tag with a comma", `{"tag": "a,b"}`, "tag: want a tag, without spaces and commas")
	bad("a tag with a line break", `{"tag": "a\nb"}`, "tag: want a tag, without spaces and commas")
	bad("a path without its slash", `{"path": "v1/*"}`, "path: want a path that begins with /, for example /v1/chat/completions, or /v1/* for all that begin so")
	bad("a URL as path", `{"path": "http://127.0.0.1/v1"}`, "path: want a path that begins with /, for example /v1/chat/completions, or /v1/* for all that begin so")
	bad("a star in the middle", `{"path": "/v1/*/x"}`, "path: want * only at the end, for example /v1/*, and %2A for the character")
	bad("a path with a query", `{"path": "/v1?a=b"}`, "path: want a path without query and fragment: its answers to all queries are purged")
	bad("a path that is escaped wrongly", `{"path": "/50%/x"}`, "path: want a path in which % stands before two hexadecimal digits, and %25 for the character")
	bad("a caller without the way that names it", `{"caller": "alice"}`, "caller: want the ID of a caller: key:NAME, jwt:NAME, header:NAME or ip:ADDRESS")
	bad("a caller of no way", `{"caller": "team:alice"}`, "caller: want the ID of a caller: key:NAME, jwt:NAME, header:NAME or ip:ADDRESS")
	bad("a caller without a name", `{"caller": "key:"}`, "caller: want the ID of a caller: key:NAME, jwt:NAME, header:NAME or ip:ADDRESS")
	bad("a path that is too long", `{"path": "/`+strings.Repeat("a", 4000)+`"}`, "path: 4001 bytes: want at most 4000")
	bad("a path that is too long once it is escaped", `{"path": "/`+strings.Repeat("é", 1000)+`"}`, "path: 6001 bytes as it stands in a URL: want at most 4000")
	f("a form of a web page", o.ask("POST", purgePath, `{"all": true}`, "Content-Type", "text/plain"), 415, "Want a body that is not compressed, with Content-Type: application/json.")
	f("a compressed body", o.ask("POST", purgePath, `{"all": true}`, "Content-Encoding", "gzip"), 415, "Want a body that is not compressed, with Content-Type: application/json.")
	f("a body of more than 1 MiB", o.ask("POST", purgePath, `{"tag": "`+strings.Repeat("x", 1<<20)+`"}`), 413, "The body is too large: want at most 1048576 bytes.")
	f("a path below", o.ask("POST", purgePath+"/all", `{"all": true}`), 404, "This is the admin listener: below /api/v1/ want plans, routes, upstreams, config, reload, audit, snapshot, events, explain, keys, usage, jobs or cache/purge.")

	t.Run("a method that purges nothing", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "PURGE"} {
			rec := o.ask(method, purgePath, `{"all": true}`)
			equal(t, [2]any{rec.Code, rec.Header().Get("Allow")}, [2]any{405, "POST"})
		}
		equal(t, len(o.purged.asked), 0)
	})
	t.Run("the page of another site, and another machine", func(t *testing.T) {
		for _, fields := range [][]string{{"Origin", "https://example.com"}, {"Host", "rebinding.example"}, {"Remote", "192.0.2.1:5000"}} {
			equal(t, o.ask("POST", purgePath, `{"all": true}`, fields...).Code, 403)
		}
		equal(t, len(o.purged.asked), 0)
	})
	t.Run("without the token, and with another", func(t *testing.T) {
		o := open(t, twoPlans, token)
		codes := []int{
			o.ask("POST", purgePath, `{"all": true}`).Code,
			o.ask("POST", purgePath, `{"all": true}`, "Authorization", "Bearer guess").Code,
			o.ask("POST", purgePath, `{"all": true}`, "Authorization", "Bearer "+token).Code,
		}
		equal(t, codes, []int{401, 401, 200})
		equal(t, len(o.purged.asked), 1)
	})
	t.Run("many strange members are named, but not all", func(t *testing.T) {
		var body strings.Builder
		for i := range 50_000 {
			fmt.Fprintf(&body, `"m%d":1,`, i)
		}
		got := o.ask("POST", purgePath, "{"+body.String()+`"all":true}`)
		var p struct{ Mistakes []any }
		if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		equal(t, [2]int{got.Code, len(p.Mistakes)}, [2]int{400, 20})
	})
}

func TestPurgesThatDoNotReachEverybody(t *testing.T) {
	t.Run("are 503, with what is known and when to purge again, and why is for the log", func(t *testing.T) {
		o := open(t, twoPlans, "")
		o.purged.removed, o.purged.err = 3, errors.New("dial tcp 10.0.0.9:6379: connection refused")
		got := o.ask("POST", purgePath, `{"tag": "llama"}`)
		equal(t, [3]any{got.Code, got.Header().Get("Retry-After"), got.Header().Get("Content-Type")}, [3]any{503, "1", "application/problem+json"})
		var p struct{ Detail string }
		if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		equal(t, p.Detail, "Purged in this instance, with 3 answers removed; but other instances, or this one after a restart, may still give such answers: not all could be told. The log says why. Purge again.")
		equal(t, o.logged(), []map[string]any{{
			"level": "ERROR", "msg": "purge incomplete", "tag": "llama", "removed": 3.0, "remote": "127.0.0.1:50000",
			"error": "dial tcp 10.0.0.9:6379: connection refused",
		}})
	})
	t.Run("are what the gateway says that they are", func(t *testing.T) {
		o := open(t, twoPlans, "")
		o.purged.err = fmt.Errorf("purge: %w", &weir.Problem{Status: http.StatusBadGateway, Detail: "The store is gone."})
		got := o.ask("POST", purgePath, `{"all": true}`)
		equal(t, said(got), [2]any{502, `{"type":"about:blank","title":"Bad Gateway","status":502,"detail":"The store is gone."}` + "\n"})
	})
}
