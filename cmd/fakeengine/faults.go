package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The kinds of faults.
const (
	faultError      = "error"       // answers with a status and an error
	faultReset      = "reset"       // resets the connection after so many bytes
	faultHang       = "hang"        // sends nothing more after so many bytes
	faultSlow       = "slow"        // the engine's steps take longer
	faultRefuse     = "refuse"      // nobody listens
	faultRetryAfter = "retry_after" // answers 503 with the rest of the fault's time as Retry-After
)

const (
	maxFaults     = 16        // that are there at once
	maxFault      = time.Hour // one lasts
	defaultRefuse = 10 * time.Second
	maxFaultBody  = 64 << 10
)

// fault is one fault as POST /debug/fault gives it.
type fault struct {
	Kind string `json:"kind"`
	// Status of error and retry_after. Default 500, and 503 for retry_after.
	Status int `json:"status,omitempty"`
	// AfterBytes of the answer's body reset and hang begin. 0: before the answer.
	AfterBytes int64 `json:"after_bytes,omitempty"`
	// For is how long the fault is there, in wall time. Empty: until it is removed;
	// refuse: 10s, because nobody can ask for its removal.
	For string `json:"for,omitempty"`
	// Share of the requests that meet the fault, above 0. Default 1: all.
	Share float64 `json:"share,omitempty"`
	// Factor of slow: how many times longer a step takes.
	Factor float64 `json:"factor,omitempty"`
	// Path prefix of the requests that meet the fault. Default /v1/.
	Path string `json:"path,omitempty"`

	until time.Time // zero: no end
}

// parseFault reads and checks a fault that begins now.
func parseFault(body io.Reader, now time.Time) (fault, error) {
	var f fault
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return fault{}, fmt.Errorf("%w: want an object, for example {\"kind\": \"error\", \"status\": 500, \"for\": \"10s\"}", err)
	}
	if f.Share == 0 {
		f.Share = 1
	}
	if f.Path == "" {
		f.Path = "/v1/"
	}
	if err := f.completeKind(); err != nil {
		return fault{}, err
	}
	switch {
	case !(f.Share > 0 && f.Share <= 1):
		return fault{}, fmt.Errorf("share: %v: want more than 0 and at most 1", f.Share)
	case f.AfterBytes < 0:
		return fault{}, fmt.Errorf("after_bytes: %d: want 0 or more", f.AfterBytes)
	case !strings.HasPrefix(f.Path, "/"):
		return fault{}, fmt.Errorf("path: %q: want the beginning of a path, for example /v1/", f.Path)
	case strings.HasPrefix(f.Path, "/debug"):
		return fault{}, fmt.Errorf("path: %q: faults do not reach /debug, or nobody could remove them", f.Path)
	}
	if f.For == "" {
		return f, nil
	}
	d0, err := time.ParseDuration(f.For)
	if err != nil || d0 <= 0 || d0 > maxFault {
		return fault{}, fmt.Errorf("for: %q: want a time of at most %v, for example 10s", f.For, maxFault)
	}
	f.until = now.Add(d0)
	return f, nil
}

// completeKind fills in what the kind of a fault leaves open, and checks what is its own.
func (f *fault) completeKind() error {
	switch f.Kind {
	case faultError:
		if f.Status == 0 {
			f.Status = http.StatusInternalServerError
		}
	case faultRetryAfter:
		if f.Status == 0 {
			f.Status = http.StatusServiceUnavailable
		}
		if f.For == "" {
			return fmt.Errorf("for: missing: retry_after says how much of it is left, for example 5s")
		}
	case faultSlow:
		if !(f.Factor >= 0.01 && f.Factor <= 1000) {
			return fmt.Errorf("factor: %v: want 0.01 to 1000; 3 makes every step take three times as long", f.Factor)
		}
	case faultRefuse:
		if f.For == "" {
			f.For = defaultRefuse.String()
		}
	case faultReset, faultHang:
	default:
		return fmt.Errorf("kind: %q: want error, reset, hang, slow, refuse or retry_after", f.Kind)
	}
	if (f.Kind == faultError || f.Kind == faultRetryAfter) && (f.Status < 400 || f.Status > 599) {
		return fmt.Errorf("status: %d: want 400 to 599", f.Status)
	}
	return nil
}

// faults are those that are there now.
type faults struct {
	mu     sync.Mutex
	all    []fault
	random *rand.Rand
}

func newFaults(seed uint64) *faults {
	return &faults{random: rand.New(rand.NewPCG(seed, 0xfa))}
}

// add puts f beside what is there.
func (s *faults) add(f fault, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked(now)
	if len(s.all) >= maxFaults {
		return fmt.Errorf("there are %d faults already: remove them with DELETE /debug/fault", maxFaults)
	}
	s.all = append(s.all, f)
	return nil
}

// clear removes all faults.
func (s *faults) clear() {
	s.mu.Lock()
	s.all = nil
	s.mu.Unlock()
}

// list returns what is there now.
func (s *faults) list(now time.Time) []fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked(now)
	return slices.Clone(s.all)
}

// draw is the fault that a request for a path meets, if any: the first that applies.
// Slow and refuse are nobody's in particular.
func (s *faults) draw(path string, now time.Time) (fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked(now)
	for _, f := range s.all {
		if f.Kind == faultSlow || f.Kind == faultRefuse || !strings.HasPrefix(path, f.Path) {
			continue
		}
		if f.Share >= 1 || s.random.Float64() < f.Share {
			return f, true
		}
	}
	return fault{}, false
}

// slowness is the product of the factors of all slow faults.
func (s *faults) slowness(now time.Time) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked(now)
	factor := 1.0
	for _, f := range s.all {
		if f.Kind == faultSlow {
			factor *= f.Factor
		}
	}
	return factor
}

func (s *faults) expireLocked(now time.Time) {
	s.all = slices.DeleteFunc(s.all, func(f fault) bool { return !f.until.IsZero() && !now.Before(f.until) })
}
