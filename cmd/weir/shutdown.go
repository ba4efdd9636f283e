package main

import (
	"context"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// hangups receives hangups from now on, until stop is called. One reloads the
// configuration, and must not end the process, however early it comes.
func hangups() (hangup <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// await waits until ctx ends, or one of the servers, and says whether that was a
// server, and why.
func (s *service) await(ctx context.Context, ended <-chan error) (stopped bool, err error) {
	select {
	case <-ctx.Done():
		s.gateway.Logger().Info("shutting down", "grace", s.grace().String())
		return false, nil
	case err := <-ended:
		return true, err
	}
}

// grace is how long running requests may finish, by the file as it was read last.
func (s *service) grace() time.Duration { return s.gateway.File().ShutdownGrace }

// shutDown lets running requests finish, for as long as the configuration says.
// Operators can look on until the end.
func (s *service) shutDown() {
	s.gateway.Drain()
	after := s.grace()
	s.end = time.Now().Add(after)
	grace, cancel := context.WithDeadline(context.Background(), s.end)
	defer cancel()
	busy := []*server{s.callers}
	if s.deciders != nil {
		busy = append(busy, s.deciders)
	}
	ended := make(chan error, len(busy)+1)
	for _, v := range busy {
		go func() { ended <- v.Shutdown(grace) }()
	}
	go func() { ended <- s.gateway.FinishJobs(grace) }()
	cut := false
	for range cap(ended) {
		cut = <-ended != nil || cut
	}
	if cut {
		s.gateway.Logger().Warn("requests were cut off", "after", after.String())
		for _, v := range busy {
			_ = v.Close()
		}
		s.settle()
	}
	_ = s.operators.Close()
}

// counted counts the requests in next: a server that closed its connections does
// not know when the last of its handlers returns.
func (s *service) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.running.Add(1)
		defer s.running.Add(-1)
		next.ServeHTTP(w, r)
	})
}

// settle waits until requests that were cut off have noticed it, so that each has
// its line in the log. It does not wait long: what hangs is not worth it.
func (s *service) settle() {
	const most = time.Second
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for s.running.Load() > 0 {
		select {
		case <-again.C:
		case <-deadline.C:
			return
		}
	}
}
