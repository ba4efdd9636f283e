package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/inferweir/weir"
)

const (
	// fetchTimeout bounds one fetch: discovery and keys together.
	fetchTimeout = 5 * time.Second
	// maxDocument bounds what the issuer may answer, in bytes.
	maxDocument = 1 << 20
	// renewAfter is the age at which keys are fetched again while they are still
	// used, keysFor the age at which a token waits for newer ones.
	renewAfter, keysFor = keysFor / 2, 5 * time.Minute
	// staleFor is how long keys are used while the issuer does not answer. When it
	// is over hardly a token is left: an issuer that is down gives out no new ones.
	staleFor = time.Hour
	// discoveryFor is how long the place of the keys is believed.
	discoveryFor = time.Hour
	// fetchEvery is the least time between fetches. Unknown key IDs cost nothing
	// to invent, and each asks for newer keys.
	fetchEvery = 10 * time.Second
	// A failed fetch is tried again after minBackoff, and after twice the time
	// with each further failure, up to maxBackoff.
	minBackoff, maxBackoff = time.Second, 30 * time.Second
)

// source has an issuer's keys. It fetches them when a token needs them, never by
// itself, and never twice at once: whoever needs them waits for the same fetch.
//
// It does what oidc.RemoteKeySet does, except that this fetches for every unknown
// key ID and every bad signature, without a bound in time or size.
type source struct {
	issuer, jwksURL string
	client          *http.Client
	// ctx ends with close; running are the fetches, at most one.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// keys are those of the last fetch that succeeded, nil before the first.
	keys *keySet
	// fetching is closed when the fetch under way has ended, nil if there is none.
	fetching chan struct{}
	// No fetch begins before next. err is why the last one failed, failures how
	// many did since the last success.
	next     time.Time
	err      error
	failures int
	// found is where discovery found the keys, at foundAt.
	found   string
	foundAt time.Time
}

func newSource(j JWT) *source {
	s := &source{issuer: j.Issuer, jwksURL: j.JWKSURL, client: newClient(j.HTTPClient)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// get returns the issuer's keys. If they do not suffice, because the token is
// signed with none of them, not is what get returned before: then get tries to
// find newer ones, and returns not if there are none. The Problem says that
// nobody can know at the moment.
func (s *source) get(ctx context.Context, not *keySet) (*keySet, *weir.Problem) {
	now := time.Now()
	s.mu.Lock()
	if keys := s.keys; keys != nil && keys != not {
		age := now.Sub(keys.fetched)
		if age >= renewAfter {
			s.fetchLocked(now)
		}
		// After a failure nobody waits any more for an issuer that may hang.
		if age < keysFor || age < staleFor && s.err != nil {
			s.mu.Unlock()
			return keys, nil
		}
	}
	fetching := s.fetchLocked(now)
	s.mu.Unlock()
	if fetching != nil {
		select {
		case <-fetching:
		case <-ctx.Done():
			if p := weir.Ended(ctx); p != nil {
				return nil, p
			}
			return nil, unavailable(minBackoff, context.Cause(ctx))
		}
	}
	return s.known(not)
}

// known returns the keys as they are, without asking for others.
func (s *source) known(not *keySet) (*keySet, *weir.Problem) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.keys != nil && s.keys != not && now.Sub(s.keys.fetched) < staleFor:
		return s.keys, nil
	case s.keys != nil && s.keys == not && s.err == nil:
		return s.keys, nil
	}
	return nil, unavailable(s.next.Sub(now), s.err)
}

// fetchLocked joins the fetch that is under way, or begins one, and returns what
// is closed when it has ended; nil if it is too early for another.
func (s *source) fetchLocked(now time.Time) <-chan struct{} {
	if s.fetching == nil && !s.closed && !now.Before(s.next) {
		s.fetching = make(chan struct{})
		s.running.Go(s.fetch)
	}
	return s.fetching
}

// fetch gets the issuer's keys. It is bounded by fetchTimeout and by close, not
// by the request that needed it: others wait for it too.
func (s *source) fetch() {
	ctx, cancel := context.WithTimeout(s.ctx, fetchTimeout)
	defer cancel()
	keys, err := s.fetchKeys(ctx)

	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.keys, s.failures, s.next = keys, 0, now.Add(fetchEvery)
	} else {
		s.next = now.Add(min(minBackoff<<min(s.failures, 10), maxBackoff))
		s.failures++
		s.found = "" // the keys may have moved
	}
	close(s.fetching)
	s.fetching = nil
}

func (s *source) fetchKeys(ctx context.Context) (*keySet, error) {
	where, err := s.where(ctx)
	if err != nil {
		return nil, fmt.Errorf("discovery at %s: %w", s.issuer, short(err))
	}
	keys, err := s.fetchFrom(ctx, where)
	if err != nil {
		return nil, fmt.Errorf("keys at %s: %w", where, short(err))
	}
	return keys, nil
}

// where returns the place of the keys.
func (s *source) where(ctx context.Context) (string, error) {
	if s.jwksURL != "" {
		return s.jwksURL, nil
	}
	now := time.Now()
	s.mu.Lock()
	found, age := s.found, now.Sub(s.foundAt)
	s.mu.Unlock()
	if found != "" && age < discoveryFor {
		return found, nil
	}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, s.client), s.issuer)
	if err != nil {
		return "", err
	}
	var document struct {
		JWKSURL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil {
		return "", err
	}
	found = document.JWKSURL
	switch secure := strings.HasPrefix(s.issuer, "https:"); {
	case !isWeb(found):
		return "", fmt.Errorf("jwks_uri: %.200q: want a URL", found)
	case secure && !strings.HasPrefix(found, "https:"):
		return "", fmt.Errorf("jwks_uri: %.200q: want https, as the issuer has", found)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found, s.foundAt = found, now
	return found, nil
}

func (s *source) fetchFrom(ctx context.Context, where string) (*keySet, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	r.Header.Set("Cache-Control", "no-cache") // a cache on the way may not know a new key yet
	answer, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(answer.Status)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	return parseKeySet(text, time.Now())
}

// short cuts the text of an error that may quote the issuer's whole answer.
func short(err error) error {
	if text := err.Error(); len(text) > 300 {
		return errors.New(strings.ToValidUTF8(text[:300], "") + "...")
	}
	return err
}

// close ends the fetch that is under way and lets no other begin.
func (s *source) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.running.Wait()
}

// unavailable is the answer to a token that cannot be checked. It is a 503 and
// not a 401, on which clients throw good tokens away.
func unavailable(wait time.Duration, err error) *weir.Problem {
	if err == nil {
		err = errors.New("the issuer's keys are not known")
	}
	return &weir.Problem{
		Status:     http.StatusServiceUnavailable,
		Type:       weir.TypeReducedCapacity,
		Title:      "Token cannot be checked",
		Detail:     "The issuer of the presented token does not answer, so that the token cannot be checked. Try again later.",
		RetryAfter: max(wait, minBackoff),
		Err:        err,
	}
}

// newClient is a copy of given that reads at most maxDocument of an answer, and
// does not follow redirects from https to http.
func newClient(given *http.Client) *http.Client {
	var c http.Client
	if given != nil {
		c = *given
	} else {
		// Minutes pass between fetches: a connection kept for the next would only
		// be one more thing to close.
		c.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	c.Transport = bounded{c.Transport}
	if c.CheckRedirect == nil {
		c.CheckRedirect = checkRedirect
	}
	return &c
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 3:
		return errors.New("more than 3 redirects")
	case via[0].URL.Scheme == "https" && r.URL.Scheme != "https":
		return errors.New("redirected from https to " + r.URL.Scheme)
	}
	return nil
}

// bounded is a transport whose answers end with an error after maxDocument.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxDocument)
	}
	return answer, err
}
