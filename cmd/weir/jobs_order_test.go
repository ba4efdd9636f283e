//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestJobsComeLast has many jobs that wait, and requests that come later and go first.
func TestJobsComeLast(t *testing.T) {
	t.Parallel()
	const people = 10
	turns := &turns{arrived: make(chan string), release: make(chan struct{})}
	config := jobsConfig(t, "sqlite:"+t.TempDir()+"/weir.db", newHook(t, turns.serve).URL)
	p := start(t, strings.Replace(config, "concurrency: 8", "concurrency: 1", 1), programs.path(t, "weir"))
	var ids []string
	for n := range 40 {
		body := fmt.Sprintf("job %d", n)
		id, err := handIn(t.Context(), p.client, p.base, body, body)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if who := <-turns.arrived; who != "job" {
		t.Fatalf("first comes a %s, want a job", who)
	}
	p.awaitWaiting(t, "batch", 16) // as many as may be claimed ahead
	ctx, stop := context.WithCancel(t.Context())
	var wrong complaints
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for range people {
		group.Go(func() { p.askAsPerson(ctx, &wrong) })
	}
	p.awaitWaiting(t, "standard", people)

	var order []string
	for persons := 0; persons < people; {
		turns.release <- struct{}{}
		who := <-turns.arrived
		if order = append(order, who); who == "person" {
			persons++
		}
	}
	// A twentieth of the work is owed to jobs: one may come among so many.
	if len(order) > people+1 {
		t.Errorf("while %d people waited came %q, want at most one job among them", people, order)
	}
	close(turns.release)
	group.Go(func() { turns.goOn(ctx) })
	for _, id := range ids {
		eventually(t, "each job ends", func() bool {
			j, err := look(t.Context(), p.client, p.base, id)
			if err != nil {
				t.Fatal(err)
			}
			return j.State == "completed" && j.Attempt == 1
		})
	}
	wrong.report(t)
}

// turns is a model that tells who is there, and answers when it is told to.
type turns struct {
	arrived chan string
	release chan struct{}
}

func (m *turns) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	who, _, _ := strings.Cut(string(body), " ")
	select {
	case m.arrived <- who:
	case <-r.Context().Done():
		return
	}
	select {
	case <-m.release:
		_, _ = io.WriteString(w, "done")
	case <-r.Context().Done():
	}
}

// goOn lets everybody come, until ctx ends.
func (m *turns) goOn(ctx context.Context) {
	for {
		select {
		case <-m.arrived:
		case <-ctx.Done():
			return
		}
	}
}

// awaitWaiting waits until so many of a class wait for a place.
func (p *process) awaitWaiting(t *testing.T, class string, n int) {
	t.Helper()
	line := fmt.Sprintf("weir_admission_waiting{class=%q,upstream=\"work\"} %d\n", class, n)
	eventually(t, line, func() bool { return strings.Contains(fetch(t, p.client, p.admin+"/metrics").Body, line) })
}

// askAsPerson sends a request and waits for its answer.
func (p *process) askAsPerson(ctx context.Context, wrong *complaints) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+"/work", strings.NewReader("person"))
	if err != nil {
		wrong.add("%v", err)
		return
	}
	resp, err := p.client.Do(r)
	if err != nil {
		wrong.add("a person's request: %v", err)
		return
	}
	if a, err := read(resp); err != nil || a.Status != http.StatusOK || a.Body != "done" {
		wrong.add("a person's request: %d %s %v, want 200 and done", a.Status, a.Body, err)
	}
}
