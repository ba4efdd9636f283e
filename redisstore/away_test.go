package redisstore_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// slack is what a busy machine may add to a deadline: a call that waits for the server
// itself lasts until the end of the test.
const slack = 500 * time.Millisecond

// within fails the test if a take lasts longer than most.
func within(t *testing.T, s *redisstore.Store, most time.Duration) error {
	t.Helper()
	p := daily(t, "many", 20_000)
	watch := storetest.Stopwatch()
	_, err := s.Take(context.Background(), takes("k", p), time.Now())
	if took := watch(); took > most+slack {
		t.Fatalf("a take lasted %v, want at most %v", took, most)
	}
	return err
}

// outage calls until the breaker is open, and then checks that nobody waits.
func outage(t *testing.T, s *redisstore.Store, deadline time.Duration) {
	t.Helper()
	for n := 0; s.Healthy(); n++ {
		if within(t, s, deadline) == nil && n > 1000 {
			t.Fatal("takes go on without redis")
		}
	}
	watch := storetest.Stopwatch()
	for range 1000 {
		if err := within(t, s, 0); !s.Healthy() && !errors.Is(err, redisstore.ErrAway) {
			t.Fatalf("with the breaker open: %v, want ErrAway", err)
		}
		if s.Healthy() {
			t.Fatal("healthy without redis")
		}
	}
	if took := watch(); took > slack {
		t.Fatalf("1000 takes with the breaker open lasted %v", took)
	}
}

func TestAway(t *testing.T) {
	const deadline = 20 * time.Millisecond
	t.Run("waits for a paused server no longer than the deadline, soon not at all, and comes back", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var seen observed
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: deadline, Observe: seen.observe})
		healthy(t, s)
		server.Pause()
		outage(t, s, deadline)
		if n := seen.of(redisstore.OpTake, redisstore.Timeout); n < 1 || n > 20 {
			t.Errorf("%d takes timed out, want about five", n)
		}
		<-time.After(time.Second)
		server.Resume()
		healthy(t, s)
	})
	t.Run("keeps thousands of callers from waiting longer than the deadline", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s, err := redisstore.NewWithLease(redisstore.Options{URL: server.URL(), Deadline: deadline, BreakerFailures: 1 << 30}, redisstore.Lease)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		healthy(t, s)
		server.Pause()
		var wg sync.WaitGroup
		var answered atomic.Int64
		watch := storetest.Stopwatch()
		for range 4000 { // more than the client queues
			wg.Go(func() {
				if _, err := s.Take(context.Background(), takes("k", daily(t, "many", 20_000)), time.Now()); err == nil {
					answered.Add(1)
				}
			})
		}
		wg.Wait()
		took := watch()
		server.Resume()
		if answered.Load() != 0 || took > deadline+4*slack {
			t.Fatalf("%d of 4000 takes answered by a paused server, all of them after %v", answered.Load(), took)
		}
		storetest.Eventually(t, soon, "takes go on", func() bool { return within(t, s, deadline) == nil })
	})
	t.Run("comes back after the server was killed and started", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: deadline})
		healthy(t, s)
		server.Stop()
		outage(t, s, deadline)
		server.Start()
		healthy(t, s)
		storetest.Eventually(t, soon, "takes go on", func() bool { return within(t, s, deadline) == nil })
	})
	t.Run("begins without a server and finds it when it is there", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		server.Stop()
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: deadline})
		if err := within(t, s, deadline); err == nil {
			t.Fatal("took without a server")
		}
		server.Start()
		healthy(t, s)
		storetest.Eventually(t, soon, "takes go on", func() bool { return within(t, s, deadline) == nil })
	})
	t.Run("makes a new connection when the server closes its own", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: relaxed})
		healthy(t, s)
		for range 20 {
			server.MustDo("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			storetest.Eventually(t, soon, "takes go on", func() bool { return within(t, s, relaxed) == nil })
		}
	})
}

// forwarder is a name that leads somewhere: new connections go where it says now,
// old ones stay.
type forwarder struct {
	address string
	target  atomic.Pointer[string]
}

func (f *forwarder) to(target string) { f.target.Store(&target) }

func forward(t *testing.T, target string) *forwarder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{address: l.Addr().String()}
	f.to(target)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", *f.target.Load())
			if err != nil {
				_ = client.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return f
}

func TestWrongServer(t *testing.T) {
	t.Run("leaves a server that is a replica now, and comes back when it is a master", func(t *testing.T) {
		t.Parallel()
		server, other := storetest.Redis(t), storetest.Redis(t)
		var seen observed
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: relaxed, Observe: seen.observe})
		healthy(t, s)
		server.ReplicaOf(other)
		outage(t, s, relaxed)
		if seen.of(redisstore.OpTake, redisstore.ReadOnly) != 1 {
			t.Errorf("%d takes failed on the replica, want one", seen.of(redisstore.OpTake, redisstore.ReadOnly))
		}
		server.Promote()
		healthy(t, s)
		storetest.Eventually(t, soon, "takes go on", func() bool { return within(t, s, relaxed) == nil })
	})
	t.Run("looks for the master anew where a name leads to another one", func(t *testing.T) {
		t.Parallel()
		old, next := storetest.Redis(t), storetest.Redis(t)
		way := forward(t, old.Addr())
		s := open(t, redisstore.Options{URL: "redis://" + way.address, Deadline: relaxed})
		healthy(t, s)
		way.to(next.Addr())
		old.ReplicaOf(next) // the old connection stays, and leads to a replica
		storetest.Eventually(t, soon, "takes go on at the new master", func() bool { return within(t, s, relaxed) == nil })
		if next.MustDo("EXISTS", redisstore.CountKey("weir", daily(t, "many", 20_000), "k")) != "1" {
			t.Fatal("the take is not at the new master")
		}
	})
	t.Run("calls a full server and a wrong password by their names", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		var seen observed
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: relaxed, Observe: seen.observe})
		healthy(t, s)
		server.MustDo("CONFIG", "SET", "maxmemory", "1")
		outage(t, s, relaxed)
		if seen.of(redisstore.OpTake, redisstore.Memory) != redisstore.DefaultBreakerFailures {
			t.Errorf("%d failures for memory", seen.of(redisstore.OpTake, redisstore.Memory))
		}
		storetest.Eventually(t, soon, "it is tried again, and is still full", func() bool { return seen.of(redisstore.OpRenew, redisstore.Memory) >= 3 })
		server.MustDo("CONFIG", "SET", "maxmemory", "0")
		healthy(t, s)
		server.MustDo("CONFIG", "SET", "requirepass", "secret")
		var refused observed
		wrong := open(t, redisstore.Options{URL: "redis://:wrong@" + server.Addr(), Deadline: relaxed, Observe: refused.observe})
		storetest.Eventually(t, soon, "the login fails", func() bool { return refused.of(redisstore.OpRenew, redisstore.Login) > 0 })
		right := open(t, redisstore.Options{URL: "redis://:secret@" + server.Addr(), Deadline: relaxed})
		healthy(t, right)
		if wrong.Healthy() {
			t.Error("healthy with a wrong password")
		}
	})
	t.Run("follows sentinels to the new master", func(t *testing.T) {
		t.Parallel()
		master, replica := storetest.Redis(t), storetest.Redis(t)
		replica.ReplicaOf(master)
		sentinel := storetest.RedisSentinel(t, master)
		s := open(t, redisstore.Options{URL: "redis+sentinel://mymaster@" + sentinel.Addr() + "/0", Deadline: relaxed})
		healthy(t, s)
		p := daily(t, "p", 10)
		if got := admitted(t, 5, func() bool { return take(t, s, "k", p) }); got != 5 {
			t.Fatalf("admitted %d of 5", got)
		}
		storetest.Eventually(t, soon, "the sentinel knows the replica", func() bool {
			return sentinel.MustDo("SENTINEL", "REPLICAS", "mymaster") != ""
		})
		storetest.Eventually(t, soon, "the replica has all writes", func() bool {
			return replica.MustDo("EXISTS", redisstore.CountKey("weir", p, "k")) == "1"
		})
		master.Stop()
		storetest.Eventually(t, 3*soon, "takes go on at the new master", func() bool { return within(t, s, relaxed) == nil })
		if got := admitted(t, 10, func() bool { return take(t, s, "k", p) }); got != 5 {
			t.Fatalf("admitted %d after the failover, want the 5 that were left", got)
		}
	})
}
