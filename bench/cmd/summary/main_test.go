package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const twoRuns = `goos: linux
pkg: example.test/bench
BenchmarkDecision/keys=hot/weir   	 100	  90.1 ns/op	  80.0 cpu-ns/op	       0 B/op	       0 allocs/op
BenchmarkDecision/keys=hot/other  	 100	   200 ns/op	   180 cpu-ns/op	      40 B/op	       3 allocs/op
BenchmarkCacheKey/weir            	 100	  1500 ns/op	  1400 cpu-ns/op	 120.5 MB/s	       1 allocs/op
BenchmarkClock                    	 100	  50 ns/op
BenchmarkDecision/keys=hot/weir   	 100	  95.0 ns/op	  40.0 cpu-ns/op	       0 B/op	       0 allocs/op
BenchmarkDecision/keys=hot/other  	 100	   190 ns/op	   185 cpu-ns/op	      40 B/op	       2 allocs/op
PASS
ok  	example.test/bench	1.0s
`

const twoRunsSummary = `
  CPU ns/op  wall ns/op  allocs/op  times weir  runs  Decision/keys=hot
         40        90.1          0        1.00     2  weir
        180         190          2        4.50     2  other

  CPU ns/op  wall ns/op  allocs/op  times weir  runs  CacheKey
       1400        1500          1        1.00     1  weir

  CPU ns/op  wall ns/op  allocs/op  times weir  runs  (no group)
          -          50          -           -     1  Clock
`

func TestSummarize(t *testing.T) {
	for _, c := range []struct {
		name, in, want, wantErr string
	}{
		{"takes the least of all runs and compares with weir", twoRuns, twoRunsSummary[1:], ""},
		{"compares with nothing where weir did not run", "BenchmarkX/y 1 5.25 cpu-ns/op\n",
			"  CPU ns/op  wall ns/op  allocs/op  times weir  runs  X\n        5.2           -          -           -     1  y\n", ""},
		{"shows what Redis did where it was asked",
			"BenchmarkR/weir 1 9 ns/op 8 cpu-ns/op 1.000 redis-calls/op 5000 redis-cpu-ns/op 2 allocs/op\n" +
				"BenchmarkR/weir 1 9 ns/op 8 cpu-ns/op 1.100 redis-calls/op 4000 redis-cpu-ns/op 2 allocs/op\n" +
				"BenchmarkR/loop 1 3 ns/op 2 cpu-ns/op 0 allocs/op\n" +
				"BenchmarkR/leased 1 6 ns/op 4 cpu-ns/op 0.0018 redis-calls/op 12.5 redis-cpu-ns/op 0 allocs/op\n",
			"  CPU ns/op  wall ns/op  allocs/op  Redis CPU ns/op  Redis calls/op  times weir  runs  R\n" +
				"          8           9          2             4000           1.000        1.00     2  weir\n" +
				"          2           3          0                -               -        0.25     1  loop\n" +
				"          4           6          0             12.5           0.002        0.50     1  leased\n", ""},
		{"shows the most requests a second and the least that a cache was good for",
			"BenchmarkC/weir 1 9 ns/op 8 cpu-ns/op 99.5 requests/s 50.25 hit-% 12.50 saved-%\n" +
				"BenchmarkC/weir 1 9 ns/op 8 cpu-ns/op 70.1 requests/s 50.15 hit-% 13.00 saved-%\n" +
				"BenchmarkC/other 1 4 ns/op 4 cpu-ns/op\n",
			"  CPU ns/op  wall ns/op  allocs/op  requests/s  hit %  model time saved %  times weir  runs  C\n" +
				"          8           9          -         100   50.1                12.5        1.00     2  weir\n" +
				"          4           4          -           -      -                   -        0.50     1  other\n", ""},
		{"passes over what is not a result", "BenchmarkX is slow today\nBenchmarkX/y 1 2 ns/op\n",
			"  CPU ns/op  wall ns/op  allocs/op  times weir  runs  X\n          -           2          -           -     1  y\n", ""},
		{"refuses an empty input", "PASS\n", "", "no results in the input: want what go test -bench prints"},
		{"refuses a run that failed", "BenchmarkX/y 1 2 ns/op\nBenchmarkX/z --- FAIL: BenchmarkX/z\n", "",
			"line 2: BenchmarkX/z --- FAIL: BenchmarkX/z: the figures of a run that failed mean nothing"},
		{"refuses a figure that is no number", "BenchmarkX/y 1 fast ns/op\n", "",
			`line 1: BenchmarkX/y: "fast": want a number in front of "ns/op"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			err := summarize(strings.NewReader(c.in), &out)
			if got := text(err); got != c.wantErr {
				t.Errorf("error %q, want %q", got, c.wantErr)
			}
			if got := out.String(); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func TestSummarizeReportsAReaderThatFails(t *testing.T) {
	broken := errors.New("the pipe broke")
	in := io.MultiReader(strings.NewReader("BenchmarkX/y 1 2 ns/op\n"), iotest.ErrReader(broken))
	if err := summarize(in, io.Discard); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
