package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// The defaults of BatchOptions.
const (
	DefaultBatchItems  = 32
	DefaultBatchDelay  = 5 * time.Millisecond
	DefaultBatchBytes  = 10 << 20
	DefaultBatchAnswer = 64 << 20
)

// maxBatchBytes is more than any call, and little enough that no sum overflows.
const maxBatchBytes = 1 << 40

// Codec makes one call of several and several answers of one. Where it panics the
// call counts as one that cannot be joined or split.
type Codec[M any] interface {
	// Join makes one body of what the members ask for, in their order.
	Join(members []M) (body []byte, err error)
	// Split cuts a complete answer with status 200 into one for each member, in their
	// order. An error says that nobody knows whose is whose.
	Split(answer []byte, members []M) (answers [][]byte, err error)
}

// Place is what a queue knows of a place that several requests may share. Its
// methods must not block.
type Place interface {
	// Shared is the same number for all who share the place, and a larger one for
	// each later place. 0 is a place alone.
	Shared() uint64
	// Sharing is how many items were given the place so far and still have it, and
	// whether it is sealed: no others will be given it.
	Sharing() (items int, sealed bool)
	// Seal ends the time in which others may be given the place.
	Seal()
}

// Member is one request that may go together with others.
type Member[M any] struct {
	// Place is what the members of one call have in common. nil: it goes alone.
	Place Place
	// Key is what the members of a call have in common. All that makes a difference to
	// the target must be in it, because a joined call has path, query and fields of the
	// first of its members, with its X-Request-Id and traceparent: the method, path and
	// query, what the body says beside its items, each credential, and all other fields
	// but those that are known to make none. A field that is to be another one with
	// each request, such as Idempotency-Key, so keeps requests apart. "" is a request
	// that can never go with others.
	Key string
	// Items is how many things it asks for. 0 means 1.
	Items int
	// Content is what the Codec knows it by. It is read until the call is over, which
	// may be after Do has returned.
	Content M
	// Request is as it goes alone, body included. It is not changed, and must not be.
	Request *http.Request
	// Call has the seat, which is ended once in any case, and the rest of what
	// Pool.Send needs to know. Seats may be asked after Do has returned, by another
	// goroutine: a call goes on for the others.
	Call Call
}

// BatchOptions describe a Batcher.
type BatchOptions struct {
	// MaxItems is the most items of one call. A request with more goes alone. 0 means
	// 32.
	MaxItems int
	// MaxBytes bounds the bodies of one call's requests together, by their
	// ContentLength. A request that would be too much is in the next call, one that is
	// longer, or of unknown length, goes alone. 0 means 10 MiB.
	MaxBytes int64
	// MaxDelay is how long the first request of a call waits for others, at most. 0
	// means 5ms.
	MaxDelay time.Duration
	// MaxAnswer is the longest answer of a joined call, in bytes: it is kept until it
	// is split. One that is longer fails with 502. 0 means 64 MiB.
	MaxAnswer int64
	// Goal is the time that a call is to take, with the wait for its members. The size
	// of calls follows it, and the wait. 0: there is none, and all calls may have
	// MaxItems. A goal never refuses nor cancels anything.
	Goal time.Duration
	// Resize, if not nil, is told how many items may share a place when that changes.
	// It is MaxItems at first. It must not block.
	Resize func(items int)
	// Pool sends the calls. It is required.
	Pool *Pool
	// Observe, if not nil, is told of every call when its answer is there. It must not
	// block.
	Observe func(BatchEvent)
}

// BatchEvent is one call that a Batcher has made.
type BatchEvent struct {
	// Members and Items are those of the call.
	Members, Items int
	// Waited is how long the first member waited for others, Took how long the call
	// took: until the answer's end, or its head where it has one member.
	Waited, Took time.Duration
	// Status is the answer's, 0 if there was none.
	Status int
	// Again says that the call is a part of one before that failed as a whole.
	Again bool
	// Err is why there was no answer, or why it could not be split.
	Err error
}

// Batcher makes one call of requests that share a place. It holds requests back for
// as long as BatchOptions.MaxDelay, and is safe for concurrent use.
//
// A joined call that is answered 4xx because of what it asks for, or whose answer
// cannot be split, is sent again in halves, one after the other at the same place,
// until who is at fault is alone and gets the target's own error: at most twice as
// many calls as there are members. Answers that say nothing of single items go to
// all members as they are: 401, 403, 404, 429, 502 and the like, and errors.
//
// 500 may be an item's fault, or the server's. Such a call is halved, too. Where both
// halves are answered 500, or worse, the server is taken to be at fault: it gets no
// further calls, and all get what their half got. Where one is answered otherwise the
// other is halved on, by the same bound. So a server that is broken gets three calls
// in place of one, and two bad items may cost the others of their call an answer. A
// seat ends with the last answer that its member had a part in.
//
// Members get an http.Response of their own, with the fields of the joined answer
// but those that describe its body as a whole, and Set-Cookie: a session is
// nobody's to share. A call of one member is the member's own request, byte for
// byte, and so is its answer.
type Batcher[M any] struct {
	options BatchOptions
	codec   Codec[M]
	running sync.WaitGroup // the places in use

	maxBytes atomic.Int64 // in place of that of options

	mu     sync.Mutex // guards all below
	closed bool
	places map[uint64]*place[M]
	latest map[string]*place[M] // by key: the last one that others may still come to
	pace   pace

	telling sync.Mutex // guards told, and is held while Resize is called: its calls are in order
	told    int
}

// NewBatcher makes a Batcher. Close it when it is no longer used.
func NewBatcher[M any](o BatchOptions, c Codec[M]) *Batcher[M] {
	if o.MaxItems <= 0 {
		o.MaxItems = DefaultBatchItems
	}
	if o.MaxDelay <= 0 {
		o.MaxDelay = DefaultBatchDelay
	}
	if o.MaxAnswer <= 0 {
		o.MaxAnswer = DefaultBatchAnswer
	}
	b := &Batcher[M]{
		options: o,
		codec:   c,
		places:  map[uint64]*place[M]{},
		latest:  map[string]*place[M]{},
		pace:    pace{goal: o.Goal, most: o.MaxItems, size: o.MaxItems},
		told:    o.MaxItems,
	}
	b.SetMaxBytes(o.MaxBytes)
	return b
}

// SetMaxBytes changes BatchOptions.MaxBytes, for members that come from now on.
func (b *Batcher[M]) SetMaxBytes(n int64) {
	if n <= 0 {
		n = DefaultBatchBytes
	}
	b.maxBytes.Store(min(n, maxBatchBytes))
}

// Close sends at once what waits for others, and waits until no call is under way:
// for as long as the Pool's timeouts and the members allow. Requests that come later
// go alone.
func (b *Batcher[M]) Close() {
	b.mu.Lock()
	b.closed = true
	for _, p := range b.places {
		b.startLocked(p)
	}
	b.mu.Unlock()
	b.running.Wait()
}

// BatchStats is how things are now.
type BatchStats struct {
	// Places is how many places have members that wait or are called for.
	Places int
	// Size is how many items a call may have.
	Size int
}

// Stats is how things are now.
func (b *Batcher[M]) Stats() BatchStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return BatchStats{Places: len(b.places), Size: b.pace.size}
}

// Do sends m, together with those that share its place, and returns its own answer.
// It is for use instead of Pool.Send: the answer's body is to be closed, and errors
// are as there. When ctx ends Do returns at once. The others' call goes on, and one
// without others is cancelled, or never made.
func (b *Batcher[M]) Do(ctx context.Context, m Member[M]) (*http.Response, error) {
	w := &waiter[M]{Member: m, seated: seated{seat: m.Call.Seat}, ctx: ctx, ready: make(chan struct{})}
	if ctx.Err() != nil {
		w.end(b.event(w, ResultUnused))
		return nil, b.gone(w)
	}
	if m.Key == "" || m.Place == nil || m.Place.Shared() == 0 || !b.enter(w) {
		return b.alone(w)
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		if b.leave(w) {
			return nil, b.gone(w)
		}
	}
	if w.over != nil {
		return b.aloneInPlace(w)
	}
	return w.resp, w.err
}

// gone is the error of a member whose time was over, or who left.
func (b *Batcher[M]) gone(w *waiter[M]) error {
	return fmt.Errorf("upstream %s: %w", b.options.Pool.options.Name, w.ctx.Err())
}

// alone sends the member's own request as it is.
func (b *Batcher[M]) alone(w *waiter[M]) (*http.Response, error) {
	began := time.Now()
	resp, err := b.options.Pool.Send(w.ctx, w.Request, w.Call)
	e := BatchEvent{Members: 1, Items: w.items(), Took: time.Since(began), Err: err}
	if !w.joined.IsZero() {
		e.Waited = began.Sub(w.joined)
	}
	if resp != nil {
		e.Status = resp.StatusCode
	}
	b.report(e, began, w.Key != "" && w.ctx.Err() == nil)
	return resp, err
}

// aloneInPlace is alone for a member that has a place to itself: those who come
// late to the same one are sent when this answer has ended.
func (b *Batcher[M]) aloneInPlace(w *waiter[M]) (*http.Response, error) {
	over := sync.OnceFunc(func() { close(w.over) })
	sent := false
	defer func() {
		if !sent {
			over()
		}
	}()
	resp, err := b.alone(w)
	if err != nil {
		return nil, err
	}
	body := resp.Body
	stop := context.AfterFunc(w.ctx, func() { // nobody may read nor close it any more
		_ = body.Close()
		over()
	})
	resp.Body = &lastBody{body, func() { stop(); over() }}
	sent = true
	return resp, nil
}

// lastBody tells when a body has ended.
type lastBody struct {
	io.ReadCloser
	over func()
}

// Read implements io.Reader.
func (b *lastBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.over()
	}
	return n, err
}

// Close implements io.Closer.
func (b *lastBody) Close() error {
	defer b.over()
	return b.ReadCloser.Close()
}

// report learns from a call, and tells of it.
func (b *Batcher[M]) report(e BatchEvent, began time.Time, learn bool) {
	if learn && b.options.Goal > 0 {
		b.mu.Lock()
		b.pace.took(e, began)
		b.mu.Unlock()
		b.tell()
	}
	if b.options.Observe != nil {
		b.options.Observe(e)
	}
}

// tell has the queue know how many items may share a place.
func (b *Batcher[M]) tell() {
	if b.options.Resize == nil {
		return
	}
	b.telling.Lock()
	defer b.telling.Unlock()
	if n := b.Stats().Size; n != b.told {
		b.told = n
		b.options.Resize(n)
	}
}
