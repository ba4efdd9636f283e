package gateway

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// halting is a stream that takes its time for each comment.
type halting struct{ io.ReadCloser }

func (halting) Read(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return copy(p, ": ping\n\n"), nil
}

func TestRegressionAReadersPausesAreNotItsTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := &metered{ReadCloser: halting{}}, make([]byte, 100)
		for range 5 {
			time.Sleep(1500 * time.Millisecond) // the client takes what there was
			if _, err := m.Read(p); err != nil {
				t.Fatal(err)
			}
		}
		if want := 100 * time.Millisecond; m.waited != want {
			t.Errorf("waited %v for the target, want %v", m.waited, want)
		}
	})
}
