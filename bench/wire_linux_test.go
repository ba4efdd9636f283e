package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// How the proxies are loaded.
const (
	wireAnswers     = 100 // different requests, which are all in the cache
	wireConnections = 32  // each sends a request when it has the last answer
	wireLoadFor     = 1500 * time.Millisecond
	wireWarmFor     = 100 * time.Millisecond
	wirePatience    = 30 * time.Second // a busy machine is not a failure
)

// proxy is a server in a process of its own, on one processor.
type proxy struct {
	addr string // host:port
	pid  int
}

// A wireContender starts a proxy that keeps what origin answers.
type wireContender struct {
	name  string
	start func(tb testing.TB, origin string) proxy
}

// wireContenders are Weir and nginx without and with an access log, which goes to a
// file, and a server in Go that does nothing.
func wireContenders(tb testing.TB) []wireContender {
	weir, plain := built(tb, "..", "./cmd/weir"), built(tb, ".", "./cmd/plain")
	return []wireContender{
		{"weir", func(tb testing.TB, origin string) proxy { return startWeir(tb, weir, origin, "error") }},
		{"weir-log", func(tb testing.TB, origin string) proxy { return startWeir(tb, weir, origin, "info") }},
		{"nginx", func(tb testing.TB, origin string) proxy { return startNginx(tb, origin, "off") }},
		{"nginx-log", func(tb testing.TB, origin string) proxy { return startNginx(tb, origin, "access.log") }},
		{"net-http", func(tb testing.TB, _ string) proxy {
			return startGo(tb, exec.Command(plain), regexp.MustCompile(`plain serves on http://(\S+)\n`))
		}},
	}
}

const weirWireConfig = `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
telemetry: {log: {level: %s}}
upstreams:
  app: {targets: [%q]}
routes:
  - match: {path: /*}
    upstream: app
    cache: {mode: inference, ttl: 1h, share: all, only: all}
`

func startWeir(tb testing.TB, program, origin, level string) proxy {
	tb.Helper()
	dir := tb.TempDir()
	conf := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, weirWireConfig, level, origin), 0o600); err != nil {
		tb.Fatal(err)
	}
	c := exec.Command(program, "serve", "-c", conf)
	return startGo(tb, c, regexp.MustCompile(`Weir serves on http://(\S+)\n`))
}

// built is the path of a program that was made from here.
func built(tb testing.TB, module, pkg string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), filepath.Base(pkg))
	c := exec.Command("go", "build", "-o", path, pkg)
	c.Dir = module
	if out, err := c.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %v\n%s", c.Args, err, out)
	}
	return path
}

// startGo starts a program that says where it serves, with one processor.
func startGo(tb testing.TB, c *exec.Cmd, says *regexp.Regexp) proxy {
	tb.Helper()
	c.Env = append(os.Environ(), "GOMAXPROCS=1")
	out := &output{says: says, addr: make(chan string, 1)}
	c.Stdout = out
	pid := startServer(tb, c)
	select {
	case addr := <-out.addr:
		return proxy{addr, pid}
	case <-time.After(wirePatience):
		tb.Fatalf("%s does not say where it serves", c.Path)
		return proxy{}
	}
}

// output waits for the line with the address; what comes after is not kept.
type output struct {
	says *regexp.Regexp
	addr chan string // gets the one address
	text []byte
	done bool
}

func (o *output) Write(p []byte) (int, error) {
	const most = 64 << 10
	if !o.done && len(o.text) < most {
		o.text = append(o.text, p...)
		if found := o.says.FindSubmatch(o.text); found != nil {
			o.done = true
			o.addr <- string(found[1])
		}
	}
	return len(p), nil
}

// startServer starts a process, and ends it with the test. What it logs goes to a
// file, as in service.
func startServer(tb testing.TB, c *exec.Cmd) (pid int) {
	tb.Helper()
	log, err := os.Create(filepath.Join(tb.TempDir(), "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	c.Stderr = log
	// In a group of its own, so that a signal from the terminal stops the test first.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(wirePatience, func() { _ = c.Process.Kill() })
		defer kill.Stop()
		if err := c.Wait(); tb.Failed() {
			said, _ := os.ReadFile(log.Name())
			tb.Logf("%s: %v\n%.2000s", c.Path, err, said)
		}
	})
	return c.Process.Pid
}

// nginxWireConfig keeps answers to GET and POST, keyed on the method, the host, the
// URL and the body. One process serves, with one thread. The answers are files in the
// page cache, which it sends with sendfile.
const nginxWireConfig = `%s
daemon off; worker_processes 1; pid nginx.pid;
events { worker_connections 1024; }
http {
	access_log %s;
	sendfile on; tcp_nopush on; keepalive_requests 1000000000;
	open_file_cache max=1000 inactive=1h;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	proxy_cache_path cache keys_zone=answers:10m max_size=256m inactive=1h use_temp_path=off;
	server {
		listen %s;
		location / {
			proxy_pass %s;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_cache answers;
			proxy_cache_methods GET HEAD POST;
			proxy_cache_key $request_method$host$request_uri$request_body;
			proxy_cache_valid 200 1h;
			proxy_cache_lock on;
			client_body_buffer_size 64k;
		}
	}
}
`

func startNginx(tb testing.TB, origin, log string) proxy {
	tb.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/nginx")
	}
	if err != nil {
		tb.Fatalf("%v: install nginx (make tools does)", err)
	}
	// nginx takes the socket over as it does from an older one of itself: it is
	// there from the beginning, and nobody else can take the port.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		tb.Fatal(err)
	}
	defer socket.Close()
	user := "" // its own
	if os.Getuid() == 0 {
		user = "user root;" // not nobody, who may not read what is in the directory
	}
	dir := tb.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxWireConfig, user, log, l.Addr(), origin), 0o600); err != nil {
		tb.Fatal(err)
	}
	c := exec.Command(path, "-p", dir, "-c", conf, "-e", "stderr")
	c.ExtraFiles = []*os.File{socket}
	c.Env = append(os.Environ(), "NGINX=3;")
	return proxy{l.Addr().String(), nginxWorker(tb, startServer(tb, c))}
}

// nginxWorker is the child that serves. There are others, for the cache's files.
func nginxWorker(tb testing.TB, master int) int {
	tb.Helper()
	for begin := time.Now(); time.Since(begin) < wirePatience; runtime.Gosched() {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", master, master))
		if err != nil {
			tb.Fatal(err)
		}
		for _, child := range strings.Fields(string(children)) {
			title, err := os.ReadFile("/proc/" + child + "/cmdline")
			if err != nil || !bytes.HasPrefix(title, []byte("nginx: worker process")) {
				continue
			}
			pid, err := strconv.Atoi(child)
			if err != nil {
				tb.Fatal(err)
			}
			return pid
		}
	}
	tb.Fatal("nginx has no worker")
	return 0
}

// wireOrigin answers everything with 2 KiB, and counts.
type wireOrigin struct {
	*httptest.Server
	asked atomic.Int64
}

func startOrigin(tb testing.TB) *wireOrigin {
	o := &wireOrigin{}
	body := jsonBody()
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	}))
	tb.Cleanup(o.Close)
	return o
}

// wireRequests are what a client sends, each as one piece.
func wireRequests(method, host string) [][]byte {
	requests := make([][]byte, wireAnswers)
	for i := range requests {
		body := ""
		if method == http.MethodPost {
			body = fmt.Sprintf(`{"model":"m","temperature":0,"messages":[{"role":"user","content":"%0200d"}]}`, i)
		}
		r, err := http.NewRequest(method, fmt.Sprintf("http://%s/v1/answers/%d", host, i%10), strings.NewReader(body))
		if err != nil {
			return nil // the caller finds none
		}
		if body == "" {
			r.URL.RawQuery = fmt.Sprintf("n=%d", i)
		} else {
			r.Header.Set("Content-Type", "application/json")
		}
		var text bytes.Buffer
		if err := r.Write(&text); err != nil {
			return nil
		}
		requests[i] = text.Bytes()
	}
	return requests
}

// load sends requests on all connections for so long, and counts the answers.
func load(addr string, requests [][]byte, d time.Duration) (answers int, err error) {
	var (
		group sync.WaitGroup
		total atomic.Int64
		errs  = make(chan error, wireConnections)
		until = time.Now().Add(d)
	)
	for i := range wireConnections {
		group.Go(func() {
			n, err := loadOne(addr, requests, i, until)
			total.Add(int64(n))
			if err != nil {
				errs <- err
			}
		})
	}
	group.Wait()
	select {
	case err = <-errs:
	default:
	}
	return int(total.Load()), err
}

// loadOne is one connection's part, beginning with the request of that number.
func loadOne(addr string, requests [][]byte, first int, until time.Time) (answers int, err error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(until.Add(wirePatience)); err != nil {
		return 0, err
	}
	in := bufio.NewReader(conn)
	for i := first; time.Now().Before(until); i++ {
		if _, err := conn.Write(requests[i%len(requests)]); err != nil {
			return answers, err
		}
		if err := readAnswer(in); err != nil {
			return answers, fmt.Errorf("answer %d of a connection: %w", answers, err)
		}
		answers++
	}
	return answers, nil
}

// readAnswer reads a 200 with 2 KiB, and does no more than it must: net/http's client
// would need more of the machine than what is measured.
func readAnswer(in *bufio.Reader) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("%q, want a 200", line)
	}
	length := -1
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && line[0]|0x20 == 'c' && strings.EqualFold(string(line[:len(name)]), name) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length != entrySize {
		return fmt.Errorf("Content-Length is %d, want %d", length, entrySize)
	}
	_, err = in.Discard(length)
	return err
}

// processCPU is the CPU time of a process so far, user and system, as the kernel
// counts it: in hundredths of a second.
func processCPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name, in parentheses.
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')'):]), " ")
	fields := strings.Fields(rest)
	const user, system, perSecond = 11, 12, 100
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc/%d/stat: %q: want more fields", pid, text)
	}
	var ticks int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / perSecond), nil
}

// BenchmarkCachedRequest loads each proxy for a second and a half, whatever
// -benchtime says. An operation is a request; cpu-ns/op is that of the proxy alone.
func BenchmarkCachedRequest(b *testing.B) {
	contenders := wireContenders(b)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		b.Run(method, func(b *testing.B) {
			for _, c := range contenders {
				b.Run(c.name, func(b *testing.B) {
					origin := startOrigin(b)
					p := c.start(b, origin.URL)
					requests := wireRequests(method, p.addr)
					for _, request := range requests {
						askOnce(b, p.addr, request)
					}
					if _, err := load(p.addr, requests, wireWarmFor); err != nil {
						b.Fatal(err)
					}
					measureWire(b, p, requests)
					if asked := origin.asked.Load(); asked > wireAnswers {
						b.Fatalf("the origin was asked %d times for %d answers", asked, wireAnswers)
					}
				})
			}
		})
	}
}

func measureWire(b *testing.B, p proxy, requests [][]byte) {
	before, err := processCPU(p.pid)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	answers := 0
	for range b.N {
		n, err := load(p.addr, requests, wireLoadFor)
		if err != nil {
			b.Fatal(err)
		}
		answers += n
	}
	b.StopTimer()
	after, err := processCPU(p.pid)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(after-before)/float64(answers), "cpu-ns/op")
	b.ReportMetric(float64(b.Elapsed())/float64(answers), "ns/op")
	b.ReportMetric(float64(answers)/b.Elapsed().Seconds(), "requests/s")
}

// TestProxiesAnswerFromTheirCache asks each for everything twice.
func TestProxiesAnswerFromTheirCache(t *testing.T) {
	contenders := slices.DeleteFunc(wireContenders(t), func(c wireContender) bool { return c.name == "net-http" })
	for _, c := range contenders {
		t.Run(c.name, func(t *testing.T) {
			origin := startOrigin(t)
			p := c.start(t, origin.URL)
			for i, method := range []string{http.MethodGet, http.MethodPost, http.MethodGet, http.MethodPost} {
				for _, request := range wireRequests(method, p.addr) {
					askOnce(t, p.addr, request)
				}
				want := int64(min(i+1, 2) * wireAnswers)
				if got := origin.asked.Load(); got != want {
					t.Fatalf("after %d rounds the origin was asked %d times, want %d", i+1, got, want)
				}
			}
		})
	}
}

// askOnce checks the answer whole.
func askOnce(tb testing.TB, addr string, request []byte) {
	tb.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(wirePatience)); err != nil {
		tb.Fatal(err)
	}
	if _, err := conn.Write(request); err != nil {
		tb.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, jsonBody()) {
		tb.Fatalf("got %s, %d bytes, %v: want 200 and the origin's %d bytes", resp.Status, len(body), err, entrySize)
	}
}
