package redisstore

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

//go:embed lua/grant.lua
var grantLua string

// grantWidth is how many integers of an answer are about one grant.
const grantWidth = 5

// Grant implements ratelimit.Granter: one script for all grants, or on a cluster
// one for each slot, side by side. It takes the deadline at most.
func (s *Store) Grant(ctx context.Context, grants []ratelimit.Grant, now time.Time) error {
	if err := ratelimit.CheckGrants(grants); err != nil {
		return err
	}
	if len(grants) == 0 {
		return nil
	}
	began := time.Now()
	err := s.link.ready()
	if err == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), s.options.Deadline)
		defer cancel()
		err = s.grant(ctx, grants, now)
	}
	s.observe(OpGrant, began, err)
	if err != nil {
		return fmt.Errorf("redisstore: grant: %w", err)
	}
	return nil
}

func (s *Store) grant(ctx context.Context, grants []ratelimit.Grant, now time.Time) error {
	// The grouping by slots is that of takes.
	takes := make([]ratelimit.Take, len(grants))
	for i := range grants {
		takes[i] = ratelimit.Take{Policy: grants[i].Policy, Key: grants[i].Key}
	}
	c := s.newCall(takes, now)
	if len(c.groups) == 1 {
		return s.grantGroup(ctx, c, 0, grants)
	}
	errs := make([]error, len(c.groups)) // at most ratelimit.MaxGrants
	var wg sync.WaitGroup
	for i := range c.groups {
		wg.Go(func() { errs[i] = s.grantGroup(ctx, c, i, grants) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Store) grantGroup(ctx context.Context, c *call, n int, grants []ratelimit.Grant) error {
	group := c.groups[n]
	keys := make([]string, 0, 2*len(group))
	args := make([]string, 0, 2+12*len(group))
	args = append(args, c.clock...)
	for _, at := range group {
		keys = append(keys, c.keys[at], lentKey(c.keys[at]))
		args = grantArgs(args, &grants[at])
	}
	ints, err := s.run(ctx, s.scripts.grant, keys, args)
	if err != nil {
		return err
	}
	if len(ints) != 2+grantWidth*len(group) {
		return fmt.Errorf("the script answered with %d integers for %d grants", len(ints), len(group))
	}
	at := ints[0]*int64(time.Second) + ints[1]
	for i, j := range group {
		v := ints[2+grantWidth*i:]
		found := ratelimit.Account{
			At:   v[0]*int64(time.Second) + v[1],
			Lent: v[2]*int64(time.Second) + v[3],
		}
		if grants[j].Policy.Lend(found, &grants[j], at); grants[j].Units != v[4] {
			return errDisagree
		}
	}
	return nil
}

// lentKey is where it stands how far a bucket is lent: beside the bucket, and in
// the same slot of a cluster. No count has this kind.
func lentKey(count string) string {
	return strings.Replace(count, "}:"+kindBucket+",", "}:l,", 1)
}

// grantArgs appends what grant.lua needs to know of a grant.
func grantArgs(args []string, g *ratelimit.Grant) []string {
	p, sign := g.Policy, "+"
	if g.Owed < 0 {
		sign = "-"
	}
	cost := max(g.Cost, 0)
	burst := (&ratelimit.Take{Policy: p}).Burst()
	if cost > min(burst, ratelimit.MaxUnits) {
		cost = 0
	}
	args = append(args, sign)
	for _, n := range []int64{cost, min(g.Want, ratelimit.MaxUnits), burst} {
		args = append(args, strconv.FormatInt(n, 10))
	}
	args = pair(args, magnitude(g.Owed, int64(maxDebt/p.Interval()))*p.Interval())
	return pair(pair(pair(args, p.Interval()), p.Slack()), time.Duration(burst)*p.Interval())
}
