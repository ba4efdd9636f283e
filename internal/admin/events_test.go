package admin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/gateway"
	"github.com/inferweir/weir/storetest"
)

// viewer reads an event stream.
type viewer struct {
	t    *testing.T
	resp *http.Response
	in   *bufio.Reader
	stop context.CancelFunc
}

// serve puts the admin listener on a socket.
func (o *operators) serve() string {
	s := httptest.NewServer(o.handler)
	o.t.Cleanup(s.Close)
	return s.URL
}

// view opens the stream of events.
func (o *operators) view(url string) *viewer {
	o.t.Helper()
	ctx, stop := context.WithCancel(o.t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", url+"/api/v1/events", nil)
	if err != nil {
		o.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		o.t.Fatal(err)
	}
	v := &viewer{o.t, resp, bufio.NewReader(resp.Body), stop}
	o.t.Cleanup(v.leave)
	return v
}

func (v *viewer) leave() {
	v.stop()
	_ = v.resp.Body.Close()
}

// next is the next event but comments; the name is "" at the end of the stream.
func (v *viewer) next() (name, data string) {
	for {
		line, err := v.in.ReadString('\n')
		switch {
		case err != nil:
			return "", ""
		case line == "\n" && name != "":
			return name, data
		case strings.HasPrefix(line, "event: "):
			name = strings.TrimSpace(line[7:])
		case strings.HasPrefix(line, "data: "):
			data += line[6:]
		}
	}
}

func TestSnapshotIsServedAsJSON(t *testing.T) {
	o := open(t, twoPlans, "")
	got := o.ask("GET", "/api/v1/snapshot", "")
	var s gateway.Snapshot
	if err := json.Unmarshal(got.Body.Bytes(), &s); err != nil {
		t.Fatalf("%d %s: %v", got.Code, got.Body, err)
	}
	equal(t, []any{got.Code, got.Header().Get("Content-Type"), s.Version, s.Routes[0].Name, s.Upstreams[0].Name}, []any{200, "application/json", "test", "all", "u"})
	equal(t, o.ask("POST", "/api/v1/snapshot", "{}").Code, 405)
	equal(t, open(t, twoPlans, "secret").ask("GET", "/api/v1/snapshot", "").Code, 401)
	equal(t, open(t, twoPlans, "secret").ask("GET", "/api/v1/events", "").Code, 401)
}

func TestEventsStreamSnapshotsAndNotes(t *testing.T) {
	o := open(t, twoPlans, "")
	v := o.view(o.serve())
	equal(t, []any{v.resp.StatusCode, v.resp.Header.Get("Content-Type"), v.resp.Header.Get("Cache-Control")}, []any{200, "text/event-stream", "no-store"})
	name, data := v.next()
	var s gateway.Snapshot
	if err := json.Unmarshal([]byte(data), &s); err != nil || name != "snapshot" {
		t.Fatalf("first %q, %v", name, err)
	}
	// A busy machine may be late itself: not each of ten times.
	at := func(what string, most time.Duration, try func(i int)) {
		t.Helper()
		var took time.Duration
		for i := range 10 {
			began := time.Now()
			try(i)
			if took = time.Since(began); took <= most {
				return
			}
		}
		t.Errorf("%s came after %v each time, want at most %v", what, took, most)
	}
	at("a note", 500*time.Millisecond, func(i int) {
		text := fmt.Sprintf("two\nlines %d", i)
		o.gateway.Note(gateway.EventSnapshot{Kind: "store", Level: "warn", Text: text})
		for name, data = v.next(); name == "snapshot"; {
			name, data = v.next()
		}
		var e gateway.EventSnapshot
		if err := json.Unmarshal([]byte(data), &e); err != nil || name != "note" {
			t.Fatalf("then %q, %v", name, err)
		}
		equal(t, []any{e.Kind, e.Level, e.Text, e.Count}, []any{"store", "warn", text, 1})
	})
	at("the next snapshot", 3*time.Second, func(int) {
		name, _ = v.next()
		equal(t, name, "snapshot")
	})
}

func TestEventsEndWithTheGateway(t *testing.T) {
	o := open(t, twoPlans, "")
	v := o.view(o.serve())
	v.next()
	o.gateway.Drain()
	for {
		if name, _ := v.next(); name == "" {
			break
		}
	}
}

func TestEventsAreForThirtyTwoViewers(t *testing.T) {
	o := open(t, twoPlans, "")
	url := o.serve()
	var viewers []*viewer
	for range 32 {
		viewers = append(viewers, o.view(url))
		viewers[len(viewers)-1].next()
	}
	late := o.view(url)
	equal(t, []any{late.resp.StatusCode, late.resp.Header.Get("Retry-After")}, []any{503, "10"})
	viewers[7].leave()
	storetest.Eventually(t, time.Minute, "there is a place again", func() bool {
		v := o.view(url)
		defer v.leave()
		return v.resp.StatusCode == 200
	})
}

func TestEventsHaveNoBodyForHEAD(t *testing.T) {
	got := open(t, twoPlans, "").ask("HEAD", "/api/v1/events", "")
	equal(t, []any{got.Code, got.Header().Get("Content-Type"), got.Body.Len()}, []any{200, "text/event-stream", 0})
}

func TestEventsTellOfKeys(t *testing.T) {
	o := open(t, twoPlans+"database: {url: \"sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"\"}\n", "")
	_, before := o.gateway.Events(0)
	var key struct{ ID string }
	if err := json.Unmarshal(o.ask("POST", "/api/v1/keys", `{"caller": "carol", "plan": "pro"}`).Body.Bytes(), &key); err != nil {
		t.Fatal(err)
	}
	equal(t, o.ask("DELETE", "/api/v1/keys/"+key.ID, "").Code, 200)
	news, _ := o.gateway.Events(before)
	var texts []string
	for _, e := range news {
		if e.Kind == "key" {
			texts = append(texts, e.Text)
		}
	}
	const by = " by admin API from 127.0.0.1:50000"
	equal(t, texts, []string{"Key " + key.ID + " of carol was created" + by, "Key " + key.ID + " of carol was revoked" + by})
}
