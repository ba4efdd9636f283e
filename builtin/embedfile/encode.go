package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
	"strings"
)

// encode writes the file whose format is told at loadEmbedding.
func encode(words []word, dim int) []byte {
	direction := component(words, dim)
	slices.SortFunc(words, func(a, b word) int { return strings.Compare(a.text, b.text) })
	var text strings.Builder
	var lengths, rows []byte
	var scales []float32
	for _, w := range words {
		text.WriteString(w.text)
		lengths = append(lengths, byte(len(w.text)))
		var largest float64
		for _, v := range w.vector {
			largest = max(largest, math.Abs(v))
		}
		scales = append(scales, float32(largest/math.MaxInt8))
		for _, v := range w.vector {
			if largest > 0 {
				v = math.Round(v * math.MaxInt8 / largest)
			}
			rows = append(rows, byte(int8(v)))
		}
	}
	file := bytes.NewBufferString("WEIREMB\x01")
	sizes := []uint32{uint32(dim), uint32(len(words)), uint32(text.Len())}
	for _, part := range []any{sizes, direction, lengths, []byte(text.String()), scales, rows} {
		_ = binary.Write(file, binary.LittleEndian, part) // to memory, of fixed sizes: cannot fail
	}
	return binary.LittleEndian.AppendUint32(file.Bytes(), crc32.ChecksumIEEE(file.Bytes()))
}

// component returns the first principal component of the words, each counted p
// times, by power iteration on their matrix of second moments. Products are
// rounded before they are added, so that every processor gives the same bytes.
func component(words []word, dim int) []float32 {
	moments := make([]float64, dim*dim)
	for _, w := range words {
		for i, a := range w.vector {
			for j, b := range w.vector[:i+1] {
				moments[i*dim+j] += float64(float64(w.p*a) * b)
			}
		}
	}
	at := make([]float64, dim)
	for i := range at {
		at[i] = 1 / float64(i+1) // any start that is not perpendicular to it
	}
	for range 200 { // long before, nothing changes any more
		next, square := make([]float64, dim), 0.0
		for i := range dim {
			for j := range dim {
				next[i] += float64(moments[max(i, j)*dim+min(i, j)] * at[j])
			}
			square += float64(next[i] * next[i])
		}
		for i := range next {
			at[i] = next[i] / math.Sqrt(square)
		}
	}
	direction := make([]float32, dim)
	for i, v := range at {
		direction[i] = float32(v)
	}
	return direction
}
