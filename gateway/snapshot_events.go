package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir/upstream"
)

const (
	// maxEvents is how many events are kept, maxSnapshotEvents how many of them, the
	// newest, a snapshot has.
	maxEvents         = 500
	maxSnapshotEvents = 100
	// eventAgain is how long after an event another one that is equal is counted with
	// it, not kept beside it.
	eventAgain = 10 * time.Second
	// maxEventText bounds an event's text, maxEventDetails its details, in bytes: what
	// is longer is cut, or left out.
	maxEventText    = 1 << 10
	maxEventDetails = 4 << 10
)

// events are what operators should know, the oldest first.
type events struct {
	mu   sync.Mutex
	kept []keptEvent   // guarded by mu, as all that follows
	last uint64        // the number of the newest change
	news chan struct{} // closed at the next change; nil: nobody waits
}

// keptEvent is an event, and when it was last changed.
type keptEvent struct {
	EventSnapshot        // with the text of one
	times         int    // that it happened
	since         uint64 // the number of its newest change
}

// shown is the event as operators see it.
func (k *keptEvent) shown() EventSnapshot {
	e := k.EventSnapshot
	if e.Count = k.times; k.times > 1 {
		e.Text = fmt.Sprintf("%s, %d times", e.Text, k.times)
	}
	return e
}

func (e *events) note(n EventSnapshot) {
	if len(n.Text) > maxEventText {
		n.Text = strings.ToValidUTF8(n.Text[:maxEventText], "")
	}
	if len(n.Details) > maxEventDetails || !json.Valid(n.Details) { // or no snapshot could be written
		n.Details = nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	if k := e.equalLocked(n); k != nil {
		k.At, k.Details, k.since = n.At, n.Details, e.last
		k.times++
	} else {
		n.ID = e.last
		if len(e.kept) == maxEvents {
			e.kept = slices.Delete(e.kept, 0, 1)
		}
		e.kept = append(e.kept, keptEvent{n, 1, e.last})
	}
	if e.news != nil {
		close(e.news)
		e.news = nil
	}
}

// equalLocked finds the event that n happened again of.
func (e *events) equalLocked(n EventSnapshot) *keptEvent {
	for i := len(e.kept) - 1; i >= 0; i-- {
		k := &e.kept[i]
		if k.Kind == n.Kind && k.Level == n.Level && k.Text == n.Text && n.At.Sub(k.At) < eventAgain {
			return k
		}
	}
	return nil
}

// after returns what has changed since the change with the number, the oldest first.
func (e *events) after(n uint64) (list []EventSnapshot, last uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.kept {
		if e.kept[i].since > n {
			list = append(list, e.kept[i].shown())
		}
	}
	return list, e.last
}

// newest returns at most n events, the newest first.
func (e *events) newest(n int) []EventSnapshot {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]EventSnapshot, 0, min(n, len(e.kept)))
	for i := len(e.kept) - 1; i >= 0 && len(list) < n; i-- {
		list = append(list, e.kept[i].shown())
	}
	return list
}

// wait returns a channel that is closed when something changes that after(n) does not
// have.
func (e *events) wait(n uint64) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last > n {
		now := make(chan struct{})
		close(now)
		return now
	}
	if e.news == nil {
		e.news = make(chan struct{})
	}
	return e.news
}

// Note tells operators of e: in the snapshot, and in the stream of events. At is now
// where it is zero, Level info where it is empty. The last 500 events are kept; one that
// happens again within 10 s is counted with the one before. Note never blocks.
func (g *Gateway) Note(e EventSnapshot) {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.Level == "" {
		e.Level = "info"
	}
	g.events.note(e)
}

// Events returns what has happened since the change with the number after (0: all that
// is kept), the oldest first, and the number of the last change. An event that happened
// again is there again, with its ID.
func (g *Gateway) Events(after uint64) (events []EventSnapshot, last uint64) {
	return g.events.after(after)
}

// EventsAfter is closed as soon as Events has something for after.
func (g *Gateway) EventsAfter(after uint64) <-chan struct{} { return g.events.wait(after) }

// Draining is over when the gateway is about to stop: whoever only watches it should
// leave.
func (g *Gateway) Draining() context.Context { return g.data.draining }

// noteTarget tells of a target that is left out, or back.
func (g *Gateway) noteTarget(upstreamName string, e upstream.TargetEvent) {
	n := EventSnapshot{Kind: "eject", Level: "warn"}
	switch e.What {
	case upstream.TargetOpened:
		n.Text = "too many requests in a row failed: the target is left out until one succeeds"
	case upstream.TargetEjected:
		n.Text = "the probes fail: the target is left out until they succeed"
	case upstream.TargetClosed:
		n.Level, n.Text = "info", "a request succeeded: the target is back"
	case upstream.TargetReturned:
		n.Level, n.Text = "info", "the probes succeed again: the target is back"
	default:
		return
	}
	n.Text = fmt.Sprintf("Upstream %s, target %s: %s", upstreamName, e.Target, n.Text)
	n.Details = details("upstream", upstreamName, "target", e.Target, "what", e.What)
	g.Note(n)
}

// notePurge tells of answers that were purged, here.
func (g *Gateway) notePurge(kind, value string, removed int, err error) {
	n := EventSnapshot{Kind: "purge", Text: "The whole cache was purged", Details: details("kind", kind, "value", value, "removed", strconv.Itoa(removed))}
	if kind != "all" {
		n.Text = fmt.Sprintf("The answers with %s %.200s were purged", kind, value)
	}
	if n.Text += ": " + strconv.Itoa(removed) + " here"; err != nil {
		n.Level, n.Text = "error", n.Text+", but not everywhere: "+err.Error()
	}
	g.Note(n)
}

// details are names and values in turn, as a JSON object.
func details(pairs ...string) json.RawMessage {
	m := make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	b, _ := json.Marshal(m) // strings alone
	return b
}

// callEnded counts the calls to an upstream.
func (g *Gateway) callEnded(name string) func(upstream.Event) {
	return func(e upstream.Event) {
		result := result(e.Result)
		g.metrics.Upstream(name, result, e.FirstByte, e.Total)
		g.metrics.UpstreamAnswer(name, e.Status)
		g.figures.Call(name, result, e.FirstByte, e.Total)
	}
}
