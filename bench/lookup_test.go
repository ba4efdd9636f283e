//go:build unix

package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
)

// askedCount is how many different requests the benchmarks of a whole look-up have.
const askedCount = 1000

// asked is a request to look up, as a gateway has it when it asks its cache.
type asked struct {
	http *http.Request
	body []byte
}

// askedOf are requests without a body that differ in the query, or chat requests of
// exactly size bytes that differ in their text.
func askedOf(tb testing.TB, size int) []asked {
	tb.Helper()
	all := make([]asked, askedCount)
	for i := range all {
		method, url, body := http.MethodGet, fmt.Sprintf("http://gateway.test/v1/answers?n=%d", i), []byte(nil)
		if size > 0 {
			method, url, body = http.MethodPost, "http://gateway.test/v1/chat/completions", completion(size, i)
		}
		r := httptest.NewRequest(method, url, nil)
		r.Header = http.Header{
			"Authorization": {"Bearer sk-0123456789abcdef"}, "Accept": {"*/*"}, "Accept-Encoding": {"gzip"},
			"User-Agent": {"client/1.0"}, "X-Stainless-Lang": {"python"},
		}
		if size > 0 {
			r.Header.Set("Content-Type", "application/json")
		}
		all[i] = asked{r, body}
	}
	return all
}

// completion is a chat request of exactly size bytes, with its number in the text.
func completion(size, number int) []byte {
	head := fmt.Sprintf(`{"model":"llama-3.1-8b","temperature":0,"max_tokens":256,"messages":[{"role":"user","content":"%04d `, number)
	const tail = `"}]}`
	text := strings.Repeat("What does a weir do to a river? ", size/32+1)
	return []byte(head + text[:size-len(head)-len(tail)] + tail)
}

// A lookUpContender knows the answers of all.
type lookUpContender struct {
	name string
	open func(tb testing.TB, mode cache.Mode, all []asked) func(asked) bool // finds the answer
}

// lookUpContenders are Weir, the least that finds an answer by its request, and the
// part of that which is not a cache.
func lookUpContenders() []lookUpContender {
	return []lookUpContender{
		{"weir", weirLookUp},
		{"sha256-otter", otterLookUp},
		{"sha256", func(testing.TB, cache.Mode, []asked) func(asked) bool {
			return func(a asked) bool { return hashAsked(a) != cache.Key{} }
		}},
	}
}

// weirLookUp has kept each answer once, in the way of all answers.
func weirLookUp(tb testing.TB, mode cache.Mode, all []asked) func(asked) bool {
	tb.Helper()
	c, err := cache.New(cache.Options{Mode: mode, TTL: entryTTL, Share: cache.ShareAll, Store: newMemoryStore(roomy)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	ctx, caller := context.Background(), weir.Caller{ID: "key:alice"}
	ask := func(a asked) *cache.Lookup {
		l, err := c.LookUp(ctx, cache.Request{HTTP: a.http, Body: a.body, Caller: caller}, time.Now())
		if err != nil {
			tb.Error(err)
		}
		return l
	}
	for _, a := range all {
		keepAnswer(tb, ask(a))
	}
	return func(a asked) bool {
		l := ask(a)
		l.Leave()
		return l.Entry != nil && len(l.Entry.Body) == entrySize
	}
}

// keepAnswer is the upstream's part.
func keepAnswer(tb testing.TB, l *cache.Lookup) {
	tb.Helper()
	defer l.Leave()
	ctx := context.Background()
	if answered, err := l.Join(ctx); answered || err != nil {
		tb.Fatalf("Join: %v, %v: nobody else asks", answered, err)
	}
	body := jsonBody()
	rec := l.Record(ctx, &http.Response{
		StatusCode:    http.StatusOK,
		Header:        http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"public, max-age=3600"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		ContentLength: int64(len(body)),
	}, cache.Keep{})
	if _, err := rec.Write(body); err != nil {
		tb.Fatal(err)
	}
	if err := rec.Finish(); err != nil {
		tb.Fatal(err)
	}
}

// otterLookUp hashes what differs between the requests, and nothing else.
func otterLookUp(tb testing.TB, _ cache.Mode, all []asked) func(asked) bool {
	tb.Helper()
	c := newOtter(tb, &otter.Options[cache.Key, *cache.Entry]{
		MaximumSize: 2 * len(all), ExpiryCalculator: otter.ExpiryWriting[cache.Key, *cache.Entry](entryTTL),
	})
	e := newEntry(jsonBody(), time.Second)
	for _, a := range all {
		c.Set(hashAsked(a), e)
	}
	return func(a asked) bool {
		_, ok := c.GetIfPresent(hashAsked(a))
		return ok
	}
}

func hashAsked(a asked) cache.Key {
	if len(a.body) > 0 {
		return sha256.Sum256(a.body)
	}
	return sha256.Sum256([]byte(a.http.URL.RawQuery))
}

// BenchmarkCacheLookUp finds the answer of one of 1,000 requests, by Zipf's law: from
// the request as it came to the stored answer, with all that the answer depends on.
func BenchmarkCacheLookUp(b *testing.B) {
	for _, c := range []struct {
		name  string
		mode  cache.Mode
		size  int
		procs int
	}{
		{"POST,body=200B", cache.ModeInference, 200, 1},
		{"POST,body=200B,procs=2", cache.ModeInference, 200, 2},
		{"POST,body=10000B", cache.ModeInference, 10_000, 1},
		{"GET", cache.ModeInference, 0, 1},
		{"GET,procs=2", cache.ModeInference, 0, 2},
		{"GET,mode=http", cache.ModeHTTP, 0, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			all, choices := askedOf(b, c.size), zipfOrder(askedCount)
			for _, contender := range lookUpContenders() {
				find := contender.open(b, c.mode, all)
				b.Run(contender.name, func(b *testing.B) {
					measureParallel(b, c.procs, 1, func(goroutine int, next func() bool) {
						for i := goroutine * streamLength / 2; next(); i++ {
							if !find(all[choices[i%streamLength]]) {
								b.Error("not found")
								return
							}
						}
					})
				})
			}
		})
	}
}

func TestLookUpsFindTheAnswer(t *testing.T) {
	for _, mode := range []cache.Mode{cache.ModeInference, cache.ModeHTTP} {
		for _, size := range []int{0, 200, 10_000} {
			if mode == cache.ModeHTTP && size > 0 {
				continue // it keeps no answers to POST
			}
			for _, c := range lookUpContenders() {
				t.Run(fmt.Sprintf("%s, %s, %d bytes", c.name, mode, size), func(t *testing.T) {
					all := askedOf(t, size)
					find := c.open(t, mode, all)
					for i, a := range all {
						if !find(a) {
							t.Fatalf("request %d was not found", i)
						}
					}
				})
			}
		}
	}
}

func TestRequestsHaveTheirSize(t *testing.T) {
	for _, size := range []int{200, 10_000} {
		for i, a := range askedOf(t, size) {
			if len(a.body) != size {
				t.Fatalf("request %d has %d bytes, want %d", i, len(a.body), size)
			}
		}
	}
}
