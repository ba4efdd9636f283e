package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/inferweir/weir/config"
)

// fieldsOf are the inputs for a document of config.Config.EditDoc: its values, and those
// that it could have.
func fieldsOf(kind string, doc []byte, c *config.Config, name string) []field {
	values := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return nil
	}
	var all []field
	for _, f := range fieldKinds(kind) {
		value, ok := valueAt(values, f.Key)
		if !ok && !couldHave(values, f.Key) {
			continue
		}
		f.Value = value
		all = append(all, f)
	}
	if kind == "upstream" && len(c.Upstreams[name].Targets) > 1 {
		for i, t := range c.Upstreams[name].Targets {
			all = append(all, field{Key: fmt.Sprintf("targets.%d", i), Label: "Weight of " + plainURL(t.URL), Type: "number", Value: strconv.Itoa(t.Weight),
				Hint: "Its share of the work against the other targets, from 1 to 1000."})
		}
	}
	return all
}

// fieldKinds are the inputs of all plans, routes or upstreams.
func fieldKinds(kind string) []field {
	policies := field{Key: "policies", Label: "Policies", Type: "lines", Hint: "One a line, in the short form, such as 5/minute or 20000 tokens/day, or in the long one: " +
		`{name: daily, quota: 1000, window: 1d, auto: {min: 100, max: 5000}}. Or a JSON list of them. No line: no policy.`}
	switch kind {
	case "plan":
		return []field{
			policies,
			{Key: "budget", Label: "Budget", Type: "text", Hint: "What each caller of the plan may spend, for example 20 USD/month. It needs prices. Empty: as in the file."},
			{Key: "weight", Label: "Weight", Type: "number", Hint: "The share of the queue against callers of the same priority, from 1 to 1000."},
			{Key: "priority", Label: "Priority", Type: "select", Options: []string{"critical", "standard", "batch"}, Hint: "Who goes first, and is refused last."},
		}
	case "route":
		return []field{
			policies,
			{Key: "cache.ttl", Label: "TTL", Type: "text", Hint: "How long an answer is fresh, for example 10m. Empty: as in the file."},
			{Key: "cache.auto.min", Label: "Shortest TTL (auto)", Type: "text", Hint: "Load moves the TTL between this and the longest. Empty: as in the file."},
			{Key: "cache.auto.max", Label: "Longest TTL (auto)", Type: "text", Hint: "For example 1h. Empty: as in the file."},
			{Key: "cache.stale_while_revalidate", Label: "Stale while revalidate", Type: "text", Hint: "How long after the TTL an answer is still given at once while a new one is fetched. 0s: not at all."},
			{Key: "cache.stale_if_error", Label: "Stale if error", Type: "text", Hint: "How long after the TTL an answer is still given where the upstream fails. 0s: not at all."},
			{Key: "max_body", Label: "Largest request body", Type: "text", Hint: "For example 10MiB. A larger one is refused with 413."},
		}
	case "upstream":
		return []field{
			{Key: "concurrency.min", Label: "Concurrency, least", Type: "number", Hint: "The least that the concurrency limit of each target becomes. The same as the most fixes it."},
			{Key: "concurrency.max", Label: "Concurrency, most", Type: "number", Hint: "The most requests that run at a target at the same time."},
			{Key: "queue.max", Label: "Places in the queue", Type: "number", Hint: "How many requests may wait; others are refused. 0: none waits."},
			{Key: "queue.max_wait", Label: "Longest wait", Type: "text", Hint: "How long a request may wait, for example 10s."},
		}
	}
	return nil
}

// couldHave holds for keys that mean something though a document does not have them.
func couldHave(doc map[string]any, key string) bool {
	with := map[string]string{"budget": "weight", "cache.auto.min": "cache.ttl", "cache.auto.max": "cache.ttl"}[key]
	if with == "" {
		return false
	}
	_, ok := valueAt(doc, with)
	return ok
}

// valueAt is a value of a document as a text for an input.
func valueAt(doc map[string]any, key string) (text string, ok bool) {
	var v any = doc
	for name := range strings.SplitSeq(key, ".") {
		object, isObject := v.(map[string]any)
		if !isObject {
			return "", false
		}
		if v, ok = object[name]; !ok {
			return "", false
		}
	}
	switch v := v.(type) {
	case string:
		return v, true
	case []any:
		return policyLines(v), true
	}
	return fmt.Sprint(v), true
}

// policyLines are policies one a line.
func policyLines(list []any) string {
	lines := make([]string, len(list))
	for i, p := range list {
		switch p := p.(type) {
		case string:
			lines[i] = p
		case map[string]any:
			lines[i] = longForm(p)
		default:
			lines[i] = fmt.Sprint(p)
		}
	}
	return strings.Join(lines, "\n")
}

// longForm is a policy as people write it in the file: the keys in the order in which
// they are read, and no quotes where none are needed.
func longForm(policy map[string]any) string {
	var parts []string
	add := func(key string, value any) {
		switch v := value.(type) {
		case map[string]any:
			parts = append(parts, key+": "+longForm(v))
		case string:
			if strings.Trim(v, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./%") != "" || v == "" {
				v = strconv.Quote(v)
			}
			parts = append(parts, key+": "+v)
		default:
			parts = append(parts, fmt.Sprintf("%s: %v", key, v))
		}
	}
	known := []string{"name", "quota", "window", "concurrent", "unit", "by", "burst", "algorithm", "shadow", "lease", "auto", "min", "max", "max_excess"}
	for _, key := range known {
		if v, ok := policy[key]; ok {
			add(key, v)
			delete(policy, key)
		}
	}
	rest := map[string]int64{}
	for key := range policy {
		rest[key] = 0
	}
	for _, key := range sortedKeys(rest) {
		add(key, policy[key])
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// policyList reads policies that are one a line, with or without a dash before them, or
// one list of JSON. It does not say whether they are right.
func policyList(text string) ([]json.RawMessage, error) {
	if strings.HasPrefix(text, "[") {
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return nil, fmt.Errorf("not a JSON list: %w", err)
		}
		return list, nil
	}
	list := []json.RawMessage{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "- "))
		if line == "" || line == "-" {
			continue
		}
		item := json.RawMessage(line)
		if line[0] != '{' {
			item = quoted(line)
		} else if !json.Valid(item) {
			var err error
			if item, err = flowJSON(line); err != nil {
				return nil, fmt.Errorf("policy %d: %w", len(list)+1, err)
			}
		}
		list = append(list, item)
	}
	return list, nil
}

// flowJSON turns a mapping as YAML has it in one line, {name: daily, quota: 10}, into
// JSON: words get their quotes, other than numbers, true and false.
func flowJSON(line string) (json.RawMessage, error) {
	var out []byte
	for rest := line; rest != ""; {
		switch c := rest[0]; {
		case c == ' ' || c == '\t':
			rest = rest[1:]
		case strings.IndexByte("{}[],:", c) >= 0:
			out, rest = append(out, c), rest[1:]
		case c == '"':
			end := endOfQuoted(rest)
			out, rest = append(out, rest[:end]...), rest[end:]
		default:
			end := endOfWord(rest)
			word := strings.TrimSpace(rest[:end])
			if json.Valid([]byte(word)) {
				out = append(out, word...)
			} else {
				out = append(out, quoted(word)...)
			}
			rest = rest[end:]
		}
	}
	if !json.Valid(out) {
		return nil, errors.New(`want a mapping in one line, for example {name: daily, quota: 1000, window: 1d}`)
	}
	return out, nil
}

// endOfWord is where a word without quotes ends. A colon belongs to it unless a space
// follows: header:X-Team is one.
func endOfWord(s string) int {
	for i := range len(s) {
		if strings.IndexByte("{}[],", s[i]) >= 0 || s[i] == ':' && (i+1 == len(s) || s[i+1] == ' ') {
			return max(i, 1)
		}
	}
	return len(s)
}

// endOfQuoted is where a text in quotes ends, or all does.
func endOfQuoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// quoted is a text as JSON.
func quoted(text string) json.RawMessage {
	out, _ := json.Marshal(text) // a text always has a form
	return out
}
