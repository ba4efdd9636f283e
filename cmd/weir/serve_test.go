package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/inferweir/weir/config"
)

// pasted are the lines of an introduction that are there to be pasted.
func pasted(introduction string) (lines []string) {
	for line := range strings.Lines(introduction) {
		if line, ok := strings.CutPrefix(line, "  curl "); ok {
			lines = append(lines, "curl "+strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// shell runs a line as a newcomer does, and returns its output.
func shell(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.Env = append(os.Environ(), "no_proxy=*", "CURL_HOME="+t.TempDir())
	var complaints strings.Builder
	c.Stderr = &complaints
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", line, err, out, complaints.String())
	}
	return string(out)
}

// curl runs a line that prints one answer with its header.
func curl(t *testing.T, line string) answer {
	t.Helper()
	out := shell(t, line)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(out)), nil)
	if err != nil {
		t.Fatalf("%s: %v in:\n%s", line, err, out)
	}
	a, err := read(resp)
	if err != nil {
		t.Fatalf("%s: %v in:\n%s", line, err, out)
	}
	return a
}

// label is the label of a prediction of one text.
func label(t *testing.T, a answer) string {
	t.Helper()
	predictions := regexp.MustCompile(`^\{"predictions":\[\{"label":"(\w+)","score":0\.\d+\}\]\}\n$`)
	m := predictions.FindStringSubmatch(a.Body)
	if a.Status != 200 || m == nil {
		t.Fatalf("answer %d %q, want one prediction", a.Status, a.Body)
	}
	return m[1]
}

// TestFirstMinutes does what the introduction tells a newcomer to do.
func TestFirstMinutes(t *testing.T) {
	t.Parallel()
	s := serve(t, builtinConfig(t))
	introduction := s.stdout.String()
	lines := pasted(introduction)
	if len(lines) != 3 {
		t.Fatalf("%d lines to paste, want 3:\n%s", len(lines), introduction)
	}
	begun := time.Now()

	t.Run("the first line is a prediction of the model", func(t *testing.T) {
		a := curl(t, lines[0])
		got := [...]string{label(t, a), a.field("Cache-Status"), a.field("RateLimit"), a.field("Content-Type")}
		want := [...]string{"fr", "weir; fwd=miss; stored", `"default";r=4;t=12`, "application/json"}
		if got != want {
			t.Errorf("answer = %q, want %q", got, want)
		}
	})
	t.Run("the second line is the same from the cache, for nothing", func(t *testing.T) {
		a := curl(t, lines[1])
		status, ttl, _ := strings.Cut(a.field("Cache-Status"), "; ttl=")
		left, _, _ := strings.Cut(a.field("RateLimit"), ";t=")
		got := [...]string{label(t, a), status, left}
		if want := [...]string{"fr", "weir; hit", `"default";r=4`}; got != want {
			t.Errorf("answer = %q, want %q", got, want)
		}
		seconds, err := strconv.Atoi(ttl)
		if least := 59 - int(time.Since(begun).Seconds()); err != nil || seconds < least || seconds > 60 {
			t.Errorf("ttl = %q, want %d to 60", ttl, least)
		}
	})
	t.Run("the third line ends with a refusal that tells when to come back", func(t *testing.T) {
		out := strings.Split(strings.TrimSuffix(shell(t, lines[2]), "\n"), "\n")
		var statuses []string
		for _, line := range out {
			if status, ok := strings.CutPrefix(line, "HTTP/1.1 "); ok {
				statuses = append(statuses, status[:3])
			}
		}
		// One of five is used up; none comes back within 12 s.
		if want := []string{"200", "200", "200", "200", "429", "429"}; !reflect.DeepEqual(statuses, want) {
			t.Fatalf("statuses = %q, want %q; output:\n%s", statuses, want, strings.Join(out, "\n"))
		}
		last := strings.Join(out[len(out)-5:], "\n")
		m := regexp.MustCompile(`^HTTP/1\.1 429 Too Many Requests\r
Ratelimit: "default";r=0;t=(\d+)\r
Retry-After: (\d+)\r
Retry-After-Ms: (\d+)\r
\{.*"detail":"Request refused: 5 requests per 60 seconds are used up\. Try again in (\d+) seconds\.".*\}$`).FindStringSubmatch(last)
		if m == nil {
			t.Fatalf("the last lines are:\n%s", last)
		}
		if m[1] != m[2] || m[2] != m[4] {
			t.Errorf("RateLimit says %s s, Retry-After %s s, the detail %s s: want the same", m[1], m[2], m[4])
		}
		checkWait(t, m[2], 12*time.Second, time.Since(begun))
	})
	t.Run("the introduction is all that is on stdout, the log all that is on stderr", func(t *testing.T) {
		if status := s.stop(t); status != exitOK {
			t.Errorf("exit status %d, want %d", status, exitOK)
		}
		if got := s.stdout.String(); got != introduction {
			t.Errorf("stdout =\n%s\nwant\n%s", got, introduction)
		}
		entries := logged(t, s.stderr.String())
		if got, want := messages(entries), []string{"shutting down"}; !reflect.DeepEqual(got, want) {
			t.Errorf("messages = %q, want %q", got, want)
		}
		if want := 1 + 1 + 6 + 1; len(entries) != want {
			t.Errorf("%d lines of log, want %d", len(entries), want)
		}
	})
}

// checkWait checks a Retry-After in whole seconds of a bucket that has been empty
// for at most elapsed of wait.
func checkWait(t *testing.T, retryAfter string, wait, elapsed time.Duration) {
	t.Helper()
	got, err := strconv.Atoi(retryAfter)
	least, most := int(math.Ceil((wait - elapsed).Seconds())), int(math.Ceil(wait.Seconds()))
	if err != nil || got < least || got > most {
		t.Errorf("Retry-After: %q, want %d to %d", retryAfter, least, most)
	}
}

// TestFreshCaller sends more new texts than a minute has.
func TestFreshCaller(t *testing.T) {
	t.Parallel()
	s := serve(t, builtinConfig(t))
	begun := time.Now()
	for i := range 5 {
		a := s.get(t, fmt.Sprintf("/predict/language?text=new+text+%d", i))
		if label(t, a) == "" || a.field("Retry-After") != "" {
			t.Errorf("text %d: %+v, want a prediction and no wait", i+1, a)
		}
	}
	t.Run("the sixth text is refused with a true wait", func(t *testing.T) {
		a := s.get(t, "/predict/language?text=new+text+5")
		checkWait(t, a.field("Retry-After"), 12*time.Second, time.Since(begun))
		after, err := strconv.Atoi(a.field("Retry-After"))
		if err != nil {
			t.Fatal(err)
		}
		got := []any{a.Status, a.field("Content-Type"), a.field("RateLimit"), a.field("RateLimit-Policy"), a.field("Cache-Status"), a.json(t)}
		want := []any{429, "application/problem+json", fmt.Sprintf(`"default";r=0;t=%d`, after), `"default";q=5;w=60`, "weir; fwd=miss", map[string]any{
			"type":              "https://iana.org/assignments/http-problem-types#quota-exceeded",
			"title":             "Quota exceeded",
			"status":            429.0,
			"detail":            fmt.Sprintf("Request refused: 5 requests per 60 seconds are used up. Try again in %d seconds.", after),
			"violated-policies": []any{"default"},
			"retry_after":       float64(after),
		}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("refusal = %v\nwant %v", got, want)
		}
	})
	t.Run("what is in the cache is still for the asking", func(t *testing.T) {
		a := s.get(t, "/predict/language?text=new+text+0")
		if label(t, a) == "" || !strings.HasPrefix(a.field("Cache-Status"), "weir; hit") {
			t.Errorf("answer = %+v, want a hit", a)
		}
	})
	t.Run("a start anew forgets the caller", func(t *testing.T) {
		again := serve(t, builtinConfig(t))
		if a := again.get(t, "/predict/language?text=new+text+5"); a.field("RateLimit") != `"default";r=4;t=12` {
			t.Errorf("RateLimit: %s, want 4 left", a.field("RateLimit"))
		}
	})
}

// refusal is a refused text, and what a client knows of it.
type refusal struct {
	answer
	sent, received time.Time
}

// exhaust sends new texts until one is refused.
func exhaust(t *testing.T, s *inProcess, most int) refusal {
	t.Helper()
	for i := range most {
		sent := time.Now()
		a := s.get(t, fmt.Sprintf("/predict/language?text=exhausting+%d", i))
		if a.Status == 429 {
			return refusal{a, sent, time.Now()}
		}
	}
	t.Fatalf("none of %d texts was refused", most)
	return refusal{}
}

// wait gives what the refusal says in a field, in its unit.
func (r refusal) wait(t *testing.T, field string, unit time.Duration) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(r.field(field))
	if err != nil {
		t.Fatalf("%s: %v in %+v", field, err, r.answer)
	}
	return time.Duration(n) * unit
}

// TestComingBack obeys refusals to the moment: what they say must be neither too
// short nor too long.
func TestComingBack(t *testing.T) {
	t.Parallel()
	// A token each 250 ms from the second policy, which is empty first.
	const twoPolicies = "policies: [5 per 1s, 2 per 500ms]"
	// obey comes back after the exact wait, and asks nothing meanwhile: the wait
	// is not for something to happen, it is what is tested.
	obey := func(t *testing.T, s *inProcess, until time.Time) {
		t.Helper()
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.Context().Done():
		}
		if a := s.get(t, "/predict/language?text=back+again"); a.Status != 200 {
			t.Errorf("back after the wait: %d %s, want 200", a.Status, a.Body)
		}
	}
	t.Run("who waits exactly Retry-After is admitted", func(t *testing.T) {
		t.Parallel()
		// A token a second, and nearly a whole second to wait for it.
		s := serve(t, builtinConfig(t, "policies: [5/minute]", "policies: [5 per 5s]"))
		begun := time.Now()
		r := exhaust(t, s, 100)
		checkWait(t, r.field("Retry-After"), time.Second, time.Since(begun))
		obey(t, s, r.received.Add(r.wait(t, "Retry-After", time.Second)))
	})
	t.Run("who waits exactly Retry-After-Ms is admitted", func(t *testing.T) {
		t.Parallel()
		s := serve(t, builtinConfig(t, "policies: [5/minute]", twoPolicies))
		r := exhaust(t, s, 100)
		obey(t, s, r.received.Add(r.wait(t, "Retry-After-Ms", time.Millisecond)))
	})
	t.Run("who keeps asking is admitted at that time and not before", func(t *testing.T) {
		t.Parallel()
		s := serve(t, builtinConfig(t, "policies: [5/minute]", twoPolicies))
		r := exhaust(t, s, 100)
		if got, want := r.json(t).(map[string]any)["violated-policies"], []any{"default-2"}; !reflect.DeepEqual(got, want) {
			t.Errorf("violated policies = %v, want %v", got, want)
		}
		if got := r.wait(t, "Retry-After", time.Second); got != time.Second {
			t.Errorf("Retry-After: %s, want 1s", got)
		}
		// Up to a tenth of it keeps clients apart: the rest is the exact wait.
		most := r.wait(t, "Retry-After-Ms", time.Millisecond)
		least := most*10/11 - time.Millisecond
		if most > 275*time.Millisecond+time.Millisecond {
			t.Errorf("Retry-After-Ms: %s, want at most 250 ms and a tenth", most)
		}
		eventually(t, "admitted", func() bool {
			sent := time.Now()
			a := s.get(t, "/predict/language?text=back+again")
			received := time.Now()
			switch {
			case a.Status == 200 && received.Before(r.sent.Add(least)):
				t.Errorf("admitted %s after a refusal that said %s", received.Sub(r.sent), most)
			case a.Status == 429 && sent.After(r.received.Add(most)):
				t.Fatalf("refused %s after a refusal that said %s", sent.Sub(r.received), most)
			}
			return a.Status == 200
		})
	})
}

// TestForms sends the same texts in the forms that clients send.
func TestForms(t *testing.T) {
	t.Parallel()
	s := serve(t, builtinConfig(t, "policies: [5/minute]", "policies: [100/minute]"))
	const french = `{"instances": ["Où est la bibliothèque ?"]}`
	const glad = `{"instances": ["What a wonderful, lovely day!"]}`
	post := func(contentType, path, body, want string) {
		t.Helper()
		resp, err := s.client.Post(s.base+path, contentType, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		a, err := read(resp)
		if err != nil {
			t.Fatal(err)
		}
		if got := label(t, a); got != want {
			t.Errorf("%s as %q = %q, want %q", path, contentType, got, want)
		}
	}
	t.Run("JSON is JSON whatever the client calls it", func(t *testing.T) {
		post("application/json", "/predict/language", french, "fr")
		post("application/x-www-form-urlencoded", "/predict/language", french, "fr") // as curl -d does
		post("", "/predict/language", french, "fr")
		post("application/x-www-form-urlencoded", "/predict/sentiment", glad, "positive")
	})
	t.Run("curl sends a form, or what it is told", func(t *testing.T) {
		for _, header := range []string{"", "-H 'Content-Type: application/json'"} {
			a := curl(t, fmt.Sprintf(`curl -si %s/predict/sentiment %s -d '%s'`, s.base, header, glad))
			if got := label(t, a); got != "positive" {
				t.Errorf("with %q: %q, want positive", cmp.Or(header, "no header"), got)
			}
		}
	})
	t.Run("a browser's address line will do", func(t *testing.T) {
		if got := label(t, s.get(t, "/predict/sentiment?text=this+is+terrible+and+sad")); got != "negative" {
			t.Errorf("label = %q, want negative", got)
		}
	})
}

// TestIntroduction compares whole introductions.
func TestIntroduction(t *testing.T) {
	t.Parallel()
	f := func(name, text string, from file, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Parse("weir.yaml", []byte(text), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			at := func(ip net.IP, port int) *server {
				return &server{listener: bound{addr: &net.TCPAddr{IP: ip, Port: port}}}
			}
			s := &service{file: from, config: cfg, callers: at(net.IPv4zero, 65535), operators: at(net.IPv6loopback, 65534)}
			s.callers.secured = cfg.TLS != nil
			if cfg.Decide != nil {
				s.deciders = at(net.IPv4(127, 0, 0, 1), 65533)
			}
			introduce(&got, s)
			if got.String() != want {
				t.Errorf("introduction =\n%s\nwant\n%s", got.String(), want)
			}
			checkLines(t, got.String())
		})
	}
	const predict = "curl -si http://127.0.0.1:65535/predict/language -d '{\"instances\": [\"Où est la bibliothèque ?\"]}'"
	const prediction = "Try it. A prediction:\n\n  " + predict + "\n"
	const again = "\nThe same again, from the cache (Cache-Status: weir; hit):\n\n  " + predict + "\n"
	const health = "\nDashboard: http://[::1]:65534/\nMetrics and health: http://[::1]:65534/metrics, /healthz, /readyz\n"
	const builtinRoutes = `Weir serves on http://127.0.0.1:65535

  GET,POST   /predict/language        -> the built-in model, cached for 1m
  GET,POST   /predict/sentiment       -> the built-in model, cached for 1m
  POST       /v1/chat/completions     -> the built-in model, cached for 1m
  POST       /v1/embeddings           -> the built-in model, cached for 1m
  GET        /v1/models*              -> the built-in model
`
	refused := func(texts int) string {
		return fmt.Sprintf(`
New texts until one is refused, with the time to come back:

  curl -si "http://127.0.0.1:65535/predict/language?text=text+[1-%d]" | grep -iE '^HTTP|^RateLimit:|^Retry|detail'
`, texts)
	}
	f("of the built-in configuration", string(config.Builtin()), "",
		builtinRoutes+"\nEach caller has 5 requests in 1m; an answer from the cache costs nothing.\n"+health+"\n"+prediction+again+refused(6)+
			"\nYour own model behind it: weir serve --print-config > weir.yaml, change targets, weir serve -c weir.yaml\n")
	f("of a file says not to write over it", string(config.Builtin()), "weir.yaml",
		builtinRoutes+"\nEach caller has 5 requests in 1m; an answer from the cache costs nothing.\n"+health+"\n"+prediction+again+refused(6))
	f("counts the texts up to the tightest policy",
		strings.Replace(string(config.Builtin()), "[5/minute]", "[100/minute, 10 per 1h, {quota: 1000, window: 24h, by: global}, 3 concurrent, 50/month, {quota: 2, window: 1m, shadow: true}]", 1), "weir.yaml",
		builtinRoutes+"\nEach caller has 100 requests in 1m,\nand 10 requests in 1h,\nand 3 requests at a time,\nand 50 requests in a month; an answer from the cache costs nothing.\n"+health+"\n"+prediction+again+refused(11))
	f("promises no refusal that nobody would wait for", strings.Replace(string(config.Builtin()), "5/minute", "100/minute", 1), "weir.yaml",
		builtinRoutes+"\nEach caller has 100 requests in 1m; an answer from the cache costs nothing.\n"+health+"\n"+prediction+again)
	f("promises no answer from a cache that is off", `
upstreams: {models: {targets: ["builtin:"]}}
routes:
  - {match: {path: /predict/*}, upstream: models, policies: [1/minute]}
`, "weir.yaml", `Weir serves on http://127.0.0.1:65535

  any method /predict/*               -> the built-in model
`+health+"\n"+prediction+refused(2))
	f("promises no hit where the model's own fields decide", `
upstreams: {models: {targets: ["builtin:"]}}
routes:
  - {match: {path: /predict/*}, upstream: models, policies: [1/minute], cache: {mode: http}}
`, "weir.yaml", `Weir serves on http://127.0.0.1:65535

  any method /predict/*               -> the built-in model, cached as its answers say
`+health+"\n"+prediction+refused(2))
	f("of another model has nothing to paste", `
plans: {default: {policies: [1 per 90s]}, pro: {}}
upstreams: {llm: {targets: [http://10.0.0.1:8000, http://10.0.0.2:8000, http://10.0.0.3:8000]}, models: {targets: ["builtin:"]}}
routes:
  - {match: {path: /predict/language, methods: [POST]}, upstream: llm, cache: {mode: inference, ttl: 24h, charge_hits: true}}
  - {match: {path: /predict/*}, upstream: models}
`, "weir.yaml", `Weir serves on http://127.0.0.1:65535

  POST       /predict/language        -> http://10.0.0.1:8000 and 2 more, cached for 24h
  any method /predict/*               -> the built-in model

A caller of the default plan has 1 request in 1m30s.
`+health)
	f("of callers with keys has nothing to paste", `
callers: {require: true, keys: [{caller: a, key: weir_a}]}
tls: {cert: cert.pem, key: key.pem}
upstreams: {models: {targets: ["builtin:"]}}
routes:
  - {match: {path: /predict/*}, upstream: models}
`, "weir.yaml", `Weir serves on https://127.0.0.1:65535

  any method /predict/*               -> the built-in model
`+health)
	f("of decisions names their listener, and the routes that have no more", `
decide: {}
callers: {require: true, keys: [{caller: a, key: weir_a}]}
upstreams: {models: {targets: ["builtin:"]}}
routes:
  - {match: {path: /app/*}}
  - {match: {path: /predict/*}, upstream: models}
`, "weir.yaml", `Weir serves on http://127.0.0.1:65535

  any method /app/*                   -> decisions only
  any method /predict/*               -> the built-in model
`+health+"Decisions for other servers: http://127.0.0.1:65533\n")
}

// bound is a listener of which only the address is asked.
type bound struct {
	net.Listener
	addr net.Addr
}

func (b bound) Addr() net.Addr { return b.addr }

// checkLines checks what holds for every line that serve prints.
func checkLines(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 {
			t.Errorf("%d columns, want at most 120: %s", n, line)
		}
		if m := regexp.MustCompile(`[hm]0[ms]`).FindString(line); m != "" {
			t.Errorf("a duration with %q at its end: %s", m, line)
		}
	}
}

// TestBoundAddresses asks at the addresses that are printed.
func TestBoundAddresses(t *testing.T) {
	t.Parallel()
	s := serve(t, builtinConfig(t))
	checkLines(t, s.stdout.String())
	for _, url := range []string{s.base, s.admin} {
		if !regexp.MustCompile(`^http://127\.0\.0\.1:[1-9]\d*$`).MatchString(url) {
			t.Errorf("address %q, want the port that was bound", url)
		}
	}
	t.Run("callers are served at theirs", func(t *testing.T) {
		if a := s.get(t, "/predict/language?text=hello"); a.Status != 200 {
			t.Errorf("status %d, want 200", a.Status)
		}
	})
	t.Run("operators are served at theirs, and callers are not", func(t *testing.T) {
		var got [4]int
		for i, path := range []string{"/healthz", "/readyz", "/metrics", "/predict/language?text=hello"} {
			got[i] = fetch(t, s.client, s.admin+path).Status
		}
		if want := [4]int{200, 200, 200, 404}; got != want {
			t.Errorf("statuses = %v, want %v", got, want)
		}
	})
	t.Run("callers cannot see what operators see", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			if a := s.get(t, path); a.Status != 404 {
				t.Errorf("%s = %d, want 404", path, a.Status)
			}
		}
	})
	t.Run("what is no HTTP leaves nothing but lines of log", func(t *testing.T) {
		for _, url := range []string{s.base, s.admin} {
			for _, text := range []string{"\x16\x03\x01 hello\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET /?a;b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"} {
				conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err := conn.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
				// The server answers with a refusal, and closes.
				if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), "HTTP/1.1 4") {
					t.Errorf("%q: %q, want a refusal", text, got)
				}
				_ = conn.Close()
			}
		}
		if status := s.stop(t); status != exitOK {
			t.Errorf("exit status %d, want %d", status, exitOK)
		}
		if logged(t, s.stderr.String()) == nil {
			t.Error("nothing is logged")
		}
	})
}
