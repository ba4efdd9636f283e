package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
)

// ErrNoSuch says that the configuration has no plan, route or upstream of a name.
var ErrNoSuch = errors.New("there is no such plan, route or upstream")

// Change is a change of the live configuration.
type Change struct {
	// Kind is plan, route or upstream, and Name which.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Before and After are what was in force, and is: whole documents, as
	// config.Config.EditDoc gives them. In the audit they are only what is not as in
	// the file, null where nothing is.
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
	// Doc is what is not as in the file now: null where nothing is.
	Doc json.RawMessage `json:"override"`
	// Kept is whether the change outlives this process.
	Kept bool `json:"kept"`
	// By is who made it, and At when.
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Override is a plan, route or upstream that is not as in the file.
type Override struct {
	// Kind is plan, route or upstream, and Name which.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Doc has the keys that are not as in the file.
	Doc json.RawMessage `json:"override"`
	// Kept is whether the database has it, so that it outlives this process and holds
	// at the other instances.
	Kept bool `json:"kept"`
	// By is who changed it last, and At when.
	By string    `json:"by"`
	At time.Time `json:"at"`
	// LeftOut is why the edit is not in force, "" where it is: it does not fit the
	// file, or what else was edited. It is in force as soon as it fits.
	LeftOut string `json:"left_out,omitempty"`
}

// Edit changes a plan, route or upstream, for all requests that begin from now on, and
// in the database, if there is one: then it outlives this process, and holds at the
// other instances within two seconds. e.Doc is merged into what was edited before
// (RFC 7396): null takes a key back to what the file says. by is who wants it.
//
// What can go on does: a policy that keeps its name keeps its counts, a route's answers
// stay in the cache, who waits at an upstream waits, or goes now.
//
// Where the database does not keep the change now it is told when it is back, unless
// somebody has changed the same there meanwhile: then that is in force here, too.
//
// The error is ErrNoSuch, or config.Mistakes: then nothing is changed.
func (g *Gateway) Edit(ctx context.Context, e config.Edit, by string) (Change, error) {
	return g.change(ctx, editKey{e.Kind, e.Name}, func(now []byte) ([]byte, error) { return config.MergeEdit(now, e.Doc) }, by)
}

// Revert takes back what Edit did to a plan, route or upstream: what the file says is in
// force. Kept is whether that is so after a restart, too, and at the other instances
// within two seconds; without a database it always is. The error is ErrNoSuch, or
// config.Mistakes where the file does not fit what else was edited.
func (g *Gateway) Revert(ctx context.Context, kind, name, by string) (Change, error) {
	return g.change(ctx, editKey{kind, name}, func([]byte) ([]byte, error) { return nil, nil }, by)
}

// tries is how often a change is made again because another instance has changed the
// same in the database meanwhile.
const tries = 5

func (g *Gateway) change(ctx context.Context, key editKey, merge func(now []byte) ([]byte, error), by string) (Change, error) {
	if g.data.db == nil {
		return g.changeHere(key, merge, by)
	}
	k := &g.live.kept
	select {
	case k.turn <- struct{}{}: // changes here wait for each other, or would undo each other's
		defer func() { <-k.turn }()
	case <-ctx.Done(): // then it is not asked for the database either
	}
	g.beginChange()
	defer g.endChange()
	var first Change
	var had bool
	for try := 1; ; try++ {
		was, err := g.stored(ctx, key)
		away := err != nil
		want := intent{by: by, at: g.data.db.Now(), had: had}
		c, err := g.putOwed(key, &want, func(now []byte, owed bool) ([]byte, error) {
			if !away && !owed { // what another instance has changed a moment ago is in it
				now = was.Doc
			}
			return merge(now)
		})
		if err != nil {
			return Change{}, err
		}
		if try == 1 {
			first = c
		}
		c.Before = first.Before
		if err = errAway; !away {
			err = g.hand(ctx, key, was, want)
		}
		switch {
		case err == nil:
			g.changes.Lock()
			k.payLocked(key, want)
			k.noteLocked(key, c.Doc != nil)
			g.changes.Unlock()
			c.Kept = true
		case errors.Is(err, database.ErrOverrideChanged) && try < tries:
			g.changes.Lock()
			k.payLocked(key, want) // it is merged again
			g.changes.Unlock()
			had = want.had
			continue
		default:
			g.Logger().Warn("a change of the live configuration holds at this instance alone: the database does not keep it yet",
				"kind", key.kind, "name", key.name, "error", err.Error())
		}
		g.tellChange(c)
		return c, nil
	}
}

// putOwed puts an edit in force that the database is still to keep: want, whose document
// it sets.
func (g *Gateway) putOwed(key editKey, want *intent, merge func(now []byte, owed bool) ([]byte, error)) (Change, error) {
	g.changes.Lock()
	defer g.changes.Unlock()
	k := &g.live.kept
	before, owed := k.owed[key]
	c, err := g.putEditLocked(key, func(now []byte) ([]byte, error) { return merge(now, owed) }, want.by)
	if err != nil {
		return Change{}, err
	}
	want.doc, want.had = c.Doc, want.had || k.plans[key] || before.had
	delete(k.plans, key)
	k.owed[key] = *want
	return c, nil
}

// errAway stands for a database that could not be asked.
var errAway = errors.New("the database does not answer")

// hand gives the database what is wanted, where it was, if anything.
func (g *Gateway) hand(ctx context.Context, key editKey, was database.Override, want intent) error {
	if want.doc == nil && was.Changed.IsZero() {
		return nil
	}
	return g.data.db.Overrides().Replace(ctx, was, database.Override{Kind: key.kind, Name: key.name, Doc: want.doc, By: want.by})
}

// stored is what the database has under a key, the zero value for nothing.
func (g *Gateway) stored(ctx context.Context, key editKey) (database.Override, error) {
	all, _, err := g.data.db.Overrides().All(ctx)
	if err != nil {
		return database.Override{}, err
	}
	for _, o := range all {
		if o.Kind == key.kind && o.Name == key.name {
			return o, nil
		}
	}
	return database.Override{}, nil
}

// changeHere is change without a database.
func (g *Gateway) changeHere(key editKey, merge func(now []byte) ([]byte, error), by string) (Change, error) {
	g.changes.Lock()
	before := g.live.edits[key].doc
	c, err := g.putEditLocked(key, merge, by)
	if err == nil {
		c.Kept = c.Doc == nil
		noted := c
		noted.Before, noted.After, noted.Kept = before, c.Doc, false
		g.live.noteAuditLocked(noted)
	}
	g.changes.Unlock()
	if err == nil {
		g.tellChange(c)
	}
	return c, err
}

// tellChange says in the log and to operators what was changed.
func (g *Gateway) tellChange(c Change) {
	text, message := "was changed", "a change of the live configuration is in force"
	if c.Doc == nil {
		text, message = "is as in the file again", "a change of the live configuration is taken back"
	}
	g.Logger().Info(message, "kind", c.Kind, "name", c.Name, "before", c.Before, "after", c.After, "kept", c.Kept, "by", c.By)
	g.Note(EventSnapshot{Kind: "override", Text: fmt.Sprintf("%s %s %s by %s", c.Kind, c.Name, text, c.By), Details: c.Doc})
}

// Overrides are the plans, routes and upstreams that were edited, by kind and name. Those
// that are not in force, because they do not fit, say why in LeftOut.
func (g *Gateway) Overrides() []Override {
	g.changes.Lock()
	defer g.changes.Unlock()
	l := &g.live
	all := make([]Override, 0, len(l.edits))
	for _, key := range slices.SortedFunc(maps.Keys(l.edits), editKey.compare) {
		e := l.edits[key]
		o := Override{Kind: key.kind, Name: key.name, Doc: e.doc, Kept: l.kept.plans[key], By: e.by, At: e.at}
		if err := l.left[key]; err != nil {
			o.LeftOut = err.Error()
		}
		all = append(all, o)
	}
	return all
}

// Audit is the last changes, at most n, the newest first: those that the database
// remembers, of all instances, or without one the last 200 of this process. 0 is all.
func (g *Gateway) Audit(ctx context.Context, n int) ([]Change, error) {
	if g.data.db == nil {
		g.changes.Lock()
		defer g.changes.Unlock()
		all := slices.Clone(g.live.audit)
		slices.Reverse(all)
		if n > 0 {
			all = all[:min(n, len(all))]
		}
		return all, nil
	}
	history, err := g.data.db.Overrides().History(ctx, n)
	if err != nil {
		return nil, err
	}
	all := make([]Change, len(history))
	for i, h := range history {
		all[i] = Change{Kind: h.Kind, Name: h.Name, Before: h.Before, After: h.After, Doc: h.After, Kept: true, By: h.By, At: h.Changed}
	}
	return all, nil
}
