package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/gateway"
)

func TestTargetsInWords(t *testing.T) {
	now := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	f := func(state string, until time.Duration, want [3]string) {
		t.Helper()
		target := gateway.TargetSnapshot{State: state}
		if until != 0 {
			target.Until = now.Add(until)
		}
		row := targetOf(target, now)
		if got := [3]string{row.Class, row.Is, row.Why}; got != want {
			t.Errorf("%s: got %q, want %q", state, got, want)
		}
	}
	f("open", 0, [3]string{"good", "gets requests", ""})
	f("breaker", 4200*time.Millisecond, [3]string{"bad", "left out", "breaker open: too many requests in a row failed, tried again in 5 s"})
	f("breaker", -time.Second, [3]string{"bad", "left out", "breaker open: too many requests in a row failed"})
	f("probes", 0, [3]string{"bad", "left out", "its probes fail"})
	f("paused", 3*time.Minute, [3]string{"warn", "paused", "it asked for a pause (Retry-After), tried again in 3 min"})
}

func TestTimesToCome(t *testing.T) {
	now := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	for want, d := range map[string]time.Duration{
		"now": 0, "in 1 s": time.Millisecond, "in 119 s": 119 * time.Second, "in 2 min": 2 * time.Minute,
		"in 2 h": 2*time.Hour + time.Second, "in 24 h": 24*time.Hour - time.Second, "in 90 d": 90*24*time.Hour - time.Second,
	} {
		if got := in(now.Add(d), now); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
	if got := in(time.Time{}, now); got != none {
		t.Errorf("got %q of no time", got)
	}
}

func TestPagesOfRareStates(t *testing.T) {
	f := func(name, path string, s gateway.Snapshot, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			body := shownWith(t, path, s)
			for _, text := range want {
				if !strings.Contains(body, text) {
					t.Errorf("no %s in %s", text, body)
				}
			}
		})
	}
	f("a tier that other instances have, too", "/cache",
		gateway.Snapshot{Cache: gateway.CacheSnapshot{On: true, Tiers: []gateway.TierSnapshot{
			{Name: "memory", Entries: 1200, Bytes: 64 << 20, MaxBytes: 256 << 20, Evictions: 7}, {Name: "redis", Shared: true}}}},
		"64.0 MiB of 256 MiB (25 %)", `width="25.0"`, "how much is in it is not known here", ">1 200<", "in 2 tiers")
	f("a queue that is full", "/upstreams",
		gateway.Snapshot{Upstreams: []gateway.UpstreamSnapshot{{Name: "llm", Running: 8, Limit: 8, MaxQueue: 4, Waiting: map[string]int{"batch": 3, "critical": 1},
			Refused: map[string]int64{"queue_full": 9, "no_target": 2}, Calls: map[string]int64{"ok": 5}, WaitMS: gateway.Latency{N: 3, P95: 1500, Max: 2000}}}},
		"8 of 8", "4 of 4", "critical 1, standard 0, batch 3", "the queue was full: 9", "no target gets requests: 2", "ok: 5", "wait p95 1.50 s", `width="100.0"`)
	f("no upstream", "/upstreams", gateway.Snapshot{}, "No upstreams")
}

func TestSentForms(t *testing.T) {
	var forms sentForms
	got := []bool{forms.take("a"), forms.take("a"), forms.take(strings.Repeat("x", 65))}
	forms.giveBack("a")
	got = append(got, forms.take("a"))
	for i := range maxSentForms {
		forms.take(fmt.Sprint(i))
	}
	got = append(got, forms.take("0"), forms.take("a")) // a was the oldest, and is forgotten
	if want := []bool{true, false, false, true, false, true}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(forms.known) != maxSentForms || len(forms.order) != maxSentForms {
		t.Errorf("%d and %d are remembered, want %d", len(forms.known), len(forms.order), maxSentForms)
	}
}
