package gateway

import (
	"net/http"
	"slices"
	"time"

	"github.com/inferweir/weir/config"
)

// answerFacts is what is known of the upstream's answer to a request.
type answerFacts struct {
	service, head, first         int64 // nanoseconds: in all, until its head, until its first byte
	bytes, input, output, cached int64
	status                       int
	known                        bool // the tokens, because the upstream said them
	failed                       bool // there was none
	broken                       bool // it was not whole
	streamed                     bool // others read it while it came
	unkept                       bool // the log's cache had it and did not store it
	unseen                       bool // the log's cache did not have it
	apart                        bool // unkept, and those who waited for it were sent away
	ending                       ending
	hides                        bool // the path that was called, and with it what answers look like
}

// facts are those of all requests of a log.
type facts struct {
	log    *accessLog
	byHash map[uint64]int32 // where the upstream answered the same request, in log
	apart  map[uint64]bool  // requests whose answers are not for those who wait
	median map[string]int32 // a usual answer of a route's
	any    int32            // a usual answer of all; -1: there is none
}

func newFacts(l *accessLog) facts {
	f := facts{log: l, byHash: map[uint64]int32{}, apart: apartIn(l), median: map[string]int32{}, any: -1}
	byRoute, all := map[string][]int32{}, []int32{}
	for i := range l.requests {
		in := l.requests[i]
		if in.result != outUpstream || in.failed {
			continue
		}
		if in.status/100 == 2 {
			byRoute[in.route] = append(byRoute[in.route], int32(i))
			all = append(all, int32(i))
		}
		if first, ok := f.byHash[in.hash]; in.hash != 0 && (!ok || l.requests[first].status/100 != 2 && in.status/100 == 2) {
			f.byHash[in.hash] = int32(i)
		}
	}
	for route, answered := range byRoute {
		f.median[route] = f.middle(answered)
	}
	if len(all) > 0 {
		f.any = f.middle(all)
	}
	return f
}

// apartIn finds the requests, by hash, whose answers were not kept and not given to those
// who waited: somebody asked for the same before the head was there, and had to ask the
// upstream all the same. Where anybody was given one, the others had other reasons.
func apartIn(l *accessLog) map[uint64]bool {
	type key struct {
		cacheKey uint64
		caller   string
	}
	leaders, apart := map[key]*logged{}, map[uint64]bool{}
	for _, in := range l.requests {
		if in.hash == 0 || !in.cacheSeen || in.bypassed || in.noCache || in.refresh || in.isAttempt() || in.method == http.MethodHead {
			continue
		}
		k := key{in.cacheKey, ""}
		if in.cacheKey == 0 { // hidden: those of one caller have one
			k = key{in.hash, in.caller}
		}
		leader := leaders[k]
		runs := leader != nil && in.at < leader.at+leader.queued+leader.head
		switch {
		case in.result == outCollapsed && in.status/100 == 2:
			apart[in.hash] = false
		case in.result != outUpstream || in.failed || in.stored:
		case !runs:
			leaders[k] = in
		default:
			if _, known := apart[in.hash]; !known {
				apart[in.hash] = true
			}
		}
	}
	return apart
}

// middle is the one of some requests whose upstream took longer than that of one half of
// them.
func (f *facts) middle(requests []int32) int32 {
	slices.SortStableFunc(requests, func(a, b int32) int {
		return int(min(max(f.log.requests[a].service-f.log.requests[b].service, -1), 1))
	})
	return requests[len(requests)/2]
}

// of is what the upstream answered, or would have answered.
func (f *facts) of(r *rerun) answerFacts {
	in := r.in
	if in.called && (in.result == outUpstream || in.result == outLeft) {
		a := in.facts()
		a.apart = a.unkept && f.apart[in.hash]
		return a
	}
	return f.guess(r)
}

// guess is what is known of the same request, or of others, where its own answer is not.
func (f *facts) guess(r *rerun) answerFacts {
	in := r.in
	var a answerFacts
	if i, ok := f.byHash[in.hash]; ok && in.hash != 0 {
		r.assume(assumeSame)
		a = f.log.requests[i].facts()
		a.apart = a.unkept && f.apart[in.hash]
	} else if i, ok := f.median[in.route]; ok {
		r.assume(assumeMedian)
		a = f.log.requests[i].facts()
	} else if f.any >= 0 {
		r.assume(assumeAny)
		a = f.log.requests[f.any].facts()
	} else {
		r.assume(assumeNothing)
		a = answerFacts{service: int64(time.Second), head: int64(time.Second), status: http.StatusOK, ending: endNatural}
	}
	if in.bytesOut > 0 && (in.result == outHit || in.result == outStale || in.result == outCollapsed) {
		a.bytes = in.bytesOut // its own answer
		if in.result != outCollapsed && a.status/100 == 2 {
			a.unkept, a.apart, a.broken, a.ending = false, false, false, endNatural // it was stored
		}
	}
	return a
}

// facts are those of a request that the upstream was asked for. What it would have
// answered to a client that left nobody knows: a usual answer.
func (in *logged) facts() answerFacts {
	a := answerFacts{
		service: in.service, head: in.head, first: max(in.first-in.queued, 0),
		bytes: in.bytesOut, input: in.input, output: in.output, cached: in.cached, status: int(in.status),
		known: in.output > 0 || in.input > 0 && !in.estimated, failed: in.failed, broken: in.broken,
		ending: in.ending, hides: in.path == hidden,
	}
	if in.result == outLeft {
		a.status, a.ending, a.broken = http.StatusOK, endNatural, false
	} else {
		a.unseen = !in.cacheSeen || in.bypassed
		a.unkept = !a.unseen && !in.stored && in.method != http.MethodHead
	}
	a.streamed = in.stream && a.status/100 == 2
	return a
}

// assumption is something that the log does not say.
type assumption uint8

const (
	assumeSame assumption = iota
	assumeMedian
	assumeAny
	assumeNothing
	assumeNoHash
	assumeUnseen
	assumeShared
	assumeEnd
	assumePath
	assumeCaller
	assumeClient
	assumeHTTP
	assumeSampled
	assumeKey
	assumeModel
	assumeHeader
	assumeBatch
	assumeAuto
	assumeAdaptive
	assumeJob
	assumeOther
	assumptions
)

// String is the assumption in words.
func (a assumption) String() string {
	return [...]string{
		assumeSame:     "the upstream was not asked in the log; it takes as long as for the same request elsewhere in the log",
		assumeMedian:   "the upstream was not asked in the log; it takes the median of its route (guessed)",
		assumeAny:      "the upstream was not asked in the log, nor for any other request of the route; it takes the median of all (guessed)",
		assumeNothing:  "the upstream was not asked for anything in the log; it takes 1 s (guessed)",
		assumeNoHash:   "the line has no hash of the request, so the cache has no answer to it",
		assumeUnseen:   "the answer passed no cache in the log, so its fields are not known; it is taken that they let it be kept",
		assumeShared:   "the answer was not kept, and the log does not show whether those who ask meanwhile may have it; they get it",
		assumeEnd:      "the log does not say how the answer ended, nor whether it has to; it is taken that the model ended it by itself",
		assumePath:     "the path is hidden (telemetry.log.redact); the request stays on the route of the log",
		assumeCaller:   "the caller is hidden (telemetry.log.redact); it keeps the plan of the log, and overrides, allow, deny and require do not find it",
		assumeClient:   "the client's address is hidden (telemetry.log.redact); no network of the configuration has it",
		assumeHTTP:     "the fields of answers decide what is kept (cache.mode http), which the log does not have: hits are those of the log",
		assumeSampled:  "the line stands for several that were not written (telemetry.log.sample): there was more traffic than is replayed",
		assumeKey:      "the caller's key is not in the configuration; it keeps the plan of the log",
		assumeModel:    "no route serves the model by the name in the log, which may be the answer's; it goes to the route of the log",
		assumeHeader:   "a policy counts by a header, which the log does not have: all requests are counted as one",
		assumeBatch:    "requests are not joined into one call (batch)",
		assumeAuto:     "quotas and TTLs with auto stay where the file begins",
		assumeAdaptive: "the limit of concurrency moves by the times of the log, which were those of the load at that time",
		assumeJob:      "what became a job in the log becomes one again, and is tried at the same time",
		assumeOther:    "answered or refused by the gateway itself before any policy; that stays as it is",
	}[a]
}

// assume counts an assumption, once for a request.
func (r *rerun) assume(a assumption) {
	if r.noted&(1<<a) == 0 {
		r.noted |= 1 << a
		r.replayer.sums.assumed[a]++
	}
}

// noteUnknown counts what the configuration goes by on the request's route and plan, and
// cannot be replayed.
func (r *rerun) noteUnknown() {
	s, x := r.replayer.setup, r.x
	for _, policies := range [][]policy{s.policiesOf(x.caller.ID, x.plan), x.chosen.policies} {
		for _, p := range policies {
			if len(p.by) > len("header:") && p.by[:len("header:")] == "header:" && !x.exempt {
				r.assume(assumeHeader)
			}
		}
	}
	moves := func(p config.Policy) bool { return p.Auto != nil }
	if slices.ContainsFunc(s.config.Plans[x.plan].Policies, moves) || slices.ContainsFunc(x.chosen.config.Policies, moves) || x.chosen.config.Cache.Auto != nil {
		r.assume(assumeAuto)
	}
	u := x.chosen.upstream.config
	if r.replayer.batches[x.chosen.upstream.name] {
		r.assume(assumeBatch)
	}
	if u.Concurrency.Min != u.Concurrency.Max {
		r.assume(assumeAdaptive)
	}
}
