package redisstore_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

func TestMain(m *testing.M) {
	// The client closes its connections to nodes that left a cluster after five
	// seconds, whether it is closed itself or not.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

// relaxed is a deadline for tests that are not about it, on a busy machine; soon
// is how long a store may need to find Redis again there.
const (
	relaxed = 10 * time.Second
	soon    = 30 * time.Second
)

func clusterURL(servers []*storetest.RedisServer) string {
	hosts := make([]string, len(servers))
	for i, s := range servers {
		hosts[i] = s.Addr()
	}
	return "redis+cluster://" + strings.Join(hosts, ",")
}

// open makes a store that goes by the server's time.
func open(t *testing.T, o redisstore.Options) *redisstore.Store {
	t.Helper()
	if o.Deadline == 0 {
		o.Deadline = relaxed
	}
	s, err := redisstore.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// openWithTime makes a store that goes by the caller's time.
func openWithTime(t *testing.T, url string) *redisstore.Store {
	t.Helper()
	s, err := redisstore.NewWithTime(redisstore.Options{URL: url, Deadline: relaxed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func openWithLease(t *testing.T, url string, lease time.Duration) *redisstore.Store {
	t.Helper()
	s, err := redisstore.NewWithLease(redisstore.Options{URL: url, Deadline: relaxed}, lease)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func prepare(t testing.TB, p ratelimit.Policy) *ratelimit.Policy {
	t.Helper()
	prepared, err := p.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return prepared
}

// hourly is a policy that gives next to nothing back during a test.
func hourly(t testing.TB, name string, quota int64) *ratelimit.Policy {
	t.Helper()
	return prepare(t, ratelimit.Policy{Name: name, Quota: quota, Window: time.Hour, Algorithm: ratelimit.FixedWindow})
}

// daily is a bucket that gives next to nothing back during a test.
func daily(t testing.TB, name string, quota int64) *ratelimit.Policy {
	t.Helper()
	return prepare(t, ratelimit.Policy{Name: name, Quota: 1, Burst: quota, Window: 24 * time.Hour})
}

func takes(key string, policies ...*ratelimit.Policy) []ratelimit.Take {
	all := make([]ratelimit.Take, len(policies))
	for i, p := range policies {
		all[i] = ratelimit.Take{Policy: p, Key: key, Cost: 1}
	}
	return all
}

func take(t testing.TB, s ratelimit.Store, key string, policies ...*ratelimit.Policy) bool {
	t.Helper()
	allowed, err := s.Take(context.Background(), takes(key, policies...), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return allowed
}

// admitted is how many of n takes are allowed.
func admitted(t testing.TB, n int, take func() bool) int {
	t.Helper()
	count := 0
	for range n {
		if take() {
			count++
		}
	}
	return count
}

// hold takes a slot for id.
func hold(t testing.TB, s ratelimit.Store, p *ratelimit.Policy, id string) bool {
	t.Helper()
	allowed, err := s.Take(context.Background(), []ratelimit.Take{{Policy: p, Key: "k", ID: id, Cost: 1}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return allowed
}

// mustTake takes what nothing may deny. A take that the server did not answer in time is
// tried again, with the same IDs: it may have been busy.
func mustTake(t testing.TB, s ratelimit.Store, due ...ratelimit.Take) {
	t.Helper()
	storetest.Eventually(t, soon, "it is taken", func() bool {
		allowed, err := s.Take(context.Background(), due, time.Now())
		if err == nil && !allowed {
			t.Fatal("denied")
		}
		return err == nil
	})
}

func free(s ratelimit.Store, p *ratelimit.Policy, id string) error {
	return s.Settle(context.Background(), []ratelimit.Take{{Policy: p, Key: "k", ID: id, Cost: -1}}, time.Now())
}

// observed are the events of a store.
type observed struct {
	mu     sync.Mutex
	events []redisstore.Event
}

func (o *observed) observe(e redisstore.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

// of counts the events of an operation that ended so.
func (o *observed) of(op redisstore.Op, failure redisstore.Failure) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, e := range o.events {
		if e.Op == op && e.Failure == failure {
			n++
		}
	}
	return n
}

// healthy waits until s has found Redis and reported there.
func healthy(t testing.TB, s *redisstore.Store) {
	t.Helper()
	storetest.Eventually(t, soon, "the store is healthy", func() bool { return s.Healthy() && s.Reported() })
}
