package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/inferweir/weir/config"
)

// live is the configuration as it changes while the gateway runs: what is in the file,
// what was edited, and what load has moved. All but what is atomic is guarded by
// Gateway.changes.
type live struct {
	file  *config.Config
	edits map[editKey]edit
	left  map[editKey]error // edits that are left out, and why
	said  map[editKey]string
	kept  kept

	audit  []Change // the newest last, at most maxAudit; without a database
	closed bool

	loaded  time.Time // when the file's configuration was put in force
	reloads int64
	failed  string // what was wrong with the last reload

	lastReload     atomic.Bool  // it succeeded
	lastSuccess    atomic.Int64 // in Unix nanoseconds
	succeeded, bad atomic.Uint64
}

// maxAudit is how many changes a process without a database remembers.
const maxAudit = 200

// editKey names what an edit is of.
type editKey struct{ kind, name string }

func (k editKey) compare(other editKey) int {
	return cmp.Or(cmp.Compare(k.kind, other.kind), cmp.Compare(k.name, other.name))
}

// edit is what is not as in the file.
type edit struct {
	doc []byte
	by  string
	at  time.Time
}

// begin makes l the state of a gateway that starts with c.
func (l *live) begin(c *config.Config) {
	now := time.Now()
	l.file, l.loaded = c, now
	l.kept = kept{turn: make(chan struct{}, 1), owed: map[editKey]intent{}, plans: map[editKey]bool{}}
	l.edits, l.left, l.said = map[editKey]edit{}, map[editKey]error{}, map[editKey]string{}
	l.lastReload.Store(true)
	l.lastSuccess.Store(now.UnixNano())
}

// errClosed is of a change that comes too late.
var errClosed = errors.New("the gateway is closed")

// putLocked puts a file with edits in force, without those that do not fit it. With an
// error nothing is changed. g.changes is held.
func (g *Gateway) putLocked(file *config.Config, edits map[editKey]edit) error {
	l := &g.live
	if l.closed {
		return errClosed
	}
	c, left := l.fit(file, edits)
	was := g.setup.Load()
	next, err := g.build(c, was.moved.kept(was.config, c), was)
	if err != nil {
		return err
	}
	g.swap(next)
	l.file, l.edits, l.left = file, edits, left
	g.tellLeftLocked()
	return nil
}

// fit is file with those of edits that fit it and each other, and what keeps the rest
// from that. Those that were left out before come after the others.
func (l *live) fit(file *config.Config, edits map[editKey]edit) (*config.Config, map[editKey]error) {
	left := map[editKey]error{}
	var fresh, again []editKey
	for _, key := range slices.SortedFunc(maps.Keys(edits), editKey.compare) {
		switch _, known := file.EditDoc(key.kind, key.name); {
		case !known:
			left[key] = fmt.Errorf("there is no %s %s in the file", key.kind, key.name)
		case l.left[key] != nil && bytes.Equal(l.edits[key].doc, edits[key].doc):
			again = append(again, key)
		default:
			fresh = append(fresh, key)
		}
	}
	keys := append(fresh, again...)
	if c, err := file.Edited(listed(keys, edits)); err == nil {
		return c, left
	}
	c := file
	var fitting []editKey
	for _, key := range keys {
		next, err := file.Edited(listed(append(fitting, key), edits))
		if err != nil {
			left[key] = err
			continue
		}
		c, fitting = next, append(fitting, key)
	}
	return c, left
}

func listed(keys []editKey, edits map[editKey]edit) []config.Edit {
	list := make([]config.Edit, len(keys))
	for i, key := range keys {
		list[i] = config.Edit{Kind: key.kind, Name: key.name, Doc: edits[key].doc}
	}
	return list
}

// tellLeftLocked says which edits are left out, each once.
func (g *Gateway) tellLeftLocked() {
	l := &g.live
	for key, err := range l.left {
		text := string(l.edits[key].doc) + " " + err.Error()
		if l.said[key] == text {
			continue
		}
		l.said[key] = text
		g.Logger().Warn("a change of the live configuration does not fit, and is left out", "kind", key.kind, "name", key.name,
			"override", json.RawMessage(l.edits[key].doc), "error", err.Error())
		g.Note(EventSnapshot{Kind: "override", Level: "warn", Details: l.edits[key].doc,
			Text: fmt.Sprintf("The change of %s %s does not fit the configuration, and is left out: %v", key.kind, key.name, err)})
	}
	maps.DeleteFunc(l.said, func(key editKey, _ string) bool { return l.left[key] == nil })
}

// docLocked is what is in force of the key.
func (g *Gateway) docLocked(key editKey) json.RawMessage {
	doc, _ := g.setup.Load().config.EditDoc(key.kind, key.name)
	return doc
}

// putEditLocked puts the edit that merge makes of the present one in force, and only if
// it fits. g.changes is held.
func (g *Gateway) putEditLocked(key editKey, merge func(now []byte) ([]byte, error), by string) (Change, error) {
	l := &g.live
	now, there := l.edits[key]
	if _, known := l.file.EditDoc(key.kind, key.name); !known && !there {
		return Change{}, fmt.Errorf("%w: %s %q", ErrNoSuch, key.kind, key.name)
	}
	doc, err := merge(now.doc)
	if err != nil {
		return Change{}, err
	}
	c := Change{Kind: key.kind, Name: key.name, Before: g.docLocked(key), Doc: doc, By: by, At: time.Now()}
	edits := maps.Clone(l.edits)
	delete(edits, key)
	if doc != nil {
		edits[key] = edit{doc, by, c.At}
	}
	if err := l.checkLocked(edits, key); err != nil {
		return Change{}, err
	}
	if err := g.putLocked(l.file, edits); err != nil {
		return Change{}, err
	}
	c.After = g.docLocked(key)
	return c, nil
}

// checkLocked says what is wrong with an edit of key beside all others that are in force.
func (l *live) checkLocked(edits map[editKey]edit, key editKey) error {
	var keys []editKey
	for _, k := range slices.SortedFunc(maps.Keys(edits), editKey.compare) {
		if k == key || l.left[k] == nil {
			keys = append(keys, k)
		}
	}
	_, err := l.file.Edited(listed(keys, edits))
	return err
}

// noteAuditLocked remembers a change, in the place of a database.
func (l *live) noteAuditLocked(c Change) {
	if len(l.audit) == maxAudit {
		l.audit = slices.Delete(l.audit, 0, 1)
	}
	l.audit = append(l.audit, c)
}
