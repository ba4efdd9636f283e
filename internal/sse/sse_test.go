package sse_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/internal/sse"
)

// event is what a client makes of a frame.
type event struct{ name, data string }

// frame is a copy of a Frame, as text.
type frame struct {
	raw     string
	seen    bool // by clients
	name    string
	data    string
	endOnly bool // it came only with End
}

// collect appends the frames that are ready.
func collect(s *sse.Splitter, frames []frame) []frame {
	for {
		f, ok := s.Next()
		if !ok {
			return frames
		}
		frames = append(frames, frame{raw: string(f.Raw), seen: f.Data != nil, name: string(f.Name), data: string(f.Data)})
	}
}

// split writes the pieces one after the other and returns all frames and the rest.
func split(t interface{ Fatalf(string, ...any) }, pieces ...string) ([]frame, string) {
	var s sse.Splitter
	var frames []frame
	for _, p := range pieces {
		if n, err := s.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatalf("Write(%q): %d, %v", p, n, err)
		}
		frames = collect(&s, frames)
	}
	ready := len(frames)
	s.End()
	frames = collect(&s, frames)
	for i := ready; i < len(frames); i++ {
		frames[i].endOnly = true
	}
	return frames, string(s.Rest())
}

// specification reads a whole stream as section 9.2.6 of the HTML standard says,
// word by word.
func specification(stream string) (events []event) {
	stream = strings.TrimPrefix(stream, "\ufeff")
	var eventType string
	var data []byte
	for stream != "" {
		end := strings.IndexAny(stream, "\r\n")
		if end < 0 {
			return events // without a line end: not a line
		}
		line, rest := stream[:end], stream[end+1:]
		if stream[end] == '\r' {
			rest = strings.TrimPrefix(rest, "\n")
		}
		stream = rest
		if line == "" { // dispatch the event
			if len(data) > 0 {
				events = append(events, event{eventType, strings.TrimSuffix(string(data), "\n")})
			}
			eventType, data = "", data[:0]
			continue
		}
		field, value, colon := line, "", strings.IndexByte(line, ':')
		switch {
		case colon == 0:
			continue
		case colon > 0:
			field, value = line[:colon], strings.TrimPrefix(line[colon+1:], " ")
		}
		switch field {
		case "event":
			eventType = value
		case "data":
			data = append(append(data, value...), '\n')
		}
	}
	return events
}

// seen are the events that clients see of frames.
func seen(frames []frame) (events []event) {
	for _, f := range frames {
		if f.seen {
			events = append(events, event{f.name, f.data})
		}
	}
	return events
}

func raws(frames []frame) []string {
	var list []string
	for _, f := range frames {
		list = append(list, f.raw)
	}
	return list
}

func TestSplitterCutsStreams(t *testing.T) {
	plain := func(raw string) frame { return frame{raw: raw} }
	data := func(raw, name, data string) frame { return frame{raw: raw, seen: true, name: name, data: data} }
	atEnd := func(f frame) frame { f.endOnly = true; return f }
	for _, c := range []struct {
		name, in string
		want     []frame
		rest     string
	}{
		{"finds nothing in nothing", "", nil, ""},
		{"ends an event with its blank line", "data: a\n\ndata: b\n\n", []frame{data("data: a\n\n", "", "a"), data("data: b\n\n", "", "b")}, ""},
		{"takes one space from a value", "data:a\ndata:  b\ndata: \n\n", []frame{data("data:a\ndata:  b\ndata: \n\n", "", "a\n b\n")}, ""},
		{"reads names", "event: error\ndata: {}\n\n", []frame{data("event: error\ndata: {}\n\n", "error", "{}")}, ""},
		{"takes the last of two names", "event: a\ndata\nevent: b\n\n", []frame{data("event: a\ndata\nevent: b\n\n", "b", "")}, ""},
		{"forgets the name after the event", "event: a\n\ndata: b\n\n", []frame{{raw: "event: a\n\n", name: "a"}, data("data: b\n\n", "", "b")}, ""},
		{"tells empty data from none", "data:\n\ndata\n\nid: 1\n\nretry: 5\n\n",
			[]frame{data("data:\n\n", "", ""), data("data\n\n", "", ""), plain("id: 1\n\n"), plain("retry: 5\n\n")}, ""},
		{"joins empty lines", "data\ndata\ndata:x\n\n", []frame{data("data\ndata\ndata:x\n\n", "", "\n\nx")}, ""},
		{"ignores unknown fields", "Data: a\n data: b\ndatas: c\ndata : d\n\n", []frame{plain("Data: a\n data: b\ndatas: c\ndata : d\n\n")}, ""},
		{"keeps colons in values", "data: a: b\n\n", []frame{data("data: a: b\n\n", "", "a: b")}, ""},
		{"gives comments at once", ": keep-alive\n:\n: b", []frame{plain(": keep-alive\n"), plain(":\n")}, ": b"},
		{"gives blank lines at once", "\n\ndata: a\n\n\n", []frame{plain("\n"), plain("\n"), data("data: a\n\n", "", "a"), plain("\n")}, ""},
		{"leaves comments within events", "data: a\n: b\ndata: c\n\n", []frame{data("data: a\n: b\ndata: c\n\n", "", "a\nc")}, ""},
		{"allows a byte order mark", "\ufeffdata: a\n\n", []frame{data("\ufeffdata: a\n\n", "", "a")}, ""},
		{"allows a byte order mark before a comment", "\ufeff: a\n\ufeff\n\n", []frame{plain("\ufeff: a\n"), plain("\ufeff\n\n")}, ""},
		{"allows a byte order mark alone", "\ufeff\ndata: a\n\n", []frame{plain("\ufeff\n"), data("data: a\n\n", "", "a")}, ""},
		{"leaves what is not complete", "data: a\n\ndata: b\n", []frame{data("data: a\n\n", "", "a")}, "data: b\n"},
		{"reads lines that end with \\r\\n", "data: a\r\ndata: b\r\n\r\n: c\r\n\r\nid\r\n\r\n",
			[]frame{data("data: a\r\ndata: b\r\n\r\n", "", "a\nb"), plain(": c\r\n"), plain("\r\n"), plain("id\r\n\r\n")}, ""},
		{"reads lines that end with \\r", "data: a\rdata: b\r\r: c\r\rid\r\r",
			[]frame{data("data: a\rdata: b\r\r", "", "a\nb"), plain(": c\r"), plain("\r"), plain("id\r\r")}, ""},
		{"holds a \\r back where it may be half of \\r\\n", "data: a\r\n\r", []frame{atEnd(data("data: a\r\n\r", "", "a"))}, ""},
		{"ends a frame at a held \\r if no \\n follows", "data: a\r\n\rdata: b\n\n", []frame{data("data: a\r\n\r", "", "a"), data("data: b\n\n", "", "b")}, ""},
		{"makes a frame of the \\n that comes too late", "data: a\r\r\ndata: b\r\n\r\n",
			[]frame{data("data: a\r\r", "", "a"), plain("\n"), data("data: b\r\n\r\n", "", "b")}, ""},
		{"learns from a first comment", ": a\r\n\r\n: b\r\n", []frame{plain(": a\r"), plain("\n"), plain("\r\n"), plain(": b\r\n")}, ""},
		{"keeps bytes that are not UTF-8", "data: \xff\x00\n\n", []frame{data("data: \xff\x00\n\n", "", "\xff\x00")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, pieces := range map[string][]string{"whole": {c.in}, "byte by byte": strings.Split(c.in, "")} {
				if got, rest := split(t, pieces...); !reflect.DeepEqual(got, c.want) || rest != c.rest {
					t.Errorf("%s: %+v, rest %q\nwant %+v, rest %q", name, got, rest, c.want, c.rest)
				}
			}
		})
	}
}

// streams generates what is likely to be hard.
func streams() *rapid.Generator[string] {
	part := rapid.OneOf(
		rapid.SampledFrom([]string{"\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "\r\r", "data: a", "data:", "data", "event: e", "id: 1", ": c", ":", " ", "\ufeff", "x"}),
		rapid.StringN(0, 5, -1),
	)
	return rapid.Map(rapid.SliceOfN(part, 0, 20), func(parts []string) string { return strings.Join(parts, "") })
}

func TestPiecesMakeNoDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := streams().Draw(t, "stream")
		want, wantRest := split(t, stream)
		var pieces []string
		for left := stream; left != ""; {
			n := rapid.IntRange(1, len(left)).Draw(t, "length")
			pieces, left = append(pieces, left[:n]), left[n:]
		}
		got, rest := split(t, pieces...)
		if !reflect.DeepEqual(got, want) || rest != wantRest {
			t.Fatalf("%q: %+v, rest %q\nwhole: %+v, rest %q", pieces, got, rest, want, wantRest)
		}
		if all := strings.Join(raws(got), "") + rest; all != stream {
			t.Fatalf("%q became %q", stream, all)
		}
	})
}

// FuzzSplitter holds the frames against the standard, whole and byte by byte: no
// byte is lost, each frame is one event at most, and none is late.
func FuzzSplitter(f *testing.F) {
	for _, s := range []string{"data: a\n\n", "data: a\r\n\r\n", "data: a\r\r: c\r\n\n", "\ufeffevent: e\ndata\ndata: \n\n:\n", "data: a\r\n\rdata: b\r\r\n", ": a\r\n\r\n\r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, stream string) {
		frames, rest := split(t, stream)
		if all := strings.Join(raws(frames), "") + rest; all != stream {
			t.Fatalf("%q became %q", stream, all)
		}
		if got, want := seen(frames), specification(stream); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %+v, want %+v", stream, got, want)
		}
		if left := specification(rest); len(left) != 0 {
			t.Fatalf("%q: %+v are in the rest %q", stream, left, rest)
		}
		for i, one := range frames {
			raw := one.raw
			if i > 0 {
				raw = "\n" + raw // so that a mark of byte order is none
			}
			if got := specification(raw); !reflect.DeepEqual(got, seen([]frame{one})) {
				t.Fatalf("%q: frame %+v is %+v", stream, one, got)
			}
		}
		if len(stream) <= 200 { // the check takes the square of that
			byteByByte(t, stream, frames)
		}
	})
}

// byteByByte checks that every event is there with its last byte.
func byteByByte(t *testing.T, stream string, want []frame) {
	var s sse.Splitter
	var got []frame
	for i := range len(stream) {
		if n, err := s.Write([]byte{stream[i]}); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		got = collect(&s, got)
		sofar := stream[:i+1]
		late := len(specification(sofar)) - len(seen(got))
		if late != 0 && (late != 1 || !strings.HasSuffix(sofar, "\r\n\r")) {
			t.Fatalf("%q: %+v: %d late", sofar, got, late)
		}
	}
	s.End()
	ready := len(got)
	got = collect(&s, got)
	for i := ready; i < len(got); i++ {
		got[i].endOnly = true
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%q byte by byte: %+v, want %+v", stream, got, want)
	}
}

func TestLinesAndFramesAreBounded(t *testing.T) {
	line := "data:" + strings.Repeat("x", sse.MaxLine-5)
	t.Run("gives a frame with a line of the greatest length", func(t *testing.T) {
		var s sse.Splitter
		write(t, &s, line+"\n\n", nil)
		f, ok := s.Next()
		if !ok || len(f.Raw) != sse.MaxLine+2 || len(f.Data) != sse.MaxLine-5 {
			t.Errorf("%v: %d bytes, data %d", ok, len(f.Raw), len(f.Data))
		}
	})
	t.Run("refuses a longer line and keeps what came", func(t *testing.T) {
		for _, in := range []string{line + "x", line + "x\n\n"} {
			var s sse.Splitter
			write(t, &s, "data: a\n\n", nil)
			write(t, &s, "data: b\n\n", nil)
			if got := collect(&s, nil); len(got) != 2 {
				t.Errorf("%+v", got)
			}
			write(t, &s, in, sse.ErrTooLong)
			if n, err := s.Write([]byte("\n\n")); n != 0 || !errors.Is(err, sse.ErrTooLong) {
				t.Errorf("after the error: %d, %v", n, err)
			}
			if got := collect(&s, nil); got != nil || string(s.Rest()) != in {
				t.Errorf("after the error: %d frames, rest of %d bytes", len(got), len(s.Rest()))
			}
		}
	})
	t.Run("gives what comes before a line that is too long in one piece", func(t *testing.T) {
		var s sse.Splitter
		write(t, &s, "data: a\n\n"+line+"x", nil)
		if got := collect(&s, nil); len(got) != 1 || len(s.Rest()) != len(line)+1 {
			t.Errorf("%d frames, rest of %d bytes", len(got), len(s.Rest()))
		}
		if n, err := s.Write([]byte("\n")); n != 0 || !errors.Is(err, sse.ErrTooLong) {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("refuses a longer frame", func(t *testing.T) {
		for _, end := range []struct {
			text string
			want error
		}{{"\n\n", nil}, {"x\n\n", sse.ErrTooLong}, {"x\n", nil}, {"x\nx", sse.ErrTooLong}} {
			var s sse.Splitter
			write(t, &s, line+"\n", nil)
			write(t, &s, line[:len(line)-3], nil)
			write(t, &s, end.text, end.want)
		}
	})
}

func TestFramesThatNobodyTakesAreBounded(t *testing.T) {
	var s sse.Splitter
	block := strings.Repeat("data: "+strings.Repeat("a", 1021)+"\n\n", 8<<10)
	for range 8 {
		write(t, &s, block, nil)
	}
	if n, err := s.Write([]byte("\n")); n != 0 || !errors.Is(err, sse.ErrTooLong) {
		t.Errorf("%d, %v", n, err)
	}
	if got := len(collect(&s, nil)); got != 64<<10 {
		t.Errorf("%d frames, want %d", got, 64<<10)
	}
}

func write(t *testing.T, s *sse.Splitter, text string, want error) {
	t.Helper()
	if n, err := s.Write([]byte(text)); n != len(text) || !errors.Is(err, want) {
		t.Fatalf("Write of %d bytes: %d, %v, want %v", len(text), n, err, want)
	}
}

func TestLongLinesByteByByte(t *testing.T) {
	// A line end of each kind in front, so that each search must stop early.
	for _, start := range []string{"data: ", "id\rdata: ", "id\ndata: ", "id\r\ndata: "} {
		var s sse.Splitter
		text := []byte(start + strings.Repeat("x", 1<<20) + "\n\n")
		for i := range text {
			if _, err := s.Write(text[i : i+1]); err != nil {
				t.Fatal(err)
			}
			if _, ok := s.Next(); ok != (i == len(text)-1) {
				t.Fatalf("%q: byte %d: %v", start, i, ok)
			}
		}
	}
}

func TestLinesOf32MiBInSmallPieces(t *testing.T) {
	var s sse.Splitter
	piece := bytes.Repeat([]byte("x"), 1000)
	write(t, &s, "data:", nil)
	for range (sse.MaxLine - 5) / len(piece) {
		write(t, &s, string(piece), nil)
		if f, ok := s.Next(); ok {
			t.Fatalf("%q", f.Raw)
		}
	}
	write(t, &s, "\n\n", nil)
	if f, ok := s.Next(); !ok || len(f.Data) != (sse.MaxLine-5)/1000*1000 {
		t.Errorf("%v, %d bytes", ok, len(f.Data))
	}
}

func TestMemoryIsGivenBackAfterALargeFrame(t *testing.T) {
	const streams = 20
	splitters := make([]sse.Splitter, streams)
	before := heap()
	line := []byte("data: " + strings.Repeat("x", 1<<20) + "\n")
	for i := range splitters {
		s := &splitters[i]
		for _, p := range [][]byte{line, line, []byte("\ndata: b\n\ndata:")} {
			if _, err := s.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if got := collect(s, nil); len(got) != 2 || len(got[0].data) != 2<<20+1 || string(s.Rest()) != "data:" {
			t.Fatalf("%d frames, rest %q", len(got), s.Rest())
		}
	}
	if grown := heap() - before; grown > 3<<20 { // of 80 MiB, at least
		t.Errorf("%d streams keep %d bytes after large frames", streams, grown)
	}
	runtime.KeepAlive(splitters)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestFramesAreNotAllocated(t *testing.T) {
	for name, text := range map[string]string{
		"one line": "event: message\ndata: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n", "three lines": "data: a\ndata: b\r\ndata: c\n\n", "comment": ": keep-alive\n",
	} {
		var s sse.Splitter
		piece := []byte(text)
		if got := testing.AllocsPerRun(1000, func() {
			if _, err := s.Write(piece); err != nil {
				t.Fatal(err)
			}
			if f, ok := s.Next(); !ok || len(f.Raw) != len(piece) {
				t.Fatalf("%q, %v", f.Raw, ok)
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations for each frame, want 0", name, got)
		}
	}
}

func TestDataOfOneLineIsNotCopied(t *testing.T) {
	var s sse.Splitter
	write(t, &s, "data: abc\n\n", nil)
	f, _ := s.Next()
	if len(f.Data) != 3 || &f.Data[0] != &f.Raw[6] {
		t.Errorf("data %q of %q is a copy", f.Data, f.Raw)
	}
	if grown := append(f.Data, "xyz"...); string(f.Raw) != "data: abc\n\n" {
		t.Errorf("appending to the data made %q of the frame (%q)", f.Raw, grown)
	}
}

func BenchmarkSplitter(b *testing.B) {
	token := func(i int) string {
		return fmt.Sprintf("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token%d\"}}]}\n\n", i)
	}
	tokens := func(n int) string {
		var all strings.Builder
		for i := range n {
			all.WriteString(token(i))
		}
		return all.String()
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name, text string
		frames     int
		piece      func() int
	}{
		{"a frame a write", token(1), 1, func() int { return 1 << 20 }},
		{"blocks of 4 KiB", tokens(1000), 1000, func() int { return 4 << 10 }},
		{"pieces of a network", tokens(1000), 1000, func() int { return 1 + random.IntN(1500) }},
		{"lines that end with CR LF", strings.ReplaceAll(tokens(1000), "\n", "\r\n"), 1000, func() int { return 4 << 10 }},
		{"byte by byte", tokens(10), 10, func() int { return 1 }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			var s sse.Splitter
			text := []byte(c.text)
			n := 0
			for b.Loop() {
				for left := text; len(left) > 0; {
					p := left[:min(c.piece(), len(left))]
					left = left[len(p):]
					if _, err := s.Write(p); err != nil {
						b.Fatal(err)
					}
					for _, ok := s.Next(); ok; _, ok = s.Next() {
						n++
					}
				}
			}
			if n != b.N*c.frames {
				b.Fatalf("%d frames, want %d", n, b.N*c.frames)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/frame")
		})
	}
}
