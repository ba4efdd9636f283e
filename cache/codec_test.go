package cache_test

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

// anyEntry draws entries with something, nothing or nil in every field.
func anyEntry() *rapid.Generator[*cache.Entry] {
	text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) string { return string(b) }))
	texts := rapid.OneOf(rapid.Just([]string(nil)), rapid.SliceOfN(text, 0, 5))
	at := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(-1<<36, 1<<36).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	})
	return rapid.Custom(func(t *rapid.T) *cache.Entry {
		e := &cache.Entry{
			Meta:   cache.Meta{Owner: text.Draw(t, "owner"), Labels: texts.Draw(t, "labels"), Epoch: rapid.Uint64().Draw(t, "epoch")},
			Status: rapid.IntRange(-1<<31, 1<<31-1).Draw(t, "status"),
			ETag:   text.Draw(t, "etag"),
			Made:   at.Draw(t, "made"), Expires: at.Draw(t, "expires"), Until: at.Draw(t, "until"),
			Took: time.Duration(rapid.Int64().Draw(t, "took")),
			Vary: texts.Draw(t, "vary"),
		}
		if rapid.Bool().Draw(t, "has header") {
			e.Header = http.Header(rapid.MapOfN(text, texts, 0, 6).Draw(t, "header"))
		}
		if rapid.Bool().Draw(t, "has body") {
			e.Body = rapid.SliceOfN(rapid.Byte(), 0, 500).Draw(t, "body")
		}
		if rapid.Bool().Draw(t, "has frames") {
			e.Frames = []cache.Frame{}
			for end := 0; end < len(e.Body); {
				end += rapid.IntRange(0, len(e.Body)-end).Draw(t, "frame")
				e.Frames = append(e.Frames, cache.Frame{End: end, At: time.Duration(rapid.Int64().Draw(t, "at"))})
				if rapid.Bool().Draw(t, "last") {
					break
				}
			}
		}
		return e
	})
}

func TestEntryComesBackFromItsBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := anyEntry().Draw(rt, "entry")
		before := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(rt, "before")
		b, err := e.AppendBinary(bytes.Clone(before))
		if err != nil {
			rt.Fatal(err)
		}
		encoded, had := bytes.CutPrefix(b, before)
		if !had {
			rt.Fatalf("%x does not begin with what was there: %x", b, before)
		}
		if again, err := e.AppendBinary(nil); err != nil || !bytes.Equal(again, encoded) {
			rt.Fatalf("encoded twice: %x and %x, %v", encoded, again, err)
		}
		got, err := cache.DecodeEntry(encoded)
		if err != nil || !reflect.DeepEqual(got, e) {
			rt.Fatalf("got %+v, %v\nwant %+v", got, err, e)
		}
		cut := rapid.IntRange(0, len(encoded)-1).Draw(rt, "cut")
		if got, err := cache.DecodeEntry(encoded[:cut:cut]); err == nil {
			rt.Fatalf("%d of %d bytes gave %+v", cut, len(encoded), got)
		}
		if got, err := cache.DecodeEntry(append(encoded, 0)); err == nil {
			rt.Fatalf("a byte more gave %+v", got)
		}
	})
}

func TestEntryOfImpossibleFramesIsNotEncoded(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames []cache.Frame
		want   string
	}{
		{"beyond the body", []cache.Frame{{End: 2}, {End: 5}}, "cache: encode: frame 1 ends at 5: want from 2, where the one before ends, to the body's 4 bytes"},
		{"backwards", []cache.Frame{{End: 3}, {End: 2}}, "cache: encode: frame 1 ends at 2: want from 3, where the one before ends, to the body's 4 bytes"},
		{"before the body", []cache.Frame{{End: -1}}, "cache: encode: frame 0 ends at -1: want from 0, where the one before ends, to the body's 4 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &cache.Entry{Body: []byte("body"), Frames: c.frames}
			if b, err := e.AppendBinary(nil); err == nil || err.Error() != c.want {
				t.Errorf("got %x, %v\nwant %s", b, err, c.want)
			}
		})
	}
}

// hostileEntries say that they have more than they do, in every place where an
// entry says how much it has.
func hostileEntries() map[string][]byte {
	huge := binary.AppendUvarint(nil, 1<<62)
	head := func(parts ...[]byte) []byte {
		h := bytes.Join(parts, nil)
		return append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(h))), h...)
	}
	var (
		none  = []byte{0}
		times = bytes.Repeat([]byte{0}, 6)
		// owner, labels, epoch; times; took, status, etag, vary
		meta  = []byte{0, 0, 0}
		rest  = []byte{0, 0, 0, 0}
		whole = head(meta, times, rest, none)
	)
	return map[string][]byte{
		"nothing":               {},
		"another version":       append([]byte{2}, whole[1:]...),
		"a head of 4 GiB":       {1, 255, 255, 255, 255, 0},
		"a huge owner":          head(huge, none, none, times, rest, none),
		"huge labels":           head(none, huge, none, times, rest, none),
		"a huge label":          head(none, []byte{2}, huge, none, times, rest, none),
		"a huge header":         head(meta, times, rest, huge),
		"a huge field name":     head(meta, times, rest, []byte{2}, huge, none),
		"huge field values":     head(meta, times, rest, []byte{2, 1, 'a'}, huge),
		"the same field twice":  head(meta, times, rest, []byte{3, 1, 'a', 0, 1, 'a', 0}),
		"a second of 2 seconds": head(meta, binary.AppendUvarint([]byte{0}, 2_000_000_000), times, rest, none),
		"a number of 80 bits":   head(none, none, bytes.Repeat([]byte{255}, 12), times, rest, none),
		"more in its head":      head(meta, times, rest, none, none),
		"huge frames":           append(bytes.Clone(whole), huge...),
		"a huge frame":          bytes.Join([][]byte{whole, {2}, huge, {0, 0}}, nil),
		"a frame too long":      bytes.Join([][]byte{whole, {2, 2, 0}, {2, 'b'}}, nil),
		"a huge body":           bytes.Join([][]byte{whole, none, huge, []byte("body")}, nil),
		"no body":               append(bytes.Clone(whole), 0),
	}
}

func TestHostileBytesAreNoEntry(t *testing.T) {
	// What the others are made of is one.
	if e, err := cache.DecodeEntry(append([]byte{1, 0, 0, 0, 14}, make([]byte, 16)...)); err != nil || !reflect.DeepEqual(e, &cache.Entry{
		Made: time.Unix(0, 0).UTC(), Expires: time.Unix(0, 0).UTC(), Until: time.Unix(0, 0).UTC(),
	}) {
		t.Errorf("got %+v, %v", e, err)
	}
	for name, b := range hostileEntries() {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			e, err := cache.DecodeEntry(b)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.HasPrefix(err.Error(), "cache: decode: ") {
				t.Errorf("got %+v, %v", e, err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("allocated %d bytes for %d", n, len(b))
			}
		})
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, b := range hostileEntries() {
		f.Add(b)
	}
	now := time.Unix(1_800_000_000, 1)
	for _, e := range []*cache.Entry{{}, {
		Meta:   cache.Meta{Owner: "key:alice", Labels: []string{"tag:a"}, Epoch: 3},
		Status: 200, Header: http.Header{"Content-Type": {"text/plain"}, "X": {"1", ""}}, Body: []byte("data: a\n\n"),
		ETag: `"a"`, Made: now, Expires: now, Until: now, Took: time.Second, Frames: []cache.Frame{{End: 9, At: 1}}, Vary: []string{"Accept"},
	}} {
		b, err := e.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := cache.DecodeEntry(bytes.Clone(b))
		if err != nil {
			return
		}
		if most := int64(64*len(b) + 4096); e.Size() > most {
			t.Fatalf("%d bytes gave an entry of %d", len(b), e.Size())
		}
		again, err := e.AppendBinary(nil)
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", e, err)
		}
		if got, err := cache.DecodeEntry(again); err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, e)
		}
	})
}
