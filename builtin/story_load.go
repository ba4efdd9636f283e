package builtin

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
)

// What a model may be. The limits keep the memory for a damaged file near the
// file's own size and a request's memory below 32 MiB, and all sums far from
// overflow: a model that loads computes numbers, never NaN.
const (
	storyMagic     = "WLM1"
	maxStoryHeader = 1 << 20
	maxStoryCache  = 1 << 22 // layers x context x dim
	maxStorySize   = 1 << 12 // of any one length
	largestWeight  = 1e3     // of a scale and of a norm
)

// storyHeader is the JSON at the beginning of a model file.
type storyHeader struct {
	Format    string        `json:"format"`
	Vocab     int           `json:"vocab"`
	Dim       int           `json:"dim"`
	Hidden    int           `json:"hidden"`
	Layers    int           `json:"layers"`
	Heads     int           `json:"heads"`
	Context   int           `json:"context"`
	RopeTheta float64       `json:"rope_theta"`
	NormEps   float32       `json:"norm_eps"`
	Bos       int           `json:"bos"`
	Eos       int           `json:"eos"`
	Unk       int           `json:"unk"`
	Tokens    []string      `json:"tokens"`
	Merges    [][2]string   `json:"merges"`
	Piece     string        `json:"piece"`
	Matrices  []storyMatrix `json:"matrices"`
}

// storyMatrix is an entry of the header's table: where a matrix lies in what
// follows the header.
type storyMatrix struct {
	Name   string `json:"name"`
	Shape  []int  `json:"shape"`
	Type   string `json:"type"`
	Offset int    `json:"offset"`
	Bytes  int    `json:"bytes"`
}

// loadStory reads a model file: "WLM1", the length of a JSON header (uint32,
// little endian), the header, and its matrices one after the other without
// gaps. Every length and number is checked before use, so data may be anything.
// The model keeps parts of data: the caller must not change it.
func loadStory(data []byte) (*story, error) {
	h, rest, err := storyHead(data)
	if err != nil {
		return nil, fmt.Errorf("story model: %w", err)
	}
	tokens, err := newStoryTokens(h)
	if err != nil {
		return nil, fmt.Errorf("story model, header: %w", err)
	}
	m := &story{
		dim: h.Dim, hidden: h.Hidden, heads: h.Heads, context: h.Context,
		eps: h.NormEps, tokens: tokens,
		slots: make(chan struct{}, slotsPerCPU*runtime.GOMAXPROCS(0)),
	}
	r := &storyReader{data: rest, table: h.Matrices}
	m.embedding = r.matrix("emb", h.Vocab, h.Dim)
	m.norm = r.vector("norm", h.Dim)
	for i := 0; i < h.Layers && r.err == nil; i++ {
		m.layers = append(m.layers, r.layer(i, h))
	}
	if left := len(r.data); r.err == nil && (left > 0 || len(r.table) > 0) {
		r.err = fmt.Errorf("matrices: %d more matrices and %d more bytes: want none", len(r.table), left)
	}
	if r.err != nil {
		return nil, fmt.Errorf("story model: %w", r.err)
	}
	m.turns(h.RopeTheta)
	for i := range m.weights {
		m.weights[i] = float32(int8(i))
	}
	sum := sha256.Sum256(data)
	m.fingerprint = "fp_" + hex.EncodeToString(sum[:5]) + "_" + runtime.GOARCH
	return m, nil
}

// storyHead takes the header off data and checks what it says about sizes.
func storyHead(data []byte) (*storyHeader, []byte, error) {
	start := len(storyMagic) + 4
	if len(data) < start || string(data[:len(storyMagic)]) != storyMagic {
		return nil, nil, fmt.Errorf("it begins with %q: want %q and a length", data[:min(len(data), start)], storyMagic)
	}
	size := int64(binary.LittleEndian.Uint32(data[len(storyMagic):]))
	if left := int64(len(data) - start); size > left || size > maxStoryHeader {
		return nil, nil, fmt.Errorf("header of %d bytes: want at most %d and the %d that follow", size, maxStoryHeader, left)
	}
	h := &storyHeader{}
	d := json.NewDecoder(bytes.NewReader(data[start:][:size]))
	d.DisallowUnknownFields()
	if err := d.Decode(h); err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	if h.Format != "wlm1" || h.Piece != storyPieces {
		return nil, nil, fmt.Errorf("header: format %.40q, piece %.80q: want %q, %q", h.Format, h.Piece, "wlm1", storyPieces)
	}
	for _, c := range []struct {
		name              string
		got, low, multipl int
	}{
		{"vocab", h.Vocab, 4, 1}, {"dim", h.Dim, 2, 2}, {"hidden", h.Hidden, 1, 1},
		{"layers", h.Layers, 1, 1}, {"heads", h.Heads, 1, 1}, {"context", h.Context, 8, 1},
	} {
		if c.got < c.low || c.got > maxStorySize || c.got%c.multipl != 0 {
			return nil, nil, fmt.Errorf("header: %s: %d: want %d to %d, a multiple of %d", c.name, c.got, c.low, maxStorySize, c.multipl)
		}
	}
	if h.Dim%(2*h.Heads) != 0 || h.Layers*h.Context > maxStoryCache/h.Dim {
		return nil, nil, fmt.Errorf("header: dim %d, heads %d, layers %d, context %d: want heads of an even size, and at most %d numbers in layers x context x dim",
			h.Dim, h.Heads, h.Layers, h.Context, maxStoryCache)
	}
	if h.Vocab > maxTokens || len(h.Tokens) != h.Vocab || len(h.Merges) >= h.Vocab {
		return nil, nil, fmt.Errorf("header: vocab %d, %d tokens, %d merges: want as many tokens as vocab, at most %d, and fewer merges",
			h.Vocab, len(h.Tokens), len(h.Merges), maxTokens)
	}
	if !(h.RopeTheta >= 1 && h.RopeTheta <= 1e9) || !(h.NormEps > 1e-12 && h.NormEps <= 1) {
		return nil, nil, fmt.Errorf("header: rope_theta %g, norm_eps %g: want 1 to 1e9 and more than 1e-12 to 1", h.RopeTheta, h.NormEps)
	}
	return h, data[start+int(size):], nil
}

// storyReader takes the matrices off the data in the order of the table. It
// keeps the first error and after that reads nothing.
type storyReader struct {
	data  []byte
	table []storyMatrix
	at    int
	err   error
}

// next returns the bytes of the next matrix, after comparing its entry with what
// the sizes in the header ask for.
func (r *storyReader) next(name, kind string, shape []int, size int) []byte {
	if r.err != nil {
		return nil
	}
	if len(r.table) == 0 {
		r.err = fmt.Errorf("matrices: the table ends: want %s", name)
		return nil
	}
	e := r.table[0]
	same := e.Name == name && e.Type == kind && e.Offset == r.at && e.Bytes == size && len(e.Shape) == len(shape)
	for i := range shape {
		same = same && e.Shape[i] == shape[i]
	}
	if !same {
		r.err = fmt.Errorf("matrices: %.40q %.8q %.40s, %d bytes at %d: want %q %q %v, %d bytes at %d",
			e.Name, e.Type, fmt.Sprint(e.Shape), e.Bytes, e.Offset, name, kind, shape, size, r.at)
		return nil
	}
	if size > len(r.data) {
		r.err = fmt.Errorf("%s: the file ends after %d more bytes: want %d", name, len(r.data), size)
		return nil
	}
	b := r.data[:size:size]
	r.data, r.table, r.at = r.data[size:], r.table[1:], r.at+size
	return b
}

// vector reads n float32 numbers.
func (r *storyReader) vector(name string, n int) []float32 {
	return r.floats(name, r.next(name, "f32", []int{n}, 4*n))
}

func (r *storyReader) floats(name string, b []byte) []float32 {
	values := make([]float32, len(b)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if v := values[i]; !(v >= -largestWeight && v <= largestWeight) { // NaN too
			r.err = fmt.Errorf("%s: number %d: %v: want a number between -%g and %g", name, i, v, largestWeight, largestWeight)
			return nil
		}
	}
	return values
}

// matrix reads the scales of rows, then the rows.
func (r *storyReader) matrix(name string, rows, columns int) byteMatrix {
	b := r.next(name, "i8", []int{rows, columns}, rows*(4+columns))
	if r.err != nil {
		return byteMatrix{}
	}
	return byteMatrix{scales: r.floats(name, b[:4*rows]), data: b[4*rows:]}
}

func (r *storyReader) layer(i int, h *storyHeader) storyLayer {
	name := func(s string) string { return fmt.Sprintf("%s%d", s, i) }
	return storyLayer{
		normAttention: r.vector(name("norm_attn"), h.Dim),
		query:         r.matrix(name("q"), h.Dim, h.Dim),
		key:           r.matrix(name("k"), h.Dim, h.Dim),
		value:         r.matrix(name("v"), h.Dim, h.Dim),
		out:           r.matrix(name("o"), h.Dim, h.Dim),
		normForward:   r.vector(name("norm_ffn"), h.Dim),
		gate:          r.matrix(name("gate"), h.Hidden, h.Dim),
		up:            r.matrix(name("up"), h.Hidden, h.Dim),
		down:          r.matrix(name("down"), h.Dim, h.Hidden),
	}
}

// turns fills in the sines and cosines by which positions turn pairs of numbers
// (RoPE; Su et al.: RoFormer, 2021).
func (m *story) turns(theta float64) {
	half := m.dim / m.heads / 2
	m.cos, m.sin = make([]float32, m.context*half), make([]float32, m.context*half)
	for i := range half {
		frequency := float32(1 / math.Pow(theta, float64(2*i)/float64(2*half)))
		for at := range m.context {
			s, c := math.Sincos(float64(float32(at) * frequency))
			m.sin[at*half+i], m.cos[at*half+i] = float32(s), float32(c)
		}
	}
}
