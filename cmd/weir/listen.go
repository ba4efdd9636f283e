package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
)

// server is one of the servers of a service, at an address of the configuration.
type server struct {
	*http.Server
	key, address string
	secured      bool         // by its TLSConfig, which net/http sets in any case
	listener     net.Listener // nil until listen
}

// server has the limits that concern connections, whoever is at the other end.
func (s *service) server(key, address string, h http.Handler) *server {
	v := &server{Server: s.gateway.Server(), key: key, address: address}
	v.Handler = h
	return v
}

// servers are those that the configuration asks for.
func (s *service) servers() []*server {
	all := []*server{s.callers, s.operators}
	if s.deciders != nil {
		all = append(all, s.deciders)
	}
	return all
}

func (v *server) listen() (err error) {
	v.listener, err = listen(v.key, v.address)
	return err
}

// serve answers until the server is shut down, or something fails.
func (v *server) serve() error {
	if v.secured {
		return v.ServeTLS(v.listener, "", "") // the certificate is in TLSConfig
	}
	return v.Serve(v.listener)
}

// base is the URL of the server on this machine.
func (v *server) base() string {
	if v.secured {
		return "https://" + reachable(v.listener.Addr())
	}
	return "http://" + reachable(v.listener.Addr())
}

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
