package job_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/storetest"
)

func TestAnswersAreKept(t *testing.T) {
	inBubble(t, "without the fields of the connection and of the moment", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(201, "x", "Content-Type", "text/plain", "X-Model", "a", "X-Model", "b", "Cache-Control", "no-store",
			"Date", "now", "Server-Timing", "queue;dur=1", "Ratelimit", "x", "Ratelimit-Policy", "x", "X-Ratelimit-Limit", "1", "Set-Cookie", "s=1",
			"Connection", "X-Hop", "X-Hop", "1", "Transfer-Encoding", "chunked", "Trailer", "X-Sum", "Content-Length", "1", "X-Request-Id", "other"))
		defer s.close()
		got := s.end(s.submit()).Result
		want := &job.Result{Status: 201, Body: []byte("x"), Bytes: 1,
			Header: http.Header{"Content-Type": {"text/plain"}, "X-Model": {"a", "b"}, "Cache-Control": {"no-store"}}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	inBubble(t, "with the length alone where HEAD asked", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, "", "Content-Length", "77"))
		defer s.close()
		r := posted("")
		r.Method = "HEAD"
		j, _, err := s.Submit(t.Context(), job.Submission{Caller: "key:a", Route: "r", Request: r})
		if err != nil {
			t.Fatal(err)
		}
		want := &job.Result{Status: 200, Header: http.Header{"Content-Length": {"77"}}}
		if got := s.end(j).Result; !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestBodiesAreKept(t *testing.T) {
	for _, size := range []int{0, 1, job.MaxInline - 1, job.MaxInline, job.MaxInline + 1, 1 << 20} {
		inBubble(t, fmt.Sprintf("whole, with %d bytes", size), func(t *testing.T, store job.Store) {
			body := strings.Repeat("0123456789abcdef!", size/17+1)[:size]
			s := openAt(t, store, replying(200, body, "Content-Type", "text/plain"))
			defer s.close()
			r := s.end(s.submit()).Result
			got := r.Body
			if r.Blob != "" {
				b, err := s.blobShelf.Open(t.Context(), r.Blob)
				if err != nil {
					t.Fatal(err)
				}
				got, _ = io.ReadAll(b)
			}
			if string(got) != body || r.Bytes != int64(size) || (r.Blob != "") != (size > job.MaxInline) {
				t.Errorf("got %d bytes of %d, told as %d, blob %q", len(got), size, r.Bytes, r.Blob)
			}
		})
	}
	inBubble(t, "as a blob of one attempt alone, where others broke off", func(t *testing.T, store job.Store) {
		n := 0
		s := openAt(t, store, func(context.Context, *http.Request) (*http.Response, error) {
			resp := replied(200, string(make([]byte, 100<<10)))
			if n++; n < 3 {
				resp.ContentLength = 200 << 10
			}
			return resp, nil
		})
		defer s.close()
		j := s.end(s.submit())
		if keys := s.blobShelf.keys(); j.State != job.Completed || j.Attempt != 3 || !slices.Equal(keys, []string{j.Result.Blob}) {
			t.Errorf("%s at attempt %d with blobs %v", j.State, j.Attempt, keys)
		}
	})
}

func TestAnswersThatCannotBeKept(t *testing.T) {
	inBubble(t, "are tried again where they cannot be saved", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, string(make([]byte, 100<<10))))
		defer s.close()
		s.blobShelf.setFail(errors.New("disk full"))
		time.AfterFunc(500*time.Millisecond, func() { s.blobShelf.setFail(nil) })
		if j := s.end(s.submit()); j.State != job.Completed || j.Attempt != 2 {
			t.Errorf("%s at attempt %d", j.State, j.Attempt)
		}
	})
	inBubble(t, "are given up at once where nothing can keep them", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, string(make([]byte, 100<<10))), func(o *job.Options) { o.Blobs = nil })
		defer s.close()
		if j := s.end(s.submit()); j.State != job.Discarded || j.Attempt != 1 || j.Failure.Status != 507 {
			t.Errorf("%s at attempt %d, %+v", j.State, j.Attempt, j.Failure)
		}
	})
	inBubble(t, "are those whose header is too large", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, "", "X-Large", strings.Repeat("x", 65<<10)), func(o *job.Options) { o.Attempts = 1 })
		defer s.close()
		if j := s.end(s.submit()); j.State != job.Discarded || j.Failure.Status != 502 {
			t.Errorf("%s, %+v", j.State, j.Failure)
		}
	})
}

// meter watches the heap while a body of a length passes.
type meter struct {
	left int64
	most *atomic.Uint64
	n    int
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left == 0 {
		return 0, io.EOF
	}
	if m.n++; m.n%2048 == 0 {
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		m.most.Store(max(m.most.Load(), mem.HeapInuse))
	}
	p = p[:min(int64(len(p)), m.left)]
	m.left -= int64(len(p))
	return len(p), nil
}

func TestAGibibytePassesWithMemoryFlat(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const size = 1 << 30
	var most atomic.Uint64
	shelf := newBlobShelf()
	shelf.forget = true
	s, err := job.New(job.Options{
		Store: storetest.NewJobs(), Blobs: shelf, Rooms: func() []job.Room { return []job.Room{{Route: "r", Max: 1}} },
		Run: func(context.Context, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(&meter{left: size, most: &most}), ContentLength: size}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	s.Start()
	j, _, err := s.Submit(t.Context(), job.Submission{Caller: "key:a", Route: "r", Request: posted("")})
	if err != nil {
		t.Fatal(err)
	}
	j, err = s.Await(t.Context(), j)
	if err != nil || j.State != job.Completed || j.Result.Bytes != size || shelf.sizes[j.Result.Blob] != size {
		t.Fatalf("%s with %+v, %v", j.State, j.Result, err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	grown := int64(most.Load()) - int64(before.HeapInuse)
	t.Logf("the heap grew by %d KiB at most", grown>>10)
	if grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

// script is a body that comes in pieces, one after each pause.
type script struct {
	ctx    context.Context
	pieces []string
	every  time.Duration
	left   atomic.Int64 // pieces, after the first was read
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(s.every):
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
		s.left.Store(int64(len(s.pieces)))
	}
	return n, nil
}

func (s *script) Close() error { return nil }

func streaming(kind string, every time.Duration, pieces ...string) func(context.Context, *http.Request) (*http.Response, error) {
	return func(ctx context.Context, _ *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {kind}},
			Body: &script{ctx: ctx, pieces: slices.Clone(pieces), every: every}}, nil
	}
}

// outputOf is all output of a job, as chunks.
func outputOf(t *testing.T, store job.Store, id string) []string {
	t.Helper()
	chunks, err := store.Output(t.Context(), id, 0, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range chunks {
		got = append(got, string(c.Data))
	}
	return got
}

func TestOutputOfStreams(t *testing.T) {
	const events, lines = "text/event-stream; charset=utf-8", "application/x-ndjson"
	for _, c := range []struct {
		name, kind   string
		every        time.Duration
		pieces, want []string
		count        int64
	}{
		{"is whole events, however they come", events, time.Second, []string{"data: a\n", "\ndata: b\n\nda", "ta: c\n\n"}, []string{"data: a\n\ndata: b\n\n", "data: c\n\n"}, 3},
		{"is written down together where it comes fast", events, time.Microsecond, []string{"data: a\n\n", "data: b\n\n", "data: c\n\n"}, []string{"data: a\n\n", "data: b\n\ndata: c\n\n"}, 3},
		{"has no event that is not complete", events, time.Second, []string{"data: a\n\n", "data: b\n"}, []string{"data: a\n\n"}, 1},
		{"has an event whose blank line is a carriage return", events, time.Second, []string{"data: a\r\n\r\n", "data: b\r\n\r"}, []string{"data: a\r\n\r\n", "data: b\r\n\r"}, 2},
		{"keeps comments, and does not count them", events, time.Second, []string{": hello\n\n", "data: a\n\n"}, []string{": hello\n\n", "data: a\n\n"}, 1},
		{"is whole lines", lines, time.Second, []string{"{\"a\":", "1}\n{}\n{", "}\n"}, []string{"{\"a\":1}\n{}\n", "{}\n"}, 3},
		{"has a last line without its end", lines, time.Second, []string{"{}\n", "{}"}, []string{"{}\n", "{}\n"}, 2},
		{"is nothing where the answer is no stream", "application/json", time.Second, []string{"{}\n"}, nil, 0},
	} {
		inBubble(t, c.name, func(t *testing.T, store job.Store) {
			s := openAt(t, store, streaming(c.kind, c.every, c.pieces...))
			defer s.close()
			j := s.end(s.submit())
			if got := outputOf(t, store, j.ID); !slices.Equal(got, c.want) {
				t.Errorf("the chunks are %q, want %q", got, c.want)
			}
			whole := strings.Join(c.pieces, "")
			if string(j.Result.Body) != whole || j.Progress != (job.Progress{Bytes: int64(len(whole)), Events: c.count}) {
				t.Errorf("the result is %q, the progress %+v", j.Result.Body, j.Progress)
			}
		})
	}
}

func TestOutputWhileItRuns(t *testing.T) {
	const sse = "text/event-stream"
	inBubble(t, "ends before an event that is too large, and the result does not", func(t *testing.T, store job.Store) {
		large := "data: " + strings.Repeat("x", 2<<20) + "\n\n"
		s := openAt(t, store, streaming(sse, time.Millisecond, "data: a\n\n", large, "data: b\n\n"))
		defer s.close()
		j := s.end(s.submit())
		if got := outputOf(t, store, j.ID); !slices.Equal(got, []string{"data: a\n\n"}) || j.Result.Bytes != int64(len(large)+18) {
			t.Errorf("%d chunks, result %d bytes", len(got), j.Result.Bytes)
		}
	})
	inBubble(t, "is there before the job ends, within 200 ms", func(t *testing.T, store job.Store) {
		s := openAt(t, store, streaming(sse, 10*time.Second, "data: a\n\n", "data: b\n\n", "data: c\n\n"))
		defer s.close()
		j := s.submit()
		time.Sleep(20*time.Second + 200*time.Millisecond)
		if got := outputOf(t, store, j.ID); !slices.Equal(got, []string{"data: a\n\n", "data: b\n\n"}) {
			t.Errorf("the chunks are %q", got)
		}
		s.end(j)
	})
	inBubble(t, "of many jobs goes to the store together", func(t *testing.T, store job.Store) {
		pieces := make([]string, 100)
		for i := range pieces {
			pieces[i] = fmt.Sprintf("data: %d\n\n", i)
		}
		s := openAt(t, store, streaming(sse, 50*time.Millisecond, pieces...))
		defer s.close()
		var jobs []*job.Job
		for range 50 {
			jobs = append(jobs, s.submit())
		}
		for _, j := range jobs {
			s.end(j)
			if got := strings.Join(outputOf(t, store, j.ID), ""); got != strings.Join(pieces, "") {
				t.Errorf("the output is %q", got)
			}
		}
		// 5 s of output, every 200 ms, and the ends.
		if n := s.store.calls("Append"); n > 90 {
			t.Errorf("%d calls of Append", n)
		}
	})
}

func TestOutputAndTheStore(t *testing.T) {
	const sse = "text/event-stream"
	inBubble(t, "is read no faster than the store takes it, and nothing is lost or there twice", func(t *testing.T, store job.Store) {
		pieces := make([]string, 120)
		for i := range pieces {
			pieces[i] = fmt.Sprintf("data: %d %s\n\n", i, strings.Repeat("x", 30<<10))
		}
		var reading atomic.Pointer[script]
		s := openAt(t, store, func(ctx context.Context, _ *http.Request) (*http.Response, error) {
			body := &script{ctx: ctx, pieces: slices.Clone(pieces), every: 100 * time.Millisecond}
			reading.Store(body)
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {sse}}, Body: body}, nil
		})
		defer s.close()
		j := s.submit()
		s.store.loseNext("Append:after", 2)
		time.Sleep(3 * time.Second)
		s.store.setCut(true)
		time.Sleep(time.Minute)
		if left := reading.Load().left.Load(); left < 30 || left > 100 {
			t.Errorf("%d pieces of %d are not read yet", left, len(pieces))
		}
		s.store.loseNext("Append:after", 1)
		s.store.setCut(false)
		if got := s.end(j); got.State != job.Completed || strings.Join(outputOf(t, store, j.ID), "") != strings.Join(pieces, "") {
			t.Errorf("the job is %s, its output differs: %d chunks", got.State, len(outputOf(t, store, j.ID)))
		}
	})
	inBubble(t, "of an attempt that broke off stays before that of the next", func(t *testing.T, store job.Store) {
		n := 0
		s := openAt(t, store, func(ctx context.Context, r *http.Request) (*http.Response, error) {
			n++
			resp, err := streaming(sse, time.Second, fmt.Sprintf("data: %d\n\n", n), "data: end\n\n")(ctx, r)
			if n == 1 {
				resp.ContentLength = 1000
			}
			return resp, err
		})
		defer s.close()
		j := s.end(s.submit())
		chunks, err := store.Output(t.Context(), j.ID, 0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for _, c := range chunks {
			if c.Attempt == 2 {
				got.Write(c.Data)
			}
		}
		if got.String() != "data: 2\n\ndata: end\n\n" || chunks[0].Attempt != 1 {
			t.Errorf("attempt 2 has %q, the first chunk is of attempt %d", got.String(), chunks[0].Attempt)
		}
	})
}
