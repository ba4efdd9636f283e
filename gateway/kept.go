package gateway

import (
	"time"
)

// planKind is the kind of a plan's edits.
const planKind = "plan"

// overridesEvery is how often the database is asked whether another instance has
// changed anything.
const overridesEvery = time.Second

// intent is what somebody wanted of a plan, route or upstream.
type intent struct {
	by     string
	doc    []byte    // nil: what the file says, and nothing in the database
	at     time.Time // when, by the database's clock
	had    bool      // the database had something of it before
	failed bool      // the database was there, and has refused it
}

// kept follows the changes of the live configuration that the database keeps. What is in
// force here is compared with what it has whenever either may have changed: one
// goroutine does that, and what it gets wrong because of a change at the same moment it
// finds when that is over. It is guarded by Gateway.changes.
type kept struct {
	asked    bool
	version  int64
	changed  bool               // look again
	changing int                // changes that are being made
	turns    uint64             // changes that were begun
	turn     chan struct{}      // has room for who makes the next change; not guarded
	owed     map[editKey]intent // what the database does not keep yet
	plans    map[editKey]bool   // what is here as the database has it, in force or left out
}

// beginChange says that something is being changed here: until endChange, what the
// database has is not put in force.
func (g *Gateway) beginChange() {
	g.changes.Lock()
	defer g.changes.Unlock()
	k := &g.live.kept
	k.changing++
	k.turns++
}

func (g *Gateway) endChange() {
	g.changes.Lock()
	defer g.changes.Unlock()
	g.live.kept.changing--
	g.live.kept.changed = true
}

// news reports whether there may be a difference to find, and takes the mark of it. The
// turn is for adopt.
func (g *Gateway) news(version int64) (turn uint64, news bool) {
	g.changes.Lock()
	defer g.changes.Unlock()
	k := &g.live.kept
	changed := k.changed
	k.changed = false
	return k.turns, changed || !k.asked || version != k.version
}

// again says that there may be a difference still.
func (g *Gateway) again() {
	g.changes.Lock()
	defer g.changes.Unlock()
	g.live.kept.changed = true
}

// noteLocked remembers whether the database's is in force.
func (k *kept) noteLocked(key editKey, overridden bool) {
	delete(k.plans, key)
	if overridden {
		k.plans[key] = true
	}
}

// payLocked forgets want, if it is still what is owed.
func (k *kept) payLocked(key editKey, want intent) {
	if k.owed[key].at.Equal(want.at) {
		delete(k.owed, key)
	}
}

// pay is payLocked.
func (g *Gateway) pay(key editKey, want intent) {
	g.changes.Lock()
	defer g.changes.Unlock()
	g.live.kept.payLocked(key, want)
}

// fail notes that the database refuses want, if it is still what is owed.
func (g *Gateway) fail(key editKey, want intent) {
	g.changes.Lock()
	defer g.changes.Unlock()
	k := &g.live.kept
	if owed, there := k.owed[key]; there && owed.at.Equal(want.at) {
		owed.failed = true
		k.owed[key] = owed
	}
}
