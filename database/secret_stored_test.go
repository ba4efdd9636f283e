package database_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/storetest"
)

func TestStoredSecret(t *testing.T) {
	server := storetest.Postgres(t)
	for name, url := range map[string]string{"SQLite": "sqlite:" + filepath.Join(t.TempDir(), "weir.db"), "PostgreSQL": server.URL()} {
		t.Run(name+" gives what Secret has made, and makes none", func(t *testing.T) {
			ctx := context.Background()
			if name == "PostgreSQL" {
				if got, err := database.StoredSecret(ctx, url, "blobs"); !errors.Is(err, database.ErrNoSecret) {
					t.Fatalf("without tables: %x, %v", got, err)
				}
			}
			db, err := database.Open(ctx, database.Options{URL: url})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := db.Close(ctx); err != nil {
					t.Error(err)
				}
			}()
			if err := db.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first look has made none
				if got, err := database.StoredSecret(ctx, url, "blobs"); !errors.Is(err, database.ErrNoSecret) {
					t.Fatalf("before: %x, %v", got, err)
				}
			}
			want, err := db.Secret(ctx, "blobs")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := database.StoredSecret(ctx, url, "blobs"); err != nil || !slices.Equal(got, want) {
				t.Errorf("%x, %v, want %x", got, err, want)
			}
		})
	}
	t.Run("makes no file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "typo.db")
		if got, err := database.StoredSecret(context.Background(), "sqlite:"+path, "blobs"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%x, %v", got, err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 0 {
			t.Errorf("left %v, %v", entries, err)
		}
	})
	t.Run("reads beside nobody, and leaves the file as it is", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "weir.db")
		db, err := database.Open(context.Background(), database.Options{URL: "sqlite:" + path})
		if err != nil {
			t.Fatal(err)
		}
		want, err := db.Secret(context.Background(), "blobs")
		if err := errors.Join(err, db.Close(context.Background())); err != nil {
			t.Fatal(err)
		}
		if got, err := database.StoredSecret(context.Background(), "sqlite:"+path, "blobs"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%x, %v, want %x", got, err, want)
		}
	})
}
