package gateway_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// caddy runs a real one with the configuration of the documentation, in front of
// app and asking the address weir. It returns its URL.
func caddy(t *testing.T, weir, app string) string {
	t.Helper()
	documented, err := os.ReadFile("testdata/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	at := free.Addr().String()
	dir := t.TempDir()
	conf := filepath.Join(dir, "Caddyfile")
	site := "{\n\tadmin off\n\tauto_https off\n}\n" + edited(t, string(documented), "127.0.0.1:8082", weir, "127.0.0.1:9000", app, "127.0.0.1:8088", at)
	if err := os.WriteFile(conf, []byte(site), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program(t, "caddy"), "run", "--config", conf, "--adapter", "caddyfile")
	c.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	running(t, c)
	deadline, again := time.After(eventually), time.NewTicker(5*time.Millisecond)
	defer again.Stop()
	for {
		if conn, err := net.Dial("tcp", at); err == nil {
			_ = conn.Close()
			return "http://" + at
		}
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal("caddy does not listen")
		}
	}
}

func TestCaddy(t *testing.T) {
	t.Run("admits as many as there are, and refuses with Weir's own words", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, caddy(t, d.address, app.address()))
		var got []any
		var last answer
		wait := ""
		began := time.Now()
		for range 3 {
			last = w.send("POST", "/app/x?q=1", "body")
			all := known(last)
			wait, all[2] = all[2], countedDown(began, 30, all[2])
			got = append(got, last.status, all)
		}
		same(t, got, []any{
			200, [4]string{`"default";r=1`, `"default";q=2;w=60`, "", "POST /app/x?q=1 4"},
			200, [4]string{`"default";r=0`, `"default";q=2;w=60`, "", "POST /app/x?q=1 4"},
			429, [4]string{`"default";r=0`, `"default";q=2;w=60`, "30", ""},
		})
		same(t, last.detail(), "Request refused: 2 requests per 60 seconds are used up. Try again in "+wait+" seconds.")
		forged := []string{
			"X-Original-URI", "/read", "X-Original-Method", "OPTIONS", "X-Forwarded-Uri", "/read", "X-Forwarded-Method", "OPTIONS",
			"X-Forwarded-For", "192.0.2.1", "X-User-ID", "carol", "Connection", "X-Forwarded-For, X-Forwarded-Uri",
		}
		var refused []int
		for i := 0; i < len(forged); i += 2 {
			refused = append(refused, w.send("GET", "/app/x", "", forged[i], forged[i+1]).status)
		}
		same(t, refused, slices.Repeat([]int{429}, len(forged)/2))
		same(t, app.calls.Load(), int64(2))
	})
	t.Run("what is decided is the request's own method, path and caller", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, caddy(t, d.address, app.address()))
		a := w.send("DELETE", "/read", "")
		same(t, [2]any{a.status, a.header.Get("Allow")}, [2]any{405, "GET, HEAD, POST"})
		same(t, w.send("GET", "/elsewhere", "").status, 404)
		a = w.send("GET", "/app/x", "", "Authorization", "Bearer weir_eve")
		same(t, [2]any{a.status, strings.HasPrefix(a.header.Get("Www-Authenticate"), "Bearer")}, [2]any{401, true})
		same(t, times(4, func() answer { return w.send("GET", "/app/x", "", "Authorization", "Bearer weir_alice") }), []int{200, 200, 200, 429})
		same(t, app.calls.Load(), int64(3))
	})
	t.Run("without Weir nothing is admitted", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		gone, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = gone.Close()
		same(t, behind(d, caddy(t, gone.Addr().String(), app.address())).send("GET", "/app/x", "").status, 502)
		same(t, app.calls.Load(), int64(0))
	})
}
