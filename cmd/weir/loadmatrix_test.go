package main

import (
	"testing"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// TestAMatrixRehearses checks that a warm-up is a load of its own requests: the caches of
// a run must not know what is measured.
func TestAMatrixRehearses(t *testing.T) {
	c := loadMatrix{Warmup: 1e9} // 1 s
	for name, o := range map[string]loadtest.Options{
		"open":   {Stages: []loadtest.Stage{{From: 10, To: 30, For: time.Minute}}},
		"closed": {Concurrency: 2, Duration: time.Minute},
	} {
		if got := c.warming(o); !got.Rehearsal || o.Rehearsal {
			t.Errorf("%s: the warm-up %v, the load %v; want a rehearsal and none", name, got.Rehearsal, o.Rehearsal)
		}
	}
}
