package redisstore_test

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
	"github.com/inferweir/weir/storetest"
)

// leasedPolicies are of the largest and the smallest numbers.
func leasedPolicies() []ratelimit.Policy {
	return []ratelimit.Policy{
		{Name: "minute", Quota: 1000, Window: time.Minute, MaxExcess: 0.01},
		{Name: "odd", Quota: 7, Window: time.Second, Burst: 3, MaxExcess: 0.5},
		{Name: "nanoseconds", Quota: 1_000_000_000, Window: time.Second, MaxExcess: 0.1},
		{Name: "year", Quota: 3, Window: 366 * 24 * time.Hour, Burst: 70, MaxExcess: 0.5},
		{Name: "million", Quota: 1_000_000, Window: ratelimit.Month, Unit: "tokens", MaxExcess: 0.05},
		{Name: "deep", Quota: 10, Window: 10 * time.Second, Burst: 2_000_000_000, MaxExcess: 0.2},
	}
}

// The script and Policy.Lend must agree to the nanosecond and the unit: the
// store returns an error where they do not, and the accounts must be the same.
func TestGrantAgreesWithLend(t *testing.T) {
	server := storetest.Redis(t)
	store := openWithTime(t, server.URL())
	var policies []*ratelimit.Policy
	for _, p := range leasedPolicies() {
		policies = append(policies, prepare(t, p))
	}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		p := rapid.SampledFrom(policies).Draw(rt, "policy")
		key := "k" + strconv.Itoa(n)
		now := time.Now()
		var model ratelimit.Account
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(4*p.Slack())).Draw(rt, "wait")))
			if rapid.IntRange(0, 4).Draw(rt, "strict") == 0 {
				takes := []ratelimit.Take{{Policy: p, Key: key, Cost: rapid.Int64Range(0, p.Burst).Draw(rt, "cost")}}
				if _, err := store.Take(t.Context(), takes, now); err != nil {
					rt.Fatal(err)
				}
				s, _ := p.Decide(ratelimit.State{At: model.At}, takes[0].Cost, now.UnixNano())
				model.At = s.At
				continue
			}
			ask := ratelimit.Grant{
				Policy: p, Key: key,
				Owed: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(-p.Burst, p.Burst), rapid.Int64()).Draw(rt, "owed"),
				Cost: rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64()).Draw(rt, "cost"),
				Want: rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64()).Draw(rt, "want"),
			}
			want, got := ask, []ratelimit.Grant{ask}
			model = p.Lend(model, &want, now.UnixNano())
			if err := store.Grant(t.Context(), got, now); err != nil {
				rt.Fatalf("%+v: %v", ask, err)
			}
			if got[0] != want {
				rt.Fatalf("grant\n got %+v\nwant %+v", got[0], want)
			}
		}
	})
}

func TestGrantsOfSeveralCounts(t *testing.T) {
	grants := func(t *testing.T, store *redisstore.Store) {
		p := prepare(t, ratelimit.Policy{Name: "p", Quota: 1000, Window: 10 * time.Second, MaxExcess: 0.1})
		var all []ratelimit.Grant
		for i := range ratelimit.MaxGrants {
			// Every other count stands twice.
			all = append(all, ratelimit.Grant{Policy: p, Key: "k" + strconv.Itoa(i/2*2), Cost: 1, Want: 10})
		}
		if err := store.Grant(t.Context(), all, time.Now()); err != nil {
			t.Fatal(err)
		}
		for i, g := range all {
			used := time.Duration(10*(1+i%2)) * p.Interval()
			if g.Units != 10 || g.Full > used || g.Full < used-p.Interval()*10 {
				t.Errorf("grant %d: %d units, full in %v, want 10 and %v", i, g.Units, g.Full, used)
			}
		}
		if err := store.Grant(t.Context(), []ratelimit.Grant{{Policy: &ratelimit.Policy{}}}, time.Now()); err == nil {
			t.Error("a policy that is not prepared: no error")
		}
		if err := store.Grant(t.Context(), nil, time.Now()); err != nil {
			t.Error(err)
		}
	}
	t.Run("on one server, in one call", func(t *testing.T) {
		server := storetest.Redis(t)
		store := open(t, redisstore.Options{URL: server.URL()})
		healthy(t, store)
		before := scripts(t, server)
		grants(t, store)
		// The first call of a script is an EVALSHA that fails, and an EVAL.
		if n := scripts(t, server) - before; n > 2 {
			t.Errorf("%d calls", n)
		}
	})
	t.Run("on a cluster", func(t *testing.T) {
		servers := storetest.RedisCluster(t, 3)
		store := open(t, redisstore.Options{URL: clusterURL(servers)})
		healthy(t, store)
		grants(t, store)
		for i, s := range servers {
			if s.MustDo("DBSIZE") == "0" {
				t.Errorf("server %d has no counts", i)
			}
		}
	})
}

// scripts is how many scripts a server has run.
func scripts(t testing.TB, server *storetest.RedisServer) int {
	t.Helper()
	n := 0
	for _, found := range regexp.MustCompile(`cmdstat_eval(?:sha)?:calls=(\d+)`).FindAllStringSubmatch(server.MustDo("INFO", "commandstats"), -1) {
		calls, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		n += calls
	}
	return n
}

// Two instances share a Redis at one and a half times what the policy allows.
func TestLeasesOverRedis(t *testing.T) {
	server := storetest.Redis(t)
	// 2000 a second, of which 200 may be in excess: a slack of 100 ms.
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 2000, Window: time.Second, Burst: 200, MaxExcess: 0.1})
	const lasts, pace = 2 * time.Second, 3000
	var admitted, requests, failed atomic.Int64
	var wg sync.WaitGroup
	var all []*ratelimit.Leases
	for range 2 {
		store := open(t, redisstore.Options{URL: server.URL()})
		healthy(t, store)
		l, err := ratelimit.NewLeases(ratelimit.LeaseOptions{Shared: store})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	before, start, watch := scripts(t, server), time.Now(), storetest.Stopwatch()
	for _, l := range all {
		wg.Go(func() {
			ticker := time.NewTicker(time.Millisecond)
			defer ticker.Stop()
			takes := []ratelimit.Take{{Policy: p, Key: "k", Cost: 1}}
			for due, sent := 0, 0; time.Since(start) < lasts; <-ticker.C {
				for due = int(time.Since(start).Seconds() * pace / 2); sent < due; sent++ {
					requests.Add(1)
					switch allowed, err := l.Take(t.Context(), takes, time.Now()); {
					case err != nil:
						failed.Add(1)
					case allowed:
						admitted.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	took, lived := time.Since(start), watch()
	calls := scripts(t, server) - before
	for _, l := range all {
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	ideal := float64(p.Burst) + took.Seconds()*float64(p.Quota)
	bound := ideal + p.MaxExcess*float64(p.Quota)
	t.Logf("%d requests in %v: %d admitted, %.1f%% of the ideal; %d calls, %.3f a request; %d failed",
		requests.Load(), took, admitted.Load(), 100*float64(admitted.Load())/ideal, calls, float64(calls)/float64(requests.Load()), failed.Load())
	// What became free while the machine stood still nobody could take.
	asked := float64(p.Burst) + lived.Seconds()*float64(p.Quota)
	if n := float64(admitted.Load()); n > bound || n < 0.7*asked {
		t.Errorf("admitted %v of %d, want at most %.0f, and not far below %.0f", n, requests.Load(), bound, asked)
	}
	if per := float64(calls) / float64(requests.Load()); per > 0.1 {
		t.Errorf("%.3f calls a request, want at most 0.1", per)
	}
	if failed.Load() > 0 {
		t.Errorf("%d takes failed", failed.Load())
	}
}

func TestLeasesOverRedisMixWithStrictTakes(t *testing.T) {
	server := storetest.Redis(t)
	store := openWithTime(t, server.URL())
	now := time.Now()
	l, err := ratelimit.NewLeases(ratelimit.LeaseOptions{Shared: store, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close(context.Background()) }()
	p := prepare(t, ratelimit.Policy{Name: "p", Quota: 100, Window: time.Second, MaxExcess: 0.1})
	q := prepare(t, ratelimit.Policy{Name: "q", Quota: 5, Window: time.Hour})
	for n := range 5 {
		if allowed, err := l.Take(t.Context(), takes("k", p, q), now); !allowed || err != nil {
			t.Fatalf("take %d: %t, %v", n, allowed, err)
		}
	}
	for range 200 {
		if allowed, err := l.Take(t.Context(), takes("k", p, q), now); allowed || err != nil {
			t.Fatalf("%t, %v", allowed, err)
		}
	}
	n := admitted(t, 200, func() bool {
		allowed, err := l.Take(t.Context(), takes("k", p), now)
		if err != nil {
			t.Fatal(err)
		}
		return allowed
	})
	if n != 95 {
		t.Errorf("%d of 95 are left after 200 takes that another policy denied", n)
	}
	large := []ratelimit.Take{{Policy: p, Key: "l", Cost: 90}}
	if allowed, err := l.Take(t.Context(), large, now); !allowed || err != nil {
		t.Fatalf("%t, %v", allowed, err)
	}
	large[0].Cost = -60
	if err := l.Settle(t.Context(), large, now); err != nil {
		t.Fatal(err)
	}
	if large[0].Decision.Remaining != 70 {
		t.Errorf("%+v, want 70 left", large[0].Decision)
	}
}

func TestGrantKeys(t *testing.T) {
	server := storetest.Redis(t)
	store := open(t, redisstore.Options{URL: server.URL()})
	healthy(t, store)
	p := prepare(t, ratelimit.Policy{Scope: "plan:}:b,{x", Name: "p", Quota: 100, Window: time.Minute, MaxExcess: 0.1})
	if err := store.Grant(t.Context(), []ratelimit.Grant{{Policy: p, Key: "}:b,", Cost: 1, Want: 1}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	keys := strings.Fields(server.MustDo("KEYS", "*:{#*}:*"))
	if len(keys) != 2 || redisstore.SlotOf(keys[0]) != redisstore.SlotOf(keys[1]) {
		t.Fatalf("%q, want two keys in one slot", keys)
	}
	for _, key := range keys {
		if kind := key[strings.Index(key, "}:")+2]; kind != 'b' && kind != 'l' {
			t.Errorf("%q is of no kind of ours", key)
		}
		if ms, err := strconv.Atoi(server.MustDo("PTTL", key)); err != nil || ms < 0 || ms > 120_000 {
			t.Errorf("%q lives for %d ms, %v", key, ms, err)
		}
	}
}
