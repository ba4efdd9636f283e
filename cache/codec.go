package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"
)

// codecVersion is the first byte of an encoded entry. Another one is another
// format, which this one's reader refuses.
const codecVersion = 1

// codecPrefix is the version and the length of the head, which is all but the
// frames and the body: what tells of an entry without reading it all.
const codecPrefix = 1 + 4

// AppendBinary appends the entry to b (encoding.BinaryAppender) in a form that
// DecodeEntry reads. The same entry gives the same bytes. Times keep their
// nanoseconds and lose their zone. It fails for an entry that is none: frames
// that do not follow each other within the body, or a head above 4 GiB.
func (e *Entry) AppendBinary(b []byte) ([]byte, error) {
	if err := e.checkFrames(); err != nil {
		return nil, fmt.Errorf("cache: encode: %w", err)
	}
	start := len(b)
	b = append(b, codecVersion, 0, 0, 0, 0)
	b = e.appendHead(b)
	head := len(b) - start - codecPrefix
	if head > math.MaxUint32 {
		return nil, fmt.Errorf("cache: encode: a head of %d bytes: want at most %d", head, uint32(math.MaxUint32))
	}
	binary.BigEndian.PutUint32(b[start+1:], uint32(head))
	b = appendCount(b, len(e.Frames), e.Frames == nil)
	end := 0
	for _, f := range e.Frames {
		b = binary.AppendUvarint(b, uint64(f.End-end))
		b = binary.AppendVarint(b, int64(f.At))
		end = f.End
	}
	b = appendCount(b, len(e.Body), e.Body == nil)
	return append(b, e.Body...), nil
}

func (e *Entry) checkFrames() error {
	end := 0
	for i, f := range e.Frames {
		if f.End < end || f.End > len(e.Body) {
			return fmt.Errorf("frame %d ends at %d: want from %d, where the one before ends, to the body's %d bytes", i, f.End, end, len(e.Body))
		}
		end = f.End
	}
	return nil
}

func (e *Entry) appendHead(b []byte) []byte {
	b = appendText(b, e.Owner)
	b = appendTexts(b, e.Labels)
	b = binary.AppendUvarint(b, e.Epoch)
	for _, t := range []time.Time{e.Until, e.Expires, e.Made} {
		b = binary.AppendVarint(b, t.Unix())
		b = binary.AppendUvarint(b, uint64(t.Nanosecond()))
	}
	b = binary.AppendVarint(b, int64(e.Took))
	b = binary.AppendVarint(b, int64(e.Status))
	b = appendText(b, e.ETag)
	b = appendTexts(b, e.Vary)
	b = appendCount(b, len(e.Header), e.Header == nil)
	names := make([]string, 0, len(e.Header))
	for name := range e.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b = appendText(b, name)
		b = appendTexts(b, e.Header[name])
	}
	return b
}

// appendCount appends a number of elements of something that may be nil too.
func appendCount(b []byte, n int, none bool) []byte {
	if none {
		return append(b, 0)
	}
	return binary.AppendUvarint(b, uint64(n)+1)
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendTexts(b []byte, texts []string) []byte {
	b = appendCount(b, len(texts), texts == nil)
	for _, s := range texts {
		b = appendText(b, s)
	}
	return b
}

// DecodeEntry reads what AppendBinary wrote, which is all of b. The Body of the
// entry is a part of b: whoever calls gives b away, and must not change it
// afterwards. Nothing else refers to b. What it allocates is bounded by the
// length of b, whatever b says; for anything that AppendBinary did not write it
// gives an error or an entry that AppendBinary would take.
func DecodeEntry(b []byte) (*Entry, error) {
	e, rest, err := decodeHead(b)
	if err != nil {
		return nil, err
	}
	d := decoder{rest: rest}
	d.frames(e)
	n, some := d.count("body", 1)
	if d.err == nil && n != len(d.rest) {
		d.fail("body", fmt.Sprintf("it says %d bytes and has %d", n, len(d.rest)))
	}
	if some {
		e.Body = d.rest[:len(d.rest):len(d.rest)]
	}
	if d.err != nil {
		return nil, d.err
	}
	if err := e.checkFrames(); err != nil {
		return nil, fmt.Errorf("cache: decode: %w", err)
	}
	return e, nil
}

// headLength tells how many bytes at the beginning of an encoded entry its head
// takes, given at least codecPrefix of them.
func headLength(b []byte) (int64, error) {
	if len(b) < codecPrefix {
		return 0, fmt.Errorf("cache: decode: %d bytes are no entry", len(b))
	}
	if b[0] != codecVersion {
		return 0, fmt.Errorf("cache: decode: version %d: want %d", b[0], codecVersion)
	}
	return codecPrefix + int64(binary.BigEndian.Uint32(b[1:])), nil
}

// decodeHead reads an entry without frames and body; rest are these.
func decodeHead(b []byte) (e *Entry, rest []byte, err error) {
	n, err := headLength(b)
	if err != nil {
		return nil, nil, err
	}
	if n > int64(len(b)) {
		return nil, nil, fmt.Errorf("cache: decode: head: it says %d bytes and has %d", n-codecPrefix, len(b)-codecPrefix)
	}
	d := decoder{rest: b[codecPrefix:n]}
	d.text = string(d.rest) // all strings are parts of one copy
	e = &Entry{}
	e.Owner = d.string("owner")
	e.Labels = d.strings("labels")
	e.Epoch = d.uvarint("epoch")
	e.Until, e.Expires, e.Made = d.time("until"), d.time("expires"), d.time("made")
	e.Took = time.Duration(d.varint("took"))
	e.Status = d.int("status")
	e.ETag = d.string("etag")
	e.Vary = d.strings("vary")
	d.header(e)
	if d.err == nil && len(d.rest) > 0 {
		d.fail("head", fmt.Sprintf("%d bytes too many", len(d.rest)))
	}
	if d.err != nil {
		return nil, nil, d.err
	}
	return e, b[n:], nil
}

// decoder reads rest from its beginning. After an error it gives zeros.
type decoder struct {
	rest []byte
	text string // what rest was a copy of at the beginning
	err  error
}

func (d *decoder) fail(what, why string) {
	if d.err == nil {
		d.err = errors.New("cache: decode: " + what + ": " + why)
	}
	d.rest = nil
}

func (d *decoder) uvarint(what string) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail(what, "no number")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint(what string) int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail(what, "no number")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int(what string) int {
	v := d.varint(what)
	if int64(int(v)) != v {
		d.fail(what, "too large for this machine")
		return 0
	}
	return int(v)
}

// count reads a number of elements of at least size bytes each, and whether the
// whole is not nil. There is not less left than that.
func (d *decoder) count(what string, size int) (n int, some bool) {
	v := d.uvarint(what)
	if v == 0 {
		return 0, false
	}
	if v-1 > uint64(len(d.rest)/size) {
		d.fail(what, fmt.Sprintf("it says %d, with %d bytes left", v-1, len(d.rest)))
		return 0, false
	}
	return int(v - 1), true
}

func (d *decoder) string(what string) string {
	n := d.uvarint(what)
	if n > uint64(len(d.rest)) {
		d.fail(what, fmt.Sprintf("it says %d bytes, with %d left", n, len(d.rest)))
		return ""
	}
	at := len(d.text) - len(d.rest)
	d.rest = d.rest[n:]
	return d.text[at : at+int(n)]
}

func (d *decoder) strings(what string) []string {
	n, some := d.count(what, 1)
	if !some {
		return nil
	}
	texts := make([]string, n)
	for i := range texts {
		texts[i] = d.string(what)
	}
	return texts
}

func (d *decoder) time(what string) time.Time {
	s, ns := d.varint(what), d.uvarint(what)
	if ns >= uint64(time.Second) {
		d.fail(what, fmt.Sprintf("%d nanoseconds: want less than a second", ns))
		return time.Time{}
	}
	return time.Unix(s, int64(ns)).UTC()
}

func (d *decoder) header(e *Entry) {
	n, some := d.count("header", 2)
	if !some {
		return
	}
	e.Header = http.Header{}
	last := ""
	for i := range n {
		name := d.string("header")
		if d.err != nil {
			return
		}
		if i > 0 && name <= last {
			d.fail("header", fmt.Sprintf("field %q comes after %q", name, last))
			return
		}
		e.Header[name] = d.strings("header")
		last = name
	}
}

func (d *decoder) frames(e *Entry) {
	n, some := d.count("frames", 2)
	if !some {
		return
	}
	e.Frames = make([]Frame, n)
	end := 0
	for i := range e.Frames {
		v := d.uvarint("frames")
		if left := len(d.rest) - end; left < 0 || v > uint64(left) {
			d.fail("frames", fmt.Sprintf("frame %d has %d bytes, with %d left", i, v, max(0, left)))
			return
		}
		end += int(v)
		e.Frames[i] = Frame{End: end, At: time.Duration(d.varint("frames"))}
	}
}
