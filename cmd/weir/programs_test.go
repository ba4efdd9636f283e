package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programs are the programs that tests start: made by the first that wants one, and
// for all of them.
var programs builds

type builds struct {
	once sync.Once
	dir  string
	err  error
}

// path is where a program is: weir or fakeengine.
func (b *builds) path(t *testing.T, name string) string {
	t.Helper()
	b.once.Do(b.build)
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, name)
}

func (b *builds) build() {
	if b.dir, b.err = os.MkdirTemp("", "weir-programs-"); b.err != nil {
		return
	}
	if out, err := exec.Command("go", "build", "-o", b.dir+string(filepath.Separator), ".", "../fakeengine").CombinedOutput(); err != nil {
		b.err = fmt.Errorf("go build: %w\n%s", err, out)
	}
}

// remove is for the end of all tests.
func (b *builds) remove() error {
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}
