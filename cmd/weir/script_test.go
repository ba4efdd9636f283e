package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakFree{m}, map[string]func(){"weir": main})
}

// leakFree fails when a test leaves a goroutine behind.
type leakFree struct{ m *testing.M }

func (l leakFree) Run() int {
	// Most tests wait, for processes and for time to pass: twice as many of them as there
	// are processors may do so at once, where -parallel says nothing else.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := l.m.Run()
	if err := programs.remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if status != 0 {
		return status
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestScripts runs the commands as processes, as a shell does.
func TestScripts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // after the scripts, which run in parallel
	model := newEcho(t)
	weir := serve(t, model.config())
	admin := newFakeAdmin(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("TAKEN", taken.Addr().String())
			e.Setenv("WEIR", weir.base)
			e.Setenv("ADMIN", weir.admin)
			e.Setenv("FAKE_ADMIN", admin.URL)
			e.Setenv("WEIR_ADMIN_TOKEN", "")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command otherwise
			return nil
		},
		Condition: exists,
		Cmds:      map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits is the scripts' command "exits STATUS COMMAND [ARGUMENT...]".
func exits(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// exists is the scripts' condition [exists:FILE], for devices that not every
// system has.
func exists(condition string) (bool, error) {
	name, ok := strings.CutPrefix(condition, "exists:")
	if !ok {
		return false, fmt.Errorf("unknown condition %q: want exists:FILE", condition)
	}
	_, err := os.Stat(name)
	return err == nil, nil
}
