package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/storetest"
)

// front runs an nginx that caches what it is told that it may, for all its users
// alike, in front of a gateway. It returns a way to send requests through it.
func front(t *testing.T, w *instance) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File() // see nginx
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	user := ""
	if os.Getuid() == 0 {
		user = "user root; "
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := user + "daemon off; worker_processes 1; pid nginx.pid; events {}\nhttp {\naccess_log off;\n" +
		"client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n" +
		"proxy_cache_path cache keys_zone=answers:1m;\nserver {\nlisten " + l.Addr().String() + ";\nlocation / {\n" +
		"proxy_pass http://" + w.address + ";\nproxy_http_version 1.1;\nproxy_set_header Host $http_host;\nproxy_set_header Connection \"\";\nproxy_cache answers;\nproxy_cache_key $request_uri;\nadd_header X-Nginx $upstream_cache_status always;\n}\n}\n}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program(t, "nginx"), "-p", dir, "-c", conf, "-e", "stderr")
	c.ExtraFiles = []*os.File{socket}
	c.Env = append(os.Environ(), "NGINX=3;")
	running(t, c)
	through, one := *w, *w.weir
	one.client = clientOf(l.Addr().String())
	t.Cleanup(one.client.CloseIdleConnections)
	through.weir = &one
	return &through
}

// numbered answers with the number of its call and who asked, and says what the
// query says of it.
func numbered() *counted {
	c := &counted{}
	c.h = func(w http.ResponseWriter, r *http.Request) {
		_ = taken(r)
		if control := r.URL.Query().Get("control"); control != "" {
			w.Header().Set("Cache-Control", control)
		}
		var status int
		if _, err := fmt.Sscan(r.URL.Query().Get("status"), &status); err == nil {
			w.WriteHeader(status)
		}
		_, _ = fmt.Fprintf(w, "%d for %s", c.calls.Load(), r.UserAgent())
	}
	return c
}

func TestNginxKeepsNobodysOwnAnswer(t *testing.T) {
	t.Parallel()
	for _, s := range []site{{share: "caller"}, {share: "plan"}} {
		t.Run(s.mode+" "+s.share, func(t *testing.T) {
			t.Parallel()
			w := s.start(t, numbered())
			n := front(t, w)
			for _, control := range []string{"", "private,max-age=60", "no-store", "max-age=60", "public,max-age=60", "s-maxage=60", "public,immutable,max-age=60"} {
				if s.share == "plan" {
					// Whose answer it is does not show in it; that nginx does not keep it does.
					for range 2 {
						if a := n.as(1, "GET", "/?control="+control, ""); a.header.Get("X-Nginx") != "MISS" {
							t.Errorf("%q: %v from nginx: %s", control, a, a.header.Get("X-Nginx"))
						}
					}
					continue
				}
				for _, user := range []int{1, 2, 1} {
					if a := n.as(user, "GET", "/?control="+control, ""); a.status != 200 || !strings.HasSuffix(a.body, fmt.Sprint(" for u", user)) || a.header.Get("X-Nginx") != "MISS" {
						t.Errorf("%q: u%d got %v, from nginx: %s %q", control, user, a, a.header.Get("X-Nginx"), a.header.Get("Cache-Control"))
					}
				}
			}
		})
	}
}

// notKept says that a came through nginx, and not from it.
func (a answer) notKept(t *testing.T, status int) {
	t.Helper()
	if a.status != status || a.header.Get("X-Nginx") == "HIT" {
		t.Errorf("%v from nginx: %s, want %d", a, a.header.Get("X-Nginx"), status)
	}
}

func TestNginxKeepsNoRefusal(t *testing.T) {
	t.Parallel()
	for _, s := range []site{{share: "all"}, {share: "caller"}, {mode: "http", share: "all"}} {
		t.Run(s.mode+" "+s.share, func(t *testing.T) {
			t.Parallel()
			f := func(a answer, status int) { t.Helper(); a.notKept(t, status) }
			t.Run("429", func(t *testing.T) {
				one := s
				one.route = ", policies: [1/hour]"
				n := front(t, one.start(t, numbered()))
				f(n.as(1, "GET", "/a", ""), 200)
				f(n.as(1, "GET", "/b", ""), 429)
				f(n.as(2, "GET", "/b", ""), 200)
			})
			t.Run("502, 504 and what was not there", func(t *testing.T) {
				var up atomic.Bool
				hasty := s
				hasty.upstream = ", timeouts: {first_byte: 300ms}"
				origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_ = taken(r)
					switch {
					case up.Load():
						_, _ = io.WriteString(w, "up")
					case r.URL.Path == "/silent":
						<-r.Context().Done()
					case r.URL.Path == "/500":
						w.WriteHeader(500)
					default:
						panic(http.ErrAbortHandler)
					}
				}))
				t.Cleanup(origin.Close)
				w := hasty.at(t, origin.URL)
				n := front(t, w)
				f(n.as(1, "GET", "/silent", ""), 504)
				one := s
				w.reloads(one.yaml(origin.URL)) // the others are not to be cut off by a busy machine
				f(n.as(1, "GET", "/500", ""), 500)
				f(n.as(1, "GET", "/gone", ""), 502)
				f(n.as(1, "GET", "/none", "", "Cache-Control", "only-if-cached"), 504)
				up.Store(true)
				for _, path := range []string{"/silent", "/500", "/gone", "/none"} {
					f(n.as(1, "GET", path, ""), 200)
				}
			})
			t.Run("503", func(t *testing.T) {
				one := s
				one.redis, one.route = storetest.Redis(t), ", policies: [100/hour]"
				origin := httptest.NewServer(numbered())
				t.Cleanup(origin.Close)
				w := launch(t, strings.Replace(one.yaml(origin.URL), "on_failure: open", "on_failure: closed", 1))
				w.connected()
				n := front(t, w)
				one.redis.Stop()
				f(n.as(1, "GET", "/", ""), 503)
				one.redis.Start()
				w.connected()
				f(n.as(1, "GET", "/", ""), 200)
			})
		})
	}
}

// What all may have, a cache in front may keep, but not for longer than Weir: of an
// answer that is half as old as it may get, nginx keeps no second life.
func TestNginxKeepsNothingForLongerThanItsTTL(t *testing.T) {
	t.Parallel()
	w := site{share: "all", ttl: "3s"}.start(t, numbered())
	n := front(t, w)
	var made time.Time
	first := map[string]answer{}
	within(t, 3*time.Second, func(i int) func() {
		clear(first)
		then := map[string]answer{}
		for _, control := range []string{"", "max-age=60", "public,max-age=600,s-maxage=600"} {
			path := fmt.Sprintf("/%d?control=%s", i, control)
			first[path] = w.as(1, "GET", path, "")
		}
		made = time.Now()
		pass(2 * time.Second)
		for path := range first {
			then[path] = n.as(1, "GET", path, "")
		}
		return func() {
			for path, a := range then {
				if !a.is(200, first[path].body) {
					t.Fatalf("%s: %v, then %v", path, first[path], a)
				}
			}
		}
	})
	// nginx counts whole seconds, and one more.
	pass(time.Until(made.Add(4200 * time.Millisecond)))
	for path := range first {
		if a := n.as(1, "GET", path, ""); a.status != 200 || a.body == first[path].body {
			t.Errorf("%s after its time: %v from nginx: %s", path, a, a.header.Get("X-Nginx"))
		}
	}
}

// RFC 9213: the field that is Weir's own comes before the one for all such caches,
// and that before Cache-Control; one that cannot be read is as if it were not there.
func TestTargetedFields(t *testing.T) {
	t.Parallel()
	c := &counted{}
	w := site{mode: "http", share: "all"}.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.URL.Query() {
			w.Header()[http.CanonicalHeaderKey(name)] = values
		}
		c.ServeHTTP(w, r)
	}))
	const cdn, own, control = "CDN-Cache-Control", "Weir-Cache-Control", "Cache-Control"
	for name, f := range map[string]struct {
		fields http.Header
		kept   bool
	}{
		"control: the plain one keeps":                {http.Header{control: {"max-age=60"}}, true},
		"control: the plain one does not":             {http.Header{control: {"no-store"}}, false},
		"our own says more than the plain one":        {http.Header{control: {"no-store"}, own: {"max-age=60"}}, true},
		"our own says less":                           {http.Header{control: {"max-age=60"}, own: {"no-store"}}, false},
		"that of all such caches says more":           {http.Header{control: {"private"}, cdn: {"max-age=60"}}, true},
		"that of all such caches says less":           {http.Header{control: {"max-age=60"}, cdn: {"no-store"}}, false},
		"our own before that of all":                  {http.Header{cdn: {"no-store"}, own: {"max-age=60"}}, true},
		"our own before that of all, less":            {http.Header{cdn: {"max-age=60"}, own: {"no-store"}}, false},
		"one that is none":                            {http.Header{control: {"max-age=60"}, cdn: {"no-store;;="}}, true},
		"one that is none, with a plain one that is":  {http.Header{control: {"no-store"}, cdn: {"max-age=60, ,"}}, false},
		"one that is empty":                           {http.Header{control: {"no-store"}, own: {""}}, false},
		"our own that is none, and that of all":       {http.Header{control: {"no-store"}, own: {"max-age="}, cdn: {"max-age=60"}}, true},
		"with one of them Expires is not looked at":   {http.Header{"Expires": {"Thu, 01 Jan 1970 00:00:00 GMT"}, cdn: {"max-age=60"}}, true},
		"one that has two lines":                      {http.Header{control: {"max-age=60"}, cdn: {"max-age=60", "no-store"}}, false},
		"one that says private":                       {http.Header{control: {"max-age=60"}, cdn: {"private"}}, false},
		"one with a time of 0":                        {http.Header{control: {"max-age=60"}, own: {"max-age=0"}}, false},
		"a directive in capitals is none (RFC 8941)":  {http.Header{control: {"max-age=60"}, cdn: {"No-Store"}}, true},
		"what is said of a directive does not matter": {http.Header{control: {"no-store"}, cdn: {"max-age=60;x=1"}}, true},
	} {
		query := "/?case=" + strings.ReplaceAll(name, " ", "+")
		for field, values := range f.fields {
			for _, v := range values {
				query += "&" + field + "=" + strings.NewReplacer(" ", "+", ",", "%2C", "=", "%3D", ";", "%3B").Replace(v)
			}
		}
		first, second := w.send("GET", query, ""), w.send("GET", query, "")
		if second.status != 200 || second.hit() != f.kept {
			t.Errorf("%s: %v: %v, then %v", name, f.fields, first, second)
		}
	}
}

// Interim answers reach the client before the answer does, and only the answer is
// kept.
func TestEarlyHintsPassThrough(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]flowing{
		"inference": {site{}, "POST", "{}"}, "http": {site{mode: "http", share: "all"}, "GET", ""}, "off": {site{mode: "off"}, "GET", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hinted := newGate()
			origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = taken(r)
				w.Header().Set("Link", "</style.css>; rel=preload")
				w.WriteHeader(http.StatusEarlyHints)
				if !hinted.wait(r) {
					return
				}
				w.Header().Del("Link")
				storable(w.Header())
				_, _ = io.WriteString(w, "the answer")
			}))
			t.Cleanup(origin.Close)
			yaml := f.yaml(origin.URL)
			if name == "off" {
				yaml = strings.Replace(yaml, ", cache: {mode: off, share: caller, ttl: 1m}", "", 1)
			}
			w := launch(t, yaml)
			late := time.AfterFunc(5*time.Second, hinted.open) // or a gateway that holds hints back would wait for ever
			defer late.Stop()
			var links []string
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				links = append(links, fmt.Sprint(code, " ", h.Get("Link")))
				hinted.open()
				return nil
			}})
			a := w.sendCtx(ctx, f.method, "/", f.body)
			if !a.is(200, "the answer") || len(links) != 1 || links[0] != "103 </style.css>; rel=preload" || a.header.Get("Link") != "" {
				t.Errorf("%v %v after %q", a, a.header, links)
			}
			if name == "off" {
				return
			}
			links = nil
			if a := w.sendCtx(ctx, f.method, "/", f.body); !a.hit() || !a.is(200, "the answer") || len(links) != 0 {
				t.Errorf("then %v after %q", a, links)
			}
		})
	}
}
