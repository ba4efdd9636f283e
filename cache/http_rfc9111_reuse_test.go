package cache_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/cache"
)

func TestRFC9111Section4(t *testing.T) {
	virtual(t, "4 matches the whole target URI", func(t *testing.T) {
		g := newRig(t, fresh)
		g.want(g.send("GET", "/a?b=c", ""), 200, "answer 1", 1)
		g.want(g.send("GET", "/a?b=c", ""), 200, "answer 1", 1)
		g.want(g.send("GET", "/a", ""), 200, "answer 2", 2)
		g.want(g.send("GET", "/a?b=d", ""), 200, "answer 3", 3)
		g.want(g.send("GET", "/A?b=c", ""), 200, "answer 4", 4)
		g.want(g.send("GET", "/a?b=c", "", "Host: other.example"), 200, "answer 5", 5)
		g.want(g.send("GET", "/a%3Fb=c", ""), 200, "answer 6", 6)
	})
	virtual(t, "4 does not give the answer to one method to another", func(t *testing.T) {
		g := newRig(t, fresh)
		g.want(g.send("QUERY", "/", "x"), 200, "answer 1", 1)
		g.want(g.get(), 200, "answer 2", 2)
		g.want(g.send("OPTIONS", "/", ""), 200, "answer 3", 3)
	})
	virtual(t, "4 gives HEAD the fields of GET", func(t *testing.T) {
		g := newRig(t, fresh, "X-A: 1")
		g.get()
		got := g.send("HEAD", "/", "")
		g.want(got, 200, "", 1)
		g.says(got, "X-A", "1")
		g.says(got, "Content-Length", "8")
	})
	virtual(t, "4 does not give GET what HEAD brought", func(t *testing.T) {
		g := newRig(t, fresh)
		g.want(g.send("HEAD", "/", ""), 200, "", 1)
		g.want(g.get(), 200, "answer 2", 2)
	})
	virtual(t, "4 says how old a stored answer is, and replaces the age that it came with", func(t *testing.T) {
		g := newRig(t, fresh, "Age: 7")
		g.says(g.get(), "Age", "7")
		time.Sleep(5 * time.Second)
		g.says(g.get(), "Age", "12")
		g.says(g.send("HEAD", "/", ""), "Age", "12")
	})
	virtual(t, "4 says how old an answer without an age is", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		g.says(g.get(), "Age", "0")
		time.Sleep(59 * time.Second)
		g.says(g.get(), "Age", "59")
	})
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "BREW"} {
		virtual(t, "4 writes "+method+" through", func(t *testing.T) {
			g := newRig(t, fresh)
			g.get()
			g.want(g.send(method, "/", "body"), 200, "answer 2", 2)
			g.want(g.send(method, "/", "body"), 200, "answer 3", 3)
		})
	}
	virtual(t, "4 uses the newest answer", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		time.Sleep(time.Second)
		g.want(g.get("Cache-Control: no-cache"), 200, "answer 2", 2)
		g.want(g.get(), 200, "answer 2", 2)
	})
	virtual(t, "4 makes one request of those that overlap", func(t *testing.T) {
		g := newRig(t, fresh)
		g.took = time.Second
		for _, got := range atOnce(g, 20) {
			g.want(got, 200, "answer 1", 1)
		}
	})
	virtual(t, "4 says how old the answer is that those that overlap share", func(t *testing.T) {
		g := newRig(t, fresh, "Age: 50")
		g.took = time.Second
		for _, got := range atOnce(g, 5) {
			if age, err := strconv.Atoi(got.header.Get("Age")); err != nil || age < 50 || age > 51 {
				t.Errorf("%s: Age %q, want 50 or 51", got.header.Get("Cache-Status"), got.header.Get("Age"))
			}
		}
	})
	virtual(t, "4 forwards each of those that overlap where the answer is not for all", func(t *testing.T) {
		g := newRig(t, "Cache-Control: private")
		g.took = time.Second
		bodies := map[string]bool{}
		for _, got := range atOnce(g, 20) {
			bodies[got.body] = true
		}
		if len(bodies) != 20 || g.calls() != 20 {
			t.Errorf("%d different answers, %d calls, want 20 of each", len(bodies), g.calls())
		}
	})
}

// atOnce sends n requests that overlap.
func atOnce(g *rig, n int) []reply {
	got := make([]reply, n)
	for i := range n {
		go func() { got[i] = g.get() }()
	}
	time.Sleep(10 * time.Second) // the bubble's time: all are over
	synctest.Wait()
	return got
}

func TestRFC9111Section41(t *testing.T) {
	vary := func(v string) []string { return list(fresh, "Vary: "+v) }
	tell(t, []story{
		{name: "4.1 uses what matches", says: vary("X-A"), asks: list("X-A: 1"), again: list("X-A: 1"), want: "reused"},
		{name: "4.1 does not use what does not match", says: vary("X-A"), asks: list("X-A: 1"), again: list("X-A: 2"), want: "forwarded"},
		{name: "4.1 does not look at other fields", says: vary("X-A"), asks: list("X-A: 1", "X-B: 1"), again: list("X-A: 1", "X-B: 2"), want: "reused"},
		{name: "4.1 does not look at any field without Vary", says: list(fresh), asks: list("Accept: a"), again: list("Accept: b"), want: "reused"},
		{name: "4.1 does not match absent with present", says: vary("X-A"), again: list("X-A: 1"), want: "forwarded"},
		{name: "4.1 does not match present with absent", says: vary("X-A"), asks: list("X-A: 1"), want: "forwarded"},
		{name: "4.1 does not match empty with absent", says: vary("X-A"), asks: list("X-A:"), want: "forwarded"},
		{name: "4.1 matches absent with absent", says: vary("X-A"), want: "reused"},
		{name: "4.1 matches all fields", says: vary("X-A, X-B"), asks: list("X-A: 1", "X-B: 1"), again: list("X-A: 1", "X-B: 2"), want: "forwarded"},
		{name: "4.1 reads several lines", says: list(fresh, "Vary: X-A", "Vary: X-B"), asks: list("X-A: 1", "X-B: 1"), again: list("X-A: 1", "X-B: 2"), want: "forwarded"},
		{name: "4.1 takes names in any case", says: vary("x-a"), asks: list("X-A: 1"), again: list("X-A: 2"), want: "forwarded"},
		{name: "4.1 matches lines that are combined", says: vary("X-A"), asks: list("X-A: 1", "X-A: 2"), again: list("X-A: 1, 2"), want: "reused"},
		{name: "4.1 matches another order of fields", says: vary("X-A, X-B"), asks: list("X-A: 1", "X-B: 2"), again: list("X-B: 2", "X-A: 1"), want: "reused"},
		{name: "4.1 matches other blanks and case in Accept-Encoding", says: vary("Accept-Encoding"), asks: list("Accept-Encoding: gzip, br"), again: list("Accept-Encoding: GZIP,br"), want: "reused"},
		{name: "4.1 matches other blanks and case in Accept-Language", says: vary("Accept-Language"), asks: list("Accept-Language: de-DE, en; q=0.5"), again: list("Accept-Language: de-de,en;q=0.5"), want: "reused"},
		{name: "4.1 does not match another order where order counts", says: vary("Accept-Language"), asks: list("Accept-Language: de, en"), again: list("Accept-Language: en, de"), want: "forwarded"},
		{name: "4.1 does not match what only looks like a list", says: vary("X-A"), asks: list("X-A: a, b"), again: list("X-A: a,b"), want: "forwarded"},
		{name: "4.1 varies by User-Agent", says: vary("User-Agent"), asks: list("User-Agent: a"), again: list("User-Agent: b"), want: "forwarded"},
		{name: "4.1 varies by Cookie", says: list("Cache-Control: public, max-age=60", "Vary: Cookie"), asks: list("Cookie: a=1"), again: list("Cookie: a=2"), want: "forwarded"},
		{name: "4.1 validates what must be revalidated and matches", says: list("Cache-Control: no-cache", tag, "Vary: X-A"), asks: list("X-A: 1"), again: list("X-A: 1"), want: "validated"},
	})
	for _, star := range []string{"*", "*, *", "X-A, *", "*, X-A", ", *", "X-A,*,X-B"} {
		tell(t, []story{
			{name: "4.1 never matches Vary: " + star, says: vary(star), asks: list("X-A: 1"), again: list("X-A: 1"), want: "forwarded"},
			{name: "4.1 never matches a second line Vary: " + star, says: list(fresh, "Vary: X-A", "Vary: "+star), asks: list("X-A: 1"), again: list("X-A: 1"), want: "forwarded"},
		})
	}
	virtual(t, "4.1 keeps several answers to one URL", func(t *testing.T) {
		g := newRig(t, vary("X-A")...)
		for i := range 5 {
			g.want(g.get("X-A: "+strconv.Itoa(i)), 200, "answer "+strconv.Itoa(i+1), i+1)
		}
		for i := range 5 {
			g.want(g.get("X-A: "+strconv.Itoa(i)), 200, "answer "+strconv.Itoa(i+1), 5)
		}
	})
	virtual(t, "4.1 keeps to the newest Vary", func(t *testing.T) {
		g := newRig(t, vary("X-A")...)
		g.get("X-A: 1")
		g.lines = vary("X-A, X-B")
		g.want(g.get("X-A: 2", "X-B: 1"), 200, "answer 2", 2)
		g.want(g.get("X-A: 2", "X-B: 1"), 200, "answer 2", 2)
		g.want(g.get("X-A: 2", "X-B: 2"), 200, "answer 3", 3)
	})
	virtual(t, "4.1 never gives a default to a request that prefers something else", func(t *testing.T) {
		g := newRig(t, vary("X-A")...)
		g.want(g.get("X-A: 1"), 200, "answer 1", 1)
		g.lines = list(fresh) // the origin forgets Vary
		g.want(g.get("X-A: 2"), 200, "answer 2", 2)
		if got := g.get("X-A: 1"); got.body == "answer 1" && g.calls() != 2 {
			t.Errorf("%q after %d calls", got.body, g.calls())
		}
	})
}

func TestRFC9111Section42(t *testing.T) {
	expires := func(d time.Duration) string {
		return "Expires: " + time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(d).Format(http.TimeFormat)
	}
	date := func(d time.Duration) string { return "Date" + strings.TrimPrefix(expires(d), "Expires") }
	const s, m, h = time.Second, time.Minute, time.Hour
	tell(t, []story{
		{name: "4.2 uses what is fresh", says: list(fresh), later: 59 * s, want: "reused"},
		{name: "4.2 does not use what is as old as its lifetime", says: list(fresh), later: 60 * s, want: "forwarded"},
		{name: "4.2 reads dates in any case", says: list(strings.ToLower(expires(h))), later: m, want: "reused"},
		{name: "4.2 reads dates of RFC 850", says: list("Expires: Saturday, 01-Jan-00 01:00:00 GMT"), later: m, want: "reused"},
		{name: "4.2 reads dates of asctime", says: list("Expires: Sat Jan  1 01:00:00 2000"), later: m, want: "reused"},
		{name: "4.2 takes a date in another zone for invalid", says: list("Expires: Sat, 01 Jan 2000 05:00:00 PST"), later: m, want: "forwarded"},
		{name: "4.2.1 prefers s-maxage to max-age", says: list("Cache-Control: max-age=1, s-maxage=60"), later: 30 * s, want: "reused"},
		{name: "4.2.1 prefers a short s-maxage to max-age", says: list("Cache-Control: max-age=60, s-maxage=1"), later: 30 * s, want: "forwarded"},
		{name: "4.2.1 prefers s-maxage to Expires", says: list("Cache-Control: s-maxage=1", expires(h)), later: 30 * s, want: "forwarded"},
		{name: "4.2.1 prefers max-age to Expires", says: list(fresh, expires(s)), later: 30 * s, want: "reused"},
		{name: "4.2.1 prefers a short max-age to Expires", says: list("Cache-Control: max-age=1", expires(h)), later: 30 * s, want: "forwarded"},
		{name: "4.2.1 counts Expires from Date", says: list(date(-10*s), expires(50*s)), later: 49 * s, want: "reused"},
		{name: "4.2.1 counts Expires from Date, by its clock", says: list(date(h), expires(h+m)), later: 30 * s, want: "reused"},
		{name: "4.2.1 does not use it longer", says: list(date(h), expires(h+m)), later: m, want: "forwarded"},
		{name: "4.2.1 counts Expires from when the answer came without Date", says: list("Date:", expires(m)), later: 59 * s, want: "reused"},
		{name: "4.2.1 takes two values that differ for stale", says: list("Cache-Control: max-age=60, max-age=120"), want: "forwarded"},
		{name: "4.2.1 takes two Expires that differ for stale", says: list(expires(h), expires(2*h)), want: "forwarded"},
		{name: "4.2.1 takes what is no number for stale", says: list("Cache-Control: max-age=1h", expires(h)), want: "forwarded"},
		{name: "4.2.1 obeys the stricter of two directives", says: list(fresh + ", no-cache"), want: "forwarded"},
		{name: "4.2.2 guesses where nothing is said", says: list(longAgo), later: 23 * h, want: "reused"},
		{name: "4.2.2 guesses no more than a day", says: list(longAgo), later: 24*h + s, want: "validated"},
		{name: "4.2.2 guesses a tenth of the time since the last change", says: list("Last-Modified: Fri, 31 Dec 1999 14:00:00 GMT"), later: 59 * m, want: "reused"},
		{name: "4.2.2 guesses no more than a tenth", says: list("Last-Modified: Fri, 31 Dec 1999 14:00:00 GMT"), later: h, want: "validated"},
		{name: "4.2.2 does not guess where max-age is given", says: list("Cache-Control: max-age=1", longAgo), later: 2 * s, want: "validated"},
		{name: "4.2.2 does not guess where Expires is given", says: list("Expires: 0", longAgo), later: s, want: "validated"},
		{name: "4.2.2 does not guess for other statuses", status: 307, says: list(longAgo), want: "forwarded"},
		{name: "4.2.2 guesses for other statuses that are public", status: 307, says: list(longAgo, "Cache-Control: public"), later: h, want: "reused"},
		{name: "4.2.2 does not guess without a change", says: list("Cache-Control: public"), want: "forwarded"},
		{name: "4.2.2 guesses for URLs with a query as for others", says: list(longAgo), later: h, want: "reused"},
		{name: "4.2.3 counts the age that an answer came with", says: list(fresh, "Age: 50"), later: 9 * s, want: "reused"},
		{name: "4.2.3 does not use it longer", says: list(fresh, "Age: 50"), later: 10 * s, want: "forwarded"},
		{name: "4.2.3 counts the time since Date", says: list(fresh, date(-50*s)), later: 10 * s, want: "forwarded"},
		{name: "4.2.3 takes the older of Age and Date", says: list(fresh, date(-50*s), "Age: 5"), later: 10 * s, want: "forwarded"},
		{name: "4.2.3 takes a Date in the future for now", says: list(fresh, date(h)), later: 59 * s, want: "reused"},
	})
	virtual(t, "4.2.3 counts from when it was asked", func(t *testing.T) {
		g := newRig(t, fresh)
		g.took = 5 * s
		g.get()
		g.says(g.get(), "Age", "5")
		time.Sleep(55 * s)
		g.want(g.get(), 200, "answer 2", 2)
	})
	virtual(t, "4.2.3 counts from when it was validated", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		time.Sleep(10 * s)
		g.want(g.get(), 200, "answer 1", 2)
		time.Sleep(9 * s)
		got := g.get()
		g.want(got, 200, "answer 1", 2)
		g.says(got, "Age", "9")
	})
}

func TestRFC9111Section424(t *testing.T) {
	stories := []story{
		{name: "4.2.4 does not use what is stale", says: list(fresh), later: time.Hour, want: "forwarded"},
		{name: "4.2.4 uses what is stale where the client permits it", says: list(fresh, tag), later: 90 * time.Second, again: list(tolerates), want: "reused"},
	}
	for _, forbids := range []string{"must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"} {
		stories = append(stories, story{name: "4.2.4 does not use what is stale with " + forbids + " where the client permits it",
			says: list(fresh+", "+forbids, tag), later: 90 * time.Second, again: list(tolerates), want: "validated"})
	}
	tell(t, stories)
	failing := func(t *testing.T, o cache.Options, want int, lines ...string) {
		t.Helper()
		g := newRigWith(t, o, append(lines, tag)...)
		g.get()
		g.handle = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }
		time.Sleep(90 * time.Second)
		if got := g.get(); got.status != want {
			t.Errorf("got %d %q, want %d", got.status, got.body, want)
		}
	}
	virtual(t, "4.2.4 does not use what is stale of its own accord when the origin is down", func(t *testing.T) {
		failing(t, cache.Options{}, 503, fresh)
	})
	virtual(t, "4.2.4 uses what is stale when the origin is down where the operator permits it", func(t *testing.T) {
		failing(t, cache.Options{StaleIfError: time.Hour}, 200, fresh)
	})
	virtual(t, "4.2.4 does not use no-cache when the origin is down, however young", func(t *testing.T) {
		g := newRigWith(t, cache.Options{StaleIfError: time.Hour, StaleWhileRevalidate: time.Hour}, fresh+", no-cache", tag)
		g.get()
		g.handle = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }
		if got := g.get(); got.status != http.StatusServiceUnavailable {
			t.Errorf("got %d %q", got.status, got.body)
		}
	})
	for _, forbids := range []string{"must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"} {
		virtual(t, "4.2.4 does not use what is stale with "+forbids+" whatever the operator permits", func(t *testing.T) {
			failing(t, cache.Options{StaleIfError: time.Hour, StaleWhileRevalidate: time.Hour}, 503, fresh+", "+forbids)
		})
	}
}
