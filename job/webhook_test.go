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

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/inferweir/weir/job"
)

func TestWebhooksVerify(t *testing.T) {
	type got struct {
		header http.Header
		body   []byte
	}
	calls := make(chan got, 1)
	addr, _ := hookServer(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		calls <- got{r.Header, b}
	})
	e := try(t, "http://"+addr.String()+"/hook?x=1", nil, addr.String())
	isEqual(t, "told", []any{e.Kind, e.Err, e.Attempt, e.State}, []any{job.EventDelivered, nil, 1, job.Completed})
	call := <-calls
	verifier, err := standardwebhooks.NewWebhook(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("with the library of Standard Webhooks", func(t *testing.T) {
		if err := verifier.Verify(call.body, call.header); err != nil {
			t.Error(err)
		}
	})
	t.Run("but not another body, id or time", func(t *testing.T) {
		if err := verifier.Verify(append(call.body, ' '), call.header); err == nil {
			t.Error("another body verifies")
		}
		for _, name := range []string{"Webhook-Id", "Webhook-Timestamp"} {
			h := call.header.Clone()
			h.Set(name, strings.Replace(h.Get(name), h.Get(name)[:1], "2", 1))
			if verifier.Verify(call.body, h) == nil && h.Get(name) != call.header.Get(name) {
				t.Errorf("another %s verifies", name)
			}
		}
	})
	isEqual(t, "fields", []string{call.header.Get("Webhook-Id"), call.header.Get("Content-Type"), call.header.Get("User-Agent")}, []string{e.ID + "-" + strings.TrimPrefix(call.header.Get("Webhook-Id"), e.ID+"-"), "application/json", "weir"})
}

// receivers answer webhooks in memory.
type receivers struct {
	mu        sync.Mutex
	answer    func(r *http.Request) (status int, wait time.Duration)
	calls     []string // host and time
	bodies    [][]byte
	headers   []http.Header
	now, most map[string]int // requests at once, by host, and "" for all
}

func (s *receivers) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.now == nil {
		s.now, s.most = map[string]int{}, map[string]int{}
	}
	s.calls, s.bodies, s.headers = append(s.calls, r.URL.Host), append(s.bodies, body), append(s.headers, r.Header)
	for _, at := range []string{"", r.URL.Host} {
		s.now[at]++
		s.most[at] = max(s.most[at], s.now[at])
	}
	status, wait := s.answer(r)
	s.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
		err = r.Context().Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now[""]--
	s.now[r.URL.Host]--
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: http.NoBody, Header: http.Header{}, Request: r}, nil
}

// hookedLoop runs the loop in a synctest bubble until stop.
func hookedLoop(t *testing.T, answer func(*http.Request) (int, time.Duration)) (c *counter, s *receivers, stop func()) {
	t.Helper()
	c, s = hooked(t), &receivers{answer: answer}
	c.jobs.SetWebhookTransport(s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.jobs.DeliverWebhooks(ctx) }()
	return c, s, func() { cancel(); <-ended }
}

func (c *counter) endWith(state job.State, webhook string) *job.Job {
	c.create(func(j *job.Job) { j.Webhook = webhook })
	j := c.claim()
	c.finish(j, job.Outcome{State: state, Expires: c.now().Add(24 * time.Hour), Result: &job.Result{Status: 200, Body: []byte("secret")}})
	return j
}

func TestWebhooksAreTriedForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		var begun time.Time
		c, s, stop := hookedLoop(t, func(*http.Request) (int, time.Duration) {
			at = append(at, time.Since(begun))
			return 503, 3 * time.Second
		})
		defer stop()
		begun = time.Now()
		c.endWith(job.Discarded, "https://a.example/")
		time.Sleep(30 * time.Hour)
		synctest.Wait()
		want := []time.Duration{0, 5 * time.Second, 65 * time.Second, 365 * time.Second, 2165 * time.Second, 9365 * time.Second, 30965 * time.Second, 88565 * time.Second}
		isEqual(t, "tries", len(at), len(want))
		for i, w := range want {
			late := at[i] - w
			if i > 0 {
				late -= (w - want[i-1]) / 10
			}
			if at[i] < w || late > 2*time.Second {
				t.Errorf("try %d at %v, want %v and up to a tenth of the wait later", i+1, at[i], w)
			}
		}
		for i := range s.bodies {
			isEqual(t, "id and body of each try", []string{s.headers[i].Get("Webhook-Id"), string(s.bodies[i])}, []string{s.headers[0].Get("Webhook-Id"), string(s.bodies[0])})
		}
		if a, b := s.headers[0].Get("Webhook-Timestamp"), s.headers[7].Get("Webhook-Timestamp"); a == b {
			t.Errorf("the time of the first and the last try is %s", a)
		}
	})
}

func TestWebhookPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, stop := hookedLoop(t, func(*http.Request) (int, time.Duration) { return 204, 0 })
		defer stop()
		j := c.endWith(job.Completed, "https://a.example/")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		id := c.create(func(j *job.Job) { j.Webhook = "https://a.example/" }).ID
		isEqual(t, "cancel", c.ask("key:alice", "DELETE", "/jobs/"+id).Code, 200)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(s.bodies) != 2 {
			t.Fatalf("%d webhooks, want one for each job", len(s.bodies))
		}
		isEqual(t, "completed", string(s.bodies[0]), `{"type":"job.completed","timestamp":"2000-01-01T00:00:00Z","data":{"id":"`+j.ID+
			`","state":"completed","queue_position":null,"progress":{"bytes":0,"events":0},"attempt":1,"created":"2000-01-01T00:00:00Z","started":"2000-01-01T00:00:00Z","finished":"2000-01-01T00:00:00Z","expires":"2000-01-02T00:00:00Z","result":"/jobs/`+j.ID+`/result"}}`)
		isEqual(t, "cancelled", string(s.bodies[1][:25]), `{"type":"job.cancelled","`)
		isEqual(t, "shows no result", bytes.Contains(s.bodies[0], []byte("secret")), false)
	})
}

func TestWebhooksThatAreNotTriedAgain(t *testing.T) {
	for _, status := range []int{200, 202, 299, 410} {
		t.Run(fmt.Sprintf("%d ends it", status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s, stop := hookedLoop(t, func(*http.Request) (int, time.Duration) { return status, 0 })
				defer stop()
				c.endWith(job.Completed, "https://a.example/")
				time.Sleep(3 * time.Hour)
				synctest.Wait()
				isEqual(t, "tries", len(s.calls), 1)
			})
		})
	}
}

func TestASlowReceiverHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, stop := hookedLoop(t, func(r *http.Request) (int, time.Duration) {
			if r.URL.Host == "slow.example" {
				return 200, 8 * time.Second
			}
			return 200, 100 * time.Millisecond
		})
		defer stop()
		for range 100 {
			c.endWith(job.Completed, "https://slow.example/")
		}
		for i := range 20 {
			c.endWith(job.Completed, fmt.Sprintf("https://host%d.example/", i))
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		s.mu.Lock()
		fast := len(slices.DeleteFunc(slices.Clone(s.calls), func(h string) bool { return h == "slow.example" }))
		isEqual(t, "others told within 4 s", fast, 20)
		s.mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		isEqual(t, "all told, the slow one too", len(s.calls), 120)
		if s.most["slow.example"] != 4 || s.most[""] > 16 {
			t.Errorf("%d at once for one host, %d for all: want 4, and at most 16", s.most["slow.example"], s.most[""])
		}
	})
}

func TestACallerWithSlowReceiversHoldsNobodyElseUp(t *testing.T) {
	for name, host := range map[string]func(n int) string{
		"at one host":                        func(int) string { return "slow.example" },
		"at any number of hosts of a domain": func(n int) string { return fmt.Sprintf("slow%d.example", n) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s, stop := hookedLoop(t, func(r *http.Request) (int, time.Duration) {
					if strings.HasPrefix(r.URL.Host, "slow") {
						return 200, 9 * time.Second
					}
					return 200, 100 * time.Millisecond
				})
				defer stop()
				for n := range 240 {
					c.endWith(job.Completed, "https://"+host(n)+"/")
				}
				time.Sleep(5 * time.Second)
				c.create(func(j *job.Job) { j.Caller, j.Webhook = "key:bob", "https://bob.example/" })
				c.finish(c.claim(), job.Outcome{State: job.Completed, Expires: c.now().Add(time.Hour)})
				time.Sleep(2 * time.Second)
				synctest.Wait()
				s.mu.Lock()
				if !slices.Contains(s.calls, "bob.example") {
					t.Errorf("bob is not told within 2 s, and %d of alice's are", len(s.calls))
				}
				if s.most[""] > 9 {
					t.Errorf("%d at once: want 8 of alice's, and bob's", s.most[""])
				}
				s.mu.Unlock()
				time.Sleep(time.Hour)
				synctest.Wait()
				isEqual(t, "all told", len(s.calls), 241)
			})
		})
	}
}

func TestManyCallersWithSlowReceiversHoldNobodyUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, stop := hookedLoop(t, func(r *http.Request) (int, time.Duration) {
			if r.URL.Host == "bob.example" {
				return 200, 0
			}
			return 200, 9 * time.Second
		})
		defer stop()
		end := func(caller, host string) {
			c.create(func(j *job.Job) { j.Caller, j.Webhook = caller, "https://"+host+"/" })
			c.finish(c.claim(), job.Outcome{State: job.Completed, Expires: c.now().Add(time.Hour)})
		}
		for n := range 10 * 60 {
			end(fmt.Sprint("key:", n%60), fmt.Sprintf("slow%d.example", n))
		}
		time.Sleep(5 * time.Second)
		end("key:bob", "bob.example")
		time.Sleep(8 * time.Second) // until those that run have ended, and some more
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if !slices.Contains(s.calls, "bob.example") {
			t.Errorf("bob is not told when all calls that ran have ended, and %d others are", len(s.calls))
		}
		if s.most[""] > 64 {
			t.Errorf("%d at once, want at most 64", s.most[""])
		}
	})
}

func TestWebhooksOfARetriedJobHaveAnotherID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, stop := hookedLoop(t, func(*http.Request) (int, time.Duration) { return 200, 0 })
		defer stop()
		j := c.endWith(job.Discarded, "https://a.example/")
		time.Sleep(2 * time.Second)
		if _, err := c.store.Retry(t.Context(), j.ID, c.now(), c.now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		c.finish(c.claim(), job.Outcome{State: job.Completed})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(s.headers) != 2 {
			t.Fatalf("told %d times, want each end once", len(s.headers))
		}
		first, second := s.headers[0].Get("Webhook-Id"), s.headers[1].Get("Webhook-Id")
		if first == second || !strings.HasPrefix(first, j.ID+"-") || !strings.HasPrefix(second, j.ID+"-") {
			t.Errorf("ids %q and %q: want two, of job %s", first, second, j.ID)
		}
	})
}

func TestWebhooksHave10Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began []time.Time
		c, s, stop := hookedLoop(t, func(*http.Request) (int, time.Duration) {
			began = append(began, time.Now())
			return 200, time.Hour
		})
		defer stop()
		c.endWith(job.Completed, "https://a.example/")
		time.Sleep(13 * time.Second)
		synctest.Wait()
		isEqual(t, "tries", len(s.calls), 2)
		if wait := began[1].Sub(began[0]); wait < 10*time.Second || wait > 13*time.Second {
			t.Errorf("the second try came %v after the first, want 10s and the second's wait", wait)
		}
	})
}

func TestStoppingPutsWebhooksBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, stop := hookedLoop(t, func(*http.Request) (int, time.Duration) { return 200, time.Hour })
		j := c.endWith(job.Completed, "https://a.example/")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		begun := time.Now()
		stop()
		isEqual(t, "stops at once", time.Since(begun), 0)
		due, err := c.store.Deliveries(t.Context(), job.Turn{Until: time.Now().Add(time.Minute), Max: 9}, time.Now())
		if err != nil || len(due) != 1 || due[0].Job.ID != j.ID {
			t.Errorf("%+v, %v: want it due for others at once", due, err)
		}
	})
}

// forgetful fails to write down what came of webhooks.
type forgetful struct {
	job.Store
	fail int
}

func (f *forgetful) Delivered(ctx context.Context, id string, attempt int, next time.Time) error {
	if f.fail--; f.fail >= 0 {
		return errors.New("away")
	}
	return f.Store.Delivered(ctx, id, attempt, next)
}

func TestWebhooksWhileTheStoreIsAway(t *testing.T) {
	for fail, want := range map[int]int{2: 1, 3: 2} {
		t.Run(fmt.Sprintf("%d failures to write it down make %d deliveries", fail, want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s *receivers
				c := newCounter(t, func(o *job.Options) {
					o.Store = &forgetful{o.Store, fail}
					o.Webhooks = &job.WebhookOptions{Secret: hookSecret}
				})
				s = &receivers{answer: func(*http.Request) (int, time.Duration) { return 200, 0 }}
				c.jobs.SetWebhookTransport(s)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { defer close(ended); c.jobs.DeliverWebhooks(ctx) }()
				c.endWith(job.Completed, "https://a.example/")
				time.Sleep(time.Hour)
				synctest.Wait()
				cancel()
				<-ended
				isEqual(t, "deliveries", len(s.calls), want)
			})
		})
	}
}
