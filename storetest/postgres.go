package storetest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// PostgresServer is a PostgreSQL of its own for a test, on the loopback interface and
// without files that outlive it.
type PostgresServer struct {
	t      testing.TB
	bin    string // where the programs are
	dir    string // the data
	port   int
	as     *syscall.Credential // who runs it; nil: who runs the test
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd is gone
	made   atomic.Int64  // databases
}

// postgresWait is how long a server may take to answer or to stop.
const postgresWait = 60 * time.Second

// Postgres makes a PostgreSQL, starts it, and stops and removes it when the test ends.
// It commits to disk as one in production does. The programs are taken from the PATH or
// from where Debian and Homebrew put them; without them the test fails. Run as root it
// runs as the user postgres, or nobody, because it refuses to run as root.
func Postgres(t testing.TB) *PostgresServer {
	t.Helper()
	s := &PostgresServer{t: t}
	var err error
	if s.bin, err = postgresPrograms(); err != nil {
		t.Fatal(err)
	}
	if s.as, err = postgresUser(); err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir, which another user could not enter.
	if s.dir, err = os.MkdirTemp("", "weir-postgres-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.shutdown()
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	if s.as != nil {
		if err := os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.program("initdb", "-D", s.data(), "-U", "weir", "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if s.port, err = freePort(); err != nil {
			t.Fatal(err)
		}
		if err = s.run(); err == nil {
			return s
		}
		s.Stop()
	}
	t.Fatalf("postgres does not start: %v", err)
	return nil
}

func (s *PostgresServer) data() string { return filepath.Join(s.dir, "data") }

// postgresPrograms is the folder with the programs of the newest PostgreSQL.
func postgresPrograms() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			return filepath.Dir(p), nil
		}
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb", "/opt/homebrew/opt/postgresql@*/bin/initdb", "/usr/local/opt/postgresql@*/bin/initdb"} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		found = append(found, matches...)
	}
	if len(found) == 0 {
		return "", errors.New("PostgreSQL's initdb is neither on the PATH nor below /usr/lib/postgresql: install postgresql (make test does)")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// postgresUser is who runs the server when the test is run by root.
func postgresUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

// command is a program of PostgreSQL, in a group of its own, so that a signal from the
// terminal stops the test first.
func (s *PostgresServer) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=" + s.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.as}
	return cmd
}

func (s *PostgresServer) program(name string, args ...string) error {
	if out, err := s.command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func (s *PostgresServer) run() error {
	log := filepath.Join(s.dir, "log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	cmd := s.command("postgres", "-D", s.data(), "-p", strconv.Itoa(s.port), "-k", s.dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300", "-c", "shared_buffers=32MB", "-c", "log_min_messages=warning")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	deadline := time.After(postgresWait)
	for {
		// By the socket in its own folder: a port may be somebody else's.
		if s.psql("postgres", "SELECT 1") == nil {
			return nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(log)
			return fmt.Errorf("postgres exited: %s", text)
		case <-deadline:
			return fmt.Errorf("postgres on port %d does not answer", s.port)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// psql runs one statement as the owner of everything.
func (s *PostgresServer) psql(database, statement string) error {
	return s.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", s.dir, "-p", strconv.Itoa(s.port), "-U", "weir", "-d", database, "-c", statement)
}

// Addr is host:port.
func (s *PostgresServer) Addr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
}

// URL makes an empty database and returns its URL.
func (s *PostgresServer) URL() string {
	s.t.Helper()
	name := "test" + strconv.FormatInt(s.made.Add(1), 10)
	if err := s.psql("postgres", "CREATE DATABASE "+name); err != nil {
		s.t.Fatal(err)
	}
	return "postgres://weir@" + s.Addr() + "/" + name + "?sslmode=disable"
}

// Exec runs one statement as the superuser in the database of a URL.
func (s *PostgresServer) Exec(url, statement string) {
	s.t.Helper()
	name := url[strings.LastIndexByte(url, '/')+1:]
	name, _, _ = strings.Cut(name, "?")
	if err := s.psql(name, statement); err != nil {
		s.t.Fatal(err)
	}
}

// Stop kills the server and all its processes at once, as a loss of power does, and
// waits until they are gone. What was committed is there again after Start.
func (s *PostgresServer) Stop() {
	if s.cmd == nil {
		return
	}
	select {
	case <-s.exited: // by itself: the port was taken
		s.cmd = nil
		return
	default:
	}
	pids := s.signal(syscall.SIGSTOP)
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-s.exited
	s.cmd = nil
	Eventually(s.t, postgresWait, "every process of the server is gone", func() bool {
		return !slices.ContainsFunc(pids, alive)
	})
}

// shutdown ends the server in a way that leaves no shared memory behind. One that was
// killed has left some, which it finds and removes when it runs again.
func (s *PostgresServer) shutdown() {
	if s.cmd == nil && s.run() != nil {
		s.Stop()
		return
	}
	s.signal(syscall.SIGCONT)
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-s.exited:
		s.cmd = nil
	case <-time.After(postgresWait):
		s.Stop()
	}
}

// Start starts a stopped server again, with its data and on the same port, and waits
// until it answers.
func (s *PostgresServer) Start() {
	s.t.Helper()
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the server and all its processes where they are: the system accepts
// connections for it, and nothing is answered.
func (s *PostgresServer) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *PostgresServer) Resume() { s.signal(syscall.SIGCONT) }

// signal sends sig to the server and to its processes, each of which is a group of its
// own, and returns them. The first one is signalled first: a stopped one starts no more.
func (s *PostgresServer) signal(sig syscall.Signal) []int {
	s.t.Helper()
	first := s.cmd.Process.Pid
	if err := syscall.Kill(first, sig); err != nil {
		s.t.Fatal(err)
	}
	children, err := childrenOf(first)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, pid := range children {
		_ = syscall.Kill(pid, sig) // one that has just ended is none
	}
	return append([]int{first}, children...)
}

// childrenOf lists the processes that a process has started.
func childrenOf(parent int) ([]int, error) {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return childrenInProc(parent)
	}
	var children []int
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(f[0]); err == nil {
				children = append(children, pid)
			}
		}
	}
	return children, nil
}

// childrenInProc is childrenOf for a Linux without ps.
func childrenInProc(parent int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := procStat(pid); len(f) > 1 && f[1] == strconv.Itoa(parent) {
			children = append(children, pid)
		}
	}
	return children, nil
}

// procStat are the state and the further fields of a process on Linux.
func procStat(pid int) []string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
}

// alive says whether a process runs: one whose end nobody has asked for yet does not.
func alive(pid int) bool {
	if f := procStat(pid); len(f) > 0 && f[0] == "Z" {
		return false
	}
	return syscall.Kill(pid, 0) == nil
}
