package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// The bounds of the writer: how many writes one commit has, and how many may wait.
const (
	maxBatch = 256
	maxLine  = 4096
)

// probePeriod is how often a writer whose commits fail tries one by itself.
const probePeriod = time.Second

// writer is the one goroutine that writes to SQLite, with the one connection that does.
// It takes what waits, runs each write in a savepoint of one transaction, commits once,
// and then tells each what became of it: writes that come together share one fsync.
type writer struct {
	conn *sql.Conn
	file file
	log  *slog.Logger

	mu     sync.RWMutex // held while something is put into the line
	closed bool
	line   chan *pending

	gone    chan struct{} // closed when the goroutine has ended
	commits atomic.Int64
	healthy atomic.Bool
}

// file is what is written to.
type file interface {
	// explain says what an error of SQLite means.
	explain(error) error
	// intact is the error of a file that is not at its path any more.
	intact() error
}

// pending is a write that waits.
type pending struct {
	ctx   context.Context
	f     func(querier) error
	taken atomic.Bool // by the writer, or by a caller who does not want it any more
	err   error       // what f or the commit said, when done is closed
	panic any         // of f, to go on where f was called
	done  chan struct{}
}

func newWriter(conn *sql.Conn, file file, log *slog.Logger) *writer {
	w := &writer{conn: conn, file: file, log: log, line: make(chan *pending, maxLine), gone: make(chan struct{})}
	w.healthy.Store(true)
	go w.run()
	return w
}

// write waits for its turn, and then for the truth: from when f has begun, the end of
// ctx changes nothing.
func (w *writer) write(ctx context.Context, f func(querier) error) error {
	p := &pending{ctx: context.WithoutCancel(ctx), f: f, done: make(chan struct{})}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.enqueue(p); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		if p.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-p.done
	}
	if p.panic != nil {
		panic(p.panic)
	}
	return p.err
}

func (w *writer) enqueue(p *pending) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return fmt.Errorf("%w: it is closed", ErrAway)
	}
	select {
	case w.line <- p:
		return nil
	default:
		return fmt.Errorf("%w: it is overloaded: %d writes wait", ErrAway, maxLine)
	}
}

// close lets what waits be written, until ctx ends: the rest is refused then.
func (w *writer) close(ctx context.Context) error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.line)
	}
	w.mu.Unlock()
	var err error
	select {
	case <-w.gone:
	case <-ctx.Done():
		lost := 0
		for p := range w.line {
			if p.taken.CompareAndSwap(false, true) {
				lost++
				p.err = fmt.Errorf("%w: it is closed", ErrAway)
				close(p.done)
			}
		}
		<-w.gone // what it has begun it ends
		if lost > 0 {
			err = fmt.Errorf("database: %d writes that waited are not made: %w", lost, ctx.Err())
		}
	}
	return err
}

func (w *writer) run() {
	defer close(w.gone)
	probe := time.NewTicker(probePeriod)
	defer probe.Stop()
	for {
		select {
		case p, open := <-w.line:
			if !open {
				return
			}
			w.commit(w.batch(p))
		case <-probe.C:
			switch err := w.file.intact(); {
			case err != nil:
				w.tell(err)
			case !w.healthy.Load():
				w.commit([]*pending{probeWrite()})
			}
		}
	}
}

// probeWrite is a write that changes nothing, but needs what any write needs.
func probeWrite() *pending {
	return &pending{ctx: context.Background(), done: make(chan struct{}), f: func(q querier) error {
		_, err := q.ExecContext(context.Background(), "UPDATE weir_migrations SET applied = applied")
		return err
	}}
}

// batch is what waits, but for what nobody waits for any more.
func (w *writer) batch(first *pending) []*pending {
	batch := make([]*pending, 0, 8)
	for p := first; ; {
		if p.taken.CompareAndSwap(false, true) {
			batch = append(batch, p)
		}
		if len(batch) == maxBatch {
			return batch
		}
		select {
		case next, open := <-w.line:
			if !open {
				return batch
			}
			p = next
		default:
			return batch
		}
	}
}

// commit runs a batch in one transaction and tells everybody.
func (w *writer) commit(batch []*pending) {
	if len(batch) == 0 {
		return
	}
	err := w.transaction(batch)
	for _, p := range batch {
		if err != nil {
			p.err = err
		}
	}
	w.tell(firstAway(batch))
	for _, p := range batch {
		close(p.done)
	}
}

// firstAway is the first error of a batch that says that the database is away.
func firstAway(batch []*pending) error {
	for _, p := range batch {
		if errors.Is(p.err, ErrAway) {
			return p.err
		}
	}
	return nil
}

// tell notes, and logs once, that writes fail or succeed again.
func (w *writer) tell(err error) {
	healthy := err == nil
	if w.healthy.Swap(healthy) == healthy {
		return
	}
	if healthy {
		w.log.Info("the database can be written again")
	} else {
		w.log.Error("the database cannot be written", "error", err)
	}
}

// transaction returns the error that all of a batch share; each write's own is in it.
func (w *writer) transaction(batch []*pending) error {
	ctx := context.Background()
	if err := w.file.intact(); err != nil {
		return err
	}
	if err := w.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return w.file.explain(err)
	}
	for _, p := range batch {
		if err := w.one(ctx, p); err != nil {
			_ = w.exec(ctx, "ROLLBACK") // there may be no transaction any more
			return w.file.explain(err)
		}
	}
	if err := w.exec(ctx, "COMMIT"); err != nil {
		_ = w.exec(ctx, "ROLLBACK")
		if sqliteCode(err) == sqlite3.SQLITE_IOERR {
			// What was not synced can be on the disk after all, and be found there when
			// the file is opened again.
			return fmt.Errorf("%w: %w", ErrUnknown, w.file.explain(err))
		}
		return w.file.explain(err)
	}
	w.commits.Add(1)
	return nil
}

// one runs a write in a savepoint. What it returns ends the whole transaction: SQLite
// undoes all of it by itself after some errors, such as that of a full disk.
func (w *writer) one(ctx context.Context, p *pending) error {
	if err := w.exec(ctx, "SAVEPOINT weir_write"); err != nil {
		return err
	}
	p.panic, p.err = w.call(p)
	if p.err == nil && p.panic == nil {
		return w.exec(ctx, "RELEASE weir_write")
	}
	if err := w.exec(ctx, "ROLLBACK TO weir_write"); err != nil {
		if sqliteCode(p.err) != 0 {
			return p.err
		}
		return err
	}
	p.err = w.file.explain(p.err)
	return w.exec(ctx, "RELEASE weir_write")
}

// call runs f and keeps a panic from ending everybody's writes.
func (w *writer) call(p *pending) (panicked any, err error) {
	defer func() { panicked = recover() }()
	return nil, p.f(bound{w.conn, p.ctx})
}

func (w *writer) exec(ctx context.Context, statement string) error {
	_, err := w.conn.ExecContext(ctx, statement)
	return err
}
