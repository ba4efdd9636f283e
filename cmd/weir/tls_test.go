package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// identity is a certificate of 127.0.0.1 that signs itself, and its key, in PEM
// form.
type identity struct{ cert, key string }

func newIdentity(t *testing.T) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "weir"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{cert: inPEM("CERTIFICATE", cert), key: inPEM("PRIVATE KEY", der)}
}

func inPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	s := serve(t, builtinConfig(t)+fmt.Sprintf("\ntls: {cert: %q, key: %q}\n", write(t, "cert.pem", id.cert), write(t, "key.pem", id.key)))
	if !strings.HasPrefix(s.base, "https://127.0.0.1:") || len(pasted(s.stdout.String())) != 0 {
		t.Errorf("introduction =\n%s\nwant https, and no line that curl would refuse to trust", &s.stdout)
	}
	checkLines(t, s.stdout.String())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(id.cert))
	f := func(name string, configured *tls.Config, http2 bool, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			configured.RootCAs = roots
			transport := &http.Transport{TLSClientConfig: configured, ForceAttemptHTTP2: http2}
			defer transport.CloseIdleConnections()
			got := ""
			resp, err := (&http.Client{Transport: transport, Timeout: patience}).Get(s.base + "/predict/language?text=bonjour+tout+le+monde")
			if err != nil {
				got = "refused"
			} else if a, err := read(resp); err != nil || label(t, a) != "fr" {
				t.Errorf("answer = %+v, %v, want fr", a, err)
			} else {
				got = a.Proto
			}
			if got != want {
				t.Errorf("got %s (%v), want %s", got, err, want)
			}
		})
	}
	f("speaks HTTP/2", &tls.Config{}, true, "HTTP/2.0")
	f("speaks HTTP/1.1 to who knows no other", &tls.Config{}, false, "HTTP/1.1")
	f("speaks TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true, "HTTP/2.0")
	f("speaks no TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, true, "refused")
	t.Run("tells a plain client what it is", func(t *testing.T) {
		a := fetch(t, s.client, "http://"+strings.TrimPrefix(s.base, "https://"))
		if a.Status != 400 || !strings.Contains(a.Body, "HTTPS server") {
			t.Errorf("answer = %+v, want 400 and the reason", a)
		}
	})
	t.Run("logs failed handshakes as JSON, too", func(t *testing.T) {
		if status := s.stop(t); status != exitOK {
			t.Errorf("exit status %d, want %d", status, exitOK)
		}
		all := strings.Join(messages(logged(t, s.stderr.String())), "\n")
		if !strings.Contains(all, "TLS handshake error") {
			t.Errorf("messages =\n%s\nwant the handshakes that failed", all)
		}
	})
}

// TestBadCertificates reports what is wrong with the two files before anything
// listens: the address is taken, and nobody hears of it.
func TestBadCertificates(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	id, other := newIdentity(t), newIdentity(t)
	const wantCert = "want a PEM file with the certificate, then its chain"
	const wantKey = "want a PEM file with the private key of tls.cert, without a passphrase"

	f := func(name, cert, key string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			file := write(t, "weir.yaml", fmt.Sprintf(`
listen: %s
tls: {cert: %q, key: %q}
upstreams: {llm: {targets: [http://127.0.0.1:8000]}}
routes: [{match: {path: /v1/*}, upstream: llm}]
`, taken.Addr(), cert, key))
			for _, command := range []string{"check", "serve"} {
				var stdout, stderr strings.Builder
				status := run(context.Background(), []string{command, "-c", file}, output{&stdout, &stderr})
				if status != exitFailed || stdout.String() != "" {
					t.Errorf("%s: exit status %d and %q, want %d and nothing", command, status, stdout.String(), exitFailed)
				}
				wantText := ""
				for _, line := range want {
					wantText += file + ": " + line + "\n"
				}
				if got := stderr.String(); got != wantText {
					t.Errorf("%s: stderr =\n%s\nwant\n%s", command, got, wantText)
				}
			}
		})
	}
	cert, key := write(t, "cert.pem", id.cert), write(t, "key.pem", id.key)
	nothing, directory := cert+".not", t.TempDir()
	f("neither is there", nothing, nothing,
		fmt.Sprintf("tls.cert: %q: no such file or directory: %s", nothing, wantCert),
		fmt.Sprintf("tls.key: %q: no such file or directory: %s", nothing, wantKey))
	f("the certificate is not there", nothing, key, fmt.Sprintf("tls.cert: %q: no such file or directory: %s", nothing, wantCert))
	f("the key is not there", cert, nothing, fmt.Sprintf("tls.key: %q: no such file or directory: %s", nothing, wantKey))
	f("the certificate is a directory", directory, key, fmt.Sprintf("tls.cert: %q: is a directory: %s", directory, wantCert))
	f("they are swapped", key, cert, fmt.Sprintf("tls.cert: %q: no certificate in it: %s", key, wantCert))

	text := write(t, "text.pem", "This is neither.\n")
	f("the certificate is some text", text, key, fmt.Sprintf("tls.cert: %q: no certificate in it: %s", text, wantCert))
	f("the key is some text", cert, text, fmt.Sprintf("tls.key: %q: failed to find any PEM data in key input: %s", text, wantKey))
	huge := write(t, "huge.pem", strings.Repeat("#", maxPEM)+"\n"+id.cert)
	f("the certificate is a huge file", huge, key, fmt.Sprintf("tls.cert: %q: larger than 1048576 bytes: %s", huge, wantCert))
	chain := write(t, "chain.pem", id.cert+inPEM("CERTIFICATE", []byte("cut")))
	f("the chain is cut", chain, key, fmt.Sprintf("tls.cert: %q: certificate 2: x509: malformed certificate: %s", chain, wantCert))
	otherKey := write(t, "other.pem", other.key)
	f("the key is that of another certificate", cert, otherKey,
		fmt.Sprintf("tls.key: %q: private key does not match public key: %s", otherKey, wantKey))
	locked := write(t, "locked.pem", inPEM("ENCRYPTED PRIVATE KEY", []byte("secret")))
	f("the key has a passphrase", cert, locked, fmt.Sprintf("tls.key: %q: failed to parse private key: %s", locked, wantKey))
}
