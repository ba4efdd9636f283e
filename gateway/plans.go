package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// defaultPlan is the plan of a caller without one.
const defaultPlan = "default"

// policy is a policy and whose count a request takes from.
type policy struct {
	*ratelimit.Policy
	by string // caller, ip, global, plan, route, model, or header:NAME
}

// override is what one caller has in place of its plan.
type override struct {
	plan     string              // "": the caller's own
	policies map[string][]policy // by plan: its own, with the caller's in them
}

// planOf is the plan that a caller has.
func (s *setup) planOf(c weir.Caller) string {
	plan := c.Plan
	if o, ok := s.overrides[c.ID]; ok && o.plan != "" {
		plan = o.plan
	}
	if _, ok := s.plans[plan]; !ok || plan == "" {
		return defaultPlan
	}
	return plan
}

// policiesOf are the policies that apply to a caller with a plan.
func (s *setup) policiesOf(caller, plan string) []policy {
	if o, ok := s.overrides[caller]; ok {
		if policies, ok := o.policies[plan]; ok {
			return policies
		}
	}
	return s.plans[plan]
}

// buildPlans makes all plans ready, and what callers have in place of them.
func (s *setup) buildPlans(plans map[string]config.Plan) error {
	s.plans, s.overrides = map[string][]policy{}, map[string]override{}
	var errs []error
	var err error
	if s.prices, err = newPrices(s.config); err != nil {
		return err
	}
	for name, plan := range plans {
		policies, err := prepare("plan:"+name, s.moved.apply("plan:"+name, withBudget(plan.Policies, plan)))
		s.plans[name] = policies
		errs = append(errs, err)
	}
	for _, o := range s.config.Callers.Overrides {
		own := override{plan: o.Plan, policies: map[string][]policy{}}
		for _, plan := range s.plansOf(o) {
			// In the plan's own scope: a policy of the same name has the same
			// count, whoever it is for, and keeps what is owed.
			policies, err := prepare("plan:"+plan, s.moved.apply("plan:"+plan, withBudget(o.Applied(plans[plan].Policies), plans[plan])))
			own.policies[plan] = policies
			errs = append(errs, err)
		}
		s.overrides[o.Caller] = own
	}
	return errors.Join(errs...)
}

// plansOf are the plans that a caller with an override can have: a token may name
// any.
func (s *setup) plansOf(o config.Override) []string {
	if o.Plan != "" {
		return []string{o.Plan}
	}
	if strings.HasPrefix(o.Caller, "jwt:") {
		return append(slices.Collect(maps.Keys(s.plans)), defaultPlan)
	}
	var plans []string
	for _, k := range s.config.Callers.Keys {
		if "key:"+k.Caller == o.Caller {
			plans = append(plans, cmp.Or(k.Plan, defaultPlan))
		}
	}
	if len(plans) == 0 {
		return []string{defaultPlan}
	}
	return plans
}

// mostPolicies is how many policies a caller can have.
func (s *setup) mostPolicies() int {
	most := 0
	for _, policies := range s.plans {
		most = max(most, len(policies))
	}
	for _, o := range s.overrides {
		for _, policies := range o.policies {
			most = max(most, len(policies))
		}
	}
	return most
}

func prepare(scope string, configured []config.Policy) ([]policy, error) {
	policies := make([]policy, 0, len(configured))
	for _, p := range configured {
		limit := p.Limit()
		limit.Scope = scope
		ready, err := limit.Prepare()
		if err != nil {
			return nil, fmt.Errorf("%s: policy %q: %w", scope, p.Name, err)
		}
		by := p.By
		if name, isHeader := strings.CutPrefix(by, "header:"); isHeader {
			by = "header:" + http.CanonicalHeaderKey(name)
		}
		policies = append(policies, policy{Policy: ready, by: by})
	}
	return policies, nil
}

func policyNames(policies []config.Policy) []string {
	names := make([]string, len(policies))
	for i, p := range policies {
		names[i] = p.Name
	}
	return names
}

// Config is the configuration in force. It is only to be read.
func (g *Gateway) Config() *config.Config { return g.setup.Load().config }

// Policies are those of a plan as they are in force, and whether it is there.
func (g *Gateway) Policies(plan string) ([]config.Policy, bool) {
	p, ok := g.setup.Load().config.Plans[plan]
	return slices.Clone(p.Policies), ok
}

// Plans are the names of all plans, sorted.
func (g *Gateway) Plans() []string {
	return slices.Sorted(maps.Keys(g.setup.Load().config.Plans))
}
