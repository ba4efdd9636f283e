package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

// Two requests a minute for each client, as middleware in front of any handler.
func Example() {
	limit, err := ratelimit.New(ratelimit.Options{
		Policies: []ratelimit.Policy{{Quota: 2, Window: time.Minute}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	})
	server := httptest.NewServer(limit.Middleware(hello))
	defer server.Close()

	for range 3 {
		resp, err := http.Get(server.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = resp.Body.Close()
		fmt.Printf("%d %s, retry after %q\n", resp.StatusCode, resp.Header.Get("RateLimit"), resp.Header.Get("Retry-After"))
	}
	// Output:
	// 200 "default";r=1;t=30, retry after ""
	// 200 "default";r=0;t=30, retry after ""
	// 429 "default";r=0;t=30, retry after "30"
}

// A limit around any function, here three units at once for each customer.
func ExampleLimiter_Take() {
	policy, err := ratelimit.ParsePolicy("3 per hour")
	if err != nil {
		fmt.Println(err)
		return
	}
	limit, err := ratelimit.New(ratelimit.Options{Policies: []ratelimit.Policy{policy}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, cost := range []int64{2, 2, 5} {
		_, err := limit.Take(context.Background(), "customer-7", cost)
		if p, refused := errors.AsType[*weir.Problem](err); refused {
			fmt.Println(p.Detail)
			continue
		}
		fmt.Println("took", cost)
	}
	// Output:
	// took 2
	// Request refused: it costs 2 requests, and 1 are left of 3 requests per 60 minutes. Try again in 1200 seconds.
	// Request refused: it costs 5 requests, and "default" never has more than 3 at once (3 requests per 60 minutes).
}
