package gateway

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/ratelimit"
)

// account is what was reserved for a job when it was sent, and what its attempts have
// spent since. It waits with the job, and is settled once at its end.
type account struct {
	Takes []reservation `json:"takes,omitempty"`
	Spent spent         `json:"spent"`
	// Store is the instance that has what was reserved in its memory, "" where all share
	// the counts.
	Store string `json:"store,omitempty"`
	// Net is where the caller came from, for the slots that are counted by IP.
	Net netip.Prefix `json:"net,omitzero"`
}

// reservation is one policy's part. The policy may be another one by the end: what is
// due is charged to the count of its name.
type reservation struct {
	Scope string         `json:"scope"`
	Name  string         `json:"name"`
	Unit  string         `json:"unit"`
	Key   string         `json:"key"`
	Cost  int64          `json:"cost"`
	Taken int64          `json:"taken"`
	Mode  ratelimit.Mode `json:"mode,omitempty"`
}

// spent is amounts in a form that can be kept.
type spent struct {
	Requests int64 `json:"requests,omitempty"`
	Input    int64 `json:"input,omitempty"`
	Output   int64 `json:"output,omitempty"`
	Bytes    int64 `json:"bytes,omitempty"`
	Nanos    int64 `json:"nanos,omitempty"`
}

func (s spent) amounts() amounts {
	return amounts{requests: s.Requests, input: s.Input, output: s.Output, bytes: s.Bytes, money: s.Nanos}
}

// openAccount is an account for which nothing is reserved.
func (x *exchange) openAccount() account {
	a := account{Store: x.gateway.countsIn()}
	for _, t := range x.takes {
		if t.Policy.Concurrent == 0 && !t.Policy.Shadow {
			a.Takes = append(a.Takes, reservation{Scope: t.Policy.Scope, Name: t.Policy.Name, Unit: t.Policy.Unit, Key: t.Key})
		}
	}
	return a
}

// reservedAccount is the account of what x has taken. The job settles it from now on.
func (x *exchange) reservedAccount() account {
	a := account{Net: x.caller.Net, Store: x.gateway.countsIn()}
	for _, t := range x.takes {
		if t.Cost <= 0 || t.Mode == ratelimit.Open || t.Policy.Shadow && !t.Decision.Allowed {
			continue // nothing was taken
		}
		a.Takes = append(a.Takes, reservation{
			Scope: t.Policy.Scope, Name: t.Policy.Name, Unit: t.Policy.Unit, Key: t.Key, Cost: t.Cost, Taken: t.Taken, Mode: t.Mode,
		})
	}
	return a
}

func (a account) encode() []byte {
	text, err := json.Marshal(a)
	if err != nil { // strings and integers only: cannot happen
		return nil
	}
	return text
}

// countsIn is the instance whose memory has the counts: this one, or "" where all share
// them.
func (g *Gateway) countsIn() string {
	if g.counts.redis != nil {
		return ""
	}
	return g.slots.instance
}

// readAccount reads what encode made. What cannot be read is empty: then nothing is
// charged, and nothing given back.
func readAccount(text []byte) (a account) {
	if json.Unmarshal(text, &a) != nil {
		return account{}
	}
	return a
}

func (a *account) spend(used amounts) {
	a.Spent.Requests = sum(a.Spent.Requests, used.requests)
	a.Spent.Input = sum(a.Spent.Input, used.input)
	a.Spent.Output = sum(a.Spent.Output, used.output)
	a.Spent.Bytes = sum(a.Spent.Bytes, used.bytes)
	a.Spent.Nanos = sum(a.Spent.Nanos, used.money)
}

// jobEnded settles a job: what it has used is charged in place of what was reserved
// for it. All of that is given back for one that brought no answer.
func (g *Gateway) jobEnded(ctx context.Context, j *job.Job) {
	a, s := readAccount(j.Account), g.setup.Load()
	policies := s.policiesOf(j.Caller, j.Plan)
	if rt := s.route(j.Route); rt != nil {
		policies = append(policies[:len(policies):len(policies)], rt.policies...)
	}
	used, elsewhere := a.Spent.amounts(), a.Store != g.countsIn()
	var due []ratelimit.Take
	for _, r := range a.Takes {
		for _, p := range policies {
			if p.Scope != r.Scope || p.Name != r.Name || p.Unit != r.Unit || p.Concurrent > 0 {
				continue
			}
			if elsewhere {
				r.Cost = 0 // it went with that instance's memory
			}
			if cost := used.of(r.Unit) - r.Cost; cost != 0 {
				due = append(due, ratelimit.Take{Policy: p.Policy, Key: r.Key, Cost: cost, Taken: r.Taken, Mode: r.Mode})
			}
			break
		}
	}
	if len(due) == 0 {
		return
	}
	if err := s.counts.Settle(ctx, due, time.Now()); err != nil {
		g.Logger().Warn("a job's quota could not be settled", "job", j.ID, "error", err.Error())
	}
}
