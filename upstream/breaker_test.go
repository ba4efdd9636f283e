package upstream

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// breakerStart is when the tests of the breaker begin.
func breakerStart() time.Time { return time.Unix(1_800_000_000, 0) }

// told records what a health tells.
type told struct {
	events []string
	admits int
}

func (r *told) listen(h *health) {
	h.events = func(what string) { r.events = append(r.events, what) }
	h.admits = func() { r.admits++ }
}

// afterSteps runs steps on a new health and reports how it stands then. A step is "ok",
// "bad" or "neutral" for a whole exchange, or a time to let pass.
func afterSteps(t *testing.T, b Breaker, steps ...string) (h *health, now time.Time, r *told) {
	t.Helper()
	fresh := newHealth(b)
	h, now, r = &fresh, breakerStart(), &told{}
	r.listen(h)
	for i, step := range steps {
		o, ok := map[string]outcome{"ok": good, "bad": bad, "neutral": neutral}[step]
		if !ok {
			d, err := time.ParseDuration(step)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(d)
			continue
		}
		p, ok := h.begin(now)
		if !ok {
			t.Fatalf("step %d, %s: the target is not open", i, step)
		}
		h.end(p, o, now)
	}
	return h, now, r
}

func TestBreaker(t *testing.T) {
	three := Breaker{Failures: 3, OpenFor: time.Second}
	type standing struct {
		State   string
		Open    bool
		OpensIn time.Duration
		Events  string
	}
	for _, tt := range []struct {
		name  string
		rules Breaker
		steps []string
		want  standing
	}{
		{"is closed at first", three, nil, standing{"closed", true, 0, "[]"}},
		{"stays closed one failure short", three, []string{"bad", "bad"}, standing{"closed", true, 0, "[]"}},
		{"opens at exactly the failures asked for", three, []string{"bad", "bad", "bad"}, standing{"open", false, time.Second, "[opened]"}},
		{"counts failures in a row only", three, []string{"bad", "bad", "ok", "bad", "bad"}, standing{"closed", true, 0, "[]"}},
		{"does not count what says nothing of the target", three, []string{"bad", "neutral", "bad", "neutral"}, standing{"closed", true, 0, "[]"}},
		{"nor takes it for a success", three, []string{"bad", "bad", "neutral", "bad"}, standing{"open", false, time.Second, "[opened]"}},
		{"is half-open when its time is over", three, []string{"bad", "bad", "bad", "1s"}, standing{"half_open", true, 0, "[opened]"}},
		{"is open until then", three, []string{"bad", "bad", "bad", "999ms"}, standing{"open", false, time.Millisecond, "[opened]"}},
		{"closes when the trial succeeds", three, []string{"bad", "bad", "bad", "1s", "ok"}, standing{"closed", true, 0, "[opened closed]"}},
		{"opens for twice as long when it fails", three, []string{"bad", "bad", "bad", "1s", "bad"}, standing{"open", false, 2 * time.Second, "[opened opened]"}},
		{"stays half-open when it says nothing, until the next a second after it", three,
			[]string{"bad", "bad", "bad", "1s", "neutral"}, standing{"half_open", false, time.Second, "[opened]"}},
		{"is given no two trials within a second, however short it opens", Breaker{Failures: 1, OpenFor: time.Millisecond},
			[]string{"bad", "1ms", "bad", "100ms"}, standing{"half_open", false, 900 * time.Millisecond, "[opened opened]"}},
		{"stays open for ten times as long at most", three,
			[]string{"bad", "bad", "bad", "1s", "bad", "2s", "bad", "4s", "bad", "8s", "bad", "10s", "bad"},
			standing{"open", false, 10 * time.Second, "[opened opened opened opened opened opened]"}},
		{"begins anew after a success", three,
			[]string{"bad", "bad", "bad", "1s", "bad", "2s", "ok", "bad", "bad", "bad"},
			standing{"open", false, time.Second, "[opened opened closed opened]"}},
		{"needs all its failures again after a success", three,
			[]string{"bad", "bad", "bad", "1s", "ok", "bad", "bad"}, standing{"closed", true, 0, "[opened closed]"}},
		{"opens for ten seconds unless told otherwise", Breaker{Failures: 1}, []string{"bad"}, standing{"open", false, 10 * time.Second, "[opened]"}},
		{"never opens without failures to open at", Breaker{OpenFor: time.Second},
			slices.Repeat([]string{"bad"}, 1000), standing{"closed", true, 0, "[]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, now, r := afterSteps(t, tt.rules, tt.steps...)
			state, _ := h.state(now)
			got := standing{State: state, Open: h.open(now), Events: fmt.Sprint(r.events)}
			if at := h.opensAt(now); !at.IsZero() {
				got.OpensIn = at.Sub(now)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestBreakerTrial(t *testing.T) {
	one := Breaker{Failures: 1, OpenFor: time.Second}
	t.Run("is followed by another a second after it began, ended or not", func(t *testing.T) {
		for _, ended := range []bool{false, true} {
			h, now, _ := afterSteps(t, one, "bad", "1s")
			p, ok := h.begin(now)
			if ended {
				h.end(p, neutral, now.Add(10*time.Millisecond))
			}
			for trial := range 60 {
				if _, second := h.begin(now.Add(time.Second - 1)); !ok || second || h.open(now.Add(time.Second-1)) {
					t.Fatalf("trial %d: %v, and another within a second: %v", trial, ok, second)
				}
				if at := h.opensAt(now); at != now.Add(time.Second) {
					t.Fatalf("trial %d: the next is due at %v, want a second after it began", trial, at)
				}
				now = now.Add(time.Second)
				_, ok = h.begin(now)
			}
		}
	})
	t.Run("decides by the first that has something to say", func(t *testing.T) {
		for _, c := range []struct {
			name          string
			second, first outcome
			want, events  string
		}{
			{"the second succeeds while the first is slow", good, neutral, "closed", "[opened closed]"},
			{"the second succeeds, then the first fails as any other", good, bad, "open", "[opened closed opened]"},
			{"the second fails, and what the first brings is old news", bad, good, "open", "[opened opened]"},
			{"the second says nothing, the first does", neutral, good, "closed", "[opened closed]"},
			{"neither says anything", neutral, neutral, "half_open", "[opened]"},
		} {
			h, now, r := afterSteps(t, one, "bad", "1s")
			first, _ := h.begin(now)
			now = now.Add(time.Second)
			second, _ := h.begin(now)
			h.end(second, c.second, now)
			h.end(first, c.first, now)
			if state, _ := h.state(now); state != c.want || fmt.Sprint(r.events) != c.events {
				t.Errorf("%s: %s after %v, want %s after %s", c.name, state, r.events, c.want, c.events)
			}
		}
	})
	t.Run("is one for a thousand who come together", func(t *testing.T) {
		h, now, _ := afterSteps(t, one, "bad", "1s")
		h.events, h.admits = nil, nil
		var all sync.WaitGroup
		var trials atomic.Int64
		for range 1000 {
			all.Go(func() {
				p, ok := h.begin(now)
				if ok {
					trials.Add(1)
				} else {
					h.end(p, good, now) // went all the same: that must not close it
				}
			})
		}
		all.Wait()
		if state, _ := h.state(now); trials.Load() != 1 || state != "half_open" {
			t.Errorf("%d trials, then %s, want 1 and half_open", trials.Load(), state)
		}
	})
	t.Run("has succeeded when its answer begins", func(t *testing.T) {
		h, now, r := afterSteps(t, one, "bad", "1s")
		p, _ := h.begin(now)
		h.alive(p)
		if !h.open(now) || r.admits != 1 || fmt.Sprint(r.events) != "[opened closed]" {
			t.Errorf("open %v, told %d times and %v", h.open(now), r.admits, r.events)
		}
		h.end(p, bad, now)
		if state, _ := h.state(now); state != "open" {
			t.Errorf("its answer broke off later, and the breaker is %s, want open", state)
		}
	})
}

func TestBreakerIgnoresOldNews(t *testing.T) {
	h, now, r := afterSteps(t, Breaker{Failures: 2, OpenFor: time.Second})
	var old []pass
	for range 6 {
		p, _ := h.begin(now)
		old = append(old, p)
	}
	h.end(old[0], bad, now)
	h.end(old[1], bad, now) // opens it
	h.end(old[2], good, now)
	h.end(old[3], bad, now)
	if at := h.opensAt(now); at != now.Add(time.Second) {
		t.Errorf("opens at %v, want a second after the opening", at)
	}
	now = now.Add(time.Second)
	trial, _ := h.begin(now)
	h.end(old[4], good, now)
	h.alive(old[4])
	if state, _ := h.state(now); state != "half_open" {
		t.Errorf("the breaker is %s by an exchange from before it opened, want half_open", state)
	}
	h.end(trial, good, now)
	h.end(old[5], bad, now)
	p, _ := h.begin(now)
	h.end(p, bad, now)
	if state, _ := h.state(now); state != "closed" || fmt.Sprint(r.events) != "[opened closed]" {
		t.Errorf("the breaker is %s after one failure of its own, told %v, want closed", state, r.events)
	}
}

// breakerModel is what the breaker promises, as simply as it can be said.
type breakerModel struct {
	inARow, opening int
	open            bool
	until           time.Time
	factor          time.Duration
	trials          map[int]bool // the exchanges that are on trial
	began           time.Time    // the last of them, and of those before
}

func (m *breakerModel) opens(now time.Time, openFor time.Duration) {
	m.open, m.inARow, m.trials = true, 0, map[int]bool{}
	m.opening++
	m.until = now.Add(openFor * m.factor)
	m.factor = min(m.factor*2, 10)
}

func (m *breakerModel) closes() {
	m.open, m.inARow, m.factor, m.trials = false, 0, 1, map[int]bool{}
}

func (m *breakerModel) admits(now time.Time) bool {
	return !m.open || !now.Before(m.until) && now.Sub(m.began) >= time.Second
}

func (m *breakerModel) end(i, opening int, o outcome, rules Breaker, now time.Time) {
	switch {
	case opening != m.opening:
	case m.trials[i] && o == good:
		m.closes()
	case m.trials[i] && o == bad:
		m.opens(now, rules.OpenFor)
	case m.trials[i]:
		delete(m.trials, i)
	case m.open:
	case o == good:
		m.closes()
	case o == bad:
		if m.inARow++; m.inARow == rules.Failures {
			m.opens(now, rules.OpenFor)
		}
	}
}

func TestBreakerKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := Breaker{
			Failures: rapid.IntRange(1, 4).Draw(t, "failures"),
			OpenFor:  rapid.SampledFrom([]time.Duration{100 * time.Millisecond, time.Second}).Draw(t, "open for"),
		}
		h, now, m := newHealth(rules), breakerStart(), breakerModel{factor: 1}
		type running struct {
			p       pass
			opening int // when it began; -1: it began while the breaker was not closed, unasked
		}
		exchanges := map[int]running{}
		pick := func(t *rapid.T) int {
			if len(exchanges) == 0 {
				t.Skip("nothing runs")
			}
			ids := make([]int, 0, len(exchanges))
			for i := range exchanges {
				ids = append(ids, i)
			}
			slices.Sort(ids)
			return rapid.SampledFrom(ids).Draw(t, "exchange")
		}
		count := 0
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				p, ok := h.begin(now)
				if ok != m.admits(now) {
					t.Fatalf("begin: %v, want %v", ok, m.admits(now))
				}
				x := running{p, m.opening}
				switch {
				case m.open && ok:
					if gap := now.Sub(m.began); gap < time.Second {
						t.Fatalf("a trial %v after another", gap)
					}
					m.trials[count], m.began = true, now
				case m.open:
					x.opening = -1
				}
				exchanges[count] = x
				count++
			},
			"end": func(t *rapid.T) {
				i := pick(t)
				o := rapid.SampledFrom([]outcome{good, bad, neutral}).Draw(t, "outcome")
				h.end(exchanges[i].p, o, now)
				m.end(i, exchanges[i].opening, o, rules, now)
				delete(exchanges, i)
			},
			"alive": func(t *rapid.T) {
				i := pick(t)
				h.alive(exchanges[i].p)
				if m.trials[i] {
					m.closes()
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.OneOf(rapid.IntRange(0, 1_100), rapid.IntRange(0, 12_000)).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				if h.open(now) != m.admits(now) {
					t.Fatalf("open: %v, want %v", h.open(now), m.admits(now))
				}
				at, want := h.opensAt(now), time.Time{}
				if m.open && !m.admits(now) {
					if want = m.began.Add(time.Second); m.until.After(want) {
						want = m.until
					}
				}
				if at != want {
					t.Fatalf("opens at %v, want %v", at, want)
				}
			},
		})
		if !h.open(now.Add(10 * time.Second)) { // whatever still runs
			t.Fatal("ten times the time has passed, and the target is not open")
		}
	})
}
