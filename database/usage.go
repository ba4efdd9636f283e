package database

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Entry is what one request adds to the usage ledger, or several that are told of
// together.
type Entry struct {
	// Time is when: the ledger keeps the hour that it is in, in UTC.
	Time time.Time
	// Caller is who: the ID of a weir.Caller. Route is where it went. Model is what
	// answered, "" where none did or it is not known. Of each at most 512 bytes are
	// kept, which no caller's ID has more of.
	Caller, Route, Model string
	// UsageCounts are what there was of what. What is negative counts as 0.
	UsageCounts
}

// UsageCounts are sums of the usage ledger. They saturate at maxUsage.
type UsageCounts struct {
	// Requests are all that came to a route; Hits those that were answered from
	// Weir's cache, Refused those that Weir refused for a quota or for want of room
	// (429, 503), Errors those that the upstream failed (5xx, or no answer).
	Requests, Hits, Refused, Errors int64
	// Input are the tokens of prompts, Cached the part of them that the model server
	// had in its own cache, Output the generated tokens.
	Input, Cached, Output int64
	// Cost is in nano-USD, 1e-9 USD.
	Cost int64
}

// maxUsage is the largest count that is kept: a million USD an hour, for each caller,
// route and model. It leaves room to sum nine thousand of them in 64 bits.
const maxUsage = 1_000_000_000_000_000

// all are the counts, in the order of the table's columns.
func (c *UsageCounts) all() [8]*int64 {
	return [...]*int64{&c.Requests, &c.Input, &c.Cached, &c.Output, &c.Hits, &c.Refused, &c.Errors, &c.Cost}
}

// add adds d, which may be anything, to c.
func (c *UsageCounts) add(d UsageCounts) {
	to, from := c.all(), d.all()
	for i := range to {
		n := min(max(*from[i], 0), maxUsage)
		*to[i] = min(*to[i]+n, maxUsage)
	}
}

const (
	// maxUsageKeys is how many combinations of hour, caller, route and model wait in
	// memory to be written.
	maxUsageKeys = 100_000
	// maxUsageModels is how many more there may be before models are put together,
	// too: what is left then are hours and routes, of which there are few.
	maxUsageModels = 10_000
	// maxUsageName is the most bytes of a caller, route or model: all that a caller's ID
	// can have, and together what PostgreSQL has room for in an index, 2700 bytes.
	maxUsageName = 512

	usageFlushEvery = 5 * time.Second
	usageSweepEvery = time.Hour
	usageKept       = 400 * 24 * time.Hour
	// usageBatchesKept is for how long a batch is remembered: longer than one whose
	// outcome is not known is likely to wait for the database.
	usageBatchesKept = 7 * 24 * time.Hour
)

// Others is the caller, and at last the model, under which the ledger counts what
// there is no room in memory for.
const Others = "(others)"

// Usage is the usage ledger: who used what, by hour. It is safe for concurrent use.
//
// What is added waits in memory and is written every 5 seconds, and when the database
// is closed; a process that is killed loses what it had not written. While the
// database is away it goes on waiting. Each batch has a name that is written in the
// same transaction: one that must be tried again because nobody knows whether it was
// committed is counted once.
type Usage struct {
	db *DB

	mu      sync.Mutex
	pending map[usageKey]UsageCounts // guarded by mu, like what follows
	folded  uint64
	taken   int // rows of batches, which are no longer pending and not yet written

	forgotten atomic.Bool // nobody needs own any more

	// writing holds a token while nobody writes; what follows is of whoever has it.
	writing chan struct{}
	batches []usageBatch // that are to be written, the first perhaps again
	own     map[ownUsage]int64
}

// usageKey is what has counts of its own.
type usageKey struct {
	hour                 int64 // microseconds since the epoch
	caller, route, model string
}

// UsageStats say how the ledger is doing.
type UsageStats struct {
	// Keys is how many combinations of hour, caller, route and model wait in memory, those
	// of the batch that is being written included; one that is in both counts twice.
	Keys int
	// Folded is how many entries were counted for Others, for want of room, since the
	// database was opened.
	Folded uint64
}

func newUsage(db *DB) *Usage {
	u := makeUsage(db)
	db.every(usageFlushEvery, u.flushOrSay)
	db.every(usageSweepEvery, u.sweep)
	db.atClose(u.close)
	return u
}

// makeUsage makes a ledger that does nothing by itself.
func makeUsage(db *DB) *Usage {
	u := &Usage{
		db:      db,
		pending: map[usageKey]UsageCounts{},
		writing: make(chan struct{}, 1),
		own:     map[ownUsage]int64{},
	}
	u.writing <- struct{}{}
	return u
}

// Add notes e, in memory alone: it never waits for the database. Beyond 100,000
// combinations of hour, caller, route and model that wait, new ones are counted for
// the caller Others.
func (u *Usage) Add(e Entry) {
	key := usageKey{usageHour(e.Time), usageName(e.Caller), usageName(e.Route), usageName(e.Model)}
	u.mu.Lock()
	defer u.mu.Unlock()
	counts, ok := u.pending[key]
	if !ok && len(u.pending) >= maxUsageKeys {
		key.caller = Others
		u.folded++
		if counts, ok = u.pending[key]; !ok && len(u.pending) >= maxUsageKeys+maxUsageModels {
			key.model = Others
			counts = u.pending[key]
		}
	}
	counts.add(e.UsageCounts)
	u.pending[key] = counts
}

// Stats tells how much waits.
func (u *Usage) Stats() UsageStats {
	u.mu.Lock()
	defer u.mu.Unlock()
	return UsageStats{Keys: len(u.pending) + u.taken, Folded: u.folded}
}

// usageHour is the beginning of the hour that t is in, as the table has it.
func usageHour(t time.Time) int64 {
	const hour = int64(time.Hour / time.Microsecond)
	us := t.UnixMicro()
	past := us % hour
	if past < 0 {
		past += hour
	}
	return us - past
}

// usageName is s as both databases take it: PostgreSQL has no zero bytes in texts,
// and only UTF-8. One name that it refused would keep its whole batch from being
// written, again and again.
func usageName(s string) string {
	if len(s) > maxUsageName {
		s = s[:maxUsageName]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Flush writes what waits. It returns when all that was added before is durable, or
// with an error that says why it is not; then it goes on waiting in memory.
func (u *Usage) Flush(ctx context.Context) error {
	if err := u.begin(ctx); err != nil {
		return err
	}
	defer u.end()
	return u.flush(ctx)
}
