package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program finds a server that "make tools" installs: /usr/sbin is not on
// everybody's path.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		t.Fatalf("%v: make tools installs it", err)
	}
	return path
}

// running starts a server, and ends it with the test.
func running(t *testing.T, c *exec.Cmd) {
	t.Helper()
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(eventually, func() { _ = c.Process.Kill() })
		defer kill.Stop()
		if err := c.Wait(); err != nil || t.Failed() {
			t.Logf("%s: %v\n%s", c.Path, err, &said)
		}
	})
}

// edited replaces texts that must be in it once each: old, new, old, new.
func edited(t *testing.T, text string, edits ...string) string {
	t.Helper()
	for i := 0; i < len(edits); i += 2 {
		if strings.Count(text, edits[i]) != 1 {
			t.Fatalf("want %q once in:\n%s", edits[i], text)
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

// nginx runs a real one with the configuration of the documentation, in front of
// app and asking the address weir. It returns its URL.
func nginx(t *testing.T, weir, app string, edits ...string) string {
	t.Helper()
	documented, err := os.ReadFile("testdata/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	// nginx takes the socket over as it does from an older one of itself: it is
	// there from the beginning, and nobody else can take the port.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	edits = append(edits, "127.0.0.1:8082", weir, "127.0.0.1:9000", app, "127.0.0.1:8088", l.Addr().String())
	dir := t.TempDir()
	site := edited(t, string(documented), edits...)
	user := "" // its own
	if os.Getuid() == 0 {
		user = "user root; " // not nobody, who may not read what the test writes
	}
	whole := user + "daemon off; worker_processes 1; pid nginx.pid; events {}\nhttp {\naccess_log off;\n" +
		"client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n" + site + "}\n"
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program(t, "nginx"), "-p", dir, "-c", conf, "-e", "stderr")
	c.ExtraFiles = []*os.File{socket}
	c.Env = append(os.Environ(), "NGINX=3;")
	running(t, c)
	return "http://" + l.Addr().String()
}

// app is what stands behind nginx: it tells what it got.
type app struct {
	*httptest.Server
	counted
}

func startApp(t *testing.T) *app {
	t.Helper()
	a := &app{}
	a.h = func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-App", fmt.Sprint(r.Method, " ", r.RequestURI, " ", n))
		if r.URL.Path == "/app/fails" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, "the application's own")
	}
	a.Server = httptest.NewServer(&a.counted)
	t.Cleanup(a.Close)
	return a
}

func (a *app) address() string { return a.Listener.Addr().String() }

// behind sends requests to a server that asks a decider.
func behind(d *decider, url string) *weir {
	w := *d.weir
	w.url = url
	return &w
}

// known are the fields of an answer that a client goes by.
func known(a answer) (all [4]string) {
	for i, name := range []string{"RateLimit", "RateLimit-Policy", "Retry-After", "X-App"} {
		all[i], _, _ = strings.Cut(strings.Join(a.header.Values(name), " and "), ";t=")
	}
	return all
}

func TestNginx(t *testing.T) {
	t.Parallel()
	t.Run("admits as many as there are, and refuses with the time to come back", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, nginx(t, d.address, app.address()))
		var got []any
		began := time.Now()
		for range 3 {
			a := w.send("GET", "/app/x?q=1", "")
			all := known(a)
			all[2] = countedDown(began, 30, all[2])
			got = append(got, a.status, all)
		}
		same(t, got, []any{
			200, [4]string{`"default";r=1`, `"default";q=2;w=60`, "", "GET /app/x?q=1 0"},
			200, [4]string{`"default";r=0`, `"default";q=2;w=60`, "", "GET /app/x?q=1 0"},
			429, [4]string{`"default";r=0`, `"default";q=2;w=60`, "30", ""},
		})
		a := w.send("GET", "/app/x", "")
		same(t, []any{a.header.Get("Retry-After-Ms") != "", a.header.Get("Cache-Control"), a.header.Get("Content-Type"), a.body},
			[]any{true, "no-store", "application/problem+json", `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429}`})
		same(t, app.calls.Load(), int64(2))
	})
	t.Run("who waits exactly Retry-After is admitted", func(t *testing.T) {
		d, app := startDecider(t, edited(t, decides, "2/minute", "1/second"), nil), startApp(t)
		w := behind(d, nginx(t, d.address, app.address()))
		var a answer
		for range 100 {
			if a = w.send("GET", "/app/x", ""); a.status != 200 {
				break
			}
		}
		same(t, [2]any{a.status, a.header.Get("Retry-After")}, [2]any{429, "1"})
		<-time.After(time.Second) // not for something to happen: it is what is tested
		same(t, w.send("GET", "/app/x", "").status, 200)
	})
	t.Run("bodies reach the application, and not the decision", func(t *testing.T) {
		d, app := startDecider(t, edited(t, decides, "2/minute", "10/minute"), nil), startApp(t)
		asked := make(chan string, 10)
		between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			asked <- fmt.Sprint(r.Method, " ", r.ContentLength, " ", len(body), " ", r.Header.Get("X-Original-Method"))
			d.gateway.Decide().ServeHTTP(w, r)
		}))
		defer between.Close()
		w := behind(d, nginx(t, between.Listener.Addr().String(), app.address()))
		long := strings.Repeat("x", 500_000)
		same(t, known(w.send("POST", "/app/x", "body"))[3], "POST /app/x 4")
		same(t, known(w.send("PUT", "/app/x", long))[3], "PUT /app/x 500000")
		same(t, w.raw("POST /app/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"), "HTTP/1.1 200 OK")
		same(t, app.calls.Load(), int64(3))
		same(t, [3]string{<-asked, <-asked, <-asked}, [3]string{"GET 0 0 POST", "GET 0 0 PUT", "GET 0 0 POST"})
	})
	t.Run("what is decided is the request's own method and path", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, nginx(t, d.address, app.address()))
		f := func(method, path string, want int) {
			t.Helper()
			same(t, w.send(method, path, "").status, want)
		}
		f("DELETE", "/read", 405)
		f("GET", "/elsewhere", 404)
		f("GET", "/app//x", 400)
		f("GET", "/app/%2e%2e/read", 400)
		same(t, app.calls.Load(), int64(0))
		f("HEAD", "/read", 200)
		same(t, app.calls.Load(), int64(1))
	})
	t.Run("who is calling is decided, too", func(t *testing.T) {
		d, app := startDecider(t, edited(t, decides, "callers: {", "callers: {deny: [key:bob], "), nil), startApp(t)
		w := behind(d, nginx(t, d.address, app.address()))
		as := func(key string) answer { return w.send("GET", "/app/x", "", "Authorization", "Bearer "+key) }
		same(t, times(4, func() answer { return as("weir_alice") }), []int{200, 200, 200, 429})
		same(t, as("weir_bob").status, 403)
		a := as("weir_eve")
		same(t, [2]any{a.status, strings.HasPrefix(a.header.Get("Www-Authenticate"), "Bearer")}, [2]any{401, true})
	})
	t.Run("nothing that a client writes helps it", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, nginx(t, d.address, app.address()))
		same(t, times(3, func() answer { return w.send("GET", "/app/x", "") }), []int{200, 200, 429})
		var got []int
		forged := []string{
			"X-Original-URI", "/read", "X-Original-Method", "OPTIONS", "X-Forwarded-Uri", "/read", "X-Forwarded-Method", "OPTIONS",
			"X-Forwarded-For", "192.0.2.1", "X-Real-IP", "192.0.2.1", "Forwarded", "for=192.0.2.1", "X-User-ID", "carol",
			"X_User_ID", "carol", "X-Forwarded-For", "::1", "Connection", "X-Forwarded-For, X-Original-URI",
		}
		for i := 0; i < len(forged); i += 2 {
			got = append(got, w.send("GET", "/app/x", "", forged[i], forged[i+1]).status)
		}
		got = append(got, w.send("GET", "/app/x", "", forged...).status)
		same(t, got, slices.Repeat([]int{429}, len(forged)/2+1))
		same(t, app.calls.Load(), int64(2))
	})
	t.Run("cannot be asked for a decision from outside", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		a := behind(d, nginx(t, d.address, app.address())).send("GET", "/weir", "")
		same(t, [2]any{a.status, strings.Contains(a.body, "nginx")}, [2]any{404, true})
	})
}

func TestNginxFailures(t *testing.T) {
	t.Run("the application's own failures are passed on as they are", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		a := behind(d, nginx(t, d.address, app.address())).send("GET", "/app/fails", "")
		same(t, [3]any{a.status, a.body, known(a)[0]}, [3]any{500, "the application's own", `"default";r=1`})
	})
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	nobody := gone.Addr().String()
	t.Run("an application that is not there is 502", func(t *testing.T) {
		d := startDecider(t, decides, nil)
		same(t, behind(d, nginx(t, d.address, nobody)).send("GET", "/app/x", "").status, 502)
	})
	t.Run("without Weir nothing is admitted", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, nginx(t, nobody, app.address()))
		same(t, times(2, func() answer { return w.send("POST", "/app/x", "body") }), []int{500, 500})
		same(t, app.calls.Load(), int64(0))
	})
	const comment, failOpen = "# error_page 502 504 = @away;", "error_page 502 504 = @away;"
	t.Run("without Weir everything is admitted, where it is told to", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, nginx(t, nobody, app.address(), comment, failOpen))
		same(t, known(w.send("POST", "/app/x", "body")), [4]string{"", "", "", "POST /app/x 4"})
		same(t, times(3, func() answer { return w.send("GET", "/app/x", "") }), []int{200, 200, 200})
	})
	t.Run("with Weir nothing else is admitted for it", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		w := behind(d, nginx(t, d.address, app.address(), comment, failOpen))
		same(t, times(3, func() answer { return w.send("GET", "/app/x", "") }), []int{200, 200, 429})
	})
	t.Run("refusals that are none of the caller's are told apart", func(t *testing.T) {
		d, app := startDecider(t, decides, nil), startApp(t)
		f := func(answered, want int) {
			t.Helper()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answered) }))
			defer s.Close()
			for _, edits := range [][]string{nil, {comment, failOpen}} {
				same(t, behind(d, nginx(t, s.Listener.Addr().String(), app.address(), edits...)).send("GET", "/app/x", "").status, want)
			}
		}
		f(503, 503)
		f(500, 500)
		f(418, 500)
		same(t, app.calls.Load(), int64(0))
	})
}

// TestNginxDocumented compares what is tested with what is told.
func TestNginxDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/decide.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nginx.conf", "Caddyfile"} {
		tested, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(page), "\n"+string(tested)+"```\n") {
			t.Errorf("docs/decide.md has not the text of gateway/testdata/%s", name)
		}
	}
}
