package database

import (
	"log/slog"
	"time"
)

// progressEvery is how often the log is told of what takes long.
const progressEvery = 10 * time.Second

// progress tells the log what is waited for while it takes long.
type progress struct{ log *slog.Logger }

func newProgress(log *slog.Logger) *progress { return &progress{log} }

// say does work, which is said to be what, every ten seconds until it is done.
func (p *progress) say(what string, work func() error) error {
	done, gone := make(chan struct{}), make(chan struct{})
	start := time.Now()
	go func() {
		defer close(gone)
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				p.log.Warn("the database "+what, "for", time.Since(start).Round(time.Second).String())
			}
		}
	}()
	defer func() {
		close(done)
		<-gone
	}()
	return work()
}
