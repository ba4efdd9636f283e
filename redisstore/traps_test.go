package redisstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// Limiters are known that take the time from whoever calls, and admit everything to
// two callers whose clocks differ. What one takes whose clock is an hour ahead is not
// an hour of debt to the other.
func TestOnlyTheServersClockCounts(t *testing.T) {
	server := storetest.Redis(t)
	ahead, right := open(t, redisstore.Options{URL: server.URL(), Deadline: relaxed}), open(t, redisstore.Options{URL: server.URL(), Deadline: relaxed})
	healthy(t, ahead)
	healthy(t, right)
	p := prepare(t, ratelimit.Policy{Name: "b", Quota: 1, Window: 30 * time.Second, Burst: 2})
	if allowed, err := ahead.Take(context.Background(), takes("k", p), time.Now().Add(time.Hour)); err != nil || !allowed {
		t.Fatal(allowed, err)
	}
	due := takes("k", p)
	if allowed, err := right.Take(context.Background(), due, time.Now()); err != nil || !allowed || due[0].Decision.Full > time.Minute {
		t.Fatal(allowed, err, due[0].Decision)
	}
}

// A key that lost its expiry, to PERSIST or a restore, gets one again with the next
// write: counts are known that block their caller for ever.
func TestAKeyWithoutAnExpiryIsRepaired(t *testing.T) {
	server := storetest.Redis(t)
	s := open(t, redisstore.Options{URL: server.URL(), Deadline: relaxed})
	healthy(t, s)
	for _, p := range []*ratelimit.Policy{
		daily(t, "bucket", 100), hourly(t, "fixed", 100),
		prepare(t, ratelimit.Policy{Name: "sliding", Quota: 100, Window: time.Hour, Algorithm: ratelimit.SlidingWindow}),
		prepare(t, ratelimit.Policy{Name: "slots", Concurrent: 5}),
	} {
		key := redisstore.CountKey("weir", p, "k")
		for i, id := range []string{"a", "b"} {
			due := takes("k", p)
			due[0].ID = id
			if allowed, err := s.Take(context.Background(), due, time.Now()); err != nil || !allowed {
				t.Fatal(p.Name, allowed, err)
			}
			if i == 0 && server.MustDo("PERSIST", key) != "1" {
				t.Fatalf("%s: no expiry to take away", key)
			}
		}
		if server.MustDo("PTTL", key) == "-1" {
			t.Errorf("%s has no expiry", key)
		}
	}
}
