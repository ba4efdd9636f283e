package database

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestOverrides(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		ctx := context.Background()
		t.Run("keeps the newest of each, a version, and who did what", func(t *testing.T) {
			u := url()
			a, b := openTest(t, Options{URL: u}).Overrides(), openTest(t, Options{URL: u}).Overrides()
			if all, version, err := a.All(ctx); len(all) != 0 || version != 0 || err != nil {
				t.Fatalf("of an empty database: %v, %d, %v", all, version, err)
			}
			before := time.Now().Add(-time.Minute)
			for i, err := range []error{
				a.Set(ctx, "plan", "pro", []byte(`{"policies": ["5/minute"]}`), "alice"),
				a.Set(ctx, "route", "chat", []byte(`{"cache": {"ttl": "1m"}}`), "alice"),
				b.Set(ctx, "plan", "pro", []byte(`{"policies": []}`), "bob"),
				b.Set(ctx, "plan", "pro", []byte(`{"policies": []}`), "carol"), // the same already
				b.Delete(ctx, "route", "chat", "bob"),
			} {
				if err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			all, version, err := a.All(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for i := range all {
				if all[i].Changed.Before(before) || all[i].Changed.After(time.Now().Add(time.Minute)) {
					t.Errorf("changed at %v", all[i].Changed)
				}
				all[i].Changed = time.Time{}
			}
			want := []Override{{Kind: "plan", Name: "pro", Doc: []byte(`{"policies": []}`), By: "carol"}}
			if !reflect.DeepEqual(all, want) || version != 4 {
				t.Errorf("got  %+v at %d\nwant %+v at 4", all, version, want)
			}
			if v, err := b.Version(ctx); v != 4 || err != nil {
				t.Errorf("version %d, %v", v, err)
			}
			history, err := a.History(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			for i := range history {
				history[i].Changed = time.Time{}
			}
			wantHistory := []Change{
				{Version: 4, Kind: "route", Name: "chat", Before: []byte(`{"cache": {"ttl": "1m"}}`), By: "bob"},
				{Version: 3, Kind: "plan", Name: "pro", Before: []byte(`{"policies": ["5/minute"]}`), After: []byte(`{"policies": []}`), By: "bob"},
				{Version: 2, Kind: "route", Name: "chat", After: []byte(`{"cache": {"ttl": "1m"}}`), By: "alice"},
				{Version: 1, Kind: "plan", Name: "pro", After: []byte(`{"policies": ["5/minute"]}`), By: "alice"},
			}
			if !reflect.DeepEqual(history, wantHistory) {
				t.Errorf("got  %+v\nwant %+v", history, wantHistory)
			}
			if last, err := a.History(ctx, 1); err != nil || len(last) != 1 || last[0].Version != 4 {
				t.Errorf("the last change: %+v, %v", last, err)
			}
		})
		t.Run("replaces what is as it was found alone", func(t *testing.T) {
			o := openTest(t, Options{URL: url()}).Overrides()
			found := func() (one Override) {
				all, _, err := o.All(ctx)
				if err != nil || len(all) > 1 {
					t.Fatal(all, err)
				}
				for _, one = range all {
				}
				return one
			}
			next := Override{Kind: "plan", Name: "pro", Doc: []byte("[1]"), By: "a"}
			if err := o.Replace(ctx, Override{Changed: time.Now()}, next); !errors.Is(err, ErrOverrideChanged) {
				t.Errorf("one that is not there: %v", err)
			}
			if err := o.Replace(ctx, Override{}, next); err != nil {
				t.Fatal(err)
			}
			was := found()
			if err := o.Replace(ctx, Override{}, next); !errors.Is(err, ErrOverrideChanged) {
				t.Errorf("one that is there: %v", err)
			}
			if err := o.Set(ctx, "plan", "pro", []byte("[1]"), "b"); err != nil { // the same, said again
				t.Fatal(err)
			}
			next.Doc = []byte("[2]")
			if err := o.Replace(ctx, was, next); !errors.Is(err, ErrOverrideChanged) {
				t.Errorf("one that was set again: %v", err)
			}
			if err := o.Replace(ctx, found(), next); err != nil {
				t.Fatal(err)
			}
			was = found()
			if next.Doc = nil; string(was.Doc) != "[2]" {
				t.Errorf("there is %+v", was)
			}
			if err := o.Replace(ctx, was, next); err != nil {
				t.Fatal(err)
			}
			if version, err := o.Version(ctx); version != 3 || err != nil || found().Doc != nil {
				t.Errorf("at the end: version %d, %v, %+v", version, err, found())
			}
		})
		t.Run("refuses what is no JSON, too large or without a name, and changes nothing", func(t *testing.T) {
			o := openTest(t, Options{URL: url()}).Overrides()
			for _, c := range []struct {
				err  error
				want string
			}{
				{o.Set(ctx, "plan", "pro", []byte("{"), "a"), `override plan "pro": want a JSON document`},
				{o.Set(ctx, "plan", "pro", nil, "a"), `want a JSON document`},
				{o.Set(ctx, "plan", "pro", []byte(`"`+strings.Repeat("a", MaxOverride)+`"`), "a"), "65538 bytes: want at most 65536"},
				{o.Set(ctx, "", "pro", []byte("{}"), "a"), "want names of 1 to 256 bytes"},
				{o.Set(ctx, "plan", strings.Repeat("a", 257), []byte("{}"), "a"), "want names of 1 to 256 bytes"},
				{o.Set(ctx, "plan", "pro", []byte("{}"), ""), "want names of 1 to 256 bytes"},
				{o.Delete(ctx, "plan", "pro", "a"), `there is no such override: plan "pro"`},
			} {
				if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
					t.Errorf("got %v, want %s", c.err, c.want)
				}
			}
			if err := o.Delete(ctx, "plan", "pro", "a"); !errors.Is(err, ErrNoOverride) {
				t.Errorf("got %v", err)
			}
			if v, err := o.Version(ctx); v != 0 || err != nil {
				t.Errorf("version %d, %v", v, err)
			}
		})
		t.Run("counts every change of several instances at once", func(t *testing.T) {
			u := url()
			var wg sync.WaitGroup
			for i := range 4 {
				o := openTest(t, Options{URL: u}).Overrides()
				wg.Go(func() {
					for j := range 25 {
						if err := o.Set(ctx, "plan", fmt.Sprint(j%5), fmt.Appendf(nil, "[%d, %d]", i, j), "a"); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			o := openTest(t, Options{URL: u}).Overrides()
			all, version, err := o.All(ctx)
			history, _ := o.History(ctx, 0)
			if len(all) != 5 || version != 100 || len(history) != 100 || err != nil {
				t.Errorf("%d overrides at %d, a history of %d, %v", len(all), version, len(history), err)
			}
		})
	})
}

func TestSecret(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		u := url()
		var wg sync.WaitGroup
		secrets := make([]string, 8)
		for i := range secrets {
			db := openTest(t, Options{URL: u})
			wg.Go(func() {
				s, err := db.Secret(context.Background(), "signing")
				if err != nil {
					t.Error(err)
				}
				secrets[i] = string(s)
			})
		}
		wg.Wait()
		db := openTest(t, Options{URL: u})
		again, err := db.Secret(context.Background(), "signing")
		other, otherErr := db.Secret(context.Background(), "webhooks")
		if err != nil || otherErr != nil || len(again) != 32 || string(other) == string(again) {
			t.Errorf("got %d bytes, %v, %v", len(again), err, otherErr)
		}
		for i, s := range secrets {
			if s != string(again) {
				t.Errorf("instance %d has another secret", i)
			}
		}
		if _, err := db.Secret(context.Background(), ""); err == nil {
			t.Error("a secret without a name is none")
		}
	})
}
