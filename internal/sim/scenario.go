package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/inferweir/weir/admission"
)

// Lengths is how long prompts or answers are: lognormal, as they are in the
// logs of most services, many short ones and a few very long.
type Lengths struct {
	// Mean is in tokens.
	Mean float64
	// Spread is the standard deviation of the logarithm: 0 makes all alike, 0.6
	// makes one in twenty more than twice the mean. At most 3.
	Spread float64
	// Max cuts longer ones. Default 8 times the mean.
	Max int
}

func (l Lengths) draw(r *rand.Rand) int {
	v := math.Exp(math.Log(l.Mean) - l.Spread*l.Spread/2 + l.Spread*r.NormFloat64())
	top := float64(l.Max)
	if l.Max <= 0 {
		top = 8 * l.Mean
	}
	return int(math.Round(max(1, min(v, top))))
}

// Caller is one kind of caller: Count of them, each with its own queue and
// account at the gateway.
type Caller struct {
	// Name is what the report calls them.
	Name string
	// Count is how many there are. Default 1.
	Count int
	// Weight is the share each is entitled to, relative to the others. Default 1.
	Weight float64
	// Class is the priority of all their requests. The zero value is critical, as
	// in package admission; Standard is what most requests have.
	Class admission.Class
	// Load is what all of them together ask for, as a part of the engine's
	// capacity: 0.3 leaves most of it free, 10 is ten times what it can do.
	// Requests arrive at random moments (a Poisson process).
	Load float64
	// From and Until bound the time in which they ask. An Until of 0 is the end.
	From, Until time.Duration
	// Input and Output are the lengths of prompts and answers.
	Input, Output Lengths
	// Patience is how long each attempt waits for its first token. Default 10 s.
	Patience time.Duration
	// Retries is how often a request that was refused or grew impatient is tried
	// again, as an SDK does: after the Retry-After of a refusal, or after half a
	// second, one, two, up to eight, less up to a quarter.
	Retries int
	// Deaf callers ignore Retry-After.
	Deaf bool
	// Tickets says that a retry shows the ticket of its refusal, so that it is
	// served at its appointment. SDKs do not know of tickets: default off.
	Tickets bool
	// GuessInput and GuessOutput are what the gateway's estimates of the lengths
	// are multiplied with: 4 and 0.25 are estimates that are wrong by four.
	// Default 1.
	GuessInput, GuessOutput float64
}

func (c Caller) withDefaults() Caller {
	c.Count = max(c.Count, 1)
	for _, v := range []*float64{&c.Weight, &c.GuessInput, &c.GuessOutput} {
		if *v <= 0 {
			*v = 1
		}
	}
	if c.Patience <= 0 {
		c.Patience = 10 * time.Second
	}
	return c
}

// Slowdown makes every step of the engine take Factor times as long for a while.
type Slowdown struct {
	From, Until time.Duration
	Factor      float64
}

// Scenario is one experiment.
type Scenario struct {
	// Name is what the report calls it.
	Name string
	// Seed decides every random choice. The arrivals and the lengths of a seed are
	// the same under each policy.
	Seed uint64
	// Engine is the model server.
	Engine EngineOptions
	// Capacity is what the engine can do, in cost a second (a prompt token is 1, a
	// generated one 2). 0 measures it: see Capacity.
	Capacity float64
	// Callers are the callers; the report is about the first of them.
	Callers []Caller
	// Warm is the time at the start that is not measured, Length the time that is.
	// Defaults 30 s and 60 s.
	Warm, Length time.Duration
	// SLO is what makes a request good: its first token comes within TTFT of its
	// first attempt, and the tokens after it within TPOT on average. Default 2 s
	// and 80 ms.
	SLO admission.SLO
	// Slow are the times in which the engine is slow.
	Slow []Slowdown
	// Recovers is the moment from which to measure how long it takes until the
	// first callers are well again. 0 does not measure it.
	Recovers time.Duration
}

// maxEvents bounds a run: a Scenario of a day at full load ends in an error
// instead of running for hours.
const maxEvents = 200_000_000

func (s Scenario) withDefaults() Scenario {
	callers := make([]Caller, len(s.Callers))
	for i, c := range s.Callers {
		callers[i] = c.withDefaults()
	}
	s.Callers = callers
	s.Engine = s.Engine.withDefaults()
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&s.Warm, 30 * time.Second}, {&s.Length, time.Minute}, {&s.SLO.TTFT, 2 * time.Second}, {&s.SLO.TPOT, 80 * time.Millisecond}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	return s
}

// Validate reports the first thing in s that makes no sense.
func (s Scenario) Validate() error {
	if len(s.Callers) == 0 {
		return fmt.Errorf("sim: scenario %q: no callers", s.Name)
	}
	e := s.Engine.withDefaults()
	for _, c := range s.Callers {
		in, out := c.Input, c.Output
		switch {
		case !(c.Load > 0) || c.Load > 1000:
			return fmt.Errorf("sim: scenario %q: caller %q: load %v: want more than 0 and at most 1000 times the capacity", s.Name, c.Name, c.Load)
		case c.Count > 100_000:
			return fmt.Errorf("sim: scenario %q: caller %q: count %d: want at most 100,000", s.Name, c.Name, c.Count)
		case !(in.Mean >= 1) || !(out.Mean >= 1) || 8*(in.Mean+out.Mean) > float64(e.KVTokens):
			return fmt.Errorf("sim: scenario %q: caller %q: prompts of %v and answers of %v tokens on average: want at least 1, and together at most an eighth of the KV cache of %d",
				s.Name, c.Name, in.Mean, out.Mean, e.KVTokens)
		case !(in.Spread >= 0) || in.Spread > 3 || !(out.Spread >= 0) || out.Spread > 3:
			return fmt.Errorf("sim: scenario %q: caller %q: spreads of %v and %v: want 0 to 3", s.Name, c.Name, in.Spread, out.Spread)
		case in.Max < 0 || out.Max < 0 || in.Max+out.Max > e.KVTokens:
			return fmt.Errorf("sim: scenario %q: caller %q: prompts up to %d and answers up to %d tokens: want room for both in the KV cache of %d",
				s.Name, c.Name, in.Max, out.Max, e.KVTokens)
		}
	}
	return nil
}

const (
	normalLoad = 0.3
	normals    = 8
)

// Normal are eight callers with short prompts that together ask for load: people
// who chat, who leave after ten seconds, and whose SDK tries twice more.
func Normal(load float64) Caller {
	return Caller{
		Name: "normal", Count: normals, Class: admission.Standard, Load: load, Patience: 10 * time.Second, Retries: 2,
		Input: Lengths{Mean: 300, Spread: 0.6}, Output: Lengths{Mean: 150, Spread: 0.6},
	}
}

// Heavy is one caller with prompts five times as long that asks for load: a job
// somebody started without a thought.
func Heavy(load float64) Caller {
	return Caller{
		Name: "abuser", Class: admission.Standard, Load: load, Patience: 30 * time.Second, Retries: 2,
		Input: Lengths{Mean: 1500, Spread: 0.6}, Output: Lengths{Mean: 400, Spread: 0.6},
	}
}

// Abuser is eight normal callers that ask for 30 % of the capacity and one
// abuser that makes the load what it is.
func Abuser(load float64, seed uint64) Scenario {
	return Scenario{
		Name: fmt.Sprintf("abuser %gx", load), Seed: seed,
		Callers: []Caller{Normal(normalLoad), Heavy(load - normalLoad)},
	}
}

// Everyone is eight callers alike that ask for load times the capacity.
func Everyone(load float64, seed uint64) Scenario {
	return Scenario{Name: fmt.Sprintf("everyone %gx", load), Seed: seed, Callers: []Caller{Normal(load)}}
}

// Weighted is four callers with different requests and the weights 1, 1, 2 and 4
// that all ask for far more than they can get: their shares should be as their
// weights.
func Weighted(seed uint64) Scenario {
	caller := func(name string, weight, in, out float64) Caller {
		return Caller{
			Name: name, Weight: weight, Class: admission.Standard, Load: 2.5, Patience: 30 * time.Second,
			Input: Lengths{Mean: in, Spread: 0.6}, Output: Lengths{Mean: out, Spread: 0.6},
		}
	}
	return Scenario{
		Name: "weights 1,1,2,4", Seed: seed, Length: 200 * time.Second,
		Callers: []Caller{
			caller("chat", 1, 300, 150), caller("summary", 1, 1500, 100),
			caller("story", 2, 200, 500), caller("agent", 4, 1000, 250),
		},
	}
}

// Classes is one caller of each class: the critical one alone asks for twice the
// capacity, and the others must not starve.
func Classes(seed uint64) Scenario {
	caller := func(class admission.Class, name string, load float64) Caller {
		c := Normal(load)
		c.Name, c.Count, c.Class = name, 1, class
		return c
	}
	batch := caller(admission.Batch, "batch", 1)
	batch.Patience = time.Minute
	return Scenario{
		Name: "classes", Seed: seed, Length: 120 * time.Second,
		Callers: []Caller{caller(admission.Critical, "critical", 2), caller(admission.Standard, "standard", 1), batch},
	}
}

// Surge is 60 s of ten times the load out of a normal day, which then goes on:
// how long until the normal callers are well again.
func Surge(seed uint64) Scenario {
	crowd := Heavy(10 - normalLoad)
	crowd.Name, crowd.From, crowd.Until = "surge", 20*time.Second, 80*time.Second
	return Scenario{
		Name: "surge 10x for 60 s", Seed: seed, Warm: 20 * time.Second, Length: 200 * time.Second,
		Recovers: 80 * time.Second, Callers: []Caller{Normal(normalLoad), crowd},
	}
}

// SlowEngine is the load of 0.7 with an engine that takes three times as long
// for 60 s: 2.1 times what it can then do.
func SlowEngine(seed uint64) Scenario {
	s := Abuser(0.7, seed)
	s.Name, s.Warm, s.Length = "engine 3x slower for 60 s", 20*time.Second, 200*time.Second
	s.Recovers = 80 * time.Second
	s.Slow = []Slowdown{{From: 20 * time.Second, Until: 80 * time.Second, Factor: 3}}
	return s
}

// Standard are the scenarios of the comparison that the documentation shows.
func Standard(seed uint64) []Scenario {
	return []Scenario{
		Abuser(0.7, seed), Abuser(2, seed), Abuser(5, seed), Abuser(10, seed),
		Everyone(2, seed), Everyone(10, seed),
		Weighted(seed), Surge(seed), SlowEngine(seed),
	}
}
