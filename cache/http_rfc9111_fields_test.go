package cache_test

import (
	"net/http"
	"testing"
	"time"
)

func TestRFC9111Section51(t *testing.T) {
	tell(t, []story{
		{name: "5.1 uses the first of several ages", says: list(fresh, "Age: 5, 100"), later: 50 * time.Second, want: "reused"},
		{name: "5.1 uses the first of several lines of ages", says: list(fresh, "Age: 100", "Age: 5"), want: "forwarded"},
		{name: "5.1 ignores an age that is negative", says: list(fresh, "Age: -100"), later: 59 * time.Second, want: "reused"},
		{name: "5.1 ignores an age that is no number", says: list(fresh, "Age: 100s"), later: 59 * time.Second, want: "reused"},
		{name: "5.1 ignores an age with a fraction", says: list(fresh, "Age: 100.0"), later: 59 * time.Second, want: "reused"},
	})
}

func TestRFC9111Section52(t *testing.T) {
	virtual(t, "5.2 passes the directives of requests through", func(t *testing.T) {
		g := newRig(t)
		const asked = `no-cache, no-transform, max-age=0, ext="a, b"`
		g.get("Cache-Control: " + asked)
		if got := g.last().Header["Cache-Control"]; len(got) != 1 || got[0] != asked {
			t.Errorf("the origin got %q", got)
		}
	})
	virtual(t, "5.2 passes the directives of answers through, stored or not", func(t *testing.T) {
		const said = `max-age=60, no-transform, stale-if-error=5, ext="a, b", immutable`
		g := newRig(t, "Cache-Control: "+said)
		for range 2 {
			g.says(g.get(), "Cache-Control", said)
		}
		g = newRig(t, "Cache-Control: no-store, ext")
		g.says(g.get(), "Cache-Control", "no-store, ext")
	})
	tell(t, []story{
		{name: "5.2 takes directives in any case", says: list("CACHE-control: MAX-age=60"), later: 59 * time.Second, want: "reused"},
		{name: "5.2 takes arguments in quotes", says: list(`Cache-Control: max-age="60"`), later: 59 * time.Second, want: "reused"},
		{name: "5.2 reads several lines", says: list("Cache-Control: ext", fresh), later: 59 * time.Second, want: "reused"},
		{name: "5.2 does not read within quotes", says: list(`Cache-Control: ext="no-store, x", max-age=60`), want: "reused"},
	})
}

func TestRFC9111Section521(t *testing.T) {
	const s = time.Second
	ask := func(v string) []string { return list("Cache-Control: " + v) }
	tell(t, []story{
		{name: "5.2.1.1 uses what is not older than max-age", says: list(fresh), later: 10 * s, again: ask("max-age=10"), want: "reused"},
		{name: "5.2.1.1 does not use what is older than max-age", says: list(fresh), later: 11 * s, again: ask("max-age=10"), want: "forwarded"},
		{name: "5.2.1.1 counts the age that an answer came with", says: list(fresh, "Age: 20"), again: ask("max-age=10"), want: "forwarded"},
		{name: "5.2.1.1 does not use what is stale for a larger max-age", says: list(fresh), later: 61 * s, again: ask("max-age=100"), want: "forwarded"},
		{name: "5.2.1.1 validates for max-age", says: list(fresh, tag), later: 11 * s, again: ask("max-age=10"), want: "validated"},
		{name: "5.2.1.2 uses what is as stale as max-stale", says: list(fresh, tag), later: 70 * s, again: ask("max-stale=10"), want: "reused"},
		{name: "5.2.1.2 does not use what is staler than max-stale", says: list(fresh, tag), later: 71 * s, again: ask("max-stale=10"), want: "validated"},
		{name: "5.2.1.3 uses what is fresh for as long as min-fresh", says: list(fresh), later: 50 * s, again: ask("min-fresh=10"), want: "reused"},
		{name: "5.2.1.3 does not use what is fresh for less than min-fresh", says: list(fresh), later: 51 * s, again: ask("min-fresh=10"), want: "forwarded"},
		{name: "5.2.1.4 does not use what is stored for no-cache", says: list(fresh), again: ask("no-cache"), want: "forwarded"},
		{name: "5.2.1.4 validates for no-cache", says: list(fresh, tag), again: ask("no-cache"), want: "validated"},
		{name: "5.2.1.5 does not store for no-store", says: list(fresh), asks: ask("no-store"), want: "forwarded"},
		{name: "5.2.1 ignores directives that it does not know", says: list(fresh), again: ask("foo, max-age=x"), want: "reused"},
	})
	virtual(t, "5.2.1.2 uses what is stale, however stale, for max-stale without a number", func(t *testing.T) {
		g := newRig(t, fresh, tag)
		g.get()
		time.Sleep(50 * time.Minute)
		got := g.get("Cache-Control: max-stale")
		g.want(got, 200, "answer 1", 1)
		g.says(got, "Age", "3000")
	})
	virtual(t, "5.2.1.5 leaves what is stored for others alone", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		g.get("Cache-Control: no-store")
		g.want(g.get(), 200, "answer 1", 2)
	})
	for _, directive := range []string{"no-transform", ""} {
		virtual(t, "5.2.1.6 gives the content as it came, "+directive, func(t *testing.T) {
			g := newRig(t, fresh, "Content-Encoding: x-unknown")
			for range 2 {
				got := g.get("Cache-Control: "+directive, "Accept-Encoding: gzip")
				g.want(got, 200, "answer 1", 1)
				g.says(got, "Content-Encoding", "x-unknown")
			}
		})
	}
	virtual(t, "5.2.1.7 gives only-if-cached what is stored", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		g.want(g.get("Cache-Control: only-if-cached"), 200, "answer 1", 1)
	})
	virtual(t, "5.2.1.7 gives only-if-cached 504 where nothing is stored, or it does not suit", func(t *testing.T) {
		g := newRig(t, fresh, tag)
		f := func(t *testing.T, calls int, value string) {
			t.Helper()
			if got := g.get("Cache-Control: " + value); got.status != http.StatusGatewayTimeout || g.calls() != calls {
				t.Errorf("%s: got %d after %d calls", value, got.status, g.calls())
			}
		}
		f(t, 0, "only-if-cached")
		g.get()
		time.Sleep(10 * time.Second)
		f(t, 1, "only-if-cached, max-age=5")
		f(t, 1, "only-if-cached, no-cache")
		f(t, 1, "only-if-cached, min-fresh=55")
		time.Sleep(time.Minute)
		f(t, 1, "only-if-cached")
		if got := g.get("Cache-Control: only-if-cached, max-stale"); got.status != 200 {
			t.Errorf("max-stale: got %d", got.status)
		}
	})
}

func TestRFC9111Section522(t *testing.T) {
	const s = time.Second
	tell(t, []story{
		{name: "5.2.2.1 takes an answer that is older than max-age for stale", says: list("Cache-Control: max-age=10"), later: 10 * s, want: "forwarded"},
		{name: "5.2.2.2 uses must-revalidate while it is fresh", says: list(fresh + ", must-revalidate"), later: 59 * s, want: "reused"},
		{name: "5.2.2.2 validates must-revalidate once it is stale", says: list(fresh+", must-revalidate", tag), later: 60 * s, again: list(tolerates), want: "validated"},
		{name: "5.2.2.3 ignores no-store beside must-understand", says: list(fresh + ", no-store, must-understand"), want: "reused"},
		{name: "5.2.2.3 does not ignore private beside must-understand", says: list(fresh + ", private, must-understand"), want: "forwarded"},
		{name: "5.2.2.4 does not use no-cache without asking", says: list(fresh + ", no-cache"), want: "forwarded"},
		{name: "5.2.2.4 uses no-cache that was validated", says: list(fresh+", no-cache", tag), want: "validated"},
		{name: "5.2.2.4 does not use no-cache for a client that takes anything", says: list(fresh+", no-cache", tag), again: list(tolerates), want: "validated"},
		{name: "5.2.2.4 uses no-cache of some fields", says: list(fresh + `, no-cache="x-a"`), want: "reused"},
		{name: "5.2.2.4 takes no-cache of what is no field for all", says: list(fresh + `, no-cache="a b"`), want: "forwarded"},
		{name: "5.2.2.5 does not store no-store", says: list("Cache-Control: no-store, public, max-age=60", tag), want: "forwarded"},
		{name: "5.2.2.7 does not store private", says: list("Cache-Control: private, max-age=60", tag), want: "forwarded"},
		{name: "5.2.2.8 uses proxy-revalidate while it is fresh", says: list(fresh + ", proxy-revalidate"), later: 59 * s, want: "reused"},
		{name: "5.2.2.8 validates proxy-revalidate once it is stale", says: list(fresh+", proxy-revalidate", tag), later: 60 * s, again: list(tolerates), want: "validated"},
		{name: "5.2.2.9 takes public without a lifetime for heuristically cacheable", status: 302, says: list("Cache-Control: public", longAgo), later: time.Hour, want: "reused"},
		{name: "5.2.2.10 validates s-maxage once it is stale", says: list("Cache-Control: s-maxage=10, max-age=60", tag), later: 10 * s, again: list(tolerates), want: "validated"},
		{name: "5.2.3 ignores directives that it does not know", says: list("Cache-Control: foo, bar=1, max-age=60, community=\"UCI\""), want: "reused"},
		{name: "5.2.3 adheres to private beside a directive that it does not know", says: list(`Cache-Control: private, community="UCI", max-age=60`), want: "forwarded"},
	})
	virtual(t, "5.2.2.2 gives an error rather than what must be revalidated", func(t *testing.T) {
		g := newRig(t, fresh+", must-revalidate, stale-if-error=1000, stale-while-revalidate=1000", tag)
		g.get()
		time.Sleep(61 * s)
		g.handle = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGatewayTimeout) }
		if got := g.get(tolerates); got.status != http.StatusGatewayTimeout || got.body != "" {
			t.Errorf("got %d %q", got.status, got.body)
		}
	})
	virtual(t, "5.2.2.4 leaves fields out that were not validated, and gives them when they were", func(t *testing.T) {
		g := newRig(t, `Cache-Control: max-age=60, no-cache="x-a"`, tag, "X-A: 1", "X-B: 1")
		g.says(g.get(), "X-A", "1")
		got := g.get()
		g.says(got, "X-A", "")
		g.says(got, "X-B", "1")
		time.Sleep(time.Minute)
		got = g.get()
		g.want(got, 200, "answer 1", 2)
		g.says(got, "X-A", "1")
	})
	virtual(t, "5.2.2.6 gives the content as it came", func(t *testing.T) {
		g := newRig(t, fresh+", no-transform", "Content-Type: text/x-odd", "Content-Encoding: gzip")
		for range 2 {
			got := g.get()
			g.want(got, 200, "answer 1", 1)
			g.says(got, "Content-Type", "text/x-odd")
			g.says(got, "Content-Encoding", "gzip")
		}
	})
	virtual(t, "5.2.2.7 does not store fields that are private", func(t *testing.T) {
		g := newRig(t, `Cache-Control: max-age=60, private="x-a, X-B"`, tag, "X-A: 1", "X-B: 1", "X-C: 1")
		g.says(g.get(), "X-A", "1")
		for _, later := range []time.Duration{0, time.Minute} {
			time.Sleep(later)
			g.after304 = list(`Cache-Control: max-age=60, private="x-a, X-B"`, tag)
			got := g.get()
			g.says(got, "X-A", "")
			g.says(got, "X-B", "")
			g.says(got, "X-C", "1")
		}
	})
}

func TestRFC9111Sections53And54(t *testing.T) {
	const soon = "Expires: Sat, 01 Jan 2000 01:00:00 GMT"
	tell(t, []story{
		{name: "5.3 uses what has not expired", says: list(soon), later: 59 * time.Minute, want: "reused"},
		{name: "5.3 does not use what has expired", says: list(soon), later: time.Hour, want: "forwarded"},
		{name: "5.3 takes 0 for the past", says: list("Expires: 0"), want: "forwarded"},
		{name: "5.3 takes a wrong date for the past", says: list("Expires: tomorrow"), want: "forwarded"},
		{name: "5.3 takes an empty date for the past", says: list("Expires:"), want: "forwarded"},
		{name: "5.3 takes a date in the past for stale", says: list("Expires: Fri, 31 Dec 1999 00:00:00 GMT", tag), want: "validated"},
		{name: "5.3 reads a date in the far future", says: list("Expires: Fri, 31 Dec 9999 23:59:59 GMT"), later: 365 * 24 * time.Hour, want: "reused"},
		{name: "5.3 ignores Expires beside max-age", says: list("Cache-Control: max-age=1", soon), later: 2 * time.Second, want: "forwarded"},
		{name: "5.3 ignores a past Expires beside max-age", says: list(fresh, "Expires: 0"), later: 2 * time.Second, want: "reused"},
		{name: "5.3 ignores Expires beside s-maxage", says: list("Cache-Control: s-maxage=1", soon), later: 2 * time.Second, want: "forwarded"},
		{name: "5.3 does not ignore Expires beside other directives", says: list("Cache-Control: public", soon), later: time.Minute, want: "reused"},
		{name: "5.4 takes Pragma for no-cache", says: list(fresh), again: list("Pragma: no-cache"), want: "forwarded"},
		{name: "5.4 ignores Pragma beside Cache-Control", says: list(fresh), again: list("Pragma: no-cache", "Cache-Control: max-age=60"), want: "reused"},
		{name: "5.4 ignores Pragma in answers", says: list(fresh, "Pragma: no-cache"), want: "reused"},
	})
}
