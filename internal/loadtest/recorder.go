package loadtest

import (
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// budgetWindow is how many seconds the error budget and the progress look back.
	budgetWindow = 5
	// budgetLeast is how many answers there must be in them for a share to mean
	// something.
	budgetLeast = 20
	// maxNamed is how many callers have figures of their own.
	maxNamed = 50
	// maxDetail is how many bytes of an error are kept.
	maxDetail = 300
)

// recorder counts what became of the requests of a run.
type recorder struct {
	begin      time.Time
	stream     bool
	objectives []Objective

	mu       sync.Mutex // guards all below
	ended    time.Time  // of the sending
	done     time.Time  // the last answer was there
	lastOK   time.Time  // the last one without an error was
	sent     int64
	answered int64 // with an error or without
	ok, good int64 // good: inside the service level
	unfinish int64
	unsents  int64
	bytes    int64
	errors   map[string]int64 // by kind: few
	examples map[string]string
	statuses map[int]int64 // at most one for each of 100 to 599
	latency  *hdrhistogram.Histogram
	late     *hdrhistogram.Histogram
	first    *hdrhistogram.Histogram // streams: to the first token
	gap      *hdrhistogram.Histogram // streams: between pieces
	streams  streamCounts
	seconds  intervals
	callers  []*callerCount
	recent   [budgetWindow + 1]recentSecond
	retry    *hdrhistogram.Histogram // what refusals say, in milliseconds
	advised  int64
	refused  int64
	fields   fieldCounts
}

// callerCount is what became of one caller's requests.
type callerCount struct {
	sent, ok, refused, errors, unfinished int64

	latency buckets
}

// recentSecond is what was answered in one second.
type recentSecond struct {
	second        int64
	answered, bad int64
	latency       buckets
}

func newRecorder(o *Options, begin time.Time) *recorder {
	r := &recorder{
		begin: begin, stream: o.Stream, objectives: o.Objectives,
		errors: map[string]int64{}, examples: map[string]string{}, statuses: map[int]int64{},
		latency: newHistogram(), late: newHistogram(), first: newHistogram(), gap: newHistogram(), streams: newStreamCounts(),
		seconds: intervals{width: time.Second}, retry: newAdvice(),
	}
	if n := max(len(o.Callers), o.CallerCount); n <= maxNamed {
		for range n {
			r.callers = append(r.callers, &callerCount{latency: buckets{}})
		}
	}
	return r
}

// unsent counts a request that was due and could not be sent, and keeps why where detail
// says it.
func (r *recorder) unsent(s *shot, kind, detail string) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	second := r.recentAt(now)
	second.answered++
	second.bad++
	if !s.counts {
		return
	}
	r.unsents++
	r.errors[kind]++
	r.example(kind, detail)
	r.seconds.at(s.due.Sub(r.begin)).unsent++
}

// record counts a request that was sent.
func (r *recorder) record(s *shot, a *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !a.discarded {
		second := r.recentAt(a.ended)
		second.answered++
		second.latency.add(a.latency)
		if a.kind != "" {
			second.bad++
		}
	}
	if !s.counts {
		return
	}
	r.sent++
	record(r.late, a.began.Sub(s.due))
	r.bytes += a.bytes
	r.countCaller(s, a)
	if a.discarded {
		r.unfinish++
		r.seconds.at(s.due.Sub(r.begin)).sent++
		return
	}
	r.answered++
	if a.status != 0 {
		r.statuses[min(max(a.status, 0), 999)]++
		r.fields.add(a.header)
	}
	done := r.seconds.at(a.ended.Sub(r.begin))
	done.answered++
	if a.kind != "" {
		done.errors++
	}
	// The earlier one last: a later one may have made the intervals longer.
	due := r.seconds.at(s.due.Sub(r.begin))
	due.sent++
	r.countOutcome(due, a)
}

// countOutcome counts an answer or an error of a request that was due in an
// interval. How long a refusal took says nothing of the server's speed; a request
// without an answer took at least as long as it was waited for.
func (r *recorder) countOutcome(due *interval, a *outcome) {
	if a.kind == "" || a.kind == kindTimeout {
		record(r.latency, a.latency)
		due.latency.add(a.latency)
		due.longest = max(due.longest, a.latency)
	}
	if a.kind != "" {
		r.errors[a.kind]++
		r.example(a.kind, a.detail)
		r.countAdvice(a)
		return
	}
	r.ok++
	if a.ended.After(r.lastOK) {
		r.lastOK = a.ended
	}
	inside := true
	for _, o := range r.objectives {
		inside = inside && o.inside(a)
	}
	if inside {
		r.good++
	}
	if r.stream {
		r.countStream(a)
	}
}

// example keeps the first error of a kind.
func (r *recorder) example(kind, detail string) {
	if _, ok := r.examples[kind]; !ok && detail != "" {
		r.examples[kind] = detail[:min(len(detail), maxDetail)]
	}
}

func (r *recorder) countStream(a *outcome) {
	r.streams.add(a)
	if a.pieces > 0 {
		record(r.first, a.first)
	}
	for _, g := range a.gaps {
		record(r.gap, g)
	}
}

func (r *recorder) countCaller(s *shot, a *outcome) {
	if s.caller >= len(r.callers) {
		return
	}
	c := r.callers[s.caller]
	c.sent++
	switch {
	case a.discarded:
		c.unfinished++
	case a.kind == "":
		c.ok++
		c.latency.add(a.latency)
	case a.kind == "429" || a.kind == "503":
		c.refused++
	default:
		c.errors++
	}
}

// countAdvice reads when a refusal says to come back.
func (r *recorder) countAdvice(a *outcome) {
	if a.status != http.StatusTooManyRequests && a.status != http.StatusServiceUnavailable {
		return
	}
	r.refused++
	if wait, ok := retryAdvice(a.header, a.ended); ok {
		r.advised++
		_ = r.retry.RecordValue(int64(math.Ceil(float64(wait) / float64(time.Millisecond)))) // it is in the range
	}
}

// recentAt is the second of the ring that a moment is in.
func (r *recorder) recentAt(now time.Time) *recentSecond {
	second := int64(now.Sub(r.begin) / time.Second)
	if now.Before(r.begin) {
		second-- // those of the warm-up are negative
	}
	n := int64(len(r.recent))
	of := &r.recent[(second%n+n)%n]
	if of.second != second || of.latency == nil {
		*of = recentSecond{second: second, latency: buckets{}}
	}
	return of
}

// lately sums up the last seconds.
func (r *recorder) lately(now time.Time) (sum recentSecond) {
	sum.latency = buckets{}
	this := r.recentAt(now).second
	for i := range r.recent {
		if s := &r.recent[i]; s.latency != nil && s.second > this-budgetWindow && s.second <= this {
			sum.answered += s.answered
			sum.bad += s.bad
			sum.latency.merge(s.latency)
		}
	}
	return sum
}

// overBudget tells whether the share of errors lately is above what is allowed. Of few
// answers one error is a large share: they are judged at the end, all together.
func (r *recorder) overBudget(now time.Time, share float64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	lately := r.lately(now)
	return lately.answered >= budgetLeast && overShare(float64(lately.bad)/float64(lately.answered), share)
}

// overShare tells whether a share is above what is allowed: 7 of 1,000 are not above
// 0.7 %, which as a number is a little less.
func overShare(share, allowed float64) bool { return share > allowed+roundingError }

// progress fills in what the recorder knows.
func (r *recorder) progress(now time.Time) Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	lately := r.lately(now)
	since := r.begin
	if oldest := r.begin.Add(time.Duration(r.recentAt(now).second-budgetWindow+1) * time.Second); oldest.After(since) {
		since = oldest
	}
	window := max(now.Sub(since).Seconds(), 1)
	p := Progress{Sent: r.sent + r.unsents, Answered: r.answered, Rate: float64(lately.answered) / window, P95: lately.latency.quantile(0.95)}
	for _, n := range r.errors {
		p.Errors += n
	}
	return p
}

// sendingEnded says when the sending was over: the end of the time that rates count
// for.
func (r *recorder) sendingEnded(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = at
}

// answersEnded says when the last answer was there: the end of the time in which the
// server did its work.
func (r *recorder) answersEnded(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = at
}
