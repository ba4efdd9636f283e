package upstream_test

import (
	"context"

	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/upstream"
)

// line is how long a call with n items takes.
func line(fixed, each time.Duration) func(int) time.Duration {
	return func(n int) time.Duration { return fixed + time.Duration(n)*each }
}

// flood makes calls that are full, one after the other.
func (x *rig) flood(calls int) {
	x.Helper()
	for range calls {
		var seats []*chair
		for range x.batcher.Stats().Size {
			seats = append(seats, x.desk.sit("k", 1))
		}
		var all []<-chan got
		for _, seat := range seats {
			all = append(all, x.send(context.Background(), asks{items: []string{"a"}, seat: seat}))
		}
		for _, c := range all {
			if g := <-c; g.String() != predicts("a") {
				x.Fatalf("got %s", g)
			}
		}
	}
}

// sizes records what is told of the size.
type sizes struct {
	mu   sync.Mutex
	told []int
}

func (s *sizes) resize(x **rig) func(int) {
	return func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told = append(s.told, n)
		(*x).desk.resize(n)
	}
}

// pacedBatch runs f in a bubble with a rig that follows a goal.
func pacedBatch(t *testing.T, name string, o upstream.BatchOptions, f func(*rig, *sizes)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var x *rig
			s := &sizes{}
			o.Resize = s.resize(&x)
			x = newRig(t, o, upstream.Options{})
			f(x, s)
		})
	})
}

func TestBatchSizeFollowsTheGoal(t *testing.T) {
	goal := upstream.BatchOptions{MaxItems: 20, Goal: 100 * time.Millisecond}
	pacedBatch(t, "down by a tenth with each call that misses it, up by one with each that meets it", goal, func(x *rig, s *sizes) {
		x.model.took = line(10*time.Millisecond, 6*time.Millisecond) // 15 items take 100ms
		x.flood(10)
		if want := []int{18, 16, 14, 15, 16, 14, 15, 16, 14, 15}; !slices.Equal(s.told, want) {
			x.Errorf("told %v, want %v", s.told, want)
		}
	})
	pacedBatch(t, "never above the most, and never below one", goal, func(x *rig, s *sizes) {
		x.model.took = line(0, time.Millisecond)
		x.flood(5)
		if len(s.told) != 0 {
			x.Errorf("told %v", s.told)
		}
		x.model.took = line(time.Second, time.Millisecond)
		x.flood(60)
		if size := x.batcher.Stats().Size; size != 1 || s.told[len(s.told)-1] != 1 {
			x.Errorf("size %d, told %v", size, s.told)
		}
	})
	pacedBatch(t, "and up again from one, where each request has a place alone", goal, func(x *rig, s *sizes) {
		x.model.took = line(time.Second, time.Millisecond)
		x.flood(60)
		x.model.took = line(10*time.Millisecond, 6*time.Millisecond)
		s.told = nil
		for range 3 {
			a := asks{items: []string{"a"}}
			m := x.member(&a)
			m.Place = nil // as a queue does it for a size of one
			if g := gotten(x.batcher.Do(x.Context(), m)); g.err != nil {
				x.Fatal(g.err)
			}
			if x.batcher.Stats().Size > 1 {
				break
			}
		}
		x.flood(20)
		if first, size := s.told[0], x.batcher.Stats().Size; first != 2 || size < 13 {
			x.Errorf("size %d, told %v", size, s.told)
		}
	})
	pacedBatch(t, "not because of calls that a smaller size would not have changed", goal, func(x *rig, s *sizes) {
		x.model.took = line(time.Second, 0)
		for range 50 {
			x.want(x.ask([]string{"a"}, []string{"b"}), predicts("a"), predicts("b"))
		}
		if len(s.told) != 0 {
			x.Errorf("told %v", s.told)
		}
	})
	pacedBatch(t, "nor up because of them", goal, func(x *rig, s *sizes) {
		x.model.took = line(time.Second, 0)
		x.flood(2)
		x.model.took = line(0, 0)
		x.want(x.ask(slices.Repeat([]string{"a"}, 15)), predicts(slices.Repeat([]string{"a"}, 15)...))
		if want := []int{18, 16}; !slices.Equal(s.told, want) {
			x.Errorf("told %v, want %v", s.told, want)
		}
	})
	pacedBatch(t, "nor because of those larger than the most", goal, func(x *rig, s *sizes) {
		x.model.took = line(time.Second, 0)
		items := slices.Repeat([]string{"a"}, 21)
		x.want(x.ask(items), predicts(items...))
		if len(s.told) != 0 {
			x.Errorf("told %v", s.told)
		}
	})
	pacedBatch(t, "once for calls that were under way together", goal, func(x *rig, s *sizes) {
		x.model.took = line(time.Second, 0)
		var all []<-chan got
		for range 5 * 20 {
			all = append(all, x.send(x.Context(), asks{items: []string{"a"}}))
		}
		x.want(all, slices.Repeat([]string{predicts("a")}, len(all))...)
		if want := []int{18}; !slices.Equal(s.told, want) || len(x.model.asked()) != 5 {
			x.Errorf("told %v, want %v; %d calls", s.told, want, len(x.model.asked()))
		}
	})
	pacedBatch(t, "and the goal refuses nobody and cancels nothing (BentoML 3200)", goal, func(x *rig, _ *sizes) {
		x.model.took = line(30*time.Second, 0)
		x.flood(3) // each is answered
	})
	pacedBatch(t, "down, too, with each that has no answer in time", goal, func(x *rig, s *sizes) {
		x.model.took = line(time.Hour, 0)
		for _, c := range x.ask(slices.Repeat([][]string{{"a"}}, 20)...) {
			if g := <-c; g.err == nil {
				x.Errorf("got %s", g)
			}
		}
		if want := []int{18}; !slices.Equal(s.told, want) {
			x.Errorf("told %v, want %v", s.told, want)
		}
	})
	pacedBatch(t, "not because of those whose clients left", goal, func(x *rig, s *sizes) {
		x.model.took = line(time.Hour, 0)
		ctx, leave := context.WithCancel(x.Context())
		var all []<-chan got
		for range 20 {
			all = append(all, x.send(ctx, asks{items: []string{"a"}}))
		}
		time.Sleep(time.Second)
		leave()
		x.want(all, slices.Repeat([]string{"upstream m: context canceled"}, 20)...)
		ctx, leave = context.WithCancel(x.Context())
		whole := x.send(ctx, asks{items: slices.Repeat([]string{"a"}, 20)})
		time.Sleep(time.Second)
		leave()
		<-whole
		if synctest.Wait(); len(s.told) != 0 {
			x.Errorf("told %v", s.told)
		}
	})
}

func TestBatchDelayFollowsTheGoal(t *testing.T) {
	// waits is how long a first item waits after calls with so many items.
	waits := func(x *rig, before ...int) time.Duration {
		for _, n := range before {
			x.want(x.ask(slices.Repeat([]string{"a"}, n)), predicts(slices.Repeat([]string{"a"}, n)...))
		}
		began := time.Now()
		done := x.ask([]string{"a"})
		<-done[0]
		return time.Since(began) - x.model.took(1)
	}
	for _, tt := range []struct {
		name   string
		took   func(int) time.Duration
		before []int
		want   time.Duration
	}{
		{"is the most before anything is known", line(10*time.Millisecond, 6*time.Millisecond), nil, 80 * time.Millisecond},
		{"is what the goal leaves for the call", line(10*time.Millisecond, 20*time.Millisecond), []int{1, 2, 3}, 70 * time.Millisecond},
		{"is the most where that is less", line(0, 0), []int{1, 2, 3}, 80 * time.Millisecond},
		{"is nothing where the goal leaves nothing", line(100*time.Millisecond, 0), []int{1, 2, 3}, 0},
		{"takes a time for one size in proportion", line(0, 20*time.Millisecond), []int{4}, 80 * time.Millisecond},
		{"takes a curve for a line through nothing", func(n int) time.Duration { return time.Duration(10*n*n) * time.Millisecond }, []int{1, 2, 3}, 76667 * time.Microsecond},
		{"takes what falls with the size for constant", func(n int) time.Duration { return time.Duration(60-10*n) * time.Millisecond }, []int{1, 2, 3}, 60 * time.Millisecond},
	} {
		virtual(t, tt.name, upstream.BatchOptions{MaxItems: 20, MaxDelay: 80 * time.Millisecond, Goal: 100 * time.Millisecond}, func(x *rig) {
			x.model.took = tt.took
			if got := waits(x, tt.before...); got.Round(time.Microsecond) != tt.want {
				x.Errorf("waited %v, want %v", got, tt.want)
			}
		})
	}
	virtual(t, "is shorter the more items there are", upstream.BatchOptions{MaxItems: 20, MaxDelay: 80 * time.Millisecond, Goal: 100 * time.Millisecond}, func(x *rig) {
		x.model.took = line(10*time.Millisecond, 10*time.Millisecond)
		waits(x, 1, 2, 3)
		began := time.Now()
		all := x.ask([]string{"a"}) // may wait until 80ms
		time.Sleep(20 * time.Millisecond)
		all = append(all, x.ask([]string{"b", "c"}, []string{"d"})...) // four: until 50ms
		x.want(all, predicts("a"), predicts("b", "c"), predicts("d"))
		if took := time.Since(began).Round(time.Microsecond); took != goalOfDelay {
			x.Errorf("took %v, want %v: the goal", took, goalOfDelay)
		}
	})
	virtual(t, "is not longer because more are on their way", upstream.BatchOptions{MaxItems: 20, MaxDelay: 80 * time.Millisecond, Goal: 100 * time.Millisecond}, func(x *rig) {
		x.model.took = line(50*time.Millisecond, 0)
		waits(x, 1, 2)
		began := time.Now()
		all := x.ask([]string{"a"}) // may wait until 50ms
		late := x.desk.sit("k", 1)
		all = append(all, x.ask([]string{"b"})...)
		time.Sleep(60 * time.Millisecond)
		if n := len(x.model.asked()); n != 4 {
			x.Errorf("%d calls after %v", n, time.Since(began))
		}
		all = append(all, x.send(x.Context(), asks{items: []string{"c"}, seat: late}))
		x.want(all, predicts("a"), predicts("b"), predicts("c"))
	})
	virtual(t, "follows the last fifty calls", upstream.BatchOptions{MaxItems: 20, MaxDelay: 80 * time.Millisecond, Goal: 100 * time.Millisecond}, func(x *rig) {
		x.model.took = line(100*time.Millisecond, 0)
		waits(x, slices.Repeat([]int{1}, 50)...)
		x.model.took = line(50*time.Millisecond, 0)
		if got := waits(x, slices.Repeat([]int{1}, 50)...); got.Round(time.Microsecond) != 50*time.Millisecond {
			x.Errorf("waited %v", got)
		}
	})
}

const goalOfDelay = 100 * time.Millisecond

// TestBatchThroughput has 64 callers ask as fast as they are answered, at a server
// that does two calls at a time, each in 10ms and 1ms for an item.
func TestBatchThroughput(t *testing.T) {
	perSecond := func(t *testing.T, most int) (answered int) {
		synctest.Test(t, func(t *testing.T) {
			x := newRig(t, upstream.BatchOptions{MaxItems: most}, upstream.Options{})
			x.desk.limit = 2
			x.model.took = line(10*time.Millisecond, time.Millisecond)
			ctx, stop := context.WithTimeout(x.Context(), 10*time.Second)
			defer stop()
			var all sync.WaitGroup
			var mu sync.Mutex
			for i := range 64 {
				all.Go(func() {
					for ctx.Err() == nil {
						g := <-x.send(context.Background(), asks{items: []string{strconv.Itoa(i)}})
						if g.String() != predicts(strconv.Itoa(i)) {
							x.Errorf("%d got %s", i, g)
							return
						}
						mu.Lock()
						answered++
						mu.Unlock()
					}
				})
			}
			all.Wait()
			answered /= 10
			if x.model.busiest() > 2 {
				t.Errorf("%d calls at once in 2 places", x.model.busiest())
			}
		})
		return answered
	}
	alone, together := perSecond(t, 1), perSecond(t, 32)
	t.Logf("%d answers a second alone, %d in calls of up to 32", alone, together)
	// 2 places / 11ms is 182; 2 places * 32 items / 42ms is 1523.
	if alone < 100 || alone > 190 || together < 6*alone {
		t.Errorf("%d answers a second alone, %d together: want 6 times as many", alone, together)
	}
}
