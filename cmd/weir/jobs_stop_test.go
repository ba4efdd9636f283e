//go:build unix

package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// TestJobsStop ends weir while jobs run. Those that can end in its grace do; the others
// are given back, and run after the next start as if they never had: each may be tried
// once here.
func TestJobsStop(t *testing.T) {
	t.Parallel()
	weir := programs.path(t, "weir")
	onEachDatabase(t, func(t *testing.T, url string) {
		s := &stopping{arrived: make(chan string, 100), grace: make(chan struct{}), later: make(chan struct{})}
		config := jobsConfig(t, url, newHook(t, s.serve).URL)
		// In the grace there is time to see that it stops, on a busy machine, too.
		config = strings.NewReplacer("shutdown_grace: 1s", "shutdown_grace: 6s", "attempts: 100", "attempts: 1", "concurrency: 8", fmt.Sprintf("concurrency: %d", 2*stoppedJobs)).Replace(config)
		p := start(t, config, weir)
		ids := s.handIn(t, p)
		p.signal(t, syscall.SIGTERM)
		p.awaitDraining(t)
		if n := len(s.arrived); n > 0 {
			t.Errorf("%d jobs run for which there is no place", n)
		}
		close(s.grace)
		if status := p.wait(t); !status.Exited() || status.ExitStatus() != exitOK {
			t.Errorf("ended with %v, want exit status %d; stderr:\n%s", status, exitOK, &p.stderr)
		}
		got, want := map[string]jobRow{}, map[string]jobRow{}
		for body, id := range ids {
			got[body], want[body] = readJob(t, url, id), jobRow{"available", 0, ""}
			if strings.HasPrefix(body, "short") {
				want[body] = jobRow{"completed", 1, ""}
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("the stop leaves\n%v, want\n%v", got, want)
		}

		close(s.later)
		p = start(t, config, weir)
		for body, id := range ids {
			checkDone(t, p, body, id)
			if got, want := readJob(t, url, id), (jobRow{"completed", 1, ""}); got != want {
				t.Errorf("%s: %v, want %v", body, got, want)
			}
		}
	})
}

// stoppedJobs is how many jobs there are of each kind.
const stoppedJobs = 3

// stopping is the upstream of a weir that is stopped.
type stopping struct {
	arrived chan string
	grace   chan struct{} // closed: what is short may end
	later   chan struct{} // closed: everything may
}

func (s *stopping) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	end := s.later
	if strings.HasPrefix(string(body), "short") {
		end = s.grace
	}
	s.arrived <- string(body)
	select {
	case <-end:
		_, _ = fmt.Fprintf(w, "done: %s", body)
	case <-r.Context().Done():
	}
}

// handIn hands in jobs, as many as there are places, and when they run those for which
// there is none before the stop.
func (s *stopping) handIn(t *testing.T, p *process) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, kind := range []string{"short", "long", "late"} {
		for n := range stoppedJobs {
			body := fmt.Sprintf("%s %d", kind, n)
			id, err := handIn(t.Context(), p.client, p.base, body, body)
			if err != nil {
				t.Fatal(err)
			}
			ids[body] = id
		}
		if kind == "long" {
			for range 2 * stoppedJobs {
				<-s.arrived
			}
		}
	}
	return ids
}

// checkDone waits until a job is done, and checks its answer.
func checkDone(t *testing.T, p *process, body, id string) {
	t.Helper()
	eventually(t, body+" has ended", func() bool {
		j, err := look(t.Context(), p.client, p.base, id)
		if err != nil {
			t.Fatal(err)
		}
		return j.ended()
	})
	if a := p.get(t, "/jobs/"+id+"/result"); a.Status != http.StatusOK || a.Body != "done: "+body {
		t.Errorf("the result of %s: %d %s", body, a.Status, a.Body)
	}
}

// jobRow is what the database has of a job.
type jobRow struct {
	state   string
	attempt int
	owner   string
}

func readJob(t *testing.T, url, id string) (j jobRow) {
	t.Helper()
	rows(t, openDatabase(t, url), func(scan func(...any) error) error { return scan(&j.state, &j.attempt, &j.owner) },
		"SELECT state, attempt, owner FROM weir_jobs WHERE id = $1", id)
	return j
}
