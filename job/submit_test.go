package job_test

import (
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/job"
)

// asleep has no room for any job.
func asleep(o *job.Options) { o.Rooms = func() []job.Room { return nil } }

// send submits a request under a key.
func send(s *instance, key string, r job.Request) (*job.Job, bool, error) {
	return s.Submit(s.t.Context(), job.Submission{Caller: "key:a", Plan: "gold", Route: "r", IdempotencyKey: key, Request: r, Account: []byte("acc")})
}

func TestSubmit(t *testing.T) {
	inBubble(t, "keeps the whole job", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), asleep)
		defer s.close()
		j, created, err := send(s, "k", posted("{}"))
		if err != nil || !created {
			t.Fatal(created, err)
		}
		now := time.Now().UTC()
		want := &job.Job{ID: j.ID, Caller: "key:a", Plan: "gold", Route: "r", IdempotencyKey: "k", RequestHash: j.RequestHash, Account: []byte("acc"),
			State: job.Available, MaxAttempts: 3, NotBefore: now, Created: now, Expires: now.Add(24 * time.Hour), Request: posted("")}
		want.Request.Body = nil // not returned
		if got, err := store.Get(t.Context(), "key:a", j.ID); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
		}
	})
}

func TestIdempotencyKeys(t *testing.T) {
	inBubble(t, "gives the same job for the same request and key, and refuses another", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), asleep)
		defer s.close()
		first, _, err := send(s, "k", posted("{}"))
		if err != nil {
			t.Fatal(err)
		}
		again := posted("{}")
		again.ID, again.Host = "req-2", "other.example"
		again.Header = http.Header{"Content-Type": {"application/json"}, "User-Agent": {"other"}, "X-Request-Id": {"9"}, "Traceparent": {"00-1"},
			"Prefer": {"respond-async"}, "Idempotency-Key": {"k"}, "X-Stainless-Retry-Count": {"1"}, "Authorization": {"Bearer other"}}
		if j, created, err := send(s, "k", again); err != nil || created || j.ID != first.ID {
			t.Errorf("the same request gives %+v, created %v, %v", j, created, err)
		}
		if j, err := s.Find(t.Context(), "key:a", "k", again); err != nil || j.ID != first.ID {
			t.Errorf("Find gives %+v, %v", j, err)
		}
		for name, change := range map[string]func(*job.Request){
			"method": func(r *job.Request) { r.Method = "PUT" },
			"URI":    func(r *job.Request) { r.URI += "0" },
			"body":   func(r *job.Request) { r.Body = []byte("{ }") },
			"type":   func(r *job.Request) { r.Header = http.Header{"Content-Type": {"text/plain"}} },
			"field":  func(r *job.Request) { r.Header = http.Header{"Content-Type": {"application/json"}, "X-Model": {"b"}} },
			"values": func(r *job.Request) { r.Header = http.Header{"Content-Type": {"application/json", ""}} },
		} {
			r := posted("{}")
			change(&r)
			if _, _, err := send(s, "k", r); !errors.Is(err, job.ErrConflict) {
				t.Errorf("another %s gives %v, want ErrConflict", name, err)
			}
			if _, err := s.Find(t.Context(), "key:a", "k", r); !errors.Is(err, job.ErrConflict) {
				t.Errorf("Find with another %s gives %v, want ErrConflict", name, err)
			}
		}
		if _, err := s.Find(t.Context(), "key:b", "k", again); !errors.Is(err, job.ErrNotFound) {
			t.Errorf("another caller finds %v, want ErrNotFound", err)
		}
		if _, err := s.Find(t.Context(), "key:a", "", again); !errors.Is(err, job.ErrNotFound) {
			t.Errorf("no key finds %v, want ErrNotFound", err)
		}
	})
}

func TestSubmitRefuses(t *testing.T) {
	inBubble(t, "a job too many", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), asleep, func(o *job.Options) { o.Bounds.CallerJobs = 1 })
		defer s.close()
		s.submit()
		if _, _, err := send(s, "", posted("")); !errors.Is(err, job.ErrFull) {
			t.Errorf("%v, want ErrFull", err)
		}
	})
	inBubble(t, "where the store is away, after asking twice", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), asleep)
		defer s.close()
		s.store.loseNext("Create", 2)
		if _, _, err := send(s, "", posted("")); !errors.Is(err, errCut) || s.store.calls("Create") != 2 {
			t.Errorf("%v after %d calls", err, s.store.calls("Create"))
		}
		if _, created, err := send(s, "", posted("")); err != nil || !created {
			t.Errorf("created %v, %v once it is back", created, err)
		}
	})
	inBubble(t, "what cannot be run", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), asleep)
		defer s.close()
		f := func(change func(*job.Submission), want string) {
			t.Helper()
			sub := job.Submission{Caller: "key:a", Route: "r", Request: posted("")}
			change(&sub)
			if _, _, err := s.Submit(t.Context(), sub); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		f(func(s *job.Submission) { s.Caller = "" }, "Submission.Caller is empty")
		f(func(s *job.Submission) { s.Route = "" }, "Submission.Route is empty")
		f(func(s *job.Submission) { s.Request.Method = "" }, "Method is empty")
		f(func(s *job.Submission) { s.Request.URI = "http://a/" }, `URI: "http://a/": want a path`)
		f(func(s *job.Submission) { s.Account = make([]byte, 64<<10+1) }, "Account: 65537 bytes: at most 65536")
		f(func(s *job.Submission) { s.Webhook = "https://example.com/" }, "webhook")
	})
}

func TestCredentialsAreNotStored(t *testing.T) {
	inBubble(t, "whatever they are called", func(t *testing.T, store job.Store) {
		s := openAt(t, store, replying(200, ""), func(o *job.Options) { o.Rooms = func() []job.Room { return nil } })
		defer s.close()
		r := posted("{}")
		kept := http.Header{"Content-Type": {"application/json"}, "Accept": {"a", "b"}, "Idempotency-Key": {"k"}, "X-Model": {"m"}, "Openai-Beta": {"x"}}
		r.Header = kept.Clone()
		for _, name := range []string{
			"Authorization", "authorization", "AUTHORIZATION", "Proxy-Authorization", "Cookie", "cookie", "Cookie2", "X-Api-Key", "x-api-key", "Api-Key",
			"Apikey", "X-Goog-Api-Key", "X-Auth-Token", "X-Amz-Security-Token", "X-Access-Token", "Ocp-Apim-Subscription-Key", "X-Client-Secret",
			"X-Forwarded-Client-Cert", "X-Password", "X-Original-Authorization", "X-Jwt-Assertion", "X-Csrf-Token", "Weir-Store", "X-Weir-Caller",
			"Prefer", "Expect", "X-Request-Timeout", "Connection", "Keep-Alive", "Te", "Transfer-Encoding", "Upgrade", "Content-Length", "X-Named",
		} {
			r.Header[name] = []string{"hush"}
		}
		r.Header["Connection"] = []string{"close, x-named"}
		r.URI = "/v1/x?y=1&access_token=hush&api%5Fkey=hush&z=%zz"
		sent := r.Header.Clone()
		j, _, err := s.Submit(t.Context(), job.Submission{Caller: "key:a", Route: "r", Request: r})
		if err != nil {
			t.Fatal(err)
		}
		got, err := store.Get(t.Context(), "", j.ID)
		if err != nil || !reflect.DeepEqual(got.Request.Header, kept) || got.Request.URI != "/v1/x?y=1&z=%zz" {
			t.Errorf("kept %v, %q, %v\nwant %v", got.Request.Header, got.Request.URI, err, kept)
		}
		if !reflect.DeepEqual(r.Header, sent) {
			t.Errorf("the caller's own header became %v", r.Header)
		}
	})
}
