package cache

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// LabelAll is the label of every entry: to purge it is to purge all.
const LabelAll = "all"

// Bounds of what is remembered of purges, see Purges.
const (
	maxPurgeLabels   = 10_000
	maxPurgePrefixes = 64
	maxLabelBytes    = 4096
)

// Label names what entries can be purged by. kind is one of
//
//	tag     what a route gives its answers       tag:llama
//	path    the request's path                   path:/v1/models
//	caller  who asked, an Entry's Owner          caller:key:alice
//	key     one entry; its Key in hexadecimal    key:9f86d081884c7d65…
//	model   a route, a slash, and a model        model:chat/llama-3
//	route   the route's name                     route:chat
//
// A path is taken in any of its escaped forms: all that mean one path give the
// same label, see pathValue. In a purge, a path that ends in * means all paths
// that begin so; %2A is the character. In the label of an entry there is no such
// sign: its path may end in *, and means itself.
func Label(kind, value string) string {
	if kind == "path" {
		value = pathValue(value)
	}
	return kind + ":" + value
}

// purgeLabels are labels as entries have them. It refuses those that no entry can
// have.
func purgeLabels(labels []string) ([]string, error) {
	if len(labels) == 0 {
		return nil, errors.New(`cache: purge: no label: want at least one, for example "tag:llama", or "all"`)
	}
	normal := slices.Clone(labels)
	for i, label := range normal {
		if path, ok := strings.CutPrefix(label, "path:"); ok {
			normal[i] = Label("path", path)
		}
		if err := checkLabel(normal[i]); err != nil {
			return nil, fmt.Errorf("cache: purge: label %d: %w", i+1, err)
		}
	}
	return normal, nil
}

func checkLabel(label string) error {
	if label == LabelAll {
		return nil
	}
	if len(label) > maxLabelBytes {
		return fmt.Errorf("%.40q…: %d bytes: want at most %d", label, len(label), maxLabelBytes)
	}
	kind, value, _ := strings.Cut(label, ":")
	switch kind {
	case "tag", "path", "caller", "model", "route":
		if value == "" {
			return fmt.Errorf("%q: want a value after the colon", label)
		}
		if _, err := url.PathUnescape(value); kind == "path" && err != nil {
			return fmt.Errorf("%q: want %% only before two hexadecimal digits, and %%25 for the character", label)
		}
	case "key":
		if _, ok := labelKey(label); !ok {
			return fmt.Errorf("%q: want the %d hexadecimal digits of a key", label, 2*len(Key{}))
		}
	default:
		return fmt.Errorf("%q: want all, or tag:, path:, caller:, key:, model: or route: and a value", label)
	}
	return nil
}

func labelKey(label string) (key Key, ok bool) {
	text, ok := strings.CutPrefix(label, "key:")
	if !ok || len(text) != hex.EncodedLen(len(key)) {
		return key, false
	}
	_, err := hex.Decode(key[:], []byte(text))
	return key, err == nil
}

func labelledKeys(labels []string) (keys []Key) {
	for _, label := range labels {
		if key, ok := labelKey(label); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// PurgeState is all that is known of purges. An entry is purged if its Epoch is
// less than Floor, or less than the number of one of its labels.
type PurgeState struct {
	// Seq is the number of the newest purge.
	Seq uint64 `json:"seq"`
	// Floor stands for the purges whose labels are no longer listed: everything
	// older is purged.
	Floor uint64 `json:"floor"`
	// Labels are the purged labels, each with the number of its last purge.
	Labels map[string]uint64 `json:"labels"`
}

// copy is one that may be changed.
func (s *PurgeState) copy() PurgeState {
	c := PurgeState{Seq: s.Seq, Floor: s.Floor, Labels: maps.Clone(s.Labels)}
	if c.Labels == nil {
		c.Labels = map[string]uint64{}
	}
	return c
}

// set says that labels were purged at seq. Labels must not be nil.
func (s *PurgeState) set(labels []string, seq uint64) {
	for _, label := range labels {
		s.Labels[label] = max(s.Labels[label], seq)
	}
}

// purgeView is a PurgeState within its bounds and ready to be asked. It never
// changes once it is shared.
type purgeView struct {
	PurgeState
	newest   uint64 // who is not older has survived everything
	keys     map[Key]uint64
	callers  map[string]uint64
	prefixes []purgedPrefix
}

type purgedPrefix struct {
	prefix string // "path:/v1/"
	seq    uint64
}

func (v *purgeView) epoch() uint64 {
	if v == nil {
		return 0
	}
	return v.Seq
}

// newPurgeView takes over s and changes its Labels.
func newPurgeView(s PurgeState) *purgeView {
	if all, ok := s.Labels[LabelAll]; ok {
		s.Floor = max(s.Floor, all)
		delete(s.Labels, LabelAll)
	}
	v := &purgeView{PurgeState: s, keys: map[Key]uint64{}, callers: map[string]uint64{}}
	v.bound()
	v.newest = max(v.Seq, v.Floor)
	for label, seq := range v.Labels {
		v.newest = max(v.newest, seq)
		if prefix, ok := pathPrefix(label); ok {
			v.prefixes = append(v.prefixes, purgedPrefix{prefix, seq})
		} else if caller, ok := strings.CutPrefix(label, "caller:"); ok && caller != "" {
			v.callers[caller] = seq
		} else if key, ok := labelKey(label); ok {
			v.keys[key] = seq
		}
	}
	return v
}

// pathPrefix is what paths begin with that label, in a purge, means. A * at the
// end of other labels is part of a name.
func pathPrefix(label string) (prefix string, ok bool) {
	if !strings.HasPrefix(label, "path:") {
		return "", false
	}
	return strings.CutSuffix(label, "*")
}

// bound raises the floor until few enough labels are above it. Where there are
// too many labels half of them go: the next thousands then come without another
// loss.
func (v *purgeView) bound() {
	var all, prefixes []uint64
	for label, seq := range v.Labels {
		all = append(all, seq)
		if _, ok := pathPrefix(label); ok {
			prefixes = append(prefixes, seq)
		}
	}
	newestFirst := func(a, b uint64) int { return cmp.Compare(b, a) }
	if len(prefixes) > maxPurgePrefixes {
		slices.SortFunc(prefixes, newestFirst)
		v.Floor = max(v.Floor, prefixes[maxPurgePrefixes])
	}
	if len(all) > maxPurgeLabels {
		slices.SortFunc(all, newestFirst)
		v.Floor = max(v.Floor, all[maxPurgeLabels/2])
	}
	maps.DeleteFunc(v.Labels, func(_ string, seq uint64) bool { return seq <= v.Floor })
}

// purged asks for everything but the key if that is nil.
func (v *purgeView) purged(m *Meta, key *Key) bool {
	if m.Epoch >= v.newest {
		return false
	}
	if m.Epoch < v.Floor || key != nil && m.Epoch < v.keys[*key] || m.Epoch < v.callers[m.Owner] {
		return true
	}
	for _, label := range m.Labels {
		if path, ok := pathPrefix(label); ok {
			label = path + escapedStar // an entry has no prefixes
		}
		if m.Epoch < v.Labels[label] {
			return true
		}
		for i := range v.prefixes {
			if m.Epoch < v.prefixes[i].seq && strings.HasPrefix(label, v.prefixes[i].prefix) {
				return true
			}
		}
	}
	return false
}
