package config

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/inferweir/weir/ratelimit"
)

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

// PoliciesJSON gives the policies of a plan or route as a JSON list that Config.Edited
// reads back as the same: each in the short form, such as
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
