package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

const (
	// maxKeys bounds an issuer's keys: a token without a key ID is tried with
	// each of them.
	maxKeys = 64
	// minRSA and maxRSA bound the size of an RSA key, in bits: smaller ones are
	// not safe (RFC 7518, section 3.3), larger ones cost too much for each token.
	minRSA, maxRSA = 2048, 8192
)

// keySet is what an issuer's keys were at one time. It never changes.
type keySet struct {
	keys    []signingKey
	fetched time.Time
}

// signingKey is a key that verifies signatures. id and algorithm are "" where the
// issuer does not say.
type signingKey struct {
	id, algorithm string
	public        crypto.PublicKey
}

// knows reports whether id is a key of the set. If it is, newer keys of the
// issuer cannot make a bad signature a good one.
func (s *keySet) knows(id string) bool {
	for _, k := range s.keys {
		if id != "" && k.id == id {
			return true
		}
	}
	return false
}

// candidates are the keys that may have signed a token with the header h: those
// with its key ID, or, if either has none, those that its algorithm fits.
func (s *keySet) candidates(h head) []crypto.PublicKey {
	var keys []crypto.PublicKey
	known := s.knows(h.KeyID)
	for _, k := range s.keys {
		if (k.id == h.KeyID || !known && (k.id == "" || h.KeyID == "")) && k.fits(h.Algorithm) {
			keys = append(keys, k.public)
		}
	}
	return keys
}

// fits reports whether k may sign with algorithm: each key has one family of
// them, and one of its own if the issuer says so (RFC 8725, section 3.1).
func (k signingKey) fits(algorithm string) bool {
	if k.algorithm != "" && k.algorithm != algorithm {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return algorithm == oidc.ES256
		case elliptic.P384():
			return algorithm == oidc.ES384
		}
		return algorithm == oidc.ES512
	}
	return algorithm == oidc.EdDSA
}

// jwk is a key as RFC 7517 and RFC 7518, section 6, write it. Private members
// are not read.
type jwk struct {
	Type      string `json:"kty"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv"`
	N         string `json:"n"`
	E         string `json:"e"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

// parseKeySet reads a JWK Set. Keys of kinds that are not known here, and those
// that sign nothing, are passed over, as section 5 of RFC 7517 has it; a set
// without any other is an error.
func parseKeySet(text []byte, now time.Time) (*keySet, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("not a key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys: want at most %d", len(set.Keys), maxKeys)
	}
	parsed := &keySet{fetched: now}
	var reason error
	for i, raw := range set.Keys {
		var k jwk
		err := json.Unmarshal(raw, &k)
		var public crypto.PublicKey
		if err == nil {
			public, err = k.public()
		}
		if err != nil {
			reason = fmt.Errorf("keys[%d]: %w", i, err)
			continue
		}
		parsed.keys = append(parsed.keys, signingKey{id: k.ID, algorithm: k.Algorithm, public: public})
	}
	if len(parsed.keys) == 0 {
		return nil, errors.Join(errors.New("the key set has no key that signs tokens"), reason)
	}
	return parsed, nil
}

func (k *jwk) public() (crypto.PublicKey, error) {
	if k.Use != "" && k.Use != "sig" {
		return nil, fmt.Errorf("use %.20q: want sig", k.Use)
	}
	switch k.Type {
	case "RSA":
		return k.rsa()
	case "EC":
		return k.ecdsa()
	case "OKP":
		x, err := base64.RawURLEncoding.DecodeString(k.X)
		if err != nil || k.Curve != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, errors.New("want an Ed25519 key of 32 bytes")
		}
		return ed25519.PublicKey(x), nil
	}
	return nil, fmt.Errorf("kty %.20q: want RSA, EC or OKP", k.Type)
}

func (k *jwk) rsa() (crypto.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(k.N)
	if err != nil {
		return nil, fmt.Errorf("n: %w", err)
	}
	e, err := base64.RawURLEncoding.DecodeString(k.E)
	if err != nil {
		return nil, fmt.Errorf("e: %w", err)
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSA || bits > maxRSA {
		return nil, fmt.Errorf("an RSA key of %d bits: want %d to %d", bits, minRSA, maxRSA)
	}
	if exponent.BitLen() > 31 || exponent.Int64() < 3 || exponent.Bit(0) == 0 {
		return nil, errors.New("e: want an odd number from 3 to 2147483647, such as 65537")
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func (k *jwk) ecdsa() (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch k.Curve {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("crv %.20q: want P-256, P-384 or P-521", k.Curve)
	}
	size := (curve.Params().BitSize + 7) / 8
	point := []byte{4} // uncompressed
	for _, coordinate := range [...]string{k.X, k.Y} {
		c, err := base64.RawURLEncoding.DecodeString(coordinate)
		if err != nil || len(c) > size {
			return nil, fmt.Errorf("want coordinates of %d bytes", size)
		}
		point = append(point, make([]byte, size-len(c))...) // some issuers leave out leading zeros
		point = append(point, c...)
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}
