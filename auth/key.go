package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
)

// KeyPrefix begins every Weir key. It tells them from the upstream's own keys,
// which pass through.
const KeyPrefix = "weir_"

// maxKey bounds a key, in bytes: nobody makes Weir hash more than this.
const maxKey = 512

// A Key lets its bearer act as Caller. A caller may have several keys, for
// example while one replaces another.
type Key struct {
	// Caller is whom the key names, 1 to 256 bytes of printable UTF-8. The
	// weir.Caller's ID is "key:" and this.
	Caller string
	// Key is the secret: KeyPrefix and letters, digits and -._~+/= up to 512
	// bytes in all. It should have at least 128 bits of randomness.
	Key string
	// Plan is the plan of who bears the key. "" means the default plan.
	Plan string
}

// String describes k without the secret, so that a logged configuration does
// not give it away.
func (k Key) String() string { return fmt.Sprintf("key of %q", k.Caller) }

// GoString is String: the secret stays out of %#v too.
func (k Key) GoString() string { return k.String() }

// mistake says what is wrong with k, "" for nothing, without naming the secret.
func (k Key) mistake() string {
	switch {
	case k.Key == "":
		return "the key is empty: want one that begins " + KeyPrefix
	case !strings.HasPrefix(k.Key, KeyPrefix):
		return "the key does not begin " + KeyPrefix + ": want one that does"
	case k.Key == KeyPrefix:
		return "the key has nothing after " + KeyPrefix + ": want a random secret there"
	case len(k.Key) > maxKey:
		return fmt.Sprintf("the key is %d bytes long: want at most %d", len(k.Key), maxKey)
	case strings.ContainsFunc(k.Key, func(r rune) bool { return r > '~' || !isKeyByte(byte(r)) }):
		return "the key holds a character that no header may carry in it: want letters, digits and -._~+/="
	}
	return ""
}

// isKeyByte reports whether c may be part of a bearer token: the b64token of
// RFC 6750, section 2.1.
func isKeyByte(c byte) bool {
	return fold(c) != '-' || strings.IndexByte("-._~+/=", c) >= 0
}

type digest = [sha256.Size]byte

type holder struct {
	id, plan string
	digest   digest
	// order is the key's place in Options.Keys.
	order int
}

// keyring knows keys by their digests alone.
type keyring struct {
	// pepper is random for each process, so that a digest that leaks from one
	// (in a core dump, say) cannot be looked up in a table.
	pepper  [32]byte
	holders []holder
	index   map[digest]int
}

func newKeyring(keys []Key) (keyring, []error) {
	r := keyring{index: make(map[digest]int, len(keys)), holders: make([]holder, len(keys))}
	_, _ = rand.Read(r.pepper[:]) // never fails: see crypto/rand
	var errs []error
	for i, k := range keys {
		place := fmt.Sprintf("keys[%d] (caller %q)", i, k.Caller)
		if wrong := nameMistake(k.Caller); wrong != "" {
			errs = append(errs, fmt.Errorf("keys[%d].caller: %q: %s: want 1 to %d bytes of printable UTF-8", i, k.Caller, wrong, maxName))
		}
		if wrong := k.mistake(); wrong != "" {
			errs = append(errs, errors.New(place+": "+wrong))
			continue
		}
		d := r.digest(k.Key)
		if j, taken := r.index[d]; taken {
			errs = append(errs, fmt.Errorf("%s: the same key as keys[%d] (caller %q): want a key of its own", place, j, keys[j].Caller))
			continue
		}
		r.index[d] = i
		// Clones, because both may be slices of the text that holds the key.
		r.holders[i] = holder{id: "key:" + k.Caller, plan: strings.Clone(k.Plan), digest: d, order: i}
	}
	return r, errs
}

// digest hashes a key of at most maxKey bytes. A plain SHA-256 behind the
// pepper is enough: what HMAC adds, safety against extending a known digest,
// matters only where digests are shown. A slow hash would guard guessable
// secrets, which keys are not.
func (r *keyring) digest(key string) digest {
	var text [len(r.pepper) + maxKey]byte
	n := copy(text[:], r.pepper[:])
	n += copy(text[n:], key)
	return sha256.Sum256(text[:n])
}

// find returns whose key it is, nil if it is unknown. How long the map takes
// depends on a digest that nobody outside can predict, never on how many
// leading bytes of a guess are right.
func (r *keyring) find(key string) *holder {
	if len(key) > maxKey {
		return nil
	}
	d := r.digest(key)
	i, ok := r.index[d]
	if !ok || subtle.ConstantTimeCompare(d[:], r.holders[i].digest[:]) != 1 {
		return nil
	}
	return &r.holders[i]
}
