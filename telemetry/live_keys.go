package telemetry

import (
	"strings"
	"time"
)

// LiveKey is an answer in the cache that was given again. What it saved is at least as
// much: of one that was given before it got a place among those that saved most, that is
// missing.
type LiveKey struct {
	// Key is its name in the cache, see Entry.CacheKey. Path and Model are those of the
	// last request.
	Key, Route, Path, Model string
	Hits                    int64
	// Saved is the time that the model did not need for the hits, Tokens the tokens.
	Saved  time.Duration
	Tokens int64
	// LastHit is when it was given last, within a second.
	LastHit time.Time
}

// liveKeys are the answers that saved most since the start: at most maxLiveKeys of them.
// It is Space-Saving (Metwally, Agrawal and El Abbadi, 2005) with the time saved for
// weight: an answer that comes anew takes the place of the one that saved least, and its
// weight. What saved more than a 200th of all is among them.
type liveKeys struct {
	by      map[string]int
	weights []time.Duration // saved, and what was taken over
	keys    []LiveKey
}

func (s *liveKeys) observe(e *Entry, now time.Time) {
	i, known := s.by[e.CacheKey]
	if !known {
		i = s.place()
		k := &s.keys[i]
		k.Key = strings.Clone(e.CacheKey)
		s.by[k.Key] = i
	}
	s.weights[i] += e.Saved
	k := &s.keys[i]
	k.Hits++
	k.Saved += e.Saved
	k.Tokens += e.SavedTokens
	k.LastHit = now
	if k.Route != e.Route {
		k.Route = e.Route
	}
	if path := e.Path[:min(len(e.Path), maxLiveName)]; k.Path != path {
		k.Path = strings.Clone(path)
	}
	if model := e.Model[:min(len(e.Model), maxLiveName)]; k.Model != model {
		k.Model = strings.Clone(model)
	}
}

// place is the number of an empty place, or of the one that saved least.
func (s *liveKeys) place() int {
	if len(s.keys) < maxLiveKeys {
		s.keys, s.weights = append(s.keys, LiveKey{}), append(s.weights, 0)
		return len(s.keys) - 1
	}
	least := 0
	for i, w := range s.weights {
		if w < s.weights[least] {
			least = i
		}
	}
	delete(s.by, s.keys[least].Key)
	s.keys[least] = LiveKey{}
	return least
}
