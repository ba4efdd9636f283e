package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

func TestAFileIsReadAgainWhenTwoLooksAgree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.yaml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	first, err := digestOf(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{file: file(path), models: newModels(), last: first, seen: first}
	look := func(when string, want bool) {
		t.Helper()
		if got := r.look(); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	look("nothing has changed", false)
	put("half of tw")
	look("it has just changed", false)
	put("two")
	look("it has changed again", false)
	look("it is as it was a moment ago", true)
	if _, err := r.load(); err == nil { // what is in it is no configuration
		t.Error("it was taken for a configuration")
	}
	look("it was read, and is no better since", false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	look("it is gone", false)
	look("it is gone still", false)
	put("two")
	look("it is back as it was", false)
	put("three")
	look("changed", false)
	look("stable", true)
}

// limited is a configuration with this quota an hour. Nothing listens at its upstream.
func limited(quota int) string {
	return fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
plans: {default: {policies: [%d/hour]}}
upstreams: {u: {targets: ["http://127.0.0.1:1"]}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, quota)
}

// A directory whose links are exchanged is how Kubernetes brings a new configuration.
func TestAFileBehindLinksIsWatched(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := 0
	bring := func(text string) {
		t.Helper()
		version++
		data := filepath.Join(dir, fmt.Sprintf("..version%d", version))
		link := filepath.Join(dir, "..next")
		for _, err := range []error{os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "weir.yaml"), []byte(text), 0o600), os.Symlink(data, link), os.Rename(link, filepath.Join(dir, "..data"))} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	bring(limited(5))
	path := filepath.Join(dir, "weir.yaml")
	if err := os.Symlink(filepath.Join("..data", "weir.yaml"), path); err != nil {
		t.Fatal(err)
	}
	s := serveFile(t, path)
	has := func(what string, quota int, successful string) {
		t.Helper()
		eventually(t, what, func() bool {
			policy := fmt.Sprintf(`"default";q=%d;w=3600`, quota)
			return s.get(t, "/").Header.Get("Ratelimit-Policy") == policy &&
				strings.Contains(fetch(t, s.client, s.admin+"/metrics").Body, "weir_config_last_reload_successful "+successful+"\n")
		})
	}
	has("the first is in force", 5, "1")
	bring(limited(7))
	has("the second is in force", 7, "1")
	bring(strings.Replace(limited(9), "plans:", "planes:", 1))
	has("a broken one is not in force, and the metric says so", 7, "0")
	bring(limited(9))
	has("the next is in force", 9, "1")
}

// serveFile runs "weir serve" with the file at path, in this process.
func serveFile(t *testing.T, path string) *inProcess {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &inProcess{signal: cancel, status: make(chan int, 1)}
	go func() { s.status <- run(ctx, []string{"serve", "-c", path}, output{&s.stdout, &s.stderr}) }()
	t.Cleanup(func() { s.stop(t) })
	s.introduced(t)
	return s
}

func TestAHangupWithoutAFileSaysThatThereIsNone(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("test.yaml", []byte(limited(5)), nil)
	if err != nil {
		t.Fatal(err)
	}
	var log transcript
	s, err := prepare("", cfg, gateway.Options{}, output{&transcript{}, &log})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, stop := context.WithCancel(t.Context())
	hangup := make(chan os.Signal)
	var wg sync.WaitGroup
	wg.Go(func() { s.reload(ctx, hangup) })
	hangup <- syscall.SIGHUP
	log.await(t, "there is no configuration file to reload")
	stop()
	wg.Wait()
}
