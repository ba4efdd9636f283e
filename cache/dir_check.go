package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// CheckDir says what would keep OpenDir from opening the store at path, as far as
// that can be told without making or changing anything: nil may be wrong on a
// system with rules beyond the permissions of files, and says nothing of whether
// another process uses the directory.
func CheckDir(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	found, info, err := nearest(abs)
	made := ""
	if found != abs {
		made = "cannot be made: "
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s%s: %w", made, found, cause(err))
	case !info.IsDir() && found == abs:
		return errors.New("is not a directory")
	case !info.IsDir():
		return fmt.Errorf("%s%s is not a directory", made, found)
	}
	if err := mayUse(found, true); err != nil {
		return fmt.Errorf("%s%s: %w", made, found, cause(err))
	}
	if found != abs {
		return nil
	}
	lock := filepath.Join(abs, lockName)
	switch info, err := os.Stat(lock); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", lock, cause(err))
	case info.IsDir():
		return fmt.Errorf("%s is a directory", lock)
	}
	if err := mayUse(lock, false); err != nil {
		return fmt.Errorf("%s: %w", lock, cause(err))
	}
	return nil
}

// nearest is path, or the nearest above it that is there. After an error found is
// what the error is about.
func nearest(path string) (found string, info os.FileInfo, err error) {
	for {
		info, err = os.Stat(path)
		missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
		if !missing || filepath.Dir(path) == path {
			return path, info, err
		}
		if _, err := os.Lstat(path); err == nil {
			return path, nil, errors.New("is a link to what is not there")
		}
		path = filepath.Dir(path)
	}
}

// cause is the error without the path, which the message has already.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
