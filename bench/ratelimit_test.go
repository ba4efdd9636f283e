//go:build unix

package bench

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// usual keeps callers in debt and always admitted: a unit comes back in 8.6 s,
// which is longer than a benchmark takes to come to a caller again, and the burst
// lasts for all runs.
func usual() []quota { return []quota{{10_000, day}} }

// threeQuotas are long enough as well, and each keeps every caller in debt.
func threeQuotas() []quota {
	return []quota{{10_000, day}, {50_000, 7 * day}, {100_000, 30 * day}}
}

const day = 24 * time.Hour

// tight lets nobody in again while a benchmark runs.
func tight() []quota { return []quota{{10, day}} }

// hot is a quota that one caller alone cannot use up.
func hot() []quota { return []quota{{1_000_000_000, time.Hour}} }

// BenchmarkDecision is one decision for one of 100,000 random callers; for one
// caller who is always admitted, because the quota is out of reach; and for one
// who is far over the quota. "shared" has keys that are far away in memory, and
// "procs=2" two goroutines on two processors.
func BenchmarkDecision(b *testing.B) {
	all := slices.Concat(contenders(), sized())
	for _, c := range []struct {
		name       string
		contenders []contender
		keys       []string
		workload   workload
	}{
		{"keys=100k", all, callerKeys(keyCount), workload{order: fresh, quotas: usual()}},
		{"keys=100k,shared", few(), callerKeys(keyCount), workload{order: shared, quotas: usual()}},
		{"keys=hot", contenders(), callerKeys(1), workload{order: fresh, quotas: hot()}},
		{"keys=refused", few(), callerKeys(1), workload{order: fresh, quotas: tight(), refused: true}},
		{"keys=100k,procs=2", few(), callerKeys(keyCount), workload{order: fresh, quotas: usual(), procs: 2}},
		{"keys=hot,procs=2", few(), callerKeys(1), workload{order: fresh, quotas: hot(), procs: 2}},
	} {
		b.Run(c.name, func(b *testing.B) { c.workload.run(b, c.keys, c.contenders) })
	}
}

// BenchmarkThreePolicies is one decision on three quotas. weir and xtime take
// from all or from none; the others decide three times.
func BenchmarkThreePolicies(b *testing.B) {
	b.Run("keys=100k", func(b *testing.B) {
		w := workload{order: fresh, quotas: threeQuotas()}
		w.run(b, callerKeys(keyCount), contenders())
	})
}

// workload says what is decided, for whom and in what order.
type workload struct {
	order   func(keys []string) []string
	quotas  []quota
	procs   int  // 0: one goroutine, no parallel benchmark
	onEach  int  // goroutines on each of the procs; 0 means 1
	refused bool // every caller is over the quota
	given   bool // no row reads the clock
}

func (w workload) run(b *testing.B, keys []string, contenders []contender) {
	used := w.order(keys)
	if w.procs == 0 {
		b.Run("loop", func(b *testing.B) { decideInTurn(b, readKey, used) })
		b.Run("loop-and-take", func(b *testing.B) { decideInTurn(b, fillIn(), used) })
	}
	if w.procs == 0 && !w.given {
		b.Run("loop-and-clock", func(b *testing.B) { decideInTurn(b, readClock, used) })
	}
	for _, c := range contenders {
		open := c.open(b, w.quotas)
		w.fill(b, open(), keys)
		b.Run(c.name, func(b *testing.B) { w.decide(b, open, used) })
	}
}

// decide measures the decisions, and fails where they are not what the workload
// says.
func (w workload) decide(b *testing.B, open func() decide, used []string) {
	b.Helper()
	want, refused := 0, 0
	if w.refused {
		want = b.N
	}
	if w.procs > 0 {
		refused = w.decideInParallel(b, open, used)
	} else {
		refused = decideInTurn(b, open(), used)
	}
	if refused != want {
		b.Fatalf("%d of %d were refused, want %d", refused, b.N, want)
	}
}

// fill decides once for every key, so that tables have grown before the time
// counts, and where callers are to be refused until they are.
func (w workload) fill(b *testing.B, decide decide, keys []string) {
	b.Helper()
	for _, key := range keys {
		if !decide(key) {
			b.Fatalf("%s was refused at its first request", key)
		}
		for w.refused && decide(key) {
		}
	}
}

// readKey decides nothing: it is what the loop and the key's memory cost in every
// other row.
func readKey(key string) bool { return key[len(key)-1] > 0 }

// fillIn decides nothing either: it also writes what Weir is asked about one
// quota.
func fillIn() decide {
	takes, policy := make([]ratelimit.Take, 1), new(ratelimit.Policy)
	return func(key string) bool {
		takes[0] = ratelimit.Take{Policy: policy, Key: key, Cost: 1}
		return readKey(takes[0].Key)
	}
}

// readClock is readKey and one look at the clock, which every row has whose name
// does not end in "-now".
func readClock(key string) bool { return key[len(key)-1] > 0 && !time.Now().IsZero() }

func decideInTurn(b *testing.B, decide decide, keys []string) (refused int) {
	measure(b, func(n int) {
		for i := range n {
			if !decide(keys[i%streamLength]) {
				refused++
			}
		}
	})
	return refused
}

func (w workload) decideInParallel(b *testing.B, open func() decide, keys []string) int {
	var all atomic.Int64
	onEach := max(w.onEach, 1)
	measureParallel(b, w.procs, onEach, func(goroutine int, next func() bool) {
		decide, i, refused := open(), goroutine*streamLength/(w.procs*onEach), 0
		for next() {
			if !decide(keys[i%streamLength]) {
				refused++
			}
			i++
		}
		all.Add(int64(refused))
	})
	return int(all.Load())
}

func TestContendersEnforceTheQuota(t *testing.T) {
	for _, c := range contenders() {
		t.Run(c.name+" admits the quota and refuses the next", func(t *testing.T) {
			decide := c.open(t, []quota{{3, time.Hour}})()
			checkAnswers(t, decide, "a", true, true, true, false)
			checkAnswers(t, decide, "b", true, true, true, false)
		})
		t.Run(c.name+" refuses when the smallest of three quotas is used up", func(t *testing.T) {
			decide := c.open(t, []quota{{4, time.Hour}, {2, time.Hour}, {3, time.Hour}})()
			checkAnswers(t, decide, "a", true, true, false)
		})
	}
}

func checkAnswers(t *testing.T, decide decide, key string, want ...bool) {
	t.Helper()
	for i, w := range want {
		if got := decide(key); got != w {
			t.Errorf("%s, request %d: admitted %t, want %t", key, i+1, got, w)
		}
	}
}
