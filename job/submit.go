package job

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Submission is a request that is to run later.
type Submission struct {
	// Caller is the ID of who sent it, Plan their plan, Route where it runs. Caller and
	// Route must not be empty.
	Caller, Plan, Route string
	// IdempotencyKey is the caller's own name for it, Webhook what is told of its end; ""
	// for none.
	IdempotencyKey, Webhook string
	// Request is what runs. Credentials in it are removed; better not to have them there.
	Request Request
	// Account is the first Account of the job. At most 64 KiB.
	Account []byte
}

// leastLife is how long a job may wait and run, where results are not kept for longer.
const leastLife = 24 * time.Hour

// createRetry is the pause before Create is asked a second time.
const createRetry = 100 * time.Millisecond

// Submit keeps a job, durably when it returns without an error, and has it claimed. Where
// the caller sent the same request under the same key before, that job is returned and
// created is false. The error is ErrConflict where the key came with another request,
// ErrFull where a bound is reached, one that names what is wrong with sub, or the
// store's, which is then away. It does not end with ctx: what happened to a job is
// known when it returns, unless the store failed twice while it wrote.
func (s *Jobs) Submit(ctx context.Context, sub Submission) (j *Job, created bool, err error) {
	if err := s.check(sub); err != nil {
		return nil, false, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, false, fmt.Errorf("job: make an ID: %w", err)
	}
	now := s.now()
	j = &Job{
		ID:             id.String(),
		Caller:         sub.Caller,
		Plan:           sub.Plan,
		Route:          sub.Route,
		IdempotencyKey: sub.IdempotencyKey,
		Request:        stored(sub.Request),
		Account:        sub.Account,
		State:          Available,
		MaxAttempts:    s.o.Attempts,
		NotBefore:      now,
		Created:        now,
		Expires:        now.Add(max(s.o.ResultTTL, leastLife)),
		Webhook:        sub.Webhook,
	}
	j.RequestHash = hashOf(j.Request)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	kept, created, err := s.create(ctx, j)
	if err != nil {
		return nil, false, err
	}
	if created {
		s.o.Observe(Event{Kind: EventSubmitted, ID: kept.ID, Caller: kept.Caller, Route: kept.Route, State: kept.State})
		s.Wake()
	}
	return kept, created, nil
}

// create asks the store twice where it fails: it may have kept the job and lost its
// answer, and then gives the same one again.
func (s *Jobs) create(ctx context.Context, j *Job) (kept *Job, created bool, err error) {
	kept, created, err = s.o.Store.Create(ctx, j, s.o.Bounds)
	if s.answered("Create", err); !away(err) {
		return kept, created, err
	}
	if err := pause(ctx, createRetry); err != nil {
		return nil, false, err
	}
	kept, created, err = s.o.Store.Create(ctx, j, s.o.Bounds)
	if s.answered("Create", err); err != nil {
		return nil, false, err
	}
	return kept, created || kept.ID == j.ID, nil
}

func (s *Jobs) check(sub Submission) error {
	switch {
	case sub.Caller == "":
		return errors.New("job: Submission.Caller is empty: want who sent the request")
	case sub.Route == "":
		return errors.New("job: Submission.Route is empty: want where the request runs")
	case sub.Request.Method == "":
		return errors.New("job: Submission.Request.Method is empty: want for example POST")
	case !strings.HasPrefix(sub.Request.URI, "/"):
		return fmt.Errorf("job: Submission.Request.URI: %.100q: want a path, for example /v1/completions", sub.Request.URI)
	case len(sub.Account) > maxAccount:
		return fmt.Errorf("job: Submission.Account: %d bytes: at most %d", len(sub.Account), maxAccount)
	case sub.Webhook != "":
		return s.CheckWebhook(sub.Webhook)
	}
	return nil
}

// Find returns the caller's job with an idempotency key. The error is ErrNotFound where
// there is none, ErrConflict where it is of another request than r, or the store's.
func (s *Jobs) Find(ctx context.Context, caller, idempotencyKey string, r Request) (*Job, error) {
	if idempotencyKey == "" {
		return nil, ErrNotFound
	}
	j, err := s.o.Store.FindKey(ctx, caller, idempotencyKey)
	if ctx.Err() == nil {
		s.answered("FindKey", err)
	}
	if err != nil {
		return nil, err
	}
	if j.RequestHash != hashOf(stored(r)) {
		return nil, ErrConflict
	}
	return j, nil
}

// awaitPoll is how often Await looks for what other instances did.
const awaitPoll = 500 * time.Millisecond

// Await waits until j has ended, and returns it as it is then. Where ctx is over before,
// it returns the job as it was last seen, and ctx's error. A store that is away is
// waited for. The error is ErrNotFound where the job is gone.
func (s *Jobs) Await(ctx context.Context, j *Job) (*Job, error) {
	changed, stop := s.watch(j.ID)
	defer stop()
	poll := time.NewTimer(0)
	defer poll.Stop()
	for !j.State.Ended() {
		select {
		case <-ctx.Done():
			return j, ctx.Err()
		case <-changed:
		case <-poll.C:
		}
		now, err := s.o.Store.Get(ctx, "", j.ID)
		if err != nil && ctx.Err() != nil {
			return j, ctx.Err()
		}
		switch s.answered("Get", err); {
		case err == nil:
			j = now
		case errors.Is(err, ErrNotFound):
			return j, err
		}
		poll.Reset(awaitPoll)
	}
	return j, nil
}

// hopByHop are the fields that belong to one connection (RFC 9110, section 7.6.1), and
// those about the length of a body that is kept with its length.
func hopByHop() []string {
	return []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authentication-Info", "Content-Length", "Http2-Settings",
	}
}

// ours are the fields of a request that Weir has acted on when it becomes a job: what
// runs later must not ask for a job again, or for a deadline that has passed.
func ours() []string {
	return []string{"Prefer", "Expect", "X-Request-Timeout", "Max-Forwards"}
}

// IsCredential reports whether a field of a header, by its name, carries who the sender
// is. It rather takes a field too many: a job is stored, and may be read by who may read
// the store.
func IsCredential(field string) bool {
	name := strings.ReplaceAll(strings.ToLower(field), "_", "-")
	for _, part := range []string{
		"authorization", "authentication", "cookie", "api-key", "apikey", "secret", "password", "passwd", "signature",
		"credential", "subscription-key", "access-key", "private-key", "client-cert", "jwt", "assertion",
	} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return strings.HasSuffix(name, "token") || strings.HasSuffix(name, "-key") && name != "idempotency-key"
}

// IsCredentialParameter is IsCredential for a parameter of a query, where APIs take
// credentials under shorter names, too (RFC 6750, section 2.3, and what model APIs made
// of it).
func IsCredentialParameter(name string) bool {
	switch strings.ToLower(name) {
	case "key", "auth", "sig", "code", "pass", "pwd":
		return true
	}
	return IsCredential(name)
}

// isWeirs reports whether a field is one of Weir's own.
func isWeirs(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "weir-") || strings.HasPrefix(name, "x-weir-")
}

// stored is r as it may be kept: without the fields of its connection, without
// credentials, and without Weir's own.
func stored(r Request) Request {
	h := endToEnd(r.Header)
	maps.DeleteFunc(h, func(name string, _ []string) bool {
		return IsCredential(name) || isWeirs(name) || slices.Contains(ours(), textproto.CanonicalMIMEHeaderKey(name))
	})
	r.Header = h
	r.URI = withoutKeys(r.URI)
	return r
}

// withoutKeys removes the parameters of a query that are credentials by their names. The
// rest stays as it is.
func withoutKeys(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	pairs := strings.Split(query, "&")
	kept := slices.DeleteFunc(slices.Clone(pairs), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		return IsCredentialParameter(name)
	})
	if len(kept) == len(pairs) {
		return uri
	}
	if len(kept) == 0 {
		return path
	}
	return path + "?" + strings.Join(kept, "&")
}

// endToEnd returns a copy of h without the fields of one connection.
func endToEnd(h http.Header) http.Header {
	drop := make(map[string]bool)
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			drop[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	for _, name := range hopByHop() {
		drop[name] = true
	}
	kept := make(http.Header, len(h))
	for name, values := range h {
		if !drop[textproto.CanonicalMIMEHeaderKey(name)] {
			kept[name] = slices.Clone(values)
		}
	}
	return kept
}

// passing reports whether a field may differ between two sendings of one request: what
// clients and proxies write about the sending itself.
func passing(name string) bool {
	switch name = strings.ToLower(name); name {
	case "x-request-id", "x-correlation-id", "traceparent", "tracestate", "baggage", "b3", "x-amzn-trace-id",
		"x-cloud-trace-context", "idempotency-key", "user-agent", "date", "via", "forwarded", "x-real-ip",
		"accept-encoding", "priority", "referer", "cdn-loop", "true-client-ip":
		return true
	}
	for _, prefix := range []string{"x-forwarded-", "x-b3-", "x-stainless-", "sec-", "cf-", "x-envoy-", "x-datadog-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// hashOf is the RequestHash of a stored request: SHA-256 over its method, URI, fields
// and body, each with its length before it. Fields about the sending do not count, nor
// does the host: a retry by another name of the gateway is the same request.
func hashOf(r Request) [sha256.Size]byte {
	h := sha256.New()
	add(h, r.Method)
	add(h, r.URI)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if passing(name) {
			continue
		}
		add(h, textproto.CanonicalMIMEHeaderKey(name))
		addLen(h, len(r.Header[name]))
		for _, value := range r.Header[name] {
			add(h, value)
		}
	}
	addLen(h, len(r.Body))
	h.Write(r.Body)
	return [sha256.Size]byte(h.Sum(nil))
}

func add(h hash.Hash, text string) {
	addLen(h, len(text))
	h.Write([]byte(text))
}

func addLen(h hash.Hash, n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	h.Write(b[:])
}
