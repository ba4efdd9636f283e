package storetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RedisServer is a redis-server of its own for a test, on the loopback interface
// and without files that outlive it.
type RedisServer struct {
	t      testing.TB
	binary string
	dir    string
	port   int
	args   []string
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd is gone
}

// redisWait is how long a server may take to answer.
const redisWait = 60 * time.Second

// Redis starts a redis-server and stops it when the test ends. args are further
// options of its command line. Without redis-server on the PATH the test fails.
func Redis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redis-server is not on the PATH: install redis-server (make test does)")
	}
	s := &RedisServer{t: t, binary: binary, dir: t.TempDir(), args: args}
	t.Cleanup(s.Stop)
	for range 10 {
		if s.port, err = freePort(); err != nil {
			t.Fatal(err)
		}
		if err = s.run(); err == nil {
			return s
		}
		s.Stop()
	}
	t.Fatalf("redis-server does not start: %v", err)
	return nil
}

// freePort is a port that was free a moment ago, with room for the cluster's
// bus, which listens 10000 above.
func freePort() (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if port < 55000 {
			return port, nil
		}
	}
	return 0, errors.New("no free port below 55000")
}

func (s *RedisServer) run() error {
	args := []string{
		"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--logfile", filepath.Join(s.dir, "log"),
		"--maxmemory", "64mb", "--maxmemory-policy", "noeviction",
		"--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
	}
	return s.start(append(args, s.args...))
}

func (s *RedisServer) start(args []string) error {
	cmd := exec.Command(s.binary, args...)
	// In a group of its own, so that a signal from the terminal stops the test first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	deadline := time.After(redisWait)
	for {
		if answer, err := s.Do("PING"); err == nil && answer == "PONG" {
			// Another server may have the port: then ours is about to exit.
			if pid, err := s.pid(); err != nil || pid != cmd.Process.Pid {
				return fmt.Errorf("port %d is somebody else's", s.port)
			}
			return nil
		}
		select {
		case <-exited:
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("redis-server exited: %s", log)
		case <-deadline:
			return fmt.Errorf("redis-server on port %d does not answer", s.port)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (s *RedisServer) pid() (int, error) {
	info, err := s.Do("INFO", "server")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(info, "process_id:")
	text, _, _ := strings.Cut(rest, "\r\n")
	return strconv.Atoi(text)
}

// Addr is host:port.
func (s *RedisServer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL is the server's first database.
func (s *RedisServer) URL() string { return "redis://" + s.Addr() + "/0" }

// Stop kills the server, which loses everything, and waits until it is gone.
func (s *RedisServer) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// Start starts a stopped server again, empty, on the same port.
func (s *RedisServer) Start() {
	s.t.Helper()
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the server where it is: it accepts connections and answers nothing.
func (s *RedisServer) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *RedisServer) Resume() { s.signal(syscall.SIGCONT) }

func (s *RedisServer) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Do sends one command on a connection of its own. Lists come back as lines; an
// error of the server is an error.
func (s *RedisServer) Do(args ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Addr(), redisWait)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(redisWait)); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return "", err
	}
	return readRESP(bufio.NewReader(conn), 0)
}

// MustDo is Do for what can not fail.
func (s *RedisServer) MustDo(args ...string) string {
	s.t.Helper()
	answer, err := s.Do(args...)
	if err != nil {
		s.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return answer
}

// The bounds of an answer.
const (
	maxRESPDepth = 8
	maxRESPSize  = 64 << 20
)

// readRESP reads an answer of the protocol RESP2.
func readRESP(r *bufio.Reader, depth int) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" || depth > maxRESPDepth {
		return "", fmt.Errorf("unexpected answer %q", line)
	}
	rest := line[1:]
	switch line[0] {
	case '+', ':':
		return rest, nil
	case '-':
		return "", errors.New(rest)
	case '$', '*':
		n, err := strconv.Atoi(rest)
		if err != nil || n > maxRESPSize {
			return "", fmt.Errorf("unexpected answer %q", line)
		}
		if line[0] == '*' {
			return readList(r, n, depth)
		}
		if n < 0 {
			return "", nil
		}
		text := make([]byte, n+2)
		if _, err := io.ReadFull(r, text); err != nil {
			return "", err
		}
		return string(text[:n]), nil
	}
	return "", fmt.Errorf("unexpected answer %q", line)
}

func readList(r *bufio.Reader, n, depth int) (string, error) {
	var lines []string
	for range n {
		item, err := readRESP(r, depth+1)
		if err != nil {
			return "", err
		}
		lines = append(lines, item)
	}
	return strings.Join(lines, "\n"), nil
}

// ReplicaOf makes s a replica of master and waits until it has its data.
func (s *RedisServer) ReplicaOf(master *RedisServer) {
	s.t.Helper()
	s.MustDo("REPLICAOF", "127.0.0.1", strconv.Itoa(master.port))
	Eventually(s.t, redisWait, "the replica has its master's data", func() bool {
		info, err := s.Do("INFO", "replication")
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
}

// Promote makes s a master.
func (s *RedisServer) Promote() {
	s.t.Helper()
	s.MustDo("REPLICAOF", "NO", "ONE")
}

// RedisCluster starts a Redis Cluster of so many masters, each with its part of
// the slots in ascending order.
func RedisCluster(t testing.TB, masters int) []*RedisServer {
	t.Helper()
	const slots = 16384
	all := make([]*RedisServer, masters)
	for i := range all {
		all[i] = Redis(t, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000")
		all[i].MustDo("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		all[i].MustDo("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
	}
	for _, s := range all[1:] {
		all[0].MustDo("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(s.port))
	}
	for _, s := range all {
		Eventually(t, redisWait, "the cluster agrees on its slots", func() bool {
			info, err := s.Do("CLUSTER", "INFO")
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", masters))
		})
	}
	return all
}

// RedisSentinel starts a sentinel that watches master under the name "mymaster"
// and replaces it when it is away for half a second.
func RedisSentinel(t testing.TB, master *RedisServer) *RedisServer {
	t.Helper()
	s := &RedisServer{t: t, binary: master.binary, dir: t.TempDir()}
	t.Cleanup(s.Stop)
	var err error
	for range 10 {
		if s.port, err = freePort(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(s.dir, "sentinel.conf")
		text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nlogfile %s\nsentinel monitor mymaster 127.0.0.1 %d 1\n"+
			"sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 5000\n",
			s.port, s.dir, filepath.Join(s.dir, "log"), master.port)
		if err = os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err = s.start([]string{file, "--sentinel"}); err == nil {
			return s
		}
		s.Stop()
	}
	t.Fatalf("the sentinel does not start: %v", err)
	return nil
}
