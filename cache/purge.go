package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// PurgeLog shares purges among instances.
type PurgeLog interface {
	// Append adds a purge of labels, and returns its number: it is larger than
	// known, and than that of every purge appended before by anybody.
	Append(ctx context.Context, labels []string, known uint64) (seq uint64, err error)
	// Follow calls changed with the whole state whenever it has connected, at first
	// and again, and after each change, one call at a time and in order, until ctx
	// ends. It returns only then.
	Follow(ctx context.Context, changed func(PurgeState))
}

// DefaultLogWait is how long NewPurges waits for a log unless told.
const DefaultLogWait = time.Second

// PurgeOptions say where purges are kept and whom they concern. The zero value
// keeps them in memory.
type PurgeOptions struct {
	// Path names a file that keeps the purges when the process ends. It is needed
	// where a store keeps its entries then; its directory is made if need be. ""
	// is no file.
	Path string
	// Log shares the purges with other instances. It is needed where a store is
	// shared with them. nil means that this process is alone.
	Log PurgeLog
	// Stores are swept after a purge: the room of what is purged is free at once.
	// Those of a *Tiers count as its own.
	Stores []Sweeper
	// LogWait is how long NewPurges waits at most until the log has told its
	// state. 0 means DefaultLogWait.
	LogWait time.Duration
	// Observe is told the errors that no caller is there for: of the log, and of
	// the file after a purge elsewhere; and once when purges can be told to the log
	// again. It must not block. nil drops them.
	Observe func(error)
}

// Purges knows what has been purged. There is one for all caches that share
// stores. Purges are numbered, and every entry carries the number of the newest
// one at the moment when it was asked for: with that no clock says what came
// first, and an answer that was on its way during a purge counts as purged when
// it comes. Nothing needs to be found for that: an entry that was purged is
// refused when it is read, wherever it lies.
//
// At most 10,000 labels and 64 prefixes are remembered. Beyond that the older
// ones give way, and all that is older than they are counts as purged: a purge
// may take more than it was asked to, never less.
//
// A nil *Purges is one where nothing was ever purged; only Purge needs a real
// one. The methods are safe for concurrent use.
type Purges struct {
	options PurgeOptions
	// reach are the stores themselves, and kept those of them that no other
	// instance shares.
	reach, kept []Sweeper
	view        atomic.Pointer[purgeView]

	mu      sync.Mutex        // guards what follows, and who may replace view
	untold  map[string]uint64 // purged here, and the log does not know; with the number of the attempt
	attempt uint64
	heard   bool   // the log has told its state
	told    uint64 // the last Seq that the log told
	awaited uint64 // a Seq that the log should tell soon; 0 is none

	saving chan struct{} // holds one token: its owner writes the file, and knows what is in it
	saved  *purgeView

	wake    chan struct{} // for the goroutine that tells the log
	unswept chan struct{} // for the one that sweeps: somebody else's purge came
	first   chan struct{} // closed when heard is set
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// NewPurges reads the file, and waits a moment for the log if there is one. It
// starts goroutines for the log only: Close ends them.
//
// A file that is missing or damaged leaves nobody who knows what was purged of
// that which the stores kept. What is in them and is not shared is deleted then;
// with a log only what the log cannot know of: all if it could not be reached
// within LogWait, else what is newer than the log. A new directory is empty, so
// that its missing file costs nothing.
//
// While a log is out of reach what it told last holds. Purges by other instances
// in that time are followed when it comes back.
func NewPurges(o PurgeOptions) (*Purges, error) {
	if o.LogWait <= 0 {
		o.LogWait = DefaultLogWait
	}
	p := &Purges{
		options: o,
		untold:  map[string]uint64{},
		saving:  make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		unswept: make(chan struct{}, 1),
		first:   make(chan struct{}),
	}
	p.reach = flatten(o.Stores)
	for _, s := range p.reach {
		if !shared(s) {
			p.kept = append(p.kept, s)
		}
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.saving <- struct{}{}
	state, known, err := readPurges(o.Path)
	if err != nil {
		p.observe(err)
	}
	p.start(state)
	if o.Log != nil {
		p.wg.Go(p.follow)
		p.wg.Go(p.keepTelling)
		p.wg.Go(p.keepSwept)
		select {
		case <-p.first:
		case <-time.After(o.LogWait):
			p.observe(fmt.Errorf("cache: the log of purges told nothing within %v: going on with what is known here", o.LogWait))
		}
	}
	if !known {
		err = p.forgetKept()
	} else {
		err = nil
	}
	if err = errors.Join(err, p.save(p.ctx)); err != nil {
		p.cancel()
		p.wg.Wait()
		return nil, err
	}
	return p, nil
}

// start takes over what the file has. What was not told to the log then is told
// now.
func (p *Purges) start(s PurgeState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := newPurgeView(s)
	if p.options.Log == nil {
		v.Seq = v.newest
	}
	p.told = v.Seq
	if v.Floor > v.Seq {
		p.untold[LabelAll] = 0
	}
	for label, seq := range v.Labels {
		if seq > v.Seq {
			p.untold[label] = 0
		}
	}
	p.view.Store(v)
}

// flatten takes Tiers apart: what is known of a store is known of it alone.
func flatten(stores []Sweeper) (flat []Sweeper) {
	for _, s := range stores {
		t, ok := s.(*Tiers)
		if !ok {
			flat = append(flat, s)
			continue
		}
		for _, s := range t.stores {
			if s, ok := s.(Sweeper); ok {
				flat = append(flat, s)
			}
		}
	}
	return flat
}

// forgetKept deletes what may have been purged in a time that nobody remembers.
// Without a log it also goes on counting beyond all that it found, so that no
// entry which escaped seems newer than the purges to come.
func (p *Purges) forgetKept() error {
	p.mu.Lock()
	heard, known := p.heard, p.view.Load().Seq
	p.mu.Unlock()
	found := uint64(0)
	gone := func(m *Meta) bool {
		found = max(found, m.Epoch)
		return !heard || m.Epoch > known
	}
	for _, s := range p.kept {
		if _, err := s.Sweep(p.ctx, gone); err != nil {
			return fmt.Errorf("cache: purges: %q holds no record, and what is stored could not be deleted: %w", p.options.Path, err)
		}
	}
	if p.options.Log == nil && found > 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		s := p.view.Load().copy()
		s.Seq = max(s.Seq, found+1)
		s.Floor = s.Seq
		p.replaceLocked(s)
	}
	return nil
}

// Epoch is the number that an entry asked for now has. It is that of the newest
// purge, without those that the log could not be told yet: what such a purge
// concerns is not kept until the log has numbered it.
func (p *Purges) Epoch() uint64 { return p.asOf().epoch() }

// asOf is what is purged now: another one after every purge.
func (p *Purges) asOf() *purgeView {
	if p == nil {
		return nil
	}
	return p.view.Load()
}

// Purged reports whether an entry of key has been purged. It costs one atomic
// load unless something was purged since the entry was asked for. It is true
// also of an entry that would be asked for now, at the present Epoch, while a
// purge that concerns it could not be told to the log: the entry is not kept.
func (p *Purges) Purged(m *Meta, key Key) bool {
	if p == nil {
		return false
	}
	v := p.view.Load()
	return m.Epoch < v.newest && v.purged(m, &key)
}

// Purge makes everything purged that was asked for until now and has one of the
// labels, see Label. removed is how many entries were deleted at once, in all
// Stores together; what they have of it still is refused when it is read, and so
// it is in all other stores.
//
// An error does not undo a purge: it was done here, and says what else was not. If
// it was the log, the other instances do not know yet, and are told when the log
// is back. Only bad labels change nothing.
func (p *Purges) Purge(ctx context.Context, labels ...string) (removed int, err error) {
	if p == nil {
		return 0, errors.New("cache: no purges are kept")
	}
	labels, err = purgeLabels(labels)
	if err != nil {
		return 0, err
	}
	logged := p.number(ctx, labels)
	saved := p.save(ctx)
	removed, err = p.sweep(ctx, labels)
	return removed, errors.Join(logged, saved, err)
}

// number gives a purge its number, by the log if there is one.
func (p *Purges) number(ctx context.Context, labels []string) error {
	seq, err := uint64(0), error(nil)
	if p.options.Log != nil {
		seq, err = p.logged(ctx, labels)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.view.Load().copy()
	switch {
	case p.options.Log == nil:
		s.Seq++
		s.set(labels, s.Seq)
	case err == nil:
		s.Seq = max(s.Seq, seq)
		s.set(labels, seq)
	default:
		p.owe(labels)
	}
	p.replaceLocked(s)
	if err != nil {
		signal(p.wake)
		return fmt.Errorf("cache: purged here, and elsewhere only once the log is back: %w", err)
	}
	return nil
}

// sweep deletes what is purged, of all stores. Keys are deleted one by one: only
// a store knows them.
func (p *Purges) sweep(ctx context.Context, labels []string) (removed int, err error) {
	keys := labelledKeys(labels)
	now := time.Now() // says only whether an entry was there
	for _, s := range p.reach {
		store, direct := s.(Store)
		if !direct || len(keys) < len(labels) {
			n, swept := s.Sweep(ctx, p.gone)
			removed += n
			err = errors.Join(err, swept)
		}
		if !direct {
			continue
		}
		for _, key := range keys {
			e, failed := store.Get(ctx, key, now)
			if e != nil {
				removed++
			}
			err = errors.Join(err, failed, store.Delete(ctx, key))
		}
	}
	if err != nil {
		err = fmt.Errorf("cache: purged, and not everything could be deleted yet: %w", err)
	}
	return removed, err
}

// gone is Purged for a store that sweeps.
func (p *Purges) gone(m *Meta) bool { return p.view.Load().purged(m, nil) }

// replaceLocked makes s what is known. What the log does not know has a number
// beyond the newest: nothing that could be asked for now survives it, as nobody
// could tell whether it was asked for before what the log will number the same.
func (p *Purges) replaceLocked(s PurgeState) {
	for label := range p.untold {
		s.set([]string{label}, s.Seq+1)
	}
	p.view.Store(newPurgeView(s))
}

// Close ends what NewPurges started, and waits for it. The error is that of
// writing the file, if that was behind.
func (p *Purges) Close() error {
	if p == nil {
		return nil
	}
	p.cancel()
	p.wg.Wait()
	return p.save(context.Background())
}

func (p *Purges) observe(err error) {
	if err != nil && p.options.Observe != nil {
		p.options.Observe(err)
	}
}

// signal wakes who waits on c, a channel with room for one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
