package telemetry

import "net/http"

// Why a request was not answered by a model or the cache, for Entry.Refused.
const (
	RefusedKey      = "key"      // 401: no valid key or token
	RefusedDenied   = "denied"   // 403: the caller, or what it wants, is not allowed
	RefusedAttempts = "attempts" // 429: too many keys of its network were not valid
	RefusedQuota    = "quota"    // 429: a policy
	RefusedQueue    = "queue"    // 503, 529, 429: there was no place in time
	RefusedStore    = "store"    // 503: the shared store is away, and nothing is admitted uncounted
	RefusedUpstream = "upstream" // 502, 503, 504: the upstream gave no answer, or no target is open
	RefusedAway     = "away"     // 503: a database, or the issuer of a token, does not answer
	RefusedDeadline = "deadline" // 504: the client's own time was over
	RefusedStopping = "stopping" // 503: the process ends
	RefusedRequest  = "request"  // the request itself: 400, 404, 405, 413, 501, 504 for only-if-cached, …
	RefusedInternal = "internal" // 500: a fault of Weir's own
)

// refusals are all reasons, in the order of their counters.
func refusals() [refusalCount]string {
	return [...]string{RefusedKey, RefusedDenied, RefusedAttempts, RefusedQuota, RefusedQueue, RefusedStore, RefusedUpstream,
		RefusedAway, RefusedDeadline, RefusedStopping, RefusedRequest, RefusedInternal, Other}
}

// refusalCount is how many refusals there are.
const refusalCount = 13

// refusalIndex is where a reason is among them.
func refusalIndex(reason string) int {
	for i, r := range refusals() {
		if r == reason {
			return i
		}
	}
	return refusalCount - 1
}

// refused is e.Refused, or what the other members tell of it.
func (e *Entry) refused() string {
	switch {
	case e.Refused != "":
		return e.Refused
	case e.Policy != "":
		return RefusedQuota
	case e.Shed != "":
		return RefusedQueue
	}
	return ""
}

// failed reports whether the client got an error that it should not have: a status of 500
// and above, whoever said so, but not where there was no place for it, where the shared
// store could not count it, or where its own request was why.
func (e *Entry) failed() bool {
	if e.Status < http.StatusInternalServerError {
		return false
	}
	switch e.refused() {
	case RefusedQuota, RefusedQueue, RefusedStore, RefusedStopping, RefusedRequest:
		return false
	}
	return true
}

// statusLeft is the status of a request whose client left before there was an answer.
const statusLeft = 499

// answered reports whether a model or the cache has answered: how long anything else took
// says nothing of them.
func (e *Entry) answered() bool { return e.refused() == "" && !e.Own && e.Status != statusLeft }
