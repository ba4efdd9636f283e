package ratelimit_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// A client that asks more often than its server allows, and is never refused:
// the server admits 5 at once and then one each 40 milliseconds, and says so.
func ExampleTransport() {
	limit, err := ratelimit.New(ratelimit.Options{
		Policies: []ratelimit.Policy{{Quota: 5, Window: 200 * time.Millisecond}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(limit.Middleware(http.NotFoundHandler()))
	defer server.Close()

	polite, err := ratelimit.NewTransport(ratelimit.TransportOptions{MaxWait: 10 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: polite}
	for range 6 {
		resp, err := client.Get(server.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	// Output:
	// 404
	// 404
	// 404
	// 404
	// 404
	// 404
}

// Ten goroutines share a quota of one's own, 4 requests in 100 milliseconds,
// whatever the server would allow.
func ExampleTransport_ownQuota() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()

	polite, err := ratelimit.NewTransport(ratelimit.TransportOptions{
		Policies: []ratelimit.Policy{{Quota: 4, Window: 100 * time.Millisecond}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: polite}
	start := time.Now()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			resp, err := client.Get(server.URL)
			if err != nil {
				fmt.Println(err)
				return
			}
			_ = resp.Body.Close()
		})
	}
	wg.Wait()
	// 4 at once, 6 more at one each 25 milliseconds.
	fmt.Println(time.Since(start) >= 150*time.Millisecond)
	// Output:
	// true
}
