//go:build unix

package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// manyGoroutines ask at once, in the benchmarks that are not of one alone.
const manyGoroutines = 50

// lavish are quotas that nobody uses up while a benchmark runs, nor is ever out of
// debt in.
func lavish(n int) []quota {
	return []quota{{100_000, day}, {500_000, 7 * day}, {1_000_000, 30 * day}}[:n]
}

// meagre are quotas that are soon used up, of which a lease can still be a unit.
// All three are used up, so who decides one by one is done with the first.
func meagre(n int) []quota { return []quota{{10, day}, {10, 7 * day}, {10, 30 * day}}[:n] }

// perSecond is what a caller has in the benchmark with more than that: little
// enough to be used up beforehand.
const perSecond = 1000

// BenchmarkRedis is one decision by counts in one Redis on this machine, for one
// of 1,000 random callers who are always admitted; for one of 100 who are always
// refused; and for one alone who is always admitted. One goroutine asks, or fifty
// on one processor, so that the server has another.
func BenchmarkRedis(b *testing.B) {
	server := storetest.Redis(b)
	var (
		keys = callerKeys(1000)
		one  = workload{order: fresh, procs: 1}
		many = workload{order: fresh, procs: 1, onEach: manyGoroutines}
	)
	for _, c := range []struct {
		name     string
		keys     []string
		quotas   []quota
		workload workload
	}{
		{"admitted,quotas=1,goroutines=1", keys, lavish(1), one},
		{"admitted,quotas=1,goroutines=50", keys, lavish(1), many},
		{"admitted,quotas=3,goroutines=1", keys, lavish(3), one},
		{"admitted,quotas=3,goroutines=50", keys, lavish(3), many},
		{"refused,quotas=1,goroutines=1", keys[:100], meagre(1), one},
		{"refused,quotas=1,goroutines=50", keys[:100], meagre(1), many},
		{"refused,quotas=3,goroutines=50", keys[:100], meagre(3), many},
		{"hot,quotas=1,goroutines=50", keys[:1], hot(), many},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := redisWorkload{c.workload, server}
			w.quotas, w.refused = c.quotas, strings.HasPrefix(c.name, "refused")
			w.run(b, c.keys)
		})
	}
}

// BenchmarkRedisOverload is one decision for one caller who has used up the quota
// and goes on with half as much again: in each two milliseconds two are admitted
// and three come. The figures include the waiting, which costs CPU time too.
func BenchmarkRedisOverload(b *testing.B) {
	const comeAtOnce, every = 3, 2 * time.Millisecond
	server := storetest.Redis(b)
	w := redisWorkload{workload{order: fresh, quotas: []quota{{perSecond, time.Second}}, refused: true}, server}
	w.each(b, callerKeys(1), func(b *testing.B, open func() decide, keys []string) {
		decide, refused := open(), 0
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		measure(b, func(n int) {
			begin := time.Now()
			for i := range n {
				// Who was late sends at once: a machine that stood still must not
				// make it fewer.
				for i%comeAtOnce == 0 && time.Since(begin) < time.Duration(i/comeAtOnce)*every {
					<-ticker.C
				}
				if !decide(keys[0]) {
					refused++
				}
			}
		})
		admitted := float64(b.N-refused) / float64(b.N)
		if b.N > perSecond/4 && admitted > 0.9 {
			b.Fatalf("%.3f of the requests were admitted, want about 0.667: they came too slowly to be too many", admitted)
		}
		b.ReportMetric(admitted, "admitted/op")
	})
}

type redisWorkload struct {
	workload
	server *storetest.RedisServer
}

func (w redisWorkload) run(b *testing.B, keys []string) {
	w.each(b, keys, func(b *testing.B, open func() decide, used []string) { w.decide(b, open, used) })
}

// each measures every contender, with a server that remembers nothing of the one
// before.
func (w redisWorkload) each(b *testing.B, keys []string, run func(b *testing.B, open func() decide, used []string)) {
	used := w.order(keys)
	for _, c := range redisContenders(w.server) {
		w.server.MustDo("FLUSHDB")
		open := c.open(b, w.quotas)
		w.fill(b, open(), keys)
		b.Run(c.name, func(b *testing.B) {
			for again := open(); w.refused && again(keys[0]); { // what came back since
			}
			before := loadOf(b, w.server, c.inside)
			run(b, open, used)
			after := loadOf(b, w.server, c.inside)
			b.ReportMetric(float64(after.cpu-before.cpu)/float64(b.N), "redis-cpu-ns/op")
			b.ReportMetric(float64(after.calls-before.calls)/float64(b.N), "redis-calls/op")
		})
	}
}

// redisLoad is what a server has done so far.
type redisLoad struct {
	cpu   time.Duration // user and system, of the whole process
	calls int           // what clients waited for
}

// loadOf counts no command that is inside of another, nor what connections begin
// with, nor its own.
func loadOf(tb testing.TB, server *storetest.RedisServer, inside []string) redisLoad {
	tb.Helper()
	var load redisLoad
	for _, line := range infoLines(server, "cpu") {
		name, text, _ := strings.Cut(line, ":")
		if name != "used_cpu_user" && name != "used_cpu_sys" {
			continue
		}
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			tb.Fatalf("%s: %v", line, err)
		}
		load.cpu += time.Duration(seconds * float64(time.Second))
	}
	beside := slices.Concat([]string{"info", "hello", "ping", "flushdb"}, inside)
	for _, line := range infoLines(server, "commandstats") {
		name, text, found := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		command, _, _ := strings.Cut(name, "|")
		if !found || command == "client" || slices.Contains(beside, command) {
			continue
		}
		number, _, _ := strings.Cut(text, ",")
		calls, err := strconv.Atoi(number)
		if err != nil {
			tb.Fatalf("%s: %v", line, err)
		}
		load.calls += calls
	}
	return load
}

func infoLines(server *storetest.RedisServer, section string) []string {
	return strings.Split(server.MustDo("INFO", section), "\r\n")
}

func TestRedisContendersEnforceTheQuota(t *testing.T) {
	server := storetest.Redis(t)
	for _, c := range redisContenders(server) {
		t.Run(c.name+" admits the quota and refuses the next", func(t *testing.T) {
			server.MustDo("FLUSHDB")
			decide := c.open(t, []quota{{10, day}})()
			checkAnswers(t, decide, "a", append(slices.Repeat([]bool{true}, 10), false, false)...)
			checkAnswers(t, decide, "b", true)
		})
		t.Run(c.name+" refuses when the smallest of three quotas is used up", func(t *testing.T) {
			server.MustDo("FLUSHDB")
			decide := c.open(t, []quota{{30, day}, {10, day}, {20, day}})()
			checkAnswers(t, decide, "a", append(slices.Repeat([]bool{true}, 10), false, false)...)
		})
	}
}

// What redis-calls/op claims to be.
func TestRedisCalls(t *testing.T) {
	server := storetest.Redis(t)
	for _, c := range []struct {
		contender string
		quotas    []quota
		want      float64 // for each decision
	}{
		{"weir", lavish(1), 1},
		{"weir", lavish(3), 1},
		{"weir-leased", lavish(1), 0.1},
		{"weir-leased", lavish(3), 0.1},
		{"redis_rate", lavish(1), 1},
		{"redis_rate", lavish(3), 3},
		{"throttled", lavish(1), 2},
		{"throttled", lavish(3), 6},
	} {
		t.Run(fmt.Sprintf("%s asks %v times about %d quotas", c.contender, c.want, len(c.quotas)), func(t *testing.T) {
			server.MustDo("FLUSHDB")
			all := redisContenders(server)
			at := slices.IndexFunc(all, func(o redisContender) bool { return o.name == c.contender })
			decide := all[at].open(t, c.quotas)()
			decide("a") // loads scripts
			const n = 500
			before := loadOf(t, server, all[at].inside)
			for range n {
				if !decide("a") {
					t.Fatal("refused")
				}
			}
			got := loadOf(t, server, all[at].inside).calls - before.calls
			// A store says now and then that it lives.
			const besides = 2
			if most := int(c.want*n) + besides; got > most || c.want >= 1 && got < most-besides {
				t.Errorf("%d calls for %d decisions, want %v for each", got, n, c.want)
			}
		})
	}
}
