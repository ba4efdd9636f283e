package database

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/job"
)

// exact are the jobs of db, of whom nothing is remembered.
func exact(db *DB) job.Store {
	s := db.jobs.(*jobs)
	s.lines = newJobLines(0)
	return s
}

func TestAheadIsRememberedForASecond(t *testing.T) {
	var reads atomic.Int64
	db := openTest(t, Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db"), Observe: func(e Event) {
		if e.Op == OpRead {
			reads.Add(1)
		}
	}})
	s := db.Jobs()
	at := time.Now().Truncate(time.Second)
	ahead := func(j *job.Job, after time.Duration) int64 {
		t.Helper()
		n, err := s.Ahead(t.Context(), j.ID, at.Add(after))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var all []*job.Job
	for i, caller := range []string{"a", "b", "a", "c"} {
		j := newWaiting(i, caller, "r")
		create(t, s, j)
		all = append(all, j)
	}
	at = all[3].Created.Add(time.Minute)
	if n := ahead(all[2], 0); n != 3 { // a's first, b and c
		t.Fatalf("%d are ahead of a's second: want 3", n)
	}
	if _, err := s.Claim(t.Context(), job.Claim{Owner: "o", Until: at.Add(time.Hour), Route: "r", Max: 2}, at); err != nil {
		t.Fatal(err)
	}
	if n := ahead(all[2], time.Second-1); n != 3 {
		t.Errorf("within a second %d are ahead: want what is remembered, 3", n)
	}
	if n := ahead(all[2], time.Second); n != 1 {
		t.Errorf("after a second %d are ahead: want 1, c", n)
	}
	if n := ahead(all[0], time.Second); n != 0 {
		t.Errorf("%d are ahead of one that runs", n)
	}
	late := newWaiting(9, "d", "r") // after the line was read
	create(t, s, late)
	if n := ahead(late, time.Second); n != 1 {
		t.Errorf("%d are ahead of one that came later: want 1", n)
	}
	reads.Store(0)
	for range 100 {
		ahead(all[2], time.Second)
	}
	if n := reads.Load(); n > 110 { // and what the database does by itself
		t.Errorf("%d reads for 100 looks: want one each", n)
	}
}

func TestRecall(t *testing.T) {
	start := time.Now()
	t.Run("loads once for all who ask at the same time", func(t *testing.T) {
		r := recall[int]{kept: time.Second}
		loading, loaded := make(chan struct{}), make(chan struct{})
		loads := 0
		var wg sync.WaitGroup
		ask := func() {
			if n, err := r.get(t.Context(), "k", start, func(context.Context) (int, error) {
				loads++
				close(loading)
				<-loaded
				return 7, nil
			}); n != 7 || err != nil {
				t.Error(n, err)
			}
		}
		wg.Go(ask)
		<-loading
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := r.get(gone, "k", start, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("who has left: %v", err)
		}
		for range 10 {
			wg.Go(ask)
		}
		close(loaded)
		wg.Wait()
		if loads != 1 {
			t.Errorf("loaded %d times", loads)
		}
	})
	t.Run("does not remember errors, and has a bound", func(t *testing.T) {
		r := recall[int]{kept: time.Second}
		fails := errors.New("fails")
		if _, err := r.get(t.Context(), "k", start, func(context.Context) (int, error) { return 0, fails }); err != fails {
			t.Error(err)
		}
		for i := range 3 * maxAheadLines {
			n, err := r.get(t.Context(), string(rune('k'+i)), start, func(context.Context) (int, error) { return i, nil })
			if n != i || err != nil || len(r.all) > maxAheadLines {
				t.Fatalf("%d, %v, %d remembered", n, err, len(r.all))
			}
		}
	})
}
