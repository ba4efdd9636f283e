package ratelimit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir"
)

// The defaults of TransportOptions.
const (
	DefaultMaxWait  = time.Minute
	DefaultAttempts = 3
)

const (
	// maxLessons bounds how many keys a Transport remembers something about.
	maxLessons = 1024
	// maxRefusal is how much of a refusal's body is read before it is tried
	// again, so that its connection can be used again.
	maxRefusal = 16 << 10
	// maxRefusalTime is how long that may take.
	maxRefusalTime = 100 * time.Millisecond
	// maxBackoff is the longest wait where a refusal asks to come back and does
	// not say when. The first is half a second, each further one doubles.
	maxBackoff = 8 * time.Second
	// maxGuess is the longest first guess of the time between two requests
	// after a closure.
	maxGuess = time.Second
	// settleTime is how long a store may take to get units back.
	settleTime = time.Second
)

// TransportOptions say how a Transport holds back. The zero value obeys what
// servers say and has no quota of its own.
type TransportOptions struct {
	// Base sends the requests. nil means http.DefaultTransport. Its answers' bodies
	// must allow Close to be called during a Read, and Close must end that Read, as
	// with http.Transport: so ends a refusal that is not complete in time.
	Base http.RoundTripper
	// Policies are the caller's own quotas. Every attempt takes from all of them
	// or is not sent. None means no quota of one's own. Names are given as in
	// Options. A count belongs to a Key: each server and account has its own.
	Policies []Policy
	// Store keeps the counts of Policies. nil means a memory store of
	// DefaultKeys; with a shared store several processes share the quota.
	Store Store
	// Cost says how many units a request takes from every policy. nil means 1.
	// A cost above a burst is an error at once.
	Cost func(*http.Request) int64
	// FailOpen sends requests that the store could not decide. Without it they
	// fail with a *weir.Problem of status 503.
	FailOpen bool
	// Key says which quota at the server a request draws on: what one answer
	// teaches holds for all requests of its key. nil means ByServer.
	Key func(*http.Request) string
	// MaxWait is the longest that one request waits, all its waits together,
	// without the time that its answers take, of which the body of a refusal that
	// is tried again gets 100 milliseconds. 0 means DefaultMaxWait, less than
	// 0 never waits. A request that would wait longer returns at once: with the
	// server's refusal if it got one, else with a *weir.Problem of status 429.
	MaxWait time.Duration
	// Attempts is how often one request is sent at most. 0 means
	// DefaultAttempts, 1 never sends again.
	Attempts int
	// Observe, if not nil, is told of every attempt. It must not block.
	Observe func(TransportEvent)
}

// A TransportEvent is one attempt: it was answered, or not sent.
type TransportEvent struct {
	// Key is what Key said of the request.
	Key string
	// Attempt counts from 1.
	Attempt int
	// Waited is how long the request waited, for all attempts up to this one.
	Waited time.Duration
	// Status is the status of the answer, 0 if there was none.
	Status int
	// RetryAfter is the wait that a refusal asked for, 0 if it named none.
	RetryAfter time.Duration
	// Again says that the answer was a refusal and the request is tried again.
	Again bool
	// Err is why there was no answer.
	Err error
}

// Transport is an http.RoundTripper that stays within quotas: its own, and those
// that servers tell of. It waits before it sends, shares what an answer taught
// among all requests of the same key, and sends a request again that was refused
// with 429, 503 or 529 and with advice when to come back.
//
// It is for clients that would rather be late than refused. It has no priorities:
// who waits for the same key is sent in the order of arrival. What it learned
// lives in this process; to share it, put a gateway in front of the server.
//
// A Transport is safe for concurrent use and starts no goroutines, but to close
// the body of a refusal that does not end by itself.
type Transport struct {
	options TransportOptions
	own     *Limiter // nil without policies
	most    int64    // the cost that no policy refuses for ever

	mu      sync.Mutex // guards lessons
	lessons map[string]*lesson
}

// NewTransport checks the options and makes a Transport.
func NewTransport(o TransportOptions) (*Transport, error) {
	if o.Attempts < 0 {
		return nil, fmt.Errorf("ratelimit: attempts: %d: want at least 1, or 0 for %d", o.Attempts, DefaultAttempts)
	}
	if o.Base == nil {
		o.Base = http.DefaultTransport
	}
	if o.Key == nil {
		o.Key = ByServer
	}
	if o.Attempts == 0 {
		o.Attempts = DefaultAttempts
	}
	if o.MaxWait == 0 {
		o.MaxWait = DefaultMaxWait
	}
	o.MaxWait = max(o.MaxWait, 0)
	if o.Store == nil && len(o.Policies) > 0 {
		o.Store = NewMemoryStore(0)
	}
	t := &Transport{options: o, most: math.MaxInt64, lessons: map[string]*lesson{}}
	if len(o.Policies) == 0 {
		return t, nil
	}
	for i, p := range o.Policies {
		if p.Concurrent > 0 {
			return nil, fmt.Errorf("ratelimit: policies[%d]: concurrent: %d: a Transport does not know when an answer has been read: bound connections with http.Transport.MaxConnsPerHost", i, p.Concurrent)
		}
	}
	own, err := New(Options{Policies: o.Policies, Store: o.Store, FailOpen: o.FailOpen})
	if err != nil {
		return nil, err
	}
	t.own = own
	for _, p := range o.Policies {
		prepared, err := p.Prepare()
		if err != nil { // New prepared the same
			return nil, fmt.Errorf("ratelimit: %w", err)
		}
		t.most = min(t.most, (&Take{Policy: prepared}).Burst())
	}
	return t, nil
}

// ByServer is the key of requests to one server by one account: scheme and host,
// and a SHA-256 of the credentials in Authorization, X-Api-Key and Api-Key, so
// that two accounts never share a lesson and no store sees a credential. A server
// that takes credentials elsewhere, in a cookie or the URL, needs its own Key.
func ByServer(r *http.Request) string {
	if r.URL == nil {
		return ""
	}
	key := strings.ToLower(r.URL.Scheme) + "://" + strings.ToLower(r.URL.Host)
	h := sha256.New()
	found := false
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Key"} {
		for _, v := range r.Header[name] {
			found = true
			// The length in front keeps name and value apart from the next.
			_, _ = fmt.Fprintf(h, "%s %d %s", name, len(v), v)
		}
	}
	if !found {
		return key
	}
	return key + " " + hex.EncodeToString(h.Sum(nil))
}

// CloseIdleConnections closes those of Base, if it can.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.options.Base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// ticketField is what a server that queues requests gives who it refuses: brought
// back at the time that it named, it has the request go first. Weir does.
const ticketField = "X-Queue-Ticket"

// maxTicket bounds what is sent back.
const maxTicket = 1 << 10

// RoundTrip implements http.RoundTripper. It returns the last answer, which can
// be a refusal; a *weir.Problem of status 429 for a request that was not sent
// because it would wait too long, 503 where the store failed; the context's error
// as soon as it ends; or the error of Base. It does not change r, and closes its
// body in every case.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	c := &trip{t: t, req: r, unsent: true, cost: 1, attempt: 1}
	defer c.close()
	c.key = t.options.Key(r)
	if t.options.Cost != nil {
		c.cost = t.options.Cost(r)
	}
	c.lesson = t.lesson(c.key)
	for ; ; c.attempt++ {
		if err := c.clear(); err != nil {
			return c.giveUp(err)
		}
		c.unsent = false // Base closes the body
		resp, err := t.options.Base.RoundTrip(c.req)
		if err != nil || resp == nil {
			c.lesson.unanswered(c.turn, time.Now())
			c.observe(TransportEvent{Err: err})
			return resp, err
		}
		now := time.Now()
		a := readAdvice(resp, now)
		c.lesson.learn(c.turn, a, now)
		again := c.prepare(resp, a)
		c.observe(TransportEvent{Status: resp.StatusCode, RetryAfter: a.wait, Again: again})
		if !again {
			return resp, nil
		}
	}
}

// trip is one request on its way.
type trip struct {
	t       *Transport
	lesson  *lesson
	key     string
	cost    int64
	req     *http.Request // the next to be sent
	unsent  bool          // its body is ours to close
	attempt int
	waited  time.Duration
	pause   time.Duration // before the next attempt, where the server named no time
	turn    turn
	refusal *http.Response // the last one, with its body in memory
}

func (c *trip) close() {
	if c.unsent && c.req.Body != nil {
		_ = c.req.Body.Close() // nobody reads it
	}
}

func (c *trip) observe(e TransportEvent) {
	if c.t.options.Observe == nil {
		return
	}
	e.Key, e.Attempt, e.Waited = c.key, c.attempt, c.waited
	c.t.options.Observe(e)
}

// giveUp returns what there is instead of an answer: the server's own refusal is
// worth more than ours, but not more than the end of the context.
func (c *trip) giveUp(err error) (*http.Response, error) {
	c.observe(TransportEvent{Err: err})
	if c.refusal != nil && c.req.Context().Err() == nil {
		return c.refusal, nil
	}
	return nil, err
}

// left is how long the call may still wait.
func (c *trip) left() time.Duration { return c.t.options.MaxWait - c.waited }

// clear waits until the call may be sent, with its cost taken and its turn
// counted. A call that waits holds neither: a quota that is taken now and used a
// minute later would be exceeded then.
func (c *trip) clear() error {
	ctx := c.req.Context()
	if err := c.sleep(c.pause); err != nil {
		return err
	}
	for held := false; ; {
		if err := ctx.Err(); err != nil {
			c.putBack(held, nil)
			return err
		}
		takes, wait, err := c.takeOwn(held)
		if err != nil {
			c.putBack(held, nil)
			return err
		}
		if wait {
			c.putBack(held, nil)
			held = false
			if takes, err = c.waitOwn(); err != nil {
				return err
			}
		}
		if !held {
			held = c.lesson.pass(&c.turn, time.Now())
		}
		if held && ctx.Err() == nil {
			return nil
		}
		c.putBack(held, takes)
		if held {
			return ctx.Err()
		}
		start := time.Now()
		err = c.lesson.wait(ctx, &c.turn, start.Add(c.left()))
		c.waited += time.Since(start)
		if err != nil {
			return err
		}
		held = true
	}
}

// putBack gives back a turn, if one is held, and what was taken.
func (c *trip) putBack(held bool, takes []Take) {
	if held {
		c.lesson.putBack(c.turn, time.Now())
	}
	var back []Take
	for _, t := range takes {
		if t.Decision.Allowed && t.Cost > 0 { // else nothing was taken
			t.Cost = -t.Cost
			back = append(back, t)
		}
	}
	if len(back) == 0 {
		return
	}
	// The units go back even if the context is what ended the wait.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.req.Context()), settleTime)
	defer cancel()
	// Where the store fails the quota stays taken: too little is sent, not too much.
	_ = c.t.options.Store.Settle(ctx, back, time.Now())
}

// takeOwn takes from the caller's own policies. wait says that it has to wait
// for them, because they refused or because others wait already.
func (c *trip) takeOwn(held bool) (takes []Take, wait bool, err error) {
	own := c.t.own
	if own == nil {
		return nil, false, nil
	}
	if !held && len(c.lesson.line) > 0 && c.cost <= c.t.most {
		return nil, true, nil
	}
	takes, err = own.Take(c.req.Context(), c.key, c.cost)
	if p := quotaRefusal(err); p != nil && p.RetryAfter <= c.left() {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	return takes, false, nil
}

// quotaRefusal is the refusal in err if a quota refused and waiting helps.
func quotaRefusal(err error) *weir.Problem {
	p, ok := errors.AsType[*weir.Problem](err)
	if !ok || p.Status != http.StatusTooManyRequests || p.RetryAfter <= 0 {
		return nil
	}
	return p
}

// waitOwn waits in line for the caller's own policies. Only the first of the line
// asks the store, exactly when the store said to come back.
func (c *trip) waitOwn() ([]Take, error) {
	ctx := c.req.Context()
	start := time.Now()
	timer := time.NewTimer(c.left())
	defer timer.Stop()
	select {
	case c.lesson.line <- struct{}{}:
		defer func() { <-c.lesson.line }()
	case <-ctx.Done():
		c.waited += time.Since(start)
		return nil, ctx.Err()
	case <-timer.C:
		c.waited += time.Since(start)
		return nil, notSent(fmt.Sprintf("it waited %v for its turn at this client's own quota.", c.waited), 0)
	}
	c.waited += time.Since(start)
	for {
		takes, err := c.t.own.Take(ctx, c.key, c.cost)
		p := quotaRefusal(err)
		if p == nil || p.RetryAfter > c.left() {
			if err != nil {
				takes = nil
			}
			return takes, err
		}
		if err := c.sleep(p.RetryAfter); err != nil {
			return nil, err
		}
	}
}

func (c *trip) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	start := time.Now()
	defer func() { c.waited += time.Since(start) }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.req.Context().Done():
		return c.req.Context().Err()
	}
}

func notSent(why string, wait time.Duration) *weir.Problem {
	return &weir.Problem{
		Status:     http.StatusTooManyRequests,
		Type:       weir.TypeQuotaExceeded,
		Title:      "Quota exceeded",
		Detail:     "Request not sent: " + why,
		RetryAfter: wait,
	}
}

// prepare makes the call ready to be sent again, if the refusal resp and the
// limits of the call allow it.
func (c *trip) prepare(resp *http.Response, a advice) bool {
	if !a.refused || a.should == "false" || c.attempt >= c.t.options.Attempts {
		return false
	}
	c.pause = 0
	wait := c.lesson.told(time.Now())
	switch {
	case a.told && a.wait > 0:
	case a.told, a.should == "true": // come back, but when?
		c.pause = min(time.Second/2<<min(c.attempt-1, 10), maxBackoff)
		wait = max(wait, c.pause)
	default:
		return false
	}
	if wait > c.left() {
		return false
	}
	body := c.req.Body
	if body != nil && body != http.NoBody {
		if c.req.GetBody == nil {
			return false
		}
		var err error
		if body, err = c.req.GetBody(); err != nil {
			return false
		}
	}
	next := c.req.WithContext(c.req.Context()) // a copy: the caller's request stays
	next.Body = body
	if ticket := resp.Header[ticketField]; len(ticket) == 1 && len(ticket[0]) <= maxTicket {
		next.Header = next.Header.Clone()
		next.Header[ticketField] = ticket
	}
	c.req, c.unsent = next, true
	c.keep(resp, min(wait, maxRefusalTime))
	return true
}

// keep reads the refusal into memory and frees its connection. One that is too
// long, too slow, or breaks off, is dropped.
func (c *trip) keep(resp *http.Response, within time.Duration) {
	c.refusal = nil
	if resp.Body == nil {
		return
	}
	// A server can refuse at once and never end the body. Closing it ends a Read that
	// waits: net/http promises that of the bodies of requests only, but those of
	// http.Transport, by HTTP/1 and HTTP/2, compressed or not, are made for it.
	body := resp.Body
	slow := time.AfterFunc(within, func() { _ = body.Close() })
	text, err := io.ReadAll(io.LimitReader(body, maxRefusal+1))
	if !slow.Stop() {
		return // it is being closed; that can take its own time
	}
	_ = body.Close() // all that is wanted was read
	if err != nil || len(text) > maxRefusal {
		return
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	c.refusal = resp
}

// lesson gives the lesson of key. Where there are too many the one that is the
// first to be out of date makes room; who waits for it keeps it.
func (t *Transport) lesson(key string) *lesson {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lessons[key]
	if l != nil {
		return l
	}
	if len(t.lessons) >= maxLessons {
		var first string
		var least time.Time
		for k, l := range t.lessons {
			if at := l.expires(); first == "" || at.Before(least) {
				first, least = k, at
			}
		}
		delete(t.lessons, first)
	}
	l = &lesson{line: make(chan struct{}, 1)}
	t.lessons[key] = l
	return l
}
