package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
)

// KeepPolicies puts policies in force, as SetPolicies does, and in the database, if
// there is one: then they outlive this process, and hold at the other instances within
// two seconds. It reports whether they do. by is who wants it.
//
// Where the database does not keep them now it is told when it is back, unless somebody
// has changed the plan there meanwhile: then that is in force here, too.
func (g *Gateway) KeepPolicies(ctx context.Context, plan string, policies []config.Policy, by string) (before []config.Policy, isKept bool, err error) {
	return g.keep(ctx, plan, policies, intent{by: by})
}

// DropPolicies takes back what KeepPolicies and SetPolicies did to a plan: what the file
// says is in force. It reports whether that is so after a restart, too, and at the other
// instances within two seconds. Without a database it always is.
func (g *Gateway) DropPolicies(ctx context.Context, plan, by string) (before []config.Policy, isKept bool, err error) {
	return g.keep(ctx, plan, g.data.file.Plans[plan].Policies, intent{by: by, drop: true})
}

func (g *Gateway) keep(ctx context.Context, plan string, policies []config.Policy, want intent) (before []config.Policy, isKept bool, err error) {
	db, k := g.data.db, &g.data.kept
	if db == nil {
		before, err = g.SetPolicies(plan, policies)
		return before, err == nil && want.drop, err
	}
	k.begin(plan)
	defer k.end(plan)
	if before, err = g.SetPolicies(plan, policies); err != nil {
		return before, false, err
	}
	want.at = db.Now()
	if want.drop {
		if err = db.Overrides().Delete(ctx, planOverride, plan, want.by); errors.Is(err, database.ErrNoOverride) {
			err = nil
		}
	} else {
		err = db.Overrides().Set(ctx, planOverride, plan, config.PoliciesJSON(policies, plan), want.by)
	}
	if err != nil {
		k.owe(plan, want)
		g.Logger().Warn("changed policies hold at this instance alone: the database does not keep them yet", "plan", plan, "error", err.Error())
		return before, false, nil
	}
	k.keeps(plan, want)
	return before, true, nil
}

// Overridden reports whether the policies that a plan has are those that the database
// keeps in place of the file's.
func (g *Gateway) Overridden(plan string) bool {
	return g.data.kept.has(plan)
}

// follow puts in force what the database keeps, where something else is, and has the
// database keep what was changed here while it could not. What is in force stays so
// while the database is away.
func (g *Gateway) follow(ctx context.Context) {
	k, overrides := &g.data.kept, g.data.db.Overrides()
	version, err := overrides.Version(ctx)
	if err != nil || !k.news(version) {
		return
	}
	all, version, err := overrides.All(ctx)
	if err != nil {
		k.again()
		return
	}
	found := map[string]database.Override{}
	plans := g.Plans()
	for _, o := range all {
		if o.Kind == planOverride {
			found[o.Name] = o
			plans = append(plans, o.Name)
		}
	}
	slices.Sort(plans)
	for _, plan := range slices.Compact(plans) {
		if want, owed := k.owes(plan); owed && !g.catchUp(ctx, plan, want, found[plan]) {
			continue
		}
		k.unlessChanging(plan, func() bool { return g.adopt(plan, found[plan].Doc) })
	}
	k.seen(version)
}

// catchUp has the database keep the policies of a plan that were changed here and could
// not be kept, unless the database has something newer. It reports whether what the
// database has, was, is to be in force.
func (g *Gateway) catchUp(ctx context.Context, plan string, want intent, was database.Override) bool {
	k := &g.data.kept
	there := !was.Changed.IsZero()
	policies, _ := g.Policies(plan)
	next := database.Override{Kind: planOverride, Name: plan, By: want.by}
	if !want.drop {
		next.Doc = config.PoliciesJSON(policies, plan)
	}
	switch {
	case !there && want.drop, there && bytes.Equal(was.Doc, next.Doc):
		k.pay(plan, want)
		return true
	case there && was.Changed.After(want.at), !there && want.had:
		k.pay(plan, want)
		g.Logger().Warn("changed policies that the database could not keep are taken back: they have been changed there meanwhile", "plan", plan,
			"policies", json.RawMessage(config.PoliciesJSON(policies, plan)), "by", was.By)
		return true
	case want.failed:
		return false
	}
	err := g.data.db.Overrides().Replace(ctx, was, next)
	switch {
	case err == nil:
		k.pay(plan, want)
		g.Logger().Info("the database keeps the policies that were changed while it could not", "plan", plan)
	case errors.Is(err, database.ErrAway), errors.Is(err, database.ErrOverrideChanged), ctx.Err() != nil:
	default:
		k.fail(plan, want)
		g.Logger().Warn("changed policies hold at this instance alone, until it ends: the database does not keep them", "plan", plan, "error", err.Error())
	}
	k.again() // another look finds what it has become
	return false
}

// adopt puts in force what the database has for a plan, unless it is already; nil is
// what the file says. It reports whether the database's is in force.
func (g *Gateway) adopt(plan string, doc []byte) bool {
	policies, err := g.data.file.Plans[plan].Policies, error(nil)
	if doc != nil {
		policies, err = g.Config().ParsePlan(json.RawMessage(doc), plan)
	}
	text := config.PoliciesJSON(policies, plan)
	if now, known := g.Policies(plan); err == nil && known && bytes.Equal(config.PoliciesJSON(now, plan), text) {
		return doc != nil
	}
	if err == nil {
		_, err = g.SetPolicies(plan, policies)
	}
	if err != nil {
		if g.data.kept.misfits(plan, doc) {
			g.Logger().Warn("policies that the database keeps do not fit the configuration, and are left out", "plan", plan, "error", err.Error())
		}
		return false
	}
	g.Logger().Info("policies of the database are in force", "plan", plan, "policies", json.RawMessage(text))
	return doc != nil
}

// seedsSaid is how often the log says why budgets are not charged yet.
const seedsSaid = time.Minute

// seed charges the budgets with what the ledger says was spent, once.
func (g *Gateway) seed(ctx context.Context) {
	if g.seeds.done {
		return
	}
	err := g.seedBudgets(ctx, g.data.db.Usage(), time.Now())
	if err == nil || errors.Is(err, database.ErrAway) || ctx.Err() != nil || time.Since(g.seeds.said) < seedsSaid {
		return
	}
	g.seeds.said = time.Now()
	g.Logger().Warn("budgets begin without what was spent before: it is tried again", "error", err.Error())
}
