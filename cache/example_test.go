package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/inferweir/weir/cache"
)

// A model that is asked the same twice, in other words of JSON, runs once.
func Example() {
	answers, err := cache.New(cache.Options{TTL: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	model := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("the model runs")
		_, _ = io.WriteString(w, `{"label": "positive"}`)
	})
	server := httptest.NewServer(answers.Middleware(model))
	defer server.Close()

	for _, body := range []string{`{"text": "good", "lang": "en"}`, `{"lang":"en","text":"good"}`} {
		resp, err := http.Post(server.URL, "application/json", strings.NewReader(body))
		if err != nil {
			fmt.Println(err)
			return
		}
		answer, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		fmt.Println(string(answer), resp.Header.Get("Cache-Status"))
	}
	// Output:
	// the model runs
	// {"label": "positive"} weir; fwd=miss; stored
	// {"label": "positive"} weir; hit; ttl=59
}

// A function that is slow runs once for each key: what a decorator does elsewhere.
// Its results stay in memory for an hour.
func ExampleMemo() {
	embed := cache.Memo(func(_ context.Context, text string) (int, error) {
		fmt.Println("computing", text)
		return len(text), nil
	}, cache.MemoOptions{TTL: time.Hour, MaxEntries: 10_000})

	for _, text := range []string{"weir", "weir", "gate"} {
		n, err := embed(context.Background(), text)
		fmt.Println(n, err)
	}
	// Output:
	// computing weir
	// 4 <nil>
	// 4 <nil>
	// computing gate
	// 4 <nil>
}

// In a directory results outlive the process. What is stale is used for another
// day if the function fails.
func ExampleMemo_directory() {
	path, err := os.MkdirTemp("", "weir")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(path) }()

	for range 2 { // as if the process started twice
		dir, err := cache.OpenDir(cache.DirOptions{Path: path, MaxBytes: 1 << 30})
		if err != nil {
			fmt.Println(err)
			return
		}
		length := cache.Memo(func(_ context.Context, text string) (int, error) {
			fmt.Println("computing", text)
			return len(text), nil
		}, cache.MemoOptions{Store: dir, Name: "length-v1", TTL: time.Hour, StaleIfError: 24 * time.Hour})
		fmt.Println(length(context.Background(), "weir"))
		if err := dir.Close(); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// computing weir
	// 4 <nil>
	// 4 <nil>
}

// What has a tag can be purged at once, wherever it is kept: also what is being
// computed at that moment.
func ExamplePurges() {
	purges, err := cache.NewPurges(cache.PurgeOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	price := cache.Memo(func(_ context.Context, item string) (string, error) {
		fmt.Println("asking for", item)
		return item + ": 3 coins", nil
	}, cache.MemoOptions{TTL: time.Hour, Tags: []string{"prices"}, Purges: purges})

	fmt.Println(price(context.Background(), "bread"))
	_, err = purges.Purge(context.Background(), cache.Label("tag", "prices"))
	fmt.Println("purged", err)
	fmt.Println(price(context.Background(), "bread"))
	// Output:
	// asking for bread
	// bread: 3 coins <nil>
	// purged <nil>
	// asking for bread
	// bread: 3 coins <nil>
}
