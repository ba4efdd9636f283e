package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/inferweir/weir/config"
)

const (
	wantCert = "want a PEM file with the certificate, then its chain"
	wantKey  = "want a PEM file with the private key of tls.cert, without a passphrase"
)

// maxPEM is more than any chain of certificates needs.
const maxPEM = 1 << 20

// secure loads the certificate of c: nil for nil.
func secure(c *config.TLS) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	pair, err := certificate(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// certificate loads a certificate and its key. An error names the key of the
// configuration that is wrong, and both where both files are.
func certificate(certFile, keyFile string) (tls.Certificate, error) {
	chain, errCert := readPEM("tls.cert", certFile, wantCert)
	if errCert == nil {
		errCert = checkChain(chain, certFile)
	}
	key, errKey := readPEM("tls.key", keyFile, wantKey)
	if err := errors.Join(errCert, errKey); err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil { // the chain is good
		return tls.Certificate{}, wrong("tls.key", keyFile, err, wantKey)
	}
	return pair, nil
}

func readPEM(path, name, want string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, wrong(path, name, err, want)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = fmt.Errorf("larger than %d bytes", maxPEM)
	}
	if err != nil {
		return nil, wrong(path, name, err, want)
	}
	return text, nil
}

// checkChain parses every certificate of the file: a server that sends a broken
// one is refused by its clients only later.
func checkChain(text []byte, name string) error {
	found := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		found++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return wrong("tls.cert", name, fmt.Errorf("certificate %d: %w", found, err), wantCert)
		}
	}
	if found == 0 {
		return wrong("tls.cert", name, errors.New("no certificate in it"), wantCert)
	}
	return nil
}

// wrong says where, which value, what, and what would be right. What the system
// and the parsers say begins with words that would be said twice.
func wrong(path, name string, err error, want string) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("%s: %q: %s: %s", path, name, strings.TrimPrefix(err.Error(), "tls: "), want)
}
