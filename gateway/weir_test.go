package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/builtin"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

// Most tests wait, for other processes and for time to pass: twice as many of them as
// there are processors may do so at once, where -parallel says nothing else.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// weir is a gateway on a real listener.
type weir struct {
	t       *testing.T
	url     string
	gateway *gateway.Gateway
	log     *bytes.Buffer
	client  *http.Client
}

// unhurried is c with upstreams that may take longer than by default, where c does not
// say how long: to accept a connection within a second is more than a busy machine can
// promise. Nor are its requests refused because of how long others have taken.
func unhurried(c *config.Config) *config.Config {
	for name, u := range c.Upstreams {
		u.Timeouts.Connect = eventually
		if u.Timeouts.FirstByte == time.Minute {
			u.Timeouts.FirstByte = 5 * time.Minute
		}
		if u.Timeouts.BetweenBytes == 30*time.Second {
			u.Timeouts.BetweenBytes = 5 * time.Minute
		}
		if u.Queue.MaxWait == 10*time.Second {
			u.Queue.MaxWait = 5 * time.Minute
		}
		c.Upstreams[name] = u
	}
	return c
}

// start serves a configuration: %s in it is the URL of the upstream h.
func start(t *testing.T, yaml string, h http.Handler) *weir {
	t.Helper()
	o := gateway.Options{Version: "test"}
	if h != nil {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		yaml = strings.ReplaceAll(yaml, "%s", s.URL)
	}
	if strings.Contains(yaml, "builtin:") {
		models, err := builtin.New()
		if err != nil {
			t.Fatal(err)
		}
		o.Models = models
	}
	w := &weir{t: t, log: &bytes.Buffer{}, client: &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1000},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	o.Log = w.log
	cfg, err := config.Parse("test.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatal(err)
	}
	if w.gateway, err = gateway.New(unhurried(cfg), o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := w.gateway.Server()
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	w.url = "http://" + l.Addr().String()
	t.Cleanup(func() {
		w.client.CloseIdleConnections()
		_ = server.Close()
		wg.Wait()
		_ = w.gateway.Close(context.Background())
	})
	return w
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

func (w *weir) send(method, path, body string, header ...string) answer {
	w.t.Helper()
	return w.sendCtx(w.t.Context(), method, path, body, header...)
}

func (w *weir) sendCtx(ctx context.Context, method, path, body string, header ...string) answer {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, w.url+path, in)
	if err != nil {
		w.t.Error(err)
		return answer{}
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), err}
}

func (a answer) detail() string {
	var p struct{ Detail string }
	_ = json.Unmarshal([]byte(a.body), &p)
	return p.Detail
}

// raw sends bytes and returns the answer's first line.
func (w *weir) raw(text string) string {
	w.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(eventually))
	_, _ = io.WriteString(c, text)
	line, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line)
}

func (w *weir) metric(name string) string {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.gateway.Metrics().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "none"
}

// counted is an upstream that answers with the number of its calls.
type counted struct {
	calls atomic.Int64
	h     http.HandlerFunc
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := c.calls.Add(1)
	if c.h != nil {
		c.h(w, r)
		return
	}
	_, _ = fmt.Fprintf(w, "answer %d", n)
}

const plain = `
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`

const cached = `
plans: {default: {policies: [5/minute]}}
upstreams: {u: {targets: ["%s"]}}
routes: [{name: all, match: {path: /*}, upstream: u, cache: {mode: inference, ttl: 1m}}]
`
