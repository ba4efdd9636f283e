package main

import (
	"fmt"
	"slices"

	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/config"
)

// usable looks whether the directory of the cache can be used, and makes nothing.
// Without the tier dir nobody uses it.
func usable(c config.Cache) error {
	if c.Dir == nil || !slices.Contains(c.Tiers, "dir") {
		return nil
	}
	if err := cache.CheckDir(c.Dir.Path); err != nil {
		return fmt.Errorf("cache.dir.path: %q: %w: want a directory that this process may write to, or that it can make", c.Dir.Path, err)
	}
	return nil
}
