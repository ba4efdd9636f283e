package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
)

// lockName is the file that says, by its lock, that a process uses a directory.
const lockName = "weir-cache.lock"

var (
	// errLocked says that another process has a lock file.
	errLocked = errors.New("cache: locked")
	// errLockReplaced says that the lock file is another one each time.
	errLockReplaced = errors.New("somebody deletes or replaces " + lockName + " all the time")
)

// dirLock keeps a directory for this process. Whoever empties the directory
// deletes the lock file too: its lock then keeps out nobody, because who comes
// next makes a file of his own. So the owner looks whether the file is still the
// one that he has locked, before he reads or writes another.
type dirLock struct {
	dir  string
	held atomic.Pointer[heldLock]
	lost atomic.Bool
	turn chan struct{} // who has taken its one element may replace held
}

// heldLock is a lock file that is open, and which file that is: while it is open
// no other can be taken for it.
type heldLock struct {
	file *os.File
	info os.FileInfo
}

// lockDir locks a directory, which is there. The error is errLocked where another
// process has it.
func lockDir(dir string) (*dirLock, error) {
	l := &dirLock{dir: dir, turn: make(chan struct{}, 1)}
	h, err := l.take()
	if err != nil {
		return nil, err
	}
	l.held.Store(h)
	l.turn <- struct{}{}
	return l, nil
}

// take makes the lock file, if it is not there, and locks it.
func (l *dirLock) take() (*heldLock, error) {
	const attempts = 10
	for range attempts {
		f, err := lockFile(filepath.Join(l.dir, lockName))
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		h := &heldLock{f, info}
		if l.has(h) {
			return h, nil
		}
		// It was deleted between opening and locking: another may lock the next.
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return nil, errLockReplaced
}

// has reports whether the directory's lock file is h.
func (l *dirLock) has(h *heldLock) bool {
	if !canLoseLock {
		return true
	}
	info, err := os.Stat(filepath.Join(l.dir, lockName))
	return err == nil && os.SameFile(info, h.info)
}

// check fails for good once another process has taken the directory.
func (l *dirLock) check() error {
	if l.lost.Load() {
		return fmt.Errorf("cache: directory %s: another process has taken it since %s in it was deleted: give each its own, and start this one again", l.dir, lockName)
	}
	return nil
}

// look checks that the directory is still this process's. A lock file that was
// deleted is made again, unless another process was faster.
func (l *dirLock) look() error {
	if err := l.check(); err != nil {
		return err
	}
	if l.has(l.held.Load()) {
		return nil
	}
	<-l.turn
	defer func() { l.turn <- struct{}{} }()
	old := l.held.Load()
	if l.lost.Load() || l.has(old) { // by who had the turn before
		return l.check()
	}
	err := os.MkdirAll(l.dir, 0o700)
	var h *heldLock
	if err == nil {
		h, err = l.take()
	}
	switch {
	case errors.Is(err, errLocked):
		l.lost.Store(true)
		return l.check()
	case err != nil:
		return fmt.Errorf("cache: directory %s: lock it again: %w", l.dir, err)
	}
	l.held.Store(h)
	// Nobody can know of the old file any more: that it could not be closed harms
	// nobody.
	_ = old.file.Close()
	return nil
}

// free lets another process have the directory. Nothing may look any more.
func (l *dirLock) free() error {
	if err := l.held.Load().file.Close(); err != nil {
		return fmt.Errorf("cache: directory %s: unlock: %w", l.dir, err)
	}
	return nil
}
