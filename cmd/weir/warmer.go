package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/inferweir/weir/ratelimit"
)

const (
	// maxConcurrency bounds the requests in flight, and with maxLine the memory.
	maxConcurrency = 256
	// warmAttempts is how often a request is sent that is told to come back.
	warmAttempts = 100
)

// warmer sends requests.
type warmer struct {
	client      *http.Client
	base        string
	timeout     time.Duration
	concurrency int
}

func newWarmer(c *warmCommand) (*warmer, error) {
	t, err := ratelimit.NewTransport(ratelimit.TransportOptions{
		Base: newTransport(c.Concurrency), MaxWait: c.Timeout, Attempts: warmAttempts,
	})
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: t, CheckRedirect: noRedirect}
	return &warmer{client: client, base: string(c.URL), timeout: c.Timeout, concurrency: c.Concurrency}, nil
}

// sent is what became of one request.
type sent struct {
	outcome outcome
	failure failure
}

// send sends all requests of the file, until ctx ends or it is clear that nobody is
// there. The error says that, or why the file could not be read.
func (w *warmer) send(ctx context.Context, f *requestFile, p *progress) (*warmed, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	requests, results := make(chan *request), make(chan sent)
	var errRead error
	var running sync.WaitGroup
	running.Go(func() {
		defer close(requests)
		errRead = f.each(func(r *request, wrong []string) bool {
			if len(wrong) > 0 { // it was not so when it was checked
				results <- sent{failed, failure{r.line, "the file has changed: " + wrong[0]}}
				return true
			}
			select {
			case requests <- r:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	for range w.concurrency {
		running.Go(func() {
			for r := range requests {
				o, reason := w.one(ctx, r)
				results <- sent{o, failure{r.line, reason}}
			}
		})
	}
	go func() { running.Wait(); close(results) }() // ends with the loop below

	done, answered := &warmed{}, false
	var gone error
	for r := range results {
		answered = answered || r.outcome != unreachable && r.outcome != aborted
		switch {
		case r.outcome == aborted || gone != nil:
			continue
		case r.outcome == unreachable && !answered:
			gone = fmt.Errorf("%s: %s: want the listen of a running Weir, with --url URL", w.base, r.failure.Reason)
			stop()
			continue
		}
		done.add(r.outcome, r.failure)
		p.show(done)
	}
	p.clear()
	return done, cmp.Or(gone, errRead)
}

// one sends a request, waits as long as it is told to, and reads the answer to its
// end.
func (w *warmer) one(ctx context.Context, r *request) (o outcome, reason string) {
	sending, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	out, err := http.NewRequestWithContext(sending, r.method, w.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return failed, printable(err.Error())
	}
	out.Header, out.Host = r.header, cmp.Or(r.host, out.Host)
	if out.Header["User-Agent"] == nil {
		out.Header.Set("User-Agent", "weir-warm/"+version())
	}
	resp, err := w.client.Do(out)
	var begin []byte
	if err == nil {
		defer resp.Body.Close()
		begin, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	}
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	switch op, dialed := errors.AsType[*net.OpError](err); {
	case err != nil && ctx.Err() != nil:
		return aborted, ""
	case dialed && op.Op == "dial":
		return unreachable, unanswered(err, w.timeout)
	case err != nil:
		return failed, unanswered(err, w.timeout)
	case resp.StatusCode >= http.StatusBadRequest:
		return failed, inWords(resp, begin)
	}
	return cacheStatus(resp.Header["Cache-Status"]), ""
}
