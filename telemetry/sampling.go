package telemetry

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"net/http"
	"time"
)

// longWait is the wait from which on a request has a line whatever became of it.
const longWait = time.Second

// sample is which of the lines of requests that went well are written.
type sample struct {
	share float64
	below uint64 // a request is in it whose hash is
	seed  maphash.Seed
}

func newSample(share float64, seed maphash.Seed) sample {
	switch {
	case share == 0 || share >= 1 || math.IsNaN(share):
		return sample{share: 1}
	case share < 0:
		return sample{seed: seed}
	}
	return sample{share: share, below: uint64(math.Ldexp(share, 64)), seed: seed}
}

// of is the share of lines like e's that are written, 0 where e's is not. A client may
// choose the request's ID, but it knows neither the key of the hash nor the exact time: it
// cannot keep a request out of the log, or in it.
func (s sample) of(e *Entry) float64 {
	if s.share >= 1 || e.Status >= http.StatusBadRequest || e.Error != "" || e.Shed != "" || e.QueueTime > longWait {
		return 1
	}
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], uint64(e.Time.UnixNano()))
	var h maphash.Hash
	h.SetSeed(s.seed)
	_, _ = h.WriteString(e.RequestID) // a hash takes everything
	_, _ = h.Write(at[:])
	if h.Sum64() < s.below {
		return s.share
	}
	return 0
}
