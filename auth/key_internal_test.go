package auth

import (
	"crypto/sha256"
	"testing"
)

func TestDigestsArePeppered(t *testing.T) {
	const text = "weir_0123456789abcdef"
	keys := []Key{{Caller: "alice", Key: text}}
	one, errs := newKeyring(keys)
	two, moreErrs := newKeyring(keys)
	if len(errs)+len(moreErrs) > 0 {
		t.Fatal(errs, moreErrs)
	}
	seen := map[digest]bool{sha256.Sum256([]byte(text)): true, one.digest(text): true, two.digest(text): true}
	if len(seen) != 3 {
		t.Error("a digest is the same in two processes, or the plain SHA-256 of the key")
	}
	if one.find(text) == nil || two.find(text) == nil {
		t.Error("the key is not found by its digest")
	}
}
