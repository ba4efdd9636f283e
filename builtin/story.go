package builtin

import (
	"context"
	"math"
)

// slotsPerCPU times GOMAXPROCS requests run at once; more wait, in the order in
// which they came. More would not be faster, and each holds about 1 MB.
const slotsPerCPU = 4

// story is a decoder-only transformer: RMSNorm, rotary positions, causal
// attention, SwiGLU, one matrix for the tokens that go in and come out. It
// computes in float32, with weights of eight bits and a scale for each row. It
// is never changed once loaded and is safe for concurrent use.
type story struct {
	dim, hidden, heads, context int

	eps         float32
	embedding   byteMatrix
	norm        []float32
	layers      []storyLayer
	cos, sin    []float32 // for each position, dim/heads/2 of them
	tokens      *storyTokens
	fingerprint string
	// weights are the numbers that bytes stand for: to look one up is quicker
	// than to convert it.
	weights [256]float32
	slots   chan struct{}
}

type storyLayer struct {
	normAttention, normForward []float32
	query, key, value, out     byteMatrix
	gate, up, down             byteMatrix
}

// byteMatrix is a matrix of int8 rows; a weight is its byte times its row's scale.
type byteMatrix struct {
	scales []float32
	data   []byte
}

// times sets out, one number for each row, to the product of the matrix and in.
// Four rows at a time make four sums that do not wait for each other. The race
// detector, with which a story would take forty times as long, need not look: whoever
// shares a state is seen in step.
//
//go:norace
func (m *story) times(out []float32, b *byteMatrix, in []float32) {
	n, w := len(in), &m.weights
	out = out[:len(b.scales)]
	r := 0
	for ; r+4 <= len(out); r += 4 {
		rows := b.data[r*n:]
		w0, w1, w2, w3 := rows[:n][:len(in)], rows[n:][:len(in)], rows[2*n:][:len(in)], rows[3*n:][:len(in)]
		var s0, s1, s2, s3 float32
		for i, v := range in {
			s0 += w[w0[i]] * v
			s1 += w[w1[i]] * v
			s2 += w[w2[i]] * v
			s3 += w[w3[i]] * v
		}
		scales := (*[4]float32)(b.scales[r:])
		out[r], out[r+1], out[r+2], out[r+3] = s0*scales[0], s1*scales[1], s2*scales[2], s3*scales[3]
	}
	for ; r < len(out); r++ {
		var sum float32
		for i, v := range in {
			sum += w[b.data[r*n+i]] * v
		}
		out[r] = sum * b.scales[r]
	}
}

// storyState is one request's place in a text: the keys and values of the tokens
// so far, and room to compute in.
type storyState struct {
	model *story
	at    int
	// keys and values hold dim numbers for each layer and position, room
	// positions a layer.
	keys, values []float32
	room         int

	x, h, query, mixed []float32
	gate, up           []float32
	scores             []float32
	logits             []float32
}

// state makes room for so many tokens, which are at most the context.
func (m *story) state(room int) *storyState {
	cache := make([]float32, 2*len(m.layers)*room*m.dim)
	s := &storyState{model: m, room: room, keys: cache[:len(cache)/2], values: cache[len(cache)/2:]}
	work := make([]float32, 4*m.dim+2*m.hidden+room+len(m.tokens.texts))
	for _, part := range []struct {
		of   *[]float32
		size int
	}{
		{&s.x, m.dim}, {&s.h, m.dim}, {&s.query, m.dim}, {&s.mixed, m.dim},
		{&s.gate, m.hidden}, {&s.up, m.hidden}, {&s.scores, room}, {&s.logits, len(m.tokens.texts)},
	} {
		*part.of, work = work[:part.size:part.size], work[part.size:]
	}
	return s
}

// read takes in ids and leaves in s.logits what comes after the last of them. It
// stops between tokens when ctx ends. The caller sees to it that there is room.
func (s *storyState) read(ctx context.Context, ids []uint16) error {
	for _, id := range ids {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.step(id)
	}
	s.predict()
	return nil
}

// step takes in one token.
func (s *storyState) step(id uint16) {
	m := s.model
	row, scale := m.embedding.data[int(id)*m.dim:][:m.dim], m.embedding.scales[id]
	for i, w := range row {
		s.x[i] = m.weights[w] * scale
	}
	for i := range m.layers {
		l := &m.layers[i]
		m.normalise(s.h, s.x, l.normAttention)
		start := (i*s.room + s.at) * m.dim
		key, value := s.keys[start:][:m.dim], s.values[start:][:m.dim]
		m.times(s.query, &l.query, s.h)
		m.times(key, &l.key, s.h)
		m.times(value, &l.value, s.h)
		m.turn(s.query, s.at)
		m.turn(key, s.at)
		s.attend(i)
		m.times(s.h, &l.out, s.mixed)
		add(s.x, s.h)
		m.normalise(s.h, s.x, l.normForward)
		m.times(s.gate, &l.gate, s.h)
		m.times(s.up, &l.up, s.h)
		for j, g := range s.gate {
			s.gate[j] = g / (1 + exp(-g)) * s.up[j]
		}
		m.times(s.h, &l.down, s.gate)
		add(s.x, s.h)
	}
	s.at++
}

// predict sets the logits of the token after those read.
func (s *storyState) predict() {
	m := s.model
	m.normalise(s.h, s.x, m.norm)
	m.times(s.logits, &m.embedding, s.h)
}

// attend sets mixed to the values of layer's positions so far, each in
// proportion to how its key fits the query.
//
//go:norace
func (s *storyState) attend(layer int) {
	m := s.model
	size := m.dim / m.heads
	scale := float32(1 / math.Sqrt(float64(size)))
	scores := s.scores[:s.at+1]
	keys, values := s.keys[layer*s.room*m.dim:], s.values[layer*s.room*m.dim:]
	for head := 0; head < m.dim; head += size {
		query := s.query[head:][:size]
		for p := range scores {
			scores[p] = dot(query, keys[p*m.dim+head:]) * scale
		}
		softmax(scores)
		mixed := s.mixed[head:][:size]
		clear(mixed)
		for p, weight := range scores {
			value := values[p*m.dim+head:][:len(mixed)]
			for i := range mixed {
				mixed[i] += weight * value[i]
			}
		}
	}
}

// normalise sets out to in at a root mean square of 1, times weights.
func (m *story) normalise(out, in, weights []float32) {
	var sum float64
	for _, v := range in {
		sum += float64(v) * float64(v)
	}
	scale := float32(1 / math.Sqrt(sum/float64(len(in))+float64(m.eps)))
	weights, out = weights[:len(in)], out[:len(in)]
	for i, v := range in {
		out[i] = v * scale * weights[i]
	}
}

// turn turns each even number of every head with the odd one after it.
func (m *story) turn(v []float32, at int) {
	half := m.dim / m.heads / 2
	cos, sin := m.cos[at*half:][:half], m.sin[at*half:][:half]
	for ; len(v) >= 2*half; v = v[2*half:] {
		for i, c := range cos {
			a, b := v[2*i], v[2*i+1]
			v[2*i], v[2*i+1] = a*c-b*sin[i], a*sin[i]+b*c
		}
	}
}

func add(to, from []float32) {
	from = from[:len(to)]
	for i := range to {
		to[i] += from[i]
	}
}

// dot multiplies a with the beginning of b.
//
//go:norace
func dot(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	for len(a) >= 4 && len(b) >= 4 {
		s0 += a[0] * b[0]
		s1 += a[1] * b[1]
		s2 += a[2] * b[2]
		s3 += a[3] * b[3]
		a, b = a[4:], b[4:]
	}
	for i := range min(len(a), len(b)) {
		s0 += a[i] * b[i]
	}
	return s0 + s1 + s2 + s3
}

func exp(x float32) float32 { return float32(math.Exp(float64(x))) }

// softmax turns scores into shares of 1.
//
//go:norace
func softmax(scores []float32) {
	highest := scores[0]
	for _, v := range scores {
		highest = max(highest, v)
	}
	var sum float32
	for i, v := range scores {
		scores[i] = exp(v - highest)
		sum += scores[i]
	}
	for i := range scores {
		scores[i] /= sum
	}
}
