package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func get(h http.Handler, path, addr string) (*http.Response, string) {
	r := httptest.NewRequest("GET", path, nil)
	r.RemoteAddr = addr + ":1"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	resp := w.Result()
	b, _ := io.ReadAll(resp.Body)
	return resp, string(b)
}

func TestExpensive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := api()
		if err != nil {
			t.Fatal(err)
		}
		took := func(path string) (time.Duration, string, string) {
			begin := time.Now()
			resp, body := get(h, path, "192.0.2.1")
			return time.Since(begin), body, resp.Header.Get("Cache-Status")
		}
		if d, body, status := took("/expensive?n=20"); d != 2*time.Second || body != `{"n":20,"square":400}`+"\n" || status != "weir; fwd=miss; stored" {
			t.Errorf("first: %v %s %s", d, body, status)
		}
		if d, body, status := took("/expensive?n=20"); d != 0 || body != `{"n":20,"square":400}`+"\n" || status != "weir; hit; ttl=60" {
			t.Errorf("second: %v %s %s", d, body, status)
		}
		time.Sleep(time.Minute)
		if d, _, _ := took("/expensive?n=20"); d != 2*time.Second {
			t.Errorf("after a minute: %v", d)
		}
	})
}

func TestExpensiveIsLimitedForEachClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := api()
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				if resp, body := get(h, fmt.Sprintf("/expensive?n=%d", i), "192.0.2.1"); resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Server-Timing"), "total;dur=2000") {
					t.Errorf("request %d: %s %s %v", i, resp.Status, body, resp.Header)
				}
			})
		}
		wg.Wait()
		// Two seconds give one unit back.
		get(h, "/expensive?n=100", "192.0.2.1")
		resp, body := get(h, "/expensive?n=101", "192.0.2.1")
		if resp.StatusCode != 200 { // the call before took two seconds, too
			t.Errorf("%s %s", resp.Status, body)
		}
		for i := range 2 {
			go get(h, fmt.Sprintf("/expensive?n=%d", 200+i), "192.0.2.1")
		}
		synctest.Wait()
		resp, body = get(h, "/expensive?n=300", "192.0.2.1")
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "2" || !strings.Contains(body, "30 requests per 60 seconds are used up. Try again in 2 seconds.") {
			t.Errorf("%s %v %s", resp.Status, resp.Header, body)
		}
		if resp, _ := get(h, "/expensive?n=300", "192.0.2.2"); resp.StatusCode != 200 {
			t.Errorf("another client: %s", resp.Status)
		}
		if resp, _ := get(h, "/expensive?n=5", "192.0.2.1"); resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Cache-Status"), "weir; hit") {
			t.Errorf("a hit: %s %v", resp.Status, resp.Header)
		}
	})
}
