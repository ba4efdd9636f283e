package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// measureCancels shows how long it takes from a client that closes its connection
// until the engine sees that it has left: half of them in the middle of a stream, half
// at its first byte.
func measureCancels(ctx context.Context, programs programs, gateways []gateway, p plan) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "cancels\tp50\tp99\tmost\tnot seen\t  gateway")
	for _, g := range gateways {
		if !strings.HasPrefix(g.name, "Weir") && g.name != "no gateway" {
			continue
		}
		took, missed, err := cancels(ctx, programs, g, p)
		if err != nil {
			return fmt.Errorf("cancels, %s: %w", g.name, err)
		}
		n := len(took)
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t  %s\n", n, ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), ms(quantile(took, 1)), missed, g.name)
	}
	return t.Flush()
}

// cancels leaves streams early, twenty at a time, and asks the engine when it saw that.
func cancels(ctx context.Context, programs programs, g gateway, p plan) (took []time.Duration, missed int, err error) {
	engine, err := programs.startEngine(ctx, p)
	if err != nil {
		return nil, 0, err
	}
	defer engine.stop()
	front, err := g.start(ctx, engine.base)
	if err != nil {
		return nil, 0, err
	}
	defer front.stop()
	left := make([]time.Time, p.cancels)
	var group sync.WaitGroup
	const together = 20
	errs := make([]error, together)
	for worker := range together {
		group.Go(func() {
			for i := worker; i < p.cancels && errs[worker] == nil; i += together {
				left[i], errs[worker] = leave(ctx, front.base, i)
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, 0, err
		}
	}
	seen, err := seenCancels(ctx, engine.base, p.cancels)
	if err != nil {
		return nil, 0, err
	}
	for i, at := range left {
		if s, ok := seen[user(i)]; ok {
			took = append(took, max(0, s.Sub(at)))
		} else {
			missed++
		}
	}
	return took, missed, nil
}

func user(i int) string { return fmt.Sprintf("stream-%d", i) }

// leave opens a stream and closes it: every second one after some of its words, the
// others as soon as there is an answer.
func leave(ctx context.Context, base string, i int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body := fmt.Sprintf(`{"model":"fake","stream":true,"user":%q,"fake_tokens":4000,"messages":[{"role":"user","content":"number %d"}]}`, user(i), i)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return time.Time{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-User-ID", user(i))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return time.Time{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return time.Time{}, fmt.Errorf("the stream that is to be left: %s", resp.Status)
	}
	if i%2 == 0 {
		for n, b := 0, make([]byte, 4<<10); n < 4<<10; {
			m, err := resp.Body.Read(b)
			if err != nil {
				return time.Time{}, err
			}
			n += m
		}
	}
	at := time.Now()
	cancel()
	return at, nil
}

// seenCancels asks the engine until it has seen all, at most for a while.
func seenCancels(ctx context.Context, base string, want int) (map[string]time.Time, error) {
	const wait = 5 * time.Second
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for begin := time.Now(); ; {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/debug/cancels", nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return nil, err
		}
		var all []struct {
			User string    `json:"user"`
			At   time.Time `json:"at"`
		}
		err = json.NewDecoder(resp.Body).Decode(&all)
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if len(all) >= want || time.Since(begin) > wait {
			seen := map[string]time.Time{}
			for _, c := range all {
				seen[c.User] = c.At
			}
			return seen, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
