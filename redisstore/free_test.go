package redisstore_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// promptly is far less than a lease, after which slots come free by themselves.
const promptly = redisstore.Lease / 3

// unanswered runs takes that time out, of slots that Redis hears of.
func unanswered(t *testing.T, s *redisstore.Store, p *ratelimit.Policy, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			ghost := []ratelimit.Take{{Policy: p, Key: "k", ID: fmt.Sprint("ghost", i), Cost: 1}}
			if _, err := s.Take(context.Background(), ghost, time.Now()); err == nil {
				t.Error("a stopped server answered")
			}
		})
	}
	wg.Wait()
}

// warm makes the server know the scripts: one that has to be sent after an answer
// is not sent late.
func warm(t *testing.T, s *redisstore.Store, p *ratelimit.Policy) {
	t.Helper()
	storetest.Eventually(t, soon, "a slot is taken and freed", func() bool {
		look := []ratelimit.Take{{Policy: p, Key: "warm", ID: "warm", Cost: 1}}
		allowed, err := s.Take(context.Background(), look, time.Now())
		if err == nil && !allowed {
			t.Fatal("denied")
		}
		look[0].Cost = -1
		return err == nil && s.Settle(context.Background(), look, time.Now()) == nil
	})
}

// comesFree waits until a slot can be taken, for much less than a lease.
func comesFree(t *testing.T, s *redisstore.Store, p *ratelimit.Policy, id string) {
	t.Helper()
	storetest.Eventually(t, promptly, "a slot is free", func() bool {
		allowed, err := s.Take(context.Background(), []ratelimit.Take{{Policy: p, Key: "k", ID: id, Cost: 1}}, time.Now())
		return err == nil && allowed
	})
}

func TestUnknownSlots(t *testing.T) {
	p := prepare(t, ratelimit.Policy{Name: "c", Concurrent: 2})
	key := redisstore.CountKey("weir", p, "k")
	t.Run("come free when redis is back, where takes had no answer", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: 50 * time.Millisecond, BreakerFailures: 2})
		warm(t, s, p)
		server.Pause()
		unanswered(t, s, p, 2)
		server.Resume()
		comesFree(t, s, p, "new")
		storetest.Eventually(t, promptly, "only the new one is held", func() bool {
			return server.MustDo("ZRANGE", key, "0", "-1") == "new"
		})
	})
	t.Run("come free where a store stays healthy all along", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: 50 * time.Millisecond, BreakerFailures: 1 << 30})
		warm(t, s, p)
		server.Pause()
		unanswered(t, s, p, 2)
		server.Resume()
		comesFree(t, s, p, "new")
		if !s.Healthy() {
			t.Fatal("not healthy: this is about a store that is")
		}
	})
	t.Run("come free when redis is back, where they were freed while it was away", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL(), Deadline: 50 * time.Millisecond, BreakerFailures: 1})
		warm(t, s, p)
		for _, id := range []string{"a", "b"} {
			mustTake(t, s, ratelimit.Take{Policy: p, Key: "k", ID: id, Cost: 1})
		}
		server.Pause()
		errA, errB := free(s, p, "a"), free(s, p, "b") // the second one is not sent
		if errA == nil || errB == nil || s.Healthy() {
			t.Fatalf("freed on a stopped server: %v, %v", errA, errB)
		}
		server.Resume()
		comesFree(t, s, p, "new")
		storetest.Eventually(t, promptly, "only the new one is held", func() bool {
			return server.MustDo("ZRANGE", key, "0", "-1") == "new"
		})
	})
}

func TestUnknownSlotsOnACluster(t *testing.T) {
	p := prepare(t, ratelimit.Policy{Name: "c", Concurrent: 2})
	t.Run("come free on each master of a cluster", func(t *testing.T) {
		t.Parallel()
		servers, keys := storetest.RedisCluster(t, 3), onEach(t)
		s := open(t, redisstore.Options{URL: clusterURL(servers), Deadline: 200 * time.Millisecond, BreakerFailures: 1 << 30})
		healthy(t, s)
		var due []ratelimit.Take
		for _, key := range keys {
			due = append(due, ratelimit.Take{Policy: p, Key: key, ID: "id", Cost: 1})
		}
		mustTake(t, s, due...)
		servers[1].Pause()
		for i := range due {
			due[i].Cost = -1
		}
		err := s.Settle(context.Background(), due, time.Now())
		servers[1].Resume()
		if err == nil || s.Held() != 0 {
			t.Fatalf("with one master stopped: error %v, %d held", err, s.Held())
		}
		for i, key := range keys {
			storetest.Eventually(t, promptly, "the slot is free", func() bool {
				return servers[i].MustDo("EXISTS", redisstore.CountKey("weir", p, key)) == "0"
			})
		}
	})
	t.Run("come free on those masters of a cluster that answer", func(t *testing.T) {
		t.Parallel()
		servers, keys := storetest.RedisCluster(t, 3), onEach(t)
		s := open(t, redisstore.Options{URL: clusterURL(servers)})
		healthy(t, s)
		for _, server := range servers { // else two of three say that the cluster is down
			server.MustDo("CONFIG", "SET", "cluster-require-full-coverage", "no")
		}
		counts := make([]string, 100)
		for i := range counts { // more than one batch
			n := i % 3
			counts[i] = redisstore.CountKey(fmt.Sprint("w", i), p, keys[n])
			servers[n].MustDo("ZADD", counts[i], "9999999999999", "id")
		}
		servers[1].Pause()
		defer servers[1].Resume()
		for _, count := range counts {
			s.FreeLater(count, "id")
		}
		for i, count := range counts {
			if i%3 != 1 {
				storetest.Eventually(t, promptly, "the slot is free", func() bool { return servers[i%3].MustDo("EXISTS", count) == "0" })
			}
		}
	})
}

func TestLateSlots(t *testing.T) {
	p := prepare(t, ratelimit.Policy{Name: "c", Concurrent: 2})
	key := redisstore.CountKey("weir", p, "k")
	t.Run("come free where the take runs later than what freed it", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		way, freed := delay(t, server.Addr()), &observed{}
		s := open(t, redisstore.Options{URL: "redis://" + way.address, Deadline: 50 * time.Millisecond, Observe: freed.observe})
		warm(t, s, p)
		way.stall()
		unanswered(t, s, p, 1)
		way.cut() // the store connects anew
		storetest.Eventually(t, soon, "it is freed on the new connection", func() bool { return freed.of(redisstore.OpUndo, redisstore.None) > 0 })
		if n := server.MustDo("ZCARD", key); n != "0" {
			t.Fatalf("%s slots are taken: the take was not late", n)
		}
		way.deliver()
		storetest.Eventually(t, soon, "the late take runs", func() bool { return server.MustDo("ZCARD", key) == "1" })
		storetest.Eventually(t, promptly, "its slot is free again", func() bool { return server.MustDo("ZCARD", key) == "0" })
	})
	t.Run("come free before the store is closed", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL()})
		healthy(t, s)
		server.MustDo("ZADD", key, "9999999999999", "a")
		s.FreeLater(key, "a")
		s.Close()
		if n := server.MustDo("ZCARD", key); n != "0" {
			t.Fatalf("%s slots are left", n)
		}
	})
}

func TestFreeingMany(t *testing.T) {
	t.Run("frees thousands of slots of hundreds of counts, and nothing else", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL()})
		healthy(t, s)
		for i := range 200 {
			args := []string{"ZADD", fmt.Sprint("count", i), "9999999999999", "stays"}
			for j := range 20 {
				args = append(args, "9999999999999", fmt.Sprint(j))
			}
			server.MustDo(args...)
		}
		server.MustDo("SET", "text", "in the way")
		s.FreeLater("text", "id")
		for i := range 200 {
			for j := range 20 {
				s.FreeLater(fmt.Sprint("count", i), fmt.Sprint(j))
			}
		}
		for i := range 200 {
			storetest.Eventually(t, promptly, "they are free", func() bool {
				return server.MustDo("ZRANGE", fmt.Sprint("count", i), "0", "-1") == "stays"
			})
		}
	})
	t.Run("leaves alone what is held again", func(t *testing.T) {
		t.Parallel()
		server, p := storetest.Redis(t), prepare(t, ratelimit.Policy{Name: "c", Concurrent: 2})
		var seen observed
		s := open(t, redisstore.Options{URL: server.URL(), Observe: seen.observe})
		healthy(t, s)
		if !hold(t, s, p, "a") {
			t.Fatal("denied")
		}
		s.FreeLater(redisstore.CountKey("weir", p, "k"), "a")
		storetest.Eventually(t, soon, "it was looked at", func() bool { return seen.of(redisstore.OpUndo, redisstore.None) > 0 })
		if n := server.MustDo("ZCARD", redisstore.CountKey("weir", p, "k")); n != "1" {
			t.Fatalf("%s slots held, want 1", n)
		}
	})
	t.Run("keeps a bounded number in mind, and forgets them after a lease", func(t *testing.T) {
		t.Parallel()
		server := storetest.Redis(t)
		server.Stop()
		s := openWithLease(t, server.URL(), 300*time.Millisecond)
		for i := range 70_000 {
			s.FreeLater("count", fmt.Sprint(i))
		}
		if n := s.Freeing(); n != 65536 {
			t.Fatalf("%d wait to be freed, want 65536", n)
		}
		server.Start()
		storetest.Eventually(t, promptly, "none are left", func() bool { return s.Freeing() == 0 })
	})
}

// delayed is a way to a server on which what was sent can arrive late.
type delayed struct {
	address string
	mu      sync.Mutex
	clients []net.Conn      // guarded by mu
	gates   []chan struct{} // of each client, closed where all may pass; guarded by mu
	stalled chan struct{}   // the gate of what is kept back, or nil; guarded by mu
}

// stall keeps back what is sent on the connections that there are.
func (d *delayed) stall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stalled = make(chan struct{})
	for i := range d.gates {
		d.gates[i] = d.stalled
	}
}

// cut closes the clients' side: what they sent is still under way.
func (d *delayed) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		_ = c.Close()
	}
}

// deliver lets what was kept back go on.
func (d *delayed) deliver() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stalled != nil {
		close(d.stalled)
		d.stalled = nil
	}
}

func delay(t *testing.T, target string) *delayed {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &delayed{address: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			open := make(chan struct{})
			close(open)
			d.mu.Lock()
			n := len(d.clients)
			d.clients, d.gates = append(d.clients, client), append(d.gates, open)
			d.mu.Unlock()
			wg.Go(func() { d.copy(server, n) })
			wg.Go(func() {
				_, _ = io.Copy(client, server)
				_ = client.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		d.deliver()
		wg.Wait()
	})
	return d
}

// copy passes on what client n sends, when it may pass.
func (d *delayed) copy(server net.Conn, n int) {
	defer func() { _ = server.Close() }()
	d.mu.Lock()
	client := d.clients[n]
	d.mu.Unlock()
	for buffer := make([]byte, 64<<10); ; {
		size, err := client.Read(buffer)
		d.mu.Lock()
		gate := d.gates[n]
		d.mu.Unlock()
		<-gate
		if _, failed := server.Write(buffer[:size]); err != nil || failed != nil {
			return
		}
	}
}
