package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// The heartbeats of the instances are one key, and the slots are others: what keeps
// the one from being written must cost nobody a slot, nor the store its server.
func TestSlotsAreRenewedWhateverBecomesOfTheHeartbeat(t *testing.T) {
	server := storetest.Redis(t)
	outlasts(t, 1200*time.Millisecond, func(lease time.Duration, stoodStill func() bool) bool {
		server.MustDo("FLUSHALL")
		a, b := openWithLease(t, server.URL(), lease), openWithLease(t, server.URL(), lease)
		defer a.Close()
		defer b.Close()
		healthy(t, a)
		healthy(t, b)
		two := prepare(t, ratelimit.Policy{Name: "two", Concurrent: 2})
		for i := range 2 {
			if !hold(t, a, two, fmt.Sprint("a", i)) {
				t.Fatal("no slot")
			}
		}
		server.MustDo("SET", "weir:{instances}", "x")
		stoodStill()
		for end := time.Now().Add(2 * lease); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
			due := []ratelimit.Take{{Policy: two, Key: "k", ID: "b", Cost: 1}}
			if allowed, err := b.Take(context.Background(), due, time.Now()); err != nil || allowed && !stoodStill() {
				t.Fatalf("a third beside two that run: %t %v", allowed, err)
			} else if allowed {
				return false
			}
			stoodStill()
		}
		return true
	})
	var seen observed
	late := open(t, redisstore.Options{URL: server.URL(), Deadline: relaxed, Observe: seen.observe})
	storetest.Eventually(t, soon, "its first heartbeat fails", func() bool { return seen.of(redisstore.OpRenew, redisstore.Script) > 0 })
	if !take(t, late, "k", daily(t, "other", 10)) {
		t.Fatal("a store that starts then does not count")
	}
}

// While one of three masters is away, the others do not lose their calls.
func TestAMasterThatIsAwayCostsTheOthersNothing(t *testing.T) {
	servers := storetest.RedisCluster(t, 3)
	for _, s := range servers {
		s.MustDo("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	s := open(t, redisstore.Options{URL: clusterURL(servers), Deadline: 100 * time.Millisecond})
	healthy(t, s)
	p := daily(t, "p", 20_000)
	// Keys by whether their master will be away.
	var here []string
	for i := 0; len(here) < 20; i++ {
		key := fmt.Sprint("key", i)
		before := servers[0].MustDo("DBSIZE")
		mustTake(t, s, takes(key, p)...)
		if servers[0].MustDo("DBSIZE") == before {
			here = append(here, key)
		}
	}
	servers[0].Stop()
	failed := 0
	for range 10 {
		for _, key := range here {
			if allowed, err := s.Take(context.Background(), takes(key, p), time.Now()); err != nil || !allowed {
				failed++
			}
		}
		_, _ = s.Take(context.Background(), takes(fmt.Sprint("any", failed), p), time.Now())
	}
	if failed > 20 { // the first moments, until the client knows
		t.Errorf("%d of 200 calls to the masters that are there failed", failed)
	}
}
