package job

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/inferweir/weir/internal/sse"
)

const (
	// appendEvery is how often the output of what runs is written down.
	appendEvery = 200 * time.Millisecond
	// appendRetry is the pause after the store could not be asked.
	appendRetry = 500 * time.Millisecond
	// maxChunk is where events begin a new chunk; a larger event is a chunk of its own.
	maxChunk = 64 << 10
	// maxPending is how much of one attempt may wait to be written down. Beyond it its
	// answer is not read on, until the store has taken some.
	maxPending = 1 << 20
	// maxEvent is the largest event that is shown. Output ends before a larger one; the
	// result has it all the same.
	maxEvent = 1 << 20
	// outputPage is how much is read at once to see what the store kept.
	outputPage = 1 << 20
)

// output is the part of a streaming answer that is shown while it runs: whole events, in
// chunks. The attempt's goroutine writes it, the append loop takes it to the store.
type output struct {
	// These belong to the attempt's goroutine.
	lines bool
	split sse.Splitter
	rest  []byte // of lines: the one that is not complete
	off   bool   // nothing is split any more

	// acked has room for one: the store took some.
	acked chan struct{}

	// These belong to the append loop: how many bytes it has brought to the store, up to
	// which seq it has looked at what is there, and how many bytes of this attempt that
	// were.
	kept, cursor, seen int64

	mu      sync.Mutex
	chunks  [][]byte
	sending int // how many of them are on their way; changed by the append loop alone
	pending int // bytes of all of them
	total   int // bytes that were ever put
	urgent  bool
	full    bool // nothing is put any more
}

// of prepares for a body of a type, and reports whether its events are shown.
func (o *output) of(contentType string) bool {
	events, lines := streams(contentType)
	o.lines, o.off = lines, !events
	return events
}

// emit puts the events that p completes to the output. It waits while too much waits for
// the store, but not for an attempt that is stopped.
func (s *Jobs) emit(a *attempt, p []byte) {
	o := &a.output
	if o.off {
		return
	}
	if o.lines {
		s.emitLines(a, p)
	} else {
		s.emitFrames(a, p)
	}
	for o.waiting() > maxPending {
		select {
		case <-o.acked:
		case <-a.ctx.Done():
			return
		}
	}
}

func (s *Jobs) emitFrames(a *attempt, p []byte) {
	o := &a.output
	if _, err := o.split.Write(p); err != nil {
		o.off = true
		return
	}
	for f, ok := o.split.Next(); ok; f, ok = o.split.Next() {
		s.put(a, f.Raw, f.Data != nil)
	}
	if len(o.split.Rest()) > maxEvent {
		o.stop()
	}
}

func (s *Jobs) emitLines(a *attempt, p []byte) {
	o := &a.output
	for len(p) > 0 && !o.off {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			if o.rest = append(o.rest, p...); len(o.rest) > maxEvent {
				o.stop()
			}
			return
		}
		line := append(o.rest, p[:i+1]...)
		p = p[i+1:]
		s.put(a, line, len(bytes.TrimSpace(line)) > 0)
		o.rest = o.rest[:0]
	}
}

// emitRest puts what the end of the body completes: a last line without its end. An event
// without its blank line is none, as clients see it.
func (s *Jobs) emitRest(a *attempt) {
	o := &a.output
	switch {
	case o.off:
	case o.lines && len(o.rest) > 0:
		s.put(a, append(o.rest, '\n'), len(bytes.TrimSpace(o.rest)) > 0)
	case !o.lines:
		o.split.End()
		for f, ok := o.split.Next(); ok; f, ok = o.split.Next() {
			s.put(a, f.Raw, f.Data != nil)
		}
	}
}

// stop ends the output and the counting, and frees what is not complete.
func (o *output) stop() {
	o.off, o.rest = true, nil
	o.split = sse.Splitter{}
}

// put adds one event, and counts it if it is one for clients. An event that is too large
// ends the output, but not the counting.
func (s *Jobs) put(a *attempt, event []byte, counts bool) {
	if counts {
		a.events.Add(1)
	}
	o := &a.output
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full = o.full || len(event) > maxEvent || o.total+len(event) > MaxOutput; o.full {
		return
	}
	if n := len(o.chunks); n > o.sending && len(o.chunks[n-1])+len(event) <= maxChunk {
		o.chunks[n-1] = append(o.chunks[n-1], event...)
	} else {
		o.chunks = append(o.chunks, bytes.Clone(event))
	}
	o.pending += len(event)
	o.total += len(event)
	s.wakeAppend()
}

func (o *output) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pending
}

// wakeAppend tells the append loop that there is something. It never blocks.
func (s *Jobs) wakeAppend() {
	select {
	case s.flush <- struct{}{}:
	default:
	}
}

// drain waits until the store has all output of an attempt: it takes none after the
// attempt has ended. A store that is away is waited for, as it is by what follows.
func (s *Jobs) drain(a *attempt) {
	o := &a.output
	o.mu.Lock()
	o.urgent = true
	o.mu.Unlock()
	for o.waiting() > 0 {
		s.wakeAppend()
		select {
		case <-o.acked:
		case <-a.lost.Done():
			return
		case <-s.hard.Done():
			return
		}
	}
}

// appendLoop writes down the output of all attempts together, until ctx is over: one's
// within 200 ms, and at once where the attempt waits for it to end.
func (s *Jobs) appendLoop(ctx context.Context) {
	var last time.Time
	timer := time.NewTimer(appendEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.flush:
		case <-timer.C:
		}
		due := time.Since(last) >= appendEvery
		batch, chunks, more := s.collect(due)
		if len(chunks) > 0 {
			if due {
				last = time.Now()
			}
			s.append(ctx, batch, chunks)
		}
		if more {
			timer.Reset(max(appendEvery-time.Since(last), time.Millisecond))
		}
	}
}

// collect takes what waits: of all attempts, or of those alone that wait for it. more says
// that something waits besides.
func (s *Jobs) collect(all bool) (batch []*attempt, chunks []Chunk, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for _, a := range s.running {
		o := &a.output
		o.mu.Lock()
		switch {
		case o.pending == 0 || a.isLost():
		case !all && !o.urgent, size > 8*maxPending:
			more = true
		default:
			o.sending = len(o.chunks)
			size += o.pending
			chunks = a.under(chunks)
			batch = append(batch, a)
		}
		o.mu.Unlock()
	}
	return batch, chunks, more
}

// under appends what is on its way, under the attempt's lease. The caller holds its
// output's mu.
func (a *attempt) under(chunks []Chunk) []Chunk {
	for _, data := range a.output.chunks[:a.output.sending] {
		chunks = append(chunks, Chunk{ID: a.lease.ID, Fence: a.lease.Fence, Attempt: a.job.Attempt, Data: data})
	}
	return chunks
}

// append has the store keep a batch, however long that takes. Where its answer is not
// known, what it has is looked at before anything is sent again, so that no event is
// there twice.
func (s *Jobs) append(ctx context.Context, batch []*attempt, chunks []Chunk) {
	for len(chunks) > 0 {
		asking, cancel := context.WithTimeout(ctx, storeTime)
		err := s.o.Store.Append(asking, chunks)
		cancel()
		if s.answered("Append", err); !away(err) {
			for _, a := range batch {
				s.sent(a)
			}
			return
		}
		for err != nil {
			if pause(ctx, jitter(appendRetry)) != nil {
				return
			}
			batch, chunks, err = s.unsent(ctx, batch)
		}
	}
}

// sent takes what was on its way off an attempt's output.
func (s *Jobs) sent(a *attempt) {
	o := &a.output
	o.mu.Lock()
	for i, data := range o.chunks[:o.sending] {
		o.pending -= len(data)
		o.kept += int64(len(data))
		o.chunks[i] = nil
	}
	o.chunks = o.chunks[o.sending:]
	o.sending = 0
	o.mu.Unlock()
	select {
	case o.acked <- struct{}{}:
	default:
	}
	s.notify(a.job.ID)
}

// unsent is what of a batch the store does not have. The chunks of one call are kept
// together or not at all, except beyond the bound of a job, where sending them again does
// nothing: if there is more of an attempt than before, it is all there.
func (s *Jobs) unsent(ctx context.Context, batch []*attempt) (left []*attempt, chunks []Chunk, err error) {
	for _, a := range batch {
		o := &a.output
		if o.sending == 0 {
			continue // found there before the store went away again
		}
		has, err := s.has(ctx, a)
		if s.answered("Output", err); away(err) {
			return batch, nil, err
		}
		if err != nil || a.isLost() || has > o.kept {
			s.sent(a)
			continue
		}
		left = append(left, a)
		o.mu.Lock()
		chunks = a.under(chunks)
		o.mu.Unlock()
	}
	return left, chunks, nil
}

// has counts the bytes of an attempt's output that the store has.
func (s *Jobs) has(ctx context.Context, a *attempt) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	o := &a.output
	for {
		page, err := s.o.Store.Output(ctx, a.lease.ID, o.cursor, outputPage)
		if err != nil || len(page) == 0 {
			return o.seen, err
		}
		for _, c := range page {
			if o.cursor = c.Seq; c.Fence == a.lease.Fence {
				o.seen += int64(len(c.Data))
			}
		}
	}
}
