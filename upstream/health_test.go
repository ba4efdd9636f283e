package upstream

import (
	"fmt"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	one := Breaker{Failures: 1, OpenFor: 10 * time.Second}
	type standing struct {
		Open    bool
		State   string
		Ejected bool
		OpensIn time.Duration
	}
	stands := func(t *testing.T, h *health, now time.Time, want standing) {
		t.Helper()
		state, ejected := h.state(now)
		got := standing{Open: h.open(now), State: state, Ejected: ejected}
		if at := h.opensAt(now); !at.IsZero() {
			got.OpensIn = at.Sub(now)
		}
		if _, ok := h.begin(now); ok != got.Open {
			t.Errorf("open is %v, and begin %v", got.Open, ok)
		}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	t.Run("keeps the time that the target asked for, the last one", func(t *testing.T) {
		h, now, r := afterSteps(t, one)
		h.closeUntil(now.Add(20 * time.Second))
		stands(t, h, now, standing{false, "closed", false, 20 * time.Second})
		h.closeUntil(now.Add(5 * time.Second))
		stands(t, h, now, standing{false, "closed", false, 5 * time.Second})
		stands(t, h, now.Add(5*time.Second), standing{true, "closed", false, 0})
		if r.admits != 1 {
			t.Errorf("told %d times that it opens sooner, want once", r.admits)
		}
	})
	t.Run("counts exchanges with a target that asked to be left alone", func(t *testing.T) {
		h, now, _ := afterSteps(t, one)
		h.closeUntil(now.Add(time.Second))
		p, ok := h.begin(now)
		h.end(p, bad, now)
		if state, _ := h.state(now); ok || state != "open" {
			t.Errorf("begin: %v, then %s, want false and open", ok, state)
		}
	})
	t.Run("gives no trial to a target that asked to be left alone", func(t *testing.T) {
		h, now, _ := afterSteps(t, one, "bad")
		h.closeUntil(now.Add(15 * time.Second))
		stands(t, h, now.Add(10*time.Second), standing{false, "half_open", false, 5 * time.Second})
		if !h.open(now.Add(15 * time.Second)) {
			t.Error("the trial that nobody could have leaked")
		}
	})
	t.Run("opens with the last of breaker, probes and pause", func(t *testing.T) {
		h, now, _ := afterSteps(t, one, "bad")
		h.closeUntil(now.Add(20 * time.Second))
		stands(t, h, now, standing{false, "open", false, 20 * time.Second})
		h.nextProbe(now.Add(30 * time.Second))
		h.probed(false, now)
		h.probed(false, now)
		stands(t, h, now, standing{false, "open", true, 30 * time.Second})
	})
	t.Run("ejects at the second failed probe in a row and takes back at the first success", func(t *testing.T) {
		h, now, r := afterSteps(t, one)
		for _, ok := range []bool{false, true, false} {
			h.probed(ok, now)
		}
		stands(t, h, now, standing{true, "closed", false, 0})
		h.nextProbe(now.Add(time.Second))
		h.probed(false, now)
		stands(t, h, now, standing{false, "closed", true, time.Second})
		h.probed(false, now)
		h.probed(true, now)
		stands(t, h, now, standing{true, "closed", false, 0})
		h.probed(true, now)
		if fmt.Sprint(r.events) != "[ejected returned]" || r.admits != 1 {
			t.Errorf("told %v and %d times that it opens, want [ejected returned] and once", r.events, r.admits)
		}
	})
	t.Run("gives a target that comes back its trial at once", func(t *testing.T) {
		h, now, _ := afterSteps(t, one, "bad", "10s", "bad", "20s", "bad")
		h.probed(false, now)
		h.probed(false, now)
		h.probed(true, now)
		stands(t, h, now, standing{false, "half_open", false, time.Second}) // the last trial was only now
		stands(t, h, now.Add(time.Second), standing{true, "half_open", false, 0})
	})
	t.Run("does not close a breaker by probes", func(t *testing.T) {
		h, now, _ := afterSteps(t, one, "bad")
		for range 10 {
			h.probed(true, now)
		}
		stands(t, h, now, standing{false, "open", false, 10 * time.Second})
	})
}
