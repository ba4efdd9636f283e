package job_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	weir "github.com/inferweir/weir"
	"github.com/inferweir/weir/job"
)

func TestWhatFollowsAnAttempt(t *testing.T) {
	refusal := func(p *weir.Problem) func(context.Context, *http.Request) (*http.Response, error) {
		return func(context.Context, *http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("run: %w", p)
		}
	}
	f := func(name string, run func(context.Context, *http.Request) (*http.Response, error), want job.Job) {
		t.Helper()
		inBubble(t, name, func(t *testing.T, store job.Store) {
			s := openAt(t, store, run)
			defer s.close()
			j := s.end(s.submit())
			got := job.Job{State: j.State, Attempt: j.Attempt, Failure: j.Failure, Result: j.Result}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %s, attempt %d, result %+v, failure %+v\nwant %s, attempt %d, result %+v, failure %+v",
					got.State, got.Attempt, got.Result, got.Failure, want.State, want.Attempt, want.Result, want.Failure)
			}
		})
	}
	result := func(status int, body string) *job.Result {
		r := &job.Result{Status: status, Header: http.Header{}, Bytes: int64(len(body))}
		if body != "" {
			r.Body = []byte(body)
		}
		return r
	}
	f("an answer completes the job", replying(200, "hello"), job.Job{State: job.Completed, Attempt: 1, Result: result(200, "hello")})
	f("a client error is an answer", replying(404, "no"), job.Job{State: job.Completed, Attempt: 1, Result: result(404, "no")})
	f("a redirect is an answer", replying(303, ""), job.Job{State: job.Completed, Attempt: 1, Result: result(303, "")})
	for _, status := range []int{408, 425, 429, 500, 503, 599} {
		f(fmt.Sprintf("status %d is tried three times, and its last answer kept", status), replying(status, "later"),
			job.Job{State: job.Discarded, Attempt: 3, Result: result(status, "later"),
				Failure: &job.Failure{Status: status, Detail: fmt.Sprintf("The answer was %d %s.", status, http.StatusText(status))}})
	}
	f("an error is tried three times", func(context.Context, *http.Request) (*http.Response, error) {
		return nil, errors.New("dial 10.0.0.1: refused")
	},
		job.Job{State: job.Discarded, Attempt: 3, Failure: &job.Failure{Status: 502, Detail: "The request could not be run, or its answer broke off."}})
	f("a refusal for now is tried three times", refusal(&weir.Problem{Status: 503, Detail: "Full."}),
		job.Job{State: job.Discarded, Attempt: 3, Failure: &job.Failure{Status: 503, Detail: "Full."}})
	f("a refusal for good ends the job", refusal(&weir.Problem{Status: 403, Detail: "Not you.", Err: errors.New("secret")}),
		job.Job{State: job.Discarded, Attempt: 1, Failure: &job.Failure{Status: 403, Detail: "Not you."}})
	f("a panic is a failure", func(context.Context, *http.Request) (*http.Response, error) { panic("oops") },
		job.Job{State: job.Discarded, Attempt: 3, Failure: &job.Failure{Status: 500, Detail: "Running the request failed."}})
	f("no answer at all is a failure", func(context.Context, *http.Request) (*http.Response, error) { return nil, nil },
		job.Job{State: job.Discarded, Attempt: 3, Failure: &job.Failure{Status: 502, Detail: "The request could not be run, or its answer broke off."}})
	f("a body that breaks off is no answer", replying(200, "half", "Content-Length", "8"),
		job.Job{State: job.Discarded, Attempt: 3, Failure: &job.Failure{Status: 502, Detail: "The request could not be run, or its answer broke off."}})
	f("an answer without a body may have the length of one it would have", replying(204, "", "Content-Length", "8"),
		job.Job{State: job.Completed, Attempt: 1, Result: result(204, "")})
}

func TestWaitsBetweenAttempts(t *testing.T) {
	inBubble(t, "grow, and are as long as the answer asks", func(t *testing.T, store job.Store) {
		var starts []time.Time
		s := openAt(t, store, func(context.Context, *http.Request) (*http.Response, error) {
			starts = append(starts, time.Now())
			if len(starts) == 2 {
				return replied(503, "", "Retry-After", "600"), nil
			}
			return replied(503, ""), nil
		}, func(o *job.Options) { o.Attempts = 4 })
		defer s.close()
		s.end(s.submit())
		var waits []time.Duration
		for i := 1; i < len(starts); i++ {
			waits = append(waits, starts[i].Sub(starts[i-1]))
		}
		// The claim loop looks once a second, a fifth more or less.
		bounds := [][2]time.Duration{{800 * time.Millisecond, 2400 * time.Millisecond}, {600 * time.Second, 602 * time.Second}, {3200 * time.Millisecond, 6 * time.Second}}
		for i, w := range waits {
			if w < bounds[i][0] || w > bounds[i][1] {
				t.Errorf("wait %d was %v, want between %v and %v", i+1, w, bounds[i][0], bounds[i][1])
			}
		}
		if len(waits) != len(bounds) {
			t.Errorf("%d waits, want %d", len(waits), len(bounds))
		}
	})
	inBubble(t, "are as long as a problem advises, but no more than an hour", func(t *testing.T, store job.Store) {
		var starts []time.Time
		s := openAt(t, store, func(context.Context, *http.Request) (*http.Response, error) {
			if starts = append(starts, time.Now()); len(starts) == 1 {
				return nil, &weir.Problem{Status: 429, RetryAfter: 5 * time.Hour}
			}
			return replied(200, ""), nil
		})
		defer s.close()
		s.end(s.submit())
		if w := starts[1].Sub(starts[0]); w < time.Hour || w > time.Hour+2*time.Second {
			t.Errorf("waited %v, want an hour", w)
		}
	})
}

func TestAttempts(t *testing.T) {
	inBubble(t, "are not counted where there was no room", func(t *testing.T, store job.Store) {
		n := 0
		s := openAt(t, store, func(context.Context, *http.Request) (*http.Response, error) {
			if n++; n <= 20 {
				return nil, &job.NotNow{After: 3 * time.Second}
			}
			return replied(200, ""), nil
		})
		defer s.close()
		start := time.Now()
		j := s.end(s.submit())
		if j.State != job.Completed || j.Attempt != 1 || s.ledger.count(job.EventGivenBack) != 20 || time.Since(start) < time.Minute {
			t.Errorf("%s at attempt %d after %v, given back %d times", j.State, j.Attempt, time.Since(start), s.ledger.count(job.EventGivenBack))
		}
	})
	inBubble(t, "end when the job's time is over", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replyingAfter(1000*time.Hour))
		defer s.close()
		start := time.Now()
		j := s.end(s.submit())
		if j.State != job.Discarded || j.Failure.Status != 504 || time.Since(start) > 25*time.Hour {
			t.Errorf("%s with %+v after %v", j.State, j.Failure, time.Since(start))
		}
	})
	inBubble(t, "carry the account from one to the next", func(t *testing.T, store job.Store) {
		s := openAt(t, store, func(ctx context.Context, _ *http.Request) (*http.Response, error) {
			a, ok := job.AttemptFrom(ctx)
			if !ok {
				return nil, &weir.Problem{Status: 400, Detail: "no attempt"}
			}
			a.Account = append(slices.Clone(a.Account), byte('0'+a.Job.Attempt))
			if a.Job.Attempt < 3 {
				return nil, io.ErrUnexpectedEOF
			}
			return replied(200, ""), nil
		})
		defer s.close()
		j, _, err := s.Submit(t.Context(), job.Submission{Caller: "key:a", Route: "r", Request: posted(""), Account: []byte("a")})
		if err != nil {
			t.Fatal(err)
		}
		s.end(j)
		if got := string(s.ledger.last[j.ID].Account); got != "a123" {
			t.Errorf("Ended got the account %q, want a123", got)
		}
	})
}

func TestRunGetsTheRequest(t *testing.T) {
	inBubble(t, "as it was sent", func(t *testing.T, store job.Store) {
		var got *http.Request
		var body []byte
		s := openAt(t, store, func(_ context.Context, r *http.Request) (*http.Response, error) {
			got = r
			body, _ = io.ReadAll(r.Body)
			return replied(200, ""), nil
		})
		defer s.close()
		s.end(s.submit())
		want := http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"req-1"}}
		if got.Method != "POST" || got.URL.Path != "/v1/x" || got.URL.RawQuery != "y=1" || got.Host != "weir.example" ||
			string(body) != "{}" || got.ContentLength != 2 || !reflect.DeepEqual(got.Header, want) {
			t.Errorf("%s %s host %s length %d %v %q", got.Method, got.URL, got.Host, got.ContentLength, got.Header, body)
		}
	})
}

func TestStoreAwayWhileJobsRun(t *testing.T) {
	// Each phase cuts the line for 30 s at another moment of a job that takes 20 s.
	f := func(name string, at time.Duration, change func(*flakyStore)) {
		inBubble(t, name, func(t *testing.T, store job.Store) {
			line := flaky(store)
			s := openAt(t, line, func(ctx context.Context, r *http.Request) (*http.Response, error) {
				resp, err := replyingAfter(20*time.Second)(ctx, r)
				if err == nil {
					resp.Header.Set("Content-Type", "application/x-ndjson")
				}
				return resp, err
			})
			defer s.close()
			change(line)
			j := s.submit()
			time.Sleep(at) // of the bubble
			line.setCut(true)
			time.Sleep(30 * time.Second)
			line.setCut(false)
			if got := s.end(j); got.State != job.Completed || got.Attempt != 1 || string(got.Result.Body) != "done" {
				t.Errorf("the job is %s, attempt %d, %+v", got.State, got.Attempt, got.Result)
			}
			if chunks, err := store.Output(t.Context(), j.ID, 0, 1<<20); err != nil || len(chunks) != 1 || string(chunks[0].Data) != "done\n" {
				t.Errorf("its output is %+v, %v", chunks, err)
			}
		})
	}
	none := func(*flakyStore) {}
	f("before the claim loses nothing", 0, none)
	f("while it runs loses nothing", time.Second, none)
	f("at its end loses nothing", 19*time.Second, none)
	f("after its end changes nothing", 21*time.Second, none)
	f("with the answer to Create lost makes one job", 0, func(l *flakyStore) { l.loseNext("Create:after", 1) })
	f("with the answer to Claim lost counts no attempt", time.Second, func(l *flakyStore) { l.loseNext("Claim:after", 1) })
	f("with three answers to Claim lost counts no attempt", 5*time.Second, func(l *flakyStore) { l.loseNext("Claim:after", 3) })
	f("with the answer to Append lost keeps no output twice", 19*time.Second, func(l *flakyStore) { l.loseNext("Append:after", 1) })
	f("with the answer to Finish lost ends the job once", 19*time.Second, func(l *flakyStore) { l.loseNext("Finish:after", 2) })
	f("with a failing Finish ends the job once", 19*time.Second, func(l *flakyStore) { l.loseNext("Finish", 5) })
	f("with failing renewals stops nothing", time.Second, func(l *flakyStore) { l.loseNext("Renew", 10) })
}

func TestAnInstanceThatWasCutOff(t *testing.T) {
	inBubble(t, "has its jobs still, where the one that comes back first was cut off too", func(t *testing.T, store job.Store) {
		first := openAt(t, store, replyingAfter(3*time.Minute))
		defer first.close()
		j := first.submit()
		time.Sleep(time.Second)
		second := openAt(t, store, replying(200, "second"))
		defer second.close()
		first.store.setCut(true)
		second.store.setCut(true)
		time.Sleep(time.Minute)
		second.store.setCut(false)
		time.Sleep(10 * time.Second)
		first.store.setCut(false)
		if got := first.end(j); got.State != job.Completed || got.Attempt != 1 || string(got.Result.Body) != "done" {
			t.Errorf("the job is %s at attempt %d with %+v", got.State, got.Attempt, got.Result)
		}
	})
	inBubble(t, "writes nothing back and deletes its blob", func(t *testing.T, store job.Store) {
		var runs atomic.Int32
		run := func(ctx context.Context, r *http.Request) (*http.Response, error) {
			if runs.Add(1) == 1 {
				resp, err := replyingAfter(2*time.Minute)(context.WithoutCancel(ctx), r) // and heeds nothing
				resp.Body = io.NopCloser(io.LimitReader(endlessZeros{}, 1<<20))
				return resp, err
			}
			return replied(200, "second"), nil
		}
		first := openAt(t, store, run)
		defer first.close()
		j := first.submit()
		time.Sleep(time.Second)
		first.store.setCut(true)
		second := openAt(t, store, run)
		defer second.close()
		got := second.end(j)
		if got.State != job.Completed || string(got.Result.Body) != "second" || got.Attempt != 2 || got.Fence != 2 {
			t.Errorf("the job is %s, %+v, attempt %d, fence %d", got.State, got.Result, got.Attempt, got.Fence)
		}
		time.Sleep(3 * time.Minute) // the first has its answer, and saved it
		first.store.setCut(false)
		time.Sleep(time.Minute)
		again, err := store.Get(t.Context(), "", j.ID)
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("the job became %+v, %v", again, err)
		}
		if told := first.ledger.of(j.ID); told != nil || first.ledger.count(job.EventLost) != 1 {
			t.Errorf("the first told of the end as %v, lost %d times", told, first.ledger.count(job.EventLost))
		}
		if keys := first.blobShelf.keys(); len(keys) != 0 || len(first.blobShelf.gone) != 1 {
			t.Errorf("blobs %v are left, %v deleted", keys, first.blobShelf.gone)
		}
	})
}

func TestLostLease(t *testing.T) {
	inBubble(t, "a lease that is lost stops the attempt", func(t *testing.T, store job.Store) {
		var stopped atomic.Bool
		s := openAt(t, store, func(ctx context.Context, _ *http.Request) (*http.Response, error) {
			if a, _ := job.AttemptFrom(ctx); a.Job.Attempt == 1 {
				<-ctx.Done()
				stopped.Store(true)
				return nil, ctx.Err()
			}
			return replied(200, ""), nil
		})
		defer s.close()
		j := s.submit()
		time.Sleep(time.Second)
		// Another instance, whose clock is ahead, takes the lease away.
		if _, err := store.Rescue(t.Context(), time.Now().Add(time.Minute), time.Now().Add(time.Hour), 10); err != nil {
			t.Fatal(err)
		}
		if got := s.end(j); got.State != job.Completed || got.Attempt != 2 || !stopped.Load() {
			t.Errorf("the job is %s at attempt %d, the first stopped: %v", got.State, got.Attempt, stopped.Load())
		}
	})
	inBubble(t, "the last attempt of an instance that died discards the job, and is told of once", func(t *testing.T, store job.Store) {
		dead := openAt(t, store, replyingAfter(time.Hour), func(o *job.Options) { o.Attempts = 1 })
		j := dead.submit()
		time.Sleep(time.Second)
		dead.store.setCut(true)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := dead.Close(over); err == nil {
			t.Error("Close says that it gave the job back")
		}
		a, b := openAt(t, store, replying(200, "")), openAt(t, store, replying(200, ""))
		defer a.close()
		defer b.close()
		got, err := a.Await(t.Context(), j)
		if err != nil || got.State != job.Discarded {
			t.Fatalf("the job is %s, %v", got.State, err)
		}
		synctest.Wait()
		if told := slices.Concat(a.ledger.of(j.ID), b.ledger.of(j.ID), dead.ledger.of(j.ID)); !slices.Equal(told, []job.State{job.Discarded}) {
			t.Errorf("the end was told as %v", told)
		}
	})
}

type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// strictStore takes no end of an attempt twice, as a store may that does not remember who
// ended a job.
type strictStore struct{ job.Store }

func (s strictStore) Finish(ctx context.Context, l job.Lease, o job.Outcome, now time.Time) error {
	if j, err := s.Get(ctx, "", l.ID); err != nil || j.Fence != l.Fence || j.State != job.Running {
		return errors.Join(job.ErrLost, err)
	}
	return s.Store.Finish(ctx, l, o, now)
}

func TestEndsWhoseAnswerIsLost(t *testing.T) {
	inBubble(t, "are told of, also where the store says that the lease is lost", func(t *testing.T, store job.Store) {
		s := openAt(t, strictStore{store}, replying(200, "done"))
		defer s.close()
		s.store.loseNext("Finish:after", 1)
		if j := s.end(s.submit()); j.State != job.Completed || s.ledger.count(job.EventLost) != 0 {
			t.Errorf("the job is %s, lost %d times", j.State, s.ledger.count(job.EventLost))
		}
	})
	inBubble(t, "are another's where another ended it", func(t *testing.T, store job.Store) {
		s := openAt(t, strictStore{store}, replyingAfter(time.Second), func(o *job.Options) { o.Attempts = 1 })
		defer s.close()
		s.store.loseNext("Finish", 1)
		j := s.submit()
		time.Sleep(time.Second + 50*time.Millisecond)
		other, err := store.Rescue(t.Context(), time.Now().Add(time.Minute), time.Now().Add(time.Hour), 10)
		if err != nil || len(other) != 1 {
			t.Fatal(other, err)
		}
		time.Sleep(time.Minute)
		if told := s.ledger.of(j.ID); told != nil || s.ledger.count(job.EventLost) != 1 {
			t.Errorf("the end was told as %v, lost %d times", told, s.ledger.count(job.EventLost))
		}
	})
}
