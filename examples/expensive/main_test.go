package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/storetest"
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
		h, err := api(ratelimit.NewMemoryStore(0))
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
		h, err := api(ratelimit.NewMemoryStore(0))
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

// start starts the program and returns the address that it says it serves, and what
// ends it as an operator does.
func start(t *testing.T, program string, args ...string) (address string, stop func()) {
	t.Helper()
	cmd := exec.Command(program, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	r := bufio.NewReader(stderr)
	line, err := r.ReadString('\n')
	found := regexp.MustCompile(`http://[^/]+`).FindString(line)
	if err != nil || found == "" {
		t.Fatalf("it says %q: %v", line, err)
	}
	return found, func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(r)
		if err := cmd.Wait(); err != nil || len(rest) > 0 {
			t.Fatalf("it ended with %v, and said %q", err, rest)
		}
	}
}

// build builds the program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "expensive")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

func TestStopsWithoutATrace(t *testing.T) {
	program, redis := build(t), storetest.Redis(t)
	url, stop := start(t, program, "-listen", "127.0.0.1:0", "-redis", redis.URL())
	reported := func() bool { return redis.MustDo("ZCARD", "weir:{instances}") == "1" }
	storetest.Eventually(t, 10*time.Second, "the copy reports", reported)
	answer := make(chan int, 1)
	go func() {
		resp, err := http.Get(url + "/expensive?n=1")
		if err != nil {
			answer <- 0
			return
		}
		_ = resp.Body.Close()
		answer <- resp.StatusCode
	}()
	storetest.Eventually(t, 10*time.Second, "the request is counted", func() bool { return redis.MustDo("DBSIZE") != "1" })
	stop()
	if status := <-answer; status != http.StatusOK {
		t.Errorf("status %d of a request that was under way, want 200", status)
	}
	if reported() {
		t.Error("a stopped copy still counts as an instance")
	}
}

func TestTwoCopiesShareOneLimit(t *testing.T) {
	program, redis := build(t), storetest.Redis(t)
	var copies []string
	for range 2 {
		url, _ := start(t, program, "-listen", "127.0.0.1:0", "-redis", redis.URL())
		copies = append(copies, url)
	}
	for _, c := range copies {
		counted := func() bool { // there, and not in the copy's own memory
			get, err := http.Get(c + "/expensive?n=x")
			if err != nil {
				t.Fatal(err)
			}
			_ = get.Body.Close()
			n, err := redis.Do("EVAL", "return #redis.call('KEYS', '*default*')", "0")
			if err != nil {
				t.Fatal(err)
			}
			return n != "0"
		}
		for deadline := time.Now().Add(10 * time.Second); !counted(); {
			if time.Now().After(deadline) {
				t.Fatal("a copy never counted in Redis")
			}
		}
		if _, err := redis.Do("FLUSHALL"); err != nil {
			t.Fatal(err)
		}
	}
	var statuses [600]atomic.Int64
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			resp, err := http.Get(fmt.Sprintf("%s/expensive?n=%d", copies[i%2], i))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			statuses[resp.StatusCode].Add(1)
		})
	}
	wg.Wait()
	// Who is slow to be scheduled may meet a unit that came back meanwhile.
	if n := statuses[200].Load(); n < 30 || n > 32 || statuses[429].Load() != 60-n {
		t.Errorf("%d admitted, %d refused, of 60 at once with 30 a minute", n, statuses[429].Load())
	}
}
