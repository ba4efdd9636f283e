package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

type warmCommand struct {
	URL         baseURL       `name:"url" placeholder:"URL" default:"http://127.0.0.1:8080" help:"The listen of a running Weir (default ${default})."`
	Concurrency int           `placeholder:"N" default:"4" help:"How many requests run at the same time, from 1 to 256 (default ${default})."`
	Timeout     time.Duration `placeholder:"DURATION" default:"10m" help:"The longest that one request may take, the waits for quotas included (default ${default})."`
	JSON        bool          `name:"json" help:"Print the result as JSON."`
	File        string        `arg:"" help:"A file of requests, a line each: {\"method\", \"path\", \"headers\", \"body\"}. - is the standard input."`
}

// Validate checks the numbers.
func (c *warmCommand) Validate() error {
	switch {
	case c.Concurrency < 1 || c.Concurrency > maxConcurrency:
		return fmt.Errorf("--concurrency: %d: want from 1 to %d", c.Concurrency, maxConcurrency)
	case c.Timeout <= 0:
		return fmt.Errorf("--timeout: %s: want a time above 0, for example 10m", c.Timeout)
	case c.File == "":
		return errors.New(`FILE: "": want the path of a file of requests, or - for the standard input`)
	}
	return nil
}

// Run sends the requests of a file to a running Weir, so that their answers are in
// its cache.
func (c *warmCommand) Run(ctx context.Context, out output) error {
	f, err := openRequests(ctx, c.File)
	if err != nil {
		return err
	}
	defer f.close()
	total, err := f.check(out.stderr)
	if err != nil {
		return err
	}
	w, err := newWarmer(c)
	if err != nil {
		return err
	}
	defer w.client.CloseIdleConnections()
	done, err := w.send(ctx, f, newProgress(out.stderr, total))
	if printed := c.print(out, f, done); err == nil {
		err = printed
	}
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %s not sent to the end", count(total-done.Requests, "request"))
	case done.Failed > 0:
		return errReported
	}
	return nil
}

// print writes the result to stdout, and the failures to stderr.
func (c *warmCommand) print(out output, f *requestFile, done *warmed) error {
	for _, failed := range done.Failures {
		fmt.Fprintf(out.stderr, "%s:%d: %s\n", f.name, failed.Line, failed.Reason)
	}
	if more := done.Failed - len(done.Failures); more > 0 {
		fmt.Fprintf(out.stderr, "%s: and %d more failed\n", f.name, more)
	}
	if done.Requests == 0 {
		return nil // all that there is to say is an error
	}
	if c.JSON {
		text, err := json.Marshal(done)
		if err != nil {
			return err
		}
		_, err = out.stdout.Write(append(text, '\n'))
		return err
	}
	_, err := fmt.Fprintf(out.stdout, "%s: %d stored, %d already there, %d not cacheable, %d failed\n",
		count(done.Requests, "request"), done.Stored, done.Present, done.NotCacheable, done.Failed)
	return err
}
