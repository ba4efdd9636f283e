//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package cache

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// canLoseLock has no meaning where there are no locks.
const canLoseLock = false

// lockFile fails: without a lock that ends with the process, two processes could
// use one directory.
func lockFile(string) (*os.File, error) {
	return nil, fmt.Errorf("%s has no file locks that this program knows: use another store: %w", runtime.GOOS, errors.ErrUnsupported)
}
