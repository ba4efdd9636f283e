package job_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/storetest"
)

// counter is a place where jobs are asked for. Nothing runs them but the test, which
// plays the instance that does.
type counter struct {
	t     *testing.T
	store job.Store
	jobs  *job.Jobs
	now   func() time.Time
}

func newCounter(t *testing.T, change func(*job.Options)) *counter {
	t.Helper()
	c := &counter{t: t, store: storetest.NewJobs(), now: time.Now}
	o := job.Options{
		Store: c.store,
		Run: func(context.Context, *http.Request) (*http.Response, error) {
			return nil, errors.New("nothing runs here")
		},
		Rooms: func() []job.Room { return nil },
		Now:   func() time.Time { return c.now() },
	}
	if change != nil {
		change(&o)
	}
	c.store = o.Store
	jobs, err := job.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.jobs = jobs
	return c
}

// create submits a job of alice.
func (c *counter) create(change ...func(*job.Job)) *job.Job {
	c.t.Helper()
	now := c.now()
	j := &job.Job{
		ID: uuid.Must(uuid.NewV7()).String(), Caller: "key:alice", Plan: "pro", Route: "chat", MaxAttempts: 3,
		Request: job.Request{Method: "POST", URI: "/v1/chat?q=1", Host: "h", Header: http.Header{"X-Secret": {"s"}}, Body: []byte("body")},
		Created: now, NotBefore: now, Expires: now.Add(24 * time.Hour),
	}
	for _, f := range change {
		f(j)
	}
	kept, _, err := c.store.Create(c.t.Context(), j, job.Bounds{})
	if err != nil {
		c.t.Fatal(err)
	}
	return kept
}

// claim begins the next attempt of the oldest job.
func (c *counter) claim() *job.Job {
	c.t.Helper()
	got, err := c.store.Claim(c.t.Context(), job.Claim{Owner: "me", Until: c.now().Add(time.Minute), Route: "chat", Max: 1}, c.now())
	if err != nil || len(got) != 1 {
		c.t.Fatalf("Claim: %d jobs, %v", len(got), err)
	}
	return got[0]
}

func (c *counter) finish(j *job.Job, o job.Outcome) {
	c.t.Helper()
	if o.Expires.IsZero() {
		o.Expires = c.now().Add(time.Hour)
	}
	if err := c.store.Finish(c.t.Context(), job.Lease{ID: j.ID, Fence: j.Fence}, o, c.now()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *counter) appendOutput(j *job.Job, data ...string) {
	c.t.Helper()
	for _, d := range data {
		if err := c.store.Append(c.t.Context(), []job.Chunk{{ID: j.ID, Fence: j.Fence, Attempt: j.Attempt, Data: []byte(d)}}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// ask asks as a caller. An error is written as the gateway does.
func (c *counter) ask(caller, method, path string) *httptest.ResponseRecorder {
	c.t.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(c.t.Context(), method, path, nil)
	if err := c.jobs.Serve(w, r, weir.Caller{ID: caller}); err != nil {
		p, ok := errors.AsType[*weir.Problem](err)
		if !ok {
			c.t.Fatalf("%s %s: %v is no problem", method, path, err)
		}
		p.ServeHTTP(w, r)
	}
	return w
}

func (c *counter) view(w *httptest.ResponseRecorder) job.View {
	c.t.Helper()
	var v job.View
	d := json.NewDecoder(w.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		c.t.Fatal(err)
	}
	return v
}

func isEqual[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func TestViewOfAJob(t *testing.T) {
	c := newCounter(t, nil)
	start := time.Date(2026, 11, 22, 10, 0, 0, 123000, time.UTC)
	now := start
	c.now = func() time.Time { return now }
	first := c.create(func(j *job.Job) { j.ID = "0199aaaa-0000-7000-8000-000000000001" })
	c.create(func(j *job.Job) { j.ID = "0199aaaa-0000-7000-8000-000000000002" })
	look := func(name, id string, status int, after, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := c.ask("key:alice", "GET", "/jobs/"+id)
			isEqual(t, "status, retry, caching, body",
				[]any{w.Code, w.Header().Get("Retry-After"), w.Header().Get("Cache-Control"), w.Header().Get("Content-Type"), w.Header().Get("X-Content-Type-Options"), w.Body.String()},
				[]any{status, after, "private, no-store", "application/json", "nosniff", want + "\n"})
			head := c.ask("key:alice", "HEAD", "/jobs/"+id)
			isEqual(t, "HEAD", head.Header(), w.Header())
			isEqual(t, "body of HEAD", head.Body.String(), "")
		})
	}
	look("a job that waits has its place, counted from 1", "0199aaaa-0000-7000-8000-000000000002", 200, "1",
		`{"id":"0199aaaa-0000-7000-8000-000000000002","state":"available","queue_position":2,"progress":{"bytes":0,"events":0},"attempt":0,"created":"2026-11-22T10:00:00.000123Z","started":null,"finished":null,"expires":"2026-11-23T10:00:00.000123Z","result":null}`)
	now = start.Add(45 * time.Second)
	j := c.claim()
	isEqual(t, "claimed", j.ID, first.ID)
	look("one that runs has none, and is asked for after a tenth of its age", first.ID, 200, "4",
		`{"id":"0199aaaa-0000-7000-8000-000000000001","state":"running","queue_position":null,"progress":{"bytes":0,"events":0},"attempt":1,"created":"2026-11-22T10:00:00.000123Z","started":"2026-11-22T10:00:45.000123Z","finished":null,"expires":"2026-11-23T10:00:00.000123Z","result":null}`)
	now = start.Add(time.Hour)
	c.finish(j, job.Outcome{State: job.Retryable, NotBefore: now.Add(time.Second), Failure: &job.Failure{Status: 503, Detail: "Full."}})
	look("one that failed says why, and is asked for every 10 s at most", first.ID, 200, "10",
		`{"id":"0199aaaa-0000-7000-8000-000000000001","state":"retryable","queue_position":1,"progress":{"bytes":0,"events":0},"attempt":1,"created":"2026-11-22T10:00:00.000123Z","started":"2026-11-22T10:00:45.000123Z","finished":null,"expires":"2026-11-23T10:00:00.000123Z","result":null,"error":{"status":503,"detail":"Full."}}`)
	now = now.Add(time.Minute)
	j = c.claim()
	isEqual(t, "claimed", []any{j.ID, j.Attempt}, []any{first.ID, 2})
	now = now.Add(time.Second)
	c.finish(j, job.Outcome{State: job.Completed, Result: &job.Result{Status: 200, Body: []byte("ok"), Bytes: 2}, Progress: job.Progress{Bytes: 2}})
	look("one that has ended says where its result is", first.ID, 200, "",
		`{"id":"0199aaaa-0000-7000-8000-000000000001","state":"completed","queue_position":null,"progress":{"bytes":2,"events":0},"attempt":2,"created":"2026-11-22T10:00:00.000123Z","started":"2026-11-22T11:01:00.000123Z","finished":"2026-11-22T11:01:01.000123Z","expires":"2026-11-22T12:01:01.000123Z","result":"/jobs/0199aaaa-0000-7000-8000-000000000001/result"}`)
	now = now.Add(time.Hour)
	t.Run("the result is gone when it expires, whether it is swept or not", func(t *testing.T) {
		isEqual(t, "result", c.view(c.ask("key:alice", "GET", "/jobs/"+first.ID)).Result, nil)
		isEqual(t, "status", c.ask("key:alice", "GET", "/jobs/"+first.ID+"/result").Code, 410)
		if _, err := c.store.Sweep(t.Context(), now.Add(time.Minute), now.Add(-time.Hour), 10); err != nil {
			t.Fatal(err)
		}
		isEqual(t, "status when swept", c.ask("key:alice", "GET", "/jobs/"+first.ID+"/result").Code, 410)
	})
}

func TestPathsAndMethods(t *testing.T) {
	c := newCounter(t, nil)
	id := c.create().ID
	f := func(name, caller, method, path string, status int, allow string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := c.ask(caller, method, path)
			isEqual(t, "status and Allow", []any{w.Code, w.Header().Get("Allow")}, []any{status, allow})
			isEqual(t, "caching", strings.Contains(w.Header().Get("Cache-Control"), "no-store"), true)
		})
	}
	f("its caller sees a job", "key:alice", "GET", "/jobs/"+id, 200, "")
	for _, path := range []string{"", "/result", "/events"} {
		f("another does not: "+path, "key:bob", "GET", "/jobs/"+id+path, 404, "")
		f("nobody does not: "+path, "", "GET", "/jobs/"+id+path, 404, "")
	}
	f("another cannot cancel it", "key:bob", "DELETE", "/jobs/"+id, 404, "")
	f("nor can nobody", "", "DELETE", "/jobs/"+id, 404, "")
	f("it is still there", "key:alice", "GET", "/jobs/"+id, 200, "")
	f("an id that is none", "key:alice", "GET", "/jobs/"+strings.ToUpper(id), 404, "")
	f("an id that there is not", "key:alice", "GET", "/jobs/0199aaaa-0000-7000-8000-000000000001", 404, "")
	f("a path below", "key:alice", "GET", "/jobs/"+id+"/result/x", 404, "")
	f("a slash at the end", "key:alice", "GET", "/jobs/"+id+"/", 404, "")
	f("no list of jobs", "key:alice", "GET", "/jobs/", 404, "")
	f("another path", "key:alice", "GET", "/blobs/"+id, 404, "")
	f("a method that is none", "key:alice", "POST", "/jobs/"+id, 405, "GET, HEAD, DELETE")
	f("a result is not deleted", "key:alice", "DELETE", "/jobs/"+id+"/result", 405, "GET, HEAD")
	f("events are not posted", "key:alice", "POST", "/jobs/"+id+"/events", 405, "GET, HEAD")
}

func TestCancel(t *testing.T) {
	c := newCounter(t, nil)
	id := c.create().ID
	t.Run("a job that waits is cancelled at once", func(t *testing.T) {
		w := c.ask("key:alice", "DELETE", "/jobs/"+id)
		v := c.view(w)
		isEqual(t, "answer", []any{w.Code, v.State, v.Result}, []any{200, job.Cancelled, (*string)(nil)})
	})
	t.Run("its result is 409, and none to come back for", func(t *testing.T) {
		w := c.ask("key:alice", "GET", "/jobs/"+id+"/result")
		isEqual(t, "answer", []any{w.Code, w.Header().Get("X-Should-Retry")}, []any{409, "false"})
	})
	t.Run("one that has ended stays as it is", func(t *testing.T) {
		isEqual(t, "status", c.ask("key:alice", "DELETE", "/jobs/"+id).Code, 200)
	})
	id = c.create().ID
	c.claim()
	t.Run("one that runs is being stopped", func(t *testing.T) {
		w := c.ask("key:alice", "DELETE", "/jobs/"+id)
		isEqual(t, "answer", []any{w.Code, w.Header().Get("Retry-After"), c.view(w).State}, []any{202, "1", job.Running})
		j, err := c.store.Get(t.Context(), "", id)
		isEqual(t, "asked for", []any{j.CancelRequested, err}, []any{true, nil})
	})
}

func TestResult(t *testing.T) {
	c := newCounter(t, nil)
	// end ends a new job of a method, and gives its path.
	end := func(method string, o job.Outcome) string {
		j := c.create(func(j *job.Job) { j.Request.Method = method })
		c.claim()
		j.Fence = 1
		c.finish(j, o)
		return "/jobs/" + j.ID + "/result"
	}
	f := func(name, path, method string, status int, header http.Header, body string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := c.ask("key:alice", method, path)
			maps.DeleteFunc(w.Header(), func(_ string, v []string) bool { return v == nil })
			isEqual(t, "answer", []any{w.Code, w.Header(), w.Body.String()}, []any{status, header, body})
		})
	}
	sent := http.Header{"Content-Type": {"text/html"}, "X-A": {"1", "2"}, "Etag": {`"e"`}, "Connection": {"close"}, "Content-Length": {"99"}, "Cache-Control": {"public, s-maxage=60"}, "Cdn-Cache-Control": {"max-age=9"}, "Expires": {"x"}, "Content-Encoding": {"gzip"}}
	want := http.Header{"Content-Type": {"text/html"}, "X-A": {"1", "2"}, "Etag": {`"e"`}, "Content-Length": {"5"}, "Cache-Control": {"private"}, "X-Content-Type-Options": {"nosniff"}, "Content-Encoding": {"gzip"}}
	path := end("POST", job.Outcome{State: job.Completed, Result: &job.Result{Status: 418, Header: sent, Body: []byte("hello"), Bytes: 5}})
	f("the answer of the direct call, for its caller alone", path, "GET", 418, want, "hello")
	f("HEAD is the same without its body", path, "HEAD", 418, want, "")
	path = end("POST", job.Outcome{State: job.Completed, Result: &job.Result{Status: 204, Header: http.Header{"Cache-Control": {"No-Store"}, "Content-Length": {"3"}}}})
	f("an answer without a body has no length, and what is stricter than private stays", path, "GET", 204, http.Header{"Cache-Control": {"No-Store"}, "X-Content-Type-Options": {"nosniff"}}, "")
	path = end("HEAD", job.Outcome{State: job.Completed, Result: &job.Result{Status: 200, Header: http.Header{"Content-Length": {"7"}}}})
	f("a job that was HEAD has the length for HEAD", path, "HEAD", 200, http.Header{"Content-Length": {"7"}, "Cache-Control": {"private"}, "X-Content-Type-Options": {"nosniff"}}, "")
	f("and not for GET, which would wait for the body", path, "GET", 200, http.Header{"Cache-Control": {"private"}, "X-Content-Type-Options": {"nosniff"}}, "")
	path = end("POST", job.Outcome{State: job.Discarded, Result: &job.Result{Status: 500, Header: http.Header{}, Body: []byte("oops"), Bytes: 4}, Failure: &job.Failure{Status: 500}})
	f("a discarded job has the last answer", path, "GET", 500, http.Header{"Content-Length": {"4"}, "Cache-Control": {"private"}, "X-Content-Type-Options": {"nosniff"}}, "oops")
	t.Run("or else why it failed, which no retry changes", func(t *testing.T) {
		w := c.ask("key:alice", "GET", end("POST", job.Outcome{State: job.Discarded, Failure: &job.Failure{Status: 504, Detail: "Late."}}))
		isEqual(t, "answer", []any{w.Code, w.Header().Get("Content-Type"), w.Header().Get("X-Should-Retry"), w.Body.String()},
			[]any{504, "application/problem+json", "false", `{"type":"about:blank","title":"Gateway Timeout","status":504,"detail":"Late."}` + "\n"})
	})
	t.Run("a failure without a status is 502", func(t *testing.T) {
		isEqual(t, "status", c.ask("key:alice", "GET", end("POST", job.Outcome{State: job.Discarded, Failure: &job.Failure{}})).Code, 502)
	})
	t.Run("before the end it is 202, and says where to ask", func(t *testing.T) {
		id := c.create().ID
		w := c.ask("key:alice", "GET", "/jobs/"+id+"/result")
		isEqual(t, "answer", []any{w.Code, w.Header().Get("Location"), w.Header().Get("Retry-After"), c.view(w).State}, []any{202, "/jobs/" + id, "1", job.Available})
	})
}

// bookcase keeps blobs.
type bookcase struct {
	blobs map[string]func() io.ReadCloser
	err   error
}

func (s bookcase) Save(context.Context, job.BlobMeta, io.Reader) (string, error) { return "", s.err }
func (s bookcase) Delete(context.Context, string) error                          { return nil }
func (s bookcase) Open(_ context.Context, key string) (io.ReadCloser, error) {
	if s.err != nil {
		return nil, s.err
	}
	if f, ok := s.blobs[key]; ok {
		return f(), nil
	}
	return nil, job.ErrNotFound
}

// zeroBytes is an endless body.
type zeroBytes struct{}

func (zeroBytes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sinkhole counts what is written.
type sinkhole struct {
	header http.Header
	n      int64
	err    error
}

func (s *sinkhole) Header() http.Header { return s.header }
func (s *sinkhole) WriteHeader(int)     {}
func (s *sinkhole) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return len(p), s.err
}

func TestResultInABlob(t *testing.T) {
	const size = 256 << 20
	keep := bookcase{blobs: map[string]func() io.ReadCloser{
		"small": func() io.ReadCloser { return io.NopCloser(strings.NewReader("hello")) },
		"large": func() io.ReadCloser { return io.NopCloser(io.LimitReader(zeroBytes{}, size)) },
	}}
	links := ""
	c := newCounter(t, func(o *job.Options) {
		o.Blobs = &keep
		o.Offload = func(w http.ResponseWriter, _ *http.Request, j *job.Job) (bool, error) {
			if links == "" {
				return false, nil
			}
			w.Header().Set("Location", links+j.Result.Blob)
			w.WriteHeader(http.StatusSeeOther)
			return true, nil
		}
	})
	end := func(key string, bytes int64) *job.Job {
		j := c.create()
		c.claim()
		j.Fence = 1
		c.finish(j, job.Outcome{State: job.Completed, Result: &job.Result{Status: 200, Header: http.Header{}, Blob: key, Bytes: bytes}})
		j, err := c.store.Get(t.Context(), "", j.ID)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	result := func(method string, j *job.Job) *httptest.ResponseRecorder {
		return c.ask("key:alice", method, "/jobs/"+j.ID+"/result")
	}
	small, lost, short, large := end("small", 5), end("lost", 5), end("small", 9), end("large", size)
	t.Run("is sent with its length", func(t *testing.T) {
		w := result("GET", small)
		isEqual(t, "answer", []any{w.Code, w.Header().Get("Content-Length"), w.Body.String()}, []any{200, "5", "hello"})
	})
	t.Run("HEAD does not open it", func(t *testing.T) {
		w := result("HEAD", lost)
		isEqual(t, "answer", []any{w.Code, w.Header().Get("Content-Length"), w.Body.Len()}, []any{200, "5", 0})
	})
	t.Run("one that is gone is 410", func(t *testing.T) { isEqual(t, "status", result("GET", lost).Code, 410) })
	t.Run("one that breaks off breaks the answer off", func(t *testing.T) {
		defer func() { isEqual(t, "panic", recover(), any(http.ErrAbortHandler)) }()
		result("GET", short)
	})
	t.Run("a large one passes through with memory flat", func(t *testing.T) {
		w := &sinkhole{header: http.Header{}}
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := c.jobs.ServeResult(w, r, large); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		allocated := after.TotalAlloc - before.TotalAlloc
		if w.n != size || allocated > 256<<10 {
			t.Errorf("%d of %d bytes written, %d allocated: want at most 256 KiB", w.n, size, allocated)
		}
	})
	t.Run("a store of blobs that is away is 503 with advice", func(t *testing.T) {
		keep.err = errors.New("away")
		defer func() { keep.err = nil }()
		w := result("GET", small)
		isEqual(t, "answer", []any{w.Code, w.Header().Get("Retry-After")}, []any{503, "1"})
	})
	t.Run("a link may be given instead", func(t *testing.T) {
		links = "https://b/"
		w := result("GET", small)
		isEqual(t, "answer", []any{w.Code, w.Header().Get("Location"), w.Body.Len()}, []any{303, "https://b/small", 0})
	})
}

// awayStore is a store that may be away.
type awayStore struct {
	job.Store
	err atomic.Pointer[error]
}

func (a *awayStore) fail(err error) { a.err.Store(&err) }

func (a *awayStore) failure() error {
	if err := a.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (a *awayStore) Get(ctx context.Context, caller, id string) (*job.Job, error) {
	if err := a.failure(); err != nil {
		return nil, err
	}
	return a.Store.Get(ctx, caller, id)
}

func (a *awayStore) Cancel(ctx context.Context, caller, id string, now, expires time.Time) (*job.Job, bool, error) {
	if err := a.failure(); err != nil {
		return nil, false, err
	}
	return a.Store.Cancel(ctx, caller, id, now, expires)
}

func TestServeWhileTheStoreIsAway(t *testing.T) {
	s := &awayStore{Store: storetest.NewJobs()}
	c := newCounter(t, func(o *job.Options) { o.Store = s })
	id := c.create().ID
	s.fail(errors.New("pq: password authentication failed for user weir"))
	for _, ask := range []string{"GET /jobs/" + id, "GET /jobs/" + id + "/result", "GET /jobs/" + id + "/events", "DELETE /jobs/" + id} {
		t.Run(ask+" is 503 with advice, and says nothing of the store", func(t *testing.T) {
			method, path, _ := strings.Cut(ask, " ")
			w := c.ask("key:alice", method, path)
			isEqual(t, "answer", []any{w.Code, w.Header().Get("Retry-After"), strings.Contains(w.Body.String(), "password")}, []any{503, "1", false})
		})
	}
}

func TestAcceptedKeepsTheFieldsThatAreSet(t *testing.T) {
	c := newCounter(t, nil)
	j := c.create()
	w := httptest.NewRecorder()
	w.Header().Set("Preference-Applied", "respond-async")
	c.jobs.ServeAccepted(w, httptest.NewRequestWithContext(t.Context(), "POST", "/v1/chat", nil), j)
	isEqual(t, "answer", []any{w.Code, w.Header().Get("Location"), w.Header().Get("Retry-After"), w.Header().Get("Preference-Applied"), *c.view(w).QueuePosition},
		[]any{202, "/jobs/" + j.ID, "1", "respond-async", int64(1)})
}

func (c *counter) admin(method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	c.jobs.Admin().ServeHTTP(w, httptest.NewRequestWithContext(c.t.Context(), method, path, nil))
	return w
}

func TestAdmin(t *testing.T) {
	c := newCounter(t, nil)
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	c.now = func() time.Time { return now }
	const a, b = "0199aaaa-0000-7000-8000-000000000001", "0199aaaa-0000-7000-8000-000000000002"
	c.create(func(j *job.Job) { j.ID, j.Webhook = a, "https://hooks.example/secret?token=t" })
	c.create(func(j *job.Job) { j.ID, j.Caller, j.Route = b, "key:bob", "embed" })
	f := func(name, method, path string, status int, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := c.admin(method, path)
			isEqual(t, "answer", []any{w.Code, strings.TrimSuffix(w.Body.String(), "\n")}, []any{status, want})
		})
	}
	viewA := `{"id":"` + a + `","state":"available","queue_position":%s,"progress":{"bytes":0,"events":0},"attempt":0,"created":"2026-11-22T10:00:00Z","started":null,"finished":null,"expires":"2026-11-23T10:00:00Z","result":null,` +
		`"caller":"key:alice","plan":"pro","route":"chat","max_attempts":3,"not_before":"2026-11-22T10:00:00Z","fence":0,"owner":"","lease_until":null,"cancel_requested":false,"request":{"method":"POST","uri":"/v1/chat?q=1"},"webhook":"hooks.example"}`
	lines := `"lines":[{"route":"chat","waiting":1,"running":0},{"route":"embed","waiting":1,"running":0}]}`
	f("lists by caller, and the lines of all", "GET", "/api/v1/jobs?caller=key:alice", 200, `{"jobs":[`+fmt.Sprintf(viewA, "null")+`],`+lines)
	f("lists by route and before", "GET", "/api/v1/jobs?route=embed&before="+b, 200, `{"jobs":[],`+lines)
	f("shows one job of anybody, without bodies, fields or the webhook's path", "GET", "/api/v1/jobs/"+a, 200, fmt.Sprintf(viewA, "1"))
	bad := func(detail string) string {
		return `{"type":"about:blank","title":"Bad Request","status":400,"detail":` + detail + `}`
	}
	f("refuses a state that is none", "GET", "/api/v1/jobs?state=done", 400, bad(`"state: \"done\": want available, running, retryable, completed, cancelled or discarded."`))
	f("refuses a max that is too large", "GET", "/api/v1/jobs?max=1001", 400, bad(`"max: \"1001\": want 1 to 1000."`))
	f("knows no job of whoever", "GET", "/api/v1/jobs/0199aaaa-0000-7000-8000-000000000009", 404,
		`{"type":"about:blank","title":"Not Found","status":404,"detail":"There is no such job: it was never there, or it expired long ago."}`)
	f("refuses a before that is no id", "GET", "/api/v1/jobs?before=x", 400, bad(`"before: \"x\": want the id of a job: only older ones are listed."`))
	f("refuses a parameter that is none", "GET", "/api/v1/jobs?stat=x", 400, bad(`"\"stat\": there is no such parameter: want state, caller, route, before or max."`))
	f("refuses one that comes twice", "GET", "/api/v1/jobs?max=1&max=2", 400, bad(`"max is there more than once."`))
	for _, x := range []string{"POST /api/v1/jobs 405", "PUT /api/v1/jobs/" + a + " 405", "GET /api/v1/jobs/" + a + "/retry 405", "GET /api/v1/jobs/" + a + "/x 404",
		"GET /api/v1/jobs/x 404", "GET /api/v1/jobsx 404", "GET /api/v1/jobs?max=2 200", "GET /api/v1/jobs?state=available 200",
		"POST /api/v1/jobs/" + a + "/retry 409", "DELETE /api/v1/jobs/0199aaaa-0000-7000-8000-000000000009 404", "DELETE /api/v1/jobs/" + b + " 200"} {
		t.Run(x, func(t *testing.T) {
			w := strings.Fields(x)
			isEqual(t, "status", fmt.Sprint(c.admin(w[0], w[1]).Code), w[2])
		})
	}
	j := c.claim()
	c.finish(j, job.Outcome{State: job.Discarded, Failure: &job.Failure{Status: 500}})
	t.Run("tries a discarded job again, which was not asked for by its caller", func(t *testing.T) {
		isEqual(t, "status", c.ask("key:alice", "POST", "/jobs/"+a+"/retry").Code, 404)
		w := c.admin("POST", "/api/v1/jobs/"+a+"/retry")
		isEqual(t, "status", w.Code, 202)
		got, err := c.store.Get(t.Context(), "", a)
		isEqual(t, "job", []any{got.State, got.Attempt, got.MaxAttempts, got.Expires, err}, []any{job.Available, 1, 2, now.Add(24 * time.Hour), nil})
	})
	c.finish(c.claim(), job.Outcome{State: job.Discarded})
	now = now.Add(2 * time.Hour)
	t.Run("does not try again what has expired", func(t *testing.T) {
		isEqual(t, "status", c.admin("POST", "/api/v1/jobs/"+a+"/retry").Code, 410)
	})
	t.Run("never shows what was sent", func(t *testing.T) {
		all := c.admin("GET", "/api/v1/jobs").Body.Bytes()
		for _, secret := range []string{"body", "X-Secret", "token"} {
			isEqual(t, secret, bytes.Contains(bytes.ReplaceAll(all, []byte("bodies"), nil), []byte(secret)), false)
		}
	})
}
