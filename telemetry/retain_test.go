package telemetry_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

// countAll counts one of everything under the names.
func countAll(m *telemetry.Metrics, route, upstream, scope, policy string) {
	m.RequestStarted(route)
	m.Observe(&telemetry.Entry{
		Route: route, Method: "POST", Status: 200, Duration: time.Second, FirstByte: time.Second / 2, Stream: true, Model: "m",
		Usage: weir.Usage{Input: 3, Output: 5}, CacheResult: telemetry.ResultMiss, Saved: time.Second, SavedTokens: 2,
	}, false)
	m.RequestStarted(route)
	m.Observe(&telemetry.Entry{Route: route, Method: "GET", Status: 503, Refused: telemetry.RefusedUpstream}, false)
	m.Upstream(upstream, telemetry.ResultOK, time.Second, time.Second)
	m.UpstreamAnswer(upstream, 200)
	m.Admitted(upstream, time.Second)
	m.Decision(scope, policy, telemetry.ResultDenied)
}

func named(name string) telemetry.Labels {
	return telemetry.Labels{Routes: []string{name}, Upstreams: []string{name}, Policies: map[string][]string{name: {name}}}
}

// weirs is the page without the metrics of the runtime and of the process.
func weirs(m *telemetry.Metrics) string {
	var b strings.Builder
	for line := range strings.Lines(scrape(m)) {
		if strings.HasPrefix(line, "weir_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestMetricsForgetNames(t *testing.T) {
	t.Run("nothing is left of a name that is gone, whatever it counted", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		before := weirs(m)
		for i := range 200 {
			name := fmt.Sprint("name-", i)
			m.Extend(named(name))
			countAll(m, name, name, name, name)
			m.Retain(labels())
		}
		if after := weirs(m); after != before {
			t.Errorf("the page is\n%s\nwant\n%s", after, before)
		}
	})
	t.Run("what stays keeps its counts, and what comes back starts at 0", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		fresh := weirs(telemetry.NewMetrics("v1", labels()))
		countAll(m, "chat", "llm", "pro", "daily")
		before := weirs(m)
		m.Retain(labels())
		if after := weirs(m); after != before {
			t.Errorf("the page is\n%s\nwant\n%s", after, before)
		}
		m.Retain(telemetry.Labels{})
		m.Extend(labels())
		if after := weirs(m); after != fresh {
			t.Errorf("the page is\n%s\nwant\n%s", after, fresh)
		}
		countAll(m, "chat", "llm", "pro", "daily")
		if after := counted(m); !strings.Contains(after, `weir_gateway_tokens_total{kind="input",model="m",route="chat"} 3`+"\n") ||
			!strings.Contains(after, `weir_gateway_requests_total{method="POST",route="chat",status="200"} 1`+"\n") {
			t.Errorf("after it came back: %s", after)
		}
	})
	t.Run("a policy goes without its plan", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", labels())
		m.Retain(telemetry.Labels{Routes: []string{"chat"}, Upstreams: []string{"llm"}, Policies: map[string][]string{"pro": nil}})
		m.Decision("pro", "daily", telemetry.ResultDenied)
		if got, want := counted(m), `weir_ratelimit_decisions_total{policy="other",result="denied",scope="pro"} 1`+"\n"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("what is told late counts as other", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", telemetry.Labels{})
		want := telemetry.NewMetrics("v1", telemetry.Labels{})
		m.Extend(labels())
		m.Retain(telemetry.Labels{})
		countAll(m, "chat", "llm", "pro", "daily")
		countAll(want, telemetry.Other, telemetry.Other, telemetry.Other, telemetry.Other)
		if got, want := weirs(m), weirs(want); got != want {
			t.Errorf("the page is\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("gone names make room for others, models too", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", telemetry.Labels{})
		var many telemetry.Labels
		for i := range 5000 {
			many.Routes = append(many.Routes, fmt.Sprint("r", i))
		}
		m.Extend(many)
		for i := range 100 {
			m.Tokens("r0", fmt.Sprint("model-", i), weir.Usage{Input: 1})
		}
		m.Extend(telemetry.Labels{Routes: []string{"chat"}})
		m.Retain(telemetry.Labels{Routes: []string{"chat"}})
		m.Tokens("chat", "llama", weir.Usage{Input: 7})
		if got, want := counted(m), `weir_gateway_tokens_total{kind="input",model="llama",route="chat"} 7`+"\n"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("nothing is made of a gone name by those who still count", func(t *testing.T) {
		m := telemetry.NewMetrics("v1", telemetry.Labels{})
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for i := range 3 {
			wg.Go(func() {
				for n := i; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprint("name-", n%3)
					m.Cache(name, telemetry.ResultHit)
					m.Tokens(name, fmt.Sprint("model-", n%5), weir.Usage{Input: 1})
					m.Upstream(name, telemetry.ResultOK, 1, 1)
					m.Decision(name, name, telemetry.ResultAllowed)
					m.RequestStarted(name)
					m.RequestDone(name, "GET", 200+n%100, time.Second)
				}
			})
		}
		for i := range 300 {
			m.Extend(named(fmt.Sprint("name-", i%3)))
			m.Retain(telemetry.Labels{})
		}
		close(stop)
		wg.Wait()
		if got := scrape(m); strings.Contains(got, "name-") {
			t.Errorf("something is left: %s", got)
		}
	})
}
