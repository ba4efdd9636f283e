package cache_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

func TestEntriesKeepTheirTokens(t *testing.T) {
	f := func(name string, labels []string, want int64) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			b, err := (&cache.Entry{Meta: cache.Meta{Labels: labels}, Status: 200}).AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			e, err := cache.DecodeEntry(b)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Tokens(); got != want {
				t.Errorf("got %d tokens, want %d", got, want)
			}
		})
	}
	f("that are known", []string{"tag:a", "tokens:46", "route:chat"}, 46)
	f("of an entry from before they were kept", []string{"tag:a"}, 0)
	f("of a label that is no number", []string{"tokens:many"}, 0)
	f("of a label that cannot be", []string{"tokens:-1"}, 0)
	var none *cache.Lookup
	if took, tokens := none.Saved(); took != 0 || tokens != 0 {
		t.Errorf("a request without a cache saved %v and %d tokens", took, tokens)
	}
}

// What is not kept has spared those who waited for it the call all the same.
func TestFollowersSaveTheTokensOfWhatIsNotStored(t *testing.T) {
	f := func(name string, complete bool) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := cache.New(cache.Options{Mode: cache.ModeInference, TTL: time.Minute, Store: cache.NewMemoryStore(cache.MemoryOptions{})})
				if err != nil {
					t.Fatal(err)
				}
				lookUp := func() *cache.Lookup {
					r := httptest.NewRequest("POST", "/", nil)
					l, err := c.LookUp(t.Context(), cache.Request{HTTP: r, Body: []byte("{}")}, time.Now())
					if err != nil {
						t.Fatal(err)
					}
					return l
				}
				leader, follower := lookUp(), lookUp()
				if answered, err := leader.Join(t.Context()); answered || err != nil {
					t.Fatalf("the first was answered: %v, %v", answered, err)
				}
				type saved struct {
					answered bool
					tokens   int64
				}
				got := make(chan saved, 1)
				go func() {
					defer follower.Leave()
					answered, _ := follower.Join(t.Context())
					_, tokens := follower.Saved()
					got <- saved{answered, tokens}
				}()
				synctest.Wait() // it waits
				leader.Prepare(http.Header{})
				resp := &http.Response{StatusCode: 200, ProtoMajor: 1, Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: 2}
				rec := leader.Record(t.Context(), resp, cache.Keep{Judge: func() cache.Judgement { return cache.Judgement{Complete: complete, Tokens: 14} }})
				if _, err := io.Copy(io.Discard, rec.Body(io.NopCloser(strings.NewReader("{}")))); err != nil {
					t.Fatal(err)
				}
				leader.Leave()
				if have, want := <-got, (saved{true, 14}); have != want {
					t.Errorf("got %+v, want %+v", have, want)
				}
				if stored := strings.Contains(leader.Status(), "stored"); stored != complete {
					t.Errorf("it is stored: %v, want %v", stored, complete)
				}
				c.Close()
			})
		})
	}
	f("of one that is", true)
	f("of one that a length limit ended", false)
}
