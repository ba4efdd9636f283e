package admission

import (
	"math"
	"math/rand/v2"
	"slices"
)

// prompt is a request to a simulated model server.
type prompt struct {
	in, out  int
	estimate int // of out, by the gateway
	sent     float64
	last     float64 // when the last token came
	toRead   int     // tokens of prompt (and, thrown out, of answer) still to be read
	done     int     // tokens of answer
	held     int64   // tokens in the gateway's ledger
}

// modelServer is a step loop like that of vLLM: it reads at most 2048 tokens of
// prompts in a step, makes one token for each that is read, and throws the newest
// out when its cache is full, to read it again later.
type modelServer struct {
	limit  *limiter
	rng    *rand.Rand
	cache  int     // in tokens
	seqs   int     // at once
	arrive float64 // requests a second; +Inf: there is always one that waits
	slow   float64 // factor of the time of a step
	wrong  float64 // factor of the estimates
	in     float64 // medians
	out    float64
	scrape bool

	now, next, ticked float64
	line              []*prompt // at the gateway
	waiting, running  []*prompt // inside
	ledger            int64
	reading           int
	inside            int
	steps             []modelStep
	step              modelStep
	firsts            []float64
}

// modelStep is what one second looked like.
type modelStep struct {
	seats, tokens, prefill float64
	made                   float64 // tokens of answers, and a tenth of the prompts'
	work                   float64 // tokens read and made, weighted by what they take
	first                  float64 // p90 of the first tokens
	gap                    float64 // mean
	gaps                   int
	thrown                 int
	inside, waiting        int
	used                   float64
}

func newModelServer(l *limiter) *modelServer {
	return &modelServer{
		limit: l, rng: rand.New(rand.NewPCG(3, 4)), cache: 80_000, seqs: 256, arrive: math.Inf(1),
		slow: 1, wrong: 1, in: 300, out: 150,
	}
}

func (s *modelServer) run(seconds float64) []modelStep {
	from := len(s.steps)
	for until := s.now + seconds; s.now < until; {
		s.submit()
		s.send()
		s.work()
		if s.now >= s.ticked+1 {
			s.tick()
		}
	}
	return s.steps[from:]
}

func (s *modelServer) submit() {
	if math.IsInf(s.arrive, 1) {
		for len(s.line) < 50 {
			s.line = append(s.line, s.draw())
		}
		return
	}
	for s.next <= s.now {
		s.next += s.rng.ExpFloat64() / s.arrive
		if len(s.line) < 50 {
			s.line = append(s.line, s.draw())
		}
	}
}

func (s *modelServer) draw() *prompt {
	size := func(median float64) int {
		return min(max(int(median*math.Exp(0.6*s.rng.NormFloat64())), 4), 4000)
	}
	p := &prompt{in: size(s.in), out: size(s.out)}
	p.estimate = int(float64(p.out) * s.wrong)
	p.toRead, p.held = p.in, int64(p.in+p.estimate)
	return p
}

// send is the gateway.
func (s *modelServer) send() {
	for len(s.line) > 0 {
		p := s.line[0]
		full := s.inside+1 > int(s.limit.seats()) ||
			float64(s.ledger+p.held) > s.limit.tokens() ||
			s.reading > 0 && float64(s.reading+p.in) > s.limit.prefill()
		if s.inside > 0 && full {
			s.limit.blocked()
			return
		}
		s.line = s.line[1:]
		p.sent = s.now
		s.inside++
		s.ledger += p.held
		s.reading += p.in
		s.limit.use(s.inside, s.ledger)
		s.waiting = append(s.waiting, p)
	}
}

func (s *modelServer) used() (n int) {
	for _, p := range s.running {
		n += p.in - p.toRead + p.done
	}
	return n
}

// work is one step of the engine.
func (s *modelServer) work() {
	if len(s.running)+len(s.waiting) == 0 {
		s.now += 0.001
		return
	}
	read, budget, used := 0, 2048, s.used()
	for used+len(s.running) > s.cache && len(s.running) > 1 { // no room for a token each
		p := s.running[len(s.running)-1]
		s.running = s.running[:len(s.running)-1]
		used -= p.in - p.toRead + p.done
		p.toRead = p.in + p.done
		s.waiting = slices.Insert(s.waiting, 0, p)
		s.step.thrown++
	}
	for len(s.waiting) > 0 && len(s.running) < s.seqs && used+s.waiting[0].toRead+len(s.running) < s.cache*98/100 {
		used += s.waiting[0].toRead
		s.running = append(s.running, s.waiting[0])
		s.waiting = s.waiting[1:]
	}
	var ready []*prompt
	for _, p := range s.running {
		n := min(p.toRead, budget)
		p.toRead -= n
		budget -= n
		read += n
		if p.toRead == 0 {
			ready = append(ready, p)
		}
	}
	s.now += s.slow * (0.009 + 0.00012*float64(len(s.running)) + 0.00009*float64(read))
	s.step.work += float64(read)
	for _, p := range ready {
		s.token(p)
	}
	s.running = slices.DeleteFunc(s.running, func(p *prompt) bool { return p.done >= p.out })
}

func (s *modelServer) token(p *prompt) {
	p.done++
	s.step.made++
	if p.last == 0 {
		s.reading -= p.in
		took := s.now - p.sent
		s.firsts = append(s.firsts, took)
		s.limit.firstToken(duration(took), int64(p.in), after(s.now))
	} else {
		s.limit.gap(duration(s.now-p.last), 1)
		s.step.gap += s.now - p.last
		s.step.gaps++
	}
	p.last = s.now
	if p.done > p.estimate {
		p.held++
		s.ledger++
	}
	if p.done >= p.out {
		s.inside--
		s.ledger -= p.held
		s.limit.ended("", duration(s.now-p.sent), OK, int64(p.done), Cost(int64(p.in), 0, int64(p.estimate)), true)
		s.limit.use(s.inside, s.ledger)
	}
}

func (s *modelServer) tick() {
	s.ticked = s.now
	if s.scrape {
		s.limit.engine(EngineState{
			Running: len(s.running), Waiting: len(s.waiting), KVTokens: int64(s.cache), MaxSeqs: s.seqs,
			KVUsed: float64(s.used()) / float64(s.cache), At: after(s.now),
		}, after(s.now))
	}
	s.limit.tick(after(s.now))
	st := s.step
	s.step = modelStep{}
	st.seats, st.tokens, st.prefill = s.limit.seats(), s.limit.tokens(), s.limit.prefill()
	st.inside, st.waiting = s.inside, len(s.waiting)
	st.used = float64(s.used()) / float64(s.cache)
	if st.gaps > 0 {
		st.gap /= float64(st.gaps)
	}
	if slices.Sort(s.firsts); len(s.firsts) > 0 {
		st.first = s.firsts[len(s.firsts)*9/10]
	}
	s.firsts = s.firsts[:0]
	s.steps = append(s.steps, st)
}
