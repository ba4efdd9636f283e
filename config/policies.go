package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"github.com/inferweir/weir/ratelimit"
)

// ParsePolicies reads a list of policies, in JSON or YAML, each in one of the
// forms that the file has. Defaults and names are filled in as for the plan or
// route owner. At most ratelimit.MaxTakes of them.
//
// The error, if any, is Mistakes without file and line, whose paths begin with
// policies[0]. What the rest of a file decides is not looked at, such as whether
// an upstream says how many tokens it uses: Config.Edited does. ${…} is not
// replaced: who may send policies may not read the environment by it.
func ParsePolicies(text []byte, owner string) ([]Policy, error) {
	policies, k := readPolicies(text, owner)
	if !k.at[policiesPath] {
		k.policies(policiesPath, policies)
	}
	return k.checked(policies)
}

// policiesPath is where a list of policies by itself stands in messages.
const policiesPath = "policies"

// readPolicies decodes a list of policies with their defaults, and checks only
// how many they are.
func readPolicies(text []byte, owner string) ([]Policy, *checker) {
	d := newDecoder("", nil)
	d.literal = true
	k := &checker{d}
	var policies []Policy
	// JSON may be indented with tabs, which YAML may not.
	var compact bytes.Buffer
	if len(text) <= maxFile && json.Compact(&compact, text) == nil {
		text = compact.Bytes()
	}
	if root := parseYAML(text, d.collector, "want a list of policies, for example [5/minute]"); root != nil {
		list := place{path: policiesPath, pattern: "plans.*." + policiesPath}
		d.value(list, root, reflect.ValueOf(&policies).Elem())
		completePolicies(policies, owner)
		if len(policies) > ratelimit.MaxTakes {
			k.fail(policiesPath, fmt.Sprintf("%d policies: want at most %d", len(policies), ratelimit.MaxTakes))
		}
	}
	return policies, k
}

// checked returns the policies, or what is wrong with them. They come from no
// file, and have no lines.
func (k *checker) checked(policies []Policy) ([]Policy, error) {
	mistakes := k.collector.list
	if len(mistakes) == 0 {
		return policies, nil
	}
	for i := range mistakes {
		mistakes[i].Line = 0
	}
	return nil, mistakes
}

// policyJSON is the long form of a policy, with the keys of the file.
type policyJSON struct {
	Name       string     `json:"name"`
	Quota      int64      `json:"quota,omitempty"`
	Window     string     `json:"window,omitempty"`
	Concurrent int64      `json:"concurrent,omitempty"`
	Unit       string     `json:"unit,omitempty"`
	By         string     `json:"by"`
	Burst      int64      `json:"burst,omitempty"`
	Algorithm  string     `json:"algorithm,omitempty"`
	Shadow     bool       `json:"shadow,omitempty"`
	Lease      *leaseJSON `json:"lease,omitempty"`
	Auto       *autoJSON  `json:"auto,omitempty"`
}

type leaseJSON struct {
	MaxExcess string `json:"max_excess"`
}

type autoJSON struct {
	Min int64 `json:"min"`
	Max int64 `json:"max"`
}

// PoliciesJSON gives the policies of a plan or route as a JSON list that
// ParsePolicies and Config.Edited read back as the same: each in the short form, such as
// "5/minute", where that says everything, and else as an object with the keys of
// the file.
func PoliciesJSON(policies []Policy, owner string) []byte {
	list := make([]any, len(policies))
	unnamed := 0
	for i, p := range policies {
		if p.isShort() && p.Name == numbered(owner, unnamed+1) {
			unnamed++
			list[i] = p.short()
		} else {
			list[i] = p.long()
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	// A buffer takes everything, and these are texts and numbers.
	_ = e.Encode(list)
	return bytes.TrimSpace(out.Bytes())
}

// isShort holds where the short form says all of p but its name.
func (p Policy) isShort() bool {
	plain := p.Concurrent > 0 || p.Algorithm == ratelimit.TokenBucket && p.Burst == p.Quota
	return plain && p.By == "caller" && !p.Shadow && p.Lease == nil && p.Auto == nil
}

func (p Policy) short() string {
	word := windowWord(p.Window)
	if word == "" || p.Concurrent > 0 {
		return p.Limit().String()
	}
	quota := strconv.FormatInt(p.Quota, 10)
	if p.Unit != ratelimit.Requests {
		quota += " " + p.Unit
	}
	return quota + "/" + word
}

func (p Policy) long() policyJSON {
	out := policyJSON{Name: p.Name, Concurrent: p.Concurrent, By: p.By, Shadow: p.Shadow}
	if p.Concurrent == 0 {
		out.Quota, out.Window, out.Unit = p.Quota, formatWindow(p.Window), p.Unit
		out.Burst, out.Algorithm = p.Burst, p.Algorithm
	}
	if p.Lease != nil {
		out.Lease = &leaseJSON{p.Lease.MaxExcess.String()}
	}
	if p.Auto != nil {
		out.Auto = &autoJSON{p.Auto.Min, p.Auto.Max}
	}
	return out
}
