package gateway_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// Who waits at one gateway for what another one fetches gets the variant for it.
func TestTwoGatewaysTellVariantsApart(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"memory+redis", "redis"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			release := newGate()
			a, b := pair(t, site{store: store, mode: "http", share: "all"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if release.wait(r) {
					w.Header().Set("Cache-Control", "max-age=60")
					w.Header().Set("Vary", "User-Agent")
					_, _ = fmt.Fprint(w, "for ", r.UserAgent())
				}
			}))
			agents := []string{"mobile", "desktop"}
			one, two := make(chan answer), make(chan []answer)
			go func() { one <- a.send("GET", "/", "", "User-Agent", "mobile") }()
			a.serves(1)
			pass(200 * time.Millisecond) // it leads
			ask := func(n int) {
				two <- atOnce(n, func(i int) answer { return b.send("GET", "/", "", "User-Agent", agents[i%2]) })
			}
			go ask(1) // mobile is the first there, too
			b.serves(1)
			pass(100 * time.Millisecond)
			go ask(20)
			b.serves(21)
			pass(300 * time.Millisecond) // they wait for it, or have asked the origin
			release.open()
			if got := after(t, "the first answer", one); !got.is(200, "for mobile") {
				t.Errorf("mobile: %v", got)
			}
			for range 2 {
				for i, got := range after(t, "the answers of the other gateway", two) {
					if want := "for " + agents[i%2]; !got.is(200, want) {
						t.Errorf("want %q, got %v", want, got)
					}
				}
			}
		})
	}
}

// Two gateways that met at a new URL agree on where its answers are.
func TestTwoGatewaysThatMetAtANewURLShareItsAnswers(t *testing.T) {
	t.Parallel()
	release := newGate()
	var calls atomic.Int64
	a, b := pair(t, site{store: "memory+redis", mode: "http", share: "all"}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if release.wait(r) {
			w.Header().Set("Cache-Control", "max-age=600")
			w.Header().Set("Vary", "Accept-Language")
			_, _ = fmt.Fprint(w, "for ", r.Header.Get("Accept-Language"))
		}
	}))
	get := func(w *instance, language string) answer {
		return w.send("GET", "/", "", "Accept-Language", language)
	}
	languages := []string{"de", "fr"}
	done := make(chan []answer)
	go func() {
		done <- atOnce(2, func(i int) answer { return get([]*instance{a, b}[i], languages[i]) })
	}()
	a.until(func() bool { return calls.Load() == 2 }) // neither knows of the other
	release.open()
	for i, got := range after(t, "the first answers", done) {
		if !got.is(200, "for "+languages[i]) {
			t.Errorf("%s: %v", languages[i], got)
		}
	}
	for i := range 20 {
		// The second one finds the answer, or waits until it has arrived.
		language := fmt.Sprint("l", i)
		for _, w := range []*instance{a, b} {
			if got := get(w, language); !got.is(200, "for "+language) {
				t.Errorf("%s: %v", language, got)
			}
		}
	}
	// 22 answers, and one or two more for what was still on its way at first.
	if got := calls.Load(); got < 22 || got > 24 {
		t.Errorf("%d calls, want 22 to 24", got)
	}
}
