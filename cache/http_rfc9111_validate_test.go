package cache_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRFC9111Section431(t *testing.T) {
	f := func(t *testing.T, name string, stored []string, tags, since string) {
		virtual(t, name, func(t *testing.T) {
			g := newRig(t, append(stored, "Cache-Control: max-age=10")...)
			g.get()
			time.Sleep(time.Minute)
			g.get(`If-None-Match: "client"`, "If-Modified-Since: Mon, 01 Jan 1990 01:02:03 GMT", "X-A: 1")
			h := g.last().Header
			if got := strings.Join(h["If-None-Match"], "; "); got != tags {
				t.Errorf("If-None-Match: got %q, want %q", got, tags)
			}
			if got := strings.Join(h["If-Modified-Since"], "; "); got != since {
				t.Errorf("If-Modified-Since: got %q, want %q", got, since)
			}
			if h.Get("X-A") != "1" {
				t.Errorf("the client's request became %v", h)
			}
		})
	}
	const changed = "Mon, 01 Jan 1990 00:00:00 GMT"
	f(t, "4.3.1 sends the entity tag", list(tag), `"a"`, "")
	f(t, "4.3.1 sends a weak entity tag", list(`ETag: W/"a"`), `W/"a"`, "")
	f(t, "4.3.1 sends Last-Modified", list(longAgo), "", changed)
	f(t, "4.3.1 sends both", list(tag, longAgo), `"a"`, changed)
	f(t, "4.3.1 sends no condition where nothing is stored", list("Cache-Control: no-store", tag), "", "")
	virtual(t, "4.3.1 validates the answer that the fields choose", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-cache", "Vary: X-A", `ETag: "1"`)
		g.get("X-A: 1")
		g.lines = list("Cache-Control: no-cache", "Vary: X-A", `ETag: "2"`)
		g.get("X-A: 2")
		g.lines = list("Cache-Control: no-cache", "Vary: X-A", `ETag: "1"`)
		g.want(g.get("X-A: 1"), 200, "answer 1", 3)
		if got := g.last().Header["If-None-Match"]; !slices.Equal(got, list(`"1"`)) {
			t.Errorf("If-None-Match: %q", got)
		}
	})
}

func TestRFC9111Section432(t *testing.T) {
	f := func(t *testing.T, name string, status int, stored, request []string) {
		virtual(t, name, func(t *testing.T) {
			g := newRig(t, append(stored, "Cache-Control: max-age=60")...)
			g.get()
			body := "answer 1"
			if status == http.StatusNotModified {
				body = ""
			}
			g.want(g.get(request...), status, body, 1)
		})
	}
	f(t, "4.3.2 answers If-None-Match itself", 304, list(tag), list(`If-None-Match: "b", "a"`))
	f(t, "4.3.2 compares weakly", 304, list(tag), list(`If-None-Match: W/"a"`))
	f(t, "4.3.2 answers If-None-Match: *", 304, list(tag), list("If-None-Match: *"))
	f(t, "4.3.2 gives what the client does not have", 200, list(tag), list(`If-None-Match: "b"`))
	f(t, "4.3.2 does not look at If-Modified-Since beside If-None-Match", 200, list(tag, longAgo), list(`If-None-Match: "b"`, "If-Modified-Since: Mon, 01 Jan 1990 00:00:00 GMT"))
	f(t, "4.3.2 answers If-Modified-Since itself", 304, list(longAgo), list("If-Modified-Since: Mon, 01 Jan 1990 00:00:00 GMT"))
	f(t, "4.3.2 gives what has changed since", 200, list(longAgo), list("If-Modified-Since: Sun, 31 Dec 1989 23:59:59 GMT"))
	f(t, "4.3.2 takes Date for a change that is not known", 304, nil, list("If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"))
	f(t, "4.3.2 takes Date for a change that is not known, and gives what is newer", 200, nil, list("If-Modified-Since: Fri, 31 Dec 1999 23:59:59 GMT"))
	f(t, "4.3.2 takes the time when it came where there is no date", 304, list("Date:"), list("If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"))
	for _, condition := range []string{`If-Match: "b"`, "If-Unmodified-Since: Mon, 01 Jan 1980 00:00:00 GMT"} {
		name, _, _ := strings.Cut(condition, ":")
		virtual(t, "4.3.2 does not evaluate "+name, func(t *testing.T) {
			g := newRig(t, fresh, tag, longAgo)
			g.get()
			got := g.get(condition)
			if got.status != 200 {
				t.Errorf("got %d", got.status)
			}
			if g.calls() == 2 && len(g.last().Header[name]) == 0 {
				t.Errorf("the origin does not see %s: %v", name, g.last().Header)
			}
		})
	}
	virtual(t, "4.3.2 evaluates no condition where nothing is stored", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-store", tag)
		g.want(g.get(`If-None-Match: "x"`), 200, "answer 1", 1)
	})
	virtual(t, "4.3.2 leaves conditions to the origin where nothing can be stored", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-store", tag)
		g.want(g.get(), 200, "answer 1", 1)
		got := g.get(`If-None-Match: "a"`)
		g.want(got, 304, "", 2)
		g.says(got, "ETag", `"a"`)
	})
	virtual(t, "4.3.2 evaluates no condition of an unsafe request", func(t *testing.T) {
		g := newRig(t, fresh, tag)
		g.get()
		g.handle = func(w http.ResponseWriter, r *http.Request) {
			say(w)
			_, _ = io.WriteString(w, r.Header.Get("If-None-Match"))
		}
		g.want(g.send("PUT", "/", "", `If-None-Match: "a"`), 200, `"a"`, 2)
	})
	virtual(t, "4.3.2 evaluates If-Range", func(t *testing.T) {
		g := newRig(t, fresh, tag)
		g.get()
		g.want(g.get("Range: bytes=0-1", `If-Range: "a"`), 206, "an", 1)
		g.want(g.get("Range: bytes=0-1", `If-Range: "b"`), 200, "answer 1", 1)
	})
	virtual(t, "4.3.2 gives the client a whole answer after 304 where its tag is another", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-cache", tag)
		g.get()
		g.want(g.get(`If-None-Match: "b"`), 200, "answer 1", 2)
		got := g.get(`If-None-Match: "a"`)
		g.want(got, 304, "", 3)
		g.says(got, "ETag", `"a"`)
	})
}

func TestRFC9111Section433(t *testing.T) {
	virtual(t, "4.3.3 uses a full answer in place of the stored one", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		time.Sleep(time.Minute)
		g.lines = list("Cache-Control: max-age=10", `ETag: "b"`)
		g.want(g.get(), 200, "answer 2", 2)
		got := g.get()
		g.want(got, 200, "answer 2", 2)
		g.says(got, "ETag", `"b"`)
	})
	virtual(t, "4.3.3 uses a full answer that it may not store", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		time.Sleep(time.Minute)
		g.lines = list("Cache-Control: no-store", `ETag: "b"`)
		g.want(g.get(), 200, "answer 2", 2)
		g.want(g.get(), 200, "answer 3", 3)
	})
	virtual(t, "4.3.3 uses an error in place of the stored answer", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		time.Sleep(time.Minute)
		g.lines, g.status = nil, 404
		g.want(g.get(), 404, "answer 2", 2)
	})
	virtual(t, "4.3.3 passes a failure of the origin on", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		time.Sleep(time.Minute)
		lines := g.lines
		g.lines, g.status = nil, 503
		g.want(g.get(), 503, "answer 2", 2)
		g.lines, g.status = lines, 200
		g.want(g.get(), 200, "answer 1", 3)
	})
}

func TestRFC9111Section434(t *testing.T) {
	// later is a validation of what came with stored. The origin's 304 has said.
	f := func(t *testing.T, name string, body string, calls int, stored, said []string) {
		virtual(t, name, func(t *testing.T) {
			stored = append(stored, "Cache-Control: max-age=10")
			g := newRig(t, stored...)
			g.get()
			time.Sleep(time.Minute)
			g.handle = func(w http.ResponseWriter, r *http.Request) {
				say(w, append(said, "X-New: 1")...)
				if len(r.Header["If-None-Match"])+len(r.Header["If-Modified-Since"]) > 0 {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				_, _ = io.WriteString(w, "another")
			}
			got := g.get()
			g.want(got, 200, body, calls)
			g.says(got, "X-New", "1")
		})
	}
	f(t, "4.3.4 updates what has the strong validator", "answer 1", 2, list(tag), list(tag))
	f(t, "4.3.4 does not update what has another strong validator", "another", 3, list(tag), list(`ETag: "b"`))
	f(t, "4.3.4 does not update what has another strong validator and the same date", "another", 3, list(tag, longAgo), list(`ETag: "b"`, longAgo))
	f(t, "4.3.4 updates what has the weak validator", "answer 1", 2, list(`ETag: W/"a"`), list(`ETag: W/"a"`))
	f(t, "4.3.4 does not update what has another weak validator", "another", 3, list(`ETag: W/"a"`), list(`ETag: W/"b"`))
	f(t, "4.3.4 updates what has the date", "answer 1", 2, list(longAgo), list(longAgo))
	f(t, "4.3.4 does not update what has another date", "another", 3, list(longAgo), list("Last-Modified: Tue, 02 Jan 1990 00:00:00 GMT"))
	f(t, "4.3.4 updates what was asked about where 304 has no validator", "answer 1", 2, list(tag, longAgo), nil)
	virtual(t, "4.3.4 gives no field of a 304 that it does not use", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-cache", tag)
		g.get()
		g.handle = func(w http.ResponseWriter, r *http.Request) {
			if len(r.Header["If-None-Match"]) > 0 {
				say(w, `ETag: "b"`, "X-Odd: 1", "Set-Cookie: a=b")
				w.WriteHeader(http.StatusNotModified)
				return
			}
			say(w, `ETag: "c"`)
			_, _ = io.WriteString(w, "another")
		}
		got := g.get()
		g.want(got, 200, "another", 3)
		g.says(got, "X-Odd", "")
		g.says(got, "Set-Cookie", "")
		g.says(got, "ETag", `"c"`)
	})
	virtual(t, "4.3.4 makes what was validated fresh", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		for i := range 5 {
			time.Sleep(10 * time.Second)
			g.want(g.get(), 200, "answer 1", 2+i)
			g.want(g.get(), 200, "answer 1", 2+i)
		}
	})
	for _, forbids := range []string{"no-store", "private"} {
		virtual(t, "4.3.4 does not store what has become "+forbids, func(t *testing.T) {
			g := newRig(t, "Cache-Control: max-age=10", tag)
			g.get()
			time.Sleep(time.Minute)
			g.after304 = list("Cache-Control: max-age=10, "+forbids, tag)
			g.want(g.get(), 200, "answer 1", 2)
			if got := g.get(); got.status != 200 || g.calls() != 3 {
				t.Errorf("got %d after %d calls, want 200 after 3", got.status, g.calls())
			}
		})
	}
	virtual(t, "4.3.4 does not give others the fields of a 304 for somebody", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		time.Sleep(time.Minute)
		g.after304 = list("Cache-Control: max-age=10", tag, "X-Name: Alice")
		got := g.get("Authorization: Bearer alice")
		g.want(got, 200, "answer 1", 2)
		g.says(got, "X-Name", "Alice")
		g.after304 = list("Cache-Control: max-age=10", tag)
		got = g.get()
		g.want(got, 200, "answer 1", 3)
		g.says(got, "X-Name", "")
	})
}

func TestRFC9111Section435(t *testing.T) {
	f := func(t *testing.T, name string, now []string, body string, calls int) {
		virtual(t, name, func(t *testing.T) {
			g := newRig(t, "Cache-Control: max-age=10", tag, "X-A: 1")
			g.get()
			time.Sleep(5 * time.Second)
			g.handle = func(w http.ResponseWriter, r *http.Request) {
				say(w, now...)
				if r.Method != http.MethodHead && len(r.Header["If-None-Match"]) == 0 {
					_, _ = io.WriteString(w, "another")
				}
			}
			head := g.send("HEAD", "/", "", "Cache-Control: no-cache")
			g.want(head, 200, "", 2)
			g.says(head, "X-A", "2")
			g.handle = nil
			g.lines = list("Cache-Control: max-age=10", `ETag: "b"`)
			time.Sleep(9 * time.Second)
			got := g.get()
			g.want(got, 200, body, calls)
			if calls == 2 {
				g.says(got, "X-A", "2")
				g.says(got, "Age", "9")
			}
		})
	}
	same := list("Cache-Control: max-age=10", tag, "X-A: 2")
	f(t, "4.3.5 updates what a HEAD's answer is about", same, "answer 1", 2)
	f(t, "4.3.5 updates what a HEAD's answer of that length is about", append(same, "Content-Length: 8"), "answer 1", 2)
	f(t, "4.3.5 takes what has another length for stale", append(same, "Content-Length: 9"), "answer 3", 3)
	virtual(t, "4.3.5 does not give others the fields of a HEAD for somebody", func(t *testing.T) {
		g := newRig(t, "Cache-Control: max-age=10", tag)
		g.get()
		g.lines = list("Cache-Control: max-age=10", tag, "X-Name: Alice")
		g.handle = func(w http.ResponseWriter, _ *http.Request) { say(w, g.lines...) }
		g.says(g.send("HEAD", "/", "", "Cache-Control: no-cache", "Authorization: Bearer alice"), "X-Name", "Alice")
		g.says(g.get(), "X-Name", "")
	})
	f(t, "4.3.5 takes what has another tag for stale", list("Cache-Control: max-age=10", `ETag: "b"`, "X-A: 2"), "answer 3", 3)
}

func TestRFC9111Section44(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "BREW"} {
		for _, status := range []int{200, 201, 204, 303} {
			virtual(t, "4.4 invalidates what "+method+" changed with "+http.StatusText(status), func(t *testing.T) {
				g := newRig(t, fresh)
				g.get()
				g.status = status
				g.send(method, "/", "")
				g.status = 200
				g.want(g.get(), 200, "answer 3", 3)
			})
		}
		virtual(t, "4.4 keeps what "+method+" could not change", func(t *testing.T) {
			g := newRig(t, fresh)
			g.get()
			g.status = 500
			g.send(method, "/", "")
			g.status = 404
			g.send(method, "/", "")
			g.want(g.get(), 200, "answer 1", 3)
		})
	}
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"} {
		virtual(t, "4.4 keeps what "+method+" does not change", func(t *testing.T) {
			g := newRig(t, fresh, tag)
			g.get()
			g.send(method, "/", "", "Cache-Control: no-store")
			g.want(g.get(), 200, "answer 1", 2)
		})
	}
	virtual(t, "4.4 invalidates all answers to a URL", func(t *testing.T) {
		g := newRig(t, fresh, "Vary: X-A")
		g.get("X-A: 1")
		g.get("X-A: 2")
		g.send("POST", "/", "")
		g.want(g.get("X-A: 1"), 200, "answer 4", 4)
		g.want(g.get("X-A: 2"), 200, "answer 5", 5)
	})
	virtual(t, "4.4 invalidates the answers to QUERY, too", func(t *testing.T) {
		g := newRig(t, fresh)
		g.send("QUERY", "/", "x")
		g.want(g.send("QUERY", "/", "x"), 200, "answer 1", 1)
		g.send("POST", "/", "")
		g.want(g.send("QUERY", "/", "x"), 200, "answer 3", 3)
	})
	virtual(t, "4.4 does not keep what was asked for before a change", func(t *testing.T) {
		g := newRig(t, fresh)
		g.took = 2 * time.Second
		done := make(chan reply, 1)
		go func() { done <- g.get() }()
		time.Sleep(time.Second)
		synctest.Wait()
		g.took = 0
		g.send("POST", "/", "")
		synctest.Wait()
		time.Sleep(5 * time.Second)
		<-done
		g.want(g.get(), 200, "answer 3", 3)
	})
	f := func(t *testing.T, name, field, other string, invalid bool) {
		virtual(t, name, func(t *testing.T) {
			g := newRig(t, fresh)
			g.send("GET", other, "")
			g.lines = list(field)
			g.send("POST", "/a/b", "")
			g.lines = list(fresh)
			if invalid {
				g.want(g.send("GET", other, ""), 200, "answer 3", 3)
			} else {
				g.want(g.send("GET", other, ""), 200, "answer 1", 2)
			}
		})
	}
	f(t, "4.4 invalidates Location", "Location: /x", "/x", true)
	f(t, "4.4 invalidates Content-Location", "Content-Location: /x?y", "/x?y", true)
	f(t, "4.4 invalidates a relative Location", "Location: x", "/a/x", true)
	f(t, "4.4 invalidates an absolute Location", "Location: http://example.com/x", "/x", true)
	f(t, "4.4 keeps other URLs", "Location: /x", "/y", false)
	f(t, "4.4 does not invalidate another host's Location", "Location: http://other.example/x", "http://other.example/x", false)
	f(t, "4.4 does not invalidate another host's Content-Location", "Content-Location: //other.example/x", "http://other.example/x", false)
	f(t, "4.4 does not invalidate another port's Location", "Location: http://example.com:8080/x", "http://example.com:8080/x", false)
	f(t, "4.4 does not take another host's Location for its own", "Location: http://other.example/x", "/x", false)
}
