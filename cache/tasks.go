package cache

import "sync"

// tasks are what runs in the background. After close none begins.
type tasks struct {
	mu      sync.Mutex // guards closed, and running against close
	closed  bool
	running sync.WaitGroup
}

// begin reports whether one may begin; who began calls done.
func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running.Add(1)
	return true
}

func (t *tasks) done() { t.running.Done() }

// run runs f in a goroutine, and reports false where none may begin any more.
func (t *tasks) run(f func()) bool {
	if !t.begin() {
		return false
	}
	go func() {
		defer t.done()
		f()
	}()
	return true
}

// close waits for those that run.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.running.Wait()
}
