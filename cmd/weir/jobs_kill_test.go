//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestJobsSurviveKills kills weir at any moment while jobs are handed in, run and
// fetched. What was acknowledged is done in the end, once, and done right.
func TestJobsSurviveKills(t *testing.T) {
	t.Parallel()
	weir := programs.path(t, "weir")
	onEachDatabase(t, func(t *testing.T, url string) {
		kills, _ := soak(t)
		k := newKilling(t, weir, url)
		k.kill(t, kills)
		k.start(t)
		k.repeat(t)
		k.awaitEnds(t)
		k.checkDatabase(t)
		k.checkAnswers(t)
		k.problems.report(t)
		k.summarize(t, kills)
	})
}

// kindOf is how the upstream answers a body: most in some bytes, some in more than the
// database takes, some as a stream, and some fail the first time.
func kindOf(body string) string {
	switch sum := sha256.Sum256([]byte(body)); {
	case sum[0] < 32:
		return "large"
	case sum[0] < 64:
		return "stream"
	case sum[0] < 80:
		return "fails once"
	}
	return "small"
}

// answerTo is the one right answer to a body.
func answerTo(body string) string {
	sum := sha256.Sum256([]byte(body))
	text := hex.EncodeToString(sum[:])
	switch kindOf(body) {
	case "large":
		return strings.Repeat(text, 1600)
	case "stream":
		return strings.Repeat("data: "+text+"\n\n", 5)
	}
	return text
}

// worker is the upstream of the jobs.
type worker struct {
	mu    sync.Mutex
	calls map[string]int // by body
}

// serve answers after some time, and remembers that it was asked.
func (w *worker) serve(out http.ResponseWriter, r *http.Request) {
	read, err := io.ReadAll(r.Body)
	if err != nil {
		return // a weir that was killed
	}
	body := string(read)
	w.mu.Lock()
	w.calls[body]++
	first := w.calls[body] == 1
	w.mu.Unlock()
	answer := answerTo(body)
	if !pause(r.Context(), time.Duration(answer[0]-'0')*time.Millisecond/2) {
		return
	}
	switch kindOf(body) {
	case "fails once":
		if first {
			out.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	case "stream":
		out.Header().Set("Content-Type", "text/event-stream")
		for event := range strings.SplitAfterSeq(answer, "\n\n") {
			if _, err := io.WriteString(out, event); err != nil || http.NewResponseController(out).Flush() != nil || !pause(r.Context(), 5*time.Millisecond) {
				return
			}
		}
		return
	}
	_, _ = io.WriteString(out, answer)
}

// killing is callers whose weir is killed, and what they know.
type killing struct {
	weir, config string
	db           *sql.DB
	worker       *worker
	client       *http.Client
	problems     complaints
	seed         uint64

	life   *process
	base   atomic.Value // string: where it serves now
	logged map[string]int

	mu      sync.Mutex
	acked   map[string]string  // IDs of acknowledged jobs, by key
	order   []string           // their keys
	unclear []string           // keys whose answer was lost
	ended   map[string]jobView // as a caller saw them, by ID
}

func newKilling(t *testing.T, weir, url string) *killing {
	t.Helper()
	k := &killing{
		weir: weir, db: openDatabase(t, url), worker: &worker{calls: map[string]int{}}, seed: rand.Uint64(),
		acked: map[string]string{}, ended: map[string]jobView{}, logged: map[string]int{},
	}
	t.Logf("seed %d", k.seed)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	k.client = &http.Client{Transport: transport, Timeout: patience}
	k.config = jobsConfig(t, url, newHook(t, k.worker.serve).URL)
	k.start(t)
	for _, statement := range audit(strings.HasPrefix(url, "sqlite:")) {
		if _, err := k.db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return k
}

// audit has the database itself write down each end of a job, whatever is done to one
// that has ended, and each answer of a job that is completed.
func audit(sqlite bool) []string {
	const table = `CREATE TABLE audit (job TEXT NOT NULL, what TEXT NOT NULL)`
	const ends = "('completed', 'cancelled', 'discarded')"
	const ended = "(OLD.state IN " + ends + " OR NEW.state IN " + ends + ") AND (OLD.state <> NEW.state OR OLD.finished <> NEW.finished)"
	const toState = "INSERT INTO audit VALUES (NEW.id, OLD.state || ' to ' || NEW.state);"
	const toAnswer = "INSERT INTO audit SELECT NEW.job, 'answered' FROM weir_jobs WHERE id = NEW.job AND state = 'completed';"
	if sqlite {
		return []string{
			table,
			"CREATE TRIGGER audit_ends AFTER UPDATE ON weir_jobs WHEN " + ended + " BEGIN " + toState + " END",
			"CREATE TRIGGER audit_answers AFTER INSERT ON weir_job_results BEGIN " + toAnswer + " END",
			"CREATE TRIGGER audit_changes AFTER UPDATE ON weir_job_results BEGIN " + toAnswer + " END",
		}
	}
	return []string{
		table,
		"CREATE FUNCTION audit_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + toState + " RETURN NULL; END $$",
		"CREATE FUNCTION audit_answer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN " + toAnswer + " RETURN NULL; END $$",
		"CREATE TRIGGER audit_ends AFTER UPDATE ON weir_jobs FOR EACH ROW WHEN (" + ended + ") EXECUTE FUNCTION audit_end()",
		"CREATE TRIGGER audit_answers AFTER INSERT OR UPDATE ON weir_job_results FOR EACH ROW EXECUTE FUNCTION audit_answer()",
	}
}

// start starts weir, which others may know from then on.
func (k *killing) start(t *testing.T) {
	t.Helper()
	k.life = start(t, k.config, k.weir)
	k.base.Store(k.life.base)
}

// endLife kills weir, and notes what it said.
func (k *killing) endLife(t *testing.T) {
	t.Helper()
	k.life.kill(t)
	k.readLog()
}

func (k *killing) readLog() {
	for line := range strings.Lines(k.life.stderr.String()) {
		_, message, _ := strings.Cut(line, `"msg":"`)
		message, _, _ = strings.Cut(message, `"`)
		if message != "request" {
			k.logged[message]++
		}
		if strings.Contains(line, "DATA RACE") || strings.Contains(line, "panic") {
			k.problems.add("%s", line)
		}
	}
}

// kill kills weir so often, while callers are at work.
func (k *killing) kill(t *testing.T, times int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	for n := range 4 {
		r := rand.New(rand.NewPCG(k.seed, uint64(n)))
		callers.Go(func() { k.handIns(ctx, n, r) })
	}
	for n := range 2 {
		r := rand.New(rand.NewPCG(k.seed, uint64(100+n)))
		callers.Go(func() { k.fetches(ctx, r) })
	}
	r := rand.New(rand.NewPCG(k.seed, 1000))
	for n := range times {
		if n > 0 {
			k.start(t)
		}
		pause(ctx, time.Duration(r.IntN(400_000))*time.Microsecond)
		k.endLife(t)
	}
}

// bodyOf is the request under a key.
func bodyOf(key string) string { return strings.Repeat(key+" ", 1+len(key)%7*20) }

// handIns hands in jobs until ctx ends.
func (k *killing) handIns(ctx context.Context, caller int, r *rand.Rand) {
	for n := 0; pause(ctx, time.Duration(r.IntN(20_000))*time.Microsecond); n++ {
		key := fmt.Sprintf("caller-%d-%d", caller, n)
		if id, err := k.insist(ctx, key, r); err == nil {
			k.acknowledged(key, id)
			continue
		}
		k.mu.Lock()
		k.unclear = append(k.unclear, key)
		k.mu.Unlock()
	}
}

// insist sends a request until it is acknowledged, or its answer is lost and it is left
// for the end.
func (k *killing) insist(ctx context.Context, key string, r *rand.Rand) (string, error) {
	for {
		id, err := k.handIn(key)
		refused := errors.Is(err, errNotNow) || errors.Is(err, syscall.ECONNREFUSED)
		if err == nil || !refused && r.IntN(2) == 0 || !pause(ctx, time.Duration(r.IntN(20_000))*time.Microsecond) {
			return id, err
		}
	}
}

// handIn is not broken off with the test: what was sent is acknowledged or lost.
func (k *killing) handIn(key string) (string, error) {
	id, err := handIn(context.Background(), k.client, k.base.Load().(string), key, bodyOf(key))
	if w, wrong := errors.AsType[*wrongAnswer](err); wrong {
		k.problems.add("%s", w.text)
	}
	return id, err
}

// acknowledged notes a 202.
func (k *killing) acknowledged(key, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before, again := k.acked[key]
	if again && before != id {
		k.problems.add("%s is job %s, and was job %s", key, id, before)
	}
	if !again {
		k.acked[key] = id
		k.order = append(k.order, key)
	}
}

// fetches looks at acknowledged jobs until ctx ends, and sends some requests again.
func (k *killing) fetches(ctx context.Context, r *rand.Rand) {
	for pause(ctx, time.Duration(r.IntN(10_000))*time.Microsecond) {
		k.mu.Lock()
		n := len(k.order)
		if n == 0 {
			k.mu.Unlock()
			continue
		}
		key := k.order[r.IntN(n)]
		id := k.acked[key]
		k.mu.Unlock()
		if r.IntN(10) == 0 {
			if again, err := k.handIn(key); err == nil {
				k.acknowledged(key, again)
			}
			continue
		}
		k.lookAt(ctx, key, id)
	}
}

// lookAt compares a job with what it was before, and its answer with what is right.
func (k *killing) lookAt(ctx context.Context, key, id string) (done bool) {
	base := k.base.Load().(string)
	j, err := look(ctx, k.client, base, id)
	if w, wrong := errors.AsType[*wrongAnswer](err); wrong {
		k.problems.add("%s: %s", key, w.text)
	}
	if err != nil {
		return false
	}
	k.mu.Lock()
	before, seen := k.ended[id]
	if j.ended() && !seen {
		k.ended[id] = j
	}
	k.mu.Unlock()
	if seen && (j.State != before.State || j.Finished != before.Finished || j.Attempt != before.Attempt) {
		k.problems.add("%s: job %s is %+v, and was %+v", key, id, j, before)
	}
	if !j.ended() {
		return false
	}
	a, err := get(ctx, k.client, base+"/jobs/"+id+"/result")
	if err != nil {
		return false
	}
	if want := answerTo(bodyOf(key)); a.Status != http.StatusOK || a.Body != want {
		k.problems.add("%s: the result of job %s is %d %.200q, want %.100q in %d bytes", key, id, a.Status, a.Body, want, len(want))
	}
	return true
}

// repeat sends again what nobody knows of, and some of what was acknowledged. What the
// database has under a key is what the key stays.
func (k *killing) repeat(t *testing.T) {
	t.Helper()
	kept := k.idsByKey(t)
	acked, missing, lost := len(k.acked), 0, 0
	for key, id := range k.acked {
		if kept[key] != id {
			k.problems.add("%s was acknowledged as job %s; the database has %q", key, id, kept[key])
			lost++
		}
	}
	for _, key := range append(slices.Clone(k.unclear), k.order[:min(len(k.order), 200)]...) {
		id, err := k.handIn(key)
		if err != nil {
			t.Fatalf("%s, sent again after the last start: %v", key, err)
		}
		if before, ok := kept[key]; !ok {
			missing++
		} else if before != id {
			k.problems.add("%s, sent again, is job %s; the database had %s", key, id, before)
		}
		k.acknowledged(key, id)
	}
	t.Logf("%d jobs were acknowledged, %d of them lost; of %d requests whose answer was lost %d were kept", acked, lost, len(k.unclear), len(k.unclear)-missing)
}

func (k *killing) idsByKey(t *testing.T) map[string]string {
	t.Helper()
	kept := map[string]string{}
	rows(t, k.db, func(scan func(...any) error) error {
		var key, id string
		err := scan(&key, &id)
		if before, twice := kept[key]; twice {
			k.problems.add("%s is two jobs: %s and %s", key, before, id)
		}
		kept[key] = id
		return err
	}, "SELECT idempotency_key, id FROM weir_jobs")
	return kept
}

// awaitEnds waits until nothing runs and nothing waits: the last leases of the killed
// must run out first.
func (k *killing) awaitEnds(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Minute)
	defer stop()
	begin := time.Now()
	for {
		left := number(t, k.db, "SELECT count(*) FROM weir_jobs WHERE state NOT IN ('completed', 'discarded', 'cancelled')")
		if left == 0 {
			t.Logf("all had ended %s after the last start", time.Since(begin).Round(time.Second))
			return
		}
		if !pause(ctx, 100*time.Millisecond) {
			t.Fatalf("%d jobs have not ended; stderr:\n%s", left, &k.life.stderr)
		}
	}
}

// checkDatabase compares what the database has, and has seen, with what callers know.
func (k *killing) checkDatabase(t *testing.T) {
	t.Helper()
	if kept := k.idsByKey(t); !maps.Equal(kept, k.acked) {
		k.problems.add("the database has %d jobs, want the %d that are known", len(kept), len(k.acked))
	}
	seen := map[string][]string{}
	rows(t, k.db, func(scan func(...any) error) error {
		var id, what string
		err := scan(&id, &what)
		seen[id] = append(seen[id], what)
		return err
	}, "SELECT job, what FROM audit ORDER BY job, what")
	want := []string{"answered", "running to completed"}
	for key, id := range k.acked {
		if !slices.Equal(seen[id], want) {
			k.problems.add("%s: job %s went through %q, want %q", key, id, seen[id], want)
		}
	}
}

// checkAnswers fetches all of them.
func (k *killing) checkAnswers(t *testing.T) {
	t.Helper()
	var callers sync.WaitGroup
	for n := range 4 {
		callers.Go(func() {
			for i := n; i < len(k.order); i += 4 {
				if key := k.order[i]; !k.lookAt(t.Context(), key, k.acked[key]) {
					k.problems.add("%s: job %s has not ended, or cannot be fetched", key, k.acked[key])
				}
			}
		})
	}
	callers.Wait()
}

// summarize says what happened, for whoever wants to know how hard the test was.
func (k *killing) summarize(t *testing.T, kills int) {
	t.Helper()
	k.readLog()
	attempts := map[int]int{}
	rows(t, k.db, func(scan func(...any) error) error {
		var attempt, jobs int
		err := scan(&attempt, &jobs)
		attempts[attempt] = jobs
		return err
	}, "SELECT attempt, count(*) FROM weir_jobs GROUP BY attempt")
	calls, twice := 0, 0
	k.worker.mu.Lock()
	defer k.worker.mu.Unlock()
	for body, n := range k.worker.calls {
		calls += n
		if kindOf(body) == "fails once" {
			n--
		}
		if n > 1 {
			twice++
		}
	}
	t.Logf("%d kills, %d jobs, by the number of attempts %v; %d calls, %d jobs were run more than once; the log: %v", kills, len(k.acked), attempts, calls, twice, k.logged)
}
