package main

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// deciding is the built-in configuration with the third listener.
func deciding(t *testing.T, address string) string {
	t.Helper()
	return builtinConfig(t) + "\ndecide: {listen: " + address + "}\n"
}

// TestDecisions asks at the third listener.
func TestDecisions(t *testing.T) {
	t.Parallel()
	s := serve(t, deciding(t, "127.0.0.1:0"))
	url := s.stdout.await(t, `Decisions for other servers: (http://127\.0\.0\.1:[1-9]\d*)\n`)[1]
	checkLines(t, s.stdout.String())
	ask := func() answer {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Original-URI", "/predict/language?text=hello")
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		a, err := read(resp)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	t.Run("its decisions count with the callers' requests", func(t *testing.T) {
		begun := time.Now()
		first, second := ask(), s.get(t, "/predict/language?text=hello")
		left, seconds, _ := strings.Cut(second.field("RateLimit"), ";t=")
		got := [...]any{first.Status, first.Body, first.field("RateLimit"), left}
		if want := [...]any{200, "", `"default";r=4;t=12`, `"default";r=3`}; got != want {
			t.Errorf("answers = %v, want %v", got, want)
		}
		checkWait(t, seconds, 12*time.Second, time.Since(begun))
	})
	t.Run("neither callers nor operators are served there, nor decisions elsewhere", func(t *testing.T) {
		got := [...]int{fetch(t, s.client, url+"/predict/language?text=hello").Status, fetch(t, s.client, url+"/metrics").Status, fetch(t, s.client, s.admin+"/decisions").Status}
		if want := [...]int{400, 400, 404}; got != want {
			t.Errorf("statuses = %v, want %v", got, want)
		}
	})
	t.Run("operators change what is decided at once", func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), "PATCH", s.admin+"/api/v1/plans/default", strings.NewReader(`{"policies": ["50/minute"]}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		changed, err := read(resp)
		if err != nil || changed.Status != 200 {
			t.Fatalf("%+v: %v", changed, err)
		}
		if got, want := ask().field("RateLimit-Policy"), `"default";q=50;w=60`; got != want {
			t.Errorf("RateLimit-Policy: %s, want %s", got, want)
		}
	})
	t.Run("it ends with the others", func(t *testing.T) {
		if status := s.stop(t); status != exitOK {
			t.Errorf("exit status %d, want %d", status, exitOK)
		}
		for _, url := range []string{s.base, s.admin, url} {
			if conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
				_ = conn.Close()
				t.Errorf("%s still listens", url)
			}
		}
	})
}

// TestAddressInUse takes the third address before Weir can.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var stdout, stderr transcript
	status := run(t.Context(), []string{"serve", "-c", write(t, "weir.yaml", deciding(t, taken.Addr().String()))}, output{&stdout, &stderr})
	want := "decide.listen: " + taken.Addr().String() + ": address already in use: end what listens there, or choose another port with decide.listen"
	if status != exitFailed || !strings.Contains(stderr.String(), want) || stdout.String() != "" {
		t.Errorf("status %d, stdout %q, stderr:\n%s\nwant %d, nothing, %s", status, &stdout, &stderr, exitFailed, want)
	}
}
