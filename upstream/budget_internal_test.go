package upstream

import "testing"

func TestRetryBudget(t *testing.T) {
	for _, test := range []struct {
		name   string
		budget float64
		want   int
	}{
		{"is a fifth of the requests unless told", 0, 200},
		{"is the share that is told", 0.01, 10},
		{"is three at once where no share is wanted", -1, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := New(Options{Targets: []Target{{URL: "http://127.0.0.1:1"}}, Retry: Retry{Budget: test.budget}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			got := 0
			for p.retries.take(1000) {
				got++
			}
			if got != test.want {
				t.Errorf("%d retries at once of 1000 requests, want %d", got, test.want)
			}
		})
	}
}
