package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

func TestSuite(t *testing.T) {
	t.Run("on one server", func(t *testing.T) {
		server := storetest.Redis(t)
		storetest.RateLimit(t, func(t *testing.T) ratelimit.Store {
			server.MustDo("FLUSHALL")
			return openWithTime(t, server.URL())
		})
	})
	t.Run("on a cluster", func(t *testing.T) {
		servers := storetest.RedisCluster(t, 3)
		storetest.RateLimit(t, func(t *testing.T) ratelimit.Store {
			for _, s := range servers {
				s.MustDo("FLUSHALL")
			}
			return openWithTime(t, clusterURL(servers))
		})
	})
}

// calls are how often the server ran a command since CONFIG RESETSTAT.
func calls(server *storetest.RedisServer, command string) string {
	for line := range strings.SplitSeq(server.MustDo("INFO", "commandstats"), "\r\n") {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			return n
		}
	}
	return "0"
}

func TestScripts(t *testing.T) {
	t.Run("asks once for three policies", func(t *testing.T) {
		server := storetest.Redis(t)
		var seen observed
		s := open(t, redisstore.Options{URL: server.URL(), Observe: seen.observe})
		healthy(t, s) // its first heartbeat is a script, too
		a, b, c := daily(t, "a", 1000), hourly(t, "b", 1000), prepare(t, ratelimit.Policy{Name: "c", Quota: 1000, Window: time.Hour, Algorithm: ratelimit.SlidingWindow})
		take(t, s, "k", a, b, c)
		server.MustDo("CONFIG", "RESETSTAT")
		for range 50 {
			take(t, s, "k", a, b, c)
		}
		n, err := strconv.Atoi(calls(server, "evalsha"))
		if beats := seen.of(redisstore.OpRenew, redisstore.None); err != nil || n < 50 || n > 50+beats {
			t.Errorf("EVALSHA: %d calls for 50 takes and at most %d heartbeats, %v", n, beats, err)
		}
		if got := calls(server, "eval"); got != "0" {
			t.Errorf("EVAL: %s calls, want 0", got)
		}
	})
	t.Run("goes on after SCRIPT FLUSH", func(t *testing.T) {
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL()})
		p := daily(t, "p", 3)
		for range 3 {
			if !take(t, s, "k", p) {
				t.Fatal("denied before the burst was used")
			}
			server.MustDo("SCRIPT", "FLUSH")
		}
		if take(t, s, "k", p) {
			t.Fatal("SCRIPT FLUSH gave units back")
		}
	})
	t.Run("admits one burst more after FLUSHALL", func(t *testing.T) {
		server := storetest.Redis(t)
		s := open(t, redisstore.Options{URL: server.URL()})
		p := daily(t, "p", 10)
		one := func() bool { return take(t, s, "k", p) }
		first := admitted(t, 20, one)
		server.MustDo("FLUSHALL")
		if second := admitted(t, 20, one); first != 10 || second != 10 {
			t.Fatalf("admitted %d and after FLUSHALL %d, want 10 and 10", first, second)
		}
	})
	t.Run("says that a key of somebody else is in the way, and stays healthy", func(t *testing.T) {
		server := storetest.Redis(t)
		var seen observed
		s := open(t, redisstore.Options{URL: server.URL(), Observe: seen.observe})
		p := daily(t, "p", 10)
		server.MustDo("LPUSH", redisstore.CountKey("weir", p, "k"), "x")
		for range 10 {
			if _, err := s.Take(context.Background(), takes("k", p), time.Now()); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
				t.Fatalf("error %v, want WRONGTYPE", err)
			}
		}
		if !s.Healthy() || seen.of(redisstore.OpTake, redisstore.Script) != 10 {
			t.Fatalf("healthy %t, %d failures of scripts", s.Healthy(), seen.of(redisstore.OpTake, redisstore.Script))
		}
	})
}

func TestForeignValues(t *testing.T) {
	server := storetest.Redis(t)
	s := open(t, redisstore.Options{URL: server.URL()})
	bucket, fixed := daily(t, "bucket", 10), hourly(t, "fixed", 10)
	sliding := prepare(t, ratelimit.Policy{Name: "sliding", Quota: 10, Window: time.Hour, Algorithm: ratelimit.SlidingWindow})
	nines := strings.Repeat("9", 400)
	for _, value := range []string{
		"", "garbage", "1", "1.5", "-1.000000000", "1e9.000000000", "1 1", "1 1 1 1", "-1 1 1", "1.0 1 1", "\x00", "1.0000000000",
		nines, nines + ".000000000", nines + " 1 1", "1 " + nines + " 1", "1 1 " + nines, "1.000000000\n",
		"9999999999.000000000", "9007199254740992 1 1", "1000000000.962994916", "1000000000000000 3 1",
	} {
		for _, p := range []*ratelimit.Policy{bucket, fixed, sliding} {
			t.Run(fmt.Sprintf("takes %.30q of a %s as absent, and replaces it", value, p.Name), func(t *testing.T) {
				key := redisstore.CountKey("weir", p, "k")
				server.MustDo("SET", key, value)
				due := takes("k", p)
				if allowed, err := s.Take(context.Background(), due, time.Now()); err != nil || !allowed || due[0].Decision.Remaining != 9 {
					t.Fatalf("%t, %v, %+v", allowed, err, due[0].Decision)
				}
				if ttl := server.MustDo("PTTL", key); ttl == "-1" {
					t.Fatal("it never expires")
				}
				server.MustDo("SET", key, value)
				due[0].Cost = 3
				if err := s.Settle(context.Background(), due, time.Now()); err != nil || due[0].Decision.Remaining != 7 {
					t.Fatalf("settled: %v, %+v", err, due[0].Decision)
				}
			})
		}
	}
	t.Run("takes a lease of another form as absent", func(t *testing.T) {
		p := prepare(t, ratelimit.Policy{Name: "leased", Quota: 1000, Window: time.Minute, MaxExcess: 0.1})
		count := redisstore.CountKey("weir", p, "k")
		server.MustDo("SET", count, "garbage")
		server.MustDo("SET", strings.Replace(count, "}:b,", "}:l,", 1), "garbage")
		grants := []ratelimit.Grant{{Policy: p, Key: "k", Cost: 1, Want: 10}}
		if err := s.Grant(t.Context(), grants, time.Now()); err != nil || grants[0].Units != 10 {
			t.Fatalf("%+v, %v", grants[0], err)
		}
	})
}

func TestSharing(t *testing.T) {
	t.Run("two instances whose clocks differ admit what one would", func(t *testing.T) {
		server := storetest.Redis(t)
		stores := []*redisstore.Store{open(t, redisstore.Options{URL: server.URL()}), open(t, redisstore.Options{URL: server.URL()})}
		for _, p := range []*ratelimit.Policy{daily(t, "bucket", 50), hourly(t, "fixed", 50)} {
			i := 0
			got := admitted(t, 300, func() bool {
				i++
				now := time.Now().Add(time.Duration(i%2) * 500 * time.Millisecond)
				allowed, err := stores[i%2].Take(context.Background(), takes("k", p), now)
				if err != nil {
					t.Fatal(err)
				}
				return allowed
			})
			if got != 50 {
				t.Errorf("%s: admitted %d, want 50", p.Name, got)
			}
		}
	})
	for name, url := range map[string]func(t *testing.T) string{
		"on one server": func(t *testing.T) string { return storetest.Redis(t).URL() },
		"on a cluster":  func(t *testing.T) string { return clusterURL(storetest.RedisCluster(t, 3)) },
	} {
		t.Run("admits exactly the burst to concurrent callers of two instances "+name, func(t *testing.T) {
			at := url(t)
			stores := []*redisstore.Store{open(t, redisstore.Options{URL: at}), open(t, redisstore.Options{URL: at})}
			p := daily(t, "p", 100)
			var got atomic.Int64
			var wg sync.WaitGroup
			for i := range 200 {
				wg.Go(func() {
					allowed, err := stores[i%2].Take(context.Background(), takes("k", p), time.Now())
					if err != nil {
						t.Error(err)
					}
					if allowed {
						got.Add(1)
					}
				})
			}
			if wg.Wait(); got.Load() != 100 {
				t.Fatalf("admitted %d of 200, want 100", got.Load())
			}
		})
	}
}

func TestInstances(t *testing.T) {
	t.Run("counts the instances that live", func(t *testing.T) {
		server := storetest.Redis(t)
		a := openWithLease(t, server.URL(), 300*time.Millisecond)
		b := openWithLease(t, server.URL(), 300*time.Millisecond)
		storetest.Eventually(t, soon, "each sees two", func() bool { return a.Instances() == 2 && b.Instances() == 2 })
		b.Close()
		storetest.Eventually(t, soon, "the other sees one", func() bool { return a.Instances() == 1 })
		server.Stop()
		storetest.Eventually(t, soon, "redis is away", func() bool { return !a.Healthy() })
		if a.Instances() != 1 {
			t.Fatalf("%d instances with redis away, want the last known", a.Instances())
		}
	})
	t.Run("counts those that have not reported again after redis was restarted empty", func(t *testing.T) {
		server := storetest.Redis(t)
		var stores []*redisstore.Store
		for range 3 {
			s := open(t, redisstore.Options{URL: server.URL()})
			healthy(t, s)
			stores = append(stores, s)
		}
		for _, s := range stores {
			storetest.Eventually(t, promptly/2, "each sees all, soon after they began", func() bool { return s.Instances() == 3 })
		}
		server.Stop()
		storetest.Eventually(t, soon, "redis is away for all", func() bool {
			away := 0
			for _, s := range stores {
				if _, err := s.Take(context.Background(), takes("k", daily(t, "p", 1000)), time.Now()); err != nil && !s.Healthy() {
					away++
				}
			}
			return away == len(stores)
		})
		server.Start()
		for _, s := range stores {
			healthy(t, s)
			if n := s.Instances(); n != 3 {
				t.Fatalf("%d instances after the restart, want the 3 that live", n)
			}
		}
	})
	t.Run("counts those that have not reported again after FLUSHALL, and for a lease", func(t *testing.T) {
		const lease = 600 * time.Millisecond
		server := storetest.Redis(t)
		server.MustDo("ZADD", "weir:{instances}", "9999999999999", "another")
		s := openWithLease(t, server.URL(), lease)
		storetest.Eventually(t, soon, "it sees two", func() bool { return s.Instances() == 2 })
		began := time.Now()
		server.MustDo("FLUSHALL")
		storetest.Eventually(t, soon, "it sees one", func() bool { return s.Instances() == 1 })
		if took := time.Since(began); took < lease {
			t.Fatalf("the other is forgotten after %v, want %v at least", took, lease)
		}
	})
}

// Keys without a TTL, or with one that is shorter than the debt, are how limiters
// block clients for ever, or forget them.
func TestTTL(t *testing.T) {
	server := storetest.Redis(t)
	s := openWithLease(t, server.URL(), time.Second)
	all := []*ratelimit.Policy{
		daily(t, "bucket", 100), hourly(t, "fixed", 100),
		prepare(t, ratelimit.Policy{Name: "sliding", Quota: 100, Window: time.Hour, Algorithm: ratelimit.SlidingWindow}),
		prepare(t, ratelimit.Policy{Name: "month", Quota: 100, Window: ratelimit.Month, Algorithm: ratelimit.FixedWindow}),
		prepare(t, ratelimit.Policy{Name: "slots", Concurrent: 2}),
	}
	for range 5 {
		due := takes("k", all...)
		for i := range due {
			due[i].ID = "id"
		}
		if allowed, err := s.Take(context.Background(), due, time.Now()); err != nil || !allowed {
			t.Fatal(allowed, err)
		}
		full := map[string]time.Duration{}
		for _, d := range due {
			full[redisstore.CountKey("weir", d.Policy, "k")] = d.Decision.Full
		}
		keys := strings.Split(server.MustDo("KEYS", "*"), "\n")
		if len(keys) != len(all)+1 {
			t.Fatalf("keys %q, want one for each policy and one for the instances", keys)
		}
		for _, key := range keys {
			ms, err := strconv.ParseInt(server.MustDo("PTTL", key), 10, 64)
			left := time.Duration(ms) * time.Millisecond
			if err != nil || left < full[key]+30*time.Second || left > full[key]+2*time.Minute {
				t.Fatalf("%s: expires in %v, the debt is over in %v: want that and a minute", key, left, full[key])
			}
		}
		for i := range due {
			due[i].Cost = 3
		}
		if err := s.Settle(context.Background(), due, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range all {
		due := takes("k", p)
		due[0].Cost, due[0].ID = -1000, "id"
		if err := s.Settle(context.Background(), due, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if left := server.MustDo("KEYS", "*"); left != "weir:{instances}" {
		t.Fatalf("keys %q are left when everything is given back", left)
	}
}

// outlasts runs try until it says that it could see what it has to. Where the machine
// stood still, leases run out that would have been renewed: then it is tried again with
// longer ones. stoodStill tells whether it did for a third of a lease since it was asked
// last.
func outlasts(t *testing.T, lease time.Duration, try func(lease time.Duration, stoodStill func() bool) bool) {
	t.Helper()
	for ; lease < time.Minute; lease *= 2 {
		last := time.Now()
		stoodStill := func() bool {
			gap := time.Since(last)
			last = last.Add(gap)
			return gap > lease/3
		}
		if try(lease, stoodStill) {
			return
		}
	}
	t.Fatal("the machine stands still all the time")
}

func TestSlots(t *testing.T) {
	lease := 300 * time.Millisecond
	t.Run("keeps the slot of a request that runs longer than the lease", func(t *testing.T) {
		t.Parallel()
		url, p := storetest.Redis(t).URL(), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 1})
		outlasts(t, lease, func(lease time.Duration, stoodStill func() bool) bool {
			s := openWithLease(t, url, lease)
			if !hold(t, s, p, "long") {
				t.Fatal("denied the first")
			}
			for end := time.Now().Add(3 * lease); time.Now().Before(end); {
				if hold(t, s, p, "other") {
					if !stoodStill() {
						t.Fatal("the slot of a running request was given away")
					}
					_, _ = free(s, p, "other"), free(s, p, "long")
					return false
				}
				stoodStill()
				<-time.After(lease / 20)
			}
			if err := free(s, p, "long"); err != nil {
				t.Fatal(err)
			}
			if !hold(t, s, p, "other") {
				t.Fatal("denied after the slot was free")
			}
			return true
		})
	})
	t.Run("frees the slots of an instance that died, when its lease ends", func(t *testing.T) {
		t.Parallel()
		url, p := storetest.Redis(t).URL(), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 1})
		outlasts(t, lease, func(lease time.Duration, stoodStill func() bool) bool {
			dead, s := openWithLease(t, url, lease), openWithLease(t, url, lease)
			began := time.Now()
			if !hold(t, dead, p, "lost") {
				t.Fatal("denied the first")
			}
			dead.Close()
			if hold(t, s, p, "next") {
				if time.Since(began) < lease {
					t.Fatal("admitted before the lease ended")
				}
				_ = free(s, p, "next")
				return false
			}
			storetest.Eventually(t, soon, "the slot is free", func() bool { return hold(t, s, p, "next") })
			return true
		})
	})
	t.Run("puts the slots that it holds back after FLUSHALL", func(t *testing.T) {
		t.Parallel()
		server, p := storetest.Redis(t), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 1})
		s := openWithLease(t, server.URL(), lease)
		if !hold(t, s, p, "one") {
			t.Fatal("denied the first")
		}
		server.MustDo("FLUSHALL")
		storetest.Eventually(t, soon, "the slot is there again", func() bool {
			return server.MustDo("ZRANGE", redisstore.CountKey("weir", p, "k"), "0", "-1") == "one"
		})
		if hold(t, s, p, "two") {
			t.Fatal("admitted two where one may run")
		}
	})
}

func TestLostSlots(t *testing.T) {
	t.Run("admits no more than may run after FLUSHALL, and puts the slots back at once", func(t *testing.T) {
		server, p := storetest.Redis(t), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 4})
		s := open(t, redisstore.Options{URL: server.URL()})
		for i := range 3 {
			if !hold(t, s, p, fmt.Sprint(i)) {
				t.Fatal("denied")
			}
		}
		server.MustDo("FLUSHALL")
		look := []ratelimit.Take{{Policy: p, Key: "k", ID: "look"}}
		if _, err := s.Take(context.Background(), look, time.Now()); err != nil || look[0].Decision.Remaining != 1 {
			t.Fatalf("%+v, %v, want one left of four", look[0].Decision, err)
		}
		i := 0
		if n := admitted(t, 5, func() bool { i++; return hold(t, s, p, fmt.Sprint("next", i)) }); n != 1 {
			t.Fatalf("admitted %d where three of four run", n)
		}
		storetest.Eventually(t, promptly, "they are there again", func() bool {
			return server.MustDo("ZCARD", redisstore.CountKey("weir", p, "k")) == "4"
		})
	})
	t.Run("counts them for each key", func(t *testing.T) {
		server, p := storetest.Redis(t), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 2})
		s := open(t, redisstore.Options{URL: server.URL()})
		var due []ratelimit.Take
		for i := range 4 { // two of them twice
			due = append(due, ratelimit.Take{Policy: p, Key: fmt.Sprint(i % 3), ID: fmt.Sprint(i), Cost: 1})
		}
		if allowed, err := s.Take(context.Background(), due, time.Now()); err != nil || !allowed {
			t.Fatal(allowed, err)
		}
		server.MustDo("FLUSHALL")
		for i := range due {
			due[i].ID += "x"
		}
		allowed, err := s.Take(context.Background(), due[:3], time.Now())
		if err != nil || allowed || due[0].Decision.Allowed || !due[1].Decision.Allowed || !due[2].Decision.Allowed {
			t.Fatalf("%t, %v, %+v: want the first refused, of which two of two run", allowed, err, due[:3])
		}
	})
}

func TestFreeing(t *testing.T) {
	lease := 300 * time.Millisecond
	t.Run("frees a slot once, however often it is told", func(t *testing.T) {
		s, p := openWithLease(t, storetest.Redis(t).URL(), time.Minute), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 2})
		hold(t, s, p, "a")
		hold(t, s, p, "b")
		for range 3 {
			if err := free(s, p, "a"); err != nil {
				t.Fatal(err)
			}
		}
		if got := []bool{hold(t, s, p, "c"), hold(t, s, p, "d")}; !got[0] || got[1] || s.Held() != 2 {
			t.Fatalf("after freeing one of two thrice: %v, held %d", got, s.Held())
		}
	})
	t.Run("forgets a slot that is freed while redis is away", func(t *testing.T) {
		t.Parallel()
		server, p := storetest.Redis(t), prepare(t, ratelimit.Policy{Name: "p", Concurrent: 1})
		s, err := redisstore.NewWithLease(redisstore.Options{URL: server.URL(), Deadline: 100 * time.Millisecond}, lease)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		healthy(t, s)
		mustTake(t, s, ratelimit.Take{Policy: p, Key: "k", ID: "a", Cost: 1})
		server.Pause()
		err = free(s, p, "a")
		server.Resume()
		if err == nil || s.Held() != 0 {
			t.Fatalf("freed with redis away: error %v, held %d", err, s.Held())
		}
		storetest.Eventually(t, soon, "the slot is free", func() bool {
			allowed, err := s.Take(context.Background(), []ratelimit.Take{{Policy: p, Key: "k", ID: "b", Cost: 1}}, time.Now())
			return err == nil && allowed
		})
	})
}

// onEach are keys of callers that lie on each of three masters.
func onEach(t *testing.T) []string {
	t.Helper()
	keys := make([]string, 0, 3)
	for i := 0; len(keys) < 3; i++ {
		key := fmt.Sprint("caller", i)
		if int(redisstore.SlotOf(redisstore.CountKey("weir", daily(t, "p", 1), key)))*3/16384 == len(keys) {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestCluster(t *testing.T) {
	servers, keys := storetest.RedisCluster(t, 3), onEach(t)
	s := open(t, redisstore.Options{URL: clusterURL(servers)})
	t.Run("takes from all slots or from none", func(t *testing.T) {
		small, slots := daily(t, "small", 1), prepare(t, ratelimit.Policy{Name: "slots", Concurrent: 5})
		large, fixed := daily(t, "large", 100), hourly(t, "fixed", 100)
		call := func(at, id string) []ratelimit.Take {
			all := []ratelimit.Take{{Policy: small, Key: at, Cost: 1}}
			for _, key := range keys {
				all = append(all, ratelimit.Take{Policy: large, Key: key, Cost: 1}, ratelimit.Take{Policy: fixed, Key: key, Cost: 2}, ratelimit.Take{Policy: slots, Key: key, ID: id, Cost: 1})
			}
			return all
		}
		for n, at := range keys { // the policy that denies is in the first, second, third slot
			if allowed, err := s.Take(context.Background(), call(at, fmt.Sprint("ok", n)), time.Now()); err != nil || !allowed {
				t.Fatal(allowed, err)
			}
			for i := range 10 {
				denied := call(at, fmt.Sprint("no", n, i))
				if allowed, err := s.Take(context.Background(), denied, time.Now()); err != nil || allowed {
					t.Fatal("took from a policy that is used up", err)
				}
				for _, d := range denied[1:] {
					used := int64(n + 1)
					want := map[*ratelimit.Policy]int64{large: 100 - used, fixed: 100 - 2*used, slots: 5 - used}[d.Policy]
					if !d.Decision.Allowed || d.Decision.Remaining != want {
						t.Fatalf("slot %d, %s of %s: %+v, want %d remaining", n, d.Policy.Name, d.Key, d.Decision, want)
					}
				}
				if denied[0].Decision.Allowed || denied[0].Decision.RetryAfter <= 0 {
					t.Fatalf("the policy that denied: %+v", denied[0].Decision)
				}
			}
		}
		if s.Held() != 9 {
			t.Fatalf("%d slots held, want 9", s.Held())
		}
	})
	t.Run("gives back what it took when a slot fails", func(t *testing.T) {
		p := daily(t, "undo", 10)
		servers[2].MustDo("LPUSH", redisstore.CountKey("weir", p, keys[2]), "in the way")
		var all []ratelimit.Take
		for _, key := range keys {
			all = append(all, ratelimit.Take{Policy: p, Key: key, Cost: 4})
		}
		if _, err := s.Take(context.Background(), all, time.Now()); err == nil {
			t.Fatal("no error")
		}
		storetest.Eventually(t, soon, "both are whole again", func() bool {
			look := []ratelimit.Take{{Policy: p, Key: keys[0]}, {Policy: p, Key: keys[1]}}
			_, err := s.Take(context.Background(), look, time.Now())
			return err == nil && look[0].Decision.Remaining == 10 && look[1].Decision.Remaining == 10
		})
	})
}

func TestClosed(t *testing.T) {
	t.Run("refuses calls after Close", func(t *testing.T) {
		s := open(t, redisstore.Options{URL: storetest.Redis(t).URL()})
		p := daily(t, "p", 1)
		take(t, s, "k", p)
		s.Close()
		s.Close()
		_, err := s.Take(context.Background(), takes("k", p), time.Now())
		if err2 := s.Settle(context.Background(), takes("k", p), time.Now()); !errors.Is(err, redisstore.ErrClosed) || !errors.Is(err2, redisstore.ErrClosed) || s.Healthy() {
			t.Fatalf("take %v, settle %v, healthy %t", err, err2, s.Healthy())
		}
	})
	t.Run("does not begin for a caller that has left", func(t *testing.T) {
		s := open(t, redisstore.Options{URL: storetest.Redis(t).URL()})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		p := daily(t, "p", 1)
		if _, err := s.Take(ctx, takes("k", p), time.Now()); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		if !take(t, s, "k", p) {
			t.Fatal("it was charged")
		}
	})
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]redisstore.Options{
		"redisstore: url: want redis://host:6379/0, rediss:// for TLS, redis+cluster://host,host or redis+sentinel://master@host,host/0": {URL: "http://h"},
		"redisstore: deadline: 1µs: want from 1ms to 10s":                                              {URL: "redis://h", Deadline: time.Microsecond},
		"redisstore: prefix: \"a{b}\": want at most 64 printable characters without spaces and braces": {URL: "redis://h", Prefix: "a{b}"},
		"redisstore: breaker failures: -1: want at least 1":                                            {URL: "redis://h", BreakerFailures: -1},
	} {
		if _, err := redisstore.New(o); err == nil || err.Error() != want {
			t.Errorf("%+v\n got %v\nwant %s", o, err, want)
		}
	}
}
