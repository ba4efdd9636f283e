package gateway

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/inferweir/weir/config"
)

// keepers are gateways on one database that look for changes when they are told to.
func keepers(t *testing.T, n int) []*Gateway {
	t.Helper()
	yaml := "database: {url: 'sqlite:" + filepath.Join(t.TempDir(), "weir.db") + "'}\n" + `
plans: {default: {policies: [100/minute]}}
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`
	return gateways(t, n, yaml, io.Discard)
}

func gateways(t *testing.T, n int, yaml string, log io.Writer) []*Gateway {
	t.Helper()
	var all []*Gateway
	for range n {
		c, err := config.Parse("test.yaml", []byte(yaml), nil)
		if err != nil {
			t.Fatal(err)
		}
		g, err := New(c, Options{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		g.data.follower.stop()
		t.Cleanup(func() {
			if err := g.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		all = append(all, g)
	}
	return all
}

// inForce are the policies of the plan as they are, and whether they are the database's.
func inForce(g *Gateway) string {
	policies, _ := g.Policies("default")
	text := string(config.PoliciesJSON(policies, "default"))
	if g.Overridden("default") {
		text += " of the database"
	}
	return text
}

func TestKeptPolicies(t *testing.T) {
	gone, leave := context.WithCancel(context.Background())
	leave()
	list := func(t *testing.T, g *Gateway, text string) []config.Policy {
		t.Helper()
		policies, err := g.Config().ParsePlan([]byte(`["`+text+`"]`), "default")
		if err != nil {
			t.Fatal(err)
		}
		return policies
	}
	set := func(t *testing.T, g *Gateway, ctx context.Context, text string) {
		t.Helper()
		_, kept, err := g.KeepPolicies(ctx, "default", list(t, g, text), "test")
		if err != nil || kept != (ctx.Err() == nil) {
			t.Fatalf("%s: kept %v, %v", text, kept, err)
		}
	}
	want := func(t *testing.T, text string, all ...*Gateway) {
		t.Helper()
		for i, g := range all {
			if got := inForce(g); got != text {
				t.Errorf("instance %d has %s: want %s", i, got, text)
			}
		}
	}
	t.Run("that could not be kept are kept later", func(t *testing.T) {
		g := keepers(t, 2)
		set(t, g[0], t.Context(), "77/minute")
		want(t, `["77/minute"] of the database`, g[0])
		g[1].follow(t.Context())
		set(t, g[0], gone, "5/minute")
		want(t, `["5/minute"]`, g[0])
		want(t, `["77/minute"] of the database`, g[1])
		for range 2 { // the first writes, the second finds
			g[0].follow(t.Context())
			g[1].follow(t.Context())
		}
		want(t, `["5/minute"] of the database`, g...)
	})
	t.Run("that could not be kept give way to a later change of another instance, also to what was there before", func(t *testing.T) {
		g := keepers(t, 2)
		set(t, g[0], t.Context(), "77/minute")
		g[1].follow(t.Context())
		set(t, g[0], gone, "5/minute")
		set(t, g[1], t.Context(), "77/minute")
		g[0].follow(t.Context())
		g[1].follow(t.Context())
		want(t, `["77/minute"] of the database`, g...)
	})
	t.Run("are those of the database, whatever came to be in force", func(t *testing.T) {
		g := keepers(t, 2)
		var wg sync.WaitGroup
		for i := range 20 {
			policies := list(t, g[0], []string{"1/minute", "2/minute", "3/minute"}[i%3])
			wg.Go(func() {
				if _, kept, err := g[0].KeepPolicies(t.Context(), "default", policies, "test"); !kept || err != nil {
					t.Error(kept, err)
				}
			})
		}
		wg.Wait()
		all, _, err := g[0].Database().Overrides().All(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		// As if another had been the last to come into force.
		if _, err := g[0].SetPolicies("default", list(t, g[0], "9/minute")); err != nil {
			t.Fatal(err)
		}
		g[0].follow(t.Context())
		g[1].follow(t.Context())
		want(t, string(all[0].Doc)+" of the database", g...)
	})
	t.Run("are taken back to the file's", func(t *testing.T) {
		g := keepers(t, 2)
		for _, ctx := range []context.Context{t.Context(), gone} {
			set(t, g[0], t.Context(), "5/minute")
			g[1].follow(t.Context())
			want(t, `["5/minute"] of the database`, g...)
			if _, kept, err := g[0].DropPolicies(ctx, "default", "test"); kept != (ctx.Err() == nil) || err != nil {
				t.Fatal(kept, err)
			}
			want(t, `["100/minute"]`, g[0])
			g[0].follow(t.Context())
			g[1].follow(t.Context())
			want(t, `["100/minute"]`, g...)
		}
		if _, kept, err := g[1].DropPolicies(t.Context(), "default", "test"); !kept || err != nil {
			t.Errorf("what the file says already: %v, %v", kept, err)
		}
		if _, _, err := g[1].DropPolicies(t.Context(), "gold", "test"); err != ErrNoPlan {
			t.Errorf("of no plan: %v", err)
		}
	})
	t.Run("that do not fit are left out, and are no override", func(t *testing.T) {
		g := keepers(t, 1)
		if err := g[0].Database().Overrides().Set(t.Context(), planOverride, "default", []byte(`["bogus"]`), "test"); err != nil {
			t.Fatal(err)
		}
		g[0].follow(t.Context())
		want(t, `["100/minute"]`, g[0])
	})
	t.Run("that the database refuses stay in force, and the log says it once", func(t *testing.T) {
		var log strings.Builder
		g := gateways(t, 1, "database: {url: 'sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"'}\n"+`
plans: {default: {policies: [100/minute]}}
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, &log)[0]
		// The name of who wants it is too long for the database.
		if _, kept, err := g.KeepPolicies(t.Context(), "default", list(t, g, "5/minute"), strings.Repeat("a", 300)); kept || err != nil {
			t.Fatal(kept, err)
		}
		for range 3 {
			g.follow(t.Context())
		}
		want(t, `["5/minute"]`, g)
		if err := g.log.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "until it ends"); n != 1 {
			t.Errorf("said %d times: %s", n, log.String())
		}
		set(t, g, t.Context(), "7/minute")
		g.follow(t.Context())
		want(t, `["7/minute"] of the database`, g)
	})
}
