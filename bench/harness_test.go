//go:build unix

package bench

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// How many callers the benchmarks with random keys have, and how many choices
// among them there are before the order repeats.
const (
	keyCount     = 100_000
	streamLength = 1 << 18
)

// callerKeys are the keys of n callers, in the form that auth gives them.
func callerKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key:caller-%06d", i)
	}
	return keys
}

// order is in which order n things are used: random, and the same for every
// contender and every run.
func order(n int) []int {
	random := rand.New(rand.NewPCG(1, 2))
	all := make([]int, streamLength)
	for i := range all {
		all[i] = random.IntN(n)
	}
	return all
}

// fresh are the keys in the order of use, each time as a string of its own, one
// behind the other in memory. So the processor fetches a key before it is needed,
// like that of a request that was just read, and no contender is charged for
// waiting for it, nor finds the same string in its map.
func fresh(keys []string) []string {
	var text strings.Builder
	choices := order(len(keys))
	for _, i := range choices {
		text.WriteString(keys[i])
	}
	used, rest := make([]string, len(choices)), text.String()
	for at, i := range choices {
		used[at], rest = rest[:len(keys[i])], rest[len(keys[i]):]
	}
	return used
}

// shared are the keys in the order of use, the same string each time: random
// memory, which the processor waits for twice before it can begin to decide.
func shared(keys []string) []string {
	used := make([]string, 0, streamLength)
	for _, i := range order(len(keys)) {
		used = append(used, keys[i])
	}
	return used
}

// cpuTime is what the process has used so far, user and system together. It
// counts garbage collection and background goroutines, and not what other
// processes use meanwhile, so it repeats on a busy machine where wall time does
// not.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure times loop, which does n operations, on one goroutine.
func measure(b *testing.B, loop func(n int)) {
	b.Helper()
	b.ReportAllocs()
	runtime.GC() // what was left by the contender before must not be charged to this one
	before := cpuTime(b)
	b.ResetTimer()
	loop(b.N)
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// measureParallel times so many goroutines on each of so many procs. Each calls
// loop with its number and the iterator.
//
// It sets GOMAXPROCS itself, so that one command line with -cpu 1 prints the
// variants on one processor and those on two.
func measureParallel(b *testing.B, procs, onEach int, loop func(goroutine int, next func() bool)) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism(onEach)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
	runtime.GC()
	var goroutines atomic.Int64
	before := cpuTime(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) { loop(int(goroutines.Add(1))-1, pb.Next) })
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}
