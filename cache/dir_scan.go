package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// namesAtOnce bounds how many names of a directory are held at a time.
const namesAtOnce = 1024

// walk calls visit for each name in the directories of files, in no order, until
// ctx ends. It goes on after an error, and returns the first.
func (s *DirStore) walk(ctx context.Context, visit func(dir, name string) error) (first error) {
	keep := func(err error) {
		if first == nil && err != nil && !errors.Is(err, fs.ErrNotExist) {
			first = err
		}
	}
	for i := range 256 {
		if err := s.lock.look(); err != nil {
			return errors.Join(first, err) // the files are another's
		}
		digits := fmt.Sprintf("%02x", i)
		dir, err := os.Open(filepath.Join(s.path, digits))
		if err != nil {
			keep(err)
			continue
		}
		for {
			names, err := dir.Readdirnames(namesAtOnce)
			for _, name := range names {
				if ctx.Err() != nil {
					return errors.Join(first, ctx.Err(), dir.Close())
				}
				if strings.HasPrefix(name, digits) {
					keep(visit(dir.Name(), name))
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					keep(err)
				}
				break
			}
		}
		keep(dir.Close())
	}
	return first
}

// scan counts the files that an earlier run has left, within the bound, and
// deletes what it was writing when it ended. It touches no file that does not have
// a name of a DirStore.
func (s *DirStore) scan(ctx context.Context) error {
	err := s.walk(ctx, func(dir, name string) error {
		digits, rest, _ := strings.Cut(name, ".")
		key, ok := keyOf(digits)
		switch {
		case !ok:
			return nil
		case rest == "":
			return s.count(ctx, key, time.Now())
		case strings.HasSuffix(rest, temporarySuffix) && !strings.HasPrefix(rest, s.run):
			return os.Remove(filepath.Join(dir, name))
		}
		return nil
	})
	if err == nil || ctx.Err() != nil {
		return nil // nobody waits for the rest
	}
	if lost := s.lock.check(); lost != nil {
		return lost
	}
	return fmt.Errorf("cache: directory %s: count its files: %w", s.path, err)
}

// count adds the file of key to the index, unless it is there, or deletes it.
func (s *DirStore) count(ctx context.Context, key Key, now time.Time) error {
	victims, err := s.countFile(ctx, key, now)
	// A victim may be of another key: not before that of this one is done.
	return errors.Join(err, s.discard(ctx, victims))
}

func (s *DirStore) countFile(ctx context.Context, key Key, now time.Time) (victims []*item, err error) {
	if err := s.turns.take(ctx, key); err != nil {
		return nil, err
	}
	defer s.turns.end(key)
	b := s.budget
	if b.find(key) != nil {
		return nil, nil
	}
	e, size, err := s.readHead(key)
	switch {
	case errors.Is(err, errNotWhole), err == nil && !e.Useful(now):
		return nil, s.unlink(key)
	case err != nil:
		return nil, err
	}
	it := newItem(key, e, onDisk(size))
	b.mu.Lock()
	victims, refused := b.reserveLocked(it, e.Owner, false, now)
	if refused == nil {
		b.attachLocked(it)
	}
	b.mu.Unlock()
	if refused != nil {
		return victims, s.unlink(key)
	}
	return victims, nil
}

// Sweep implements Sweeper. It reads the head of every file.
func (s *DirStore) Sweep(ctx context.Context, gone func(*Meta) bool) (int, error) {
	if err := s.begin(ctx); err != nil {
		return 0, err
	}
	defer s.busy.Done()
	n := 0
	err := s.walk(ctx, func(_, name string) error {
		key, ok := keyOf(name)
		if !ok {
			return nil
		}
		it := s.budget.find(key)
		e, _, err := s.readHead(key)
		bad := errors.Is(err, errNotWhole)
		if err != nil && !bad {
			return err
		}
		if !bad && !gone(&e.Meta) {
			return nil
		}
		known, err := s.forget(ctx, key, it)
		if known && !bad && err == nil {
			n++
		}
		return err
	})
	if lost := s.lock.check(); lost != nil {
		return n, lost
	}
	if err != nil {
		return n, fmt.Errorf("cache: directory %s: sweep: %w", s.path, err)
	}
	return n, nil
}
