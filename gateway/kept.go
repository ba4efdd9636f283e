package gateway

import (
	"bytes"
	"sync"
	"time"
)

// planOverride is the kind under which a plan's policies are kept in the database.
const planOverride = "plan"

// overridesEvery is how often the database is asked whether another instance has
// changed anything.
const overridesEvery = time.Second

// intent is what somebody wanted of a plan.
type intent struct {
	by     string
	drop   bool      // the file's policies, and no others in the database
	at     time.Time // when, by the database's clock
	had    bool      // the database had policies of the plan before
	failed bool      // the database was there, and has refused it
}

// kept follows the changes of the live configuration that the database keeps. What is in
// force here is compared with what it has whenever either may have changed: one
// goroutine does that, and what it gets wrong because of a change at the same moment it
// finds when that is over.
type kept struct {
	// Of the goroutine alone:
	asked   bool
	version int64
	misfit  map[string][]byte // by plan: what does not fit the configuration, and was said

	mu       sync.Mutex
	changed  bool              // guarded by mu, as all that follows: look again
	changing map[string]int    // changes that are being made, by plan
	owed     map[string]intent // what the database does not keep yet, by plan
	plans    map[string]bool   // those with the database's policies in force
}

// begin says that a plan is being changed here: until end, nothing else changes it.
func (k *kept) begin(plan string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changing == nil {
		k.changing = map[string]int{}
	}
	k.changing[plan]++
}

func (k *kept) end(plan string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = true
	if k.changing[plan]--; k.changing[plan] == 0 {
		delete(k.changing, plan)
	}
}

// unlessChanging calls put, which puts the database's policies of a plan in force and
// says whether it did, unless the plan is being changed.
func (k *kept) unlessChanging(plan string, put func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changing[plan] == 0 {
		k.noteLocked(plan, put())
	}
}

// news reports whether there may be a difference to find, and takes the mark of it.
func (k *kept) news(version int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed := k.changed
	k.changed = false
	return changed || !k.asked || version != k.version
}

// again says that there may be a difference still.
func (k *kept) again() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = true
}

func (k *kept) seen(version int64) { k.asked, k.version = true, version }

func (k *kept) has(plan string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.plans[plan]
}

// noteLocked remembers whether a plan has the policies of the database.
func (k *kept) noteLocked(plan string, overridden bool) {
	if k.plans == nil {
		k.plans = map[string]bool{}
	}
	delete(k.plans, plan)
	if overridden {
		k.plans[plan] = true
	}
}

// owe remembers what the database is still to keep. What is in force is not its own.
func (k *kept) owe(plan string, want intent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owed == nil {
		k.owed = map[string]intent{}
	}
	want.had = k.plans[plan] || k.owed[plan].had
	k.owed[plan] = want
	delete(k.plans, plan)
}

// keeps notes that the database has what was wanted of a plan last.
func (k *kept) keeps(plan string, want intent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.owed, plan)
	k.noteLocked(plan, !want.drop)
}

// pay forgets want, if it is still what is owed.
func (k *kept) pay(plan string, want intent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owed[plan].at.Equal(want.at) {
		delete(k.owed, plan)
	}
}

// fail notes that the database refuses want, if it is still what is owed.
func (k *kept) fail(plan string, want intent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if owed, there := k.owed[plan]; there && owed.at.Equal(want.at) {
		owed.failed = true
		k.owed[plan] = owed
	}
}

func (k *kept) owes(plan string) (intent, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	want, owed := k.owed[plan]
	return want, owed
}

// misfits remembers what does not fit, and reports whether that is new.
func (k *kept) misfits(plan string, doc []byte) bool {
	if k.misfit == nil {
		k.misfit = map[string][]byte{}
	}
	said, known := k.misfit[plan]
	k.misfit[plan] = doc
	return !known || !bytes.Equal(said, doc)
}
