package ratelimit

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dunglas/httpsfv"
)

// The bounds of what an answer may teach. They are far beyond what an honest
// server says, and keep a wrong one from closing a key for ever.
const (
	maxAdvice     = 24 * time.Hour
	maxFieldBytes = 8 << 10
	maxItems      = 64
	maxLeft       = 1 << 40
)

// advice is what one answer says about the time after it.
type advice struct {
	refused bool          // 429 or 503: nothing was done for the request
	told    bool          // it says when to come back
	wait    time.Duration // that time, from receipt; 0 means at once
	should  string        // X-Should-Retry: "true", "false" or ""
	state   quotaState
}

// quotaState is what the RateLimit fields of an answer say.
type quotaState struct {
	present bool          // some form of the fields was there and made sense
	counted bool          // left and reset are known
	left    int64         // requests
	reset   time.Duration // until there are more
	pace    time.Duration // between requests in the long run; 0 is unknown
	blocked time.Duration // a policy of another unit has nothing left for so long
}

// statusOverloaded is what Anthropic's API, and Weir in its place, say for 503.
const statusOverloaded = 529

// readAdvice reads an answer that was received at now.
func readAdvice(resp *http.Response, now time.Time) advice {
	h := resp.Header
	a := advice{}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, statusOverloaded:
		a.refused = true
	}
	if age, ok := parseNumber(h.Get("Age")); !ok || age == 0 {
		// A stored answer tells what was left when it was stored.
		a.state = readState(h, now)
	}
	if !a.refused {
		return a
	}
	a.should = strings.ToLower(strings.TrimSpace(h.Get("X-Should-Retry")))
	a.wait, a.told = retryAfter(h, now)
	if s := a.state; !a.told && (s.blocked > 0 || s.counted && s.left == 0) {
		a.wait, a.told = s.blocked, true
		if s.counted && s.left == 0 {
			a.wait = max(a.wait, s.reset)
		}
	}
	return a
}

// retryAfter reads Retry-After-Ms, else Retry-After.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	if ms, ok := parseNumber(h.Get("Retry-After-Ms")); ok {
		return scale(ms, time.Millisecond), true
	}
	text := h.Get("Retry-After")
	if s, ok := parseNumber(text); ok {
		return scale(s, time.Second), true
	}
	if at, err := http.ParseTime(text); err == nil {
		return until(at, h, now), true
	}
	return 0, false
}

// parseNumber reads a number that is not negative: digits, and perhaps a
// fraction. Signs, exponents, NaN and infinity are no times.
func parseNumber(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 64 || strings.Trim(s, "0123456789.") != "" || strings.Count(s, ".") > 1 {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// scale gives n units, rounded up to a nanosecond, at most maxAdvice.
func scale(n float64, unit time.Duration) time.Duration {
	ns := math.Ceil(n * float64(unit))
	if ns >= float64(maxAdvice) {
		return maxAdvice
	}
	return time.Duration(ns)
}

// until is the time until at, which the server gave by its own clock: that is
// what its Date field shows, however wrong it goes. Without one the clocks are
// taken to agree.
func until(at time.Time, h http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxAdvice)
}

// readState reads the newest form of the RateLimit fields that is there.
func readState(h http.Header, now time.Time) quotaState {
	if s := structuredState(h); s.present {
		return s
	}
	for _, f := range [][2]string{
		{"Ratelimit-Remaining", "Ratelimit-Reset"},
		{"Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset"},
		{"X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
		{"X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
	} {
		left, ok := parseNumber(firstItem(h.Get(f[0])))
		if !ok {
			continue
		}
		if reset, ok := parseReset(firstItem(h.Get(f[1])), h, now); ok {
			return quotaState{present: true, counted: true, left: int64(min(left, maxLeft)), reset: reset}
		}
	}
	return quotaState{}
}

// firstItem cuts what older drafts allowed after the number: "9, 100;w=60". A
// date with a comma has no use here.
func firstItem(s string) string {
	if len(s) > maxFieldBytes {
		return ""
	}
	s, _, _ = strings.Cut(s, ",")
	s, _, _ = strings.Cut(s, ";")
	return strings.TrimSpace(s)
}

// Numbers from here on are points in time since 1970, in seconds and in
// milliseconds. Smaller ones are seconds from now: 15 years of them.
const (
	unixSeconds = 5e8
	unixMillis  = 5e11
)

// parseReset reads the forms that servers use: "30", "1.5", "1750000000",
// "6m0s", "12ms", "2026-01-02T15:04:05Z".
func parseReset(s string, h http.Header, now time.Time) (time.Duration, bool) {
	if n, ok := parseNumber(s); ok {
		switch {
		case n >= 1000*unixMillis: // the year 17814
			return 0, false
		case n >= unixMillis:
			return until(time.UnixMilli(int64(n)), h, now), true
		case n >= unixSeconds:
			return until(time.Unix(int64(n), 0), h, now), true
		}
		return scale(n, time.Second), true
	}
	if d, err := time.ParseDuration(s); err == nil {
		return min(d, maxAdvice), d >= 0
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return until(at, h, now), true
	}
	return 0, false
}

// quotaPolicy is an item of RateLimit-Policy.
type quotaPolicy struct {
	pace time.Duration
	unit string
}

// structuredState reads RateLimit and RateLimit-Policy of
// draft-ietf-httpapi-ratelimit-headers-10, and RateLimit of its draft 07:
// "limit=100, remaining=50, reset=30".
func structuredState(h http.Header) quotaState {
	field := h.Values("Ratelimit")
	if tooLong(field) {
		return quotaState{}
	}
	list, err := httpsfv.UnmarshalList(field)
	if err != nil {
		return dictionaryState(field)
	}
	policies := readPolicies(h.Values("Ratelimit-Policy"))
	var s quotaState
	for i, m := range list {
		item, ok := m.(httpsfv.Item)
		if !ok || i >= maxItems {
			continue
		}
		s.add(item, policies[itemName(item)])
	}
	return s
}

// add counts one item of RateLimit: the tightest policy of requests is counted
// down, one of another unit matters only when nothing is left of it.
func (s *quotaState) add(item httpsfv.Item, p quotaPolicy) {
	left, ok := integer(item.Params, "r")
	if !ok {
		return
	}
	s.present = true
	seconds, hasReset := integer(item.Params, "t")
	reset := scale(float64(seconds), time.Second)
	unit := unitOf(item.Params)
	if unit == "" {
		unit = p.unit
	}
	if unit != "" && unit != "request" && unit != Requests {
		if left == 0 && hasReset {
			s.blocked = max(s.blocked, reset)
		}
		return
	}
	if !hasReset {
		if left == 0 && p.pace == 0 {
			return // nothing is left, and nobody knows for how long
		}
		reset = p.pace
		if reset == 0 {
			reset = time.Second
		}
	}
	if !s.counted || left < s.left || left == s.left && reset > s.reset {
		s.counted, s.left, s.reset, s.pace = true, min(left, maxLeft), reset, p.pace
	}
}

func dictionaryState(field []string) quotaState {
	d, err := httpsfv.UnmarshalDictionary(field)
	if err != nil {
		return quotaState{}
	}
	left, ok1 := dictionaryInteger(d, "remaining")
	reset, ok2 := dictionaryInteger(d, "reset")
	if !ok1 || !ok2 {
		return quotaState{}
	}
	return quotaState{present: true, counted: true, left: min(left, maxLeft), reset: scale(float64(reset), time.Second)}
}

func dictionaryInteger(d *httpsfv.Dictionary, name string) (int64, bool) {
	m, _ := d.Get(name)
	item, ok := m.(httpsfv.Item)
	if !ok {
		return 0, false
	}
	n, ok := item.Value.(int64)
	return n, ok && n >= 0
}

func readPolicies(field []string) map[string]quotaPolicy {
	if tooLong(field) {
		return nil
	}
	list, err := httpsfv.UnmarshalList(field)
	if err != nil {
		return nil
	}
	policies := map[string]quotaPolicy{}
	for i, m := range list {
		item, ok := m.(httpsfv.Item)
		if !ok || i >= maxItems {
			continue
		}
		p := quotaPolicy{unit: unitOf(item.Params)}
		quota, ok1 := integer(item.Params, "q")
		window, ok2 := integer(item.Params, "w")
		if ok1 && ok2 && quota > 0 {
			// Rounded up: half a nanosecond early is early.
			p.pace = scale(float64(window)/float64(quota), time.Second)
		}
		policies[itemName(item)] = p
	}
	return policies
}

// itemName is the name of a policy. The draft wants a String; its own examples
// have Tokens.
func itemName(item httpsfv.Item) string {
	switch v := item.Value.(type) {
	case string:
		return v
	case httpsfv.Token:
		return string(v)
	}
	return ""
}

// unitOf is the unit that the parameters name: qu is the draft's, the others are
// for units that its registry lacks, such as tokens.
func unitOf(p *httpsfv.Params) string {
	for _, name := range []string{"weir-unit", "x-unit", "qu"} {
		v, _ := p.Get(name)
		switch v := v.(type) {
		case string:
			return v
		case httpsfv.Token:
			return string(v)
		}
	}
	return ""
}

func integer(p *httpsfv.Params, name string) (int64, bool) {
	v, _ := p.Get(name)
	n, ok := v.(int64)
	return n, ok && n >= 0
}

func tooLong(field []string) bool {
	n := 0
	for _, s := range field {
		n += len(s)
	}
	return n == 0 || n > maxFieldBytes
}

// lesson is what the answers of one key taught.
//
// Its queue is a turnstile: whoever has to wait stands in it, and only the first
// looks at the clock. After a closure the first goes as soon as the server
// allows, as a probe; the others follow one pace apart, until an answer says how
// many may go. The pace is the policy's window divided by its quota where the
// server describes its policies. Else it is a guess: a tenth of the closure, ten
// percent shorter after each answer, doubled by each new closure, and forgotten
// when nobody waits any more.
type lesson struct {
	line chan struct{} // held by who waits first for the caller's own policies

	mu       sync.Mutex // guards all below
	queue    list.List  // of chan struct{}: the first is woken by what changes its wait
	closed   time.Time  // nothing may be sent before: Retry-After
	blocked  time.Time  // likewise, but a newer answer may take it back
	counted  bool
	left     int64     // requests that may be sent, if counted
	least    int64     // the least that an answer said, since one could bring more
	reset    time.Time // when there are more
	spent    bool      // the server itself said that none are left
	pace     time.Duration
	guessed  bool
	next     time.Time // when the next may follow at pace
	epoch    uint64    // counts closures
	seq      uint64    // of the last turn
	taught   uint64    // likewise, when an answer last could bring more
	taughtAt int64     // and the second then
	flights  flights
}

func (l *lesson) expires() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expiresLocked()
}

// expiresLocked is when nothing of the lesson matters any more: after its last
// time, and as long again as the guessed pace came from.
func (l *lesson) expiresLocked() time.Time {
	return later(later(l.closed, l.blocked), later(l.reset, l.next)).Add(10 * l.pace)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// opensLocked is when the next turn is, and the part of it that the server
// itself told: the rest is caution.
func (l *lesson) opensLocked() (at, told time.Time) {
	told = later(l.closed, l.blocked)
	at = told
	if l.counted && l.left <= 0 {
		at = later(at, l.reset)
		if l.spent || l.flights.all == 0 { // else an answer may still bring better news
			told = at
		}
	}
	if l.pace > 0 && (!l.counted || l.left <= 0) {
		at = later(at, l.next)
	}
	return at, told
}

// told is how long the key stays closed, as the server said.
func (l *lesson) told(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, told := l.opensLocked()
	return max(told.Sub(now), 0)
}

// pass takes a turn, if it is now and nobody waits for one.
func (l *lesson) pass(t *turn, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue.Len() > 0 {
		return false
	}
	if now.After(l.expiresLocked()) {
		l.counted, l.pace = false, 0
	}
	if at, _ := l.opensLocked(); now.Before(at) {
		return false
	}
	l.takeLocked(t, now)
	return true
}

func (l *lesson) takeLocked(t *turn, now time.Time) {
	switch {
	case l.counted && l.left > 0:
		l.left--
	case l.pace > 0:
		l.next = now.Add(l.pace)
	}
	l.seq++
	*t = turn{epoch: l.epoch, seq: l.seq, second: l.flights.start(now)}
}

// wait takes a turn as soon as there is one, in the order of arrival.
func (l *lesson) wait(ctx context.Context, t *turn, deadline time.Time) error {
	news := make(chan struct{}, 1)
	l.mu.Lock()
	place := l.queue.PushBack(news)
	l.mu.Unlock()
	defer l.leave(place)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		wake, err := l.look(place, t, deadline)
		if wake.IsZero() || err != nil {
			return err
		}
		timer.Reset(wake.Sub(now))
		select {
		case <-timer.C:
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look takes the turn of the first in the queue, or says when to look again.
func (l *lesson) look(place *list.Element, t *turn, deadline time.Time) (wake time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	at, told := l.opensLocked()
	first := l.queue.Front() == place
	if first && !now.Before(at) {
		l.takeLocked(t, now)
		return time.Time{}, nil
	}
	if told.After(deadline) {
		wait := told.Sub(now)
		return time.Time{}, notSent(fmt.Sprintf("the server is closed for another %v, and no request waits so long.", wait.Round(time.Millisecond)), wait)
	}
	if !now.Before(deadline) {
		return time.Time{}, notSent("it waited for its turn, and there were too many in front of it.", max(at.Sub(now), 0))
	}
	if first && at.Before(deadline) {
		return at, nil
	}
	return deadline, nil
}

// leave takes a place out of the queue and tells who comes next.
func (l *lesson) leave(place *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.Remove(place)
	l.newsLocked()
}

// newsLocked lets the first of the queue look again.
func (l *lesson) newsLocked() {
	if place := l.queue.Front(); place != nil {
		select {
		case place.Value.(chan struct{}) <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// putBack undoes a turn that was not used.
func (l *lesson) putBack(t turn, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights.end(t, now)
	// Whether it was counted down by its own turn or subtracted later as one
	// under way, it is one more now.
	if l.counted && t.epoch == l.epoch {
		l.left++
	}
	l.newsLocked()
}

// unanswered ends a turn that nothing was learned from.
func (l *lesson) unanswered(t turn, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights.end(t, now)
	l.newsLocked()
}

// learn ends a turn with its answer.
func (l *lesson) learn(t turn, a advice, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flights.end(t, now)
	switch current := t.epoch == l.epoch; {
	case a.refused && a.told && a.wait > 0:
		l.closed = later(l.closed, now.Add(a.wait))
		if current { // of all refusals of one burst the first sets the pace
			l.epoch++
			l.counted, l.blocked = false, time.Time{}
			l.slowLocked(a)
		}
	case current:
		if l.guessed && !a.refused {
			l.pace -= l.pace / 10
		}
		if a.state.present {
			l.countLocked(t, a.state, now)
		}
	}
	l.newsLocked()
}

// slowLocked sets the pace after a closure.
func (l *lesson) slowLocked(a advice) {
	s := a.state
	if l.guessed = !s.counted || s.left > 0 || s.pace == 0; !l.guessed {
		l.pace = s.pace
		return
	}
	l.pace = min(max(2*l.pace, min(a.wait/10, maxGuess)), a.wait)
}

// countLocked learns what is left. Answers overtake each other, so one can only
// bring more if its request was sent after the last such answer had come. Of
// those that were under way then, the server may have counted none or all: they
// are in doubt, and subtracted, until their own answers come.
func (l *lesson) countLocked(t turn, s quotaState, now time.Time) {
	reset, blocked := now.Add(s.reset), now.Add(s.blocked)
	if t.seq > l.taught || !now.Before(l.reset) {
		l.flights.roll(now)
		l.taught, l.taughtAt = l.seq, l.flights.second
		l.blocked, l.counted = blocked, s.counted
		if !s.counted {
			return
		}
		l.least, l.left = s.left, s.left-l.flights.now-l.flights.before
		l.reset, l.spent = reset, s.left == 0
		if l.pace, l.guessed = s.pace, s.pace == 0; l.guessed {
			l.pace = min(s.reset/10, maxGuess)
		}
		return
	}
	l.blocked = later(l.blocked, blocked)
	if !s.counted || !l.counted {
		return
	}
	if t.second >= l.taughtAt-1 {
		l.left++ // no longer in doubt
	}
	if s.left < l.least {
		l.left -= l.least - s.left
		l.least = s.left
	}
	if s.left == 0 {
		l.spent, l.reset = true, later(l.reset, reset)
	}
}
