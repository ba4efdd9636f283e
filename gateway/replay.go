package gateway

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/inferweir/weir/config"
)

// DefaultReplayRequests is how many requests of a log Replay keeps in memory unless
// told: about 1 GiB, and the texts in which they differ.
const DefaultReplayRequests = 5_000_000

// ReplayOptions say how much of a log is replayed, and who is told of each request.
type ReplayOptions struct {
	// MaxRequests bounds the requests that are kept in memory, in which they are put
	// in the order of their arrival. A log with more is refused with an error. 0 means
	// DefaultReplayRequests.
	MaxRequests int
	// Each, if not nil, is told of every request when it is decided: not in the order
	// of arrival.
	Each func(ReplayedRequest)
}

// ReplayedRequest is what became of one request.
type ReplayedRequest struct {
	// ID is the X-Request-Id, Time the arrival, to the millisecond.
	ID   string
	Time time.Time
	// Caller is who sent it. Route is where the new configuration sends it, "" nowhere.
	Caller, Route string
	// Logged is what the log says, New what the new configuration would have made of it.
	Logged, New ReplayOutcome
}

// ReplayOutcome is how a request was answered.
type ReplayOutcome struct {
	// Result is one of the words of the ReplayResult constants.
	Result string
	// Status is what the client got.
	Status int
	// Policy is the policy that refused it, with its scope where that is known:
	// "plan:pro daily". Shed is why the queue did.
	Policy, Shed string
	// Queued is how long it waited for a place.
	Queued time.Duration
}

// What can become of a request.
const (
	// ReplayUpstream is an answer of the upstream, or its failure to give one.
	ReplayUpstream = "upstream"
	// ReplayHit and ReplayStale are answers from the cache, ReplayCollapsed is the answer
	// to the same request that was running.
	ReplayHit       = "hit"
	ReplayStale     = "stale"
	ReplayCollapsed = "collapsed"
	// ReplayDenied is a refusal by a policy, ReplayShed one by the queue.
	ReplayDenied = "denied"
	ReplayShed   = "shed"
	// ReplayJob was put off, and answered with 202.
	ReplayJob = "job"
	// ReplayLeft has a client that left before there was an answer.
	ReplayLeft = "left"
	// ReplayOther is what no policy, cache, queue or upstream has decided: a refusal such as
	// 401, 404 or 413, or a path of the gateway itself.
	ReplayOther = "other"
)

// Replay reads an access log and says what c would have made of its requests.
//
// It runs in virtual time what decides in a gateway: the routes, plans and policies of
// c, a store of quotas, the schedulers of the queues and a store of answers. What the
// requests asked for, and how long the upstream took, is the log's. Lines that are no
// requests are passed over and counted; lines may be compressed with gzip. Nothing is
// sent to anybody.
//
// The error says that the log could not be read, or that c cannot be built.
func Replay(ctx context.Context, c *config.Config, lines io.Reader, o ReplayOptions) (*ReplayReport, error) {
	l, err := readLog(ctx, lines, o)
	if err != nil {
		return nil, err
	}
	v, err := newReplayer(ctx, c, l)
	if err != nil {
		return nil, err
	}
	v.sums.each = o.Each
	if err := errors.Join(v.run(), v.close()); err != nil {
		return nil, err
	}
	return v.sums.report(l, c), nil
}
