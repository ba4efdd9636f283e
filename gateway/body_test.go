package gateway

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// bodiesOf are bodies that may take most bytes together.
func bodiesOf(most int64) *bodies {
	b := &bodies{}
	b.max.Store(most)
	return b
}

func TestBodies(t *testing.T) {
	text := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	t.Run("are read whole, whatever was declared and however it comes", func(t *testing.T) {
		for _, n := range []int{0, 1, 100, 4 << 10, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
			for _, declared := range []int64{-1, int64(n)} {
				b := bodiesOf(8 << 20)
				for _, in := range []io.Reader{bytes.NewReader(text(n)), iotest.HalfReader(bytes.NewReader(text(n))), iotest.DataErrReader(bytes.NewReader(text(n)))} {
					body, err := b.readAll(in, declared)
					if err != nil || !bytes.Equal(body, text(n)) {
						t.Fatalf("%d bytes, declared %d: %d bytes, %v", n, declared, len(body), err)
					}
					if most := int64(max(4<<10, 2*n)); declared < 0 && int64(cap(body)) > most || declared >= 0 && int64(cap(body)) > declared+1 {
						t.Errorf("%d bytes, declared %d: %d were set aside", n, declared, cap(body))
					}
					if held := b.held.Load(); held != int64(cap(body)) {
						t.Errorf("%d bytes: %d are held, %d counted", n, cap(body), held)
					}
					b.release(body)
				}
				if held := b.held.Load(); held != 0 {
					t.Errorf("%d bytes are counted when all are released", held)
				}
			}
		}
	})
	t.Run("are refused beyond what they may take together", func(t *testing.T) {
		b := bodiesOf(300 << 10)
		first, err := b.readAll(bytes.NewReader(text(200<<10)), 200<<10)
		if err != nil {
			t.Fatal(err)
		}
		second, err := b.readAll(bytes.NewReader(text(200<<10)), 200<<10)
		if !errors.Is(err, errBodies) {
			t.Fatalf("got %v", err)
		}
		b.release(second)
		b.release(first)
		third, err := b.readAll(bytes.NewReader(text(200<<10)), 200<<10)
		if err != nil {
			t.Errorf("after the others were released: %v", err)
		}
		b.release(third)
		if held := b.held.Load(); held != 0 {
			t.Errorf("%d bytes are counted when all are released", held)
		}
	})
	t.Run("do not get what was only promised", func(t *testing.T) {
		b := bodiesOf(1 << 30)
		body, err := b.readAll(io.MultiReader(bytes.NewReader(text(10)), iotest.ErrReader(io.ErrUnexpectedEOF)), 1<<29)
		if !errors.Is(err, io.ErrUnexpectedEOF) || b.held.Load() != firstRead {
			t.Errorf("%d bytes were set aside for 10, %v", b.held.Load(), err)
		}
		b.release(body)
	})
}
