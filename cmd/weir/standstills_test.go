//go:build unix

package main

import (
	"sync"
	"testing"
	"time"
)

// standstills are the times in which the whole machine did nothing, as far as a test
// can see: timers fired late by more than half a second.
type standstills struct {
	mu  sync.Mutex
	all [][2]time.Time // when each began and ended
}

// watchStandstills watches until the test ends.
func watchStandstills(t *testing.T) *standstills {
	t.Helper()
	const step = 20 * time.Millisecond
	s, ctx := &standstills{}, t.Context()
	var watching sync.WaitGroup
	t.Cleanup(watching.Wait)
	watching.Go(func() {
		for last := time.Now(); pause(ctx, step); {
			now := time.Now()
			if now.Sub(last) > 500*time.Millisecond+step {
				s.mu.Lock()
				s.all = append(s.all, [2]time.Time{last, now})
				s.mu.Unlock()
				t.Logf("this machine stood still for %s", now.Sub(last))
			}
			last = now
		}
	})
	return s
}

// hit reports whether what went on from one time to another can have been held up by
// a standstill: by a second more than that, in which the machine makes good what it
// has missed.
func (s *standstills) hit(from, to time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.all {
		if from.Before(one[1].Add(time.Second)) && to.After(one[0]) {
			return true
		}
	}
	return false
}

// since is how long ago that was, without the standstills.
func (s *standstills) since(from time.Time) time.Duration {
	took := time.Since(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.all {
		if one[1].After(from) {
			took -= one[1].Sub(one[0])
		}
	}
	return took
}
