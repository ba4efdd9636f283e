package gateway

import (
	"context"
	"encoding/json"
	"errors"
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
	for _, o := range g.Overrides() {
		if o.Kept {
			text += " of the database"
		}
	}
	return text
}

// policyEdit gives a plan one policy.
func policyEdit(plan, text string) config.Edit {
	return config.Edit{Kind: "plan", Name: plan, Doc: []byte(`{"policies":["` + text + `"]}`)}
}

func TestKeptPolicies(t *testing.T) {
	t.Parallel()
	gone, leave := context.WithCancel(context.Background())
	leave()
	set := func(t *testing.T, g *Gateway, ctx context.Context, text string) {
		t.Helper()
		c, err := g.Edit(ctx, policyEdit("default", text), "test")
		if err != nil || c.Kept != (ctx.Err() == nil) {
			t.Fatalf("%s: kept %v, %v", text, c.Kept, err)
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
			text := []string{"1/minute", "2/minute", "3/minute"}[i%3]
			wg.Go(func() {
				if _, err := g[0].Edit(t.Context(), policyEdit("default", text), "test"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		all, _, err := g[0].Database().Overrides().All(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		want(t, strings.TrimSuffix(strings.TrimPrefix(string(all[0].Doc), `{"policies":`), "}")+" of the database", g[0])
		var doc struct{ Policies json.RawMessage }
		if err := json.Unmarshal(all[0].Doc, &doc); err != nil {
			t.Fatal(err)
		}
		// As if another had been the last to come into force.
		g[0].changes.Lock()
		_, err = g[0].putEditLocked(editKey{"plan", "default"}, func([]byte) ([]byte, error) { return policyEdit("default", "9/minute").Doc, nil }, "test")
		g[0].live.kept.changed = true
		g[0].changes.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // what one of them still owes is written first
			g[0].follow(t.Context())
			g[1].follow(t.Context())
		}
		want(t, string(doc.Policies)+" of the database", g...)
	})
	t.Run("are taken back to the file's", func(t *testing.T) {
		g := keepers(t, 2)
		for _, ctx := range []context.Context{t.Context(), gone} {
			set(t, g[0], t.Context(), "5/minute")
			g[1].follow(t.Context())
			want(t, `["5/minute"] of the database`, g...)
			if c, err := g[0].Revert(ctx, "plan", "default", "test"); c.Kept != (ctx.Err() == nil) || err != nil {
				t.Fatal(c.Kept, err)
			}
			want(t, `["100/minute"]`, g[0])
			g[0].follow(t.Context())
			g[1].follow(t.Context())
			want(t, `["100/minute"]`, g...)
		}
		if c, err := g[1].Revert(t.Context(), "plan", "default", "test"); !c.Kept || err != nil {
			t.Errorf("what the file says already: %v, %v", c.Kept, err)
		}
		if _, err := g[1].Revert(t.Context(), "plan", "gold", "test"); !errors.Is(err, ErrNoSuch) {
			t.Errorf("of no plan: %v", err)
		}
	})
	t.Run("that do not fit are left out, and say why", func(t *testing.T) {
		g := keepers(t, 1)
		if err := g[0].Database().Overrides().Set(t.Context(), planKind, "default", []byte(`{"policies":["bogus"]}`), "test"); err != nil {
			t.Fatal(err)
		}
		g[0].follow(t.Context())
		want(t, `["100/minute"] of the database`, g[0]) // which keeps what is left out
		if all := g[0].Overrides(); len(all) != 1 || !all[0].Kept || !strings.Contains(all[0].LeftOut, `"bogus"`) {
			t.Errorf("the overrides are %+v", all)
		}
	})
	t.Run("that the database refuses stay in force, and the log says it once", func(t *testing.T) {
		var log strings.Builder
		g := gateways(t, 1, "database: {url: 'sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"'}\n"+`
plans: {default: {policies: [100/minute]}}
upstreams: {u: {targets: ["http://127.0.0.1:1"], dialect: openai}}
routes: [{name: all, match: {path: /*}, upstream: u}]
`, &log)[0]
		// The name of who wants it is too long for the database.
		if c, err := g.Edit(t.Context(), policyEdit("default", "5/minute"), strings.Repeat("a", 300)); c.Kept || err != nil {
			t.Fatal(c.Kept, err)
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
