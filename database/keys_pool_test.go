package database

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/storetest"
)

func TestKeyChangesNeedNoConnectionOfThePool(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		u := url()
		busy, other := openTest(t, Options{URL: u, Pool: Pool{Size: 2}}), openTest(t, Options{URL: u})
		text, made, err := other.Keys().Create(t.Context(), NewKey{Caller: "a", By: "test"})
		if err != nil {
			t.Fatal(err)
		}
		known := func() bool {
			_, err := busy.Keys().Find(auth.Digest(text))
			return err == nil
		}
		storetest.Eventually(t, 30*time.Second, "the key is known", known)
		done, held := make(chan struct{}), make(chan struct{}, 10)
		var wg sync.WaitGroup
		for range 2 + 2 { // as many as there can be, and more that wait for them
			wg.Go(func() {
				_ = busy.read(context.Background(), func(querier) error {
					held <- struct{}{}
					<-done
					return nil
				})
			})
		}
		defer wg.Wait()
		defer close(done)
		<-held
		if _, err := other.Keys().Revoke(t.Context(), made.ID, "test"); err != nil {
			t.Fatal(err)
		}
		storetest.Eventually(t, 3*time.Second, "it is refused", func() bool { return !known() })
	})
}
