package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
)

// usable looks whether the directories and files that c names can be used, and
// makes nothing.
func usable(c *config.Config) error {
	return errors.Join(usableCache(c.Cache), usableBlobs(c.Blobs), usableFile(c.Database))
}

const wantDirectory = "want a directory that this process may write to, or that it can make"

// usableCache looks at the directory of the cache. Without the tier dir nobody uses
// it.
func usableCache(c config.Cache) error {
	if c.Dir == nil || !slices.Contains(c.Tiers, "dir") {
		return nil
	}
	if err := cache.CheckDir(c.Dir.Path); err != nil {
		return fmt.Errorf("cache.dir.path: %q: %w: %s", c.Dir.Path, err, wantDirectory)
	}
	return nil
}

func usableBlobs(b *config.Blobs) error {
	if b == nil {
		return nil
	}
	path, isDir := b.Dir()
	if !isDir {
		return nil
	}
	if err := cache.CheckDir(path); err != nil {
		return fmt.Errorf("blobs.url: %q: %w: %s", b.URL, err, wantDirectory)
	}
	return nil
}

// usableFile looks at the file of an SQLite, and at the directory in which SQLite
// makes others beside it.
func usableFile(d *config.Database) error {
	if d == nil {
		return nil
	}
	path, isFile := d.SQLite()
	if !isFile {
		return nil
	}
	if err := checkFile(path); err != nil {
		return fmt.Errorf("database.url: %q: %w: want a file that this process may write to, or that it can make, in a directory that is there", d.URL, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), fileTakes)
	defer cancel()
	if err := database.Look(ctx, d.URL); err != nil {
		text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "database: "), "away: ")
		return fmt.Errorf("database.url: %q: %s", d.URL, oneLine(text))
	}
	return nil
}

// fileTakes is how long it may take to look into the file of a database, which another
// process can have locked.
const fileTakes = 10 * time.Second

func checkFile(path string) error {
	dir := filepath.Dir(path)
	switch info, err := os.Stat(dir); {
	case err != nil:
		return fmt.Errorf("%s: %w", dir, pathless(err))
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := cache.CheckDir(dir); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return pathless(err)
	case info.IsDir():
		return errors.New("is a directory")
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file") // and to open it could take for ever
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return pathless(err)
	}
	return f.Close()
}

// pathless is the error without the path, which the message has already.
func pathless(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
