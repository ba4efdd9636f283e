package admission_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/inferweir/weir/admission"
)

// backlogged is a Scheduler with 100,000 callers of whom each has a request that
// waits, and what runs.
func backlogged(b *testing.B) (s *admission.Scheduler, requests []admission.Request, runs *[]*admission.Item) {
	runs = new([]*admission.Item)
	s, err := admission.NewScheduler(admission.Options{
		Targets:  []admission.Target{{}, {}},
		Limits:   admission.Limits{Min: 64, Max: 64},
		MaxQueue: callersWaiting,
		MaxWait:  time.Hour,
	}, func(it *admission.Item) {
		if it.Target() >= 0 {
			*runs = append(*runs, it)
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	for i := range callersWaiting + 128 {
		requests = append(requests, admission.Request{Caller: fmt.Sprint("caller", i), Class: admission.Standard, Input: int64(100 + i%1000), Output: 100, Stream: true})
		s.Submit(admission.NewItem(requests[i]), start)
	}
	if got := s.Stats(); got.Waiting[admission.Standard] != callersWaiting || got.Running != 128 {
		b.Fatalf("%+v", got)
	}
	return s, requests, runs
}

const callersWaiting = 100_000

// BenchmarkDispatch is a request's whole way: one comes, one ends, one is given its
// place.
func BenchmarkDispatch(b *testing.B) {
	s, requests, runs := backlogged(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		it := (*runs)[0]
		*runs = append((*runs)[:0], (*runs)[1:]...)
		s.Done(it, admission.OK, start)
		s.Submit(admission.NewItem(requests[i]), start)
		i = (i + 1) % len(requests)
	}
	if got := s.Stats(); got.Running != 128 || got.Waiting[admission.Standard] < callersWaiting-1 {
		b.Fatalf("%+v", got)
	}
}

// BenchmarkRefuse is what it costs to refuse one where the queue is full.
func BenchmarkRefuse(b *testing.B) {
	for _, of := range []string{"a caller with the longest line", "others"} {
		b.Run(of, func(b *testing.B) {
			s, requests, _ := backlogged(b)
			r := requests[len(requests)-1]
			if of != "others" {
				r.Input = 100_000
			}
			b.ReportAllocs()
			for b.Loop() {
				s.Submit(admission.NewItem(r), start)
			}
		})
	}
}
