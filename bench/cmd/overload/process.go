package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// programs are the built ones.
type programs struct{ weir, engine, gate string }

// build makes the programs out of what is here.
func build(ctx context.Context, dir string) (programs, error) {
	p := programs{weir: filepath.Join(dir, "weir"), engine: filepath.Join(dir, "fakeengine"), gate: filepath.Join(dir, "gate")}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/inferweir/weir").Output()
	if err != nil {
		return p, fmt.Errorf("go list: %w: run it in the directory bench", err)
	}
	for _, b := range []struct{ in, out, pkg string }{
		{strings.TrimSpace(string(root)), p.weir, "./cmd/weir"},
		{strings.TrimSpace(string(root)), p.engine, "./cmd/fakeengine"},
		{"", p.gate, "github.com/inferweir/weir/bench/cmd/gate"},
	} {
		c := exec.CommandContext(ctx, "go", "build", "-o", b.out, b.pkg)
		c.Dir = b.in
		if out, err := c.CombinedOutput(); err != nil {
			return p, fmt.Errorf("go build %s: %w\n%s", b.pkg, err, out)
		}
	}
	return p, nil
}

// process is a server of ours. The zero value is none.
type process struct {
	base string
	pid  int
	log  string // the file with what it says on stderr
	stop func()
}

// patience is how long a process may take to begin or to end: a busy machine is not a
// failure.
const patience = 30 * time.Second

// start starts a program and waits until it says where it serves.
func start(ctx context.Context, name string, args ...string) (process, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = patience
	// In a group of its own, so that a signal from the terminal reaches us first.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said := &address{found: make(chan string, 1)}
	c.Stdout = said
	log, err := os.CreateTemp(os.TempDir(), "overload-*.log")
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	c.Stderr = log
	if err := c.Start(); err != nil {
		return process{}, errors.Join(err, os.Remove(log.Name()))
	}
	ended := make(chan struct{})
	go func() { // ends with the process
		_ = c.Wait()
		close(ended)
	}()
	stop := func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = c.Process.Kill()
			<-ended
		}
		_ = os.Remove(log.Name())
	}
	select {
	case base := <-said.found:
		return process{base: base, pid: c.Process.Pid, log: log.Name(), stop: stop}, nil
	case <-ended:
		text, _ := os.ReadFile(log.Name())
		stop()
		return process{}, fmt.Errorf("%s %s ended: %.2000s", name, strings.Join(args, " "), text)
	case <-time.After(patience):
		stop()
		return process{}, fmt.Errorf("%s does not say where it serves", name)
	}
}

// address looks for the first URL that a program prints; what comes after is not kept.
type address struct {
	text  []byte
	found chan string // gets the one address
	done  bool
}

func (a *address) Write(p []byte) (int, error) {
	const most = 64 << 10
	if !a.done && len(a.text) < most {
		a.text = append(a.text, p...)
		if m := regexp.MustCompile(`serves on (http://[^\s/]+)\s`).FindSubmatch(a.text); m != nil {
			a.done = true
			a.found <- string(m[1])
		}
	}
	return len(p), nil
}

func (p programs) startEngine(ctx context.Context, plan plan) (process, error) {
	return start(ctx, p.engine, "--listen", "127.0.0.1:0", "--speed", strconv.FormatFloat(plan.speed, 'g', -1, 64), "--seed", strconv.FormatUint(plan.seed, 10))
}

// gateway is one that is shown.
type gateway struct {
	name  string
	start func(ctx context.Context, engine string) (process, error)
}

// weirConfig is Weir's: target, service level and engine metrics differ. Refusals are
// logged, which says how long they took.
const weirConfig = `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
telemetry: {log: {level: warn}}
callers: {identify: [header], header: X-User-ID, trusted_proxies: [127.0.0.0/8]}
upstreams:
  llm:
    targets: [%q]
    dialect: openai
    slo: {ttft: %v, tpot: %v}%s
routes:
  - match: {path: /v1/*, methods: [POST]}
    upstream: llm
`

// contenders are those that are shown: none, others' ways, and Weir.
func contenders(p programs, dir string, plan plan) []gateway {
	gate := func(name, limit string) gateway {
		return gateway{name, func(ctx context.Context, engine string) (process, error) {
			return start(ctx, p.gate, "--limit", limit, "--places", strconv.Itoa(plan.places), "--target", engine)
		}}
	}
	weir := func(name, engineKey string) gateway {
		return gateway{name, func(ctx context.Context, engine string) (process, error) {
			conf := filepath.Join(dir, "weir.yaml")
			text := fmt.Appendf(nil, weirConfig, engine, plan.scaled(slo.TTFT), plan.scaled(slo.TPOT), engineKey)
			if err := os.WriteFile(conf, text, 0o600); err != nil {
				return process{}, err
			}
			return start(ctx, p.weir, "serve", "-c", conf)
		}}
	}
	all := []gateway{
		{"no gateway", func(_ context.Context, engine string) (process, error) {
			return process{base: engine, stop: func() {}}, nil
		}},
		gate("fixed limit, FIFO", "fifo"),
		gate("adaptive (failsafe-go)", "adaptive"),
		gate("adaptive, queue (failsafe-go)", "adaptive-queue"),
		gate("fixed limit, round robin", "round-robin"),
		weir("Weir, black box", ""),
		weir("Weir, engine metrics", "\n    engine: {kind: vllm, metrics: /metrics}"),
	}
	var chosen []gateway
	for _, g := range all {
		if strings.Contains(g.name, plan.only) {
			chosen = append(chosen, g)
		}
	}
	return chosen
}

// cpu is the CPU time of a process so far, user and system, as the kernel counts it: in
// hundredths of a second. It is 0 for none.
func (p process) cpu() (time.Duration, error) {
	if p.pid == 0 {
		return 0, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name, in parentheses.
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')'):]), " ")
	fields := strings.Fields(rest)
	const user, system, perSecond = 11, 12, 100
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc/%d/stat: %q: want more fields", p.pid, text)
	}
	var ticks int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", p.pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / perSecond), nil
}
