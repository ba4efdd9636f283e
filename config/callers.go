package config

import "net/netip"

// keyPrefix begins each of Weir's own keys, so that a key is known as one
// wherever it turns up.
const keyPrefix = "weir_"

// Callers says how a caller is identified.
type Callers struct {
	// Identify lists ways to identify a caller: api_key, jwt, header, ip. The
	// first that matches names it; a caller that none matches is anonymous and
	// counted by address. jwt never matches in this version. Default
	// [api_key, jwt, header, ip].
	Identify []string `yaml:"identify" default:"[api_key, jwt, header, ip]"`
	// Require refuses anonymous callers with 401. Default false.
	Require bool `yaml:"require" default:"false"`
	// TrustedProxies are the networks whose Header and X-Forwarded-For are
	// believed; a bare address is a network of one. Default none, loopback
	// included.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// Header is the field in which a trusted proxy names the caller. Default
	// X-User-ID.
	Header string `yaml:"header" default:"X-User-ID" with:"TrustedProxies"`
	// IPPrefix is how much of an address counts as one caller.
	IPPrefix IPPrefix `yaml:"ip_prefix"`
	// Keys are the callers' API keys.
	Keys []Key `yaml:"keys" secret:"true"`
}

// IPPrefix gives lengths in bits: all addresses that agree in them are one
// caller.
type IPPrefix struct {
	// V4 is for IPv4. Default 32, the whole address; from 1 to 32.
	V4 int `yaml:"v4" default:"32" min:"1" max:"32"`
	// V6 is for IPv6. Default 64, what one household gets; from 1 to 128.
	V6 int `yaml:"v6" default:"64" min:"1" max:"128"`
}

// Key is one API key.
type Key struct {
	// Caller is the name of who holds the key; several keys may share it.
	// Required.
	Caller string `yaml:"caller" required:"the name of who holds the key"`
	// Key is the key itself; it begins with "weir_". Required, unique.
	Key string `yaml:"key" secret:"true" required:"a key that begins with weir_"`
	// Plan names the caller's plan. "", the default, is the plan "default".
	Plan string `yaml:"plan"`
}
