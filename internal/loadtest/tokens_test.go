package loadtest_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// usageFrame says how many tokens a stream had.
func usageFrame(n int) frame {
	return frame{0, fmt.Sprintf("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":%d}}\n\n", n)}
}

// tokenReport is of a load of twenty streams in two seconds, each with four pieces in
// 90 ms, of which said say that they had ten tokens.
func tokenReport(t *testing.T, said int) (r *loadtest.Report) {
	t.Helper()
	pieces := []frame{role(0), chunk(0, "ab"), chunk(30*ms, "cd"), chunk(30*ms, "ef"), chunk(30*ms, "gh")}
	silent := streaming(append(pieces[:5:5], frame{0, doneFrame})...).answer
	telling := streaming(append(pieces[:5:5], usageFrame(10), frame{0, doneFrame})...).answer
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
			if n < said {
				return telling(n, r)
			}
			return silent(n, r)
		}}
		r = virtually(t, t.Context(), loadtest.Options{Stages: rate(10, 2*time.Second), Stream: true, Body: `{"stream": true}`}, s)
	})
	return r
}

// tokens are the figures of a report that are of tokens.
type tokens struct {
	Tokens           int64
	From             string
	PerS, Speed      string // with one digit behind the point
	Pieces           int64
	Streams, Telling int64
}

func tokensOf(r *loadtest.Report) tokens {
	return tokens{r.Tokens, r.TokensFrom, fmt.Sprintf("%.1f", r.TokensPerS), fmt.Sprintf("%.0f", r.StreamSpeeds.P50), r.Pieces, r.Streams, r.StreamsWithUsage}
}

// TestTokensAreOfOneKind checks that tokens of streams whose server says how many they
// had are never summed up with pieces of those whose server does not.
func TestTokensAreOfOneKind(t *testing.T) {
	for _, c := range []struct {
		name string
		said int
		want tokens
		text string // of the report
		card string // of the page
	}{
		// The last answer comes 0.04 s after the sending.
		{"all streams say it", 20, tokens{200, "usage", "98.0", "100", 80, 20, 20},
			"  98.0 tokens/s of all streams together, 100/s of a single one (median; the\n  slowest tenth has at most 100/s).\n\n  Tokens are the server's own count, which all streams had.\n", "<dt>Tokens</dt>"},
		{"a part of the streams say it", 5, tokens{80, "pieces", "39.2", "33", 80, 20, 5},
			"  39.2 pieces/s of all streams together, 33.3/s of a single one (median; the\n  slowest tenth has at most 33.3/s).\n\n" +
				"  A piece is an event with text, of one token or more. All streams are counted\n  by pieces: 5 of 20 streams said how many tokens they had (25.0 %).\n", "<dt>Pieces of text</dt>"},
		{"no stream says it", 0, tokens{80, "pieces", "39.2", "33", 80, 20, 0},
			"  A piece is an event with text, of one token or more. All streams are counted\n  by pieces: no stream said how many tokens it had.\n", "<dt>Pieces of text</dt>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := tokenReport(t, c.said)
			if got := tokensOf(r); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			var text, page bytes.Buffer
			if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), c.text) {
				t.Errorf("%v: the report is\n%s\nwant in it\n%s", err, &text, c.text)
			}
			checkWidth(t, text.String())
			if err := r.WriteHTML(&page, nil); err != nil || !strings.Contains(page.String(), c.card) {
				t.Errorf("%v: the page has no %q", err, c.card)
			}
			if pieces := "pieces/s"; strings.Contains(page.String(), pieces) != (c.want.From == "pieces") {
				t.Errorf("the page says %q: %t, want it where pieces are counted", pieces, c.want.From != "pieces")
			}
		})
	}
	t.Run("tokens and pieces are not compared with each other", func(t *testing.T) {
		compared := loadtest.Compare(tokenReport(t, 20), tokenReport(t, 5))
		for _, change := range compared.Changes {
			if change.Name == "tokens" || change.Name == "pieces" {
				t.Errorf("%s, want no such change", change)
			}
		}
		if want := "tokens counted by: was usage, is pieces"; len(compared.Unlike) != 1 || compared.Unlike[0] != want {
			t.Errorf("unlike: %q, want %q", compared.Unlike, want)
		}
	})
}
