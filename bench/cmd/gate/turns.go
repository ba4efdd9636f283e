package main

import (
	"context"
	"slices"
	"sync"
)

// maxLine bounds how many of one caller wait.
const maxLine = 10_000

// turns is a fixed number of places; callers who wait take turns, and within a
// caller it is the order of arrival.
type turns struct {
	mu     sync.Mutex // guards all below
	places int        // free
	lines  map[string][]chan struct{}
	order  []string // callers who wait, the next one first
}

func (t *turns) acquire(ctx context.Context, caller string) (func(), error) {
	t.mu.Lock()
	if t.places > 0 {
		t.places--
		t.mu.Unlock()
		return t.release, nil
	}
	if len(t.lines[caller]) >= maxLine {
		t.mu.Unlock()
		return nil, errFull
	}
	turn := make(chan struct{})
	if len(t.lines[caller]) == 0 {
		t.order = append(t.order, caller)
	}
	t.lines[caller] = append(t.lines[caller], turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return t.release, nil
	case <-ctx.Done():
		t.leave(caller, turn)
		return nil, ctx.Err()
	}
}

// leave takes turn out of its line; where it has come meanwhile, the place goes on to
// the next.
func (t *turns) leave(caller string, turn chan struct{}) {
	t.mu.Lock()
	line := t.lines[caller]
	at := slices.Index(line, turn)
	if at < 0 {
		t.mu.Unlock()
		t.release()
		return
	}
	t.setLocked(caller, slices.Delete(line, at, at+1))
	t.mu.Unlock()
}

func (t *turns) setLocked(caller string, line []chan struct{}) {
	if len(line) > 0 {
		t.lines[caller] = line
		return
	}
	delete(t.lines, caller)
	t.order = slices.DeleteFunc(t.order, func(c string) bool { return c == caller })
}

// release gives a place to who is next.
func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.order) == 0 {
		t.places++
		return
	}
	caller := t.order[0]
	line := t.lines[caller]
	close(line[0])
	t.order = t.order[1:]
	if line = line[1:]; len(line) > 0 {
		t.lines[caller] = line
		t.order = append(t.order, caller)
	} else {
		delete(t.lines, caller)
	}
}
