//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package cache

import "syscall"

// mayUse fails where this process may not make files in a directory, or not read
// and write a file.
func mayUse(path string, dir bool) error {
	const read, write, search = 4, 2, 1
	if dir {
		return syscall.Access(path, write|search)
	}
	return syscall.Access(path, read|write)
}
