package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// patience is how long a process may take to begin or to end, and a job to be taken.
const patience = 30 * time.Second

// build makes weir out of what is here.
func build(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/inferweir/weir").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w: run it in the directory bench", err)
	}
	weir := filepath.Join(dir, "weir")
	c := exec.CommandContext(ctx, "go", "build", "-o", weir, "./cmd/weir")
	c.Dir = strings.TrimSpace(string(root))
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return weir, nil
}

// process is a weir.
type process struct {
	base string
	pid  int
	stop func()
}

// start starts weir and waits until it says where it serves.
func start(ctx context.Context, name string, args ...string) (process, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = patience
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return process{}, err
	}
	if err := c.Start(); err != nil {
		return process{}, err
	}
	kill := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	stop := func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		kill.Reset(patience)
		_, _ = io.Copy(io.Discard, out)
		_ = c.Wait()
		kill.Stop()
	}
	serves := regexp.MustCompile(`serves on (http://[^\s/]+)`)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := serves.FindStringSubmatch(lines.Text()); m != nil {
			kill.Stop()
			return process{m[1], c.Process.Pid, stop}, nil
		}
	}
	stop()
	return process{}, fmt.Errorf("%s does not say where it serves", name)
}
