package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/inferweir/weir/database"
)

// follow puts in force what the database keeps, where something else is, and has the
// database keep what was changed here while it could not. What is in force stays so
// while the database is away.
func (g *Gateway) follow(ctx context.Context) {
	overrides := g.data.db.Overrides()
	version, err := overrides.Version(ctx)
	if err != nil {
		return
	}
	turn, news := g.news(version)
	if !news {
		return
	}
	all, version, err := overrides.All(ctx)
	if err != nil {
		g.again()
		return
	}
	found := map[editKey]database.Override{}
	for _, o := range all {
		found[editKey{o.Kind, o.Name}] = o
	}
	g.changes.Lock()
	owed := maps.Clone(g.live.kept.owed)
	g.changes.Unlock()
	for key, want := range owed {
		if g.catchUp(ctx, key, want, found[key]) {
			delete(owed, key)
		}
	}
	g.adopt(found, owed, turn)
	g.changes.Lock()
	g.live.kept.asked, g.live.kept.version = true, version
	g.changes.Unlock()
}

// catchUp has the database keep what was changed here and could not be kept, unless the
// database has something newer. It reports whether what the database has, was, is to be
// in force.
func (g *Gateway) catchUp(ctx context.Context, key editKey, want intent, was database.Override) bool {
	there := !was.Changed.IsZero()
	log := g.Logger().With("kind", key.kind, "name", key.name)
	switch {
	case !there && want.doc == nil, there && bytes.Equal(was.Doc, want.doc):
		g.pay(key, want)
		return true
	case there && was.Changed.After(want.at), !there && want.had:
		g.pay(key, want)
		log.Warn("a change of the live configuration that the database could not keep is taken back: the same has been changed there meanwhile",
			"override", json.RawMessage(want.doc), "by", was.By)
		return true
	case want.failed:
		return false
	}
	err := g.data.db.Overrides().Replace(ctx, was, database.Override{Kind: key.kind, Name: key.name, Doc: want.doc, By: want.by})
	switch {
	case err == nil:
		g.pay(key, want)
		log.Info("the database keeps a change of the live configuration that was made while it could not")
	case errors.Is(err, database.ErrAway), errors.Is(err, database.ErrOverrideChanged), ctx.Err() != nil:
	default:
		g.fail(key, want)
		log.Warn("a change of the live configuration holds at this instance alone, until it ends: the database does not keep it", "error", err.Error())
	}
	g.again() // another look finds what it has become
	return false
}

// adopt puts in force what the database has, found, but for what is owed to it, unless
// something was changed here since the turn: then another look finds what it has become.
func (g *Gateway) adopt(found map[editKey]database.Override, owed map[editKey]intent, turn uint64) {
	g.changes.Lock()
	defer g.changes.Unlock()
	l := &g.live
	if l.closed {
		return
	}
	if l.kept.changing > 0 || l.kept.turns != turn {
		l.kept.changed = true
		return
	}
	edits := map[editKey]edit{}
	for key := range owed {
		if e, there := l.edits[key]; there {
			edits[key] = e
		}
	}
	for key, o := range found {
		if _, owes := owed[key]; !owes {
			edits[key] = edit{o.Doc, o.By, o.Changed}
		}
	}
	before := l.edits
	if !maps.EqualFunc(before, edits, func(a, b edit) bool { return bytes.Equal(a.doc, b.doc) }) {
		if err := g.putLocked(l.file, edits); err != nil {
			if text := err.Error(); l.said[editKey{}] != text {
				l.said[editKey{}] = text
				g.Logger().Warn("what the database keeps of the live configuration could not be put in force", "error", text)
			}
			return
		}
		g.tellAdopted(before, edits)
	}
	l.edits = edits // who changed it, and when
	l.kept.plans = map[editKey]bool{}
	for key := range edits {
		if _, owes := owed[key]; !owes {
			l.kept.plans[key] = true
		}
	}
}

// tellAdopted says what another instance has changed, or was changed before the start.
func (g *Gateway) tellAdopted(before, now map[editKey]edit) {
	tell := func(key editKey, doc []byte, by string) {
		g.Logger().Info("a change of the live configuration that the database keeps is in force", "kind", key.kind, "name", key.name,
			"override", json.RawMessage(doc), "by", by)
		what := "was changed by " + by
		if doc == nil {
			what = "is as in the file again"
		}
		g.Note(EventSnapshot{Kind: "override", Text: fmt.Sprintf("%s %s %s, says the database", key.kind, key.name, what), Details: doc})
	}
	for key, e := range now {
		if g.live.left[key] == nil && !bytes.Equal(before[key].doc, e.doc) {
			tell(key, e.doc, e.by)
		}
	}
	for key := range before {
		if _, there := now[key]; !there {
			tell(key, nil, "")
		}
	}
}

// seedsSaid is how often the log says why budgets are not charged yet.
const seedsSaid = time.Minute

// seed charges the budgets with what the ledger says was spent, each once.
func (g *Gateway) seed(ctx context.Context) {
	again := g.seeds.again.Swap(false)
	if g.seeds.done && !again {
		return
	}
	err := g.seedBudgets(ctx, g.data.db.Usage(), time.Now())
	if err == nil {
		return
	}
	g.seeds.again.Store(true)
	if errors.Is(err, database.ErrAway) || ctx.Err() != nil || time.Since(g.seeds.said) < seedsSaid {
		return
	}
	g.seeds.said = time.Now()
	g.Logger().Warn("budgets begin without what was spent before: it is tried again", "error", err.Error())
}
