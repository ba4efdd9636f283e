package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// tiny is a package like the real one: a list by frequency, vectors with two
// numbers more than they have dimensions.
const tiny = `{"precision":8,"size":9,"dimensions":3,
	"words":["the",",","of","it's","well-known","zug","Top","ab","cut"],
	"vectors":{"the":[3,0,1,9,0],",":[1,1,1,9,1],"of":[2,0.5,0,9,2],"it's":[0,0,0,9,3],"well-known":[0,-2,1,9,4],
		"zug":[0.5,0.25,-1,9,5],"Top":[0,0,0,9,6],"ab":[0,0,0,9,7],"cut":[1,1,1,9,8]},"unkVector":[0]}`

func pack(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	archive := tar.NewWriter(zipped)
	for _, f := range [][2]string{{"package/README.md", "hello"}, {name, content}} {
		if err := archive.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(f[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// content is a file taken apart, for words of 3 dimensions.
type content struct {
	Words     []string
	Scales    []float32
	Rows      [][3]int8
	Component [3]float32
}

func unpack(t *testing.T, file []byte) (c content) {
	t.Helper()
	at := len(file) - 4
	if got, want := binary.LittleEndian.Uint32(file[at:]), crc32.ChecksumIEEE(file[:at]); got != want {
		t.Errorf("checksum %x, want %x", got, want)
	}
	if string(file[:8]) != "WEIREMB\x01" {
		t.Fatalf("magic %q", file[:8])
	}
	r := bytes.NewReader(file[8:at])
	read := func(into any) {
		t.Helper()
		if err := binary.Read(r, binary.LittleEndian, into); err != nil {
			t.Fatal(err)
		}
	}
	var sizes [3]uint32
	read(&sizes)
	if sizes[0] != 3 {
		t.Fatalf("%d dimensions", sizes[0])
	}
	lengths, text := make([]byte, sizes[1]), make([]byte, sizes[2])
	c.Scales, c.Rows = make([]float32, sizes[1]), make([][3]int8, sizes[1])
	read(&c.Component)
	read(lengths)
	read(text)
	read(c.Scales)
	read(c.Rows)
	if r.Len() != 0 {
		t.Errorf("%d bytes left", r.Len())
	}
	for _, n := range lengths {
		c.Words = append(c.Words, string(text[:n]))
		text = text[n:]
	}
	return c
}

func TestBuild(t *testing.T) {
	tarball := pack(t, vectorsFile, tiny)
	file, err := build(bytes.NewReader(tarball), 5)
	if err != nil {
		t.Fatal(err)
	}
	again, err := build(bytes.NewReader(tarball), 5)
	if err != nil || !bytes.Equal(file, again) {
		t.Errorf("a second run wrote other bytes (%v)", err)
	}
	got := unpack(t, file)
	// Of 9 words: 1/rank over the sum of all. "the" is 1st, "of" 3rd, and so on.
	var harmonic float64
	for rank := 1.0; rank <= 9; rank++ {
		harmonic += 1 / rank
	}
	scale := func(rank, largest float64) float32 {
		return float32(largest * 0.001 / (0.001 + 1/(rank*harmonic)) / 127)
	}
	want := content{
		Words:     []string{"ab", "of", "the", "well-known", "zug"},
		Scales:    []float32{0, scale(3, 2), scale(1, 3), scale(5, 2), scale(6, 1)},
		Rows:      [][3]int8{{0, 0, 0}, {127, 32, 0}, {127, 0, 42}, {0, -127, 64}, {64, 32, -127}},
		Component: got.Component,
	}
	for i, s := range got.Scales {
		if math.Abs(float64(s-want.Scales[i])) < 1e-9 {
			got.Scales[i] = want.Scales[i]
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestComponent(t *testing.T) {
	f := func(want [3]float32, words ...word) {
		t.Helper()
		got := component(words, 3)
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-6 {
				t.Errorf("%v: got %v, want %v", words, got, want)
				return
			}
		}
	}
	f([3]float32{0.6, 0, 0.8}, word{"a", 1, []float64{3, 0, 4}})
	f([3]float32{1, 0, 0}, word{"a", 1, []float64{2, 0, 0}}, word{"b", 1, []float64{0, 1, 0}})
	f([3]float32{0, 1, 0}, word{"rare", 0.1, []float64{2, 0, 0}}, word{"frequent", 0.9, []float64{0, 1, 0}})
}

func TestBuildRefuses(t *testing.T) {
	f := func(name string, tarball []byte, want string) {
		t.Helper()
		if _, err := build(bytes.NewReader(tarball), 5); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, want)
		}
	}
	swapped := strings.Replace(tiny, `"of":[`, `"off":[`, 1)
	whole := pack(t, vectorsFile, tiny)
	f("no gzip", []byte("hello, this is no gzip"), "gzip")
	f("a cut tarball", whole[:len(whole)/2], "unexpected EOF")
	f("another package", pack(t, "package/vectors.json", tiny), vectorsFile+": EOF")
	f("no JSON", pack(t, vectorsFile, "{"), "no vectors")
	f("no vectors", pack(t, vectorsFile, `{"words":["a"],"dimensions":3}`), "no vectors")
	f("vectors first", pack(t, vectorsFile, `{"vectors":{}}`), "0 words: want 0, and the list before")
	f("vectors of no object", pack(t, vectorsFile, `{"words":["a"],"dimensions":3,"vectors":[]}`), "want an object")
	f("words of another type", pack(t, vectorsFile, `{"words":3}`), "words: ")
	f("another order", pack(t, vectorsFile, swapped), `"off" is number 2: want "of"`)
	f("few numbers", pack(t, vectorsFile, `{"words":["ab"],"dimensions":3,"vectors":{"ab":[1,2]}}`), `"ab": 2 numbers: want 3 or more`)
	f("few vectors", pack(t, vectorsFile, `{"words":["ab","cd"],"dimensions":1,"vectors":{"ab":[1]}}`), "1 words: want 2")
}

func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	other, out := filepath.Join(dir, "other.tgz"), filepath.Join(dir, "out.bin")
	if err := os.WriteFile(other, pack(t, vectorsFile, tiny), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(in, out, want string) {
		t.Helper()
		if err := run(in, out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run(%q, %q): got error %v, want one with %q", in, out, err, want)
		}
	}
	f("", out, "want -in TARBALL -out FILE")
	f(other, "", "want -in TARBALL -out FILE")
	f(filepath.Join(dir, "missing.tgz"), out, "missing.tgz")
	f(other, out, fmt.Sprintf("want %s", packageSum))
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a refused package left a file: %v", err)
	}
}
