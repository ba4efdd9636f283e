package gateway_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/storetest"
)

// durable is a gateway that keeps jobs. DIR in it is a folder of the test's own.
const durable = `
database: {url: "sqlite:DIR/weir.db"}
blobs: {url: "dir:DIR/blobs", signing_key: 0123456789abcdef0123456789abcdef}
callers: {keys: KEYS}
upstreams: {u: {targets: [T0], dialect: openai, retry: {attempts: 1}, breaker: {failures: 0}UPSTREAM}}
routes: [{name: all, match: {path: /*}, upstream: u, respond_async: allowed ROUTE}]
`

// with fills in the further keys of durable: of the route, and of the upstream.
func with(route, upstream string) string {
	return strings.NewReplacer("ROUTE", comma(route), "UPSTREAM", comma(upstream)).Replace(durable)
}

func comma(keys string) string {
	if keys == "" {
		return ""
	}
	return ", " + keys
}

// keep is before for a configuration with a folder.
func keep(t *testing.T, yaml string, targets ...http.Handler) *instance {
	t.Helper()
	return before(t, inFolder(t, yaml), targets...)
}

func inFolder(t *testing.T, yaml string) string {
	return strings.ReplaceAll(strings.NewReplacer("ROUTE", "", "UPSTREAM", "").Replace(yaml), "DIR", t.TempDir())
}

// at is yaml with the URLs of servers with these handlers, and the users' keys, for
// several gateways.
func at(t *testing.T, yaml string, targets ...http.Handler) string {
	t.Helper()
	yaml = inFolder(t, yaml)
	for i, h := range targets {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		yaml = strings.ReplaceAll(yaml, "T"+strconv.Itoa(i), s.URL)
	}
	return strings.ReplaceAll(yaml, "KEYS", keys())
}

// launchAs is launch for a configuration that no file can have.
func launchAs(t *testing.T, yaml string, change func(*config.Config)) *instance {
	t.Helper()
	cfg, err := config.Parse("test.yaml", []byte(yaml), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	change(cfg)
	log := &lines{}
	g, err := gateway.New(unhurried(cfg), gateway.Options{Version: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := g.Server()
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	w := &instance{address: l.Addr().String(), log: log, weir: &weir{t: t, url: "http://weir.example", gateway: g}}
	w.client = clientOf(w.address)
	w.stop = sync.OnceFunc(func() {
		_ = server.Close()
		w.client.CloseIdleConnections()
		wg.Wait()
		_ = g.Close(context.Background())
	})
	t.Cleanup(w.stop)
	return w
}

// seen is a job as its caller sees it.
type seen struct {
	ID       string
	State    string
	Position *int64 `json:"queue_position"`
	Progress struct{ Bytes, Events int64 }
	Attempt  int
	Created  time.Time
	Started  *time.Time
	Finished *time.Time
	Expires  *time.Time
	Result   *string
	Error    *struct {
		Status int
		Detail string
	}
	// Of events and of the admin API:
	Reset  bool
	Caller string
	Owner  string
}

func (a answer) job(t *testing.T) (j seen) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &j); err != nil || j.ID == "" {
		t.Fatalf("%d %v: %q is no job: %v, %v", a.status, a.header, a.body, err, a.err)
	}
	return j
}

// handIn has a user's request become a job.
func (w *instance) handIn(user int, path, body string, header ...string) seen {
	w.t.Helper()
	method := "POST"
	if body == "" {
		method = "GET"
	}
	a := w.as(user, method, path, body, append(header, "Prefer", "respond-async")...)
	if a.status != 202 {
		w.t.Fatalf("%d %v %s %v, want 202", a.status, a.header, a.body, a.err)
	}
	return a.job(w.t)
}

// look is the user's job as it is now.
func (w *instance) look(user int, id string) seen {
	w.t.Helper()
	return w.as(user, "GET", "/jobs/"+id, "").job(w.t)
}

// becomes waits until the job has a state.
func (w *instance) becomes(user int, id, state string) (j seen) {
	w.t.Helper()
	storetest.Eventually(w.t, eventually, "the job is "+state, func() bool {
		a := w.as(user, "GET", "/jobs/"+id, "")
		if a.status != 200 {
			return false
		}
		j = a.job(w.t)
		return j.State == state
	})
	return j
}

func (w *instance) result(user int, id string, header ...string) answer {
	w.t.Helper()
	return w.as(user, "GET", "/jobs/"+id+"/result", "", header...)
}

// admin asks the jobs' part of the admin API.
func (w *instance) admin(method, path string) answer {
	rec := httptest.NewRecorder()
	w.gateway.JobsAPI().ServeHTTP(rec, httptest.NewRequest(method, path, nil))
	return answer{rec.Code, rec.Header(), rec.Body.String(), nil}
}

// used is the ledger's sum of a caller, "" for all.
func (w *instance) used(caller string) database.UsageCounts {
	w.t.Helper()
	db := w.gateway.Database()
	if err := db.Usage().Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	r, err := db.Usage().Query(w.t.Context(), database.UsageFilter{Caller: caller})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Total
}

// left is what the user's policy of a name has left, by the fields of an answer.
func left(a answer, policy string) string {
	for item := range strings.SplitSeq(strings.Join(a.header["Ratelimit"], ", "), ", ") {
		if name, rest, _ := strings.Cut(item, ";"); name == `"`+policy+`"` {
			for p := range strings.SplitSeq(rest, ";") {
				if n, ok := strings.CutPrefix(p, "r="); ok {
					return n
				}
			}
		}
	}
	return ""
}

// everyFile is every byte that is stored below dir.
func everyFile(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		b.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// chat is a request of OpenAI's API.
const chat = `{"model":"m","messages":[{"role":"user","content":"hello"}]}`

// chatAnswer is what a model says to it.
const chatAnswer = `{"id":"c1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`

// noTime has ended already: for what is not to wait.
func noTime() context.Context {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	return ctx
}
