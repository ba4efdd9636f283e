package job_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	weir "github.com/inferweir/weir"
	"github.com/inferweir/weir/job"
)

// cancelBy sends the DELETE of key:a.
func (s *instance) cancelBy(j *job.Job) int {
	s.t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(s.t.Context(), "DELETE", "/jobs/"+j.ID, nil)
	if err := s.Serve(w, r, weir.Caller{ID: "key:a"}); err != nil {
		s.t.Fatalf("DELETE: %v", err)
	}
	return w.Code
}

func TestCancelWhileItWaits(t *testing.T) {
	inBubble(t, "a job that waits ends at once and never runs", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), asleep)
		defer s.close()
		j := s.submit()
		if code := s.cancelBy(j); code != 200 {
			t.Errorf("DELETE gives %d, want 200", code)
		}
		if got := s.end(j); got.State != job.Cancelled || got.Attempt != 0 {
			t.Errorf("the job is %s at attempt %d", got.State, got.Attempt)
		}
	})
	inBubble(t, "a job that waits ends once where the answer of the store is lost", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), asleep)
		defer s.close()
		j := s.submit()
		s.store.loseNext("Cancel:after", 1)
		s.cancelBy(j)
		s.end(j)
	})
}

func TestCancelWhileItRuns(t *testing.T) {
	inBubble(t, "a job that runs here is stopped at once", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(time.Hour))
		defer s.close()
		j := s.submit()
		time.Sleep(time.Second)
		start := time.Now()
		if code := s.cancelBy(j); code != 202 {
			t.Errorf("DELETE gives %d, want 202", code)
		}
		if got := s.end(j); got.State != job.Cancelled || time.Since(start) > 0 {
			t.Errorf("the job is %s after %v", got.State, time.Since(start))
		}
	})
	inBubble(t, "a job that runs elsewhere is stopped at the next renewal", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(time.Hour))
		defer s.close()
		other := openAt(t, store, replyingAfter(time.Hour), asleep)
		defer other.close()
		j := s.submit()
		time.Sleep(time.Second)
		start := time.Now()
		other.cancelBy(j)
		if got := s.end(j); got.State != job.Cancelled || time.Since(start) > 10*time.Second || len(other.ledger.of(j.ID)) != 0 {
			t.Errorf("the job is %s after %v; the other told %v", got.State, time.Since(start), other.ledger.of(j.ID))
		}
	})
	inBubble(t, "a job that is cancelled while its end is written down has its answer", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(time.Second))
		defer s.close()
		s.store.loseNext("Finish", 3)
		j := s.submit()
		time.Sleep(time.Second + 50*time.Millisecond)
		s.cancelBy(j)
		if got := s.end(j); got.State != job.Completed || string(got.Result.Body) != "done" {
			t.Errorf("the job is %s with %+v", got.State, got.Result)
		}
	})
	inBubble(t, "a job that waits for its next attempt ends at once", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(503, "", "Retry-After", "100"))
		defer s.close()
		j := s.submit()
		time.Sleep(10 * time.Second)
		s.cancelBy(j)
		if got := s.end(j); got.State != job.Cancelled || got.Attempt != 1 {
			t.Errorf("the job is %s at attempt %d", got.State, got.Attempt)
		}
	})
}

func TestClose(t *testing.T) {
	inBubble(t, "lets what runs end, and claims nothing more", func(t *testing.T, store job.Store) {
		var self atomic.Pointer[instance]
		s := openAt(t, store, replyingAfter(time.Minute), func(o *job.Options) {
			o.Rooms = func() []job.Room {
				if s := self.Load(); s != nil {
					return []job.Room{{Route: "elsewhere", Max: 1}, {Route: "r", Max: 1 - s.Running("r")}}
				}
				return nil
			}
		})
		self.Store(s)
		first, second := s.submit(), s.submit()
		time.Sleep(10 * time.Second)
		s.close()
		a, _ := store.Get(t.Context(), "", first.ID)
		b, _ := store.Get(t.Context(), "", second.ID)
		if a.State != job.Completed || b.State != job.Available {
			t.Errorf("the jobs are %s and %s", a.State, b.State)
		}
	})
	inBubble(t, "gives back what does not end in time, for another to take at once", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(time.Hour))
		j := s.submit()
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		if err := s.Close(ctx); err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("Close after %v: %v", time.Since(start), err)
		}
		got, _ := store.Get(t.Context(), "", j.ID)
		if got.State != job.Available || got.Attempt != 0 || s.ledger.count(job.EventGivenBack) != 1 {
			t.Errorf("the job is %s at attempt %d", got.State, got.Attempt)
		}
		next := openAt(t, store, replying(200, ""))
		defer next.close()
		if got := next.end(j); got.State != job.Completed || got.Attempt != 1 || time.Since(start) > 12*time.Second {
			t.Errorf("the job is %s at attempt %d after %v", got.State, got.Attempt, time.Since(start))
		}
	})
	inBubble(t, "is done within 5 s although the store is away, and says what is left", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(time.Second))
		s.submit()
		time.Sleep(500 * time.Millisecond)
		s.store.setCut(true)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		err := s.Close(ctx)
		if err == nil || time.Since(start) > 16*time.Second {
			t.Errorf("Close after %v: %v", time.Since(start), err)
		}
	})
}

func TestCloseOfWhatNeverRan(t *testing.T) {
	inBubble(t, "works before Start, and twice", func(t *testing.T, store job.Store) {
		s, err := job.New(job.Options{Store: store, Run: replying(200, ""), Rooms: func() []job.Room { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		s.Start()
	})
}

func TestNewRefusesOptions(t *testing.T) {
	good := func() job.Options {
		return job.Options{Store: flaky(nil), Run: replying(200, ""), Rooms: func() []job.Room { return nil }}
	}
	f := func(change func(*job.Options), want string) {
		t.Helper()
		o := good()
		change(&o)
		if _, err := job.New(o); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	f(func(o *job.Options) { o.Store = nil }, "job: Options.Store is nil: want where jobs are kept")
	f(func(o *job.Options) { o.Run = nil }, "job: Options.Run is nil: want what runs a job")
	f(func(o *job.Options) { o.Rooms = nil }, "job: Options.Rooms is nil: want where jobs may run")
	f(func(o *job.Options) { o.Attempts = 101 }, "job: Options.Attempts: 101: want 1 to 100, or 0 for 3")
	f(func(o *job.Options) { o.ResultTTL = -1 }, "job: Options.ResultTTL: -1ns, DiscardedTTL: 0s: must not be negative")
	f(func(o *job.Options) { o.Lease = time.Millisecond }, "job: Options.Lease: 1ms: want at least 1s, or 0 for 30s")
	f(func(o *job.Options) { o.Bounds.Jobs = -1 }, "job: Options.Bounds: {Jobs:-1 CallerJobs:0 Bytes:0}: must not be negative")
}

func TestAwait(t *testing.T) {
	inBubble(t, "hears at once of an end here, and within half a second of one elsewhere", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(10*time.Second))
		defer s.close()
		other := openAt(t, store, replying(500, ""), func(o *job.Options) { o.Rooms = func() []job.Room { return nil } })
		defer other.close()
		j := s.submit()
		here := make(chan time.Time, 1)
		there := make(chan time.Time, 1)
		go func() { _, _ = s.Await(t.Context(), j); here <- time.Now() }()
		go func() { _, _ = other.Await(t.Context(), j); there <- time.Now() }()
		got := s.end(j)
		a, b := <-here, <-there
		if a.Sub(got.Finished) > time.Millisecond || b.Sub(got.Finished) > 500*time.Millisecond {
			t.Errorf("heard %v and %v after the end", a.Sub(got.Finished), b.Sub(got.Finished))
		}
	})
	inBubble(t, "gives the job as it is when its context is over", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(10*time.Second))
		defer s.close()
		j := s.submit()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got, err := s.Await(ctx, j)
		if !errors.Is(err, context.DeadlineExceeded) || got.State != job.Running || s.ledger.count(job.EventStoreError) != 0 {
			t.Errorf("the job is %s, %v", got.State, err)
		}
		s.end(j)
	})
	inBubble(t, "waits for a store that is away", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(10*time.Second))
		defer s.close()
		j := s.submit()
		time.Sleep(time.Second)
		s.store.setCut(true)
		time.AfterFunc(20*time.Second, func() { s.store.setCut(false) })
		if got, err := s.Await(t.Context(), j); err != nil || got.State != job.Completed {
			t.Errorf("the job is %s, %v", got.State, err)
		}
	})
	inBubble(t, "does not wait for a job that is not there", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""))
		defer s.close()
		if _, err := s.Await(t.Context(), &job.Job{ID: "0190a5b2-0000-7000-8000-000000000000"}); !errors.Is(err, job.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
	})
}

func TestSweep(t *testing.T) {
	inBubble(t, "deletes the blobs of what expired, also those that could not be deleted before", func(t *testing.T, store job.Store) {
		big := func(context.Context, *http.Request) (*http.Response, error) {
			return replied(200, string(make([]byte, 100<<10))), nil
		}
		s := openAt(t, store, big, func(o *job.Options) { o.ResultTTL = time.Hour })
		defer s.close()
		j := s.end(s.submit())
		if got := s.blobShelf.keys(); !slices.Equal(got, []string{j.Result.Blob}) || j.Result.Bytes != 100<<10 || j.Result.Body != nil {
			t.Fatalf("blobs %v, result %+v", got, j.Result)
		}
		s.blobShelf.setFail(errors.New("the disk sleeps"))
		time.Sleep(63 * time.Minute)
		s.blobShelf.setFail(nil)
		time.Sleep(2 * time.Minute)
		if keys := s.blobShelf.keys(); len(keys) != 0 || len(s.blobShelf.gone) != 1 {
			t.Errorf("blobs %v are left, %v deleted", keys, s.blobShelf.gone)
		}
		if got, err := store.Get(t.Context(), "", j.ID); err != nil || got.Result != nil {
			t.Errorf("the job has %+v, %v: want none, so that it can say that it expired", got, err)
		}
		time.Sleep(time.Hour)
		if _, err := store.Get(t.Context(), "", j.ID); !errors.Is(err, job.ErrNotFound) {
			t.Errorf("%v: want it forgotten", err)
		}
	})
	inBubble(t, "a job that nobody can run is given up when it expires", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), func(o *job.Options) { o.Rooms = func() []job.Room { return nil } })
		defer s.close()
		start := time.Now()
		if j := s.end(s.submit()); j.State != job.Discarded || time.Since(start) > 24*time.Hour+10*time.Second {
			t.Errorf("the job is %s after %v", j.State, time.Since(start))
		}
	})
}

// moody answers after up to 40 s, and often not well.
func moody(seed uint64) func(context.Context, *http.Request) (*http.Response, error) {
	var salt atomic.Uint64
	return func(ctx context.Context, r *http.Request) (*http.Response, error) {
		dice := rand.New(rand.NewPCG(seed, salt.Add(1)))
		resp, err := replyingAfter(time.Duration(dice.IntN(40_000))*time.Millisecond)(ctx, r)
		switch n := dice.IntN(20); {
		case err != nil:
			return nil, err
		case n < 2:
			return nil, &job.NotNow{}
		case n < 4:
			return replied(503, "later"), nil
		case n < 5:
			panic("now and then")
		}
		return resp, nil
	}
}

// crowd is three instances with bad lines that come and go.
type crowd struct {
	t         *testing.T
	rnd       *rand.Rand
	open      func() *instance
	live, all []*instance
	jobs      []*job.Job // that were acknowledged
}

// step does something to one of them.
func (c *crowd) step() {
	i := c.rnd.IntN(len(c.live))
	s := c.live[i]
	switch n := c.rnd.IntN(20); {
	case n < 10:
		sub := job.Submission{Caller: "key:a", Route: "r", Request: posted("{}")}
		if j, _, err := s.Submit(c.t.Context(), sub); err == nil {
			c.jobs = append(c.jobs, j)
		}
	case n < 13:
		ops := []string{"Create", "Claim", "Renew", "Finish", "Cancel", "Get", "List"}
		s.store.loseNext(ops[c.rnd.IntN(len(ops))]+[]string{"", ":after"}[c.rnd.IntN(2)], 1)
	case n < 14:
		s.store.setCut(true)
		time.AfterFunc(time.Duration(c.rnd.IntN(60))*time.Second, func() { s.store.setCut(false) })
	case n < 16 && len(c.jobs) > 0:
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(c.t.Context(), "DELETE", "/jobs/"+c.jobs[c.rnd.IntN(len(c.jobs))].ID, nil)
		_ = s.Serve(w, r, weir.Caller{ID: "key:a"}) // the store may be away
	case n < 17:
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		defer cancel()
		_ = s.Close(ctx) // what it could not give back is rescued
		c.live[i] = c.open()
		c.all = append(c.all, c.live[i])
	}
}

// told is how the ends of a job were told, by all instances that there ever were.
func (c *crowd) told(id string) (told []job.State) {
	for _, s := range c.all {
		told = append(told, s.ledger.of(id)...)
	}
	return told
}

// TestEveryJobEndsOnce submits and cancels jobs in a crowd: what was acknowledged ends,
// and is told of once.
func TestEveryJobEndsOnce(t *testing.T) {
	for seed := range uint64(8) {
		inBubble(t, fmt.Sprintf("with seed %d", seed), func(t *testing.T, store job.Store) {
			run := moody(seed)
			c := &crowd{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), open: func() *instance { return openAt(t, flaky(store), run) }}
			for range 3 {
				c.live = append(c.live, c.open())
			}
			c.all = append(c.all, c.live...)
			for range 300 {
				c.step()
				time.Sleep(time.Duration(c.rnd.IntN(2000)) * time.Millisecond)
			}
			for _, s := range c.live {
				s.store.setCut(false)
			}
			for _, j := range c.jobs {
				if got, err := c.live[0].Await(t.Context(), j); err != nil || !got.State.Ended() {
					t.Errorf("job %s: %s, %v", j.ID, got.State, err)
				}
			}
			for _, s := range c.live {
				s.close()
			}
			ends := map[job.State]int{}
			for _, j := range c.jobs {
				got, err := store.Get(t.Context(), "", j.ID)
				if told := c.told(j.ID); err != nil || !slices.Equal(told, []job.State{got.State}) {
					t.Errorf("job %s is %+v, %v, and was told of as %v", j.ID, got, err, told)
					continue
				}
				ends[got.State]++
			}
			if len(c.jobs) < 50 || ends[job.Completed] == 0 || ends[job.Cancelled] == 0 {
				t.Errorf("%d jobs ended as %v: too tame", len(c.jobs), ends)
			}
			t.Logf("%d jobs ended as %v", len(c.jobs), ends)
		})
	}
}
