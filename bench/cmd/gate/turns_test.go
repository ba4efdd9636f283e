package main

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

func TestTurns(t *testing.T) {
	// enter lets each caller wait, one after the other, and returns in which order they
	// got the one place.
	enter := func(ctx context.Context, turns limiter, callers ...string) *[]string {
		var got []string
		for _, c := range callers {
			go func() {
				release, err := turns.acquire(ctx, c)
				if err != nil {
					return
				}
				got = append(got, c)
				release()
			}()
			synctest.Wait()
		}
		return &got
	}
	t.Run("callers take turns, whoever has most waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			turns := &turns{places: 1, lines: map[string][]chan struct{}{}}
			release, err := turns.acquire(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			got := enter(t.Context(), turns, "a", "a", "a", "b", "c", "b")
			release()
			synctest.Wait()
			if want := []string{"a", "b", "c", "a", "b", "a"}; !slices.Equal(*got, want) {
				t.Errorf("%v, want %v", *got, want)
			}
			if turns.places != 1 || len(turns.lines) != 0 || len(turns.order) != 0 {
				t.Errorf("left: %+v", turns)
			}
		})
	})
	t.Run("who leaves is passed over and holds no place", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			turns := &turns{places: 1, lines: map[string][]chan struct{}{}}
			release, err := turns.acquire(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			ctx, leave := context.WithCancel(t.Context())
			gone := enter(ctx, turns, "a", "b")
			stays := enter(t.Context(), turns, "b", "c")
			leave()
			synctest.Wait()
			release()
			synctest.Wait()
			if !slices.Equal(*stays, []string{"b", "c"}) || len(*gone) > 0 || turns.places != 1 || len(turns.lines) != 0 {
				t.Errorf("%v and %v got it, left: %+v", *stays, *gone, turns)
			}
		})
	})
	t.Run("the fixed limit is first come, first served", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			limit, err := newLimiter("fifo", 1)
			if err != nil {
				t.Fatal(err)
			}
			release, err := limit.acquire(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			got := enter(t.Context(), limit, "a", "a", "b", "a")
			release()
			synctest.Wait()
			if want := []string{"a", "a", "b", "a"}; !slices.Equal(*got, want) {
				t.Errorf("%v, want %v", *got, want)
			}
		})
	})
}
