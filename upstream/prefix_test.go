package upstream_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/inferweir/weir/upstream"
)

func TestPrefixOf(t *testing.T) {
	text := func(blocks int) []byte {
		var b strings.Builder
		for i := range blocks {
			fmt.Fprintf(&b, "%1024d", i)
		}
		return []byte(b.String())
	}
	long := text(20)
	// common is how many hashes two prompts have in common from the first on.
	common := func(a, b upstream.Prefix) (n int) {
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		return n
	}
	t.Run("has a hash for each whole block, 16 at most, and one at least", func(t *testing.T) {
		for size, want := range map[int]int{0: 0, 1: 1, 1023: 1, 1024: 1, 2047: 1, 2048: 2, 16 << 10: 16, 20 << 10: 16} {
			if got := upstream.PrefixOf("s", long[:size]); len(got) != want || want == 0 && got != nil {
				t.Errorf("%d bytes: %d hashes, want %d", size, len(got), want)
			}
		}
	})
	t.Run("a prompt that continues another begins with its hashes", func(t *testing.T) {
		all := upstream.PrefixOf("s", long)
		for _, size := range []int{1024, 1500, 5000, 16 << 10, 17 << 10} {
			if got := upstream.PrefixOf("s", long[:size]); !slices.Equal(got, all[:len(got)]) {
				t.Errorf("%d bytes: not the hashes of the longer one", size)
			}
		}
	})
	t.Run("from the first difference on nothing is in common", func(t *testing.T) {
		all := upstream.PrefixOf("s", long)
		for _, at := range []int{0, 1023, 1024, 4096, 16<<10 - 1, 16 << 10} {
			other := slices.Clone(long)
			other[at] ^= 1
			got := upstream.PrefixOf("s", other)
			if n := common(all, got); n != min(at/1024, 16) {
				t.Errorf("different at %d: %d in common", at, n)
			}
			for i := min(at/1024, 16); i < 16; i++ {
				if slices.Contains(all, got[i]) {
					t.Errorf("different at %d: hash %d is one of the other's", at, i)
				}
			}
		}
	})
	t.Run("the same block elsewhere has another hash", func(t *testing.T) {
		got := upstream.PrefixOf("s", make([]byte, 16<<10))
		slices.Sort(got)
		if got = slices.Compact(got); len(got) != 16 {
			t.Errorf("%d different hashes, want 16", len(got))
		}
	})
	t.Run("another salt, another prefix, wherever salt and prompt meet", func(t *testing.T) {
		for _, other := range []struct {
			salt   string
			prompt []byte
		}{{"", long}, {"t", long}, {"s" + string(long[:1]), long[1:]}, {"s" + string(long[:1024]), long[1024:]}} {
			if n := common(upstream.PrefixOf("s", long), upstream.PrefixOf(other.salt, other.prompt)); n != 0 {
				t.Errorf("salt %.10q: %d in common", other.salt, n)
			}
		}
	})
	t.Run("a turn of a conversation begins with the hashes of the turn before", func(t *testing.T) {
		messages, before := `[{"role":"system","content":"`+strings.Repeat("Be kind. ", 150)+`"}`, upstream.Prefix(nil)
		for turn := range 12 {
			messages += fmt.Sprintf(`,{"role":"user","content":"%d %s"}`, turn, strings.Repeat("why? ", 200))
			got := upstream.PrefixOf("key:alice llama", []byte(messages))
			if len(got) <= len(before) || !slices.Equal(before, got[:len(before)]) {
				t.Errorf("turn %d: %d hashes after %d, not with these first", turn, len(got), len(before))
			}
			before = got
			messages += `,{"role":"assistant","content":"because"}`
		}
	})
	t.Run("is the same in every process and version", func(t *testing.T) {
		got := fmt.Sprintf("%x", upstream.PrefixOf("key:alice llama", []byte("Once upon a time")))
		if want := "[59cb1683fbd50dd0]"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
	t.Run("allocates the result only", func(t *testing.T) {
		if n := testing.AllocsPerRun(100, func() { upstream.PrefixOf("key:alice llama", long) }); n > 1 {
			t.Errorf("%v allocations", n)
		}
	})
}

func BenchmarkPrefixOf(b *testing.B) {
	prompt := []byte(strings.Repeat("Once upon a time. ", 2000))
	b.SetBytes(16 << 10)
	b.ReportAllocs()
	for b.Loop() {
		upstream.PrefixOf("key:alice llama", prompt)
	}
}
