package redisstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

// call is one Take or Settle: a script for all takes, or on a cluster one for
// each slot.
type call struct {
	store  *Store
	takes  []ratelimit.Take
	keys   []string
	groups [][]int    // of takes, each in one slot, in ascending order of slots
	found  [][]answer // of each group, before a take
	after  []answer   // of each take, after a settle
	clock  []string
}

func (s *Store) newCall(takes []ratelimit.Take, now time.Time) *call {
	c := &call{store: s, takes: takes, keys: make([]string, len(takes)), after: make([]answer, len(takes)), clock: clockArgs(nil)}
	if s.callerTime {
		c.clock = clockArgs(&now)
	}
	all := make([]int, len(takes))
	for i := range takes {
		all[i], c.keys[i] = i, countKey(s.options.Prefix, takes[i].Policy, takes[i].Key)
	}
	if s.address.Kind != Cluster {
		c.groups = [][]int{all}
		return c
	}
	slots := make([]uint16, len(takes))
	for i, key := range c.keys {
		slots[i] = slotOf(key)
	}
	// The order is the same for every call, so that two calls for the last units
	// of several counts do not both fail.
	slices.SortStableFunc(all, func(i, j int) int { return cmp.Compare(slots[i], slots[j]) })
	for begin, end := 0, 1; end <= len(all); end++ {
		if end == len(all) || slots[all[end]] != slots[all[begin]] {
			c.groups = append(c.groups, all[begin:end])
			begin = end
		}
	}
	return c
}

// errDisagree is a bug: the scripts and package ratelimit compute the same.
var errDisagree = errors.New("the script and the program decided differently")

// take takes group by group. What is behind the first that denies is only looked
// at, and what is before it is given back.
func (c *call) take(ctx context.Context) (bool, error) {
	c.found = make([][]answer, len(c.groups))
	took := len(c.groups)
	for g, group := range c.groups {
		ok, err := c.takeGroup(ctx, g, took < g)
		if err == nil {
			for i, at := range group {
				if !c.found[g][i].decide(&c.takes[at]) {
					err = errDisagree
				}
			}
		}
		if err != nil {
			// What this group's script did is unknown, so that only those before are
			// undone, and slots freed. Their deadline is over: somebody else does it.
			c.undoFrom(0, min(took, g))
			if took == len(c.groups) && !errors.Is(err, ErrAway) {
				c.freeLater(group, 1)
			}
			return false, err
		}
		if !ok && took == len(c.groups) {
			took = g
		}
	}
	if took == len(c.groups) {
		return true, nil
	}
	for g := took; g < len(c.groups); g++ {
		c.lookAgain(g)
	}
	c.giveBack(ctx, took)
	return false, nil
}

func (c *call) takeGroup(ctx context.Context, g int, dry bool) (bool, error) {
	group := c.groups[g]
	keys := make([]string, len(group))
	args := make([]string, 0, 3+8*len(group))
	args = append(args, c.clock...)
	if dry {
		args = append(args, "1")
	} else {
		args = append(args, "0")
	}
	least := make([]int, len(group)) // how many slots Redis has, if none was lost
	for i, at := range group {
		keys[i] = c.keys[at]
		own := 0
		if c.takes[at].Policy.Concurrent > 0 {
			var freed int
			own, freed = c.store.held.of(keys[i])
			least[i] = own + freed
		}
		args = takeArgs(args, &c.takes[at], c.store.lease, own)
	}
	ints, err := c.store.run(ctx, c.store.scripts.take, keys, args)
	if err != nil {
		return false, err
	}
	took, found, err := readTakes(ints, c.takes, group)
	c.found[g] = found
	for i := range found {
		if least[i] > 0 {
			c.store.compare(keys[i], found[i].there, least[i])
		}
	}
	return took, err
}

// lookAgain says of the counts of a group, of which nothing was taken, what is
// left: what was there before.
func (c *call) lookAgain(g int) {
	group := c.groups[g]
	for _, at := range group {
		first := slices.IndexFunc(group, func(other int) bool { return c.keys[other] == c.keys[at] })
		c.found[g][first].left(&c.takes[at])
	}
}

// taken are the takes of a group that its script wrote, turned round.
func (c *call) taken(g int) (takes []ratelimit.Take) {
	for i, j := range c.groups[g] {
		t := c.takes[j]
		if !t.Decision.Allowed || t.Cost <= 0 || c.found[g][i].held {
			continue
		}
		t.Cost = -t.Cost
		takes = append(takes, t)
	}
	return takes
}

// giveBack undoes the first n groups and says what is left there. What it cannot
// undo in time is left to undoAll; that this call took nothing stays true.
func (c *call) giveBack(ctx context.Context, n int) {
	for g := range n {
		takes := c.taken(g)
		back := c.store.newCall(takes, time.Time{})
		back.clock = c.clock
		if len(takes) > 0 && back.settle(ctx) != nil {
			c.undoFrom(g, n)
			for ; g < n; g++ {
				c.lookAgain(g)
			}
			return
		}
		c.lookAgain(g)
		for _, at := range c.groups[g] {
			for i, key := range back.keys { // the last is how it is now
				if key == c.keys[at] {
					back.after[i].left(&c.takes[at])
				}
			}
		}
	}
}

// undoFrom hands over what groups from and up to n took.
func (c *call) undoFrom(from, n int) {
	for g := from; g < n; g++ {
		takes := c.taken(g)
		if len(takes) == 0 {
			continue
		}
		select {
		case c.store.undo <- takes:
		default: // left charged, as after a timeout
			c.freeLater(c.groups[g], 1)
		}
	}
}

// settle corrects all groups. One that fails does not keep the others from
// theirs; the first error is returned.
func (c *call) settle(ctx context.Context) error {
	var first error
	for _, group := range c.groups {
		if err := c.settleGroup(ctx, group); err != nil {
			c.freeLater(group, -1)
			if first == nil {
				first = err
			}
		}
	}
	return first
}

// freeLater hands over the slots of a group that it may have taken (sign 1), or
// did not free (-1).
func (c *call) freeLater(group []int, sign int) {
	for _, at := range group {
		t, key := &c.takes[at], c.keys[at]
		if s := (slot{key, t.ID}); t.Policy.Concurrent > 0 && cmp.Compare(t.Cost, 0) == sign && !c.store.held.has(s) {
			c.store.freeing.add(s)
		}
	}
}

func (c *call) settleGroup(ctx context.Context, group []int) error {
	keys := make([]string, len(group))
	args := make([]string, 0, 2+6*len(group))
	args = append(args, c.clock...)
	for i, at := range group {
		keys[i] = c.keys[at]
		args = settleArgs(args, &c.takes[at])
	}
	ints, err := c.store.run(ctx, c.store.scripts.settle, keys, args)
	if err != nil {
		return err
	}
	after, err := readSettled(ints, c.takes, group)
	if err != nil {
		return err
	}
	for i, at := range group {
		c.takes[at].Decision = ratelimit.Decision{Allowed: true}
		after[i].left(&c.takes[at])
		c.after[at] = after[i]
	}
	return nil
}

// hold remembers the slots that were taken, to renew them.
func (c *call) hold() {
	for i := range c.takes {
		if t := &c.takes[i]; t.Policy.Concurrent > 0 && t.Decision.Allowed && t.Cost > 0 {
			c.store.held.add(slot{key: c.keys[i], id: t.ID})
		}
	}
}

// release forgets the slots that are given back.
func (c *call) release() {
	for i := range c.takes {
		if t := &c.takes[i]; t.Policy.Concurrent > 0 && t.Cost < 0 {
			c.store.held.remove(slot{key: c.keys[i], id: t.ID})
		}
	}
}
