package cache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

// A function that is slow runs once for each key.
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
