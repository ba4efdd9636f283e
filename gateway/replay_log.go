package gateway

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/dialect"
)

// longestLogLine is the longest line of a log that is read. Weir's own are shorter by
// far: it cuts every text in them.
const longestLogLine = 256 << 10

// logLine is a line of the access log, as far as it matters here.
type logLine struct {
	Time           string  `json:"time"`
	Msg            string  `json:"msg"`
	RequestID      string  `json:"request_id"`
	Caller         string  `json:"caller"`
	Plan           string  `json:"plan"`
	Route          string  `json:"route"`
	Method         string  `json:"method"`
	Path           string  `json:"path"`
	Status         int     `json:"status"`
	Duration       float64 `json:"duration_ms"`
	FirstByte      float64 `json:"first_byte_ms"`
	Upstream       float64 `json:"upstream_ms"`
	Queue          float64 `json:"queue_ms"`
	CacheTime      float64 `json:"cache_ms"`
	Cache          string  `json:"cache"`
	CacheKey       string  `json:"cache_key"`
	Refresh        bool    `json:"refresh"`
	Policy         string  `json:"policy"`
	PolicyScope    string  `json:"policy_scope"`
	Store          string  `json:"store"`
	Shed           string  `json:"shed"`
	Job            string  `json:"job"`
	Model          string  `json:"model"`
	InputTokens    int64   `json:"input_tokens"`
	CachedTokens   int64   `json:"cached_tokens"`
	OutputTokens   int64   `json:"output_tokens"`
	Finish         string  `json:"finish"`
	UsageEstimated bool    `json:"usage_estimated"`
	Error          string  `json:"error"`
	BytesIn        int64   `json:"bytes_in"`
	BytesOut       int64   `json:"bytes_out"`
	UpstreamName   string  `json:"upstream"`
	Client         string  `json:"client"`
	Request        string  `json:"request"`
	Samples        bool    `json:"samples"`
	Stream         bool    `json:"stream"`
	EstimateInput  int64   `json:"estimate_input"`
	EstimateOutput int64   `json:"estimate_output"`
	Sample         float64 `json:"sample"`
}

// logged is a request of the log, in as few bytes as is easily done: there are
// millions. Texts are shared.
type logged struct {
	at                                   int64 // arrival, in Unix nanoseconds
	took, head, first, queued            int64 // nanoseconds: in all, at the upstream until the head, until the first byte, in the queue
	service                              int64 // nanoseconds at the upstream
	bytesIn, bytesOut                    int64
	input, cached, output                int64 // tokens
	estimateIn, estimateOut              int64
	hash, cacheKey                       uint64 // of the request, of its cache_key; 0: the line has none
	id, caller, plan, route              string
	method, path, model, client          string
	policy, shed, job                    string
	status                               int16
	result                               outcome
	ending                               ending
	called                               bool // the upstream
	failed                               bool // it, and brought no answer
	broken                               bool // its answer was not whole
	estimated                            bool // the tokens
	samples, stream, refresh, part       bool
	cacheSeen, stored, bypassed, noCache bool
}

// outcome is one of the ReplayResult words, small.
type outcome uint8

const (
	outOther outcome = iota
	outUpstream
	outHit
	outStale
	outCollapsed
	outDenied
	outShed
	outJob
	outLeft
)

// String is the word.
func (o outcome) String() string {
	return [...]string{ReplayOther, ReplayUpstream, ReplayHit, ReplayStale, ReplayCollapsed, ReplayDenied, ReplayShed, ReplayJob, ReplayLeft}[o]
}

// ending is how the model ended an answer, as far as the log says.
type ending uint8

const (
	endUnsaid  ending = iota
	endNatural        // by itself
	endCut            // by a length limit, a filter or an abort
)

func endingOf(finish string) ending {
	switch {
	case finish == "":
		return endUnsaid
	case dialect.EndedByItself(finish):
		return endNatural
	}
	return endCut
}

// hidden is what stands in a log for a text that telemetry.log.redact hides, and, with a
// colon, before the pseudonym of a caller and a client.
const hidden = "redacted"

// accessLog is a log that was read.
type accessLog struct {
	requests []*logged // by arrival
	block    []logged  // where the next of them are made: one large slice would be copied as it grows
	lines    int64
	skipped  int64
	cutOff   bool // it is compressed, and its end is missing
	most     int
	named    bool // the requests have their IDs
	texts    map[string]string
}

// maxTexts bounds the texts that are kept once for all requests that have them; of
// those beyond, each request has its own.
const maxTexts = 1 << 20

// share gives one text in the place of all that are equal.
func (l *accessLog) share(s string) string {
	if s == "" {
		return ""
	}
	if t, ok := l.texts[s]; ok {
		return t
	}
	s = strings.Clone(s)
	if len(l.texts) < maxTexts {
		l.texts[s] = s
	}
	return s
}

// readLog reads a log, compressed or not, and puts it in the order of arrival: lines
// are written when requests end.
func readLog(ctx context.Context, r io.Reader, o ReplayOptions) (*accessLog, error) {
	in := bufio.NewReaderSize(r, longestLogLine)
	zipped := false
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		unzipped, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("log: gzip: %w", err)
		}
		in, zipped = bufio.NewReaderSize(unzipped, longestLogLine), true
	}
	l := &accessLog{most: o.MaxRequests, named: o.Each != nil, texts: map[string]string{}}
	if l.most <= 0 {
		l.most = DefaultReplayRequests
	}
	for {
		line, err := in.ReadSlice('\n')
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if l.cutOff = zipped && errors.Is(err, io.ErrUnexpectedEOF); l.cutOff {
			err = io.EOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("log: line %d: %w", l.lines+1, err)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			if l.lines++; tooLong {
				l.skipped++
			} else if err := l.add(line); err != nil {
				return nil, err
			}
		}
		if err != nil {
			break
		}
		if l.lines%4096 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	l.texts, l.block = nil, nil
	slices.SortStableFunc(l.requests, func(a, b *logged) int { return cmp.Compare(a.at, b.at) })
	return l, nil
}

// add takes a line in. What is none of a request is skipped: the log has the
// process's own messages, too.
func (l *accessLog) add(line []byte) error {
	var e logLine
	if json.Unmarshal(line, &e) != nil || e.Msg != "request" || e.Method == "" {
		l.skipped++
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, e.Time)
	// Times that are no time of a log would make the virtual time run for ever.
	if err != nil || at.Year() < 1990 || at.Year() > 2100 || !e.sound() {
		l.skipped++
		return nil
	}
	if len(l.requests) >= l.most {
		return fmt.Errorf("log: line %d: more than %d requests: want a part of the log", l.lines, l.most)
	}
	if len(l.block) == cap(l.block) {
		l.block = make([]logged, 0, 4096)
	}
	l.block = append(l.block, l.compact(&e, at))
	l.requests = append(l.requests, &l.block[len(l.block)-1])
	return nil
}

// sound reports whether the numbers of a line can be those of a request.
func (e *logLine) sound() bool {
	for _, ms := range []float64{e.Duration, e.FirstByte, e.Upstream, e.Queue, e.CacheTime} {
		if !(ms >= 0 && ms <= 7*24*3600*1000) {
			return false
		}
	}
	for _, n := range []int64{e.InputTokens, e.CachedTokens, e.OutputTokens, e.BytesIn, e.BytesOut, e.EstimateInput, e.EstimateOutput} {
		if n < 0 || n > math.MaxInt64/8 {
			return false
		}
	}
	return e.Status >= 100 && e.Status <= 999
}

func (l *accessLog) compact(e *logLine, at time.Time) logged {
	r := logged{
		at: at.UnixNano(), took: nanos(e.Duration), head: nanos(e.Upstream), first: nanos(e.FirstByte), queued: nanos(e.Queue),
		bytesIn: e.BytesIn, bytesOut: e.BytesOut,
		input: e.InputTokens, cached: e.CachedTokens, output: e.OutputTokens, estimated: e.UsageEstimated,
		estimateIn: e.EstimateInput, estimateOut: e.EstimateOutput,
		caller: l.share(e.Caller), plan: l.share(e.Plan), route: l.share(e.Route),
		method: l.share(e.Method), path: l.share(e.Path), model: l.share(e.Model), client: l.share(e.Client),
		policy: l.share(e.Policy), shed: l.share(e.Shed), job: l.share(e.Job),
		status: int16(e.Status), samples: e.Samples, stream: e.Stream, refresh: e.Refresh,
		part: e.Sample > 0 && e.Sample < 1, called: e.UpstreamName != "",
	}
	if e.PolicyScope != "" && e.Policy != "" {
		r.policy = l.share(e.PolicyScope + " " + e.Policy)
	}
	r.hash, _ = strconv.ParseUint(e.Request, 16, 64) // 0 is none
	r.cacheKey, _ = strconv.ParseUint(e.CacheKey[:min(len(e.CacheKey), 16)], 16, 64)
	r.ending = endingOf(e.Finish)
	if l.named {
		r.id = e.RequestID
	}
	r.readCache(e.Cache)
	r.result = r.answered(e)
	// Of its own wait and the one for another request, the rest is the upstream's.
	r.service = max(r.took-r.queued-nanos(e.CacheTime), r.head, 0)
	r.broken = r.called && e.Error != ""
	r.failed = r.called && e.Error != "" && (e.Status == http.StatusBadGateway || e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout)
	return r
}

// nanos is a number of milliseconds, exact to the microsecond.
func nanos(ms float64) int64 { return int64(math.Round(ms*1000)) * 1000 }

// readCache reads what Cache-Status says.
func (r *logged) readCache(status string) {
	r.cacheSeen = status != ""
	for part := range strings.SplitSeq(status, ";") {
		switch strings.TrimSpace(part) {
		case "stored":
			r.stored = true
		case "fwd=bypass":
			r.bypassed = true
		case "fwd=request":
			r.noCache = true
		}
	}
}

// answered is how the log says that the request was answered.
func (r *logged) answered(e *logLine) outcome {
	has := func(what string) bool {
		for part := range strings.SplitSeq(e.Cache, ";") {
			if strings.TrimSpace(part) == what {
				return true
			}
		}
		return false
	}
	switch {
	case e.Status == statusClientLeft:
		return outLeft
	case has("detail=stale-if-error"):
		return outStale
	case e.Policy != "":
		return outDenied
	case e.Shed != "":
		return outShed
	case has("hit") && strings.Contains(e.Cache, "; ttl=-"):
		return outStale
	case has("hit"):
		return outHit
	case has("collapsed"):
		return outCollapsed
	case e.Status == http.StatusAccepted && e.Job != "" && !r.called:
		return outJob
	case r.called:
		return outUpstream
	}
	return outOther
}

// isAttempt reports whether it is no client's request, but an attempt of a job.
func (r *logged) isAttempt() bool { return r.job != "" && r.client == "" && r.result != outJob }
