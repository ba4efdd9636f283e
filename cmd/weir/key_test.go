package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// keysConfig is a configuration with a database and two plans.
func keysConfig(upstream, database string) string {
	return fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
database: {url: %q}
callers: {identify: [api_key]}
plans:
  default: {policies: [1000/minute]}
  pro: {policies: [2000/minute]}
upstreams:
  echo: {targets: [%q]}
routes:
  - match: {path: /*}
    upstream: echo
`, "sqlite:"+database, upstream)
}

// TestKeyScripts runs "weir key" against a running Weir ($ADMIN), against its
// database ($CONFIG), and against what is no admin API ($STRANGE).
func TestKeyScripts(t *testing.T) {
	model := newEcho(t)
	text := keysConfig(model.URL, filepath.Join(t.TempDir(), "weir.db"))
	weir := serve(t, text)
	config := write(t, "same.yaml", text)
	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/denied") {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = fmt.Fprint(w, `{"key": ""}`)
	}))
	t.Cleanup(strange.Close)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/key",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ADMIN", weir.admin)
			e.Setenv("WEIR", weir.base)
			e.Setenv("CONFIG", config)
			e.Setenv("STRANGE", strange.URL)
			e.Setenv("WEIR_ADMIN_TOKEN", "")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command otherwise
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "id": keyIDOf, "answers": answers},
	})
}

// keyIDOf is the scripts' command "id VARIABLE FILE": it puts the ID of the key in a
// file into a variable, and the key into VARIABLE_KEY.
func keyIDOf(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) != 2 {
		ts.Fatalf("usage: id VARIABLE FILE")
	}
	key := strings.TrimSpace(ts.ReadFile(args[1]))
	if len(key) != 66 {
		ts.Fatalf("%s is no key: %q", args[1], key)
	}
	ts.Setenv(args[0], key[5:15])
	ts.Setenv(args[0]+"_KEY", key)
}

// answers is the scripts' command "answers STATUS KEY": a request to $WEIR with the
// key has the status, if need be after a while.
func answers(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) != 2 {
		ts.Fatalf("usage: answers STATUS KEY")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for last := time.Now().Add(patience); ; <-again.C {
		r, err := http.NewRequest(http.MethodGet, ts.Getenv("WEIR")+"/x", http.NoBody)
		ts.Check(err)
		r.Header.Set("Authorization", "Bearer "+args[1])
		resp, err := client.Do(r)
		ts.Check(err)
		ts.Check(resp.Body.Close())
		if fmt.Sprint(resp.StatusCode) == args[0] {
			return
		}
		if time.Now().After(last) {
			ts.Fatalf("status %d, want %s", resp.StatusCode, args[0])
		}
	}
}

func TestAKeyIsShownThoughTheDatabaseCannotBeClosed(t *testing.T) {
	var messages transcript
	p := keyPlace{Config: "weir.yaml"}
	answer, err := p.answered(output{nil, &messages}, errors.New("disk I/O error"), &http.Response{StatusCode: http.StatusCreated}, []byte("the key"))
	if want := "weir: warning: weir.yaml: database: could not be closed: disk I/O error\n"; string(answer) != "the key" || err != nil || messages.String() != want {
		t.Errorf("%q, %v, and %q: want the key, and %q", answer, err, messages.String(), want)
	}
}
