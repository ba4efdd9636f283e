package job_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/storetest"
)

var errCut = errors.New("the store cannot be reached")

// flakyStore is a store behind a line that can be cut, before or after what is asked is done.
type flakyStore struct {
	job.Store
	mu     sync.Mutex
	cut    bool
	lose   map[string]int // answers to lose, by method: "before" is "Create", "after" is "Create:after"
	counts map[string]int
}

func flaky(s job.Store) *flakyStore {
	return &flakyStore{Store: s, lose: map[string]int{}, counts: map[string]int{}}
}

func (f *flakyStore) setCut(cut bool) { f.mu.Lock(); f.cut = cut; f.mu.Unlock() }

// loseNext loses the next n calls of op ("Finish"), or only their answers ("Finish:after").
func (f *flakyStore) loseNext(op string, n int) { f.mu.Lock(); f.lose[op] = n; f.mu.Unlock() }

func (f *flakyStore) calls(op string) int { f.mu.Lock(); defer f.mu.Unlock(); return f.counts[op] }

func (f *flakyStore) fails(op string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut {
		return true
	}
	if f.lose[op] > 0 {
		f.lose[op]--
		return true
	}
	return false
}

func over[T any](f *flakyStore, op string, ask func() (T, error)) (T, error) {
	var none T
	f.mu.Lock()
	f.counts[op]++
	f.mu.Unlock()
	if f.fails(op) {
		return none, errCut
	}
	v, err := ask()
	if f.fails(op + ":after") {
		return none, errCut
	}
	return v, err
}

func (f *flakyStore) Create(ctx context.Context, j *job.Job, b job.Bounds) (*job.Job, bool, error) {
	created := false
	kept, err := over(f, "Create", func() (k *job.Job, err error) {
		k, created, err = f.Store.Create(ctx, j, b)
		return k, err
	})
	return kept, created && err == nil, err
}

func (f *flakyStore) Get(ctx context.Context, caller, id string) (*job.Job, error) {
	return over(f, "Get", func() (*job.Job, error) { return f.Store.Get(ctx, caller, id) })
}

func (f *flakyStore) List(ctx context.Context, l job.Filter) ([]*job.Job, error) {
	return over(f, "List", func() ([]*job.Job, error) { return f.Store.List(ctx, l) })
}

func (f *flakyStore) Claim(ctx context.Context, c job.Claim, now time.Time) ([]*job.Job, error) {
	return over(f, "Claim", func() ([]*job.Job, error) { return f.Store.Claim(ctx, c, now) })
}

func (f *flakyStore) Renew(ctx context.Context, l []job.Lease, until time.Time, p []job.Progress) (job.Renewal, error) {
	return over(f, "Renew", func() (job.Renewal, error) { return f.Store.Renew(ctx, l, until, p) })
}

func (f *flakyStore) Append(ctx context.Context, c []job.Chunk) error {
	_, err := over(f, "Append", func() (struct{}, error) { return struct{}{}, f.Store.Append(ctx, c) })
	return err
}

func (f *flakyStore) Output(ctx context.Context, id string, seq int64, most int) ([]job.Chunk, error) {
	return over(f, "Output", func() ([]job.Chunk, error) { return f.Store.Output(ctx, id, seq, most) })
}

func (f *flakyStore) Finish(ctx context.Context, l job.Lease, o job.Outcome, now time.Time) error {
	_, err := over(f, "Finish", func() (struct{}, error) { return struct{}{}, f.Store.Finish(ctx, l, o, now) })
	return err
}

func (f *flakyStore) Rescue(ctx context.Context, now, expires time.Time, most int) ([]*job.Job, error) {
	return over(f, "Rescue", func() ([]*job.Job, error) { return f.Store.Rescue(ctx, now, expires, most) })
}

func (f *flakyStore) Sweep(ctx context.Context, now, forget time.Time, most int) ([]string, error) {
	return over(f, "Sweep", func() ([]string, error) { return f.Store.Sweep(ctx, now, forget, most) })
}

func (f *flakyStore) Cancel(ctx context.Context, caller, id string, now, expires time.Time) (*job.Job, bool, error) {
	ended := false
	j, err := over(f, "Cancel", func() (k *job.Job, err error) {
		k, ended, err = f.Store.Cancel(ctx, caller, id, now, expires)
		return k, err
	})
	return j, ended && err == nil, err
}

// blobShelf keeps blobs in memory; where it forgets, it counts their bytes alone.
type blobShelf struct {
	mu     sync.Mutex
	blobs  map[string][]byte
	forget bool
	sizes  map[string]int64
	fail   error // of Save and Delete
	gone   []string
}

func newBlobShelf() *blobShelf {
	return &blobShelf{blobs: map[string][]byte{}, sizes: map[string]int64{}}
}

func (b *blobShelf) Save(_ context.Context, m job.BlobMeta, r io.Reader) (string, error) {
	var to bytes.Buffer
	var w io.Writer = &to
	if b.forget {
		w = io.Discard
	}
	n, err := io.Copy(w, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := errors.Join(err, b.fail); err != nil {
		return "", err
	}
	key := fmt.Sprintf("%s/%d", m.Until.Format("2006010215"), len(b.sizes)+1)
	b.sizes[key], b.blobs[key] = n, to.Bytes()
	return key, nil
}

func (b *blobShelf) Open(_ context.Context, key string) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	text, ok := b.blobs[key]
	if !ok {
		return nil, job.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(text)), nil
}

func (b *blobShelf) Delete(_ context.Context, key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	delete(b.blobs, key)
	b.gone = append(b.gone, key)
	return nil
}

func (b *blobShelf) setFail(err error) { b.mu.Lock(); b.fail = err; b.mu.Unlock() }

func (b *blobShelf) keys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for key := range b.blobs {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// ledger writes down what is told of jobs.
type ledger struct {
	mu     sync.Mutex
	ends   map[string][]job.State
	last   map[string]*job.Job
	events []job.Event
}

func (b *ledger) ended(_ context.Context, j *job.Job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ends[j.ID] = append(b.ends[j.ID], j.State)
	b.last[j.ID] = j
}

func (b *ledger) observe(e job.Event) { b.mu.Lock(); b.events = append(b.events, e); b.mu.Unlock() }

func (b *ledger) count(k job.EventKind) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Kind == k {
			n++
		}
	}
	return n
}

func (b *ledger) of(id string) []job.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.ends[id])
}

// instance is one of those that share a store, with what it is connected to.
type instance struct {
	*job.Jobs
	t         *testing.T
	store     *flakyStore
	blobShelf *blobShelf
	ledger    *ledger
}

// openAt makes an instance on a store, and starts it. The test closes it.
func openAt(t *testing.T, store job.Store, run func(context.Context, *http.Request) (*http.Response, error), change ...func(*job.Options)) *instance {
	t.Helper()
	s := &instance{t: t, blobShelf: newBlobShelf(), ledger: &ledger{ends: map[string][]job.State{}, last: map[string]*job.Job{}}}
	if f, ok := store.(*flakyStore); ok {
		s.store = f
	} else {
		s.store = flaky(store)
	}
	o := job.Options{
		Store: s.store, Blobs: s.blobShelf, Run: run, Ended: s.ledger.ended, Observe: s.ledger.observe,
		Rooms: func() []job.Room { return []job.Room{{Route: "r", Max: 100}} },
	}
	for _, c := range change {
		c(&o)
	}
	jobs, err := job.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Jobs = jobs
	s.Start()
	return s
}

// inBubble runs f in virtual time, with an empty store.
func inBubble(t *testing.T, name string, f func(t *testing.T, store job.Store)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, storetest.NewJobs()) })
	})
}

func (s *instance) close() {
	s.t.Helper()
	if err := s.Close(s.t.Context()); err != nil {
		s.t.Errorf("Close: %v", err)
	}
}

func (s *instance) submit() *job.Job {
	s.t.Helper()
	j, created, err := s.Submit(s.t.Context(), job.Submission{Caller: "key:a", Route: "r", Request: posted("{}")})
	if err != nil || !created {
		s.t.Fatalf("Submit: created %v, %v", created, err)
	}
	return j
}

// end waits for the end of j, and checks that it was told of once.
func (s *instance) end(j *job.Job) *job.Job {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 48*time.Hour)
	defer cancel()
	got, err := s.Await(ctx, j)
	if err != nil {
		s.t.Fatalf("Await: %v; the job is %s, attempt %d", err, got.State, got.Attempt)
	}
	synctest.Wait()
	if s.ledger.of(j.ID) == nil {
		time.Sleep(5 * time.Second) // the store had it, and lost its answer
	}
	if told := s.ledger.of(j.ID); !slices.Equal(told, []job.State{got.State}) {
		s.t.Errorf("the end was told as %v, want once %q", told, got.State)
	}
	return got
}

func posted(body string) job.Request {
	return job.Request{Method: "POST", URI: "/v1/x?y=1", Host: "weir.example", Body: []byte(body), ID: "req-1",
		Header: http.Header{"Content-Type": {"application/json"}}}
}

// replied is a response with a body, as pairs of header fields.
func replied(status int, body string, fields ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: -1}
}

// replying answers everything alike.
func replying(status int, body string, fields ...string) func(context.Context, *http.Request) (*http.Response, error) {
	return func(context.Context, *http.Request) (*http.Response, error) {
		return replied(status, body, fields...), nil
	}
}

// replyingAfter answers after a time, unless it is stopped.
func replyingAfter(d time.Duration) func(context.Context, *http.Request) (*http.Response, error) {
	return func(ctx context.Context, _ *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return replied(200, "done"), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
