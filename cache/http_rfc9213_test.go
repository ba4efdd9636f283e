package cache_test

import (
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRFC9213(t *testing.T) {
	const s = time.Second
	tell(t, []story{
		{name: "RFC 9213, 2.2 reads CDN-Cache-Control in place of Cache-Control", says: list("CDN-Cache-Control: max-age=60", "Cache-Control: max-age=1"), later: 59 * s, want: "reused"},
		{name: "RFC 9213, 2.2 reads a short CDN-Cache-Control", says: list("CDN-Cache-Control: max-age=1", fresh), later: s, want: "forwarded"},
		{name: "RFC 9213, 2.2 does not look at no-store beside it", says: list("CDN-Cache-Control: max-age=60", "Cache-Control: no-store"), want: "reused"},
		{name: "RFC 9213, 2.2 does not look at private beside it", says: list("CDN-Cache-Control: max-age=60", "Cache-Control: private"), want: "reused"},
		{name: "RFC 9213, 2.2 does not look at Expires beside it", says: list("CDN-Cache-Control: max-age=60", "Expires: 0"), want: "reused"},
		{name: "RFC 9213, 2.2 does not look at a future Expires beside it", says: list("CDN-Cache-Control: max-age=0", "Expires: Sat, 01 Jan 2000 01:00:00 GMT"), want: "forwarded"},
		{name: "RFC 9213, 2.2 does not take a lifetime from Cache-Control beside it", says: list("CDN-Cache-Control: public", fresh), want: "forwarded"},
		{name: "RFC 9213, 2.2 reads Weir-Cache-Control first", says: list("CDN-Cache-Control: no-store", "Weir-Cache-Control: max-age=60"), want: "reused"},
		{name: "RFC 9213, 2.2 obeys its no-store", says: list("Weir-Cache-Control: no-store", fresh), want: "forwarded"},
		{name: "RFC 9213, 2.2 obeys its private", says: list("CDN-Cache-Control: private", fresh), want: "forwarded"},
		{name: "RFC 9213, 2.2 obeys its no-cache", says: list("CDN-Cache-Control: no-cache", fresh, tag), want: "validated"},
		{name: "RFC 9213, 2.2 obeys its must-revalidate", says: list("CDN-Cache-Control: must-revalidate, max-age=60", tag), later: 61 * s, again: list(tolerates), want: "validated"},
		{name: "RFC 9213, 2.2 obeys its s-maxage", says: list("CDN-Cache-Control: s-maxage=60, max-age=1"), later: 59 * s, want: "reused"},
		{name: "RFC 9213, 2.2 counts Age against it", says: list("CDN-Cache-Control: max-age=60", "Age: 60"), want: "forwarded"},
		{name: "RFC 9213, 2.1 ignores one that is empty", says: list("CDN-Cache-Control:", fresh), want: "reused"},
		{name: "RFC 9213, 2.1 ignores one that is no dictionary", says: list("CDN-Cache-Control: no-store, &", fresh), want: "reused"},
		{name: "RFC 9213, 2.1 ignores one with capitals", says: list("CDN-Cache-Control: No-Store", fresh), want: "reused"},
		{name: "RFC 9213, 2.1 reads the next where one is no dictionary", says: list("Weir-Cache-Control: ?", "CDN-Cache-Control: max-age=60", "Cache-Control: no-store"), want: "reused"},
		{name: "RFC 9213, 2.1 does not take a fraction for a number", says: list("CDN-Cache-Control: max-age=60.5", fresh), want: "forwarded"},
		{name: "RFC 9213, 2.1 ignores parameters", says: list("CDN-Cache-Control: max-age=60;foo=1"), later: 59 * s, want: "reused"},
		{name: "RFC 9213, 2.1 ignores directives that it does not know", says: list("CDN-Cache-Control: max-age=60, foo=(1 2)"), later: 59 * s, want: "reused"},
		{name: "RFC 9213, 2.2 lets it permit what came for somebody", says: list("CDN-Cache-Control: public, max-age=60"), asks: list("Authorization: x"), want: "reused"},
		{name: "RFC 9213, 2.2 does not let another field permit it", says: list("CDN-Cache-Control: max-age=60", "Cache-Control: public"), asks: list("Authorization: x"), want: "forwarded"},
	})
	virtual(t, "RFC 9213 passes CDN-Cache-Control on", func(t *testing.T) {
		g := newRig(t, "CDN-Cache-Control: max-age=60", "Cache-Control: max-age=5")
		for range 2 {
			got := g.get()
			g.says(got, "CDN-Cache-Control", "max-age=60")
			g.says(got, "Cache-Control", "max-age=5")
		}
	})
	virtual(t, "RFC 9213 keeps the field that is for this cache to itself, and obeys it all the same", func(t *testing.T) {
		g := newRig(t, "Weir-Cache-Control: max-age=60", "Cache-Control: max-age=5")
		for range 2 {
			got := g.get()
			g.says(got, "Weir-Cache-Control", "")
			g.says(got, "Cache-Control", "max-age=5")
			time.Sleep(30 * s)
		}
		g.want(g.get(), 200, "answer 2", 2)
	})
}

func TestRFC10008(t *testing.T) {
	query := func(g *rig, target, body string, lines ...string) reply {
		return g.send("QUERY", target, body, lines...)
	}
	const sql, s = "Content-Type: application/sql", time.Second
	virtual(t, "RFC 10008 has the content in the key", func(t *testing.T) {
		g := newRig(t, fresh)
		g.want(query(g, "/", "select 1", sql), 200, "answer 1", 1)
		g.want(query(g, "/", "select 1", sql), 200, "answer 1", 1)
		g.want(query(g, "/", "select 2", sql), 200, "answer 2", 2)
		g.want(query(g, "/", "select 1 ", sql), 200, "answer 3", 3)
		g.want(query(g, "/", "", sql), 200, "answer 4", 4)
	})
	virtual(t, "RFC 10008 has what says how to read the content in the key", func(t *testing.T) {
		g := newRig(t, fresh)
		g.want(query(g, "/", "x", sql), 200, "answer 1", 1)
		g.want(query(g, "/", "x", "Content-Type: text/plain"), 200, "answer 2", 2)
		g.want(query(g, "/", "x", sql, "Content-Encoding: gzip"), 200, "answer 3", 3)
		g.want(query(g, "/", "x"), 200, "answer 4", 4)
		g.want(query(g, "/?a", "x", sql), 200, "answer 5", 5)
		g.want(query(g, "/", "x", sql), 200, "answer 1", 5)
	})
	virtual(t, "RFC 10008 takes large contents that differ in one byte for different", func(t *testing.T) {
		g := newRig(t, fresh)
		long := strings.Repeat("x", 40<<10)
		g.want(query(g, "/", long+"a", sql), 200, "answer 1", 1)
		g.want(query(g, "/", long+"b", sql), 200, "answer 2", 2)
		g.want(query(g, "/", long+"a", sql), 200, "answer 1", 2)
	})
	virtual(t, "RFC 10008 does not take contents that overlap for one request", func(t *testing.T) {
		g := newRig(t)
		g.took = time.Second
		g.handle = func(w http.ResponseWriter, r *http.Request) {
			say(w, fresh)
			_, _ = io.Copy(w, r.Body)
		}
		got := make([]reply, 10)
		for i := range got {
			go func() { got[i] = query(g, "/", strconv.Itoa(i/2), sql) }()
		}
		time.Sleep(10 * s)
		synctest.Wait()
		for i := range got {
			g.want(got[i], 200, strconv.Itoa(i/2), 5)
		}
	})
	virtual(t, "RFC 10008 lets answers to other contents vary by other fields", func(t *testing.T) {
		g := newRig(t)
		g.handle = func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			say(w, fresh, "Vary: "+string(body))
			_, _ = io.WriteString(w, string(body)+" "+r.Header.Get("X-A")+" "+r.Header.Get("X-B"))
		}
		for range 2 {
			for _, field := range []string{"X-A", "X-B"} {
				for _, value := range []string{"1", "2"} {
					want := map[string]string{"X-A": "X-A " + value + " ", "X-B": "X-B  " + value}[field]
					if got := query(g, "/", field, sql, field+": "+value); got.body != want {
						t.Errorf("got %q, want %q", got.body, want)
					}
				}
			}
		}
	})
	virtual(t, "RFC 10008 sends the content to the origin", func(t *testing.T) {
		g := newRig(t)
		g.handle = func(w http.ResponseWriter, r *http.Request) {
			say(w, fresh)
			_, _ = io.Copy(w, r.Body)
		}
		g.want(query(g, "/", "content", sql), 200, "content", 1)
	})
	virtual(t, "RFC 10008 sends the content again to validate", func(t *testing.T) {
		g := newRig(t, "Cache-Control: no-cache", tag)
		g.want(query(g, "/", "x", sql), 200, "answer 1", 1)
		g.want(query(g, "/", "x", sql), 200, "answer 1", 2)
		if h := g.last().Header; h.Get("If-None-Match") != `"a"` || h.Get("Content-Type") != "application/sql" {
			t.Errorf("got %v", h)
		}
	})
	virtual(t, "RFC 10008 has conditions and ranges as GET has", func(t *testing.T) {
		g := newRig(t, fresh, tag)
		query(g, "/", "x", sql)
		g.want(query(g, "/", "x", sql, `If-None-Match: "a"`), 304, "", 1)
		g.want(query(g, "/", "x", sql, "Range: bytes=0-1"), 206, "an", 1)
	})
	virtual(t, "RFC 10008 varies as GET does", func(t *testing.T) {
		g := newRig(t, fresh, "Vary: X-A")
		g.want(query(g, "/", "x", sql, "X-A: 1"), 200, "answer 1", 1)
		g.want(query(g, "/", "x", sql, "X-A: 2"), 200, "answer 2", 2)
		g.want(query(g, "/", "x", sql, "X-A: 1"), 200, "answer 1", 2)
	})
}

func TestRanges(t *testing.T) {
	virtual(t, "gives several ranges of a stored answer", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		got := g.get("Range: bytes=0-1,-1")
		_, parameters, err := mime.ParseMediaType(got.header.Get("Content-Type"))
		if got.status != 206 || err != nil {
			t.Fatalf("got %d %v, %v", got.status, got.header, err)
		}
		var parts []string
		for reader := multipart.NewReader(strings.NewReader(got.body), parameters["boundary"]); ; {
			part, err := reader.NextPart()
			if err != nil {
				break
			}
			body, _ := io.ReadAll(part)
			parts = append(parts, part.Header.Get("Content-Range")+" "+string(body))
		}
		if want := "bytes 0-1/8 an; bytes 7-7/8 1"; strings.Join(parts, "; ") != want {
			t.Errorf("got %q, want %q", parts, want)
		}
	})
	virtual(t, "refuses a range that a stored answer does not have", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		got := g.get("Range: bytes=100-")
		if got.status != 416 || g.calls() != 1 {
			t.Errorf("got %d after %d calls", got.status, g.calls())
		}
		g.says(got, "Content-Range", "bytes */8")
	})
	virtual(t, "ignores a range of HEAD, and one in a unit that it does not know", func(t *testing.T) {
		g := newRig(t, fresh)
		g.get()
		g.want(g.send("HEAD", "/", "", "Range: bytes=0-1"), 200, "", 1)
		g.want(g.get("Range: lines=0-1"), 200, "answer 1", 1)
	})
	virtual(t, "passes a range through where nothing is stored, and stores the whole that comes in its place", func(t *testing.T) {
		g := newRig(t, fresh)
		g.want(g.get("Range: bytes=0-1"), 200, "answer 1", 1) // this origin has no ranges
		if g.last().Header.Get("Range") != "bytes=0-1" {
			t.Errorf("the origin got %v", g.last().Header)
		}
		g.want(g.get(), 200, "answer 1", 1)
	})
}

func TestHEAD(t *testing.T) {
	virtual(t, "is answered with what GET stored, without the body", func(t *testing.T) {
		g := newRig(t, fresh, tag, "Vary: X-A")
		g.get("X-A: 1")
		got := g.send("HEAD", "/", "", "X-A: 1")
		g.want(got, 200, "", 1)
		g.says(got, "Content-Length", "8")
		g.says(got, "ETag", `"a"`)
		g.want(g.send("HEAD", "/", "", "X-A: 1", `If-None-Match: "a"`), 304, "", 1)
		g.want(g.send("HEAD", "/", "", "X-A: 2"), 200, "", 2)
	})
	virtual(t, "validates what is stale", func(t *testing.T) {
		g := newRig(t, fresh, tag)
		g.get()
		time.Sleep(time.Minute)
		g.want(g.send("HEAD", "/", ""), 200, "", 2)
		g.want(g.get(), 200, "answer 1", 2)
	})
	virtual(t, "goes to the origin as HEAD where nothing is stored, and keeps the length", func(t *testing.T) {
		g := newRig(t, fresh)
		got := g.send("HEAD", "/", "")
		g.want(got, 200, "", 1)
		g.says(got, "Content-Length", "8")
		if g.last().Method != "HEAD" {
			t.Errorf("the origin got %s", g.last().Method)
		}
	})
}
