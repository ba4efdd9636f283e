package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"
)

// line is what one gateway made of a load.
type line struct {
	gateway string
	// Of the load's first callers: how many requests, which share was inside the
	// service level, and the 95th percentile of the time to the first token from
	// when the first attempt was to be sent, of those that got one.
	requests int
	good     float64
	p95      time.Duration
	// Of all callers, in parts of what the engine can do: work complete, and inside
	// the service level.
	completed, inSLO float64
	// Refusals, and how long they took: as the client sees it, with the wait in the queue
	// of those that were refused after one; and by the gateway's own log without that
	// wait, where it has one.
	refused              int
	refusal99            time.Duration
	logged               bool
	decided50, decided99 time.Duration
	attempts, failures   int
	cpu                  time.Duration // of the gateway, for each attempt; 0: no gateway
	late                 time.Duration // the latest that a request was sent after its time
	engine               engineReport
}

// engineReport is what of fakeengine's counts is shown.
type engineReport struct {
	Lag float64 `json:"lag_ms"` // behind its clock
}

func engineStats(ctx context.Context, base string) (e engineReport, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/debug/stats", nil)
	if err != nil {
		return e, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return e, err
	}
	defer resp.Body.Close()
	return e, json.NewDecoder(resp.Body).Decode(&e)
}

func cost(q *request) float64 { return float64(q.input) + 2*float64(q.output) }

// good reports whether q had the service level, as far as can be seen at the end: the
// first token came in time, and the others did until then.
func (r *runner) good(q *request, now time.Duration) bool {
	ttft, tpot := r.plan.scaled(slo.TTFT), r.plan.scaled(slo.TPOT)
	if q.tokens == 0 || q.first-q.born > ttft {
		return false
	}
	if q.done {
		return q.tokens == 1 || q.last-q.first <= time.Duration(q.tokens-1)*tpot
	}
	return now-q.first <= time.Duration(q.tokens+1)*tpot
}

func (r *runner) summarize() line {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := line{attempts: r.attempts, failures: r.failures, late: r.late, engine: r.engine}
	room := r.load.Capacity * r.plan.length.Seconds()
	end := r.plan.warm + r.plan.length + r.plan.scaled(5*time.Second)
	var firsts []time.Duration
	good := 0
	for _, q := range r.requests {
		if q.done && r.measured(q.last) {
			l.completed += cost(q) / room
		}
		if !r.measured(q.born) {
			continue
		}
		ok := r.good(q, end)
		if ok {
			l.inSLO += cost(q) / room
		}
		if q.kind != 0 {
			continue
		}
		l.requests++
		if ok {
			good++
		}
		if q.tokens > 0 {
			firsts = append(firsts, q.first-q.born)
		}
	}
	l.good = float64(good) / float64(max(1, l.requests))
	l.p95 = quantile(firsts, 0.95)
	var took []time.Duration
	for _, f := range r.refusals {
		if !r.measured(f.at) {
			continue
		}
		took = append(took, f.took)
	}
	l.refused, l.refusal99 = len(took), quantile(took, 0.99)
	l.cpu = r.cpu / time.Duration(max(1, r.attempts))
	return l
}

// quantile is the q-th of all, 0 of none. It sorts them.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

// decisions are how long the gateway worked on refusals, by its access log: without the
// wait in the queue. What is no line of that is passed over.
func decisions(log io.Reader) (all []time.Duration) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		var entry struct {
			Status   int     `json:"status"`
			Duration float64 `json:"duration_ms"`
			Queue    float64 `json:"queue_ms"`
		}
		if json.Unmarshal(lines.Bytes(), &entry) != nil || entry.Status != http.StatusServiceUnavailable {
			continue
		}
		all = append(all, time.Duration(max(0, entry.Duration-entry.Queue)*float64(time.Millisecond)))
	}
	return all
}

func writeTable(out io.Writer, lines []line) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "normal in SLO\tp95 TTFT\tcompleted\tin SLO\trefused\trefusal p99\tdecided p50\tp99\tfailed\tCPU/attempt\tattempts\tlate\tengine late\t  gateway")
	for _, l := range lines {
		fmt.Fprintf(t, "%.1f %% of %d\t%s\t%.0f %%\t%.0f %%\t%d\t%s\t%s\t%s\t%d\t%s\t%d\t%s\t%.0f ms\t  %s\n",
			100*l.good, l.requests, some(l.p95 > 0, l.p95), 100*l.completed, 100*l.inSLO,
			l.refused, some(l.refused > 0, l.refusal99), some(l.logged, l.decided50), some(l.logged, l.decided99),
			l.failures, some(l.cpu > 0, l.cpu), l.attempts, ms(l.late), l.engine.Lag, l.gateway)
	}
	return t.Flush()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

func some(there bool, d time.Duration) string {
	if !there {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", d.Seconds()*1000)
}
