package auth

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/inferweir/weir"
)

// ErrNoKey is what Options.Stored returns for a digest that no valid key has: it was
// never made, or is revoked or expired. Which of them, no client is told.
var ErrNoKey = errors.New("no such key")

// storedAgain is when to come back with a key that could not be looked up.
const storedAgain = time.Second

// judge looks a presented key up: first among the configured ones, whose form is
// their owner's affair, and then, if it has the form and the checksum of NewKey,
// where the others are kept.
func (a *Authenticator) judge(f *found, word string) {
	if h := a.keys.find(word); h != nil {
		f.add(h)
		return
	}
	id, ok := CheckKey(word)
	switch {
	case id == "" || ok && a.stored == nil:
		f.unknown = true
		return
	case !ok:
		f.mistyped = true
		return
	}
	k, err := a.stored(Digest(word))
	switch {
	case errors.Is(err, ErrNoKey):
		f.unknown = true
	case err != nil:
		f.unchecked = fmt.Errorf("the key %s cannot be looked up: %w", id, err)
	default:
		f.add(&holder{id: "key:" + k.Caller, plan: k.Plan, order: len(a.keys.holders)})
	}
}

// before orders the keys of one caller in one request, so that which of them gives
// the plan does not depend on the order of the headers: the one that was configured
// first, then, among stored ones, that whose plan's name sorts first.
func (h *holder) before(other *holder) bool {
	return cmp.Or(cmp.Compare(h.order, other.order), cmp.Compare(h.plan, other.plan)) < 0
}

// uncheckable is the answer to a key that may be valid. It is no fault of the
// client's.
func uncheckable(cause error) *weir.Problem {
	return &weir.Problem{
		Status: http.StatusServiceUnavailable, RetryAfter: storedAgain, Err: cause,
		Detail: "The presented Weir key cannot be checked now, because the database with the keys does not answer: try again with the same key.",
	}
}

// CheckCaller says what keeps name from being the Caller of a key; nil is nothing.
// The text follows the name of the place and does not repeat name.
func CheckCaller(name string) error {
	if wrong := nameMistake(name); wrong != "" {
		return fmt.Errorf("%s: want 1 to %d bytes of printable UTF-8", wrong, maxName)
	}
	if mentionsKey(name) {
		return errors.New("is a key: want the name of who is to bear it")
	}
	kind, rest, _ := strings.Cut(name, ":")
	switch kind {
	case "key", "jwt", "header", "ip":
		return fmt.Errorf("begins with %s: as the ID of a caller does: want the name alone, for example %q", kind, rest)
	}
	return nil
}
