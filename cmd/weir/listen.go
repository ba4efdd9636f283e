package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// listen says what to do about an address that cannot be had. The key is that of
// the configuration.
func listen(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	advice := "want an address of this machine, for example 127.0.0.1:8080"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = "end what listens there, or choose another port"
	case errors.Is(err, os.ErrPermission):
		advice = "ports below 1024 need privileges: choose another"
	}
	return nil, fmt.Errorf("%s: %s: %w: %s with %s in the configuration (weir serve --print-config prints one to start from)",
		key, address, cause(err), advice, key)
}

// cause is what went wrong, without the words that say again what was tried.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	return err
}
