package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
	"strings"
)

// The parts of a key that NewKey makes: KeyPrefix, an ID, "_", a secret, "_" and a
// checksum. 43 digits of base 62 are just above 256 bits.
const (
	keyIDLength     = 10
	secretLength    = 43
	checksumLength  = 6
	secretStart     = len(KeyPrefix) + keyIDLength + 1
	checksumStart   = secretStart + secretLength + 1
	generatedLength = checksumStart + checksumLength
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// NewKey makes a key: weir_<id>_<secret>_<checksum>, 66 bytes. The ID is public: it
// names the key in lists and logs. The secret has 256 bits of randomness. The
// checksum, a CRC-32 of all before it, lets Weir and scanners for leaked secrets
// tell a key from a slip of the hand without asking anybody.
func NewKey() (text, id string) {
	b := make([]byte, 0, generatedLength)
	b = append(b, KeyPrefix...)
	b = appendRandom(b, keyIDLength)
	b = append(b, '_')
	b = appendRandom(b, secretLength)
	sum := checksum(string(b))
	b = append(b, '_')
	b = append(b, sum[:]...)
	text = string(b)
	return text, text[len(KeyPrefix) : len(KeyPrefix)+keyIDLength]
}

// appendRandom appends n random digits, each as likely as the others: bytes from 248
// on, for which the first digits would come once more, are thrown away.
func appendRandom(b []byte, n int) []byte {
	var some [64]byte
	for {
		_, _ = rand.Read(some[:]) // never fails: see crypto/rand
		for _, c := range some {
			switch {
			case n == 0:
				return b
			case c < 4*62:
				b = append(b, base62[c%62])
				n--
			}
		}
	}
}

func checksum(text string) (sum [checksumLength]byte) {
	n := crc32.ChecksumIEEE([]byte(text))
	for i := len(sum) - 1; i >= 0; i-- {
		sum[i] = base62[n%62]
		n /= 62
	}
	return sum
}

// CheckKey reads a key of NewKey. id is "" where text does not have that form, and
// ok reports whether the checksum is right too: a form without it is a key that was
// mistyped or cut and mended. It says nothing about whether the key is valid.
func CheckKey(text string) (id string, ok bool) {
	if len(text) != generatedLength || text[:len(KeyPrefix)] != KeyPrefix {
		return "", false
	}
	for i := len(KeyPrefix); i < len(text); i++ {
		separator := i == secretStart-1 || i == checksumStart-1
		if separator && text[i] != '_' || !separator && !isBase62(text[i]) {
			return "", false
		}
	}
	sum := checksum(text[:checksumStart-1])
	return text[len(KeyPrefix) : secretStart-1], text[checksumStart:] == string(sum[:])
}

// IsKeyID reports whether id has the form of an ID of NewKey: 10 letters and digits.
func IsKeyID(id string) bool {
	return len(id) == keyIDLength && !strings.ContainsFunc(id, func(r rune) bool { return r > 'z' || !isBase62(byte(r)) })
}

func isBase62(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// Digest is what a store keeps of a key: the SHA-256 of its whole text. A slow hash,
// as for passwords, would guard secrets that can be guessed; the 256 random bits of
// NewKey cannot, and every request would pay for it.
func Digest(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }
