package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/inferweir/weir/admission"
	"github.com/inferweir/weir/config"
)

// ask returns the status, the body, and the names in Server-Timing.
func ask(h http.Handler, path string) (int, string, []string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	var names []string
	for _, m := range regexp.MustCompile(`([a-z]+);dur=`).FindAllStringSubmatch(w.Header().Get("Server-Timing"), -1) {
		names = append(names, m[1])
	}
	body, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(body), names
}

func TestScore(t *testing.T) {
	one, err := admission.NewPool(admission.PoolOptions{Workers: 1, Queue: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		pool       *admission.Pool
		status     int
		body       string
		phases     []string
	}{
		{"without a pool no phase waits", "/score?text=a+good+day", nil, 200, "{\"score\":239,\"words\":3}\n", []string{"total", "tokenize", "model"}},
		{"a pool changes no answer", "/score?text=a+good+day", one, 200, "{\"score\":239,\"words\":3}\n", []string{"total", "tokenize", "wait", "model"}},
		{"no text is a mistake", "/score", one, 400, "text: want some words, for example ?text=hello\n", []string{"total", "tokenize"}},
		{"a ping has no phases", "/ping", one, 200, "pong\n", []string{"total"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, phases := ask(api(&model{pool: c.pool, work: 10}), c.path)
			if status != c.status || body != c.body || !slices.Equal(phases, c.phases) {
				t.Errorf("got %d %q %v, want %d %q %v", status, body, phases, c.status, c.body, c.phases)
			}
		})
	}
}

func TestScoreRefusesWhatFindsNoWorker(t *testing.T) {
	pool, err := admission.NewPool(admission.PoolOptions{Workers: 1, Queue: -1})
	if err != nil {
		t.Fatal(err)
	}
	h := api(&model{pool: pool, work: 10})
	err = pool.Do(context.Background(), func(context.Context) error {
		if status, _, phases := ask(h, "/score?text=hello"); status != 503 || !slices.Equal(phases, []string{"total", "tokenize", "wait"}) {
			t.Errorf("while the only worker is busy: %d %v, want 503 after tokenize and wait", status, phases)
		}
		if status, body, _ := ask(h, "/ping"); status != 200 || body != "pong\n" {
			t.Errorf("a ping meanwhile: %d %q, want 200 pong", status, body)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := ask(h, "/score?text=hello"); status != 200 {
		t.Errorf("afterwards: %d, want 200", status)
	}
}

// Who reads that texts are scored at an address asks there, so it is said of no other.
func TestServesNothingWhereAnotherListens(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var said bytes.Buffer
	log.SetOutput(&said)
	defer log.SetOutput(os.Stderr)
	at := other.Addr().String()
	err = run(at, 0, 10)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "-listen") || !strings.Contains(err.Error(), at) {
		t.Errorf("got %v, want that -listen names %s, which is in use", err, at)
	}
	if said.Len() > 0 {
		t.Errorf("it says %q, though it does not serve", &said)
	}
}

func TestPlansOfTheGuideFitTheirConfigurations(t *testing.T) {
	for _, name := range []string{"concurrency.yaml", "processors.yaml"} {
		t.Run(name, func(t *testing.T) {
			plan, err := config.ParseMatrix(name, read(t, name))
			if err != nil {
				t.Fatal(err)
			}
			read(t, plan.Load.Body)
			for _, run := range plan.Runs {
				text, err := config.ApplySets(plan.Config, read(t, plan.Config), run.Set)
				if err == nil {
					_, err = config.Parse(plan.Config, text, os.LookupEnv)
				}
				if err != nil {
					t.Errorf("run %q: %v", run.Name, err)
				}
			}
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
