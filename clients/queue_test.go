package clients_test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// serveQueue serves Weir in front of a model with one place for each API. queue is
// how an upstream's further settings go on.
func serveQueue(t *testing.T, queue string) (*standIn, *process) {
	t.Helper()
	model, admin := newStandIn(), closedPort(t)
	t.Cleanup(model.Close)
	return model, serve(t, fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: %[1]q}
upstreams:
  openai: {targets: [%[3]q], dialect: openai, concurrency: 1, %[4]s}
  anthropic: {targets: [%[3]q], dialect: anthropic, concurrency: 1, %[4]s}
  ollama: {targets: [%[3]q], dialect: ollama, concurrency: 1, %[4]s}
  free: {targets: [%[3]q], dialect: plain}
  admin: {targets: [%[2]q], dialect: plain}
routes:
  - {match: {path: /v1/messages}, upstream: anthropic}
  - {match: {path: /v1/*}, upstream: openai}
  - {match: {path: /api/*}, upstream: ollama}
  - {match: {path: /free/*}, upstream: free}
  - {match: {path: /metrics}, upstream: admin}
`, strings.TrimPrefix(admin, "http://"), admin, model.URL, queue))
}

// models are those that the model server was asked for, in order.
func (s *standIn) models(credential string) []string {
	var all []string
	for _, a := range s.from(credential) {
		body, _ := a.Body.(object)
		name, _ := body["model"].(string)
		all = append(all, name)
	}
	return all
}

// scenarios are the names of those of a group.
func (all outcomes) scenarios(t *testing.T, group string) []string {
	t.Helper()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if before, after, _ := strings.Cut(name, ": "); before == group {
			names = append(names, after)
		}
	}
	if len(names) == 0 {
		t.Fatalf("no scenario of %q", group)
	}
	return names
}

// holder is the model of the requests that take the place, asks that of the others.
const holder, asks = "held-after-1", "m"

// checkModels wants that the model server was asked for the holder's model and then
// for the other one, n times: of what is refused it knows nothing.
func checkModels(t *testing.T, model *standIn, other []string, n int) {
	t.Helper()
	want := slices.Repeat(append([]string{holder}, other...), n)
	if got := model.models("sk-queue"); !slices.Equal(got, want) {
		t.Errorf("the model was asked for %q, want %q", got, want)
	}
}

// TestQueued has streams of each client wait in the queue: each reads what it would
// have read had there been room.
func TestQueued(t *testing.T) {
	t.Parallel()
	for _, client := range clients() {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			_, weir := serveQueue(t, "queue: {max_wait: 1m, keepalive_after: 100ms}")
			all := runScript(t, client, weir.base, "sk-queue", "direct", "queued")
			for _, name := range all.scenarios(t, "queued") {
				d, o := all.get(t, "direct: "+name), all.get(t, "queued: "+name)
				if d.Error != nil || d.Value == nil {
					t.Fatalf("%s: with room: %s%s: the stand-in is wrong", name, describe(d.Error), short(d.Value))
				}
				if o.Error != nil || !reflect.DeepEqual(o.Value, d.Value) || o.Before != d.Before {
					t.Errorf("%s: %s%d parts %s\nwith room: %d parts %s", name, describe(o.Error), o.Before, short(o.Value), d.Before, short(d.Value))
				}
				least := 3
				if client == "ollama" {
					least = 0
				}
				checkHeard(t, client, o, least)
			}
		})
	}
}

// checkHeard wants at least so many comments, and nothing else before the first
// event. Where lines of JSON are read there are none.
func checkHeard(t *testing.T, client string, o outcome, least int) {
	t.Helper()
	comments := strings.Count(o.Heard, ": queued\n\n")
	if client == "ollama" && comments > 0 || comments < least || o.Heard != strings.Repeat(": queued\n\n", comments) || len(o.Attempts) != 1 {
		t.Errorf("%s: after %v came %q, want one attempt and at least %d comments", o.Name, o.statuses(), o.Heard, least)
	}
}

// TestShed has streams of each client wait in vain: what they are told in a stream
// that has begun is an error, and not an end.
func TestShed(t *testing.T) {
	t.Parallel()
	for _, client := range clients() {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			model, weir := serveQueue(t, "queue: {max_wait: 1s, keepalive_after: 50ms}")
			all := runScript(t, client, weir.base, "sk-queue", "shed")
			names := all.scenarios(t, "shed")
			for _, name := range names {
				o := all.get(t, "shed: "+name)
				checkShed(t, client, o)
				least, status := 1, http.StatusOK
				if client == "ollama" {
					least, status = 0, http.StatusServiceUnavailable
				}
				checkHeard(t, client, o, least)
				if !slices.Equal(o.statuses(), []int{status}) {
					t.Errorf("%s: the attempts had %v, want %d", name, o.statuses(), status)
				}
			}
			checkModels(t, model, nil, len(names))
		})
	}
}

func checkShed(t *testing.T, client string, o outcome) {
	t.Helper()
	class := map[string]string{
		"openai": "APIError", "anthropic": "APIError", "ai": "APICallError", "langchain": "APIError", "ollama": "ResponseError",
	}[client]
	e := o.Error
	if e == nil || e.Class != class || !e.says(client, "The model is busy") || o.Before != 0 || o.Value != nil {
		t.Errorf("%s: %safter %d parts %s, want %s with a text about it", o.Name, describe(e), o.Before, short(o.Value), class)
		return
	}
	switch client {
	case "openai", "langchain":
		if e.Code != "server_is_overloaded" {
			t.Errorf("%s: code %v, want server_is_overloaded", o.Name, e.Code)
		}
	case "anthropic":
		if e.Type != "overloaded_error" {
			t.Errorf("%s: type %v, want overloaded_error", o.Name, e.Type)
		}
	case "ai":
		if e.Retryable == nil || !*e.Retryable {
			t.Errorf("%s: it counts as final", o.Name)
		}
	}
}

// refusal is the status of Weir's refusals to a request of a client's, by its path.
func refusal(client, scenario string) int {
	if client == "anthropic" || client == "ai" && strings.Contains(scenario, "message") {
		return 529
	}
	return http.StatusServiceUnavailable
}

// TestComesBack has each client refused, with the time to come back: it does, then
// and once, and the model is asked once.
func TestComesBack(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"openai", "anthropic", "ai", "langchain"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			checkComesBack(t, client, "queue: {max: 0}", "returns", 0)
		})
	}
	for _, client := range []string{"openai", "anthropic"} {
		t.Run(client+", where 429 is asked for", func(t *testing.T) {
			t.Parallel()
			checkComesBack(t, client, "queue: {max: 0, status: 429}", "returns-once", http.StatusTooManyRequests)
		})
	}
}

// checkComesBack runs a group of scenarios. A status of 0 is the one that is usual
// for refusals.
func checkComesBack(t *testing.T, client, queue, group string, status int) {
	t.Helper()
	model, weir := serveQueue(t, queue)
	all := runScript(t, client, weir.base, "sk-queue", group)
	names := all.scenarios(t, group)
	for _, name := range names {
		o := all.get(t, group+": "+name)
		if o.Error != nil || o.Value == nil {
			t.Errorf("%s: %s%s", name, describe(o.Error), short(o.Value))
		}
		wait := told(t, client, o.Attempts[0])
		if wait < 1000 {
			t.Errorf("%s: told to come back after %.0f ms, want at least a second", name, wait)
		}
		checkWait(t, o, cmp.Or(status, refusal(client, name)), wait)
	}
	checkModels(t, model, []string{asks}, len(names))
}

// TestTimeouts has clients with a timeout wait for longer than that: they are told
// before it is over, and what they tell is the same each time.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"openai", "anthropic"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			var model *standIn
			var all outcomes
			for range 10 { // where the machine stands still, a client may not wait for its answer
				var weir *process
				model, weir = serveQueue(t, "queue: {max_wait: 1m, keepalive_after: 0s}")
				if all = runScript(t, client, weir.base, "sk-queue", "timeouts"); !all.gaveUp() {
					break
				}
			}
			names := all.scenarios(t, "timeouts")
			for _, name := range names {
				o := all.get(t, "timeouts: "+name)
				if o.Error != nil || o.Value == nil {
					t.Errorf("%s: %s%s", name, describe(o.Error), short(o.Value))
				}
				checkWait(t, o, refusal(client, name), told(t, client, o.Attempts[0]))
				for i, a := range o.Attempts {
					// Seconds, without what is over.
					want := []string{"1", fmt.Sprint(i)}
					if got := []string{a.Sent["x-stainless-timeout"], a.Sent["x-stainless-retry-count"]}; !slices.Equal(got, want) {
						t.Errorf("%s: attempt %d told its timeout and number %q, want %q", name, i, got, want)
					}
				}
				// What is known of the model may make it a little earlier.
				if waited := o.Attempts[0].Answered - o.Attempts[0].Began; waited < 800 {
					t.Errorf("%s: refused after %.0f ms, told that it may be a second", name, waited)
				}
			}
			checkModels(t, model, []string{asks}, len(names))
		})
	}
}

// TestStaysAway has clients refused for good, as far as they are concerned: none
// tries again.
func TestStaysAway(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"openai", "anthropic"} {
		t.Run(client+", because it is long until there is a server", func(t *testing.T) {
			t.Parallel()
			model, weir := serveQueue(t, "breaker: {failures: 1, open_for: 5m}")
			all := runScript(t, client, weir.base, "sk-queue", "away")
			if first := all.get(t, "away: first"); first.Error == nil || first.Error.Status != http.StatusInternalServerError {
				t.Errorf("first: %s, want the model's own 500", describe(first.Error))
			}
			o := all.get(t, "away: with retries")
			checkStaysAway(t, client, o, "upstream")
			if got := told(t, client, o.Attempts[0]); got <= 60_000 {
				t.Errorf("told to come back after %.0f ms, want more than a minute", got)
			}
			if got := model.models("sk-queue"); !slices.Equal(got, []string{"status-500"}) {
				t.Errorf("the model was asked for %q, want the first alone", got)
			}
		})
	}
}

func checkStaysAway(t *testing.T, client string, o outcome, phrase string) {
	t.Helper()
	status := refusal(client, o.Name)
	e := o.Error
	if e == nil || e.Status != status || !e.says(client, phrase) || !slices.Equal(o.statuses(), []int{status}) {
		t.Fatalf("%s: %safter %v, want %d at once and for good: %q", o.Name, describe(e), o.statuses(), status, phrase)
	}
	if should := o.Attempts[0].Headers["x-should-retry"]; should != "false" {
		t.Errorf("%s: x-should-retry: %q, want false", o.Name, should)
	}
}

// TestLeavesQueue has clients leave the queue before and after the first comment:
// they are counted, and the model has nothing of it.
func TestLeavesQueue(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"openai", "anthropic"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			model, weir := serveQueue(t, "queue: {max_wait: 1m, keepalive_after: 100ms}")
			all := runScript(t, client, weir.base, "sk-queue", "leaving", "leaving-told")
			before, after := all.scenarios(t, "leaving"), all.scenarios(t, "leaving-told")
			for _, name := range before {
				o := all.get(t, "leaving: "+name)
				if e := o.Error; e == nil || e.Class != "APIUserAbortError" || !slices.Equal(o.statuses(), []int{0, http.StatusOK}) {
					t.Errorf("%s: %safter %v, want APIUserAbortError, and that another request was answered", name, describe(e), o.statuses())
				}
			}
			for _, name := range after {
				// Who leaves a stream is told nothing more.
				o := all.get(t, "leaving-told: "+name)
				if o.Error != nil || o.Before != 0 || !slices.Equal(o.statuses(), []int{http.StatusOK, http.StatusOK}) {
					t.Errorf("%s told: %sand %d parts after %v, want an end, and that another request was answered", name, describe(o.Error), o.Before, o.statuses())
				}
			}
			checkModels(t, model, []string{asks}, len(before)+len(after))
			want := fmt.Sprintf("\nweir_admission_left_total{upstream=%q} %d\n", client, len(before)+len(after))
			if text := weir.metrics(t); !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		})
	}
}

// metrics are those of a Weir that serveQueue serves.
func (p *process) metrics(t *testing.T) string {
	t.Helper()
	resp, err := http.Get(p.base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: %d, %v", resp.StatusCode, err)
	}
	return string(text)
}
