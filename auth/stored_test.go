package auth_test

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
)

func TestNewKey(t *testing.T) {
	t.Run("has the documented form, an ID and a checksum", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			text, id := auth.NewKey()
			parts := strings.Split(text, "_")
			if len(parts) != 4 || parts[0] != "weir" || parts[1] != id || len(id) != 10 || len(parts[2]) != 43 || len(parts[3]) != 6 {
				t.Fatalf("key has the parts %q, ID %q", parts, id)
			}
			if got, ok := auth.CheckKey(text); got != id || !ok || !auth.IsKeyID(id) {
				t.Fatalf("CheckKey: %q, %t; want %q, true", got, ok, id)
			}
			at := rapid.IntRange(5, len(text)-1).Draw(t, "at")
			other := rapid.SampledFrom([]byte("09AZaz_-.é")).Draw(t, "other")
			if text[at] == other {
				return
			}
			if _, ok := auth.CheckKey(text[:at] + string(rune(other)) + text[at+1:]); ok {
				t.Fatalf("byte %d of %q may be %q", at, text, other)
			}
		})
	})
	t.Run("uses every digit about as often as the others", func(t *testing.T) {
		const keys = 2000
		counts := map[rune]int{}
		for range keys {
			text, _ := auth.NewKey()
			for _, r := range text[16:59] {
				counts[r]++
			}
		}
		// 1387 of each are expected, with a standard deviation of 37.
		for r, n := range counts {
			if n < 1387-300 || n > 1387+300 {
				t.Errorf("%q is there %d times of %d", r, n, keys*43)
			}
		}
		if len(counts) != 62 {
			t.Errorf("%d different digits, want 62", len(counts))
		}
	})
	t.Run("takes nothing else for its form", func(t *testing.T) {
		text, _ := auth.NewKey()
		for _, other := range []string{"", "weir_", text[1:], text + "0", strings.Replace(text, "weir_", "Weir_", 1), strings.Repeat("_", 66), aliceKey} {
			if id, ok := auth.CheckKey(other); id != "" || ok {
				t.Errorf("CheckKey(%q) is %q, %t", other, id, ok)
			}
		}
	})
}

// shelf keeps keys elsewhere, and counts how often it is asked.
type shelf struct {
	keys  map[[32]byte]auth.Key
	err   error
	asked int
}

func (s *shelf) find(digest [32]byte) (auth.Key, error) {
	s.asked++
	if s.err != nil {
		return auth.Key{}, s.err
	}
	k, ok := s.keys[digest]
	if !ok {
		return auth.Key{}, auth.ErrNoKey
	}
	return k, nil
}

func (s *shelf) add(caller, plan string) (text string) {
	text, _ = auth.NewKey()
	s.keys[auth.Digest(text)] = auth.Key{Caller: caller, Plan: plan}
	return text
}

func newShelf() *shelf { return &shelf{keys: map[[32]byte]auth.Key{}} }

func stored(t testing.TB, s *shelf) *auth.Authenticator {
	t.Helper()
	o := options()
	o.Stored = s.find
	return newAuth(t, o)
}

func bearer(keys ...string) http.Header {
	h := http.Header{}
	for i, k := range keys {
		if i == 0 {
			h["Authorization"] = []string{"Bearer " + k}
		} else {
			h["X-Api-Key"] = append(h["X-Api-Key"], k)
		}
	}
	return h
}

func TestStoredKeys(t *testing.T) {
	s := newShelf()
	carol, dave := s.add("carol", "pro"), s.add("dave", "")
	carolBasic, aliceStored := s.add("carol", "basic"), s.add("alice", "stored")
	unknown, _ := auth.NewKey()
	a := stored(t, s)
	accept := func(name string, h http.Header, want weir.Caller) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			got, err := a.Identify(t.Context(), h, stranger)
			if err != nil || got != want {
				t.Errorf("caller %+v, %v\nwant   %+v", got, err, want)
			}
			if len(h) > 0 {
				t.Errorf("the header still has %v", h)
			}
		})
	}
	accept("name their caller and plan", bearer(carol), key("carol", "pro"))
	accept("may have no plan", bearer(dave), key("dave", ""))
	accept("stand behind the configured ones of the same caller", bearer(aliceStored, alice2Key), key("alice", "basic"))
	accept("of one caller give the plan that sorts first", bearer(carol, carolBasic), key("carol", "basic"))
	accept("give it in the other order too", bearer(carolBasic, carol), key("carol", "basic"))

	refuse := func(name string, h http.Header, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			presented := fmt.Sprint(h)
			_, err := a.Identify(t.Context(), h.Clone(), stranger)
			p := problem(t, err)
			if p.Status != 401 || !strings.Contains(p.Detail, want) || !auth.Failed(err) {
				t.Errorf("refused with %d %q (credential: %t), want 401 and %q", p.Status, p.Detail, auth.Failed(err), want)
			}
			for _, word := range strings.FieldsFunc(presented, func(r rune) bool { return r == '[' || r == ']' || r == ' ' || r == ':' }) {
				if strings.HasPrefix(word, auth.KeyPrefix) && strings.Contains(p.Error(), word[16:]) {
					t.Errorf("the error has the key: %v", p)
				}
			}
		})
	}
	refuse("that nobody has are refused", bearer(unknown), "It may be mistyped, revoked or expired")
	refuse("of two callers are refused", bearer(carol, dave), "different callers")
	refuse("beside a configured key of another are refused", bearer(carol, bobKey), "different callers")
	mistyped := []byte(carol)
	if mistyped[20] = 'a'; carol[20] == 'a' {
		mistyped[20] = 'b'
	}
	refuse("with a wrong checksum are called mistyped", bearer(string(mistyped)), "its checksum is wrong")

	t.Run("that are mistyped or of another form are not looked up", func(t *testing.T) {
		s.asked = 0
		for _, text := range []string{string(mistyped), carol[:65], carol + "x", badKey} {
			if _, err := a.Identify(t.Context(), bearer(text), stranger); !auth.Failed(err) {
				t.Errorf("%v, want a refusal", err)
			}
		}
		if s.asked != 0 {
			t.Errorf("%d look-ups, want none", s.asked)
		}
	})
	t.Run("of the configuration are not looked up, whatever their form", func(t *testing.T) {
		s.asked = 0
		text, _ := auth.NewKey()
		o := options()
		o.Keys, o.Stored = append(o.Keys, auth.Key{Caller: "erin", Key: text}), s.find
		got, err := newAuth(t, o).Identify(t.Context(), bearer(text), stranger)
		if err != nil || got != key("erin", "") || s.asked != 0 {
			t.Errorf("%+v, %v, %d look-ups", got, err, s.asked)
		}
	})
	t.Run("count as a key where one is required", func(t *testing.T) {
		o := options()
		o.Stored, o.Require = s.find, true
		if got, err := newAuth(t, o).Identify(t.Context(), bearer(carol), stranger); err != nil || got != key("carol", "pro") {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestStoredKeysThatCannotBeLookedUp(t *testing.T) {
	s := newShelf()
	carol := s.add("carol", "pro")
	s.err = errors.New("connection refused by db.internal")
	a := stored(t, s)
	t.Run("are 503, and no failed attempt", func(t *testing.T) {
		_, err := a.Identify(t.Context(), bearer(carol), stranger)
		p := problem(t, err)
		got := weir.Problem{Status: p.Status, RetryAfter: p.RetryAfter, Detail: p.Detail}
		want := weir.Problem{Status: 503, RetryAfter: time.Second,
			Detail: "The presented Weir key cannot be checked now, because the database with the keys does not answer: try again with the same key."}
		if !reflect.DeepEqual(got, want) || auth.Failed(err) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if !errors.Is(err, s.err) || strings.Contains(p.Error(), carol[16:]) {
			t.Errorf("the log has %v", p)
		}
	})
	t.Run("leave configured keys alone", func(t *testing.T) {
		if got, err := a.Identify(t.Context(), bearer(bobKey), stranger); err != nil || got != key("bob", "") {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("are refused beside one that is wrong anyway", func(t *testing.T) {
		for _, h := range []http.Header{bearer(carol, badKey), bearer(badKey, carol)} {
			if _, err := a.Identify(t.Context(), h, stranger); !auth.Failed(err) {
				t.Errorf("%v, want 401", err)
			}
		}
	})
}

func TestCheckCaller(t *testing.T) {
	text, _ := auth.NewKey()
	f := func(name, want string) {
		t.Helper()
		got := ""
		if err := auth.CheckCaller(name); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("CheckCaller(%q): %q, want %q", name, got, want)
		}
	}
	f("alice", "")
	f("team:alice", "")
	f("Zoë from 日本", "")
	f("", "is empty: want 1 to 256 bytes of printable UTF-8")
	f(strings.Repeat("a", 257), "is 257 bytes long: want 1 to 256 bytes of printable UTF-8")
	f("a\x00b", "holds a character that is not printable: want 1 to 256 bytes of printable UTF-8")
	f("a\nb", "holds a character that is not printable: want 1 to 256 bytes of printable UTF-8")
	f("\xff", "is not UTF-8: want 1 to 256 bytes of printable UTF-8")
	f("key:alice", `begins with key: as the ID of a caller does: want the name alone, for example "alice"`)
	f("jwt:4711", `begins with jwt: as the ID of a caller does: want the name alone, for example "4711"`)
	f(text, "is a key: want the name of who is to bear it")
}

func BenchmarkStoredKey(b *testing.B) {
	s := newShelf()
	text := s.add("carol", "pro")
	a := stored(b, s)
	h := http.Header{}
	values := []string{"Bearer " + text}
	for b.Loop() {
		h["Authorization"] = values
		if _, err := a.Identify(b.Context(), h, stranger); err != nil {
			b.Fatal(err)
		}
	}
}
