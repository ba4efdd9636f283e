package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultDirBytes bounds a dir store unless told: 10 GiB.
const DefaultDirBytes = 10 << 30

// DirOptions say where a dir store is and how much it may hold.
type DirOptions struct {
	// Path is the directory. It is made if it is not there, with its parents, for
	// its owner alone (0700). One process may use it at a time.
	Path string
	// MaxBytes bounds the files, each rounded up to blocks of 4 KiB. 0 means
	// DefaultDirBytes.
	MaxBytes int64
	// CallerShare is as in MemoryOptions.
	CallerShare float64
}

// DirStore keeps entries in files of a directory, one each, and gives them up as a
// MemoryStore does. They are there again after a restart, whatever ended the
// process: a file is written under another name and then renamed, and what it
// says is only believed if its checksums agree. In memory it has about 200 bytes
// for each file. It is a Sweeper.
//
// Operations on one key follow each other, those on different keys do not wait
// for each other, and none holds a lock while it reads or writes a file.
//
// A directory may be emptied under a store that uses it, its lock file included,
// which the next operation makes again. If another process has taken the directory
// meanwhile, all operations fail from then on.
type DirStore struct {
	path   string
	run    string // tells temporaries of this run from those that another left
	budget *budget
	turns  turns
	lock   *dirLock
	writes atomic.Uint64 // numbers temporaries

	scanned chan struct{} // closed once the index has all files
	scanErr error         // the first that scanning met; to be read after busy.Wait
	stop    context.CancelFunc

	mu     sync.Mutex // guards closed, and that nothing begins after it
	closed bool
	busy   sync.WaitGroup // the scan, and every operation
}

// OpenDir opens the store in a directory, and makes the directory if it is not
// there. It returns at once: files of an earlier run are served from the
// beginning, but counted only as they are found, which Scanned tells the end of.
// It fails where it may not write, and where another process uses the directory.
func OpenDir(o DirOptions) (*DirStore, error) {
	if o.Path == "" {
		return nil, errors.New("cache: DirOptions.Path is empty: want a directory")
	}
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("cache: directory %s: %w", o.Path, err)
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultDirBytes
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cache: directory %s: %w", path, err)
	}
	lock, err := lockDir(path)
	switch {
	case errors.Is(err, errLocked):
		return nil, fmt.Errorf("cache: directory %s is in use by another process: give each its own", path)
	case err != nil:
		return nil, fmt.Errorf("cache: directory %s: lock it for this process: %w", path, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &DirStore{
		path:    path,
		run:     rand.Text(),
		budget:  newBudget(o.MaxBytes, o.CallerShare),
		turns:   turns{taken: map[Key]chan struct{}{}},
		lock:    lock,
		scanned: make(chan struct{}),
		stop:    stop,
	}
	s.busy.Go(func() {
		defer close(s.scanned)
		s.scanErr = s.scan(ctx)
	})
	return s, nil
}

// Scanned is closed once all files that were there when the store was opened are
// counted, what is beyond the bound is deleted, and so is what an interrupted
// write left. Close ends the wait too.
func (s *DirStore) Scanned() <-chan struct{} { return s.scanned }

// Stats reads the store's sizes. Until Scanned they do not tell of all files.
func (s *DirStore) Stats() Stats { return s.budget.stats() }

// Close waits for what is under way and frees the directory for another process.
// Later calls of the other methods fail. It also tells of the first file that
// could not be counted after the store was opened.
func (s *DirStore) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.busy.Wait()
	if already {
		return nil
	}
	return errors.Join(s.scanErr, s.lock.free())
}

// begin starts an operation, which ends with s.busy.Done.
func (s *DirStore) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cache: directory %s: %w", s.path, err)
	}
	if err := s.lock.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("cache: directory %s: %w", s.path, fs.ErrClosed)
	}
	s.busy.Add(1)
	return nil
}

// Get implements Store. A file that is not whole is deleted and not found.
func (s *DirStore) Get(ctx context.Context, key Key, now time.Time) (*Entry, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.busy.Done()
	it := s.budget.find(key)
	if it == nil && s.knowsAll() {
		return nil, nil
	}
	if err := s.lock.look(); err != nil {
		return nil, err
	}
	if it != nil && !it.useful(now) {
		_, err := s.remove(ctx, it)
		return nil, err
	}
	e, err := s.read(key)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotWhole):
		// It went between the two looks, or by somebody else's hand; or it was never
		// any good.
		_, err := s.forget(ctx, key, it)
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("cache: read: %w", err)
	case !e.Useful(now):
		return nil, nil // found before the scan, which deletes it
	}
	if it != nil {
		s.budget.use(it)
	}
	return e, nil
}

func (s *DirStore) knowsAll() bool {
	select {
	case <-s.scanned:
		return true
	default:
		return false
	}
}

// Put implements Store. An entry is refused as by a MemoryStore. After an error
// the key has the entry that it had, unless that had to go to make room.
func (s *DirStore) Put(ctx context.Context, key Key, e *Entry, now time.Time) error {
	file, err := encodeFile(key, e)
	if err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.busy.Done()
	if err := s.lock.look(); err != nil {
		return err
	}
	it := newItem(key, e, onDisk(int64(len(file))))
	s.budget.mu.Lock()
	victims, err := s.budget.reserveLocked(it, e.Owner, false, now)
	s.budget.mu.Unlock()
	failed := s.discard(ctx, victims)
	switch {
	case err != nil:
		return errors.Join(err, failed)
	case failed != nil: // and so there may be no room
		s.unreserve(it)
		return failed
	}
	temporary, err := s.write(key, file)
	if err == nil {
		err = s.publish(ctx, it, temporary)
	}
	if err != nil {
		s.unreserve(it)
		return fmt.Errorf("cache: write: %w", err)
	}
	return nil
}

func (s *DirStore) unreserve(it *item) {
	s.budget.mu.Lock()
	defer s.budget.mu.Unlock()
	s.budget.unreserveLocked(it)
}

// publish gives a written file its name, and its item to the index.
func (s *DirStore) publish(ctx context.Context, it *item, temporary string) error {
	if err := s.turns.take(ctx, it.key); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	defer s.turns.end(it.key)
	if err := os.Rename(temporary, s.name(it.key)); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	b := s.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.find(it.key); old != nil {
		it.uses.Store(old.uses.Load())
		b.replaceLocked(old)
		b.freedLocked(old)
	}
	b.attachLocked(it)
	return nil
}

// discard deletes the files of detached items, whose bytes are then free. An item
// whose file cannot be deleted is taken back: it has its bytes still.
func (s *DirStore) discard(ctx context.Context, victims []*item) error {
	var errs []error
	for _, it := range victims {
		// What was begun is ended, whoever has left: the bytes are counted.
		if err := s.discardOne(context.WithoutCancel(ctx), it); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *DirStore) discardOne(ctx context.Context, it *item) error {
	if err := s.turns.take(ctx, it.key); err != nil {
		return err
	}
	defer s.turns.end(it.key)
	b := s.budget
	if b.find(it.key) == nil {
		// Else a newer entry has replaced the file, and its bytes are counted.
		if err := s.unlink(it.key); err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.restoreLocked(it)
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freedLocked(it)
	return nil
}

// remove deletes the entry of it, if that is what its key has still.
func (s *DirStore) remove(ctx context.Context, it *item) (known bool, err error) {
	b := s.budget
	b.mu.Lock()
	if known = b.find(it.key) == it; known {
		b.detachLocked(it)
	}
	b.mu.Unlock()
	if !known {
		return false, nil
	}
	return true, s.discard(ctx, []*item{it})
}

// forget deletes the file of key unless it was written since it was looked for,
// when its item was it.
func (s *DirStore) forget(ctx context.Context, key Key, it *item) (known bool, err error) {
	if it != nil {
		return s.remove(ctx, it)
	}
	if err := s.turns.take(ctx, key); err != nil {
		return false, err
	}
	defer s.turns.end(key)
	if s.budget.find(key) != nil {
		return false, nil
	}
	return true, s.unlink(key)
}

// unlink deletes the file of key, if there is one.
func (s *DirStore) unlink(key Key) error {
	if err := os.Remove(s.name(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cache: delete: %w", err)
	}
	return nil
}

// Delete implements Store.
func (s *DirStore) Delete(ctx context.Context, key Key) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.busy.Done()
	if err := s.lock.look(); err != nil {
		return err
	}
	if err := s.turns.take(ctx, key); err != nil {
		return err
	}
	defer s.turns.end(key)
	if err := s.unlink(key); err != nil {
		return err
	}
	if it := s.budget.find(key); it != nil {
		s.budget.drop(it)
	}
	return nil
}

// turns lets operations that change one key's file follow each other.
type turns struct {
	mu    sync.Mutex // guards taken
	taken map[Key]chan struct{}
}

// take waits until nobody has key's turn, and takes it.
func (t *turns) take(ctx context.Context, key Key) error {
	for {
		t.mu.Lock()
		ended, ok := t.taken[key]
		if !ok {
			t.taken[key] = make(chan struct{})
			t.mu.Unlock()
			return nil
		}
		t.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("cache: %w", ctx.Err())
		}
	}
}

func (t *turns) end(key Key) {
	t.mu.Lock()
	ended := t.taken[key]
	delete(t.taken, key)
	t.mu.Unlock()
	close(ended)
}
