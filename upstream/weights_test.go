package upstream_test

import (
	"testing"

	"github.com/inferweir/weir/upstream"
)

func TestWeightsCanBeChanged(t *testing.T) {
	for _, balance := range []string{"least_busy", "round_robin", "two_choices", "prefix"} {
		t.Run(balance, func(t *testing.T) {
			p, err := upstream.New(upstream.Options{Balance: balance, Targets: []upstream.Target{{URL: "http://127.0.0.1:1"}, {URL: "http://127.0.0.1:2"}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			load := []float64{0, 0}
			count := func() (n [2]int) {
				for range 1000 {
					i := p.Choose([]int{0, 1}, load, nil)
					if n[i]++; balance == "least_busy" {
						load[i]++ // it is what weights are held against
					}
				}
				return n
			}
			if err := p.SetWeights([]int{1, 999}); err != nil {
				t.Fatal(err)
			}
			if n := count(); n[0] > 600 && balance != "round_robin" || balance == "round_robin" && n[0] != 1 {
				t.Errorf("of weights 1 and 999 the first is chosen %d times", n[0])
			}
			for _, weights := range [][]int{nil, {1}, {1, 1, 1}} {
				if err := p.SetWeights(weights); err == nil {
					t.Errorf("%v is taken", weights)
				}
			}
		})
	}
}
