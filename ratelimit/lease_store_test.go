package ratelimit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/storetest"
)

// granter is a store in memory that has nothing to grant.
type granter struct {
	*ratelimit.MemoryStore
}

func (granter) Grant(context.Context, []ratelimit.Grant, time.Time) error {
	return errors.New("a policy without MaxExcess was leased")
}

// Policies that are not leased are taken as ever.
func TestLeasesAreAStore(t *testing.T) {
	storetest.RateLimit(t, func(t *testing.T) ratelimit.Store {
		l, err := ratelimit.NewLeases(ratelimit.LeaseOptions{Shared: granter{ratelimit.NewMemoryStore(1 << 14)}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return l
	})
	if _, err := ratelimit.NewLeases(ratelimit.LeaseOptions{}); err == nil {
		t.Error("leases without a shared store: no error")
	}
}
