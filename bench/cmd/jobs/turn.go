package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// takes is the field with how long the model takes for a request, so that it is the same
// with and without jobs.
const takes = "X-Takes"

// model answers after the time that a request says, or else after one that is drawn.
type model struct {
	base   string
	server *http.Server
	jobs   atomic.Int64 // that it has answered, in all turns
	hold   sync.RWMutex // held while jobs are handed in, so that they wait
}

func startModel(p plan) (*model, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &model{base: "http://" + listener.Addr().String()}
	m.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		took, err := time.ParseDuration(r.Header.Get(takes))
		if err != nil {
			took = p.draw(rand.Float64())
		}
		timer := time.NewTimer(took)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
		if r.Header.Get("Idempotency-Key") != "" {
			m.hold.RLock()
			m.jobs.Add(1)
			m.hold.RUnlock()
		}
		_, _ = io.WriteString(w, "done\n")
	})}
	go func() { _ = m.server.Serve(listener) }() // until stop
	return m, nil
}

// draw is how long the model takes, by a number from 0 to 1.
func (p plan) draw(x float64) time.Duration {
	return p.shortest + time.Duration(x*float64(p.longest-p.shortest))
}

func (m *model) stop() { _ = m.server.Close() }

// setting is what one turn needs.
type setting struct {
	plan
	seed     uint64
	program  string
	model    *model
	handed   *atomic.Int64 // jobs, in all turns
	dir      string
	database string
}

// turn is what was measured in one.
type turn struct {
	took     []time.Duration // of the requests, sorted
	failed   int
	jobsDone float64 // a second
	cpu      float64 // of a core
}

const weirConfig = `
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
telemetry: {log: {level: error}}
shutdown_grace: 1s
callers: {identify: [header], header: X-User-ID, trusted_proxies: [127.0.0.0/8]}
database: {url: %q}
blobs: {url: "dir:%s"}
upstreams:
  model: {targets: [%q], concurrency: %d, timeouts: {first_byte: 10m}}
routes:
  - match: {path: /work}
    upstream: model
    respond_async: allowed
`

// measure starts weir, sees to it that the jobs wait, and sends the requests.
func (s setting) measure(ctx context.Context) (of turn, err error) {
	config := filepath.Join(s.dir, "weir.yaml")
	text := fmt.Sprintf(weirConfig, s.database, filepath.Join(s.dir, "blobs"), s.model.base, s.places)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return of, err
	}
	weir, err := start(ctx, s.program, "serve", "--config", config)
	if err != nil {
		return of, err
	}
	defer weir.stop()
	l := &load{setting: s, base: weir.base, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}, Timeout: patience}}
	defer l.client.CloseIdleConnections()
	if err := l.fill(ctx); err != nil {
		return of, err
	}
	var jobs [2]int64
	var cpu [2]time.Duration
	err = l.send(ctx, func(i int) (err error) {
		jobs[i] = s.model.jobs.Load()
		cpu[i], err = weir.cpu()
		return err
	})
	slices.Sort(l.of.took)
	l.of.jobsDone = float64(jobs[1]-jobs[0]) / s.length.Seconds()
	l.of.cpu = (cpu[1] - cpu[0]).Seconds() / s.length.Seconds()
	return l.of, err
}

// load is the requests of one turn.
type load struct {
	setting
	base   string
	client *http.Client

	mu sync.Mutex
	of turn
}

// fill hands in jobs until as many wait as shall. Those that earlier turns have left are
// still there.
func (l *load) fill(ctx context.Context) error {
	if l.jobs == 0 {
		return nil
	}
	l.model.hold.Lock()
	defer l.model.hold.Unlock()
	const together = 32
	var group sync.WaitGroup
	errs := make([]error, together)
	for worker := range together {
		group.Go(func() {
			for ctx.Err() == nil && errs[worker] == nil && l.handed.Load()-l.model.jobs.Load() < int64(l.jobs) {
				errs[worker] = l.handIn(ctx, fmt.Sprint(l.handed.Add(1)))
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (l *load) handIn(ctx context.Context, key string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.base+"/work", strings.NewReader("a job's work"))
	if err != nil {
		return err
	}
	r.Header.Set("X-User-ID", "nightly")
	r.Header.Set("Prefer", "respond-async")
	r.Header.Set("Idempotency-Key", key)
	resp, err := l.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && resp.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("a job: %s: %.500s", resp.Status, text)
	}
	return err
}

// send sends the requests at their times, which do not depend on the answers to those
// before. It looks at the beginning and at the end of the measured time.
func (l *load) send(ctx context.Context, look func(int) error) error {
	var group sync.WaitGroup
	defer group.Wait()
	source := rand.New(rand.NewPCG(l.seed, 0))
	rate := l.load * float64(l.places) / ((l.shortest + l.longest) / 2).Seconds()
	begin, looked := time.Now(), 0
	for at := time.Duration(0); looked < 2; {
		at += time.Duration(source.ExpFloat64() / rate * float64(time.Second))
		for _, mark := range []time.Duration{l.warm, l.warm + l.length}[looked:] {
			if at < mark {
				break
			}
			if err := until(ctx, begin.Add(mark)); err != nil {
				return err
			}
			if err := look(looked); err != nil {
				return err
			}
			looked++
		}
		if err := until(ctx, begin.Add(at)); err != nil {
			return err
		}
		// From when it was to be sent: a sender that is late hides nothing.
		born, model, measured := begin.Add(at), l.draw(source.Float64()), at >= l.warm && at < l.warm+l.length
		group.Go(func() { l.ask(born, model, measured) })
	}
	return nil
}

func until(ctx context.Context, at time.Time) error {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *load) ask(born time.Time, model time.Duration, measured bool) {
	ok := false
	r, err := http.NewRequest(http.MethodPost, l.base+"/work", strings.NewReader("somebody waits"))
	if err == nil {
		r.Header.Set("X-User-ID", "people")
		r.Header.Set(takes, model.String())
		var resp *http.Response
		if resp, err = l.client.Do(r); err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			ok = err == nil && resp.StatusCode == http.StatusOK
		}
	}
	if !measured {
		return
	}
	took := time.Since(born)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok {
		l.of.failed++
		return
	}
	l.of.took = append(l.of.took, took)
}

// cpu is the CPU time that a process has used, from Linux's /proc.
func (p process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", p.pid, stat)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	return time.Duration(user+system) * tick, err
}
