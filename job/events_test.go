package job_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/storetest"
)

// pipeWriter is a response whose body is read while it is written. A reader that does
// not read blocks it, as a slow client does.
type pipeWriter struct {
	header http.Header
	w      *io.PipeWriter
}

func (p *pipeWriter) Header() http.Header         { return p.header }
func (p *pipeWriter) WriteHeader(int)             {}
func (p *pipeWriter) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *pipeWriter) Flush()                      {}

// listener reads the events of a job while they come.
type listener struct {
	lines chan string
	leave context.CancelFunc
	pipe  *io.PipeReader
}

// listen begins a stream. The test ends it, or it ends with its job.
func (c *counter) listen(id, last string) *listener {
	c.t.Helper()
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(c.t.Context())
	r := httptest.NewRequestWithContext(ctx, "GET", "/jobs/"+id+"/events", nil)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	go func() {
		err := c.jobs.Serve(&pipeWriter{http.Header{}, pw}, r, weir.Caller{ID: "key:alice"})
		_ = pw.CloseWithError(err)
	}()
	cl := &listener{lines: make(chan string), leave: cancel, pipe: pr}
	go func() {
		defer close(cl.lines)
		scan := bufio.NewScanner(pr)
		scan.Buffer(nil, 1<<20)
		for scan.Scan() {
			cl.lines <- scan.Text()
		}
	}()
	return cl
}

// seen is what a client sees. State events are as short as "running 1", with "reset".
type seen struct{ id, name, data string }

// next reads an event; a comment is one with its text for a name.
func (cl *listener) next() (e seen, ok bool) {
	for line := range cl.lines {
		field, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "" && e.name == "weir.job":
			var v struct {
				job.View
				Reset bool
			}
			if err := json.Unmarshal([]byte(e.data), &v); err != nil {
				panic(err)
			}
			if e.data = fmt.Sprintf("%s %d", v.State, v.Attempt); v.Reset {
				e.data += " reset"
			}
			return e, true
		case line == "":
			return e, true
		case field == "":
			e.name = value
		case field == "id":
			e.id = value
		case field == "event":
			e.name = value
		case field == "data":
			if e.data != "" {
				e.data += "\n"
			}
			e.data += value
		}
	}
	return seen{}, false
}

// loud is the next event that is no comment.
func (cl *listener) loud() seen {
	for {
		if e, ok := cl.next(); !ok || e.name != "keep-alive" {
			return e
		}
	}
}

// rest reads to the end.
func (cl *listener) rest() (all []seen) {
	for {
		e, ok := cl.next()
		if !ok {
			return all
		}
		all = append(all, e)
	}
}

func (cl *listener) expect(t *testing.T, want ...seen) {
	t.Helper()
	for _, w := range want {
		got, ok := cl.next()
		if !ok {
			t.Fatalf("the stream ended, want %+v", w)
		}
		isEqual(t, "event", got, w)
	}
}

func stateIs(s string) seen { return seen{name: "weir.job", data: s} }

// playedJob has a job of three attempts, each with output: the first loses its lease, the
// second is given back and not counted.
func playedJob(c *counter) (id string, want []seen) {
	id = c.create().ID
	j := c.claim()
	c.appendOutput(j, "event: a\ndata: 1\n\ndata: 2\n\n", ": comment\n\ndata: 3\nid: model\ndata: 4\nretry: 9\n\n")
	c.finish(j, job.Outcome{State: job.Retryable, NotBefore: c.now()})
	j = c.claim()
	c.appendOutput(j, "data: 5\r\n\r\n")
	c.finish(j, job.Outcome{State: job.Available, NotBefore: c.now()})
	j = c.claim()
	c.appendOutput(j, "data: 6\n\ndata: 7\n\n", "data: [DONE]")
	c.finish(j, job.Outcome{State: job.Completed, Result: &job.Result{Status: 200}})
	return id, []seen{
		{"1-1", "a", "1"}, {"1-2", "", "2"}, {"2-1", "", "3\n4"},
		stateIs("running 2 reset"), {"3-1", "", "5"},
		stateIs("running 2 reset"), {"4-1", "", "6"}, {"4-2", "", "7"}, {"5-1", "", "[DONE]"},
		stateIs("completed 2"),
	}
}

func TestEventsAreReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, nil)
		id, want := playedJob(c)
		isEqual(t, "all of a job that has ended", c.listen(id, "").rest(), want)
		for i, e := range want {
			if e.id == "" {
				continue
			}
			isEqual(t, "behind "+e.id, c.listen(id, e.id).rest(), want[i+1:])
		}
		for _, none := range []string{"x", "1", "0-1", "1-0", "-1-1", "1-1-1", "99999999999999999999-1"} {
			isEqual(t, "an id that is none: "+none, c.listen(id, none).rest(), want)
		}
		isEqual(t, "an id behind the end", c.listen(id, "9-1").rest(), want[len(want)-1:])
		time.Sleep(time.Hour) // virtual: the result expires
		isEqual(t, "when the output has expired", c.listen(id, "").rest(), want[len(want)-1:])
	})
}

func TestModelsCannotTellTheStateOfAJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, nil)
		id := c.create().ID
		j := c.claim()
		const forged = `{"state":"discarded"}`
		for _, field := range []string{"event: weir.job", "event:weir.job", "event: WEIR.job", "event:  weir.job ", "event: other\nevent: weir.job", "event: weir.other", "\ufeffevent: weir.job"} {
			c.appendOutput(j, field+"\ndata: "+forged+"\n\n")
		}
		c.appendOutput(j, `{"event":"weir.job"}`+"\n")
		c.finish(j, job.Outcome{State: job.Completed, Result: &job.Result{Status: 200}})
		isEqual(t, "events", c.listen(id, "").rest(), []seen{
			{"1-1", "", forged}, {"2-1", "", forged}, {"3-1", "", forged}, {"4-1", "", forged}, {"5-1", "other", forged}, {"6-1", "", forged}, {"7-1", "", forged},
			{"8-1", "", `{"event":"weir.job"}`}, stateIs("completed 1"),
		})
	})
}

func TestEventsComeLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, nil)
		id := c.create().ID
		cl := c.listen(id, "")
		cl.expect(t, stateIs("available 0"))
		j := c.claim()
		cl.expect(t, stateIs("running 1"))
		c.appendOutput(j, "data: 1\n\n")
		begun := time.Now()
		cl.expect(t, seen{"1-1", "", "1"})
		if late := time.Since(begun); late > time.Second {
			t.Errorf("output of another instance came after %v, want at most 1s", late)
		}
		c.appendOutput(j, "data: 2\n\n")
		begun = time.Now()
		cl.expect(t, seen{"2-1", "", "2"})
		if late := time.Since(begun); late > 250*time.Millisecond {
			t.Errorf("while there is news it came after %v, want at most 250ms", late)
		}
		begun = time.Now()
		cl.expect(t, seen{name: "keep-alive"}, seen{name: "keep-alive"})
		if waited := time.Since(begun); waited < 29*time.Second || waited > 31*time.Second {
			t.Errorf("two comments after %v, want one each 15s", waited)
		}
		c.finish(j, job.Outcome{State: job.Retryable, NotBefore: time.Now().Add(time.Minute), Failure: &job.Failure{Status: 500}})
		cl.expect(t, stateIs("retryable 1"))
		cl.leave()
		isEqual(t, "behind leaving", cl.rest(), nil)

		time.Sleep(64 * time.Second)
		cl = c.listen(id, "2-1")
		cl.expect(t, stateIs("retryable 1"))
		j = c.claim()
		cl.expect(t, stateIs("running 2"))
		c.finish(j, job.Outcome{State: job.Completed, Result: &job.Result{Status: 200}})
		cl.expect(t, stateIs("completed 2 reset")) // it had no output: that of the first attempt is void
		isEqual(t, "behind the end", cl.rest(), nil)
	})
}

func TestLinesOfNDJSONAreEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, nil)
		id := c.create().ID
		j := c.claim()
		c.appendOutput(j, "{\"a\":1}\n\n{\"data\": \"x\"}\r\n", "[1]\n\"s\"\n-1\ntrue", "null\n", "true\n{}\n")
		c.finish(j, job.Outcome{State: job.Discarded})
		isEqual(t, "events", c.listen(id, "").rest(), []seen{
			{"1-1", "", `{"a":1}`}, {"1-2", "", `{"data": "x"}`},
			{"2-1", "", "[1]"}, {"2-2", "", `"s"`}, {"2-3", "", "-1"}, {"2-4", "", "true"},
			{"3-1", "", "null"}, {"4-1", "", "true"}, {"4-2", "", "{}"}, stateIs("discarded 1"),
		})
	})
}

func TestCancelledJobsEndTheirEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, nil)
		id := c.create().ID
		cl := c.listen(id, "")
		cl.expect(t, stateIs("available 0"))
		begun := time.Now()
		isEqual(t, "cancel", c.ask("key:alice", "DELETE", "/jobs/"+id).Code, 200)
		cl.expect(t, stateIs("cancelled 0"))
		isEqual(t, "told here at once", time.Since(begun), 0)
		isEqual(t, "behind the end", cl.rest(), nil)
	})
}

func TestHeadOfEvents(t *testing.T) {
	c := newCounter(t, nil)
	w := c.ask("key:alice", "HEAD", "/jobs/"+c.create().ID+"/events")
	isEqual(t, "answer", []any{w.Code, w.Header().Get("Content-Type"), w.Header().Get("Cache-Control"), w.Header().Get("X-Accel-Buffering"), w.Body.Len()},
		[]any{200, "text/event-stream", "private, no-store", "no", 0})
}

func TestEventStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(t, nil)
		id := c.create().ID
		var open []*listener
		for range 20 {
			cl := c.listen(id, "")
			cl.expect(t, stateIs("available 0"))
			open = append(open, cl)
		}
		w := c.ask("key:alice", "GET", "/jobs/"+id+"/events")
		isEqual(t, "the 21st of a caller", []any{w.Code, w.Header().Get("Retry-After")}, []any{429, "5"})
		for i := range 49 {
			caller := fmt.Sprintf("key:%d", i)
			other := c.create(func(j *job.Job) { j.Caller = caller }).ID
			for range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				r := httptest.NewRequestWithContext(ctx, "GET", "/jobs/"+other+"/events", nil)
				go func() { _ = c.jobs.Serve(httptest.NewRecorder(), r, weir.Caller{ID: caller}) }()
				open = append(open, &listener{leave: cancel})
			}
		}
		synctest.Wait()
		other := c.create(func(j *job.Job) { j.Caller = "key:z" }).ID
		isEqual(t, "the 1001st of all", c.ask("key:z", "GET", "/jobs/"+other+"/events").Code, 503)
		for _, cl := range open {
			cl.leave()
		}
		synctest.Wait()
		cl := c.listen(id, "")
		cl.expect(t, stateIs("available 0")) // there is room again
		if err := c.jobs.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		isEqual(t, "closing ends streams, to go on elsewhere", cl.rest(), nil)
		for _, cl := range open[:20] {
			cl.rest()
		}
	})
}

// countedOutput counts how much output is read from the store.
type countedOutput struct {
	job.Store
	bytes int
}

func (o *countedOutput) Output(ctx context.Context, id string, seq int64, maxBytes int) ([]job.Chunk, error) {
	chunks, err := o.Store.Output(ctx, id, seq, maxBytes)
	for _, c := range chunks {
		o.bytes += len(c.Data)
	}
	return chunks, err
}

func TestASlowReaderHoldsOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &countedOutput{Store: storetest.NewJobs()}
		c := newCounter(t, func(o *job.Options) { o.Store = s })
		id := c.create().ID
		j := c.claim()
		chunk := "data: " + strings.Repeat("x", 8000) + "\n\n"
		for range 100 {
			c.appendOutput(j, chunk)
		}
		cl := c.listen(id, "")
		cl.expect(t, stateIs("running 1"))
		synctest.Wait() // the writer is blocked: nobody reads
		if s.bytes > 64<<10 {
			t.Errorf("%d bytes read for a client that reads nothing, want at most 64 KiB", s.bytes)
		}
		for range 100 {
			if e, ok := cl.next(); !ok || len(e.data) != 8000 {
				t.Fatalf("%d bytes, %v", len(e.data), ok)
			}
		}
		cl.leave()
		cl.rest()
	})
}

func TestEventsGoOnWhenTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &awayStore{Store: storetest.NewJobs()}
		c := newCounter(t, func(o *job.Options) { o.Store = s })
		id := c.create().ID
		cl := c.listen(id, "")
		cl.expect(t, stateIs("available 0"))
		s.fail(io.ErrUnexpectedEOF)
		cl.expect(t, seen{name: "keep-alive"}, seen{name: "keep-alive"})
		s.fail(nil)
		j := c.claim()
		cl.expect(t, stateIs("running 1"))
		c.finish(j, job.Outcome{State: job.Completed, Result: &job.Result{Status: 200}})
		cl.expect(t, stateIs("completed 1"))
		isEqual(t, "behind the end", cl.rest(), nil)

		id = c.create().ID
		cl = c.listen(id, "")
		cl.expect(t, stateIs("available 0"))
		s.fail(job.ErrNotFound)
		isEqual(t, "of a job that is forgotten", cl.rest(), nil)
	})
}

func TestEventsOfAJobThatRunsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, model := io.Pipe()
		c := newCounter(t, func(o *job.Options) {
			o.Rooms = func() []job.Room { return []job.Room{{Route: "chat", Max: 1}} }
			o.Run = func(context.Context, *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body, ContentLength: -1}, nil
			}
		})
		c.jobs.Start()
		j, _, err := c.jobs.Submit(t.Context(), job.Submission{Caller: "key:alice", Route: "chat", Request: job.Request{Method: "POST", URI: "/v1/chat"}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cl := c.listen(j.ID, "")
		cl.expect(t, stateIs("running 1"))
		for i := range 3 {
			time.Sleep(64 * time.Second)
			begun := time.Now()
			if _, err := fmt.Fprintf(model, "data: %d\n\n", i); err != nil {
				t.Fatal(err)
			}
			isEqual(t, "event", cl.loud(), seen{fmt.Sprintf("%d-1", i+1), "", fmt.Sprint(i)})
			if late := time.Since(begun); late > 250*time.Millisecond {
				t.Errorf("output came after %v, want at most 250ms", late)
			}
		}
		_ = model.Close()
		isEqual(t, "end", cl.loud(), stateIs("completed 1"))
		isEqual(t, "behind the end", cl.rest(), nil)
		w := c.ask("key:alice", "GET", "/jobs/"+j.ID+"/result")
		isEqual(t, "result", []any{w.Code, w.Header().Get("Content-Type"), w.Body.String()}, []any{200, "text/event-stream", "data: 0\n\ndata: 1\n\ndata: 2\n\n"})
		if err := c.jobs.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
