package gateway

import (
	"strings"
	"testing"
)

func TestTokensOfAStreamAreItsData(t *testing.T) {
	for _, test := range []struct {
		name  string
		lines bool
		parts []string
		want  int64
	}{
		{"events", false, []string{"data: a\n\ndata: b\n\n"}, 2},
		{"comments are none", false, []string{": queued\n\n", "data: a\n\n: ping\n\n"}, 1},
		{"names are none", false, []string{"event: delta\ndata: {}\n\n"}, 1},
		{"an event in two parts is one", false, []string{"data: {\"te", "xt\": \"data\"}\n\n"}, 1},
		{"data within a line is none", false, []string{"event: x data", "data: \n\n"}, 0},
		{"lines", true, []string{"{}\n{}\n{", "}\n"}, 3},
		{"nothing", false, []string{""}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, got := &metered{lines: test.lines}, int64(0)
			for _, p := range test.parts {
				got += m.tokens([]byte(p))
			}
			if got != test.want {
				t.Errorf("%d tokens in %q, want %d", got, strings.Join(test.parts, "|"), test.want)
			}
		})
	}
}
