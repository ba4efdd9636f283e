package ratelimit_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// windowBegin is when the window of at begins, worked out with the calendar of
// package time.
func windowBegin(at time.Time, window time.Duration, algorithm string) time.Time {
	const day = 24 * time.Hour
	year, month, date := at.Date()
	midnight := time.Date(year, month, date, 0, 0, 0, 0, time.UTC)
	switch {
	case window == ratelimit.Month && algorithm == ratelimit.FixedWindow:
		return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
	case window == ratelimit.Year && algorithm == ratelimit.FixedWindow:
		return time.Date(year, time.January, 1, 0, 0, 0, 0, time.UTC)
	case window == 7*day:
		return midnight.AddDate(0, 0, -(int(at.Weekday())+6)%7)
	case window == day:
		return midnight
	}
	return at.Add(-time.Duration(at.UnixNano()) % window)
}

func windowsOfAllKinds() []time.Duration {
	const day = 24 * time.Hour
	return []time.Duration{time.Millisecond, time.Millisecond + time.Microsecond, time.Second, 30 * time.Second, time.Minute, 7 * time.Minute, time.Hour,
		36 * time.Hour, day, 7 * day, 30 * day, ratelimit.Month, ratelimit.Year}
}

func TestWindowsAreThoseOfTheCalendar(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 7))
	for _, algorithm := range []string{ratelimit.SlidingWindow, ratelimit.FixedWindow} {
		for _, window := range windowsOfAllKinds() {
			p := prepare(t, ratelimit.Policy{Quota: 1, Window: window, Algorithm: algorithm})
			for range 1000 {
				at := time.Unix(0, random.Int64N(latest)).UTC()
				end := time.Unix(0, p.WindowEnd(at.UnixNano())).UTC()
				begin := windowBegin(at, window, algorithm)
				last := time.Unix(0, end.UnixNano()-1).UTC()
				if !end.After(at) || !windowBegin(last, window, algorithm).Equal(begin) || !windowBegin(end, window, algorithm).Equal(end) {
					t.Fatalf("%s of %v: the window of %v ends at %v, want one that begins at %v and ends where the next begins", algorithm, window, at, end, begin)
				}
				if again := p.WindowEnd(begin.UnixNano()); again != end.UnixNano() {
					t.Fatalf("%s of %v: the window that begins at %v ends at %v and at %v", algorithm, window, begin, end, time.Unix(0, again).UTC())
				}
			}
		}
	}
}

func TestWindowsBeforeTheFirstMonday(t *testing.T) {
	week := prepare(t, ratelimit.Policy{Quota: 1, Window: 7 * 24 * time.Hour, Algorithm: ratelimit.FixedWindow})
	for at, want := range map[string]string{
		"1970-01-01T00:00:00Z": "1970-01-05T00:00:00Z",
		"1970-01-04T23:59:59Z": "1970-01-05T00:00:00Z",
		"1970-01-05T00:00:00Z": "1970-01-12T00:00:00Z",
	} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Unix(0, week.WindowEnd(now.UnixNano())).UTC().Format(time.RFC3339); got != want {
			t.Errorf("the week of %s ends at %s, want %s", at, got, want)
		}
	}
}

func TestSlotsHaveNoWindows(t *testing.T) {
	if got := prepare(t, ratelimit.Policy{Concurrent: 1}).WindowEnd(123); got != 123 {
		t.Errorf("the window of a policy that has none ends at %d, want now, 123", got)
	}
}

// A state of the last window counts as long as the documentation says, wherever
// the window is.
func TestWindowsAreForgottenInTime(t *testing.T) {
	for _, algorithm := range []string{ratelimit.SlidingWindow, ratelimit.FixedWindow} {
		for _, window := range windowsOfAllKinds() {
			p := prepare(t, ratelimit.Policy{Quota: 10, Window: window, Algorithm: algorithm})
			now := time.Date(2028, 2, 29, 23, 59, 59, 999_000_000, time.UTC).UnixNano()
			s, d := p.Decide(ratelimit.State{}, 10, now)
			if !d.Allowed {
				t.Fatalf("%s of %v: %+v", algorithm, window, d)
			}
			want := p.WindowEnd(now)
			if algorithm == ratelimit.SlidingWindow {
				want += int64(window)
			}
			if s != (ratelimit.State{At: want, Used: 10}) {
				t.Errorf("%s of %v: state %+v, want it used until %d", algorithm, window, s, want)
			}
			if _, d := p.Decide(s, 0, s.At-1); d.Remaining == 10 {
				t.Errorf("%s of %v: all is forgotten a nanosecond early", algorithm, window)
			}
			if next, d := p.Decide(s, 0, s.At); d.Remaining != 10 || next.Used != 0 || next.Before != 0 {
				t.Errorf("%s of %v: %d remain at the time that says all, state %+v", algorithm, window, d.Remaining, next)
			}
		}
	}
}
