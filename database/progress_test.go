package database

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		p := newProgress(slog.New(slog.NewTextHandler(&log, nil)))
		failed := errors.New("failed")
		for took, want := range map[time.Duration]int{9 * time.Second: 0, 35 * time.Second: 3} {
			before := log.count("the database waits for another")
			if err := p.say("waits for another", func() error { <-time.After(took); return failed }); err != failed {
				t.Errorf("got %v", err)
			}
			if n := log.count("the database waits for another") - before; n != want {
				t.Errorf("said %d times in %v: want %d", n, took, want)
			}
		}
	})
}
