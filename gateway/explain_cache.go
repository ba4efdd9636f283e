package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
)

// lookUp explains what the cache has for the request.
func (e *explainer) lookUp() (answered bool, err error) {
	x := e.x
	if x.chosen.cache == nil {
		e.say(Decision{Step: "cache", Outcome: "off", Reason: "cache.mode is off on this route."})
		return false, nil
	}
	err = x.find(x.started)
	if p, refused := errors.AsType[*weir.Problem](err); refused {
		e.say(Decision{Step: "cache", Outcome: x.look.Result(), Reason: p.Detail, Details: e.cacheDetails()})
		return false, err
	}
	if err != nil {
		return false, err
	}
	d := Decision{Step: "cache", Outcome: x.look.Result(), Details: e.cacheDetails()}
	if x.look.Err != nil {
		d.Details["error"] = x.look.Err.Error()
	}
	if x.look.Entry == nil {
		d.Reason = e.notHit()
		if x.look.Err != nil {
			d.Reason = "The store of the cache does not answer: the request goes on as if nothing were stored."
		}
		e.say(d)
		return false, nil
	}
	d.Reason = e.hit(d.Details)
	e.say(d)
	return true, e.answerStored()
}

// cacheDetails are those of a request to a route with a cache.
func (e *explainer) cacheDetails() map[string]any {
	x := e.x
	c := x.chosen.config.Cache
	d := map[string]any{"mode": c.Mode, "status": x.look.Status()}
	if x.look.Keyed() {
		d["key"], d["share"] = x.look.Key().String(), c.Share
	}
	return d
}

// hit says what is stored, and what it saves.
func (e *explainer) hit(details map[string]any) string {
	x := e.x
	entry, now := x.look.Entry, x.started
	age, left := entry.Age(now), entry.Expires.Sub(now)
	details["age_s"], details["ttl_s"], details["bytes"] = seconds(age), seconds(left), len(entry.Body)
	saves := ""
	if entry.Took > 0 {
		details["saved_ms"] = entry.Took.Milliseconds()
		saves = fmt.Sprintf(" It saves what took the model %s.", short(entry.Took))
	}
	if a := x.usageOf(entry); a != nil && a.Outcome().Known {
		u := a.Outcome().Usage
		details["saved_tokens"] = sum(u.Input, u.Output)
	}
	whose := e.shares()
	if x.look.Refresh {
		return fmt.Sprintf("An answer is stored, %s. It is %s old and stale for %s: it is given while a new one is fetched.%s", whose, short(age), short(-left), saves)
	}
	if left < 0 {
		return fmt.Sprintf("An answer is stored, %s. It is %s old and stale, which the client accepts.%s", whose, short(age), saves)
	}
	return fmt.Sprintf("An answer is stored, %s. It is %s old and fresh for %s.%s", whose, short(age), short(left), saves)
}

// shares says who shares what the route's cache stores.
func (e *explainer) shares() string {
	switch cache.Share(e.x.chosen.config.Cache.Share) {
	case cache.ShareAll:
		return "for all callers"
	case cache.SharePlan:
		return "for the callers of this plan"
	}
	if len(e.credentials()) > 0 {
		return "for this caller with these credentials"
	}
	return "for this caller"
}

// notHit says why the request goes on to the upstream.
func (e *explainer) notHit() string {
	x := e.x
	wishes := x.look.Wishes()
	switch x.look.Forwarded() {
	case "miss", "uri-miss":
		return fmt.Sprintf("No answer to the same request is stored %s.", e.shares())
	case "vary-miss":
		return "Answers are stored for this URL, but not for these fields of the request, by which they vary."
	case "stale":
		if stale, left := x.look.Stale(); stale != nil && left > 0 {
			return fmt.Sprintf("An answer is stored and stale: the upstream is asked. If it fails, the stale one is given for another %s.", short(left))
		}
		return "An answer is stored and stale: the upstream is asked."
	case "request":
		if wishes.NoCache {
			return "The client wants no stored answer: Cache-Control: no-cache."
		}
		return "The client wants an answer newer than the stored one."
	case "method":
		return fmt.Sprintf("A cache of HTTP answers no %s.", x.r.Method)
	case "partial":
		return "The client wants a part, and the whole is not stored."
	}
	return "The request goes past the cache: " + e.bypass(wishes)
}

// bypass says why the request has no part in the cache.
func (e *explainer) bypass(wishes cache.Wishes) string {
	x := e.x
	c := x.chosen.config.Cache
	switch {
	case wishes.NoStore:
		return "the client wants nothing stored (Cache-Control: no-store)."
	case c.Mode == cacheHTTP:
		return fmt.Sprintf("a %s with a body has no meaning that a cache could know.", x.r.Method)
	case x.call.Endpoint != "" && x.call.Err != nil:
		return "the body can be read in two ways, and would be two requests."
	case x.samples():
		return "the same request may have another answer each time, and cache.only is deterministic."
	}
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, "QUERY":
	default:
		return fmt.Sprintf("no answer to a %s is kept.", x.r.Method)
	}
	for _, name := range []string{"Range", "If-Match", "If-Unmodified-Since", "If-Range"} {
		if len(x.r.Header[name]) > 0 {
			return fmt.Sprintf("with %s the answer is its own alone.", name)
		}
	}
	return "its body is no JSON that can be read in one way only."
}

// answerStored is the answer from the cache, after a look at what is left of the quotas.
func (e *explainer) answerStored() error {
	x := e.x
	e.free = !x.chosen.config.Cache.ChargeHits
	switch {
	case x.look.Refresh:
		if err := e.refreshes(); err != nil {
			return err
		}
	case e.free:
		e.peek("A stored answer costs nothing, and is given whatever is left.")
	}
	w := &onlyStatus{header: http.Header{}}
	x.look.ServeHead(w, x.r)
	why := ""
	if w.status == http.StatusNotModified {
		why = "The client has the stored answer already, and is told that it is still good."
	}
	e.answer(w.status, "be answered from the cache", why)
	return nil
}

// refreshes explains who pays for the call in the background that makes a stale answer
// anew.
func (e *explainer) refreshes() error {
	told := len(e.told.Decisions)
	err := e.reserve(e.x.fill)
	if _, refused := errors.AsType[*weir.Problem](err); err != nil && !refused {
		return err
	}
	if told == len(e.told.Decisions) {
		return nil
	}
	d := &e.told.Decisions[told]
	switch {
	case err != nil:
		d.Outcome = "not asked"
		d.Reason = "The stored answer is given whatever is left. The call that makes it anew would be refused, and is left to somebody else: " + d.Reason
	case d.Outcome == "allowed":
		e.free = false
		d.Reason = "The stored answer is given whatever is left, and the call that makes it anew is at this caller's expense: " + d.Reason
	}
	return nil
}

// join explains whether the request waits for the same one.
func (e *explainer) join() (answered bool) {
	x := e.x
	if x.look == nil || !x.look.Running() {
		return false
	}
	e.free = !x.chosen.config.Cache.ChargeHits
	last := &e.told.Decisions[len(e.told.Decisions)-1]
	if last.Step == "cache" {
		last.Outcome = "collapsed"
		costs := "costs nothing"
		if !e.free {
			costs = "costs what a stored answer does"
		}
		last.Reason += " The same request is running: this one waits for its answer, " + costs + " and takes no place."
	}
	e.answer(http.StatusOK, "wait for the same request, which is running", "It gets what the running request gets, unless that turns out to be for one client alone.")
	return true
}

// short is d for people: to the second from ten of them on, else to the millisecond.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		d = d.Round(time.Second)
	case d >= time.Millisecond:
		d = d.Round(time.Millisecond)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
