package cache_test

import (
	"testing"

	"github.com/inferweir/weir/cache"
)

func TestEntriesKeepTheirTokens(t *testing.T) {
	f := func(name string, labels []string, want int64) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			b, err := (&cache.Entry{Meta: cache.Meta{Labels: labels}, Status: 200}).AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			e, err := cache.DecodeEntry(b)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Tokens(); got != want {
				t.Errorf("got %d tokens, want %d", got, want)
			}
		})
	}
	f("that are known", []string{"tag:a", "tokens:46", "route:chat"}, 46)
	f("of an entry from before they were kept", []string{"tag:a"}, 0)
	f("of a label that is no number", []string{"tokens:many"}, 0)
	f("of a label that cannot be", []string{"tokens:-1"}, 0)
	var none *cache.Lookup
	if took, tokens := none.Saved(); took != 0 || tokens != 0 {
		t.Errorf("a request without a cache saved %v and %d tokens", took, tokens)
	}
}
